"""Runs a chunk in a worker: one item after the other, each in its own scope and its own copy of the context."""

from __future__ import annotations

import contextvars
import itertools
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poolinject._injection.contexts import Values
from poolinject._injection.generators import Failed as ItemFailed
from poolinject._transport.codec import DamagedBatch, Unsendable
from poolinject._transport.messages import Chunk, FromWorker, Returned
from poolinject._worker.control import COUNTED, UNCOUNTED
from poolinject._worker.lifecycle import is_interrupt, is_terminated
from poolinject._worker.outcomes import Work
from poolinject._worker.recording import (
    BULK_SECONDS,
    BULK_SHARE,
    CALM_SECONDS,
    EXACT_SECONDS,
    HARMLESS_SECONDS,
    HARMLESS_SHARE,
    SHARE,
    Conduct,
    Cost,
    cost_of_recording,
)
from poolinject._worker.stores import Objects, Packed, Primitives
from poolinject._worker.timeouts import Clock, TimedItems
from poolinject.errors import WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from poolinject._injection.plan import Plan
    from poolinject._injection.runtime import Loop, Measured, Runtime
    from poolinject._transport.payloads import Arena
    from poolinject._worker.beside import TaskCalls
    from poolinject._worker.control import Control
    from poolinject._worker.copies import Original
    from poolinject._worker.journal import Journal
    from poolinject._worker.memory import MemoryWatch

UNRECORDED = Cost(4e-6, 0.0, 1e-7)  # stands for what recording takes where nothing is recorded


@dataclass(slots=True)
class Loaded:
    """A function that the worker knows; ``error`` tells why one could not be loaded."""

    loop: Loop
    conduct: Conduct
    plan: Plan | None = None
    bulk: Loop | None = None
    measured: Measured | None = None
    tasks: TaskCalls | None = None
    error: Exception | None = None
    has_objects: bool = False  # results that must be pickled one by one
    seconds: float = 0.0  # that an item of the newest chunk took


