"""What items of the tests of time limits hang in, and what they depend on."""

from __future__ import annotations

import asyncio
import ctypes
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

from poolinject import Depends, Failure, ItemTimeoutError
from poolinject._worker import timeouts
from tests.pool.ledger import note, span

LIMIT = 0.15
LONG = 60.0  # for what must be interrupted


def sleep(_: Any) -> None:
    """In a system call."""
    time.sleep(LONG)


def spin(_: Any) -> None:
    """In Python code."""
    while True:
        pass


def receive(_: Any) -> None:
    """In a read from a socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


def lock(_: Any) -> None:
    """In a wait for a lock."""
    held = threading.Lock()
    held.acquire()
    held.acquire(timeout=LONG)


def join(_: Any) -> None:
    """In a wait for a thread."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait, args=(LONG,))
    thread.start()
    try:
        thread.join()
    finally:
        over.set()


def child(_: Any) -> None:
    """In a wait for a process."""
    subprocess.run(["sleep", str(LONG)], check=True)  # noqa: S607 - wherever it is


async def wait(_: Any) -> None:
    """In a wait of a coroutine."""
    await asyncio.sleep(LONG)


async def gather(_: Any) -> None:
    """In a wait for tasks."""
    await asyncio.gather(asyncio.sleep(LONG), asyncio.Event().wait())


async def blocked(_: Any) -> None:
    """In a task that keeps the event loop from turning."""

    async def block() -> None:
        time.sleep(LONG)  # noqa: ASYNC251 - that is the point

    await asyncio.gather(block(), asyncio.sleep(LONG))


def own_loop(_: Any) -> None:
    """In an event loop of its own."""
    asyncio.run(asyncio.sleep(LONG))


WAYS: list[Callable[[Any], Any]] = [sleep, spin, receive, lock, join, child, wait, gather, blocked, own_loop]


def swallow(_: Any) -> None:
    """Go on as if nothing had happened."""
    while True:
        try:
            time.sleep(LONG)
        except ItemTimeoutError:
            note("swallowed")


def block_signals(_: Any) -> None:
    """Let no signal in."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(LONG)


def keep_interpreter(_: Any) -> None:
    """Keep every thread of the process from running."""
    ctypes.PyDLL(None).sleep(int(LONG))


def match(_: Any) -> None:
    """Look for a match that is not there, for ages."""
    re.match(r"(a+)+$", "a" * 64 + "b")


class Unready:
    """A result that takes for ever to pickle."""

    def __reduce__(self) -> Any:
        while True:
            try:
                time.sleep(LONG)
            except ItemTimeoutError:
                note("hit the pickling")


def return_unready(_: Any) -> Any:
    """End well, but for the result."""
    return Unready()


def shorten_grace() -> None:
    """Spare the test the two seconds."""
    timeouts.GRACE_SECONDS = 0.3


DEAF: list[Callable[[Any], Any]] = [swallow, block_signals, keep_interpreter, match, return_unready]


def get_engine() -> Iterator[str]:
    """One in each worker."""
    yield from span("engine")


def get_session(item: Any, engine: Annotated[str, Depends(get_engine)]) -> Iterator[str]:
    """One for each item; it notes what it is rolled back for."""
    del engine
    note(f"session {item}+")
    try:
        yield "session"
    except BaseException as error:
        note(f"rolled back for {type(error).__name__}")
        raise
    finally:
        note(f"session {item}-")


async def get_cursor(session: Annotated[str, Depends(get_session)]) -> AsyncIterator[str]:
    """One for each item, opened and closed in async code."""
    note(f"{session} cursor+")
    await asyncio.sleep(0)
    try:
        yield "cursor"
    finally:
        await asyncio.sleep(0)
        note(f"{session} cursor-")


Session = Annotated[str, Depends(get_session)]
Cursor = Annotated[str, Depends(get_cursor)]


def run_way(item: tuple[int, Callable[[Any], Any] | None], cursor: Cursor) -> int:
    """Hang as the item says."""
    number, way = item
    if way is not None:
        way(cursor)
    return number


async def await_way(item: tuple[int, Callable[[Any], Any] | None], cursor: Cursor) -> int:
    """Hang as the item says."""
    number, way = item
    made = None if way is None else way(cursor)
    if made is not None:
        await made
    return number


def runner_of(way: Callable[[Any], Any]) -> Callable[..., Any]:
    """Give the function for it."""
    return await_way if asyncio.iscoroutinefunction(way) else run_way


def check_timeout(failure: Any, index: int, provider: str | None = None, timeout: float = LIMIT) -> None:
    """Check all that a failure tells."""
    assert isinstance(failure, Failure)
    assert (failure.index, failure.phase, failure.provider) == (index, "timeout", provider), failure
    assert isinstance(failure.error, ItemTimeoutError)
    assert (failure.error.index, failure.error.timeout) == (index, timeout)
    assert str(failure.error) == f"item {index} ran longer than {timeout:g} s"
    assert "ItemTimeoutError" in failure.traceback or str(failure.error) in failure.traceback


def run_deaf(item: tuple[int, Callable[[Any], Any] | None]) -> Any:
    """Hang as the item says."""
    number, way = item
    return number if way is None else way(None)


def nap(seconds: float) -> float:
    """Take a while."""
    time.sleep(seconds)
    return seconds
