"""What runs in a started process: its first steps, its end, and the server that forks workers. Never in the caller.

Only the waiting helpers and the request record are shared with `_launch`, which is the caller's side.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import json
import os
import re
import selectors
import signal
import socket
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from typing import NoReturn

UNKNOWN = 255
"""The exit code of a worker whose end nobody saw."""

WORKER_ENTRY = "poolinject._worker.main:main"
SERVER_ENTRY = f"{__name__}:serve"
BOOT = f"import sys; sys.path[:] = sys.argv[4 : 4 + int(sys.argv[3])]; from {__name__} import boot; boot()"
"""The ``-c`` text of a fresh interpreter. Arguments: entry, connection, length of the path, path, caller's argv.

They travel one by one, because the system limits each argument to 128 KB but all together to megabytes.
"""

RECORD = struct.Struct("q")
ACCEPTED = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One worker to fork, and the surroundings that it shall see."""

    entry: str
    path: tuple[str, ...]
    argv: tuple[str, ...]
    cwd: str
    environ: dict[str, str]
    preload: tuple[str, ...]

    def encode(self) -> bytes:
        """Give JSON; file names that are not UTF-8 survive, because JSON escapes their surrogates."""
        return json.dumps(asdict(self)).encode("ascii")

    @classmethod
    def decode(cls, payload: bytes) -> Request:
        """Read what `encode` gave."""
        fields = json.loads(payload)
        for name in ("path", "argv", "preload"):
            fields[name] = tuple(fields[name])
        return cls(**fields)

    def apply(self) -> None:
        """Make the surroundings of this process those of the caller; a folder that is gone is passed over."""
        sys.path[:] = self.path
        sys.argv[:] = self.argv
        with contextlib.suppress(OSError):
            os.chdir(self.cwd)
        if dict(os.environ) != self.environ:
            os.environ.clear()
            os.environ.update(self.environ)


def send_record(status: socket.socket, value: int) -> None:
    """Write one record; a reader that is gone does not matter."""
    with contextlib.suppress(OSError):
        status.send(RECORD.pack(value))


def observe_exit(pid: int, flags: int = 0) -> int | None:
    """Wait for a child and give its exit code; with ``os.WNOHANG``, ``None`` while it runs.

    Where the system can, the ended child stays unreaped, so that its pid is not used again before `reap`.
    """
    try:
        if hasattr(os, "waitid"):
            end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | flags)
            if end is None:
                return None
            return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
        ended, wait_status = os.waitpid(pid, flags)
        return os.waitstatus_to_exitcode(wait_status) if ended else None
    except ChildProcessError:  # the program ignores SIGCHLD, or waits for children that are not its own
        return UNKNOWN


def reap(pid: int) -> None:
    """Free the pid of a child that `observe_exit` saw end."""
    if hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def fork() -> int:
    """Fork without the warning about threads, which Python 3.12 and later give in the calling process.

    The filter names this module alone and stays: putting filters back would race with other threads.
    """
    flush_stdio()
    warnings.filterwarnings(
        "ignore", "This process .* is multi-threaded", DeprecationWarning, module=re.escape(__name__)
    )
    return os.fork()


def flush_stdio() -> None:
    """Flush standard output and error, whatever stands in their place."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def reset_signals() -> None:
    """Ignore SIGINT, which a terminal sends to the whole group; give SIGTERM and SIGCHLD their defaults."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD})


def find_entry(entry: str) -> Callable[[int], object]:
    """Import the function that ``module:function`` names."""
    module, _, name = entry.partition(":")
    found: Callable[[int], object] = getattr(import_module(module), name)
    return found


def boot() -> None:
    """Run the entry in a fresh interpreter, which then ends as any program does."""
    entry, connection_fd, path_length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    del sys.argv[: 4 + path_length]
    os.set_inheritable(connection_fd, False)  # noqa: FBT003 - takes no keyword
    reset_signals()
    find_entry(entry)(connection_fd)


def become_worker(entry: str, connection_fd: int, leave_behind: Callable[[], None]) -> NoReturn:
    """Run the entry in a forked process and end it; nothing returns or rises into the stack that forked.

    Standard output and error are flushed; ``atexit`` functions are not run, since most were registered by
    the process that forked.
    """
    code = 1
    try:
        leave_behind()
        reset_signals()
        contextvars.Context().run(find_entry(entry), connection_fd)
        code = 0
    except SystemExit as end:
        code = _exit_status(end)
    except BaseException:  # noqa: BLE001 - this is the last frame of the process
        traceback.print_exc()
    finally:
        flush_stdio()
        os._exit(code)


def _exit_status(end: SystemExit) -> int:
    """Give the status that the interpreter gives for this exception."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1


def serve(control_fd: int) -> None:
    """Be the fork server until the caller is gone, or has closed both the server and every handle of a worker."""
    with socket.socket(fileno=control_fd) as control:
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
        self._preloaded: set[str] = set()
        self._woken, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Answer requests; after the end of the control stream, only report the ends that someone waits for."""
        # Sent to the whole group, it is for caller and workers to follow. Blocked and not ignored, so that one which
        # reaches a worker before its set-up is kept for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._preload([WORKER_ENTRY.partition(":")[0]])
        self._woken.settimeout(0)
        self._waker.settimeout(0)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._control, selectors.EVENT_READ, self._on_request)
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_child_end)
        while self._accepting or any(self._workers.values()):
            ready = [key.data for key, _ in self._selector.select()]
            for act in ready:
                act()
        signal.set_wakeup_fd(-1)
        self._close_everything()

    def _preload(self, modules: Iterable[str]) -> None:
        """Import each module once. One that fails is left for the worker to fail on, where someone sees it."""
        new = [name for name in modules if name not in self._preloaded]
        for name in new:
            self._preloaded.add(name)
            with contextlib.suppress(Exception, SystemExit):
                import_module(name)
        if new:
            gc.freeze()  # the workers share these pages; they stay frozen there, or a collection would copy them

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
        if payload and len(fds) == 2:  # noqa: PLR2004 - connection and status
            self._start(Request.decode(payload), fds[0], socket.socket(fileno=fds[1]))
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

    def _start(self, request: Request, connection_fd: int, status: socket.socket) -> None:
        send_record(status, ACCEPTED)  # from here on the caller may not ask another server for the same worker
        request.apply()
        self._preload(request.preload)
        try:
            pid = fork()
        except OSError as error:
            send_record(status, -(error.errno or 1))
            status.close()
        else:
            if pid == 0:
                become_worker(request.entry, connection_fd, partial(self._leave_behind, status))
            send_record(status, pid)
            self._workers[pid] = status
            self._selector.register(status, selectors.EVENT_READ, partial(self._drop, pid))
        finally:
            os.close(connection_fd)

    def _leave_behind(self, own_status: socket.socket) -> None:
        """Close in a new worker what belongs to the server."""
        signal.set_wakeup_fd(-1)
        self._close_everything()
        own_status.close()

    def _close_everything(self) -> None:
        """Close, without unregistering: a new worker still shares the server's ``epoll`` object."""
        self._selector.close()
        for held in (self._control, self._woken, self._waker, *self._workers.values()):
            if held is not None:
                held.close()

    def _drop(self, pid: int) -> None:
        """Close the status socket of a worker: its end is reported, or nobody will read the report."""
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
            del self._workers[pid]
            reap(pid)
