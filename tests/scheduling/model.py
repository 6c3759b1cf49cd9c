"""A caller and its workers as a model: it does what the scheduler says and checks that each action is allowed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from poolinject._scheduling.backpressure import Backpressure, ReorderBuffer
from poolinject._scheduling.chunking import Chunking
from poolinject._scheduling.placing import MOST_AHEAD
from poolinject._scheduling.retries import Retry
from poolinject._scheduling.scheduler import Scheduler
from poolinject._scheduling.state import (
    SLOTS,
    WINDOW,
    Action,
    CancelItems,
    Emit,
    Finish,
    Later,
    Lose,
    Recycle,
    RunState,
    Send,
    TakeBack,
)


@dataclass
class ModelRun:
    """What a run should be, seen from outside."""

    id: int
    ordered: bool
    fail_fast: bool
    pinned: Sequence[int] | None
    pressure: Backpressure
    concurrency: int = 1
    at_most_once: bool = False
    ended: bool = False
    cancelled: bool = False
    finished: bool = False
    unsent: set[int] = field(default_factory=set)
    flying: set[int] = field(default_factory=set)
    failing: set[int] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)
    suspected: set[int] = field(default_factory=set)  # ran beside others when their worker ended
    failed: Counter[int] = field(default_factory=Counter)  # attempts that were not the last
    lost: Counter[int] = field(default_factory=Counter)  # for good
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
    concurrency: int
    taken_back: bool = False
    keep: int = 0
    told: set[int] = field(default_factory=set)

    @property
    def begun(self) -> int:
        """How many of its items must have begun, by the outcomes that have come."""
        return max(self.told, default=-1) + 1

    @property
    def missing(self) -> list[int]:
        """The places of the items without an outcome."""
        return [place for place in range(self.count) if place not in self.told]

    @property
    def unknown(self) -> list[int]:
        """The indices of the items without an outcome."""
        return [self.start + place for place in self.missing]

    @property
    def left(self) -> int:
        """Items without an outcome."""
        return self.count - len(self.told)

    def row(self, place: int) -> int:
        """Tell how many items from one on have no outcome."""
        return next((at for at in range(place, self.count) if at in self.told), self.count) - place


class Model:
    """Feeds events to a scheduler and performs its actions, as the dispatcher does."""

    def __init__(self, workers: int, most_items: int | None = None, *, counts_begun: bool = True) -> None:
        self.scheduler, self.counts_begun = Scheduler(workers, most_items, counts_begun=counts_begun), counts_begun
        self.most_items = math.inf if most_items is None else most_items
        self.ready: set[int] = set()
        self.done: Counter[int] = Counter()  # items that the newest generation of a worker has run
        self.worn: set[int] = set()
        self.late: set[int] = set()
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
        concurrency: int = 1,
        at_most_once: bool = False,
    ) -> ModelRun:
        """Begin a run."""
        run = ModelRun(len(self.runs), ordered, fail_fast, pinned, Backpressure(limit), concurrency, at_most_once)
        self.runs[run.id] = run
        state = RunState(run.id, Chunking(chunksize), ReorderBuffer() if ordered else None, fail_fast, pinned)
        state.at_most_once, state.concurrency = at_most_once, concurrency
        self.scheduler.open(state)
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
        self.late.discard(worker_id)
        self.perform(self.scheduler.ready(worker_id))

    def note_late(self, worker_id: int) -> None:
        """Find that a worker was silent for too long; it is late if it has something, and another could do it."""
        if self.has_chunks(worker_id) and self.ready - self.late - {worker_id}:
            self.late.add(worker_id)
        self.perform(self.scheduler.late(worker_id))

    def wear(self, worker_id: int) -> None:
        """Let a worker say that it has too much memory."""
        self.worn.add(worker_id)
        self.perform(self.scheduler.wind_down(worker_id))

    def answer(
        self,
        chunk_id: int,
        count: int,
        seconds: float = 0.0,
        *,
        failed: bool = False,
        done: bool,
        retried: Sequence[Retry] = (),
        place: int | None = None,
    ) -> None:
        """Let a worker send outcomes, of the next items or from a place on; some failures are to be tried again."""
        chunk = self.chunks[chunk_id]
        first = chunk.begun if place is None else place
        run, start, end = chunk.run, chunk.start + first, chunk.start + first + count
        for retry in retried:
            self.keep(run, start, retry.index - start)
            run.flying.remove(retry.index)
            run.failing.add(retry.index)
            start = retry.index + 1
        chunk.told.update(range(first, first + count))
        self.keep(run, start, end - start)
        self.done[chunk.worker_id] += count
        self.late.discard(chunk.worker_id)
        cancelled_by_it = failed and run.fail_fast
        if done:
            del self.chunks[chunk_id]
            self.put_back(chunk, chunk.unknown)
        run.cancelled = run.cancelled or cancelled_by_it
        worker_id = chunk.worker_id
        actions = self.scheduler.results(
            worker_id, chunk_id, count, seconds, failed=failed, done=done, retried=retried, place=place
        )
        self.perform(actions)

    def come_due(self, items: Sequence[tuple[int, int]]) -> None:
        """Let the time come of items that wait, or that did before their run was cancelled."""
        for run_id, index in items:
            self.runs[run_id].waiting.remove(index)
            self.runs[run_id].unsent.add(index)
        self.perform(self.scheduler.due(items))

    def lose_worker(
        self,
        worker_id: int,
        begun_up_to: Mapping[int, int | None] | None,
        delays: Mapping[int, float] | None = None,
        suspect: tuple[int, int] | None = None,
    ) -> None:
        """Let a worker end, and check which items are lost with it; ``None``: nobody knows what had begun."""
        self.ready.discard(worker_id)
        held = {number: chunk for number, chunk in self.chunks.items() if chunk.worker_id == worker_id}
        may_have_run = Counter[int]()
        for number, chunk in held.items():
            up_to = None if begun_up_to is None else begun_up_to.get(chunk.slot, 0)
            begun = {
                chunk.start + place for place in chunk.missing if up_to is not None and chunk.start + place < up_to
            }
            if chunk.concurrency > 1:
                chunk.run.suspected |= begun
            if chunk.run.at_most_once and chunk.run.pinned is None:
                may_have_run[chunk.run.id] += len(begun)
            del self.chunks[number]
            self.put_back(chunk, chunk.unknown)
        actions = self.scheduler.gone(worker_id, begun_up_to, delays, suspect)
        lost = Counter(action.run for action in actions if isinstance(action, Lose))
        for run_id, count in may_have_run.items():
            assert lost[run_id] >= count, "may run twice"
        at_least_once = [run for run in self.runs.values() if run.pinned is None and not run.at_most_once]
        assert sum(lost[run.id] for run in at_least_once) <= 1, "one at the most was running"
        self.perform(actions)

    def return_items(self, chunk_id: int, kept: int) -> None:
        """Let a worker say that it keeps so many items of a chunk that was taken back."""
        chunk = self.chunks[chunk_id]
        self.put_back(chunk, range(chunk.start + kept, chunk.start + chunk.count))
        chunk.count, chunk.taken_back = kept, chunk.run.cancelled
        self.perform(self.scheduler.returned(chunk.worker_id, chunk_id, kept))

    @staticmethod
    def put_back(chunk: ModelChunk, left: Sequence[int]) -> None:
        """Know again of the items that a worker has not done."""
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
                case CancelItems(worker_id, run_id):
                    self.cancel_items(worker_id, self.runs[run_id])
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
            run.lost[lose.index] += 1
            run.cancelled = run.cancelled or run.fail_fast
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
        assert send.worker_id not in self.late or run.pinned is not None, "sent to a worker that is late"
        assert send.slot not in in_use, "two chunks in one slot"
        assert 0 <= send.slot < SLOTS, "no such slot"
        assert send.size > 0, "sent nothing"
        assert run.unsent >= set(indices), "sent what is not there"
        assert run.pinned is None or [run.pinned[index] for index in indices] == [send.worker_id], "sent elsewhere"
        assert send.again or send.attempt == 1, "new, but not the first attempt"
        assert {run.failed[index] for index in indices} == {send.attempt - 1}, "another attempt than it says"
        self.check_beside(run, send)
        run.unsent.difference_update(indices)
        run.flying.update(indices)
        self.chunks[send.chunk] = ModelChunk(
            run, send.worker_id, send.slot, send.start, send.size, send.attempt, send.concurrency
        )

    def check_beside(self, run: ModelRun, send: Send) -> None:
        """Check that a worker has no more ahead than it should, and that items that may end it come alone."""
        held = [chunk for chunk in self.chunks.values() if chunk.worker_id == send.worker_id]
        if not self.counts_begun and self.is_alone(run, send.start):
            assert (len(held), send.concurrency) == (0, 1), "beside others although it may have ended a worker"
        elif run.suspected & set(range(send.start, send.start + send.size)):
            assert (send.size, send.concurrency) == (1, 1), "beside others although it may have ended a worker"
        else:
            assert send.concurrency == run.concurrency, "another concurrency than was asked for"
        if not self.counts_begun and run.pinned is None:
            assert not any(self.is_alone(chunk.run, chunk.start) for chunk in held), "sent to a suspicious worker"
        if send.concurrency == 1:
            assert len(held) < WINDOW, "more chunks than a worker should have ahead"
        else:
            beside = sum(chunk.left for chunk in held if chunk.concurrency > 1)
            assert beside < (1 + MOST_AHEAD) * run.concurrency, "more items than a worker should have ahead"

    def is_alone(self, run: ModelRun, start: int) -> bool:
        """Tell whether the chunk that begins there is to be all that its worker has."""
        return run.id in self.scheduler.runs and start in self.scheduler.runs[run.id].alone

    def cancel_items(self, worker_id: int, run: ModelRun) -> None:
        """Cancel what runs beside others."""
        assert run.cancelled, "cancelled although the run goes on"
        assert run.concurrency > 1, "nothing runs beside another"
        assert any(chunk.run is run and chunk.worker_id == worker_id for chunk in self.chunks.values()), "has nothing"

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
            assert self.ready - busy or chunk.worker_id in self.late, "taken back although all have work"
            assert not chunk.taken_back, "taken back twice"
            assert action.keep < chunk.count, "taken back nothing"
            assert action.keep > chunk.begun or oldest != action.chunk, "nothing left to go on with"
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
            self.finish_chunk(*next(iter(self.chunks.items())))
            self.replace_missing()
            self.check()
        assert not self.live, "a run that never finishes"
        assert not self.scheduler.runs
        for worker in self.scheduler.workers:
            assert len(set(worker.slots)) == SLOTS, "a slot that never comes back"
            assert (worker.beside, worker.load, worker.weight) == (0, 0.0, 0.0), "a load that never goes away"
            full = -math.inf if worker.id in self.worn else self.most_items - self.done[worker.id]
            assert worker.room == full, "room that never comes back"

    def answer_everything(self) -> None:
        """Answer what is in flight, and what that brings."""
        while self.chunks:
            self.finish_chunk(*next(iter(self.chunks.items())))

    def finish_chunk(self, chunk_id: int, chunk: ModelChunk) -> None:
        """Answer what is left of a chunk, in rows, unless it was taken back."""
        while chunk.left:
            place = chunk.missing[0]
            keep = max(chunk.keep, chunk.begun) if chunk.taken_back else chunk.count
            count = max(0, min(chunk.row(place), keep - place))
            self.answer(chunk_id, count, done=count in (0, chunk.left), place=place)
            if chunk_id not in self.chunks:
                return
        self.answer(chunk_id, 0, done=True)

    def replace_missing(self) -> None:
        """Start every worker that is not there."""
        for worker_id in set(range(len(self.scheduler.workers))) - self.ready:
            self.make_ready(worker_id)
