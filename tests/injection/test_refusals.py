"""What is refused only as it is used here: with overrides, in other places, with what a remedy must say."""

# ruff: noqa: D103 - a provider says it in its name
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest

from poolinject import Depends, PlanError
from poolinject._injection.plan import Call, Plan
from poolinject._injection.planner import Planner
from poolinject._injection.registry import Registry
from poolinject.markers import Provider
from tests.injection.golden_shapes import FUNCTION_SCOPE, HAS_SCOPE


def make_plan(
    function: Callable[..., Any], call: Call = "map", overrides: dict[Provider, Provider] | None = None
) -> Plan:
    """Plan a function with overrides."""
    return Planner(Registry(), {}, overrides or {}).plan(function, call)


def get_plain() -> int:
    return 1


def get_generator() -> Iterator[int]:
    yield 1


def get_above_function_scope(child: Annotated[int, Depends(get_generator, **FUNCTION_SCOPE)]) -> Iterator[int]:
    yield child


def get_plain_above_function_scope(child: Annotated[int, Depends(get_generator, **FUNCTION_SCOPE)]) -> int:
    return child


@pytest.mark.skipif(not HAS_SCOPE, reason="this FastAPI has no Depends(scope=)")
def test_what_is_used_decides_when_it_is_closed() -> None:
    """A generator in the place of a plain provider is closed with the request; a plain one is not closed at all."""

    def function(item: int, plain: Annotated[int, Depends(get_plain)]) -> None:
        """Use it."""

    def above(item: int, late: Annotated[int, Depends(get_above_function_scope)]) -> None:
        """Use what is refused as it is."""

    with pytest.raises(PlanError, match="get_generator has scope 'function' and is closed before") as raised:
        make_plan(function, overrides={get_plain: get_above_function_scope})
    assert raised.value.path == ("function", "get_above_function_scope", "child")
    plan = make_plan(above, overrides={get_above_function_scope: get_plain_above_function_scope})
    assert [step.name for step in plan.steps] == ["get_generator", "get_plain_above_function_scope"]
