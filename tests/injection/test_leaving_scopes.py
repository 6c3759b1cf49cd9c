"""The error that leaves ``Resolver.scope`` or ``ascope``: chained to what it was chained to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest

from poolinject import Depends, Resolver

Provider = Callable[..., Any]


def leave_sync(provider: Provider, block: Callable[[], object]) -> None:
    """Run a block in a scope that has a dependency."""
    with Resolver() as resolver, resolver.scope() as scope:
        scope.get(provider)
        block()


def leave_async(provider: Provider, block: Callable[[], object]) -> None:
    """Do so in async code."""

    async def leave() -> None:
        async with Resolver() as resolver, resolver.ascope() as scope:
            await scope.get(provider)
            block()

    asyncio.run(leave())


each_way = pytest.mark.parametrize("leave", [leave_sync, leave_async])


def get_plain() -> Iterator[int]:
    """See the error and let it go on."""
    yield 1


def get_outer() -> Iterator[int]:
    """Replace the error that comes out of the inner cleanup."""
    try:
        yield 1
    except KeyError:
        raise OSError("outer")  # noqa: B904 - the case


def get_inner(outer: Annotated[int, Depends(get_outer)]) -> Iterator[int]:
    """Replace the error of the block."""
    try:
        yield outer
    except ValueError:
        raise KeyError("inner")  # noqa: B904 - the case


def get_failing() -> Iterator[int]:
    """Fail where nothing has."""
    yield 1
    fail_from_another()


def fail_from_another() -> None:
    """Raise an error with a cause."""
    try:
        int("x")
    except ValueError as error:
        raise RuntimeError("could not load") from error


def fail_beside_another() -> None:
    """Raise an error with a context."""
    try:
        int("x")
    except ValueError:
        raise RuntimeError("could not load")  # noqa: B904 - the case


@each_way
@pytest.mark.parametrize(("block", "suppresses"), [(fail_from_another, True), (fail_beside_another, False)])
def test_error_of_the_block_keeps_its_chain(
    leave: Callable[..., None], block: Callable[[], object], *, suppresses: bool
) -> None:
    """A log shows both errors, as without a scope."""
    with pytest.raises(RuntimeError, match="could not load") as raised:
        leave(get_plain, block)
    error = raised.value
    assert isinstance(error.__context__, ValueError)
    assert error.__cause__ is (error.__context__ if suppresses else None)
    assert error.__suppress_context__ is suppresses


@each_way
def test_error_of_a_cleanup_keeps_its_chain(leave: Callable[..., None]) -> None:
    """Each error that was replaced is there."""

    def block() -> None:
        raise ValueError("block")

    with pytest.raises(OSError, match="outer") as raised:
        leave(get_inner, block)
    replaced = raised.value.__context__
    assert isinstance(replaced, KeyError)
    assert isinstance(replaced.__context__, ValueError)
    assert not raised.value.__suppress_context__


@each_way
def test_error_of_a_cleanup_alone_keeps_its_chain(leave: Callable[..., None]) -> None:
    """The block had ended well."""
    with pytest.raises(RuntimeError, match="could not load") as raised:
        leave(get_failing, lambda: None)
    assert isinstance(raised.value.__cause__, ValueError)
    assert raised.value.__context__ is raised.value.__cause__


def raise_key_error() -> None:
    """Raise something to handle."""
    raise KeyError


def call_sync(function: Provider) -> None:
    """Call a function for an item while an error is handled."""
    with Resolver() as resolver:
        try:
            raise_key_error()
        except KeyError:
            resolver.call(function)


def call_async(function: Provider) -> None:
    """Do so in async code."""

    async def call() -> None:
        async with Resolver() as resolver:
            try:
                raise_key_error()
            except KeyError:
                await resolver.acall(function)

    asyncio.run(call())


@pytest.mark.parametrize("call", [call_sync, call_async])
def test_error_of_a_call_keeps_its_chain(call: Callable[..., None]) -> None:
    """Also where the caller is handling another one."""

    def function(item: object) -> None:
        fail_beside_another()

    with pytest.raises(RuntimeError, match="could not load") as raised:
        call(function)
    assert isinstance(raised.value.__context__, ValueError)
