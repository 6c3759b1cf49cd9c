"""The oracle of the conformance tests: each graph as a FastAPI route, called in this process."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

import httpx
from fastapi import FastAPI

from tests.injection.graphs import FASTAPI_VERSION
from tests.injection.ledger import Graph, drain_events

ITEMS = ("a", "b", "c")
ROUTE_TIMEOUT = 20.0


@dataclass(frozen=True)
class Ran:
    """What one item came to.

    Attributes:
        events: What the ledger held afterwards.
        value: The JSON text of the result, ``None`` where the item failed.
        error: Type and text of the error, ``None`` where the item succeeded.
    """

    events: tuple[str, ...]
    value: str | None
    error: tuple[str, str] | None

    def as_compared(self, graph: Graph) -> tuple[tuple[str, ...], object]:
        """Return events and outcome, without what *graph* does not compare of an error."""
        if self.error is None or graph.compare == "text":
            return self.events, (self.value, self.error)
        return self.events, self.error[0] if graph.compare == "type" else "failed"


def ran(events: Iterable[str], *, value: object = None, error: BaseException | None = None) -> Ran:
    """Record what one item came to."""
    if error is not None:
        return Ran(tuple(events), None, (type(error).__qualname__, str(error)))
    return Ran(tuple(events), json.dumps(value), None)


def speaks_for(graph: Graph) -> bool:
    """Say whether the installed FastAPI behaves as *graph* must."""
    return graph.since is not None and graph.since <= FASTAPI_VERSION


@functools.cache
def run_route(graph: Graph) -> tuple[Ran, ...]:
    """Run *graph* as a FastAPI route, once for each of ``ITEMS``, and say what each came to."""
    app = FastAPI(openapi_url=None)
    app.get("/", response_model=None)(graph.function)
    app.dependency_overrides.update(graph.overrides)

    async def run_all() -> tuple[Ran, ...]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://oracle") as client:
            # A task for each, as a server has: what one request sets in its context is not seen by the next.
            return tuple([await asyncio.create_task(_run_item(client, item)) for item in ITEMS])

    drain_events()
    return asyncio.run(run_all())


async def _run_item(client: httpx.AsyncClient, item: str) -> Ran:
    try:
        async with asyncio.timeout(ROUTE_TIMEOUT):
            response = await client.get("/", params={"item": item})
    except Exception as error:  # noqa: BLE001 - compared with what the other side raises
        return ran(drain_events(), error=error)
    assert response.status_code == HTTPStatus.OK, response.text
    return ran(drain_events(), value=response.json())
