"""Small providers that many graphs share. Each logs what happens to it under its own name."""
# ruff: noqa: D103 - the name of a provider says what it makes

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from tests.injection.ledger import OtherBoom, boom, is_last_raised, log, traced


def one() -> str:
    log("one")
    return "1"


def two() -> str:
    log("two")
    return "2"


def three() -> str:
    log("three")
    return "3"


def fresh() -> object:
    log("fresh")
    return object()


def failing() -> str:
    log("failing")
    boom()


async def async_one() -> str:
    await asyncio.sleep(0)
    log("async_one")
    return "async 1"


async def async_failing() -> str:
    await asyncio.sleep(0)
    log("async_failing")
    boom()


def gen_a() -> Iterator[str]:
    with traced("a"):
        yield "a"


def gen_b() -> Iterator[str]:
    with traced("b"):
        yield "b"


def gen_c() -> Iterator[str]:
    with traced("c"):
        yield "c"


async def async_gen_x() -> AsyncIterator[str]:
    with traced("x"):
        await asyncio.sleep(0)
        yield "x"
        await asyncio.sleep(0)


async def async_gen_y() -> AsyncIterator[str]:
    with traced("y"):
        await asyncio.sleep(0)
        yield "y"
        await asyncio.sleep(0)


def gen_replacing() -> Iterator[str]:
    log("replacing+")
    try:
        yield "replacing"
    except Exception as error:  # noqa: BLE001 - whatever the item raises
        log(f"replacing:{is_last_raised(error)}")
        boom(OtherBoom("replaced"))


def gen_swallowing() -> Iterator[str]:
    log("swallowing+")
    try:
        yield "swallowing"
    except Exception as error:  # noqa: BLE001 - whatever the item raises
        log(f"swallowed:{is_last_raised(error)}")


def gen_failing_after_yield() -> Iterator[str]:
    log("after+")
    yield "after"
    log("after-")
    boom()


def gen_other_failing_after_yield() -> Iterator[str]:
    with traced("other"):
        try:
            yield "other"
        finally:
            boom(OtherBoom("cleanup"))


def gen_failing_before_yield() -> Iterator[str]:
    log("before+")
    boom()
    yield "before"
