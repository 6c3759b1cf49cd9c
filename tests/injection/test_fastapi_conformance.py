"""FastAPI is the specification: each graph gives the same events and outcomes in a pool as in a route."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import pytest

from poolinject import Failure, InjectedPool, Outcome, Resolver
from tests.injection.graphs import GRAPHS
from tests.injection.ledger import Graph, drain_each, drain_events, tell_apart
from tests.injection.oracle import ITEMS, Ran, ran, run_route, speaks_for
from tests.injection.twins import twin_of

each_graph = pytest.mark.parametrize("graph", [pytest.param(graph, id=graph.name) for graph in GRAPHS])
WITHOUT_TWIN = {  # asyncio.run() is for sync functions; and what writes first here are tasks of a group, not the item's
    "function runs a loop",
    "function runs a loop above async",
    "providers run a loop above async",
    "task group",
}
each_twin = pytest.mark.parametrize(
    "graph", [pytest.param(graph, id=graph.name) for graph in GRAPHS if graph.name not in WITHOUT_TWIN]
)


@pytest.fixture(scope="module", params=["inline", "thread", "process"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each of the three local backends."""
    return str(request.param)


MakePool = Callable[..., InjectedPool]


@pytest.fixture(scope="module")
def make_pool(backend: str) -> MakePool:
    """Make pools of one worker; on a cluster others do."""
    return partial(InjectedPool, 1, backend=backend)


@pytest.fixture(scope="module")
def shared_pool(make_pool: MakePool) -> Iterator[InjectedPool]:
    """One worker for all graphs without overrides."""
    with make_pool() as pool:
        yield pool


def pool_for(graph: Graph, shared_pool: InjectedPool, make_pool: MakePool, stack: ExitStack) -> InjectedPool:
    """Return the shared pool, or one with the overrides of *graph* that *stack* closes."""
    if not graph.overrides:
        return shared_pool
    return stack.enter_context(make_pool(overrides=graph.overrides))


def run_in_pool(graph: Graph, pool: InjectedPool) -> tuple[list[Outcome], list[str]]:
    """Run *graph* over all items on the one worker of *pool* and return outcomes and ledger."""
    outcomes = sorted(pool.outcomes(graph.function, ITEMS), key=lambda outcome: outcome.index)
    (events,) = pool.map(drain_events, [""])
    return outcomes, events


def as_ran(outcome: Outcome, events: tuple[str, ...]) -> Ran:
    """Return *outcome* in the form in which the oracle gives its own."""
    return ran(events, error=outcome.error) if isinstance(outcome, Failure) else ran(events, value=outcome.value)


def run_in_resolver(graph: Graph, resolver: Resolver, item: str) -> Ran:
    """Run *graph* for one item in this process."""
    drain_events()
    try:
        value = resolver.call(graph.function, item)
    except Exception as error:  # noqa: BLE001 - compared with what the other side raises
        return ran(drain_events(), error=error)
    return ran(drain_events(), value=value)


def assert_conforms(graph: Graph, runs: list[Ran]) -> None:
    """Compare what each item came to with what *graph* declares, and with FastAPI where it can speak."""
    assert [run.events for run in runs] == [graph.events_of(item) for item in ITEMS]
    if speaks_for(graph):
        assert [run.as_compared(graph) for run in runs] == [run.as_compared(graph) for run in run_route(graph)]
    elif graph.value is not None:
        assert [run.value for run in runs] == [graph.value_of(item) for item in ITEMS]


@each_graph
def test_pool_does_what_fastapi_does(graph: Graph, shared_pool: InjectedPool, make_pool: MakePool) -> None:
    """One worker writes the oracle's ledger once for each item, and gives the oracle's outcomes."""
    drain_events()
    with ExitStack() as stack:
        outcomes, events = run_in_pool(graph, pool_for(graph, shared_pool, make_pool, stack))
    declared = [graph.events_of(item) for item in ITEMS]
    assert events == [event for item_events in declared for event in item_events]
    assert_conforms(graph, [as_ran(*pair) for pair in zip(outcomes, declared, strict=True)])
    failed_in = {outcome.phase for outcome in outcomes if isinstance(outcome, Failure)}
    assert graph.phase is None or failed_in == {graph.phase}


@each_graph
def test_resolver_does_what_fastapi_does(graph: Graph) -> None:
    """``Resolver.call`` writes the oracle's ledger and gives its outcome, item by item."""
    with Resolver(overrides=graph.overrides) as resolver:
        assert_conforms(graph, [run_in_resolver(graph, resolver, item) for item in ITEMS])


@each_twin
def test_async_twins_do_what_fastapi_does(graph: Graph, shared_pool: InjectedPool, make_pool: MakePool) -> None:
    """Also where all items run beside each other: each writes the oracle's ledger, and has the oracle's outcome."""
    with ExitStack() as stack:
        pool = pool_for(graph, shared_pool, make_pool, stack)
        twin = twin_of(graph.function)
        pool.explain(twin)  # before any other function: it knows what is overridden
        pool.map(tell_apart, [""])
        found = sorted(pool.outcomes(twin, ITEMS, concurrency=3), key=lambda outcome: outcome.index)
        (events,) = pool.map(drain_each, [""])
    assert_conforms(graph, [as_ran(outcome, tuple(own)) for outcome, own in zip(found, events, strict=True)])


@each_twin
def test_async_twins_in_a_resolver_do_what_fastapi_does(graph: Graph) -> None:
    """``Resolver.acall``, for all items at once."""

    async def run_one(resolver: Resolver, item: str) -> Ran:
        try:
            return ran((), value=await resolver.acall(twin_of(graph.function), item))
        except Exception as error:  # noqa: BLE001 - compared with what the other side raises
            return ran((), error=error)

    async def run_all() -> list[Ran]:
        async with Resolver(overrides=graph.overrides) as resolver:
            return await asyncio.gather(*(run_one(resolver, item) for item in ITEMS))

    tell_apart()
    runs = asyncio.run(run_all())
    events = drain_each()
    assert_conforms(graph, [replace(run, events=tuple(own)) for run, own in zip(runs, events, strict=True)])
