"""Which workers were not heard of for longer than their items should take. Runs in the caller."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poolinject._scheduling.state import WorkerState

LATE = 2  # times what an item should take, or its outcome may be kept for: after such a silence a worker is late
UNEVEN_SECONDS = 0.02  # for which one worker has nothing to do and another more than it seems, or one is late


class Silence:
    """Since when each worker with something to do has said nothing."""

    def __init__(self, workers: int) -> None:
        self._since = [math.inf] * workers
        self._heard_at = 0.0  # of any, or the first of them had nothing to say before

    def add_worker(self) -> None:
        """There is one more."""
        self._since.append(math.inf)

    def begin(self, worker_id: int) -> None:
        """A worker was heard of, or had nothing to say before."""
        self._since[worker_id] = self._heard_at = time.monotonic()

    def note(self, *, heard: bool) -> bool:
        """Note whether anybody was heard of just now; give whether nobody was for a while."""
        now = time.monotonic()
        if heard:
            self._heard_at = now
        return now - self._heard_at > UNEVEN_SECONDS

    def late(self, workers: Sequence[WorkerState], patience: Callable[[int], float]) -> tuple[list[int], float]:
        """Give the workers that are late, and when to look again.

        Args:
            workers: As the scheduler sees them.
            patience: Gives for a run for how many seconds its outcomes may wait for others.
        """
        now, late, rest = time.monotonic(), list[int](), math.inf
        for worker in workers if len(workers) > 1 else ():
            if worker.late or not worker.chunks:
                continue
            run = next(iter(worker.chunks.values())).run
            longest = max(run.chunking.estimate(1), patience(run.id))
            left = self._since[worker.id] + LATE * longest + UNEVEN_SECONDS - now
            if left <= 0:
                late.append(worker.id)
            else:
                rest = min(rest, left)
        return late, rest
