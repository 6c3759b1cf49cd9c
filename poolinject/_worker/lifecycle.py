"""How a worker is interrupted, and how a forked process ends."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import Any, NoReturn

_MEMBERS: Any = BaseExceptionGroup.__dict__["exceptions"]


class Terminated(SystemExit):
    """SIGTERM: raised where the code is, so that open scopes close on the way out."""


def is_interrupt(error: BaseException) -> bool:
    """Tell whether an error was meant for the whole process and not for the item that it hit."""
    return _is_or_has(error, (KeyboardInterrupt, Terminated))


def is_terminated(error: BaseException) -> bool:
    """Tell whether an item has failed because of SIGTERM; a task group of its may have wrapped that."""
    return _is_or_has(error, Terminated)


def _is_or_has(error: BaseException, types: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """Go by types and members as they are: a class may have a ``subgroup`` or ``__class__`` of its own."""
    if issubclass(type(error), BaseExceptionGroup):
        return any(_is_or_has(member, types) for member in _MEMBERS.__get__(error))
    return issubclass(type(error), types)


def flush_stdio() -> None:
    """Flush standard output and error, whatever stands in their place."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def end_process(error: BaseException | None = None) -> NoReturn:
    """End a forked process with the status that the interpreter would give it; nothing rises into what forked it.

    Standard output and error are flushed; ``atexit`` functions are not run, since most were registered by the process
    that forked.
    """
    status = 1
    try:
        status = _exit_status(error)
    finally:
        flush_stdio()
        os._exit(status)


def _exit_status(error: BaseException | None) -> int:
    """Give the status that the interpreter gives for this exception, and say what it says."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    elif error is not None:
        traceback.print_exception(error)
    return 0 if error is None else 1
