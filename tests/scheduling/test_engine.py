"""What a run is made with: how large its chunks are to be, and how long outcomes may wait."""

from types import SimpleNamespace
from typing import Any

import pytest

from poolinject._scheduling.engine import Engine, EngineOptions
from poolinject._scheduling.progress import Bar
from poolinject._scheduling.recycling import Limits
from poolinject._scheduling.runs import Run, RunOptions
from poolinject._transport.messages import Load
from poolinject.backends.base import Capabilities

LOAD = Load(0, "abs", abs, b"")


def make_run(*, eager: bool, costly: bool, concurrency: int) -> Run:
    """Make one, on a backend that is not there."""
    backend: Any = SimpleNamespace(capabilities=Capabilities(shares_memory=False, costly_messages=costly))
    options = EngineOptions(2, (), None, 1.0, handle_signals=False, limits=Limits(None, None), repr_items=True, name="")
    driver: Any = SimpleNamespace(workers=2)
    how = RunOptions(eager=eager, concurrency=concurrency)
    functions: Any = None
    return Engine(backend, functions, options).make_run(driver, LOAD, how, None, Bar(None, None))


@pytest.mark.parametrize(
    ("eager", "costly", "concurrency", "quick", "slow"),
    [
        (False, False, 1, 100, 5),  # 10 ms
        (True, False, 1, 2500, 125),  # 250 ms
        (False, True, 1, 1000, 50),  # 100 ms
        (True, True, 1, 1000, 50),
        (False, False, 4, 4, 2),  # 1 ms for each of four
        (True, False, 4, 4, 4),  # 5 ms
    ],
)
def test_chunks_aim_at_a_time(*, eager: bool, costly: bool, concurrency: int, quick: int, slow: int) -> None:
    """Short where somebody reads meanwhile, long where a message costs much, of tasks no more than run at once."""
    run = make_run(eager=eager, costly=costly, concurrency=concurrency)
    for seconds, size in ((0.0001, quick), (0.002, slow)):
        for _ in range(20):
            run.chunking.observe(1000, 1000 * seconds)
        assert run.chunking.size in {size, size - 1}  # a rest of the mean stays


@pytest.mark.parametrize(
    ("eager", "costly", "milliseconds"),
    [(False, False, 10), (True, False, 250), (True, True, 100), (False, True, 100)],
)
def test_outcomes_wait_for_others(*, eager: bool, costly: bool, milliseconds: int) -> None:
    """As long as a chunk is to take where nobody reads before the end, or a message costs much."""
    patience = make_run(eager=eager, costly=costly, concurrency=1).options.patience
    assert patience == pytest.approx(milliseconds / 1000)
