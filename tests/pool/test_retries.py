"""An item that fails is tried again: how often, after which failures, when, and what is told of it in the end."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Annotated, Any

import pytest

from poolinject import (
    Depends,
    Failure,
    ItemContext,
    PoolClosedError,
    RetryPolicy,
    Success,
    WorkerContext,
    WorkerLostError,
)
from tests.conftest import Kind
from tests.pool.ledger import note, span, wait_for
from tests.pool.test_progress import Spy

PATIENCE = 15.0
NEVER = 3600.0  # seconds
LISTS = ["map", "imap", "imap_unordered"]


def recover(item: int, context: ItemContext) -> tuple[int, int]:
    """Fail in the first ``item % 3`` attempts."""
    if context.attempt <= item % 3:
        raise ValueError(f"{item} in attempt {context.attempt}")
    return item, context.attempt


@pytest.mark.parametrize("method", LISTS)
@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_items_that_recover_give_their_results(backend: Kind, method: str, chunksize: int | None) -> None:
    """Each in the attempt that went through, in order where the method is ordered."""
    with backend.pool() as pool:
        results = list(getattr(pool, method)(recover, iter(range(100)), retries=2, chunksize=chunksize))
        assert sorted(results) == [(item, item % 3 + 1) for item in range(100)]
        assert method == "imap_unordered" or results == sorted(results)
        report = pool.report
        assert (report.items, report.succeeded, report.failed, report.retries) == (100, 100, 0, 99)


def test_jitter_leaves_the_random_numbers_of_the_caller_alone(backend: Kind) -> None:
    """Whoever has seeded them gets the same ones with a pool as without."""
    before = random.getstate()
    with backend.pool() as pool:
        pool.map(recover, range(30), retries=RetryPolicy(3, backoff=0.001, jitter=1.0))
    assert random.getstate() == before


def test_outcomes_tell_the_attempt(backend: Kind) -> None:
    """Of what went through and of what did not in two attempts."""
    with backend.pool() as pool:
        outcomes = {outcome.index: outcome for outcome in pool.outcomes(recover, range(30), retries=1)}
        assert {index: outcome.attempts for index, outcome in outcomes.items()} == {
            index: min(index % 3 + 1, 2) for index in range(30)
        }
        failures = {index for index, outcome in outcomes.items() if isinstance(outcome, Failure)}
        assert failures == {index for index in range(30) if index % 3 == 2}
        assert all(outcome.seconds > 0 for outcome in outcomes.values() if isinstance(outcome, Success))
        assert (pool.report.succeeded, pool.report.failed, pool.report.retries) == (20, 10, 20)


def test_starmap_takes_retries(backend: Kind) -> None:
    """Its items are tuples."""
    with backend.pool() as pool:
        assert pool.starmap(recover, [(1,), (2,)], retries=2) == [(1, 2), (2, 3)]


def get_session(item: int, context: ItemContext) -> Iterator[str]:
    """Open something for each attempt."""
    yield from span(f"session {item}.{context.attempt}")


def recover_in_session(
    item: int, context: ItemContext, session: Annotated[str, Depends(get_session)]
) -> tuple[int, int]:
    """Fail with a scope open."""
    assert session == f"session {item}.{context.attempt}"
    return recover(item, context)


def test_each_attempt_has_a_fresh_item_scope(backend: Kind, ledger: ModuleType) -> None:
    """The one before is closed by then."""
    with backend.pool() as pool:
        pool.map(recover_in_session, [2], retries=5)
    ledger.check_balanced()
    assert ledger.texts() == [f"session 2.{attempt}{sign}" for attempt in (1, 2, 3) for sign in "+-"]


# waiting


@pytest.mark.parametrize("method", ["imap_unordered", "outcomes"])
def test_waiting_costs_no_worker(backend: Kind, method: str) -> None:
    """All other items go through the only worker meanwhile."""
    with backend.pool(1) as pool:
        policy = RetryPolicy(2, backoff=0.3)
        results = list(getattr(pool, method)(recover, [1, *[0] * 50], retries=policy, chunksize=5))
        last = results[-1]
        assert (last.value if isinstance(last, Success) else last) == (1, 2)
        assert len(results) == 51
        assert pool.report.seconds >= 0.3


def test_waits_grow(backend: Kind) -> None:
    """By the factor."""
    with backend.pool(1) as pool:
        began = time.monotonic()
        assert pool.map(recover, [2], retries=RetryPolicy(3, backoff=0.1, factor=3)) == [(2, 3)]
        assert 0.4 <= time.monotonic() - began < PATIENCE


def test_waiting_costs_the_caller_no_time_either() -> None:
    """Where items run on its own thread it sleeps."""
    with Kind("inline").pool() as pool:
        before = time.process_time()
        assert pool.map(recover, [1], retries=RetryPolicy(2, backoff=0.5)) == [(1, 2)]
        assert time.process_time() - before < 0.25


def begin_and_fail(item: int, context: ItemContext) -> None:
    """Fail always, and leave a trace."""
    note(f"item {item} attempt {context.attempt}")
    raise ValueError(item)


def test_waiting_items_are_in_flight(parallel: Kind, ledger: ModuleType) -> None:
    """The input is read no further than the limit."""
    source = itertools.count()
    with parallel.pool(max_in_flight=4) as pool:
        results = pool.imap_unordered(begin_and_fail, source, retries=RetryPolicy(2, backoff=NEVER))
        ledger.wait_for("item", 4)
        pool.submit(int, "1").result(PATIENCE)
        assert next(source) == 4
        results.close()  # type: ignore[attr-defined]


def test_cancel_drops_what_waits(backend: Kind, ledger: ModuleType) -> None:
    """An iterator that is closed waits for nothing, nor does the end of the pool; the next run is none the worse."""
    with backend.pool() as pool:
        results: Any = pool.imap_unordered(recover, [1, 0, 1], retries=RetryPolicy(2, backoff=NEVER))
        assert next(results) == (0, 1)
        results.close()
        assert pool.map(recover, [1, 2, 0], retries=2) == [(1, 2), (2, 3), (0, 1)]


def test_another_run_goes_on_meanwhile(backend: Kind) -> None:
    """One that waits holds nothing up but itself."""
    with backend.pool(1) as pool:
        results: Any = pool.imap_unordered(recover, [1, 0], retries=RetryPolicy(2, backoff=NEVER))
        assert next(results) == (0, 1)
        assert pool.map(recover, range(50), retries=2) == [(item, item % 3 + 1) for item in range(50)]
        results.close()


def test_shutdown_cancels_what_waits(parallel: Kind, ledger: ModuleType) -> None:
    """Whoever waits for it hears of the end."""
    pool = parallel.pool(1)
    with ThreadPoolExecutor(1) as threads:
        mapping = threads.submit(pool.map, begin_and_fail, [0], retries=RetryPolicy(2, backoff=NEVER))
        ledger.wait_for("item 0 attempt 1")
        assert pool.submit(int, "1").result(PATIENCE) == 1  # the worker has told of the failure before
        assert pool.shutdown("cancel").clean
        assert isinstance(mapping.exception(PATIENCE), PoolClosedError)
    assert ledger.count("item") == 1


def test_drain_waits_for_retries(parallel: Kind) -> None:
    """What was read comes to its end."""
    pool = parallel.pool(1)
    results = pool.imap(recover, [0, 1, 2], retries=RetryPolicy(3, backoff=0.1))
    assert next(results) == (0, 1)
    assert pool.shutdown("drain").clean
    assert list(results) == [(1, 2), (2, 3)]


def hold_or_fail(item: int, context: ItemContext) -> int:
    """Fail for 0 once, wait for the test for 1."""
    note(f"item {item} attempt {context.attempt}")
    if item == 0 and context.attempt == 1:
        raise ValueError(item)
    if item == 1:
        wait_for("release")
    return item


def test_retry_does_not_wait_for_the_rest_of_its_chunk(parallel: Kind, ledger: ModuleType) -> None:
    """Another worker has it meanwhile."""
    with parallel.pool(2) as pool, ThreadPoolExecutor(1) as threads:
        mapping = threads.submit(pool.map, hold_or_fail, [0, 1], chunksize=2, retries=1)
        ledger.wait_for("item 0 attempt 2")
        note("release")
        assert mapping.result(PATIENCE) == [0, 1]


# which failures


def test_the_error_of_the_last_attempt_is_raised(backend: Kind) -> None:
    """The earlier ones are notes, once each."""
    with backend.pool() as pool:
        with pytest.raises(ValueError, match="2 in attempt 2") as caught:
            pool.map(recover, [0, 1, 2, 0], retries=1)
        first, where = caught.value.__notes__
        assert first == "attempt 1 failed in phase 'call': ValueError: 2 in attempt 1"
        assert where.startswith("item 2 (2) failed in phase 'call' on worker")
        assert where.endswith("attempt 2")
        assert "2 in attempt 2" in str(caught.value.__cause__)
        assert pool.map(recover, [1], retries=1) == [(1, 2)]


def test_return_gives_the_failure_of_the_last_attempt(backend: Kind) -> None:
    """With the number of attempts."""
    with backend.pool() as pool:
        results: list[Any] = pool.map(recover, range(6), retries=1, on_error="return")
        assert [results[index] for index in (0, 1, 3, 4)] == [(0, 1), (1, 2), (3, 1), (4, 2)]
        for index in (2, 5):
            failure = results[index]
            assert (failure.index, failure.item, failure.attempts, failure.phase) == (index, index, 2, "call")
            assert str(failure.error) == f"{index} in attempt 2"
            assert f"{index} in attempt 2" in failure.traceback
            assert len(failure.error.__notes__) == 1


def test_a_handler_hears_of_the_last_attempt_only(backend: Kind) -> None:
    """What it gives stands in the place."""
    heard: list[int] = []

    def handle(failure: Failure) -> str:
        heard.append(failure.attempts)
        return "none"

    with backend.pool() as pool:
        assert pool.map(recover, [0, 1, 2], retries=1, on_error=handle) == [(0, 1), (1, 2), "none"]
        assert heard == [2]


SHARED_ERROR = KeyError("always the same")


def raise_shared(item: int) -> None:
    """Raise the same object each time."""
    raise SHARED_ERROR


def test_notes_stand_once_at_an_error_that_is_raised_again_and_again() -> None:
    """Where caller and workers share it."""
    with Kind("thread").pool() as pool:
        results: Any = pool.map(raise_shared, [0, 1], retries=1, on_error="return")
        assert [failure.error.__notes__ for failure in results] == [
            ["attempt 1 failed in phase 'call': KeyError: 'always the same'"]
        ] * 2


def fail_by_turns(item: int, context: ItemContext) -> None:
    """Raise another type in each attempt."""
    note(f"item {item} attempt {context.attempt}")
    raise [ConnectionError, TimeoutError, LookupError, ValueError][context.attempt - 1]("no")


@pytest.mark.parametrize(
    ("on", "attempts"),
    [(ConnectionError, 2), ((ConnectionError, TimeoutError), 3), (OSError, 3), (LookupError, 1), (Exception, 4)],
)
@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_only_the_errors_asked_for_are_tried_again(
    backend: Kind, ledger: ModuleType, on: Any, attempts: int, on_error: Any
) -> None:
    """Another one is final, whatever the number of attempts."""
    with backend.pool() as pool:
        policy = RetryPolicy(4, on=on)
        if on_error == "raise":
            with pytest.raises((OSError, LookupError, ValueError)) as caught:
                pool.map(fail_by_turns, [0], retries=policy)
            assert f"attempt {attempts}" in caught.value.__notes__[-1]
        else:
            (failure,) = pool.map(fail_by_turns, [0], retries=policy, on_error="return")
            assert failure.attempts == attempts  # type: ignore[attr-defined]
        assert ledger.count("item") == attempts
        assert pool.report.retries == attempts - 1


def fail_for_three(item: int) -> int:
    """Fail in one item."""
    if item == 3:
        raise ValueError(item)
    return item


def test_a_final_failure_ends_an_endless_run(backend: Kind) -> None:
    """Though others of its chunk might have been tried again."""
    with backend.pool() as pool:
        with pytest.raises(ValueError, match="3"):
            pool.map(fail_for_three, itertools.count(), retries=RetryPolicy(5, on=OSError))
        assert pool.map(fail_for_three, [1]) == [1]


def get_by_turns(context: ItemContext) -> Iterator[None]:
    """Fail in the setup first, in the cleanup then."""
    if context.attempt == 1:
        raise ValueError("setup")
    yield
    if context.attempt == 2:
        raise ValueError("cleanup")


def phase_by_turns(item: int, context: ItemContext, _: Annotated[None, Depends(get_by_turns)]) -> int:
    """Fail in the call at last."""
    if context.attempt == 3:
        raise ValueError("call")
    return context.attempt


@pytest.mark.parametrize(
    ("phases", "phase", "attempts"),
    [
        (("call",), "setup", 1),
        (("setup", "call"), "cleanup", 2),
        (("setup", "cleanup"), "call", 3),
        (("setup", "cleanup", "call"), None, 4),
    ],
)
def test_only_the_phases_asked_for_are_tried_again(
    backend: Kind, phases: Any, phase: str | None, attempts: int
) -> None:
    """Also a failure after the function had returned."""
    with backend.pool() as pool:
        (outcome,) = pool.outcomes(phase_by_turns, [0], retries=RetryPolicy(4, phases=phases))
        assert (outcome.attempts, getattr(outcome, "phase", None)) == (attempts, phase)


# lost workers


def die(item: int, context: ItemContext) -> int:
    """End every worker for 5, the first one for 7."""
    note(f"item {item} attempt {context.attempt}")
    if item == 5 or (item == 7 and context.attempt == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("chunksize", [None, 4])
def test_an_item_that_ends_every_worker_is_one_failure(
    process: Kind, ledger: ModuleType, workers: int, chunksize: int | None
) -> None:
    """After its attempts; the others and the pool live on."""
    with process.pool(workers) as pool:
        results: list[Any] = pool.map(die, range(20), retries=4, on_error="return", chunksize=chunksize)
        failure = results[5]
        assert [*results[:5], *results[6:]] == [*range(5), *range(6, 20)]
        assert (failure.phase, failure.attempts, failure.error.index) == ("lost", 5, 5)
        assert isinstance(failure.error, WorkerLostError)
        assert [text.partition(":")[0] for text in failure.error.__notes__] == [
            f"attempt {attempt} failed in phase 'lost'" for attempt in (1, 2, 3, 4)
        ]
        assert (pool.report.lost_workers, pool.report.failed, pool.report.retries) == (6, 1, 5)
        assert [f"item 5 attempt {attempt}" for attempt in range(1, 6)] == [
            text for text in ledger.texts() if text.startswith("item 5 ")
        ]
        assert pool.map(die, [1, 7], retries=1) == [1, 7]


def test_a_lost_worker_is_raised_after_the_last_attempt(process: Kind, ledger: ModuleType) -> None:
    """As any error."""
    with process.pool(1) as pool:
        with pytest.raises(WorkerLostError, match="SIGKILL") as caught:
            pool.map(die, [5], retries=1)
        assert len(caught.value.__notes__) == 2
        assert ledger.count("item 5 ") == 2
        assert pool.map(die, [7], retries=RetryPolicy(2, phases=("lost",), backoff=0.05)) == [7]


def test_what_was_lost_is_not_tried_again_at_most_once(process: Kind, ledger: ModuleType) -> None:
    """It may have run to its end; what raised, may not."""
    with process.pool(1) as pool:
        results: Any = pool.map(die, [7], retries=3, delivery="at_most_once", on_error="return")
        assert (results[0].phase, results[0].attempts) == ("lost", 1)
        assert pool.map(recover, range(3), retries=3, delivery="at_most_once") == [(0, 1), (1, 2), (2, 3)]
        assert ledger.count("item 7 ") == 1


def terminate_first(item: int, worker: WorkerContext) -> int:
    """End the first worker from within, with its cleanup."""
    if worker.generation == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for("never")
    return item


def test_an_item_of_a_terminated_worker_is_tried_again(process: Kind, ledger: ModuleType) -> None:
    """That is phase "lost" as well."""
    with process.pool(1) as pool:
        assert pool.map(terminate_first, range(3), retries=RetryPolicy(2, phases=("lost",))) == [0, 1, 2]


def fail_then_die(item: int, context: ItemContext) -> int:
    """Fail at the first item, then end the worker at the last one, once the test has seen that."""
    if context.attempt == 1 and context.index == 0:
        raise ConnectionError(item)
    if context.attempt == 1 and context.index == 2:
        wait_for("die")
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_an_item_that_waits_survives_the_death_of_its_worker(process: Kind, ledger: ModuleType) -> None:
    """It is handed to the next worker as it was."""
    with process.pool(1) as pool, ThreadPoolExecutor(1) as threads:
        results = pool.imap(fail_then_die, iter([10, 11, 12]), chunksize=3, retries=RetryPolicy(2, backoff=0.5))
        consumer = threads.submit(list, results)
        driver: Any = pool._engine.driver
        deadline = time.monotonic() + PATIENCE
        while not driver.dispatcher._later:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        ledger.note("die")
        assert consumer.result(PATIENCE) == [10, 11, 12]


def test_drain_replaces_workers(process: Kind, ledger: ModuleType) -> None:
    """What is left needs one."""
    pool = process.pool(1)
    results = pool.imap(die, [0, 7, 1], retries=RetryPolicy(2, backoff=0.2))
    assert next(results) == 0
    ledger.wait_for("item 7 attempt 1")
    assert pool.shutdown("drain").clean
    assert list(results) == [7, 1]


# what is shown, what is refused


def test_the_bar_shows_retries(backend: Kind) -> None:
    """Beside failures; it counts each item once."""
    Spy.made.clear()
    with backend.pool() as pool:
        pool.map(recover, range(30), retries=1, on_error="return", progress=Spy)
        (bar,) = Spy.made
        assert bar.count == 30
        assert {name: int(count) for name, count in bar.postfix.items()} == {"failed": 10, "retries": 20}


@pytest.mark.parametrize(
    ("retries", "error"), [("2", TypeError), (True, TypeError), (-1, ValueError), (1.5, TypeError)], ids=repr
)
@pytest.mark.parametrize("method", [*LISTS, "starmap", "outcomes"])
def test_what_is_no_number_of_retries_is_refused(method: str, retries: Any, error: type[Exception]) -> None:
    """At the call, before anything starts."""
    with Kind("process").pool() as pool:
        with pytest.raises(error, match="retries must be"):
            getattr(pool, method)(recover, [1], retries=retries)
        assert not pool.workers


@pytest.mark.parametrize("retries", [None, 0, RetryPolicy(1)], ids=repr)
def test_no_retries_is_one_attempt(backend: Kind, retries: Any) -> None:
    """As without the option."""
    with backend.pool() as pool, pytest.raises(ValueError, match="1 in attempt 1"):
        pool.map(recover, [1], retries=retries)
