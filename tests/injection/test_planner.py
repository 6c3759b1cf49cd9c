"""Plans: what fills which parameter, with which lifetime, at what cost."""

# ruff: noqa: D103 - a provider says it in its name
import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends as FastapiDepends
from fastapi import FastAPI, Query

from poolinject import Depends, ItemContext, WorkerContext
from poolinject._injection import planner as planner_module
from poolinject._injection import signature, traits
from poolinject._injection.generators import Failed
from poolinject._injection.plan import Call, Fetch, FromStep, Plan, Step
from poolinject._injection.planner import Planner
from poolinject._injection.registry import Registry
from poolinject._injection.runtime import Runtime
from poolinject.markers import Lifetime, Provider

LAYERS, WIDTH = 25, 2


def make_plan(function: Callable[..., Any], call: Call = "map", **lifetimes: Lifetime) -> Plan:
    """Plan a function; the lifetimes are those of its providers by name."""
    by_name = {step.__name__: step for step in (get_number, get_sum)}
    declared: dict[Provider, Lifetime] = {by_name[name]: lifetime for name, lifetime in lifetimes.items()}
    return Planner(Registry(), declared, {}).plan(function, call)


def run(function: Callable[..., Any], item: object, call: Call = "map", index: int = 0) -> Any:
    """Run a function as a worker would."""
    runtime = Runtime(WorkerContext(3, 1, "pool"))
    try:
        result = runtime.bind(make_plan(function, call))(item, index, 1)
    finally:
        assert runtime.close() == []
    if isinstance(result, Failed):
        raise result.error
    return result


def get_number() -> int:
    return 1


def get_sum(number: Annotated[int, FastapiDepends(get_number)]) -> int:
    return number + 1


def make_diamond(*, use_cache: bool = True) -> Callable[..., Any]:
    """Return a function over layers in which everything depends on everything one layer below."""
    layer: list[Callable[..., Any]] = [lambda: 0 for _ in range(WIDTH)]

    def above(left: Callable[..., Any], right: Callable[..., Any]) -> Callable[..., Any]:
        def get(
            a: Annotated[int, FastapiDepends(left, use_cache=use_cache)],
            b: Annotated[int, FastapiDepends(right, use_cache=use_cache)],
        ) -> int:
            return max(a, b) + 1

        return get

    for _ in range(LAYERS):
        layer = [above(*layer) for _ in range(WIDTH)]
    top = above(*layer)

    def function(item: int, top: Annotated[int, FastapiDepends(top)]) -> int:
        return top

    return function


@pytest.mark.parametrize("lifetime", ["item", "pool"])
def test_layered_diamond_is_planned_in_linear_time(monkeypatch: pytest.MonkeyPatch, lifetime: Lifetime) -> None:
    """25 layers of two providers, each on both below: every provider is read a few times and made once."""
    function = make_diamond()
    reads = 0

    def counted(call: Callable[..., Any]) -> Any:
        nonlocal reads
        reads += 1
        return signature.declared_parameters(call)

    monkeypatch.setattr(planner_module, "declared_parameters", counted)
    monkeypatch.setattr(traits, "declared_parameters", counted)
    providers = LAYERS * WIDTH + WIDTH + 1
    top = function.__annotations__["top"].__metadata__[0].dependency
    plan = Planner(Registry(), {top: lifetime}, {}).plan(function, "map")
    assert len(plan.shared if lifetime == "pool" else plan.steps) == providers
    assert reads <= 5 * providers
    assert str(plan.tree).count("Branch") <= 5 * providers


def test_layered_diamond_gives_its_value() -> None:
    """What is planned once is made once, and right."""
    assert run(make_diamond(), 0) == LAYERS + 1


def test_uncached_dependency_is_made_for_each_use() -> None:
    """Two uses without cache are two steps."""

    def function(
        item: int,
        a: Annotated[int, FastapiDepends(get_number)],
        b: Annotated[int, FastapiDepends(get_number, use_cache=False)],
    ) -> None:
        """Use it twice."""

    assert [step.name for step in make_plan(function).steps] == ["get_number", "get_number"]


# the item


def takes_two(a: Any, b: Any = "b", *, number: Annotated[int, FastapiDepends(get_number)]) -> object:
    return a, b, number


