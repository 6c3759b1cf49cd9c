"""Who is ended because of an item that does not let go; against a backend that only takes notes."""

from __future__ import annotations

import math

import pytest

from poolinject import ItemTimeoutError, WorkerLostError
from poolinject._scheduling import timeouts
from poolinject._scheduling.timeouts import LOOK_SECONDS, SECOND, Overtime, failure_of
from tests.scheduling.test_runs import make_run
from tests.scheduling.test_shutdown import NotingBackend
from tests.scheduling.test_shutdown import Scene as AnyScene


class Published(NotingBackend):
    """Says what workers have published."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines = [0, 0]

    def deadline(self, worker_id: int) -> int:
        return self.deadlines[worker_id]


class Scene:
    """Two workers and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100 * SECOND
        self.backend = Published()
        self.overtime = Overtime(self.backend)

    def monotonic_ns(self) -> int:
        """Stand in for ``time.monotonic_ns``."""
        return self.now

    def look(self, after: float = 0.0) -> float:
        """Let time pass, then look."""
        self.now += round(after * SECOND)
        return self.overtime.look((0, 1))

    def publish(self, worker_id: int, seconds: float) -> None:
        """Let a worker begin an item that must have ended so many seconds from now."""
        self.backend.deadlines[worker_id] = self.now + round(seconds * SECOND)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Return a scene whose clock stands still."""
    made = Scene()
    monkeypatch.setattr("poolinject._scheduling.timeouts.time.monotonic_ns", made.monotonic_ns)
    return made


def test_without_limits_nobody_looks() -> None:
    """The driver may sleep as long as it likes."""
    free, limited = AnyScene().dispatcher, AnyScene().dispatcher
    free.open(make_run())
    limited.open(make_run(timeout=1.0))
    assert free.look() == math.inf
    assert limited.look() <= LOOK_SECONDS


def test_it_looks_in_bounded_intervals(scene: Scene) -> None:
    """While a run with a limit is under way, and no more often however often it is asked."""
    assert scene.look() == pytest.approx(LOOK_SECONDS)
    scene.publish(0, -10)
    assert scene.look(LOOK_SECONDS / 2) == pytest.approx(LOOK_SECONDS / 2)
    assert scene.backend.notes == []
    scene.look(LOOK_SECONDS / 2)
    assert scene.backend.notes == [("kill", 0)]


def test_a_worker_past_its_deadline_is_killed_once(scene: Scene) -> None:
    """Not before, and with a margin in which the worker sees for itself that it is late."""
    scene.publish(0, 1.0)
    scene.publish(1, 50.0)
    scene.look(1.0)
    assert scene.backend.notes == []
    scene.look(timeouts.MARGIN_SECONDS + LOOK_SECONDS)
    assert scene.backend.notes == [("kill", 0)]
    scene.look(1.0)
    assert scene.backend.notes == [("kill", 0)]


def test_a_worker_between_items_is_left_alone(scene: Scene) -> None:
    """Zero means that no item with a limit is running."""
    scene.look(1000.0)
    assert scene.backend.notes == []


def test_an_idle_worker_is_left_alone(scene: Scene) -> None:
    """Whatever it has published; its memory may be gone."""
    scene.publish(0, -10)
    scene.overtime.look((1,))
    assert scene.backend.notes == []


def test_the_end_of_a_worker_is_put_down_to_what_it_was_killed_for(scene: Scene) -> None:
    """If it was still at that item; each end is asked for once."""
    scene.publish(0, -10)
    scene.publish(1, -10)
    scene.look()
    scene.publish(1, 10)  # it began another item at the last moment
    assert scene.overtime.gone(0)
    assert not scene.overtime.gone(1)
    assert not scene.overtime.gone(0)


def test_the_next_generation_is_watched_as_well(scene: Scene) -> None:
    """A replacement that misses its deadline is killed like the one before it."""
    scene.publish(0, -10)
    scene.look()
    scene.overtime.gone(0)
    scene.backend.deadlines[0] = 0
    scene.look(1.0)
    scene.publish(0, -10)
    scene.look(1.0)
    assert scene.backend.notes == [("kill", 0), ("kill", 0)]


@pytest.mark.parametrize(("timeout", "overtime"), [(None, True), (5.0, False), (None, False)])
def test_any_other_end_is_a_loss(timeout: float | None, *, overtime: bool) -> None:
    """With what is known of it."""
    failed = failure_of(make_run(timeout=timeout), 3, WorkerLostError(1, -11), 1, overtime=overtime)
    assert (failed.phase, failed.offset) == ("lost", 0)
    assert failed.error.args == (1, -11, 3)


def test_an_item_that_was_ended_by_its_limit_has_timed_out() -> None:
    """It is told by index and limit."""
    failed = failure_of(make_run(timeout=5.0), 3, WorkerLostError(1, -9), 1, overtime=True)
    assert failed.phase == "timeout"
    assert isinstance(failed.error, ItemTimeoutError)
    assert failed.error.args == (3, 5.0)
    assert "its worker was ended" in failed.traceback
