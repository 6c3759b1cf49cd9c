"""Large buffers in memory that both sides see: what comes out is what went in, and places are used again."""

import os
import pickle
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolinject._transport.batch_reader import decode_batch
from poolinject._transport.batch_writer import BatchWriter, encode_batch
from poolinject._transport.codec import DamagedBatch, Unsendable
from poolinject._transport.payloads import KEPT, LARGE, PLACES, Arena
from poolinject._worker.control import map_arena, shared_memory

Pair = tuple[Arena, Arena]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Give both sides of an arena with room for a few buffers."""
    arenas = make_pair(256 * PLACES)
    yield arenas
    for arena in arenas:
        arena.close()


def make_pair(size: int) -> Pair:
    """Make two views of one memory, as two processes have them."""
    fd = shared_memory(size)
    try:
        return map_arena(fd), map_arena(fd)
    finally:
        os.close(fd)


class Bad:
    """Sets a buffer aside and then cannot be pickled."""

    def __init__(self) -> None:
        self.array = np.zeros(LARGE)

    def __reduce__(self) -> Any:
        return list, (), None, iter([self.array, threading.Lock()])


def test_places_are_used_again_the_lowest_first(pair: Pair) -> None:
    """Once a buffer was taken its place is free, whatever order they are taken in."""
    sender, receiver = pair
    first, second, third = (sender.place(memoryview(bytes([number]) * 5000)) for number in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert receiver.take(second, 5000) == b"\1" * 5000
    assert sender.place(memoryview(b"x" * 6000)) == second
    assert receiver.take(first, 5000) == b"\0" * 5000
    assert receiver.take(third, 5000) == b"\2" * 5000
    assert sender.place(memoryview(b"y")) == first


def test_full_arena_takes_nothing(pair: Pair) -> None:
    """What does not fit goes the other way; nothing waits."""
    sender, receiver = pair
    place = sender.place(memoryview(bytes(252 * PLACES)))
    assert place is not None
    assert sender.place(memoryview(bytes(4 * PLACES))) is None
    assert sender.place(memoryview(bytes(3 * PLACES))) is not None
    receiver.take(place, 252 * PLACES)
    assert sender.place(memoryview(bytes(4 * PLACES))) is not None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30_000), st.integers(0, 5)), max_size=40))
def test_buffers_never_overlap(steps: list[tuple[int, int]]) -> None:
    """Any order of placing and taking gives back what was placed."""
    sender, receiver = make_pair(64 * PLACES)
    live: list[tuple[int, bytes]] = []
    for number, (size, takes) in enumerate(steps):
        data = bytes([number % 256]) * size
        place = sender.place(memoryview(data))
        if place is not None:
            live.append((place, data))
        for _ in range(min(takes, len(live))):
            place, data = live.pop(takes % len(live))
            assert receiver.take(place, len(data)) == data
    sender.close()
    receiver.close()


def test_memory_of_a_peak_is_given_back() -> None:
    """An arena that is empty again keeps no more than ``KEPT``."""
    sender, receiver = make_pair(4 * KEPT)
    place = sender.place(memoryview(bytes(3 * KEPT)))
    assert place is not None
    receiver.take(place, 1)
    assert sender.place(memoryview(b"x")) == place
    assert bytes(receiver.take(PLACES + 2 * KEPT, 10)) == bytes(10)
    sender.close()
    receiver.close()


def test_arrays_come_back_writable_and_on_their_own(pair: Pair) -> None:
    """What is received stays as it is when the place is used again."""
    array = np.arange(LARGE, dtype=np.uint8)
    data = encode_batch([array, {"inside": array}, 3], "item", pair[0])
    assert len(data) < 1000
    first, inside, three = decode_batch(data, "item", pair[1])
    encode_batch([np.full(LARGE, 7, dtype=np.uint8)], "item", pair[0])
    assert three == 3
    first[0] = 99
    assert first[1:].tolist() == inside["inside"][1:].tolist() == array[1:].tolist()
    assert inside["inside"][0] == 0


def test_arrays_beside_what_members_name(pair: Pair) -> None:
    """Each member takes its names and its buffers, however many names there are by then."""
    members: list[Any] = []
    for number in range(4):
        members.append((PurePosixPath(f"/{number}"), np.full(LARGE, number, np.uint8)))
        members.append([np.full(LARGE, 10 + number, np.uint16), Fraction(1, 3), np.arange(3)])
    again = decode_batch(encode_batch(members, "item", pair[0]), "item", pair[1])
    for number in range(4):
        path, array = again[2 * number]
        assert (path, int(array.sum())) == (PurePosixPath(f"/{number}"), number * LARGE)
        wide, third, small = again[2 * number + 1]
        assert (int(wide.sum()), third, small.tolist()) == ((10 + number) * LARGE, Fraction(1, 3), [0, 1, 2])
    writer = BatchWriter("item", pair[0])
    for member in members:
        writer.add(member)
    (path, array), _ = decode_batch(writer.last(2), "item", pair[1])
    assert (path, int(array.sum())) == (PurePosixPath("/3"), 3 * LARGE)


def test_readonly_array_stays_readonly(pair: Pair) -> None:
    """As after any pickle."""
    array = np.zeros(LARGE)
    array.flags.writeable = False
    (again,) = decode_batch(encode_batch([array], "item", pair[0]), "item", pair[1])
    assert not again.flags.writeable


def test_member_that_cannot_be_pickled_leaves_no_place_in_use(pair: Pair) -> None:
    """Its buffers are dropped, those of its neighbours come through."""
    writer = BatchWriter("item", pair[0])
    for member in (np.ones(LARGE, np.uint8), Bad(), np.full(LARGE, 2, np.uint8)):
        writer.add(member)
    data, count = writer.take()
    assert count == 3
    members = decode_batch(data, "item", pair[1])
    assert isinstance(members, DamagedBatch)
    assert [type(member) is Unsendable for member in members] == [False, True, False]
    assert members[0].sum() == LARGE
    assert members[2].sum() == 2 * LARGE
    assert pair[0].place(memoryview(b"x")) == PLACES


def test_small_arrays_stay_in_the_pickle(pair: Pair) -> None:
    """They are as quick that way."""
    array = np.zeros(10)
    assert pair[0].moved == 0
    (again,) = decode_batch(encode_batch([array], "item", pair[0]), "item", pair[1])
    assert again.tolist() == array.tolist()
    assert pair[0].moved == 0


def test_without_an_arena_buffers_are_in_the_pickle() -> None:
    """As where memory cannot be shared."""
    array = np.arange(LARGE)
    data = encode_batch([array])
    assert len(data) > array.nbytes
    assert decode_batch(data)[0].tolist() == array.tolist()
    assert pickle.loads(pickle.dumps(array)).tolist() == array.tolist()
