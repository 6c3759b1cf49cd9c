"""A run in the caller: input read on one side, outcomes taken on the other, the driver in between."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from poolinject._scheduling.blocks import Block
from poolinject._scheduling.reports import RunReport
from poolinject._scheduling.retries import Attempts
from poolinject._transport.messages import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from poolinject._scheduling.backpressure import Backpressure
    from poolinject._scheduling.chunking import Chunking
    from poolinject._scheduling.progress import Bar
    from poolinject._scheduling.retries import RetryPolicy
    from poolinject._transport.messages import Load

WAIT_SECONDS = 1.0  # after so long each wait looks whether the driver is still there


@dataclass(slots=True)
class Counts:
    """What a report counts."""

    succeeded: int = 0
    failed: int = 0
    retries: int = 0
    lost_workers: int = 0
    sampled: dict[str, tuple[int, float]] = field(default_factory=dict)


@dataclass(slots=True)
class RunOptions:
    """How a run is to be done."""

    ordered: bool = True
    fail_fast: bool = True
    eager: bool = False  # outcomes go to the caller together at the end, so none is held back for it
    timed: bool = False
    unit: int = 0  # outcomes that are worth a message of their own, if any number is
    patience: float = 0.01  # seconds for which outcomes may wait for others
    widens: bool = True  # the in-flight limit grows with the chunks
    pinned: Sequence[int] | None = None
    at_most_once: bool = False  # what a lost worker may have run is lost
    retries: RetryPolicy | None = None
    timeout: float | None = None  # seconds that each item may take
    concurrency: int = 1  # items that run beside each other on a worker
    repr_items: bool = True  # in the notes of errors


class Run:
    """One call of a run method.

    The feeder calls ``read`` on one thread, the driver ``take_items``, ``emit`` and ``finish`` on another, the
    consumer ``take`` and ``release`` on a third. Tasks of an event loop, which must not wait there, ``look_for_room``
    and ``look_for_block`` instead; ``on_change`` is called, on any thread, when they are to look again.
    """

    def __init__(
        self, number: int, load: Load, options: RunOptions, *, chunking: Chunking, pressure: Backpressure, bar: Bar
    ) -> None:
        self.id, self.load, self.options = number, load, options
        self.chunking, self.pressure, self.bar = chunking, pressure, bar
        self.counts, self.attempts = Counts(), Attempts()
        self.error: BaseException | None = None  # what ends the run, raised after the outcomes before it
        self.failure: Failure | None = None  # the first one, where it ends the run
        self.finished = False
        self.stop_reading = self.input_was_cut = False
        self.input_ended = self.end_announced = False
        self.announced = 0  # items that the scheduler knows of
        self._attention = True  # the driver wants to hear of the next item, or of the end
        self.blocks: dict[int, Block] = {}
        self._left: dict[int, Any] = {}  # items that came back from workers, by index
        self._gathered: list[Any] | None = None  # where the values of all blocks go, if nothing else is wanted of them
        self.on_block: Callable[[Block], None] | None = None
        self.on_finish: Callable[[], None] | None = None
        self.on_change: Callable[[], None] | None = None
        self._sequence: Sequence[Any] | None = None  # the whole input, where that is there already
        self._buffer: list[Any] = []  # else: what has been read and is in no chunk
        self._sent = 0  # items that are in a chunk, or were
        self._outbox: deque[Block] = deque()
        self._changed = threading.Condition()
        self._waits_for_room = self._waits_for_block = False
        self._began = time.perf_counter()

    # the feeder's side

    def use(self, sequence: list[Any] | tuple[Any, ...] | range) -> None:
        """Take the whole input at once; chunks are cut out of it, those of a range are ranges."""
        self._sequence = sequence[:]
        if self.options.eager and self.options.widens:
            self.pressure.limit = max(self.pressure.limit, len(sequence))  # there is nothing to hold back

    def read(self, source: Iterator[Any], notify: Callable[[], None], *, most: int | None = None) -> bool:
        """Read what there is room for; give whether there may be more. *most* bounds one call, which never waits."""
        room = min(self._wait_for_room() if most is None else most, self.pressure.room, sys.maxsize)
        if self.stop_reading:
            return self.cut_input(notify)
        try:
            if self._sequence is None:
                count = self._read_one_by_one(source, room, notify)
            else:
                count = self._count_in(room, notify)
        except BaseException as error:  # noqa: BLE001 - the user's iterator may raise anything
            self.error = self.error or error
            return self.end_input(notify)
        is_all = self._sequence is not None and self.pressure.read >= len(self._sequence)
        if (count < room or is_all) and not self.stop_reading:
            return self.end_input(notify)
        return True

    def _read_one_by_one(self, source: Iterator[Any], room: int, notify: Callable[[], None]) -> int:
        append, before = self._buffer.append, self.pressure.read
        try:
            for item in itertools.islice(source, max(room, 0)):
                append(item)
                if self._attention:
                    self._attention = False
                    notify()
                    if self.stop_reading:
                        break
        finally:
            with self._changed:  # or the driver would take some in between
                self.pressure.read = self._arrived
        return self.pressure.read - before

    def _count_in(self, room: int, notify: Callable[[], None]) -> int:
        count = max(0, min(room, len(self._sequence or ()) - self.pressure.read))
        self.pressure.read += count
        if self._attention:
            self._attention = False
            notify()
        return count

    def end_input(self, notify: Callable[[], None]) -> bool:
        """Say that no item will come any more."""
        self.input_ended = True
        notify()
        return False

    def cut_input(self, notify: Callable[[], None]) -> bool:
        """Say that the rest of the input will not be read."""
        self.input_was_cut = True
        return self.end_input(notify)

    def _wait_for_room(self) -> int:
        with self._changed:
            while self.pressure.room <= 0 and not self.stop_reading:
                self._waits_for_room = True
                self._changed.wait(WAIT_SECONDS)
            self._waits_for_room = False
            return self.pressure.room

    def look_for_room(self) -> bool:
        """Tell whether to go on: there is room for an item, or none is to be read any more."""
        self._waits_for_room = True  # first the wish, then a look: who makes room does it the other way round
        if self.pressure.room <= 0 and not self.stop_reading:
            return False
        self._waits_for_room = False
        return True

    def cut_unread(self, notify: Callable[[], None]) -> None:
        """Cut an input that is not to be read on, where whoever reads it is the one who waits."""
        if self.stop_reading and not self.input_ended:
            self.cut_input(notify)

    def stop_input(self) -> None:
        """Read no further item."""
        with self._changed:
            self.stop_reading = self._attention = True
            self._wake()

    @property
    def wants_items(self) -> bool:
        """Whether everything read so far is known to the scheduler and in a chunk."""
        return self._arrived == self._sent and not self.input_ended

    # the driver's side

    def news(self) -> int:
        """Tell how many items have come that the scheduler does not know of; ask for a note where there is none."""
        unknown = self._arrived - self.announced
        if unknown == 0:
            self._attention = True  # first the wish, then a second look: the feeder does it the other way round
            unknown = self._arrived - self.announced
        self.announced += unknown
        return unknown

    @property
    def _arrived(self) -> int:
        return self._sent + len(self._buffer) if self._sequence is None else self.pressure.read

    def take_items(self, start: int, count: int, *, again: bool) -> Sequence[Any]:
        """Give the items of a chunk."""
        if self._sequence is not None:
            self._sent += 0 if again else count
            return self._sequence[start : start + count]
        if again:
            return [self._left.pop(index) for index in range(start, start + count)]
        with self._changed:  # the feeder, which may append in between, counts both
            items = self._buffer[:count]
            del self._buffer[:count]
            self._sent += count
        return items

    def leave(self, start: int, items: Sequence[Any]) -> None:
        """Keep items that a worker has not done, to be taken again."""
        if self._sequence is None:
            self._left.update(enumerate(items, start))

    def sample(self, sampled: Sequence[tuple[str, int, float]]) -> None:
        """Add what a worker measured: provider, uses, seconds."""
        for name, uses, seconds in sampled:
            before = self.counts.sampled.get(name, (0, 0.0))
            self.counts.sampled[name] = (before[0] + uses, before[1] + seconds)

    def emit(self, block: Block) -> None:
        """Put a block where the consumer finds it; ``tell`` wakes a consumer that waits."""
        if self.on_block is not None:
            self.on_block(block)
            return
        if self._gathered is None:
            self._outbox.append(block)
        else:  # here: the thread that has unpickled them still has them in its processor's cache
            self._gathered.extend(block.values)
        if self.options.eager or self._gathered is not None:
            self.pressure.released += len(block.values)

    def tell(self) -> None:
        """Wake who waits for what ``emit`` has put there: the consumer, and a feeder that has room now."""
        pressure = self.pressure
        has_room = self.options.eager and self._waits_for_room and pressure.room >= pressure.limit // 4
        if self._waits_for_block or has_room:
            self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
        on_change = self.on_change  # which the end of the run takes away
        if on_change is not None:
            on_change()

    def widen(self, limit: int) -> None:
        """Raise the in-flight limit where it is automatic."""
        if self.options.widens and limit > self.pressure.limit:
            with self._changed:
                self.pressure.limit = limit
                self._wake()

    def finish(self, note: Callable[[RunReport], None]) -> None:
        """No outcome will come any more; the report is noted before anybody is told."""
        self.bar.close()
        counts = self.counts
        report = RunReport(
            function=self.load.name,
            items=self.announced,
            succeeded=counts.succeeded,
            failed=counts.failed,
            retries=counts.retries,
            lost_workers=counts.lost_workers,
            seconds=time.perf_counter() - self._began,
            provider_seconds={name: seconds / uses for name, (uses, seconds) in counts.sampled.items()},
        )
        note(report)
        with self._changed:
            self.finished = self.stop_reading = True
            self._sequence, self._gathered = (), None
            self._buffer.clear()
            self._left.clear()
            self._wake()
        if self.on_finish is not None:
            self.on_finish()
        self.on_block = self.on_finish = self.on_change = None  # they know the future, or the task, which knows the run

    # the consumer's side

    def gather(self, values: list[Any]) -> None:
        """Let the values of all blocks go there; no block comes then, only the end."""
        self._gathered = values

    def take(self, timeout: float) -> Block | None:
        """Wait for the next block; ``None`` where none has come in time or none will come."""
        if self._outbox:
            return self._outbox.popleft()
        with self._changed:
            # first the wish, then a second look: the driver does it the other way round
            self._waits_for_block = self._gathered is None
            if not self._outbox and not self.finished and timeout > 0:
                self._changed.wait(timeout)
            self._waits_for_block = False
        return self._outbox.popleft() if self._outbox else None

    def look_for_block(self) -> Block | None:
        """Give the next block if it is there."""
        self._waits_for_block = self._gathered is None  # as in ``take``
        if not self._outbox:
            return None
        self._waits_for_block = False
        return self._outbox.popleft()

    @property
    def exhausted(self) -> bool:
        """Whether the consumer has taken everything."""
        return self.finished and not self._outbox

    def release(self, count: int, *, at_once: bool) -> None:
        """Say that the caller has got so many outcomes; the feeder is woken for a batch of room, or *at_once*."""
        pressure = self.pressure
        pressure.released += count
        if self._waits_for_room and (at_once or pressure.room >= pressure.limit // 4):
            self._wake()

    def __repr__(self) -> str:
        state = "finished" if self.finished else "running"
        pressure = self.pressure
        return f"<Run {self.id} of {self.load.name} {state}, read {pressure.read}, released {pressure.released}>"


class InFlight(NamedTuple):
    """A chunk that a worker has."""

    run: Run
    worker_id: int
    start: int
    items: Sequence[Any]
    attempt: int
