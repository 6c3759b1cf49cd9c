"""The chunk that a worker is at: which of its items may still start, and the outcomes that have not been sent.

One thread runs the items, others may look in at any time: they cut the items short, and take outcomes to send them.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from poolinject._transport import codec, remote_errors
from poolinject._transport.messages import Chunk, Failed, Results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from poolinject._injection.generators import Failed as ItemFailed
    from poolinject._transport.payloads import Arena

_AT_END = 2  # members of what a pickle would say of an iterator over a list that has ended


class Objects:
    """Results as they are, for a caller that shares the memory."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.add: Callable[[Any], None] = self.values.append

    def __len__(self) -> int:
        return len(self.values)

    def take(self) -> tuple[Sequence[Any], int] | None:
        """Give what has been added and how much that is, and forget it."""
        taken = self.values[:]
        del self.values[: len(taken)]  # the other thread may have added to it
        return taken, len(taken)


class Primitives(Objects):
    """Results to be pickled together, which is quick; any thread may do it, if they are builtin primitives."""

    def take(self) -> tuple[bytes, int] | None:
        """Pickle them; ``None`` where there are other objects among them."""
        taken = self.values[:]
        data = codec.encode_primitives(taken)
        if data is None:
            return None
        del self.values[: len(taken)]
        return data, len(taken)

    def packed(self, arena: Arena | None) -> Packed:
        """Pickle each of them, on the thread that made them."""
        packed = Packed(arena)
        for value in self.values:
            packed.add(value)
        self.values.clear()
        return packed


class Packed:
    """Results pickled one by one, each by the thread that made it, when its item has ended."""

    def __init__(self, arena: Arena | None) -> None:
        self._writer = codec.BatchWriter("result", arena)
        self.add = self._writer.add

    def __len__(self) -> int:
        return len(self._writer)

    def take(self) -> tuple[bytes, int] | None:
        """Give the bytes of the batch."""
        return self._writer.take()


class Work:
    """A chunk in progress."""

    def __init__(
        self, chunk: Chunk, store: Objects | Packed, words: memoryview, *, is_quick: bool, counts: bool
    ) -> None:
        self.chunk, self.lock = chunk, threading.Lock()
        self._store, self._words, self._is_quick, self._counts = store, words, is_quick, counts
        self._place = 3 * chunk.slot  # of the bound
        self._failures: list[Failed] = []
        self._each: list[float] = []
        self._offset = 0  # of the first outcome that has not been sent
        self._began = self._last = time.perf_counter()
        self._paused = self._stopped = False
        self.owes_answer = False  # about what was taken back
        self._begin(0)

    def _begin(self, done: int) -> None:
        self._before = done
        self._items = list(self.chunk.items[done:])  # a loop over a list ends where the list is cut
        self._bound = done + len(self._items)
        first = self.chunk.start + done + 1
        self.numbered: Iterator[Any] = enumerate(self._items, first) if self._counts else iter(self._items)

    def cut(self, bound: int) -> bool:
        """Let no further item start but the first *bound* of the chunk; give whether that is fewer than before."""
        position = max(bound - self._before, 0)
        if position >= len(self._items):
            return False
        del self._items[position:]
        return True

    def heed_bound(self) -> None:
        """Cut the chunk where the caller has lowered its bound; it is to be told what is kept."""
        if self.cut(self._words[self._place]):
            self.owes_answer = True

    @property
    def kept_items(self) -> int:
        """How many items of the chunk have begun or will: those handed out, to the one, by what a pickle would say."""
        reduced: Any = self.numbered.__reduce__()
        if self._counts:
            handed_out = int(reduced[1][1]) - 1 - self.chunk.start
        else:  # the last member is the place in the list; there is none at its end, when all have come to something
            handed_out = self._before + reduced[2] if len(reduced) > _AT_END else self.done
        return max(self._words[self._place], handed_out)

    @property
    def done(self) -> int:
        """How many items of the chunk have come to something."""
        return self._offset + len(self._store)

    def stop(self) -> None:
        """Let no further item start."""
        self._stopped = True
        self.cut(0)

    def pause(self) -> None:
        """Make the running code come out of its loop to call ``resume``: results must be pickled one by one."""
        self._paused = True
        self.cut(0)

    def resume(self, arena: Arena | None) -> bool:
        """Go on after ``pause``, on the thread that runs the items; give whether there is anything to go on with."""
        if not self._paused or self._stopped:
            return False
        self._paused = False
        self.pack(arena)
        with self.lock:
            self._begin(self.done)  # each item that was begun has come to something
        return self._before < len(self.chunk.items)

    def pack(self, arena: Arena | None) -> None:
        """Pickle results one by one from here on, and those that there are; on the thread that runs the items."""
        with self.lock:
            if isinstance(self._store, Primitives):
                self._store = self._store.packed(arena)

    @property
    def kept(self) -> list[Any] | Work:
        """What the result of an item is appended to."""
        if self._is_quick and isinstance(self._store, Objects) and not self.chunk.timed:
            return self._store.values  # the monitor heeds the bound
        return self

    def append(self, value: Any) -> None:
        """Take the result of an item."""
        with self.lock:
            self._store.add(value)
            if self.chunk.timed:
                self._time(time.perf_counter())
        if self._words[self._place] < self._bound:
            self.heed_bound()

    def fail(self, failed: ItemFailed) -> None:
        """Take the failure of an item."""
        now, text = time.perf_counter(), remote_errors.traceback_text(failed.error)
        with self.lock:
            self._failures.append(Failed(len(self._store), failed.error, text, failed.phase, failed.provider))
            self._store.add(None)
            if self.chunk.timed:
                self._time(now)
        self.heed_bound()

    def _time(self, now: float) -> None:
        self._each.append(now - self._last)
        self._last = now

    def is_due(self, now: float) -> bool:
        """Tell whether outcomes should be sent before the chunk has ended."""
        count, unit = len(self._store), self.chunk.unit
        return count > 0 and (now - self._began > self.chunk.patience or 0 < unit <= count)

    def results(self, *, done: bool, sampled: tuple[tuple[str, int, float], ...] = ()) -> Results | None:
        """Make the message of all outcomes so far; ``None`` where they must be packed first."""
        with self.lock:
            taken = self._store.take()
            if taken is None:
                return None
            values, count = taken
            now = time.perf_counter()
            failures, each = tuple(self._failures), tuple(self._each)
            self._failures.clear()
            self._each.clear()
            start, seconds = self.chunk.start + self._offset, now - self._began
            self._offset += count
            self._began = now
        return Results(self.chunk.id, start, count, values, failures, seconds, each, done, sampled)
