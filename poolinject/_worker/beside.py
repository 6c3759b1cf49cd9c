"""Items that run beside each other in a worker: coroutine functions, each item in a task of its own on one loop.

Everything here happens on the loop's thread, save what says otherwise. The outcome of an item leaves when it is there,
together with what else the loop has brought to its end meanwhile, whatever the other items of its chunk are at.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from poolinject._atoms import snapshot
from poolinject._injection.generators import Failed as ItemFailed
from poolinject._transport import remote_errors
from poolinject._transport.batch_writer import encode_batch
from poolinject._transport.codec import Unsendable
from poolinject._transport.messages import Chunk, Failed, FromWorker, Results
from poolinject._worker.control import COUNTED, DEADLINE
from poolinject._worker.lifecycle import Terminated, is_interrupt, is_terminated
from poolinject._worker.timeouts import GRACE_SECONDS, SECOND
from poolinject.errors import ItemTimeoutError, WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._injection.runtime import Call, Measured, Runtime
    from poolinject._injection.tasks import Running
    from poolinject._transport.payloads import Arena
    from poolinject._worker.copies import Original
    from poolinject._worker.memory import MemoryWatch

    Sampled: TypeAlias = tuple[tuple[str, int, float], ...]

SAMPLED = 16  # of so many items of a function one is measured


@dataclass(slots=True)
class TaskCalls:
    """The compiled forms of a function for tasks, and its chunks of which an item waits."""

    call: Call
    measured: Measured | None = None
    is_measuring: bool = False
    started: int = 0
    running: int = 0
    waiting: deque[Batch] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Batch:
    """A chunk. Its items start in order and end in any; ``ended`` has what has not been sent, by place in the chunk."""

    chunk: Chunk
    function: TaskCalls
    end: int  # the first item that will not start
    context: contextvars.Context  # that each item gets a copy of, whatever the one that made room for it has set
    begun: int = 0
    done: int = 0
    ended: dict[int, tuple[Any, float]] = field(default_factory=dict)
    sampled: Sampled = ()


@dataclass(slots=True, eq=False)
class Entry:
    """An item that runs."""

    batch: Batch
    place: int
    began: float
    deadline: int = 0
    task: Running | None = None
    is_dropped: bool = False  # its run is cancelled: nobody waits for its outcome
    is_measured: bool = False


class ItemTasks:
    """Starts items as their function has room, and sends what comes of each."""

    def __init__(
        self,
        runtime: Runtime,
        words: memoryview,
        send: Callable[[FromWorker], None],
        original: Original,
        *,
        pickles: bool,
        arena: Arena | None,
        at_rest: Callable[[], None] | None = None,
    ) -> None:
        self._runtime, self._loop, self._words, self._pass_on = runtime, runtime.loop, words, send
        self._pickles, self._arena, self._at_rest, self._original = pickles, arena, at_rest, original
        self._functions: dict[int, TaskCalls] = {}
        self._entries: dict[Entry, None] = {}
        self._stopped = False
        self._failed_run = -1
        self.memory: MemoryWatch | None = None
        self.interrupt: BaseException | None = None  # that hit an item and was meant for the whole process
        self._unsent: dict[Batch, None] = {}
        self._added = self._ended = 0  # chunks: the one is counted by the thread that adds, the other by the loop's

    # for any thread

    @property
    def is_active(self) -> bool:
        """Whether there are chunks."""
        return self._added > self._ended

    def add(self, chunk: Chunk, function: TaskCalls) -> None:
        """Start the items of a chunk as their function has room."""
        self._added += 1
        batch = Batch(chunk, function, len(chunk.items), contextvars.copy_context())
        self._loop.call(functools.partial(self._add, batch))

    def cancel(self, run: int | None = None) -> None:
        """Start no further item of a run, or of all, and cancel those that run; their scopes close."""
        if self.is_active:
            self._loop.call(functools.partial(self._cancel, run))

    def terminate(self) -> None:
        """Start no further item, and cancel all; a signal handler may call it."""
        self._stopped = True
        self._loop.call_soon(self._terminate)

    def send(self, message: FromWorker) -> None:
        """Send a message, unless the caller is gone: whoever reads sees to that, and here it would stop the others."""
        with contextlib.suppress(ConnectionError):
            self._pass_on(message)

    def drain(self) -> None:
        """Wait until there is no item."""
        if self.is_active:
            self._loop.wait_until(lambda: not self.is_active)

    def forget(self, function: int) -> None:
        """Let go of a function."""
        self._loop.call(lambda: self._forget(function))

    # on the loop's thread

    def stop(self) -> None:
        """Start no further item; what waits is given back."""
        self._stopped = True
        self._give_back(lambda _: True)

    def _forget(self, number: int) -> None:
        self._functions.pop(number, None)

    def _add(self, batch: Batch) -> None:
        self._functions[batch.chunk.function] = batch.function
        batch.function.waiting.append(batch)
        self._admit(batch.function)

    def _admit(self, function: TaskCalls) -> None:
        """Start what there is room for."""
        waiting = function.waiting
        while waiting and function.running < waiting[0].chunk.concurrency:
            batch = waiting[0]
            if batch.begun == 0:
                self._open(batch)
            if batch.begun < batch.end:
                self._start(batch)
            if batch.begun >= batch.end:
                waiting.popleft()
                self._close_if_done(batch)
        self._tell_rest()

    def _open(self, batch: Batch) -> None:
        chunk = batch.chunk
        self._words[3 * chunk.slot + 2] = COUNTED  # opened: the bound is read after this
        is_taken_back = self._words[3 * chunk.slot] == 0
        if is_taken_back or self._stopped or chunk.run == self._failed_run:
            batch.end = 0

    def _start(self, batch: Batch) -> None:
        chunk, function, place = batch.chunk, batch.function, batch.begun
        batch.begun = place + 1
        self._words[3 * chunk.slot + 1] = chunk.start + batch.begun
        item, entry = chunk.items[place], Entry(batch, place, time.perf_counter())
        if type(item) is Unsendable:
            self._keep(entry, ItemFailed(item.error, "transport", None))
            return
        function.started += 1
        function.running += 1
        call: Any = function.call
        if function.measured is not None and not function.is_measuring and function.started % SAMPLED == 1:
            call, entry.is_measured, function.is_measuring = function.measured.loop, True, True
        self._entries[entry] = None
        if chunk.timeout:
            entry.deadline = time.monotonic_ns() + int((chunk.timeout + GRACE_SECONDS) * SECOND)
            self._publish_deadline()
        late = functools.partial(ItemTimeoutError, chunk.start + place, chunk.timeout)
        work = functools.partial(self._run, entry, call, item)
        entry.task = batch.context.run(self._loop.start, work, chunk.timeout, late)

    async def _run(self, entry: Entry, call: Any, item: Any) -> None:
        chunk = entry.batch.chunk
        try:
            outcome = await call(item, chunk.start + entry.place, chunk.attempt)
        except BaseException as error:  # noqa: BLE001 - an error that nobody can handle must not keep the others waiting
            self._original.end_copy(error.__context__ or error)  # where no loop runs, so that nothing could be closed
            outcome = ItemFailed(error, "call", None)
        self._original.end_copy(outcome.error if type(outcome) is ItemFailed else None)
        self._end(entry, outcome)

    def _end(self, entry: Entry, outcome: Any) -> None:
        batch, task = entry.batch, entry.task
        assert task is not None  # noqa: S101 - tells mypy
        task.end()
        del self._entries[entry]
        function = batch.function
        function.running -= 1
        if entry.deadline:
            self._publish_deadline()
        if entry.is_measured and function.measured is not None:
            batch.sampled, function.is_measuring = function.measured.take(), False
        try:
            outcome = self._with_reason(entry, task.reason, outcome)
        except BaseException as error:  # noqa: BLE001 - everybody would wait for an item without an outcome
            outcome = ItemFailed(error, "call", None)
        if type(outcome) is ItemFailed and is_interrupt(outcome.error):
            self.interrupt = outcome.error
        if entry.is_dropped and type(outcome) is ItemFailed:
            batch.done += 1
        else:
            self._keep(entry, outcome)
        self._close_if_done(batch)
        self._admit(function)

    def _with_reason(self, entry: Entry, reason: BaseException | None, outcome: Any) -> Any:
        """Say that an item failed because it was cancelled, whatever it has made of that, or should have been."""
        chunk, index = entry.batch.chunk, entry.batch.chunk.start + entry.place
        if entry.deadline and reason is None and time.monotonic_ns() > entry.deadline - GRACE_SECONDS * SECOND:
            reason = ItemTimeoutError(index, chunk.timeout)  # it has held up the loop
        if isinstance(reason, ItemTimeoutError):
            failed = outcome if type(outcome) is ItemFailed else ItemFailed(reason, "timeout", None)
            if failed.error is not reason:
                reason.__cause__ = failed.error
            return ItemFailed(reason, "timeout", failed.provider)
        if type(outcome) is ItemFailed and is_terminated(outcome.error):
            error = WorkerLostError(self._runtime.worker.worker_id, -signal.SIGTERM, index)
            error.__cause__ = outcome.error
            return ItemFailed(error, "lost", None)
        return outcome

    def _keep(self, entry: Entry, outcome: Any) -> None:
        """Keep what an item has come to until the loop has seen to the others that are ready; no object may change."""
        batch, is_failed = entry.batch, type(outcome) is ItemFailed
        copy = outcome if is_failed else snapshot(outcome)
        batch.done += 1
        batch.ended[entry.place] = (outcome if copy is None else copy, time.perf_counter() - entry.began)
        if is_failed and batch.chunk.stop_on_failure:
            self._failed_run = batch.chunk.run
            self._give_back(lambda chunk: chunk.run == batch.chunk.run)
        if copy is None and outcome is not None and self._pickles:
            self._send_ended(batch)
        else:
            self._send_soon(batch)
        if self.memory is not None:
            self.memory.look(self)

    def _close_if_done(self, batch: Batch) -> None:
        """Have the caller told that a chunk is over, if it is."""
        if batch.done == batch.end and batch.begun >= batch.end:
            self._send_soon(batch)

    def _send_soon(self, batch: Batch) -> None:
        if not self._unsent:
            self._loop.call_soon(self._send_all)
        self._unsent[batch] = None

    def _send_all(self) -> None:
        unsent, self._unsent = self._unsent, {}
        for batch in unsent:
            self._send_ended(batch)
        self._tell_rest()

    def _send_ended(self, batch: Batch) -> None:
        """Send what the items of a chunk have come to, in a message for each row of neighbours."""
        is_over = batch.done == batch.end and batch.begun >= batch.end
        places, ended, chunk = sorted(batch.ended), batch.ended, batch.chunk
        batch.ended = {}
        sampled, batch.sampled = batch.sampled, ()
        first = 0
        for position in range(1, len(places) + 1):
            if position == len(places) or places[position] != places[position - 1] + 1:
                outcomes = [ended[place] for place in places[first:position]]
                is_last = is_over and position == len(places)
                self.send(self._results(chunk, places[first], outcomes, sampled, done=is_last))
                sampled, first = (), position
        if is_over:
            if not places:
                self.send(self._results(chunk, batch.end, [], (), done=True))
            batch.end = -1  # it is not told again
            self._ended += 1

    def _results(
        self, chunk: Chunk, place: int, outcomes: list[tuple[Any, float]], sampled: Sampled, *, done: bool
    ) -> Results:
        failures = tuple(
            Failed(offset, failed.error, remote_errors.traceback_text(failed.error), failed.phase, failed.provider)
            for offset, (failed, _) in enumerate(outcomes)
            if type(failed) is ItemFailed
        )
        values: Any = [None if type(value) is ItemFailed else value for value, _ in outcomes]
        seconds = [seconds for _, seconds in outcomes]
        parts = len(values), self._packed(values), failures, sum(seconds), tuple(seconds) if chunk.timed else ()
        return Results(chunk.id, chunk.start + place, *parts, done=done, sampled=sampled)

    def _packed(self, values: list[Any]) -> Any:
        return encode_batch(values, "result", self._arena) if self._pickles else values

    def _give_back(self, is_meant: Callable[[Chunk], bool]) -> None:
        """Start nothing more of the chunks that are meant."""
        for function in self._functions.values():
            for batch in list(function.waiting):
                if is_meant(batch.chunk):
                    self._words[3 * batch.chunk.slot + 2] = COUNTED
                    batch.end = batch.begun
                    function.waiting.remove(batch)
                    self._close_if_done(batch)

    def _cancel(self, run: int | None) -> None:
        self._give_back(lambda chunk: run in (None, chunk.run))
        for entry in list(self._entries):
            if run in (None, entry.batch.chunk.run) and entry.task is not None:
                entry.is_dropped = True
                entry.task.cancel()

    def _terminate(self) -> None:
        self.stop()
        for entry in list(self._entries):
            if entry.task is not None:
                entry.task.cancel(Terminated(128 + signal.SIGTERM))

    def _tell_rest(self) -> None:
        if not self.is_active:
            self._loop.nudge()
            if self._at_rest is not None:
                self._at_rest()

    def _publish_deadline(self) -> None:
        """Let the caller know when the first of the items must have ended."""
        deadlines = [entry.deadline for entry in self._entries if entry.deadline]
        self._words[DEADLINE] = min(deadlines, default=0)
