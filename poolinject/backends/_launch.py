"""Starts worker processes and learns how they end. Runs in the caller.

The main module of the caller is never imported again, so a script needs no guard. Three start methods:

- ``forkserver``: one server for each caller, with the imports already made, forks the workers.
- ``spawn``: a fresh interpreter for each worker.
- ``fork``: a copy of the caller, with all the dangers of forking a program that has threads.

A reporter (the server, or a thread of the caller) waits for exactly its own workers and writes each exit code
to a socket that only it holds. The other end of that socket is the sentinel.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import spawn
from typing import NamedTuple

from poolinject.backends import _forkserver
from poolinject.backends._forkserver import ACCEPTED, BOOT, RECORD, SERVER_ENTRY, UNKNOWN, Request
from poolinject.backends._private_files import close_private, private_socketpair, shared_with_fork
from poolinject.backends._worker_process import WorkerProcess, watch
from poolinject.errors import BackendUnavailableError

__all__ = [
    "UNKNOWN",
    "WorkerProcess",
    "available_start_methods",
    "launch",
    "stop_server",
]

START_TIMEOUT = 30.0
SERVER_ATTEMPTS = 3
WORKER_ENTRY = _forkserver.WORKER_ENTRY

_server_lock = threading.Lock()
_server: _Server | None = None


def available_start_methods() -> tuple[str, ...]:
    """Give the start methods of this system, the default first."""
    if not hasattr(os, "fork"):
        return ()
    return ("forkserver", "spawn", "fork") if hasattr(socket, "send_fds") else ("spawn", "fork")


def launch(start_method: str, connection: socket.socket, preload: Sequence[str] = ()) -> WorkerProcess:
    """Start a worker that talks through *connection*, which the caller still has to close on its side.

    *preload* names modules that a fork server imports before it forks; the other methods pass over it.

    Raises:
        BackendUnavailableError: If the method does not exist here, or no process could be started in time. The
            connection is then of no use any more, since a worker may have received it.
    """
    if start_method not in available_start_methods():
        raise BackendUnavailableError("process", f"use one of the start methods {available_start_methods()}")
    try:
        if start_method == "forkserver":
            return _ask_server(connection, preload)
        return _spawn(connection, WORKER_ENTRY) if start_method == "spawn" else _fork(connection)
    except OSError as error:
        raise BackendUnavailableError("process", f"no process could be started: {error}") from error


def _spawn(connection: socket.socket, entry: str) -> WorkerProcess:
    executable = os.fsdecode(spawn.get_executable() or "")
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] # noqa: SLF001
    fd, path = connection.fileno(), _absolute_path()
    boot = ["-c", BOOT, entry, str(fd), str(len(path)), *path, *_argv()]
    ours, reporter = private_socketpair()
    try:
        with _sigint_blocked():
            process = subprocess.Popen(  # noqa: S603
                [executable, *flags, *boot],
                stdin=subprocess.DEVNULL,
                pass_fds=(fd,),
                cwd=None if _folder() else os.sep,  # Python 3.13.0 does not start in a folder that is gone
                env=dict(os.environ),
            )
            process.returncode = 0  # the reporter waits for it: the object shall neither wait nor warn
            return watch(process.pid, ours, reporter)
    except BaseException:
        close_private(reporter, ours)
        raise


def _fork(connection: socket.socket) -> WorkerProcess:
    ours, reporter = private_socketpair()
    fd = connection.fileno()
    try:
        with _sigint_blocked():
            with shared_with_fork(fd):
                pid = _forkserver.fork()
                if pid == 0:
                    _forkserver.become_worker(WORKER_ENTRY, fd, _empty_stdin)
            return watch(pid, ours, reporter)
    except BaseException:
        close_private(reporter, ours)
        raise


def _empty_stdin() -> None:
    """Leave the standard input to the caller."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Let a new process start with SIGINT blocked: Ctrl-C may not end it before it can ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Server(NamedTuple):
    process: WorkerProcess
    control: socket.socket


