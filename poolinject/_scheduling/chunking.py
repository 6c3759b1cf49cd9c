"""How many items go into one message, learnt from what items take. Runs in the caller; pure arithmetic."""

from __future__ import annotations

import math

TARGET_SECONDS = 0.01  # of work in a chunk: long against a message, short against the patience of a reader
TAIL_SECONDS = 0.001  # of work in a chunk near the end, where small chunks keep all workers busy
PREFETCH_SECONDS = 0.02  # a chunk that takes longer is sent only to a worker that has nothing to do
GROWTH = 4  # how many times the size of the chunk before
MOST = 8192  # items in one chunk


class Chunking:
    """Sizes for one run: as asked for, or adapted."""

    def __init__(self, fixed: int | None, most: int = MOST) -> None:
        self.fixed, self._most = fixed, max(1, min(most, MOST))
        self.seconds: float | None = None  # an item's, as seen so far
        self._size = 1 if fixed is None else fixed
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
        if self.fixed is None:
            wanted = int(TARGET_SECONDS / max(self.seconds, 1e-9))
            grown = max(self._size, min(wanted, count * GROWTH, self._most))
            self._size = grown if wanted > self._size else max(1, wanted)

    def take(self, available: int, *, ended: bool, workers: int) -> int:
        """Say how many of the items that are there go into the next chunk."""
        if self.fixed is not None:
            return min(self.fixed, available)
        size = self._size
        if ended and self.seconds is not None:
            share = -(-available // (2 * workers))
            size = min(size, max(share, int(TAIL_SECONDS / max(self.seconds, 1e-9)), 1))
        return min(size, available)

    def estimate(self, count: int) -> float:
        """Say how long so many items may take, in seconds; infinite before anything is known."""
        return math.inf if self.seconds is None else self.seconds * count
