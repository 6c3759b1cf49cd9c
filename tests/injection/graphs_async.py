"""Graphs with async providers below a sync function."""
# ruff: noqa: D103 - a function's name says what it shows

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import Depends

from tests.injection import providers as p
from tests.injection.ledger import Boom, Graph, OtherBoom, boom, called, is_last_raised, log, traced

A = Annotated[str, Depends(p.gen_a)]
B = Annotated[str, Depends(p.gen_b)]
X = Annotated[str, Depends(p.async_gen_x)]
Y = Annotated[str, Depends(p.async_gen_y)]


def async_value(
    item: str, a: Annotated[str, Depends(p.async_one)], b: Annotated[str, Depends(p.async_one)]
) -> list[Any]:
    return called(item, a, b)


def both_kinds(item: str, a: A, x: X, b: B, y: Y) -> list[Any]:
    return called(item, a, x, b, y)


def error_reaches_both_kinds(item: str, a: A, x: X, b: B, y: Y) -> list[Any]:
    called()
    boom(Boom(item))


async def async_on(x: X, a: A) -> str:
    log("async_on")
    return x + a


def sync_on(on: Annotated[str, Depends(async_on)], one: Annotated[str, Depends(p.async_one)]) -> str:
    log("sync_on")
    return on + one


def sync_on_async_on_sync(item: str, on: Annotated[str, Depends(sync_on)]) -> list[Any]:
    return called(item, on)


def async_setup_fails(item: str, a: A, x: X, f: Annotated[str, Depends(p.async_failing)], b: B) -> list[Any]:
    return called(item, f)


async def async_gen_failing_after() -> AsyncIterator[str]:
    log("after+")
    yield "after"
    await asyncio.sleep(0)
    boom()


def async_error_after_yield(
    item: str, a: A, x: X, f: Annotated[str, Depends(async_gen_failing_after)], y: Y
) -> list[Any]:
    return called(item, f)


async def async_gen_replacing() -> AsyncIterator[str]:
    try:
        yield "replacing"
    except Boom as error:
        await asyncio.sleep(0)
        log(f"replacing:{is_last_raised(error)}")
        boom(OtherBoom("async"))


def async_replaced(item: str, a: A, x: X, r: Annotated[str, Depends(async_gen_replacing)], y: Y) -> list[Any]:
    called()
    boom()


async def async_gen_swallowing() -> AsyncIterator[str]:
    try:
        yield "swallowing"
    except Boom as error:
        log(f"swallowed:{is_last_raised(error)}")


def async_swallowed(item: str, a: A, x: X, s: Annotated[str, Depends(async_gen_swallowing)], b: B) -> list[Any]:
    called()
    boom()


async def async_gen_without_yield(a: A) -> AsyncIterator[str]:
    log("none")
    if a == "":
        yield a


def async_not_yielding(item: str, x: X, n: Annotated[str, Depends(async_gen_without_yield)]) -> list[Any]:
    return called(item, n)


async def async_gen_twice() -> AsyncIterator[int]:
    log("first")
    yield 1
    log("second")
    yield 2


def async_yielding_twice(item: str, x: X, t: Annotated[int, Depends(async_gen_twice)], b: B) -> list[Any]:
    return called(item, t)


async def async_gen_twice_on_error() -> AsyncIterator[int]:
    try:
        yield 1
    except Boom:
        log("second")
        yield 2


def async_yielding_again(item: str, x: X, t: Annotated[int, Depends(async_gen_twice_on_error)]) -> list[Any]:
    called()
    boom()


async def async_uncached(
    item: str, x: X, y: Annotated[str, Depends(p.async_gen_x, use_cache=False)]
) -> AsyncIterator[str]:
    with traced(item):
        yield x + y


def uncached_async(item: str, a: Annotated[str, Depends(async_uncached)]) -> list[Any]:
    return called(item, a)


async def current_task() -> AsyncIterator["asyncio.Task[Any] | None"]:
    task = asyncio.current_task()
    try:
        yield task
    finally:
        log(f"same:{asyncio.current_task() is task}")


async def same_task(task: Annotated["asyncio.Task[Any] | None", Depends(current_task)]) -> bool:
    return asyncio.current_task() is task


