"""Runs the async work of sync code on an event loop that the sync code never sees. Runs in the worker.

A ``Host`` is one task; every coroutine given to the same host runs in it, so that what an async dependency opens it
also closes in the same task. A coroutine that never suspends costs no turn of the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import types
from asyncio.events import _get_running_loop, _set_running_loop
from asyncio.tasks import _enter_task, _leave_task
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator

    Step = Coroutine[Any, Any, Any]

STAYS_ENTERED = sys.version_info < (3, 14)  # one loop's current task says nothing to others, so it may stay that
STOP_TIMEOUT = 10.0  # seconds in which cancelled tasks must end when a loop is closed


class Host(Protocol):
    """One task that runs coroutines on behalf of sync code."""

    def run(self, coroutine: Step) -> Any:
        """Run a coroutine to its end in the host's task and in the context of the calling code."""


class EventLoop(Protocol):
    """Makes hosts."""

    def host(self) -> Host:
        """Make a new host, a task of its own."""

    def close(self) -> None:
        """End every host and the loop."""


class LocalLoop:
    """A loop on the thread that uses it, made when the first coroutine comes."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hosts: list[LocalHost] = []
        self.entered: asyncio.Task[None] | None = None  # the task that counts as the current one
        self.waiting: LocalHost | None = None  # the host that the loop turns for

    def enter(self, task: asyncio.Task[None] | None) -> None:
        """Let a task be the current one, until another is."""
        entered, self.entered = self.entered, task
        if entered is not None:
            _leave_task(entered.get_loop(), entered)
        if task is not None:
            _enter_task(task.get_loop(), task)

    def get(self) -> asyncio.AbstractEventLoop:
        """Give the loop, made on first use."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            if sys.get_asyncgen_hooks() == (
                None,
                None,
            ):  # for the whole thread: to set them for each step costs too much
                sys.set_asyncgen_hooks(finalizer=self._finalize)
        return self._loop

    def _finalize(self, generator: AsyncGenerator[Any, None]) -> None:
        """Close an async generator that user code has left before its end."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.create_task, generator.aclose())

    def is_current(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether a loop is this one and not being closed."""
        return loop is self._loop

    def host(self) -> LocalHost:
        """Make a new host; it costs nothing until it runs something."""
        host = LocalHost(self)
        self._hosts.append(host)
        return host

    def close(self) -> None:
        """Cancel what is left, close the loop; the next coroutine would get a new one."""
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        self.enter(None)
        previous = _get_running_loop()
        _set_running_loop(None)
        try:
            loop.run_until_complete(wind_up())
        finally:
            _set_running_loop(previous)
            loop.close()
            if sys.get_asyncgen_hooks().finalizer == self._finalize:
                sys.set_asyncgen_hooks(None, None)
            for host in self._hosts:
                host.forget()


async def wind_up() -> None:
    """Let what was left on the running loop come to its end; what does not is cancelled."""
    await asyncio.sleep(0)  # async generators that were left are on their way to be closed
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_TIMEOUT)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


