"""The first steps and the end of a started process. The reporting of its end is shared with the caller."""

from __future__ import annotations

import contextlib
import contextvars
import os
import re
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import NoReturn

from poolinject._transport.private_files import FIRST_OTHER
from poolinject._worker.lifecycle import end_process, flush_stdio

UNKNOWN = 255
"""The exit code of a worker whose end nobody saw."""

WORKER_ENTRY = "poolinject._worker.main:main"
BOOT = f"import sys; sys.path[:] = sys.argv[5 : 5 + int(sys.argv[4])]; from {__name__} import boot; boot()"
"""The ``-c`` text of a fresh interpreter. Arguments: entry, connection, caller, length of path, path, caller's argv.

They travel one by one, because the system limits each argument to 128 KB but all together to megabytes.
"""

RECORD = struct.Struct("q")


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


def fill_stdio() -> None:
    """Open the null device where a standard file is closed; else the next file would be that, and be printed to."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < FIRST_OTHER:
        os.set_inheritable(fd, True)  # noqa: FBT003 - takes no keyword
    os.close(fd)


def reset_signals() -> None:
    """Ignore SIGINT, which a terminal sends to the whole group; give others what they are in a fresh interpreter."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD})


def find_entry(entry: str, parent: int) -> Callable[[int], object]:
    """Import the function that ``module:function`` names, as long as the parent is there."""
    module, _, name = entry.partition(":")
    with ending_with_parent(parent):
        found: Callable[[int], object] = getattr(import_module(module), name)
    return found


@contextlib.contextmanager
def ending_with_parent(parent: int) -> Iterator[None]:
    """End this process with the next module that it imports, once its parent is gone.

    For the library's own imports, which take a while on a busy machine; nothing has been opened yet.
    """
    finder = _ParentWatch(parent)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _ParentWatch:
    """Finds no module, but is asked for each. Without its abstract base class, which costs an import of its own."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def find_spec(self, _name: str, _path: object, _target: object = None) -> None:
        """Look who the parent is: the system gives an orphan another one."""
        if os.getppid() != self._parent:
            os._exit(UNKNOWN)


def boot() -> None:
    """Run the entry in a fresh interpreter, which then ends as any program does."""
    fill_stdio()
    entry, (connection_fd, caller, path_length) = sys.argv[1], map(int, sys.argv[2:5])
    del sys.argv[: 5 + path_length]
    os.set_inheritable(connection_fd, False)  # noqa: FBT003 - takes no keyword
    reset_signals()
    find_entry(entry, caller)(connection_fd)


def become_worker(entry: str, connection_fd: int, leave_behind: Callable[[], None]) -> NoReturn:
    """Run the entry in a forked process and end it; nothing returns or rises into the stack that forked."""
    failure: BaseException | None = None
    try:
        fill_stdio()
        leave_behind()
        reset_signals()
        contextvars.Context().run(find_entry(entry, os.getppid()), connection_fd)
    except BaseException as error:  # noqa: BLE001 - this is the last frame of the process
        failure = error
    end_process(failure)
