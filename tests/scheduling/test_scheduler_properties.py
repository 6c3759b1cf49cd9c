"""The scheduler under any sequence of events: runs, answers in parts, lost and recycled workers, cancels."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from poolinject._scheduling.retries import Retry
from tests.scheduling.model import Model, ModelChunk, ModelRun

WORKERS = st.integers(1, 4)
SECONDS = st.sampled_from([0.0, 1e-6, 1e-3, 1.0])


class SchedulerMachine(RuleBasedStateMachine):
    """Generates events; the model checks every action."""

    model: Model
    counts_begun = True

    @initialize(workers=WORKERS, ready=st.booleans(), most_items=st.none() | st.integers(1, 12))
    def begin(self, *, workers: int, ready: bool, most_items: int | None) -> None:
        """Make a pool, its workers there or still starting, recycled or not."""
        most_items = most_items if self.counts_begun else None  # what does not count, does not recycle either
        self.model = Model(workers, most_items, counts_begun=self.counts_begun)
        if ready:
            for worker_id in range(workers):
                self.model.make_ready(worker_id)

    def pick_run(self, data: st.DataObject) -> ModelRun:
        """Choose one of the runs that go on."""
        return data.draw(st.sampled_from(self.model.live), label="run")

    @precondition(lambda self: len(self.model.runs) < 4)
    @rule(
        ordered=st.booleans(),
        fail_fast=st.booleans(),
        limit=st.integers(1, 40),
        chunksize=st.none() | st.integers(1, 9),
        concurrency=st.sampled_from([1, 1, 2, 5, 20]),
        at_most_once=st.booleans(),
    )
    def open_run(self, **options: Any) -> None:
        """Begin a run."""
        self.model.open(**options)

    @precondition(lambda self: len(self.model.runs) < 4)
    @rule(fail_fast=st.booleans())
    def broadcast(self, *, fail_fast: bool) -> None:
        """Begin a run that gives each worker one item, all of them read at once."""
        pinned = range(len(self.model.scheduler.workers))
        run = self.model.open(ordered=False, fail_fast=fail_fast, limit=len(pinned), pinned=pinned)
        self.model.read(run, len(pinned))
        self.model.end(run)

    @precondition(lambda self: any(run.takes_input for run in self.model.live))
    @rule(data=st.data(), count=st.integers(1, 60), ends=st.booleans())
    def read(self, *, data: st.DataObject, count: int, ends: bool) -> None:
        """Read more, perhaps to the end."""
        run = data.draw(st.sampled_from([run for run in self.model.live if run.takes_input]), label="run")
        self.model.read(run, count)
        if ends:
            self.model.end(run)

    @precondition(lambda self: self.model.live)
    @rule(data=st.data(), count=st.integers(1, 60))
    def consume(self, *, data: st.DataObject, count: int) -> None:
        """Let the caller take outcomes."""
        self.model.consume(self.pick_run(data), count)

    @precondition(lambda self: self.model.runs)
    @rule(data=st.data())
    def cancel(self, *, data: st.DataObject) -> None:
        """Cancel any run, also one that is over."""
        self.model.cancel(data.draw(st.sampled_from(list(self.model.runs.values())), label="run"))

    @precondition(lambda self: self.model.ready)
    @rule(data=st.data())
    def note_silence(self, *, data: st.DataObject) -> None:
        """Hear nothing for too long of a worker, or of all of them."""
        worker_id = data.draw(st.none() | st.sampled_from(sorted(self.model.ready)), label="worker")
        if worker_id is None:
            self.model.perform(self.model.scheduler.waited())
        else:
            self.model.note_late(worker_id)

    @precondition(lambda self: len(self.model.ready) < len(self.model.scheduler.workers))
    @rule(data=st.data())
    def worker_ready(self, *, data: st.DataObject) -> None:
        """Start a worker that is not there."""
        missing = set(range(len(self.model.scheduler.workers))) - self.model.ready
        self.model.make_ready(data.draw(st.sampled_from(sorted(missing)), label="worker"))

    @precondition(lambda self: self.model.chunks)
    @rule(data=st.data(), elsewhere=st.booleans())
    def wear_worker(self, *, data: st.DataObject, elsewhere: bool) -> None:
        """Let a worker have too much memory, or be sent away; mostly one that has items."""
        busy = sorted({chunk.worker_id for chunk in self.model.chunks.values()})
        workers = range(len(self.model.scheduler.workers)) if elsewhere else busy
        self.model.wear(data.draw(st.sampled_from(workers), label="worker"))

    @precondition(lambda self: self.model.chunks)
    @rule(data=st.data(), seconds=SECONDS, failed=st.booleans())
    def answer(self, *, data: st.DataObject, seconds: float, failed: bool) -> None:
        """Answer a part of a chunk, all of it, or stop early."""
        chunk_id = data.draw(st.sampled_from(list(self.model.chunks)), label="chunk")
        chunk = self.model.chunks[chunk_id]
        place = self.draw_place(data, chunk)
        count = data.draw(st.integers(0, chunk.row(place)), label="count")
        done = data.draw(st.booleans(), label="done") and self.may_be_done(chunk, range(place, place + count))
        retried = self.draw_retries(data, chunk, place, count)
        failed = failed and count > len(retried)
        told = None if chunk.concurrency == 1 else place
        self.model.answer(chunk_id, count, seconds, failed=failed, done=done, retried=retried, place=told)

    @staticmethod
    def draw_place(data: st.DataObject, chunk: ModelChunk) -> int:
        """Choose from where on items have outcomes: the next ones, or any that run beside others."""
        if chunk.concurrency == 1 or not chunk.missing:
            return chunk.begun
        return data.draw(st.sampled_from(chunk.missing), label="place")

    @staticmethod
    def may_be_done(chunk: ModelChunk, told: range) -> bool:
        """Tell whether a worker may answer no more with this: each item that has begun has ended."""
        begun = max(chunk.begun, told.stop) if told else chunk.begun
        return chunk.run.cancelled or not [place for place in chunk.missing if place < begun and place not in told]

    @staticmethod
    def draw_retries(data: st.DataObject, chunk: ModelChunk, place: int, count: int) -> list[Retry]:
        """Choose which of some outcomes of a chunk are failures that are to be tried again."""
        if chunk.run.cancelled or chunk.run.pinned is not None:
            return []
        first = chunk.start + place
        indices = st.lists(st.integers(first, first + count - 1), unique=True) if count else st.just([])
        return [Retry(index, 0.0) for index in sorted(data.draw(indices, label="retried"))]

    @precondition(lambda self: any(run.waiting for run in self.model.runs.values()))
    @rule(data=st.data())
    def come_due(self, *, data: st.DataObject) -> None:
        """Let the time of some items come, also of a run that was cancelled meanwhile."""
        items = [(run.id, index) for run in self.model.runs.values() for index in sorted(run.waiting)]
        self.model.come_due(data.draw(st.lists(st.sampled_from(items), unique=True, min_size=1), label="due"))

    @precondition(lambda self: self.model.chunks)
    @rule(seconds=SECONDS)
    def answer_all(self, *, seconds: float) -> None:
        """Answer whole chunks, which is what workers mostly do."""
        for chunk_id in list(self.model.chunks):
            chunk = self.model.chunks[chunk_id]
            while chunk.row(chunk.missing[0]) < chunk.left if chunk.missing else False:
                self.model.answer(chunk_id, chunk.row(chunk.missing[0]), seconds, done=False, place=chunk.missing[0])
            self.model.answer(chunk_id, chunk.left, seconds, done=True, place=min(chunk.missing, default=chunk.begun))

    @precondition(lambda self: len(self.model.ready) < len(self.model.scheduler.workers))
    @rule(data=st.data())
    def end_recycled_worker(self, *, data: st.DataObject) -> None:
        """Tell of the end of a worker that is not there, as one that was recycled is."""
        missing = set(range(len(self.model.scheduler.workers))) - self.model.ready
        begun: dict[int, int | None] | None = {} if self.counts_begun else None
        self.model.lose_worker(data.draw(st.sampled_from(sorted(missing)), label="worker"), begun)

    @precondition(lambda self: self.model.ready)
    @rule(data=st.data())
    def lose_worker(self, *, data: st.DataObject) -> None:
        """End a worker with any number of items begun, or uncounted, also in slots that nothing is in any more."""
        worker_id = data.draw(st.sampled_from(sorted(self.model.ready)), label="worker")
        if not self.counts_begun:
            is_done = worker_id in self.model.worn and data.draw(st.booleans(), label="has ended by itself")
            self.model.lose_worker(worker_id, {} if is_done else None, self.draw_delays(data, worker_id))
            return
        stale = st.dictionaries(st.integers(0, 31), st.none() | st.integers(0, 12), max_size=4)
        begun = data.draw(stale, label="stale")
        suspects: list[tuple[int, int]] = []
        for chunk in self.model.chunks.values():
            if chunk.worker_id == worker_id:
                counts = st.integers(chunk.begun, chunk.count)
                count = data.draw(counts if chunk.concurrency > 1 else st.none() | counts, label="begun")
                begun[chunk.slot] = None if count is None else chunk.start + count
                suspects += [(chunk.slot, chunk.start + place) for place in chunk.missing if place < (count or 0)]
        suspect = data.draw(st.none() | st.sampled_from(suspects), label="suspect") if suspects else None
        self.model.lose_worker(worker_id, begun, self.draw_delays(data, worker_id), suspect)

    def draw_delays(self, data: st.DataObject, worker_id: int) -> dict[int, float]:
        """Choose of which chunks of a worker a lost item is to be tried again."""
        chunks = [(number, chunk.run) for number, chunk in self.model.chunks.items() if chunk.worker_id == worker_id]
        able = [number for number, run in chunks if run.pinned is None]
        retried = st.lists(st.sampled_from(able), unique=True) if able else st.just([])
        return dict.fromkeys(data.draw(retried, label="retried"), 0.0)

    @precondition(lambda self: any(chunk.taken_back for chunk in self.model.chunks.values()))
    @rule(data=st.data())
    def return_items(self, *, data: st.DataObject) -> None:
        """Answer for a chunk that was taken back, any number of its items having begun; some never get the answer."""
        taken = [number for number, chunk in self.model.chunks.items() if chunk.taken_back]
        chunk_id = data.draw(st.sampled_from(taken), label="chunk")
        chunk = self.model.chunks[chunk_id]
        least = max(chunk.begun, min(chunk.keep, chunk.count))
        self.model.return_items(chunk_id, data.draw(st.integers(least, chunk.count), label="kept"))

    @invariant()
    def holds(self) -> None:
        """Check what must hold between any two events."""
        if hasattr(self, "model"):
            self.model.check()

    def teardown(self) -> None:
        """Let everything come to its end."""
        if hasattr(self, "model"):
            self.model.drain()


class UncountedMachine(SchedulerMachine):
    """The same where nobody knows what a worker had begun."""

    counts_begun = False


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestUncounted = UncountedMachine.TestCase
TestUncounted.settings = TestScheduler.settings
