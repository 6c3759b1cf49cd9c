"""Coroutine functions: items beside each other on each worker, each in a task of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Annotated, Any

import pytest

from poolinject import Depends, Failure, InjectedPool, ItemTimeoutError, WorkerLostError
from tests.conftest import Kind
from tests.pool.ledger import count, note, span, wait_for

PATIENCE = 15.0


async def double(item: int) -> int:
    """Give the loop a turn."""
    await asyncio.sleep(0)
    return 2 * item


@pytest.mark.parametrize("concurrency", [None, 1, 2, 16, 500])
def test_results_are_those_of_the_items(backend: Kind, concurrency: int | None) -> None:
    """In the order of the items, with any number beside each other, for one item, none and many."""
    with backend.pool(2) as pool:
        for items in (range(0), range(1), range(700)):
            assert pool.map(double, items, concurrency=concurrency) == [2 * item for item in items]
            assert sorted(pool.imap_unordered(double, iter(items), concurrency=concurrency)) == [2 * i for i in items]


async def meet(item: int) -> int:
    """Wait until so many others have come."""
    note(f"came {item}")
    while count("came") < 8:  # noqa: ASYNC110 - the others may be in another process
        await asyncio.sleep(0.005)
    return item


def test_so_many_run_at_once(backend: Kind, ledger: ModuleType) -> None:
    """Items that wait for each other come to their end: as many as are asked for run beside each other."""
    with backend.pool(1) as pool:
        assert pool.map(meet, range(8), concurrency=8) == list(range(8))


running = 0


async def count_running(_: int) -> int:
    """Say how many run at this moment."""
    global running  # noqa: PLW0603 - one loop
    running += 1
    await asyncio.sleep(0.001)
    now, running = running, running - 1
    return now


def test_no_more_run_at_once_than_asked_for(backend: Kind) -> None:
    """Neither of one run, nor of what is submitted one by one."""
    with backend.pool(1) as pool:
        assert 1 < max(pool.map(count_running, range(100), concurrency=5)) <= 5
        futures = [pool.submit(count_running, item) for item in range(100)]
        least = 0 if backend.name == "inline" else 1  # there each is done when it is submitted
        assert least < max(future.result(PATIENCE) for future in futures) <= 16


def test_a_sync_function_cannot(backend: Kind) -> None:
    """The error says what to do."""
    with backend.pool(1) as pool:
        with pytest.raises(ValueError, match=r"concurrency=2 needs a coroutine function, but int"):
            pool.map(int, ["1"], concurrency=2)
        with pytest.raises(ValueError, match="at most 2048"):
            pool.map(double, [1], concurrency=5000)
        assert pool.map(int, ["1"], concurrency=1) == [1]


async def get_shared() -> AsyncIterator[Any]:
    """Open one for all, and have a task group that lives as long."""
    note("shared+")
    async with asyncio.TaskGroup() as group:
        yield group, asyncio.get_running_loop(), asyncio.current_task()
    note("shared-")


async def get_own(shared: Annotated[Any, Depends(get_shared)]) -> AsyncIterator[int]:
    """One for each item, opened and closed in its task."""
    own = asyncio.current_task()
    async with asyncio.timeout(PATIENCE):
        yield await shared[0].create_task(asyncio.sleep(0.001, 7))
    assert asyncio.current_task() is own


async def use_shared(
    item: int, shared: Annotated[Any, Depends(get_shared)], own: Annotated[int, Depends(get_own)]
) -> int:
    """All of it on one loop."""
    assert shared[1] is asyncio.get_running_loop()
    assert shared[2] is not asyncio.current_task()
    return item + own


def use_shared_in_sync_code(item: int, own: Annotated[int, Depends(get_own)]) -> int:
    """May run a loop of its own."""
    return asyncio.run(double(item + own))


def test_shared_dependencies_are_opened_once_for_both_kinds_of_functions(backend: Kind, ledger: ModuleType) -> None:
    """One instance for concurrent items and for sync functions, on one loop; closed at shutdown."""
    with backend.pool(1, lifetimes={get_shared: "pool"}) as pool:
        for _ in range(3):
            assert pool.map(use_shared, range(50)) == [item + 7 for item in range(50)]
            assert pool.map(use_shared_in_sync_code, range(5)) == [2 * (item + 7) for item in range(5)]
    assert ledger.texts() == ["shared+", "shared-"]


async def fail_some(item: int) -> int:
    """Fail some."""
    await asyncio.sleep(0.001)
    if item % 10 == 3:
        raise ValueError(item)
    return item


def test_failures_stay_with_their_items(backend: Kind) -> None:
    """The others go on."""
    with backend.pool(2) as pool:
        results: list[Any] = pool.map(fail_some, range(50), on_error="return")
        assert [r.index if isinstance(r, Failure) else r for r in results] == list(range(50))
        assert {r.index for r in results if isinstance(r, Failure)} == {3, 13, 23, 33, 43}
        with pytest.raises(ValueError, match="3"):
            pool.map(fail_some, range(50))
        assert pool.map(double, [1]) == [2]


def get_scope(item: int) -> Iterator[str]:
    """Tell of each scope."""
    yield from span(f"scope {item}")


async def wait_long(item: int, _: Annotated[str, Depends(get_scope)]) -> int:
    """Wait unless it is the item that fails."""
    note(f"began {item}")
    if item == 5:
        while count("began") < 6:  # noqa: ASYNC110 - others write to a file
            await asyncio.sleep(0.002)
        raise KeyError(item)
    await asyncio.sleep(600)
    return item


def test_a_failure_that_ends_the_run_cancels_the_others(backend: Kind, ledger: ModuleType) -> None:
    """They do not go on to their end, their scopes close, the pool is usable."""
    with backend.pool(1) as pool:
        with pytest.raises(KeyError):
            pool.map(wait_long, range(100), concurrency=6)
        ledger.check_balanced()
        assert ledger.count("scope") == 12
        assert pool.map(double, range(3)) == [0, 2, 4]


def test_closing_the_iterator_cancels(backend: Kind, ledger: ModuleType) -> None:
    """So does leaving the block."""
    if backend.name == "inline":
        pytest.skip("nothing runs there while nobody reads")
    with backend.pool(1) as pool:
        results: Any = pool.imap(wait_long, range(5), concurrency=5)
        ledger.wait_for("began", 5)
        results.close()
        assert pool.map(double, range(3)) == [0, 2, 4]
        ledger.check_balanced()


async def overrun(item: int, _: Annotated[str, Depends(get_scope)]) -> int:
    """Every tenth takes too long."""
    await asyncio.sleep(600 if item % 10 == 3 else 0.001)
    return item


def test_each_item_has_its_own_time_limit(process: Kind, ledger: ModuleType) -> None:
    """The others are not touched; scopes close."""
    with process.pool(2) as pool:
        results: list[Any] = pool.map(overrun, range(40), on_error="return", timeout=0.5)
        failures = [result for result in results if isinstance(result, Failure)]
        assert [failure.index for failure in failures] == [3, 13, 23, 33]
        assert all(isinstance(f.error, ItemTimeoutError) and f.phase == "timeout" for f in failures)
        assert [worker.generation for worker in pool.workers] == [0, 0]
    ledger.check_balanced()


async def hold_up(item: int) -> int:
    """Let nothing else go on."""
    time.sleep(0.6 if item == 1 else 0.0)  # noqa: ASYNC251 - on purpose
    return item


def test_an_item_that_holds_the_loop_up_is_late_all_the_same(process: Kind) -> None:
    """Nobody could tell it in time."""
    with process.pool(1) as pool:
        (_, failure) = pool.map(hold_up, range(2), on_error="return", timeout=0.3)
        assert isinstance(failure, Failure)
        assert isinstance(failure.error, ItemTimeoutError)


async def die_once(item: int) -> int:
    """One of them ends the worker, when all have begun."""
    note(f"began {item}")
    while count("began") < 8:  # noqa: ASYNC110 - others write to a file
        await asyncio.sleep(0.002)
    if item == 5:
        os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(600)
    return item


@pytest.mark.parametrize("timed", [None, 60.0])
def test_an_item_that_ends_its_worker_is_the_one_that_is_lost(
    process: Kind, ledger: ModuleType, timed: float | None
) -> None:
    """Those that ran beside it run again, none beside another, until it is known which one it was."""
    with process.pool(1) as pool:
        results: list[Any] = pool.map(die_once, range(8), on_error="return", concurrency=8, timeout=timed)
        assert [r.index for r in results if isinstance(r, Failure)] == [5]
        assert isinstance(results[5].error, WorkerLostError)
        assert [r for r in results if not isinstance(r, Failure)] == [0, 1, 2, 3, 4, 6, 7]


async def hold_loop(item: int) -> int:
    """Keep the others of the first three, which have begun as well, from going on."""
    note("began")
    while count("began") < 3:  # noqa: ASYNC110 - others write to a file
        await asyncio.sleep(0.002)
    if item == 0:
        threading.Event().wait(PATIENCE)
    await asyncio.sleep(PATIENCE)
    return item


def test_nobody_says_which_item_of_those_that_are_lost_was_late(process: Kind, ledger: ModuleType) -> None:
    """Where they run beside each other and at most once, that of the first one is not taken for the last one's."""
    with process.pool(1) as pool:
        options: dict[str, Any] = {"concurrency": 3, "timeout": 0.2, "delivery": "at_most_once"}
        results: list[Any] = pool.map(hold_loop, range(3), on_error="return", **options)
        assert [result.phase for result in results] == ["lost"] * 3
        assert ledger.count("began") == 3
        (alone,) = pool.map(hold_loop, [0], on_error="return", **options)
        assert isinstance(alone, Failure)
        assert alone.phase == "timeout"


