"""Outcomes that may not have reached the caller, in memory that outlives the worker.

Each entry is a frame, as it could have gone through the socket. It stays until the message that has the same outcomes
has been written there. After the worker's death the caller reads what the socket still holds, then the journal, and
passes over the outcomes that it has already.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from poolinject._worker.control import BEGIN, FILLED

if TYPE_CHECKING:
    from poolinject._worker.control import Control


class Journal:
    """The worker's side. Entries are between ``BEGIN`` and ``FILLED``; any thread may use it.

    A *mark* counts the bytes that were ever recorded, so that it means the same after a new start.
    """

    def __init__(self, control: Control) -> None:
        self._words, self._memory = control.words, control.journal
        self._lock = threading.Lock()
        self._base = self._begin = self._filled = 0  # what was recorded before the new start; places in the memory

    def add(self, frame: bytes) -> bool:
        """Record a frame; false where there is no room before others have been sent."""
        with self._lock:
            if self._begin == self._filled:
                self._start_anew()
            end = self._filled + len(frame)
            if end > len(self._memory):
                return False
            self._memory[self._filled : end] = frame
            self._words[FILLED] = self._filled = end
        return True

    def _start_anew(self) -> None:
        self._base += self._filled
        self._words[FILLED] = 0  # nothing is between them at any moment
        self._words[BEGIN] = 0
        self._begin = self._filled = 0

    @property
    def mark(self) -> int:
        """Where the journal stands."""
        return self._base + self._filled

    def sent(self, mark: int) -> None:
        """Forget what was recorded before a mark: it is in the socket now."""
        with self._lock:
            begin = mark - self._base
            if begin > self._begin:
                self._words[BEGIN] = self._begin = begin
