"""The event loops that the tests of this room run on; after each test the process has what it had before."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import pytest

from tests.resources import check_nothing_left, lasting, resources

__all__ = ["lasting", "no_leaks"]

Value = TypeVar("Value")
PATIENCE = 25.0


@dataclass(frozen=True)
class Loop:
    """An event loop under test."""

    name: str

    def run(self, main: Callable[..., Awaitable[Value]], *args: Any) -> Value:
        """Run an async function, asyncio in its debug mode; at the end no task is left."""

        async def run() -> Value:
            with anyio.fail_after(PATIENCE):
                value = await main(*args)
                if self.name == "asyncio":
                    await self._wait_for_tasks()
            return value

        options = {"debug": True} if self.name == "asyncio" else {}
        value = anyio.run(run, backend=self.name, backend_options=options)
        gc.collect()  # what was not awaited or closed says so
        return value

    @staticmethod
    async def _wait_for_tasks() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:  # an iterator that was dropped closes its input in its own time
            await asyncio.wait(others)


@pytest.fixture(params=["asyncio", "trio"])
def loop(request: pytest.FixtureRequest) -> Loop:
    """Run the test on every event loop."""
    return Loop(request.param)


@pytest.fixture(autouse=True)
def no_leaks(lasting: None) -> Iterator[None]:
    """Compare files, threads, processes and shared memory before and after, but for the threads that trio keeps."""
    before = resources()
    yield
    check_nothing_left(before | {name for name in resources() if name.startswith("thread Trio")})
