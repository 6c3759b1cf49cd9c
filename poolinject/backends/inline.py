"""``backend="inline"``: items run on the thread that waits for their outcomes. For debugging and for tests."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Literal

from poolinject._injection.async_backends import local_loop
from poolinject._injection.runtime import Runtime
from poolinject._transport.messages import Chunk, FromWorker, Ready, Stop, Stopped, ToWorker
from poolinject._worker.control import private_control
from poolinject._worker.runner import Runner
from poolinject.backends.base import Backend, Capabilities, Gone
from poolinject.backends.membership import inside
from poolinject.markers import AsyncBackend, WorkerContext

if TYPE_CHECKING:
    from collections.abc import Sequence


class InlineBackend(Backend):
    """One worker, however many are asked for: the caller's own thread."""

    capabilities = Capabilities(shares_memory=True, runs_in_caller=True)

    def start(
        self,
        pool_name: str,
        workers: int,  # noqa: ARG002 - there is one
        preload: Sequence[str],  # noqa: ARG002 - nothing to import
        async_backend: AsyncBackend,
    ) -> int:
        """Make the runner."""
        self._inbox: deque[ToWorker] = deque()
        self._outbox: deque[tuple[int, FromWorker | Gone]] = deque()
        self._control = private_control()
        self._is_stopping = False
        runtime = Runtime(WorkerContext(0, 0, pool_name), local_loop(async_backend, pool_name))
        self._runner = Runner(runtime, self._control, self._send_back, interruptible=True)
        self._send_back(Ready())
        return 1

    def _send_back(self, message: FromWorker | Gone) -> None:
        self._outbox.append((0, message))
        if self._runner.has_tasks:
            self._runner.runtime.loop.nudge()

    def send(self, worker_id: int, message: ToWorker) -> int:  # noqa: ARG002 - there is one
        """Put the message in the queue."""
        if isinstance(message, Chunk):
            self._control.prepare(message.slot, message.start, len(message.items))
        self._is_stopping |= isinstance(message, Stop)
        self._inbox.append(message)
        return 0

    def receive(self, timeout: float | None) -> list[tuple[int, FromWorker | Gone]]:  # noqa: ARG002 - never waits
        """Do the work of messages until there is something to tell."""
        while self._inbox and not self._outbox:
            self._follow(self._inbox.popleft())
            if not self._runner.has_tasks:
                break
        if not (self._outbox or self._runner.is_at_rest):
            with inside(self):
                if self._runner.has_tasks:
                    self._runner.turn(lambda: bool(self._outbox))
                self._runner.go_on()
        messages = []
        while self._outbox:
            messages.append(self._outbox.popleft())
        return messages

    def _follow(self, message: ToWorker) -> None:
        with inside(self):
            if not isinstance(message, Stop):
                self._runner.follow(message)
                return
            self._runner.finish()
            failures = self._runner.runtime.close()
            self._send_back(Stopped(tuple((failure.provider, failure.error) for failure in failures)))
            self._send_back(Gone(0, {}))

    def wake(self) -> None:
        """Nothing waits."""

    def take_back(self, worker_id: int, slot: int, keep: int) -> None:  # noqa: ARG002 - there is one
        """Lower the bound of the chunk; it may be running right now, further up on this thread."""
        self._control.take_back(slot, keep)
        self._runner.look()

    def is_opened(self, worker_id: int, slot: int) -> bool:  # noqa: ARG002 - there is one
        """Look into the control block."""
        return self._control.is_opened(slot)

    def replace(self, worker_id: int) -> bool:
        """Refuse: the caller's thread cannot end."""
        raise AssertionError(worker_id)

    def end(self, worker_id: int, how: Literal["terminate", "kill"]) -> None:  # noqa: ARG002
        """Have it close what is open, unless it has been told to: the caller's thread cannot be ended."""
        if not self._is_stopping:
            self.send(worker_id, Stop())

    def close(self) -> None:
        """Release the control block."""
        self._control.close()

    def pid(self, worker_id: int) -> int:  # noqa: ARG002 - there is one
        """Give this process."""
        return os.getpid()

    def generation(self, worker_id: int) -> int:  # noqa: ARG002 - there is one
        """Give 0."""
        return 0
