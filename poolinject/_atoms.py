"""The types whose objects nobody can change: results of them may be pickled later, and together."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
from collections.abc import Iterable
from typing import Any

ATOMS = frozenset((
    *(type(None), bool, int, float, complex, str, bytes),
    *(dt.date, dt.timedelta, decimal.Decimal),
))  # fmt: skip # plain pickle takes each of them
IDS = frozenset(map(id, ATOMS))  # to look a type up without asking its metaclass, whose ``__hash__`` may be anybody's
ZONES = frozenset((type(None), dt.timezone))  # of times that are atoms, too


def is_atom(value: object) -> bool:
    """Tell whether nobody can change an object. A member of an ``Enum`` may still refuse to be pickled.

    Raises:
        BaseException: What looking up the type raises, where its metaclass has a ``__hash__`` of its own.
    """
    kind = type(value)
    if kind is dt.datetime or kind is dt.time:
        return type(value.tzinfo) in ZONES  # type: ignore[attr-defined]  # mypy does not see what it is by now
    return kind in ATOMS or issubclass(type(kind), enum.EnumMeta)


def snapshot(value: Any) -> Any:
    """Give an atom, a tuple, or a copy of a list or dict, of nothing but atoms; ``None`` for anything else."""
    kind: Any = type(value)
    try:
        if kind is tuple or kind is list:
            is_flat = _are_atoms(value)
        elif kind is dict:
            is_flat = _are_atoms(value) and _are_atoms(value.values())
        else:
            return value if is_atom(value) else None
    except BaseException:  # noqa: BLE001 - a metaclass may raise anything
        return None
    if not is_flat:
        return None
    return value if kind is tuple else value.copy()


def _are_atoms(values: Iterable[object]) -> bool:
    for value in values:  # noqa: SIM110 - ``all`` takes twice as long
        if type(value) not in ATOMS and not is_atom(value):
            return False
    return True
