"""Imports made ahead of the fork, and whether they leave a process that may be forked. Never in the caller.

What a module makes in memory, each worker gets a copy of. A thread, an open file, a connection or a child process is
another matter: workers would share it, or lack it. A process in which an import has left one is of no use to fork.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
from collections.abc import Iterable
from importlib import import_module, invalidate_caches
from pathlib import Path

from poolinject.backends._boot import fork

FIT, UNFIT, STALE = 1, 2, 3
TASKS = Path("/proc/self/task")
"""Lists the threads of the process, also those of libraries; a system without it, like macOS, hides what is unfit."""

Stamp = tuple[int, int]


def import_own(module: str) -> None:
    """Import the worker's side without the garbage collector, which would look in vain at what is made to stay."""
    gc.disable()
    try:
        import_module(module)
    finally:
        gc.enable()
        gc.freeze()  # workers share these pages, and a collection there would copy them


class Imports:
    """The modules of users' functions, imported once, with the files that they came from."""

    def __init__(self) -> None:
        self._known = set(sys.modules)
        self._stamps: dict[str, Stamp | None] | None = None

    def make(self, modules: Iterable[str]) -> int:
        """Import the modules, or look whether their files are still as they were; give `FIT`, `UNFIT` or `STALE`.

        A module that cannot be imported is left to the worker to fail on, where someone sees it.
        """
        if self._stamps is not None:
            return FIT if all(_stamp(file) == stamp for file, stamp in self._stamps.items()) else STALE
        from poolinject._transport.functions import loading  # noqa: PLC0415 - ``import_own`` has seen to it

        before = _open_files()
        invalidate_caches()  # a file may be newer than the server
        for name in modules:
            with loading(), contextlib.suppress(BaseException):
                import_module(name)
        gc.freeze()
        self._stamps = {file: _stamp(file) for file in self._new_files()}
        return FIT if _open_files() <= before and not _has_children() and not _has_threads() else UNFIT

    def _new_files(self) -> list[str]:
        """List the files of what has been imported, by whichever module."""
        modules = [module for name, module in list(sys.modules.items()) if name not in self._known]
        files = (getattr(module, "__file__", None) for module in modules)
        return [file for file in files if isinstance(file, str)]


def _stamp(file: str) -> Stamp | None:
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _open_files() -> set[tuple[int, int, int]]:
    """Tell open files by number, device and inode."""
    found = set()
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):  # the one that was the list
            state = os.fstat(number)
            found.add((number, state.st_dev, state.st_ino))
    return found


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _has_threads() -> bool:
    """Tell whether there are threads that a fork would lose.

    A library that is ready for forks ends its threads before each one and starts them when they are needed again, as
    numpy's does; so what is left after a fork counts.
    """
    if threading.active_count() > 1:
        return True
    if _count_threads() > 1:
        pid = fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return _count_threads() > 1


def _count_threads() -> int:
    return len(list(TASKS.iterdir()))


def renew_randomness() -> None:
    """Let numpy's global generator differ from worker to worker, as Python's own does, unless a module seeded it."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        with contextlib.suppress(Exception):  # an older numpy does not tell how it was seeded
            if random.get_bit_generator().seed_seq is not None:
                random.seed()
