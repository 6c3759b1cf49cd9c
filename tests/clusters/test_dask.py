"""What is Dask's own: a cluster that grows and shrinks, and that others use."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from poolinject import BackendUnavailableError, InjectedPool
from tests.clusters.conftest import Cluster, available
from tests.clusters.work import get_engine, use_engine, wait_at_gate, wait_with_engine

PATIENCE = 60.0
LIFETIMES: dict[Any, Any] = {get_engine: "pool"}

pytestmark = pytest.mark.skipif(not available("dask"), reason="distributed is not installed")


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait until something holds that nobody tells."""
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def small(pointer: object) -> Iterator[Any]:
    """Start a cluster of one process with two threads, which has no nanny: the tests scale it."""
    import distributed  # noqa: PLC0415 - optional

    from poolinject.backends.dask import CommandWorker  # noqa: PLC0415

    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=True,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        worker_class=CommandWorker,
    ) as cluster:
        yield cluster


def pool_on(cluster: Any, workers: int | None = None, **options: Any) -> InjectedPool:
    """Make a pool on a cluster, by its address."""
    from poolinject.backends.dask import DaskBackend  # noqa: PLC0415 - optional

    return InjectedPool(workers, backend=DaskBackend(cluster.scheduler_address), **options)


def test_a_pool_follows_a_cluster_that_grows_and_shrinks(small: Any, ledger: ModuleType) -> None:
    """A worker that comes is used, one that is sent away closes its scopes, which is no loss of items."""
    with pool_on(small, lifetimes=LIFETIMES) as pool:
        pool.map(int, ["1"])
        assert len(pool.workers) == 1
        small.scale(2)
        wait_until(lambda: len(pool.workers) == 2 and pool.workers[1].state == "idle")
        pids = {pid for pid, _ in pool.map(use_engine, range(40), chunksize=1)}
        assert pids == {worker.pid for worker in pool.workers}
        assert ledger.count("") == 2
        retire(small, str(pool.workers[1].address))
        wait_until(lambda: pool.workers[1].state not in ("idle", "busy"))
        ledger.wait_for("poolinject 1 engine-")
        assert {pid for pid, _ in pool.map(use_engine, range(10))} == {pool.workers[0].pid}
        assert pool.report.failed == 0
    ledger.check_balanced()


def retire(cluster: Any, address: str) -> None:
    """Send a worker away, in an orderly way."""
    import distributed  # noqa: PLC0415 - optional

    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        client.retire_workers([address])


def resize(cluster: Any, workers: int) -> None:
    """Have so many new workers; a cluster does not notice by itself that one has been retired."""
    for size in (0, workers):
        cluster.scale(size)
        wait_until(lambda size=size: len(cluster.scheduler_info["workers"]) == size)  # type: ignore[misc]


def test_items_of_a_worker_that_is_sent_away_run_elsewhere(small: Any, ledger: ModuleType) -> None:
    """Those that it had not begun, and the one that it was at where it does not come to its end."""
    resize(small, 2)
    with pool_on(small, 2) as pool:
        results = pool.imap_unordered(wait_at_gate, range(10))
        ledger.wait_for("begun", 2)
        small.scale(1)
        ledger.note("open")
        assert sorted(results) == list(range(10))
        assert pool.report.failed == 0


