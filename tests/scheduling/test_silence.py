"""How long a worker may say nothing before it is late."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from poolinject._scheduling import silence
from poolinject._scheduling.chunking import Chunking, Pace
from poolinject._scheduling.dispatcher import Dispatcher
from poolinject._scheduling.endings import Endings
from poolinject._scheduling.silence import LATE, UNEVEN_SECONDS, Silence
from poolinject._scheduling.state import ChunkState, RunState, WorkerState
from poolinject._transport.messages import Results
from tests.scheduling.test_runs import make_run
from tests.scheduling.test_shutdown import NotingBackend

if TYPE_CHECKING:
    from poolinject._transport.messages import ToWorker

PATIENCE = 0.01


def busy(worker_id: int, item_seconds: float | None) -> WorkerState:
    """Make a worker with a chunk of ten items that take so long."""
    run = RunState(0, Chunking(None, pace=Pace(item_seconds)), None, fail_fast=True)
    return WorkerState(worker_id, ready=True, chunks={0: ChunkState(0, run, 0, 0, 10, 0.1, 0.0, 1)})


@pytest.mark.parametrize("item_seconds", [0.0001, 0.5, 60.0])
def test_a_worker_is_late_after_twice_what_an_item_takes(monkeypatch: pytest.MonkeyPatch, item_seconds: float) -> None:
    """Or for which outcomes are kept, if that is longer: so items that all take long make nobody late."""
    clock = [100.0]
    monkeypatch.setattr(silence, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    workers, watch = [busy(0, item_seconds), WorkerState(1, ready=True)], Silence(2)
    watch.begin(0)
    bound = LATE * max(item_seconds, PATIENCE) + UNEVEN_SECONDS
    late, rest = watch.late(workers, lambda _: PATIENCE)
    assert late == []
    assert rest == pytest.approx(bound)
    clock[0] += bound * 0.99
    assert watch.late(workers, lambda _: PATIENCE)[0] == []
    clock[0] += bound * 0.02
    assert watch.late(workers, lambda _: PATIENCE) == ([0], math.inf)
    watch.begin(0)
    assert watch.late(workers, lambda _: PATIENCE)[0] == []


@pytest.mark.parametrize("workers", [[busy(0, None), WorkerState(1)], [busy(0, 0.1)], [WorkerState(0), WorkerState(1)]])
def test_nobody_is_late(monkeypatch: pytest.MonkeyPatch, workers: list[WorkerState]) -> None:
    """Of whose items nothing is known, who is alone, or has nothing to do."""
    clock = [100.0]
    monkeypatch.setattr(silence, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    watch = Silence(len(workers))
    watch.begin(0)
    clock[0] += 1e6
    assert watch.late(workers, lambda _: PATIENCE) == ([], math.inf)


def test_general_silence_is_everybody_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the next that is heard of."""
    clock = [100.0]
    monkeypatch.setattr(silence, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    watch = Silence(2)
    assert not watch.note(heard=True)
    assert not watch.note(heard=False)
    clock[0] += 2 * UNEVEN_SECONDS
    assert watch.note(heard=False)
    assert not watch.note(heard=True)
    assert not watch.note(heard=False)


class Taking(NotingBackend):
    """Writes down what is sent and taken back."""

    def send(self, worker_id: int, message: ToWorker) -> int:
        self.notes.append((type(message).__name__, worker_id))
        return 0

    def take_back(self, worker_id: int, slot: int, keep: int) -> None:
        self.notes.append((f"keep {keep} of {slot}", worker_id))


@pytest.mark.parametrize("count", [1, 3, 100])
def test_a_worker_that_had_nothing_to_do_is_not_late(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """However long ago it was heard of, and however many chunks it gets at once."""
    clock = [100.0]
    monkeypatch.setattr(silence, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    backend = Taking()
    dispatcher = Dispatcher(backend, Endings(backend, 2, 1.0), lambda _: None)
    for worker_id in (0, 1):
        dispatcher.ready(worker_id)
        dispatcher.results(worker_id, Results(0, 0, 1, [None], (), 0.0, (), done=True))  # of a run before
    dispatcher.look_at_balance(heard=True)
    clock[0] += 3600
    run = make_run(limit=count)
    run.chunking.observe(1, 1e-4)
    run.use(range(count))
    run.read(iter(()), lambda: None)
    dispatcher.open(run)
    dispatcher.look_at_inputs()
    assert ("Chunk", 0) in backend.notes
    dispatcher.look()
    dispatcher.look_at_balance(heard=False)
    assert [note for note in backend.notes if note[0].startswith("keep")] == []
