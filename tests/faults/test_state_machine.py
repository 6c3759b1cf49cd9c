"""The whole pool, with real workers, under any sequence of calls and faults: nothing hangs, is lost, or is left.

``POOLINJECT_FAULT_RUNS=50`` runs so many sequences of each backend instead of a few, and longer ones. A failure shows
its steps, which run anew with the decorator that hypothesis prints.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from poolinject import Failure, InjectedPool, PoolClosedError, RetryPolicy
from tests.conftest import FORKSERVER, THREAD, Kind
from tests.faults import jobs
from tests.faults.accounts import Accounts, Batch, Reading, living
from tests.faults.jobs import FAULTS, FUNCTIONS, HARMLESS, PROCESS_FAULTS, Function, Job, begun
from tests.faults.watchdog import bounded
from tests.pool import ledger as ledger_module
from tests.resources import check_nothing_left, resources

RUNS = int(os.environ.get("POOLINJECT_FAULT_RUNS", "0"))
SETTINGS = settings(
    max_examples=RUNS or 8,
    stateful_step_count=40 if RUNS else 15,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # a shorter sequence need not fail the same
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
STEP_SECONDS = 20.0
CLEANUP_SECONDS = 10.0
MOST_OPEN = 4
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
HANGS = ["hang", "hang in cleanup", *(["hang stubbornly"] if RUNS else [])]

functions = st.sampled_from(FUNCTIONS)
options = st.fixed_dictionaries(
    {
        "chunksize": st.sampled_from([None, None, 1, 3, 10]),
        "delivery": st.sampled_from(["at_least_once", "at_least_once", "at_most_once"]),
        "retries": st.sampled_from([0, 0, 1, 2, RetryPolicy(3, backoff=0.002, jitter=0.5)]),
    }
)
mendings = st.sampled_from([math.inf, math.inf, 2, 3])
on_errors = st.sampled_from(["raise", "return", "callable"])
modes = st.sampled_from(["drain", "cancel", "kill"])


def fault_lists(faults: dict[str, Any], most: int = 20) -> st.SearchStrategy[list[str]]:
    """Give what is wrong with the jobs of a run: with most of them nothing."""
    harmless = st.sampled_from(HARMLESS)
    return st.lists(harmless, max_size=most) | st.lists(
        harmless | harmless | st.sampled_from(list(faults)), max_size=most
    )


class PoolMachine(RuleBasedStateMachine):
    """What every backend can do."""

    kind: ClassVar[Kind]
    faults: ClassVar[dict[str, Any]] = PROCESS_FAULTS
    most_items: int | None = None  # of a worker

    def __init__(self) -> None:
        super().__init__()
        Path(os.environ[ledger_module.PLACE]).unlink(missing_ok=True)
        self.before = resources()
        self.accounts = Accounts()
        self.readings: list[Reading] = []
        self.futures: list[tuple[Batch, Future[Any]]] = []
        self.steps: list[str] = []
        self.failed = False
        self._numbers, self._names = itertools.count(1), itertools.count(1)
        self._pool: InjectedPool | None = None

    @property
    def pool(self) -> InjectedPool:
        """The pool, a new one after a shutdown."""
        if self._pool is None:
            options: Any = {"lifetimes": jobs.LIFETIMES, "cleanup_timeout": CLEANUP_SECONDS}
            name = f"machine{next(self._names)}"
            self._pool = self.kind.pool(2, name=name, max_items_per_worker=self.most_items, **options)
        return self._pool

    @contextmanager
    def step(self, *what: object) -> Iterator[None]:
        """Bound a step, and have a failure tell of all the steps before."""
        self.steps.append(" ".join(map(str, what)))
        try:
            with bounded(self.steps[-1], STEP_SECONDS):
                yield
        except BaseException as error:
            self.failed = True
            error.add_note("\n".join(["steps:", *self.steps, f"{self._pool!r}", f"{self.accounts}"]))
            error.add_note("\n".join(["the ledger ends with:", *map(str, ledger_module.read()[-30:])]))
            raise

    def batch(
        self, function: Function, faults: list[str], options: Mapping[str, Any] = NO_OPTIONS, mends_at: float = math.inf
    ) -> Batch:
        """Make jobs."""
        made = [Job(next(self._numbers), fault, mends_at) for fault in faults]
        retries = options.get("retries", 0)
        retries = retries.attempts - 1 if isinstance(retries, RetryPolicy) else retries
        return self.accounts.give(Batch(function, made, options.get("delivery") == "at_most_once", retries))

    def mapping(self, batch: Batch, on_error: str = "return", **options: Any) -> Callable[[], list[Any]]:
        """Give a call of ``map``."""
        handle: Any = (lambda failure: failure) if on_error == "callable" else on_error
        return partial(self.pool.map, batch.function, batch.jobs, on_error=handle, **options)

    def settle(self, batch: Batch, call: Callable[[], list[Any]], on_error: str, *, is_closed: bool = False) -> None:
        """Check what a call of ``map`` gives."""
        self.accounts.settle(batch, call, raises=on_error == "raise", is_closed=is_closed)

    # rules

    @rule(data=st.data(), function=functions, mends_at=mendings, on_error=on_errors, options=options)
    def map(
        self, data: st.DataObject, function: Function, mends_at: float, on_error: str, options: dict[str, Any]
    ) -> None:
        """Run to the end."""
        faults = data.draw(fault_lists(self.faults))
        with self.step("map", function.__name__, faults, mends_at, on_error, options):
            batch = self.batch(function, faults, options, mends_at)
            self.settle(batch, self.mapping(batch, on_error, **options), on_error)

    @rule(data=st.data(), function=functions, on_errors=st.tuples(on_errors, on_errors))
    def map_on_two_threads(self, data: st.DataObject, function: Function, on_errors: tuple[str, str]) -> None:
        """Run two runs at once."""
        faults = data.draw(st.tuples(fault_lists(self.faults), fault_lists(self.faults)))
        with self.step("map on two threads", function.__name__, faults, on_errors), ThreadPoolExecutor(2) as threads:
            batches = [self.batch(function, each) for each in faults]
            calls = [self.mapping(*each) for each in zip(batches, on_errors, strict=True)]
            running = list(map(threads.submit, calls))
            for batch, future, on_error in zip(batches, running, on_errors, strict=True):
                self.settle(batch, partial(future.result, STEP_SECONDS), on_error)

    @precondition(lambda self: len(self.readings) < MOST_OPEN)
    @rule(
        data=st.data(),
        method=st.sampled_from(["imap", "imap_unordered", "outcomes"]),
        function=functions,
        raises=st.booleans(),
        is_list=st.booleans(),
        mends_at=mendings,
        options=options,
    )
    def begin_reading(
        self,
        data: st.DataObject,
        *,
        method: str,
        function: Function,
        raises: bool,
        is_list: bool,
        mends_at: float,
        options: dict[str, Any],
    ) -> None:
        """Begin a lazy run, whose results others read later, perhaps not to the end."""
        faults = data.draw(fault_lists(self.faults, 60))
        with self.step(method, function.__name__, faults, raises, is_list, mends_at, options):
            batch = self.batch(function, faults, options, mends_at)
            raises = raises and method != "outcomes"
            handling = {} if method == "outcomes" else {"on_error": "raise" if raises else "return"}
            source = batch.jobs if is_list else iter(batch.jobs)
            results = getattr(self.pool, method)(function, source, **handling, **options)
            self.readings.append(Reading(batch, results, method == "imap", raises))

    @precondition(lambda self: self.readings)
    @rule(data=st.data(), count=st.none() | st.integers(1, 30))
    def read(self, data: st.DataObject, count: int | None) -> None:
        """Read some results, or all."""
        position = data.draw(st.integers(0, len(self.readings) - 1))
        with self.step("read", count, "of run", position):
            self.readings[position].read(self.accounts, count)
            if self.readings[position].ended:
                del self.readings[position]

    @precondition(lambda self: self.readings)
    @rule(data=st.data(), closes=st.booleans())
    def abandon(self, data: st.DataObject, *, closes: bool) -> None:
        """Close an iterator, or drop it."""
        position = data.draw(st.integers(0, len(self.readings) - 1))
        with self.step("close" if closes else "drop", "run", position):
            results: Any = self.readings.pop(position).results
            if closes:
                results.close()

    @precondition(lambda self: len(self.futures) < MOST_OPEN)
    @rule(data=st.data(), function=functions)
    def submit(self, data: st.DataObject, function: Function) -> None:
        """Submit jobs one by one."""
        faults = data.draw(fault_lists(self.faults, 4))
        with self.step("submit", function.__name__, faults):
            for fault in faults:
                batch = self.batch(function, [fault])
                self.futures.append((batch, self.pool.submit(function, *batch.jobs)))

    @precondition(lambda self: self.futures)
    @rule()
    def cancel_future(self) -> None:
        """Cancel the newest, which may be too late."""
        with self.step("cancel"):
            self.futures[-1][1].cancel()

    @precondition(lambda self: self.futures)
    @rule()
    def wait_for_futures(self) -> None:
        """Get what was submitted."""
        with self.step("wait"):
            self.settle_futures()

    def settle_futures(self, *, is_closed: bool = False) -> None:
        """Check what has come of what was submitted."""
        assert not wait([future for _, future in self.futures], STEP_SECONDS).not_done
        for batch, future in self.futures:
            with suppress(CancelledError):
                self.settle(batch, lambda future=future: [future.result(0)], "raise", is_closed=is_closed)  # type: ignore[misc]
        self.futures.clear()

    @rule()
    def broadcast(self) -> None:
        """Reach every worker once."""
        with self.step("broadcast"):
            outcomes = self.pool.broadcast(jobs.get_generation)
            assert sorted(outcomes) == [0, 1]
            for worker_id, outcome in outcomes.items():
                if isinstance(outcome, Failure):
                    assert outcome.phase == "lost"
                    assert self.accounts.may_lose
                else:
                    assert outcome.value[0] == worker_id

    @rule(mode=modes, timeout=st.sampled_from([None, None, 0.0, 0.05]))
    def shut_down(self, mode: Any, timeout: float | None) -> None:
        """End the pool, whatever it is doing; what was begun can still be read, or tells that it is closed."""
        with self.step("shutdown", mode, timeout):
            self.end_pool(mode, timeout)

    @rule(mode=modes, timeout=st.sampled_from([None, 0.01]), function=functions, on_error=on_errors)
    def shut_down_during_map(self, mode: Any, timeout: float | None, function: Function, on_error: str) -> None:
        """End the pool while another thread waits for a run, which is finished where the shutdown drains."""
        with self.step("shutdown", mode, timeout, "during map", function.__name__), ThreadPoolExecutor(1) as threads:
            batch = self.batch(function, ["slow"] * 20)
            running = threads.submit(self.mapping(batch, on_error))
            ledger_module.wait_for(begun(batch.jobs[0]))
            self.end_pool(mode, timeout)
            is_cut = mode != "drain" or timeout is not None
            self.settle(batch, partial(running.result, STEP_SECONDS), on_error, is_closed=is_cut)

    def end_pool(self, mode: Any, timeout: float | None) -> None:
        """Shut down and look at everything that was not finished."""
        pool = self.pool
        before = pool.workers
        report = pool.shutdown(mode, timeout)
        if mode == "kill" and self.kind.has_processes:
            self.accounts.kills += len(before)
            self.accounts.killed.update(worker.pid for worker in (*before, *pool.workers))
        assert mode == "kill" or self.accounts.may_lose or report.clean, report
        assert pool.shutdown() == report
        with pytest.raises(PoolClosedError):
            pool.map(jobs.plainly, [])
        for reading in self.readings:
            reading.read(self.accounts, is_closed=True)
        self.readings.clear()
        self.settle_futures(is_closed=mode != "drain" or timeout is not None)
        self._pool = None

    def teardown(self) -> None:
        """End the pool, then look whether anything is left of it, or was done too often."""
        if self.failed:
            self.give_up()
            return
        with self.step("at the end"):
            self.end_pool("drain", None)
            self.accounts.check_ledger()
            check_nothing_left(self.before)

    def give_up(self) -> None:
        """Leave nothing to the next sequence after a failure."""
        self.readings.clear()
        if self._pool is not None:
            with suppress(AssertionError), bounded("kill", STEP_SECONDS):
                self._pool.shutdown("kill")


class ThreadMachine(PoolMachine):
    """Worker threads, which cannot be killed."""

    kind = THREAD
    faults = FAULTS


class ProcessMachine(PoolMachine):
    """Worker processes, which are killed."""

    kind = FORKSERVER
    kills_in_row = 0  # the pool gives up where workers die one after another
    hangs = 0

    @initialize(most_items=st.sampled_from([None, None, 1, 7, 40]))
    def choose(self, most_items: int | None) -> None:
        """Let workers be recycled, or not."""
        self.most_items = most_items
        self.steps.append(f"max_items_per_worker={most_items}")

    @precondition(lambda self: self.kills_in_row < 2)
    @rule(signum=st.sampled_from([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]), which=st.integers(0, 1))
    def kill(self, signum: signal.Signals, which: int) -> None:
        """End a worker, which may be idle or busy."""
        with self.step("send", signum.name, which):
            for worker in living(self.pool)[which:][:1]:
                self.kills_in_row += 1
                self.accounts.kill(worker, signum)

    @precondition(lambda self: self.hangs < (3 if RUNS else 1))  # it takes a while
    @rule(data=st.data(), function=functions, hang=st.sampled_from(HANGS), mends_at=mendings, options=options)
    def time_out(
        self, data: st.DataObject, function: Function, hang: str, mends_at: float, options: dict[str, Any]
    ) -> None:
        """Let one item of a run hang until its time is over."""
        faults = data.draw(fault_lists(self.faults, 10).map(lambda faults: [*faults, hang]).flatmap(st.permutations))
        with self.step("map with timeout", function.__name__, faults, mends_at, options):
            self.hangs += 1
            batch = self.batch(function, faults, options, mends_at)
            self.settle(batch, self.mapping(batch, timeout=jobs.LIMIT_SECONDS, **options), "return")

    @rule(function=functions, options=options, signum=st.sampled_from([signal.SIGKILL, signal.SIGTERM]))
    def kill_during_map(self, function: Function, options: dict[str, Any], signum: signal.Signals) -> None:
        """End a worker in the middle of a run, which costs it one item, and others that had begun where it says so."""
        with self.step("send", signum.name, "during map", function.__name__, options), ThreadPoolExecutor(1) as threads:
            batch = self.batch(function, ["slow"] * 20, options)
            running = threads.submit(self.mapping(batch, **options))
            ledger_module.wait_for(begun(batch.jobs[0]))
            for worker in living(self.pool)[:1]:
                self.accounts.kill(worker, signum)
            self.settle(batch, partial(running.result, STEP_SECONDS), "return")
            self.kills_in_row = 0


@pytest.mark.timeout(60 * (RUNS + 3), method="thread")  # each step has a bound of its own, which uses the signal
@pytest.mark.parametrize("machine", [ThreadMachine, ProcessMachine])
def test_any_sequence(ledger: ModuleType, machine: type[PoolMachine]) -> None:
    """Every step ends, every item has one outcome, which is right, every scope closes, and nothing is left behind."""
    run_state_machine_as_test(machine, settings=SETTINGS)
