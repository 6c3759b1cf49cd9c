"""The items that run beside each other on trio, and what cancels them. Runs in the worker."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from poolinject._injection import generators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class TrioRunning:
    """A task of trio.

    It runs in two scopes. The outer one is cancelled; where cleanup is to be left in peace the inner one shields it,
    and with it whatever scopes the item has open inside.
    """

    __slots__ = ("_late", "has_ended", "inner", "is_cancelled", "is_closing", "outer", "reason")

    def __init__(self, limit: float, late: Callable[[], BaseException]) -> None:
        self._late = late
        self.outer = trio.CancelScope(deadline=trio.current_time() + limit if limit else math.inf)
        self.inner = trio.CancelScope()
        self.reason: BaseException | None = None
        self.is_cancelled = self.has_ended = False
        self.is_closing = False  # the function has come to its end: the cleanups may take the time that the item has

    def cancel(self, reason: BaseException | None = None) -> None:
        """Cancel the task."""
        is_spared = self.is_closing and not isinstance(reason, TimeoutError)
        if not (self.look() or self.has_ended or is_spared):
            self.is_cancelled, self.reason = True, reason
            self.outer.cancel()

    def look(self) -> bool:
        """Tell whether it is cancelled; it may be because its time is over."""
        if not self.is_cancelled and self.outer.cancel_called:
            self.is_cancelled, self.reason = True, self._late()
        return self.is_cancelled

    def end(self) -> None:
        """Let go of the task."""
        self.look()
        self.has_ended = True

    def shield(self) -> None:
        """Let what follows be cancelled no more, if it is now."""
        if self.look():
            self.inner.shield = True

    def told(self, error: BaseException) -> BaseException:
        """Give the reason in the place of what trio has made of it."""
        if self.reason is None:
            return error
        if isinstance(error, BaseExceptionGroup):
            others = error.split(lambda each: each is self.reason or isinstance(each, trio.Cancelled))[1]
            return others or self.reason
        return self.reason if isinstance(error, trio.Cancelled) else error


class TrioTasks:
    """Knows the items that run, by their tasks."""

    def __init__(self) -> None:
        self._running: dict[trio.lowlevel.Task, TrioRunning] = {}

    @contextmanager
    def entered(self, running: TrioRunning) -> Iterator[None]:
        """Be in the scopes of an item; in its task."""
        task = trio.lowlevel.current_task()
        self._running[task] = running
        try:
            with running.outer, running.inner:
                yield
        finally:
            del self._running[task]

    def finishing(self) -> None:
        """The function of this task has returned: from now on the end of its run cuts no cleanup short."""
        self._running[trio.lowlevel.current_task()].is_closing = True

    async def failing(
        self, error: BaseException, stage: generators.Stage, opened: tuple[Any, ...], names: tuple[str, ...]
    ) -> generators.Failed:
        """Close the open generators of an item that has failed, with the reason where it was cancelled for one.

        From here on nothing that they wait for is cut short; a cleanup that is cancelled itself is the last one.
        """
        running = self._running[trio.lowlevel.current_task()]
        running.is_closing = True
        running.shield()
        steps = generators.closing_failed(running.told(error), stage, opened, names)
        failed = await generators.drive_async(_shielding(steps, running))
        failed.error = running.told(failed.error)
        return failed


def _shielding(steps: generators.Steps[generators.Failed], running: TrioRunning) -> generators.Steps[generators.Failed]:
    """Go through steps, and look after each whether the item has been cancelled meanwhile."""
    try:
        coroutine = next(steps)
        while True:
            try:
                value = yield coroutine
            except BaseException as error:  # noqa: BLE001 - it belongs to the steps
                running.shield()
                coroutine = steps.throw(error)
            else:
                running.shield()
                coroutine = steps.send(value)
    except StopIteration as stop:
        failed: generators.Failed = stop.value
        return failed
