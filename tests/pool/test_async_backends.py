"""The event loops that workers run async code on: with each of them the same holds, and on it what is its own works.

What the loops have in common is written with anyio, which runs on all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from types import ModuleType
from typing import Annotated, Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
import trio

from poolinject import BackendUnavailableError, Depends, Failure, InjectedPool, ItemTimeoutError, WorkerLostError
from tests.conftest import FORK, FORKSERVER, INLINE, THREAD, Kind
from tests.pool.ledger import count, note, span, wait_for
from tests.pool.test_concurrency_faults import fail_last

PATIENCE = 15.0
NAMES = [
    "asyncio",
    pytest.param("uvloop", marks=pytest.mark.skipif(find_spec("uvloop") is None, reason="it is not installed")),
    "trio",
]


@dataclass(frozen=True)
class Loop:
    """A backend and an event loop."""

    kind: Kind
    name: str

    def pool(self, workers: int = 1, **options: Any) -> InjectedPool:
        """Make a pool."""
        return self.kind.pool(workers, async_backend=self.name, **options)


@pytest.fixture(scope="module", autouse=True)
def lasting_uvloop() -> None:
    """Make what uvloop opens once in a process."""
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        uvloop.new_event_loop().close()


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Run the test on each event loop."""
    return str(request.param)


@pytest.fixture
def loop(name: str, backend: Kind) -> Loop:
    """Run the test on each event loop and each backend."""
    return Loop(backend, name)


@pytest.fixture
def in_process(name: str) -> Loop:
    """Run the test on each event loop, in processes."""
    return Loop(FORKSERVER, name)


async def double(item: int) -> int:
    """Give the loop a turn."""
    await anyio.lowlevel.checkpoint()
    return 2 * item


@pytest.mark.parametrize("concurrency", [None, 1, 500])
def test_results_are_those_of_the_items(loop: Loop, concurrency: int | None) -> None:
    """In the order of the items, with any number beside each other."""
    with loop.pool(2) as pool:
        for items in (range(0), range(1), range(300)):
            assert pool.map(double, items, concurrency=concurrency) == [2 * item for item in items]
            assert sorted(pool.imap_unordered(double, iter(items), concurrency=concurrency)) == [2 * i for i in items]


async def which() -> str:
    """Name the loop that this runs on."""
    try:
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]
    except RuntimeError:
        trio.lowlevel.current_task()
        return "trio"


async def give_both(_: int, below: Annotated[str, Depends(which)]) -> tuple[str, str]:
    """Name that of the dependency and that of the function."""
    return below, await which()


def give_below(_: int, below: Annotated[str, Depends(which)]) -> tuple[str, str]:
    """Name that of the dependency; the function may have loops of its own."""
    assert asyncio.run(double(1)) == trio.run(double, 1) == 2
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    return below, below


def test_functions_and_providers_run_on_the_loop_that_was_asked_for(loop: Loop) -> None:
    """Below sync functions too, which see nothing of it."""
    with loop.pool() as pool:
        for concurrency in (1, 16):
            assert set(pool.map(give_both, range(10), concurrency=concurrency)) == {(loop.name, loop.name)}
        assert set(pool.map(give_below, range(3))) == {(loop.name, loop.name)}


def current_task() -> int:
    """Tell tasks apart."""
    return anyio.get_current_task().id


async def get_shared() -> AsyncIterator[anyio.abc.TaskGroup]:
    """Open one for all, with a task group and a limit around its life."""
    note("shared+")
    task = current_task()
    with anyio.fail_after(600):
        async with anyio.create_task_group() as group:
            yield group
    assert current_task() == task
    note("shared-")


async def get_own(shared: Annotated[anyio.abc.TaskGroup, Depends(get_shared)]) -> AsyncIterator[int]:
    """One for each item, opened and closed in its task, with a task group."""
    own, done = current_task(), anyio.Event()

    async def work() -> None:
        await anyio.sleep(0.001)
        done.set()

    async with anyio.create_task_group() as group:
        shared.start_soon(anyio.sleep, 0)
        group.start_soon(work)
        yield 7
        await done.wait()
    assert current_task() == own


