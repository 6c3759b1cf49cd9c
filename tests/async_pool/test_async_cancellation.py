"""Cancelled or left early, a run starts no further item, closes what is open, and leaves the pool usable."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from types import ModuleType
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from poolinject import Depends, InjectedPool
from poolinject._scheduling.engine import Engine
from poolinject.errors import PoolClosedError
from tests.async_pool.conftest import Loop
from tests.async_pool.test_async_waiting import Counter
from tests.conftest import Kind
from tests.pool.ledger import note, span, wait_for

MOMENTS = 20
PATIENCE = 15.0


def get_session(item: Any) -> Iterator[str]:
    """One for each item."""
    yield from span(f"session {item}")


async def get_cursor(item: Any, session: Annotated[str, Depends(get_session)]) -> AsyncIterator[str]:
    """One for each item, in async code."""
    note(f"cursor {item}+")
    try:
        yield "cursor"
    finally:
        note(f"cursor {item}-")


def load(item: int, cursor: Annotated[str, Depends(get_cursor)]) -> int:
    """Take a moment."""
    threading.Event().wait(0.0005)
    return item


def load_held(item: int, session: Annotated[str, Depends(get_session)]) -> int:
    """Say that it has begun, and wait for the test."""
    note(f"held {item}")
    wait_for("release")
    return item


async def agenerate() -> AsyncIterator[int]:
    """Give items for ever."""
    for item in itertools.count():
        await anyio.lowlevel.checkpoint()
        yield item


async def use_map(pool: InjectedPool) -> None:
    """Map an endless input."""
    await pool.amap(load, itertools.count())


async def use_async_input(pool: InjectedPool) -> None:
    """Map an endless async input."""
    await pool.amap(load, agenerate())


async def use_iterator(pool: InjectedPool) -> None:
    """Go through outcomes for ever."""
    async for _ in pool.aimap(load, agenerate()):
        pass


async def use_outcomes(pool: InjectedPool) -> None:
    """Go through outcomes for ever; what cancels the body of the loop closes them."""
    async with aclosing(pool.aoutcomes(load, itertools.count(), chunksize=5)) as outcomes:
        async for _ in outcomes:
            await anyio.lowlevel.checkpoint()


async def use_submit(pool: InjectedPool) -> None:
    """Call one by one."""
    for item in itertools.count():
        await pool.asubmit(load, item)


async def cancel_scope(use: Callable[[InjectedPool], Awaitable[None]], pool: InjectedPool, seconds: float) -> None:
    """Cancel after so long."""
    with anyio.move_on_after(seconds) as scope:
        await use(pool)
    assert scope.cancelled_caught


async def cancel_task(use: Callable[[InjectedPool], Any], pool: InjectedPool, seconds: float) -> None:
    """Cancel a task of asyncio's after so long."""
    task = asyncio.get_running_loop().create_task(use(pool))
    await asyncio.sleep(seconds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("use", [use_map, use_async_input, use_iterator, use_outcomes, use_submit])
@pytest.mark.parametrize(
    ("name", "cancel"), [("asyncio", cancel_task), ("asyncio", cancel_scope), ("trio", cancel_scope)]
)
def test_cancelled_at_random_moments_nothing_stays_open(
    backend: Kind, name: str, cancel: Callable[..., Awaitable[None]], use: Any, ledger: ModuleType
) -> None:
    """When the cancellation has arrived every scope is closed, and the pool goes on."""
    moments = random.Random(5)  # noqa: S311 - moments, not secrets

    async def main() -> None:
        async with backend.pool(2) as pool:
            for moment in range(MOMENTS):
                await cancel(use, pool, moments.random() * 0.05 if moment else 0)
                ledger.check_balanced()
                count = len(ledger.read())
                assert await pool.amap(abs, [-1, -2]) == [1, 2]
                assert len(ledger.read()) == count  # nothing has started since

    Loop(name).run(main)


def test_cancellation_waits_for_the_item_that_runs(parallel: Kind, loop: Loop, ledger: ModuleType) -> None:
    """No other starts; an async input is closed."""
    source = Counter(loop)

    async def main() -> None:
        async with parallel.pool(1) as pool:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.amap, load_held, source.items())
                await anyio.to_thread.run_sync(wait_for, "held")
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.1)
                    assert ledger.count("session") == 1
                    note("release")
            assert ledger.texts() == ["session 0+", "held 0", "release", "session 0-"]
            assert source.is_closed

    loop.run(main)


