"""A run seen from its three sides: feeder, driver and consumer."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from poolinject import RunReport
from poolinject._scheduling.backpressure import Backpressure
from poolinject._scheduling.blocks import Block
from poolinject._scheduling.chunking import Chunking
from poolinject._scheduling.progress import Bar
from poolinject._scheduling.runs import Run, RunOptions
from poolinject._transport.messages import Failed, Load

TIMEOUT = 5.0


def make_run(limit: int = 4, **options: Any) -> Run:
    """Return a run of nothing in particular."""
    load, pressure = Load(0, "load"), Backpressure(limit)
    return Run(7, load, RunOptions(**options), chunking=Chunking(1), pressure=pressure, bar=Bar(None, []))


def block(start: int, *values: object, failures: tuple[Failed, ...] = ()) -> Block:
    """Return outcomes whose items are their values."""
    return Block(start, values, values, failures, (), 0)


class Notes:
    """Counts how often the driver was woken."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def test_reading_stops_at_the_limit() -> None:
    """Of an endless input just as many items are taken as there is room for."""
    source, notes, run = iter(range(1000)), Notes(), make_run(limit=4)
    assert run.read(source, notes)
    assert (run.news(), next(source)) == (4, 4)


def test_reading_waits_for_room_and_goes_on_when_the_caller_has_taken() -> None:
    """The feeder sleeps while the limit is reached and is woken by the consumer."""
    source, notes, run = iter(range(1000)), Notes(), make_run(limit=4)
    run.read(source, notes)
    feeder = threading.Thread(target=run.read, args=(source, notes))
    feeder.start()
    run.release(2, at_once=True)
    feeder.join(TIMEOUT)
    assert not feeder.is_alive()
    assert run.pressure.read == 6


@pytest.mark.parametrize(
    "sequence", [list(range(10)), tuple(range(10)), range(10)], ids=lambda each: type(each).__name__
)
def test_sequence_is_cut_into_chunks_of_its_own_kind(sequence: Any) -> None:
    """Its items are not read one by one; the limit holds all the same."""
    run = make_run(limit=4)
    run.use(sequence)
    assert run.read(iter(()), Notes())
    assert run.news() == 4
    assert run.take_items(0, 3, again=False) == sequence[:3]
    run.leave(1, sequence[1:3])
    assert run.take_items(2, 1, again=True) == sequence[2:3]
    assert not run.wants_items
    run.release(7, at_once=True)
    assert not run.read(iter(()), Notes())
    assert (run.news(), run.take_items(3, 7, again=False), run.input_ended) == (6, sequence[3:], True)


def test_list_that_changes_after_the_call_is_taken_as_it_was() -> None:
    """As a reader that had been quicker would have found it."""
    items, run = [1, 2, 3], make_run()
    run.use(items)
    items.clear()
    run.read(iter(()), Notes())
    assert run.take_items(0, 3, again=False) == [1, 2, 3]


def test_driver_is_woken_only_when_it_wants_items() -> None:
    """One note for the first item; the next comes after the driver has found nothing new."""
    source, notes, run = iter(range(1000)), Notes(), make_run(limit=100)
    run.read(source, notes, most=10)
    assert notes.count == 1
    assert run.news() == 10
    run.read(source, notes, most=10)
    assert notes.count == 1
    assert run.news() == 10
    assert run.news() == 0
    run.read(source, notes, most=10)
    assert notes.count == 2


def test_end_of_the_input_is_noted() -> None:
    """The last read says that there is no more."""
    notes, run = Notes(), make_run(limit=10)
    assert not run.read(iter([1, 2]), notes)
    assert run.input_ended
    assert not run.input_was_cut
    assert run.news() == 2


def test_input_that_raises_ends_with_its_error() -> None:
    """What was read before the error is kept."""

    def source() -> Iterator[int]:
        yield 1
        raise KeyError("broken input")

    run = make_run()
    assert not run.read(source(), Notes())
    assert isinstance(run.error, KeyError)
    assert run.news() == 1


def test_stopped_input_is_not_read() -> None:
    """After ``stop_input`` nothing is taken from the input, and the run knows that it was cut."""
    source, run = iter([1, 2]), make_run()
    run.stop_input()
    assert not run.read(source, Notes())
    assert run.input_was_cut
    assert next(source) == 1


