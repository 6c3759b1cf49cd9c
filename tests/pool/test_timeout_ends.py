"""An item that does not let go when its time is over ends with its worker; and limits beside signals and shutdown."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Annotated, Any

import pytest
from tqdm import tqdm

from poolinject import Depends, Failure, InjectedPool, ItemTimeoutError
from poolinject._injection.local_loop import LocalLoop
from poolinject._worker import timeouts
from poolinject._worker.control import private_control
from tests.conftest import Kind
from tests.pool.hanging import (
    DEAF,
    LIMIT,
    LONG,
    Session,
    check_timeout,
    get_engine,
    nap,
    run_deaf,
    shorten_grace,
    swallow,
)
from tests.pool.ledger import note

PATIENCE = 15.0


def generations(pool: InjectedPool) -> list[int]:
    """Give how often each worker was replaced, once all of them answer."""
    pool.broadcast(tuple)
    return [worker.generation for worker in pool.workers]


@pytest.mark.parametrize("hang", DEAF, ids=lambda way: way.__name__)
def test_what_does_not_let_go_ends_with_its_worker(
    process: Kind, ledger: ModuleType, hang: Callable[[Any], Any]
) -> None:
    """It alone fails: the others of its chunk go elsewhere; the worker is replaced."""
    items: list[Any] = [(number, hang if number == 5 else None) for number in range(40)]
    with process.pool(1) as pool:
        pool.broadcast(shorten_grace)
        results = pool.map(run_deaf, items, timeout=LIMIT, on_error="return", chunksize=40)
        check_timeout(results[5], 5)
        assert "its worker was ended" in results[5].traceback
        assert [result for result in results if not isinstance(result, Failure)] == [*range(5), *range(6, 40)]
        assert (pool.report.failed, pool.report.lost_workers) == (1, 1)
        assert generations(pool) == [1]
        assert pool.map(run_deaf, [(1, None)], timeout=LIMIT) == [1]
    assert ledger.count("hit the pickling") == 0
    assert ledger.count("swallowed") == (hang is swallow)


def test_the_grace_is_two_seconds(process: Kind, ledger: ModuleType) -> None:
    """Within these an item may still close its scope; and the others go on meanwhile."""
    with process.pool(2) as pool, ThreadPoolExecutor(1) as threads:
        pool.broadcast(lambda: None)
        began = time.monotonic()
        hanging = threads.submit(pool.map, run_deaf, [(0, swallow)], timeout=LIMIT, on_error="return")
        ledger.wait_for("swallowed")
        assert pool.map(run_deaf, [(number, None) for number in range(100)]) == list(range(100))
        check_timeout(hanging.result(PATIENCE)[0], 0)
        assert LIMIT + 2 < time.monotonic() - began < LIMIT + 2 + 2
        assert pool.report.lost_workers == 1
        assert sorted(generations(pool)) == [0, 1]


def get_late_rollback() -> Iterator[str]:
    """Take longer than the grace to roll back."""
    try:
        yield "late"
    finally:
        note("rolling back")
        for _ in range(20):
            time.sleep(LIMIT)
        note("rolled back")


def sleep_with_late(_: int, __: Annotated[str, Depends(get_late_rollback)]) -> None:
    """Hang."""
    time.sleep(LONG)


def test_a_rollback_that_takes_too_long_ends_with_its_worker(process: Kind, ledger: ModuleType) -> None:
    """The bound holds for it as well."""
    with process.pool(1) as pool:
        pool.broadcast(shorten_grace)
        results: Any = pool.map(sleep_with_late, [0], timeout=LIMIT, on_error="return")
        check_timeout(results[0], 0)
        assert generations(pool) == [1]
    assert ledger.texts() == ["rolling back"]


@pytest.mark.parametrize(("grace", "waits"), [(0.0, True), (PATIENCE, False)])
def test_a_worker_that_sees_that_it_is_late_begins_nothing_else(
    monkeypatch: pytest.MonkeyPatch, grace: float, *, waits: bool
) -> None:
    """It waits for its end, as the caller has decided; not for ever, should that have been a mistake."""
    slept: list[float] = []
    monkeypatch.setattr(timeouts, "GRACE_SECONDS", grace)
    monkeypatch.setattr("poolinject._worker.timeouts.time.sleep", slept.append)
    control = private_control()
    clock = timeouts.Clock(control.words, LocalLoop())
    clock.start(0)
    assert control.deadline > 0
    clock.end()
    clock.settle()
    assert control.deadline == 0
    assert slept == [timeouts.KILL_SECONDS] * waits


def test_the_end_of_a_worker_hits_no_other_item(process: Kind, ledger: ModuleType) -> None:
    """Also where its item lets go just then."""
    items = [(0, release_late), *((number, None) for number in range(1, 20))]
    with process.pool(1) as pool:
        pool.broadcast(shorten_grace)
        results = pool.map(run_deaf, items, timeout=LIMIT, on_error="return", chunksize=20)
        check_timeout(results[0], 0)
        assert results[1:] == list(range(1, 20))
        assert generations(pool) == [1]
    assert ledger.count("late") <= 1


def release_late(_: Any) -> None:
    """Let go a moment after the last one."""
    end = time.monotonic() + LIMIT + 0.3 + 0.005
    while time.monotonic() < end:
        try:
            while time.monotonic() < end:
                pass
        except ItemTimeoutError:
            continue
    note("late")


# together with other things


def take_signal_away(_: Any) -> None:
    """Do what a library may do that has use for the signal."""
    signal.signal(timeouts.SIGNAL, signal.SIG_IGN)


def test_a_signal_that_was_taken_away_is_back_for_the_next_chunk(process: Kind) -> None:
    """An item that only happens to need it does not switch limits off for good."""
    with process.pool(1) as pool:
        assert pool.map(run_deaf, [(0, take_signal_away)], timeout=LIMIT) == [None]
        (failure,) = pool.map(nap, [LONG], timeout=LIMIT, on_error="return")
        check_timeout(failure, 0)
        assert [worker.generation for worker in pool.workers] == [0]


def signal_oneself(item: int, session: Session) -> int:
    """Send the signal, as somebody else may."""
    del session
    for _ in range(20):
        os.kill(os.getpid(), timeouts.SIGNAL)
        time.sleep(0.001)
    return item


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_a_signal_from_elsewhere_means_nothing(process: Kind, ledger: ModuleType, timeout: float | None) -> None:
    """With a limit and without."""
    with process.pool(1) as pool:
        assert pool.map(abs, [1], timeout=PATIENCE) == [1]
        assert pool.map(signal_oneself, range(5), timeout=timeout) == list(range(5))
    ledger.check_balanced()


def hold_rollback() -> Iterator[str]:
    """Tell the test when the rollback begins, and wait there."""
    note("held+")
    try:
        yield "held"
    finally:
        note("rolling back")
        time.sleep(LIMIT)
        note("held-")


def sleep_held(
    _: int, engine: Annotated[str, Depends(get_engine)], held: Annotated[str, Depends(hold_rollback)]
) -> None:
    """Hang."""
    del engine, held
    time.sleep(LONG)


def test_sigterm_while_an_item_is_rolled_back(process: Kind, ledger: ModuleType) -> None:
    """The item has one outcome, the worker closes its scopes and is replaced."""
    with process.pool(1, lifetimes={get_engine: "worker"}) as pool:
        with ThreadPoolExecutor(1) as threads:
            hanging = threads.submit(pool.map, sleep_held, [0], timeout=LIMIT, on_error="return")
            ledger.wait_for("rolling back")
            os.kill(pool.workers[0].pid, signal.SIGTERM)
            check_timeout(hanging.result(PATIENCE)[0], 0)
        assert pool.map(abs, [-1]) == [1]
        assert generations(pool) == [1]
    assert (ledger.count("engine+"), ledger.count("engine-")) == (1, 1)


def test_cancel_while_an_item_does_not_let_go(process: Kind, ledger: ModuleType) -> None:
    """It is not waited for any longer than otherwise; the report says that the worker was lost."""
    pool = process.pool(1)
    pool.broadcast(shorten_grace)
    results = pool.imap(run_deaf, [(0, swallow), (1, None)], timeout=LIMIT, on_error="return")
    ledger.wait_for("swallowed")
    began = time.monotonic()
    report = pool.shutdown("cancel")
    assert time.monotonic() - began < 5
    assert [worker.status for worker in report.workers.values()] == ["lost"]
    check_timeout(next(results), 0)


def test_a_drain_waits_for_the_items_behind(process: Kind, ledger: ModuleType) -> None:
    """Those of a worker that had to be ended as well."""
    with process.pool(1) as pool:
        pool.broadcast(shorten_grace)
        items = [(0, swallow), *((number, None) for number in range(1, 10))]
        results = pool.imap(run_deaf, items, timeout=LIMIT, on_error="return")
    check_timeout(next(results), 0)
    assert list(results) == list(range(1, 10))


def test_an_abandoned_iterator_leaves_nothing_running(process: Kind, ledger: ModuleType) -> None:
    """What hangs is ended by its limit though nobody reads on."""
    with process.pool(1) as pool:
        pool.broadcast(shorten_grace)
        results = pool.imap(run_deaf, [(0, swallow)], timeout=LIMIT)
        ledger.wait_for("swallowed")
        del results
        assert pool.map(abs, [-1]) == [1]
        assert generations(pool) == [1]


def test_the_bar_counts_them(process: Kind) -> None:
    """As failures."""
    bars: list[Any] = []

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "file": io.StringIO()})
            bars.append(self)

    with process.pool(1) as pool:
        pool.map(nap, [0.0, LONG, 0.0], timeout=0.1, on_error="return", progress=Bar)
    (bar,) = bars
    assert bar.n == 3
    assert "failed=1" in bar.postfix
