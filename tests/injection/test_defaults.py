"""Defaults: each call gets its own of what can be changed, and the very object of what is compared with ``is``."""

from __future__ import annotations

import dataclasses
import enum
import threading
from collections import deque
from datetime import timedelta
from typing import Annotated, Any

import pytest

from poolinject import Depends, InjectedPool, Resolver
from poolinject._injection.defaults import needs_copy


class Token:
    """A sentinel, or the holder of something."""


class Slotted:
    """May hold one thing."""

    __slots__ = ("held",)


class Nothing(enum.Enum):
    """The sentinel that type checkers understand."""

    NOTHING = "nothing"


class Copied(Token):
    """Says itself how it is copied."""

    def __deepcopy__(self, _memo: object) -> Copied:
        return Copied()


class Lazy:
    """Refuses to say anything before it is set up."""

    def __getattr__(self, name: str) -> object:
        message = f"not set up: {name}"
        raise RuntimeError(message)


class Disguised:
    """Refuses to say even what it is, as Django's settings do."""

    def __getattribute__(self, name: str) -> object:
        message = f"not set up: {name}"
        raise RuntimeError(message)


def holding(holder: Any) -> Any:
    """Put a value into an object."""
    holder.held = 1
    return holder


MISSING = object()
COPIED = [[], {}, set(), bytearray(), deque(), ([],), holding(Token()), holding(Slotted()), Copied()]
LEFT = [
    None, 1, "text", (), (1, "a"), frozenset({1, 2}), MISSING, (MISSING, 1), Token(), Slotted(), Nothing.NOTHING, Token,
    len, lambda: None, threading.Lock(), Lazy(),
]  # fmt: skip


@dataclasses.dataclass
class Row:
    """Shows a sentinel as the default of what a factory makes."""

    number: int
    tags: list[str] = dataclasses.field(default_factory=list)


def is_missing(item: object, default: object = MISSING) -> bool:
    """Compare with the sentinel of this module, as it is where this runs."""
    return default is MISSING


def get_default(default: object = MISSING) -> object:
    """Give what a provider has been given."""
    return default


def given(item: object, default: Annotated[object, Depends(get_default)]) -> bool:
    """Do as ``is_missing`` by way of a provider."""
    return default is MISSING


@pytest.mark.parametrize("default", COPIED, ids=lambda value: type(value).__name__)
def test_what_can_be_changed_is_copied(default: object) -> None:
    """Empty or not."""
    assert needs_copy(default)


@pytest.mark.parametrize("default", LEFT, ids=lambda value: type(value).__name__)
def test_what_only_is_itself_is_not_copied(default: object) -> None:
    """Nor what refuses to be copied."""
    check_left(default)


def test_what_refuses_to_say_what_it_is_is_not_copied() -> None:
    """Its methods are looked at on its type, if at all."""
    check_left(Disguised())


def check_left(default: object) -> None:
    """Check that the default arrives as it is."""

    def function(item: object, default: object = default) -> object:
        return default

    assert not needs_copy(default)
    with Resolver() as resolver:
        assert resolver.call(function) is default


def test_what_python_would_copy_and_nobody_can_change_is_as_it_was() -> None:
    """Whether it is copied makes no difference."""

    def function(item: object, limit: timedelta = timedelta(seconds=1)) -> timedelta:
        return limit

    with Resolver() as resolver:
        assert resolver.call(function) == timedelta(seconds=1)


@pytest.mark.parametrize("backend", ["inline", "thread", "process"])
def test_sentinel_is_the_one_that_the_function_compares_with(backend: str) -> None:
    """In a worker that imports the function, and in one that gets it by value; also of a tuple that is too short."""

    def local(item: object, default: object = MISSING, *, wanted: tuple[object] = (MISSING,)) -> bool:
        return default is wanted[0]

    with InjectedPool(1, backend=backend) as pool:
        assert pool.map(Row, [1, 2]) == [Row(1), Row(2)]
        for function in (is_missing, given, local):
            assert pool.map(function, [1]) == [True], function
        assert pool.starmap(Row, [(1,), (2, ["a"])]) == [Row(1), Row(2, ["a"])]
        assert pool.starmap(is_missing, [(1,), (1, 2)]) == [True, False]
        assert pool.starmap(local, [(1,), (1, 2)]) == [True, False]
