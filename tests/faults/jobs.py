"""What workers do in tests of the whole pool, and what must come of it: jobs with a fault each, functions for them."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from poolinject import Depends, ItemContext, ItemTimeoutError, TransportError, WorkerContext, WorkerLostError
from tests.pool.ledger import note, span

SLOW_SECONDS = 0.005
LIMIT_SECONDS = 1.0  # of time limits, which only hanging jobs reach
HANG_SECONDS = 60.0
DOOMED = "doomed"  # noted by a process that is about to end itself


@dataclass(frozen=True)
class Job:
    """An item.

    Attributes:
        number: Unique in a test, so that the ledger tells of each job.
        fault: What is wrong with it: a key of `FAULTS`, or of `HARMLESS`.
        mends_at: The attempt from which nothing is wrong with it any more.
    """

    number: int
    fault: str = "none"
    mends_at: float = math.inf


@dataclass(frozen=True)
class Fault:
    """What a fault comes to.

    Attributes:
        phase: Of the ``Failure``.
        error: Its type.
    """

    phase: str
    error: type[BaseException]
    ends_worker: bool = False


HARMLESS = ("none", "slow")
FAULTS: dict[str, Fault] = {
    "setup": Fault("setup", ConnectionError),
    "call": Fault("call", LookupError),
    "system exit": Fault("call", SystemExit),
    "cleanup": Fault("cleanup", BrokenPipeError),
}
PROCESS_FAULTS: dict[str, Fault] = {
    **FAULTS,
    "unsendable": Fault("transport", TransportError),
    "exit": Fault("lost", WorkerLostError, ends_worker=True),
    "kill": Fault("lost", WorkerLostError, ends_worker=True),
}
TIMED_FAULTS: dict[str, Fault] = {
    **PROCESS_FAULTS,
    "hang": Fault("timeout", ItemTimeoutError),
    "hang in cleanup": Fault("timeout", ItemTimeoutError),
    "hang stubbornly": Fault("timeout", ItemTimeoutError, ends_worker=True),
}


def scope(lifetime: str, worker: WorkerContext) -> str:
    """Name what closes in the reverse order of its making."""
    return f"{lifetime}-{worker.pool_name}-{worker.worker_id}.{worker.generation}"


def get_engine(worker: WorkerContext) -> Iterator[str]:
    """One in each process."""
    yield from span(f"engine of {worker.pool_name}")


async def get_broker(worker: WorkerContext, engine: Annotated[str, Depends(get_engine)]) -> AsyncIterator[str]:
    """One in each worker, in async code."""
    note(f"broker of {scope('worker', worker)}+")
    yield engine
    note(f"broker of {scope('worker', worker)}-")


def get_connection(worker: WorkerContext, engine: Annotated[str, Depends(get_engine)]) -> Iterator[str]:
    """One in each worker."""
    yield from span(f"connection of {scope('worker', worker)}")


def get_session(
    job: Job, context: ItemContext, worker: WorkerContext, connection: Annotated[str, Depends(get_connection)]
) -> Iterator[int]:
    """One for each attempt at an item; gives the number of the attempt."""
    fault = fault_at(job, context.attempt)
    if fault == "setup":
        raise ConnectionError(job.number)
    name = f"session {job.number} of {scope('item', worker)}"
    note(f"{name}+")
    try:
        yield context.attempt
        if fault == "hang in cleanup":
            hang()
    finally:
        note(f"{name}-")
    if fault == "cleanup":
        raise BrokenPipeError(job.number)


async def get_cursor(
    job: Job,
    worker: WorkerContext,
    session: Annotated[int, Depends(get_session)],
    broker: Annotated[str, Depends(get_broker)],
) -> AsyncIterator[int]:
    """One for each attempt at an item, in async code."""
    name = f"cursor {job.number} of {scope('item', worker)}"
    note(f"{name}+")
    try:
        yield session
    finally:
        note(f"{name}-")


LIFETIMES: Any = {get_engine: "pool", get_broker: "worker", get_connection: "worker"}


def plainly(job: Job, context: ItemContext) -> Any:
    """Do a job without providers."""
    return do(job, context.attempt)


def with_session(job: Job, attempt: Annotated[int, Depends(get_session)]) -> Any:
    """Do a job with sync dependencies of every lifetime."""
    return do(job, attempt)


def with_cursor(job: Job, attempt: Annotated[int, Depends(get_cursor)]) -> Any:
    """Do a job with async dependencies above sync ones."""
    return do(job, attempt)


Function: TypeAlias = Callable[..., Any]
FUNCTIONS: tuple[Function, ...] = (plainly, with_session, with_cursor)


def fault_at(job: Job, attempt: int) -> str:
    """Tell what is wrong with a job in an attempt."""
    return job.fault if attempt < job.mends_at else "none"


def begun(job: Job, attempt: int = 1) -> str:
    """Give the entry in the ledger that says that a job was begun."""
    return f"job {job.number}, attempt {attempt}."


def do(job: Job, attempt: int) -> Any:
    """Do a job, or what its fault says."""
    note(begun(job, attempt))
    match fault_at(job, attempt):
        case "slow":
            time.sleep(SLOW_SECONDS)
        case "call":
            raise LookupError(job.number)
        case "system exit":
            raise SystemExit(job.number)
        case "unsendable":
            return threading.Lock()
        case "exit":
            note(DOOMED)
            os._exit(17)
        case "kill":
            note(DOOMED)
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            hang()
        case "hang stubbornly":
            note(DOOMED)
            while True:
                with suppress(ItemTimeoutError):
                    hang()
    return -job.number


def hang() -> None:
    """Do nothing, for longer than anybody waits."""
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.01)


def get_generation(worker: WorkerContext, connection: Annotated[str, Depends(get_connection)]) -> tuple[int, int]:
    """Tell which worker this is: for a broadcast."""
    return worker.worker_id, worker.generation


def fault_of(function: Function, job: Job) -> Fault | None:
    """Tell what is wrong with a job until it mends; ``None``: nothing."""
    if function is plainly and job.fault in {"setup", "cleanup", "hang in cleanup"}:
        return None
    return TIMED_FAULTS.get(job.fault)
