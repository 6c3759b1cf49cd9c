"""Losses where nobody knows what a worker had begun, as on a cluster: who is to blame is found by trying."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolinject._scheduling.chunking import Chunking, Pace
from poolinject._scheduling.losses import PIECES
from poolinject._scheduling.scheduler import Scheduler
from poolinject._scheduling.state import Emit, Finish, Later, Lose, RunState, Send
from tests.scheduling.model import Model, ModelChunk, ModelRun


def ready_model(workers: int) -> Model:
    """Return a model of a cluster whose workers are all there."""
    model = Model(workers, counts_begun=False)
    for worker_id in range(workers):
        model.make_ready(worker_id)
    return model


def sends(actions: list[object]) -> list[tuple[int, int, int]]:
    """Give worker, start and size of what is sent."""
    return [(action.worker_id, action.start, action.size) for action in actions if isinstance(action, Send)]


def test_a_lost_chunk_is_tried_again_in_parts_each_alone_on_its_worker() -> None:
    """Nothing is lost with it yet; a second part waits for the first one to end."""
    scheduler = Scheduler(1, counts_begun=False)
    scheduler.open(RunState(0, Chunking(64, pace=Pace(1e-5)), None, fail_fast=False))
    scheduler.ready(0)
    (first,) = scheduler.arrived(0, 64)
    assert isinstance(first, Send)
    assert scheduler.gone(0, None) == []
    size = 64 // PIECES
    (again,) = scheduler.ready(0)
    assert isinstance(again, Send)
    assert (again.start, again.size, again.again, again.attempt) == (0, size, True, 1)
    assert sends([*scheduler.arrived(0, 64)]) == [], "something beside it"
    assert sends([*scheduler.results(0, again.chunk, size, 1e-3, failed=False, done=True)]) == [(0, size, size)]


def test_what_had_been_told_is_neither_lost_nor_tried_again() -> None:
    """Of eight, five had outcomes: three are tried, one by one."""
    scheduler = Scheduler(3, counts_begun=False)
    scheduler.open(RunState(0, Chunking(8, pace=Pace(1e-5)), None, fail_fast=False))
    scheduler.ready(0)
    (first,) = scheduler.arrived(0, 8)
    assert isinstance(first, Send)
    scheduler.results(0, first.chunk, 5, 0.0, failed=False, done=False)
    assert scheduler.gone(0, None) == []
    found = sends([action for worker_id in range(3) for action in scheduler.ready(worker_id)])
    assert found == [(0, 5, 1), (1, 6, 1), (2, 7, 1)]


def lose_single(delay: float | None = None) -> tuple[Scheduler, list[object]]:
    """Lose a worker with one item, twice."""
    scheduler = Scheduler(1, counts_begun=False)
    scheduler.open(RunState(0, Chunking(1), None, fail_fast=False))
    scheduler.ready(0)
    scheduler.arrived(0, 1)
    scheduler.ended(0)
    assert scheduler.gone(0, None) == [], "lost at once, though somebody else may have ended the worker"
    (again,) = scheduler.ready(0)
    assert isinstance(again, Send)
    return scheduler, [*scheduler.gone(0, None, {} if delay is None else {again.chunk: delay})]


def test_an_item_that_was_all_its_worker_had_is_lost() -> None:
    """It was tried twice, the second time alone."""
    _, actions = lose_single()
    assert actions == [Lose(0, 0, 0), Emit(0, 0), Finish(0)]


def test_a_lost_item_that_is_tried_again_stays_alone() -> None:
    """When it is due it goes out in its next attempt, and is lost when that ends its worker too."""
    scheduler, actions = lose_single(delay=0.5)
    assert actions == [Lose(0, 0, 0, 1, 0.5), Later(0, 0, 0.5)]
    assert scheduler.ready(0) == []
    (again,) = scheduler.due([(0, 0)])
    assert isinstance(again, Send)
    assert again.attempt == 2
    assert scheduler.gone(0, None) == [Lose(0, 0, 0, 2), Emit(0, 0), Finish(0)]


def test_an_item_that_fails_fast_in_the_end_cancels_its_run() -> None:
    """The rest does not run."""
    model = ready_model(1)
    run = model.open(fail_fast=True, chunksize=4)
    model.read(run, 4)
    while not run.cancelled:
        model.lose_worker(0, None)
        model.make_ready(0)
        model.check()
    assert len(run.lost) == 1
    assert run.finished


def test_suspicious_items_are_not_kept_waiting_by_another_run() -> None:
    """One that always has more would never leave a worker without anything."""
    model = ready_model(1)
    suspected, endless = model.open(chunksize=1), model.open(limit=10_000, chunksize=1)
    model.read(suspected, 1)
    model.lose_worker(0, None)
    model.read(endless, 500)
    model.make_ready(0)
    for _ in range(200):
        if suspected.emitted:
            return
        chunk_id = next(iter(model.chunks))
        model.answer(chunk_id, 1, seconds=1e-6, done=True)
        model.read(endless, 1)
    pytest.fail("never tried again")


def test_a_suspicious_item_does_not_wait_for_a_busy_run_to_end() -> None:
    """Also where the other has many chunks ahead when the worker is lost of two."""
    model = ready_model(2)
    suspected, endless = model.open(limit=4, chunksize=1), model.open(limit=100_000, chunksize=1)
    model.scheduler.runs[endless.id].chunking = Chunking(1, pace=Pace(1e-6))
    model.read(suspected, 1)
    model.read(endless, 1000)
    holder = next(chunk.worker_id for chunk in model.chunks.values() if chunk.run is suspected)
    model.lose_worker(holder, None)
    for _ in range(500):
        if suspected.emitted:
            return
        chunk_id, chunk = next(iter(model.chunks.items()))
        model.answer(chunk_id, chunk.left, seconds=1e-6 * chunk.left, done=True)
        model.consume(endless, 1000)
        model.read(endless, 100)
    pytest.fail("never tried again")


def test_what_a_worker_never_got_that_was_sent_away_is_not_suspicious() -> None:
    """It was at nothing when it ended: the rest of a chunk goes out as it is, beside others."""
    scheduler = Scheduler(1, counts_begun=False)
    scheduler.open(RunState(0, Chunking(8, pace=Pace(1e-5)), None, fail_fast=False))
    scheduler.ready(0)
    (first,) = scheduler.arrived(0, 16)
    assert isinstance(first, Send)
    assert scheduler.wind_down(0) == []
    scheduler.results(0, first.chunk, 5, 1e-4, failed=False, done=False)
    assert sends([*scheduler.arrived(0, 8)]) == [], "something for a worker that is sent away"
    assert scheduler.gone(0, {}) == []
    assert sends([*scheduler.ready(0)])[0] == (0, 5, 11)


def test_a_broadcast_loses_what_must_run_on_a_vacant_slot() -> None:
    """The others run."""
    model = ready_model(3)
    model.lose_worker(1, None)
    model.perform(model.scheduler.vacate(1))
    run = model.open(ordered=False, limit=3, pinned=range(3))
    model.read(run, 3)
    model.end(run)
    assert run.lost == {1: 1}
    model.answer_everything()
    assert run.finished


def test_a_broadcast_that_waits_for_a_worker_loses_its_item_when_the_slot_is_vacated() -> None:
    """Not while somebody may still take its place."""
    model = ready_model(2)
    model.lose_worker(0, None)
    run = model.open(ordered=False, limit=2, pinned=range(2))
    model.read(run, 2)
    model.end(run)
    assert not run.lost
    model.perform(model.scheduler.vacate(0))
    assert run.lost == {0: 1}
    model.answer_everything()
    assert run.finished


def test_a_broadcast_runs_on_a_slot_that_was_vacant() -> None:
    """Once it has a worker again, it is as any other."""
    model = ready_model(2)
    model.lose_worker(0, None)
    model.perform(model.scheduler.vacate(0))
    model.make_ready(0)
    run = model.open(ordered=False, limit=2, pinned=range(2))
    model.read(run, 2)
    model.end(run)
    assert not run.lost
    assert {chunk.worker_id for chunk in model.chunks.values()} == {0, 1}


def test_a_broadcast_loses_its_item_with_the_worker() -> None:
    """It cannot run anywhere else, and is not suspicious."""
    model = ready_model(2)
    run = model.open(ordered=False, limit=2, pinned=range(2))
    model.read(run, 2)
    model.end(run)
    model.lose_worker(1, None)
    assert run.lost == {1: 1}


def test_a_worker_that_is_added_gets_work_when_it_is_ready() -> None:
    """Not before."""
    model = ready_model(1)
    run = model.open(chunksize=1)
    model.read(run, 5)
    model.scheduler.add_worker()
    assert {chunk.worker_id for chunk in model.chunks.values()} == {0}
    model.make_ready(1)
    assert {chunk.worker_id for chunk in model.chunks.values()} == {0, 1}
    model.drain()


class Scene:
    """A model whose workers run in order what they have, and end at poison."""

    def __init__(self, random: Random, workers: int) -> None:
        self.random, self.model = random, Model(workers, counts_begun=False)
        self.poison: dict[int, set[int]] = {}
        self.deaths = 0

    def open(self, size: int, attempts: int) -> ModelRun:
        """Begin a run that is read to its end."""
        random = self.random
        run = self.model.open(
            ordered=random.random() < 0.5,
            limit=size,
            chunksize=random.choice([None, 1, 3, 50]),
            concurrency=random.choice([1, 1, 4]),
        )
        self.model.scheduler.runs[run.id].chunking.pace = Pace(random.choice([1e-6, 1e-3, 1.0]))
        self.poison[run.id] = {index for index in range(size) if random.random() < 2 / size}
        self.attempts = attempts
        self.model.read(run, size)
        self.model.end(run)
        return run

    def is_poison(self, chunk: ModelChunk, place: int) -> bool:
        """Tell whether the item there ends its worker."""
        return chunk.start + place in self.poison[chunk.run.id]

    def step(self) -> None:
        """Let something happen."""
        random, model = self.random, self.model
        missing = sorted(set(range(len(model.scheduler.workers))) - model.ready)
        if missing and (not model.chunks or random.random() < 0.3):
            model.make_ready(random.choice(missing))
        waiting = [(run.id, index) for run in model.live for index in sorted(run.waiting)]
        if waiting and random.random() < 0.5:
            model.come_due(random.sample(waiting, random.randint(1, len(waiting))))
        if model.chunks:
            worker_id = random.choice(sorted({chunk.worker_id for chunk in model.chunks.values()}))
            self.work(worker_id, [number for number, each in model.chunks.items() if each.worker_id == worker_id])

    def work(self, worker_id: int, held: list[int]) -> None:
        """Let a worker go on: with the oldest chunk, or with any of those that run beside it."""
        random, model = self.random, self.model
        beside = [number for number in held if model.chunks[number].concurrency > 1]
        chunk_id = random.choice(beside) if held[0] in beside else held[0]
        chunk = model.chunks[chunk_id]
        if chunk.taken_back:
            least = max(chunk.begun, min(chunk.keep, chunk.count))
            model.return_items(chunk_id, random.randint(least, chunk.count))
        elif not chunk.missing:
            model.answer(chunk_id, 0, done=True)
        else:
            place = random.choice(chunk.missing) if chunk.concurrency > 1 else chunk.missing[0]
            row = range(place, place + chunk.row(place))
            fatal = next((at for at in row if self.is_poison(chunk, at)), None)
            count = random.randint(1, len(row)) if fatal is None else random.randint(0, fatal - place)
            if count:
                model.answer(chunk_id, count, random.choice([0.0, 1e-3]), done=count == chunk.left, place=place)
            if fatal is not None:
                self.die(worker_id)

    def die(self, worker_id: int) -> None:
        """End a worker; items that may be tried again wait."""
        self.deaths += 1
        held = {number: each for number, each in self.model.chunks.items() if each.worker_id == worker_id}
        delays = {number: 0.0 for number, each in held.items() if each.attempt < self.attempts}
        self.model.lose_worker(worker_id, None, delays)
        if self.random.random() < 0.3:
            self.model.perform(self.model.scheduler.vacate(worker_id))


@settings(max_examples=150, deadline=None)
@given(
    random=st.randoms(use_true_random=False),
    workers=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 80), min_size=1, max_size=3),
    attempts=st.integers(1, 3),
)
def test_each_poison_is_lost_once_and_nothing_else(
    random: Random, workers: int, sizes: list[int], attempts: int
) -> None:
    """Whatever else their workers had, in whichever order they end; and not before it has had its attempts."""
    scene = Scene(random, workers)
    runs = [scene.open(size, attempts) for size in sizes]
    steps = 0
    while not all(run.finished for run in runs):
        scene.step()
        scene.model.check()
        steps += 1
        assert steps < 20_000, "it does not come to an end"
    for run in runs:
        assert run.lost == Counter(scene.poison[run.id])
        assert run.failed == Counter(dict.fromkeys(scene.poison[run.id], attempts - 1)) or attempts == 1
    poison = sum(len(scene.poison[run.id]) for run in runs)
    assert scene.deaths <= 8 * max(poison, 1) * attempts * len(sizes), "more workers than it takes to find out"