def test_stop_wakes_a_feeder_that_waits_for_room() -> None:
    """Cancel does not wait for the caller to take outcomes."""
    source, run = iter(range(1000)), make_run(limit=1)
    run.read(source, Notes())
    feeder = threading.Thread(target=run.read, args=(source, Notes()))
    feeder.start()
    run.stop_input()
    feeder.join(TIMEOUT)
    assert not feeder.is_alive()
    assert run.pressure.read == 1


def test_items_that_came_back_are_taken_again_by_index() -> None:
    """What a lost worker had not begun is found beside the buffer."""
    run = make_run(limit=10)
    run.read(iter("abcdef"), Notes())
    assert run.take_items(0, 3, again=False) == ["a", "b", "c"]
    run.leave(1, ["b", "c"])
    assert run.take_items(3, 1, again=False) == ["d"]
    assert run.take_items(1, 2, again=True) == ["b", "c"]


def test_consumer_takes_blocks_in_the_order_in_which_they_were_emitted() -> None:
    """After the last one and the end there is nothing to wait for."""
    run = make_run()
    run.emit(block(0, "a"))
    run.emit(block(1, "b"))
    run.finish(lambda _: None)
    taken = [run.take(TIMEOUT), run.take(TIMEOUT)]
    assert [one.start for one in taken if one is not None] == [0, 1]
    assert run.exhausted
    assert run.take(TIMEOUT) is None


def test_eager_run_makes_room_when_it_emits() -> None:
    """``map`` holds its results for the caller anyway, so they do not count against the limit."""
    run = make_run(limit=4, eager=True)
    run.read(iter(range(1000)), Notes())
    run.emit(block(0, 1, 2, 3))
    assert run.pressure.room == 3


def test_limit_only_grows_and_only_where_it_is_automatic() -> None:
    """A ``max_in_flight`` that the user gave stays."""
    automatic, given = make_run(limit=4), make_run(limit=4, widens=False)
    for run in (automatic, given):
        run.widen(10)
        run.widen(3)
    assert (automatic.pressure.limit, given.pressure.limit) == (10, 4)


def test_hooks_take_the_place_of_the_outbox() -> None:
    """A future gets its block and the end on the driver's thread."""
    run, events = make_run(), list[object]()
    run.on_block = lambda one: events.append(one.start)
    run.on_finish = lambda: events.append("end")
    run.emit(block(0, "a"))
    run.finish(lambda _: None)
    assert events == [0, "end"]
    assert run.exhausted


def test_report_is_there_before_anybody_hears_of_the_end() -> None:
    """It has the counts, and the mean of what was sampled."""
    run, reports = make_run(limit=10), list[RunReport]()
    run.read(iter("abc"), Notes())
    run.news()
    run.counts.succeeded, run.counts.failed = 2, 1
    run.sample([("get_a", 1, 0.5), ("get_b", 2, 1.0)])
    run.sample([("get_a", 3, 0.5)])
    run.on_finish = lambda: reports.append(reports[0])
    run.finish(reports.append)
    report = reports[1]
    assert (report.function, report.items, report.succeeded, report.failed) == ("load", 3, 2, 1)
    assert report.provider_seconds == {"get_a": 0.25, "get_b": 0.5}


def test_block_makes_the_record_of_a_failure() -> None:
    """Index and item are those of the failed one, wherever it stands in the block."""
    error = ValueError("no")
    failed = Failed(1, error, "Traceback ...", "setup", "get_a")
    failure = block(10, "a", "b", failures=(failed,)).failure(0)
    assert (failure.index, failure.item, failure.error) == (11, "b", error)
    assert (failure.phase, failure.provider, failure.attempts, failure.worker_id) == ("setup", "get_a", 1, 0)


@pytest.mark.parametrize(("finished", "state"), [(False, "running"), (True, "finished")])
def test_repr_tells_the_state(*, finished: bool, state: str) -> None:
    """A run can be looked at from outside."""
    run = make_run()
    if finished:
        run.finish(lambda _: None)
    assert repr(run) == f"<Run 7 of load {state}, read 0, released 0>"
