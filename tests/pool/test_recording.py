"""Which items are recorded at once: those that enter the system, and those beside which it costs little."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from poolinject._worker.control import SIZE, Control
from poolinject._worker.journal import Journal
from poolinject._worker.recording import (
    LEAST_ITEMS,
    SHARE,
    SYSTEM_CALLS,
    WINDOW,
    Conduct,
    cost_of_call,
    cost_of_recording,
    tick,
)

CALL = cost_of_call()
ENOUGH = int(4 * WINDOW / (SYSTEM_CALLS * CALL))  # items
ITEMS = ENOUGH // 16  # in a chunk, beside which the two looks at the clocks are next to nothing


def test_tick_is_that_of_the_system_where_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems have 100 to 1,000 ticks a second; where none is told, it is the longest, and none is too short."""
    assert 0.001 <= tick() <= 0.01

    def fail(_clock: int) -> float:
        raise OSError

    monkeypatch.setattr(time, "clock_getres", fail)
    assert tick() == 0.01
    monkeypatch.setattr(time, "clock_getres", lambda _clock: 1e-9)
    assert tick() == (0.001 if sys.platform == "linux" else 0.01)


def look_on(conduct: Conduct, item: Callable[[], object], count: int) -> None:
    """Let so many items run, in chunks."""
    for _ in range(0, count, ITEMS):
        conduct.begin()
        for _ in range(ITEMS):
            item()
        conduct.end(ITEMS, 0.0)


def test_pure_python_is_quick_once_it_is_known() -> None:
    """Not before enough of it has been seen, and only if it takes less than asked."""
    conduct = Conduct(CALL)
    look_on(conduct, int, ITEMS)
    assert not conduct.is_quicker_than(1.0)
    look_on(conduct, int, ENOUGH)
    assert conduct.is_quicker_than(1e-4)
    assert not conduct.is_quicker_than(1e-9)


def test_what_takes_less_than_a_system_call_is_quick_at_once() -> None:
    """Nothing needs to be known of the system then."""
    conduct = Conduct(CALL)
    look_on(conduct, int, ITEMS)
    assert conduct.is_quicker_than(1.0, harmless=1.0)
    assert not conduct.is_quicker_than(1.0, harmless=1e-9)
    assert not conduct.is_quicker_than(1e-9, harmless=1.0)


def test_a_few_items_tell_nothing() -> None:
    """Whatever they seem to have taken."""
    conduct = Conduct(CALL)
    for _ in range(LEAST_ITEMS):
        assert not conduct.is_quicker_than(1.0, harmless=1.0)
        conduct.begin()
        conduct.end(1, 1.0)
    assert conduct.is_quicker_than(1.0, harmless=1.0)


def test_what_enters_the_system_now_and_then_is_found_out() -> None:
    """However little it takes on average, once enough of it has been seen."""
    conduct = Conduct(CALL)
    numbers = itertools.count()

    def now_and_then() -> None:
        if next(numbers) % 2:
            os.close(os.open(os.devnull, os.O_RDONLY))

    look_on(conduct, now_and_then, ENOUGH)
    assert not conduct.is_quicker_than(1.0, harmless=1e-7)


def add_and_write(file: int) -> None:
    """Take ten times as long as the one system call does."""
    sum(number for number in range(200))
    os.write(file, b"x")


def test_one_system_call_among_much_else_is_found_out(tmp_path: Path) -> None:
    """It is told by what it takes, not by its share."""
    conduct = Conduct(CALL)
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    try:
        look_on(conduct, lambda: add_and_write(file), ENOUGH)
    finally:
        os.close(file)
    assert not conduct.is_quicker_than(1.0, harmless=1e-7)


def test_what_enters_the_system_is_never_quick() -> None:
    """However little it takes; when it leaves off, that is forgiven in time."""
    conduct = Conduct(CALL)
    look_on(conduct, lambda: os.close(os.open(os.devnull, os.O_RDONLY)), ENOUGH)
    assert not conduct.is_quicker_than(1.0)
    look_on(conduct, int, 10 * ENOUGH)
    assert conduct.is_quicker_than(1.0)


def test_recording_is_measured_and_leaves_nothing() -> None:
    """It takes some part of a millisecond, and not of nothing."""
    control = Control(bytearray(SIZE))
    cost = cost_of_recording(Journal(control))
    assert 1e-8 < cost.whole < 1e-3
    assert 0 <= cost.around < cost.whole
    assert control.recorded() == b""
    assert 0 < SHARE < 1


@pytest.mark.parametrize("recording", [0.0, 1.0])
def test_time_of_recording_is_not_the_items(recording: float) -> None:
    """What is measured with it is told without it."""
    conduct = Conduct(CALL)
    conduct.begin()
    conduct.end(10, recording)
    assert not conduct.is_quicker_than(1.0)
