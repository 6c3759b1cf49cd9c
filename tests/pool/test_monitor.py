"""Who looks in on running chunks must never sleep while one is running."""

from __future__ import annotations

import threading

from poolinject import WorkerContext
from poolinject._injection.runtime import Runtime
from poolinject._scheduling.functions import Functions
from poolinject._transport.messages import Chunk, FromWorker
from poolinject._worker.control import private_control
from poolinject._worker.monitor import IDLE_TICKS, Monitor
from poolinject._worker.runner import Runner

PATIENCE = 15.0


def test_a_runner_wakes_when_there_is_something_to_see() -> None:
    """Not before: whoever looks in might find nothing, and fall asleep."""
    functions = Functions({}, {}, by_reference=True)
    load = functions.load(functions.plan(abs, "map"))
    seen: list[bool] = []
    sent: list[FromWorker] = []
    control = private_control()
    runner = Runner(Runtime(WorkerContext(0, 0, "pool")), control, sent.append, wake=lambda: seen.append(runner.look()))
    runner.load(load)
    control.prepare(0, 0, 2)
    chunk = Chunk(0, 0, 0, load.function, 0, patience=PATIENCE, exact=True, items=[-1, -2])
    runner.follow(chunk)
    assert seen == [True]
    assert len(sent) == 1
    assert not runner.look()
    runner.runtime.close()


def test_a_monitor_that_sleeps_is_woken() -> None:
    """It looks until nothing has been there for a while, then not at all until it is called."""
    looks, fell_asleep, looked = [0], threading.Event(), threading.Event()

    def look() -> bool:
        looks[0] += 1
        if looks[0] > IDLE_TICKS + 1:
            (looked if fell_asleep.is_set() else fell_asleep).set()
        return False

    monitor = Monitor(look, "test")
    monitor.wake()
    assert fell_asleep.wait(PATIENCE)
    monitor.wake()
    assert looked.wait(PATIENCE)
    monitor.end(PATIENCE)
