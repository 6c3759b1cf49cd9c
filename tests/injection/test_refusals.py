"""What is refused only as it is used here: with overrides, in other places, with what a remedy must say."""

# ruff: noqa: D103 - a provider says it in its name
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NewType, Protocol

import pytest
from fastapi import Request, Response

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


def args_with_depends(item: int, *many: Annotated[int, Depends(get_plain)]) -> None:
    """Have it on any number of positions."""


def kwargs_with_depends(item: int, **many: Annotated[int, Depends(get_plain)]) -> None:
    """Have it on any number of names."""


@pytest.mark.parametrize(("wrong", "name"), [(args_with_depends, "*many"), (kwargs_with_depends, "**many")])
def test_depends_where_any_number_may_come_is_refused(wrong: Callable[..., None], name: str) -> None:
    """In the function and below it."""

    def function(item: int, below: Annotated[None, Depends(wrong)]) -> None:
        """Have it below."""

    for outer, way in ((wrong, [wrong.__name__]), (function, ["function", wrong.__name__])):
        with pytest.raises(PlanError) as raised:
            make_plan(outer)
        assert raised.value.path == (*way, "many")
        assert raised.value.problem == f"a Depends cannot fill {name}"


class TypeAliasType:
    """Stands for ``type Later = Annotated[int, Depends(nope)]`` of Python 3.12."""

    def __str__(self) -> str:
        return "Later"

    @property
    def __value__(self) -> object:
        return nope  # type: ignore[name-defined]  # noqa: F821 - the case


def test_alias_that_cannot_be_evaluated_is_told_as_other_annotations_are() -> None:
    """It matters only where nothing else fills the parameter."""

    def function(item: int, later: TypeAliasType() = 5) -> int:  # type: ignore[valid-type]
        return later  # type: ignore[no-any-return]

    def wrong(item: int, later: TypeAliasType()) -> None:  # type: ignore[valid-type]
        """Have no default."""

    assert make_plan(function).arguments == ()
    with pytest.raises(PlanError, match=r"its annotation 'Later' cannot be evaluated: NameError: name 'nope'"):
        make_plan(wrong)


UserId = NewType("UserId", int)


class Repository(Protocol):
    """What another class does."""


class SqlRepository(Repository):
    """That class."""


@pytest.mark.parametrize(("declared", "kind"), [(UserId, "UserId is a NewType"), (Repository, "Repository is a Pro")])
def test_depends_on_what_only_type_checkers_know_is_refused(declared: Any, kind: str) -> None:
    """Where no override stands in its place."""

    def function(item: int, value: Annotated[declared, Depends()]) -> None:
        """Use it."""

    with pytest.raises(PlanError, match=rf"function -> value: Depends\(\) has nothing to call: {kind}.* or override"):
        make_plan(function)
    assert make_plan(function, overrides={declared: SqlRepository}).providers == (SqlRepository,)


def get_user(request: Request) -> str:
    return str(request)


def get_token(authorization: str) -> str:
    return authorization


def two_plain(a: int, b: int) -> None:
    """Take two members of a tuple."""


def named_after(item: int, *, b: int) -> None:
    """Take one by name only."""


def unmarked(item: int, plain: Annotated[int, "text", get_plain]) -> None:
    """Forget the Depends."""


def of_request(item: int, request: Request) -> None:
    """Take what only a route has."""


def of_response(item: int, response: Response) -> None:
    """Take what only a route has, and no application."""


def below(item: int, user: Annotated[str, Depends(get_user)]) -> None:
    """Take it below."""


def required(item: int, token: Annotated[str, Depends(get_token)]) -> None:
    """Need a header."""


@pytest.mark.parametrize(
    ("function", "problem", "remedy"),
    [
        (two_plain, "nothing fills this parameter", "Give it a Depends or a default, or use starmap of a pool, whose"),
        (named_after, "nothing fills this parameter", "Give it a Depends or a default"),
        (unmarked, "(get_plain stands in its Annotated without Depends)", "Give it a Depends or a default, or use"),
        (of_request, "no Request", "Take it out of the signature, or, if it only leads to the application, name that:"),
        (of_response, "no Response", "Take it out of the signature"),
        (below, "no Request", "Replace get_user for the pool: overrides={get_user: a provider that takes no Request},"),
        (
            required,
            "nothing fills this parameter",
            "Give it a Depends or a default, name it like the item parameter (item), or replace get_token for the",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_remedy_fits_the_place(function: Callable[..., Any], problem: str, remedy: str) -> None:
    """No override stands for the function itself; only ``map`` has a ``starmap`` beside it."""
    with pytest.raises(PlanError) as raised:
        make_plan(function)
    assert raised.value.problem.endswith(problem) or raised.value.problem.startswith(f"there is {problem} outside")
    assert raised.value.remedy.startswith(remedy)
    assert ("starmap" in raised.value.remedy) is (function in {two_plain, unmarked})


@pytest.mark.parametrize("provider", [get_user, get_token])
def test_provider_that_is_got_by_itself_may_be_replaced(provider: Callable[..., Any]) -> None:
    """It is no function of a pool, whose parameters nothing replaces."""
    planner = Planner(Registry(), {}, {})
    with pytest.raises(PlanError, match=rf"overrides={{{provider.__name__}: a provider that"):
        planner.plan_get(provider)
    assert Planner(Registry(), {}, {provider: get_plain}).plan_get(provider).providers == (get_plain,)


def test_starmap_does_not_name_itself() -> None:
    """What follows an injected parameter is no member of the tuple."""

    def function(a: int, plain: Annotated[int, Depends(get_plain)], b: int) -> None:
        """Have one behind."""

    with pytest.raises(PlanError, match=r"Give it a Depends or a default$"):
        make_plan(function, "starmap")