def test_cancellation_waits_no_longer_than_cleanup_timeout(loop: Loop, ledger: ModuleType) -> None:
    """For an item that does not come to its end."""

    async def main() -> None:
        async with Kind("thread").pool(1, cleanup_timeout=0.3) as pool:
            with anyio.move_on_after(0.1):
                await pool.amap(load_held, range(3))
            assert ledger.count("session 0-") == 0
            note("release")

    loop.run(main)
    ledger.check_balanced()


async def leave_by_break(pool: InjectedPool, items: Any) -> None:
    """Leave a loop."""
    async for item in pool.aimap(load, items):
        if item == 10:
            break


async def leave_by_aclosing(pool: InjectedPool, items: Any) -> None:
    """Leave a loop in a block."""
    async with aclosing(pool.aimap(load, items)) as results:
        async for item in results:
            if item == 10:
                break


async def leave_by_error(pool: InjectedPool, items: Any) -> None:
    """Leave a loop with an error."""
    with pytest.raises(KeyError):
        await raise_within(pool, items)


async def raise_within(pool: InjectedPool, items: Any) -> None:
    """Raise in a loop."""
    async for item in pool.aimap(load, items):
        if item == 10:
            raise KeyError(item)


async def leave_to_the_collector(pool: InjectedPool, items: Any) -> None:
    """Drop what refers to itself."""
    results: Any = pool.aimap(load, items)
    await anext(results)
    ring = [results]
    ring.append(ring)
    del results, ring
    gc.collect()


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_aclosing, leave_by_error, leave_to_the_collector])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_iterator_left_early_frees_its_work(
    backend: Kind, loop: Loop, leave: Callable[..., Awaitable[None]], is_async: bool, ledger: ModuleType
) -> None:
    """The pool is free, its input is closed, and nothing is open at the end."""
    source = Counter(loop)

    async def main() -> None:
        async with backend.pool(2) as pool:
            await leave(pool, source.items() if is_async else itertools.count())
            if leave is leave_by_aclosing:
                ledger.check_balanced()
                assert source.is_closed == is_async
            assert await pool.amap(abs, [-1]) == [1]
            while source.is_closed != is_async or "0 runs" not in repr(pool):  # noqa: ASYNC110 - the helper is bounded
                await anyio.sleep(0.001)
        ledger.check_balanced()

    loop.run(main)


def test_a_closed_iterator_is_at_its_end(loop: Loop) -> None:
    """Closed before it has begun, in the middle, twice; cancelled."""

    async def main() -> None:
        async with Kind("thread").pool(1) as pool:
            results = pool.aimap(abs, range(100))
            await results.aclose()
            assert [value async for value in results] == []
            results = pool.aimap(abs, range(100))
            assert await anext(results) == 0
            await results.aclose()
            await results.aclose()
            assert [value async for value in results] == []
            results = pool.aimap(abs, agenerate())
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anext(results)
            assert [value async for value in results] == []

    loop.run(main)


