"""The event loops by name; uvloop and trio are imported only where they are asked for. Runs in the worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from poolinject._injection.local_loop import LocalLoop
from poolinject._injection.loop_thread import LoopThread
from poolinject.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._injection.event_loop import EventLoop
    from poolinject.markers import AsyncBackend


def local_loop(backend: AsyncBackend, name: str) -> EventLoop:
    """Make the loop of a worker that shares it with no other.

    Raises:
        BackendUnavailableError: If the library cannot be imported.
    """
    if backend == "trio":
        return _trio_loop(name)
    return LocalLoop(maker(backend), watch="a selector" if backend == "uvloop" else "the file")


def shared_loop(backend: AsyncBackend, name: str) -> EventLoop:
    """Make the loop of workers that are threads.

    Raises:
        BackendUnavailableError: If the library cannot be imported.
    """
    return _trio_loop(name) if backend == "trio" else LoopThread(name, maker(backend))


def check_available(backend: AsyncBackend) -> None:
    """Import what a loop needs.

    Raises:
        BackendUnavailableError: If the library cannot be imported.
    """
    local_loop(backend, "")


def maker(backend: AsyncBackend) -> Callable[[], asyncio.AbstractEventLoop]:
    """Give what makes a loop of asyncio's kind."""
    if backend == "uvloop":
        try:
            import uvloop  # noqa: PLC0415 - optional
        except ImportError:
            raise _unavailable(backend) from None
        make: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return make
    return asyncio.new_event_loop


def _trio_loop(name: str) -> EventLoop:
    try:
        from poolinject._injection.trio_loop import TrioLoop  # noqa: PLC0415 - it imports trio
    except ImportError:
        raise _unavailable("trio") from None
    return TrioLoop(name)


def _unavailable(backend: AsyncBackend) -> BackendUnavailableError:
    return BackendUnavailableError(backend, f"pip install 'poolinject[{backend}]'")
