"""What a worker holds to run items: its scopes, its event loop, and the compiled plans bound to them."""

from __future__ import annotations

import copy
import functools
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from anyio import to_thread
from fastapi.security import SecurityScopes

from poolinject._atoms import KNOWN
from poolinject._injection import generators
from poolinject._injection.codegen import Generated, compile_generated, generate
from poolinject._injection.event_loop import EventLoop
from poolinject._injection.local_host import LocalHost
from poolinject._injection.local_loop import LocalLoop
from poolinject._injection.plan import FromContext
from poolinject._injection.scopes import CleanupFailure, SharedScope
from poolinject.markers import ItemContext, WorkerContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._injection.plan import Plan

    # item, index, attempt -> the result or a Failed
    Call: TypeAlias = Callable[[Any, int, int], Any]
    # a loop over items, see ``codegen``
    Loop: TypeAlias = Callable[..., bool | None]

TOOLS: dict[str, Any] = {
    "atoms": KNOWN,
    "ItemContext": ItemContext,
    "SecurityScopes": SecurityScopes,
    "deepcopy": copy.deepcopy,
    "open_async": generators.open_async,
    "close_async": generators.close_async,
    "did_not_yield": generators.did_not_yield,
    "did_not_stop": generators.did_not_stop,
    "closing_failed": generators.closing_failed,
    "drive": generators.drive,
}


class Measured:
    """A compiled loop with a mark at each stage."""

    loop: Loop

    def __init__(self, generated: Generated) -> None:
        self.generated = generated
        self._marks: list[float] = []

    def mark(self) -> None:
        """Note the time."""
        self._marks.append(time.perf_counter())

    def take(self) -> tuple[tuple[str, int, float], ...]:
        """Give provider, uses and seconds of the item that has just run."""
        marks, seconds = self._marks, dict[str, float]()
        for stage, begin, end in zip(self.generated.stages, marks, marks[1:], strict=False):
            if stage.provider is not None:
                seconds[stage.provider] = seconds.get(stage.provider, 0.0) + end - begin
        marks.clear()
        return tuple((provider, 1, spent) for provider, spent in seconds.items())


class Runtime:
    """The scopes and the loop of one worker. With ``pool_scope`` threads share both, and then close neither."""

    def __init__(
        self, worker: WorkerContext, loop: EventLoop | None = None, pool_scope: SharedScope | None = None
    ) -> None:
        self.worker = worker
        self.loop: EventLoop = LocalLoop() if loop is None else loop
        self._is_shared = pool_scope is not None
        self.pool_scope = SharedScope("pool", self.loop.host(), worker) if pool_scope is None else pool_scope
        self.worker_scope = SharedScope("worker", self.loop.host(), worker, longer=self.pool_scope)
        self.host = self.loop.host()

    def know(self, plan: Plan) -> None:
        """Learn how to build the shared dependencies of a plan."""
        self.pool_scope.know(plan.shared)
        self.worker_scope.know(plan.shared)

    def bind(self, plan: Plan) -> Call:
        """Compile a plan against this worker's scopes, for one item at a time."""
        self.know(plan)
        call: Call = self._compile(generate(plan, "call"))
        return call

    def bind_task(self, plan: Plan) -> Call:
        """Compile a plan for items that run beside each other: the call gives a coroutine."""
        self.know(plan)
        call: Call = self._compile(generate(plan, "await"))
        return call

    def bind_measured_task(self, plan: Plan) -> Measured:
        """Compile a variant of that with marks; for one item at a time."""
        measured = Measured(generate(plan, "await", measured=True))
        measured.loop = self._compile(measured.generated, mark=measured.mark)
        return measured

    async def _fetch(self, scope: SharedScope, key: int) -> Any:
        """Give a shared dependency to a task."""
        if key in scope:
            return scope[key]
        if self._is_shared:  # other threads may be building it, under a lock
            return await to_thread.run_sync(scope.__getitem__, key)
        return await scope.fetch(key)

    def bind_loop(self, plan: Plan) -> Loop:
        """Compile the loop over the items of a chunk."""
        self.know(plan)
        return self._compile_loop(generate(plan, elsewhere=self.loop.is_elsewhere))

    def bind_bulk(self, plan: Plan) -> Loop | None:
        """Compile the loop that counts nothing, for a function without dependencies; the others are not so quick."""
        if plan.steps or any(isinstance(argument.source, FromContext) for argument in plan.arguments):
            return None
        return self._compile_loop(generate(plan, "bulk", elsewhere=self.loop.is_elsewhere))

    def bind_measured(self, plan: Plan) -> Measured:
        """Compile a variant of the loop that tells what each provider takes."""
        measured = Measured(generate(plan, elsewhere=self.loop.is_elsewhere, measured=True))
        measured.loop = self._compile_loop(measured.generated, mark=measured.mark)
        return measured

    def _compile_loop(self, generated: Generated, **names: Any) -> Loop:
        if generated.yields:
            assert isinstance(self.host, LocalHost)  # noqa: S101 - as the loop is not elsewhere
            function = self._compile(generated, **self.host.names(), **names)
            return functools.partial(self.host.follow, function)
        loop: Loop = self._compile(generated, **names)
        return loop

    def _compile(self, generated: Generated, **names: Any) -> Any:
        live = {
            "worker": self.worker,
            "pool_scope": self.pool_scope,
            "worker_scope": self.worker_scope,
            "run": self.host.run,
            "fetch": self._fetch,
            "failing": self.loop.failing,
            "finishing": self.loop.finishing,
        }
        return compile_generated(generated, {**TOOLS, **live, **names})

    def warm(self, plan: Plan) -> None:
        """Build the shared dependencies of a plan now, in the order in which an item would."""
        self.know(plan)
        for node in plan.shared:
            scope = self.pool_scope if node.lifetime == "pool" else self.worker_scope
            scope[node.key]

    def close(self) -> list[CleanupFailure]:
        """Close the worker's scope, then the pool's, then the loop; give what their cleanups raised."""
        failures = self.worker_scope.close()
        if not self._is_shared:
            failures += self.pool_scope.close()
            self.loop.close()
        return failures