@pytest.mark.parametrize(
    ("item", "result"), [(("x",), ("x", "b", 1)), (("x", "y"), ("x", "y", 1)), (["x", "y"], ("x", "y", 1))]
)
def test_starmap_fills_what_a_short_tuple_leaves_out(item: object, result: object) -> None:
    """Defaults are for the members that are not there."""
    assert run(takes_two, item, "starmap") == result


@pytest.mark.parametrize("item", [(), ("x", "y", "z")], ids=len)
def test_starmap_refuses_a_tuple_that_does_not_fit(item: object) -> None:
    """The item fails with an error that counts."""
    with pytest.raises(TypeError, match=r"takes_two\(\) takes 1 to 2 positional arguments but the item has"):
        run(takes_two, item, "starmap")


def test_starmap_passes_any_number_to_star_args() -> None:
    """``*args`` takes what there is, beside what is injected."""

    def function(*args: int, number: Annotated[int, FastapiDepends(get_number)]) -> list[int]:
        return [*args, number]

    assert run(function, (5, 6, 7), "starmap") == [5, 6, 7, 1]
    assert run(function, (), "starmap") == [1]


def test_starmap_of_a_function_that_takes_nothing() -> None:
    """Empty tuples only."""

    def function(number: Annotated[int, FastapiDepends(get_number)]) -> int:
        return number

    assert run(function, (), "starmap") == 1
    with pytest.raises(TypeError, match="takes 0 positional arguments but the item has 1"):
        run(function, (1,), "starmap")


def test_provider_parameter_named_like_the_item_gets_the_item() -> None:
    """At any depth; and each member of a tuple by its own name."""

    def get_twice(a: int) -> int:
        return 2 * a

    def get_both(b: int, twice: Annotated[int, FastapiDepends(get_twice)]) -> list[int]:
        return [b, twice]

    def function(a: int, b: int, both: Annotated[list[int], FastapiDepends(get_both)]) -> list[int]:
        return [a, b, *both]

    assert run(function, (3, 4), "starmap") == [3, 4, 4, 6]


def test_item_parameter_may_come_after_an_injected_one() -> None:
    """The first parameter that is not injected takes the item."""

    def function(number: Annotated[int, FastapiDepends(get_number)], row: str) -> object:
        return number, row

    assert run(function, "r") == (1, "r")


def test_second_parameter_of_map_keeps_its_default() -> None:
    """One item, one parameter."""

    def function(item: int, scale: int = 10) -> int:
        return item * scale

    assert run(function, 4) == 40


def test_builtin_takes_the_item() -> None:
    """What has no signature gets the item as its only argument."""
    assert run(int, "7") == 7
    assert run(max, (3, 9), "starmap") == 9


# defaults and contexts


def test_mutable_default_is_fresh_for_each_item() -> None:
    """What one item does to a default, the next does not see."""

    def get_list(found: list[int] = []) -> list[int]:  # noqa: B006 - the case
        found.append(1)
        return found

    def function(item: int, found: Annotated[list[int], FastapiDepends(get_list)]) -> int:
        return len(found)

    runtime = Runtime(WorkerContext(0, 0, "pool"))
    bound = runtime.bind(make_plan(function))
    assert [bound(item, item, 1) for item in range(3)] == [1, 1, 1]


def test_default_that_cannot_be_copied_is_shared() -> None:
    """A lock as a default is what it is."""
    lock = __import__("threading").Lock()

    def get_lock(lock: Any = lock) -> Any:
        return lock

    def function(item: int, lock: Annotated[Any, FastapiDepends(get_lock)]) -> Any:
        return lock

    assert run(function, 0) is lock


def test_query_marker_gives_its_default() -> None:
    """``Query(5)`` is 5 outside a request; a factory is called for each item."""

    def get_page(
        limit: int = Query(5),
        size: Annotated[int, Query()] = 6,
        tags: Annotated[list[str], Query(default_factory=list)] = ...,  # type: ignore[assignment]
    ) -> object:
        return limit, size

    def get_tags(tags: list[str] = Query(default_factory=list)) -> list[str]:
        tags.append("seen")
        return tags

    def function(
        item: int, page: Annotated[Any, FastapiDepends(get_page)], tags: Annotated[Any, FastapiDepends(get_tags)]
    ) -> object:
        return page, tags

    assert run(function, 0) == ((5, 6), ["seen"])
    assert run(function, 0) == ((5, 6), ["seen"])


