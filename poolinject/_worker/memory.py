"""How much memory a worker has, looked at after its items, so that one with too much is recycled before the next."""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from poolinject._transport.messages import Worn
from poolinject._worker.outcomes import Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._injection.generators import Failed as ItemFailed
    from poolinject._transport.messages import FromWorker

LOOK_SECONDS = 5e-4  # between two looks; a look takes some 5 µs
PAGE = os.sysconf("SC_PAGE_SIZE")
UNIT = 1 if sys.platform == "darwin" else 1024  # of what ``getrusage`` says


def resident() -> int:
    """Give the bytes that this process has in memory, as ``ps`` shows them; where there is no ``/proc``, the peak."""
    try:
        file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
    try:
        return int(os.read(file, 128).split()[1]) * PAGE
    finally:
        os.close(file)


class Stoppable(Protocol):
    """What runs items."""

    def stop(self) -> None:
        """Start no further item."""


class MemoryWatch:
    """Tells the caller when the worker has more than the limit after an item; no item starts from then on."""

    def __init__(self, limit: int, send: Callable[[FromWorker], None]) -> None:
        self._limit, self._send = limit, send
        self._items, self._looked_at = 0, 0.0
        self.is_worn = False

    def work(self, *parts: Any, **how: Any) -> WatchedWork:
        """Make the work of a chunk, of what ``Work`` is made of."""
        return WatchedWork(self, *parts, **how)

    def look(self, work: Stoppable) -> None:
        """Look after an item, unless the last look was only just now."""
        self._items += 1
        now = time.perf_counter()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        memory = resident()
        if memory > self._limit and not self.is_worn:
            self.is_worn = True
            self._send(Worn(memory, self._items))
            work.stop()


class WatchedWork(Work):
    """A chunk in progress whose items are looked after one by one."""

    def __init__(self, watch: MemoryWatch, *parts: Any, **how: Any) -> None:
        super().__init__(*parts, **how)
        self._watch = watch
        if watch.is_worn:
            self.stop()

    @property
    def kept(self) -> WatchedWork:
        """What the result of an item is appended to."""
        return self

    def append(self, value: Any) -> None:
        """Take the result of an item."""
        super().append(value)
        self._watch.look(self)

    def fail(self, failed: ItemFailed) -> None:
        """Take the failure of an item."""
        super().fail(failed)
        self._watch.look(self)
