"""Graphs with providers that set context variables."""
# ruff: noqa: D103 - a function's name says what it shows

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated, Any

from fastapi import Depends

from tests.injection import providers as p
from tests.injection.ledger import Graph, called, log, traced

X = Annotated[str, Depends(p.async_gen_x)]

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def set_tenant(item: str) -> str:
    before = tenant.get()
    tenant.set(item)
    return before


def read_tenant() -> str:
    log(f"read:{tenant.get()}")
    return tenant.get()


def gen_read_tenant() -> Iterator[str]:
    with traced(f"in:{tenant.get()}"):
        yield tenant.get()
        log(f"after:{tenant.get()}")


def context_of_async(
    item: str,
    a: Annotated[str, Depends(set_tenant)],
    b: Annotated[str, Depends(read_tenant)],
    c: Annotated[str, Depends(gen_read_tenant)],
) -> list[Any]:
    return called(item, a, b, c, tenant.get())


@asynccontextmanager
async def acting_as(name: str) -> AsyncIterator[str]:
    reset = tenant.set(name)
    try:
        yield tenant.get()
    finally:
        tenant.reset(reset)
        log(f"reset:{tenant.get()}")


async def async_gen_tenant(item: str) -> AsyncIterator[str]:
    async with acting_as(item) as name:
        yield name


def context_is_reset(item: str, x: X, a: Annotated[str, Depends(async_gen_tenant)]) -> list[Any]:
    return called(item, a, tenant.get())


def gen_tenant(item: str) -> Iterator[str]:
    before = tenant.get()
    reset = tenant.set(item)
    yield before
    tenant.reset(reset)
    log(f"reset:{tenant.get()}")


def context_of_sync(
    item: str, a: Annotated[str, Depends(gen_tenant)], b: Annotated[str, Depends(read_tenant)]
) -> list[Any]:
    return called(item, a, b, tenant.get())


async def async_read_tenant() -> str:
    return tenant.get()


def context_of_both(
    item: str,
    a: Annotated[str, Depends(gen_tenant)],
    b: Annotated[str, Depends(async_read_tenant)],
    c: Annotated[str, Depends(async_gen_tenant)],
) -> list[Any]:
    return called(item, a, b, c, tenant.get())


def context_left_behind(item: str) -> list[Any]:
    before = tenant.get()
    tenant.set(item)
    return called(item, before)


GRAPHS = (
    Graph(
        "context of an async provider",
        context_of_async,
        "read:{item} in:{item}+ call after:{item} in:{item}-",
    ),
    Graph("context is reset by an async generator", context_is_reset, "x+ call reset:nobody x-"),
    Graph(
        "context of a sync generator",
        context_of_sync,
        "read:{item} call reset:nobody",
        since=None,
        value='["{item}", "nobody", "{item}", "{item}"]',
    ),
    Graph(
        "context of both kinds",
        context_of_both,
        "call reset:{item} reset:nobody",
        since=None,
        value='["{item}", "nobody", "{item}", "{item}", "{item}"]',
    ),
    Graph("context left behind", context_left_behind, "call"),
)
