"""Who looks in on running chunks must never sleep while one is running."""

from __future__ import annotations

import itertools
import threading

import pytest

from poolinject import WorkerContext
from poolinject._injection.runtime import Runtime
from poolinject._scheduling.functions import Functions
from poolinject._transport.messages import Chunk, FromWorker, Results, Returned
from poolinject._worker import outcomes
from poolinject._worker.control import private_control
from poolinject._worker.monitor import IDLE_TICKS, LONGEST_PAUSE, PAUSE_ITEMS, TICK_SECONDS, Monitor
from poolinject._worker.outcomes import Work
from poolinject._worker.runner import Runner
from poolinject._worker.stores import Objects

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


def test_after_an_item_nobody_needs_to_look_in() -> None:
    """Who runs them sees that the rest was taken back, and says so, as soon as the item has ended."""
    functions, sent, control = Functions({}, {}, by_reference=True), list[FromWorker](), private_control()
    runner = Runner(Runtime(WorkerContext(0, 0, "pool")), control, sent.append)

    def take_back(item: int) -> int:
        if item == 1:
            control.take_back(0, 2)
        return item

    load = functions.load(functions.plan(take_back, "map"))
    runner.load(load)
    control.prepare(0, 0, 4)
    runner.follow(Chunk(7, 0, 0, load.function, 0, patience=PATIENCE, items=[0, 1, 2, 3]))
    assert [each.values if isinstance(each, Results) else each for each in sent] == [[0, 1], Returned(7, 2), []]
    runner.runtime.close()


@pytest.mark.parametrize(("patience", "unit", "seen"), [(0.0, 0, 3), (PATIENCE, 0, 0), (PATIENCE, 1, 3)])
def test_outcomes_go_after_an_item_where_they_have_waited(
    monkeypatch: pytest.MonkeyPatch, patience: float, unit: int, seen: int
) -> None:
    """A copy of the process sends none."""
    attended: list[int] = []
    monkeypatch.setattr(outcomes, "TICK_SECONDS", 0.0)
    chunk = Chunk(0, 0, 0, 0, 0, unit=unit, patience=patience, items=[0, 1, 2])
    control = private_control()
    control.prepare(0, 0, 3)
    counter = itertools.count(1)

    def note() -> None:
        attended.append(next(counter))

    work = Work(chunk, Objects(), control.words, None, note, seconds=1.0, is_quick=False, counts=True)
    for item in range(3):
        work.append(item)
    assert attended == [1, 2, 3][:seen]
    work.detach()
    work.append(3)
    assert len(attended) == seen


@pytest.mark.parametrize(
    ("seconds", "patience", "timeout", "is_quick", "pause"),
    [
        (0.1, 1.0, 0.0, True, TICK_SECONDS),
        (0.1, 1.0, 0.0, False, LONGEST_PAUSE),
        (0.002, 1.0, 0.0, False, PAUSE_ITEMS * 0.002),
        (0.1, 0.01, 0.0, False, 0.0025),
        (0.1, 1.0, 0.02, False, 0.005),
        (1e-6, 1.0, 0.0, False, TICK_SECONDS),
    ],
)
def test_nobody_looks_more_often_than_there_is_something_to_see(
    seconds: float, patience: float, timeout: float, pause: float, *, is_quick: bool
) -> None:
    """After a slow item its worker looks for itself; outcomes are not late by much, nor is the end of a time limit."""
    chunk = Chunk(0, 0, 0, 0, 0, patience=patience, timeout=timeout, items=[1])
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