def _ask_server(connection: socket.socket, preload: Sequence[str]) -> WorkerProcess:
    payload = _request(preload)
    deadline = time.monotonic() + START_TIMEOUT
    for _ in range(SERVER_ATTEMPTS):
        try:
            process = _ask_once(payload, connection, deadline)
        except TimeoutError as error:
            remedy = f"the fork server gave no worker within {START_TIMEOUT:g} s; try start_method='spawn'"
            raise BackendUnavailableError("process", remedy) from error
        if process is not None:
            return process
    remedy = "the fork server ended: see the standard error for the cause, or try start_method='spawn'"
    raise BackendUnavailableError("process", remedy)


def _ask_once(payload: bytes, connection: socket.socket, deadline: float) -> WorkerProcess | None:
    """Ask the server for a worker; ``None`` where it died before it took the request, so another may be asked."""
    ours, theirs = private_socketpair()
    try:
        server = _send_request(payload, connection, theirs, deadline)
        pid = _read_pid(ours, deadline)
        if pid is not None:
            return WorkerProcess(pid, ours)
        with _server_lock:
            if _server is server:
                stop_server()
    except BaseException:
        close_private(ours)
        raise
    close_private(ours)
    return None


def _request(preload: Sequence[str]) -> bytes:
    path, argv = tuple(_absolute_path()), tuple(_argv())
    return Request(WORKER_ENTRY, path, argv, _folder() or os.sep, dict(os.environ), tuple(preload)).encode()


def _folder() -> str | None:
    """Give the working folder, ``None`` where it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - a text is what travels
    except OSError:
        return None


def _absolute_path() -> list[str]:
    """Give the import path with its relative entries fixed to the present folder."""
    entries: list[object] = list(sys.path)  # programs put other things there, too
    texts = [entry for entry in entries if isinstance(entry, str) and "\0" not in entry]
    with contextlib.suppress(OSError):
        return [os.path.abspath(entry) for entry in texts]  # noqa: PTH100 - "" is the present folder
    return texts


def _argv() -> list[str]:
    return [str(argument) for argument in getattr(sys, "argv", ())]


def _send_request(payload: bytes, connection: socket.socket, status: socket.socket, deadline: float) -> _Server:
    """Send a request to a living server, started if need be, and close *status* here."""
    try:
        if not _server_lock.acquire(timeout=_left(deadline)):
            raise TimeoutError
        try:
            server = _running_server()
            server.control.settimeout(_left(deadline))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # then the status stream just ends
                socket.send_fds(server.control, [RECORD.pack(len(payload))], [connection.fileno(), status.fileno()])
                server.control.sendall(payload)
        except BaseException:
            stop_server()  # part of a request may be on its way: this stream cannot be used again
            raise
        finally:
            _server_lock.release()
    finally:
        close_private(status)
    return server


def _read_pid(status: socket.socket, deadline: float) -> int | None:
    """Read the answer; ``None`` where the server died before it took the request."""
    if _read_record(status, deadline) != ACCEPTED:
        return None
    pid = _read_record(status, deadline)
    if pid is None:
        raise ConnectionResetError("the fork server ended while it forked")
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


def _read_record(status: socket.socket, deadline: float) -> int | None:
    status.settimeout(_left(deadline))
    try:
        record = status.recv(RECORD.size)
    except ConnectionResetError:  # how some systems tell that the request was thrown away unread
        return None
    return RECORD.unpack(record)[0] if record else None


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _running_server() -> _Server:
    """Give the server of this caller; a dead one is replaced. Needs the lock."""
    global _server  # noqa: PLW0603 - one server for each process is the point
    if _server is not None and _server.process.poll() is not None:
        stop_server()
    if _server is None:
        control, theirs = private_socketpair()
        try:
            _server = _Server(_spawn(theirs, SERVER_ENTRY), control)
        except BaseException:
            close_private(control)
            raise
        finally:
            close_private(theirs)
        atexit.unregister(stop_server)
        atexit.register(stop_server)
    return _server


def stop_server() -> None:
    """Let the server go; it ends when nobody waits for a worker of its any more."""
    global _server
    server, _server = _server, None
    if server is not None:
        close_private(server.control)
        server.process.close()


def _forget_in_forked_process() -> None:
    """Leave the server to the caller; its files here are only copies, made harmless by `_private_files`."""
    global _server, _server_lock  # noqa: PLW0603
    _server_lock = threading.Lock()  # a thread that is not here may hold the old one
    server, _server = _server, None
    if server is not None:
        server.control.close()
        server.process.close_files()


os.register_at_fork(after_in_child=_forget_in_forked_process)
