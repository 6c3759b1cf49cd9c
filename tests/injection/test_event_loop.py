# ruff: noqa: D103 - coroutines say it in their names
"""Hosts: async work done from sync code, all of it in one task that others can see, cancel and wait in."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import signal
import sys
import threading
import types
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import anyio
import pytest

from poolinject._injection.async_backends import local_loop, shared_loop
from poolinject._injection.event_loop import EventLoop, Host
from poolinject._injection.local_loop import LocalLoop
from poolinject._injection.loop_thread import LoopThread

TIMEOUT = 5.0
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


KINDS: dict[str, Callable[[], EventLoop]] = {
    "local": lambda: local_loop("asyncio", "test"),
    "thread": lambda: shared_loop("asyncio", "test"),
    "local uvloop": lambda: local_loop("uvloop", "test"),
    "uvloop thread": lambda: shared_loop("uvloop", "test"),
}


@pytest.fixture(params=KINDS)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventLoop]:
    """Make each kind of loop in asyncio's debug mode; nothing may be left pending."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    if "uvloop" in request.param:
        pytest.importorskip("uvloop")
    made = KINDS[request.param]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield made
        made.close()
        gc.collect()


async def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def current_after_waiting() -> asyncio.Task[Any] | None:
    await asyncio.sleep(0)
    before = asyncio.current_task()
    await asyncio.wait_for(asyncio.sleep(0, "x"), TIMEOUT)
    assert asyncio.current_task() is before
    return before


def test_all_coroutines_of_a_host_run_in_one_task(loop: EventLoop) -> None:
    """Before, while and after they wait."""
    host = loop.host()
    tasks = {host.run(current()), host.run(current_after_waiting()), host.run(current())}
    assert len(tasks) == 1
    assert None not in tasks


def test_two_hosts_are_two_tasks(loop: EventLoop) -> None:
    """What one cancels does not reach the other."""
    assert loop.host().run(current()) is not loop.host().run(current())


def test_values_and_errors_come_back(loop: EventLoop) -> None:
    """The very same error object, whether the coroutine had waited or not."""
    error = KeyError("no")

    async def fail(*, waits: bool) -> None:
        if waits:
            await asyncio.sleep(0)
        raise error

    host = loop.host()
    for waits in (False, True):
        with pytest.raises(KeyError) as raised:
            host.run(fail(waits=waits))
        assert raised.value is error
    assert host.run(asyncio.sleep(0, "value")) == "value"


def test_sync_code_sees_no_running_loop(loop: EventLoop) -> None:
    """Between two coroutines ``asyncio.run`` is possible."""
    host = loop.host()
    host.run(current_after_waiting())
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    assert asyncio.run(asyncio.sleep(0, "inner")) == "inner"
    host.run(current_after_waiting())


def test_task_group_may_stay_open_between_two_coroutines(loop: EventLoop) -> None:
    """An async dependency enters it in one coroutine and leaves it in another."""
    host, group, events = loop.host(), asyncio.TaskGroup(), list[str]()

    async def child() -> None:
        await asyncio.sleep(0)
        events.append("child")

    async def start() -> None:
        group.create_task(child())

    host.run(group.__aenter__())
    host.run(start())
    host.run(group.__aexit__(None, None, None))
    assert events == ["child"]


def test_failing_child_cancels_the_next_wait(loop: EventLoop) -> None:
    """A task group that was cancelled between two coroutines ends with the error of its child."""
    host, group, failed = loop.host(), asyncio.TaskGroup(), threading.Event()

    async def child() -> None:
        failed.set()
        raise ValueError("child")

    async def start() -> None:
        group.create_task(child())

    async def turn() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async def work() -> str:
        try:
            await asyncio.sleep(TIMEOUT)
        except asyncio.CancelledError:
            return "cancelled"
        return "slept"

    host.run(group.__aenter__())
    host.run(start())
    loop.host().run(turn())  # the child fails while nothing runs in the host
    assert failed.wait(TIMEOUT)
    assert host.run(work()) == "cancelled"
    with pytest.raises(ExceptionGroup) as raised:
        host.run(group.__aexit__(None, None, None))
    assert [str(error) for error in raised.value.exceptions] == ["child"]
    assert host.run(asyncio.sleep(0, "usable")) == "usable"


def test_timeout_inside_a_coroutine_works(loop: EventLoop) -> None:
    """``asyncio.timeout`` needs a current task; the host is one."""

    async def limited() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(TIMEOUT)

    host = loop.host()
    with pytest.raises(TimeoutError):
        host.run(limited())
    assert host.run(asyncio.sleep(0, "usable")) == "usable"


