"""A worker's exceptions, sent so that the caller's ``except`` clauses match them.

They are packed in workers and unpacked in the caller. Neither direction raises:
what cannot be sent is replaced, as little of it as possible.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, GetSetDescriptorType, MemberDescriptorType, TracebackType
from typing import Any

from poolinject._transport.codec import decode, encode
from poolinject._transport.picklers import PROTOCOL, Buffer, describe_error, full_name, safe_text
from poolinject.errors import TransportError

_TRACEBACK_LIMIT = 100_000  # characters
_DEPTH_LIMIT = 50  # of groups in groups
_SHORT_FRAMES = 20
_KEPT_FRAMES = 1024
_MEMBERS = (GetSetDescriptorType, MemberDescriptorType)
_frame_texts: dict[tuple[CodeType, int], str] = {}


class RemoteTraceback(Exception):  # noqa: N818 - it is no error of its own, but shows where another one came from
    """The traceback of a worker; the ``__cause__`` of the exception that the caller sees.

    Attributes:
        text: The traceback as Python would have printed it in the worker.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


@dataclass(frozen=True, slots=True)
class Unsent:
    """Stands for an argument or attribute of an exception that could not be sent, and prints like it."""

    text: str

    def __repr__(self) -> str:
        return self.text


class _NotTheSameError(Exception):
    """An exception that would arrive changed."""


def traceback_text(error: BaseException) -> str:
    """Return the traceback with causes and contexts, cut in the middle where it is very long; never raises."""
    try:
        text = _short_traceback(error) or "".join(traceback.format_exception(error))
    except BaseException as failure:  # noqa: BLE001 - never raises
        text = f"{_describe(error)}\n(its traceback could not be formatted: {describe_error(failure)})\n"
    if len(text) <= _TRACEBACK_LIMIT:
        return text
    half = _TRACEBACK_LIMIT // 2 - 50
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _short_traceback(error: BaseException) -> str | None:
    """Format the common case from frames that were formatted before; ``None`` where it is not that case.

    Items tend to fail in the same places, and the marks below a line cost ten times the rest: a parse of the line.
    """
    chained = error.__cause__ is not None or (error.__context__ is not None and not error.__suppress_context__)
    if chained or isinstance(error, BaseExceptionGroup) or error.__traceback__ is None:
        return None
    lines = ["Traceback (most recent call last):\n"]
    frame: TracebackType | None = error.__traceback__
    while frame is not None:
        if len(lines) > _SHORT_FRAMES:  # of a recursion, in which Python counts what repeats
            return None
        place = (frame.tb_frame.f_code, frame.tb_lasti)
        text = _frame_texts.get(place)
        if text is None:
            if len(_frame_texts) >= _KEPT_FRAMES:
                _frame_texts.clear()
            text = _frame_texts[place] = "".join(traceback.format_tb(frame, limit=1))
        lines.append(text)
        frame = frame.tb_next
    return "".join((*lines, *traceback.format_exception_only(error)))


def pack_error(error: BaseException) -> bytes:
    """Return the bytes of *error*; never raises.

    Type, arguments, attributes and notes are kept. An argument or attribute that cannot be pickled becomes `Unsent`;
    an exception that would not come back with its type, and with its text or what that is made of, becomes a
    ``RuntimeError`` that says so. Causes and contexts stay behind: they are in the text of the traceback.
    """
    return _pack(error, 0)


def unpack_error(data: Buffer) -> BaseException:
    """Return the exception of which *data* are the bytes, or what stands in for it; never raises."""
    try:
        description, notes, reason, form, payload = pickle.loads(data)
    except BaseException as failure:  # noqa: BLE001 - never raises
        return RuntimeError(f"an exception of a worker could not be read: {describe_error(failure)}")
    if form is not None:
        try:
            return _load(form, payload)
        except BaseException as failure:  # noqa: BLE001 - never raises
            reason = _reason(failure)
    stand_in = RuntimeError(description)
    for note in notes:
        stand_in.add_note(note)
    stand_in.add_note(f"The original exception could not be sent from the worker: {reason}")
    return stand_in


def _pack(error: BaseException, depth: int) -> bytes:
    reasons = []
    forms = ("group",) if issubclass(type(error), BaseExceptionGroup) else ("whole", "parts")
    for form in forms:
        try:
            payload = _dump(form, error, depth)
            _check_same(error, _load(form, payload))
            return pickle.dumps((_describe(error), _notes(error), "", form, payload), PROTOCOL)
        except BaseException as failure:  # noqa: BLE001 - never raises
            reasons.append(_reason(failure))
    return pickle.dumps((_describe(error), _notes(error), "; ".join(dict.fromkeys(reasons)), None, b""), PROTOCOL)


