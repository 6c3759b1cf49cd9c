"""Tracebacks, causes and notes of exceptions.

Also of those whose classes refuse attributes, as frozen dataclasses do.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

_TRACEBACK: Any = BaseException.__dict__["__traceback__"]  # what a class makes of these names is its own affair
_CAUSE: Any = BaseException.__dict__["__cause__"]


def traceback_of(error: BaseException) -> TracebackType | None:
    """Give the traceback."""
    found: TracebackType | None = _TRACEBACK.__get__(error)
    return found


def set_traceback(error: BaseException, traceback: TracebackType | None) -> None:
    """Put a traceback in the place of what is there."""
    _TRACEBACK.__set__(error, traceback)


def set_cause(error: BaseException, cause: BaseException) -> None:
    """Say that an error comes of another one."""
    _CAUSE.__set__(error, cause)


def has_cause(error: BaseException) -> bool:
    """Tell whether it comes of another one."""
    return _CAUSE.__get__(error) is not None


def add_note(error: BaseException, note: str) -> None:
    """Add a note, unless there is no way to."""
    with suppress(Exception):
        BaseException.__setattr__(error, "__notes__", [*getattr(error, "__notes__", ()), note])