async def use_shared(item: int, own: Annotated[int, Depends(get_own)]) -> int:
    """Have tasks itself."""
    results: list[int] = []

    async def work(value: int) -> None:
        results.append(await double(value))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(work, item)
    return sum(results) + own


def use_shared_in_sync_code(item: int, own: Annotated[int, Depends(get_own)]) -> int:
    """Know of none of it."""
    return item + own


def test_shared_dependencies_have_task_groups_of_their_own(
    loop: Loop, ledger: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened once for concurrent items and sync functions; closed at shutdown in the task that opened them."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    with loop.pool(lifetimes={get_shared: "pool"}) as pool:
        for _ in range(3):
            assert pool.map(use_shared, range(50)) == [6 * item + 7 for item in range(50)]
            assert pool.map(use_shared_in_sync_code, range(5)) == [item + 7 for item in range(5)]
            assert pool.map(use_shared, range(5), concurrency=1) == [6 * item + 7 for item in range(5)]
    assert ledger.texts() == ["shared+", "shared-"]


async def get_slowly() -> int:
    """Take a thread while many wait for it."""
    note("slowly")
    await anyio.to_thread.run_sync(wait_for, "slowly")
    return 1


async def use_slow(item: int, slow: Annotated[int, Depends(get_slowly)]) -> int:
    """Need it."""
    return item + slow


@pytest.mark.parametrize("lifetime", ["worker", "pool"])
def test_many_items_may_wait_for_one_dependency(in_process: Loop, ledger: ModuleType, lifetime: str) -> None:
    """It is made once, with threads of the loop, however many wait."""
    with in_process.pool(lifetimes={get_slowly: lifetime}) as pool:
        assert pool.map(use_slow, range(200), concurrency=100) == list(range(1, 201))
    assert ledger.texts() == ["slowly"]


async def get_stuck() -> AsyncIterator[int]:
    """Be built for ever."""
    note("stuck+")
    try:
        await anyio.sleep(600)
    finally:
        note("stuck-")
    yield 1


async def use_stuck(item: int, stuck: Annotated[int, Depends(get_stuck)]) -> int:
    """Wait for it."""
    return item


def test_what_is_built_for_nobody_is_cancelled_at_the_end(in_process: Loop, ledger: ModuleType) -> None:
    """The item that wanted it is over its limit; the worker does not wait for it."""
    with in_process.pool(lifetimes={get_stuck: "worker"}) as pool:
        results: list[Any] = pool.map(use_stuck, range(3), on_error="return", timeout=0.3)
        assert all(isinstance(result.error, ItemTimeoutError) for result in results)
        assert pool.workers[0].generation == 0
        report = pool.shutdown()
    assert report.workers[0].status != "timed out"
    assert ledger.texts() == ["stuck+", "stuck-"]


async def fail_some(item: int) -> int:
    """Fail some, one of them in a task group."""
    await anyio.sleep(0.001)
    if item % 10 == 3:
        raise ValueError(item)
    if item == 7:
        async with anyio.create_task_group() as group:
            group.start_soon(fail_some, 3)
            await anyio.sleep(600)
    return item


@pytest.mark.parametrize("concurrency", [1, 16])
def test_failures_stay_with_their_items(loop: Loop, concurrency: int) -> None:
    """The others go on; an error that a task group has gathered is one of its item."""
    with loop.pool(2) as pool:
        results: list[Any] = pool.map(fail_some, range(50), on_error="return", concurrency=concurrency)
        failures = [result for result in results if isinstance(result, Failure)]
        assert [failure.index for failure in failures] == [3, 7, 13, 23, 33, 43]
        assert isinstance(failures[1].error, ExceptionGroup)
        with pytest.raises(ValueError, match="3"):
            pool.map(fail_some, range(5), concurrency=concurrency)
        assert pool.map(double, [1]) == [2]


variable: ContextVar[str] = ContextVar("variable", default="unset")


def get_variable() -> ContextVar[str]:
    """Give what cannot be sent."""
    return variable


async def set_variable(item: int, mine: Annotated[ContextVar[str], Depends(get_variable)]) -> str:
    """Tell what was set before."""
    before = mine.get()
    mine.set(f"by {item}")
    await anyio.lowlevel.checkpoint()
    assert mine.get() == f"by {item}"
    return before


@pytest.mark.parametrize("concurrency", [1, 2])
def test_an_item_does_not_see_the_context_of_another(loop: Loop, concurrency: int) -> None:
    """Neither of the one that ran before it, nor of the one that made room for it."""
    with loop.pool() as pool:
        assert set(pool.map(set_variable, range(20), concurrency=concurrency)) == {"unset"}


async def get_scope(item: int) -> AsyncIterator[str]:
    """Tell of each scope; what it does at its end takes a while, and a task group is open around it."""
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0)
        note(f"scope {item}+")
        try:
            yield "scope"
        finally:
            await anyio.sleep(0.001)
            note(f"cleaned {item}.")
            note(f"scope {item}-")


