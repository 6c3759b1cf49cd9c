"""A run of one item as a future. Its outcome comes on the driver's thread, which must outlive what callbacks raise."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from poolinject._scheduling.consuming import error_of
from poolinject.errors import PoolClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._scheduling.blocks import Block
    from poolinject._scheduling.driver import Driver
    from poolinject._scheduling.runs import Run

Value = TypeVar("Value")


class RunFuture(Future[Value]):
    """A future that becomes what the only item of a run does; cancelling it cancels the run."""

    def __init__(self, driver: Driver, run: Run) -> None:
        super().__init__()
        self._driver, self._run = driver, run
        self._is_told = False
        run.on_block, run.on_finish = self._take, self._end
        super().add_done_callback(_cancel_run)

    def add_done_callback(self, fn: Callable[[Future[Value]], object]) -> None:
        """Have *fn* called at the end; on the driver's thread ``SystemExit`` and the like are logged as errors are."""

        def call(done: Future[Value]) -> None:
            try:
                fn(done)
            except BaseException as error:
                if isinstance(error, Exception) or not self._driver.is_current_thread:
                    raise
                message = f"a done-callback raised {type(error).__name__} on a thread that has to go on"
                raise RuntimeError(message) from error

        super().add_done_callback(call)

    def _take(self, block: Block) -> None:
        self._is_told = True
        try:  # before the future is running, in which state it would stay
            error = error_of(block.failure(0), self._run.options) if block.failures else None
        except BaseException as other:  # noqa: BLE001 - the user's own code
            error = other
        if self.set_running_or_notify_cancel():
            if error is None:
                self.set_result(block.values[0])
            else:
                self.set_exception(error)

    def _end(self) -> None:
        if self._is_told:
            return
        error = self._run.error
        if error is None or isinstance(error, PoolClosedError):
            self.cancel()
        if self.set_running_or_notify_cancel():  # of a cancelled one this tells whoever waits
            self.set_exception(error)


def _cancel_run(done: Future[Any]) -> None:
    assert isinstance(done, RunFuture)  # noqa: S101 - tells mypy
    if done.cancelled() and not done._run.finished:  # noqa: SLF001 - of this module
        done._driver.cancel(done._run)  # noqa: SLF001 - of this module


def drive_inline(driver: Driver, run: Run) -> None:
    """Do the work of a run here and now."""
    while not run.finished and driver.alive:
        driver.step(0)
