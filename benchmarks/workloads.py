"""The functions that pools run on their workers, beside those of the seed graph. Importable, so sent by reference."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
ARRAY_BYTES = 16 * 1024 * 1024
ARRAY_LENGTH = ARRAY_BYTES // 8
PAGE = 4096 // 8  # numbers in a page of memory
KEPT_ARRAYS = 16
SPIN_SECONDS = 0.0003  # longer than a sleep overshoots
_kept: list[Array] = []


def same(item: int) -> int:
    """Do nothing: what is measured is the way there and back."""
    return item


def touch(array: Array) -> float:
    """Read a number of every page, so that an array that only looks as if it were there has to come; and the last."""
    return float(array[::PAGE].sum() + array[-1])


def filled(number: int) -> Array:
    """Make an array; ``touch`` gives ``expected_of(number)`` for it."""
    return np.full(ARRAY_LENGTH, float(number))


def expected_of(number: int) -> float:
    """Say what ``touch`` gives for an array that is full of that number."""
    return float(number * (ARRAY_LENGTH // PAGE + 1))


def give_array(number: int) -> Array:
    """Give an array that this process keeps, marked with the number: what is measured is its way, not its making.

    ``touch`` gives twice the number for it. No array comes again before 15 others, so that a pool may send it late.
    """
    if not _kept:
        _kept.extend(filled(0) for _ in range(KEPT_ARRAYS))
    array = _kept[number % KEPT_ARRAYS]
    array[0] = array[-1] = number
    return array


def last_for(seconds: float) -> float:
    """Last exactly so long: a sleep, but the last 0.3 ms spin, since sleeping overshoots by 0.06 ms and more."""
    deadline = time.perf_counter() + seconds
    if seconds > SPIN_SECONDS:
        time.sleep(seconds - SPIN_SECONDS)
    while time.perf_counter() < deadline:
        pass
    return seconds


def sleep_for(seconds: float) -> float:
    """Sleep."""
    time.sleep(seconds)
    return seconds


async def sleep_beside(seconds: float) -> float:
    """Sleep on the event loop."""
    await asyncio.sleep(seconds)
    return seconds


async def spin_beside(turns: int) -> int:
    """Compute on the event loop, which turns before."""
    await asyncio.sleep(0)
    return spin(turns)


def spin(turns: int) -> int:
    """Go through a loop so many times."""
    done = 0
    for _ in range(turns):
        done += 1
    return done


def skewed(count: int, seconds: float, long_count: int, long_seconds: float, seed: int) -> list[float]:
    """Give the durations of so many items, a few of them long, at places drawn with that seed."""
    durations = [seconds] * count
    for place in random.Random(seed).sample(range(count), long_count):  # noqa: S311 - places, not secrets
        durations[place] = long_seconds
    return durations


def ideal_makespan(durations: Sequence[float], workers: int) -> float:
    """Give the seconds that no schedule undercuts: ``max(sum(durations) / workers, max(durations))``."""
    longest = max(durations)
    return max(sum(durations) / workers, longest)


def in_order_makespan(durations: Sequence[float], workers: int) -> float:
    """Give the seconds of a pool without any cost that starts items in order, each on the first worker that is free."""
    free_at = [0.0] * workers
    for duration in durations:
        first = free_at.index(min(free_at))
        free_at[first] += duration
    return max(free_at)
