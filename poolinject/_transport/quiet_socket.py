"""Sockets whose other end may be gone. Runs in the caller and in workers.

A command-line tool often gives SIGPIPE its default, which ends the whole program where it writes to a closed pipe or
socket. The death of a worker, which is an error like others here, must not do that to the caller.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from typing import Any

_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)
_SO_NOSIGPIPE = 0x1022  # of macOS, which Python does not name


class QuietSocket(socket.socket):
    """A socket that raises ``BrokenPipeError`` where others would let SIGPIPE end the process, too."""

    def __init__(self, fileno: int) -> None:
        """Take a file over."""
        super().__init__(fileno=fileno)
        if sys.platform == "darwin":
            self.setsockopt(socket.SOL_SOCKET, _SO_NOSIGPIPE, 1)

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send some of it."""
        return super().send(data, flags | _FLAGS)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all of it."""
        super().sendall(data, flags | _FLAGS)

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """Send some of it, perhaps with files."""
        return super().sendmsg(buffers, ancdata, flags | _FLAGS, address)
