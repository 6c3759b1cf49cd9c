"""What the workers of a cluster run in these tests."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Iterator
from typing import Annotated

from poolinject import Depends, WorkerContext
from tests.pool import ledger

POISON = ("kill", "exit", "segfault")


def end_process(how: str) -> None:
    """End the process that this runs in, without a word."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(3)
    elif how == "segfault":
        ctypes.string_at(0)


def eat(item: int | str) -> int | str:
    """Give the item back, unless it is poison."""
    end_process(str(item))
    return item


async def eat_beside(item: int | str) -> int | str:
    """Do so beside others."""
    await asyncio.sleep(0)
    end_process(str(item))
    return item


def eat_twice(item: str) -> str:
    """End the process when an item comes for the first time and alone for the second, as the ledger knows."""
    ledger.note(f"eaten {item}")
    if ledger.count(f"eaten {item}") < 3:
        end_process(item)
    return item


def wait_at_gate(item: int) -> int:
    """Say that it has begun, and wait until the test says that it may end."""
    ledger.note(f"begun {item}")
    ledger.wait_for("open")
    return item


async def wait_beside(item: int) -> int:
    """Do so beside others."""
    ledger.note(f"begun {item}")
    while not ledger.count("open"):  # noqa: ASYNC110 - it is another process that opens
        await asyncio.sleep(0.01)
    return item


def get_engine(worker: WorkerContext) -> Iterator[str]:
    """Open and close something that lives as long as the pool."""
    yield from ledger.span(f"{worker.pool_name} {worker.worker_id} engine")


def get_damaged() -> Iterator[str]:
    """Fail to close it."""
    yield "damaged"
    message = "does not close"
    raise ValueError(message)


def use_engine(item: int, engine: Annotated[str, Depends(get_engine)]) -> tuple[int, str]:
    """Use it."""
    return os.getpid(), f"{engine} {item}"


def wait_with_engine(item: int, engine: Annotated[str, Depends(get_engine)]) -> str:
    """Use it for as long as the gate is closed."""
    return f"{engine} {wait_at_gate(item)}"


def use_damaged(item: int, damaged: Annotated[str, Depends(get_damaged)]) -> str:
    """Use it."""
    return f"{damaged} {item}"


def process_id(_: object) -> int:
    """Give the process."""
    return os.getpid()


def worker_of(worker: WorkerContext) -> tuple[int, int]:
    """Give the slot and the generation."""
    return worker.worker_id, worker.generation
