"""Who looks in on running chunks must never sleep while one is running."""

from __future__ import annotations

import threading

import pytest

from poolinject import WorkerContext
from poolinject._injection.runtime import Runtime
from poolinject._scheduling.functions import Functions
from poolinject._transport.messages import Chunk, FromWorker, Results, Returned
from poolinject._worker.control import private_control
from poolinject._worker.monitor import IDLE_TICKS, TICK_SECONDS, Monitor
from poolinject._worker.outcomes import LONGEST_PAUSE, Objects, Work
from poolinject._worker.runner import Runner

PATIENCE = 15.0


def test_a_runner_wakes_when_there_is_something_to_see() -> None:
    """Not before: whoever looks in might find nothing, and fall asleep."""
    functions = Functions({}, {}, by_reference=True)
    load = functions.load(functions.plan(abs, "map"))
    seen: list[float] = []
    sent: list[FromWorker] = []
    control = private_control()
    runner = Runner(Runtime(WorkerContext(0, 0, "pool")), control, sent.append, wake=lambda: seen.append(runner.look()))
    runner.load(load)
    control.prepare(0, 0, 2)
    chunk = Chunk(0, 0, 0, load.function, 0, patience=PATIENCE, exact=True, items=[-1, -2])
    runner.follow(chunk)
    assert seen == [TICK_SECONDS]
    assert len(sent) == 1
    assert not runner.look()
    runner.runtime.close()


def test_an_answer_comes_after_what_there_is() -> None:
    """So the caller does not take it that items wait which are done, and asks the wrong worker next."""
    functions, sent, control = Functions({}, {}, by_reference=True), list[FromWorker](), private_control()
    runner = Runner(Runtime(WorkerContext(0, 0, "pool")), control, sent.append)

    def look_in(item: int) -> int:
        if item == 1:
            control.take_back(0, 2)
            runner.look()
        return item

    load = functions.load(functions.plan(look_in, "map"))
    runner.load(load)
    control.prepare(0, 0, 4)
    runner.follow(Chunk(7, 0, 0, load.function, 0, patience=PATIENCE, items=[0, 1, 2, 3]))
    assert [each.values if isinstance(each, Results) else each for each in sent] == [[0], Returned(7, 2), [1]]
    runner.runtime.close()


@pytest.mark.parametrize(
    ("seconds", "patience", "is_quick", "pause"),
    [
        (0.1, 1.0, True, TICK_SECONDS),
        (0.1, 1.0, False, LONGEST_PAUSE),
        (0.002, 1.0, False, 0.002),
        (0.1, 0.01, False, 0.0025),
        (1e-6, 1.0, False, TICK_SECONDS),
    ],
)
def test_nobody_looks_more_often_than_there_is_something_to_see(
    seconds: float, patience: float, pause: float, *, is_quick: bool
) -> None:
    """Slow items heed by themselves what is taken back; their outcomes are not late by much."""
    chunk = Chunk(0, 0, 0, 0, 0, patience=patience, items=[1])
    work = Work(chunk, Objects(), private_control().words, seconds=seconds, is_quick=is_quick, counts=True)
    assert work.pause == pause


def test_a_monitor_that_sleeps_is_woken() -> None:
    """It looks until nothing has been there for a while, then not at all until it is called."""
    looks, fell_asleep, looked = [0], threading.Event(), threading.Event()

    def look() -> float:
        looks[0] += 1
        if looks[0] > IDLE_TICKS + 1:
            (looked if fell_asleep.is_set() else fell_asleep).set()
        return 0.0

    monitor = Monitor(look, "test")
    monitor.wake()
    assert fell_asleep.wait(PATIENCE)
    monitor.wake()
    assert looked.wait(PATIENCE)
    monitor.end(PATIENCE)
