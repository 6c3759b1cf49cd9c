"""Single decisions of the scheduler, event by event."""

import pytest

from poolinject._scheduling.backpressure import ReorderBuffer
from poolinject._scheduling.chunking import MOST, MOST_UNITS, Chunking, Pace
from poolinject._scheduling.scheduler import Scheduler
from poolinject._scheduling.state import WINDOW, ChunkState, Emit, Finish, Lose, Recycle, RunState, Send, TakeBack
from poolinject._transport.messages import Failed, Results
from tests.scheduling.model import Model


def ready_model(workers: int) -> Model:
    """Return a model whose workers are all there."""
    model = Model(workers)
    for worker_id in range(workers):
        model.make_ready(worker_id)
    return model


def test_items_that_come_before_the_workers_are_sent_when_they_are_ready() -> None:
    """A pool that is still starting loses nothing."""
    model = Model(2)
    run = model.open(chunksize=2)
    model.read(run, 4)
    assert not model.chunks
    model.make_ready(1)
    assert {chunk.worker_id for chunk in model.chunks.values()} == {1}


def test_least_busy_worker_gets_the_next_chunk() -> None:
    """Chunks of unknown duration are spread, not queued on one worker."""
    model = ready_model(3)
    model.read(model.open(chunksize=1), 3)
    assert sorted(chunk.worker_id for chunk in model.chunks.values()) == [0, 1, 2]


def test_slow_chunks_are_not_sent_ahead() -> None:
    """A worker whose chunk takes long gets no second one that another worker might do sooner."""
    model = ready_model(1)
    run = model.open(chunksize=1)
    model.read(run, 5)
    model.answer(next(iter(model.chunks)), 1, seconds=1.0, done=True)
    assert len(model.chunks) == 1


def test_fast_chunks_are_sent_ahead_up_to_the_window() -> None:
    """A worker never waits for the caller between short chunks."""
    model = ready_model(1)
    run = model.open(limit=20_000)
    model.scheduler.runs[run.id].chunking = Chunking(None, 1)
    model.read(run, 100)
    model.answer(next(iter(model.chunks)), 1, seconds=1e-6, done=True)
    assert len(model.chunks) == WINDOW


def test_chunks_that_still_grow_are_not_sent_ahead() -> None:
    """Or a worker would be at dozens of small ones before it comes to a large one."""
    model = ready_model(1)
    run = model.open(limit=20_000)
    model.read(run, 20_000)
    sizes = []
    while model.chunks:
        chunk_id, chunk = next(iter(model.chunks.items()))
        sizes.append(chunk.count)
        assert len(model.chunks) <= 2 or sizes[-1] >= MOST // 8
        model.answer(chunk_id, chunk.count, seconds=chunk.count * 1e-6, done=True)
    assert sizes[:8] == [1, 4, 4, 16, 16, 64, 64, 256]
    assert sum(sizes) == 20_000


def test_short_chunks_share_a_message() -> None:
    """A ``chunksize`` says in what portions items are handed over; a message takes as many as are done soon."""
    model = ready_model(1)
    run = model.open(limit=20_000, chunksize=5)
    model.read(run, 10_000)
    largest = 0
    while model.chunks:
        chunk_id, chunk = next(iter(model.chunks.items()))
        largest = max(largest, chunk.count)
        model.answer(chunk_id, chunk.count, seconds=1e-6, done=True)
    assert largest == 5 * MOST_UNITS


