"""SIGTERM to the caller and Ctrl-C to its whole group, at random moments: what is open is closed, in bounded time.

Four moments each in the usual suite. For 20 each, and what they were::

    POOLINJECT_FAULT_RUNS=20 python -m pytest -rP tests/faults/test_signals_at_random.py

``POOLINJECT_FAULT_SEED`` repeats the moments of an earlier run, whose seed each test prints.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.faults.conftest import Begin
from tests.faults.sessions import SEED, Session, chance, runs
from tests.faults.work import CLEANUP_TIMEOUT, PHASES

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="what is left is looked up in /proc")

BOUND = CLEANUP_TIMEOUT + 2 * 2.0 + 1.0  # to end by itself; by SIGTERM, by SIGKILL; and something for a busy machine
LATEST = {"startup": 0.8, "items": 0.6, "idle": 0.2, "shutdown": 0.2}  # after the beginning of the phase
STOPPED_SECONDS = 0.5  # after which no item starts any more


def interrupt(send: Callable[[Session], None], begin: Begin, ledger: ModuleType, number: int) -> tuple[int, str]:
    """Send a signal at a random moment; give how the caller ends and what it says, once nothing is left."""
    phase = PHASES[number % len(PHASES)]
    delay = chance(send.__name__, number).uniform(0.0, LATEST[phase])
    session = begin("-m", "tests.faults.work", "forkserver", phase)
    ledger.wait_for(f"{phase}.")
    time.sleep(delay)
    send(session)
    began, was_open = time.monotonic(), len(session.open_scopes())
    time.sleep(STOPPED_SECONDS)
    items = ledger.count("work")
    code = session.caller.wait(BOUND)
    session.vanishes(BOUND)
    what = f"{send.__name__} {number}: {phase} + {delay:.3f} s, {was_open} scopes open"
    print(f"{what}; code {code}, gone after {time.monotonic() - began:.3f} s (seed {SEED})")  # noqa: T201 - for the report
    assert ledger.count("work") == items, "an item started afterwards"
    session.check_nothing_left()
    return code, session.output()


def terminate(session: Session) -> None:
    """Ask the caller to end."""
    session.caller.terminate()


def press_ctrl_c(session: Session) -> None:
    """Do what a terminal does."""
    os.killpg(session.caller.pid, signal.SIGINT)


@pytest.mark.parametrize("number", runs(4))
def test_sigterm(begin: Begin, ledger: ModuleType, number: int) -> None:
    """The caller ends as the signal says, without a word, after everything is closed."""
    code, text = interrupt(terminate, begin, ledger, number)
    assert code in ((0, -signal.SIGTERM) if number % len(PHASES) == PHASES.index("shutdown") else (-signal.SIGTERM,))
    assert text == ""


@pytest.mark.parametrize("number", runs(4))
def test_ctrl_c(begin: Begin, ledger: ModuleType, number: int) -> None:
    """The caller ends as interrupted programs do, with one traceback of its own and none of a worker's."""
    code, text = interrupt(press_ctrl_c, begin, ledger, number)
    if number % len(PHASES) == PHASES.index("shutdown") and not text:  # it came too late for a traceback
        assert code in (0, -signal.SIGINT)
        return
    assert code == -signal.SIGINT, text
    assert text.count("Traceback (most recent call last)") == 1, text
    assert text.count("\nKeyboardInterrupt\n") == 1, text
