"""Tracebacks, causes and notes of exceptions.

Also of those whose classes refuse attributes, as frozen dataclasses do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

_TRACEBACK: Any = BaseException.__dict__["__traceback__"]  # what a class makes of these names is its own affair
_CAUSE: Any = BaseException.__dict__["__cause__"]
_ATTRIBUTES: Any = BaseException.__dict__["__dict__"]


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


def notes_of(error: BaseException) -> list[Any]:
    """Give the notes, of which nobody knows that they are texts; none where something else is in their place."""
    notes = _ATTRIBUTES.__get__(error).get("__notes__")
    return list(notes) if isinstance(notes, (list, tuple)) else []


def add_note(error: BaseException, note: str) -> None:
    """Add a note."""
    set_notes(error, [*notes_of(error), note])


def set_notes(error: BaseException, notes: list[str]) -> None:
    """Put notes in the place of what is there."""
    _ATTRIBUTES.__get__(error)["__notes__"] = notes
