"""The handle of a started process, and the thread that reports the end of a child. Runs in the caller."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading

from poolinject._transport.private_files import close_private, register_private_fd, unregister_private_fd
from poolinject.backends._boot import RECORD, UNKNOWN, observe_exit, reap, send_record


class WorkerProcess:
    """A started process, seen from the caller.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, pid: int, status: socket.socket) -> None:
        status.settimeout(0)
        self.pid = pid
        self._owner = os.getpid()
        self._status = status
        self._code: int | None = None
        self._lock = threading.RLock()
        self._pidfd: int | None = None
        pidfd = _open_pidfd(pid)
        if self.poll() is None:  # the reporter tells the end before it frees the pid, so the pidfd is the right one
            self._pidfd = pidfd
        else:
            _close_pidfd(pidfd)

    def __repr__(self) -> str:
        return f"<WorkerProcess pid={self.pid} exit_code={self._code}>"

    @property
    def sentinel(self) -> int:
        """A file that is readable from the end of the process until `close`; -1 afterwards."""
        return self._status.fileno()

    def poll(self) -> int | None:
        """Give the exit code, negative for a signal, or ``None``; never blocks.

        `UNKNOWN` means that the reporter died first. A worker that outlives it is killed where that is
        possible without mistaking another process for it, since nobody could learn of its end.
        """
        with self._lock:
            if self._code is None and self._status.fileno() >= 0:
                self._code = self._read_exit_code()
            return self._code

    def wait(self, timeout: float) -> int | None:
        """Give the exit code, or ``None`` after so many seconds."""
        sentinel = self.sentinel
        if self.poll() is None and sentinel >= 0:
            poller = select.poll()
            poller.register(sentinel, select.POLLIN)
            poller.poll(max(timeout, 0.0) * 1000)
        return self.poll()

    def kill(self, signum: int) -> None:
        """Send a signal, unless the process has ended or this is a forked copy of the caller."""
        with self._lock:
            if self.poll() is None and self._status.fileno() >= 0 and os.getpid() == self._owner:
                self._send_signal(signum)

    def close(self) -> None:
        """Close the files of the handle; an end not seen yet stays unknown, and a fork server soon sees to it."""
        with self._lock:
            self.close_files()

    def _read_exit_code(self) -> int | None:
        """Look at the report without taking it, so that the sentinel stays readable."""
        try:
            report = self._status.recv(RECORD.size, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            report = b""
        if len(report) == RECORD.size:
            code: int = RECORD.unpack(report)[0]
            return code
        if self._pidfd is not None and os.getpid() == self._owner:
            self._send_signal(signal.SIGKILL)
        return UNKNOWN

    def _send_signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is None:
                os.kill(self.pid, signum)
            else:
                signal.pidfd_send_signal(self._pidfd, signum)

    def close_files(self) -> None:
        """Close without the lock, which in a forked process may never be free."""
        close_private(self._status)
        pidfd, self._pidfd = self._pidfd, None
        _close_pidfd(pidfd)


def _open_pidfd(pid: int) -> int | None:
    """Open a handle that no other process can come to stand for, where the system has such."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        pidfd: int = os.pidfd_open(pid)
    except OSError:  # an old kernel, a sandbox, or a process that is gone
        return None
    register_private_fd(pidfd)
    return pidfd


def _close_pidfd(pidfd: int | None) -> None:
    if pidfd is not None:
        unregister_private_fd(pidfd)
        os.close(pidfd)


def watch(pid: int, ours: socket.socket, reporter: socket.socket) -> WorkerProcess:
    """Start the thread that reports the end of a child of the caller."""
    threading.Thread(target=_report_exit, args=(pid, reporter), name=f"poolinject-wait-{pid}", daemon=True).start()
    return WorkerProcess(pid, ours)


def _report_exit(pid: int, reporter: socket.socket) -> None:
    code = observe_exit(pid)
    send_record(reporter, UNKNOWN if code is None else code)
    close_private(reporter)
    reap(pid)
