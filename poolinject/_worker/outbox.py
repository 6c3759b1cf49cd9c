"""Messages of a worker process on their way to the caller, several in one system call."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from poolinject._transport import wire
from poolinject._transport.messages import Results

if TYPE_CHECKING:
    import socket

    from poolinject._transport.messages import FromWorker
    from poolinject._transport.picklers import Buffer
    from poolinject._worker.copies import Original
    from poolinject._worker.journal import Journal

GATHER_SECONDS = 0.001  # a message waits no longer than this for others, while the worker has more to do
GATHER_SIZE = 1 << 16  # bytes that are sent at once


class Outbox:
    """Gathers messages until ``write``, or until the last one was sent a while ago; any thread may use it.

    With a journal the outcomes among them outlive the worker meanwhile.
    """

    def __init__(self, connection: socket.socket, original: Original) -> None:
        self._connection, self._original = connection, original
        self.journal: Journal | None = None
        self._mark = 0  # before it the journal has nothing that is not in the buffers
        self._buffers: list[Buffer] = []
        self._size = 0
        self._written_at = 0.0
        self._lock = threading.Lock()
        self._main = threading.get_ident()
        self._is_main_writing = False
        self._interrupt: BaseException | None = None

    def put(self, message: FromWorker) -> None:
        """Add a message."""
        self._original.end_copy()
        buffers = wire.encode_from_worker(message)
        with self._lock:
            self._buffers += buffers
            self._size += sum(map(len, buffers))
            if self.journal is not None and isinstance(message, Results):
                self._mark = message.mark or self._recorded(self.journal, buffers)
        if self._size > GATHER_SIZE or time.perf_counter() - self._written_at > GATHER_SECONDS:
            self.write()

    def _recorded(self, journal: Journal, buffers: list[Buffer]) -> int:
        """Record a message; one for which there is no room is sent at once, because it is so large."""
        journal.add(b"".join(buffers))
        return journal.mark

    def write(self, *, wait: bool = True) -> bool:
        """Send everything; give whether there was anything. Without *wait* it is left to a thread that is at it."""
        if threading.get_ident() != self._main:
            return self._write(wait=wait)
        self._is_main_writing = True
        try:
            return self._write(wait=wait)
        finally:
            self._is_main_writing = False
            interrupt, self._interrupt = self._interrupt, None
            if interrupt is not None:
                raise interrupt

    def _write(self, *, wait: bool) -> bool:
        if not self._buffers or not self._lock.acquire(blocking=wait):
            return bool(self._buffers)
        try:
            buffers, self._buffers, self._size = self._buffers, [], 0
            self._written_at = time.perf_counter()
            self._connection.sendall(b"".join(buffers) if len(buffers) > 1 else buffers[0])
            if self.journal is not None:
                self.journal.sent(self._mark)
        finally:
            self._lock.release()
        return True

    def interrupt(self, error: BaseException) -> None:
        """Raise an error on the main thread, once it is not in the middle of a message; for a signal handler.

        Raises:
            BaseException: The error, at once, if the main thread writes nothing.
        """
        if not self._is_main_writing:
            raise error
        self._interrupt = error
