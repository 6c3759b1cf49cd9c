"""Runs the async work of worker threads on one event loop, which has a thread of its own. Runs in the caller."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from poolinject._injection.contexts import context_elsewhere, enter
from poolinject._injection.event_loop import STOP_TIMEOUT, wind_up
from poolinject._injection.own_thread import OwnThread
from poolinject._injection.tasks import AsyncioRunning, AsyncioTasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._injection.contexts import Step


class LoopThread(OwnThread):
    """A loop on a thread of its own, for workers that are threads: async dependencies can be shared among them."""

    waiting = None  # nothing interrupts a thread

    def __init__(self, name: str, make: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
        super().__init__(name)
        self._make = make
        self._lock = threading.Lock()
        self._tasks = AsyncioTasks()
        self.failing, self.finishing = self._tasks.failing, self._tasks.finishing
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """Give the loop; its thread starts on first use."""
        with self._lock:
            if self._loop is None:
                self._loop = self._make()
                self.start_thread(self._loop.run_forever)
            return self._loop

    def is_current(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether a loop is this one and not being closed."""
        return loop is self._loop

    def host(self) -> ThreadHost:
        """Make a new host; it costs nothing until it runs something."""
        return ThreadHost(self)

    def start(self, work: Callable[[], Step], limit: float, late: Callable[[], BaseException]) -> AsyncioRunning:
        """Start a task; on the loop's thread."""
        return self._tasks.start(self.get(), work, limit, late)

    def call(self, function: Callable[[], None]) -> None:
        """Call a function on the loop's thread, soon."""
        self.get().call_soon_threadsafe(function)

    call_soon = call

    def close(self) -> None:
        """Cancel what is left and end the thread."""
        with self._lock:
            loop, thread, self._loop = self._loop, self.thread, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(wind_up(), loop).result(2 * STOP_TIMEOUT)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(STOP_TIMEOUT)
        loop.close()
        self.close_pipe()


class ThreadHost:
    """A task on a ``LoopThread``; the calling thread waits while it works."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        self._steps: asyncio.Queue[tuple[Step, asyncio.Future[Any]]] | None = None

    def run(self, coroutine: Step) -> Any:
        """Run a coroutine to its end on the loop's thread, in one context for all the coroutines of an item.

        What it sets in a ``ContextVar`` is set here too afterwards.
        """
        loop = self._loop.get()
        with context_elsewhere() as context:
            asked = asyncio.run_coroutine_threadsafe(self._ask(enter(coroutine, context)), loop)
            ok, value = self._loop.wait_for(asked)
        if ok:
            return value
        raise value

    async def arun(self, coroutine: Step) -> Any:
        """Run a coroutine to its end, for code on the loop."""
        ok, value = await self._ask(coroutine)
        if ok:
            return value
        raise value

    def settle(self, *, cancel: bool) -> None:
        """Do nothing: here whoever asks is a thread that waits to the end."""

    async def _ask(self, step: Step) -> Any:
        if self._steps is None:
            self._steps = asyncio.Queue()
            self._task = asyncio.create_task(self._serve(self._steps), name="poolinject host")
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._steps.put_nowait((step, done))
        return await done

    async def _serve(self, steps: asyncio.Queue[tuple[Step, asyncio.Future[Any]]]) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - tells mypy
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                step, done = await steps.get()
            except asyncio.CancelledError as error:
                if not self._loop.is_current(task.get_loop()):
                    raise
                task.uncancel()
                cancelled = error  # between two steps, say by a task group: the next wait is told
                continue
            if cancelled is not None:
                task.cancel(*cancelled.args)
                cancelled = None
            await _answer(step, done)


async def _answer(step: Step, done: asyncio.Future[Any]) -> None:
    try:
        value = await step
    except BaseException as error:  # noqa: BLE001 - it belongs to the code that asked
        if not done.done():
            done.set_result((False, error))
    else:
        if not done.done():
            done.set_result((True, value))
