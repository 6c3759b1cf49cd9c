"""The example application as its tests serve it: what it opens stands in the ledger, and it can be told to override."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends
from fastapi_app import app, get_cursor, get_database, get_largest

from tests.pool import ledger


def get_noted_database() -> Iterator[sqlite3.Connection]:
    """Provide the database of the example."""
    ledger.note("database+")
    yield from get_database()
    ledger.note("database-")


def get_noted_cursor(database: Annotated[sqlite3.Connection, Depends(get_database)]) -> Iterator[sqlite3.Cursor]:
    """Provide the transaction of the example."""
    ledger.note("transaction+")
    try:
        yield from get_cursor(database)
    finally:
        ledger.note("transaction-")


def get_small_largest() -> int:
    """Find hardly any number worth the time."""
    return 10


@app.put("/overrides")
async def override() -> None:
    """Do what a test of a web project does, while the application is served."""
    app.dependency_overrides[get_largest] = get_small_largest


app.dependency_overrides[get_database] = get_noted_database
app.dependency_overrides[get_cursor] = get_noted_cursor
