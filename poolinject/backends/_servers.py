"""The fork server of this caller and the template forked from it. Runs in the caller.

The server is started with the first worker and stays, as long as the caller has the same rights and limits. The newest
template stays, too, and is used again while its modules, their files and the surroundings are what they were: otherwise
the next worker gets a new one, and what the modules read when they are imported is never out of date. Modules that no
process could be forked with are left to the workers to import.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from poolinject._transport.private_files import close_private, private_socketpair
from poolinject.backends._boot import RECORD
from poolinject.backends._forkserver import ACCEPTED, SERVER_ENTRY, Request
from poolinject.backends._imports import FIT, TASKS, UNFIT
from poolinject.backends._interpreter import Legacy, absolute_path, arguments, folder, legacy, spawn
from poolinject.backends._worker_process import WorkerProcess
from poolinject.errors import BackendUnavailableError

START_TIMEOUT = 30.0
IMPORT_TIMEOUT = 20.0  # for a template's imports; shorter, because other threads wait for the lock meanwhile
ATTEMPTS = 3


class Server(NamedTuple):
    """A process that forks others, and the stream of requests to it."""

    process: WorkerProcess
    control: socket.socket
    legacy: Legacy

    def let_go(self) -> None:
        """Close the stream; it ends when nobody waits for a worker of its any more."""
        close_private(self.control)
        self.process.close()


class Template(NamedTuple):
    """A copy of the server for one request of imports."""

    imports: Request
    server: Server


_lock = threading.Lock()
_server: Server | None = None
_template: Template | None = None
_unfit: set[tuple[str, ...]] = set()  # modules that cost this server a template


def fork_worker(connection: socket.socket, entry: str, modules: Sequence[str]) -> WorkerProcess:
    """Have a worker forked that talks through *connection*, from a process that has imported the modules.

    Raises:
        BackendUnavailableError: If that was not possible in time.
        OSError: If the system refuses a process.
    """
    request = Request(entry, absolute_path(), arguments(), folder() or os.sep, dict(os.environ))
    for _ in range(ATTEMPTS):
        try:
            process = _fork_once(request, connection, modules)
        except TimeoutError as error:
            remedy = f"the fork server gave no worker within {START_TIMEOUT:g} s; try start_method='spawn'"
            raise BackendUnavailableError("process", remedy) from error
        if process is not None:
            return process
    remedy = "the fork server ended: see the standard error for the cause, or try start_method='spawn'"
    raise BackendUnavailableError("process", remedy)


def _fork_once(request: Request, connection: socket.socket, modules: Sequence[str]) -> WorkerProcess | None:
    """Ask for a worker; ``None`` where the server died before it took the request, so another may be asked."""
    if not _lock.acquire(timeout=START_TIMEOUT):
        raise TimeoutError
    try:
        server = _server_with(request._replace(entry="", modules=tuple(modules)))
        if server is None:
            return None
        deadline = time.monotonic() + START_TIMEOUT
        answer = _send(server, request, deadline, connection)
    finally:
        _lock.release()
    process = _forked(answer, deadline)
    if process is None:
        with _lock:
            _forget(server)
    return process


def _server_with(imports: Request) -> Server | None:
    """Give a process that has made these imports, if they can be made; ``None`` where one died. Needs the lock."""
    server = _running_server()
    modules = tuple(imports.modules)
    if not modules or modules in _unfit or not TASKS.exists():
        return server
    if _template is not None and _template.imports == imports and _import(_template.server, imports) == FIT:
        return _template.server
    stop_template()
    return _make_template(server, imports)


def _make_template(server: Server, imports: Request) -> Server | None:
    """Give a new template, *server* where the imports make one unfit, ``None`` where *server* died."""
    global _template  # noqa: PLW0603 - one for each process is the point
    deadline = time.monotonic() + START_TIMEOUT
    control, theirs = private_socketpair()
    made: Server | None = None
    try:
        process = _forked(_send(server, imports._replace(entry=SERVER_ENTRY, modules=()), deadline, theirs), deadline)
        if process is None:
            _forget(server)
            return None
        made = Server(process, control, server.legacy)
        if _import(made, imports) == FIT:
            _template = Template(imports, made)
            return made
        _unfit.add(tuple(imports.modules))
        return server
    finally:
        close_private(theirs)
        if _template is None:
            close_private(control)
            if made is not None:
                made.process.kill(signal.SIGKILL)
                made.process.close()


def _import(server: Server, imports: Request) -> int:
    """Have the modules imported or, the second time, their files looked at; an end or a long silence is unfit, too."""
    deadline = time.monotonic() + IMPORT_TIMEOUT
    answer = _send(server, imports, deadline)
    try:
        accepted = _read_record(answer, deadline) == ACCEPTED
        return (_read_record(answer, deadline) if accepted else None) or UNFIT
    except TimeoutError:
        return UNFIT
    finally:
        close_private(answer)


def _send(server: Server, request: Request, deadline: float, *connection: socket.socket) -> socket.socket:
    """Send a request and give the socket on which the answer comes. Needs the lock."""
    ours, theirs = private_socketpair()
    payload = request.encode()
    try:
        server.control.settimeout(_left(deadline))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # then the answer just ends
            fds = [each.fileno() for each in (theirs, *connection)]
            socket.send_fds(server.control, [RECORD.pack(len(payload))], fds)
            server.control.sendall(payload)
    except BaseException:
        _forget(server)  # part of a request may be on its way: this stream cannot be used again
        close_private(ours)
        raise
    finally:
        close_private(theirs)
    return ours


def _forked(answer: socket.socket, deadline: float) -> WorkerProcess | None:
    """Read the answer to a request; ``None`` where the server died before it took it."""
    try:
        pid = _read_pid(answer, deadline)
        if pid is not None:
            return WorkerProcess(pid, answer)
    except BaseException:
        close_private(answer)
        raise
    close_private(answer)
    return None


def _read_pid(answer: socket.socket, deadline: float) -> int | None:
    if _read_record(answer, deadline) != ACCEPTED:
        return None
    pid = _read_record(answer, deadline)
    if pid is None:
        raise ConnectionResetError("the fork server ended while it forked")
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


def _read_record(answer: socket.socket, deadline: float) -> int | None:
    answer.settimeout(_left(deadline))
    try:
        record = answer.recv(RECORD.size)
    except ConnectionResetError:  # how some systems tell that the request was thrown away unread
        return None
    return RECORD.unpack(record)[0] if record else None


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _running_server() -> Server:
    """Give the server of this caller; a dead one, or one from before a change of the caller's, is replaced.

    Needs the lock.
    """
    global _server  # noqa: PLW0603 - one server for each process is the point
    present = legacy()
    if _server is not None and (_server.process.poll() is not None or _server.legacy != present):
        stop_server()
    if _server is None:
        control, theirs = private_socketpair()
        try:
            _server = Server(spawn(theirs, SERVER_ENTRY), control, present)
        except BaseException:
            close_private(control)
            raise
        finally:
            close_private(theirs)
        atexit.unregister(stop_server)
        atexit.register(stop_server)
    return _server


def _forget(server: Server) -> None:
    """Use a server no more."""
    if _server is server:
        stop_server()
    elif _template is not None and _template.server is server:
        stop_template()


def stop_server() -> None:
    """Let the server and its template go; each ends when nobody waits for a worker of its any more."""
    global _server
    stop_template()
    _unfit.clear()
    server, _server = _server, None
    if server is not None:
        server.let_go()


def stop_template() -> None:
    """Let the template go, and with it what its modules hold in memory."""
    global _template
    template, _template = _template, None
    if template is not None:
        template.server.let_go()


def _forget_in_forked_process() -> None:
    """Leave the servers to the caller; their files here are only copies, made harmless by `private_files`."""
    global _server, _template, _lock  # noqa: PLW0603
    _lock = threading.Lock()  # a thread that is not here may hold the old one
    for server in (_server, _template.server if _template is not None else None):
        if server is not None:
            server.control.close()
            server.process.close_files()
    _server = _template = None


os.register_at_fork(after_in_child=_forget_in_forked_process)
