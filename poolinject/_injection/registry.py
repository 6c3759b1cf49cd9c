"""Identities that survive the wire: the same provider has the same number for a pool's whole life. Caller only."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from poolinject.markers import Provider

Value = TypeVar("Value")
MOST_KEPT = 1024  # plans, and what is made of them: a loop may come with a new closure each time


def identity(call: Provider) -> Hashable:
    """Give what a callable is the same by: ``==`` and hash, or the object itself where it cannot be hashed."""
    try:
        hash(call)
    except TypeError:
        return _ById(call)
    return call


class _ById:
    """Holds the callable, so that its ``id`` is not used again."""

    __slots__ = ("call",)

    def __init__(self, call: Provider) -> None:
        self.call = call

    def __hash__(self) -> int:
        return id(self.call)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.call is self.call


def look_up(mapping: Mapping[Provider, Value], call: Provider) -> Value | None:
    """Find a callable in a mapping that users keyed by callables."""
    try:
        return mapping.get(call)
    except TypeError:  # not hashable, so it cannot be a key
        return None


def keep(kept: dict[Any, Value], key: object, value: Value, most: int = MOST_KEPT) -> Value:
    """Keep a value, and let go of the oldest where there are many."""
    while len(kept) >= most:
        del kept[next(iter(kept))]
    kept[key] = value
    return value


class Registry:
    """Numbers for structures (tuples of numbers and callables): equal structures, one number; never forgotten."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    def number(self, structure: Hashable) -> int:
        """Give the number of a structure, a new one on first sight."""
        with self._lock:
            return self._numbers.setdefault(structure, len(self._numbers))
