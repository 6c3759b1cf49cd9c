"""Which calls of a function workers take for the same, and what they keep of it."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest

from poolinject import Depends
from poolinject._scheduling import functions as module
from poolinject._scheduling.functions import Functions


def get_one() -> int:
    """Provide."""
    return 1


def get_two() -> int:
    """Provide something else."""
    return 2


def of_main(default: object = None) -> FunctionType:
    """Make a function of a notebook cell, whose plan is made for each call."""

    def load(item: int, one: Any = Depends(get_one), *, default: object = default) -> tuple[int, int, object]:
        return item, one, default

    load.__module__ = "__main__"
    assert isinstance(load, FunctionType)
    return load


def number_of(functions: Functions, function: Callable[..., Any]) -> int:
    """Give the number that a run of it would have."""
    return functions.load(functions.plan(function, "map")).function


@pytest.mark.parametrize("default", [None, "text", 1.5, (1, [2])], ids=repr)
def test_calls_of_one_function_have_one_number(default: object) -> None:
    """Also where its plan is made anew each time, so that workers load it once."""
    functions, load = Functions({}, {}, by_reference=True), of_main(default)
    assert len({number_of(functions, load) for _ in range(5)}) == 1
    assert number_of(functions, of_main(default)) != number_of(functions, load)


def test_what_has_changed_has_another_number() -> None:
    """Say, where a provider means something else since a cell was run again."""
    functions, load = Functions({}, {}, by_reference=True), of_main()
    before = number_of(functions, load)
    load.__defaults__ = (Depends(get_two),)
    assert number_of(functions, load) != before


def test_few_plans_of_main_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest: new closures do not fill the caller."""
    monkeypatch.setattr(module, "MOST_RECENT", 2)
    functions, made = Functions({}, {}, by_reference=True), [of_main() for _ in range(5)]
    before = [number_of(functions, load) for load in made]
    assert number_of(functions, made[-1]) == before[-1]
    assert number_of(functions, made[0]) not in before