class ChunkRunner:
    """The loop over the items of a chunk.

    One thread calls the methods, save that any thread may ``look`` and ``terminate`` meanwhile.
    """

    def __init__(
        self,
        runtime: Runtime,
        control: Control,
        send: Callable[[FromWorker], None],
        *,
        pickles: bool,
        arena: Arena | None,
        journal: Journal | None,
        interruptible: bool,
        wake: Callable[[], None],
        original: Original,
    ) -> None:
        self._runtime, self._words, self._send = runtime, control.words, send
        self._pickles, self._arena = pickles, arena
        self._journal = journal
        self._cost = UNRECORDED if journal is None else cost_of_recording(journal)
        self._harmless = min(HARMLESS_SHARE * self._cost.whole, HARMLESS_SECONDS)
        self._bulk = min(BULK_SHARE * self._cost.whole, BULK_SECONDS)
        self._interruptible, self._wake, self._original = interruptible, wake, original
        original.on_copy = self._detach
        self._work: Work | None = None
        self._clock: Clock | None = None  # of items with a time limit
        self.memory: MemoryWatch | None = None
        self._sending = threading.Lock()
        self._interrupt: BaseException | None = None
        self._failed_run = -1  # of which no further item is to start
        self.terminated = False

    def new_conduct(self, plan: Plan | None = None) -> Conduct:
        """Begin to watch the items of a function."""
        return Conduct(self._cost.call, self._runtime.worker.generation, plan)

    @property
    def is_at_work(self) -> bool:
        """Whether there is a chunk in progress."""
        return self._work is not None

    def terminate(self) -> None:
        """Start no further item."""
        self.terminated = True
        if self._work is not None:
            self._work.stop()

    def _detach(self) -> None:
        """Have the loop end with the item that it is at; nothing of a copy may reach the caller meanwhile."""
        if self._work is not None:
            self._work.detach()
        if self._clock is not None:
            self._clock.detach()

    def run(self, function: Loaded, chunk: Chunk) -> None:
        """Run the items of a chunk up to its bound and send their outcomes."""
        began = time.perf_counter()
        loop, work = self._open(function, chunk)
        if chunk.run == self._failed_run:
            work.stop()
        if chunk.timeout:
            self._start_clock(chunk.timeout)
        function.conduct.begin()
        if function.measured is not None:
            measured = function.measured.loop
            if len(chunk.items) > 1:  # the first finds nothing in the caches, and waits for other workers' locks
                self._go(loop, work, most=1)
            self._go(_guarded(measured) if isinstance(chunk.items, DamagedBatch) else measured, work, most=1)
        self._go(loop, work)
        while work.resume(self._arena):
            self._send_all()
            self._go(loop, work)
        function.conduct.end(work.done, work.recording(self._cost.around))
        function.has_objects |= work.has_objects
        self._send_rest(function, work)
        if work.done:
            function.seconds = (time.perf_counter() - began) / work.done
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt

    def _send_rest(self, function: Loaded, work: Work) -> None:
        """Send what has not been sent; not in ``run``, whose frame an error refers to: each would keep the other."""
        with self._sending:
            self._work = None
            sampled = () if function.measured is None else function.measured.take()
            self._send(work.results(done=True, sampled=sampled))

    def _open(self, function: Loaded, chunk: Chunk) -> tuple[Loop, Work]:
        """Come to a chunk."""
        loop, counts = self._loop(function, chunk)
        is_quicker = function.conduct.is_quicker_than
        limit = min(self._cost.whole / SHARE, EXACT_SECONDS) if chunk.exact else CALM_SECONDS
        is_quick = not chunk.timeout and is_quicker(limit, harmless=self._harmless)  # with the pickling of each
        make = Work if self.memory is None else self.memory.work
        work = self._work = make(
            chunk,
            self._store(function, is_quick=is_quick),
            self._words,
            self._journal,
            self._attend,
            seconds=function.seconds,
            is_quick=is_quick,
            counts=counts,
        )
        self._words[3 * chunk.slot + 2] = COUNTED if counts else UNCOUNTED  # opened: the bound is read after this
        self._wake()
        self.look()
        return loop, work

    def _start_clock(self, timeout: float) -> None:
        if self._clock is None:
            self._clock = Clock(self._words, self._runtime.loop)
        self._clock.prepare(timeout)

    def _store(self, function: Loaded, *, is_quick: bool) -> Objects | Packed:
        if not self._pickles:
            return Objects()
        return Primitives() if is_quick and not function.has_objects else Packed(self._arena)

    def _loop(self, function: Loaded, chunk: Chunk) -> tuple[Loop, bool]:
        """Choose the loop for a chunk; tell whether it counts."""
        damaged = isinstance(chunk.items, DamagedBatch)
        bulk, is_quicker = function.bulk, function.conduct.is_quicker_than
        exact = chunk.exact or damaged or function.has_objects  # those take longer to pickle than to count
        if bulk is not None and not exact and is_quicker(self._bulk, harmless=self._bulk):
            return bulk, False
        return _guarded(function.loop) if damaged else function.loop, True

    def _go(self, loop: Loop, work: Work, most: int | None = None) -> None:
        """Go through the items, with a fresh copy of the context for each that changed the one before."""
        chunk, words, place, fail = work.chunk, self._words, 3 * work.chunk.slot + 1, self._fail
        kept: list[Any] | Work | TimedItems = work.kept
        other: Callable[[Any], None] = work.other
        numbered: Iterable[Any] = work.numbered if most is None else itertools.islice(work.numbered, most)
        if chunk.timeout and self._clock is not None:
            timed = TimedItems(self._clock, numbered, work, fail)
            numbered, kept, other, fail = iter(timed), timed, timed.append, timed.fail
        again: bool | None = True
        while again:
            context = contextvars.copy_context()
            clean = Values(context) if context else context.copy()
            try:
                again = context.run(loop, numbered, chunk.attempt, words, place, kept, other, fail, context, clean)
            except BaseException as interrupt:
                self._original.end_copy(interrupt)
                if not self._interruptible:
                    raise
                self._interrupt = interrupt  # between two items
                work.stop()
                again = False
            if self._original.is_copy:  # the loop has ended because of that
                self._original.end_copy()

    def _fail(self, failed: ItemFailed) -> bool:
        """Note a failure; give whether the chunk ends with it."""
        self._original.end_copy(failed.error)
        work = self._work
        assert work is not None  # noqa: S101 - tells mypy
        if self._interruptible and is_interrupt(failed.error):
            self._interrupt = failed.error
        elif is_terminated(failed.error):  # the end of a worker process, which is not the caller's
            error = WorkerLostError(self._runtime.worker.worker_id, -signal.SIGTERM, work.chunk.start + work.done)
            error.__cause__ = failed.error
            failed = ItemFailed(error, "lost", None)
        work.fail(failed)
        if work.chunk.stop_on_failure:
            self._failed_run = work.chunk.run
        ends = work.chunk.stop_on_failure or self.terminated or self._interrupt is not None
        if ends:
            work.stop()
        return ends

    def look(self) -> float:
        """Heed the bound of the chunk in progress and send what is due; give the seconds until the next."""
        work = self._work
        if work is None:
            return 0.0
        if self._clock is not None:
            self._clock.look()
        if self.terminated:
            work.stop()
        work.heed_bound()
        if self._sending.acquire(blocking=False):
            try:
                if work is self._work:
                    self._send_part(work)
            finally:
                self._sending.release()
        return work.pause

    def _send_part(self, work: Work) -> None:
        if work.is_due(time.perf_counter()) or not work.record():
            self._send(work.results(done=False))
        if work.owes_answer:  # after the outcomes, so that the caller knows what there is left to take
            work.owes_answer = False
            self._send(Returned(work.chunk.id, work.kept_items))

    def _attend(self) -> None:
        """Send what is due, on the thread that runs the items."""
        if self._clock is not None:
            self._clock.settle()  # the item is not to answer for a caller who is slow to read
        with self._sending:
            if self._work is not None:
                self._send_part(self._work)

    def _send_all(self) -> None:
        """Send the packed outcomes that there are."""
        with self._sending:
            results = None if self._work is None else self._work.results(done=False)
            if results is not None and results.size:
                self._send(results)


def _guarded(loop: Loop) -> Loop:
    """Make a loop that fails the items which did not arrive."""

    def guarded(numbered: Iterable[tuple[int, Any]], attempt: int, begun: Any, place: int, *rest: Any) -> bool | None:
        kept, other, fail, *contexts = rest
        for number, item in numbered:
            if type(item) is Unsendable:
                begun[place] = number
                ended = False if fail(ItemFailed(item.error, "transport", None)) else None
            else:
                ended = loop([(number, item)], attempt, begun, place, kept, other, fail, *contexts)
            if ended is not None:
                return ended
        return None

    return guarded


def failing(error: Exception) -> Loop:
    """Make a loop that fails every item."""

    def fail_each(
        numbered: Iterable[tuple[int, Any]], _attempt: int, begun: Any, place: int, *rest: Any
    ) -> bool | None:
        _kept, _other, fail, *_ = rest
        for begun[place], _item in numbered:
            if fail(ItemFailed(error, "transport", None)):
                return False
        return None

    return fail_each
