import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolinject._transport.frames import FrameReader, pack

FRAMES = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=100)), max_size=20)


def stream(*frames: tuple[int, bytes]) -> bytes:
    """Return the bytes of all *frames*."""
    return b"".join(bytes(buffer) for frame in frames for buffer in pack(*frame))


@settings(max_examples=50, deadline=None)
@given(FRAMES, st.lists(st.integers(1, 50)))
def test_frames_survive_any_cutting(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """Pieces of any size give the same frames in the same order."""
    data, reader, received = stream(*frames), FrameReader(), []
    for cut in cuts:
        received += reader.feed(data[:cut])
        data = data[cut:]
    received += reader.feed(data)
    assert [(kind, bytes(body)) for kind, body in received] == frames
    assert reader.is_between_frames


def test_parts_are_joined_when_small_and_left_alone_when_large() -> None:
    """A large part is handed on without a copy."""
    assert len(pack(1, b"a", b"b")) == 1
    large = b"x" * 1_000_000
    header, first, second = pack(1, b"a", large)
    assert (first, len(header)) == (b"a", 9)
    assert second is large


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_fed_buffer_may_be_reused(wrap: type[memoryview]) -> None:
    """Frames do not look into the buffer that they were cut from."""
    buffer = bytearray(stream((1, b"abc"), (2, b"de")))
    reader = FrameReader()
    frames = reader.feed(wrap(buffer))
    buffer[:] = bytes(len(buffer))
    assert frames == [(1, b"abc"), (2, b"de")]


def test_huge_frame_is_copied_once() -> None:
    """A body that comes in many pieces needs its own size in memory, no more."""
    size, piece = 32 << 20, b"x" * (1 << 16)
    reader, received = FrameReader(), []
    tracemalloc.start()
    try:
        reader.feed(pack(7, memoryview(bytes(size)))[0])
        for _ in range(size // len(piece)):
            received += reader.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [(kind, len(body)) for kind, body in received] == [(7, size)]
    assert peak < 2.2 * size  # the body, and the sender's


def test_unfinished_frame_is_noticed() -> None:
    """The end of a stream within a frame can be told from a proper end."""
    for end in (1, 8, 9, 11):
        reader = FrameReader()
        assert reader.feed(stream((1, b"abc"))[:end]) == []
        assert not reader.is_between_frames
