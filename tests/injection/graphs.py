"""All graphs of the conformance tests that the installed FastAPI can declare."""

from fastapi import __version__

from tests.injection import (
    graphs_async,
    graphs_callables,
    graphs_cleanup,
    graphs_context,
    graphs_order,
    graphs_overrides,
    graphs_security,
    graphs_strings,
    graphs_wrapped,
)
from tests.injection.ledger import Graph

FASTAPI_VERSION = tuple(int(part) for part in __version__.split(".")[:3])

GRAPHS: tuple[Graph, ...] = (
    *graphs_order.GRAPHS,
    *graphs_cleanup.GRAPHS,
    *graphs_callables.GRAPHS,
    *graphs_wrapped.GRAPHS,
    *graphs_strings.GRAPHS,
    *graphs_security.GRAPHS,
    *graphs_overrides.GRAPHS,
    *graphs_async.GRAPHS,
    *graphs_context.GRAPHS,
)

if FASTAPI_VERSION >= (0, 121, 0):
    from tests.injection import graphs_scopes

    GRAPHS += graphs_scopes.GRAPHS
