"""How many items go into one message, learnt from what items take. Runs in the caller; pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

TARGET_SECONDS = 0.01  # of work in a chunk: long against a message, short against the patience of a reader
EAGER_SECONDS = 0.25  # the same where nobody reads before the end
COSTLY_SECONDS = 0.1  # the same where a message costs milliseconds
BESIDE_SECONDS = 0.001  # the same, for each item that runs beside others
EAGER_BESIDE_SECONDS = 0.005  # the same for each of those, where nobody reads before the end
TAIL_SECONDS = 0.001  # of work in a chunk near the end, where small chunks keep all workers busy
GROWTH = 4  # how many times the size of the chunk before
MOST = 8192  # items in one chunk
MOST_UNITS = 64  # chunks of the size asked for that one message carries where they are short
MOST_BYTES = 1 << 20  # of items, or of results, in one chunk that has more than one


@dataclass(slots=True)
class Pace:
    """What is known of the items of a function, from this run and those before.

    Attributes:
        seconds: What an item takes in a worker, ``None`` before the first one.
        size: Bytes of an item or a result, the larger.
        seen: Items of the newest observation.
    """

    seconds: float | None = None
    size: float = 0.0
    seen: int = 0

    def observe(self, count: int, seconds: float) -> None:
        """Learn from so many items that took so long."""
        newest = seconds / count
        weight = count / (count + min(self.seen, count))  # a half, more where it saw more items than the one before
        self.seconds = newest if self.seconds is None else weight * newest + (1 - weight) * self.seconds
        self.seen = count


class Chunking:
    """Sizes for one run, in multiples of *unit* where the user asks for one, at most *most* if that is more."""

    def __init__(
        self, unit: int | None, most: int = MOST, pace: Pace | None = None, target: float = TARGET_SECONDS
    ) -> None:
        self.unit, self._target = unit or 1, target
        bound = MOST if unit is None else unit * MOST_UNITS
        self._most = max(self.unit, min(most, bound))
        self.pace = pace or Pace()
        self._size = self.unit
        if self.pace.seconds is not None:
            self._resize(min(self._wanted(self.pace.seconds), self._most))

    @property
    def size(self) -> int:
        """The size of the next chunk, where the input has as many."""
        return self._size

    @property
    def is_growing(self) -> bool:
        """Whether the chunks after the next observation will be much larger than those before it."""
        seconds = self.pace.seconds
        return seconds is not None and 2 * self._size < self._bounded(min(self._wanted(seconds), self._most))

    def observe(self, count: int, seconds: float) -> None:
        """Learn from so many items that took so long in a worker."""
        if count == 0:
            return
        self.pace.observe(count, seconds)
        wanted = self._wanted(self.pace.seconds or 0.0)
        grown = max(self._size, min(wanted, count * GROWTH, self._most))
        self._resize(grown if wanted > self._size else wanted)

    def _wanted(self, seconds: float) -> int:
        return int(self._target / max(seconds, 1e-9))

    def weigh(self, count: int, size: int) -> None:
        """Learn from so many items, or results, that had so many bytes together."""
        if count and size > MOST_BYTES // MOST:
            self.pace.size = max(size / count, 0.5 * self.pace.size)
            self._resize(self._size)

    def _resize(self, wanted: int) -> None:
        size = self._bounded(wanted)
        self._size = max(size - size % self.unit, self.unit)

    def _bounded(self, wanted: int) -> int:
        return min(wanted, int(MOST_BYTES / self.pace.size)) if self.pace.size else wanted

    def take(self, available: int, *, ended: bool, workers: int) -> int:
        """Say how many of the items that are there go into the next chunk."""
        size = self._size
        if ended and self.pace.seconds is not None:
            share = -(-available // (2 * workers))
            size = min(size, max(share, int(TAIL_SECONDS / max(self.pace.seconds, 1e-9)), 1))
            size += -size % self.unit
        return min(size, available)

    def estimate(self, count: int) -> float:
        """Say how long so many items may take, in seconds; infinite before anything is known."""
        return math.inf if self.pace.seconds is None else self.pace.seconds * count
