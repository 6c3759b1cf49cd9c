"""Recycling as the scheduler decides it, over many random runs; the endings of workers, by a clock moved by hand."""

import random
import warnings

import pytest

from poolinject._scheduling.endings import GRACE_SECONDS, Endings
from poolinject._scheduling.recycling import Wear
from poolinject._transport.messages import Stopped, Worn
from tests.scheduling.model import Model
from tests.scheduling.test_shutdown import CLEANUP_TIMEOUT, NotingBackend

ERROR = ("get_a", ValueError("no"))


@pytest.mark.parametrize("most_items", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("seed", range(12))
def test_no_item_is_stranded_and_no_worker_runs_more_than_it_may(seed: int, most_items: int) -> None:
    """Whatever chunks are answered in part, taken back or bounced; the model checks each step."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    model = Model(rng.randint(1, 3), most_items)
    for _ in range(3):
        model.open(ordered=rng.random() < 0.5, limit=40, chunksize=rng.choice([None, 1, most_items, most_items + 1]))
    for _ in range(150):
        if model.live:
            run = rng.choice(model.live)
            model.consume(run, 40)
            if run.takes_input:
                model.read(run, rng.randint(1, 20))
        if rng.random() < 0.5:
            model.replace_missing()
        if model.chunks:
            chunk_id, chunk = rng.choice(list(model.chunks.items()))
            event = rng.random()
            if chunk.taken_back and event < 0.5:
                model.return_items(chunk_id, rng.randint(max(chunk.begun, min(chunk.keep, chunk.count)), chunk.count))
            elif event < 0.9:
                model.answer(chunk_id, rng.randint(0, chunk.left), rng.choice([1e-5, 1e-2]), done=rng.random() < 0.6)
            elif event < 0.95:
                model.lose_worker(chunk.worker_id, {chunk.slot: chunk.start + chunk.begun + 1})
            else:
                model.wear(chunk.worker_id)
        model.check()
    model.drain()


class Scene:
    """Two workers, a backend that takes notes, and a clock."""

    def __init__(self) -> None:
        self.backend, self.now = NotingBackend(), 100.0
        self.endings = Endings(self.backend, 2, CLEANUP_TIMEOUT)

    def after(self, seconds: float) -> list[tuple[str, int]]:
        """Let time pass and return what the backend is told."""
        self.now += seconds
        self.endings.advance(1000.0)
        notes, self.backend.notes = self.backend.notes, []
        return notes

    def end(self, worker_id: int) -> None:
        """Let a worker end as it is told."""
        self.endings.begin(worker_id)
        self.endings.stopped(worker_id, Stopped(()))
        self.endings.gone(worker_id)

    def recycle(self, worker_id: int, *failures: tuple[str, BaseException]) -> None:
        """Let a worker end as it is told, and be replaced."""
        self.endings.begin(worker_id)
        self.endings.stopped(worker_id, Stopped(failures))
        self.endings.gone(worker_id)
        self.endings.replaced(worker_id)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Return a scene whose clock stands still."""
    made = Scene()
    monkeypatch.setattr("poolinject._scheduling.endings.time.monotonic", lambda: made.now)
    return made


def test_worker_is_told_to_end_once(scene: Scene) -> None:
    """Recycling that a shutdown overtakes goes on as it is."""
    scene.endings.begin(0)
    assert scene.endings.is_ending(0)
    scene.endings.begin_all()
    assert scene.after(0) == [("stop", 0), ("stop", 1)]


def test_worker_that_hangs_while_it_is_recycled_is_ended(scene: Scene) -> None:
    """By a deadline of its own, whatever the others do; the next generation has the slot, the report says it."""
    scene.endings.begin(0)
    assert scene.after(CLEANUP_TIMEOUT - 1) == [("stop", 0)]
    scene.endings.begin(1)
    assert scene.after(1) == [("stop", 1), ("terminate", 0)]
    assert scene.after(GRACE_SECONDS) == [("kill", 0)]
    scene.endings.gone(0)
    scene.endings.replaced(0)
    assert not scene.endings.is_ending(0)
    scene.end(1)
    scene.end(0)
    report = scene.endings.report()
    assert (report[0].status, report[1].status) == ("timed out", "clean")


def test_errors_of_every_generation_are_kept(scene: Scene) -> None:
    """In order, with the worst status of all."""
    late = ("get_b", KeyError("late"))
    scene.recycle(0, ERROR)
    scene.recycle(0)
    scene.recycle(0, late)
    scene.recycle(1)
    scene.end(0)
    scene.end(1)
    report = scene.endings.report()
    assert (report[0].status, report[0].errors) == ("errors", (ERROR, late))
    assert (report[1].status, report[1].errors) == ("clean", ())


def test_generation_that_ended_without_an_answer_is_lost(scene: Scene) -> None:
    """A later one that is clean does not mend it; but the worker that ended last was not lost."""
    scene.endings.begin(0)
    scene.endings.gone(0)
    assert scene.endings.was_lost(0)
    scene.endings.replaced(0)
    scene.end(0)
    assert not scene.endings.was_lost(0)
    assert scene.endings.report()[0].status == "lost"


def test_generation_that_ended_by_itself_is_lost_if_it_had_something_open(scene: Scene) -> None:
    """Else nothing is missing."""
    for worker_id, holds in enumerate([True, False]):
        scene.endings.gone(worker_id, holds=holds)
        scene.endings.replaced(worker_id)
        scene.end(worker_id)
    report = scene.endings.report()
    assert (report[0].status, report[1].status) == ("lost", "clean")


def test_warning_comes_once_and_for_workers_that_get_nowhere() -> None:
    """Two generations in a row with a single item, in one slot; it names the figures."""
    wear = Wear(1000, "small")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for worker_id, items in [(0, 1), (1, 1), (0, 2), (0, 1)]:
            wear.note(worker_id, Worn(5000, items))
        with pytest.raises(RuntimeWarning, match=r"pool 'small'.* 5,000 bytes .*max_worker_memory=1,000"):
            wear.note(0, Worn(5000, 1))
        wear.note(0, Worn(5000, 1))