def test_idle_worker_gets_what_waits_at_a_slow_one() -> None:
    """What has not begun is taken back and goes to whoever has nothing to do."""
    model = ready_model(2)
    run = model.open(limit=1000)
    model.read(run, 2)
    for chunk_id in list(model.chunks):
        model.answer(chunk_id, 1, seconds=1e-3, done=True)
    model.read(run, 40)
    model.end(run)
    slow, fast = 0, 1
    while any(chunk.worker_id == fast for chunk in model.chunks.values()):
        chunk_id = next(number for number, chunk in model.chunks.items() if chunk.worker_id == fast)
        model.answer(chunk_id, model.chunks[chunk_id].left, seconds=1e-3, done=True)
    taken = {number: chunk.count for number, chunk in model.chunks.items() if chunk.taken_back}
    assert taken
    assert {model.chunks[number].worker_id for number in taken} == {slow}
    for number in taken:
        model.return_items(number, model.chunks[number].keep)
    assert any(chunk.worker_id == fast for chunk in model.chunks.values())
    oldest = next(chunk for chunk in model.chunks.values() if chunk.worker_id == slow)
    assert oldest.count > 0, "the slow one goes on with what it has begun"
    model.drain()


def test_two_runs_share_one_worker_chunk_by_chunk() -> None:
    """A run without end does not keep another from its turn."""
    model = ready_model(1)
    for _ in range(2):
        model.read(model.open(chunksize=1), 10)
    served = []
    for _ in range(11):
        ((chunk_id, chunk),) = model.chunks.items()
        served.append(chunk.run.id)
        model.answer(chunk_id, 1, seconds=1.0, done=True)
    assert served == [0, *[0, 1] * 5]  # the second one came when the worker was busy


def test_lost_worker_loses_what_it_had_begun_and_gives_back_the_rest() -> None:
    """Of a chunk of five, two reported and one running, the third is lost, two go to another worker."""
    scheduler = Scheduler(2)
    scheduler.open(RunState(0, Chunking(5), ReorderBuffer(), fail_fast=False))
    scheduler.ready(0)
    (send,) = scheduler.arrived(0, 5)
    assert isinstance(send, Send)
    scheduler.results(0, send.chunk, 2, 0.0, failed=False, done=False)
    scheduler.ended(0)
    assert scheduler.gone(0, {send.slot: 3}) == [Lose(0, 2, 0), Emit(0, 2)]
    (again,) = scheduler.ready(1)
    assert isinstance(again, Send)
    assert (again.start, again.size, again.again) == (3, 2, True)
    assert scheduler.results(1, again.chunk, 2, 0.0, failed=False, done=True) == [Emit(0, 3), Finish(0)]


def test_what_is_given_back_goes_before_what_comes_after_it() -> None:
    """So that items run about in the order of the input, also where each worker manages only a few."""
    run = RunState(0, Chunking(1), None, fail_fast=False)
    for parts in ([(4, 2, 1)], [(1, 1, 1), (3, 1, 1)], [(9, 1, 2)], []):
        run.give_back(parts)
    assert list(run.again) == [(1, 1, 1), (3, 1, 1), (4, 2, 1), (9, 1, 2)]


def test_a_suspect_is_lost_instead_of_the_item_that_was_begun_last() -> None:
    """The third of five was being unpickled while none of its chunk had begun: both sides of it go out again."""
    scheduler = Scheduler(1)
    scheduler.open(RunState(0, Chunking(5, pace=Pace(0.002)), None, fail_fast=False))
    scheduler.ready(0)
    first, second = scheduler.arrived(0, 10)
    assert isinstance(first, Send)
    assert isinstance(second, Send)
    scheduler.results(0, first.chunk, 4, 4 * 0.002, failed=False, done=False)
    begun = {first.slot: 5, second.slot: 5}
    assert scheduler.gone(0, begun, None, (second.slot, 7)) == [Lose(0, 7, 0), Emit(0, 7)]
    again = [(send.start, send.size) for send in scheduler.ready(0) if isinstance(send, Send)]
    assert again == [(4, 1), (5, 2), (8, 2)]


@pytest.mark.parametrize("suspect", [(0, 1), (0, 5), (9, 3)])
def test_a_suspect_that_the_worker_does_not_hold_costs_nothing(suspect: tuple[int, int]) -> None:
    """Its outcome has come, it has been taken back, or its chunk is over."""
    scheduler = Scheduler(1)
    scheduler.open(RunState(0, Chunking(5), None, fail_fast=False))
    scheduler.ready(0)
    (send,) = scheduler.arrived(0, 5)
    assert isinstance(send, Send)
    scheduler.results(0, send.chunk, 2, 0.0, failed=False, done=False)
    slot, index = suspect
    assert scheduler.gone(0, {send.slot: 3}, None, (send.slot + slot, index)) == []