def get_outer_scope(item: int, inner: Annotated[str, Depends(get_scope)]) -> Iterator[str]:
    """Be sync, and above it."""
    yield from span(f"outer {item}")


Scope = Annotated[str, Depends(get_outer_scope)]


async def wait_long(item: int, _: Scope) -> int:
    """Wait unless it is the item that fails."""
    note(f"began {item}")
    if item == 5:
        while count("began") < 6:  # noqa: ASYNC110 - others write to a file
            await anyio.sleep(0.002)
        raise KeyError(item)
    await anyio.sleep(600)
    return item


def check_cleaned(ledger: ModuleType, scopes: int) -> None:
    """All that was open has been closed, to the end."""
    ledger.check_balanced()
    assert ledger.count("cleaned") == ledger.count("outer") // 2 == ledger.count("scope") // 2 == scopes


def test_a_failure_that_ends_the_run_cancels_the_others(loop: Loop, ledger: ModuleType) -> None:
    """They do not go on to their end, their scopes close, waits in cleanups included, the pool is usable."""
    with loop.pool() as pool:
        with pytest.raises(ExceptionGroup) as caught:
            pool.map(wait_long, range(100), concurrency=6)
        assert caught.value.subgroup(KeyError) is not None
        check_cleaned(ledger, 6)
        assert pool.map(double, range(3)) == [0, 2, 4]


def test_closing_the_iterator_cancels(name: str, parallel: Kind, ledger: ModuleType) -> None:
    """Scopes close, while others run already."""
    with Loop(parallel, name).pool() as pool:
        results: Any = pool.imap(wait_long, range(5), concurrency=5)
        ledger.wait_for("began", 5)
        results.close()
        assert pool.map(double, range(3)) == [0, 2, 4]
    check_cleaned(ledger, 5)


async def overrun(item: int, _: Scope) -> int:
    """Every tenth takes too long."""
    await anyio.sleep(600 if item % 10 == 3 else 0.001)
    return item


@pytest.mark.parametrize("concurrency", [1, 16])
def test_each_item_has_its_own_time_limit(in_process: Loop, ledger: ModuleType, concurrency: int) -> None:
    """The others are not touched; scopes close, to their end; no worker is lost."""
    with in_process.pool(2) as pool:
        results: list[Any] = pool.map(overrun, range(40), on_error="return", timeout=0.5, concurrency=concurrency)
        failures = [result for result in results if isinstance(result, Failure)]
        assert [failure.index for failure in failures] == [3, 13, 23, 33]
        assert all(isinstance(f.error, ItemTimeoutError) and f.phase == "timeout" for f in failures)
        assert [worker.generation for worker in pool.workers] == [0, 0]
    check_cleaned(ledger, 40)


async def get_late(item: int) -> AsyncIterator[int]:
    """Take too long in the setup, or in the cleanup."""
    await anyio.sleep(600 if item == 1 else 0)
    yield item
    await anyio.sleep(600 if item == 2 else 0)


