"""Every error class of the library. Constructor arguments stay in ``args``, so all of them survive pickling."""

from __future__ import annotations

import signal
from collections.abc import Sequence


class PoolInjectError(Exception):
    """Base of every error that poolinject raises for itself."""


class PlanError(PoolInjectError):
    """A declaration that cannot work, found in the caller before any worker starts.

    Attributes:
        path: Names from the function to the culprit, outermost first.
        problem: What is wrong there.
        remedy: What to change.
    """

    def __init__(self, path: Sequence[str], problem: str, remedy: str) -> None:
        super().__init__(tuple(path), problem, remedy)
        self.path, self.problem, self.remedy = tuple(path), problem, remedy

    def __str__(self) -> str:
        return f"{' -> '.join(self.path)}: {self.problem}. {self.remedy}"


class LifetimeError(PlanError):
    """A dependency that lives longer than something it depends on."""


class DependencyCycleError(PlanError):
    """A provider that depends on itself; ``path`` begins and ends with it where the cycle closes."""


class TransportError(PoolInjectError):
    """Something that cannot be sent between caller and worker.

    Attributes:
        what: The culprit, for example ``closure variable `lock` of `load```.
        reason: Why it cannot be sent, in the words of the pickler.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


class WorkerLostError(PoolInjectError):
    """A worker ended while it held an item.

    Attributes:
        worker_id: The slot of the worker.
        exit_code: Its exit code; negative for a signal, ``None`` where it is not known.
        index: The index of the item, ``None`` where no item was concerned.
    """

    def __init__(self, worker_id: int, exit_code: int | None = None, index: int | None = None) -> None:
        super().__init__(worker_id, exit_code, index)
        self.worker_id, self.exit_code, self.index = worker_id, exit_code, index

    def __str__(self) -> str:
        if self.exit_code is None:
            end = "ended"
        elif self.exit_code < 0:
            end = f"was ended by {_signal_name(-self.exit_code)}"
        else:
            end = f"exited with code {self.exit_code}"
        item = "" if self.index is None else f" while it held item {self.index}"
        return f"worker {self.worker_id} {end}{item}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class ItemTimeoutError(PoolInjectError, TimeoutError):
    """An item that ran longer than its ``timeout``.

    Attributes:
        index: The index of the item.
        timeout: The limit, in seconds.
    """

    def __init__(self, index: int, timeout: float) -> None:
        super().__init__(index, timeout)
        self.index, self.timeout = index, timeout

    def __str__(self) -> str:
        return f"item {self.index} ran longer than {self.timeout:g} s"


class CleanupError(PoolInjectError, ExceptionGroup[Exception]):
    """The errors of cleanups that ran at shutdown, all of them, in the order in which they were raised."""

    def derive(self, excs: Sequence[Exception]) -> CleanupError:  # type: ignore[override]
        """Keep the class when a part is split off by ``except*``."""
        return CleanupError(self.message, list(excs))


class PoolClosedError(PoolInjectError):
    """A pool or resolver that was used after its shutdown had begun.

    Attributes:
        name: The name of the pool or resolver.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"{self.name} is closed: make a new one, or move the call before its shutdown"


class BackendUnavailableError(PoolInjectError):
    """A backend that cannot be used here.

    Attributes:
        backend: Its name.
        remedy: What to install or change.
    """

    def __init__(self, backend: str, remedy: str) -> None:
        super().__init__(backend, remedy)
        self.backend, self.remedy = backend, remedy

    def __str__(self) -> str:
        return f"backend {self.backend!r} is not available: {self.remedy}"
