"""A fresh interpreter, and the surroundings that it takes over from the caller. Runs in the caller."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from poolinject._transport.private_files import close_private, private_socketpair
from poolinject.backends._boot import BOOT
from poolinject.backends._worker_process import WorkerProcess, watch
from poolinject.errors import BackendUnavailableError

MOST_BYTES = 1 << 17  # of an argument, with the byte at its end
Legacy: TypeAlias = tuple[object, ...]
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


def spawn(connection: socket.socket, entry: str) -> WorkerProcess:
    """Run the entry in a fresh interpreter that gets *connection*.

    Raises:
        BackendUnavailableError: If there is no interpreter.
    """
    executable = _executable()
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] # noqa: SLF001
    fd, path = connection.fileno(), absolute_path()
    boot = ["-c", BOOT, entry, str(fd), str(os.getpid()), str(len(path)), *path, *arguments()]
    ours, reporter = private_socketpair()
    try:
        with interrupts_blocked():
            process = subprocess.Popen(  # noqa: S603
                [executable, *flags, *boot],
                stdin=subprocess.DEVNULL,
                pass_fds=(fd,),
                cwd=None if folder() else os.sep,  # Python 3.13.0 does not start in a folder that is gone
                env=dict(os.environ),
            )
            process.returncode = 0  # the reporter waits for it: the object shall neither wait nor warn
            return watch(process.pid, ours, reporter)
    except BaseException:
        close_private(reporter, ours)
        raise


def _executable() -> str:
    """Give the interpreter, or what ``multiprocessing.set_executable`` has put in its place."""
    spawning = sys.modules.get("multiprocessing.spawn")
    executable = os.fsdecode((spawning.get_executable() if spawning else sys.executable) or "")
    if executable == sys.executable and getattr(sys, "frozen", False):
        found = "a frozen program would only start itself again"
    elif not executable:
        found = "sys.executable names no interpreter that could be started"
    else:
        return executable
    raise BackendUnavailableError("process", f"{found}; use start_method='fork', or backend='thread'")


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Let a new process start with SIGINT and SIGTERM blocked.

    Ctrl-C may not end it before it can ignore it; SIGTERM would be lost where Python, after a fork, forgets what the
    handlers of the caller have not got to.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def legacy() -> Legacy:
    """Give what a process only ever inherits: its user and groups, its mask for the modes of files, its limits."""
    users_and_groups = (os.getresuid(), os.getresgid()) if hasattr(os, "getresuid") else (os.getuid(), os.geteuid())
    limits = tuple(resource.getrlimit(limit) for limit in LIMITS)
    return (*users_and_groups, os.getgid(), os.getegid(), tuple(os.getgroups()), _umask(), limits)


def _umask() -> str:
    """Give the mask as the system tells it; a look by ``os.umask`` would change it for other threads meanwhile."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return line
    return ""


def folder() -> str | None:
    """Give the working folder, ``None`` where it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - a text is what travels
    except OSError:
        return None


def absolute_path() -> list[str]:
    """Give the import path with its relative entries fixed: to where modules were found, or to the present folder."""
    entries: list[object] = list(sys.path)  # programs put other things there, too
    texts = [_found_at(entry) for entry in entries if isinstance(entry, str) and _can_travel(entry)]
    with contextlib.suppress(OSError):
        return [os.path.abspath(entry) for entry in texts]  # noqa: PTH100 - "" is the present folder
    return texts


def _found_at(entry: str) -> str:
    """Give the folder that stands for a relative entry since the first import from it, whatever the present one is."""
    finder = None if entry.startswith(os.sep) else sys.path_importer_cache.get(entry)
    path = getattr(finder, "path", None)
    return path if isinstance(path, str) else entry


def arguments() -> list[str]:
    """Give the arguments of the program as texts; one that cannot travel is empty, since workers can do without."""
    given: object = getattr(sys, "argv", None)
    texts = map(str, given) if isinstance(given, list) else ()
    return [text if _can_travel(text) else "" for text in texts]


def _can_travel(text: str) -> bool:
    """Tell whether the system takes a text as an argument."""
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return False
    return b"\0" not in data and len(data) < MOST_BYTES
