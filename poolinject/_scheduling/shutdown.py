"""The end of a pool: runs drained or cancelled, then the end of every worker, which ``Endings`` sees to."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

from poolinject._scheduling.reports import CleanupReport
from poolinject.errors import PoolClosedError

if TYPE_CHECKING:
    from poolinject._scheduling.dispatcher import Dispatcher
    from poolinject._scheduling.endings import Endings

Mode: TypeAlias = Literal["drain", "cancel", "kill"]
MODES: tuple[Mode, ...] = ("drain", "cancel", "kill")


class Shutdown:
    """A sequence of phases; ``advance`` is called whenever the driver wakes."""

    def __init__(self, dispatcher: Dispatcher, endings: Endings, name: str) -> None:
        self._dispatcher, self._endings, self._name = dispatcher, endings, name
        self._began = time.monotonic()
        self._phase: Literal["drain", "cleanup", "over"] = "drain"
        self._deadline = math.inf  # for draining

    def ask(self, mode: Mode, timeout: float | None) -> None:
        """Begin, or make what has begun harder: a later mode in the list cuts an earlier one short."""
        now = time.monotonic()
        if self._is_draining:
            self._deadline = min(self._deadline, math.inf if timeout is None else now + timeout)
            for run in list(self._dispatcher.runs.values()):
                if not run.options.eager:
                    run.stop_input()
        if mode == "cancel" and self._is_draining:
            self._deadline = now
        if mode == "kill" and not self.over:
            self._cancel_runs()
            self._endings.kill_all()
            self._phase = "cleanup"

    def advance(self, timeout: float) -> float:
        """Enter the next phase if it is time; give how long the driver may wait."""
        now = time.monotonic()
        if self._is_draining and (not self._dispatcher.runs or now >= self._deadline):
            self._cancel_runs()
            self._endings.begin_all()
            self._phase = "cleanup"
        timeout = self._endings.advance(timeout)
        if self._phase == "cleanup" and self._endings.over:
            self._phase = "over"
        return max(0.0, min(timeout, self._deadline - now)) if self._is_draining else timeout

    def joined(self, worker_id: int) -> None:
        """A worker has come in the middle of it; too late for runs it ends as the others do."""
        if self._phase == "cleanup":
            self._endings.begin(worker_id)

    @property
    def drains(self) -> bool:
        """Whether runs go on, so that a worker which ends is to be replaced."""
        return self._is_draining and bool(self._dispatcher.runs)

    @property
    def over(self) -> bool:
        """Whether every worker has ended, or has been given up."""
        return self._phase == "over"

    @property
    def _is_draining(self) -> bool:
        return self._phase == "drain"

    def _cancel_runs(self) -> None:
        self._dispatcher.end_all(PoolClosedError(self._name))

    def report(self) -> CleanupReport:
        """Tell how each worker ended."""
        return CleanupReport(self._endings.report(), time.monotonic() - self._began)
