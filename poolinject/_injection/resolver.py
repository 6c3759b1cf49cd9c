"""``Resolver``: dependencies for one item at a time, in this process; the same code that runs in every worker."""

from __future__ import annotations

import signal
import threading
import traceback
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn, Self

from poolinject._exceptions import add_note
from poolinject._injection import generators
from poolinject._injection.application import Application
from poolinject._injection.async_runtime import AsyncRuntime
from poolinject._injection.item_scope import OpenScope
from poolinject._injection.planner import Planner
from poolinject._injection.registry import Registry, identity, keep
from poolinject._injection.runtime import Runtime
from poolinject.errors import CleanupError, PoolClosedError
from poolinject.markers import ItemContext, Lifetime, Provider, WorkerContext

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Mapping

    from poolinject._injection.plan import Fetch, Plan
    from poolinject._injection.runtime import Call
    from poolinject._injection.scopes import CleanupFailure

WORKER_ID = 0  # a resolver is its own, only worker


class Resolver:
    """Fills ``Depends`` parameters in this process, for code that needs no pool, such as a message loop.

    Use it with ``with`` in sync code (``scope``, ``call``) or with ``async with`` in async code (``ascope``,
    ``acall``). Dependencies of lifetime ``worker`` and ``pool`` are built on first use and closed when it is left.
    In sync code a resolver belongs to one thread. In async code sync providers run on the event loop's thread.

    ``app`` names the application of providers that take ``Request``, as for ``InjectedPool``.

    With ``handle_signals``, SIGTERM in the main thread raises ``SystemExit`` inside the ``with`` block, so that every
    open scope closes; the previous handler is put back at the end.

    Raises:
        PlanError: From ``call`` and ``get``, if a dependency is declared wrongly.
        CleanupError: On leaving, with every error that the cleanups of shared dependencies raised.
        PoolClosedError: If it is used after it was left.
        RuntimeError: If what is for sync code is used inside ``async with``, or the other way round.
    """

    def __init__(
        self,
        *,
        lifetimes: Mapping[Provider, Lifetime] | None = None,
        overrides: Mapping[Provider, Provider] | None = None,
        app: str | None = None,
        handle_signals: bool = True,
        name: str = "resolver",
    ) -> None:
        self._name, self._handle_signals = name, handle_signals
        application = None if app is None else Application(app)
        self._planner = Planner(Registry(), lifetimes or {}, {} if overrides is None else overrides, application)
        self._overrides = self._planner.overrides
        self._worker = WorkerContext(WORKER_ID, 0, name)
        self._plans: dict[Hashable, Plan] = {}
        self._calls: dict[Hashable, Call] = {}
        self._coroutines: dict[Hashable, Callable[..., Any]] = {}
        self._seen: dict[Provider, Provider] = {}
        self._index = 0
        self._runtime: Runtime | None = None
        self._async_runtime: AsyncRuntime | None = None
        self._closed = False
        self._previous_handler: Any = None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Resolver {self._name!r} {state}, {self._index} items>"

    def __enter__(self) -> Self:
        self._live()
        if self._handle_signals and threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGTERM, _exit)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            if self._previous_handler is not None:
                signal.signal(signal.SIGTERM, self._previous_handler)
                self._previous_handler = None

    def close(self) -> None:
        """Close the worker and the pool scope; a second call does nothing.

        Raises:
            CleanupError: With every error that a cleanup raised.
        """
        runtime, self._runtime, self._closed = self._runtime, None, True
        self._calls.clear()
        if runtime is not None:
            _raise_together(runtime.close())

    @contextmanager
    def scope(self, item: Any = None) -> Generator[ItemScope]:
        """Open an item scope; leaving it closes what was got from it, with the error that leaves the block."""
        runtime = self._live()

        def shared(fetch: Fetch) -> generators.Steps[Any]:
            scope = runtime.pool_scope if fetch.source.lifetime == "pool" else runtime.worker_scope
            return scope[fetch.source.key]
            yield

        def get(provider: Provider) -> Any:
            plan = self._plan(provider, "get")
            runtime.know(plan)
            return generators.drive(open_scope.solving(plan), runtime.host.run)

        open_scope = OpenScope(self._next(item), self._worker, shared)
        try:
            yield ItemScope(get)
        except BaseException as error:
            outcome = generators.drive(open_scope.closing(error), runtime.host.run)
            if outcome is error:
                raise
        else:
            outcome = generators.drive(open_scope.closing(None), runtime.host.run)
        if outcome is not None:
            _raise_as_it_is(outcome)

    def call(self, func: Provider, item: Any = None) -> Any:
        """Call a function for one item, its dependencies filled, in a copy of the current context."""
        if self._seen != self._overrides:
            self._look_again()
        try:
            bound = self._calls[func]
        except (KeyError, TypeError):  # new, or unhashable
            bound = self._bind(func)
        index = self._index
        self._index = index + 1
        outcome = copy_context().run(bound, item, index, 1)
        if type(outcome) is generators.Failed:
            _raise_as_it_is(outcome.error)
        return outcome

    def _bind(self, func: Provider) -> Call:
        runtime, key = self._live(), identity(func)
        bound = self._calls.get(key)
        if bound is None:
            bound = keep(self._calls, key, runtime.bind(self._plan(func, "map")))
        return bound

    async def __aenter__(self) -> Self:
        if self._closed:
            raise PoolClosedError(self._name)
        self._async_runtime = await AsyncRuntime(self._worker).__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        if self._async_runtime is not None:
            _raise_together(await self._async_runtime.close())
            self._async_runtime = None

    @asynccontextmanager
    async def ascope(self, item: Any = None) -> AsyncGenerator[AsyncItemScope]:
        """Do in async code as ``scope`` does; ``get`` is awaited."""
        runtime = self._live_async()

        async def get(provider: Provider) -> Any:
            plan = self._plan(provider, "get")
            runtime.know(plan)
            return await generators.drive_async(open_scope.solving(plan))

        open_scope = OpenScope(self._next(item), self._worker, runtime.fetching)
        try:
            yield AsyncItemScope(get)
        except BaseException as error:
            outcome = await generators.drive_async(open_scope.closing(error))
            if outcome is error:
                raise
        else:
            outcome = await generators.drive_async(open_scope.closing(None))
        if outcome is not None:
            _raise_as_it_is(outcome)

    async def acall(self, func: Provider, item: Any = None) -> Any:
        """Do in async code as ``call`` does; ``func`` may be a coroutine function."""
        runtime = self._live_async()
        if self._seen != self._overrides:
            self._look_again()
        key = identity(func)
        bound = self._coroutines.get(key)
        if bound is None:
            bound = keep(self._coroutines, key, runtime.bind(self._plan(func, "map")))
        self._index += 1
        outcome = await runtime.run(bound, item, self._index - 1)
        if type(outcome) is generators.Failed:
            _raise_as_it_is(outcome.error)
        return outcome

    def _plan(self, call: Provider, kind: str) -> Plan:
        if self._seen != self._overrides:
            self._look_again()
        key = (kind, identity(call))
        plan = self._plans.get(key)
        if plan is None:
            made = self._planner.plan_get(call) if kind == "get" else self._planner.plan(call, "map")
            plan = keep(self._plans, key, made)
        return plan

    def _look_again(self) -> None:
        """Forget what was planned with other overrides."""
        self._plans.clear()
        self._calls.clear()
        self._coroutines.clear()
        self._seen = dict(self._overrides)

    def _live(self) -> Runtime:
        if self._closed:
            raise PoolClosedError(self._name)
        if self._async_runtime is not None:  # whose end would close nothing of a sync one
            message = "call and scope are for 'with Resolver(...)': inside 'async with' use acall and ascope"
            raise RuntimeError(message)
        if self._runtime is None:
            self._runtime = Runtime(self._worker)
        return self._runtime

    def _live_async(self) -> AsyncRuntime:
        if self._async_runtime is None:
            if self._closed:
                raise PoolClosedError(self._name)
            message = "acall and ascope need 'async with Resolver(...)'"
            raise RuntimeError(message)
        return self._async_runtime

    def _next(self, item: Any) -> ItemContext:
        self._index += 1
        return ItemContext(self._index - 1, item, 1, WORKER_ID)


