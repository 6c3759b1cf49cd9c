"""A scrape: an HTTP client in each worker, shared by the items beside each other, against a real server."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Annotated

import httpx
import pytest

from poolinject import Depends, InjectedPool
from poolinject.markers import Lifetime
from tests.conftest import Kind
from tests.pool.ledger import PATIENCE, note, texts
from tests.pool.server import serving

ADDRESS = "POOLINJECT_TEST_SERVER"
ITEMS, CONNECTIONS = 120, 4


@pytest.fixture(autouse=True)
def server(ledger: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the server there, before the workers start and after they have ended."""
    with serving() as address:
        monkeypatch.setenv(ADDRESS, address)
        yield


async def get_client() -> AsyncIterator[httpx.AsyncClient]:
    """Open a client; when it is closed, this worker stays until the server has seen its connections end."""
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=None)
    timeout = httpx.Timeout(PATIENCE)
    client = httpx.AsyncClient(base_url=os.environ[ADDRESS], limits=limits, timeout=timeout, trust_env=False)
    client.headers["x-who"] = who = f"{os.getpid()}-{id(client)}"
    async with client:
        yield client
    async with asyncio.timeout(PATIENCE):
        while connections_of(who) - ended():  # noqa: ASYNC110 - the server notes it
            await asyncio.sleep(0.005)
    note(f"gone {who}")


def connections_of(who: str) -> set[str]:
    """Name the connections that a client has asked through."""
    return {port for port, by in asked() if by == who}


def asked() -> list[tuple[str, str]]:
    """Give connection and client of each request."""
    return [(words[1], words[3]) for words in map(str.split, texts()) if words[0] == "asked"]


def opened() -> set[str]:
    """Name the connections that the server has seen."""
    return {text.split()[1] for text in texts() if text.startswith("opened")}


def ended() -> set[str]:
    """Name those that it has seen end."""
    return {text.split()[1] for text in texts() if text.startswith("lost")}


Client = Annotated[httpx.AsyncClient, Depends(get_client)]


async def fetch(number: int, client: Client) -> int:
    """Ask for a page."""
    response = await client.get(f"/{number}")
    return int(response.raise_for_status().text)


async def get_page(number: int, client: Client) -> int:
    """Ask for a page, for a function that cannot."""
    return await fetch(number, client)


def read(number: int, page: Annotated[int, Depends(get_page)]) -> tuple[int, int]:
    """Have been given the page."""
    return number, page


def of_clients() -> Counter[str]:
    """Count the connections of each client."""
    return Counter(by for _, by in set(asked()))


def scrape(pool: InjectedPool) -> None:
    """Ask for every page, with more items beside each other than there are connections."""
    assert pool.map(fetch, range(ITEMS), concurrency=5 * CONNECTIONS) == [2 * number for number in range(ITEMS)]


@pytest.mark.parametrize("lifetime", ["pool", "worker"])
def test_connections_are_those_of_a_worker(backend: Kind, lifetime: Lifetime) -> None:
    """Not of an item: a client has as many as it may have, there is one for each scope, and they outlive a run."""
    is_shared = backend.name == "inline" or (backend.name == "thread" and lifetime == "pool")
    with backend.pool(2, lifetimes={get_client: lifetime}) as pool:
        for _ in range(2):
            scrape(pool)
            counts = of_clients()
            assert 1 <= len(counts) <= (1 if is_shared else 2)
            assert max(counts.values()) == CONNECTIONS
            assert len(opened()) == sum(counts.values())
            assert not ended()
    assert len(asked()) == 2 * ITEMS


@pytest.mark.parametrize("lifetime", ["pool", "worker"])
def test_the_server_sees_them_close_at_shutdown(backend: Kind, lifetime: Lifetime) -> None:
    """While the worker is still there, so by the client's cleanup and not because its process ends."""
    pool = backend.pool(2, lifetimes={get_client: lifetime})
    scrape(pool)
    clients = set(of_clients())
    assert pool.shutdown().clean
    assert {text.split()[1] for text in texts() if text.startswith("gone")} == clients
    assert ended() == opened() != set()


def test_a_sync_function_uses_the_same_connections(backend: Kind) -> None:
    """What is injected into it was fetched by the client that coroutine functions have, on the same loop."""
    with backend.pool(1, lifetimes={get_client: "pool"}) as pool:
        scrape(pool)
        before = opened()
        assert pool.map(read, range(20)) == [(number, 2 * number) for number in range(20)]
        scrape(pool)
        assert opened() == before
        assert len(asked()) == 2 * ITEMS + 20
    assert ended() == before


def test_a_client_that_a_sync_function_opened_serves_coroutine_functions(backend: Kind) -> None:
    """The other way round."""
    with backend.pool(1, lifetimes={get_client: "pool"}) as pool:
        assert pool.map(read, range(3)) == [(number, 2 * number) for number in range(3)]
        scrape(pool)
        assert len(of_clients()) == 1
    assert ended() == opened()


def test_recycled_workers_close_theirs(process: Kind) -> None:
    """Each generation has a client of its own, and the server sees its connections end."""
    with process.pool(1, lifetimes={get_client: "pool"}, max_items_per_worker=ITEMS // 3) as pool:
        scrape(pool)
        assert len(of_clients()) >= 3
        assert max(of_clients().values()) <= CONNECTIONS
        assert len(opened() - ended()) <= 2 * CONNECTIONS
    assert ended() == opened()


def test_cancelled_requests_leave_the_client_usable(backend: Kind) -> None:
    """A run that fails while others wait for their answers does not cost the client its connections for good.

    No request waits for a connection when it is cancelled, and none for one that is new: httpcore 1.0 would then never
    hand that connection to anyone again (encode/httpcore#1093).
    """
    with backend.pool(1, lifetimes={get_client: "pool"}) as pool:
        scrape(pool)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                pool.map(fetch_most, range(40), concurrency=CONNECTIONS)
            scrape(pool)
        assert len(opened() - ended()) <= CONNECTIONS
    assert ended() == opened()


async def fetch_most(number: int, client: Client) -> float:
    """Fail in the middle of the others' requests."""
    return await fetch(number, client) / (number - 20)
