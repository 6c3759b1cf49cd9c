"""What a resolver holds in async code: scopes whose dependencies live in one owner task, on asyncio or trio."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
from typing import TYPE_CHECKING, Any, Self

import anyio

from poolinject._injection import generators
from poolinject._injection.codegen import compile_generated, generate
from poolinject._injection.contexts import enter
from poolinject._injection.runtime import TOOLS
from poolinject._injection.scopes import CleanupFailure, SharedScope, build_here
from poolinject._injection.tasks import failing, finishing

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._injection.plan import Fetch, Plan
    from poolinject.markers import WorkerContext


class AsyncRuntime:
    """The scopes of one worker in async code; entered and closed in the same task."""

    def __init__(self, worker: WorkerContext) -> None:
        self.worker = worker
        self.pool_scope = SharedScope("pool", None, worker)
        self.worker_scope = SharedScope("worker", None, worker, longer=self.pool_scope)
        self._failures: list[CleanupFailure] = []  # of cleanups before the end
        self._tasks = anyio.create_task_group()
        self._ask, self._asked = anyio.create_memory_object_stream[_Request]()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._own, name="poolinject owner")
        return self

    async def _own(self) -> None:
        """Build and close every shared dependency, so that each is left in the task in which it was entered."""
        with anyio.CancelScope(shield=True):  # it ends when it is told to, after the last cleanup
            async with self._asked:
                while (request := await self._next_request()) is not None:
                    await request.answer()

    async def _next_request(self) -> _Request | None:
        """Wait for a request; none when there will be no more.

        Cancelled is the task by a scope that a dependency holds, which then goes, and what was built after it; or for
        no reason that counts here: asyncio cancels all tasks when it comes to its end, and there are cleanups to run.
        """
        while True:
            try:
                return await self._asked.receive()
            except anyio.EndOfStream:
                return None
            except anyio.get_cancelled_exc_class():
                if _is_in_cancelled_scope():
                    self._failures += await generators.drive_async(self._closing())
                    if _is_in_cancelled_scope():
                        raise
                else:
                    _forget_cancellation()

    def _closing(self) -> generators.Steps[list[CleanupFailure]]:
        """Close both scopes."""
        failures = yield from self.worker_scope.closing()
        return [*failures, *(yield from self.pool_scope.closing())]

    async def in_owner(self, steps: generators.Steps[Any]) -> Any:
        """Go through steps in the owner task."""
        request = _Request(steps)
        await self._ask.send(request)
        await request.done.wait()
        if request.error is not None:
            raise request.error
        return request.value

    def know(self, plan: Plan) -> None:
        """Learn how to build the shared dependencies of a plan."""
        self.pool_scope.know(plan.shared)
        self.worker_scope.know(plan.shared)

    def bind(self, plan: Plan) -> Callable[..., Any]:
        """Compile the async function of a plan against these scopes."""
        self.know(plan)
        live = {
            "worker": self.worker,
            "pool_scope": self.pool_scope,
            "worker_scope": self.worker_scope,
            "fetch": self.fetch,
            "failing": failing,
            "finishing": finishing,
        }
        bound: Callable[..., Any] = compile_generated(generate(plan, "await"), {**TOOLS, **live})
        return bound

    async def fetch(self, scope: SharedScope, key: int) -> Any:
        """Give a shared dependency, built in the owner task on first use."""
        if key in scope:
            return scope[key]
        return await self.in_owner(scope.building(key, build_here))

    def fetching(self, fetch: Fetch) -> generators.Steps[Any]:
        """Give a shared dependency to an item scope."""
        scope = self.pool_scope if fetch.source.lifetime == "pool" else self.worker_scope
        return (yield self.fetch(scope, fetch.source.key))

    async def run(self, bound: Callable[..., Any], item: Any, index: int) -> Any:
        """Run one item in a copy of the current context."""
        return await enter(bound(item, index, 1), contextvars.copy_context())

    async def close(self) -> list[CleanupFailure]:
        """Close both scopes, even in a task that is being cancelled, and end the owner task."""
        with anyio.CancelScope(shield=True):
            failures: list[CleanupFailure] = await self.in_owner(self._closing())
            self._ask.close()
        await self._tasks.__aexit__(None, None, None)
        return [*self._failures, *failures]


class _Request:
    """Steps for the owner task, and what became of them."""

    def __init__(self, steps: generators.Steps[Any]) -> None:
        self._steps = steps
        self.done = anyio.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    async def answer(self) -> None:
        try:
            self.value = await generators.drive_async(self._steps)
        except BaseException as error:  # noqa: BLE001 - it belongs to the code that asked
            self.error = error
            if not _is_in_cancelled_scope():
                _forget_cancellation()
        finally:
            self.done.set()


def _is_in_cancelled_scope() -> bool:
    return anyio.current_effective_deadline() == -math.inf


def _forget_cancellation() -> None:
    """Have the task count as not cancelled; on asyncio, for on trio only scopes cancel."""
    with contextlib.suppress(RuntimeError):
        task = asyncio.current_task()
        while task is not None and task.cancelling():
            task.uncancel()