class ItemScope:
    """The dependencies of one item."""

    def __init__(self, get: Callable[[Provider], Any]) -> None:
        self._get = get

    def get(self, provider: Provider) -> Any:
        """Give a dependency, made on first use, the same one for the whole scope."""
        return self._get(provider)


class AsyncItemScope:
    """The dependencies of one item, in async code."""

    def __init__(self, get: Callable[[Provider], Any]) -> None:
        self._get = get

    async def get(self, provider: Provider) -> Any:
        """Give a dependency, made on first use, the same one for the whole scope."""
        return await self._get(provider)


def _exit(signum: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


def _raise_as_it_is(error: BaseException) -> NoReturn:
    context = error.__context__
    try:
        raise error  # which makes what is handled here its context
    finally:
        BaseException.__setattr__(error, "__context__", context)  # that of the class may refuse


def _raise_together(failures: list[CleanupFailure]) -> None:
    for failure in failures:
        add_note(failure.error, f"in the cleanup of {failure.provider}")
    ending = next((failure for failure in failures if not isinstance(failure.error, Exception)), None)
    if ending is None:
        errors = [failure.error for failure in failures if isinstance(failure.error, Exception)]
        if errors:
            message = f"{len(errors)} cleanup(s) failed"
            raise CleanupError(message, errors)
        return
    for failure in failures:
        if failure is not ending:
            text = "".join(traceback.format_exception(failure.error)).rstrip()
            add_note(ending.error, f"besides, the cleanup of {failure.provider} raised\n{text}")
    raise ending.error
