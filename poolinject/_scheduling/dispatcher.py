"""Carries out what the scheduler decides: takes items, sends chunks, hands blocks on. Runs on the driver's thread."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from typing import TYPE_CHECKING

from poolinject._scheduling.backpressure import ReorderBuffer
from poolinject._scheduling.blocks import Block
from poolinject._scheduling.loading import Loading
from poolinject._scheduling.placing import is_uneven
from poolinject._scheduling.retries import Retry, delay_of, may_retry, retries_of
from poolinject._scheduling.runs import InFlight, Run
from poolinject._scheduling.scheduler import Scheduler
from poolinject._scheduling.silence import UNEVEN_SECONDS, Silence
from poolinject._scheduling.state import (
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
from poolinject._scheduling.timeouts import Overtime, failure_of, late_one
from poolinject._scheduling.timetable import Timetable
from poolinject._transport.messages import MOST_UNIT, Cancel, Chunk, Load, Results
from poolinject.errors import WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poolinject._scheduling.endings import Endings
    from poolinject._scheduling.reports import RunReport
    from poolinject.backends.base import Backend, Gone

RECLAIM_SECONDS = 0.002  # after so long a worker that has not opened a chunk that was taken back never will
REST_SECONDS = 0.1  # the longest that is waited where items run in the caller
WIDTH = 4  # chunks for each worker that an automatic in-flight limit leaves room for


class Dispatcher:
    """The live side of the scheduler."""

    def __init__(
        self, backend: Backend, endings: Endings, finished: Callable[[RunReport], None], most_items: int | None = None
    ) -> None:
        workers = len(endings.alive)
        self.scheduler = Scheduler(workers, most_items, counts_begun=backend.capabilities.counts_begun)
        self.items_done = [0] * workers
        self.runs: dict[int, Run] = {}
        self._reading: dict[int, Run] = {}  # those whose input has not come to its end
        self._limited = 0  # of the runs have a time limit
        self._backend, self._endings, self._finished = backend, endings, finished
        self._chunks: dict[int, InFlight] = {}
        self._loading = Loading(backend, workers)
        self._lost: WorkerLostError | None = None
        self._overtime = Overtime(backend)
        self._late: Lose | None = None  # the item whose worker was ended because of it
        self._untold: set[Run] = set()
        self._silence = Silence(workers)
        self._random = random.Random().random  # noqa: S311 - jitter; the caller may have seeded the one that all share
        self._taken: deque[tuple[float, TakeBack]] = deque()  # with the time from which they can be reclaimed
        self._later = Timetable()

    def add_worker(self) -> None:
        """There is one more, which is to be ``ready``."""
        self.scheduler.add_worker()
        self.items_done.append(0)
        self._loading.add_worker()
        self._silence.add_worker()

    def vacate(self, worker_id: int) -> None:
        """A worker has ended, and nobody has taken its place."""
        self._perform(self.scheduler.vacate(worker_id))

    def open(self, run: Run) -> None:
        """Begin a run, unless it was cancelled before it came."""
        if run.finished:
            return
        options, order = run.options, ReorderBuffer() if run.options.ordered else None
        self.runs[run.id] = self._reading[run.id] = run
        self._loading.need(run.load)
        self._limited += options.timeout is not None
        state = RunState(run.id, run.chunking, order, options.fail_fast, options.pinned)
        state.at_most_once, state.concurrency = options.at_most_once, options.concurrency
        self.scheduler.open(state)

    def cancel(self, run: Run) -> None:
        """Start no further item of a run; one that was interrupted before it was opened ends."""
        run.stop_input()
        if run.id in self.runs:
            self._perform(self.scheduler.cancel(run.id))
        elif not run.finished:
            run.finish(lambda _: None)

    def look_at_inputs(self) -> None:
        """Tell the scheduler what has been read since."""
        for run in list(self._reading.values()):
            ended = run.input_ended  # before the count: what was read before the end is in it
            if ended:
                run.end_announced = True
                self._reading.pop(run.id, None)
                self._perform(self.scheduler.ended(run.id, run.news()))
            while not ended and (count := run.news()):
                self._perform(self.scheduler.arrived(run.id, count))
                if not self.scheduler.is_hungry:  # else the run is to tell when there is more
                    break

    def look_at_balance(self, *, heard: bool) -> None:
        """Note whether workers were heard of; where none was for a while, idle ones get what waits at others."""
        if self._silence.note(heard=heard) and is_uneven(self.scheduler.workers):
            self._perform(self.scheduler.waited())

    def look(self) -> float:
        """Do what it is time for; give for how long there is nothing of that kind."""
        if not self.runs:
            return math.inf
        return min(self._reclaim(), self._look_at_retries(), self._look_at_limits(), self._look_for_late())

    def _reclaim(self) -> float:
        """Give chunks that were taken back before their worker came to them to others; give when to look again."""
        now = time.monotonic()
        while self._taken and self._taken[0][0] <= now:
            _, (worker_id, slot, chunk_id, keep) = self._taken.popleft()
            if chunk_id in self._chunks and not self._backend.is_opened(worker_id, slot):
                self.returned(worker_id, chunk_id, keep)
        if self._taken:
            return self._taken[0][0] - now
        return UNEVEN_SECONDS if is_uneven(self.scheduler.workers) else math.inf

    def _look_at_retries(self) -> float:
        """Have the items tried again that have waited for it; give when to look again."""
        due = self._later.take_due()
        if due:
            self._perform(self.scheduler.due(due))
        return self._later.rest()

    def rest(self) -> float:
        """Give for how long there is nothing to do but wait until an item is due; at most a moment."""
        if self._chunks or not any(state.waiting for state in self.scheduler.runs.values()):
            return 0.0
        return min(max(0.0, self._later.rest()), REST_SECONDS)

    def _look_at_limits(self) -> float:
        """End workers whose item has not heeded its time limit; give when to look again."""
        busy = (worker.id for worker in self.scheduler.workers if worker.chunks)
        return self._overtime.look(busy) if self._limited else math.inf

    def _look_for_late(self) -> float:
        """Take what waits behind an item that takes longer than others did; give when to look again."""
        late, rest = self._silence.late(self.scheduler.workers, lambda run: self.runs[run].options.patience)
        for worker_id in late:
            self._perform(self.scheduler.late(worker_id))
        return rest

    def tell(self) -> None:
        """Wake the consumers of what has been emitted since."""
        for run in self._untold:
            run.tell()
        self._untold.clear()

    def ready(self, worker_id: int) -> None:
        """A worker can take chunks."""
        self._perform(self.scheduler.ready(worker_id))

    def wind_down(self, worker_id: int) -> None:
        """A worker is to get nothing more."""
        self._perform(self.scheduler.wind_down(worker_id))

    def is_busy(self, worker_id: int) -> bool:
        """Tell whether a worker has items."""
        return bool(self.scheduler.workers[worker_id].chunks)

    def load(self, worker_id: int, load: Load) -> None:
        """Make a function known to a worker."""
        self._loading.load(worker_id, load)

    def results(self, worker_id: int, message: Results) -> None:
        """Outcomes have come."""
        chunk = self._chunks.get(message.chunk)
        self._silence.begin(worker_id)
        if chunk is None:  # a worker that has ended had recorded what it had sent
            return
        state = self.scheduler.chunk(worker_id, message.chunk)
        message = state.news_of(message)
        run, first, count, retried = chunk.run, message.start - chunk.start, message.size, list[Retry]()
        if not count and not message.done:
            return
        if message.failures and run.options.retries is not None and not self.scheduler.runs[run.id].cancelled:
            retried = retries_of(run.options.retries, chunk.attempt, message.start, message.failures, self._random)
        if count:
            items = chunk.items[first : first + count]
            self.items_done[worker_id] += count
            run.chunking.weigh(count, message.weight)
            parts = items, message.values, message.failures, message.each
            self._keep(run, Block(message.start, *parts, worker_id, chunk.attempt), retried)
        if message.sampled:
            run.sample(message.sampled)
        if message.done:
            del self._chunks[message.chunk]
            for row in state.missing_after(first, count):
                run.leave(chunk.start + row.start, chunk.items[row.start : row.stop])
        elif type(chunk.items) is list:  # not a part of the caller's own sequence
            chunk.items[first : first + count] = [None] * count
        actions = self.scheduler.results(
            *(worker_id, message.chunk, count, message.seconds),
            failed=len(message.failures) > len(retried),
            done=message.done,
            retried=retried,
            place=first,
        )
        run.widen(WIDTH * len(self.items_done) * run.chunking.size)
        self._perform(actions)

    def gone(self, worker_id: int, end: Gone) -> bool:
        """A worker has ended: the item that it was running is lost, those that it had not begun go to others.

        Gives whether it had items and ended before it had begun any, as one that cannot load the function does.
        """
        had_items, self._lost = self.is_busy(worker_id), WorkerLostError(worker_id, end.exit_code)
        is_late, delays = self._overtime.gone(worker_id), dict[int, float]()
        for number, chunk in list(self._chunks.items()):
            if chunk.worker_id == worker_id:
                del self._chunks[number]
                for row in self.scheduler.chunk(worker_id, number).missing():
                    chunk.run.leave(chunk.start + row.start, chunk.items[row.start : row.stop])
                delay = self._delay_of_lost(chunk, is_late=is_late)
                if delay is not None:
                    delays[number] = delay
        for run in self.runs.values():
            run.counts.lost_workers += not self._endings.is_ending(worker_id)
        self._loading.gone(worker_id)
        chunks = self.scheduler.workers[worker_id].chunks.values()
        begun = end.begun
        is_known = begun is None or end.suspect is not None or any(begun.get(chunk.slot, 0) is None for chunk in chunks)
        actions = self.scheduler.gone(worker_id, end.begun, delays, end.suspect)
        losses = [action for action in actions if isinstance(action, Lose)]
        self._late = late_one(losses, self.runs) if is_late else None
        self._perform(actions)
        return had_items and not is_known and not losses

    def _delay_of_lost(self, chunk: InFlight, *, is_late: bool) -> float | None:
        """Give for how long an item of a chunk waits that was lost with its worker, if it is tried again."""
        options = chunk.run.options
        failed = failure_of(chunk.run, 0, self._lost, chunk.worker_id, overtime=is_late and not options.at_most_once)
        return delay_of(options.retries, chunk.attempt, failed.phase, failed.error, self._random)

    def end_all(self, error: BaseException) -> None:
        """Cancel every run with an error."""
        for run in list(self.runs.values()):
            run.error = run.error or error
            self.cancel(run)

    def drop_all(self, error: BaseException) -> None:
        """Finish every run with an error, at once; what is in flight is forgotten."""
        for run in list(self.runs.values()):
            run.error = run.error or error
            self._finish(run)

    def returned(self, worker_id: int, chunk_id: int, kept: int) -> None:
        """No item of a chunk starts beyond its first *kept*."""
        chunk = self._chunks.get(chunk_id)
        if chunk is None or kept >= len(chunk.items):
            return
        chunk.run.leave(chunk.start + kept, chunk.items[kept:])
        self._chunks[chunk_id] = chunk._replace(items=chunk.items[:kept])
        self._perform(self.scheduler.returned(worker_id, chunk_id, kept))

    def _keep(self, run: Run, block: Block, retried: Sequence[Retry] = ()) -> None:
        """Keep a block until the scheduler says that its turn has come, save the items that are tried again."""
        again = [retry.index for retry in retried]
        if retried or block.attempt > 1:
            run.attempts.end(block.start, len(block.values), block.attempt, block.failures, set(again))
            for index in again:
                run.leave(index, [block.items[index - block.start]])
            run.counts.retries += len(again)
            run.bar.update(0, 0, len(again))
        for part in block.around(again) if retried else (block,):
            failed, count = len(part.failures), len(part.values)
            run.blocks[part.start] = part
            run.counts.failed += failed
            run.counts.succeeded += count - failed
            if failed and run.options.fail_fast and run.failure is None:
                run.failure = part.failure(0)
            run.bar.update(count, failed)

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Emit(run_id, start):
                    run = self.runs[run_id]
                    run.emit(run.blocks.pop(start))
                    self._untold.add(run)
                case TakeBack(worker_id, slot, _, keep):
                    self._backend.take_back(worker_id, slot, keep)
                    self._taken.append((time.monotonic() + RECLAIM_SECONDS, action))
                case CancelItems(worker_id, run_id):
                    self._backend.send(worker_id, Cancel(run_id))
                case Lose():
                    self._lose(self.runs[action.run], action)
                case Later(run_id, index, delay):
                    self._later.add(run_id, index, delay)
                case Finish(run_id):
                    self._finish(self.runs[run_id])
                case Recycle(worker_id):
                    self._endings.begin(worker_id)

    def _send(self, send: Send) -> None:
        run = self.runs[send.run]
        if next(iter(self.scheduler.workers[send.worker_id].chunks)) == send.chunk:  # the others are on their way too
            self._silence.begin(send.worker_id)
        items = run.take_items(send.start, send.size, again=send.again)
        self._chunks[send.chunk] = InFlight(run, send.worker_id, send.start, items, send.attempt)
        self.load(send.worker_id, run.load)
        options, is_last = run.options, not may_retry(run.options.retries, send.attempt)
        chunk = Chunk(
            *(send.chunk, run.id, send.slot, run.load.function, send.start, send.attempt),
            unit=min(options.unit, MOST_UNIT),
            patience=options.patience,
            exact=send.exact or options.timeout is not None,
            stop_on_failure=options.fail_fast and is_last,
            tells_failures=not is_last,
            timed=options.timed,
            timeout=options.timeout or 0.0,
            concurrency=send.concurrency,
            items=items,
        )
        run.chunking.weigh(len(items), self._backend.send(send.worker_id, chunk))

    def _lose(self, run: Run, lose: Lose) -> None:
        failed = failure_of(run, lose.index, self._lost, lose.worker_id, overtime=lose == self._late)
        item = run.take_items(lose.index, 1, again=True)
        block = Block(lose.index, item, [None], [failed], (), lose.worker_id, lose.attempt)
        self._keep(run, block, [] if lose.delay is None else [Retry(lose.index, lose.delay)])

    def _finish(self, run: Run) -> None:
        del self.runs[run.id]
        self._reading.pop(run.id, None)
        self._limited -= run.options.timeout is not None
        self._loading.release(run.load)
        run.finish(self._finished)
