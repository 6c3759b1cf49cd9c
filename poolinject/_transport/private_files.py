"""Files of callers and workers that no forked process may keep. The hook runs in what they fork.

A worker notices that its caller is gone by the end of its socket. A copy of the other end, in another worker or in a
process that the user's code forked, would hide that; a copy of the worker's own end could write into the stream.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Iterator

from poolinject._transport.quiet_socket import QuietSocket

FIRST_OTHER = 3  # number of a file that is none of the standard ones
_private_fds: set[int] = set()
_fork_lock = threading.Lock()


def register_private_fd(fd: int) -> None:
    """Keep this file out of every process forked from here.

    There the number then stands for ``/dev/null``, so that an object which still holds it can be closed without harm.
    """
    _private_fds.add(fd)


def unregister_private_fd(fd: int) -> None:
    """Undo `register_private_fd`; call it before closing, since the number may be used again at once."""
    _private_fds.discard(fd)


def private_socketpair() -> tuple[socket.socket, socket.socket]:
    """Make a registered pair of sockets; no worker forked at the same time can inherit it."""
    with _fork_lock:
        ours, theirs = (QuietSocket(beyond_stdio(end.detach())) for end in socket.socketpair())
        for end in (ours, theirs):
            register_private_fd(end.fileno())
    return ours, theirs


def beyond_stdio(fd: int) -> int:
    """Move a file that has the number of a standard one, which the program has closed: C code may still print there."""
    if fd >= FIRST_OTHER:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_OTHER)
    finally:
        os.close(fd)


def close_private(*ends: socket.socket) -> None:
    """Unregister and close; doing it twice is harmless."""
    for end in ends:
        unregister_private_fd(end.fileno())
        end.close()


@contextlib.contextmanager
def shared_with_fork(fd: int) -> Iterator[None]:
    """Let a process forked inside keep this one file; no other thread makes private files meanwhile."""
    with _fork_lock:
        was_private = fd in _private_fds
        unregister_private_fd(fd)
        try:
            yield
        finally:
            if was_private:
                register_private_fd(fd)


def _forget_in_forked_process() -> None:
    global _fork_lock  # noqa: PLW0603 - a thread that is not here may hold the old one
    _fork_lock = threading.Lock()
    fds = tuple(_private_fds)
    _private_fds.clear()
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR)
        for fd in fds:
            os.dup2(null, fd, inheritable=False)
        os.close(null)


os.register_at_fork(after_in_child=_forget_in_forked_process)
