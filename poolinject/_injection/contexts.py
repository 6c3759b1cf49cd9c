"""Coroutines in a context of their own. Runs in the worker."""

from __future__ import annotations

import types
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Generator

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