def test_an_input_that_waits_for_ever_is_given_up(loop: Loop) -> None:
    """When an item has failed, and when the pool is shut down."""
    states: list[str] = []

    async def source() -> AsyncIterator[int]:
        try:
            yield -1
            await anyio.sleep(3600)
        finally:
            states.append("closed")

    def fail(item: int) -> int:
        raise ValueError(item)

    async def main() -> None:
        async with Kind("thread").pool(1) as pool:
            with pytest.raises(ValueError, match="-1"):
                await pool.amap(fail, source())
            results = pool.aimap(abs, source())
            assert await anext(results) == 1
        with pytest.raises(PoolClosedError):
            await anext(results)

    loop.run(main)
    assert states == ["closed", "closed"]


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_block_left_with_an_exception_cancels(
    parallel: Kind, loop: Loop, is_cancelled: bool, ledger: ModuleType
) -> None:
    """What runs comes to its end, nothing else starts, and the exception goes on."""

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with parallel.pool(1) as pool:
                results = pool.aimap(load_held, range(1000), chunksize=10)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anext, results)
                    await anyio.to_thread.run_sync(wait_for, "held")
                    note("release")
                    if is_cancelled:
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()
                    raise KeyError("mine")

    if is_cancelled:
        loop.run(main)
    else:
        with pytest.RaisesGroup(KeyError):
            loop.run(main)
    ledger.check_balanced()
    assert ledger.count("held") < 1000


def test_a_drain_that_is_cancelled_cancels(parallel: Kind, loop: Loop, ledger: ModuleType) -> None:
    """And ends the pool before the cancellation goes on."""

    async def main() -> None:
        pool = parallel.pool(1)
        async with anyio.create_task_group() as tasks:
            future = await anyio.to_thread.run_sync(pool.submit, load_held, 1)
            await anyio.to_thread.run_sync(wait_for, "held")
            tasks.start_soon(pool.ashutdown)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
                note("release")
        assert future.done()
        assert "closed" in repr(pool)
        assert {worker.state for worker in pool.workers} == {"stopped"}

    loop.run(main)
    ledger.check_balanced()


def get_held_engine() -> Iterator[str]:
    """Wait for the test when it is built."""
    note("held")
    wait_for("release")
    yield from span("engine")


def test_a_block_that_is_cancelled_before_its_body_ends_the_pool(loop: Loop, ledger: ModuleType) -> None:
    """While providers are warmed."""

    async def main() -> None:
        pool = Kind("thread").pool(1, lifetimes={get_held_engine: "pool"}, warm=[get_held_engine])

        async def enter() -> None:
            async with pool:
                raise AssertionError

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter)
            await anyio.to_thread.run_sync(wait_for, "held")
            tasks.cancel_scope.cancel()
            note("release")
        with pytest.raises(PoolClosedError):
            await pool.amap(abs, [1])

    loop.run(main)
    ledger.check_balanced()


def test_an_event_loop_that_has_ended_leaves_the_pool_usable(loop: Loop) -> None:
    """An iterator that it has not come to the end of wakes nobody any more."""
    pool = Kind("thread").pool(1)
    kept: list[Any] = []

    async def main() -> None:
        results = pool.aimap(abs, itertools.count())
        assert await anext(results) == 0
        kept.append(results)

    loop.run(main)
    assert pool.map(abs, [-1]) == [1]
    kept.clear()
    assert loop.run(pool.amap, abs, [-1]) == [1]
    pool.shutdown()


class Bar:
    """A progress bar that knows whether it was closed."""

    closed = threading.Event()

    def __init__(self, total: int | None = None) -> None:
        assert total == 1
        Bar.closed.clear()

    def update(self, finished: int) -> None:
        """Take no notice."""

    def close(self) -> None:
        """Take note."""
        Bar.closed.set()


def test_a_run_that_is_left_before_it_begins_leaves_no_bar(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    """What prepares it on a thread goes on by itself, and finds that nobody waits."""
    started, go_on = threading.Event(), threading.Event()
    start = Engine.start

    def start_late(*args: Any) -> Any:
        started.set()
        assert go_on.wait(PATIENCE)
        return start(*args)

    monkeypatch.setattr(Engine, "start", start_late)

    async def main() -> None:
        async with InjectedPool(1, backend="thread") as pool:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: pool.amap(str, [1], progress=Bar))
                await anyio.to_thread.run_sync(started.wait, PATIENCE)
                group.cancel_scope.cancel()
            go_on.set()
            assert await anyio.to_thread.run_sync(Bar.closed.wait, PATIENCE)

    loop.run(main)
