"""Graphs with providers, and a function, behind ``functools.wraps``."""
# ruff: noqa: D103 - a function's name says what it shows

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

from fastapi import Depends

from tests.injection import providers as p
from tests.injection.ledger import Graph, called, log, traced


def counted(provider: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(provider)
    def wrapper(*args: object, **kwargs: object) -> Any:
        log("counted")
        return provider(*args, **kwargs)

    return wrapper


def async_counted(provider: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(provider)
    async def wrapper(*args: object, **kwargs: object) -> Any:
        log("async_counted")
        return await provider(*args, **kwargs)

    return wrapper


@counted
@counted
def wrapped(one: Annotated[str, Depends(p.one)], limit: int = 8) -> str:
    log("wrapped")
    return f"wrapped({one},{limit})"


@counted
def wrapped_gen(one: Annotated[str, Depends(p.one)]) -> Iterator[str]:
    with traced("wrapped"):
        yield one


@counted
async def wrapped_async_gen(one: Annotated[str, Depends(p.one)]) -> AsyncIterator[str]:
    with traced("wrapped"):
        yield one


@async_counted
async def wrapped_async(one: Annotated[str, Depends(p.one)]) -> str:
    log("wrapped")
    return one


def wrapped_functions(
    item: str, a: Annotated[str, Depends(wrapped)], b: Annotated[str, Depends(wrapped_async)]
) -> list[Any]:
    return called(item, a, b)


@counted
def wrapped_itself(item: str, a: Annotated[str, Depends(wrapped)]) -> list[Any]:
    return called(item, a)


def wrapped_generators(
    item: str, a: Annotated[str, Depends(wrapped_gen)], b: Annotated[str, Depends(wrapped_async_gen)]
) -> list[Any]:
    return called(item, a, b)


GRAPHS = (
    Graph(
        "wrapped functions",
        wrapped_functions,
        "one counted counted wrapped async_counted wrapped call",
        since=(0, 118, 0),
    ),
    Graph("wrapped itself", wrapped_itself, "one counted counted wrapped counted call"),
    Graph(
        "wrapped generators",
        wrapped_generators,
        "one counted wrapped+ counted wrapped+ call wrapped- wrapped-",
        since=(0, 124, 0),
    ),
)
