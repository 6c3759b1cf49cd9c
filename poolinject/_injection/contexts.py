"""Coroutines in a context of their own. Runs in the worker."""

from __future__ import annotations

import contextvars
import types
from collections.abc import Coroutine
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

Step: TypeAlias = Coroutine[Any, Any, Any]


@types.coroutine
def enter(coroutine: Step, context: contextvars.Context) -> Generator[Any, Any, Any]:
    """Run a coroutine in a context of its own, inside the task that awaits this."""
    step: Callable[..., Any] = coroutine.send
    value: Any = None
    while True:
        try:
            waits_for = context.run(step, value)
        except StopIteration as stop:
            return stop.value
        try:
            value = yield waits_for
        except BaseException as error:  # noqa: BLE001 - cancellation included
            step, value = coroutine.throw, error
        else:
            step = coroutine.send


_MISSING = object()


class Values:
    """The values that a context has, to tell by ``!=`` whether any was set since, be it to an equal one.

    Contexts compare their values with ``==``, which is enough only where there were none.
    """

    def __init__(self, context: contextvars.Context) -> None:
        self._values = tuple(context.items())

    def __ne__(self, context: object) -> bool:
        assert isinstance(context, contextvars.Context)  # noqa: S101 - nothing else is compared with it
        return len(context) != len(self._values) or any(
            context.get(variable, _MISSING) is not value for variable, value in self._values
        )


_context_of_item: contextvars.ContextVar[contextvars.Context] = contextvars.ContextVar("poolinject_async_context")


@contextmanager
def context_elsewhere() -> Iterator[contextvars.Context]:
    """Give the context that the coroutines of this item run in on another thread, one for all of them.

    It is brought up to date, and what it has been set to is set here too afterwards.
    """
    context = _async_context()
    try:
        yield context
    finally:
        for variable, new in context.items():
            if variable.get(_MISSING) is not new:
                variable.set(new)


def _async_context() -> contextvars.Context:
    context = _context_of_item.get(None)
    if context is None:
        context = contextvars.copy_context()
        _context_of_item.set(context)
        return context
    for variable, value in contextvars.copy_context().items():
        if context.get(variable, _MISSING) is not value:
            context.run(variable.set, value)
    return context
