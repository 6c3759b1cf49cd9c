"""A FastAPI application with a pool: its routes and its worker processes use the same dependencies.

A request for one number is answered by the server itself; one for many is handed to the pool, and each outcome is sent
as soon as it is there, as a server-sent event. A client that leaves ends its run.

    uvicorn --app-dir examples --timeout-graceful-shutdown 5 fastapi_app:app
    curl http://127.0.0.1:8000/factors/1000003
    curl --no-buffer 'http://127.0.0.1:8000/factors?first=1000000000&count=500'
"""

import json
import math
import os
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import StreamingResponse

from poolinject import InjectedPool, Outcome, Success

DATABASE = os.environ.get("FACTORS_DATABASE", "factors.sqlite3")
TABLE = "CREATE TABLE IF NOT EXISTS factors (number INTEGER PRIMARY KEY, factors TEXT)"


def get_database() -> Iterator[sqlite3.Connection]:
    """Open the database: once in each worker, as the pool below says, and for each request of a route."""
    database = sqlite3.connect(DATABASE, timeout=30, check_same_thread=False)  # a route's cleanup has another thread
    database.execute(TABLE)
    yield database
    database.close()


def get_cursor(database: Annotated[sqlite3.Connection, Depends(get_database)]) -> Iterator[sqlite3.Cursor]:
    """Provide a transaction: for one item of a run, or for one request; an error rolls it back."""
    with database:
        yield database.cursor()


def get_largest() -> int:
    """Provide the largest number that is worth the time."""
    return 10**14


def factor(
    number: int,
    largest: Annotated[int, Depends(get_largest)],
    cursor: Annotated[sqlite3.Cursor, Depends(get_cursor)],
) -> list[int]:
    """Find the prime factors of a number, and keep them."""
    if not 0 < number <= largest:
        raise HTTPException(422, f"{number} is not between 1 and {largest}")
    factors, rest, divisor = list[int](), number, 2
    while divisor <= math.isqrt(rest):
        if rest % divisor:
            divisor += 1
        else:
            factors.append(divisor)
            rest //= divisor
    if rest > 1:
        factors.append(rest)
    cursor.execute("INSERT OR REPLACE INTO factors VALUES (?, ?)", (number, json.dumps(factors)))
    return factors


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    """Give the pool to the requests; the server, which has signal handlers of its own, ends it with the application."""
    async with InjectedPool(
        workers=2,
        lifetimes={get_database: "pool"},
        overrides=app.dependency_overrides,  # as they are when a run begins
        handle_signals=False,
        name="factors",
    ) as pool:
        yield {"pool": pool}


app = FastAPI(lifespan=lifespan)


def get_pool(request: Request) -> InjectedPool:
    """Provide the pool to a route."""
    pool: InjectedPool = request.state.pool
    return pool


Pool = Annotated[InjectedPool, Depends(get_pool)]


@app.get("/factors/{number}")
def factor_one(factors: Annotated[list[int], Depends(factor)]) -> list[int]:
    """Find the factors here, in the server: FastAPI fills the same parameters as the pool does."""
    return factors


@app.get("/factors")
async def factor_many(
    pool: Pool, first: Annotated[int, Query(ge=1)], count: Annotated[int, Query(ge=1, le=1_000_000)]
) -> StreamingResponse:
    """Find the factors of many numbers in the workers; the events come as outcomes do, in any order."""
    return StreamingResponse(send_events(pool, range(first, first + count)), media_type="text/event-stream")


async def send_events(pool: InjectedPool, numbers: range) -> AsyncIterator[str]:
    """Run, and give an event for each outcome; where the client has left, this is cancelled, and with it the run."""
    async with aclosing(pool.aoutcomes(factor, numbers)) as outcomes:
        async for outcome in outcomes:
            yield to_event(outcome)
    yield "event: end\ndata: {}\n\n"


def to_event(outcome: Outcome) -> str:
    """Write an outcome as a server-sent event."""
    if isinstance(outcome, Success):
        return f"data: {json.dumps({'number': outcome.item, 'factors': outcome.value})}\n\n"
    return f"event: failure\ndata: {json.dumps({'number': outcome.item, 'error': str(outcome.error)})}\n\n"


@app.get("/status")
async def show_status(pool: Pool) -> dict[str, Any]:
    """Tell what the pool is at."""
    return {"pool": repr(pool), "items_done": [worker.items_done for worker in pool.workers]}
