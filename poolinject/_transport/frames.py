"""Frames of a stream socket: a kind, a length, the body. Runs in the caller and in workers; no I/O of its own."""

from __future__ import annotations

import struct

from poolinject._transport.picklers import Buffer

HEADER = struct.Struct("<BQ")
_JOIN_LIMIT = 1 << 14  # up to here a copy is cheaper than one more buffer for the system call


def pack(kind: int, *parts: Buffer) -> list[Buffer]:
    """Return the buffers of one frame, in order, fit for ``sendmsg``; large parts are not copied."""
    length = sum(map(len, parts))
    header = HEADER.pack(kind, length)
    if length <= _JOIN_LIMIT:
        return [b"".join((header, *parts))]
    return [header, *parts]


class FrameReader:
    """Puts frames together from whatever pieces arrive.

    A body that lies whole in one piece is cut out of it; any other is copied once, to its place in a buffer of its
    own size.
    """

    __slots__ = ("_body", "_filled", "_header", "_kind")

    def __init__(self) -> None:
        self._header = b""  # the part of a header that has arrived
        self._body: bytearray | None = None
        self._kind = self._filled = 0

    @property
    def is_between_frames(self) -> bool:
        """Whether the stream may end here without loss."""
        return self._body is None and not self._header

    def feed(self, data: Buffer) -> list[tuple[int, bytes | bytearray]]:
        """Return the frames that *data* completes; *data* may be reused afterwards."""
        frames: list[tuple[int, bytes | bytearray]] = []
        view, position, end = memoryview(data), 0, len(data)
        while position < end:
            if self._body is None:
                kind, length, position = self._read_header(view, position)
                if length is None:
                    break
                if end - position >= length:
                    frames.append((kind, bytes(view[position : position + length])))
                    position += length
                    continue
                self._kind, self._body, self._filled = kind, bytearray(length), 0
            body = self._body
            taken = min(len(body) - self._filled, end - position)
            body[self._filled : self._filled + taken] = view[position : position + taken]
            self._filled += taken
            position += taken
            if self._filled == len(body):
                frames.append((self._kind, body))
                self._body = None
        return frames

    def _read_header(self, view: memoryview, position: int) -> tuple[int, int | None, int]:
        """Return kind, length (``None`` while bytes of the header are missing) and the new position."""
        if not self._header and len(view) - position >= HEADER.size:
            return *HEADER.unpack_from(view, position), position + HEADER.size
        missing = HEADER.size - len(self._header)
        self._header += view[position : position + missing]
        position = min(position + missing, len(view))
        if len(self._header) < HEADER.size:
            return 0, None, position
        kind, length = HEADER.unpack(self._header)
        self._header = b""
        return kind, length, position
