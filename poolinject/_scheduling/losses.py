"""What becomes of the items of a worker that has ended: which are lost, which run again, which alone. In the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from poolinject._scheduling.state import ChunkState, WorkerState

Rest: TypeAlias = Callable[[ChunkState, range], Iterable[tuple[int, int, int]]]
"""Gives, for a chunk and what is lost of it, what goes to other workers, as in ``RunState.again``."""


def lost_items(
    worker: WorkerState, begun_up_to: Mapping[int, int | None], suspect: tuple[int, int] | None
) -> dict[int, range]:
    """Tell which items are lost with a worker: by chunk, counted from its start; those that are known are not meant."""
    lost: dict[int, range] = {}
    running: tuple[int, range] | None = None
    for chunk in worker.chunks.values():  # they are come to in order
        up_to = begun_up_to.get(chunk.slot, 0)
        if chunk.run.pinned is not None:
            lost[chunk.id] = range(chunk.reported, chunk.count)
        if up_to is None:
            chunk.run.exact, running = True, None
            continue
        begun = min(max(up_to - chunk.start, 0 if chunk.beside > 1 else chunk.reported), chunk.count)
        if begun and chunk.beside == 1:
            running = chunk.id, range(max(begun - 1, chunk.reported), begun)
        if chunk.run.at_most_once and chunk.run.pinned is None:
            lost[chunk.id] = range(0 if chunk.beside > 1 else chunk.reported, begun)
    if suspect is not None:
        _add_suspect(lost, worker, *suspect)
    elif running is not None:
        lost.setdefault(*running)
    return lost


def _add_suspect(lost: dict[int, range], worker: WorkerState, slot: int, index: int) -> None:
    for chunk in worker.chunks.values():
        place = index - chunk.start
        is_missing = 0 <= place < chunk.count and not chunk.knows(place)
        if chunk.slot == slot and is_missing and not lost.get(chunk.id):
            lost[chunk.id] = range(place, place + 1)


PIECES = 8  # that the items of a lost chunk are tried in, where nobody knows which of them had begun


def lost_alone(worker: WorkerState) -> dict[int, range]:
    """The same where nothing is known of what had begun: an item is lost that was all the worker had."""
    lost: dict[int, range] = {}
    for chunk in worker.chunks.values():
        rows = chunk.missing()
        is_single = sum(map(len, rows)) == 1 and chunk.start in chunk.run.alone
        if rows and (chunk.run.pinned is not None or is_single):
            lost[chunk.id] = range(rows[0].start, rows[-1].stop)
    return lost


def pieces(chunk: ChunkState, lost: range) -> Iterable[tuple[int, int, int]]:
    """Give the rest of a chunk in parts as in ``RunState.again``; each is all that its worker will have."""
    rows = [row for row in chunk.missing() if not lost]
    size = -(-sum(map(len, rows)) // PIECES)
    for row in rows:
        for place in range(row.start, row.stop, size):
            chunk.run.alone.add(chunk.start + place)
            yield chunk.start + place, min(size, row.stop - place), chunk.attempt


def keep_alone(chunk: ChunkState, up_to: int) -> None:
    """Of the items of a chunk that ran beside others, each may have ended the worker: none does so again."""
    if chunk.beside > 1:
        begun = range(chunk.start, min(up_to, chunk.start + chunk.count))
        chunk.run.alone.update(index for index in begun if not chunk.knows(index - chunk.start))


def not_lost(chunk: ChunkState, lost: range) -> Iterable[tuple[int, int, int]]:
    """Give what goes to another worker of a chunk, as in ``RunState.again``; each item alone that has to be."""
    start, attempt = chunk.start, chunk.attempt
    for row in chunk.missing():
        if chunk.run.alone:
            yield from ((start + place, 1, attempt) for place in row if place not in lost)
            continue
        parts = ((row.start, lost.start), (lost.stop, row.stop)) if lost else ((row.start, row.stop),)
        yield from ((start + first, end - first, attempt) for first, end in parts if end > first)
