"""What a run and a shutdown tell afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from poolinject._exceptions import add_note
from poolinject.errors import CleanupError

CleanupStatus: TypeAlias = Literal["clean", "errors", "timed out", "lost"]


@dataclass(frozen=True, slots=True)
class RunReport:
    """The newest finished run.

    Attributes:
        function: The name of the function.
        items: Items read from the input.
        succeeded: Items that went through.
        failed: Items that failed.
        retries: Failed attempts after which the item was to be tried again.
        lost_workers: Workers that ended while the run was going on.
        seconds: From the call to the last outcome, in the caller.
        provider_seconds: For each provider the mean seconds that one use of it took in the workers, set-up and
            cleanup together; from a sample: the second item of each chunk, or its only one.
    """

    function: str
    items: int
    succeeded: int
    failed: int
    retries: int
    lost_workers: int
    seconds: float
    provider_seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class WorkerCleanup:
    """How one worker ended, and how those before it in its slot did that were replaced.

    Attributes:
        status: ``"clean"``; ``"errors"``: every cleanup ran, some raised; ``"timed out"``: it gave no answer in time
            and was ended; ``"lost"``: it ended without running its cleanups. Of several generations the worst.
        errors: What the cleanups raised, each with the name of the provider, those of the first generation first.
    """

    status: CleanupStatus
    errors: tuple[tuple[str, BaseException], ...] = ()


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """What came of the cleanups of a pool, worker by worker.

    Attributes:
        workers: How each worker ended, by worker id; empty for a pool that never started one.
        seconds: How long shutdown took.
    """

    workers: Mapping[int, WorkerCleanup]
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether every cleanup of every worker ran without an error."""
        return all(worker.status == "clean" for worker in self.workers.values())

    @property
    def errors(self) -> tuple[BaseException, ...]:
        """Every error of every cleanup."""
        return tuple(error for worker in self.workers.values() for _, error in worker.errors)

    def raise_errors(self) -> None:
        """Raise what the cleanups raised.

        Raises:
            CleanupError: If any cleanup raised; with all the errors, each noted with its worker and provider.
        """
        errors: list[Exception] = []
        for worker_id, worker in self.workers.items():
            for provider, error in worker.errors:
                kept = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
                if worker.status == "timed out" and isinstance(error, SystemExit):
                    kept = TimeoutError("it took longer than cleanup_timeout, and was terminated")
                add_note(kept, f"in the cleanup of {provider} on worker {worker_id}")
                errors.append(kept)
        if errors:
            message = f"{len(errors)} cleanup(s) failed"
            raise CleanupError(message, errors)
