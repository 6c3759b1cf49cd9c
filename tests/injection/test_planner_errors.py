"""Everything that can be declared wrongly: the error names the way to it and what to do."""

# ruff: noqa: D103 - a provider says it in its name
from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Request, Response, WebSocket
from fastapi import Depends as FastapiDepends
from fastapi.requests import HTTPConnection

from poolinject import DependencyCycleError, Depends, ItemContext, LifetimeError, PlanError
from poolinject._injection.plan import Call
from poolinject._injection.planner import Planner
from poolinject._injection.registry import Registry
from poolinject._injection.signature import name_of
from poolinject.markers import Lifetime, Provider
from tests.injection.golden_shapes import FUNCTION_SCOPE, HAS_SCOPE


@dataclass
class Case:
    """A wrong declaration and what its error must say."""

    function: Callable[..., Any]
    path: tuple[str, ...]
    says: str
    error: type[PlanError] = PlanError
    call: Call = "map"
    lifetimes: dict[Provider, Lifetime] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Return the name of the function."""
        return name_of(self.function)


def get_plain() -> int:
    return 1


def get_other() -> int:
    return 2


# cycles


def get_chicken(egg: Annotated[int, FastapiDepends(lambda: None)]) -> int:
    return egg


def get_egg(chicken: Annotated[int, FastapiDepends(get_chicken)]) -> int:
    return chicken


get_chicken.__annotations__["egg"] = Annotated[int, FastapiDepends(get_egg)]


def in_a_circle(item: int, egg: Annotated[int, FastapiDepends(get_egg)]) -> None:
    """Depend on what depends on itself."""


def of_itself(item: int, again: int = FastapiDepends(lambda: None)) -> None:
    """Depend on this very function."""


of_itself.__defaults__ = (FastapiDepends(of_itself),)

# lifetimes


def get_short(plain: Annotated[int, Depends(get_plain, lifetime="item")]) -> int:
    return plain


def get_worker_made(plain: Annotated[int, Depends(get_plain, lifetime="worker")]) -> int:
    return plain


def item_below_worker(item: int, short: Annotated[int, Depends(get_short, lifetime="worker")]) -> None:
    """Keep for the worker what is made of something kept for an item."""


def item_below_pool(item: int, short: Annotated[int, Depends(get_short, lifetime="pool")]) -> None:
    """Keep for the pool what is made of something kept for an item."""


def worker_below_pool(item: int, made: Annotated[int, Depends(get_worker_made, lifetime="pool")]) -> None:
    """Keep for the pool what is made of something kept for a worker."""


def declared_outside(item: int, short: Annotated[int, FastapiDepends(get_short)]) -> None:
    """Have the lifetime declared by ``lifetimes=``."""


def get_from_item(item: int) -> int:
    return item


def item_parameter_below_pool(item: int, made: Annotated[int, Depends(get_from_item, lifetime="pool")]) -> None:
    """Keep for the pool what is made of the item."""


def get_from_context(context: ItemContext) -> int:
    return context.index


def get_above_context(made: Annotated[int, FastapiDepends(get_from_context)]) -> int:
    return made


def item_context_below_worker(item: int, made: Annotated[int, Depends(get_above_context, lifetime="worker")]) -> None:
    """Keep for the worker what is made of the context of an item."""


# what nothing fills


def get_page(page: int) -> int:
    return page


def nothing_fills(item: int, page: Annotated[int, FastapiDepends(get_page)]) -> None:
    """Need a query value."""


def second_parameter_of_map(item: int, other: int) -> None:
    """Need a second member where the item is one."""


def keyword_only(item: int, *, other: int) -> None:
    """Need a keyword."""


def get_unresolved(page: Missing) -> int:  # type: ignore[name-defined]  # noqa: F821 - the case
    return int(page)


def unresolved(item: int, page: Annotated[int, FastapiDepends(get_unresolved)]) -> None:
    """Need what has an annotation that cannot be evaluated."""


def unresolved_depends(item: int, page: Missing = FastapiDepends()) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Have nothing to call but a name that cannot be evaluated."""


