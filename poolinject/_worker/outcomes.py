"""The chunk that a worker is at: which of its items may still start, and the outcomes that have not been sent.

One thread runs the items, others may look in at any time: they cut the items short, and take outcomes to send them.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import TYPE_CHECKING, Any

from poolinject._atoms import snapshot
from poolinject._transport import remote_errors, wire
from poolinject._transport.messages import Chunk, Failed, Results
from poolinject._worker.control import suspects
from poolinject._worker.monitor import TICK_SECONDS, pause
from poolinject._worker.stores import Objects, Packed, Primitives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from poolinject._injection.generators import Failed as ItemFailed
    from poolinject._transport.payloads import Arena
    from poolinject._worker.journal import Journal

MEASURED = 64  # results of a chunk of which it is measured what packing and recording them takes
_AT_END = 2  # members of what a pickle would say of an iterator over a list that has ended


class Work:
    """A chunk in progress; *seconds* is what an item of it may take.

    With a journal what each item has come to is recorded there at once, and of quick ones each time that somebody
    looks. *attend* sends what is due, on the thread that runs the items, after one that was not quick.
    """

    def __init__(
        self,
        chunk: Chunk,
        store: Objects | Packed,
        words: memoryview,
        journal: Journal | None = None,
        attend: Callable[[], None] = lambda: None,
        *,
        seconds: float,
        is_quick: bool,
        counts: bool,
    ) -> None:
        self.chunk, self.lock = chunk, threading.Lock()
        self._store, self._words, self._is_quick, self._counts = store, words, is_quick, counts
        self._journal, self._seconds, self._attend = journal, seconds, attend
        self._recorded = 0  # outcomes in the store that the journal has, where they are recorded together
        self.has_objects = False  # which must be pickled at once, before another item can change them
        self._object: list[Any] = []  # the first of them
        self._measured, self._least = 0, math.inf  # results; seconds that packing and recording one took at least
        self._is_placed = False  # a reader of the journal knows which item the next entry is about
        self._place = 3 * chunk.slot  # of the bound
        self._failures: list[Failed] = []
        self._each: list[float] = []
        self._offset = 0  # of the first outcome that has not been sent
        self._began = self._last = time.perf_counter()
        self._longest = TICK_SECONDS if chunk.unit else chunk.patience  # that outcomes wait for others, in seconds
        self._due = self._began + self._longest
        self._stopped = self._is_full = False  # full is the journal
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
        elif len(reduced) > _AT_END:  # the last member is the place in the list
            handed_out = self._before + reduced[2]
        else:  # there is none at its end, when all have come to something, be it not taken yet
            handed_out = min(self.done + len(self._object), self._bound)
        return max(self._words[self._place], handed_out)

    @property
    def done(self) -> int:
        """How many items of the chunk have come to something."""
        return self._offset + len(self._store)

    @property
    def pause(self) -> float:
        """For how many seconds nobody needs to look in."""
        if self._is_quick and self._counts:
            return TICK_SECONDS
        return pause(self._seconds if self._counts else math.inf, self.chunk.patience, self.chunk.timeout)

    def stop(self) -> None:
        """Let no further item start."""
        self._stopped = True
        self.cut(0)

    def detach(self) -> None:
        """Start no further item and record nothing; for a copy of the process, where no other thread lives."""
        self.lock, self._journal, self._attend = threading.Lock(), None, lambda: None
        self.stop()

    @property
    def other(self) -> Callable[[Any], None]:
        """What takes the result of an item which is not an atom by its type."""
        append = self.kept.append
        if not isinstance(self._store, Primitives):
            return append

        def take_changing(value: Any) -> None:
            copy = snapshot(value)
            if copy is not None:
                append(copy)
            else:
                self._take_object(value)

        return take_changing

    def _take_object(self, value: Any) -> None:
        """Take a result that the next item may change and that cannot be copied: it ends the loop, for ``resume``."""
        self.has_objects = True
        self._object.append(value)
        self.cut(0)

    def resume(self, arena: Arena | None) -> bool:
        """Pickle results one by one from here on, on the thread that runs the items; give whether there are more."""
        if not self._object:
            return False
        with self.lock:
            if isinstance(self._store, Primitives):
                mark = suspects(self._words, self.chunk.slot, self.chunk.start + self._offset)
                self._store = self._store.packed(arena, mark)
        self.append(self._object[0])
        self._object.clear()  # not before: whoever asks what is kept meanwhile would not find it
        with self.lock:
            if not self._stopped:
                self._begin(self.done)  # each item that was begun has come to something
                self.heed_bound()  # which may have been lowered, and answered for, since
        return not self._stopped and bool(self._items)

    @property
    def kept(self) -> list[Any] | Work:
        """What the result of an item is appended to."""
        if self._is_quick and isinstance(self._store, Objects) and not self.chunk.timed:
            return self._store.values  # the monitor heeds the bound
        return self

    def append(self, value: Any) -> None:
        """Take the result of an item."""
        began = time.perf_counter() if self._measured < MEASURED else 0.0
        with self.lock:
            self._store.add(value)
            if self.chunk.timed:
                self._time(time.perf_counter())
            self._is_full = not (self._journal is None or self._record_last(self._journal))
        if began:
            self._measured += 1
            self._least = min(self._least, time.perf_counter() - began)
        self._look()

    def _look(self) -> None:
        """Do after an item what the monitor would do later."""
        if self._words[self._place] < self._bound:
            self.heed_bound()
        if self._is_full or self.owes_answer or time.perf_counter() > self._due:
            self._attend()

    def recording(self, around: float) -> float:
        """Give the seconds that went at least into packing and recording the results, each with so many *around* it."""
        return (self._least + around) * self.done if self._measured else 0.0

    def fail(self, failed: ItemFailed) -> None:
        """Take the failure of an item."""
        now, text = time.perf_counter(), remote_errors.traceback_text(failed.error)
        with self.lock:
            record = Failed(len(self._store), failed.error, text, failed.phase, failed.provider)
            self._failures.append(record)
            self._store.add(None)
            if self.chunk.tells_failures:
                self._due = self._began + TICK_SECONDS
            if self.chunk.timed:
                self._time(now)
            self._is_full = not (self._journal is None or self._record_last(self._journal, record))
        self._look()

    def _record_last(self, journal: Journal, failed: Failed | None = None) -> bool:
        """Record what the last item has come to, if they are recorded one by one; false where there is no room."""
        store = self._store
        if self._is_quick or not isinstance(store, Packed):
            return True
        is_plain = failed is None and not self.chunk.timed
        bare = store.bare() if is_plain and self._is_placed else None
        if bare is not None:
            return journal.add(bare)
        packed, index = store.last(), self.chunk.start + self.done - 1
        self._is_placed = True
        if is_plain:
            return journal.add(wire.encode_single(self.chunk.id, index, self._seconds, packed))
        failures = () if failed is None else (failed._replace(offset=0),)
        return journal.add(self._frame(index, 1, packed, failures, tuple(self._each[-1:])))

    def _frame(
        self, start: int, count: int, values: bytes, failures: tuple[Failed, ...], each: tuple[float, ...]
    ) -> bytes:
        seconds = self._seconds * count
        results = Results(self.chunk.id, start, count, values, failures, seconds, each, done=False)
        return b"".join(wire.encode_from_worker(results))

    def record(self) -> bool:
        """Record what quick items have come to since the last time; any thread may do it, one at a time.

        What is too quick to be counted is not recorded either. False where there is no room.
        """
        if self._journal is None or not (self._is_quick and self._counts):
            return True
        with self.lock:
            before, count, store = self._recorded, len(self._store), self._store
            if count <= before or not isinstance(store, (Primitives, Packed)):
                return True
            data = store.part(before, count)
            failures = tuple(
                each._replace(offset=each.offset - before) for each in self._failures if before <= each.offset < count
            )
            start, each = self.chunk.start + self._offset + before, tuple(self._each[before:count])
            fits = self._journal.add(self._frame(start, count - before, data, failures, each))
            self._recorded = count if fits else before
        return fits

    def _time(self, now: float) -> None:
        self._each.append(now - self._last)
        self._last = now

    def _let_go(self, begin: int, end: int) -> None:
        """Drop items whose outcomes leave while others still run; a caller that shares the memory sees to its own."""
        held = [(self._items, self._before)]
        if type(self._store) is not Objects and isinstance(self.chunk.items, list):
            held.append((self.chunk.items, 0))
        for items, before in held:
            with contextlib.suppress(IndexError):  # where the chunk is cut meanwhile
                for place in range(max(begin - before, 0), max(end - before, 0)):
                    items[place] = None

    def is_due(self, now: float) -> bool:
        """Tell whether outcomes should be sent before the chunk has ended."""
        count, chunk = len(self._store), self.chunk
        is_wanted = self.owes_answer or self._is_full or 0 < chunk.unit <= count
        is_wanted = is_wanted or (chunk.tells_failures and bool(self._failures))
        return count > 0 and (is_wanted or now - self._began > chunk.patience)

    def results(self, *, done: bool, sampled: tuple[tuple[str, int, float], ...] = ()) -> Results:
        """Make the message of all outcomes so far."""
        with self.lock:
            values, count = self._store.take()
            now = time.perf_counter()
            failures, each = tuple(self._failures), tuple(self._each)
            self._failures.clear()
            self._each.clear()
            start, seconds = self.chunk.start + self._offset, now - self._began
            self._offset += count
            self._began, self._due, self._is_full = now, now + self._longest, False
            self._recorded, self._is_placed = 0, False
            is_recorded = not self._is_quick and isinstance(self._store, Packed)
            mark = self._journal.mark if self._journal is not None and is_recorded else 0
        if not done:
            self._let_go(self._offset - count, self._offset)
        return Results(self.chunk.id, start, count, values, failures, seconds, each, done, sampled, mark=mark)
