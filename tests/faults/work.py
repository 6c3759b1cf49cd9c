"""What a caller under test does: ``python -m tests.faults.work START_METHOD PHASE`` until something ends it.

The phase is what it stays at, ``startup``, ``items``, ``idle`` or ``shutdown``; the ledger tells when it gets there.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from poolinject import Depends, InjectedPool
from tests.pool.ledger import note

PHASES = ("startup", "items", "idle", "shutdown")
CLEANUP_TIMEOUT = 1.0
MANY = 1_000_000


def get_engine() -> Iterator[str]:
    """One in each process; a moment is needed to close it."""
    try:
        note("engine+")
        yield "engine"
    finally:
        time.sleep(0.05)
        note("engine-")


async def get_broker(engine: Annotated[str, Depends(get_engine)]) -> AsyncIterator[str]:
    """One in each process, in async code."""
    try:
        note("broker+")
        yield "broker"
    finally:
        await asyncio.sleep(0.05)
        note("broker-")


def get_connection(broker: Annotated[str, Depends(get_broker)]) -> Iterator[str]:
    """One in each worker."""
    try:
        note("connection+")
        yield "connection"
    finally:
        time.sleep(0.05)
        note("connection-")


def get_session(item: Any, connection: Annotated[str, Depends(get_connection)]) -> Iterator[str]:
    """One for each item."""
    try:
        note(f"session {item}+")
        yield "session"
    finally:
        time.sleep(0.001)
        note(f"session {item}-")


async def get_cursor(item: Any, session: Annotated[str, Depends(get_session)]) -> AsyncIterator[str]:
    """One for each item, in async code that waits."""
    try:
        note(f"cursor {item}+")
        await asyncio.sleep(0)
        yield "cursor"
    finally:
        await asyncio.sleep(0.001)
        note(f"cursor {item}-")


LIFETIMES: Any = {get_engine: "pool", get_broker: "pool", get_connection: "worker"}


def work(item: int, cursor: Annotated[str, Depends(get_cursor)]) -> int:
    """Compute, wait, or wait for longer than anyone would."""
    note(f"work {item}.")
    if item % 3 == 1:
        time.sleep(0.003)
    elif item % 3 == 2:
        sum(range(20_000))
    if item % 50 == 49:
        time.sleep(60)
    return item


def main(start_method: str, phase: str) -> None:
    """Make a pool and get as far as the phase."""
    note("startup.")
    with InjectedPool(
        2, start_method=start_method, lifetimes=LIFETIMES, warm=[get_engine], cleanup_timeout=CLEANUP_TIMEOUT
    ) as pool:
        pool.map(work, range(20))
        if phase == "items":
            note("items.")
            pool.map(work, range(20, MANY))
        if phase in ("startup", "idle"):
            note("idle.")
            time.sleep(60)
        note("shutdown.")


if __name__ == "__main__":
    main(*sys.argv[1:])
