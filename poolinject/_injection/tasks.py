"""The items that run beside each other on an event loop, each in a task of its own. Runs in the worker."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, Protocol

from poolinject._injection import generators

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._injection.contexts import Step


class Running(Protocol):
    """One such task, for code on its loop."""

    reason: BaseException | None  # why it was cancelled, where the item is to fail with that

    def cancel(self, reason: BaseException | None = None) -> None:
        """Cancel the task, once; it may still end well."""

    def end(self) -> None:
        """Let go of the task, which is at its end: from now on nothing cancels it."""


class AsyncioRunning:
    """A task of asyncio."""

    __slots__ = ("_tasks", "has_ended", "is_cancelled", "is_closing", "reason", "task", "timer")

    def __init__(self, tasks: AsyncioTasks, task: asyncio.Task[None]) -> None:
        self._tasks, self.task = tasks, task
        self.timer: asyncio.TimerHandle | None = None
        self.reason: BaseException | None = None
        self.is_cancelled = self.has_ended = False
        self.is_closing = False  # the function has come to its end: the cleanups may take the time that the item has

    def expire(self, late: Callable[[], BaseException]) -> None:
        """Cancel it because its time is over."""
        self.cancel(late())

    def cancel(self, reason: BaseException | None = None) -> None:
        """Cancel the task."""
        if not (self.is_cancelled or self.has_ended):
            self.is_cancelled, self.reason = True, reason
            self.task.get_loop().call_soon(self._cancel)  # after its first step, which may not have been made yet

    def _cancel(self) -> None:
        if self.is_closing and not isinstance(self.reason, TimeoutError):
            self.is_cancelled, self.reason = False, None
        elif not self.has_ended:
            self.task.cancel()

    def end(self) -> None:
        """Let go of the task."""
        self.has_ended = True
        if self.timer is not None:
            self.timer.cancel()
        self._tasks.forget(self.task)


class AsyncioTasks:
    """Starts the tasks of one loop of asyncio, and tells which of them it has cancelled."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[None], AsyncioRunning] = {}

    def start(
        self, loop: asyncio.AbstractEventLoop, work: Callable[[], Step], limit: float, late: Callable[[], BaseException]
    ) -> AsyncioRunning:
        """Start a task in a copy of the context; *limit* seconds later, if that is not 0, it fails with ``late()``."""
        task: asyncio.Task[None] = loop.create_task(work(), context=contextvars.copy_context())
        running = self._running[task] = AsyncioRunning(self, task)
        if limit:
            running.timer = loop.call_later(limit, running.expire, late)
        return running

    def forget(self, task: asyncio.Task[None]) -> None:
        """A task is at its end."""
        self._running.pop(task, None)

    def finishing(self) -> None:
        """The function of this task has returned: from now on the end of its run cuts no cleanup short."""
        task = asyncio.current_task()
        running = None if task is None else self._running.get(task)
        if running is not None:
            running.is_closing = True

    async def failing(
        self, error: BaseException, stage: generators.Stage, opened: tuple[Any, ...], names: tuple[str, ...]
    ) -> generators.Failed:
        """Close the open generators of an item that has failed, with the reason where it was cancelled for one.

        From here on the task counts as not cancelled, so that what the cleanups wait for is not cut short.
        """
        task = asyncio.current_task()
        running = None if task is None else self._running.get(task)
        if running is not None:
            running.is_closing = True
        if task is not None and running is not None and running.is_cancelled and task.uncancel() == 0:
            error = running.reason or error if isinstance(error, asyncio.CancelledError) else error
        return await generators.drive_async(generators.closing_failed(error, stage, opened, names))


async def failing(
    error: BaseException, stage: generators.Stage, opened: tuple[Any, ...], names: tuple[str, ...]
) -> generators.Failed:
    """Close the open generators of an item that has failed, in a task that is the caller's."""
    return await generators.drive_async(generators.closing_failed(error, stage, opened, names))


def finishing() -> None:
    """Do nothing: a task that is the caller's is cancelled by the caller."""