def use_late(item: int, scope: Scope, late: Annotated[int, Depends(get_late)]) -> int:
    """Be sync."""
    return item


async def use_late_as_well(item: int, scope: Scope, late: Annotated[int, Depends(get_late)]) -> int:
    """Be async."""
    return item


@pytest.mark.parametrize("function", [use_late, use_late_as_well])
def test_the_time_limit_counts_what_dependencies_take(in_process: Loop, ledger: ModuleType, function: Any) -> None:
    """Setup and cleanup, of sync functions and of async ones; what else is open closes to its end."""
    with in_process.pool() as pool:
        results: list[Any] = pool.map(function, range(5), on_error="return", timeout=0.4)
        assert [isinstance(result, Failure) for result in results] == [False, True, True, False, False]
        assert all(isinstance(results[index].error, ItemTimeoutError) for index in (1, 2))
        assert pool.workers[0].generation == 0
    check_cleaned(ledger, 5)


async def block_the_loop(item: int) -> int:
    """Let go of nothing."""
    if item == 1:
        threading.Event().wait(600)
    return item


def test_an_item_that_blocks_the_loop_ends_with_its_worker(in_process: Loop) -> None:
    """Nothing else would end it; the others run again."""
    with in_process.pool() as pool:
        results: list[Any] = pool.map(block_the_loop, range(3), on_error="return", timeout=0.3, chunksize=1)
        assert isinstance(results[1], Failure)
        assert [results[0], results[2]] == [0, 2]


async def die_once(item: int) -> int:
    """One of them ends the worker, when all have begun."""
    note(f"began {item}")
    while count("began") < 8:  # noqa: ASYNC110 - others write to a file
        await anyio.sleep(0.002)
    if item == 5:
        os.kill(os.getpid(), signal.SIGKILL)
        await anyio.sleep(600)
    return item


def test_an_item_that_ends_its_worker_is_the_one_that_is_lost(in_process: Loop, ledger: ModuleType) -> None:
    """Those that ran beside it run again."""
    with in_process.pool() as pool:
        results: list[Any] = pool.map(die_once, range(8), on_error="return", concurrency=8)
        assert [r.index for r in results if isinstance(r, Failure)] == [5]
        assert isinstance(results[5].error, WorkerLostError)
        assert [r for r in results if not isinstance(r, Failure)] == [0, 1, 2, 3, 4, 6, 7]


async def meet(item: int) -> int:
    """Wait until so many others have come."""
    note(f"came {item}")
    while count("came") < 8:  # noqa: ASYNC110 - others write to a file
        await anyio.sleep(0.005)
    return item


def block(item: int, own: Annotated[int, Depends(get_own)]) -> int:
    """Hold the worker up."""
    note("blocks")
    wait_for("go on")
    return item + own


def test_sync_and_async_runs_share_the_workers(name: str, parallel: Kind, ledger: ModuleType) -> None:
    """In turn: a sync item waits for the tasks, further tasks for the sync item; draining waits for all of them."""
    with Loop(parallel, name).pool(lifetimes={get_shared: "worker"}) as pool, ThreadPoolExecutor(3) as threads:
        first = threads.submit(pool.map, meet, range(7), concurrency=8)
        ledger.wait_for("came", 7)
        second = threads.submit(pool.map, block, range(1))
        ledger.note("came too")
        assert first.result(PATIENCE) == list(range(7))
        ledger.wait_for("blocks")
        third = threads.submit(pool.map, double, range(100))
        ledger.note("go on")
        assert second.result(PATIENCE) == [7]
        assert third.result(PATIENCE) == [2 * item for item in range(100)]


def test_many_small_runs_of_both_kinds(loop: Loop) -> None:
    """Whichever comes while the other one is ending is not forgotten."""
    with loop.pool() as pool:
        futures = [pool.submit(double if number % 3 else abs, number) for number in range(300)]
        assert [future.result(PATIENCE) for future in futures] == [n * (2 if n % 3 else 1) for n in range(300)]


