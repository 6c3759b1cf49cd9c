"""Phases of a shutdown, against a backend that only takes notes and a clock that is moved by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest

from poolinject import Backend
from poolinject._scheduling.dispatcher import Dispatcher
from poolinject._scheduling.endings import GRACE_SECONDS, Endings
from poolinject._scheduling.shutdown import Mode, Shutdown
from poolinject._transport.messages import FromWorker, Stop, Stopped, ToWorker
from poolinject.backends.base import Capabilities, Gone
from poolinject.errors import PoolClosedError
from tests.scheduling.test_runs import make_run

CLEANUP_TIMEOUT = 30.0


class NotingBackend(Backend):
    """Writes down what it is told."""

    capabilities = Capabilities(shares_memory=True)

    def __init__(self) -> None:
        self.notes: list[tuple[str, int]] = []

    def start(self, pool_name: str, workers: int, preload: Sequence[str], async_backend: str) -> int:
        return workers

    def send(self, worker_id: int, message: ToWorker) -> int:
        assert isinstance(message, Stop)
        self.notes.append(("stop", worker_id))
        return 0

    def receive(self, timeout: float | None) -> list[tuple[int, FromWorker | Gone]]:
        return []

    def wake(self) -> None:
        """Have nothing to do."""

    def take_back(self, worker_id: int, slot: int, keep: int) -> None:
        """Have nothing to do."""

    def is_opened(self, worker_id: int, slot: int) -> bool:
        return bool(worker_id + slot)

    def replace(self, worker_id: int) -> bool:
        return worker_id >= 0

    def end(self, worker_id: int, how: Literal["terminate", "kill"]) -> None:
        self.notes.append((how, worker_id))

    def close(self) -> None:
        """Have nothing to do."""

    def pid(self, worker_id: int) -> int:
        return worker_id

    def generation(self, worker_id: int) -> int:
        return worker_id * 0


@dataclass
class Scene:
    """A pool of two workers whose shutdown is under way."""

    backend: NotingBackend = field(default_factory=NotingBackend)
    now: float = 100.0

    def __post_init__(self) -> None:
        self.endings = Endings(self.backend, 2, CLEANUP_TIMEOUT)
        self.dispatcher = Dispatcher(self.backend, self.endings, lambda _: None)
        self.shutdown = Shutdown(self.dispatcher, self.endings, "pool")

    def monotonic(self) -> float:
        """Stand in for ``time.monotonic``."""
        return self.now

    def after(self, seconds: float) -> float:
        """Let time pass, then let the shutdown go on."""
        self.now += seconds
        return self.shutdown.advance(1000.0)

    def notes(self) -> list[tuple[str, int]]:
        """Return what the backend was told since the last time."""
        notes, self.backend.notes = self.backend.notes, []
        return notes

    def end_worker(self, worker_id: int, *errors: tuple[str, BaseException], answers: bool = True) -> None:
        """Let a worker answer and end."""
        if answers:
            self.endings.stopped(worker_id, Stopped(errors))
        self.endings.gone(worker_id)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Return a scene whose clock stands still."""
    made = Scene()
    monkeypatch.setattr("poolinject._scheduling.shutdown.time.monotonic", made.monotonic)
    made.shutdown = Shutdown(made.dispatcher, made.endings, "pool")
    return made


def test_every_worker_is_told_to_clean_up(scene: Scene) -> None:
    """Without runs the broadcast goes out at once; the end comes when all have ended."""
    scene.shutdown.ask("drain", None)
    assert scene.after(0) == CLEANUP_TIMEOUT
    assert sorted(scene.notes()) == [("stop", 0), ("stop", 1)]
    scene.end_worker(0)
    scene.after(1)
    assert not scene.shutdown.over
    scene.end_worker(1, ("get_a", ValueError("no")))
    scene.after(1)
    assert scene.shutdown.over
    assert scene.notes() == []
    report = scene.shutdown.report()
    assert [report.workers[worker_id].status for worker_id in (0, 1)] == ["clean", "errors"]
    assert report.seconds == 2


