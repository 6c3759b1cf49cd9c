"""The fault matrix: each fault at each place, with each kind of worker; ``cells`` says what must come of it.

Of each cell: only the touched item fails, and as it should; the others of its chunk have their values; the pool, which
has a single worker, then does a whole run; nothing waits longer than its bound. The cells of one place share a pool.
The table of all cells is printed at the end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest

from poolinject import CleanupReport, Failure, InjectedPool, Success, WorkerLostError
from poolinject._scheduling.reports import WorkerCleanup
from poolinject._worker import chunks, recording
from tests.conftest import FORK, FORKSERVER, THREAD, Kind
from tests.faults.cells import KINDS, Expected, expected
from tests.faults.faults import ERRORS, FAULTS, RELEASE, Fault
from tests.faults.places import (
    PLACES,
    Engine,
    Job,
    Leaking,
    Place,
    answer,
    opening,
    work,
    work_async,
    working,
)
from tests.faults.table import Table, draw

Value = TypeVar("Value")

BOUND_SECONDS = 40.0  # generous: many processes start, on machines that may be busy
CLEANUP_SECONDS = 2.0
ITEM_SECONDS = 0.5


@pytest.fixture(scope="module")
def table(pytestconfig: pytest.Config) -> Iterator[Table]:
    """Give the table to be filled, which is printed at the end."""
    entries: Table = {}
    yield entries
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(draw(entries))  # noqa: T201 - it is there to be read


@pytest.fixture(autouse=True)
def _release(no_leaks: None) -> Iterator[None]:
    """Let threads that hang go before it is looked at what is left."""
    RELEASE.clear()
    yield
    RELEASE.set()


def bounded(call: Callable[[], Value]) -> Value:
    """Call, on a thread that is left to itself where it hangs."""
    came: Future[Value] = Future()

    def run() -> None:
        try:
            came.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised in the test
            came.set_exception(AssertionError(f"it has raised {error!r}"))

    threading.Thread(target=run, daemon=True).start()
    return came.result(BOUND_SECONDS)


def faults_of(place: Place, kind: Kind) -> Iterator[tuple[Fault, Expected]]:
    """Give the faults that make sense at a place, each with what must come of it."""
    for fault in FAULTS:
        cell = expected(place, fault, kind)
        if isinstance(cell, Expected):
            yield fault, cell


def check_cell(pool: InjectedPool, function: Callable[..., Any], place: Place, fault: Fault, cell: Expected) -> None:
    """Run a chunk with one item that has the fault, then one without."""
    touched = 0 if place == "setup of a pool dependency" else 2  # the first that needs it has it built
    jobs = [Job(number, place, fault) if number == touched else Job(number) for number in range(5)]
    options: dict[str, Any] = {"chunksize": 5, "on_error": "return"}
    if fault == "hang":
        options["timeout"] = ITEM_SECONDS
    results = bounded(lambda: pool.map(function, jobs, **options))
    failures = [result for result in results if isinstance(result, Failure)]
    assert [failure.index for failure in failures] == [touched], failures
    (failure,) = failures
    provider = cell.provider and cell.provider + ("_async" if function is work_async else "")
    assert (failure.phase, failure.provider, failure.item) == (cell.phase, provider, jobs[touched])
    assert type(failure.error) is cell.error
    if isinstance(failure.error, WorkerLostError):
        assert failure.error.args == (0, cell.exit_code, touched)
    assert [*results[:touched], *results[touched + 1 :]] == [-number for number in range(5) if number != touched]
    whole = [Job(number) for number in range(5)]
    assert bounded(lambda: pool.map(function, whole, chunksize=5)) == [-job.number for job in whole]


def check_cells(pool: InjectedPool, kind: Kind, place: Place, function: Callable[[Fault], Any], table: Table) -> None:
    """Check the faults of one place; one that goes wrong does not keep the others from being looked at."""
    problems: dict[Fault, Exception] = {}
    for fault, cell in faults_of(place, kind):
        try:
            check_cell(pool, function(fault), place, fault, cell)
        except (AssertionError, TimeoutError) as problem:
            problems[fault] = problem
            bounded(lambda: pool.shutdown("kill"))  # noqa: B023 - it is called at once
            pool = kind.pool(1)
        table[kind, place, fault] = "WRONG" if fault in problems else cell.phase
    began = time.monotonic()
    report = bounded(pool.shutdown)
    assert not problems, "".join(f"\n\n{fault}: {problem!r}" for fault, problem in problems.items())
    holds = place == "setup of a pool dependency" and kind != THREAD  # the workers that ended had those of other cells
    assert report.workers[0] == WorkerCleanup("lost" if holds else "clean")
    assert time.monotonic() - began < BOUND_SECONDS


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        pytest.param(place, kind, id=f"{place}-{kind}")
        for place in PLACES
        for kind in KINDS
        if place != "cleanup of a pool dependency" and any(faults_of(place, kind))
    ],
)
@pytest.mark.timeout(120)
def test_a_fault_costs_one_item(kind: Kind, place: Place, table: Table, tmp_path: Path) -> None:
    """Wherever it happens, in sync code."""

    def function(fault: Fault) -> Callable[..., Any]:
        if place != "setup of a pool dependency":
            return work
        armed = tmp_path / fault
        armed.touch()
        return working(Engine(armed, fault))

    pool = kind.pool(1)
    assert pool.map(work, [Job(number) for number in range(500)]) == [-number for number in range(500)]
    check_cells(pool, kind, place, function, table)


@pytest.mark.parametrize("kind", [THREAD, FORKSERVER], ids=str)
@pytest.mark.parametrize("place", ["setup of an item dependency", "the call", "cleanup of an item dependency"])
@pytest.mark.timeout(120)
def test_a_fault_in_async_code_costs_one_item(kind: Kind, place: Place) -> None:
    """As it does in sync code, whatever asyncio makes of errors that are no ``Exception``."""
    check_cells(kind.pool(1), kind, place, lambda _: work_async, {})


@pytest.mark.parametrize("counts", [True, False])
def test_a_result_costs_one_item_also_where_results_are_pickled_together(
    monkeypatch: pytest.MonkeyPatch, *, counts: bool
) -> None:
    """A worker that ends with it has been at others since; or has counted none, of items that are quicker still."""
    monkeypatch.setattr(
        chunks, "cost_of_recording", lambda _: recording.Cost(1e-6, 0.0, 1e-7)
    )  # a forked worker has it too
    # what is asked about, for results together and for not counting
    quick = recording.CALM_SECONDS if counts else recording.BULK_SHARE * 1e-6
    monkeypatch.setattr(recording.Conduct, "is_quicker_than", lambda _, seconds, **__: seconds >= quick)
    count, touched = 100, 40
    jobs = [Job(number, "sending the result" if number == touched else None, "SIGKILL") for number in range(count)]
    with FORK.pool(1) as pool:
        results: list[Any] = bounded(lambda: pool.map(answer, jobs, chunksize=count, on_error="return"))
    (failure,) = (result for result in results if isinstance(result, Failure))
    assert (failure.index, failure.phase) == (touched, "lost")
    assert [result for result in results if result is not failure] == [-job.number for job in jobs if job.place is None]


def check_cleanup(kind: Kind, faults: tuple[Fault, ...], table: Table) -> None:
    """Open a pool dependency on each worker and shut down; each worker has a fault of its own."""
    pool = kind.pool(len(faults), cleanup_timeout=CLEANUP_SECONDS)
    leaking = Leaking(faults)
    opened = bounded(lambda: pool.broadcast(opening(leaking)))
    assert all(isinstance(outcome, Success) for outcome in opened.values())
    report: CleanupReport = bounded(pool.shutdown)
    for worker_id, fault in enumerate(faults):
        cell, worker = expected("cleanup of a pool dependency", fault, kind), report.workers[worker_id]
        assert isinstance(cell, Expected)
        table[kind, "cleanup of a pool dependency", fault] = worker.status
        assert worker.status == cell.phase
        told = [(provider, type(error)) for provider, error in worker.errors]
        if fault in ERRORS:
            assert told == [(cell.provider, cell.error)]
        else:
            assert all(provider == cell.provider for provider, _ in told)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.timeout(120)
def test_a_fault_in_the_cleanup_of_a_pool_dependency_is_reported(kind: Kind, table: Table) -> None:
    """By worker and provider; whatever happens to others, the shutdown is bounded."""
    faults = tuple(fault for fault, _ in faults_of("cleanup of a pool dependency", kind))
    if kind == THREAD:  # all its workers share one pool dependency
        for fault in faults:
            check_cleanup(kind, (fault,), table)
    else:
        check_cleanup(kind, faults, table)
