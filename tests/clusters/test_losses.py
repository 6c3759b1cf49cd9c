"""Processes of a cluster that end: what is lost with them, and that the rest is not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from poolinject import Failure, InjectedPool, Outcome, Success, WorkerContext, WorkerLostError
from tests.clusters.conftest import Cluster
from tests.clusters.work import POISON, eat, eat_beside, eat_twice, process_id, wait_at_gate, wait_beside, worker_of

PATIENCE = 60.0  # for a cluster to find a worker again


def check_outcomes(pool: InjectedPool, function: Callable[..., Any], items: list[int | str], attempts: int) -> None:
    """Each poison is lost, in its last attempt, and nothing else is."""
    outcomes = sorted(pool.outcomes(function, items, retries=attempts - 1), key=lambda outcome: outcome.index)
    assert [outcome.item for outcome in outcomes] == items
    for outcome in outcomes:
        if outcome.item not in POISON:
            assert isinstance(outcome, Success), outcome
            assert outcome.value == outcome.item
            continue
        assert isinstance(outcome, Failure)
        assert (outcome.phase, outcome.attempts) == ("lost", attempts)
        assert isinstance(outcome.error, WorkerLostError)
        assert outcome.error.index == outcome.index


def test_an_item_that_ends_its_process_costs_only_itself(backend: Cluster) -> None:
    """However it does that; the pool goes on with the next generation."""
    items: list[int | str] = [*range(10), "kill", *range(10, 20), "segfault", *range(20, 30)]
    with backend.pool(2) as pool:
        check_outcomes(pool, eat, items, attempts=1)
        assert pool.report.lost_workers >= 2
        assert pool.report.failed == 2
        assert pool.map(eat, range(50)) == list(range(50))
        assert max(worker.generation for worker in pool.workers) > 0


def test_a_poison_is_tried_as_often_as_it_may_be(backend: Cluster) -> None:
    """An item that is lost counts as one that has failed."""
    with backend.pool(2) as pool:
        check_outcomes(pool, eat, [*range(5), "kill", *range(5, 9)], attempts=2)


def test_an_item_that_is_lost_may_succeed_when_it_is_tried_again(backend: Cluster, ledger: ModuleType) -> None:
    """It has a worker of its own then."""
    with backend.pool(1) as pool:
        (outcome,) = pool.outcomes(eat_twice, ["kill"], retries=1)
    assert isinstance(outcome, Success)
    assert outcome.attempts == 2
    assert ledger.count("eaten") == 3  # once more to find out that nobody else is to blame


def test_items_that_run_beside_a_poison_are_not_lost(backend: Cluster) -> None:
    """They run again, one after another."""
    with backend.pool(2) as pool:
        check_outcomes(pool, eat_beside, [*range(20), "exit", *range(20, 40)], attempts=1)


@pytest.mark.parametrize("function", [wait_at_gate, wait_beside])
def test_a_process_that_is_killed_from_outside_costs_no_item(
    backend: Cluster, ledger: ModuleType, function: Callable[..., Any]
) -> None:
    """All its items run again, and the report has counted it."""
    with backend.pool(2) as pool:
        results = pool.imap(function, range(20))
        ledger.wait_for("begun", 2)
        victim = pool.workers[1]
        os.kill(victim.pid, signal.SIGKILL)
        wait_until_lost(pool, victim.pid)
        ledger.note("open")
        assert list(results) == list(range(20))
        assert pool.report.lost_workers == 1
        assert pool.report.failed == 0


def wait_until_lost(pool: InjectedPool, pid: int) -> None:
    """Wait until the pool knows of the end of a process."""
    deadline = time.monotonic() + PATIENCE
    while any(worker.pid == pid and worker.state in ("idle", "busy") for worker in pool.workers):
        assert time.monotonic() < deadline, pool.workers
        time.sleep(0.01)


def wait_until_idle(pool: InjectedPool) -> None:
    """Wait until every worker is there."""
    deadline = time.monotonic() + PATIENCE
    while any(worker.state != "idle" for worker in pool.workers):
        assert time.monotonic() < deadline, pool.workers
        time.sleep(0.01)


def test_an_idle_worker_that_is_lost_is_replaced(backend: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one in the slot says so, and is where the pool says that it is."""
    if backend.name == "ray":
        monkeypatch.setattr("poolinject.backends.ray.LEASE_SHARE", 600)  # an actor that rests is asked so often
    with backend.pool(2) as pool:
        pids = {pool.map(process_id, range(1))[0], *(worker.pid for worker in pool.workers)}
        assert len(pids) == 2
        victim = pool.workers[0]
        os.kill(victim.pid, signal.SIGKILL)
        wait_until_lost(pool, victim.pid)
        wait_until_idle(pool)
        assert values_of(pool.broadcast(worker_of)) == {0: (0, 1), 1: (1, 0)}
        places = values_of(pool.broadcast(own_process))
        assert places == {worker.worker_id: worker.pid for worker in pool.workers}
        assert victim.pid not in places.values()


def values_of(outcomes: dict[int, Outcome]) -> dict[int, Any]:
    """Give what each worker has answered."""
    return {worker_id: outcome.value for worker_id, outcome in outcomes.items() if isinstance(outcome, Success)}


def own_process() -> int:
    """Give the process, for a broadcast."""
    return os.getpid()


def test_a_broadcast_loses_the_worker_that_ends_with_it(backend: Cluster) -> None:
    """The others answer."""
    with backend.pool(2) as pool:
        pool.map(int, ["1"])
        told = pool.broadcast(end_the_first)
        lost, kept = told[0], told[1]
        assert isinstance(lost, Failure)
        assert lost.phase == "lost"
        assert isinstance(kept, Success)
        assert pool.map(int, ["1", "2"]) == [1, 2]


def end_the_first(context: WorkerContext) -> int:
    """End the process of worker 0."""
    if context.worker_id == 0:
        os._exit(1)
    return context.worker_id
