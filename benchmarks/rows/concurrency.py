"""Rows about coroutine functions: many items that wait beside each other, and items that compute."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import workloads
from benchmarks.measure import compete
from benchmarks.peers import CONTEXT, WORKERS, Peer, Run, Work
from benchmarks.row import Check, Effort, Result, Row
from poolinject import InjectedPool

BESIDE = 500  # items at once on each of two workers, so that as many wait as in the one process
SLEEP_SECONDS = 0.01
PEER_SECONDS = 120.0  # in which a peer has to end a round
CALIBRATING_TURNS = 1_000_000


def measure_async_sleep(effort: Effort) -> Result:
    """As many items wait at the same time everywhere: 1,000."""
    durations = [SLEEP_SECONDS] * effort.size(20_000, 2_000)
    work = Work(workloads.sleep_beside, lambda: durations, len(durations), lambda results: results == durations)
    ours = work.by(Peer(f"poolinject map(concurrency={BESIDE})", functools.partial(open_poolinject, BESIDE)))
    alone = work.by(Peer(f"asyncio.gather, Semaphore({2 * BESIDE:,})", functools.partial(open_gather, 2 * BESIDE)))
    name = f"aiomultiprocess map(childconcurrency={BESIDE})"
    opened = functools.partial(open_aiomultiprocess, BESIDE)
    # It counts as information where it fails or takes too long: the row goes on without it.
    theirs = work.by(Peer(name, opened, "aiomultiprocess"), information=True)
    contest = compete([ours, alone, theirs], effort.rounds(5))
    result = contest.result()
    for other in (alone, theirs):
        if other.name in contest.rounds:
            result.checks.append(Check(other.name, contest.ratio(ours.name, other.name), "<=", 1.0))
    least = SLEEP_SECONDS * len(durations) / (2 * BESIDE)
    result.notes.append(f"no one can take less than {least:.2f} s: {least / len(durations) * 1e6:.1f} µs an item")
    return result


def measure_async_cpu(effort: Effort) -> Result:
    """Each item is so many turns of a loop as took 1 ms here; between two items each event loop turns."""
    turns = [_turns_in(0.001)] * effort.size(3_000, 300)
    work = Work(workloads.spin_beside, lambda: turns, len(turns), lambda results: results == turns)
    ours = work.by(Peer("poolinject map", functools.partial(open_poolinject, None)))
    alone = work.by(Peer("asyncio.gather, Semaphore(16)", functools.partial(open_gather, 16)))
    contest = compete([ours, alone], effort.rounds(5))
    result = contest.result("ms an item")
    result.checks.append(Check(alone.name, contest.ratio(alone.name, ours.name), ">=", 1.8, "times"))
    return result


def _turns_in(seconds: float) -> int:
    """Give how many turns of the loop take so long, in the best of some tries."""
    best = min(_seconds_of(lambda: workloads.spin(CALIBRATING_TURNS)) for _ in range(5))
    return max(int(CALIBRATING_TURNS * seconds / best), 1)


def _seconds_of(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@contextmanager
def open_poolinject(concurrency: int | None, workers: int) -> Iterator[Run]:
    """Open this library; it chooses the chunks of coroutine functions by itself."""
    with InjectedPool(workers) as pool:
        yield lambda func, items, _: pool.map(func, items, concurrency=concurrency)


@contextmanager
def open_gather(at_once: int, _: int) -> Iterator[Run]:
    """Open an event loop in this process; all items are tasks on it, so many of which get past a semaphore."""

    async def gather(func: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        room = asyncio.Semaphore(at_once)

        async def one(item: Any) -> Any:
            async with room:
                return await func(item)

        return await asyncio.gather(*map(one, items))

    with asyncio.Runner() as runner:
        yield lambda func, items, _: runner.run(gather(func, items))


@contextmanager
def open_aiomultiprocess(at_once: int, workers: int) -> Iterator[Run]:
    """Open aiomultiprocess, so many items at once in each process; it sends them one by one."""
    import aiomultiprocess  # noqa: PLC0415 - a peer may be missing

    aiomultiprocess.set_start_method(CONTEXT.get_start_method())

    async def map_in(pool: Any, func: Callable[..., Any], items: Iterable[Any]) -> Any:
        async with asyncio.timeout(PEER_SECONDS):
            return await pool.map(func, items)

    async def make() -> Any:
        return aiomultiprocess.Pool(workers, childconcurrency=at_once)

    async def end(pool: Any) -> None:
        pool.terminate()
        async with asyncio.timeout(PEER_SECONDS):
            await pool.join()

    with asyncio.Runner() as runner:
        pool = runner.run(make())
        try:
            yield lambda func, items, _: runner.run(map_in(pool, func, items))
        finally:
            runner.run(end(pool))


ASYNC_SLEEP = Row(
    "async-sleep",
    f"20,000 items of 10 ms `asyncio.sleep`, {WORKERS} workers, `concurrency={BESIDE}`",
    f"one process, `asyncio.gather`, {2 * BESIDE:,} at once; aiomultiprocess",
    "<= 1.0; <= 1.0",
    measure_async_sleep,
)
ASYNC_CPU = Row(
    "async-cpu",
    "coroutine function of 1 ms of Python, 3,000 items",
    "one process, `asyncio.gather`",
    ">= 1.8 times",
    measure_async_cpu,
)
