"""``max_items_per_worker``: a worker ends between two items, with its cleanups, and another takes its place."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Annotated, Any

import pytest

from poolinject import Depends, Failure, InjectedPool, PoolClosedError, Success, WorkerContext
from tests.conftest import Kind
from tests.pool.ledger import note, span, wait_for

PATIENCE = 20.0
N = 5


def get_engine() -> Iterator[str]:
    """One in each process."""
    yield from span("engine")


def get_connection(engine: Annotated[str, Depends(get_engine)], worker: WorkerContext) -> Iterator[str]:
    """One in each worker."""
    yield from span(f"connection w{worker.worker_id}.{worker.generation}")


def get_session(item: Any, connection: Annotated[str, Depends(get_connection)]) -> Iterator[str]:
    """One for each item."""
    yield from span(f"session {item}")


LIFETIMES: Any = {get_engine: "pool", get_connection: "worker"}


def load(item: int, worker: WorkerContext, session: Annotated[str, Depends(get_session)]) -> tuple[int, int, int]:
    """Tell which generation of which worker ran the item."""
    return item, worker.worker_id, worker.generation


def tell(item: int, worker: WorkerContext) -> tuple[int, int, int, int]:
    """Tell which process ran the item."""
    return item, worker.worker_id, worker.generation, os.getpid()


@pytest.mark.parametrize("chunksize", [None, 1, N - 1, N, N + 1, 100])
@pytest.mark.parametrize("count", [N - 1, N, N + 1, 2 * N, 4 * N + 2])
def test_a_worker_runs_no_more_items_than_it_may(
    process: Kind, ledger: ModuleType, count: int, chunksize: int | None
) -> None:
    """All results are right, every generation cleans up, nobody is counted as lost."""
    with process.pool(1, lifetimes=LIFETIMES, max_items_per_worker=N) as pool:
        results = pool.map(load, range(count), chunksize=chunksize)
        assert results == [(item, 0, item // N) for item in range(count)]
        assert pool.report.lost_workers == 0
        report = pool.shutdown()
    ledger.check_balanced()
    assert ledger.count("connection w0") == 2 * -(-count // N)
    assert report.clean


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_each_generation_is_a_process_of_its_own(start_method: str) -> None:
    """In the same slot, however processes are started."""
    with InjectedPool(1, start_method=start_method, max_items_per_worker=2) as pool:
        results = pool.map(tell, range(6))
    assert [generation for _, _, generation, _ in results] == [0, 0, 1, 1, 2, 2]
    assert len({pid for *_, pid in results}) == 3


@pytest.mark.parametrize("method", ["imap", "imap_unordered", "outcomes"])
def test_lazy_methods_go_on_over_generations(process: Kind, method: str) -> None:
    """Several workers, an input of unknown length, each item exactly once."""
    with process.pool(3, max_items_per_worker=N) as pool:
        results: Any = list(getattr(pool, method)(tell, iter(range(100))))
    told = [result.value if isinstance(result, Success) else result for result in results]
    assert sorted(item for item, *_ in told) == list(range(100))
    assert max(Counter(pid for *_, pid in told).values()) <= N


def test_two_runs_and_futures_share_the_limit(process: Kind) -> None:
    """What a worker may run is counted over everything that it runs."""
    with process.pool(2, max_items_per_worker=N) as pool, ThreadPoolExecutor(2) as threads:
        maps = [threads.submit(pool.map, tell, range(60), chunksize=size) for size in (2, 7)]
        futures = [pool.submit(tell, item) for item in range(20)]
        told = [result for future in maps for result in future.result(PATIENCE)]
        told += [future.result(PATIENCE) for future in futures]
    assert len(told) == 140
    assert max(Counter(pid for *_, pid in told).values()) <= N


def tell_worker(worker: WorkerContext) -> tuple[int, int]:
    """Tell who runs this."""
    return worker.worker_id, worker.generation


def test_broadcasts_reach_every_worker_over_generations(process: Kind) -> None:
    """One item in each slot, whichever generation is there."""
    with process.pool(3, max_items_per_worker=2) as pool:
        for number in range(6):
            outcomes: Any = pool.broadcast(tell_worker)
            assert [outcomes[worker_id].value for worker_id in range(3)] == [
                (worker_id, number // 2) for worker_id in range(3)
            ]


def fail_odd(item: int, session: Annotated[str, Depends(get_session)]) -> int:
    """Fail half of the items."""
    if item % 2:
        raise ValueError(item)
    return item


def test_failed_items_count(process: Kind, ledger: ModuleType) -> None:
    """A worker that only fails is recycled as well."""
    with process.pool(1, lifetimes=LIFETIMES, max_items_per_worker=3) as pool:
        results = pool.map(fail_odd, range(9), on_error="return")
        assert [isinstance(result, Failure) for result in results] == [item % 2 == 1 for item in range(9)]
        with pytest.raises(ValueError, match="1"):
            pool.map(fail_odd, range(9), chunksize=9)
        assert pool.map(fail_odd, [0, 2, 4, 6]) == [0, 2, 4, 6]
    ledger.check_balanced()


def test_the_replacement_is_warmed_and_overridden(process: Kind, ledger: ModuleType) -> None:
    """It has what the first generation had: functions, overrides, lifetimes, what is warm."""

    def get_other() -> Iterator[str]:
        yield from span("other")

    with process.pool(
        1, lifetimes={get_connection: "worker"}, warm=[get_connection], overrides={get_engine: get_other},
        max_items_per_worker=2,
    ) as pool:  # fmt: skip
        assert [generation for *_, generation in pool.map(load, range(4))] == [0, 0, 1, 1]
        ledger.wait_for("connection w0.2+")
        assert ledger.count("other+") == 3
        assert ledger.count("engine+") == 0
    ledger.check_balanced()


def get_gated(worker: WorkerContext) -> Iterator[str]:
    """Close only when the test says so, in the first generation."""
    yield "gated"
    if worker.generation == 0:
        note("closing")
        wait_for("go on")
        note("closed")


def use_gated(item: int, gated: Annotated[str, Depends(get_gated)], worker: WorkerContext) -> tuple[int, int]:
    """Need it."""
    return item, worker.generation


@pytest.mark.parametrize("mode", ["drain", "cancel", "kill"])
def test_shutdown_while_a_worker_is_recycled(process: Kind, ledger: ModuleType, mode: Any) -> None:
    """It is waited for, or cut short, as any worker is; a drain finishes what was read."""
    pool = process.pool(1, lifetimes={get_gated: "worker"}, max_items_per_worker=N)
    with ThreadPoolExecutor(2) as threads:
        mapping = threads.submit(pool.map, use_gated, range(2 * N))
        ledger.wait_for("closing")
        assert pool.workers[0].state == "stopped"
        ending = threads.submit(pool.shutdown, mode)
        if mode != "kill":
            ledger.note("go on")
        report = ending.result(PATIENCE)
        if mode == "drain":
            assert mapping.result(PATIENCE) == [(item, item // N) for item in range(2 * N)]
        else:
            with pytest.raises(PoolClosedError):
                mapping.result(PATIENCE)
    assert ledger.count("closed") == (mode != "kill")
    assert report.workers[0].status == ("lost" if mode == "kill" else "clean")


def get_deadly() -> Iterator[str]:
    """Kill the worker when it cleans up."""
    yield "deadly"
    os.kill(os.getpid(), signal.SIGKILL)


def use_deadly(item: int, deadly: Annotated[str, Depends(get_deadly)]) -> int:
    """Need it."""
    return item


def test_a_worker_that_dies_while_it_is_recycled_costs_nothing(process: Kind) -> None:
    """It has no item; the next generation goes on, and the report says that a cleanup is missing."""
    pool = process.pool(2, lifetimes={get_deadly: "worker"}, max_items_per_worker=3)
    assert pool.map(use_deadly, range(40), chunksize=2) == list(range(40))
    assert pool.report.lost_workers == 0
    report = pool.shutdown()
    assert {worker.status for worker in report.workers.values()} == {"lost"}


def get_hanging(worker: WorkerContext) -> Iterator[str]:
    """Hang in the cleanup of the first generation, whatever signal comes."""
    yield "hanging"
    if worker.generation == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note("hangs")
        threading.Event().wait(10 * PATIENCE)


def use_hanging(item: int, hanging: Annotated[str, Depends(get_hanging)], worker: WorkerContext) -> tuple[int, int]:
    """Need it."""
    return item, worker.generation


def test_a_cleanup_that_hangs_while_recycling_is_ended(
    process: Kind, ledger: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``cleanup_timeout``, by force in the end; the run goes on, and the report tells."""
    monkeypatch.setattr("poolinject._scheduling.endings.GRACE_SECONDS", 0.2)
    pool = process.pool(1, lifetimes={get_hanging: "worker"}, max_items_per_worker=N, cleanup_timeout=0.2)
    assert pool.map(use_hanging, range(N + 1)) == [(item, item // N) for item in range(N + 1)]
    assert ledger.count("hangs") == 1
    assert pool.report.lost_workers == 0
    report = pool.shutdown()
    assert report.workers[0].status == "timed out"


def die_on(item: int) -> int:
    """End the worker on every seventh item."""
    if item % 7 == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_lost_and_recycled_workers_strand_nothing(process: Kind) -> None:
    """Both at once: only the items that killed their worker are lost."""
    with process.pool(2, max_items_per_worker=N) as pool:
        results: Any = pool.map(die_on, range(70), on_error="return", chunksize=3)
        assert [isinstance(result, Failure) for result in results] == [item % 7 == 3 for item in range(70)]
        assert pool.report.lost_workers == 10


@pytest.mark.parametrize("backend", ["thread", "inline"])
@pytest.mark.parametrize("option", ["max_items_per_worker", "max_worker_memory"])
def test_workers_that_cannot_be_replaced_refuse_the_option(backend: str, option: str) -> None:
    """When the pool is made, with the names of option and backend, and what to do."""
    with pytest.raises(ValueError, match=f"{option}=7 .*backend '{backend}' .*backend='process'"):
        InjectedPool(1, backend=backend, **{option: 7})  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
@pytest.mark.parametrize("option", ["max_items_per_worker", "max_worker_memory"])
def test_a_limit_must_be_a_count(option: str, value: Any, error: type[Exception]) -> None:
    """From 1 on."""
    with pytest.raises(error, match=option):
        InjectedPool(1, **{option: value})
