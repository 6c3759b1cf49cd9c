"""Decides what runs where and when. A pure state machine: events in, actions out, no clock, no I/O, no items.

Items are known by their index in a run, chunks and blocks as ranges of indices. Every item that was read gives
exactly one outcome, unless its run is cancelled before it starts.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from poolinject._scheduling.losses import Rest, keep_alone, lost_alone, lost_items, not_lost, pieces
from poolinject._scheduling.placing import LONG_SECONDS, taken_back, taken_from_late, worker_for
from poolinject._scheduling.retries import Retry
from poolinject._scheduling.state import (
    Action,
    CancelItems,
    ChunkState,
    Emit,
    Finish,
    Later,
    Lose,
    Recycle,
    RunState,
    Send,
    TakeBack,
    WorkerState,
)


class Scheduler:
    """The state of every run and worker of a pool."""

    def __init__(self, workers: int, most_items: int | None = None, *, counts_begun: bool = True) -> None:
        self._counts_begun = counts_begun
        self._most_items = math.inf if most_items is None else most_items
        self.workers = [WorkerState(worker_id) for worker_id in range(workers)]
        self.runs: dict[int, RunState] = {}
        self._turn: OrderedDict[int, Hashable] = OrderedDict()  # runs that may have something to send, with their kind
        self._kinds: Counter[Hashable] = Counter()  # of those
        self._pinned = 0  # runs
        self._chunks = 0

    def add_worker(self) -> None:
        """There is one more, which is to be ``ready``."""
        self.workers.append(WorkerState(len(self.workers)))

    def vacate(self, worker_id: int) -> list[Action]:
        """A worker that has ended has not been replaced; what must run there is lost, until one is ``ready`` there."""
        self.workers[worker_id].vacant = True
        return self._fill()

    def open(self, run: RunState) -> None:
        """Begin a run."""
        self.runs[run.id] = run
        self._pinned += run.pinned is not None

    def arrived(self, run_id: int, count: int) -> list[Action]:
        """So many more items were read."""
        run = self.runs[run_id]
        run.read += count
        self._offer(run)
        return self._fill()

    def ended(self, run_id: int, count: int = 0) -> list[Action]:
        """The input has no more items than so many."""
        run = self.runs.get(run_id)
        if run is None:
            return []
        run.read += count
        run.ended = True
        self._offer(run)
        return [*self._fill(), *self._finished(run)]

    def cancel(self, run_id: int) -> list[Action]:
        """Start no further item of a run; what runs already goes on to its end."""
        run = self.runs.get(run_id)
        if run is None or run.cancelled:
            return []
        run.cancelled = True
        run.again.clear()
        run.waiting.clear()
        actions: list[Action] = [
            TakeBack(worker.id, chunk.slot, chunk.id, 0)
            for worker in self.workers
            for chunk in worker.chunks.values()
            if chunk.run is run and worker.ready  # none that has just ended
        ]
        holders = dict.fromkeys(action.worker_id for action in actions if isinstance(action, TakeBack))
        actions += [CancelItems(worker_id, run_id) for worker_id in holders if run.concurrency > 1]
        return [*actions, *self._finished(run)]

    def ready(self, worker_id: int) -> list[Action]:
        """A worker can take chunks."""
        worker = self.workers[worker_id]
        worker.ready, worker.vacant, worker.late, worker.room = True, False, False, self._most_items
        return self._fill()

    def wind_down(self, worker_id: int) -> list[Action]:
        """A worker is to get nothing more, since it has too much memory or is sent away; it answers all it has."""
        self.workers[worker_id].room = -math.inf
        return self._recycle(self.workers[worker_id])

    def chunk(self, worker_id: int, chunk_id: int) -> ChunkState:
        """Give what is known of a chunk in flight."""
        return self.workers[worker_id].chunks[chunk_id]

    def results(
        self,
        worker_id: int,
        chunk_id: int,
        count: int,
        seconds: float,
        *,
        failed: bool,
        done: bool,
        retried: Sequence[Retry] = (),
        place: int | None = None,
    ) -> list[Action]:
        """A block of outcomes came from a worker, by default the next ones of its chunk, else from a *place* on.

        Those of *retried*, in order, are to be tried again (none of a run that is cancelled); *failed* tells whether
        another one is a failure.
        """
        worker = self.workers[worker_id]
        worker.late = False
        chunk = worker.chunks[chunk_id]
        run, start = chunk.run, chunk.start + (chunk.reported if place is None else place)
        end = start + count
        chunk.reported += count
        if chunk.beside > 1:
            chunk.told.update(range(start - chunk.start, end - chunk.start))
            worker.beside -= count
        run.chunking.observe(count, seconds)
        actions: list[Action] = []
        for retry in retried:
            actions += self._emit(run, start, retry.index - start)
            actions.append(self._later(run, retry.index, chunk.attempt, retry.delay))
            start = retry.index + 1
        actions += self._emit(run, start, end - start)
        if done:
            self._close(worker, chunk)
            if not run.cancelled:
                run.give_back([(chunk.start + row.start, len(row), chunk.attempt) for row in chunk.missing()])
                self._offer(run)
        if failed and run.fail_fast:
            actions += self.cancel(run.id)
        if done:
            actions += [*self._finished(run), *self._recycle(worker)]
        return actions + self._fill()

    def returned(self, worker_id: int, chunk_id: int, kept: int) -> list[Action]:
        """A worker starts no item of a chunk beyond its first *kept*; the others go to whoever has time."""
        worker = self.workers[worker_id]
        chunk = worker.chunks[chunk_id]
        chunk.taken = False
        worker.room += chunk.count - kept
        worker.beside -= chunk.count - kept if chunk.beside > 1 else 0
        if kept < chunk.count and not chunk.run.cancelled:
            chunk.run.give_back([(chunk.start + kept, chunk.count - kept, chunk.attempt)])
            self._offer(chunk.run)
        chunk.count = kept
        return self._fill()

    def due(self, items: Iterable[tuple[int, int]]) -> list[Action]:
        """The time of items that wait has come, known by run and index; those that were cancelled are passed over."""
        for run_id, index in items:
            run = self.runs.get(run_id)
            attempt = run.waiting.pop(index, None) if run is not None else None
            if run is None or attempt is None:
                continue
            start, count, newest = run.again[-1] if run.again else (0, 0, 0)
            is_alone = index in run.alone or start in run.alone
            if (start + count, newest) == (index, attempt) and not is_alone:  # neighbours share a chunk
                run.again[-1] = (start, count + 1, attempt)
            else:
                run.again.append((index, 1, attempt))
            self._offer(run)
        return self._fill()

    def gone(
        self,
        worker_id: int,
        begun_up_to: Mapping[int, int | None] | None,
        delays: Mapping[int, float] | None = None,
        suspect: tuple[int, int] | None = None,
    ) -> list[Action]:
        """A worker has ended. *begun_up_to* gives for each slot the index of the first item that had not begun.

        The item that was running, the last one begun in the last chunk that was come to, is lost; with at most once
        all that have begun are. All others without an outcome go to other workers; so do all where nothing was
        counted, and are counted from then on. Of items that ran beside each other nobody knows which it was: they run
        again, one after another. *delays* has the chunks of which a lost item is to be tried again.
        Where there is a *suspect*, by slot and index, no item was running, and that one is lost instead.
        Where nobody knows what had begun, all run again in parts, each alone on its worker, until it is clear.
        """
        worker = self.workers[worker_id]
        worker.ready = False
        actions: list[Action] = []
        rest: Rest = pieces if begun_up_to is None else not_lost
        lost = lost_alone(worker) if begun_up_to is None else lost_items(worker, begun_up_to, suspect)
        for chunk in list(worker.chunks.values()):
            self._close(worker, chunk)
            if begun_up_to is not None:
                keep_alone(chunk, begun_up_to.get(chunk.slot) or 0)
            actions += self._lose(worker.id, chunk, lost.get(chunk.id, range(0)), (delays or {}).get(chunk.id), rest)
        return actions + self._fill()

    def _lose(self, worker_id: int, chunk: ChunkState, lost: range, delay: float | None, rest: Rest) -> list[Action]:
        """Fail the lost items of a chunk, unless they are to be tried again; keep the rest for another worker."""
        run, actions, attempt = chunk.run, list[Action](), chunk.attempt
        delay = None if run.cancelled else delay
        for index in (chunk.start + place for place in lost if not chunk.knows(place)):
            actions.append(Lose(run.id, index, worker_id, attempt, delay))
            actions += self._emit(run, index, 1) if delay is None else [self._later(run, index, attempt, delay)]
        if lost and delay is None and run.fail_fast:
            actions += self.cancel(run.id)
        if not run.cancelled:
            run.again.extend(rest(chunk, lost))
            self._offer(run)
        return actions + self._finished(run)

    @staticmethod
    def _later(run: RunState, index: int, attempt: int, delay: float) -> Later:
        run.waiting[index] = attempt + 1
        return Later(run.id, index, delay)

    def _close(self, worker: WorkerState, chunk: ChunkState) -> None:
        del worker.chunks[chunk.id]
        worker.room += chunk.count - chunk.reported
        if chunk.beside > 1:
            worker.beside -= chunk.count - chunk.reported
        worker.slots.append(chunk.slot)
        worker.load = worker.load - chunk.seconds if worker.chunks else 0.0  # no rest of rounding stays
        worker.weight = worker.weight - chunk.weight if worker.chunks else 0.0
        chunk.run.in_flight -= 1

    @staticmethod
    def _recycle(worker: WorkerState) -> list[Action]:
        if not worker.ready or worker.room > 0 or worker.chunks:
            return []
        worker.ready = False
        return [Recycle(worker.id)]

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
        self._drop(run)
        self._pinned -= run.pinned is not None
        return [Finish(run.id)]

    def _offer(self, run: RunState) -> None:
        """A run may have something to send."""
        if run.id in self.runs and self._turn.get(run.id) != run.kind:
            self._drop(run)
            self._turn[run.id] = run.kind
            self._kinds[run.kind] += 1

    def _drop(self, run: RunState) -> None:
        """It has nothing more, for now."""
        kind = self._turn.pop(run.id, None)
        if kind is not None:
            self._kinds[kind] -= 1
            if not self._kinds[kind]:
                del self._kinds[kind]

    def _fill(self) -> list[Action]:
        """Send chunks to workers that want them: the runs in turn, the least busy worker first."""
        actions = self._lose_pinned() if self._pinned else []
        refused = set[Hashable]()  # kinds of runs of which no worker wants more
        while self._turn and len(refused) < len(self._kinds):
            run_id, kind = next(each for each in self._turn.items() if each[1] not in refused)
            run = self.runs[run_id]
            if not (run.again or run.available):
                self._drop(run)
                continue
            worker = worker_for(run, self.workers, counts_begun=self._counts_begun, suspicious=self._is_suspicious)
            if worker is None:
                refused.add(kind)
            else:
                self._turn.move_to_end(run_id)
                actions.append(self._send(run, worker))
        return actions + taken_back(self.workers)

    def _lose_pinned(self) -> list[Action]:
        """Fail the items that must run on a worker which is not there."""
        actions: list[Action] = []
        for run in [run for run in self.runs.values() if run.pinned is not None]:
            while run.available and self.workers[run.pinned[run.next]].vacant:  # type: ignore[index]  # narrowed above
                actions.append(Lose(run.id, run.next, run.pinned[run.next]))  # type: ignore[index]
                run.next += 1
                actions += self._emit(run, run.next - 1, 1)
            actions += self._finished(run)
        return actions

    @property
    def is_hungry(self) -> bool:
        """Whether a worker has less than a chunk ahead."""
        return any(worker.ready and len(worker.chunks) <= 1 for worker in self.workers)

    def late(self, worker_id: int) -> list[Action]:
        """A worker was not heard of for longer than its items should take."""
        return taken_from_late(self.workers, worker_id)

    def waited(self) -> list[Action]:
        """Nothing has come for a while: where it is uneven, items take longer than it seemed."""
        return taken_back(self.workers, 0.0)

    @property
    def _is_suspicious(self) -> bool:
        """Whether any run waits for a worker that has nothing: with something ahead none ever would."""
        return not self._counts_begun and any(self.runs[run_id].is_alone_next for run_id in self._turn)

    def _send(self, run: RunState, worker: WorkerState) -> Send:
        again, attempt = bool(run.again), 1
        if again:
            start, available, attempt = run.again.popleft()
            is_whole = start in run.alone
            size = available if is_whole else run.chunking.take(available, ended=True, workers=len(self.workers))
            count = int(min(size, worker.room))
            if count < available:
                run.again.appendleft((start + count, available - count, attempt))
        else:
            start, size = run.next, run.chunking.take(run.available, ended=run.ended, workers=len(self.workers))
            count = 1 if run.pinned is not None else int(min(size, worker.room))
            run.next += count
        self._chunks += 1
        seconds = run.chunking.estimate(count)
        weight = run.chunking.pace.size * count
        beside = 1 if start in run.alone else run.concurrency
        slot, seconds = worker.slots.pop(), min(seconds / beside, LONG_SECONDS)
        chunk = ChunkState(self._chunks, run, slot, start, count, seconds, weight, attempt, beside)
        worker.room -= count
        worker.beside += count if beside > 1 else 0
        worker.load += chunk.seconds
        worker.weight += weight
        worker.chunks[chunk.id] = chunk
        run.in_flight += 1
        exact = run.exact or run.at_most_once
        return Send(worker.id, run.id, chunk.id, slot, start, count, again, exact, attempt, beside)
