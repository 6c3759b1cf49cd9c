"""Follows what the caller's messages say in a worker: learns functions and hands chunks to what runs them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from poolinject._transport.functions import load_function
from poolinject._transport.messages import Cancel, Chunk, Forget, FromWorker, Limit, Load, Ready, Warm
from poolinject._worker.beside import ItemTasks, TaskCalls
from poolinject._worker.chunks import ChunkRunner, Loaded, failing
from poolinject._worker.copies import Original
from poolinject._worker.memory import MemoryWatch
from poolinject._worker.monitor import TICK_SECONDS
from poolinject.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._injection.runtime import Runtime
    from poolinject._transport.messages import ToWorker
    from poolinject._transport.payloads import Arena
    from poolinject._worker.control import Control
    from poolinject._worker.journal import Journal


class Runner:
    """The functions that one worker knows, and the order in which it does what it is told.

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
        original: Original | None = None,
    ) -> None:
        self.runtime, self._send = runtime, send
        self._wake = wake or _nobody  # whoever looks in; once there is something to see, or it might fall asleep
        self._functions: dict[int, Loaded] = {}
        self._original = original or Original()
        if interruptible:  # else the caller itself may fork, and go on
            self._original.is_at_work = self._is_at_work
        self._chunks = ChunkRunner(
            runtime,
            control,
            send,
            pickles=pickles,  # the results are on their way to another process
            arena=arena,
            journal=journal,
            interruptible=interruptible,  # on the caller's own thread
            wake=self._wake,
            original=self._original,
        )
        self._tasks = ItemTasks(
            runtime, control.words, send, self._original, pickles=pickles, arena=arena, at_rest=at_rest
        )
        self._held: deque[ToWorker] = deque()  # messages that have to wait for the tasks to end

    def follow(self, message: ToWorker) -> None:
        """Do what a message says; one that needs the thread alone waits until the tasks have ended."""
        self._original.end_copy()  # that has unpickled it
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

    def _is_at_work(self) -> bool:
        return self._chunks.is_at_work or self._tasks.is_active

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
        try:
            self._do_in_original(message)
        except BaseException as error:
            self._original.end_copy(error)
            raise
        self._original.end_copy()

    def _do_in_original(self, message: ToWorker) -> None:
        match message:
            case Chunk():
                if self._runs_beside(message):
                    self._start(message)
                else:
                    self._chunks.run(self._functions[message.function], message)
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
        self._wake()

    @property
    def terminated(self) -> bool:
        """Whether no further item starts."""
        return self._chunks.terminated

    def terminate(self) -> None:
        """Start no further item."""
        self._chunks.terminate()
        self._tasks.terminate()

    def look(self) -> float:
        """Heed what the caller wants of the chunk in progress, send what is due; give the seconds until the next look.

        0 where nothing runs.
        """
        return self._chunks.look() or (TICK_SECONDS if self._tasks.is_active else 0.0)

    def load(self, message: Load) -> None:
        """Learn a function; one that cannot be loaded fails the items that need it."""
        try:
            plan = message.plan if message.blob is None else load_function(message.blob, message.name)[1]
            conduct = self._chunks.new_conduct(plan)
            loaded = Loaded(self.runtime.bind_loop(plan), conduct, plan, self.runtime.bind_bulk(plan))
            if plan.steps:
                loaded.measured = self.runtime.bind_measured(plan)
        except Exception as error:  # noqa: BLE001 - whatever a user's module raises when it is imported
            self._original.end_copy(error)
            if not isinstance(error, TransportError):
                error = TransportError(f"function {message.name!r}", f"{type(error).__name__}: {error}")
            loaded = Loaded(failing(error), self._chunks.new_conduct(), error=error)
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
            self._original.end_copy(error)
            self._send(Ready(error))
        else:
            self._send(Ready())

    def limit(self, message: Limit) -> None:
        """Watch the memory from now on."""
        self._chunks.memory = self._tasks.memory = MemoryWatch(message.memory, self._tasks.send)


def _nobody() -> None:
    """Wake nobody."""
