"""Runs chunks in a worker: one item after the other, each in its own scope and its own copy of the context."""

from __future__ import annotations

import contextvars
import time
from typing import TYPE_CHECKING, Any

from poolinject._injection.generators import Failed as ItemFailed
from poolinject._transport import remote_errors
from poolinject._transport.codec import Unsendable
from poolinject._transport.functions import load_function
from poolinject._transport.messages import Chunk, Failed, FromWorker, Load, Ready, Results, Warm
from poolinject._transport.wire import guard
from poolinject._worker.lifecycle import is_interrupt
from poolinject.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._injection.plan import Plan
    from poolinject._injection.runtime import Bound, Runtime
    from poolinject._worker.control import Control

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
        self._terminated = False

    def terminate(self) -> None:
        """Start no further item."""
        self._terminated = True

    def load(self, message: Load) -> None:
        """Learn a function; one that cannot be loaded fails the items that need it."""
        try:
            plan = message.plan if message.blob is None else load_function(message.blob, message.name)[1]
            self._functions[message.function] = self.runtime.bind(plan)
            self._plans[message.function] = plan
        except Exception as error:  # noqa: BLE001 - whatever a user's module raises when it is imported
            self._functions[message.function] = _failing(error, message.name)

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
        """Run the items of a chunk up to its bound and send their outcomes."""
        call, words = self._functions[chunk.function], self._words
        bound_word = 2 * chunk.slot
        started_word = bound_word + 1
        copy_context, clock = contextvars.copy_context, time.perf_counter
        block = Block(chunk, 0, clock())
        offset = 0
        for item in chunk.items:
            if words[bound_word] <= offset or self._terminated:
                break
            words[started_word] = offset + 1
            if type(item) is Unsendable:
                outcome: Any = ItemFailed(item.error, "transport", None)
            else:
                outcome = copy_context().run(call, item, chunk.start + offset, chunk.attempt)
            offset += 1
            if type(outcome) is ItemFailed:
                block.fail(outcome)
                if self._interruptible and is_interrupt(outcome.error):
                    self._send(block.results(clock(), done=True))
                    raise outcome.error
                if chunk.stop_on_failure:
                    break
            else:
                block.values.append(outcome)
            now = clock()
            if chunk.timed:
                block.time(now)
            if now - block.began > FLUSH_SECONDS and offset < len(chunk.items):
                self._send(block.results(now, done=False))
                block = Block(chunk, offset, now)
        self._send(block.results(clock(), done=True))


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
        return guard(Results(chunk.id, start, self.values, tuple(self._failures), now - self.began, each, done))


def _failing(error: Exception, name: str) -> Bound:
    if not isinstance(error, TransportError):
        error = TransportError(f"function {name!r}", f"{type(error).__name__}: {error}")

    def fail(_item: object, _index: int, _attempt: int) -> ItemFailed:
        return ItemFailed(error, "transport", None)

    return fail
