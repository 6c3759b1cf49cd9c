# ruff: noqa: D103 - a generator says it in its name
"""What follows a failure: each generator gets the error thrown in, as ``contextlib`` would do it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import traceback
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from poolinject._injection import generators


def passes() -> Generator[int, None, None]:
    yield 1


def swallows() -> Generator[int, None, None]:
    with contextlib.suppress(BaseException):
        yield 1


def replaces() -> Generator[int, None, None]:
    try:
        yield 1
    except BaseException as error:
        raise KeyError("replaced") from error


def replaces_from_none() -> Generator[int, None, None]:
    try:
        yield 1
    except BaseException:  # noqa: BLE001 - the case
        raise KeyError("replaced") from None


def yields_again() -> Generator[int, None, None]:
    try:
        yield 1
    except BaseException:  # noqa: BLE001 - the case
        yield 2


def stops() -> Generator[int, None, None]:
    try:
        yield 1
    except BaseException:  # noqa: BLE001 - the case
        return


BEHAVIOURS = [passes, swallows, replaces, replaces_from_none, yields_again, stops]
ERRORS = [ValueError, StopIteration, StopAsyncIteration, GeneratorExit, KeyboardInterrupt, RuntimeError]


def to_async(behaviour: Callable[[], Generator[int, None, None]]) -> Callable[[], AsyncGenerator[int, None]]:
    """Make an async generator that behaves like a sync one."""

    async def generator() -> AsyncGenerator[int, None]:
        inner = behaviour()
        value = next(inner)
        while True:
            try:
                yield value
            except GeneratorExit:
                inner.close()
                raise
            except BaseException as error:  # noqa: BLE001 - handed on
                try:
                    value = inner.throw(error)
                except StopIteration:
                    return
            else:
                return

    return generator


def compare(outcome: BaseException | None, error: BaseException) -> object:
    """Tell an outcome: the same object, another error, or nothing."""
    if outcome is None or outcome is error:
        return "swallowed" if outcome is None else "the same"
    return type(outcome), str(outcome), outcome.__cause__ is error


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("error_type", ERRORS)
def test_throw_does_what_contextmanager_does(
    behaviour: Callable[[], Generator[int, None, None]], error_type: type[BaseException]
) -> None:
    """Whatever is thrown, and whatever the generator does with it."""
    error = error_type("thrown")
    generator = behaviour()
    next(generator)
    outcome = generators.throw(generator, error)

    expected: object = None
    manager = contextmanager(behaviour)()
    manager.__enter__()
    try:
        expected = "swallowed" if manager.__exit__(error_type, error, None) else "the same"
    except BaseException as raised:  # noqa: BLE001 - compared
        expected = compare(raised, error)
    assert compare(outcome, error) == expected


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("error_type", [ValueError, RuntimeError, KeyboardInterrupt])
def test_throw_async_does_what_asynccontextmanager_does(
    behaviour: Callable[[], Generator[int, None, None]], error_type: type[BaseException]
) -> None:
    """The same for async generators."""
    error = error_type("thrown")

    async def ours() -> object:
        generator = to_async(behaviour)()
        await anext(generator)
        return compare(await generators.throw_async(generator, error), error)

    async def theirs() -> object:
        manager = asynccontextmanager(to_async(behaviour))()
        await manager.__aenter__()
        try:
            return "swallowed" if await manager.__aexit__(error_type, error, None) else "the same"
        except BaseException as raised:  # noqa: BLE001 - compared
            return compare(raised, error)

    assert asyncio.run(ours()) == asyncio.run(theirs())


def test_traceback_stays_that_of_the_item() -> None:
    """An error that passes through generators does not grow by their frames."""
    with pytest.raises(ZeroDivisionError) as raised:
        math.sqrt(1 / 0)
    error = raised.value
    before = traceback.format_tb(error.__traceback__)
    generator = passes()
    next(generator)
    assert generators.throw(generator, error) is error
    assert traceback.format_tb(error.__traceback__) == before


def test_opening_refuses_a_generator_without_yield() -> None:
    """Both kinds are named."""

    def empty() -> Generator[int, None, None]:
        return
        yield

    async def async_empty() -> AsyncGenerator[int, None]:
        return
        yield

    with pytest.raises(RuntimeError, match="get_it didn't yield"):
        generators.drive(generators.opening(empty(), "generator", "get_it"), asyncio.run)
    with pytest.raises(RuntimeError, match="get_it didn't yield"):
        asyncio.run(generators.drive_async(generators.opening(async_empty(), "async generator", "get_it")))


def test_every_generator_is_closed_with_the_newest_error() -> None:
    """Swallowed in the middle: the outer ones end normally, the item still fails, with where the newest comes from."""
    seen: list[str] = []

    def watching(name: str) -> Generator[int, None, None]:
        try:
            yield 1
        except BaseException as error:
            seen.append(f"{name} {type(error).__name__}")
            raise
        seen.append(f"{name} ended")

    open_ones = (watching("outer"), swallows(), watching("middle"), replaces(), watching("inner"))
    for generator in open_ones:
        next(generator)
    stage = generators.Stage("call", None, (4, 3, 2, 1, 0))
    steps = generators.closing_failed(ValueError("item"), stage, open_ones, ("a", "b", "c", "d", "e"))
    failed = generators.drive(steps, asyncio.run)
    assert seen == ["inner ValueError", "middle KeyError", "outer ended"]
    assert (type(failed.error), failed.phase, failed.provider) == (KeyError, "cleanup", "d")


@pytest.mark.parametrize("drive", ["sync", "async"])
def test_drive_gives_errors_of_coroutines_to_the_steps(drive: str) -> None:
    """Steps may handle what their coroutines raise."""

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("inside")

    def steps() -> generators.Steps[Any]:
        try:
            yield fail()
        except ValueError as error:
            return f"handled {error}", (yield asyncio.sleep(0, "value"))

    made = steps()
    result = generators.drive(made, asyncio.run) if drive == "sync" else asyncio.run(generators.drive_async(made))
    assert result == ("handled inside", "value")
