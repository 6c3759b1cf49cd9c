"""The interface of a backend: it starts workers and moves messages, and decides nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poolinject._transport.messages import FromWorker, ToWorker
    from poolinject.markers import AsyncBackend

State: TypeAlias = Literal["starting", "idle", "busy", "stopped", "lost"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do beyond running items.

    Attributes:
        shares_memory: Workers see the caller's objects; nothing is pickled.
        runs_in_caller: Items run on the thread that waits for them.
        times_out: Items can have a time limit, since workers can be interrupted and ended.
        recycles: A worker that ends can be replaced, with memory of its own that goes with it.
        counts_begun: When a worker has ended it is known which items it had begun.
        grows: Workers may join while the pool runs; without a number it takes as many as there are.
        costly_messages: A message costs milliseconds, so that chunks are to take longer.
    """

    shares_memory: bool
    runs_in_caller: bool = False
    times_out: bool = False
    recycles: bool = False
    counts_begun: bool = True
    grows: bool = False
    costly_messages: bool = False


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One worker, as it was when ``pool.workers`` was read.

    Attributes:
        worker_id: Its slot, 0 to workers - 1.
        pid: Its process.
        generation: 0 for the first worker in the slot, one more for each replacement.
        state: What it does.
        items_done: Items whose outcomes have come from this slot.
        address: Where a cluster has its process, by the cluster's own name for it; ``None`` on this machine.
    """

    worker_id: int
    pid: int
    generation: int
    state: State
    items_done: int
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Leaving:
    """A worker is being ended from outside: it does what it was handed and closes its scopes by itself."""


@dataclass(frozen=True, slots=True)
class Joined:
    """There is a worker in a slot, a new one or one whose worker had gone without being replaced; it sends ``Ready``.

    New slots are numbered on from those that there are.
    """


class Gone(NamedTuple):
    """A worker has ended and every message that it sent has been received.

    Attributes:
        exit_code: Its exit code, negative for a signal, ``None`` where it is not known.
        begun: For each slot of its control block the index in its run of the first item that had not been begun, or
            ``None`` where items were too quick to be counted; ``None`` altogether without ``counts_begun``.
        holds: It had something open that outlives an item, so that cleanups are missing unless it has said otherwise.
        suspect: Slot and index in its run of the item whose object the worker was pickling or unpickling out of turn.
    """

    exit_code: int | None
    begun: Mapping[int, int | None] | None
    holds: bool = True
    suspect: tuple[int, int] | None = None


class Backend(ABC):
    """Workers of one kind, for one pool. All methods but ``wake`` are called by one thread at a time.

    Worker ids are 0 to workers - 1. Messages to one worker arrive in the order in which they were sent.
    """

    capabilities: Capabilities
    _served: str | None = None

    def claim(self, pool_name: str) -> None:
        """Serve a pool from now on.

        Raises:
            ValueError: If it serves one, or did.
        """
        if self._served is not None:
            message = (
                f"this {type(self).__name__} belongs to pool {self._served!r}: make another one for pool {pool_name!r}"
            )
            raise ValueError(message)
        self._served = pool_name

    @property
    def name(self) -> str:
        """The name that users know it by, for errors."""
        return type(self).__name__.removesuffix("Backend").lower()

    @abstractmethod
    def start(self, pool_name: str, workers: int, preload: Sequence[str], async_backend: AsyncBackend) -> int:
        """Start the workers and give their number; each sends ``Ready``.

        *workers* is 0 only for one that ``grows``: as many as there are. *preload* names modules worth importing,
        *async_backend* the event loop that the workers are to use. What fails or is interrupted leaves nothing behind,
        and may be tried again.

        Raises:
            BackendUnavailableError: If workers cannot be had here.
        """

    @abstractmethod
    def send(self, worker_id: int, message: ToWorker) -> int:
        """Hand a message over without waiting, and give its size in bytes, 0 where there are none.

        A message for a worker that has ended is dropped.
        """

    @abstractmethod
    def receive(self, timeout: float | None) -> Sequence[tuple[int, FromWorker | Gone | Joined | Leaving]]:
        """Wait for messages, for *timeout* seconds or until ``wake``, and give what has come."""

    @abstractmethod
    def wake(self) -> None:
        """Make ``receive`` return. Any thread may call it, and a signal handler."""

    @abstractmethod
    def take_back(self, worker_id: int, slot: int, keep: int) -> None:
        """Let no item of the chunk in a slot start beyond the first *keep*; a worker at it answers ``Returned``."""

    @abstractmethod
    def is_opened(self, worker_id: int, slot: int) -> bool:
        """Tell whether the worker has come to the chunk in a slot."""

    def deadline(self, worker_id: int) -> int:  # noqa: ARG002 - for those with ``times_out``
        """Give when the item that a worker runs must have ended, in ``time.monotonic_ns``; 0 where it has no limit."""
        return 0

    @abstractmethod
    def replace(self, worker_id: int) -> bool:
        """Start the next generation in the slot of a worker that has ended.

        Gives false where there is no place for it now; ``Joined`` is to tell when there is.
        """

    @abstractmethod
    def end(self, worker_id: int, how: Literal["terminate", "kill"]) -> None:
        """Make a worker end that does not answer."""

    @abstractmethod
    def close(self) -> None:
        """Release everything; workers that are still there are left to themselves."""

    @abstractmethod
    def pid(self, worker_id: int) -> int:
        """Give the process of a worker."""

    def address(self, worker_id: int) -> str | None:  # noqa: ARG002 - for clusters
        """Give where a worker is, ``None`` for this machine."""
        return None

    @abstractmethod
    def generation(self, worker_id: int) -> int:
        """Give how often the slot was taken over."""
