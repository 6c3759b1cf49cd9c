"""The async twin of a function, and a ledger for items that run beside each other."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any


def twin_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a coroutine function that does the same, and lets others go on before and after."""

    @functools.wraps(function)
    async def twin(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        result = function(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
        await asyncio.sleep(0)
        return result

    return twin
