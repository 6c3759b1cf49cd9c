"""Sizes of chunks, the in-flight limit and the reorder buffer, in tables."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolinject._scheduling.backpressure import Backpressure, ReorderBuffer
from poolinject._scheduling.chunking import GROWTH, MOST, MOST_BYTES, MOST_UNITS, TARGET_SECONDS, Chunking


@pytest.mark.parametrize(
    ("unit", "available", "ended", "size"),
    [(1, 10, False, 1), (4, 10, False, 4), (4, 3, False, 3), (4, 3, True, 3), (10_000, 20_000, True, 10_000)],
)
def test_unit_is_the_least(*, unit: int, available: int, ended: bool, size: int) -> None:
    """However slow the items, a chunk has what the user asked for; only the input can make it smaller."""
    chunking = Chunking(unit)
    chunking.observe(1, 100.0)
    assert chunking.take(available, ended=ended, workers=2) == size


def test_size_is_a_multiple_of_the_unit() -> None:
    """Fast items are sent several units at a time, but not more than ``MOST_UNITS``."""
    chunking, sizes = Chunking(3), []
    for _ in range(8):
        size = chunking.take(10**6, ended=False, workers=2)
        sizes.append(size)
        chunking.observe(size, size * 1e-7)
    assert sizes[:4] == [3, 12, 48, 192]
    assert sizes[-1] == 3 * MOST_UNITS


def test_large_items_go_one_by_one() -> None:
    """A chunk has no more bytes than are worth a message, once it is known how large an item is."""
    chunking = Chunking(None)
    for _ in range(8):
        chunking.observe(chunking.size, chunking.size * 1e-6)
    chunking.weigh(10, 10 * MOST_BYTES // 8)
    assert chunking.size == 8
    chunking.observe(8, 8e-6)
    assert chunking.size == 8
    chunking.weigh(1, 2 * MOST_BYTES)
    assert chunking.size == 1


def test_first_chunk_has_one_item() -> None:
    """Nothing is known yet, so nothing is risked."""
    assert Chunking(None).take(1000, ended=True, workers=2) == 1
    assert Chunking(None).estimate(5) == math.inf


def test_size_grows_step_by_step_to_the_target() -> None:
    """Fast items go by the thousand after a few chunks, each at most ``GROWTH`` times the one before."""
    chunking, sizes = Chunking(None), []
    for _ in range(8):
        size = chunking.take(10**6, ended=False, workers=2)
        sizes.append(size)
        chunking.observe(size, size * 1e-6)
    assert sizes[:4] == [1, GROWTH, GROWTH**2, GROWTH**3]
    assert sizes[-1] == pytest.approx(min(MOST, TARGET_SECONDS / 1e-6), rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "size"), [(10.0, 1), (TARGET_SECONDS, 1), (TARGET_SECONDS / 5.5, 4), (0.0, 4)], ids=str
)
def test_second_chunk_follows_from_the_first(seconds: float, size: int) -> None:
    """Slow items go one by one, fast ones four at a time at once."""
    chunking = Chunking(None)
    chunking.observe(1, seconds)
    assert chunking.size == size


def test_size_falls_at_once_where_items_become_slow() -> None:
    """A chunk never keeps the size that fast items gave it."""
    chunking = Chunking(None)
    for _ in range(8):
        chunking.observe(chunking.size, chunking.size * 1e-6)
    chunking.observe(chunking.size, chunking.size * 1.0)
    assert chunking.size == 1


def test_answer_in_part_does_not_shrink_the_chunks() -> None:
    """A block of one fast item, the rest of a chunk, says nothing against the size that was reached."""
    chunking = Chunking(None)
    for _ in range(4):
        chunking.observe(chunking.size, chunking.size * 1e-6)
    before = chunking.size
    chunking.observe(1, 1e-6)
    chunking.observe(0, 5.0)
    assert chunking.size >= before


def test_most_bounds_the_size() -> None:
    """A low in-flight limit keeps chunks so small that all workers get some."""
    chunking = Chunking(None, 3)
    for _ in range(5):
        chunking.observe(chunking.size, 0.0)
    assert chunking.size == 3
    assert Chunking(None, 0).take(5, ended=False, workers=1) == 1


def test_tail_is_shared_among_the_workers() -> None:
    """Near the end of the input the rest is cut so that no worker has the last big chunk alone."""
    chunking = Chunking(None)
    for _ in range(8):
        chunking.observe(chunking.size, chunking.size * 1e-4)
    assert chunking.take(80, ended=False, workers=2) == pytest.approx(80, abs=20)
    assert chunking.take(80, ended=True, workers=2) == 20
    assert chunking.take(8, ended=True, workers=2) == pytest.approx(8, abs=1)  # a millisecond's worth is not cut


def test_estimate_follows_what_was_seen() -> None:
    """A count of items costs so many times an item."""
    chunking = Chunking(5)
    chunking.observe(2, 1.0)
    assert chunking.estimate(10) == pytest.approx(5.0)


@given(
    seconds=st.lists(st.floats(0, 10, allow_nan=False), max_size=20),
    available=st.integers(1, 10**5),
    unit=st.none() | st.integers(1, 10**5),
    ended=st.booleans(),
    workers=st.integers(1, 64),
)
def test_chunk_is_never_empty_nor_larger_than_the_input(
    *, seconds: list[float], available: int, unit: int | None, ended: bool, workers: int
) -> None:
    """Whatever was observed, a chunk takes at least one of the items and no more than there are."""
    chunking = Chunking(unit)
    for observed in seconds:
        chunking.observe(chunking.size, observed)
    assert (
        1
        <= chunking.take(available, ended=ended, workers=workers)
        <= min(available, MOST if unit is None else unit * MOST_UNITS)
    )


def test_room_is_what_the_limit_leaves() -> None:
    """Reading takes room, releasing gives it back, a lower limit makes it negative."""
    pressure = Backpressure(5)
    pressure.read += 5
    assert pressure.room == 0
    pressure.released += 2
    assert pressure.room == 2
    pressure.limit = 1
    assert pressure.room == -2


@given(st.lists(st.integers(1, 5), max_size=30), st.randoms())
def test_reorder_buffer_gives_every_block_in_order(counts: list[int], chance: random.Random) -> None:
    """Blocks pushed in any order come out once each, without a gap, as early as they can."""
    starts = [sum(counts[:position]) for position in range(len(counts))]
    blocks = list(zip(starts, counts, strict=True))
    shuffled = blocks.copy()
    chance.shuffle(shuffled)
    buffer, out = ReorderBuffer(), []
    for position, (start, count) in enumerate(shuffled, 1):
        out += buffer.push(start, count)
        pushed = set(shuffled[:position])
        reachable = next((number for number, block in enumerate(blocks) if block not in pushed), len(blocks))
        assert out == blocks[:reachable]
        assert len(buffer) == sum(count for _, count in pushed) - sum(count for _, count in out)
    assert out == blocks
