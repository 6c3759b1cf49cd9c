"""The thread that looks in on running chunks: it heeds what the caller takes back, and sends what has waited enough.

So the code that runs items need not ask for the time or the bound after each of them, and what an item has come to
does not wait for the next one.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TICK_SECONDS = 0.001  # between two looks
LONGEST_PAUSE, PAUSE_ITEMS = 0.02, 4  # seconds, and slow items, between two looks at the most
IDLE_TICKS = 20  # without anything running, until the thread goes to sleep
LOOK_SECONDS = 60.0  # the longest sleep


def pause(item_seconds: float, patience: float, timeout: float = 0.0) -> float:
    """Give the seconds between two looks at items that take so long; whoever runs them looks after each as well."""
    longest = min(patience / 4, timeout / 4 or LONGEST_PAUSE, LONGEST_PAUSE)
    return max(TICK_SECONDS, min(PAUSE_ITEMS * item_seconds, longest))


class Monitor:
    """Calls ``look``, which gives the seconds until the next time, and sleeps until ``wake`` where it gives none."""

    def __init__(self, look: Callable[[], float], name: str) -> None:
        self._look = look
        self._asleep = False
        self._ended = False
        self._awaken = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"{name} monitor", daemon=True)
        self._started = False

    def wake(self) -> None:
        """There is something to look at now, and was before the call; costs next to nothing where the thread is awake.

        It looks once more after it has said that it is asleep, so it sees what was there before anybody asked.
        """
        if self._asleep:
            self._awaken.set()
        elif not self._started:
            self._started = True
            self._thread.start()

    def end(self, timeout: float) -> None:
        """End the thread."""
        self._ended = True
        self._awaken.set()
        if self._started:
            self._thread.join(timeout)

    def _serve(self) -> None:
        idle = 0
        while not self._ended:
            pause = self._look()
            idle = 0 if pause else idle + 1
            if idle <= IDLE_TICKS:
                time.sleep(pause or TICK_SECONDS)
                continue
            self._asleep = True
            if not self._look():  # once more: who began in between has not seen the flag
                self._awaken.wait(LOOK_SECONDS)
            self._asleep = False
            self._awaken.clear()
            idle = 0