async def start_heartbeat() -> AsyncIterator[None]:
    """Have a task of its own that goes on while no item runs."""

    async def beat() -> None:
        while count("listen") == 0:  # noqa: ASYNC110 - others write to a file
            await anyio.sleep(0.002)
        note("beat")

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        yield


async def touch(item: int, _: Annotated[None, Depends(start_heartbeat)]) -> int:
    """Have it started."""
    return item


def test_tasks_of_shared_dependencies_go_on_between_runs(in_process: Loop, ledger: ModuleType) -> None:
    """The loop turns while the worker waits for work, and messages are heard meanwhile."""
    with in_process.pool(lifetimes={start_heartbeat: "pool"}) as pool:
        assert pool.map(touch, [1]) == [1]
        assert pool.map(abs, [-1]) == [1]
        ledger.note("listen")
        ledger.wait_for("beat")
        assert pool.map(touch, [1]) == [1]


@pytest.mark.parametrize("mode", ["drain", "cancel"])
def test_shutdown(name: str, parallel: Kind, ledger: ModuleType, mode: Any) -> None:
    """Draining lets them end, cancelling cancels them."""
    pool = Loop(parallel, name).pool(2)
    futures = [pool.submit(wait_long if mode == "cancel" else double, item) for item in range(4)]
    if mode == "cancel":
        ledger.wait_for("began", 4)
    assert pool.shutdown(mode).clean
    assert all(future.done() for future in futures)
    if mode == "drain":
        assert [future.result() for future in futures] == [0, 2, 4, 6]
    ledger.check_balanced()


@pytest.mark.parametrize("kind", [INLINE, THREAD], ids=str)
def test_no_thread_is_left(name: str, kind: Kind) -> None:
    """The loop's own among them."""
    before = set(threading.enumerate())
    with Loop(kind, name).pool(2, lifetimes={get_shared: "pool"}) as pool:
        assert pool.map(double, range(50)) == [2 * item for item in range(50)]
    assert set(threading.enumerate()) <= before


def get_marked(item: int) -> Iterator[None]:
    """Say that an item begins."""
    note(f"began {item}")
    yield


def wait_in_provider(
    item: int, marked: Annotated[None, Depends(get_marked)], scope: Scope, late: Annotated[int, Depends(get_late)]
) -> int:
    """Have the main thread wait for the loop."""
    return item


@pytest.mark.parametrize(("function", "items"), [(wait_long, range(5)), (wait_in_provider, [1])])
def test_sigterm_closes_the_scopes_of_all(in_process: Loop, ledger: ModuleType, function: Any, items: Any) -> None:
    """Of every item beside the others, and of a sync function whose async provider waits."""
    with in_process.pool() as pool:
        results: Any = pool.outcomes(function, items, concurrency=5 if len(items) > 1 else None)
        ledger.wait_for("began", len(items))
        ledger.wait_for("outer", len(items))
        os.kill(pool.workers[0].pid, signal.SIGTERM)
        lost = [next(results) for _ in items]
        assert {outcome.phase for outcome in lost} == {"lost"}
    check_cleaned(ledger, len(items))


class Answer(BaseHTTPRequestHandler):
    """Answer with the path; note each connection."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        note("connection")
        super().setup()

    def do_GET(self) -> None:
        """Answer."""
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it that
        """Be quiet."""


@pytest.fixture
def server(ledger: ModuleType) -> Iterator[str]:
    """Serve on a free port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join(PATIENCE)


async def get_client() -> AsyncIterator[httpx.AsyncClient]:
    """Share one for all the items of a worker."""
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


async def fetch(url: str, client: Annotated[httpx.AsyncClient, Depends(get_client)]) -> str:
    """Ask for a page."""
    response = await client.get(url)
    return response.url.path


def test_a_client_is_shared(loop: Loop, server: str, ledger: ModuleType) -> None:
    """Its connections are, too."""
    with loop.pool(lifetimes={get_client: "pool"}) as pool:
        for _ in range(3):
            pages = pool.map(fetch, [f"{server}/{number}" for number in range(30)], concurrency=5)
            assert pages == [f"/{number}" for number in range(30)]
    assert 1 <= ledger.count("connection") <= 5


