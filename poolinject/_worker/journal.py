"""Outcomes that may not have reached the caller, in memory that outlives the worker.

Each entry is a frame, as it could have gone through the socket, or a bare pickle: the result of the item after the one
before. It stays until the message that has the same outcomes has been written there. After the worker's death the
caller reads what the socket still holds, then the journal, and passes over the outcomes that it has already.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from poolinject._worker.control import BEGIN, FILLED, JOURNAL_SIZE

if TYPE_CHECKING:
    from poolinject._worker.control import Control


class Journal:
    """The worker's side. Entries are between ``BEGIN`` and ``FILLED``; one thread adds at a time.

    A *mark* counts the bytes that were ever recorded, so that it means the same after a new start.
    """

    def __init__(self, control: Control) -> None:
        self._words, self._memory = control.words, control.journal
        self._lock = threading.Lock()
        self._base = self._begin = self._filled = 0  # what was recorded before the new start; places in the memory

    def add(self, entry: bytes) -> bool:
        """Record an entry; false where there is no room before others have been sent."""
        if self._begin == self._filled:
            self._start_anew()
        begin = self._filled
        end = begin + len(entry)
        if end > JOURNAL_SIZE:
            return False
        self._memory[begin:end] = entry
        self._words[FILLED] = self._filled = end
        return True

    def _start_anew(self) -> None:
        with self._lock:
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
