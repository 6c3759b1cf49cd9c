"""In-flight limit and reorder buffer. Runs in the caller; pure arithmetic, never blocks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Backpressure:
    """How much of the input may be read: read minus released never exceeds the limit.

    Attributes:
        limit: Items that may be in flight or held for the caller.
        read: Items taken from the input.
        released: Items whose outcomes the caller has got.
    """

    limit: int
    read: int = 0
    released: int = 0

    @property
    def room(self) -> int:
        """How many items may be read now; negative where the limit was lowered."""
        return self.limit + self.released - self.read


class ReorderBuffer:
    """Holds blocks of outcomes until all before them have come; a block is a start and a count."""

    def __init__(self) -> None:
        self._next = 0
        self._held: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(self._held.values())

    def push(self, start: int, count: int) -> list[tuple[int, int]]:
        """Add a block; give the blocks that are next in order."""
        if start != self._next:
            self._held[start] = count
            return []
        in_order = [(start, count)]
        self._next = start + count
        while (following := self._held.pop(self._next, None)) is not None:
            in_order.append((self._next, following))
            self._next += following
        return in_order
