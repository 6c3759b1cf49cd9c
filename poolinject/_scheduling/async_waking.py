"""What async code needs of its event loop, on asyncio and on trio: to be woken, a task, a thread, a turn for others.

Runs in the caller, in whose event loop nothing here takes long.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from poolinject._scheduling.runs import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Soon = Callable[[Callable[[], None]], object]

Value = TypeVar("Value")

TURN_SECONDS = 0.001  # for which a task may go on without letting others run

OWN_THREADS = 4
_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter | None] = anyio.lowlevel.RunVar("poolinject_threads")
_tasks: set[asyncio.Task[None]] = set()  # the loop itself would let the garbage collector take them


class Bell:
    """Wakes tasks of the event loop in which it was made; any thread may ``ring``.

    A task looks whether it has to wait and then waits, with nothing in between that would let the loop go on. Waking
    happens on the loop, so no ring is lost.
    """

    def __init__(self) -> None:
        self.on_ring: Callable[[], None] | None = None  # called on the loop
        self._soon = _call_soon()
        self._is_rung = False
        self._waiting: list[anyio.Event] = []

    def ring(self) -> None:
        """Wake every task that waits, soon; where the loop has been closed nobody does."""
        if not self._is_rung:
            self._is_rung = True
            with suppress(RuntimeError):
                self._soon(self._wake)

    def _wake(self) -> None:
        self._is_rung = False
        for event in self._waiting:
            event.set()
        if self.on_ring is not None:
            self.on_ring()

    async def wait(self) -> None:
        """Wait for the next ring; not longer than a moment, after which it is time to look who is still there."""
        event = anyio.Event()
        self._waiting.append(event)
        try:
            with anyio.move_on_after(WAIT_SECONDS):
                await event.wait()
        finally:
            self._waiting.remove(event)


class Turn:
    """The time that a task has taken without letting others run."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    @property
    def is_over(self) -> bool:
        """Whether it is time to ``pass_on``."""
        return time.perf_counter() - self._since > TURN_SECONDS

    async def pass_on(self) -> None:
        """Let others run; cancellation arrives here."""
        await anyio.lowlevel.checkpoint()
        self._since = time.perf_counter()


async def in_thread(call: Callable[..., Value], *args: Any, is_own: bool = False) -> Value:
    """Do what takes long, or may, on a thread; cancelled, it goes on there by itself, and nobody waits for it.

    What is the library's own, and waits for nobody, has a few threads for all. What calls the user's code waits for no
    other thread: the limit of anyio's own is for the user, whose threads may all be waiting for the pool.
    """
    await _load_anyio()
    limiter = _own_limiter() if is_own else anyio.CapacityLimiter(1)
    return await anyio.to_thread.run_sync(call, *args, abandon_on_cancel=True, limiter=limiter)


def _own_limiter() -> anyio.CapacityLimiter:
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(OWN_THREADS)
        _limiter.set(limiter)
    return limiter


async def _load_anyio() -> None:
    """Import what anyio has for this event loop on a thread: by itself it would do so on the loop, for 25 ms."""
    is_trio = _is_trio()
    name = f"anyio._backends._{'trio' if is_trio else 'asyncio'}"
    if name in sys.modules:
        return
    with suppress(ImportError):  # the name is anyio's own affair
        if is_trio:
            import trio  # noqa: PLC0415 - an optional library, which is there already

            await trio.to_thread.run_sync(importlib.import_module, name)
        else:
            with ThreadPoolExecutor(1) as thread:  # the loop's own threads may all be waiting for the pool
                await asyncio.get_running_loop().run_in_executor(thread, importlib.import_module, name)


def start_task(main: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[], None]) -> Callable[[], object]:
    """Start a task that no other one owns, and give what cancels it, as its event loop is used to: in asyncio once.

    *main* must see to its own errors. ``ended`` is called in any case, also where it was cancelled before it began.
    """
    if _is_trio():
        return _start_trio_task(main, ended)
    task = asyncio.get_running_loop().create_task(main())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    task.add_done_callback(lambda _: ended())
    return task.cancel


def _start_trio_task(main: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[], None]) -> Callable[[], object]:
    import trio  # noqa: PLC0415 - an optional library, which is there already

    scope = trio.CancelScope()

    async def run() -> None:
        try:
            with scope:
                await main()
        finally:
            ended()

    trio.lowlevel.spawn_system_task(run, context=contextvars.copy_context())
    return scope.cancel


def _call_soon() -> Soon:
    if _is_trio():
        import trio  # noqa: PLC0415 - as above

        return trio.lowlevel.current_trio_token().run_sync_soon
    return asyncio.get_running_loop().call_soon_threadsafe


def running_loop() -> object:
    """Give something that is the same for every task of the running event loop, and of no other."""
    if _is_trio():
        import trio  # noqa: PLC0415 - as above

        return trio.lowlevel.current_trio_token()
    return asyncio.get_running_loop()


def _is_trio() -> bool:
    """Tell whether the running task is one of trio's, also where trio itself is a guest of asyncio."""
    if "trio" not in sys.modules:
        return False
    import trio  # noqa: PLC0415 - as above

    return trio.lowlevel.in_trio_task()