def _dump(form: str, error: BaseException, depth: int) -> bytes:
    if form == "whole":
        return encode(error, "exception")
    if depth > _DEPTH_LIMIT:
        raise _NotTheSameError("too many groups in groups")
    cls = type(error)
    arguments, state = _parts(error)
    if isinstance(error, BaseExceptionGroup):
        members = [_pack(member, depth + 1) for member in error.exceptions]
        return encode((cls, error.message, members, _sendable_state(state)), "exception group")
    return encode((cls, tuple(map(_sendable, arguments)), _sendable_state(state)), "exception")


def _load(form: str, payload: Buffer) -> BaseException:
    loaded = decode(payload, "exception")
    if form == "whole":
        if not isinstance(loaded, BaseException):
            raise _NotTheSameError(f"it came back as {type(loaded).__qualname__}")
        return loaded
    if form == "group":
        cls, message, members, state = loaded
        return _rebuild(cls, (message, [unpack_error(member) for member in members]), state)
    return _rebuild(*loaded)


def _rebuild(cls: type[BaseException], arguments: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Make an exception with nothing but the constructor of its builtin base, which keeps what C code keeps."""
    base = _builtin_base(cls)
    error = base.__new__(cls, *arguments)
    base.__init__(error, *arguments)
    for name, value in state.items():
        object.__setattr__(error, name, value)
    return error


def _builtin_base(cls: type[BaseException]) -> type[BaseException]:
    return next(base for base in cls.__mro__ if base.__module__ == "builtins" and issubclass(base, BaseException))


def _parts(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of the builtin base's constructor and all attributes."""
    reduced = _builtin_base(type(error)).__reduce__(error)
    arguments: tuple[Any, ...] = reduced[1]  # type: ignore[assignment]
    rest = reduced[2] if len(reduced) > 2 else None  # noqa: PLR2004 - class, arguments and, maybe, state
    return arguments, {**(rest if isinstance(rest, dict) else {}), **_slot_values(error)}


def _slot_values(error: BaseException) -> dict[str, Any]:
    return {name: getattr(error, name) for name in _slots(type(error)) if hasattr(error, name)}


def _slots(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name in ("__dict__", "__weakref__"):
                continue
            private = name.startswith("__") and not name.endswith("__")
            yield f"_{base.__name__.lstrip('_')}{name}" if private else name


def _sendable_state(state: dict[str, Any]) -> dict[str, Any]:
    return {name: _sendable(value) for name, value in state.items()}


def _sendable(value: Any) -> Any:
    try:
        decode(encode(value, "value"))
    except TransportError:
        return Unsent(safe_text(value, repr))
    return value


def _check_same(error: BaseException, loaded: BaseException) -> None:
    if type(loaded) is not type(error):
        raise _NotTheSameError(f"it came back as {full_name(type(loaded))}")
    text, again = safe_text(error), safe_text(loaded)
    if text != again and not _is_like(_contents(error), _contents(loaded)):  # it may name addresses, or a set
        raise _NotTheSameError(f"its text came back as {again!r}")
    if type(error).__reduce__ is not _builtin_base(type(error)).__reduce__:
        return  # its author says what is kept
    if _parts(loaded)[1].keys() != _parts(error)[1].keys():
        raise _NotTheSameError("it came back with other attributes")
    if len(loaded.args) != len(error.args) and not isinstance(error, BaseExceptionGroup):
        raise _NotTheSameError("it came back with other arguments")


def _contents(error: BaseException) -> dict[str, Any]:
    """Give what the text can be made of: arguments, attributes, and what C code keeps beside them."""
    bases = [base for base in type(error).__mro__ if base.__module__ == "builtins"]
    members = {name for base in bases for name, member in vars(base).items() if isinstance(member, _MEMBERS)}
    kept = {name: getattr(error, name) for name in members if not name.startswith("__") and hasattr(error, name)}
    return {**kept, **_parts(error)[1]}


def _is_like(value: Any, again: Any) -> bool:
    """Tell whether a value came back as it was: texts and numbers are the same, of other objects the type is."""
    if type(value) is not type(again):
        return type(again) is Unsent
    if isinstance(value, (str, bytes, int, float, complex)):
        return repr(value) == repr(again)
    if isinstance(value, (list, tuple)):
        return len(value) == len(again) and all(map(_is_like, value, again))
    if isinstance(value, dict):
        return len(value) == len(again) and all(_is_like(value[key], again[key]) for key in value if key in again)
    return True


def _describe(error: BaseException) -> str:
    return f"{full_name(type(error))}: {safe_text(error)}"


def _notes(error: BaseException) -> list[str]:
    try:
        return [note for note in error.__notes__ if type(note) is str]
    except BaseException:  # noqa: BLE001 - never raises
        return []


def _reason(failure: BaseException) -> str:
    return failure.reason if isinstance(failure, TransportError) else describe_error(failure)
