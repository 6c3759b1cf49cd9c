"""What the scheduler knows of runs, chunks and workers, and the actions that it answers with. Runs in the caller."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from poolinject._scheduling.backpressure import ReorderBuffer
from poolinject._scheduling.chunking import Chunking

if TYPE_CHECKING:
    from poolinject._transport.messages import Results

WINDOW = 64  # chunks in flight to one worker, at the most, whose items run one after another
SLOTS = 4096  # the same of all chunks


class Send(NamedTuple):
    """Send a chunk to a worker. ``again``: it was with a worker before; ``exact``: what has begun must be counted."""

    worker_id: int
    run: int
    chunk: int
    slot: int
    start: int
    size: int
    again: bool
    exact: bool
    attempt: int = 1
    concurrency: int = 1


class CancelItems(NamedTuple):
    """Cancel the items of a run that run beside each other on a worker."""

    worker_id: int
    run: int


class TakeBack(NamedTuple):
    """Let no item of a chunk start beyond the first ``keep``; ``returned`` tells how many the worker really keeps."""

    worker_id: int
    slot: int
    chunk: int
    keep: int


class Emit(NamedTuple):
    """Hand the block that starts here to the caller."""

    run: int
    start: int


@dataclass(frozen=True, slots=True)
class Lose:
    """Fail the item that a worker was running when it ended; with a ``delay`` it is to be tried again."""

    run: int
    index: int
    worker_id: int
    attempt: int = 1
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """An item has failed and is to be tried again: in so many seconds it is ``due``."""

    run: int
    index: int
    delay: float


class Finish(NamedTuple):
    """The run is over: nothing of it is in flight, nothing will come."""

    run: int


class Recycle(NamedTuple):
    """Let a worker end that has had its items, and replace it; it has nothing to do and gets nothing more."""

    worker_id: int


Action: TypeAlias = Send | TakeBack | CancelItems | Emit | Lose | Later | Finish | Recycle


@dataclass(slots=True)
class RunState:
    """One run. ``pinned`` maps an index to the worker it must go to (a broadcast).

    ``concurrency`` is how many of its items run beside each other on a worker. ``alone`` has where parts of ``again``
    begin that do not: one of their items may have ended a worker.
    ``again`` has what was with a worker before: start, count and number of the attempt. ``waiting`` has the items that
    are not due yet, with the number of their next attempt.
    """

    id: int
    chunking: Chunking
    order: ReorderBuffer | None
    fail_fast: bool
    pinned: Sequence[int] | None = None
    read: int = 0
    next: int = 0
    ended: bool = False
    cancelled: bool = False
    at_most_once: bool = False  # what a lost worker may have run is lost
    exact: bool = False  # what has begun must be counted: a worker ended, and the item that it was running is not known
    concurrency: int = 1
    in_flight: int = 0  # chunks
    alone: set[int] = field(default_factory=set)
    again: deque[tuple[int, int, int]] = field(default_factory=deque)
    waiting: dict[int, int] = field(default_factory=dict)

    def give_back(self, parts: list[tuple[int, int, int]]) -> None:
        """Take what a worker has not done: before what comes after it, so that items run about in their order."""
        if parts and self.again and parts[0] < self.again[0]:
            self.again.extendleft(reversed(parts))
        else:
            self.again.extend(parts)

    @property
    def available(self) -> int:
        """Items that are there and in no chunk."""
        return 0 if self.cancelled else self.read - self.next

    @property
    def kind(self) -> Hashable:
        """What is the same for runs that workers do not tell apart: who wants no more of one wants no other."""
        if self.pinned is not None or self.alone:
            return "one", self.id
        return "beside", self.concurrency, id(self.chunking.pace) if self.concurrency > 1 else 0

    @property
    def is_alone_next(self) -> bool:
        """Whether what is to be sent next must run beside nothing."""
        return bool(self.alone and self.again) and self.again[0][0] in self.alone

    @property
    def over(self) -> bool:
        """Whether nothing can come any more."""
        done = self.ended and not (self.available or self.again or self.waiting)
        return self.in_flight == 0 and (self.cancelled or done)


@dataclass(slots=True)
class ChunkState:
    """One chunk in flight; ``reported`` counts the outcomes that have come, ``seconds`` is what it may take.

    ``count`` falls where items are taken back, ``taken`` says that this is under way. ``beside``: so many items of the
    run are done at the same time; outcomes come in any order then, and ``told`` has the places of those that have come.
    """

    id: int
    run: RunState
    slot: int
    start: int
    count: int
    seconds: float
    weight: float
    attempt: int
    beside: int = 1
    reported: int = 0
    taken: bool = False
    told: set[int] = field(default_factory=set)

    def knows(self, place: int) -> bool:
        """Tell whether the outcome of the item at this place has come."""
        return place in self.told if self.beside > 1 else place < self.reported

    def news_of(self, results: Results) -> Results:
        """Leave out outcomes that have come before, and those of items that were given back, which others have."""
        place = results.start - self.start
        if self.beside > 1:
            known = results.size if self.knows(place) else 0
        else:
            known = min(max(self.reported - place, 0), results.size)
        if known:
            results, place = results.without(known), place + known
        most = max(self.count - place, 0)
        return results if results.size <= most else results.up_to(most)

    def missing_after(self, place: int, count: int) -> list[range]:
        """The same once so many more outcomes have come."""
        if self.beside == 1:
            return self.missing(place + count)
        self.told.update(range(place, place + count))
        return self.missing()

    def missing(self, begin: int = 0) -> list[range]:
        """Give the places of the items whose outcomes have not come, from one on, in rows."""
        if self.beside == 1:
            first = max(begin, self.reported)
            return [range(first, self.count)] if first < self.count else []
        rows: list[range] = []
        for place in range(begin, self.count):
            if place in self.told:
                continue
            if rows and rows[-1].stop == place:
                rows[-1] = range(rows[-1].start, place + 1)
            else:
                rows.append(range(place, place + 1))
        return rows


@dataclass(slots=True)
class WorkerState:
    """One slot for a worker; ``load`` is what its chunks may take in seconds, ``weight`` what they may be in bytes.

    A worker that has its fill wants nothing until half of it is done, so that chunks go out several at a time.
    ``room`` is how many items may still be handed to it before it is recycled. ``beside`` counts the items that run
    beside others, or will. One that is ``late`` with its item gets nothing more until it is heard of. A ``vacant`` slot
    has no worker, and nobody knows whether it will have one again.
    """

    id: int
    ready: bool = False
    room: float = math.inf
    load: float = 0.0
    weight: float = 0.0
    full: bool = False
    beside: int = 0
    vacant: bool = False
    late: bool = False
    chunks: dict[int, ChunkState] = field(default_factory=dict)
    slots: list[int] = field(default_factory=lambda: list(range(SLOTS)))

    @property
    def is_suspicious(self) -> bool:
        """Whether it is at something that may end it."""
        return any(chunk.start in chunk.run.alone for chunk in self.chunks.values())

    def spare(self) -> list[tuple[ChunkState, int]]:
        """List the chunks of which the worker can do without something, and how many items it keeps of each."""
        if len(self.chunks) <= 1 and all(chunk.count - chunk.reported <= 1 for chunk in self.chunks.values()):
            return []
        live = [chunk for chunk in self.chunks.values() if chunk.count > chunk.reported]
        parts, started = list[tuple[ChunkState, int]](), 0
        for chunk in live:
            if started >= chunk.beside:
                parts.append((chunk, 0))
            started += chunk.count - chunk.reported if chunk.beside > 1 else 1
        if len(live) == 1 and live[0].beside == 1:
            (oldest,) = live
            parts = [(oldest, oldest.reported + (oldest.count - oldest.reported + 1) // 2)]
        return _takeable(parts)

    def behind(self) -> list[tuple[ChunkState, int]]:
        """List the same of everything that waits behind the item that it runs."""
        oldest, *others = self.chunks.values()
        return [] if oldest.beside > 1 else _takeable([(oldest, oldest.reported + 1), *((each, 0) for each in others)])


def _takeable(parts: Iterable[tuple[ChunkState, int]]) -> list[tuple[ChunkState, int]]:
    return [
        (chunk, keep)
        for chunk, keep in parts
        if keep < chunk.count and not chunk.taken and chunk.run.pinned is None and not chunk.run.cancelled
    ]
