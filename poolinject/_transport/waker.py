"""Wakes the thread that waits for messages, from any thread and from a signal handler.

A queue with a timeout will not do: ``queue.SimpleQueue.get(timeout=...)`` may wait for ever where the time runs out
while it is being woken (CPython 3.11), and the other queues and events must not be used in a signal handler.
"""

from __future__ import annotations

import math
import select

from poolinject._transport.private_files import close_private, private_socketpair


class Waker:
    """One end of a socket to wait for, the other to write a byte to."""

    def __init__(self) -> None:
        self._woken, self._waker = private_socketpair()
        self._woken.settimeout(0)
        self._waker.settimeout(0)
        self._poll = select.poll()  # select() knows no file beyond its 1,024th
        self._poll.register(self._woken, select.POLLIN)
        self._is_awake = False

    def fileno(self) -> int:
        """Give what a selector waits for."""
        return self._woken.fileno()

    def wake(self) -> None:
        """End the wait, or the next one."""
        if self._is_awake:
            return
        self._is_awake = True
        try:
            self._waker.send(b"\0")
        except OSError:  # full: it is awake; closed: nobody waits
            return

    def clear(self) -> None:
        """Begin anew; whoever waits looks for what has come only after this."""
        try:
            while len(self._woken.recv(4096)) == 4096:  # noqa: PLR2004 - the size just asked for
                pass
        except BlockingIOError:
            pass
        self._is_awake = False

    def wait(self, timeout: float | None) -> None:
        """Wait, at most *timeout* seconds; one thread at a time."""
        if self._poll.poll(None if timeout is None else math.ceil(timeout * 1000)):
            self.clear()

    def close(self) -> None:
        """Close both ends."""
        close_private(self._woken, self._waker)
