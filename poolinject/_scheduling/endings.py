"""How workers end: told to clean up, under a deadline, then by force; at shutdown, and where they are recycled.

What their cleanups came to is kept for each slot over all its generations, for the ``CleanupReport``.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from poolinject._scheduling.reports import CleanupStatus, WorkerCleanup
from poolinject._transport.messages import Stop, Stopped

if TYPE_CHECKING:
    from poolinject.backends.base import Backend

Step: TypeAlias = Literal["cleanup", "terminate", "kill", "given up"]

GRACE_SECONDS = 2.0  # between SIGTERM and SIGKILL, and for the end of what was killed
BY_WEIGHT: tuple[CleanupStatus, ...] = ("clean", "errors", "timed out", "lost")  # the last one counts


@dataclass(slots=True)
class Ending:
    """A worker that has been told to end."""

    step: Step
    deadline: float
    timed_out: bool = False


class Endings:
    """Every worker of a pool, from the order to end to its end."""

    def __init__(self, backend: Backend, workers: int, cleanup_timeout: float) -> None:
        self.alive = set(range(workers))
        self._backend, self._cleanup_timeout = backend, cleanup_timeout
        self._ending: dict[int, Ending] = {}
        self._answers: dict[int, Stopped] = {}
        self._kills = False  # without cleanups
        self._statuses: list[list[CleanupStatus]] = [[] for _ in range(workers)]  # of each generation that has ended
        self._errors: list[list[tuple[str, BaseException]]] = [[] for _ in range(workers)]

    def begin(self, worker_id: int) -> None:
        """Tell a worker to close its scopes and to end; a second time says nothing new."""
        if worker_id not in self.alive:
            return
        if self._kills:
            self._force(worker_id, self._ending.setdefault(worker_id, Ending("kill", 0.0)), "kill")
            return
        ending, deadline = self._ending.get(worker_id), time.monotonic() + self._cleanup_timeout
        if ending is None:
            self._backend.send(worker_id, Stop())
            self._ending[worker_id] = Ending("cleanup", deadline)
        else:  # it may be one that ends by itself
            ending.deadline = min(ending.deadline, deadline)

    def expect(self, worker_id: int) -> None:
        """A worker ends by itself, and has a bound of its own until it is told to, as well."""
        self._ending.setdefault(worker_id, Ending("cleanup", math.inf))

    def begin_all(self) -> None:
        """Tell every worker."""
        for worker_id in sorted(self.alive):
            self.begin(worker_id)

    def kill_all(self) -> None:
        """End every worker at once, without its cleanups."""
        self._kills = True
        self.begin_all()

    def is_ending(self, worker_id: int) -> bool:
        """Tell whether a worker has been told to end, and has not yet."""
        return worker_id in self._ending

    def was_lost(self, worker_id: int) -> bool:
        """Tell whether the newest generation of a slot that has ended did so without its cleanups."""
        return self._statuses[worker_id][-1:] == ["lost"]

    def stopped(self, worker_id: int, message: Stopped) -> None:
        """A worker has closed its scopes."""
        self._answers[worker_id] = message

    def gone(self, worker_id: int, *, holds: bool = True) -> None:
        """A worker has ended; one that was not told to, and held nothing, has left nothing undone."""
        ending, answer = self._ending.pop(worker_id, None), self._answers.pop(worker_id, None)
        status: CleanupStatus = "lost"
        if ending is not None and ending.timed_out:  # also where it answered after all, once it had been terminated
            status = "timed out"
        elif answer is not None:
            status = "errors" if answer.failures else "clean"
        elif ending is None and not holds:
            status = "clean"
        self._statuses[worker_id].append(status)
        self._errors[worker_id] += answer.failures if answer is not None else ()
        self.alive.discard(worker_id)

    def replaced(self, worker_id: int) -> None:
        """The next generation has been started, or the first one in a new slot."""
        self.alive.add(worker_id)
        if worker_id == len(self._statuses):
            self._statuses.append([])
            self._errors.append([])

    def advance(self, timeout: float) -> float:
        """Go on to the next step where a deadline has passed; give how long the driver may wait."""
        now = time.monotonic()
        for worker_id, ending in list(self._ending.items()):
            if now >= ending.deadline:
                if ending.step == "cleanup":
                    ending.timed_out = worker_id not in self._answers
                    self._force(worker_id, ending, "terminate")
                elif ending.step == "terminate":
                    self._force(worker_id, ending, "kill")
                else:
                    ending.step, ending.deadline = "given up", math.inf
            timeout = min(timeout, ending.deadline - now)
        return max(0.0, timeout)

    def _force(self, worker_id: int, ending: Ending, how: Literal["terminate", "kill"]) -> None:
        self._backend.end(worker_id, how)
        ending.step, ending.deadline = how, time.monotonic() + GRACE_SECONDS

    @property
    def over(self) -> bool:
        """Whether every worker has ended, or has been given up."""
        return all(worker_id in self._ending and self._ending[worker_id].step == "given up" for worker_id in self.alive)

    def report(self) -> dict[int, WorkerCleanup]:
        """Tell how the workers ended, all generations of a slot together; one that has not is given up."""
        for worker_id in sorted(self.alive):
            self.gone(worker_id)
        return {
            worker_id: WorkerCleanup(max(statuses, key=BY_WEIGHT.index), tuple(errors))
            for worker_id, (statuses, errors) in enumerate(zip(self._statuses, self._errors, strict=True))
        }


def kill_all(backend: Backend, workers: int) -> None:
    """End the workers of a pool without their cleanups."""
    for worker_id in range(workers):
        backend.end(worker_id, "kill")
