"""A small application, as a web project has it, for the tests of ``app=``: imported by the test and by its workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.requests import HTTPConnection
from starlette.applications import Starlette

import poolinject
from tests.pool import ledger

NAME = f"{__name__}:app"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
    """Open what the whole application uses: a task group, which must be left in the task that entered it."""
    ledger.note("lifespan+")
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        await asyncio.sleep(0)
        app.state.rate = 3
        yield {"client": "client of the lifespan", "asked": []}
        group.cancel_scope.cancel()
    ledger.note("lifespan-")


app = FastAPI(lifespan=lifespan)
plain_app = Starlette()


@asynccontextmanager
async def refusing(_app: FastAPI) -> AsyncGenerator[None]:
    """Fail in the start-up."""
    message = "no database"
    raise ConnectionError(message)
    yield


@asynccontextmanager
async def untidy(_app: FastAPI) -> AsyncGenerator[None]:
    """Fail in the shutdown."""
    yield
    message = "the database is gone"
    raise ConnectionError(message)


@asynccontextmanager
async def recursive(_app: FastAPI) -> AsyncGenerator[None]:
    """Start a pool whose workers would do the same."""
    with poolinject.InjectedPool(1, backend="inline", app=f"{__name__}:recursive_app") as pool:
        pool.map(name_of_app, [1])
    yield


refusing_app = FastAPI(lifespan=refusing)
untidy_app = FastAPI(lifespan=untidy)
recursive_app = FastAPI(lifespan=recursive, title="recursive")


def get_client(request: Request) -> str:
    """Give what the lifespan yielded."""
    client: str = request.state.client
    return client


def get_rate(connection: HTTPConnection) -> int:
    """Give what the lifespan left in the state of the application."""
    rate: int = connection.app.state.rate
    return rate


def get_tax() -> int:
    """Need nothing of the application; there to be overridden."""
    return 0


def get_prices(request: Request) -> Iterator[dict[int, int]]:
    """Live as long as the application."""
    ledger.note("prices+")
    yield {number: number * request.app.state.rate for number in range(10)}
    ledger.note("prices-")


def sign(item: int, request: Request) -> int:
    """Leave a word to the other providers of the same request."""
    request.state.asked.append(item)
    request.state.user = item
    return item


def read_signature(_signed: Annotated[int, Depends(sign)], request: Request) -> int:
    """Read it."""
    user: int = request.state.user
    return user


def read_header(request: Request) -> str:
    """Need a client."""
    return request.headers.get("x-user", "nobody")


def price(
    item: int,
    request: Request,
    client: Annotated[str, Depends(get_client)],
    rate: Annotated[int, Depends(get_rate)],
    tax: Annotated[int, Depends(get_tax)],
    user: Annotated[int, Depends(read_signature)],
) -> list[Any]:
    """Show everything that came from the application."""
    had_user = hasattr(request.state, "user")
    return [item * rate + tax, client, user, had_user, request.app.state.rate]


def price_of_list(item: int, prices: Annotated[dict[int, int], poolinject.Depends(get_prices, lifetime="pool")]) -> int:
    """Use a dependency that outlives the item."""
    return prices[item]


def taxed(item: int, tax: Annotated[int, Depends(get_tax)]) -> int:
    """Use nothing of the application but its overrides."""
    return item + tax


def greet(item: int, user: Annotated[str, Depends(read_header)]) -> str:
    """Use what only a client can send."""
    return f"{item} for {user}"


def name_of_app(item: int, request: Request) -> str:
    """Use nothing but the application."""
    title: str = getattr(request.app, "title", "no title")
    return title


def signer(item: int, request: Request) -> bool:
    """Tell whether an earlier item has left its word."""
    had_user = hasattr(request.state, "user")
    request.state.user = item
    return had_user


@app.get("/price")
def price_route(result: Annotated[list[Any], Depends(price)]) -> list[Any]:
    """Serve the function, with the same providers."""
    if not result:
        raise HTTPException(404)
    return result
