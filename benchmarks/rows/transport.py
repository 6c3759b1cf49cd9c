"""Rows about the way there and back: trivial items in every chunk size, large arrays, inputs of every length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from benchmarks import workloads
from benchmarks.measure import Contestant, Round, compete
from benchmarks.peers import (
    EXECUTOR,
    JOBLIB,
    LOKY,
    MP_IMAP,
    MP_MAP,
    MPIRE,
    PEBBLE,
    POOLINJECT_IMAP,
    POOLINJECT_MAP,
    WORKERS,
    Peer,
    Work,
)
from benchmarks.row import Check, Effort, Result, Row

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ITEMS_A_ROUND = 100_000  # of the row of sizes: small inputs are mapped several times in a round
FLAT = 1.2


def trivial(count: int, *, sized: bool = True) -> Work:
    """Make the work that is only a way there and back; without ``sized`` the input is a generator."""
    numbers = range(count)

    def items() -> Iterable[int]:
        return numbers if sized else (number for number in numbers)

    return Work(workloads.same, items, count, lambda results: results == list(numbers))


def measure_map(effort: Effort) -> Result:
    """Each chooses its chunk size; those that would choose one item get 1,000."""
    work = trivial(effort.size(100_000, 10_000))
    ours, theirs = work.by(POOLINJECT_MAP), work.by(MP_MAP)
    peers = [
        work.by(EXECUTOR, chunksize=1000, information=True),
        work.by(LOKY, chunksize=1000, information=True),
        work.by(JOBLIB, information=True),
        work.by(MPIRE, information=True),
        work.by(PEBBLE, chunksize=1000, information=True),
    ]
    contest = compete([ours, theirs, *peers], effort.rounds(9))
    result = contest.result()
    result.checks.append(Check(theirs.name, contest.ratio(ours.name, theirs.name), "<=", 0.9))
    return result


def measure_imap(effort: Effort) -> Result:
    """The input is a generator of 100,000 for both."""
    work = trivial(effort.size(100_000, 10_000), sized=False)
    ours, theirs = work.by(POOLINJECT_IMAP), work.by(MP_IMAP, chunksize=1000)
    contest = compete([ours, theirs], effort.rounds(9))
    result = contest.result()
    result.checks.append(Check(theirs.name, contest.ratio(ours.name, theirs.name), "<=", 0.9))
    return result


def measure_imap_one(effort: Effort) -> Result:
    """One item a message for everyone; 5,000 items."""
    work = trivial(effort.size(5_000, 1_000))
    ours, pool, executor = (work.by(peer, chunksize=1) for peer in (POOLINJECT_IMAP, MP_IMAP, EXECUTOR))
    peers = [work.by(peer, chunksize=1, information=True) for peer in (PEBBLE, MPIRE, LOKY, JOBLIB)]
    contest = compete([ours, pool, executor, *peers], effort.rounds(5))
    result = contest.result()
    result.checks.append(Check(pool.name, contest.ratio(ours.name, pool.name), "<=", 0.35))
    result.checks.append(Check(executor.name, contest.ratio(ours.name, executor.name), "<=", 0.08))
    return result


def measure_arrays_send(effort: Effort) -> Result:
    """Other arrays in each round, made before it; the function reads a number of every page."""
    count = effort.size(16, 4)
    expected = [workloads.expected_of(number) for number in range(count)]
    work = Work(
        workloads.touch,
        lambda: [workloads.filled(number) for number in range(count)],
        count,
        lambda results: results == expected,
    )
    return _measure_arrays(work, effort)


def measure_arrays_back(effort: Effort) -> Result:
    """Arrays that the workers keep are marked and returned; the caller reads a number of every page, then drops it."""
    count = effort.size(16, 4)

    def consume(arrays: Iterable[Any]) -> Sequence[float]:
        return [workloads.touch(array) for array in arrays]

    work = Work(
        workloads.give_array,
        lambda: range(count),
        count,
        lambda results: results == [2.0 * number for number in range(count)],
        consume,
    )
    return _measure_arrays(work, effort)


def _measure_arrays(work: Work, effort: Effort) -> Result:
    ours, theirs = work.by(POOLINJECT_IMAP), work.by(MP_IMAP)
    peers = [work.by(EXECUTOR, information=True), work.by(LOKY, information=True)]
    peers.append(work.by(JOBLIB, chunksize=1, information=True))
    contest = compete([ours, theirs, *peers], effort.rounds(5))
    result = contest.result("ms an array")
    result.checks.append(Check(theirs.name, contest.ratio(theirs.name, ours.name), ">=", 4, "times"))
    for contestant in (ours, theirs):
        speed = workloads.ARRAY_BYTES / contest.best(contestant.name) / 1e9
        result.notes.append(f"{contestant.name}: {speed:.2f} GB/s")
    return result


def measure_sizes(effort: Effort) -> Result:
    """Trivial ``map`` on one warm pool; small inputs several times in a round, so that rounds are long enough."""
    sizes = effort.size(SIZES, SIZES[:2])
    ours = _of_sizes(POOLINJECT_MAP, "poolinject", sizes)
    theirs = [replace(contestant, information=True) for contestant in _of_sizes(MP_MAP, "mp.Pool.map", sizes)]
    contest = compete([*ours, *theirs], effort.rounds(9))
    result = contest.result()
    for contestants in (ours, theirs):
        best = [contest.best(contestant.name) for contestant in contestants if contestant.name in contest.rounds]
        spread = max(best) / min(best)
        if contestants is ours:
            result.checks.append(Check("the slowest size to the fastest", spread, "<=", FLAT))
        else:
            result.notes.append(f"mp.Pool.map: the slowest size takes {spread:.2f} times the fastest")
    return result


def _of_sizes(peer: Peer, name: str, sizes: Sequence[int]) -> list[Contestant]:
    return [_of_size(peer, f"{name}, {size:,}", size) for size in sizes]


def _of_size(peer: Peer, name: str, size: int) -> Contestant:
    times = max(1, ITEMS_A_ROUND // size)
    work = trivial(size)

    @contextmanager
    def opened() -> Iterator[Round]:
        with replace(work, workers=WORKERS).by(peer).open() as once:
            yield lambda: sum(once() for _ in range(times))

    return Contestant(name, size * times, opened)


MAP = Row("map", "trivial `map`, 100,000", "`mp.Pool.map`", "<= 0.9", measure_map)
IMAP = Row("imap", "trivial `imap`, unknown length, adaptive", "`mp.Pool.imap(chunksize=1000)`", "<= 0.9", measure_imap)
IMAP_ONE = Row(
    "imap-one",
    "trivial `imap(chunksize=1)`",
    "`mp.Pool.imap`; `ProcessPoolExecutor.map`",
    "<= 0.35; <= 0.08",
    measure_imap_one,
)
ARRAYS_SEND = Row("arrays-send", "16 MB arrays, to workers", "`mp.Pool.imap`", ">= 4 times", measure_arrays_send)
ARRAYS_BACK = Row("arrays-back", "16 MB arrays, back", "`mp.Pool.imap`", ">= 4 times", measure_arrays_back)
SIZES_ROW = Row("sizes", "1,000 to 1,000,000 items: time per item", "", "flat within 20 %", measure_sizes)