def test_at_most_once_loses_what_has_begun(process: Kind, ledger: ModuleType) -> None:
    """It may have been done."""
    with process.pool(1) as pool:
        results: list[Any] = pool.map(die_once, range(30), on_error="return", concurrency=8, delivery="at_most_once")
        lost = [r.index for r in results if isinstance(r, Failure)]
        assert 5 in lost
        assert max(Counter(ledger.texts()).values()) == 1


def block(item: int) -> int:
    """Hold the worker up."""
    note("blocks")
    wait_for("go on")
    return item


def test_sync_and_async_runs_share_the_workers(backend: Kind, ledger: ModuleType) -> None:
    """In turn: a sync item waits for the tasks, further tasks for the sync item."""
    if backend.name == "inline":
        pytest.skip("one thread at a time")
    with backend.pool(1) as pool, ThreadPoolExecutor(3) as threads:
        first = threads.submit(pool.map, meet, range(7), concurrency=8)
        ledger.wait_for("came", 7)
        second = threads.submit(pool.map, block, range(1))
        ledger.note("came too")
        assert first.result(PATIENCE) == list(range(7))
        ledger.wait_for("blocks")
        third = threads.submit(pool.map, double, range(100))
        ledger.note("go on")
        assert second.result(PATIENCE) == [0]
        assert third.result(PATIENCE) == [2 * item for item in range(100)]


