"""The driver of a pool whose workers come and go: against a backend that says what the test wants it to say."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

import pytest

from poolinject._scheduling import driver as driver_module
from poolinject._scheduling.driver import Driver
from poolinject._scheduling.recycling import Limits
from poolinject._transport.messages import Chunk, FromWorker, Ready, Results, Stop, Stopped, ToWorker
from poolinject.backends.base import Capabilities, Gone, Joined
from poolinject.errors import BackendUnavailableError, WorkerLostError
from tests.scheduling.test_runs import make_run
from tests.scheduling.test_shutdown import NotingBackend

GONE = Gone(None, None)


class Cluster(NotingBackend):
    """Tells what is put into ``coming``; no worker that has gone is replaced. It has no thread: the test steps."""

    capabilities = Capabilities(shares_memory=True, runs_in_caller=True, counts_begun=False, grows=True)

    def __init__(self) -> None:
        super().__init__()
        self.coming: deque[tuple[int, Any]] = deque()
        self.sent: list[tuple[int, ToWorker]] = []
        self.ended: list[tuple[int, str]] = []

    def send(self, worker_id: int, message: ToWorker) -> int:
        self.sent.append((worker_id, message))
        return 0

    def receive(self, timeout: float | None) -> list[tuple[int, FromWorker | Gone]]:
        told = list(self.coming)
        self.coming.clear()
        return told

    def replace(self, worker_id: int) -> bool:
        return worker_id < 0

    def end(self, worker_id: int, how: Literal["terminate", "kill"]) -> None:
        self.ended.append((worker_id, how))

    def generation(self, worker_id: int) -> int:
        return worker_id * 0

    def chunks(self, worker_id: int) -> list[Chunk]:
        """Give what was sent to a worker."""
        return [message for to, message in self.sent if to == worker_id and isinstance(message, Chunk)]


class Scene:
    """A pool on such a cluster."""

    def __init__(self, workers: int) -> None:
        self.cluster = Cluster()
        self.driver = Driver(self.cluster, workers, (), 30.0, "pool", limits=Limits())

    def hear(self, *told: tuple[int, Any]) -> None:
        """Let the driver hear something."""
        self.cluster.coming.extend(told)
        self.driver.step(0)

    def run_items(self, count: int) -> Any:
        """Begin a run of so many items."""
        run = make_run(limit=count + 1)
        run.read(iter(range(count)), self.driver.notify)
        self.driver.open(run)
        self.driver.step(0)
        return run

    def answer(self, worker_id: int) -> None:
        """Let a worker answer the newest chunk that it got."""
        chunk = self.cluster.chunks(worker_id)[-1]
        values = list(chunk.items)
        self.hear((worker_id, Results(chunk.id, chunk.start, len(values), values, (), 0.0, (), done=True)))

    @property
    def states(self) -> list[str]:
        """What the pool says of its workers."""
        return [worker.state for worker in self.driver.describe_workers()]


@pytest.fixture
def scene() -> Scene:
    """Give a pool of two workers that are ready."""
    made = Scene(2)
    made.hear((0, Ready()), (1, Ready()))
    assert made.states == ["idle", "idle"]
    return made


def test_a_worker_that_is_gone_for_good_is_lost_and_the_other_does_the_rest(scene: Scene) -> None:
    """Its slot is kept for one that may come."""
    scene.hear((1, GONE))
    assert scene.states == ["idle", "lost"]
    run = scene.run_items(3)
    for _ in range(3):
        scene.answer(0)
    assert run.finished
    assert not scene.cluster.chunks(1)


def test_a_worker_that_joins_takes_the_vacant_slot(scene: Scene) -> None:
    """It works as soon as it is ready."""
    scene.hear((1, GONE))
    scene.hear((1, Joined()))
    assert scene.states == ["idle", "starting"]
    scene.hear((1, Ready()))
    assert scene.states == ["idle", "idle"]
    scene.run_items(2)
    assert scene.cluster.chunks(1)


def test_a_worker_that_joins_may_open_a_new_slot(scene: Scene) -> None:
    """It counts as all the others."""
    scene.hear((2, Joined()))
    assert scene.states == ["idle", "idle", "starting"]
    scene.hear((2, Ready()))
    scene.run_items(3)
    assert scene.states == ["busy", "busy", "busy"]
    scene.answer(2)
    assert scene.driver.describe_workers()[2].items_done == 1


def test_a_worker_may_be_gone_again_before_it_is_ready(scene: Scene) -> None:
    """That is not held against the cluster for long: another one comes."""
    scene.hear((2, Joined()), (2, GONE))
    assert scene.states == ["idle", "idle", "lost"]
    assert scene.driver.started.is_set()
    scene.hear((2, Joined()), (2, Ready()))
    assert scene.states == ["idle", "idle", "idle"]


def test_items_in_flight_wait_for_a_worker_to_join(scene: Scene) -> None:
    """As long as the pool hopes."""
    run = scene.run_items(2)
    scene.hear((0, GONE), (1, GONE))
    assert not run.finished
    scene.hear((0, Joined()), (0, Ready()))
    for _ in range(2):
        scene.answer(0)
    assert run.finished
    assert run.error is None
    assert run.counts.lost_workers == 2


class Clock:
    """Stands in for the module ``time`` in the driver."""

    now = 100.0

    def monotonic(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock by which a driver finds itself deserted."""
    made = Clock()
    monkeypatch.setattr(driver_module, "time", made)
    return made


