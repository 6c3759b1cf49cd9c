"""Which worker gets the next chunk of a run, and what is taken back from whom. Pure, on the state of the scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from poolinject._scheduling.state import WINDOW, Action, ChunkState, RunState, TakeBack, WorkerState

PREFETCH_SECONDS = 0.02  # of work that a worker has ahead
PREFETCH_BYTES = 1 << 22  # the same, beyond one chunk
LONG_SECONDS = 0.2  # a chunk that takes longer is sent only to a worker that has nothing to do
MOST_AHEAD = 32  # items that wait for each that runs beside others; those not come to can be taken back
WORTH_SECONDS = 0.002  # of work that waits at a busy worker is worth taking to an idle one


def worker_for(
    run: RunState, workers: Sequence[WorkerState], *, counts_begun: bool, suspicious: bool
) -> WorkerState | None:
    """Choose a worker for what a run has to send; none where nobody wants more.

    Without *counts_begun* what may end its worker is all that the worker has; *suspicious*: something of that kind
    waits, so that nobody gets anything ahead.
    """
    if run.pinned is not None:
        worker = workers[run.pinned[run.again[0][0] if run.again else run.next]]
        return worker if worker.ready and worker.slots and worker.room > 0 else None
    wanting = [
        worker
        for worker in workers
        if worker.ready and worker.room > 0 and worker.slots and not worker.late
        if (_wants(worker, run) if counts_begun or not (suspicious or worker.is_suspicious) else not worker.chunks)
    ]
    return min(wanting, key=lambda worker: len(worker.chunks), default=None)


def _wants(worker: WorkerState, run: RunState) -> bool:
    if run.concurrency > 1 and not run.is_alone_next:
        return worker.beside < _most_beside(run)
    share, ahead = 0.5 if worker.full else 1.0, len(worker.chunks)
    wants = not ahead or (ahead == 1 and worker.load < LONG_SECONDS)
    has_room = not run.chunking.is_growing  # else it would be kept busy with small ones while larger ones can be had
    has_room = has_room and worker.load < share * PREFETCH_SECONDS and worker.weight < share * PREFETCH_BYTES
    wants = wants or (has_room and ahead < share * WINDOW)
    worker.full = not wants
    return wants


def _most_beside(run: RunState) -> float:
    """Say how many items of a run a worker has at the most: those that run, and those that will before more come."""
    ahead = PREFETCH_SECONDS * run.concurrency / max(run.chunking.estimate(1), 1e-9)
    return run.concurrency + min(ahead, MOST_AHEAD * run.concurrency)


def taken_back(workers: Sequence[WorkerState], worth: float = WORTH_SECONDS) -> list[Action]:
    """Where a worker has nothing to do, take back what waits at the one that has most of it.

    Chunks that it has not come to are taken whole, of the only one it has a half; so it always goes on with
    something, and nothing is passed to and fro.
    """
    if not _is_lopsided(workers):
        return []
    waiting = [worker.spare() for worker in workers]
    seconds = [
        sum(chunk.run.chunking.estimate(chunk.count - keep) / chunk.beside for chunk, keep in parts)
        for parts in waiting
    ]
    busiest = seconds.index(max(seconds))
    return take(busiest, waiting[busiest] if seconds[busiest] > worth else ())


def is_uneven(workers: Sequence[WorkerState]) -> bool:
    """Tell whether a worker has nothing to do while another has more than one item."""
    return _is_lopsided(workers) and any(worker.spare() for worker in workers)


def _is_lopsided(workers: Sequence[WorkerState]) -> bool:
    """Tell whether a worker has nothing to do while another has something, be it one item."""
    is_idle = is_busy = False
    for worker in workers:
        if worker.chunks:
            is_busy = True
        elif worker.ready:
            is_idle = True
    return is_idle and is_busy


def taken_from_late(workers: Sequence[WorkerState], worker_id: int) -> list[Action]:
    """Take back what waits behind the item that a worker is late with, where others could have it sooner.

    It gets nothing more until it is heard of, so nothing is passed to and fro.
    """
    worker = workers[worker_id]
    if not worker.chunks or not any(other.ready and not other.late for other in workers if other is not worker):
        return []
    worker.late = True
    return take(worker_id, worker.behind())


def take(worker_id: int, parts: Iterable[tuple[ChunkState, int]]) -> list[Action]:
    """Take back all but so many items of each chunk."""
    actions: list[Action] = []
    for chunk, keep in parts:
        chunk.taken = True
        actions.append(TakeBack(worker_id, chunk.slot, chunk.id, keep))
    return actions