@pytest.mark.parametrize("mode", ["drain", "cancel"])
def test_shutdown(backend: Kind, ledger: ModuleType, mode: Any) -> None:
    """Draining lets them end, cancelling cancels them."""
    if backend.name == "inline":
        pytest.skip("nothing runs there while nobody waits")
    pool = backend.pool(2)
    futures = [pool.submit(wait_long if mode == "cancel" else double, item) for item in range(4)]
    if mode == "cancel":
        ledger.wait_for("began", 4)
    report = pool.shutdown(mode)
    assert report.clean
    assert all(future.done() for future in futures)
    if mode == "drain":
        assert [future.result() for future in futures] == [0, 2, 4, 6]
    ledger.check_balanced()


def test_sigterm_closes_the_scopes_of_all(process: Kind, ledger: ModuleType) -> None:
    """Every item that ran beside the others."""
    with process.pool(1) as pool:
        results: Any = pool.outcomes(wait_long, range(5), concurrency=5)
        ledger.wait_for("began", 5)
        os.kill(pool.workers[0].pid, signal.SIGTERM)
        ledger.wait_for("scope 4-")
        lost = [next(results) for _ in range(5)]
        assert {outcome.phase for outcome in lost} == {"lost"}
    ledger.check_balanced()


async def start_heartbeat() -> AsyncIterator[threading.Event]:
    """Have a task of its own that goes on while no item runs."""
    beaten = threading.Event()

    async def beat() -> None:
        while count("listen") == 0:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.002)
        note("beat")

    task = asyncio.create_task(beat())
    yield beaten
    task.cancel()


async def touch(item: int, _: Annotated[Any, Depends(start_heartbeat)]) -> int:
    """Have it started."""
    return item


def test_tasks_of_shared_dependencies_go_on_between_runs(process: Kind, ledger: ModuleType) -> None:
    """The loop turns while the worker waits for work."""
    with process.pool(1, lifetimes={start_heartbeat: "pool"}) as pool:
        assert pool.map(touch, [1]) == [1]
        ledger.note("listen")
        ledger.wait_for("beat")


def test_retries(backend: Kind, ledger: ModuleType) -> None:
    """Each attempt is a task of its own."""
    with backend.pool(2) as pool:
        results: list[Any] = pool.map(fail_some, range(20), on_error="return", retries=2)
        assert [(r.index, r.attempts) for r in results if isinstance(r, Failure)] == [(3, 3), (13, 3)]
        assert pool.report.retries == 4


def test_backpressure_counts_items() -> None:
    """No more are read than may be in flight."""
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for item in range(1000):
            read += 1
            yield item

    with InjectedPool(2, max_in_flight=20) as pool:
        results = pool.imap(double, items(), concurrency=100)
        assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
        assert read <= 25
        assert len(list(results)) == 995


async def nest(item: int) -> object:
    """Have results of both kinds: such as are copied in passing, and such as are pickled at once."""
    await asyncio.sleep(0)
    return [[item]] if item % 3 else [item]


def test_results_of_any_kind_in_any_order(backend: Kind) -> None:
    """One that is pickled at once keeps none of those that follow from being sent."""
    with backend.pool(1) as pool:
        for concurrency in (1, 2, 20):
            for items in ([1], [0], range(30)):
                expected = [[[item]] if item % 3 else [item] for item in items]
                assert pool.map(nest, items, concurrency=concurrency) == expected
