"""How pools on a cluster end, with items running, and what their reports say; the cluster goes on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest

from poolinject import PoolClosedError
from tests.clusters.conftest import Cluster
from tests.clusters.work import (
    get_damaged,
    get_engine,
    process_id,
    use_damaged,
    use_engine,
    wait_at_gate,
    wait_beside,
    wait_with_engine,
)

BOUND = 8.0  # seconds, for what must not wait for an item
CALLS_BOUND = 30.0  # the same for 14 calls, each of which waited ten seconds for the one before
LIFETIMES: dict[Any, Any] = {get_engine: "pool", get_damaged: "pool"}


def test_engines_are_opened_once_and_closed_with_the_pool(backend: Cluster, ledger: ModuleType) -> None:
    """Once in each worker, while the cluster lives on; the next pool on it has its own."""
    for name in ("first", "second"):
        with backend.pool(2, name=name, lifetimes=LIFETIMES) as pool:
            pool.broadcast(os.getpid)  # one that starts late would find nothing left to do
            for _ in range(2):
                values = {value.rpartition(" ")[0] for _, value in pool.map(use_engine, range(50), chunksize=1)}
                assert values <= {f"{name} 0 engine", f"{name} 1 engine"}
        assert ledger.texts().count(f"{name} 0 engine-") == 1
        assert ledger.count(name) == 4
        ledger.check_balanced()


def test_draining_ends_what_runs(backend: Cluster, ledger: ModuleType) -> None:
    """Nothing is lost of a ``map``, scopes are closed."""
    with backend.pool(1, lifetimes=LIFETIMES) as pool:
        futures = [pool.submit(wait_with_engine, item) for item in range(3)]
        ledger.wait_for("begun")
        ledger.note("open")
        assert pool.shutdown("drain").clean
        assert [future.result(0) for future in futures] == [f"poolinject 0 engine {item}" for item in range(3)]
    ledger.check_balanced()


@pytest.mark.parametrize("function", [wait_at_gate, wait_beside, wait_with_engine])
def test_cancelling_waits_for_what_runs_and_for_its_cleanups(
    backend: Cluster, ledger: ModuleType, function: Callable[..., Any]
) -> None:
    """Items that have not begun never do."""
    with backend.pool(1, lifetimes=LIFETIMES) as pool:
        results = pool.imap(function, range(40), concurrency=2 if function is wait_beside else None)
        ledger.wait_for("begun")
        with ThreadPoolExecutor(1) as other:
            report = other.submit(pool.shutdown, "cancel")
            deadline = time.monotonic() + BOUND
            while pool.workers[0].state != "stopped":
                assert time.monotonic() < deadline
                time.sleep(0.01)
            ledger.note("open")
            assert report.result(BOUND).clean
        with pytest.raises(PoolClosedError):
            list(results)
    assert ledger.count("begun") < 40
    ledger.check_balanced()


@pytest.mark.parametrize("function", [wait_at_gate, wait_beside])
def test_killing_waits_for_nothing(backend: Cluster, ledger: ModuleType, function: Callable[..., Any]) -> None:
    """An item that does not end keeps neither the caller nor the next pool."""
    with backend.pool(1) as pool:
        results = pool.imap(function, range(3))
        ledger.wait_for("begun")
        began = time.monotonic()
        report = pool.shutdown("kill")
        assert time.monotonic() - began < BOUND
        assert report.workers[0].status in ("lost", "timed out")
        with contextlib.suppress(PoolClosedError):
            list(results)
    with backend.pool(3) as pool:
        assert pool.map(int, ["1", "2"]) == [1, 2]
    ledger.note("open")


def test_a_cleanup_that_raises_is_in_the_report_of_its_worker(backend: Cluster) -> None:
    """By provider, as the error that it was."""
    pool = backend.pool(2, lifetimes=LIFETIMES)
    pool.map(use_damaged, range(50), chunksize=1)
    report = pool.shutdown()
    assert not report.clean
    errors = [error for worker in report.workers.values() for error in worker.errors]
    assert errors
    assert {(provider, type(error), str(error)) for provider, error in errors} == {
        ("get_damaged", ValueError, "does not close")
    }


def test_items_that_come_one_by_one_run_beside_each_other(backend: Cluster, ledger: ModuleType) -> None:
    """Each goes out in a call of its own, which does not wait for the one before it; nor does a cancel."""

    def one_by_one() -> Any:
        for item in range(14):
            yield item
            ledger.wait_for("begun", item + 1)

    with backend.pool(1) as pool:
        assert pool.map(process_id, [0])
        began = time.monotonic()  # the worker is there
        results = pool.imap_unordered(wait_beside, one_by_one(), concurrency=16)
        ledger.wait_for("begun", 14)
        assert time.monotonic() - began < CALLS_BOUND
        results.close()  # type: ignore[attr-defined]
        assert time.monotonic() - began < CALLS_BOUND
        assert pool.map(process_id, [0])
    assert time.monotonic() - began < CALLS_BOUND
