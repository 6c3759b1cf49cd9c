"""A task on the loop of sync code, whose coroutines the sync code runs itself. Runs in the worker."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import types
from asyncio.events import _get_running_loop, _set_running_loop
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from poolinject._injection.event_loop import STOP_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from poolinject._injection.contexts import Step

STAYS_ENTERED = sys.version_info < (3, 14)  # one loop's current task says nothing to others, so it may stay that


class Turning(Protocol):
    """The loop, as its hosts see it.

    Attributes:
        entered: The task that counts as the current one.
        waiting: The host that the loop turns for.
    """

    entered: asyncio.Task[None] | None
    waiting: LocalHost | None

    def enter(self, task: asyncio.Task[None] | None) -> None:
        """Let a task be the current one, until another is."""

    def get(self) -> asyncio.AbstractEventLoop:
        """Give the loop, made on first use."""

    def is_current(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether a loop is this one and not being closed."""

    def host(self) -> LocalHost:
        """Make a new host."""

    def turn(self, until: Any) -> Any:
        """Let the loop turn until a future or a coroutine has come to its end; give its result."""


class LocalHost:
    """A task on a ``LocalLoop``, there for others to see, cancel and wait in.

    Coroutines are stepped here, on the calling thread and in its context, while the task counts as the current one;
    only where they wait does the loop turn, with the task waiting in their stead.
    """

    def __init__(self, loop: Turning) -> None:
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._own_loop: asyncio.AbstractEventLoop
        self._send: Callable[[Any], Any]
        self._throw: Callable[[Any], Any]
        self._cancelled: asyncio.CancelledError | None = None
        self._is_told = False  # of a cancellation: another one, before it has been heard of, is the same to asyncio
        self._wanted: asyncio.Future[tuple[Any, asyncio.Future[Any]] | None]
        self._done: asyncio.Future[tuple[bool, Any]]  # the wait that the loop turns for
        self._interrupt: BaseException | None = None  # what that wait is to end with
        self._heard = False
        self._asked: deque[tuple[Step, asyncio.Future[tuple[bool, Any]]]] = deque()  # by code on the loop
        self._bystander: LocalHost | None = None  # waits for this one

    def forget(self) -> None:
        """Drop the task of a loop that has been closed."""
        self._task = self._cancelled = None

    @property
    def is_open(self) -> bool:
        """Whether it has a task."""
        return self._task is not None

    async def arun(self, coroutine: Step) -> Any:
        """Run a coroutine to its end, in the task itself."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[bool, Any]] = loop.create_future()
        self._asked.append((coroutine, done))
        if self._task is None:
            self._make_task(loop)
        elif not self._wanted.done():
            self._wanted.set_result(None)
        ok, value = await done
        if ok:
            return value
        raise value

    def settle(self, *, cancel: bool) -> None:
        """Wait for what goes on in the task although nobody may wait for it any more; cancel it first, or not."""
        task = self._task
        if task is None or not self._wanted.done():
            return
        self._bystander = self._bystander or self._loop.host()
        if cancel:
            task.cancel()
        try:
            self._bystander.run(self.arun(_do_nothing()))
        finally:
            if cancel:
                task.uncancel()

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

    def follow(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a generator function that steps coroutines itself, yields what they wait for, shows and hides the loop.

        That saves a coroutine that never waits the half of what ``run`` costs.
        """
        outer, work = _get_running_loop(), function(*args)
        step, value = work.send, None
        try:
            while True:
                try:
                    waits_for = step(value)
                    ok, value = self._wait(self._own_loop, self._task or self._start(), waits_for)
                    self.show()
                    step = work.send if ok else work.throw
                except StopIteration as stop:
                    return stop.value
                except BaseException as interrupt:
                    if work.gi_frame is None:  # it is the error that ended the work
                        raise
                    step, value = work.throw, interrupt
        finally:
            del value  # an error would be in a cycle with this frame
            self.hide(outer)

    def show(self) -> None:
        """Let the task be the current one of the running loop."""
        task = self._task or self._start()
        if self._loop.entered is not task:
            self._loop.enter(task)
        _set_running_loop(self._own_loop)

    def hide(self, outer: asyncio.AbstractEventLoop | None) -> None:
        """Let the running loop be the one from before, or none."""
        _set_running_loop(outer)
        if not STAYS_ENTERED:
            self._loop.enter(None)

    def names(self) -> dict[str, Callable[..., Any]]:
        """Give what the code uses that ``follow`` runs."""
        return {
            "running": _get_running_loop,
            "show": self.show,
            "hide": _set_running_loop if STAYS_ENTERED else self.hide,
        }

    def _renew_stepper(self) -> None:
        stepper = _stepping()
        self._send, self._throw = stepper.send, stepper.throw

    def _start(self) -> asyncio.Task[None]:
        task = self._make_task(self._loop.get())
        self._loop.turn(_yield_once())
        return task

    def _make_task(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        self._own_loop = loop
        self._renew_stepper()
        self._wanted = loop.create_future()
        self._wanted.set_result(None)  # until the task makes one of its own
        self._task = loop.create_task(self._serve(loop), name="poolinject host", context=contextvars.Context())
        return self._task

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await self._wait_in_turn(loop)
        finally:
            self._task = None  # the next coroutine needs another one

    async def _wait_in_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        outcome: tuple[bool, Any]
        while True:
            await self._do_what_is_asked()
            self._wanted = loop.create_future()
            try:
                wanted = await self._wanted
            except asyncio.CancelledError as error:
                if not self._loop.is_current(loop):
                    raise
                wanted = None if self._wanted.cancelled() else self._wanted.result()
                if wanted is None:
                    if not self._is_told:
                        self._cancelled = error  # between two waits, say by a task group: the next wait is told
                    continue
                done, outcome = wanted[1], (False, error)  # before the wait had begun
            else:
                if wanted is None:  # to do what is asked
                    continue
                waits_for, done = wanted
                outcome = await _outcome_of(_wait_for(waits_for))
            if not done.done():
                self._is_told = isinstance(outcome[1], asyncio.CancelledError)
                done.set_result(outcome)

    async def _do_what_is_asked(self) -> None:
        while self._asked:
            coroutine, done = self._asked.popleft()
            if done.cancelled():  # before its turn came
                coroutine.close()
                continue
            cancelled = self._take_cancelled()
            if cancelled is not None and self._task is not None:
                self._task.uncancel()
                self._task.cancel(*cancelled.args)
            outcome = await _outcome_of(coroutine)
            if not done.done():
                done.set_result(outcome)

    def _wait(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], waits_for: Any) -> tuple[bool, Any]:
        """Let the loop turn until the wait is over; give whether it went well, and its value or error."""
        if self._wanted.cancelled():
            self._loop.turn(_yield_once())
        self._is_told = False
        cancelled = self._take_cancelled()
        if cancelled is not None:
            return False, cancelled
        self._done = done = loop.create_future()
        self._wanted.set_result((waits_for, done))
        self._loop.waiting = self
        try:
            outcome: tuple[bool, Any] = self._loop.turn(done)
        except BaseException as error:  # noqa: BLE001 - an interrupt, which the coroutine is to see
            task.cancel()
            self._loop.turn(asyncio.wait([done], timeout=STOP_TIMEOUT))
            task.uncancel()
            self._take_interrupt(task)
            return False, error
        finally:
            self._loop.waiting = None
        return outcome if self._interrupt is None else (False, self._take_interrupt(task))

    def _take_cancelled(self) -> asyncio.CancelledError | None:
        """Give a cancellation from between two waits, unless who asked for it has been left since and took it back."""
        cancelled, self._cancelled = self._cancelled, None
        return cancelled if self._task is not None and self._task.cancelling() else None

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


async def _outcome_of(coroutine: Awaitable[Any]) -> tuple[bool, Any]:
    try:
        return True, await coroutine
    except BaseException as error:  # noqa: BLE001 - it belongs to the coroutine that waits
        return False, error


async def _do_nothing() -> None:
    pass


async def _yield_once() -> None:
    await asyncio.sleep(0)