def test_a_pool_gives_up_when_every_worker_has_gone_for_long(scene: Scene, clock: Clock) -> None:
    """Runs end with an error that says so, and the pool is over."""
    run = scene.run_items(2)
    scene.hear((0, GONE), (1, GONE))
    for _ in range(2):
        scene.hear()
        clock.now += driver_module.DESERTED_SECONDS
    assert not run.finished
    clock.now += 1
    scene.hear()
    assert isinstance(run.error, BackendUnavailableError)
    assert "60 seconds" in str(run.error)
    assert run.finished
    scene.hear()
    assert scene.driver.over.is_set()


def test_a_pool_that_is_deserted_hopes_anew_after_each_worker(scene: Scene, clock: Clock) -> None:
    """The time without any counts from the newest end."""
    scene.hear((0, GONE), (1, GONE))
    for _ in range(3):
        scene.hear()
        clock.now += 0.9 * driver_module.DESERTED_SECONDS
        scene.hear((1, Joined()), (1, Ready()))
        scene.hear((1, GONE))
    assert scene.driver.failure is None
    assert not scene.driver.over.is_set()


def test_a_worker_that_joins_during_a_shutdown_is_told_to_end(scene: Scene) -> None:
    """Its slot is new, so it must not confuse the driver; and it is not left behind."""
    scene.run_items(2)
    scene.driver.shut_down("cancel", None)
    scene.hear()
    scene.hear((2, Joined()))
    scene.hear((2, Ready()))
    assert scene.driver.failure is None
    assert (2, Stop()) in scene.cluster.sent
    scene.hear(*((worker_id, told) for worker_id in range(3) for told in (Stopped(()), GONE)))
    scene.hear()
    assert scene.driver.over.is_set()
    report = scene.driver.cleanup_report
    assert report is not None
    assert report.clean


def test_a_worker_that_joins_a_killed_pool_does_not_keep_it(scene: Scene) -> None:
    """It is killed as the others were."""
    scene.driver.shut_down("kill", None)
    scene.hear()
    scene.hear((1, GONE), (0, GONE), (0, Joined()), (0, Ready()))
    assert scene.cluster.ended[-1] == (0, "kill")
    scene.hear((0, GONE))
    scene.hear()
    assert scene.driver.over.is_set()


def test_starts_that_fail_one_after_another_end_the_pool(scene: Scene) -> None:
    """A worker that is never ready has been waited for often enough."""
    for _ in range(driver_module.FAILED_STARTS):
        scene.hear((2, Joined()), (2, GONE))
    assert isinstance(scene.driver.failure, WorkerLostError)
