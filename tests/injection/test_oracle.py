"""The oracle itself: the ledgers that the graphs declare are those of the installed FastAPI."""

import pytest

from tests.injection.graphs import GRAPHS
from tests.injection.ledger import Graph
from tests.injection.oracle import ITEMS, run_route, speaks_for


def test_the_graphs_are_enough_and_named_once() -> None:
    """At least 45 graphs are compared, and each has a name of its own."""
    assert len({graph.name for graph in GRAPHS}) == len(GRAPHS) >= 45


@pytest.mark.parametrize("graph", [pytest.param(graph, id=graph.name) for graph in GRAPHS if speaks_for(graph)])
def test_fastapi_writes_the_declared_ledger(graph: Graph) -> None:
    """A route with the same graph writes the events that the graph declares, for every item."""
    assert [run.events for run in run_route(graph)] == [graph.events_of(item) for item in ITEMS]
