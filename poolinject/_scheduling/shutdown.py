"""The end of a pool: runs drained or cancelled, a cleanup broadcast, answers under a deadline, then force."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

from poolinject._scheduling.reports import CleanupReport, CleanupStatus, WorkerCleanup
from poolinject._transport.messages import Stop, Stopped
from poolinject.errors import PoolClosedError

if TYPE_CHECKING:
    from poolinject._scheduling.dispatcher import Dispatcher
    from poolinject.backends.base import Backend

Mode: TypeAlias = Literal["drain", "cancel", "kill"]
MODES: tuple[Mode, ...] = ("drain", "cancel", "kill")
GRACE_SECONDS = 2.0  # between SIGTERM and SIGKILL, and for the end of what was killed


class Shutdown:
    """A sequence of phases, each with a deadline; ``advance`` is called whenever the driver wakes."""

    def __init__(self, dispatcher: Dispatcher, backend: Backend, name: str, cleanup_timeout: float) -> None:
        self._dispatcher, self._backend, self._name = dispatcher, backend, name
        self._cleanup_timeout = cleanup_timeout
        self._began = time.monotonic()
        self._phase: Literal["drain", "cleanup", "terminate", "kill", "over"] = "drain"
        self._deadline = math.inf
        self._alive = set(range(len(dispatcher.items_done)))
        self._answers: dict[int, Stopped] = {}
        self._timed_out: set[int] = set()

    def ask(self, mode: Mode, timeout: float | None) -> None:
        """Begin, or make what has begun harder: a later mode in the list cuts an earlier one short."""
        now = time.monotonic()
        if self._phase == "drain":
            self._deadline = min(self._deadline, math.inf if timeout is None else now + timeout)
            for run in list(self._dispatcher.runs.values()):
                if not run.options.eager:
                    run.stop_input()
        if mode == "cancel" and self._phase == "drain":
            self._deadline = now
        if mode == "kill" and self._phase != "over":
            self._cancel_runs()
            self._end_workers("kill", now)

    def stopped(self, worker_id: int, message: Stopped) -> None:
        """A worker has closed its scopes."""
        self._answers[worker_id] = message

    def gone(self, worker_id: int) -> None:
        """A worker has ended."""
        self._alive.discard(worker_id)

    def advance(self, timeout: float) -> float:
        """Enter the next phase if it is time; give how long the driver may wait."""
        now = time.monotonic()
        if self._phase == "drain" and (not self._dispatcher.runs or now >= self._deadline):
            self._cancel_runs()
            for worker_id in self._alive:
                self._backend.send(worker_id, Stop())
            self._enter("cleanup", now + self._cleanup_timeout)
        if self._phase != "drain" and not self._alive:
            self._phase = "over"
        elif now >= self._deadline:
            if self._phase == "cleanup":
                self._timed_out = {worker_id for worker_id in self._alive if worker_id not in self._answers}
                self._end_workers("terminate", now)
            elif self._phase == "terminate":
                self._end_workers("kill", now)
            elif self._phase == "kill":
                self._phase = "over"
        return max(0.0, min(timeout, self._deadline - now))

    @property
    def drains(self) -> bool:
        """Whether runs go on, so that a worker which ends is to be replaced."""
        return self._phase == "drain" and bool(self._dispatcher.runs)

    @property
    def over(self) -> bool:
        """Whether every worker has ended, or has been given up."""
        return self._phase == "over"

    def _enter(self, phase: Literal["cleanup", "terminate", "kill"], deadline: float) -> None:
        self._phase, self._deadline = phase, deadline

    def _cancel_runs(self) -> None:
        self._dispatcher.end_all(PoolClosedError(self._name))

    def _end_workers(self, how: Literal["terminate", "kill"], now: float) -> None:
        for worker_id in self._alive:
            self._backend.end(worker_id, how)
        self._enter(how, now + GRACE_SECONDS)

    def report(self) -> CleanupReport:
        """Tell how each worker ended."""
        workers = {}
        for worker_id in range(len(self._dispatcher.items_done)):
            answer = self._answers.get(worker_id)
            status: CleanupStatus = "lost"
            if worker_id in self._timed_out:  # also where it answered after all, once it had been terminated
                status = "timed out"
            elif answer is not None:
                status = "errors" if answer.failures else "clean"
            workers[worker_id] = WorkerCleanup(status, answer.failures if answer is not None else ())
        return CleanupReport(workers, time.monotonic() - self._began)
