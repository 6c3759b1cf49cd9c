"""Runs chunks in a worker: one item after the other, each in its own scope and its own copy of the context."""

from __future__ import annotations

import contextvars
import itertools
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from poolinject._injection.generators import Failed as ItemFailed
from poolinject._transport.codec import DamagedBatch, Unsendable
from poolinject._transport.functions import load_function
from poolinject._transport.messages import Cancel, Chunk, Forget, FromWorker, Limit, Load, Ready, Returned, Warm
from poolinject._worker.beside import ItemTasks, TaskCalls
from poolinject._worker.control import COUNTED, UNCOUNTED
from poolinject._worker.lifecycle import is_interrupt, is_terminated
from poolinject._worker.memory import MemoryWatch
from poolinject._worker.outcomes import Objects, Packed, Primitives, Work
from poolinject._worker.recording import BULK_SHARE, SHARE, Conduct, seconds_to_record
from poolinject._worker.timeouts import Clock, TimedItems
from poolinject.errors import TransportError, WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from poolinject._injection.plan import Plan
    from poolinject._injection.runtime import Loop, Measured, Runtime
    from poolinject._transport.messages import ToWorker
    from poolinject._transport.payloads import Arena
    from poolinject._worker.control import Control
    from poolinject._worker.journal import Journal

QUICK_SECONDS = 1e-5  # for an item; slower ones heed the bound by themselves, and are recorded one by one


@dataclass(slots=True)
class Loaded:
    """A function that the worker knows; ``error`` tells why one could not be loaded."""

    loop: Loop
    plan: Plan | None = None
    bulk: Loop | None = None
    measured: Measured | None = None
    tasks: TaskCalls | None = None
    error: Exception | None = None
    has_objects: bool = False  # results that must be pickled one by one
    seconds: float = 0.0  # that an item of the newest chunk took
    conduct: Conduct = field(default_factory=Conduct)