def test_contexts_are_injected_by_type() -> None:
    """Whatever the parameter is called, in the function and below."""

    def get_seen(what: ItemContext, who: WorkerContext) -> object:
        return what.index, what.item, what.attempt, what.worker_id, who.worker_id, who.generation, who.pool_name

    def function(this: ItemContext, seen: Annotated[Any, FastapiDepends(get_seen)]) -> object:
        return this.index, seen

    assert run(function, "x", index=5) == (5, (5, "x", 1, 3, 3, 1, "pool"))


# lifetimes


def lifetimes_of(plan: Plan) -> list[str]:
    """List the lifetimes of what the plan fetches or makes, in order."""
    return [step.source.lifetime if isinstance(step, Fetch) else "item" for step in plan.steps]


def test_lifetimes_option_wins_over_the_marker() -> None:
    """The caller of the pool has the last word."""

    def function(item: int, number: Annotated[int, Depends(get_number, lifetime="worker")]) -> None:
        """Use it."""

    assert lifetimes_of(make_plan(function)) == ["worker"]
    assert lifetimes_of(make_plan(function, get_number="pool")) == ["pool"]
    assert lifetimes_of(make_plan(function, get_number="item")) == ["item"]


def test_unmarked_provider_lives_as_long_as_what_depends_on_it() -> None:
    """Below a pool dependency it is kept with it, beside it it is made for each item."""

    def function(
        item: int, total: Annotated[int, FastapiDepends(get_sum)], number: Annotated[int, FastapiDepends(get_number)]
    ) -> None:
        """Use both."""

    plan = make_plan(function, get_sum="pool")
    assert [(node.name, node.lifetime) for node in plan.shared] == [("get_number", "pool"), ("get_sum", "pool")]
    assert lifetimes_of(plan) == ["pool", "item"]


def test_same_provider_has_the_same_key_in_every_plan() -> None:
    """Two functions of a pool share its instance."""

    def first(item: int, total: Annotated[int, FastapiDepends(get_sum)]) -> None:
        """Use it."""

    def second(item: int, total: Annotated[int, FastapiDepends(get_sum)]) -> None:
        """Use it too."""

    planner = Planner(Registry(), {get_sum: "pool"}, {})
    assert planner.plan(first, "map").shared == planner.plan(second, "map").shared


def test_markers_that_differ_in_lifetime_stay_apart() -> None:
    """``typing`` keeps one of two equal annotations; these are not equal."""
    pooled, for_worker = Depends(get_number, lifetime="pool"), Depends(get_number, lifetime="worker")
    assert pooled != for_worker
    assert pooled == Depends(get_number, lifetime="pool")
    assert hash(pooled) == hash(Depends(get_number, lifetime="pool"))
    assert pooled != "something else"

    def function(item: int, a: Annotated[int, pooled], b: Annotated[int, for_worker]) -> None:
        """Use both."""

    assert lifetimes_of(make_plan(function)) == ["pool", "worker"]


def test_fastapi_takes_our_depends() -> None:
    """A route with a lifetime in its markers works; FastAPI makes it for each request."""
    app = FastAPI()

    def get_total(number: Annotated[int, Depends(get_number, lifetime="worker")]) -> int:
        return number + 1

    @app.get("/")
    def route(
        total: Annotated[int, Depends(get_total, lifetime="pool")], other: Any = Depends(get_number)
    ) -> list[int]:
        return [total, other]

    async def get() -> object:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://route") as client:
            return (await client.get("/")).json()

    assert asyncio.run(get()) == [2, 1]


def test_plan_lists_providers_in_the_order_of_first_use() -> None:
    """Children before parents; what is below comes first."""

    def function(item: int, total: Annotated[int, FastapiDepends(get_sum)]) -> None:
        """Use it."""

    plan = make_plan(function)
    assert plan.providers == (get_number, get_sum)
    (_, step) = plan.steps
    assert isinstance(step, Step)
    assert step.arguments[0].source == FromStep(0)
