"""Cleanups that fail, hang or never run are told, by worker and provider; start-up that fails ends in one error."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Annotated, Any

import pytest

from poolinject import CleanupError, Depends, Failure, WorkerContext, WorkerLostError
from tests.conftest import Kind
from tests.pool.ledger import note, span

N = 3


def get_noisy(worker: WorkerContext) -> Iterator[str]:
    """Raise in the cleanups of some generations."""
    yield "noisy"
    if worker.generation in {0, 2}:
        raise ConnectionError(worker.generation)


def get_loud(noisy: Annotated[str, Depends(get_noisy)], worker: WorkerContext) -> Iterator[str]:
    """Raise in every cleanup."""
    yield "loud"
    raise OSError(f"loud {worker.generation}")


def use_noisy(item: int, noisy: Annotated[str, Depends(get_noisy)]) -> int:
    """Need it."""
    return item


def use_loud(item: int, loud: Annotated[str, Depends(get_loud)]) -> int:
    """Need both."""
    return item


def test_errors_of_recycled_workers_are_in_the_report(process: Kind) -> None:
    """In the order of the generations, each with its provider."""
    pool = process.pool(1, lifetimes={get_noisy: "worker"}, max_items_per_worker=N)
    assert pool.map(use_noisy, range(4 * N + 1)) == list(range(4 * N + 1))
    report = pool.shutdown()
    assert report.workers[0].status == "errors"
    assert [(name, str(error)) for name, error in report.workers[0].errors] == [("get_noisy", "0"), ("get_noisy", "2")]
    assert not report.clean


def test_leaving_the_block_raises_them_all(process: Kind) -> None:
    """Those of workers that are long gone, too: of three generations, worker scope before pool scope."""
    lifetimes: Any = {get_noisy: "pool", get_loud: "worker"}
    expected = ["loud 0", "0", "loud 1", "loud 2", "2"]
    with (
        pytest.raises(CleanupError, match=r"^5 cleanup\(s\) failed") as caught,
        process.pool(1, lifetimes=lifetimes, max_items_per_worker=N) as pool,
    ):
        pool.map(use_loud, range(2 * N + 1))
    assert [str(error) for error in caught.value.exceptions] == expected


def get_fatal(worker: WorkerContext) -> Iterator[str]:
    """End the process in the cleanup of the first generation of worker 0."""
    yield "fatal"
    if (worker.worker_id, worker.generation) == (0, 0):
        os._exit(3)


def use_fatal(fatal: Annotated[str, Depends(get_fatal)], worker: WorkerContext) -> int:
    """Need it."""
    return worker.worker_id


def test_a_cleanup_that_ends_the_process_is_lost(process: Kind) -> None:
    """On that worker only."""
    pool = process.pool(2, lifetimes={get_fatal: "worker"}, max_items_per_worker=N)
    for _ in range(N + 1):
        pool.broadcast(use_fatal)
    report = pool.shutdown()
    assert [report.workers[worker_id].status for worker_id in range(2)] == ["lost", "clean"]


def get_worker(worker: WorkerContext) -> int:
    """Say who it is."""
    return worker.worker_id


def die(item: int) -> int:
    """End the worker."""
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_killed_worker_is_told_although_it_was_replaced(process: Kind, ledger: ModuleType) -> None:
    """Its cleanups did not run, which no replacement mends."""
    pool = process.pool(1, lifetimes={get_noisy: "worker"})
    assert pool.map(use_noisy, [1]) == [1]
    (failure,) = pool.map(die, [1], on_error="return")
    assert isinstance(failure, Failure)
    pool.broadcast(get_worker)
    report = pool.shutdown()
    assert report.workers[0].status == "lost"
    assert not report.clean
    assert pool.workers[0].state == "stopped"


def test_a_killed_worker_that_had_nothing_open_left_nothing_undone(process: Kind) -> None:
    """The item that it was running has told of it."""
    pool = process.pool(1, lifetimes={get_worker: "worker"})
    pool.broadcast(use_worker)
    assert len(pool.map(die, [1], on_error="return")) == 1
    assert pool.shutdown().clean


def use_worker(worker_id: Annotated[int, Depends(get_worker)]) -> int:
    """Need what needs no cleanup."""
    return worker_id


def get_stuck(worker: WorkerContext) -> Iterator[str]:
    """Hang in the first generation, and heed SIGTERM; raise in the next ones."""
    yield "stuck"
    if worker.generation == 0:
        note("stuck")
        threading.Event().wait(60)
    raise OSError(worker.generation)


def use_stuck(item: int, stuck: Annotated[str, Depends(get_stuck)]) -> int:
    """Need it."""
    return item


def test_a_generation_that_timed_out_outweighs_errors(process: Kind, ledger: ModuleType) -> None:
    """The errors of the others are there all the same."""
    pool = process.pool(1, lifetimes={get_stuck: "worker"}, max_items_per_worker=N, cleanup_timeout=0.3)
    assert pool.map(use_stuck, range(2 * N)) == list(range(2 * N))
    report = pool.shutdown()
    assert ledger.count("stuck") == 1
    assert report.workers[0].status == "timed out"
    assert str(report.workers[0].errors[-1][1]) == "1"


# Start-up.


def get_engine() -> Iterator[str]:
    """Come before what fails."""
    yield from span("engine")


def get_flaky(engine: Annotated[str, Depends(get_engine)]) -> str:
    """Fail at first, in each process."""
    note("try.")
    tried.append(1)
    if len(tried) <= 2:
        raise ConnectionError(len(tried))
    return "flaky"


tried: list[int] = []


def use_flaky(item: int, flaky: Annotated[str, Depends(get_flaky)]) -> int:
    """Need it."""
    return item


def test_a_pool_provider_that_fails_fails_its_items_and_is_tried_again(process: Kind, ledger: ModuleType) -> None:
    """In phase ``setup``; what it depends on is made once; each generation begins anew."""
    lifetimes: Any = {get_engine: "pool", get_flaky: "pool"}
    with process.pool(1, lifetimes=lifetimes, max_items_per_worker=4) as pool:
        results: Any = pool.map(use_flaky, range(8), on_error="return")
        assert [getattr(result, "phase", result) for result in results] == [
            "setup",
            "setup",
            2,
            3,
            "setup",
            "setup",
            6,
            7,
        ]
        assert {result.provider for result in results if isinstance(result, Failure)} == {"get_flaky"}
    ledger.check_balanced()
    assert ledger.count("engine+") == 2


def get_late(worker: WorkerContext) -> str:
    """Work in the first generation only."""
    note(f"generation {worker.generation}.")
    if worker.generation:
        raise ConnectionRefusedError("no server any more")
    return "late"


def use_late(item: int, late: Annotated[str, Depends(get_late)]) -> int:
    """Need it."""
    return item


def test_warm_that_fails_in_a_replacement_ends_the_run_with_its_error(process: Kind, ledger: ModuleType) -> None:
    """Once; nothing is started again and again."""
    pool = process.pool(1, lifetimes={get_late: "worker"}, warm=[get_late], max_items_per_worker=N)
    with pytest.raises(ConnectionRefusedError, match="no server any more"):
        pool.map(use_late, range(3 * N))
    pool.shutdown()
    assert ledger.count("generation") == 2


def get_crashing(worker: WorkerContext) -> str:
    """Crash in every generation but the first."""
    note(f"generation {worker.generation}.")
    if worker.generation:
        os.kill(os.getpid(), signal.SIGSEGV)
    return "crashing"


def use_crashing(item: int, crashing: Annotated[str, Depends(get_crashing)]) -> int:
    """Need it."""
    return item


def test_replacements_that_crash_at_start_end_the_run_with_one_error(process: Kind, ledger: ModuleType) -> None:
    """After a few, not endlessly."""
    pool = process.pool(1, lifetimes={get_crashing: "worker"}, warm=[get_crashing], max_items_per_worker=N)
    with pytest.raises(WorkerLostError, match="SIGSEGV"):
        pool.map(use_crashing, range(3 * N))
    pool.shutdown()
    assert 2 <= ledger.count("generation") <= 6
