"""The faults of the matrix: what user code does wrong, as functions that do it on the spot."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import threading
from collections.abc import Callable
from typing import Any, Literal

HANG_SECONDS = 45.0  # longer than anybody waits
EXIT_CODE = 17


class Unpicklable(Exception):  # noqa: N818 - named after what is wrong with it
    """Cannot be pickled as it is."""

    def __init__(self) -> None:
        super().__init__("holds a lock", threading.Lock())


class Ununpicklable(Exception):  # noqa: N818 - named after what is wrong with it
    """Can be pickled, but nobody can read that."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{reason} ({code})")


def raise_value_error() -> None:
    """As most errors are."""
    raise ValueError("on purpose")


def raise_system_exit() -> None:
    """As a command line does that is used as a library."""
    raise SystemExit(3)


def raise_keyboard_interrupt() -> None:
    """As ``input()`` does."""
    raise KeyboardInterrupt


def leave() -> None:
    """As a C library does it."""
    os._exit(EXIT_CODE)


def kill() -> None:
    """As an out-of-memory killer does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    """Read where nothing is, leaving no core file and no report."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def recurse() -> None:
    """Until the interpreter has enough of it."""
    recurse()


def exhaust_memory() -> None:
    """Ask for more than there can be."""
    bytearray(1 << 62)


def raise_unpicklable() -> None:
    """The error has to be sent in parts."""
    raise Unpicklable


def raise_ununpicklable() -> None:
    """The error has to be sent without its constructor."""
    raise Ununpicklable(1, reason="on purpose")


RELEASE = threading.Event()  # set at the end of a test, for threads of its own that hang


def hang() -> None:
    """Wait for what does not come, as long as the test goes on."""
    RELEASE.wait(HANG_SECONDS)


Fault = Literal[
    "exception", "SystemExit", "KeyboardInterrupt", "os._exit", "SIGKILL", "segmentation fault", "RecursionError",
    "MemoryError", "exception that does not pickle", "exception that does not unpickle", "result that does not pickle",
    "result that does not unpickle", "hang",
]  # fmt: skip

ERRORS: dict[Fault, tuple[Callable[[], None], type[BaseException]]] = {
    "exception": (raise_value_error, ValueError),
    "SystemExit": (raise_system_exit, SystemExit),
    "KeyboardInterrupt": (raise_keyboard_interrupt, KeyboardInterrupt),
    "RecursionError": (recurse, RecursionError),
    "MemoryError": (exhaust_memory, MemoryError),
    "exception that does not pickle": (raise_unpicklable, Unpicklable),
    "exception that does not unpickle": (raise_ununpicklable, Ununpicklable),
}
ENDS: dict[Fault, tuple[Callable[[], None], int]] = {
    "os._exit": (leave, EXIT_CODE),
    "SIGKILL": (kill, -signal.SIGKILL),
    "segmentation fault": (crash, -signal.SIGSEGV),
}
RESULTS: tuple[Fault, ...] = ("result that does not pickle", "result that does not unpickle")
FAULTS: tuple[Fault, ...] = (*ERRORS, *ENDS, *RESULTS, "hang")


def commit(fault: Fault) -> Any:
    """Do it."""
    if fault in ERRORS:
        ERRORS[fault][0]()
    elif fault in ENDS:
        ENDS[fault][0]()
    elif fault == "hang":
        hang()
    raise AssertionError(fault)