def test_anyio_cancel_scope_works(loop: EventLoop) -> None:
    """Anyio asks for the current task too."""

    async def limited() -> bool:
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(TIMEOUT)
        return scope.cancelled_caught

    assert loop.host().run(limited())


def test_context_variables_go_in_and_come_out(loop: EventLoop) -> None:
    """A token of one coroutine may be used by the next; sync code sees what async code has set."""
    tokens: list[contextvars.Token[str]] = []

    async def enter() -> str:
        await asyncio.sleep(0)
        seen = variable.get()
        tokens.append(variable.set("async"))
        return seen

    async def leave() -> None:
        await asyncio.sleep(0)
        variable.reset(tokens.pop())

    def item() -> list[str]:
        host = loop.host()
        variable.set("sync")
        seen = [host.run(enter()), variable.get()]
        host.run(leave())
        return [*seen, variable.get()]

    assert contextvars.copy_context().run(item) == ["sync", "async", "sync"]
    assert variable.get() == "unset"


def test_close_cancels_what_is_left(loop: EventLoop) -> None:
    """A task that nobody waits for ends."""
    host, events, kept = loop.host(), list[str](), list[object]()

    async def linger() -> None:
        try:
            await asyncio.sleep(TIMEOUT)
        finally:
            events.append("task ended")

    async def begin() -> None:
        kept.append(asyncio.ensure_future(linger()))
        await asyncio.sleep(0)

    host.run(begin())
    loop.close()
    assert events == ["task ended"]


@pytest.mark.parametrize("waits", [True, False])
def test_async_generator_that_was_left_is_closed(loop: EventLoop, *, waits: bool) -> None:
    """A ``break`` out of ``async for`` runs the ``finally``, which may wait, at the latest when the loop is closed."""
    host, events = loop.host(), list[str]()

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            events.append("closed")

    async def take_one() -> None:
        async for _ in numbers():
            break
        for _ in range(4 if waits else 0):
            await asyncio.sleep(0)

    host.run(take_one())
    if waits:
        assert events == ["closed"]
    host.run(asyncio.sleep(0))
    host.run(asyncio.sleep(0))
    host.run(asyncio.sleep(0))
    loop.close()
    assert events == ["closed"]
    assert sys.get_asyncgen_hooks() == (None, None)


def test_close_of_an_unused_loop_does_nothing(loop: EventLoop) -> None:
    """A plan without async parts needs no event loop, so none is made."""
    loop.host()
    loop.close()
    loop.close()


def test_local_loop_may_be_used_inside_a_running_loop() -> None:
    """Sync code called by async code, say in a notebook, still has its own loop."""
    local = LocalLoop()

    async def outer() -> tuple[bool, bool]:
        before = asyncio.get_running_loop()
        inside = local.host().run(running_loop_after_waiting())
        return inside is not before, asyncio.get_running_loop() is before

    async def running_loop_after_waiting() -> asyncio.AbstractEventLoop:
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    assert asyncio.run(outer()) == (True, True)
    local.close()


def test_local_host_goes_on_with_a_new_loop_after_close() -> None:
    """A cleanup that comes late gets a loop."""
    local = LocalLoop()
    host = local.host()
    assert host.run(asyncio.sleep(0, 1)) == 1
    local.close()
    assert host.run(asyncio.sleep(0, 2)) == 2
    local.close()


