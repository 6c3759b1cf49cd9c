"""Ends what hangs, and shows where it hung."""

from __future__ import annotations

import faulthandler
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def bounded(what: str, seconds: float) -> Iterator[None]:
    """Let the main thread do something for so long; a bound inside another one takes its place.

    Raises:
        AssertionError: In what has not ended by then; the stacks of all threads are printed.
    """

    def on_alarm(signum: int, frame: object) -> NoReturn:
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr, all_threads=True)
        raise AssertionError(f"{what} has not ended within {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
