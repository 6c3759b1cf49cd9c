"""Ends workers whose item does not heed its time limit. Runs in the caller, on the driver's thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from poolinject._transport.messages import Failed
from poolinject.errors import ItemTimeoutError, WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from poolinject._scheduling.runs import Run
    from poolinject._scheduling.state import Lose
    from poolinject.backends.base import Backend

LOOK_SECONDS = 0.05  # between two looks, while items with a time limit are under way
MARGIN_SECONDS = 0.05  # after the deadline: by then a worker that runs has seen for itself that it is late
SECOND = 1_000_000_000  # in the unit of the clock


class Overtime:
    """Which workers have been killed because of their item, and who is next.

    A worker publishes by when the item that it runs must have ended; past that it begins no other item.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._killed: dict[int, int] = {}  # by worker, the deadline that was missed
        self._next_look = 0

    def look(self, busy: Iterable[int]) -> float:
        """Kill who has missed a deadline; give how long the driver may wait until the next look."""
        now = time.monotonic_ns()
        if now >= self._next_look:
            self._next_look = now + int(LOOK_SECONDS * SECOND)
            for worker_id in busy:
                deadline = self._backend.deadline(worker_id)
                if deadline and worker_id not in self._killed and now > deadline + MARGIN_SECONDS * SECOND:
                    self._killed[worker_id] = deadline
                    self._backend.end(worker_id, "kill")
        return (self._next_look - now) / SECOND

    def gone(self, worker_id: int) -> bool:
        """Tell of a worker that has ended whether that was because of the item that it was running."""
        missed = self._killed.pop(worker_id, None)
        return missed is not None and missed == self._backend.deadline(worker_id)


def late_one(losses: Sequence[Lose], runs: Mapping[int, Run]) -> Lose | None:
    """Tell which item was running of those that were lost with a worker; where they ran beside others nobody knows."""
    if not losses or (len(losses) > 1 and runs[losses[-1].run].options.concurrency > 1):
        return None
    return losses[-1]


def failure_of(run: Run, index: int, lost: WorkerLostError | None, worker_id: int, *, overtime: bool) -> Failed:
    """Say what became of the item that a worker was running when it ended."""
    if overtime and run.options.timeout is not None:
        late = ItemTimeoutError(index, run.options.timeout)
        return Failed(0, late, f"{late}; it did not let go when it was told, so its worker was ended", "timeout", None)
    error = WorkerLostError(worker_id, None if lost is None else lost.exit_code, index)
    return Failed(0, error, str(error), "lost", None)
