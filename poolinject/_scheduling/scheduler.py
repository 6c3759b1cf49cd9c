"""Decides what runs where and when. A pure state machine: events in, actions out, no clock, no I/O, no items.

Items are known by their index in a run, chunks and blocks as ranges of indices. Every item that was read gives
exactly one outcome, unless its run is cancelled before it starts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from poolinject._scheduling.backpressure import ReorderBuffer
from poolinject._scheduling.chunking import PREFETCH_SECONDS, Chunking

WINDOW = 64  # chunks in flight to one worker, at the most


class Send(NamedTuple):
    """Send a chunk to a worker. ``again``: it came back from a worker that ended, so it is not in the buffer."""

    worker_id: int
    run: int
    chunk: int
    slot: int
    start: int
    size: int
    again: bool


class TakeBack(NamedTuple):
    """Let no further item of a chunk start."""

    worker_id: int
    slot: int


class Emit(NamedTuple):
    """Hand the block that starts here to the caller."""

    run: int
    start: int


@dataclass(frozen=True, slots=True)
class Lose:
    """Fail the item that a worker was running when it ended."""

    run: int
    index: int
    worker_id: int


class Finish(NamedTuple):
    """The run is over: nothing of it is in flight, nothing will come."""

    run: int


Action: TypeAlias = Send | TakeBack | Emit | Lose | Finish


@dataclass(slots=True)
class RunState:
    """One run. ``pinned`` maps an index to the worker it must go to (a broadcast)."""

    id: int
    chunking: Chunking
    order: ReorderBuffer | None
    fail_fast: bool
    pinned: Sequence[int] | None = None
    read: int = 0
    next: int = 0
    ended: bool = False
    cancelled: bool = False
    in_flight: int = 0  # chunks
    again: deque[tuple[int, int]] = field(default_factory=deque)

    @property
    def available(self) -> int:
        """Items that are there and in no chunk."""
        return 0 if self.cancelled else self.read - self.next

    @property
    def over(self) -> bool:
        """Whether nothing can come any more."""
        return self.in_flight == 0 and (self.cancelled or (self.ended and not self.available and not self.again))


@dataclass(slots=True)
class ChunkState:
    """One chunk in flight; ``reported`` counts the outcomes that have come, ``seconds`` is what it may take."""

    id: int
    run: RunState
    slot: int
    start: int
    count: int
    seconds: float
    reported: int = 0


@dataclass(slots=True)
class WorkerState:
    """One slot for a worker; ``load`` is what its chunks may take, in seconds.

    A worker that has its fill wants nothing until half of it is done, so that chunks go out several at a time.
    """

    id: int
    ready: bool = False
    load: float = 0.0
    full: bool = False
    chunks: dict[int, ChunkState] = field(default_factory=dict)
    slots: list[int] = field(default_factory=lambda: list(range(WINDOW)))


class Scheduler:
    """The state of every run and worker of a pool."""

    def __init__(self, workers: int) -> None:
        self.workers = [WorkerState(worker_id) for worker_id in range(workers)]
        self.runs: dict[int, RunState] = {}
        self._turn: deque[int] = deque()
        self._chunks = 0

    def open(self, run: RunState) -> None:
        """Begin a run."""
        self.runs[run.id] = run
        self._turn.append(run.id)

    def arrived(self, run_id: int, count: int) -> list[Action]:
        """So many more items were read."""
        self.runs[run_id].read += count
        return self._fill()

    def ended(self, run_id: int) -> list[Action]:
        """The input has no more items."""
        run = self.runs.get(run_id)
        if run is None:
            return []
        run.ended = True
        return [*self._fill(), *self._finished(run)]

    def cancel(self, run_id: int) -> list[Action]:
        """Start no further item of a run; what runs already goes on to its end."""
        run = self.runs.get(run_id)
        if run is None or run.cancelled:
            return []
        run.cancelled = True
        run.again.clear()
        actions: list[Action] = [
            TakeBack(worker.id, chunk.slot)
            for worker in self.workers
            for chunk in worker.chunks.values()
            if chunk.run is run
        ]
        return [*actions, *self._finished(run)]

    def ready(self, worker_id: int) -> list[Action]:
        """A worker can take chunks."""
        self.workers[worker_id].ready = True
        return self._fill()

    def results(
        self, worker_id: int, chunk_id: int, count: int, seconds: float, *, failed: bool, done: bool
    ) -> list[Action]:
        """A block of outcomes came from a worker, the next ones of its chunk."""
        worker = self.workers[worker_id]
        chunk = worker.chunks[chunk_id]
        run, start = chunk.run, chunk.start + chunk.reported
        chunk.reported += count
        run.chunking.observe(count, seconds)
        actions = self._emit(run, start, count)
        if failed and run.fail_fast:
            actions += self.cancel(run.id)
        if done:
            self._close(worker, chunk)
            if not run.cancelled and chunk.reported < chunk.count:
                run.again.append((chunk.start + chunk.reported, chunk.count - chunk.reported))
            actions += self._finished(run)
        return actions + self._fill()

    def gone(self, worker_id: int, started: dict[int, int]) -> list[Action]:
        """A worker has ended. *started* says for each slot how many items of its chunk had begun.

        The item that was running is lost; those that had not begun, and those whose outcomes had not been sent yet,
        go to other workers.
        """
        worker = self.workers[worker_id]
        worker.ready = False
        actions: list[Action] = []
        for chunk in list(worker.chunks.values()):
            run = chunk.run
            self._close(worker, chunk)
            begun = max(chunk.reported, min(started.get(chunk.slot, 0), chunk.count))
            if begun > chunk.reported:
                actions.append(Lose(run.id, chunk.start + begun - 1, worker_id))
                actions += self._emit(run, chunk.start + begun - 1, 1)
                if run.fail_fast:
                    actions += self.cancel(run.id)
            if begun - 1 > chunk.reported and not run.cancelled:  # done, but their outcomes died with the worker
                run.again.append((chunk.start + chunk.reported, begun - 1 - chunk.reported))
            if begun < chunk.count and run.pinned is not None:
                actions.append(Lose(run.id, chunk.start + begun, worker_id))
                actions += self._emit(run, chunk.start + begun, 1)
            elif begun < chunk.count and not run.cancelled:
                run.again.append((chunk.start + begun, chunk.count - begun))
            actions += self._finished(run)
        return actions + self._fill()

    def _close(self, worker: WorkerState, chunk: ChunkState) -> None:
        del worker.chunks[chunk.id]
        worker.slots.append(chunk.slot)
        worker.load = worker.load - chunk.seconds if worker.chunks else 0.0  # no rest of rounding stays
        chunk.run.in_flight -= 1

    @staticmethod
    def _emit(run: RunState, start: int, count: int) -> list[Action]:
        if count == 0:
            return []
        blocks = [(start, count)] if run.order is None else run.order.push(start, count)
        return [Emit(run.id, first) for first, _ in blocks]

    def _finished(self, run: RunState) -> list[Action]:
        if not run.over or run.id not in self.runs:
            return []
        del self.runs[run.id]
        self._turn.remove(run.id)
        return [Finish(run.id)]

    def _fill(self) -> list[Action]:
        """Send chunks to workers that want them: the runs in turn, the least busy worker first."""
        actions: list[Action] = []
        passed = 0  # runs in a row that had nothing to send, or nowhere to send it
        while passed < len(self._turn):
            run = self.runs[self._turn[0]]
            self._turn.rotate(-1)
            worker = self._worker_for(run) if run.again or run.available else None
            if worker is None:
                passed += 1
            else:
                passed = 0
                actions.append(self._send(run, worker))
        return actions

    def _worker_for(self, run: RunState) -> WorkerState | None:
        if run.pinned is not None:
            worker = self.workers[run.pinned[run.again[0][0] if run.again else run.next]]
            return worker if worker.ready and worker.slots else None
        wanting = [worker for worker in self.workers if worker.ready and self._wants(worker)]
        return min(wanting, key=lambda worker: len(worker.chunks), default=None)

    @staticmethod
    def _wants(worker: WorkerState) -> bool:
        share = 0.5 if worker.full else 1.0
        wants = not worker.chunks or (worker.load < share * PREFETCH_SECONDS and len(worker.chunks) < share * WINDOW)
        worker.full = not wants
        return wants

    def _send(self, run: RunState, worker: WorkerState) -> Send:
        again = bool(run.again)
        if again:
            start, count = run.again.popleft()
        else:
            start, size = run.next, run.chunking.take(run.available, ended=run.ended, workers=len(self.workers))
            count = 1 if run.pinned is not None else size
            run.next += count
        self._chunks += 1
        seconds = run.chunking.estimate(count)
        chunk = ChunkState(self._chunks, run, worker.slots.pop(), start, count, min(seconds, PREFETCH_SECONDS))
        worker.load += chunk.seconds
        worker.chunks[chunk.id] = chunk
        run.in_flight += 1
        return Send(worker.id, run.id, chunk.id, chunk.slot, start, count, again)
