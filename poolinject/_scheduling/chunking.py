"""How many items go into one message, learnt from what items take. Runs in the caller; pure arithmetic."""

from __future__ import annotations

import math

TARGET_SECONDS = 0.01  # of work in a chunk: long against a message, short against the patience of a reader
TAIL_SECONDS = 0.001  # of work in a chunk near the end, where small chunks keep all workers busy
PREFETCH_SECONDS = 0.02  # a chunk that takes longer is sent only to a worker that has nothing to do
GROWTH = 4  # how many times the size of the chunk before
MOST = 8192  # items in one chunk
MOST_UNITS = 64  # chunks of the size asked for that one message carries where they are short
MOST_BYTES = 1 << 20  # of items, or of results, in one chunk that has more than one


class Chunking:
    """Sizes for one run, in multiples of *unit* where the user asks for one, at most *most* if that is more."""

    def __init__(self, unit: int | None, most: int = MOST) -> None:
        self.unit = unit or 1
        bound = MOST if unit is None else unit * MOST_UNITS
        self._most = max(self.unit, min(most, bound))
        self.seconds: float | None = None  # an item's, as seen so far
        self._bytes = 0.0  # an item's or a result's, as seen so far
        self._size = self.unit
        self._seen = 0  # items of the newest observation

    @property
    def size(self) -> int:
        """The size of the next chunk, where the input has as many."""
        return self._size

    def observe(self, count: int, seconds: float) -> None:
        """Learn from so many items that took so long in a worker."""
        if count == 0:
            return
        newest = seconds / count
        weight = count / (count + min(self._seen, count))  # a half, more where it saw more items than the one before
        self.seconds = newest if self.seconds is None else weight * newest + (1 - weight) * self.seconds
        self._seen = count
        wanted = int(TARGET_SECONDS / max(self.seconds, 1e-9))
        grown = max(self._size, min(wanted, count * GROWTH, self._most))
        self._resize(grown if wanted > self._size else wanted)

    def weigh(self, count: int, size: int) -> None:
        """Learn from so many items, or results, that had so many bytes together."""
        if count and size > MOST_BYTES // MOST:
            self._bytes = max(size / count, 0.5 * self._bytes)
            self._resize(self._size)

    def _resize(self, wanted: int) -> None:
        size = min(wanted, int(MOST_BYTES / self._bytes)) if self._bytes else wanted
        self._size = max(size - size % self.unit, self.unit)

    def take(self, available: int, *, ended: bool, workers: int) -> int:
        """Say how many of the items that are there go into the next chunk."""
        size = self._size
        if ended and self.seconds is not None:
            share = -(-available // (2 * workers))
            size = min(size, max(share, int(TAIL_SECONDS / max(self.seconds, 1e-9)), 1))
            size += -size % self.unit
        return min(size, available)

    def estimate(self, count: int) -> float:
        """Say how long so many items may take, in seconds; infinite before anything is known."""
        return math.inf if self.seconds is None else self.seconds * count
