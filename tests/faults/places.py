"""The places of the matrix: the items, dependencies, functions and results that commit a fault where they are told.

Annotations are evaluated here, since those of inner functions name providers that only these know.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from poolinject import Depends, ItemContext, WorkerContext
from tests.faults.faults import Fault, commit

Place = Literal[
    "pickling the item", "unpickling the item", "setup of an item dependency", "setup of a pool dependency", "the call",
    "cleanup of an item dependency", "cleanup of a pool dependency", "sending the result", "reading the result",
]  # fmt: skip
PLACES: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True)
class Job:
    """An item; ``place`` tells where its fault is to be committed."""

    number: int
    place: Place | None = None
    fault: Fault = "exception"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self.place == "pickling the item":
            commit(self.fault)
        return make_job, (self.number, self.place, self.fault)


def make_job(number: int, place: Place | None, fault: Fault) -> Job:
    """Be what an item is unpickled with."""
    if place == "unpickling the item":
        commit(fault)
    return Job(number, place, fault)


@dataclass(frozen=True)
class Answer:
    """The result of an item that is to have trouble with its result."""

    place: Place
    fault: Fault

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self.fault == "result that does not unpickle":
            return commit, ("exception",)
        if self.fault == "result that does not pickle":
            commit("exception")
        if self.place == "sending the result":
            commit(self.fault)
        return commit, (self.fault,)


def get_row(about: ItemContext) -> Iterator[int]:
    """Be the item dependency."""
    job: Job = about.item
    if job.place == "setup of an item dependency":
        commit(job.fault)
    yield job.number
    if job.place == "cleanup of an item dependency":
        commit(job.fault)


async def get_row_async(about: ItemContext) -> Any:
    """Be the item dependency of a function with async parts."""
    for row in get_row(about):
        yield row


@dataclass(frozen=True)
class Engine:
    """A provider of a pool dependency, which commits its fault once while it is built: if it finds the file."""

    armed: Path
    fault: Fault

    def __call__(self) -> Iterator[int]:
        with suppress(FileNotFoundError):
            self.armed.unlink()
            commit(self.fault)
        yield 1


@dataclass(frozen=True)
class Leaking:
    """A provider of a pool dependency that commits its fault when it is closed, on each worker another one."""

    faults: tuple[Fault, ...]

    def __call__(self, worker: WorkerContext) -> Iterator[int]:
        yield 1
        commit(self.faults[worker.worker_id])


def work(job: Job, row: Annotated[int, Depends(get_row)]) -> Any:
    """Be the function."""
    if job.place == "the call":
        commit(job.fault)
    if job.place in {"sending the result", "reading the result"}:
        return Answer(job.place, job.fault)
    return -row


async def work_async(job: Job, row: Annotated[int, Depends(get_row_async)]) -> Any:
    """Be the function with async parts."""
    return work(job, row)


def answer(job: Job) -> Any:
    """Be a function without dependencies."""
    return -job.number if job.place is None else Answer(job.place, job.fault)


def working(engine: Engine) -> Callable[..., Any]:
    """Make a function with a pool dependency of its own."""

    def work_with(
        job: Job, row: Annotated[int, Depends(get_row)], one: Annotated[int, Depends(engine, lifetime="pool")]
    ) -> Any:
        return work(job, row) * one

    return work_with


def opening(leaking: Leaking) -> Callable[..., Any]:
    """Make a function that has the pool dependency built."""

    def open_it(one: Annotated[int, Depends(leaking, lifetime="pool")]) -> int:
        return one

    return open_it
