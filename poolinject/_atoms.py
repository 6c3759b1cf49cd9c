"""The types whose objects nobody can change: results of them may be pickled later, and together."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import sys
from collections.abc import Iterable
from typing import Any

from poolinject._references import follows_reference

ATOMS = frozenset((
    *(type(None), bool, int, float, complex, str, bytes),
    *(dt.date, dt.timedelta, decimal.Decimal),
))  # fmt: skip # plain pickle takes each of them
IDS = frozenset(map(id, ATOMS))  # to look a type up without asking its metaclass, whose ``__hash__`` may be anybody's
KNOWN: dict[int, type] = {id(kind): kind for kind in ATOMS}  # with others that were found to be atoms' types since
ROWS: dict[int, type] = {}  # the same of named tuples, by id
OWN_PICKLING = frozenset(("__reduce__", "__reduce_ex__", "__getnewargs_ex__", "__getstate__", "__setstate__"))
ZONES = frozenset((type(None), dt.timezone))  # of times that are atoms, too


def is_atom(value: object) -> bool:
    """Tell whether nobody can change an object. A member of an ``Enum`` may still refuse to be pickled.

    Raises:
        BaseException: What a metaclass raises that is asked for the module or the name of a class.
    """
    kind = type(value)
    if kind is dt.datetime or kind is dt.time:
        return type(value.tzinfo) in ZONES  # type: ignore[attr-defined]  # mypy does not see what it is by now
    if id(kind) in KNOWN:
        return True
    if _is_numpy_scalar(kind) or (issubclass(type(kind), enum.EnumMeta) and _is_found(kind)):
        KNOWN[id(kind)] = kind
        return True
    return False


def _is_found(kind: type) -> bool:
    """Tell whether another process finds a class by module and name; one that goes by value is not packed together."""
    found: object = sys.modules.get(kind.__module__) if follows_reference(kind) else None
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind


def _is_numpy_scalar(kind: type) -> bool:
    """Tell whether a class is one of numpy's own scalars; records, which can change, are ``void`` ones."""
    numpy: Any = sys.modules.get("numpy") if kind.__module__ == "numpy" else None
    return numpy is not None and issubclass(kind, numpy.generic) and not issubclass(kind, numpy.void)


def snapshot(value: Any) -> Any:
    """Give an atom, a tuple, named or not, or a copy of a list, set or dict, of nothing but atoms; else ``None``."""
    kind: Any = type(value)
    try:
        if kind is tuple or kind is list or kind is set:
            is_flat = _are_atoms(value)
        elif kind is dict:
            is_flat = _are_atoms(value) and _are_atoms(value.values())
        elif is_named_tuple(kind):
            return value if _are_atoms(value) else None
        else:
            return value if is_atom(value) else None
    except BaseException:  # noqa: BLE001 - a metaclass may raise anything
        return None
    if not is_flat:
        return None
    return value if kind is tuple else value.copy()


def is_named_tuple(kind: Any) -> bool:
    """Tell whether a class was made by ``collections.namedtuple`` and has no say of its own in how it is pickled."""
    if id(kind) in ROWS:
        return True
    if type(kind) is not type or kind.__bases__ != (tuple,) or not OWN_PICKLING.isdisjoint(vars(kind)):
        return False
    if not str(kind.__new__.__module__).startswith("namedtuple_") or not _is_found(kind):
        return False
    ROWS[id(kind)] = kind
    return True


def _are_atoms(values: Iterable[object]) -> bool:
    for value in values:  # noqa: SIM110 - ``all`` takes twice as long
        if id(type(value)) not in KNOWN and not is_atom(value):
            return False
    return True