def test_uncounted_chunk_loses_nothing_and_is_counted_the_next_time() -> None:
    """Which of its items was running is not known: all without an outcome go out again, to be counted."""
    scheduler = Scheduler(1)
    scheduler.open(RunState(0, Chunking(5), None, fail_fast=True))
    scheduler.ready(0)
    (send,) = scheduler.arrived(0, 5)
    assert isinstance(send, Send)
    assert not send.exact
    scheduler.results(0, send.chunk, 2, 0.0, failed=False, done=False)
    assert scheduler.gone(0, {send.slot: None}) == []
    (again,) = scheduler.ready(0)
    assert isinstance(again, Send)
    assert (again.start, again.size, again.again, again.exact) == (2, 3, True, True)
    assert scheduler.gone(0, {again.slot: 3})[0] == Lose(0, 2, 0)


def test_nothing_is_lost_before_an_uncounted_chunk() -> None:
    """A worker that has come to the next chunk has ended all items of the one before."""
    scheduler = Scheduler(1)
    scheduler.open(RunState(0, Chunking(2, pace=Pace(0.005)), None, fail_fast=False))
    scheduler.ready(0)
    first, second = scheduler.arrived(0, 4)
    assert isinstance(first, Send)
    assert isinstance(second, Send)
    assert scheduler.gone(0, {first.slot: 2, second.slot: None}) == []


def test_failure_of_a_fail_fast_run_takes_back_what_other_workers_have() -> None:
    """One failure: every chunk of the run is stopped, nothing more is sent, the end comes with the last answer."""
    scheduler = Scheduler(2)
    scheduler.open(RunState(0, Chunking(1), None, fail_fast=True))
    scheduler.ready(0)
    scheduler.ready(1)
    first, second = scheduler.arrived(0, 10)
    assert isinstance(first, Send)
    assert isinstance(second, Send)
    actions = scheduler.results(first.worker_id, first.chunk, 1, 0.0, failed=True, done=True)
    assert actions[0] == Emit(0, first.start)
    assert TakeBack(second.worker_id, second.slot, second.chunk, 0) in actions
    assert not [action for action in actions if isinstance(action, Send | Finish)]
    assert scheduler.results(second.worker_id, second.chunk, 0, 0.0, failed=False, done=True) == [Finish(0)]


def test_items_that_came_back_are_not_sent_after_a_cancel() -> None:
    """What a lost worker had not begun waits for another one, but not for one that comes after the cancel."""
    model = ready_model(2)
    run = model.open(chunksize=3, fail_fast=True)
    model.read(run, 6)
    model.lose_worker(0, {})
    model.cancel(run)
    model.make_ready(0)
    assert {chunk.worker_id for chunk in model.chunks.values()} == {1}
    model.check()
    model.drain()


def test_broadcast_item_that_was_not_begun_is_lost_with_its_worker() -> None:
    """What is meant for one worker goes to no other."""
    scheduler = Scheduler(2)
    scheduler.open(RunState(0, Chunking(1), None, fail_fast=False, pinned=(0, 1)))
    scheduler.ready(0)
    (send,) = scheduler.arrived(0, 2)
    assert isinstance(send, Send)
    scheduler.ended(0)
    assert scheduler.gone(0, {}) == [Lose(0, 0, 0), Emit(0, 0)]
    (other,) = scheduler.ready(1)
    assert isinstance(other, Send)
    assert (other.worker_id, other.start) == (1, 1)


