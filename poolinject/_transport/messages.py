"""What caller and worker say to each other, as frozen records, and the outcomes that users see.

Most are tuples, which are quicker to make than frozen dataclasses, and to define: those take 0.3 ms each, before the
first worker can start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from poolinject.markers import AsyncBackend

Value = TypeVar("Value")
Phase: TypeAlias = Literal["setup", "call", "cleanup", "transport", "timeout", "lost"]


@dataclass(frozen=True, slots=True)
class Success(Generic[Value]):
    """An item that went through.

    Attributes:
        index: Its place in the caller's iterable, from 0.
        item: The item itself.
        value: What the function returned.
        attempts: How often it was tried, 1 for the first time.
        worker_id: The slot of the worker that ran it.
        seconds: How long it took in the worker, dependencies and cleanup included.
    """

    index: int
    item: Any
    value: Value
    attempts: int
    worker_id: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that failed.

    Attributes:
        index: Its place in the caller's iterable, from 0.
        item: The item itself.
        error: The exception, of its original type.
        traceback: The worker's traceback as text.
        phase: What it failed in: building a dependency (``"setup"``), the function (``"call"``), the code after a
            ``yield`` (``"cleanup"``), sending it or its result (``"transport"``), it took too long (``"timeout"``), its
            worker ended (``"lost"``).
        provider: The name of the provider concerned, ``None`` outside setup and cleanup.
        attempts: How often it was tried.
        worker_id: The slot of the worker, ``None`` where it never reached one.
    """

    index: int
    item: Any
    error: BaseException
    traceback: str
    phase: Phase
    provider: str | None
    attempts: int
    worker_id: int | None


Outcome: TypeAlias = Success[Any] | Failure


class Setup(NamedTuple):
    """What a worker must know before its first item."""

    worker_id: int
    generation: int
    pool_name: str
    async_backend: AsyncBackend = "asyncio"


class Load(NamedTuple):
    """A function, known from now on by its number: a plan where caller and worker share memory, else a blob."""

    function: int
    name: str
    plan: Any = None
    blob: bytes | None = None


class Forget(NamedTuple):
    """Let go of a function; where it is wanted again, it is loaded again."""

    function: int


class Warm(NamedTuple):
    """Build the shared dependencies of these loaded plans now; answered by ``Ready``."""

    functions: tuple[int, ...]


class Limit(NamedTuple):
    """Run no further item after one that leaves so many bytes of memory resident: answer with ``Worn``."""

    memory: int


MOST_UNIT = (1 << 32) - 1  # outcomes, as a frame can say it; no chunk has as many


class Chunk(NamedTuple):
    """Consecutive items of one run. ``slot`` is its place in the control block of the worker.

    ``unit``: so many outcomes are sent without waiting for others, if any number is; ``patience``: seconds for which
    they may wait.
    ``exact``: what has begun must be counted, however quick the items are.
    ``stop_on_failure``: after a failure no further item of the run starts in this worker, in no chunk.
    ``tells_failures``: a failure does not wait for other outcomes, since the caller may have it tried again.
    ``timeout``: seconds that each item may take, 0 where there is no limit.
    ``concurrency``: so many items of the function may run beside each other, each a chunk; 1: one after another.
    """

    id: int
    run: int
    slot: int
    function: int
    start: int
    attempt: int = 1
    unit: int = 0
    patience: float = 1.0
    exact: bool = False
    stop_on_failure: bool = False
    tells_failures: bool = False
    timed: bool = False
    timeout: float = 0.0
    concurrency: int = 1
    items: Sequence[Any] = ()


class Cancel(NamedTuple):
    """Of the items of a run that run beside each other start no further one, and cancel the others."""

    run: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End: close every scope, answer with ``Stopped``."""


class Ready(NamedTuple):
    """The worker has started; ``error`` says that what was to be warmed could not be built."""

    error: BaseException | None = None


class Failed(NamedTuple):
    """The failure of the item at ``offset`` of a block."""

    offset: int
    error: BaseException
    traceback: str
    phase: Phase
    provider: str | None


class Results(NamedTuple):
    """Outcomes of ``size`` consecutive items of a chunk; ``values`` has ``None`` at the places of ``failures``.

    A worker process has pickled the values already: ``values`` are the bytes of a batch then, until they are decoded.
    ``seconds`` is what the block took, ``each`` what its items took where the chunk is timed. ``done`` marks the
    last block of the chunk, which may be empty and may leave items of the chunk unstarted. ``sampled`` has provider,
    uses and seconds of an item that was measured step by step. ``weight`` is the size of the message in bytes, where it
    came through a pipe. ``mark`` is where the worker's journal stood when these outcomes had been recorded in it one
    by one, 0 where they had not.
    """

    chunk: int
    start: int
    size: int
    values: Sequence[Any]
    failures: tuple[Failed, ...]
    seconds: float
    each: tuple[float, ...]
    done: bool
    sampled: tuple[tuple[str, int, float], ...] = ()
    weight: int = 0
    mark: int = 0

    def without(self, count: int) -> Results:
        """Leave out the first outcomes."""
        failures = tuple(each._replace(offset=each.offset - count) for each in self.failures if each.offset >= count)
        return self._replace(
            start=self.start + count,
            size=self.size - count,
            values=self.values[count:],
            failures=failures,
            each=self.each[count:],
        )

    def up_to(self, count: int) -> Results:
        """Leave out all but so many of the first outcomes."""
        failures = tuple(each for each in self.failures if each.offset < count)
        return self._replace(size=count, values=self.values[:count], failures=failures, each=self.each[:count])


class Returned(NamedTuple):
    """Of a chunk that was taken back while it ran, no item starts beyond the first ``kept``."""

    chunk: int
    kept: int


class Worn(NamedTuple):
    """The worker has more memory than its limit after so many items; it starts no further one, in no chunk."""

    memory: int
    items: int


class Stopped(NamedTuple):
    """The scopes of the worker are closed; what their cleanups raised, by provider."""

    failures: tuple[tuple[str, BaseException], ...]


ToWorker: TypeAlias = Load | Forget | Warm | Limit | Chunk | Cancel | Stop
FromWorker: TypeAlias = Ready | Results | Returned | Worn | Stopped
