"""What a pool was given and what came of it: every result is checked against its job, every loss against the kills."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from poolinject import Failure, InjectedPool, PoolClosedError, Success, WorkerLostError
from poolinject.backends.base import WorkerInfo
from tests.faults.jobs import DOOMED, Fault, Function, Job, begun, fault_of
from tests.pool import ledger


@dataclass(frozen=True)
class Batch:
    """The jobs of one run."""

    function: Function
    jobs: Sequence[Job]
    at_most_once: bool = False
    retries: int = 0

    def fault(self, job: Job) -> Fault | None:
        """Tell what must come of a job, where no worker is killed; ``None`` stands for its value."""
        fault = fault_of(self.function, job)
        return None if fault is None or job.mends_at <= self.attempts(fault) else fault

    def attempts(self, fault: Fault) -> int:
        """Tell how often a job with such a fault is tried."""
        is_final = fault.error is SystemExit or (self.at_most_once and fault.ends_worker)
        return 1 if is_final else self.retries + 1

    def needed(self, job: Job) -> float:
        """Tell how many attempts a job takes, where no worker is killed."""
        fault = fault_of(self.function, job)
        return 1 if fault is None else min(job.mends_at, self.attempts(fault))

    def faults(self) -> Iterator[Fault]:
        """Give what must fail."""
        return (fault for job in self.jobs if (fault := self.fault(job)) is not None)


@dataclass
class Accounts:
    """Of one test.

    Attributes:
        kills: Workers that were sent a deadly signal from outside.
        killed: Their process ids, where they could not clean up.
        terminated: Process ids of those that could, as long as no second SIGTERM came.
        lost: Items that were lost without a fault of their own.
        ends: Jobs that end their worker.
    """

    kills: int = 0
    killed: set[int] = field(default_factory=set)
    terminated: set[int] = field(default_factory=set)
    lost: int = 0
    ends: int = 0
    batches: list[Batch] = field(default_factory=list)

    def give(self, batch: Batch) -> Batch:
        """Note that jobs go to a pool."""
        self.batches.append(batch)
        faults = (fault_of(batch.function, job) for job in batch.jobs)
        self.ends += sum(batch.attempts(fault) for fault in faults if fault is not None and fault.ends_worker)
        return batch

    def kill(self, worker: WorkerInfo, signum: int) -> None:
        """End a worker."""
        self.kills += 1
        is_first_warning = signum == signal.SIGTERM and worker.pid not in self.terminated
        (self.terminated if is_first_warning else self.killed).add(worker.pid)
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signum)

    @property
    def may_lose(self) -> bool:
        """Whether any worker may have ended by now."""
        return self.kills + self.ends > 0

    def check(self, batch: Batch, index: int, result: Any, *, is_closed: bool = False) -> None:
        """Check what came of a job: a value, a ``Success`` or a ``Failure``; a closed pool tries none again."""
        job = batch.jobs[index]
        fault = batch.fault(job)
        if isinstance(result, Success | Failure):
            assert (result.index, result.item) == (index, job), f"{result} is not about {job}"
            needed = batch.needed(job)
            is_cut_short = is_closed and result.attempts < needed
            assert self.may_lose or result.attempts == needed or is_cut_short
            if is_cut_short and fault is None:  # it would have mended later
                fault = fault_of(batch.function, job)
        if not isinstance(result, Failure):
            value = result.value if isinstance(result, Success) else result
            assert fault is None, f"{job} has given {value!r}"
            assert value == -job.number
            return
        if fault is not None and result.phase == fault.phase:
            assert isinstance(result.error, fault.error), f"{job} has failed with {result.error!r}"
            return
        assert result.phase == "lost", f"{job} has failed: {result}\n{result.traceback}"
        assert isinstance(result.error, WorkerLostError)
        assert self.may_lose, f"{job} was lost, and nothing was killed"
        if not batch.at_most_once:  # else whatever the worker had begun and not recorded may be lost
            self.lost += 1
            assert self.lost <= self.kills, f"{self.lost} items lost by {self.kills} kills"

    def settle(self, batch: Batch, call: Callable[[], Sequence[Any]], *, raises: bool, is_closed: bool = False) -> None:
        """Check what a call gives for all jobs of a batch, in their order."""
        try:
            results = call()
        except BaseException as error:  # noqa: BLE001 - jobs raise SystemExit, too
            self.check_raised(batch, error, raises=raises, is_closed=is_closed)
            return
        assert len(results) == len(batch.jobs)
        for index, result in enumerate(results):
            self.check(batch, index, result, is_closed=is_closed)
        assert not raises or not list(batch.faults())

    def check_raised(self, batch: Batch, error: BaseException, *, raises: bool, is_closed: bool) -> None:
        """Check what has ended a run: a fault of its jobs, a lost worker, or the end of the pool."""
        assert raises or is_closed, f"raised in spite of on_error: {error!r}"
        expected = tuple(fault.error for fault in batch.faults())
        expected += (PoolClosedError, WorkerLostError) if is_closed else ()
        if isinstance(error, (*expected, *((WorkerLostError,) if self.may_lose else ()))):
            return
        raise error

    def check_ledger(self) -> None:
        """Check that nothing is open but what died with its process, and that nothing has run too often."""
        entries = ledger.read()
        lost = self.killed | {entry.pid for entry in entries if entry.text == DOOMED}
        ledger.check_balanced(lost, self.terminated)
        times = Counter(entry.text for entry in entries)
        again = {True: 0, False: 0}
        for batch in self.batches:
            attempts = (begun(job, attempt) for job in batch.jobs for attempt in range(1, batch.retries + 2))
            again[batch.at_most_once] += sum(max(times[attempt] - 1, 0) for attempt in attempts)
        assert again[True] == 0, "at most once means what it says"
        assert again[False] <= self.kills + self.ends, f"{again[False]} items done again; {self}"


@dataclass
class Reading:
    """An iterator over a run that is being read."""

    batch: Batch
    results: Iterator[Any]
    ordered: bool
    raises: bool
    seen: set[int] = field(default_factory=set)
    ended: bool = False

    def read(self, accounts: Accounts, count: int | None = None, *, is_closed: bool = False) -> None:
        """Take so many results, or all; each of them belongs to another job."""
        while not self.ended and (count is None or count > 0):
            try:
                result = next(self.results)
            except StopIteration:
                assert self.seen == set(range(len(self.batch.jobs)))
                self.ended = True
            except BaseException as error:  # noqa: BLE001 - jobs raise SystemExit, too
                self.ended = True
                accounts.check_raised(self.batch, error, raises=self.raises, is_closed=is_closed)
            else:
                self._take(accounts, result, is_closed=is_closed)
                count = None if count is None else count - 1

    def _take(self, accounts: Accounts, result: Any, *, is_closed: bool) -> None:
        if self.ordered:
            index = len(self.seen)
        elif isinstance(result, Success | Failure):
            index = result.index
        else:
            index = -result - self.batch.jobs[0].number
        assert index not in self.seen, f"item {index} has two outcomes"
        self.seen.add(index)
        accounts.check(self.batch, index, result, is_closed=is_closed)


def living(pool: InjectedPool) -> list[WorkerInfo]:
    """Give the workers that a signal can reach."""
    return [worker for worker in pool.workers if worker.state in {"idle", "busy"}]
