"""The life of a worker process: set-up, messages until the end, every scope closed on the way out."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING

from poolinject._injection.async_backends import local_loop
from poolinject._injection.runtime import Runtime
from poolinject._transport import wire
from poolinject._transport.frames import FrameReader
from poolinject._transport.messages import Chunk, Ready, Setup, Stop, Stopped, ToWorker
from poolinject._transport.private_files import close_private, register_private_fd
from poolinject._transport.quiet_socket import QuietSocket
from poolinject._worker.control import map_arena, map_control, suspects
from poolinject._worker.copies import Original
from poolinject._worker.journal import Journal
from poolinject._worker.lifecycle import Terminated
from poolinject._worker.monitor import TICK_SECONDS, Monitor
from poolinject._worker.orphans import CallerWatch
from poolinject._worker.outbox import Outbox
from poolinject._worker.runner import Runner
from poolinject._worker.timeouts import with_deadlines
from poolinject.errors import BackendUnavailableError
from poolinject.markers import WorkerContext

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from poolinject._transport.codec import Mark

RECEIVE_SIZE = 1 << 18


def main(connection_fd: int) -> None:
    """Serve the caller at the other end of the socket until it says ``Stop`` or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the caller decides
    connection = QuietSocket(connection_fd)
    register_private_fd(connection_fd)  # what items fork has no business with it
    try:
        connection.settimeout(None)
        Worker(connection).serve()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # everything is closed: there is nothing left to interrupt
    finally:
        close_private(connection)


class Worker:
    """One worker process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames, self._received = FrameReader(), memoryview(bytearray(RECEIVE_SIZE))
        self._original = Original()
        self._outbox = Outbox(connection, self._original)
        self._runner: Runner | None = None
        self._monitor = Monitor(self._look, "poolinject")

    def serve(self) -> None:
        """Follow the caller's messages; whatever ends that, the scopes are closed."""
        answer = False
        try:
            self._watch = CallerWatch(self._connection, self._terminate, INTERRUPTIBLE)
            signal.signal(signal.SIGTERM, self._on_sigterm)
            for message in self._messages():
                if isinstance(message, Stop):
                    answer = True
                    break
                self._follow(message)
                del message  # or the items of a chunk would live until the next message comes
                if self._runner is not None and self._runner.terminated:  # in an item, whose end has been reported
                    break
        except (Terminated, ConnectionError):
            pass
        finally:
            self._close(answer=answer)

    def _on_sigterm(self, signum: int, frame: FrameType | None) -> None:
        error = Terminated(128 + signum)
        if not self._watch.caller_is_gone:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends a cleanup that hangs
        elif not self._watch.wants_interrupt(error, frame):
            return
        self._terminate()
        if self._runner is None or not self._runner.has_tasks:  # which have been told, on their loop
            self._outbox.interrupt(error)

    def _terminate(self) -> None:
        if self._runner is not None:
            self._runner.terminate()

    def _look(self) -> float:
        pause = 0.0
        try:
            if self._runner is not None:
                pause = self._runner.look()
            has_written = self._outbox.write(wait=False)
        except ConnectionError:  # the caller is gone: others see to that
            has_written = True
        return pause or (TICK_SECONDS if has_written else 0.0)

    def _messages(self) -> Iterator[ToWorker | Setup]:
        first, descriptors, _, _ = socket.recv_fds(self._connection, RECEIVE_SIZE, 3)
        if not descriptors:  # the caller was gone before it had said anything
            return
        self._control = map_control(descriptors[0])
        self._incoming, self._outgoing = map(map_arena, descriptors[1:])
        for descriptor in descriptors:
            os.close(descriptor)
        data = memoryview(first)
        while data:
            for kind, body in self._frames.feed(data):
                yield wire.decode_in_worker(kind, body, self._incoming, self._suspects)
            data = self._receive()

    def _suspects(self, chunk: Chunk) -> Mark:
        """Give where to say which item of a chunk is being unpickled; one that hangs there is over its limit, too."""
        words = self._control.words
        mark = suspects(words, chunk.slot, chunk.start)
        if not chunk.timeout or chunk.concurrency > 1:  # those have deadlines of their own
            return mark
        return mark._replace(numbers=with_deadlines(words, chunk.timeout, mark.numbers))

    def _receive(self) -> memoryview:
        """Take what has come; before waiting for more, send what has gathered."""
        with contextlib.suppress(BlockingIOError):
            return self._received[: self._connection.recv_into(self._received, 0, socket.MSG_DONTWAIT)]
        self._outbox.write()
        if self._runner is not None:
            self._turn(self._runner)
            if self._runner.terminated:
                return self._received[:0]
        return self._received[: self._connection.recv_into(self._received)]

    def _turn(self, runner: Runner) -> None:
        """Let the tasks go on until there is a message; do what had to wait for their end."""
        loop = runner.runtime.loop
        while not runner.is_at_rest:
            loop.wait_until(lambda: not runner.has_tasks, self._connection.fileno())
            if runner.has_tasks:
                return
            self._go_on(runner)
        self._outbox.write()
        if loop.has_own_tasks and not runner.terminated:
            loop.wait_until(lambda: runner.terminated, self._connection.fileno())

    def _follow(self, message: ToWorker | Setup) -> None:
        if isinstance(message, Setup):
            try:
                self._set_up(message)
            except BackendUnavailableError as error:
                self._outbox.put(Ready(error))
            else:
                self._outbox.put(Ready())
        elif self._runner is None:
            message_text = "a worker got work before its set-up"
            raise AssertionError(message_text)
        else:
            self._runner.follow(message)

    def _set_up(self, setup: Setup) -> None:
        worker = WorkerContext(setup.worker_id, setup.generation, setup.pool_name)
        journal = self._outbox.journal = Journal(self._control)
        send, arena, wake = self._outbox.put, self._outgoing, self._monitor.wake
        runtime = Runtime(worker, local_loop(setup.async_backend, setup.pool_name))
        runtime.pool_scope.on_open = runtime.worker_scope.on_open = self._control.hold
        self._runner = Runner(
            runtime,
            self._control,
            send,
            pickles=True,
            arena=arena,
            journal=journal,
            wake=wake,
            original=self._original,
        )

    def _go_on(self, runner: Runner) -> None:
        runner.go_on()

    def _close(self, *, answer: bool) -> None:
        if self._runner is None:
            return
        self._runner.finish()
        failures = self._runner.runtime.close()
        with contextlib.suppress(ConnectionError):  # the caller may be gone
            self._outbox.put(Stopped(tuple((failure.provider, failure.error) for failure in failures)))
            self._outbox.write()
        if not answer:
            with contextlib.suppress(OSError):  # as may be who reads this
                os.write(2, b"".join(f"poolinject: cleanup of {f.provider}: {f.error!r}\n".encode() for f in failures))


INTERRUPTIBLE = (Worker._follow.__code__, Worker._go_on.__code__, wire.decode_in_worker.__code__)  # noqa: SLF001 - of this module
