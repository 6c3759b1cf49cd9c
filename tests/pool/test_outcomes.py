"""A chunk in progress: what may still start, and what of its outcomes is recorded, whoever looks in meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from poolinject._transport.batch_reader import decode_batch
from poolinject._transport.messages import Chunk, Results
from poolinject._transport.wire import read_journal
from poolinject._worker import journal as journals
from poolinject._worker.control import SIZE, Control
from poolinject._worker.journal import Journal
from poolinject._worker.outcomes import Work
from poolinject._worker.stores import Objects, Packed, Primitives

COUNT = 10


class Row:
    """A result that can change."""

    def __init__(self, number: int) -> None:
        self.number = number


@pytest.fixture
def control() -> Control:
    """Have a block with a chunk of ten items in slot 0, which begins at item 100."""
    control = Control(bytearray(SIZE))
    control.prepare(0, 100, COUNT)
    return control


def make_work(control: Control, store: Objects | Packed, *, is_quick: bool = True, counts: bool = True) -> Work:
    """Come to the chunk."""
    chunk = Chunk(id=1, run=0, slot=0, function=0, start=100, items=list(range(COUNT)))
    journal = Journal(control)
    return Work(chunk, store, control.words, journal, lambda: None, seconds=1e-6, is_quick=is_quick, counts=counts)


def next_item(work: Work) -> int:
    """Hand an item out."""
    item: int | tuple[int, int] = next(work.numbered)
    return item if isinstance(item, int) else item[1]


def numbers(values: Any) -> list[int]:
    """Give what results are about."""
    members = decode_batch(values) if isinstance(values, bytes) else values
    return [member if isinstance(member, int) else member.number for member in members]


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("keep", [1, 2, 5])
def test_an_object_does_not_undo_what_was_taken_back(control: Control, keep: int, *, counts: bool) -> None:
    """The loop ends with it and goes on after it, no further than the caller was told."""
    work = make_work(control, Primitives(), counts=counts)
    work.other(Row(next_item(work)))  # ends the loop
    assert next(work.numbered, None) is None
    control.take_back(0, keep)
    work.heed_bound()  # as another thread does
    assert work.resume(None) is (keep > 1)
    rest = [item[1] if isinstance(item, tuple) else item for item in work.numbered]
    assert rest == list(range(1, keep))
    for item in rest:
        work.append(Row(item))
    assert work.kept_items == keep


@pytest.mark.parametrize("counts", [True, False])
def test_an_object_that_is_not_taken_yet_is_kept(control: Control, *, counts: bool) -> None:
    """Whoever asks at that moment: the item has run, although more than its turn was taken back."""
    work = make_work(control, Primitives(), counts=counts)
    for _ in range(2):
        work.kept.append(next_item(work))
    item = next_item(work)
    control.take_back(0, 1)
    work.heed_bound()
    work.other(Row(item))
    assert next(work.numbered, None) is None
    assert work.kept_items == 3
    assert not work.resume(None)
    assert work.kept_items == 3
    assert work.results(done=True).size == 3


def test_what_is_taken_back_just_then_is_answered_for(control: Control) -> None:
    """Nobody else may have seen it."""
    work = make_work(control, Primitives())
    _, item = next(work.numbered)
    work.other(Row(item))
    control.take_back(0, 3)
    assert work.resume(None)
    assert work.owes_answer
    assert [item for _, item in work.numbered] == [1, 2]


@pytest.mark.parametrize("objects", [False, True])
def test_quick_items_are_recorded_when_somebody_looks(control: Control, *, objects: bool) -> None:
    """All since the last time, results that are pickled one by one as well; a failure among them."""
    work = make_work(control, Packed(None) if objects else Primitives())
    keep = work.kept.append
    for _, item in zip(range(4), work.numbered, strict=False):
        keep(Row(item[1]) if objects else item[1])
        assert control.recorded() == b""
    assert work.record()
    keep(Row(4) if objects else 4)
    assert work.record()
    recorded = list(read_journal(control.recorded()))
    assert [(part.start, part.size, numbers(part.values)) for part in recorded] == [
        (100, 4, [0, 1, 2, 3]),
        (104, 1, [4]),
    ]
    results: Results = work.results(done=False)
    assert (results.start, results.size, numbers(results.values), results.mark) == (100, 5, [0, 1, 2, 3, 4], 0)
    assert work.record()
    assert len(list(read_journal(control.recorded()))) == 2


def test_slow_items_are_recorded_at_once(control: Control) -> None:
    """Nothing is left to record for who looks."""
    work = make_work(control, Packed(None), is_quick=False)
    for _ in range(3):
        work.append(Row(next(work.numbered)[1]))
    assert [numbers(part.values) for part in read_journal(control.recorded())] == [[0], [1], [2]]
    assert work.record()
    assert work.results(done=False).mark == len(control.recorded())


def test_who_looks_is_told_where_there_is_no_room(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the results are sent; then there is room again for those after them."""
    monkeypatch.setattr(journals, "JOURNAL_SIZE", 200)
    work = make_work(control, Packed(None))
    for _ in range(8):
        work.append(Row(next(work.numbered)[1]))
    assert not work.record()
    assert control.recorded() == b""
    assert work.results(done=False).size == 8
    work.append(8)
    assert work.record()
    assert [part.start for part in read_journal(control.recorded())] == [108]
