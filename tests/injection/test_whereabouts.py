"""An interrupted frame tells whether a scope of an item is being closed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest

from poolinject import Depends, InjectedPool, Resolver
from poolinject._injection.whereabouts import is_closing, is_inside

seen: list[tuple[str, bool]] = []


def look(where: str) -> None:
    """Note what a signal handler would be told here."""
    seen.append((where, is_closing(sys._getframe())))


def get_sync() -> Iterator[str]:
    """Look in setup and cleanup."""
    look("sync setup")
    try:
        yield "sync"
    finally:
        look("sync cleanup")


async def get_async(sync: Annotated[str, Depends(get_sync)]) -> AsyncIterator[str]:
    """Look in setup and cleanup of async code."""
    look("async setup")
    try:
        yield "async"
    finally:
        look("async cleanup")


def use(item: int, value: Annotated[str, Depends(get_async)]) -> None:
    """Look in the call, and fail for some."""
    look("call")
    if item < 0:
        raise ValueError(item)


EXPECTED = [
    ("sync setup", False),
    ("async setup", False),
    ("call", False),
    ("async cleanup", True),
    ("sync cleanup", True),
]


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


def test_only_cleanups_are_closing() -> None:
    """After a success."""
    with Resolver() as resolver:
        resolver.call(use, 1)
    assert seen == EXPECTED


def test_cleanups_after_a_failure_are_closing() -> None:
    """The failed call itself is not."""
    with Resolver() as resolver, pytest.raises(ValueError, match="-1"):
        resolver.call(use, -1)
    assert seen == EXPECTED


async def get_waiting() -> AsyncIterator[str]:
    """Look while setup and cleanup wait."""
    asyncio.get_running_loop().call_soon(look, "waiting in the setup")
    await asyncio.sleep(0)
    try:
        yield "waiting"
    finally:
        asyncio.get_running_loop().call_soon(look, "waiting in the cleanup")
        await asyncio.sleep(0)


def use_waiting(item: int, value: Annotated[str, Depends(get_waiting)]) -> None:
    """Look in the call, and fail for some."""
    use(item, value)


@pytest.mark.parametrize("item", [1, -1])
def test_cleanups_that_wait_are_closing(item: int) -> None:
    """Also in the loop of a worker, which has yielded meanwhile."""
    with InjectedPool(1, backend="inline") as pool:
        pool.map(use_waiting, [item], on_error="return")
    assert seen == [("waiting in the setup", False), ("call", False), ("waiting in the cleanup", True)]


def get_outer() -> Iterator[str]:
    """Use another resolver in the cleanup."""
    yield "outer"
    with Resolver() as resolver:
        resolver.call(use, 1)


def use_outer(item: int, outer: Annotated[str, Depends(get_outer)]) -> Any:
    """Leave it to the dependency."""


def test_what_a_cleanup_calls_is_part_of_it() -> None:
    """Also where that is an item of its own."""
    with Resolver() as resolver:
        resolver.call(use_outer, 1)
    assert seen == [(where, True) for where, _ in EXPECTED]


def test_outside_of_items_nothing_is_closing() -> None:
    """Nor without a frame."""
    assert not is_closing(sys._getframe())
    assert not is_closing(None)


def test_a_function_is_found_however_far_up() -> None:
    """Across generators, and only while it runs."""

    def inner() -> Iterator[bool]:
        yield is_inside(sys._getframe(), [outer.__code__])

    def outer() -> bool:
        return next(inner())

    assert outer()
    assert not next(inner())
    assert not is_inside(None, [outer.__code__])