class Runner:
    """The functions that one worker knows, and the loop over the items of a chunk.

    One thread calls the methods, save that any thread may ``look`` and ``terminate`` meanwhile.
    """

    def __init__(
        self,
        runtime: Runtime,
        control: Control,
        send: Callable[[FromWorker], None],
        *,
        pickles: bool = False,
        arena: Arena | None = None,
        journal: Journal | None = None,
        interruptible: bool = False,
        wake: Callable[[], None] | None = None,
        at_rest: Callable[[], None] | None = None,
    ) -> None:
        self.runtime, self._words, self._send = runtime, control.words, send
        self._pickles, self._arena = pickles, arena  # the results are on their way to another process
        self._journal = journal
        self._recording = 0.0 if journal is None else seconds_to_record(journal)
        self._quick = QUICK_SECONDS if journal is None else min(self._recording / SHARE, QUICK_SECONDS)
        self._bulk = BULK_SHARE * self._quick
        self._interruptible = interruptible  # on the caller's own thread
        self._wake = wake  # whoever looks in; once there is something to see, or it might fall asleep meanwhile
        self._functions: dict[int, Loaded] = {}
        self._tasks = ItemTasks(runtime, control.words, send, pickles=pickles, arena=arena, at_rest=at_rest)
        self._held: deque[ToWorker] = deque()  # messages that have to wait for the tasks to end
        self._work: Work | None = None
        self._clock: Clock | None = None  # of items with a time limit
        self._memory: MemoryWatch | None = None
        self._sending = threading.Lock()
        self._interrupt: BaseException | None = None
        self._failed_run = -1  # of which no further item is to start
        self.terminated = False

    def follow(self, message: ToWorker) -> None:
        """Do what a message says; one that needs the thread alone waits until the tasks have ended."""
        if isinstance(message, Cancel):
            self._tasks.cancel(message.run)
        elif self._held or self._has_to_wait(message):
            self._held.append(message)
        else:
            self._do(message)

    def go_on(self) -> None:
        """Do what has waited for the tasks to end."""
        while self._held and not self._has_to_wait(self._held[0]):
            self._do(self._held.popleft())

    def finish(self) -> None:
        """Do everything that waits, and let the tasks end."""
        while self._held:
            self._tasks.drain()
            self.go_on()
        self._tasks.drain()

    def turn(self, is_over: Callable[[], bool]) -> None:
        """Let the tasks go on, on the caller's own thread; what interrupts that cancels them all.

        Raises:
            BaseException: The interrupt, once every scope is closed.
        """
        try:
            self.runtime.loop.wait_until(lambda: is_over() or self._tasks.interrupt is not None)
        except BaseException as error:  # noqa: BLE001 - raised below
            self._tasks.interrupt = error
        interrupt, self._tasks.interrupt = self._tasks.interrupt, None
        if interrupt is not None:
            self._tasks.cancel()
            self.finish()
            raise interrupt

    @property
    def has_tasks(self) -> bool:
        """Whether items run beside each other now; they go on while somebody waits in the loop."""
        return self._tasks.is_active

    @property
    def is_at_rest(self) -> bool:
        """Whether no item runs and no message waits for the tasks to end."""
        return not (self._tasks.is_active or self._held)

    def _has_to_wait(self, message: ToWorker) -> bool:
        is_alone = isinstance(message, Warm) or (isinstance(message, Chunk) and not self._runs_beside(message))
        return is_alone and self._tasks.is_active

    def _runs_beside(self, chunk: Chunk) -> bool:
        return chunk.concurrency > 1 and self._functions[chunk.function].plan is not None

    def _do(self, message: ToWorker) -> None:
        match message:
            case Chunk():
                if self._runs_beside(message):
                    self._start(message)
                else:
                    self.run(message)
            case Load():
                self.load(message)
            case Forget():
                self.forget(message)
            case Warm():
                self.warm(message)
            case Limit():
                self.limit(message)

    def _start(self, chunk: Chunk) -> None:
        """Start an item beside others."""
        function = self._functions[chunk.function]
        if function.tasks is None and function.plan is not None:
            plan = function.plan
            measured = self.runtime.bind_measured_task(plan) if plan.steps else None
            function.tasks = TaskCalls(self.runtime.bind_task(plan), measured)
        assert function.tasks is not None  # noqa: S101 - ``_runs_beside`` has looked
        self._tasks.add(chunk, function.tasks)
        if self._wake is not None:
            self._wake()

    def terminate(self) -> None:
        """Start no further item."""
        self.terminated = True
        self._tasks.terminate()
        if self._work is not None:
            self._work.stop()

    def load(self, message: Load) -> None:
        """Learn a function; one that cannot be loaded fails the items that need it."""
        try:
            plan = message.plan if message.blob is None else load_function(message.blob, message.name)[1]
            loaded = Loaded(self.runtime.bind_loop(plan), plan, self.runtime.bind_bulk(plan))
            if plan.steps:
                loaded.measured = self.runtime.bind_measured(plan)
        except Exception as error:  # noqa: BLE001 - whatever a user's module raises when it is imported
            if not isinstance(error, TransportError):
                error = TransportError(f"function {message.name!r}", f"{type(error).__name__}: {error}")
            loaded = Loaded(_failing(error), error=error)
        self._functions[message.function] = loaded

    def forget(self, message: Forget) -> None:
        """Let go of a function; the shared dependencies that it used stay."""
        function = self._functions.pop(message.function, None)
        if function is not None and function.tasks is not None:
            self._tasks.forget(message.function)

    def warm(self, message: Warm) -> None:
        """Build shared dependencies ahead of the first item, and say whether that went well."""
        try:
            for function in map(self._functions.__getitem__, message.functions):
                if function.error is not None:
                    raise function.error  # noqa: TRY301 - it goes where the others go
                if function.plan is not None:
                    self.runtime.warm(function.plan)
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller
            self._send(Ready(error))
        else:
            self._send(Ready())

    def limit(self, message: Limit) -> None:
        """Watch the memory from now on."""
        self._memory = self._tasks.memory = MemoryWatch(message.memory, self._tasks.send)

    def run(self, chunk: Chunk) -> None:
        """Run the items of a chunk up to its bound and send their outcomes."""
        function, began = self._functions[chunk.function], time.perf_counter()
        function.conduct.begin()
        loop, work = self._open(function, chunk)
        if chunk.run == self._failed_run:
            work.stop()
        if chunk.timeout:
            self._start_clock(chunk.timeout)
        if function.measured is not None:
            measured = function.measured.loop
            self._go(_guarded(measured) if isinstance(chunk.items, DamagedBatch) else measured, work, most=1)
        self._go(loop, work)
        while work.resume(self._arena):
            self._send_all()
            self._go(loop, work)
        function.conduct.end(work.done, self._recording if work.is_recorded else 0.0)
        function.has_objects |= work.has_objects
        self._send_rest(function, work)
        if work.done:
            function.seconds = (time.perf_counter() - began) / work.done
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt

    def _send_rest(self, function: Loaded, work: Work) -> None:
        """Send what has not been sent; not in ``run``, whose frame an error refers to: each would keep the other."""
        with self._sending:
            self._work = None
            sampled = () if function.measured is None else function.measured.take()
            self._send(work.results(done=True, sampled=sampled))

    def _open(self, function: Loaded, chunk: Chunk) -> tuple[Loop, Work]:
        """Come to a chunk."""
        loop, counts = self._loop(function, chunk)
        is_quick = not chunk.timeout and function.conduct.is_quicker_than(self._quick)  # it covers the pickling of each
        make = Work if self._memory is None else self._memory.work
        work = self._work = make(
            chunk,
            self._store(function, is_quick=is_quick),
            self._words,
            self._journal,
            self._send_all,
            seconds=function.seconds,
            is_quick=is_quick,
            counts=counts,
        )
        self._words[3 * chunk.slot + 2] = COUNTED if counts else UNCOUNTED  # opened: the bound is read after this
        if self._wake is not None:
            self._wake()
        self.look()
        return loop, work

    def _start_clock(self, timeout: float) -> None:
        if self._clock is None:
            self._clock = Clock(self._words, self.runtime.loop)
        self._clock.prepare(timeout)

    def _store(self, function: Loaded, *, is_quick: bool) -> Objects | Packed:
        if not self._pickles:
            return Objects()
        return Primitives() if is_quick and not function.has_objects else Packed(self._arena)

    def _loop(self, function: Loaded, chunk: Chunk) -> tuple[Loop, bool]:
        """Choose the loop for a chunk; tell whether it counts."""
        damaged = isinstance(chunk.items, DamagedBatch)
        if function.bulk is not None and not (chunk.exact or damaged) and function.conduct.is_quicker_than(self._bulk):
            return function.bulk, False
        return _guarded(function.loop) if damaged else function.loop, True

    def _go(self, loop: Loop, work: Work, most: int | None = None) -> None:
        """Go through the items, with a fresh copy of the context for each that changed the one before."""
        chunk, words, fail = work.chunk, self._words, self._fail
        kept: list[Any] | Work | TimedItems = work.kept
        numbered: Iterable[Any] = work.numbered if most is None else itertools.islice(work.numbered, most)
        if chunk.timeout and self._clock is not None:
            timed = TimedItems(self._clock, numbered, work, fail)
            numbered, kept, fail = iter(timed), timed, timed.fail
        again: bool | None = True
        while again:
            context = contextvars.copy_context()
            try:
                again = context.run(
                    loop, numbered, chunk.attempt, words, 3 * chunk.slot + 1, kept, fail, context, context.copy()
                )
            except Exception:  # noqa: BLE001, S112 - raised by a changed value that refuses to be compared
                continue
            except BaseException as interrupt:
                if not self._interruptible:
                    raise
                self._interrupt = interrupt  # between two items
                work.stop()
                again = False

    def _fail(self, failed: ItemFailed) -> bool:
        """Note a failure; give whether the chunk ends with it."""
        work = self._work
        assert work is not None  # noqa: S101 - tells mypy
        if self._interruptible and is_interrupt(failed.error):
            self._interrupt = failed.error
        elif is_terminated(failed.error):  # the end of a worker process, which is not the caller's
            error = WorkerLostError(self.runtime.worker.worker_id, -signal.SIGTERM, work.chunk.start + work.done)
            error.__cause__ = failed.error
            failed = ItemFailed(error, "lost", None)
        work.fail(failed)
        if work.chunk.stop_on_failure:
            self._failed_run = work.chunk.run
        ends = work.chunk.stop_on_failure or self.terminated or self._interrupt is not None
        if ends:
            work.stop()
        return ends

    def look(self) -> bool:
        """Heed the bound of the chunk in progress and send what is due; give whether there is a chunk."""
        work = self._work
        if work is None:
            return self._tasks.is_active
        if self._clock is not None:
            self._clock.look()
        if self.terminated:
            work.stop()
        work.heed_bound()
        if self._sending.acquire(blocking=False):
            try:
                if work is self._work:
                    self._send_part(work)
            finally:
                self._sending.release()
        return True

    def _send_part(self, work: Work) -> None:
        if work.owes_answer:
            work.owes_answer = False
            self._send(Returned(work.chunk.id, work.kept_items))
        if work.is_due(time.perf_counter()):
            self._send(work.results(done=False))
        else:
            work.record()

    def _send_all(self) -> None:
        """Send the packed outcomes that there are."""
        if self._clock is not None:
            self._clock.settle()  # the item is not to answer for a caller who is slow to read
        with self._sending:
            results = None if self._work is None else self._work.results(done=False)
            if results is not None and results.size:
                self._send(results)


def _guarded(loop: Loop) -> Loop:
    """Make a loop that fails the items which did not arrive."""

    def guarded(numbered: Iterable[tuple[int, Any]], attempt: int, begun: Any, place: int, *rest: Any) -> bool | None:
        kept, fail, *contexts = rest
        for number, item in numbered:
            if type(item) is Unsendable:
                begun[place] = number
                ended = False if fail(ItemFailed(item.error, "transport", None)) else None
            else:
                ended = loop([(number, item)], attempt, begun, place, kept, fail, *contexts)
            if ended is not None:
                return ended
        return None

    return guarded


def _failing(error: Exception) -> Loop:
    """Make a loop that fails every item."""

    def fail_each(
        numbered: Iterable[tuple[int, Any]], _attempt: int, begun: Any, place: int, _kept: Any, fail: Any, *_: Any
    ) -> bool | None:
        for begun[place], _item in numbered:
            if fail(ItemFailed(error, "transport", None)):
                return False
        return None

    return fail_each