def test_broadcast_item_that_came_back_unstarted_goes_to_its_own_worker() -> None:
    """A worker that is told to end answers without having started; its item is not sent elsewhere."""
    scheduler = Scheduler(2)
    scheduler.open(RunState(0, Chunking(1), None, fail_fast=False, pinned=(0, 1)))
    scheduler.ready(0)
    scheduler.ready(1)
    first, _ = scheduler.arrived(0, 2)
    assert isinstance(first, Send)
    (again,) = scheduler.results(0, first.chunk, 0, 0.0, failed=False, done=True)
    assert isinstance(again, Send)
    assert (again.worker_id, again.start, again.again) == (0, 0, True)


def test_run_without_items_finishes_with_its_input() -> None:
    """An empty input needs no worker."""
    scheduler = Scheduler(1)
    scheduler.open(RunState(0, Chunking(None), ReorderBuffer(), fail_fast=True))
    assert scheduler.ended(0) == [Finish(0)]
    assert scheduler.ended(0) == []
    assert scheduler.cancel(0) == []


def test_chunks_are_cut_where_a_worker_has_had_its_items() -> None:
    """Of seven items in chunks of five a worker that may run three gets three; the next generation gets three more."""
    scheduler = Scheduler(1, most_items=3)
    scheduler.open(RunState(0, Chunking(5), None, fail_fast=False))
    scheduler.ready(0)
    (first,) = scheduler.arrived(0, 7)
    assert isinstance(first, Send)
    assert (first.start, first.size) == (0, 3)
    assert scheduler.results(0, first.chunk, 3, 0.0, failed=False, done=True) == [Emit(0, 0), Recycle(0)]
    scheduler.gone(0, {})
    (second,) = scheduler.ready(0)
    assert isinstance(second, Send)
    assert (second.start, second.size) == (3, 3)


def test_items_that_come_back_count_as_not_had() -> None:
    """A worker that ran one of three because its run ended runs two of the next."""
    scheduler = Scheduler(1, most_items=3)
    scheduler.open(RunState(0, Chunking(3), None, fail_fast=True))
    scheduler.open(RunState(1, Chunking(3), None, fail_fast=True))
    scheduler.ready(0)
    (first,) = scheduler.arrived(0, 3)
    assert isinstance(first, Send)
    scheduler.arrived(1, 3)
    *_, second = scheduler.results(0, first.chunk, 1, 0.0, failed=True, done=True)
    assert isinstance(second, Send)
    assert (second.run, second.size) == (1, 2)


def test_worker_with_too_much_memory_is_recycled_once_it_has_answered() -> None:
    """What it did not start goes to the next generation, or to others."""
    scheduler = Scheduler(1)
    scheduler.open(RunState(0, Chunking(4), None, fail_fast=False))
    scheduler.ready(0)
    (send,) = scheduler.arrived(0, 4)
    assert isinstance(send, Send)
    assert scheduler.wind_down(0) == []
    assert scheduler.results(0, send.chunk, 1, 0.0, failed=False, done=True) == [Emit(0, 0), Recycle(0)]
    assert scheduler.wind_down(0) == []
    (again,) = scheduler.ready(0)
    assert isinstance(again, Send)
    assert (again.start, again.size, again.again) == (1, 3, True)


@pytest.mark.parametrize(
    ("start", "size", "expected"),
    [(100, 3, range(2, 3)), (102, 2, range(2, 4)), (102, 5, range(2, 6)), (100, 9, range(2, 6)), (106, 2, range(6, 6))],
)
def test_outcomes_that_others_give_are_left_out(start: int, size: int, expected: range) -> None:
    """Those that have come before, and those of items that were given back."""
    run = RunState(0, Chunking(10), None, fail_fast=False)
    chunk = ChunkState(1, run, 0, 100, 10, seconds=1.0, weight=1.0, attempt=1)
    chunk.reported, chunk.count = 2, 6
    failures = tuple(Failed(place, ValueError(), "", "call", None) for place in range(size))
    places = [start - 100 + place for place in range(size)]
    news = chunk.news_of(Results(1, start, size, places, failures, 1.0, (), done=False))
    assert news.values == list(expected)
    assert (news.size, [failure.offset for failure in news.failures]) == (len(expected), list(range(len(expected))))
    assert not expected or news.start == 100 + expected.start
