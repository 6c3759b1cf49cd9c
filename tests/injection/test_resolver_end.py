"""The end of a resolver: nothing that a cleanup raised is lost, whatever it is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from poolinject import CleanupError, Depends, InjectedPool, Resolver


@dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses to be changed."""

    text: str


class NoNotesError(Exception):
    """Refuses notes."""

    def add_note(self, note: str) -> None:
        """Refuse."""
        raise TypeError(note)


def failing_with(error: BaseException) -> Callable[[], Iterator[None]]:
    """Make a provider whose cleanup raises an error."""

    def get_failing() -> Iterator[None]:
        yield
        raise error

    return get_failing


def failing_async_with(error: BaseException) -> Callable[[], AsyncIterator[None]]:
    """Make an async one."""

    async def get_failing() -> AsyncIterator[None]:
        yield
        raise error

    return get_failing


def function_of(first: Any, second: Any) -> Callable[..., None]:
    """Make a function of two dependencies that are kept."""

    def function(
        item: object,
        a: Annotated[None, Depends(first, lifetime="pool")],
        b: Annotated[None, Depends(second, lifetime="worker")],
    ) -> None:
        """Use both."""

    return function


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("comes_first", [True, False])
def test_what_ends_a_program_has_the_other_errors_with_it(kind: type[BaseException], *, comes_first: bool) -> None:
    """With their tracebacks, before it and after it."""
    ending, other = kind("end"), failing_with(ValueError("commit failed"))
    providers = (other, failing_with(ending)) if comes_first else (failing_with(ending), other)
    with pytest.raises(type(ending)) as raised, Resolver() as resolver:
        resolver.call(function_of(*providers))
    assert raised.value is ending
    notes = "\n".join(ending.__notes__)
    assert notes.startswith("in the cleanup of get_failing\nbesides, the cleanup of get_failing raised\nTraceback")
    assert "raise error\nValueError: commit failed\nin the cleanup of get_failing" in notes


def test_what_ends_a_program_has_the_other_errors_with_it_in_async_code() -> None:
    """Sync and async ones."""
    ending = SystemExit(4)

    async def run() -> None:
        async with Resolver() as resolver:
            await resolver.acall(function_of(failing_async_with(ValueError("commit failed")), failing_with(ending)))

    with pytest.raises(SystemExit) as raised:
        asyncio.run(run())
    assert raised.value is ending
    assert "ValueError: commit failed" in ending.__notes__[1]


@pytest.mark.parametrize("error", [FrozenError("x"), NoNotesError("x")], ids=lambda error: type(error).__name__)
def test_errors_that_refuse_notes_leave_with_the_others(error: Exception) -> None:
    """Noted all the same, by a resolver and by a pool."""
    other = ValueError("other")
    function = function_of(failing_with(error), failing_with(other))
    with pytest.raises(CleanupError) as raised, Resolver() as resolver:
        resolver.call(function)
    assert raised.value.exceptions == (other, error)
    assert error.__notes__ == ["in the cleanup of get_failing"]
    with pytest.raises(CleanupError) as raised, InjectedPool(1, backend="inline") as pool:
        pool.map(function, [1])
    assert [type(each) for each in raised.value.exceptions] == [ValueError, type(error)]