async def in_a_timeout(
    task: Annotated["asyncio.Task[Any] | None", Depends(current_task, use_cache=False)],
) -> AsyncIterator[bool]:
    async with asyncio.timeout(60):
        yield asyncio.current_task() is task


def one_task(
    item: str,
    a: Annotated["asyncio.Task[Any] | None", Depends(current_task)],
    b: Annotated[bool, Depends(same_task)],
    c: Annotated[bool, Depends(in_a_timeout)],
) -> list[Any]:
    return called(item, a is None, b, c)


def one_task_after_error(item: str, a: Annotated["asyncio.Task[Any] | None", Depends(current_task)], x: X) -> list[Any]:
    called()
    boom(Boom(item))


async def in_a_task_group() -> AsyncIterator[str]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(p.async_one())
        yield await task
        group.create_task(p.async_one())
    log("group")


def task_group(item: str, a: Annotated[str, Depends(in_a_task_group)]) -> list[Any]:
    return called(item, a)


def error_through_a_task_group(item: str, x: X, a: Annotated[str, Depends(in_a_task_group)], y: Y) -> list[Any]:
    called()
    boom(Boom(item))


async def awaited() -> str:
    await asyncio.sleep(0)
    log("awaited")
    return "awaited"


def runs_a_loop(item: str) -> list[Any]:
    return called(item, asyncio.run(awaited()))


def runs_a_loop_above_async(item: str, x: X) -> list[Any]:
    return called(item, x, asyncio.run(awaited()))


def loop_runner(x: X) -> str:
    log("runner")
    return asyncio.run(awaited()) + x


def gen_loop_runner(y: Y) -> Iterator[str]:
    with traced("runner"):
        yield asyncio.run(awaited()) + y
        asyncio.run(awaited())


def providers_run_a_loop(
    item: str, a: Annotated[str, Depends(loop_runner)], b: Annotated[str, Depends(gen_loop_runner)]
) -> list[Any]:
    return called(item, a, b)


GRAPHS = (
    Graph("async value", async_value, "async_one call"),
    Graph("sync and async generators", both_kinds, "a+ x+ b+ y+ call y- b- x- a-"),
    Graph(
        "error reaches sync and async generators",
        error_reaches_both_kinds,
        "a+ x+ b+ y+ call y!Boom b!Boom x!Boom a!Boom",
        phase="call",
    ),
    Graph("sync on async on sync", sync_on_async_on_sync, "x+ a+ async_on async_one sync_on call a- x-"),
    Graph("async set-up fails", async_setup_fails, "a+ x+ async_failing x!Boom a!Boom", phase="setup"),
    Graph("async error after yield", async_error_after_yield, "a+ x+ after+ y+ call y- x!Boom a!Boom", phase="cleanup"),
    Graph("async replaced error", async_replaced, "a+ x+ y+ call y!Boom replacing:True x!OtherBoom a!OtherBoom"),
    Graph("async swallowed error", async_swallowed, "a+ x+ b+ call b!Boom swallowed:True x- a-", compare="failure"),
    Graph(
        "async generator without yield",
        async_not_yielding,
        "x+ a+ none a!RuntimeError? x!RuntimeError?",
        compare="type",
        phase="setup",
    ),
    Graph(
        "async generator yields twice",
        async_yielding_twice,
        "x+ first b+ call b- second x!RuntimeError?",
        compare="type",
        phase="cleanup",
    ),
    Graph("async generator yields again on error", async_yielding_again, "x+ call second x!RuntimeError?"),
    Graph("uncached async generator", uncached_async, "x+ x+ {item}+ call {item}- x- x-"),
    Graph("one task", one_task, "call same:True same:True"),
    Graph("one task after error", one_task_after_error, "x+ call x!Boom same:True"),
    Graph("task group", task_group, "async_one call async_one group"),
    Graph(
        "error through a task group",
        error_through_a_task_group,
        "x+ async_one y+ call y!Boom x!ExceptionGroup?",
    ),
    Graph("function runs a loop", runs_a_loop, "awaited call"),
    Graph("function runs a loop above async", runs_a_loop_above_async, "x+ awaited call x-"),
    Graph(
        "providers run a loop above async",
        providers_run_a_loop,
        "x+ runner awaited y+ runner+ awaited call awaited runner- y- x-",
    ),
)
