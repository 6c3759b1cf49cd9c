"""Event loops are left tidy, whatever dependencies and functions do on them."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import anyio
import pytest

from poolinject import Depends
from tests.conftest import Kind
from tests.pool.ledger import count, note
from tests.pool.server import serving

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("hygiene_script.py")
SLOW = re.compile(r"^Executing <.*> took [\d.]+ seconds\n", re.MULTILINE)  # the machine may be busy
TIMEOUT = 80.0


@pytest.mark.timeout(90)
def test_nothing_is_left_on_a_loop(every_backend: Kind, ledger: ModuleType) -> None:
    """No pending task, unclosed transport, loop or generator, and no use of another loop, in any process.

    Not when a pool is shut down, nor when a worker is recycled, an item is cancelled, or is over its time. What a
    finaliser or a loop's exception handler has to say comes on standard error, of workers too; nothing does.
    """
    environment = {**os.environ, "PYTHONASYNCIODEBUG": "1", "PYTHONPATH": str(ROOT)}
    with serving() as address:
        arguments = [str(SCRIPT), every_backend.name, every_backend.start_method or "-", address]
        command = [sys.executable, "-W", "error", *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (result.stdout, SLOW.sub("", result.stderr), result.returncode) == ("done\n", "", 0)


async def get_below() -> AsyncIterator[None]:
    """Wait in the cleanup."""
    yield
    await asyncio.sleep(0.001)
    note("below-")


async def get_scope(_: Annotated[None, Depends(get_below)]) -> AsyncIterator[None]:
    """Cancel a scope of its own in the cleanup, which ends there."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 600)
            yield
            await asyncio.sleep(0)
            scope.cancel()
    note("scope-")


async def use_scope(item: int, _: Annotated[None, Depends(get_scope)]) -> int:
    """Have it opened."""
    return item


def test_a_cancelled_scope_of_one_cleanup_does_not_cancel_the_next(backend: Kind, ledger: ModuleType) -> None:
    """The cancellation is over where the scope ends, though the loop had more of it on the way."""
    pool = backend.pool(1, lifetimes={get_scope: "pool"})
    assert pool.map(use_scope, range(3)) == [0, 1, 2]
    report = pool.shutdown()
    assert report.clean, report
    assert ledger.texts() == ["scope-", "below-"]


def ask() -> None:
    """Tell that a sync function is about to need what is being built."""
    note("asked")


async def get_slow() -> AsyncIterator[int]:
    """Be built for some time after a sync function has asked."""
    note("building")
    while count("asked") == 0:  # noqa: ASYNC110 - a file
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    note("slow+")
    yield 10
    await asyncio.sleep(0.001)
    note("slow-")


async def use_slow(item: int, slow: Annotated[int, Depends(get_slow)]) -> int:
    """Need it in a task."""
    return item + slow


def use_slow_in_sync_code(item: int, _: Annotated[None, Depends(ask)], slow: Annotated[int, Depends(get_slow)]) -> int:
    """Need it in sync code."""
    return item + slow


def test_sync_code_waits_for_what_is_built_for_cancelled_tasks(parallel: Kind, ledger: ModuleType) -> None:
    """It is built once, though those for whom it was begun do not wait any more."""
    with parallel.pool(1, lifetimes={get_slow: "pool"}) as pool:
        results: Any = pool.imap(use_slow, range(4))
        ledger.wait_for("building")
        results.close()
        assert pool.map(use_slow_in_sync_code, range(3)) == [10, 11, 12]
    assert [text for text in ledger.texts() if text != "asked"] == ["building", "slow+", "slow-"]


async def get_never() -> AsyncIterator[None]:
    """Never be there."""
    note("never+")
    try:
        await asyncio.sleep(600)
    finally:
        note("never-")
    yield


async def use_never(_: int, __: Annotated[None, Depends(get_never)]) -> None:
    """Need it."""


def test_what_is_built_for_cancelled_tasks_is_cancelled_at_shutdown(process: Kind, ledger: ModuleType) -> None:
    """Nobody needs it any more; what of others waited for their turn is not begun."""
    pool = process.pool(1, lifetimes={get_never: "pool"})
    futures = [pool.submit(use_never, item) for item in range(4)]
    ledger.wait_for("never+")
    assert pool.shutdown("cancel").clean
    assert all(future.done() for future in futures)
    assert ledger.texts() == ["never+", "never-"]
