"""The event loop goes on while a pool works, and a consumer that pauses pauses the input."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.async_pool.conftest import Loop
from tests.conftest import Kind

BOUND = 0.1  # seconds; what a busy machine takes from any thread
ROUNDS = 5


def echo(item: Any) -> Any:
    """Return the item."""
    return item


async def measure(kind: Kind, use: Callable[[Any], Any]) -> float:
    """Give the longest time for which a task that is always ready was not run while a pool lived."""
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        before = time.perf_counter()
        while True:
            await anyio.sleep(0.001)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        async with kind.pool(2) as pool:
            await use(pool)
        tasks.cancel_scope.cancel()
    return longest


async def use_lists(pool: Any) -> None:
    """Give and take lists."""
    assert len(await pool.amap(echo, list(range(20_000)))) == 20_000


async def use_streams(pool: Any) -> None:
    """Give an input that is always ready, take outcomes that are."""
    assert len([outcome async for outcome in pool.aoutcomes(echo, count(20_000))]) == 20_000


async def count(most: int) -> AsyncIterator[int]:
    """Count, without ever waiting."""
    for number in range(most):
        yield number


@pytest.mark.parametrize("use", [use_lists, use_streams])
def test_the_event_loop_is_not_blocked(backend: Kind, loop: Loop, use: Callable[[Any], Any]) -> None:
    """While workers start, 20,000 items run and the pool is shut down."""
    longest = 1.0
    for _ in range(ROUNDS):
        longest = min(longest, loop.run(measure, backend, use))
        if longest < BOUND:
            break
    assert longest < BOUND


class Counter:
    """An endless async input that knows how much of it was read, and whether it was closed.

    On trio, where cancellation lasts, waiting while it is closed needs a shield.
    """

    def __init__(self, loop: Loop) -> None:
        self.is_shielded = loop.name == "trio"
        self.read = 0
        self.is_closed = False

    async def items(self) -> AsyncIterator[int]:
        """Give the items."""
        try:
            while True:
                await anyio.lowlevel.checkpoint()
                self.read += 1
                yield self.read - 1
        finally:
            with anyio.CancelScope(shield=self.is_shielded):
                await anyio.lowlevel.checkpoint()
            self.is_closed = True

    async def settle(self) -> int:
        """Wait until nothing has been read for a while and give how much was."""
        before = -1
        while before != self.read:
            before = self.read
            await anyio.sleep(0.1)
        return self.read


@pytest.mark.parametrize(("limit", "chunksize"), [(1, None), (2, 3), (20, None), (20, 3)])
@pytest.mark.parametrize("method", ["aimap", "aimap_unordered", "aoutcomes"])
def test_a_paused_consumer_pauses_an_async_input(loop: Loop, limit: int, chunksize: int | None, method: str) -> None:
    """What was read is what was handed out and what may be in flight, never more."""
    source = Counter(loop)

    async def main() -> None:
        async with Kind("thread").pool(2, max_in_flight=limit) as pool:
            results = getattr(pool, method)(echo, source.items(), chunksize=chunksize)
            for taken in (1, 2, 30):
                for _ in range(taken):
                    await anext(results)
                assert limit <= await source.settle() <= limit + 33
                assert source.read <= limit + 1 + (taken > 1) * 2 + (taken > 2) * 30
            await results.aclose()
        assert source.is_closed

    loop.run(main)


def test_amap_reads_no_further_than_the_limit(loop: Loop) -> None:
    """Though nobody takes its results before the end."""
    gate = threading.Event()
    read = 0

    def wait(item: int) -> int:
        assert gate.wait(15)
        return item

    async def source() -> AsyncIterator[int]:
        nonlocal read
        for number in range(100):
            read += 1
            yield number

    async def main() -> None:
        async with Kind("thread").pool(1, max_in_flight=10) as pool, anyio.create_task_group() as tasks:
            tasks.start_soon(pool.amap, wait, source())
            await anyio.sleep(0.2)
            assert read == 10
            gate.set()
        assert read == 100

    loop.run(main)


def test_a_blocking_iterable_does_not_block_the_event_loop(loop: Loop) -> None:
    """It is read on a thread, where it may wait for what a task does."""
    gate = threading.Event()

    def source() -> Any:
        yield 1
        assert gate.wait(15)
        yield 2

    async def main() -> None:
        async with Kind("thread").pool(1) as pool:
            results = pool.aimap(echo, source())
            assert await anext(results) == 1
            gate.set()
            assert [value async for value in results] == [2]

    loop.run(main)


def test_threads_of_the_application_may_all_be_busy(loop: Loop) -> None:
    """The pool takes none of those that anyio limits, which may be waiting for it."""
    gate = threading.Event()

    async def main() -> None:
        async with Kind("thread").pool(1) as pool, anyio.create_task_group() as tasks:
            most = int(anyio.to_thread.current_default_thread_limiter().total_tokens)
            for _ in range(most):
                tasks.start_soon(anyio.to_thread.run_sync, gate.wait, 15)
            await anyio.wait_all_tasks_blocked()
            assert await pool.amap(echo, iter([1, 2])) == [1, 2]
            gate.set()

    loop.run(main)
