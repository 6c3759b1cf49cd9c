"""What keeps the results of a chunk until they are sent: as they are, or pickled, together or each by itself.

One thread adds to it; any may ``take``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolinject._transport.batch_writer import BatchWriter, encode_atoms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poolinject._transport.codec import Mark
    from poolinject._transport.payloads import Arena


class Objects:
    """Results as they are, for a caller that shares the memory."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def add(self, value: Any) -> None:
        """Take a result."""
        self.values.append(value)

    def __len__(self) -> int:
        return len(self.values)

    def take(self) -> tuple[Sequence[Any], int]:
        """Give what has been added and how much that is, and forget it."""
        taken = self.values[:]
        del self.values[: len(taken)]  # the other thread may have added to it
        return taken, len(taken)


class Primitives(Objects):
    """Results to be pickled together, by any thread: atoms, and copies of what has nothing but atoms."""

    def take(self) -> tuple[bytes, int]:
        """Pickle them."""
        taken = self.values[:]
        del self.values[: len(taken)]
        return encode_atoms(taken), len(taken)

    def part(self, begin: int, end: int) -> bytes:
        """Pickle some of them, which stay; more may come meanwhile."""
        return encode_atoms(self.values[begin:end])

    def packed(self, arena: Arena | None, mark: Mark) -> Packed:
        """Pickle each of them, on the thread that made them; the mark says which."""
        packed, place = Packed(arena), mark.place
        for place[0], value in zip(mark.numbers, self.values, strict=False):
            packed.add(value)
        place[0] = 0
        return packed


class Packed:
    """Results pickled one by one, each by the thread that made it, when its item has ended."""

    def __init__(self, arena: Arena | None) -> None:
        self._writer = BatchWriter("result", arena)
        self.add, self.bare = self._writer.add, self._writer.bare

    def __len__(self) -> int:
        return len(self._writer)

    def take(self) -> tuple[bytes, int]:
        """Give the bytes of the batch."""
        return self._writer.take()

    def last(self) -> bytes:
        """Give the bytes of a batch of the newest one alone."""
        return self._writer.last()

    def part(self, begin: int, end: int) -> bytes:
        """Give the bytes of a batch of the newest, up to the last one, which stay."""
        return self._writer.last(end - begin)
