"""A worker that ends costs the item that it was running, nothing else."""

from __future__ import annotations

import math
import mmap
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest

from poolinject import Depends, Failure, InjectedPool, Success, WorkerContext, WorkerLostError
from poolinject._worker import chunks, recording
from tests.conftest import FORK, Kind
from tests.pool.ledger import note, span, wait_for

PATIENCE = 15.0


def die_by_kill() -> None:
    """As an out-of-memory killer does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_by_exit() -> None:
    """As a C library does it."""
    os._exit(17)


def die_by_sigterm() -> None:
    """As an operator does it."""
    os.kill(os.getpid(), signal.SIGTERM)
    wait_for("never")


WAYS: list[tuple[Callable[[], None], int, str]] = [
    (die_by_kill, -9, "was ended by SIGKILL"),
    (die_by_exit, 17, "exited with code 17"),
    (die_by_sigterm, -15, "was ended by SIGTERM"),
]
ways = pytest.mark.parametrize(("die", "code", "text"), WAYS, ids=lambda value: getattr(value, "__name__", ""))


def run_or_die(item: tuple[int, Callable[[], None] | None]) -> int:
    """Die where the item says how."""
    number, die = item
    if die is not None:
        die()
    return number


@ways
@pytest.mark.parametrize("chunksize", [None, 1, 4, 100])
def test_a_lost_worker_costs_what_it_held(
    process: Kind, ledger: ModuleType, die: Callable[[], None], code: int, text: str, chunksize: int | None
) -> None:
    """The item that ran; the rest of its chunk, sent outcomes apart, is run by a replacement."""
    items: list[Any] = [(number, die if number == 5 else None) for number in range(20)]
    with process.pool(1) as pool:
        results: Any = pool.map(run_or_die, items, on_error="return", chunksize=chunksize)
        lost = [index for index, result in enumerate(results) if isinstance(result, Failure)]
        assert lost == [5]
        assert [result for result in results if not isinstance(result, Failure)] == [*range(5), *range(6, 20)]
        failure = results[5]
        assert (failure.index, failure.item, failure.phase, failure.worker_id) == (5, items[5], "lost", 0)
        assert isinstance(failure.error, WorkerLostError)
        assert (failure.error.worker_id, failure.error.exit_code, failure.error.index) == (0, code, 5)
        assert str(failure.error) == f"worker 0 {text} while it held item 5"
        assert pool.map(run_or_die, [(1, None)]) == [1]
        (worker,) = pool.workers
        assert (worker.worker_id, worker.generation) == (0, 1)
        assert pool.report.failed == 0


@ways
def test_raise_tells_of_the_lost_worker(
    process: Kind, ledger: ModuleType, die: Callable[[], None], code: int, text: str
) -> None:
    """As of any failure; the pool stays usable."""
    with process.pool(2) as pool:
        with pytest.raises(WorkerLostError, match=text) as caught:
            pool.map(run_or_die, [(0, None), (1, die), *((number, None) for number in range(2, 100))])
        assert "failed in phase 'lost'" in caught.value.__notes__[0]
        assert pool.map(run_or_die, [(number, None) for number in range(20)]) == list(range(20))


@pytest.mark.parametrize("method", ["imap", "imap_unordered", "outcomes"])
def test_lazy_methods_go_on_after_a_loss(process: Kind, method: str) -> None:
    """Each item has exactly one outcome."""
    items: list[Any] = [(number, die_by_kill if number % 10 == 3 else None) for number in range(40)]
    with process.pool(2) as pool:
        options = {} if method == "outcomes" else {"on_error": "return"}
        results = list(getattr(pool, method)(run_or_die, iter(items), **options))
        lost = {result.index for result in results if isinstance(result, Failure)}
        assert lost >= {3, 13, 23, 33}
        assert {result.phase for result in results if isinstance(result, Failure)} == {"lost"}
        done = (result.value if isinstance(result, Success) else result for result in results)
        assert sorted(value for value in done if isinstance(value, int)) == sorted(set(range(40)) - lost)
        assert pool.report.lost_workers == 4


def test_the_others_go_on_meanwhile(process: Kind, ledger: ModuleType) -> None:
    """Another worker's item is none the worse."""
    with process.pool(2) as pool:
        slow = pool.submit(hold, 1)
        ledger.wait_for("began")
        assert isinstance(pool.submit(run_or_die, (0, die_by_kill)).exception(PATIENCE), WorkerLostError)
        assert pool.submit(run_or_die, (2, None)).result(PATIENCE) == 2
        ledger.note("release")
        assert slow.result(PATIENCE) == 1