def test_an_item_of_a_worker_that_is_sent_away_comes_to_its_end_once(
    small: Any, ledger: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes, what it gives is kept, and the worker does not count as lost."""
    monkeypatch.setattr("poolinject.backends.dask.SILENCE_SECONDS", 2.0)
    resize(small, 2)
    with pool_on(small, 2, lifetimes=LIFETIMES) as pool:
        results = pool.imap_unordered(wait_with_engine, range(6), chunksize=1)
        ledger.wait_for("begun", 2)
        left = pool.workers[0]
        retire(small, str(left.address))
        wait_until(lambda: pool.workers[0].state == "stopped")
        time.sleep(2 * 2.0)  # as long as it says that it is there, no silence makes it count as gone
        assert pool.workers[0].generation == left.generation
        ledger.note("open")
        assert len(set(results)) == 6
        assert ledger.count("begun") == 6
        assert pool.report.lost_workers == 0
        report = pool.shutdown()
    assert {worker.status for worker in report.workers.values()} == {"clean"}
    ledger.check_balanced()


def test_a_worker_that_dies_while_it_is_sent_away_is_noticed_by_its_silence(small: Any, ledger: ModuleType) -> None:
    """What it was at and had before it runs elsewhere."""
    resize(small, 2)
    with pool_on(small, 2) as pool:
        results = pool.imap_unordered(wait_at_gate, range(6), chunksize=1)
        ledger.wait_for("begun", 2)
        left = pool.workers[0]
        retire(small, str(left.address))
        wait_until(lambda: pool.workers[0].state == "stopped")
        os.kill(left.pid, signal.SIGKILL)
        ledger.note("open")
        assert sorted(results) == list(range(6))
        assert pool.report.failed == 0


def test_a_cluster_that_is_restarted_costs_no_item(small: Any, ledger: ModuleType) -> None:
    """Its workers are new ones, which go on."""
    import distributed  # noqa: PLC0415 - optional

    resize(small, 2)
    with pool_on(small, 2) as pool:
        results = pool.imap_unordered(wait_at_gate, range(6), chunksize=1)
        ledger.wait_for("begun", 2)
        with distributed.Client(small.scheduler_address, set_as_default=False) as client:
            client.restart(timeout=PATIENCE)
        ledger.note("open")
        assert sorted(results) == list(range(6))
        assert pool.report.failed == 0


def test_a_spare_worker_takes_the_place_of_one_that_is_gone(small: Any) -> None:
    """Where the pool has fewer than the cluster."""
    resize(small, 2)
    with pool_on(small, 1) as pool:
        assert pool.map(int, ["1"]) == [1]
        (before,) = pool.workers
        retire(small, str(before.address))
        wait_until(lambda: pool.workers[0].generation == 1)
        assert pool.map(int, ["2"]) == [2]
        assert [worker.address for worker in pool.workers] != [before.address]
    resize(small, 1)


def test_a_clients_own_affairs_are_left_alone(small: Any) -> None:
    """It stays open, its subscriptions go on, its futures are still there."""
    import distributed  # noqa: PLC0415 - optional

    from poolinject.backends.dask import DaskBackend  # noqa: PLC0415

    heard: list[object] = []
    with distributed.Client(small.scheduler_address, set_as_default=False) as client:
        client.subscribe_topic("all", heard.append)
        client.subscribe_topic("mine", heard.append)
        future = client.submit(int, "5", pure=False)
        with InjectedPool(1, backend=DaskBackend(client=client)) as pool:
            assert pool.map(int, ["1"]) == [1]
        assert client.status == "running"
        assert future.result(timeout=PATIENCE) == 5
        heard.clear()
        client.log_event("mine", "news")
        client.log_event("all", "news")
        wait_until(lambda: len(heard) >= 2)


def test_pools_on_one_cluster_do_not_know_of_each_other(small: Any, ledger: ModuleType) -> None:
    """Two at once, then another: each has an engine of its own, closed with it."""
    with pool_on(small, 1, name="one", lifetimes=LIFETIMES) as one:
        with pool_on(small, 1, name="two", lifetimes=LIFETIMES) as two:
            assert {value for _, value in one.map(use_engine, [0])} == {"one 0 engine 0"}
            assert {value for _, value in two.map(use_engine, [0])} == {"two 0 engine 0"}
        assert ledger.texts()[-1] == "two 0 engine-"
        assert one.map(use_engine, [1])
    assert ledger.texts() == ["one 0 engine+", "two 0 engine+", "two 0 engine-", "one 0 engine-"]
    with pool_on(small, 1, name="one", lifetimes=LIFETIMES) as one:
        one.map(use_engine, [0])
    assert ledger.texts()[4:] == ["one 0 engine+", "one 0 engine-"]


def test_nothing_of_a_pool_stays_on_the_cluster(small: Any) -> None:
    """No plugin, no task, no data, no hosted worker."""
    import distributed  # noqa: PLC0415 - optional

    with pool_on(small, 1) as pool:
        pool.map(len, [b"x" * (1 << 21)] * 3)
    with distributed.Client(small.scheduler_address, set_as_default=False) as client:
        left = client.run_on_scheduler(left_on_scheduler)
        assert left == ([], [], [])
        for names in client.run(left_on_worker).values():
            assert names == ([], [])


def left_on_scheduler(dask_scheduler: Any) -> tuple[list[str], list[str], list[str]]:
    """Name plugins, tasks and clients that are ours."""
    plugins = [name for name in dask_scheduler.worker_plugins if name.startswith("poolinject")]
    tasks = [str(key) for key in dask_scheduler.tasks]
    clients = [name for name in dask_scheduler.clients if name != "fire-and-forget"]
    return plugins, tasks, clients[1:]


def left_on_worker(dask_worker: Any) -> tuple[list[str], list[str]]:
    """Name plugins and workers that are ours."""
    from poolinject.backends import _dask_hosting  # noqa: PLC0415 - optional

    plugins = [name for name in dask_worker.plugins if name.startswith("poolinject")]
    hosted = [str(key) for key in _dask_hosting._hosted]
    return plugins, hosted


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a second for a cluster, not a minute."""
    monkeypatch.setattr("poolinject.backends.dask.START_SECONDS", 1.0)


@pytest.mark.usefixtures("impatient")
def test_a_cluster_that_does_not_answer_is_named() -> None:
    """Before anything runs, and nothing stays behind."""
    from poolinject.backends.dask import DaskBackend  # noqa: PLC0415 - optional

    pool = InjectedPool(1, backend=DaskBackend("tcp://127.0.0.1:9"))
    with pytest.raises(BackendUnavailableError, match=r"tcp://127\.0\.0\.1:9"):
        pool.map(int, ["1"])
    pool.shutdown()


@pytest.mark.usefixtures("impatient")
def test_a_cluster_without_workers_is_an_error(small: Any) -> None:
    """Rather than waiting for ever; the same pool works when there are some."""
    small.scale(0)
    wait_until(lambda: not small.scheduler_info["workers"])
    with pool_on(small) as pool:
        try:
            with pytest.raises(BackendUnavailableError, match="no worker that answers"):
                pool.map(int, ["1"])
        finally:
            resize(small, 1)
        assert pool.map(int, ["1"]) == [1]


def test_what_is_no_client_is_refused() -> None:
    """So is a client beside an address."""
    from poolinject.backends.dask import DaskBackend  # noqa: PLC0415 - optional

    with pytest.raises(TypeError, match=r"must be a distributed\.Client, not 'tcp://host'"):
        DaskBackend(client="tcp://host")
    with pytest.raises(TypeError, match="not both"):
        DaskBackend("tcp://host", client="tcp://host")


def test_a_closed_client_is_refused(small: Any) -> None:
    """At once."""
    import distributed  # noqa: PLC0415 - optional

    from poolinject.backends.dask import DaskBackend  # noqa: PLC0415 - optional

    with distributed.Client(small.scheduler_address, set_as_default=False) as client:
        pass
    with pytest.raises(ValueError, match="client is closed"):
        DaskBackend(client=client)


@pytest.mark.parametrize("address", ["", "tcp://", "tcp://host", "host", "host:port", "smoke://host:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    """Before a client is made, which would take its time to find out."""
    from poolinject.backends.dask import DaskBackend  # noqa: PLC0415 - optional

    with pytest.raises(ValueError, match=f"address '{address}' is not one such as 'tcp://host:8786'"):
        DaskBackend(address)


def test_an_address_is_a_text() -> None:
    """A cluster itself is none."""
    from poolinject.backends.dask import DaskBackend  # noqa: PLC0415 - optional

    wrong: Any = ("host", 8786)
    with pytest.raises(TypeError, match="address must be a text such as 'tcp://host:8786', not"):
        DaskBackend(wrong)
    assert DaskBackend("inproc://192.168.1.1/8/1").name == "dask"


def test_a_worker_whose_scopes_do_not_close_delays_nobody_for_ever(dask: Cluster, ledger: ModuleType) -> None:
    """Neither the pool, which has a bound, nor the cluster."""
    with dask.pool(1, cleanup_timeout=0.5) as pool:
        results = pool.imap(wait_at_gate, range(3))
        ledger.wait_for("begun")
        began = time.monotonic()
        report = pool.shutdown("cancel")
        assert time.monotonic() - began < PATIENCE
        assert report.workers[0].status == "timed out"
        ledger.note("open")
        results.close()  # type: ignore[attr-defined]
    with dask.pool(4) as pool:
        assert pool.map(int, ["1", "2"]) == [1, 2]