def nothing_to_call(item: int, page=FastapiDepends()) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Have neither a provider nor an annotation."""


def not_callable(item: int, page: Annotated[int, FastapiDepends(42)]) -> None:
    """Have something that is no provider."""


# what belongs to a request


def get_user(request: Request) -> str:
    return str(request)


def needs_request(item: int, user: Annotated[str, FastapiDepends(get_user)]) -> None:
    """Need the request, one level down."""


def needs_response(item: int, response: Response) -> None:
    """Need the response."""


def needs_websocket(item: int, socket: WebSocket) -> None:
    """Need a socket."""


def needs_tasks(item: int, tasks: BackgroundTasks) -> None:
    """Need background tasks."""


def needs_connection(item: int, connection: HTTPConnection) -> None:
    """Need either kind of connection."""


# two markers


def two_styles(item: int, page: Annotated[int, FastapiDepends(get_plain)] = FastapiDepends(get_other)) -> None:
    """Say it in the annotation and in the default."""


# the function


def get_function_scoped() -> Iterator[int]:
    yield 1


def get_request_scoped(inner: Annotated[int, Depends(get_function_scoped, **FUNCTION_SCOPE)]) -> Iterator[int]:
    yield inner


def closes_too_early(item: int, made: Annotated[int, FastapiDepends(get_request_scoped)]) -> None:
    """Have a generator that outlives what it is made of."""


def no_item_parameter(page: Annotated[int, FastapiDepends(get_plain)]) -> None:
    """Take no item."""


def no_parameter() -> None:
    """Take nothing."""


async def async_generator(item: int) -> AsyncIterator[int]:
    yield item


def generator(item: int) -> Iterator[int]:
    yield item


class GeneratorCall:
    """Has a call that is a generator."""

    def __call__(self, item: int) -> Iterator[int]:
        yield item


class AsyncGeneratorCall:
    """Has a call that is an async generator."""

    async def __call__(self, item: int) -> AsyncIterator[int]:
        yield item


CASES = [
    Case(
        in_a_circle,
        ("in_a_circle", "get_egg", "get_chicken", "get_egg"),
        "depend on each other in a circle. Take one",
        DependencyCycleError,
    ),
    Case(of_itself, ("of_itself", "of_itself"), "in a circle", DependencyCycleError),
    Case(
        item_below_worker,
        ("item_below_worker", "get_short", "plain"),
        "get_plain has lifetime 'item' but what depends on it has 'worker'. Give get_plain the lifetime 'worker'",
        LifetimeError,
    ),
    Case(item_below_pool, ("item_below_pool", "get_short", "plain"), "has 'pool'", LifetimeError),
    Case(
        worker_below_pool,
        ("worker_below_pool", "get_worker_made", "plain"),
        "get_plain has lifetime 'worker' but what depends on it has 'pool'",
        LifetimeError,
    ),
    Case(
        declared_outside,
        ("declared_outside", "get_short", "plain"),
        "has lifetime 'item' but what depends on it has 'pool'",
        LifetimeError,
        lifetimes={get_short: "pool"},
    ),
    Case(
        item_parameter_below_pool,
        ("item_parameter_below_pool", "get_from_item", "item"),
        "of lifetime 'pool' cannot use the item parameter 'item'",
        LifetimeError,
    ),
    Case(
        item_context_below_worker,
        ("item_context_below_worker", "get_above_context", "get_from_context", "context"),
        "of lifetime 'worker' cannot use ItemContext",
        LifetimeError,
    ),
    Case(
        nothing_fills,
        ("nothing_fills", "get_page", "page"),
        "nothing fills this parameter. Give it a Depends or a default, name it like the item parameter (item)",
    ),
    Case(second_parameter_of_map, ("second_parameter_of_map", "other"), "Give it a Depends or a default"),
    Case(keyword_only, ("keyword_only", "other"), "nothing fills"),
    Case(keyword_only, ("keyword_only", "other"), "nothing fills", call="starmap"),
    Case(no_parameter, ("no_parameter",), "no parameter for the item. Add a first parameter"),
    Case(async_generator, ("async_generator",), "which no worker does. Write a coroutine function: return ["),
    Case(partial(async_generator, 1), ("async_generator",), "Write a coroutine function"),
    Case(generator, ("generator",), "a generator does nothing until it is iterated, which no worker does. Return a"),
    Case(generator, ("generator",), "or move the loop to the caller", call="broadcast"),
    Case(partial(generator, 1), ("generator",), "a generator does nothing"),
    Case(GeneratorCall(), ("GeneratorCall()",), "a generator does nothing"),
    Case(GeneratorCall().__call__, ("GeneratorCall.__call__",), "a generator does nothing"),
    Case(AsyncGeneratorCall(), ("AsyncGeneratorCall()",), "an async generator does nothing"),
    Case(no_item_parameter, ("no_item_parameter",), "no parameter for the item. Add a first parameter"),
    Case(second_parameter_of_map, ("second_parameter_of_map", "item"), "nothing fills", call="broadcast"),
    Case(unresolved, ("unresolved", "get_unresolved", "page"), "its annotation 'Missing' cannot be evaluated: NameErr"),
    Case(
        unresolved_depends,
        ("unresolved_depends", "page"),
        "the annotation 'Missing' cannot be evaluated (NameError: name 'Missing' is not defined). Import the name",
    ),
    Case(nothing_to_call, ("nothing_to_call", "page"), "Depends() has nothing to call. Annotate"),
    Case(not_callable, ("not_callable", "page"), "42 cannot be called. Give Depends a callable"),
    Case(
        needs_request,
        ("needs_request", "get_user", "request"),
        "there is no Request outside a web request. Replace get_user for the pool: overrides={get_user: a provider",
    ),
    Case(needs_response, ("needs_response", "response"), "there is no Response outside"),
    Case(needs_websocket, ("needs_websocket", "socket"), "there is no WebSocket outside"),
    Case(needs_tasks, ("needs_tasks", "tasks"), "there is no BackgroundTasks outside"),
    Case(needs_connection, ("needs_connection", "connection"), "there is no HTTPConnection outside"),
    Case(two_styles, ("two_styles", "page"), "two Depends on one parameter (get_plain and get_other). Keep one"),
    Case(
        closes_too_early,
        ("closes_too_early", "get_request_scoped", "inner"),
        "get_function_scoped has scope 'function' and is closed before the generator",
    ),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.id}-{case.call}") for case in CASES])
def test_wrong_declaration_is_named(case: Case) -> None:
    """The path leads from the function to the culprit; problem and remedy are told."""
    if case.function is closes_too_early and not HAS_SCOPE:
        pytest.skip("this FastAPI has no Depends(scope=)")
    planner = Planner(Registry(), case.lifetimes, {})
    with pytest.raises(PlanError) as raised:
        planner.plan(case.function, case.call)
    assert raised.type is case.error
    assert raised.value.path == case.path
    assert case.says in str(raised.value)
    assert str(raised.value).startswith(" -> ".join(case.path))
    assert raised.value.remedy


def test_wrapper_that_makes_a_list_of_a_generator_is_a_function() -> None:
    """Neither what it wraps nor what it is an instance of makes it a generator."""

    @wraps(generator)
    def listing(*args: int) -> list[int]:
        return list(generator(*args))

    assert Planner(Registry(), {}, {}).plan(listing, "map").leading == ("item",)
    assert Planner(Registry(), {}, {}).plan(enumerate, "map").name == "enumerate"


@pytest.mark.parametrize("lifetime", ["request", "Item", "", "forever"])
def test_unknown_lifetime_is_refused_where_it_is_written(lifetime: Any) -> None:
    """Both places name the three that there are."""
    with pytest.raises(ValueError, match="is not one of 'item', 'worker', 'pool'"):
        Depends(get_plain, lifetime=lifetime)
    with pytest.raises(ValueError, match="is not one of 'item', 'worker', 'pool'"):
        Planner(Registry(), {get_plain: lifetime}, {})


def test_lifetime_of_something_that_is_no_provider_is_refused() -> None:
    """A typing slip in ``lifetimes=`` is found at once."""
    with pytest.raises(TypeError, match="cannot be called"):
        Planner(Registry(), {"get_plain": "pool"}, {})  # type: ignore[dict-item]


def test_failed_plan_leaves_the_planner_usable() -> None:
    """The next plan is made as if nothing had happened."""
    planner = Planner(Registry(), {}, {})
    with pytest.raises(PlanError):
        planner.plan(nothing_fills, "map")
    assert planner.plan(get_from_item, "map").leading == ("item",)


@pytest.mark.parametrize("gets", [False, True])
def test_dependencies_nested_beyond_the_recursion_limit_are_a_plan_error(*, gets: bool) -> None:
    provider: Provider = abs
    for _ in range(sys.getrecursionlimit()):

        def one_above(below: Any = Depends(provider)) -> Any:
            return below

        provider = one_above
    planner = Planner(Registry(), {}, {})
    with pytest.raises(PlanError, match=r"one_above: .* nested too deeply .* sys.setrecursionlimit") as caught:
        planner.plan_get(provider) if gets else planner.plan(provider, "broadcast")
    assert caught.value.path[0].endswith("one_above")
