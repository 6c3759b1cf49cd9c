"""What workers need of an event loop. Runs in the worker.

A ``Host`` is one task; every coroutine given to the same host runs in it, so that what an async dependency opens it
also closes in the same task.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._injection.contexts import Step
    from poolinject._injection.generators import Stage
    from poolinject._injection.tasks import Running

STOP_TIMEOUT = 10.0  # seconds in which cancelled tasks must end when a loop is closed


class Host(Protocol):
    """One task that runs coroutines on behalf of sync code."""

    def run(self, coroutine: Step) -> Any:
        """Run a coroutine to its end in the host's task and in the context of the calling code."""

    async def arun(self, coroutine: Step) -> Any:
        """Do the same for code on the loop; whoever waits may be cancelled, the coroutine goes on."""

    def settle(self, *, cancel: bool) -> None:
        """Wait, in sync code, for what still goes on in the task for code on the loop; cancel it first, or not."""


class Waiting(Protocol):
    """A host whose coroutine waits for something, for the signal handlers of the thread that waits with it."""

    def interrupt(self, error: BaseException) -> None:
        """End that wait with an error, soon; were the handler to raise in the loop's own code, others would be hit."""

    @property
    def is_deaf(self) -> bool:
        """Whether the loop has not come to what ``interrupt`` asked for."""


class EventLoop(Protocol):
    """Makes hosts, and tasks for items that run beside each other.

    Attributes:
        is_elsewhere: The loop has a thread of its own. Else it turns only while the thread that uses it waits in it.
    """

    is_elsewhere: bool

    @property
    def waiting(self) -> Waiting | None:
        """The host that the one thread which uses the loop waits for."""

    @property
    def has_own_tasks(self) -> bool:
        """Whether something wants the loop to turn that is no item's, as what a shared dependency has started."""

    def host(self) -> Host:
        """Make a new host, a task of its own."""

    def start(self, work: Callable[[], Step], limit: float, late: Callable[[], BaseException]) -> Running:
        """Start a task, on the loop's thread; *limit* seconds later, if not 0, it fails with ``late()``."""

    async def failing(self, error: BaseException, stage: Stage, opened: tuple[Any, ...], names: tuple[str, ...]) -> Any:
        """Close the open generators of an item that has failed, in the task that runs it."""

    def finishing(self) -> None:
        """Say, in the task that runs an item, that its function has returned: only its time limit cancels it now."""

    def call(self, function: Callable[[], None]) -> None:
        """Call a function on the loop's thread, if that is this one now."""

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call a function on the loop's thread when it turns; any thread may ask for it, and a signal handler.

        It is not called where there is no loop yet.
        """

    def wait_until(self, is_over: Callable[[], bool], file: int | None = None) -> None:
        """Let tasks go on until it is over, or until a file can be read. It is asked for after each ``nudge``."""

    def nudge(self) -> None:
        """Say, on the loop's thread, that what somebody waits for may be over."""

    def close(self) -> None:
        """End every host and the loop."""


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
