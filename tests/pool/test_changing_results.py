"""What an item returns is what the caller gets, also where a later item changes it."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import pytest

from poolinject._atoms import snapshot
from poolinject._worker import chunks, recording
from tests.conftest import FORK

LIST: list[Any] = [0]
DICT: dict[str, int] = {}
SET: set[int] = set()
NESTED: list[list[int]] = [[]]


def same_list(item: int) -> list[Any]:
    """Give one object again and again."""
    LIST[0] = item
    return LIST


def same_dict(item: int) -> dict[str, int]:
    """Do so with a dict."""
    DICT["item"] = item
    return DICT


def same_set(item: int) -> set[int]:
    """Do so with a set."""
    SET.clear()
    SET.add(item)
    return SET


def same_nested(item: int) -> list[list[int]]:
    """Do so with a list that has a list in it."""
    NESTED[0][:] = [item]
    return NESTED


def now_and_then(item: int) -> Any:
    """Do so once in a while."""
    return same_nested(item) if item % 100 == 99 else item


def pair(item: int) -> tuple[int, int]:
    """Give something that cannot change."""
    return item, item


CASES: list[tuple[Callable[[int], Any], Callable[[int], Any]]] = [
    (same_list, lambda item: [item]),
    (same_dict, lambda item: {"item": item}),
    (same_set, lambda item: {item}),
    (same_nested, lambda item: [[item]]),
    (now_and_then, lambda item: [[item]] if item % 100 == 99 else item),
    (pair, lambda item: (item, item)),
]


@pytest.mark.parametrize("share", [1.0, 0.0], ids=["uncounted", "counted"])
@pytest.mark.parametrize(("function", "expected"), CASES, ids=lambda case: case.__name__)
def test_results_are_taken_at_once(
    monkeypatch: pytest.MonkeyPatch, function: Callable[[int], Any], expected: Callable[[int], Any], share: float
) -> None:
    """However quick the functions are, in every way to run them."""
    monkeypatch.setattr(recording.Conduct, "is_quicker_than", lambda _, seconds, **__: seconds > 0)
    monkeypatch.setattr(chunks, "BULK_SHARE", share)
    right = [expected(item) for item in range(3000)]
    with FORK.pool(2) as pool:
        assert pool.map(function, range(3000)) == right
        assert list(pool.imap(function, iter(range(3000)))) == right
        assert pool.map(function, range(3000), chunksize=1000, delivery="at_most_once") == right
        outcomes: list[Any] = sorted(pool.outcomes(function, range(3000)), key=lambda outcome: outcome.index)
        assert [outcome.value for outcome in outcomes] == right


def test_results_do_not_share_what_can_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each item has its own in the caller."""
    monkeypatch.setattr(recording.Conduct, "is_quicker_than", lambda *_, **__: True)
    with FORK.pool(1) as pool:
        results = pool.map(same_list, range(1000))
    assert len(set(map(id, results))) == 1000


class Colour(Enum):
    """As in rows of a table."""

    RED = 1


class Point(NamedTuple):
    """A row with names."""

    x: object
    y: int = 0


class Odder(NamedTuple):
    """Another one, which has a say in how it is pickled."""

    x: int

    def __reduce__(self) -> str:
        return "odder"


class Unhashed(type):
    """A metaclass whose classes cannot be looked up."""

    def __hash__(cls) -> int:
        raise ValueError("hash")


class Odd(metaclass=Unhashed):
    """Of such a class."""


RECORD = np.zeros(1, dtype=[("a", "i4")])[0]  # of numpy's scalars the one that can change
DAY, NOON = dt.date(2026, 1, 2), dt.time(12)
UTC, PARIS = dt.datetime(2026, 1, 2, tzinfo=dt.UTC), dt.datetime(2026, 1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Paris"))


@pytest.mark.parametrize(
    ("value", "is_flat"),
    [((1, "a"), True), ([1, None], True), ({1: 2.0}, True), ([], True), ([[]], False), ({1: []}, False),
     (((),), False), ({1}, True), ({(1,)}, False), (1, True), (object(), False),
     (DAY, True), (NOON, True), (UTC, True), (PARIS, False),
     (Colour.RED, True), (Colour, False), ((DAY, Decimal(1), UTC, Colour.RED, 1j), True), ({DAY: [UTC]}, False),
     (np.float64(1), True), (np.datetime64(DAY), True), ((np.int8(1), "a"), True), (np.ones(1), False), (RECORD, False),
     (Point(1), True), (Point([]), False), (Odder(1), False), (type("Sub", (Point,), {})(1), False),
     ([PARIS], False), (Odd(), False), ((Odd(),), False), ([Odd()], False), ({1: Odd()}, False)],
)  # fmt: skip
def test_snapshot_is_of_what_nobody_can_change(value: object, is_flat: bool) -> None:
    """Of atoms and flat containers of them: equal to them and, if they can change, another one."""
    copy = snapshot(value)
    assert bool(copy == value) is is_flat
    assert copy is not value or not isinstance(value, (list, dict, set))
