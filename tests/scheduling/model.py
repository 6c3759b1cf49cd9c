"""A caller and its workers as a model: it does what the scheduler says and checks that each action is allowed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from poolinject._scheduling.backpressure import Backpressure, ReorderBuffer
from poolinject._scheduling.chunking import Chunking
from poolinject._scheduling.retries import Retry
from poolinject._scheduling.scheduler import Scheduler
from poolinject._scheduling.state import SLOTS, Action, Emit, Finish, Later, Lose, Recycle, RunState, Send, TakeBack


@dataclass
class ModelRun:
    """What a run should be, seen from outside."""

    id: int
    ordered: bool
    fail_fast: bool
    pinned: Sequence[int] | None
    pressure: Backpressure
    ended: bool = False
    cancelled: bool = False
    finished: bool = False
    unsent: set[int] = field(default_factory=set)
    flying: set[int] = field(default_factory=set)
    failing: set[int] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)
    failed: Counter[int] = field(default_factory=Counter)  # attempts that were not the last
    kept: dict[int, int] = field(default_factory=dict)
    emitted: Counter[int] = field(default_factory=Counter)
    emitted_in_order: list[int] = field(default_factory=list)

    @property
    def takes_input(self) -> bool:
        """Whether the caller would still read for it."""
        return not (self.ended or self.cancelled or self.finished)


@dataclass
class ModelChunk:
    """A chunk that a worker has."""

    run: ModelRun
    worker_id: int
    slot: int
    start: int
    count: int
    attempt: int
    reported: int = 0
    taken_back: bool = False
    keep: int = 0

    @property
    def left(self) -> int:
        """Items without an outcome."""
        return self.count - self.reported


class Model:
    """Feeds events to a scheduler and performs its actions, as the dispatcher does."""

    def __init__(self, workers: int, most_items: int | None = None) -> None:
        self.scheduler = Scheduler(workers, most_items)
        self.most_items = math.inf if most_items is None else most_items
        self.ready: set[int] = set()
        self.done: Counter[int] = Counter()  # items that the newest generation of a worker has run
        self.worn: set[int] = set()
        self.runs: dict[int, ModelRun] = {}
        self.chunks: dict[int, ModelChunk] = {}

    @property
    def live(self) -> list[ModelRun]:
        """Runs that are not finished."""
        return [run for run in self.runs.values() if not run.finished]

    def open(
        self,
        *,
        ordered: bool = True,
        fail_fast: bool = False,
        limit: int = 10,
        chunksize: int | None = None,
        pinned: Sequence[int] | None = None,
    ) -> ModelRun:
        """Begin a run."""
        run = ModelRun(len(self.runs), ordered, fail_fast, pinned, Backpressure(limit))
        self.runs[run.id] = run
        order = ReorderBuffer() if ordered else None
        self.scheduler.open(RunState(run.id, Chunking(chunksize), order, fail_fast, pinned))
        return run

    def read(self, run: ModelRun, wanted: int) -> None:
        """Read as many as there is room for."""
        count = min(wanted, run.pressure.room)
        if count > 0:
            run.unsent.update(range(run.pressure.read, run.pressure.read + count))
            run.pressure.read += count
            self.perform(self.scheduler.arrived(run.id, count))

    def end(self, run: ModelRun) -> None:
        """Come to the end of the input."""
        run.ended = True
        self.perform(self.scheduler.ended(run.id))

    def cancel(self, run: ModelRun) -> None:
        """Cancel, as a caller may at any time, also when it is too late."""
        run.cancelled = run.cancelled or not run.finished
        self.perform(self.scheduler.cancel(run.id))

    def consume(self, run: ModelRun, count: int) -> None:
        """Let the caller take outcomes."""
        run.pressure.released += min(count, sum(run.emitted.values()) - run.pressure.released)

    def make_ready(self, worker_id: int) -> None:
        """Start a worker, or the next generation of one."""
        self.ready.add(worker_id)
        self.done[worker_id] = 0
        self.worn.discard(worker_id)
        self.perform(self.scheduler.ready(worker_id))

    def wear(self, worker_id: int) -> None:
        """Let a worker say that it has too much memory."""
        self.worn.add(worker_id)
        self.perform(self.scheduler.worn(worker_id))

    def answer(
        self,
        chunk_id: int,
        count: int,
        seconds: float = 0.0,
        *,
        failed: bool = False,
        done: bool,
        retried: Sequence[Retry] = (),
    ) -> None:
        """Let a worker send outcomes, some of them failures that are to be tried again."""
        chunk = self.chunks[chunk_id]
        run, start = chunk.run, chunk.start + chunk.reported
        for retry in retried:
            self.keep(run, start, retry.index - start)
            run.flying.remove(retry.index)
            run.failing.add(retry.index)
            start = retry.index + 1
        chunk.reported += count
        self.keep(run, start, chunk.start + chunk.reported - start)
        self.done[chunk.worker_id] += count
        cancelled_by_it = failed and run.fail_fast
        if done:
            del self.chunks[chunk_id]
            self.put_back(chunk, chunk.reported)
        run.cancelled = run.cancelled or cancelled_by_it
        worker_id = chunk.worker_id
        self.perform(
            self.scheduler.results(worker_id, chunk_id, count, seconds, failed=failed, done=done, retried=retried)
        )

    def come_due(self, items: Sequence[tuple[int, int]]) -> None:
        """Let the time come of items that wait, or that did before their run was cancelled."""
        for run_id, index in items:
            self.runs[run_id].waiting.remove(index)
            self.runs[run_id].unsent.add(index)
        self.perform(self.scheduler.due(items))

    def lose_worker(
        self, worker_id: int, begun_up_to: Mapping[int, int | None], delays: Mapping[int, float] | None = None
    ) -> None:
        """Let a worker end."""
        self.ready.discard(worker_id)
        held = {number: chunk for number, chunk in self.chunks.items() if chunk.worker_id == worker_id}
        begun: dict[int, int] = {}
        last = None
        for number, chunk in held.items():
            up_to = begun_up_to.get(chunk.slot, 0)
            begun[number] = max(chunk.reported, min((up_to or 0) - chunk.start, chunk.count))
            if up_to is None or begun[number] > 0:
                last = number if up_to is not None else None
        for number, chunk in held.items():
            del self.chunks[number]
            is_running = number == last and begun[number] > chunk.reported
            loses = is_running or (chunk.run.pinned is not None and chunk.left > 0)
            loses = loses and number not in (delays or {})
            chunk.run.cancelled = chunk.run.cancelled or (chunk.run.fail_fast and loses)
            self.put_back(chunk, chunk.reported)
        self.perform(self.scheduler.gone(worker_id, begun_up_to, delays))

    def return_items(self, chunk_id: int, kept: int) -> None:
        """Let a worker say that it keeps so many items of a chunk that was taken back."""
        chunk = self.chunks[chunk_id]
        self.put_back(chunk, kept)
        chunk.count, chunk.taken_back = kept, chunk.run.cancelled
        self.perform(self.scheduler.returned(chunk.worker_id, chunk_id, kept))

    @staticmethod
    def put_back(chunk: ModelChunk, done: int) -> None:
        """Know again of the items that a worker has not done."""
        left = range(chunk.start + done, chunk.start + chunk.count)
        chunk.run.flying.difference_update(left)
        chunk.run.unsent.update(left)

    @staticmethod
    def keep(run: ModelRun, start: int, count: int) -> None:
        """Hold outcomes until they are emitted."""
        if count == 0:
            return
        assert run.flying >= set(range(start, start + count))
        run.flying.difference_update(range(start, start + count))
        run.kept[start] = count

    def perform(self, actions: list[Action]) -> None:
        """Check and do what the scheduler says."""
        for action in actions:
            match action:
                case Send():
                    self.send(action)
                case TakeBack():
                    self.take_back(action)
                case Emit(run_id, start):
                    self.emit(self.runs[run_id], start)
                case Lose():
                    self.lose(self.runs[action.run], action)
                case Later(run_id, index, delay):
                    assert delay >= 0
                    self.runs[run_id].failing.remove(index)
                    self.runs[run_id].waiting.add(index)
                    self.runs[run_id].failed[index] += 1
                case Finish(run_id):
                    self.finish(self.runs[run_id])
                case Recycle(worker_id):
                    self.recycle(worker_id)

    @staticmethod
    def lose(run: ModelRun, lose: Lose) -> None:
        """Fail what a worker was running, for good or to be tried again."""
        run.unsent.remove(lose.index)
        assert lose.attempt == run.failed[lose.index] + 1, "lost in another attempt than it was sent in"
        assert lose.delay is None or not run.cancelled, "to be tried again after a cancel"
        if lose.delay is None:
            run.kept[lose.index] = 1
        else:
            run.failing.add(lose.index)

    def send(self, send: Send) -> None:
        """Give a chunk to a worker."""
        run = self.runs[send.run]
        indices = range(send.start, send.start + send.size)
        in_use = [chunk.slot for chunk in self.chunks.values() if chunk.worker_id == send.worker_id]
        assert not run.cancelled, "sent after the run was cancelled"
        assert not run.finished, "sent after the run was finished"
        assert send.worker_id in self.ready, "sent to a worker that is not there"
        assert send.worker_id not in self.worn, "sent to a worker that starts nothing more"
        assert send.slot not in in_use, "two chunks in one slot"
        assert 0 <= send.slot < SLOTS, "no such slot"
        assert send.size > 0, "sent nothing"
        assert run.unsent >= set(indices), "sent what is not there"
        assert run.pinned is None or [run.pinned[index] for index in indices] == [send.worker_id], "sent elsewhere"
        assert send.again or send.attempt == 1, "new, but not the first attempt"
        assert {run.failed[index] for index in indices} == {send.attempt - 1}, "another attempt than it says"
        run.unsent.difference_update(indices)
        run.flying.update(indices)
        self.chunks[send.chunk] = ModelChunk(run, send.worker_id, send.slot, send.start, send.size, send.attempt)

    def recycle(self, worker_id: int) -> None:
        """Tell a worker to end."""
        assert worker_id in self.ready, "recycled although it is not there"
        assert not self.has_chunks(worker_id), "recycled with something to do"
        assert worker_id in self.worn or self.done[worker_id] == self.most_items, "recycled too early"
        self.ready.discard(worker_id)

    def has_chunks(self, worker_id: int) -> bool:
        """Tell whether a worker has anything that it has not answered."""
        return any(chunk.worker_id == worker_id for chunk in self.chunks.values())

    def take_back(self, action: TakeBack) -> None:
        """Let no further item of a chunk start; a worker that is gone has none to start."""
        if action.chunk not in self.chunks:
            return
        chunk = self.chunks[action.chunk]
        busy = {chunk.worker_id for chunk in self.chunks.values()}
        assert (chunk.worker_id, chunk.slot) == (action.worker_id, action.slot), "another chunk than it seems"
        if not chunk.run.cancelled:
            oldest = next(number for number, other in self.chunks.items() if other.worker_id == chunk.worker_id)
            assert self.ready - busy, "taken back although all have work"
            assert not chunk.taken_back, "taken back twice"
            assert action.keep < chunk.count, "taken back nothing"
            assert action.keep > chunk.reported or oldest != action.chunk, "nothing left to go on with"
        chunk.taken_back, chunk.keep = True, action.keep

    @staticmethod
    def emit(run: ModelRun, start: int) -> None:
        """Hand a block to the caller."""
        assert not run.finished, "emitted after the run was finished"
        indices = range(start, start + run.kept.pop(start))
        run.emitted.update(indices)
        run.emitted_in_order.extend(indices)

    def is_busy(self, run: ModelRun) -> bool:
        """Tell whether a worker has a chunk of a run, be it one whose items are all done."""
        return any(chunk.run is run for chunk in self.chunks.values())

    def finish(self, run: ModelRun) -> None:
        """End a run."""
        assert not run.finished, "finished twice"
        assert not self.is_busy(run), "finished while something was in flight"
        left = run.unsent or run.kept or run.waiting
        assert run.cancelled or (run.ended and not left), "finished too early"
        run.finished = True

    def check(self) -> None:
        """Check what must hold between any two events."""
        for run in self.runs.values():
            pressure = run.pressure
            assert not run.failing, "a failure that is neither an outcome nor to be tried again"
            held = len(run.flying) + len(run.waiting) + sum(run.kept.values()) + sum(run.emitted.values())
            assert held - pressure.released <= pressure.limit, "more in flight and held than the limit"
            assert pressure.read - pressure.released <= pressure.limit, "read past the limit"
            assert not run.emitted or max(run.emitted.values()) == 1, "an item with two outcomes"
            if run.ordered:
                assert run.emitted_in_order == list(range(len(run.emitted_in_order))), "out of order"
            if run.finished and not run.cancelled:
                assert set(run.emitted) == set(range(pressure.read)), "an item without outcome"
            over = run.cancelled or (run.ended and not run.unsent and not run.waiting)
            assert run.finished or self.is_busy(run) or not over, "over, but not finished"
        self.check_nobody_starves()
        self.check_limit()

    def check_limit(self) -> None:
        """Check that no worker gets more items than it may run, and that one which has had them ends."""
        held: Counter[int] = Counter()
        for chunk in self.chunks.values():
            held[chunk.worker_id] += chunk.left
        for worker_id in self.ready:
            assert self.done[worker_id] + held[worker_id] <= self.most_items, "more items than a worker may run"
            spent = worker_id in self.worn or self.done[worker_id] == self.most_items
            assert not spent or self.has_chunks(worker_id), "a worker that is not recycled"

    def check_nobody_starves(self) -> None:
        """Check that no worker stands idle while there is something that it may do."""
        busy = {chunk.worker_id for chunk in self.chunks.values()}
        waiting = [run for run in self.live if run.unsent and not run.cancelled]
        for worker_id in self.ready - busy:
            assert not [run for run in waiting if run.pinned is None], "a worker without work"
            for run in waiting:
                assert run.pinned is None or run.pinned[min(run.unsent)] != worker_id, "a worker without work"

    def drain(self) -> None:
        """Let everything come to its end, and check that it does."""
        for run in self.live:
            if run.takes_input:
                self.end(run)
        self.replace_missing()
        while self.chunks or any(run.waiting for run in self.live):
            self.come_due([(run.id, index) for run in self.live for index in sorted(run.waiting)])
            chunk_id, chunk = next(iter(self.chunks.items()))
            self.answer(
                chunk_id,
                max(0, min(chunk.left, chunk.keep - chunk.reported)) if chunk.taken_back else chunk.left,
                done=True,
            )
            self.replace_missing()
            self.check()
        assert not self.live, "a run that never finishes"
        assert not self.scheduler.runs
        assert all(len(set(worker.slots)) == SLOTS for worker in self.scheduler.workers)

    def replace_missing(self) -> None:
        """Start every worker that is not there."""
        for worker_id in set(range(len(self.scheduler.workers))) - self.ready:
            self.make_ready(worker_id)
