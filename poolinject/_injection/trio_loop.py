"""Runs async work on trio, in a thread of its own: hosts, and items beside each other. Runs in the worker.

Scopes of trio must nest, and a generator leaves its own open at its ``yield``. So nothing here puts a scope around what
opens or closes one: a host has none, and an item has its two from its beginning to its end.
"""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import threading
import types
from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from poolinject._injection.contexts import context_elsewhere, enter
from poolinject._injection.event_loop import STOP_TIMEOUT
from poolinject._injection.own_thread import OwnThread
from poolinject._injection.trio_tasks import TrioRunning, TrioTasks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from poolinject._injection.contexts import Step

_log = logging.getLogger("poolinject")


class TrioLoop(OwnThread):
    """A run of trio on a thread of its own, which starts on first use."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._lock = threading.Lock()
        self._tasks = TrioTasks()
        self.failing, self.finishing = self._tasks.failing, self._tasks.finishing
        self._started: concurrent.futures.Future[trio.lowlevel.TrioToken] | None = None
        self._nursery: trio.Nursery
        self._is_over: trio.Event
        self._serving: set[TrioHost] = set()
        self.waiting: TrioHost | None = None

    def get(self) -> trio.lowlevel.TrioToken:
        """Give what other threads reach the loop by."""
        with self._lock:
            if self._started is None:
                self._started = concurrent.futures.Future()
                self.start_thread(trio.run, self._serve, self._started)
            started = self._started
        token: trio.lowlevel.TrioToken = started.result() if started.done() else self.wait_for(started)
        return token

    async def _serve(self, started: concurrent.futures.Future[trio.lowlevel.TrioToken]) -> None:
        self._is_over = trio.Event()
        async with trio.open_nursery() as self._nursery:
            started.set_result(trio.lowlevel.current_trio_token())
            await self._is_over.wait()
            self._nursery.cancel_scope.cancel()

    def host(self) -> TrioHost:
        """Make a new host; it costs nothing until it runs something."""
        return TrioHost(self)

    def serve(self, host: TrioHost) -> None:
        """Make the task of a host."""
        self._serving.add(host)
        self._nursery.start_soon(host.serve, name="poolinject host")

    def leave(self, host: TrioHost) -> None:
        """The task of a host has come to its end."""
        self._serving.discard(host)

    def start(self, work: Callable[[], Step], limit: float, late: Callable[[], BaseException]) -> TrioRunning:
        """Start a task; on the loop's thread."""
        running = TrioRunning(limit, late)
        self._nursery.start_soon(self._run_item, running, work, name="poolinject item")
        return running

    async def _run_item(self, running: TrioRunning, work: Callable[[], Step]) -> None:
        with self._tasks.entered(running):
            await _noting_errors(work)

    def call(self, function: Callable[[], None]) -> None:
        """Call a function on the loop's thread, soon."""
        self.get().run_sync_soon(_note_errors, function)

    def call_soon(self, function: Callable[[], None]) -> None:
        """Do the same without a lock, for signal handlers; there is nothing to call where no loop has started."""
        started = self._started
        if started is not None and started.done():
            started.result().run_sync_soon(_note_errors, function)

    def close(self) -> None:
        """Cancel what is left and end the thread."""
        with self._lock:
            started, thread, self._started = self._started, self.thread, None
        if started is None or thread is None:
            return
        if thread.is_alive():
            self.wait_for(started).run_sync_soon(self._end)
            thread.join(STOP_TIMEOUT)
        self.close_pipe()

    def _end(self) -> None:
        for host in self._serving:
            host.end()
        self._is_over.set()


