"""Context-manager semantics for generators: what ``contextlib`` does around a ``yield``, without its objects.

Generated code opens and closes generators in line on the way of success; what follows a failure is here. ``Steps``
serve sync and async code alike: they yield the coroutines that they need run and get the results back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeAlias, TypeVar

from poolinject._exceptions import set_traceback, traceback_of

if TYPE_CHECKING:
    from poolinject._injection.signature import Kind

Value = TypeVar("Value")
Steps: TypeAlias = Generator[Coroutine[Any, Any, Any], Any, Value]
Phase: TypeAlias = Literal["setup", "call", "cleanup", "transport", "timeout", "lost"]
AnyGenerator: TypeAlias = Generator[Any, None, None] | AsyncGenerator[Any, None]


class Stage(NamedTuple):
    """A place in generated code: what runs there and which generators are open, the next to close first."""

    phase: Phase
    provider: str | None
    open: tuple[int, ...]


class Failed:
    """What generated code returns for an item that failed, its scope closed."""

    __slots__ = ("error", "phase", "provider")

    def __init__(self, error: BaseException, phase: Phase, provider: str | None) -> None:
        self.error, self.phase, self.provider = error, phase, provider


def did_not_yield(name: str) -> NoReturn:
    """Refuse a generator that ended before its first ``yield``."""
    message = f"{name} didn't yield"
    raise RuntimeError(message)


def did_not_stop(generator: Generator[Any, None, None], name: str) -> NoReturn:
    """Refuse a generator that yielded again where its cleanup was to end, and close it before the outer ones."""
    try:
        _refuse_more(name)
    finally:
        generator.close()


def _refuse_more(name: str) -> NoReturn:
    message = f"{name} didn't stop: it yielded more than once"
    raise RuntimeError(message)


async def open_async(generator: AsyncGenerator[Any, None], name: str) -> Any:
    """Run an async generator to its ``yield`` and give the value."""
    async for value in generator:
        return value
    did_not_yield(name)


async def close_async(generator: AsyncGenerator[Any, None], name: str) -> None:
    """Run the code after the ``yield``."""
    async for _ in generator:
        try:
            _refuse_more(name)
        finally:
            await generator.aclose()


def throw(generator: Generator[Any, None, None], error: BaseException) -> BaseException | None:
    """Throw an error in at the ``yield``; give what comes out, ``None`` where the generator swallowed it."""
    traceback = traceback_of(error)
    try:
        generator.throw(error)
    except StopIteration as stop:
        return _after(error, stop, traceback, swallowed=stop is not error)
    except BaseException as raised:  # noqa: BLE001 - passed on
        return _after(error, raised, traceback, swallowed=False)
    try:
        generator.close()
    except BaseException as raised:  # noqa: BLE001 - passed on
        return raised
    return RuntimeError("generator didn't stop after throw()")


async def throw_async(generator: AsyncGenerator[Any, None], error: BaseException) -> BaseException | None:
    """Do as ``throw`` does."""
    traceback = traceback_of(error)
    try:
        await generator.athrow(error)
    except StopAsyncIteration as stop:
        return _after(error, stop, traceback, swallowed=stop is not error)
    except BaseException as raised:  # noqa: BLE001 - passed on
        return _after(error, raised, traceback, swallowed=False)
    try:
        await generator.aclose()
    except BaseException as raised:  # noqa: BLE001 - passed on
        return raised
    return RuntimeError("generator didn't stop after athrow()")


def _after(thrown: BaseException, raised: BaseException, traceback: Any, *, swallowed: bool) -> BaseException | None:
    if swallowed:
        return None
    stops = isinstance(thrown, (StopIteration, StopAsyncIteration))
    if raised is thrown or (stops and isinstance(raised, RuntimeError) and raised.__cause__ is thrown):
        set_traceback(thrown, traceback)  # without the frames of the generators that it went through
        return thrown
    return raised


def closing_failed(
    error: BaseException, stage: Stage, generators: tuple[AnyGenerator | None, ...], names: tuple[str, ...]
) -> Steps[Failed]:
    """Close the open generators of a failed item with its error, innermost first; swallowing does not mend the item.

    What one raises in place of the error is the item's error from there on, and comes from its cleanup.
    """
    failed = Failed(error, stage.phase, stage.provider)
    current: BaseException | None = error
    for position in stage.open:
        raised = yield from closing_one(generators[position], names[position], current)
        if raised is not None and raised is not failed.error:
            failed = Failed(raised, "cleanup", names[position])
        current = raised
    return failed


def closing_one(generator: Any, name: str, error: BaseException | None) -> Steps[BaseException | None]:
    """Close one generator with an error or without; give what it raises."""
    if error is None:
        try:
            yield from closing(generator, name)
        except BaseException as raised:  # noqa: BLE001 - the outer ones are closed with it
            return raised
        return None
    if hasattr(generator, "athrow"):
        raised_inside: BaseException | None = yield throw_async(generator, error)
        return raised_inside
    return throw(generator, error)


def closing(generator: Any, name: str) -> Steps[None]:
    """Run the code after the ``yield``, whichever kind of generator it is."""
    if hasattr(generator, "athrow"):
        yield close_async(generator, name)
        return
    for _ in generator:
        did_not_stop(generator, name)


def opening(made: Any, kind: Kind, name: str) -> Steps[Any]:
    """Get the value out of what a provider returned."""
    if kind == "coroutine":
        return (yield made)
    if kind == "async generator":
        return (yield open_async(made, name))
    if kind == "generator":
        for value in made:
            return value
        did_not_yield(name)
    return made


def drive(steps: Steps[Value], run: Callable[[Coroutine[Any, Any, Any]], Any]) -> Value:
    """Go through steps from sync code; ``run`` runs each coroutine that they ask for."""
    try:
        coroutine = next(steps)
        while True:
            try:
                value = run(coroutine)
            except BaseException as error:  # noqa: BLE001 - it belongs to the steps
                coroutine = steps.throw(error)
            else:
                coroutine = steps.send(value)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def drive_async(steps: Steps[Value]) -> Value:
    """Go through steps from async code."""
    try:
        coroutine = next(steps)
        while True:
            try:
                value = await coroutine
            except BaseException as error:  # noqa: BLE001 - it belongs to the steps
                coroutine = steps.throw(error)
            else:
                coroutine = steps.send(value)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