# trio alone


async def get_breaking() -> AsyncIterator[int]:
    """Have a nursery that breaks while the dependency is shared."""

    async def break_down() -> None:
        while not count("break"):  # noqa: ASYNC110 - others write to a file
            await trio.sleep(0.001)
        note("broken")
        raise OSError(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(break_down)
        yield 1


async def get_late_sibling(breaking: Annotated[int, Depends(get_breaking)]) -> AsyncIterator[int]:
    """Be opened in the same task, within that nursery."""
    await trio.lowlevel.checkpoint()
    yield breaking


async def use_breaking(item: int, _: Annotated[int, Depends(get_breaking)]) -> int:
    """Do not wait in its scope."""
    await trio.lowlevel.checkpoint()
    return item


async def use_sibling(item: int, _: Annotated[int, Depends(get_late_sibling)]) -> int:
    """Come too late."""
    return item


def test_a_shared_nursery_that_breaks_harms_no_item(backend: Kind, ledger: ModuleType) -> None:
    """What is to be opened inside it fails with words; its error is told when it is closed; others go on."""
    lifetimes = {get_breaking: "pool", get_late_sibling: "pool"}
    pool = Loop(backend, "trio").pool(lifetimes=lifetimes)
    assert pool.map(use_breaking, range(5)) == list(range(5))
    ledger.note("break")
    ledger.wait_for("broken")
    assert pool.map(use_breaking, range(5)) == list(range(5))
    with pytest.raises(RuntimeError, match="left open here was cancelled"):
        pool.map(use_sibling, range(5))
    assert pool.map(double, range(5)) == [0, 2, 4, 6, 8]
    (error,) = pool.shutdown().errors
    assert isinstance(error, ExceptionGroup)
    assert error.subgroup(OSError) is not None


async def use_trio(item: int) -> str:
    """Work with its scopes, channels and threads."""
    send, receive = trio.open_memory_channel[int](0)
    async with trio.open_nursery() as nursery, send, receive:
        nursery.start_soon(send.send, item)
        with trio.move_on_after(0.001) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        got = await receive.receive()
        nursery.cancel_scope.cancel()
    return await trio.to_thread.run_sync(str, got)


def test_what_trio_has_works(backend: Kind) -> None:
    """In items beside each other and one by one."""
    with Loop(backend, "trio").pool() as pool:
        for concurrency in (1, 50):
            assert pool.map(use_trio, range(100), concurrency=concurrency) == [str(item) for item in range(100)]


# what is refused


def test_the_name_is_checked() -> None:
    """Before anything starts."""
    with pytest.raises(ValueError, match="async_backend 'gevent' is not one of 'asyncio', 'uvloop', 'trio'"):
        InjectedPool(1, async_backend="gevent")  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["uvloop", "trio"])
def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, missing: Any) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "poolinject._injection.trio_loop", raising=False)
    monkeypatch.delitem(sys.modules, "poolinject._injection.trio_tasks", raising=False)
    with pytest.raises(BackendUnavailableError, match=rf"'{missing}' .*pip install 'poolinject\[{missing}\]'"):
        InjectedPool(1, async_backend=missing)


def test_a_worker_that_has_not_got_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interpreter may find other libraries than the caller's."""
    pool = Loop(FORK, "trio").pool()
    monkeypatch.setitem(sys.modules, "trio", None)  # which it inherits
    monkeypatch.delitem(sys.modules, "poolinject._injection.trio_loop", raising=False)
    monkeypatch.delitem(sys.modules, "poolinject._injection.trio_tasks", raising=False)
    with pytest.raises(BackendUnavailableError, match=r"poolinject\[trio\]"):
        pool.map(double, range(3))
    pool.shutdown("cancel")


def test_what_has_returned_comes_to_the_end_of_its_cleanup(loop: Loop, ledger: ModuleType) -> None:
    """A failure ends the run; no transaction is torn apart by that."""
    with loop.pool() as pool, pytest.raises(LookupError):
        pool.map(fail_last, range(8))
    assert ledger.count("committed") == 7
