"""Coroutine functions that go wrong, beside others that do not."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NoReturn

import anyio
import pytest

from poolinject import Depends, Failure, InjectedPool, ItemContext, PoolClosedError, Success, WorkerContext
from tests.conftest import Kind
from tests.pool.ledger import count, note

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


def told(results: list[Any]) -> list[Any]:
    """Give the phase and the error of each failure."""
    return [(r.phase, type(r.error).__name__) if isinstance(r, Failure) else r for r in results]


async def double(item: int) -> int:
    """Give the loop a turn."""
    await asyncio.sleep(0)
    return 2 * item


async def raise_late(item: tuple[type[BaseException], int]) -> int:
    """Raise in the third item, when others have begun."""
    await asyncio.sleep(0.001)
    return raise_third(item)


async def raise_at_once(item: tuple[type[BaseException], int]) -> int:
    """Raise before the first wait."""
    return raise_third(item)


def raise_third(item: tuple[type[BaseException], int]) -> int:
    """Raise if it is the third."""
    error, index = item
    if index == 3:
        raise error
    return index


ODD: dict[type[BaseException], str] = {
    SystemExit: "SystemExit",
    asyncio.CancelledError: "CancelledError",
    StopIteration: "RuntimeError",  # as of any coroutine
    StopAsyncIteration: "StopAsyncIteration",
    GeneratorExit: "GeneratorExit",
}


@pytest.mark.parametrize("function", [raise_late, raise_at_once])
def test_odd_exceptions_stay_with_their_items(backend: Kind, function: Callable[..., Any]) -> None:
    """Neither the loop nor the worker ends with them."""
    odd = ODD if backend.name == "inline" else {**ODD, KeyboardInterrupt: "KeyboardInterrupt"}
    with backend.pool(1) as pool:
        for error, name in odd.items():
            for concurrency in (1, 4):
                items = [(error, index) for index in range(6)]
                results = pool.map(function, items, on_error="return", concurrency=concurrency)
                assert told(results) == [0, 1, 2, ("call", name), 4, 5]
        assert [worker.generation for worker in pool.workers] == [0]


def test_an_interrupt_on_the_callers_own_thread_is_the_callers() -> None:
    """As Ctrl-C is; the pool stays usable."""
    with InjectedPool(1, backend="inline") as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.map(raise_late, [(KeyboardInterrupt, index) for index in range(6)], on_error="return")
        assert pool.map(double, range(3)) == [0, 2, 4]


async def swallow(item: int) -> int:
    """Take what cancels it for a hiccup."""
    note(f"began {item}")
    for _ in range(2):
        try:
            await asyncio.sleep(60 if item == 3 else 0)
        except asyncio.CancelledError:
            note("swallowed")
            return -1
    return item


def test_one_that_swallows_its_time_limit_fails_all_the_same(process: Kind, ledger: ModuleType) -> None:
    """It has taken too long."""
    with process.pool(1) as pool:
        results = pool.map(swallow, range(6), timeout=0.2, on_error="return")
        assert told(results) == [0, 1, 2, ("timeout", "ItemTimeoutError"), 4, 5]
        assert [worker.generation for worker in pool.workers] == [0]
    assert ledger.count("swallowed") == 1


async def block(item: int) -> int:
    """Let no other task go on."""
    if item == 3:
        time.sleep(60)  # noqa: ASYNC251 - the case
    await asyncio.sleep(0.001)
    return item


def test_one_that_blocks_the_loop_is_found(process: Kind) -> None:
    """Its worker ends; the others run again, and only that one fails."""
    with process.pool(1) as pool:
        results = pool.map(block, range(8), timeout=0.2, on_error="return")
        assert told(results) == [0, 1, 2, ("timeout", "ItemTimeoutError"), 4, 5, 6, 7]


class Odd:
    """Goes wrong on the way."""

    def __init__(self, how: Callable[..., Any], *arguments: object) -> None:
        self.how, self.arguments = how, arguments

    def __reduce__(self) -> Any:
        return self.how, self.arguments


class Ends:
    """Ends whoever pickles it."""

    def __reduce__(self) -> NoReturn:
        os._exit(4)


async def give(item: int) -> Any:
    """Give what cannot come back."""
    await asyncio.sleep(0.001)
    return {2: threading.Lock(), 4: Odd(int, "no number"), 5: [[item]], 6: Ends()}.get(item, item)


def test_results_that_cannot_come_back(process: Kind) -> None:
    """Each fails alone, also the one that ends its worker."""
    with process.pool(1) as pool:
        error = ("transport", "TransportError")
        results = pool.map(give, range(9), on_error="return")
        assert told(results) == [0, 1, error, 3, error, [[5]], ("lost", "WorkerLostError"), 7, 8]


def end_process(code: int) -> NoReturn:
    """End whoever calls it; as a function of this module it can be pickled, whatever stands for ``os._exit``."""
    os._exit(code)


async def show(item: object) -> str:
    """Take anything."""
    await asyncio.sleep(0.001)
    return repr(item)


def test_items_that_do_not_arrive(process: Kind) -> None:
    """Each fails alone, also the one that ends its worker."""
    items = [0, Odd(int, "no number"), 2, Odd(end_process, 3), 4, threading.Lock()]
    with process.pool(1) as pool:
        error = ("transport", "TransportError")
        results = pool.map(show, items, on_error="return")
        assert told(results) == ["0", error, "2", ("lost", "WorkerLostError"), "4", error]


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_thousands_of_tiny_items(backend: Kind, chunksize: int | None) -> None:
    """As many beside each other as can be asked for."""
    with backend.pool(2) as pool:
        results = pool.imap_unordered(double, iter(range(5000)), concurrency=2048, chunksize=chunksize)
        assert sorted(results) == [2 * item for item in range(5000)]


async def get_slow_to_close(item: int) -> AsyncIterator[int]:
    """Have an async cleanup that takes a while."""
    note(f"scope {item}+")
    try:
        yield item
    finally:
        await asyncio.sleep(0.3)
        note(f"scope {item}-")


async def wait_long(item: int, _: Annotated[int, Depends(get_slow_to_close)]) -> int:
    """Wait until it is cancelled; the last one fails when all have begun."""
    note(f"began {item}")
    if item == 9:
        while count("began") < 10:  # noqa: ASYNC110 - others write to a file
            await asyncio.sleep(0.002)
        raise KeyError(item)
    await asyncio.sleep(600)
    return item


def test_slow_cleanups_end_before_the_error_is_raised(backend: Kind, ledger: ModuleType) -> None:
    """Every scope is closed then."""
    with backend.pool(1) as pool:
        with pytest.raises(KeyError):
            pool.map(wait_long, range(40), concurrency=10)
        ledger.check_balanced()
        assert ledger.count("began") == 10
        assert pool.map(double, range(3)) == [0, 2, 4]


def test_cancelled_twice_and_shut_down_meanwhile(backend: Kind, ledger: ModuleType) -> None:
    """Cleanups that are under way are not cut short."""
    if backend.name == "inline":
        pytest.skip("nothing runs there while nobody reads")
    pool = backend.pool(2)
    results: Any = pool.imap(wait_long, range(8), concurrency=4)
    ledger.wait_for("began", 8)
    results.close()
    results.close()
    assert pool.map(double, range(3)) == [0, 2, 4]  # beside the cleanups
    assert pool.shutdown("cancel").clean
    ledger.check_balanced()
    assert ledger.count("scope") == 16


@pytest.mark.parametrize("mode", ["drain", "cancel", "kill"])
def test_shutdown_with_a_half_read_run(backend: Kind, mode: Any) -> None:
    """Whoever reads on is told; nothing hangs."""
    pool = backend.pool(2)
    results = pool.imap(double, range(5000), concurrency=50)
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    report = pool.shutdown(mode)
    assert report.clean or mode == "kill"
    with pytest.raises(PoolClosedError):
        list(results)


async def die(item: int) -> int:
    """End the worker, twice."""
    await asyncio.sleep(0.005)
    note(f"tried {item}.")
    if item == 3 and count("tried 3.") < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_one_that_ends_its_worker_is_tried_again(process: Kind, ledger: ModuleType, timeout: float | None) -> None:
    """By the policy, which counts only what is known to be its doing; the others go through."""
    with process.pool(2) as pool:
        results = pool.map(die, range(12), on_error="return", concurrency=4, timeout=timeout, retries=1)
        assert told(results) == list(range(12))
        assert pool.report.retries == 1
        assert pool.report.lost_workers == 2


async def get_shared() -> AsyncIterator[int]:
    """Open one in each worker."""
    note("shared+")
    await asyncio.sleep(0.001)
    yield 5
    await asyncio.sleep(0.001)
    note("shared-")


async def use(item: int, shared: Annotated[int, Depends(get_shared)]) -> int:
    """Use it."""
    await asyncio.sleep(0.001)
    return item + shared


@pytest.mark.parametrize("most", [1, 7])
def test_recycled_workers(process: Kind, ledger: ModuleType, most: int) -> None:
    """None runs more than it may, all close what they share."""
    items = range(6 * most)
    with process.pool(2, max_items_per_worker=most, lifetimes={get_shared: "pool"}) as pool:
        assert pool.map(use, items, concurrency=5) == [item + 5 for item in items]
        assert sum(worker.generation for worker in pool.workers) >= 4
    ledger.check_balanced()


async def who(worker: WorkerContext, shared: Annotated[int, Depends(get_shared)]) -> int:
    """Tell where it runs."""
    await asyncio.sleep(0)
    return worker.worker_id


def test_warm_broadcast_and_submit(backend: Kind, ledger: ModuleType) -> None:
    """All take coroutine functions and async providers."""
    with backend.pool(1, warm=[get_shared], lifetimes={get_shared: "pool"}) as pool:
        assert [outcome.worker_id for outcome in pool.broadcast(who).values() if isinstance(outcome, Success)] == [0]
        assert pool.submit(use, 2).result(PATIENCE) == 7
        assert pool.map(use, range(3)) == [5, 6, 7]
    assert ledger.texts() == ["shared+", "shared-"]


class Adder:
    """Async in every way."""

    async def __call__(self, item: int) -> int:
        await asyncio.sleep(0)
        return item + 1

    async def add(self, item: int) -> int:
        """Add one."""
        return await self(item)


async def add(left: int, item: int) -> int:
    """Add two numbers."""
    await asyncio.sleep(0)
    return left + item


ADDERS: list[Callable[..., Any]] = [Adder(), Adder().add, functools.partial(add, 1), functools.partial(Adder().add)]


@pytest.mark.parametrize("function", ADDERS, ids=["instance", "method", "partial", "partial of a method"])
def test_whatever_gives_a_coroutine_is_a_coroutine_function(backend: Kind, function: Callable[..., Any]) -> None:
    """And can run beside others."""
    with backend.pool(1) as pool:
        assert pool.map(function, range(5), concurrency=4) == [1, 2, 3, 4, 5]
        assert pool.map(function, range(5)) == [1, 2, 3, 4, 5]


async def run_a_loop(item: int) -> int:
    """Try what no coroutine can."""
    coroutine = double(item)
    try:
        return asyncio.run(coroutine)
    finally:
        coroutine.close()


async def use_another_pool(item: int) -> list[int]:
    """Block the loop with a pool of its own."""
    with InjectedPool(1, backend="thread") as pool:
        return pool.map(double, [item])


def test_loops_and_pools_inside(backend: Kind) -> None:
    """A loop in a loop is refused as anywhere, a pool in an item works."""
    with backend.pool(1) as pool:
        assert told(pool.map(run_a_loop, range(3), on_error="return")) == [("call", "RuntimeError")] * 3
        assert pool.map(use_another_pool, range(3)) == [[0], [2], [4]]
        assert pool.map(double, pool.imap(double, range(5))) == [0, 4, 8, 12, 16]


async def leave_task(item: int) -> int:
    """Leave a task that would go on for ever."""

    async def go_on() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            note("left")

    TASKS.append(asyncio.create_task(go_on()))
    await asyncio.sleep(0)
    return item


TASKS: list[asyncio.Task[None]] = []


def test_nothing_is_left_at_exit_in_debug_mode(ledger: ModuleType) -> None:
    """No pending task, no coroutine that was never awaited, no open loop, with each backend."""
    script = """
    import tests.pool.test_concurrency_faults as here
    from poolinject import InjectedPool
    for backend in ("process", "thread", "inline"):
        with InjectedPool(1, backend=backend, lifetimes={here.get_shared: "pool"}) as pool:
            assert pool.map(here.leave_task, range(3)) == [0, 1, 2]
            assert pool.map(here.leave_task, range(2), concurrency=1) == [0, 1]
            assert pool.map(here.use, range(9)) == list(range(5, 14))
            try:
                pool.map(here.wait_long, range(8, 20), concurrency=12)
            except KeyError:
                pass
    """
    environ = {**os.environ, "PYTHONASYNCIODEBUG": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    quiet = [line for line in ran.stderr.splitlines() if not (line.startswith("Executing <") and " took " in line)]
    assert (ran.returncode, quiet) == (0, [])
    assert ledger.count("left") == 15
    ledger.check_balanced()


async def until(prefix: str, times: int) -> None:
    """Wait for the ledger, on the loop."""
    with anyio.fail_after(PATIENCE):
        while count(prefix) < times:  # noqa: ASYNC110 - other processes write it
            await anyio.sleep(0.002)


async def get_transaction(about: ItemContext) -> AsyncIterator[None]:
    """Commit, which takes a while, where all went well."""
    try:
        yield
    except LookupError:
        note("release")
        raise
    note("committing")
    await until("release", 1)
    note(f"committed {about.index}.")


async def fail_last(item: int, transaction: Annotated[None, Depends(get_transaction)]) -> int:
    """Fail when all others are at their cleanups."""
    if item == 7:
        await until("committing", 7)
        raise LookupError
    return item


def test_what_has_returned_comes_to_the_end_of_its_cleanup(backend: Kind, ledger: ModuleType) -> None:
    """A failure ends the run, and cancels what its functions are at; no transaction is torn apart by that."""
    with backend.pool(1) as pool, pytest.raises(LookupError):
        pool.map(fail_last, range(8))
    assert ledger.count("committed") == 7


def test_a_late_cleanup_is_cut_short(process: Kind, ledger: ModuleType) -> None:
    """The time limit is for all of an item."""
    with process.pool(1) as pool:
        (failure,) = pool.map(fail_last, [0], timeout=0.2, on_error="return")
        assert isinstance(failure, Failure)
        assert (failure.phase, failure.provider) == ("timeout", "get_transaction")
    assert ledger.count("committed") == 0