def test_interrupt_around_a_wait_reaches_the_code_that_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not left in the middle, with its scopes open; an error that ends it is raised."""
    local = LocalLoop()
    host = local.host()

    @types.coroutine
    def work(error: type[BaseException]) -> Generator[Any, Any, str]:
        host.show()
        try:
            yield from asyncio.sleep(0)
        except KeyboardInterrupt:
            assert asyncio.get_running_loop() is local.get()
            if error is not KeyboardInterrupt:
                raise error from None
        return "closed"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    assert host.follow(work, KeyboardInterrupt) == "closed"
    monkeypatch.setattr(host, "_wait", interrupted)
    assert host.follow(work, KeyboardInterrupt) == "closed"
    with pytest.raises(ZeroDivisionError):
        host.follow(work, ZeroDivisionError)
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    local.close()


@pytest.mark.parametrize("turns", [0, 2])
def test_interrupt_in_a_wait_reaches_the_coroutine(turns: int) -> None:
    """Ctrl-C while async code waits, or is about to, is seen in the same task and leaves the host usable."""
    local, events = LocalLoop(), list[object]()
    host = local.host()
    task = host.run(current())

    def interrupt(turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(interrupt, turns - 1)
        else:
            signal.raise_signal(signal.SIGINT)

    async def wait() -> None:
        asyncio.get_running_loop().call_soon(interrupt, turns)
        try:
            await asyncio.sleep(TIMEOUT)
        except KeyboardInterrupt:
            events.append("interrupted")
            await asyncio.sleep(0)
            events.append((asyncio.current_task() is task, task.cancelling()))
            raise

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            host.run(wait())
    finally:
        signal.signal(signal.SIGINT, previous)
    assert events == ["interrupted", (True, 0)]
    assert host.run(asyncio.sleep(0, "usable")) == "usable"
    local.close()


def test_coroutine_that_never_waits_turns_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only waiting costs a turn."""
    local = LocalLoop()
    host = local.host()
    host.run(current())

    def refuse(*_: object) -> None:
        raise AssertionError("the loop was turned")

    monkeypatch.setattr(local.get(), "run_until_complete", refuse)
    assert host.run(current()) is not None
    monkeypatch.undo()
    local.close()


@pytest.mark.parametrize("threads", [4])
def test_threads_share_one_loop_thread(threads: int) -> None:
    """Each has its own host; what one waits for does not keep the others."""
    shared = LoopThread("test")
    barrier, results = asyncio.Barrier(threads), list[object]()

    async def meet() -> object:
        async with asyncio.timeout(TIMEOUT), barrier:
            return asyncio.current_task()

    def run(host: Host) -> None:
        results.append(host.run(meet()))

    workers = [threading.Thread(target=run, args=(shared.host(),)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(TIMEOUT)
    assert len(set(results)) == threads
    shared.close()


def test_loop_thread_ends_with_close() -> None:
    """No thread is left behind."""
    before = set(threading.enumerate())
    shared: LoopThread = LoopThread("test")
    shared.host().run(current())
    assert set(threading.enumerate()) - before
    shared.close()
    assert set(threading.enumerate()) <= before


class InterruptError(Exception):
    """What a wait is ended with."""


def test_a_wait_can_be_ended_with_an_error() -> None:
    """It is raised where the coroutine waits; its task is none the worse, neither are others."""
    loop = LocalLoop()
    host = loop.host()
    raised, others = InterruptError(), list[asyncio.Task[str]]()

    async def wait() -> str:
        others.append(asyncio.create_task(asyncio.sleep(0.05, "slept")))
        asyncio.get_running_loop().call_later(0.01, interrupt)
        with pytest.raises(InterruptError) as caught:
            await asyncio.sleep(TIMEOUT)
        assert caught.value is raised
        return await others[0]

    def interrupt() -> None:
        assert loop.waiting is host
        assert not host.is_deaf
        host.interrupt(raised)
        assert host.is_deaf

    assert host.run(wait()) == "slept"
    assert host.run(current()).cancelling() == 0
    assert loop.waiting is None
    assert host.run(asyncio.sleep(0.01, "again")) == "again"
    loop.close()


def test_an_interrupt_at_the_last_moment_is_not_left_for_the_next_wait() -> None:
    """A wait that has just ended is ended with the error all the same."""
    loop = LocalLoop()
    host = loop.host()

    async def wait() -> list[str]:
        caught: list[str] = []
        for _ in range(2):
            future = asyncio.get_running_loop().create_future()
            if not caught:
                asyncio.get_running_loop().call_soon(end, future)
            else:
                asyncio.get_running_loop().call_later(0.01, future.set_result, None)
            try:
                await future
            except InterruptError:
                caught.append("caught")
            else:
                caught.append("went on")
        return caught

    def end(future: asyncio.Future[None]) -> None:
        future.set_result(None)
        host.interrupt(InterruptError())

    assert host.run(wait()) == ["caught", "went on"]
    assert host.run(current()).cancelling() == 0
    loop.close()


def test_a_wait_that_does_not_end_when_cancelled_is_waited_for() -> None:
    """What it does last is done when the error is raised."""
    loop = LocalLoop()
    host = loop.host()
    done = []

    async def slow() -> None:
        try:
            await asyncio.sleep(TIMEOUT)
        finally:
            await asyncio.sleep(0.02)
            done.append("slow")

    async def wait() -> None:
        asyncio.get_running_loop().call_later(0.01, host.interrupt, InterruptError())
        await asyncio.create_task(slow())

    with pytest.raises(InterruptError):
        host.run(wait())
    assert done == ["slow"]
    loop.close()
