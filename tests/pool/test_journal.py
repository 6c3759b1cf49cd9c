"""What a worker records survives it: the journal itself, and every kind of outcome under a sudden death."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from poolinject import Failure, Success, TransportError
from poolinject._transport import wire
from poolinject._transport.batch_reader import decode_batch
from poolinject._transport.batch_writer import BatchWriter, encode_batch
from poolinject._transport.frames import FrameReader
from poolinject._transport.messages import Results
from poolinject._worker import control
from poolinject._worker.journal import Journal
from tests.conftest import Kind
from tests.pool.ledger import note, texts

LAST = 40


class Boxed:
    """Goes by value where this module cannot be imported, by reference otherwise."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Boxed) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]


def make_error(number: int) -> Any:
    """Fail."""
    raise LookupError(number)


MAKERS: dict[str, Callable[[int], Any]] = {
    "atom": lambda number: number,
    "object": Boxed,
    "by value": lambda number: functools.partial(lambda start: start, number),
    "text of some size": lambda number: str(number) * 20_000,
    "more than the journal": lambda number: bytes(control.JOURNAL_SIZE) + bytes([number]),
    "array": lambda number: np.full(200_000, number),
    "failure": make_error,
    "unsendable": lambda _: os.scandir(),
    "mixed": lambda number: number if number % 2 else np.full(200_000, number),
}


def make_or_die(job: tuple[str, int]) -> Any:
    """Leave an entry, then give a value of some kind; the last one ends the worker."""
    kind, number = job
    note(f"item {number}")
    if number == LAST:
        os.kill(os.getpid(), signal.SIGKILL)
    return MAKERS[kind](number)


def comparable(value: Any) -> Any:
    """Make something that can be compared."""
    if isinstance(value, Failure):
        return type(value.error), value.phase
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value() if callable(value) else value


def expected(kind: str, number: int) -> Any:
    """Give what an item comes to."""
    if kind == "failure":
        return LookupError, "call"
    if kind == "unsendable":
        return TransportError, "transport"
    return comparable(MAKERS[kind](number))


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
@pytest.mark.parametrize("kind", MAKERS)
def test_outcome_survives_the_worker(process: Kind, ledger: ModuleType, kind: str, delivery: Any) -> None:
    """What had ended before the death has its outcome, and has not run twice; what had not started runs."""
    jobs = [(kind, number) for number in range(LAST + 10)]
    with process.pool(1) as pool:
        results = pool.map(make_or_die, jobs, chunksize=len(jobs), on_error="return", delivery=delivery)
        assert comparable(results.pop(LAST))[1] == "lost"
        del jobs[LAST]
        assert [comparable(result) for result in results] == [expected(*job) for job in jobs]
    assert sorted(texts()) == sorted(f"item {number}" for number in range(LAST + 10))


def test_seconds_of_an_outcome_survive_the_worker(process: Kind, ledger: ModuleType) -> None:
    """As they would have come."""
    jobs = [("atom", number) for number in range(LAST + 1)]
    with process.pool(1) as pool:
        outcomes = list(pool.outcomes(make_or_die, jobs, chunksize=len(jobs)))
        assert [outcome.index for outcome in outcomes if isinstance(outcome, Failure)] == [LAST]
        assert all(outcome.seconds > 0 for outcome in outcomes if isinstance(outcome, Success))


def make_journal() -> tuple[Journal, control.Control]:
    """Make one in this process."""
    block = control.Control(bytearray(control.SIZE))
    return Journal(block), block


def test_entries_stay_until_they_are_sent() -> None:
    """In order; what was recorded after the mark stays longer."""
    journal, block = make_journal()
    assert journal.add(b"one")
    mark = journal.mark
    assert journal.add(b"two")
    assert block.recorded() == b"onetwo"
    journal.sent(mark)
    assert block.recorded() == b"two"
    journal.sent(mark)
    journal.sent(journal.mark)
    assert block.recorded() == b""


def test_journal_starts_anew_when_all_is_sent() -> None:
    """A mark of before the new start takes nothing away."""
    journal, block = make_journal()
    half = bytes(control.JOURNAL_SIZE // 2)
    assert journal.add(half)
    early = journal.mark
    assert journal.add(half)
    assert not journal.add(b"more")
    journal.sent(early)
    assert not journal.add(b"more")  # entries are not moved
    journal.sent(journal.mark)
    assert journal.add(b"more")
    journal.sent(early)
    assert block.recorded() == b"more"


def test_entry_for_one_item_is_a_message_like_others() -> None:
    """The short way to write it gives what the long one gives."""
    value = encode_batch([{"a": 1}], "result")
    ((kind, body),) = FrameReader().feed(wire.encode_single(3, 17, 0.5, value))
    read = wire.decode_from_worker(kind, body)
    assert isinstance(read, Results)
    assert read._replace(weight=0) == Results(3, 17, 1, [{"a": 1}], (), 0.5, (), done=False)


@pytest.mark.parametrize("members", [[1, "a"], [1, Boxed(2)], [Boxed(1), None], [lambda: 0], [{"a": 1}, None, [2]]])
def test_newest_member_of_a_batch_is_a_batch_of_its_own(members: list[Any]) -> None:
    """At any time, and the batch goes on as if nothing had been asked."""
    writer = BatchWriter("result")
    for count, member in enumerate(members, 1):
        writer.add(member)
        (alone,) = decode_batch(writer.last())
        assert comparable(alone) == comparable(member)
        assert len(writer) == count
    data, count = writer.take()
    assert (count, len(decode_batch(data))) == (len(members), len(members))


def test_outcomes_that_came_before_are_passed_over() -> None:
    """Those at the front of a message, with their failures and seconds."""
    wire_results = Results(1, 10, 3, [0, 1, 2], (), 3.0, (0.1, 0.2, 0.3), done=False)
    assert wire_results.without(2)[1:4] == (12, 1, [2])
    assert wire_results.without(2).each == (0.3,)
