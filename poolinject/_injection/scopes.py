"""The live holders of what outlives an item: the worker's scope and the pool's. Runs in the worker."""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from fastapi.security import SecurityScopes

from poolinject._injection import generators
from poolinject._injection.contexts import enter
from poolinject._injection.defaults import default_of
from poolinject._injection.plan import Constant, FromContext, FromScopes, FromShared

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from typing import TypeAlias

    from poolinject._injection.event_loop import Host
    from poolinject._injection.plan import Shared, Source
    from poolinject.markers import Lifetime, WorkerContext

    Reach: TypeAlias = Callable[["SharedScope", int], generators.Steps[Any]]


def _look_up(scope: SharedScope, key: int) -> generators.Steps[Any]:
    return scope[key]
    yield


def _fetch(scope: SharedScope, key: int) -> generators.Steps[Any]:
    return (yield scope.fetch(key))


def build_here(scope: SharedScope, key: int) -> generators.Steps[Any]:
    """Reach what one owner builds for both scopes."""
    return (yield from scope.building(key, build_here))


def _refuse(coroutine: Coroutine[Any, Any, Any]) -> NoReturn:
    coroutine.close()
    message = "a scope of async code was used from sync code"
    raise RuntimeError(message)


class CleanupFailure(NamedTuple):
    """One cleanup that raised."""

    provider: str
    error: BaseException


class SharedScope(dict[int, Any]):
    """Instances by key; looking up a key that is not there yet builds the dependency, once, under a lock.

    What fails to build is not kept: the next look-up tries again. Everything is built and closed in one context of
    its own, so that no item sees what a shared dependency set in a ``ContextVar``, the first no more than the others.
    """

    def __init__(
        self, lifetime: Lifetime, host: Host | None, worker: WorkerContext, longer: SharedScope | None = None
    ) -> None:
        super().__init__()
        self.lifetime, self.worker = lifetime, worker
        self._host, self._longer = host, longer
        self._run = _refuse if host is None else host.run  # without a host: async code drives the steps itself
        self.on_open: Callable[[], None] | None = None  # called before something is opened that must be closed
        self._nodes: dict[int, Shared] = {}
        self._open: list[tuple[str, Any]] = []
        self._lock = threading.RLock()
        self._context = contextvars.copy_context()

    def know(self, nodes: Iterable[Shared]) -> None:
        """Learn how to build the dependencies of one more plan."""
        for node in nodes:
            if node.lifetime == self.lifetime:
                self._nodes.setdefault(node.key, node)

    def __missing__(self, key: int) -> Any:
        with self._lock:
            if self._host is not None:
                self._host.settle(cancel=False)
            if key in self:  # another thread was first, or a task
                return self[key]
            return self._context.run(generators.drive, self.building(key, _look_up), self._run)

    async def fetch(self, key: int) -> Any:
        """Do as a look-up does, for code on the loop of the host; several may wait for the same dependency."""
        if key in self:
            return self[key]
        assert self._host is not None  # noqa: S101 - tells mypy
        return await self._host.arun(self._build(key))

    async def _build(self, key: int) -> Any:
        return await enter(generators.drive_async(self.building(key, _fetch)), self._context)

    def building(self, key: int, reach: Reach) -> generators.Steps[Any]:
        """Build a dependency and what it needs, children first; give the one that is there already.

        *reach* gets what is in the scope of longer life.
        """
        if key in self:
            return self[key]
        node = self._nodes[key]
        by_position, by_name = [], {}
        for argument in node.arguments:
            value = yield from self._value(argument.source, reach)
            if argument.name is None:
                by_position.append(value)
            else:
                by_name[argument.name] = value
        if "generator" in node.kind and self.on_open is not None:
            self.on_open()
        made = node.provider(*by_position, **by_name)
        value = yield from generators.opening(made, node.kind, node.name)
        if "generator" in node.kind:
            self._open.append((node.name, made))
        self[key] = value
        return value

    def _value(self, source: Source, reach: Reach) -> generators.Steps[Any]:
        match source:
            case FromShared(key, lifetime):
                if lifetime == self.lifetime or self._longer is None:
                    return (yield from self.building(key, reach))
                return (yield from reach(self._longer, key))
            case Constant():
                return default_of(source)
            case FromContext():
                return self.worker
            case FromScopes(scopes):
                return SecurityScopes(list(scopes))
        message = f"{source} cannot fill a parameter of a {self.lifetime} dependency"
        raise AssertionError(message)

    def closing(self) -> generators.Steps[list[CleanupFailure]]:
        """Run every cleanup, the newest first, whatever the others raise."""
        failures: list[CleanupFailure] = []
        while self._open:
            name, generator = self._open.pop()
            try:
                yield from generators.closing(generator, name)
            except BaseException as error:  # noqa: BLE001 - each one must run
                failures.append(CleanupFailure(name, error))
        self.clear()
        return failures

    def close(self) -> list[CleanupFailure]:
        """Close from sync code; what is still being built, for tasks that were cancelled, is cancelled too."""
        with self._lock:
            if self._host is not None:
                self._host.settle(cancel=True)
            return self._context.run(generators.drive, self.closing(), self._run)