class LocalHost:
    """A task on a ``LocalLoop``, there for others to see, cancel and wait in.

    Coroutines are stepped here, on the calling thread and in its context, while the task counts as the current one;
    only where they wait does the loop turn, with the task waiting in their stead.
    """

    def __init__(self, loop: LocalLoop) -> None:
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._own_loop: asyncio.AbstractEventLoop
        self._send: Callable[[Any], Any]
        self._throw: Callable[[Any], Any]
        self._cancelled: asyncio.CancelledError | None = None
        self._wanted: asyncio.Future[tuple[Any, asyncio.Future[Any]]]
        self._done: asyncio.Future[tuple[bool, Any]]  # the wait that the loop turns for
        self._interrupt: BaseException | None = None  # what that wait is to end with
        self._heard = False

    def forget(self) -> None:
        """Drop the task of a loop that has been closed."""
        self._task = self._cancelled = None

    def run(self, coroutine: Step) -> Any:
        """Run a coroutine to its end; no running loop is to be seen before and after."""
        task = self._task or self._start()
        send, value = self._send, coroutine
        while True:
            if self._loop.entered is not task:
                self._loop.enter(task)
            previous = _get_running_loop()
            _set_running_loop(self._own_loop)
            try:
                outcome = send(value)  # see ``_stepping``
            except BaseException:
                self._renew_stepper()
                raise
            finally:
                _set_running_loop(previous)
                if not STAYS_ENTERED:
                    self._loop.enter(None)
            if type(outcome) is tuple:
                return outcome[0]
            ok, value = self._wait(self._own_loop, task, outcome)
            send = self._send if ok else self._throw

    def _renew_stepper(self) -> None:
        stepper = _stepping()
        self._send, self._throw = stepper.send, stepper.throw

    def _start(self) -> asyncio.Task[None]:
        loop = self._own_loop = self._loop.get()
        self._renew_stepper()
        self._task = loop.create_task(self._serve(loop), name="poolinject host", context=contextvars.Context())
        self._turn(loop, _yield_once())
        return self._task

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await self._wait_in_turn(loop)
        finally:
            self._task = None  # the next coroutine needs another one

    async def _wait_in_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        outcome: tuple[bool, Any]
        while True:
            self._wanted = loop.create_future()
            try:
                waits_for, done = await self._wanted
            except asyncio.CancelledError as error:
                if not self._loop.is_current(loop):
                    raise
                if self._wanted.cancelled():
                    self._cancelled = error  # between two waits, say by a task group: the next wait is told
                    continue
                done, outcome = self._wanted.result()[1], (False, error)  # before the wait had begun
            else:
                outcome = await _outcome_of(waits_for)
            if not done.done():
                done.set_result(outcome)

    def _wait(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], waits_for: Any) -> tuple[bool, Any]:
        """Let the loop turn until the wait is over; give whether it went well, and its value or error."""
        if self._wanted.cancelled():
            self._turn(loop, _yield_once())
        if self._cancelled is not None:
            cancelled, self._cancelled = self._cancelled, None
            return False, cancelled
        self._done = done = loop.create_future()
        self._wanted.set_result((waits_for, done))
        self._loop.waiting = self
        try:
            outcome: tuple[bool, Any] = self._turn(loop, done)
        except BaseException as error:  # noqa: BLE001 - an interrupt, which the coroutine is to see
            task.cancel()
            self._turn(loop, asyncio.wait([done], timeout=STOP_TIMEOUT))
            task.uncancel()
            self._take_interrupt(task)
            return False, error
        finally:
            self._loop.waiting = None
        return outcome if self._interrupt is None else (False, self._take_interrupt(task))

    def interrupt(self, error: BaseException) -> None:
        """End the wait that the loop turns for with an error, soon.

        For a signal handler: were it to raise in the loop's own code, other tasks would be lost.
        """
        self._interrupt = error
        self._own_loop.call_soon_threadsafe(self._hear)

    @property
    def is_deaf(self) -> bool:
        """Whether the loop has not come to what ``interrupt`` asked for."""
        return self._interrupt is not None and not self._heard

    def _hear(self) -> None:
        if self._loop.waiting is self and self.is_deaf and not self._done.done() and self._task is not None:
            self._heard = True
            self._task.cancel()

    def _take_interrupt(self, task: asyncio.Task[None]) -> BaseException | None:
        interrupt, self._interrupt = self._interrupt, None
        if self._heard:
            self._heard = False
            task.uncancel()
        return interrupt

    def _turn(self, loop: asyncio.AbstractEventLoop, until: Any) -> Any:
        self._loop.enter(None)
        previous = _get_running_loop()
        _set_running_loop(None)
        try:
            return loop.run_until_complete(until)
        finally:
            _set_running_loop(previous)


def _stepping() -> Generator[Any, Any, Any]:
    """Make what runs coroutines sent to it: it yields what they wait for, and their results, each in a tuple.

    So a coroutine that never waits ends without an exception that would carry its result.
    """
    stepper = _step_each()
    next(stepper)
    return stepper


@types.coroutine
def _step_each() -> Generator[Any, Any, Any]:
    coroutine = yield
    while True:
        coroutine = yield ((yield from coroutine),)


@types.coroutine
def _wait_for(waits_for: Any) -> Generator[Any, Any, Any]:
    """Wait, in the task that awaits this, for what a coroutine elsewhere has yielded."""
    return (yield waits_for)


async def _outcome_of(waits_for: Any) -> tuple[bool, Any]:
    try:
        return True, await _wait_for(waits_for)
    except BaseException as error:  # noqa: BLE001 - it belongs to the coroutine that waits
        return False, error


async def _yield_once() -> None:
    await asyncio.sleep(0)
