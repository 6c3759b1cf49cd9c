"""Whether the running code is inside a worker of a pool; survives ``asyncio.to_thread`` and task switches."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poolinject.backends.base import Backend

_inside: ContextVar[frozenset[int]] = ContextVar("poolinject_inside", default=frozenset())


@contextmanager
def inside(backend: Backend) -> Iterator[None]:
    """Mark what runs in the block as running inside a worker."""
    token = _inside.set(_inside.get() | {id(backend)})
    try:
        yield
    finally:
        _inside.reset(token)


def is_inside(backend: Backend) -> bool:
    """Tell whether the calling code runs in a worker of this backend."""
    return id(backend) in _inside.get()