def hold(item: int) -> int:
    """Wait for the test."""
    note("began")
    wait_for("release")
    return item


def kill_one(worker: WorkerContext) -> int:
    """Kill one of three."""
    if worker.worker_id == 1 and worker.generation == 0:
        die_by_kill()
    return worker.generation


def increment_or_die(item: int) -> int:
    """Take so little time that nobody counts the items, but for one."""
    return item + 1 if item != 77_777 else os._exit(17)


@pytest.mark.parametrize("count", [100_000, 77_778])
def test_items_too_quick_to_be_counted_cost_no_more(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The chunk goes out again and is counted, which finds the culprit."""
    for name, value in (("WINDOW", 0.0), ("SYSTEM_CALLS", math.inf)):
        monkeypatch.setattr(recording, name, value)
    for name in ("BULK_SHARE", "BULK_SECONDS"):
        monkeypatch.setattr(chunks, name, math.inf)  # in the workers, too, since they are forked from here
    with FORK.pool(2) as pool:
        assert pool.map(increment_or_die, range(70_000)) == list(range(1, 70_001))
        results: Any = pool.map(increment_or_die, range(count), on_error="return")
        assert [index for index, result in enumerate(results) if isinstance(result, Failure)] == [77_777]
        assert results[77_777].error.exit_code == 17
        assert sum(result for index, result in enumerate(results) if index != 77_777) == sum(
            index + 1 for index in range(count) if index != 77_777
        )
        assert pool.report.lost_workers == 2
        assert pool.map(increment_or_die, [1, 2]) == [2, 3]


CALLS = mmap.mmap(-1, 1000)  # how often each item was begun; forked workers share it


class Row:
    """A result that is pickled at once."""

    def __init__(self, number: int) -> None:
        self.number = number


def count_and_die_late(item: int) -> Row:
    """Give an object; one item ends the worker, once whoever records the results has looked."""
    CALLS[item] += 1
    if item == 777:
        time.sleep(0.5)  # it looks each millisecond, and nobody outside can tell that it has
        os._exit(17)
    return Row(item)


def test_quick_items_that_give_objects_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However quick they seem: what has ended is not begun again when the worker is lost."""
    monkeypatch.setattr(recording.Conduct, "is_quicker_than", lambda *_, **__: True)
    CALLS[:] = bytes(len(CALLS))
    with FORK.pool(1) as pool:
        assert [row.number for row in pool.map(count_and_die_late, range(100))] == list(range(100))
        CALLS[:100] = bytes(100)
        results: Any = pool.map(count_and_die_late, range(1000), on_error="return", chunksize=1000)
    assert [index for index, result in enumerate(results) if isinstance(result, Failure)] == [777]
    assert [result.number for result in results if isinstance(result, Row)] == [*range(777), *range(778, 1000)]
    assert CALLS[:] == bytes([1] * 1000)


def test_broadcast_tells_which_worker_was_lost(process: Kind) -> None:
    """The next one reaches its replacement."""
    with process.pool(3) as pool:
        outcomes = pool.broadcast(kill_one)
        assert [type(outcomes[worker_id]) for worker_id in range(3)] == [Success, Failure, Success]
        again = pool.broadcast(kill_one)
        assert [outcome.value for outcome in again.values()] == [0, 1, 0]  # type: ignore[union-attr]


def test_an_idle_worker_that_is_killed_is_replaced(process: Kind) -> None:
    """Nobody notices, but for its pid and generation."""
    with process.pool(1) as pool:
        pool.map(run_or_die, [(1, None)])
        os.kill(pool.workers[0].pid, signal.SIGKILL)
        for _ in range(3):
            assert pool.map(run_or_die, [(number, None) for number in range(50)]) == list(range(50))
        assert pool.workers[0].generation == 1


def get_connection(worker: WorkerContext) -> Iterator[str]:
    """One in each worker."""
    yield from span(f"connection w{worker.worker_id}.{worker.generation}")


def connected(item: tuple[int, Callable[[], None] | None], _: Annotated[str, Depends(get_connection)]) -> int:
    """Use it."""
    return run_or_die(item)


def test_a_terminated_worker_closes_what_it_has_open(process: Kind, ledger: ModuleType) -> None:
    """Its replacement opens its own."""
    with process.pool(1, lifetimes={get_connection: "worker"}) as pool:
        results: Any = pool.map(connected, [(0, None), (1, die_by_sigterm), (2, None)], on_error="return")
        assert [results[0], results[2]] == [0, 2]
        assert isinstance(results[1].error, WorkerLostError)
    assert ledger.count("connection w0.0") == ledger.count("connection w0.1") == 2
    ledger.check_balanced()


def test_an_idle_worker_that_is_terminated_closes_what_it_has_open(process: Kind, ledger: ModuleType) -> None:
    """As it would at shutdown."""
    with process.pool(1, lifetimes={get_connection: "worker"}) as pool:
        pool.map(connected, [(0, None)])
        os.kill(pool.workers[0].pid, signal.SIGTERM)
        ledger.wait_for("connection w0.0-")
        assert pool.map(connected, [(1, None)]) == [1]
    ledger.check_balanced()


def test_a_replacement_is_warmed_as_well(process: Kind, ledger: ModuleType) -> None:
    """Before it gets an item."""
    with process.pool(1, lifetimes={get_connection: "worker"}, warm=[get_connection]) as pool:
        pool.map(run_or_die, [(0, die_by_kill)], on_error="return")
        ledger.wait_for("connection w0.1+")
        assert pool.map(run_or_die, [(0, None)]) == [0]


def get_deadly() -> None:
    """Kill each worker before it is ready."""
    note("deadly")
    die_by_kill()


def test_workers_that_die_at_start_end_the_pool_with_one_error(process: Kind, ledger: ModuleType) -> None:
    """Not in an endless loop."""
    pool = process.pool(2, lifetimes={get_deadly: "worker"}, warm=[get_deadly])
    with pytest.raises(WorkerLostError, match="SIGKILL"), pool:
        raise AssertionError
    assert 3 <= ledger.count("deadly") <= 12
    assert "closed" in repr(pool)


def test_workers_that_die_at_start_end_the_run_with_one_error(process: Kind, ledger: ModuleType) -> None:
    """Where there is no ``with``, and for whoever comes later."""
    pool = process.pool(2, lifetimes={get_deadly: "worker"}, warm=[get_deadly])
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        pool.map(run_or_die, [(1, None)])
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        pool.map(run_or_die, [(1, None)])
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        list(pool.imap(run_or_die, [(1, None)]))
    for _ in range(2):
        assert isinstance(pool.submit(run_or_die, (1, None)).exception(PATIENCE), WorkerLostError)
    pool.shutdown()


def test_a_worker_that_cannot_start_is_told_once(
    process: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An interpreter that is not there is no reason to hang."""
    from multiprocessing import spawn  # noqa: PLC0415 - what the launcher asks

    monkeypatch.setattr(spawn, "get_executable", lambda: str(tmp_path / "python"))
    pool = InjectedPool(1, start_method="spawn")
    with pytest.raises(Exception, match="no process could be started"):
        pool.map(run_or_die, [(1, None)])
    monkeypatch.setattr(spawn, "get_executable", lambda: sys.executable)
    assert pool.map(run_or_die, [(1, None)]) == [1]
    pool.shutdown()


class Fatal:
    """A function that ends every worker that loads it."""

    def __call__(self, item: int) -> int:
        """Never get here."""
        return item

    def __reduce__(self) -> Any:
        return die_by_exit, ()


def test_a_function_that_no_worker_survives_loading_ends_in_one_error(process: Kind) -> None:
    """Not in replacing workers for ever."""
    with process.pool(1) as pool, pytest.raises(WorkerLostError, match="exited with code 17"):
        pool.map(Fatal(), range(3), on_error="return")


class SlowToLoad:
    """A function that waits for the test where it is loaded."""

    def __call__(self, item: int) -> int:
        """Give the item."""
        return item

    def __reduce__(self) -> Any:
        return wait_to_load, ()


def wait_to_load() -> SlowToLoad:
    """Load it."""
    note("loading")
    wait_for("release")
    return SlowToLoad()


def test_workers_that_are_terminated_before_their_first_item_do_not_end_the_pool(
    process: Kind, ledger: ModuleType
) -> None:
    """They do nothing wrong: somebody else ends them, and leaves off."""
    with process.pool(1) as pool:
        result = pool.submit(SlowToLoad(), 1)
        for times in range(1, 6):
            ledger.wait_for("loading", times)
            os.kill(ledger.read()[-1].pid, signal.SIGTERM)
        ledger.wait_for("loading", 6)
        ledger.note("release")
        assert result.result(PATIENCE) == 1


FINISHED_ITEMS = 200  # enough that some outcomes have not been sent when the worker ends


def test_items_whose_outcomes_died_with_the_worker_run_again(process: Kind) -> None:
    """Only the item that was running is lost, also where others of its chunk had finished a moment before."""
    items: list[Any] = [(number, die_by_kill if number == FINISHED_ITEMS - 1 else None) for number in range(300)]
    with process.pool(1) as pool:
        results: list[Any] = pool.map(run_or_die, items, on_error="return", chunksize=300)
        assert [result for result in results if isinstance(result, int)] == [
            number for number in range(300) if number != FINISHED_ITEMS - 1
        ]


def hold_the_first(item: int) -> int:
    """Let the first item wait for the test: nothing is sent ahead before its outcome has told how long items take."""
    if item == 0:
        hold(item)
    return item


@contextmanager
def held_up(driver: Any) -> Iterator[None]:
    """Let the driver follow nothing until the block ends."""
    held, go_on = threading.Event(), threading.Event()

    def hold_up() -> None:
        held.set()
        go_on.wait(PATIENCE)

    driver.post(hold_up)
    try:
        assert held.wait(PATIENCE)
        yield
    finally:
        go_on.set()


def test_a_worker_that_ends_between_two_chunks_loses_nothing(process: Kind, ledger: ModuleType) -> None:
    """Its last outcomes and its end come together: the chunk sent in answer to the outcomes was never begun."""
    with process.pool(1) as pool, ThreadPoolExecutor(1) as threads:
        mapping = threads.submit(pool.map, hold_the_first, range(40), chunksize=1)
        ledger.wait_for("began")
        driver: Any = pool._engine.driver
        (peer,) = driver.backend._peers
        with held_up(driver):
            ledger.note("release")
            assert select.select([peer.connection], [], [], PATIENCE)[0]
            os.kill(peer.process.pid, signal.SIGKILL)
            assert select.select([peer.process.sentinel], [], [], PATIENCE)[0]
        assert mapping.result(PATIENCE) == list(range(40))
        assert pool.workers[0].generation == 1


def hold_some(item: int) -> int:
    """Note each item that begins; every tenth waits for the test."""
    note(f"item {item} began")
    if item % 10 == 0:
        wait_for("release")
    return item


def test_workers_that_end_together_cost_what_each_of_them_held(process: Kind, ledger: ModuleType) -> None:
    """What is sent on when one of them is buried must not be taken for what the other had begun."""
    with process.pool(2) as pool, ThreadPoolExecutor(1) as threads:
        assert pool.map(hold_some, [*range(101, 110)] * 20, chunksize=1)  # every slot tells of something already
        mapping = threads.submit(pool.map, hold_some, range(20), chunksize=10, on_error="return")
        ledger.wait_for("item 0 began")
        ledger.wait_for("item 10 began")
        driver: Any = pool._engine.driver
        with held_up(driver):
            for peer in driver.backend._peers:
                os.kill(peer.process.pid, signal.SIGKILL)
                assert select.select([peer.process.sentinel], [], [], PATIENCE)[0]
        results: list[Any] = mapping.result(PATIENCE)
        assert [index for index, result in enumerate(results) if isinstance(result, Failure)] == [0, 10]
        assert all(ledger.count(f"item {item} began") == 1 for item in range(20))
        assert [worker.generation for worker in pool.workers] == [1, 1]
