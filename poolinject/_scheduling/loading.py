"""Which functions each worker knows: one is sent once, and the oldest is forgotten where there are many."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from poolinject._transport.messages import Forget, Load

if TYPE_CHECKING:
    from poolinject.backends.base import Backend

MOST_LOADED = 256  # functions that a worker knows at the same time, where no more are running


class Loading:
    """The functions of all workers."""

    def __init__(self, backend: Backend, workers: int) -> None:
        self._backend = backend
        self._loaded: list[dict[int, None]] = [{} for _ in range(workers)]  # the oldest first
        self._needed = Counter[int]()  # functions, by how many runs

    def add_worker(self) -> None:
        """There is one more."""
        self._loaded.append({})

    def need(self, load: Load) -> None:
        """A run of this function begins; it is not forgotten before the end of that."""
        self._needed[load.function] += 1

    def release(self, load: Load) -> None:
        """A run has come to its end."""
        self._needed[load.function] -= 1
        if not self._needed[load.function]:
            del self._needed[load.function]

    def load(self, worker_id: int, load: Load) -> None:
        """Make a function known to a worker."""
        loaded = self._loaded[worker_id]
        if load.function in loaded:
            return
        if len(loaded) >= MOST_LOADED:
            oldest = next((function for function in loaded if function not in self._needed), None)
            if oldest is not None:
                del loaded[oldest]
                self._backend.send(worker_id, Forget(oldest))
        loaded[load.function] = None
        self._backend.send(worker_id, load)

    def gone(self, worker_id: int) -> None:
        """A worker has ended; the one that takes its place knows nothing."""
        self._loaded[worker_id].clear()
