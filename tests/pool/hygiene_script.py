"""What leaves event loops untidy, all of it, on one backend: ``python hygiene_script.py BACKEND START_METHOD ADDRESS``.

Run by ``test_loop_hygiene`` in an interpreter in which each warning is an error and asyncio looks closely. It says what
a worker process had left when it ended, where no finaliser would speak.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import anyio
import httpx

from poolinject import Depends, Failure, InjectedPool

BACKEND, START_METHOD, ADDRESS = sys.argv[1], sys.argv[2] if sys.argv[1] == "process" else None, sys.argv[3]
kept: list[Any] = []


def leave_tidily(leave: Callable[[int], Any], code: int) -> None:
    """End the process; before that say what is left of event loops."""
    gc.collect()
    for thing in gc.get_objects():
        is_open = isinstance(thing, asyncio.AbstractEventLoop) and not thing.is_closed()
        if is_open or (isinstance(thing, asyncio.Task) and not thing.done()):
            sys.stderr.write(f"left behind: {thing!r}\n")
            sys.stderr.flush()
    leave(code)


def get_exit() -> None:
    """Have this worker end that way; made by each pool before anything else."""
    if BACKEND == "process":
        os._exit = functools.partial(leave_tidily, os._exit)  # type: ignore[assignment]


async def get_client() -> AsyncIterator[httpx.AsyncClient]:
    """Open a client; one that trusts nobody is made quickly."""
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    async with httpx.AsyncClient(base_url=ADDRESS, timeout=20, trust_env=False, verify=nobody) as client:
        client.headers["x-who"] = "hygiene"
        yield client


async def get_unshared() -> AsyncIterator[httpx.AsyncClient]:
    """Open a client for an item."""
    async for client in get_client():
        yield client


async def get_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Open a task group with a task that stays."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(asyncio.sleep(600))
        yield group
        task.cancel()


async def get_anyio_group(client: Annotated[httpx.AsyncClient, Depends(get_client)]) -> AsyncIterator[Any]:
    """Open another kind of task group, with a cancel scope."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 600)
            yield group
            await client.get("/1")
            scope.cancel()


Client = Annotated[httpx.AsyncClient, Depends(get_client)]
Unshared = Annotated[httpx.AsyncClient, Depends(get_unshared)]


async def ask(number: int, client: Client, own: Unshared) -> int:
    """Ask through the worker's client and the item's."""
    responses = await asyncio.gather(client.get(f"/{number}"), own.get("/0"))
    return sum(int(response.text) for response in responses)


async def use_groups(
    number: int,
    group: Annotated[asyncio.TaskGroup, Depends(get_group)],
    other: Annotated[Any, Depends(get_anyio_group)],
) -> int:
    """Start tasks in the groups of the worker and in one of its own."""
    other.start_soon(anyio.sleep, 0.001)
    async with asyncio.TaskGroup() as own:
        tasks = [own.create_task(asyncio.sleep(0.001, number)), group.create_task(asyncio.sleep(0.001, number))]
    return sum([await task for task in tasks])


def run_a_loop(number: int, page: Annotated[int, Depends(ask)], group: Annotated[Any, Depends(get_group)]) -> int:
    """Have a loop of its own beside the one of the dependencies."""

    async def ask_again() -> int:
        async for client in get_client():
            return int((await client.get(f"/{number}")).text)
        return -1

    return asyncio.run(ask_again()) + page


async def count_slowly() -> AsyncIterator[int]:
    """Count, and wait at the end."""
    try:
        for number in itertools.count():
            await asyncio.sleep(0)
            yield number
    finally:
        await asyncio.sleep(0.001)


async def tidy_up_slowly() -> None:
    """Wait when it is cancelled."""
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0.01)


async def leave_things(number: int) -> int:
    """Leave tasks that run, and generators that are not at their end, one of which is held."""
    kept.extend([asyncio.create_task(tidy_up_slowly()), asyncio.create_task(asyncio.sleep(0.001))])
    held = count_slowly()
    kept.append(held)
    await anext(held)
    async for count in count_slowly():
        if count == 3:
            break
    return number


def use_what_leaves_things(number: int, left: Annotated[int, Depends(leave_things)]) -> int:
    """The same below a sync function."""
    return number + left


async def fail(number: int, own: Unshared, group: Annotated[Any, Depends(get_group)]) -> int:
    """Fail in a task group while others wait for a server or for nothing."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(own.get("/1"))
        tasks.create_task(asyncio.sleep(600 if number % 5 == 0 else 0.001))
        if number % 5 == 0:
            await asyncio.sleep(0.001)
            raise ValueError(number)
    return number


async def wait(number: int, own: Unshared, client: Client) -> int:
    """Never come to an end."""
    await client.get("/1")
    await asyncio.sleep(600)
    return number


def get_sync() -> Iterator[int]:
    """Be something sync."""
    yield 1


async def die_of_it(number: int, one: Annotated[int, Depends(get_sync)], client: Client) -> None:
    """End the run when others wait."""
    await client.get("/1")
    if number == 7:
        raise KeyError(number)
    await asyncio.sleep(600)


def run_everything(pool: InjectedPool) -> None:
    """All of it, twice, in the same workers."""
    for _ in range(2):
        assert pool.map(ask, range(20)) == [2 * number for number in range(20)]
        assert pool.map(use_groups, range(20)) == [2 * number for number in range(20)]
        assert pool.map(run_a_loop, range(4)) == [4 * number for number in range(4)]
        assert pool.map(leave_things, range(20)) == list(range(20))
        assert pool.map(use_what_leaves_things, range(4)) == [2 * number for number in range(4)]
        results: list[Any] = pool.map(fail, range(20), on_error="return")
        assert [result.index for result in results if isinstance(result, Failure)] == [0, 5, 10, 15]
        if BACKEND == "process":
            results = pool.map(wait, range(3), timeout=0.2, on_error="return")
            assert [result.phase for result in results] == ["timeout"] * 3
        with contextlib.suppress(KeyError):
            pool.map(die_of_it, range(16))


def open_pool(workers: int, **options: Any) -> InjectedPool:
    """Make a pool whose workers tell how they end."""
    lifetimes: Any = {get_client: "pool", get_group: "worker", get_anyio_group: "pool", get_exit: "pool"}
    return InjectedPool(
        workers, backend=BACKEND, start_method=START_METHOD, lifetimes=lifetimes, warm=[get_exit], **options
    )


def main() -> None:
    """Go through the ways in which a worker ends."""
    with open_pool(2) as pool:
        run_everything(pool)
    recycling = {"max_items_per_worker": 10} if BACKEND == "process" else {}
    with open_pool(1, **recycling) as pool:
        for _ in range(2):
            assert pool.map(ask, range(25)) == [2 * number for number in range(25)]
            assert pool.map(leave_things, range(25)) == list(range(25))
    if BACKEND != "inline":  # nothing runs there while nobody waits
        pool = open_pool(1)
        futures = [pool.submit(wait, number) for number in range(4)]
        assert pool.map(ask, range(3)) == [0, 2, 4]
        assert pool.shutdown("cancel").clean
        assert all(future.done() for future in futures)


main()
sys.stdout.write("done\n")
