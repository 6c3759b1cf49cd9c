"""The process that forks workers. Never in the caller, except for the record of a request.

There are two kinds. The *server* is a fresh interpreter that has imported the worker's side and FastAPI. A *template*
is forked from it, has imported the modules of one pool's functions as well, and forks that pool's workers.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from poolinject._transport.quiet_socket import QuietSocket
from poolinject.backends._boot import (
    RECORD,
    WORKER_ENTRY,
    become_worker,
    ending_with_parent,
    fork,
    observe_exit,
    reap,
    send_record,
)
from poolinject.backends._imports import Imports, import_own, renew_randomness

SERVER_ENTRY = f"{__name__}:serve"
ACCEPTED = 0
ORPHAN_SECONDS = 1.6  # that a worker gets when nobody waits for it any more; longer than it takes to end by itself


class Request(NamedTuple):
    """One process to fork, or modules to import, and the surroundings that either shall see.

    Attributes:
        entry: What the process is to run. Empty: import the modules and answer how that went.
        path: The import path, without relative entries.
        argv: The caller's arguments.
        cwd: The caller's folder.
        environ: The caller's environment.
        modules: What to import.
    """

    entry: str
    path: Sequence[str]
    argv: Sequence[str]
    cwd: str
    environ: dict[str, str]
    modules: Sequence[str] = ()

    def encode(self) -> bytes:
        """Give JSON; file names that are not UTF-8 survive, because JSON escapes their surrogates."""
        return json.dumps(self._asdict()).encode("ascii")

    @classmethod
    def decode(cls, payload: bytes) -> Request:
        """Read what `encode` gave."""
        return cls(**json.loads(payload))

    def apply(self) -> None:
        """Make the surroundings of this process those of the caller; a folder that is gone is passed over."""
        sys.path[:] = self.path
        sys.argv[:] = self.argv
        with contextlib.suppress(OSError):
            os.chdir(self.cwd)
        if dict(os.environ) != self.environ:
            os.environ.clear()
            os.environ.update(self.environ)


@contextlib.contextmanager
def ending_with(answer: socket.socket) -> Iterator[None]:
    """Let the system end this process, whatever it is at, when the one that waits for the answer is gone.

    Only Linux can, and only there is anything imported ahead.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        yield
        return
    flags = fcntl.fcntl(answer, fcntl.F_GETFL)
    fcntl.fcntl(answer, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(answer, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(answer, fcntl.F_SETFL, flags | os.O_ASYNC)
    poller = select.poll()
    poller.register(answer, 0)
    if poller.poll(0):  # it was gone before
        os._exit(1)
    yield
    fcntl.fcntl(answer, fcntl.F_SETFL, flags)


def serve(control_fd: int) -> None:
    """Be a fork server until the caller is gone, or has closed both the server and every handle of a worker."""
    with QuietSocket(control_fd) as control:
        ForkServer(control).run()


class ForkServer:
    """Forks a worker for each request and reports its pid and its end on the status socket of the request.

    It alone holds that end of the socket: the caller reads the end of the stream when the server is gone, and
    nothing that a worker starts can delay it.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._accepting = True
        self._workers: dict[int, socket.socket | None] = {}
        self._orphans: dict[int, float] = {}  # and when they are to be killed
        self._woken, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Answer requests; after the end of the control stream, only see to the workers that there are."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        with ending_with_parent(os.getppid()):
            import_own(WORKER_ENTRY.partition(":")[0])
        self._imports = Imports()
        self._woken.settimeout(0)
        self._waker.settimeout(0)
        self._set_signals()
        self._selector.register(self._control, selectors.EVENT_READ, self._on_request)
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_child_end)
        while self._accepting or self._orphans or any(self._workers.values()):
            ready = [key.data for key, _ in self._selector.select(self._until_next_orphan())]
            for act in ready:
                act()
            self._end_orphans()
        signal.set_wakeup_fd(-1)
        self._close_everything()

    def _set_signals(self) -> None:
        """Be woken by the end of a child, and leave what is sent to the whole group to the caller and the workers.

        SIGTERM is blocked and not ignored, so that one which reaches a worker before its set-up is kept for it.
        """
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _on_request(self) -> None:
        try:
            header, fds, _, _ = socket.recv_fds(self._control, RECORD.size, 2)
            payload = self._read(RECORD.unpack(header)[0]) if header else b""
        except OSError:
            payload, fds = b"", []
        if not payload:
            self._accepting = False
            self._selector.unregister(self._control)
        for fd in fds:
            os.set_inheritable(fd, False)  # noqa: FBT003
        if payload and fds:
            self._follow(Request.decode(payload), QuietSocket(fds[0]), fds[1:])
        else:
            for fd in fds:
                os.close(fd)

    def _read(self, size: int) -> bytes:
        """Read exactly this much; give nothing where the stream ends before."""
        parts = bytearray()
        while len(parts) < size:
            part = self._control.recv(size - len(parts))
            if not part:
                return b""
            parts += part
        return bytes(parts)

    def _follow(self, request: Request, status: socket.socket, fds: Sequence[int]) -> None:
        send_record(status, ACCEPTED)  # from here on the caller may not ask another server for the same worker
        request.apply()
        if request.entry:
            self._start(request.entry, fds[0], status)
            return
        with status:
            with ending_with(status):
                fitness = self._imports.make(request.modules)
            send_record(status, fitness)
        self._set_signals()  # an import may have changed them

    def _start(self, entry: str, connection_fd: int, status: socket.socket) -> None:
        try:
            pid = fork()
        except OSError as error:
            send_record(status, -(error.errno or 1))
            status.close()
        else:
            if pid == 0:
                become_worker(entry, connection_fd, partial(self._leave_behind, status))
            send_record(status, pid)
            self._workers[pid] = status
            act = self._drop if entry == SERVER_ENTRY else self._abandon
            self._selector.register(status, selectors.EVENT_READ, partial(act, pid))
        finally:
            os.close(connection_fd)

    def _leave_behind(self, own_status: socket.socket) -> None:
        """Close in a new worker what belongs to the server."""
        signal.set_wakeup_fd(-1)
        self._close_everything()
        own_status.close()
        renew_randomness()

    def _close_everything(self) -> None:
        """Close, without unregistering: a new worker still shares the server's ``epoll`` object."""
        self._selector.close()
        for held in (self._control, self._woken, self._waker, *self._workers.values()):
            if held is not None:
                held.close()

    def _abandon(self, pid: int) -> None:
        """See to the end of a worker that nobody waits for: the caller is gone, or has given it up.

        The worker notices by itself, unless C code in it keeps the interpreter's lock.
        """
        if pid in self._workers:  # else its end, told at the same time, has been seen to first
            self._drop(pid)
            self._orphans[pid] = time.monotonic() + ORPHAN_SECONDS

    def _until_next_orphan(self) -> float | None:
        return max(0.0, min(self._orphans.values()) - time.monotonic()) if self._orphans else None

    def _end_orphans(self) -> None:
        now = time.monotonic()
        for pid in [pid for pid, deadline in self._orphans.items() if deadline <= now]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # only this process reaps it, so it is still the same
            del self._orphans[pid]

    def _drop(self, pid: int) -> None:
        """Close the status socket of a process: its end is reported, or nobody will read the report."""
        status = self._workers.get(pid)
        if status is not None:
            self._workers[pid] = None
            self._selector.unregister(status)
            status.close()

    def _on_child_end(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        for pid, status in list(self._workers.items()):
            code = observe_exit(pid, os.WNOHANG)
            if code is None:
                continue
            if status is not None:
                send_record(status, code)
            self._drop(pid)
            self._orphans.pop(pid, None)
            del self._workers[pid]
            reap(pid)
