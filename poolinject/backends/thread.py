"""``backend="thread"``: workers are threads of the caller; a ``pool`` dependency is shared by all of them."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Literal

from poolinject._injection.async_backends import shared_loop
from poolinject._injection.runtime import Runtime
from poolinject._injection.scopes import SharedScope
from poolinject._transport.messages import Chunk, FromWorker, Ready, Stop, Stopped, ToWorker
from poolinject._transport.waker import Waker
from poolinject._worker.control import private_control
from poolinject._worker.monitor import Monitor
from poolinject._worker.runner import Runner
from poolinject.backends.base import Backend, Capabilities, Gone
from poolinject.backends.membership import inside
from poolinject.markers import AsyncBackend, WorkerContext

if TYPE_CHECKING:
    from collections.abc import Sequence


JOIN_SECONDS = 5.0  # for a thread that has said that it is done


class ThreadBackend(Backend):
    """Worker threads, one event loop and one pool scope for all of them."""

    capabilities = Capabilities(shares_memory=True)

    def start(
        self,
        pool_name: str,
        workers: int,
        preload: Sequence[str],  # noqa: ARG002 - imported already
        async_backend: AsyncBackend,
    ) -> int:
        """Start the threads."""
        self._outbox: deque[tuple[int, FromWorker | Gone]] = deque()
        self._waker = Waker()
        self._loop = shared_loop(async_backend, pool_name)
        self._pool_scope = SharedScope("pool", self._loop.host(), WorkerContext(0, 0, pool_name))
        self._running, self._lock = workers, threading.Lock()
        self._done: list[threading.Thread] = []
        self._inboxes: list[queue.SimpleQueue[ToWorker | None]] = [queue.SimpleQueue() for _ in range(workers)]
        self._controls = [private_control() for _ in range(workers)]
        self._runners: list[Runner] = []
        self._monitor = Monitor(self._look, pool_name)
        self._threads = [
            threading.Thread(
                target=self._serve, args=(WorkerContext(worker_id, 0, pool_name),), daemon=True,
                name=f"{pool_name} worker {worker_id}",
            )
            for worker_id in range(workers)
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()
        return workers

    def _serve(self, worker: WorkerContext) -> None:
        worker_id = worker.worker_id

        def send_back(message: FromWorker | Gone) -> None:
            self._outbox.append((worker_id, message))
            self._waker.wake()

        with inside(self):
            runtime = Runtime(worker, self._loop, self._pool_scope)
            inbox, wake = self._inboxes[worker_id], self._monitor.wake
            runner = Runner(runtime, self._controls[worker_id], send_back, wake=wake, at_rest=lambda: inbox.put(None))
            self._runners.append(runner)
            send_back(Ready())
            try:
                while self._follow(runner, inbox.get()):
                    pass
            except BaseException as error:  # noqa: BLE001 - nobody may wait for a worker that is gone
                send_back(Ready(error))
            send_back(self._stop(runner))
            self._done.append(threading.current_thread())
            send_back(Gone(0, {}))

    @staticmethod
    def _follow(runner: Runner, message: ToWorker | None) -> bool:
        """Do what a message says, and let go of it; give whether there will be another one."""
        if message is None:
            runner.go_on()
        elif isinstance(message, Stop):
            runner.finish()
            return False
        else:
            runner.follow(message)
        return True

    def _look(self) -> float:
        return min(filter(None, [runner.look() for runner in self._runners]), default=0.0)

    def _stop(self, runner: Runner) -> Stopped:
        failures = runner.runtime.close()
        with self._lock:
            self._running -= 1
            last = self._running == 0
        if last:  # nothing can use the pool scope any more
            failures += self._pool_scope.close()
            self._loop.close()
        return Stopped(tuple((failure.provider, failure.error) for failure in failures))

    def send(self, worker_id: int, message: ToWorker) -> int:
        """Put the message in the worker's queue."""
        if isinstance(message, Chunk):
            self._controls[worker_id].prepare(message.slot, message.start, len(message.items))
        self._inboxes[worker_id].put(message)
        return 0

    def receive(self, timeout: float | None) -> list[tuple[int, FromWorker | Gone]]:
        """Wait for the first message and take all that are there."""
        if not self._outbox:
            self._waker.wait(timeout)
        messages = []
        while self._outbox:
            messages.append(self._outbox.popleft())
        return messages

    def wake(self) -> None:
        """End the wait."""
        self._waker.wake()

    def take_back(self, worker_id: int, slot: int, keep: int) -> None:
        """Lower the bound of the chunk."""
        self._controls[worker_id].take_back(slot, keep)

    def is_opened(self, worker_id: int, slot: int) -> bool:
        """Look into the control block."""
        return self._controls[worker_id].is_opened(slot)

    def replace(self, worker_id: int) -> bool:
        """Refuse: a worker thread ends only when it is told to."""
        raise AssertionError(worker_id)

    def end(self, worker_id: int, how: Literal["terminate", "kill"]) -> None:
        """Have a thread stop after its item, since nothing can end it from outside."""
        if how == "kill":
            self._inboxes[worker_id].put(Stop())

    def close(self) -> None:
        """Join the threads that have said that they are done."""
        self._monitor.end(JOIN_SECONDS)
        for thread in self._done:
            thread.join(JOIN_SECONDS)
        self._waker.close()

    def pid(self, worker_id: int) -> int:  # noqa: ARG002 - all are in this process
        """Give this process."""
        return os.getpid()

    def generation(self, worker_id: int) -> int:  # noqa: ARG002 - threads are not replaced
        """Give 0."""
        return 0
