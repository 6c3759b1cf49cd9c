"""Items that wait until their time has come. Runs on the driver's thread."""

from __future__ import annotations

import math
import time
from heapq import heappop, heappush


class Timetable:
    """When which items are due, known by run and index."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, run: int, index: int, delay: float) -> None:
        """An item is due in so many seconds."""
        heappush(self._heap, (time.monotonic() + delay, run, index))

    def take_due(self) -> list[tuple[int, int]]:
        """Give the items whose time has come, once."""
        now, due = time.monotonic(), list[tuple[int, int]]()
        while self._heap and self._heap[0][0] <= now:
            due.append(heappop(self._heap)[1:])
        return due

    def rest(self) -> float:
        """Give the seconds until the next item is due; infinite where there is none."""
        return self._heap[0][0] - time.monotonic() if self._heap else math.inf
