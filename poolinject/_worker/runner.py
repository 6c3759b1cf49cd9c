"""Runs chunks in a worker: one item after the other, each in its own scope and its own copy of the context."""

from __future__ import annotations

import contextvars
import signal
import time
from typing import TYPE_CHECKING, Any

from poolinject._injection.generators import Failed as ItemFailed
from poolinject._transport import remote_errors
from poolinject._transport.codec import Unsendable
from poolinject._transport.functions import load_function
from poolinject._transport.messages import Chunk, Failed, Forget, FromWorker, Load, Ready, Results, Warm
from poolinject._worker.lifecycle import Terminated, is_interrupt
from poolinject.errors import TransportError, WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._injection.plan import Plan
    from poolinject._injection.runtime import Bound, Measured, Runtime
    from poolinject._worker.control import Control

LOOK_SECONDS = 0.0001  # of work between two looks at the bound and the unsent outcomes
FLUSH_SECONDS = 0.01  # outcomes wait no longer than this for others of their chunk


class Runner:
    """The functions that one worker knows, and the loop over the items of a chunk."""

    def __init__(
        self, runtime: Runtime, control: Control, send: Callable[[FromWorker], None], *, interruptible: bool = False
    ) -> None:
        self.runtime, self._words, self._send = runtime, control.words, send
        self._interruptible = interruptible  # on the caller's own thread
        self._functions: dict[int, Bound] = {}
        self._plans: dict[int, Plan] = {}
        self._measured: dict[int, Measured] = {}
        self.terminated = False
        self._interrupt: BaseException | None = None
        self._failed_run = -1  # of which no further item is to start

    def terminate(self) -> None:
        """Start no further item."""
        self.terminated = True

    def load(self, message: Load) -> None:
        """Learn a function; one that cannot be loaded fails the items that need it."""
        try:
            plan = message.plan if message.blob is None else load_function(message.blob, message.name)[1]
            self._functions[message.function] = self.runtime.bind(plan)
            self._plans[message.function] = plan
            if plan.steps:
                self._measured[message.function] = self.runtime.bind_measured(plan)
        except Exception as error:  # noqa: BLE001 - whatever a user's module raises when it is imported
            self._functions[message.function] = _failing(error, message.name)

    def forget(self, message: Forget) -> None:
        """Let go of a function; the shared dependencies that it used stay."""
        for known in (self._functions, self._plans, self._measured):
            known.pop(message.function, None)

    def warm(self, message: Warm) -> None:
        """Build shared dependencies ahead of the first item, and say whether that went well."""
        try:
            for function in message.functions:
                if function not in self._plans:
                    raise self._functions[function](None, 0, 1).error  # noqa: TRY301 - it goes where the others go
                self.runtime.warm(self._plans[function])
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller
            self._send(Ready(error))
        else:
            self._send(Ready())

    def run(self, chunk: Chunk) -> None:
        """Run the items of a chunk up to its bound and send their outcomes.

        The clock is read after each item, the bound only when ``LOOK_SECONDS`` have passed: before each item that
        follows a slow one, now and then among fast ones.
        """
        clock, copy_context, words = time.perf_counter, contextvars.copy_context, self._words
        call, plain, measured = self._calls(chunk)
        slot, start, attempt, timed = chunk.slot, chunk.start, chunk.attempt, chunk.timed
        now = clock()
        block, look_at = Block(chunk, 0, now), now
        for offset, item in enumerate(chunk.items if chunk.run != self._failed_run else ()):
            if now >= look_at:
                if words[2 * slot] <= offset or self.terminated:
                    break
                look_at = now + LOOK_SECONDS
                if now - block.began > FLUSH_SECONDS:
                    self._send(block.results(now, done=False))
                    block = Block(chunk, offset, now)
            words[2 * slot + 1] = offset + 1
            outcome = copy_context().run(call, item, start + offset, attempt)
            call = plain
            now = clock()
            if timed:
                block.time(now)
            if type(outcome) is not ItemFailed:
                block.values.append(outcome)
            elif self._fail(block, outcome, start + offset, chunk):
                break
        sampled = () if measured is None else measured.take()
        self._send(block.results(now, done=True)._replace(sampled=sampled))
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt

    def _calls(self, chunk: Chunk) -> tuple[Bound, Bound, Measured | None]:
        """Give what runs the first item of a chunk, what runs the others, and what measures the first."""
        plain, measured = self._functions[chunk.function], self._measured.get(chunk.function)
        if Unsendable in set(map(type, chunk.items)):
            guarded = _guarded(plain)
            return guarded, guarded, None
        return (plain if measured is None else measured.call), plain, measured

    def _fail(self, block: Block, failed: ItemFailed, index: int, chunk: Chunk) -> bool:
        """Note a failure; give whether the chunk ends with it."""
        if self._interruptible and is_interrupt(failed.error):
            self._interrupt = failed.error
        elif isinstance(failed.error, Terminated):  # the end of a worker process, which is not the caller's
            failed = self._lost(failed.error, index)
        block.fail(failed)
        if chunk.stop_on_failure:
            self._failed_run = chunk.run
        return chunk.stop_on_failure or self.terminated or self._interrupt is not None

    def _lost(self, end: Terminated, index: int) -> ItemFailed:
        error = WorkerLostError(self.runtime.worker.worker_id, -signal.SIGTERM, index)
        error.__cause__ = end
        return ItemFailed(error, "lost", None)


class Block:
    """Outcomes of consecutive items that have not been sent yet."""

    __slots__ = ("_chunk", "_each", "_failures", "_last", "_offset", "began", "values")

    def __init__(self, chunk: Chunk, offset: int, now: float) -> None:
        self._chunk, self._offset, self.began, self._last = chunk, offset, now, now
        self.values: list[Any] = []
        self._failures: list[Failed] = []
        self._each: list[float] = []

    def fail(self, failed: ItemFailed) -> None:
        """Add the failure of an item."""
        text = remote_errors.traceback_text(failed.error)
        self._failures.append(Failed(len(self.values), failed.error, text, failed.phase, failed.provider))
        self.values.append(None)

    def time(self, now: float) -> None:
        """Note how long the newest item took."""
        self._each.append(now - self._last)
        self._last = now

    def results(self, now: float, *, done: bool) -> Results:
        """Make the message."""
        chunk, each = self._chunk, tuple(self._each)
        start = chunk.start + self._offset
        return Results(chunk.id, start, self.values, tuple(self._failures), now - self.began, each, done)


def _guarded(call: Bound) -> Bound:
    def guarded(item: Any, index: int, attempt: int) -> Any:
        if type(item) is Unsendable:
            return ItemFailed(item.error, "transport", None)
        return call(item, index, attempt)

    return guarded


def _failing(error: Exception, name: str) -> Bound:
    if not isinstance(error, TransportError):
        error = TransportError(f"function {name!r}", f"{type(error).__name__}: {error}")

    def fail(_item: object, _index: int, _attempt: int) -> ItemFailed:
        return ItemFailed(error, "transport", None)

    return fail