class TrioHost:
    """A task on a ``TrioLoop``; the calling thread waits while it works."""

    def __init__(self, loop: TrioLoop) -> None:
        self._loop = loop
        self._asked: deque[Asked] = deque()
        self._called: trio.Event | None = None  # set when it has something to do; there is none without a task
        self._is_ended = False
        self._current: Asked | None = None  # what the calling thread waits for
        self._running: Asked | None = None  # what the task is at

    def run(self, coroutine: Step) -> Any:
        """Run a coroutine to its end on the loop's thread, in one context for all the coroutines of an item.

        What it sets in a ``ContextVar`` is set here too afterwards. An interrupt is thrown into it.
        """
        with context_elsewhere() as context:
            ok, value = self._ask(enter(coroutine, context))
        if ok:
            return value
        raise value

    def _ask(self, coroutine: Step) -> tuple[bool, Any]:
        token, done = self._loop.get(), concurrent.futures.Future[tuple[bool, Any]]()
        asked = Asked(coroutine, done.set_result)
        token.run_sync_soon(self._put, asked)
        self._current, self._loop.waiting = asked, self
        try:
            outcome = self._wait(asked, done)
        finally:
            self._loop.waiting = None
        return outcome if asked.interrupt is None else (False, asked.interrupt)  # which came when all was over

    def _wait(self, asked: Asked, done: concurrent.futures.Future[tuple[bool, Any]]) -> tuple[bool, Any]:
        try:
            return self._loop.wait_for(done)  # type: ignore[no-any-return]
        except BaseException as error:
            if not self._loop.is_alive:
                raise
            asked.interrupt = error
            self._loop.call_soon(asked.throw)
            concurrent.futures.wait([done], timeout=STOP_TIMEOUT)
            return done.result() if done.done() else (False, error)

    async def arun(self, coroutine: Step) -> Any:
        """Run a coroutine to its end in the host's task, for code on the loop."""
        done, outcomes = trio.Event(), list[tuple[bool, Any]]()

        def tell(outcome: tuple[bool, Any]) -> None:
            outcomes.append(outcome)
            done.set()

        asked = Asked(coroutine, tell)
        self._put(asked)
        try:
            await done.wait()
        except trio.Cancelled:
            if asked in self._asked:  # before its turn came
                self._asked.remove(asked)
                coroutine.close()
            raise
        ok, value = outcomes[0]
        if ok:
            return value
        raise value

    def settle(self, *, cancel: bool) -> None:
        """Wait for what goes on in the task although nobody may wait for it any more; cancel it first, or not."""
        if self._called is None:
            return
        if cancel:
            self._loop.call_soon(self._cancel)
        ok, error = self._ask(_do_nothing())  # not in the context of an item: this may be called between two
        if not ok:
            raise error

    def _cancel(self) -> None:
        if self._running is not None:
            self._running.interrupt = concurrent.futures.CancelledError()
            self._running.throw()

    def interrupt(self, error: BaseException) -> None:
        """End what the calling thread waits for with an error, soon; for a signal handler."""
        asked = self._current
        if asked is not None:
            asked.interrupt = error
            self._loop.call_soon(asked.throw)

    @property
    def is_deaf(self) -> bool:
        """Whether the loop has not come to what ``interrupt`` asked for."""
        return self._current is not None and self._current.interrupt is not None

    def _put(self, asked: Asked) -> None:
        self._asked.append(asked)
        if self._called is None:
            self._called = trio.Event()
            self._loop.serve(self)
        self._called.set()

    def end(self) -> None:
        """Let the task end."""
        self._is_ended = True
        if self._called is not None:
            self._called.set()

    async def serve(self) -> None:
        """Run what is asked for; a scope that a dependency has open in this task does not end that, if cancelled."""
        try:
            while True:
                with trio.CancelScope(shield=True):
                    while not (self._asked or self._is_ended):
                        self._called = trio.Event()
                        await self._called.wait()
                if not self._asked:
                    return
                self._running = self._asked.popleft()
                await self._running.run()
                self._running = None
        finally:
            self._called, self._is_ended = None, False
            self._loop.leave(self)


class Asked:
    """A coroutine that a host is asked to run; ``tell`` gets whether it went well, and its value or error.

    Attributes:
        interrupt: What is to be thrown in where it waits, until that has been done.
    """

    def __init__(self, coroutine: Step, tell: Callable[[tuple[bool, Any]], object]) -> None:
        self._coroutine, self._tell = coroutine, tell
        self._task: trio.lowlevel.Task | None = None
        self.interrupt: BaseException | None = None

    async def run(self) -> None:
        """Run it, in the task of the host."""
        self._task = trio.lowlevel.current_task()
        try:
            outcome: tuple[bool, Any] = True, await self._interruptible()
        except trio.Cancelled as error:  # of a scope that is open here, which says nothing to who has asked
            message = "a scope of trio that a dependency had left open here was cancelled"
            outcome = False, RuntimeError(message)
            outcome[1].__cause__ = error
        except BaseException as error:  # noqa: BLE001 - it belongs to the code that asked
            outcome = False, error
        self._task = None
        self._tell(outcome)

    @types.coroutine
    def _interruptible(self) -> Generator[Any, Any, Any]:
        step: Callable[..., Any] = self._coroutine.send
        value: Any = None
        while True:
            try:
                waits_for = step(value)
            except StopIteration as stop:
                return stop.value
            if self.interrupt is not None:  # as soon as it waits
                trio.lowlevel.current_trio_token().run_sync_soon(self.throw)
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001 - cancellation included
                step, value = self._coroutine.throw, error
            else:
                step = self._coroutine.send

    def throw(self) -> None:
        """Throw the interrupt in, if it waits, as trio throws ``KeyboardInterrupt``; on the loop's thread."""
        task, error = self._task, self.interrupt
        if task is None or error is None or task._abort_func is None:  # noqa: SLF001 - a cancel scope cannot
            return
        self.interrupt = None
        task._attempt_abort(functools.partial(_raise, error))  # noqa: SLF001


async def _do_nothing() -> None:
    pass


def _raise(error: BaseException) -> None:
    raise error


def _note_errors(function: Callable[[], object]) -> None:
    """Call a function; an error of it must not end the loop."""
    try:
        function()
    except Exception:  # noqa: BLE001 - whatever it is, as asyncio does
        _log.exception("on the event loop")


async def _noting_errors(work: Callable[[], Step]) -> None:
    try:
        await work()
    except Exception:  # noqa: BLE001 - whatever it is
        _log.exception("in a task of the event loop")