def test_drain_waits_for_runs(scene: Scene) -> None:
    """While a run is open no worker is stopped, however long it takes."""
    run = make_run()
    scene.dispatcher.open(run)
    scene.shutdown.ask("drain", None)
    scene.after(10**6)
    assert scene.notes() == []
    assert run.stop_reading  # a lazy iterator reads no further
    scene.dispatcher.drop_all(PoolClosedError("pool"))
    scene.after(0)
    assert len(scene.notes()) == 2


def test_drain_lets_eager_runs_read_on(scene: Scene) -> None:
    """The input of ``map`` is drained too."""
    run = make_run(eager=True)
    scene.dispatcher.open(run)
    scene.shutdown.ask("drain", None)
    assert not run.stop_reading


@pytest.mark.parametrize(("mode", "timeout"), [("drain", 5.0), ("cancel", None)])
def test_runs_are_cancelled_when_their_time_is_over(scene: Scene, mode: Mode, timeout: float | None) -> None:
    """The caller of such a run hears that the pool was closed."""
    run = make_run()
    scene.dispatcher.open(run)
    scene.shutdown.ask(mode, timeout)
    scene.after(timeout or 0.0)
    assert isinstance(run.error, PoolClosedError)
    assert run.finished
    assert len(scene.notes()) == 2


def test_second_call_makes_a_drain_harder(scene: Scene) -> None:
    """``cancel`` cuts a drain short, a later ``drain`` does not soften it."""
    run = make_run()
    scene.dispatcher.open(run)
    scene.shutdown.ask("drain", None)
    scene.after(1)
    scene.shutdown.ask("cancel", None)
    scene.shutdown.ask("drain", None)
    scene.after(0)
    assert run.finished


def test_worker_that_does_not_answer_is_terminated_then_killed(scene: Scene) -> None:
    """Each step has its deadline; in the end the worker is given up."""
    scene.shutdown.ask("cancel", None)
    scene.after(0)
    scene.end_worker(1)
    scene.notes()
    assert scene.after(CLEANUP_TIMEOUT) == GRACE_SECONDS
    assert scene.notes() == [("terminate", 0)]
    scene.after(GRACE_SECONDS)
    assert scene.notes() == [("kill", 0)]
    assert not scene.shutdown.over
    scene.after(GRACE_SECONDS)
    assert scene.shutdown.over
    report = scene.shutdown.report()
    assert [report.workers[worker_id].status for worker_id in (0, 1)] == ["timed out", "clean"]


def test_worker_that_answers_but_does_not_end_is_clean(scene: Scene) -> None:
    """Its cleanups have run, whatever keeps its process."""
    scene.shutdown.ask("cancel", None)
    scene.after(0)
    scene.end_worker(1)
    scene.endings.stopped(0, Stopped(()))
    scene.notes()
    scene.after(CLEANUP_TIMEOUT)
    assert scene.notes() == [("terminate", 0)]
    assert scene.shutdown.report().clean


def test_worker_that_ends_without_an_answer_is_lost(scene: Scene) -> None:
    """Its cleanups have not run."""
    scene.shutdown.ask("cancel", None)
    scene.after(0)
    scene.end_worker(0, answers=False)
    scene.end_worker(1)
    scene.after(0)
    assert scene.shutdown.over
    assert scene.shutdown.report().workers[0].status == "lost"


def test_kill_asks_nobody(scene: Scene) -> None:
    """Workers end at once, without their cleanups."""
    run = make_run()
    scene.dispatcher.open(run)
    scene.shutdown.ask("kill", None)
    assert sorted(scene.notes()) == [("kill", 0), ("kill", 1)]
    scene.endings.gone(0)
    scene.endings.gone(1)
    scene.after(0)
    assert scene.shutdown.over
    assert run.finished


def test_kill_cuts_a_cleanup_short(scene: Scene) -> None:
    """A cleanup that hangs does not hold up a caller who has lost patience."""
    scene.shutdown.ask("cancel", None)
    scene.after(0)
    scene.notes()
    scene.shutdown.ask("kill", None)
    assert sorted(scene.notes()) == [("kill", 0), ("kill", 1)]
