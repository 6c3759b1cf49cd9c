"""Which functions each worker knows: one is sent once, and the oldest is forgotten where there are many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolinject._transport.messages import Forget, Load

if TYPE_CHECKING:
    from collections.abc import Collection

    from poolinject._scheduling.runs import Run
    from poolinject.backends.base import Backend

MOST_LOADED = 256  # functions that a worker knows at the same time, where no more are running


class Loading:
    """The functions of all workers."""

    def __init__(self, backend: Backend, workers: int) -> None:
        self._backend = backend
        self._loaded: list[dict[int, None]] = [{} for _ in range(workers)]  # the oldest first

    def add_worker(self) -> None:
        """There is one more."""
        self._loaded.append({})

    def load(self, worker_id: int, load: Load, runs: Collection[Run]) -> None:
        """Make a function known to a worker; those of the *runs* that go on are not forgotten."""
        loaded = self._loaded[worker_id]
        if load.function in loaded:
            return
        if len(loaded) >= MOST_LOADED:
            needed = {run.load.function for run in runs}
            oldest = next((function for function in loaded if function not in needed), None)
            if oldest is not None:
                del loaded[oldest]
                self._backend.send(worker_id, Forget(oldest))
        loaded[load.function] = None
        self._backend.send(worker_id, load)

    def gone(self, worker_id: int) -> None:
        """A worker has ended; the one that takes its place knows nothing."""
        self._loaded[worker_id].clear()
