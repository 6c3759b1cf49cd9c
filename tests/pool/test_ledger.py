"""Every setup has exactly one cleanup, in reverse order, in its process, however the work ends."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest

from poolinject import Depends, InjectedPool, WorkerContext
from tests.conftest import Kind
from tests.pool import ledger as ledger_module
from tests.pool.ledger import note, span, wait_for

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
SCRIPT_PATIENCE = 25.0


def get_engine() -> Iterator[str]:
    """One in each process."""
    yield from span("engine")


def get_connection(engine: Annotated[str, Depends(get_engine)], worker: WorkerContext) -> Iterator[str]:
    """One in each worker."""
    yield from span(f"connection w{worker.worker_id}")


def get_session(item: Any, connection: Annotated[str, Depends(get_connection)]) -> Iterator[str]:
    """One for each item."""
    yield from span(f"session {item}")


async def get_cursor(item: Any, session: Annotated[str, Depends(get_session)]) -> AsyncIterator[str]:
    """One for each item, in async code."""
    note(f"cursor {item}+")
    try:
        yield "cursor"
    finally:
        note(f"cursor {item}-")


LIFETIMES: Any = {get_engine: "pool", get_connection: "worker"}


def load(item: int, cursor: Annotated[str, Depends(get_cursor)]) -> int:
    """Use everything; fail for negative items."""
    note(f"load {item}.")
    if item < 0:
        raise ValueError(item)
    return item


def load_held(item: int, cursor: Annotated[str, Depends(get_cursor)]) -> int:
    """Use everything and wait for the test, which releases a hundred items at once."""
    note(f"held {item // 100}.")
    wait_for(f"release {item // 100}")
    return item


def check(ledger: ModuleType, *, sessions: int | None = None) -> None:
    """Nothing is open, and everything was opened where it should have been."""
    ledger.check_balanced()
    if sessions is not None:
        assert ledger.count("session ") == 2 * sessions
    for engine in [entry for entry in ledger.read() if entry.text == "engine+"]:
        events = [entry.text for entry in ledger.read() if entry.pid == engine.pid and entry.text[-1] in "+-"]
        assert (events[0], events[-1]) == ("engine+", "engine-")
        assert events.count("engine+") == 1


def test_after_success(every_backend: Kind, ledger: ModuleType) -> None:
    """Sessions with their items, the rest at shutdown."""
    with every_backend.pool(2, lifetimes=LIFETIMES) as pool:
        assert pool.map(load, range(20)) == list(range(20))
        assert ledger.count("session ") == 40
        assert not any(text in ("engine-", "connection w0-", "connection w1-") for text in ledger.texts())
    check(ledger, sessions=20)


def test_after_the_error_of_an_item(backend: Kind, ledger: ModuleType) -> None:
    """The failed one's are closed as well."""
    with backend.pool(2, lifetimes=LIFETIMES) as pool:
        pool.map(load, [0, -1, 2, -3, 4], on_error="return")
        assert ledger.count("session ") == 10
    check(ledger, sessions=5)


def test_after_a_failure_that_ends_the_run(backend: Kind, ledger: ModuleType) -> None:
    """When the error is raised, no session is open."""
    with backend.pool(2, lifetimes=LIFETIMES) as pool:
        with pytest.raises(ValueError, match="-1"):
            pool.map(load, itertools.chain([0, 1, -1], itertools.count(2)))
        sessions = [text for text in ledger.texts() if text.startswith("session")]
        assert len(sessions) % 2 == 0
        pool.map(load, [7])
    check(ledger)


def test_after_an_abandoned_iterator(backend: Kind, ledger: ModuleType) -> None:
    """Items in flight end in their own time, at the latest before shutdown has ended."""
    with backend.pool(2, lifetimes=LIFETIMES) as pool:
        for result in pool.imap(load, itertools.count()):
            if result == 10:
                break
    check(ledger)


def test_after_an_exception_leaves_the_with_block(parallel: Kind, ledger: ModuleType) -> None:
    """The item that runs is ended, not cut off."""

    def leave() -> None:
        with parallel.pool(2, lifetimes=LIFETIMES) as pool:
            _ = pool.imap(load_held, range(50), chunksize=10)
            ledger.wait_for("held", 2)
            ledger.note("release 0")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        leave()
    check(ledger)
    assert ledger.count("held") < 50


def test_each_pool_cleans_up_for_itself(parallel: Kind, ledger: ModuleType) -> None:
    """Two pools at once, nested."""
    with parallel.pool(1, lifetimes=LIFETIMES) as outer, parallel.pool(1, lifetimes=LIFETIMES) as inner:
        assert outer.map(load, [1]) == inner.map(load, [1])
    ledger.check_balanced()


def get_pool_number() -> Iterator[float]:
    """A pool dependency by reference."""
    note(f"number {os.getpid()}+")
    yield 1.0
    note(f"number {os.getpid()}-")


def test_one_engine_for_each_process_over_several_runs(backend: Kind, ledger: ModuleType) -> None:
    """Also where each run sends another function by value."""
    with backend.pool(2, lifetimes={get_pool_number: "pool"}) as pool:
        for addend in range(5):

            def add(item: int, number: Annotated[float, Depends(get_pool_number)], addend: int = addend) -> float:
                return item + number + addend

            assert pool.map(add, range(40), chunksize=1) == [item + 1 + addend for item in range(40)]
        opened = [text for text in ledger.texts() if text.endswith("+")]
        assert len(opened) == len(set(opened)) <= (2 if backend.has_processes else 1)
    check(ledger)


def get_worker_number(worker: WorkerContext) -> Iterator[int]:
    """A worker dependency."""
    yield from (worker.worker_id for _ in span(f"worker {worker.worker_id}"))


def where(number: Annotated[int, Depends(get_worker_number)], worker: WorkerContext) -> bool:
    """Check that the worker's own is given."""
    return number == worker.worker_id


def test_one_worker_dependency_for_each_worker(parallel: Kind, ledger: ModuleType) -> None:
    """Threads do not share it."""
    with parallel.pool(3, lifetimes={get_worker_number: "worker"}) as pool:
        for _ in range(3):
            assert [outcome.value for outcome in pool.broadcast(where).values()] == [True] * 3  # type: ignore[union-attr]
        assert sorted(ledger.texts()) == ["worker 0+", "worker 1+", "worker 2+"]
    check(ledger)


async def get_async_engine() -> AsyncIterator[int]:
    """A pool dependency of async code."""
    note("async engine+")
    yield os.getpid()
    note("async engine-")


def use_async(item: int, engine: Annotated[int, Depends(get_async_engine)]) -> bool:
    """Use it in sync code."""
    return engine == os.getpid()


def test_an_async_pool_dependency_lives_as_long(backend: Kind, ledger: ModuleType) -> None:
    """Opened once in each process, closed at shutdown."""
    with backend.pool(2, lifetimes={get_async_engine: "pool"}) as pool:
        for _ in range(3):
            assert all(pool.map(use_async, range(20), chunksize=1))
        assert ledger.count("async engine+") <= 2
    check(ledger)


def get_flaky() -> Iterator[int]:
    """Fail twice before it works."""
    note("try.")
    if ledger_module.count("try.") <= 2:
        raise ConnectionError("not yet")
    yield from (1 for _ in span("flaky"))


def use_flaky(item: int, flaky: Annotated[int, Depends(get_flaky)]) -> int:
    """Need it."""
    return item


def test_a_shared_provider_that_fails_is_tried_again(backend: Kind, ledger: ModuleType) -> None:
    """It fails the items that need it until it works, and is then kept."""
    with backend.pool(1, lifetimes={get_flaky: "pool"}) as pool:
        results: Any = pool.map(use_flaky, range(5), on_error="return")
        assert [getattr(result, "phase", result) for result in results] == ["setup", "setup", 2, 3, 4]
        assert results[0].provider == "get_flaky"
        assert isinstance(results[0].error, ConnectionError)
        assert ledger.count("try.") == 3
    check(ledger)


def test_warm_builds_on_every_worker_before_the_first_item(parallel: Kind, ledger: ModuleType) -> None:
    """When ``with`` is entered."""
    with parallel.pool(2, lifetimes=LIFETIMES, warm=[get_connection]):
        assert ledger.count("connection w0+") == ledger.count("connection w1+") == 1
        assert ledger.count("engine+") == (2 if parallel.has_processes else 1)
    check(ledger)


def get_broken(engine: Annotated[str, Depends(get_engine)]) -> Iterator[None]:
    """Never work."""
    raise ConnectionRefusedError("no server")
    yield


def test_warm_fails_fast(backend: Kind, ledger: ModuleType) -> None:
    """``with`` raises what the provider raised; what was built is closed; the pool is closed."""
    pool = backend.pool(2, lifetimes={get_engine: "pool", get_broken: "pool"}, warm=[get_broken])
    with pytest.raises(ConnectionRefusedError, match="no server"), pool:
        raise AssertionError
    assert "closed" in repr(pool)
    check(ledger)


def test_a_pool_that_failed_to_start_is_let_go(backend: Kind, ledger: ModuleType) -> None:
    """With all that the frames hold which its error went through."""

    def start() -> weakref.ref[InjectedPool]:
        pool = backend.pool(2, lifetimes={get_broken: "pool"}, warm=[get_broken])
        with pytest.raises(ConnectionError), pool:
            raise AssertionError
        return weakref.ref(pool)

    pool = start()
    gc.collect()
    assert pool() is None


def test_warm_fails_the_first_run_without_with(backend: Kind, ledger: ModuleType) -> None:
    """There, too, the provider's own error is raised."""
    pool = backend.pool(2, lifetimes={get_broken: "pool", get_engine: "pool"}, warm=[get_broken])
    with pytest.raises(ConnectionRefusedError, match="no server"):
        pool.map(load, [1])
    pool.shutdown()
    check(ledger)


# What needs a process of its own: signals, interpreter exit, functions of a main module.

HEAD = """
import itertools, os, signal, sys, threading, time
from typing import Annotated
from poolinject import Depends, InjectedPool
from tests.pool.ledger import note, span, wait_for, count
from tests.pool.test_ledger import LIFETIMES, load, load_held
"""


def start(script: str, *, how: str = "file", folder: Path | None = None) -> subprocess.Popen[str]:
    """Start a script in a process group of its own."""
    text = HEAD + textwrap.dedent(script)
    arguments, stdin = ["-c", text], subprocess.DEVNULL
    if how == "stdin":
        arguments, stdin = ["-"], subprocess.PIPE
    elif how == "file":
        assert folder is not None
        path = folder / "script.py"
        path.write_text(text)
        arguments = [str(path)]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        process_group=0,
    )
    if how == "stdin" and process.stdin is not None:
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a script, and leave nothing of it behind if it hangs."""
    try:
        out, err = process.communicate(timeout=SCRIPT_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"the script hung: {out}\n{err}")
    return process.returncode, out, err


BACKENDS = ["process", "thread", "inline"]


@pytest.mark.parametrize("how", ["command", "stdin", "file"])
def test_one_engine_for_functions_of_a_main_module(ledger: ModuleType, tmp_path: Path, how: str) -> None:
    """They go by value, with each run; their providers are the same all the same."""
    script = """
    def get_mine():
        note(f"mine {os.getpid()}+")
        yield 1
        note(f"mine {os.getpid()}-")

    def first(item, mine: Annotated[int, Depends(get_mine)]):
        return item + mine

    def second(item, mine: Annotated[int, Depends(get_mine)]):
        return item - mine

    with InjectedPool(2, lifetimes={get_mine: "pool"}) as pool:
        for _ in range(2):
            assert pool.map(first, range(20), chunksize=1) == list(range(1, 21))
            assert pool.map(second, range(20), chunksize=1) == list(range(-1, 19))
            assert pool.map(lambda item, mine=Depends(get_mine): item * mine, range(20)) == list(range(20))
    print("done")
    """
    code, out, err = finish(start(script, how=how, folder=tmp_path))
    assert (code, out, err) == (0, "done\n", "")
    opened = [text for text in ledger.texts() if text.endswith("+")]
    assert 1 <= len(opened) == len(set(opened)) <= 2
    check(ledger)


@pytest.mark.parametrize("name", BACKENDS)
def test_ctrl_c_raises_once_and_leaves_the_pool_usable(ledger: ModuleType, tmp_path: Path, name: str) -> None:
    """Intake stops, open scopes close, ``KeyboardInterrupt`` reaches the caller, the next run works."""
    script = f"""
    def listed(*arguments, **options):
        return list(pool.imap(*arguments, **options))

    with InjectedPool(2, backend={name!r}, lifetimes=LIFETIMES) as pool:
        for turn, method in enumerate([pool.map, listed]):
            try:
                method(load_held, itertools.count(100 * turn), chunksize=5)
            except KeyboardInterrupt:
                assert count("session") % 2 == 0, "a session is open"
                note(f"caught {{turn}}.")
            assert pool.map(load, range(10)) == list(range(10))
            note(f"again {{turn}}.")
    print("done")
    """
    process = start(script, folder=tmp_path)
    for turn in range(2):
        ledger.wait_for(f"held {turn}", 1 if name == "inline" else 2)
        os.killpg(process.pid, signal.SIGINT)
        ledger.note(f"release {turn}")
        ledger.wait_for(f"again {turn}")
    assert finish(process) == (0, "done\n", "")
    assert ledger.count("caught") == 2
    check(ledger)


@pytest.mark.parametrize("name", BACKENDS)
def test_ctrl_c_that_nobody_catches_leaves_one_traceback(ledger: ModuleType, tmp_path: Path, name: str) -> None:
    """And everything is closed; the process ends as interrupted ones do."""
    script = f"""
    with InjectedPool(2, backend={name!r}, lifetimes=LIFETIMES) as pool:
        pool.map(load_held, range(100))
    """
    process = start(script, folder=tmp_path)
    ledger.wait_for("held", 1 if name == "inline" else 2)
    os.killpg(process.pid, signal.SIGINT)
    ledger.note("release 0")
    code, out, err = finish(process)
    assert (code, out) == (-signal.SIGINT, "")
    assert err.count("\nKeyboardInterrupt\n") == 1
    check(ledger)


@pytest.mark.parametrize("name", BACKENDS)
def test_sigterm_between_two_items_closes_everything(ledger: ModuleType, tmp_path: Path, name: str) -> None:
    """Then the process dies of it, as it would have without a pool."""
    script = f"""
    with InjectedPool(2, backend={name!r}, lifetimes=LIFETIMES) as pool:
        pool.map(load, range(10))
        note("ready.")
        wait_for("never")
    """
    process = start(script, folder=tmp_path)
    ledger.wait_for("ready")
    process.terminate()
    assert finish(process) == (-signal.SIGTERM, "", "")
    check(ledger, sessions=10)


@pytest.mark.parametrize("name", BACKENDS)
def test_sigterm_during_an_item_closes_everything(ledger: ModuleType, tmp_path: Path, name: str) -> None:
    """The item ends first; inline, where it is in the way, it is interrupted."""
    script = f"""
    with InjectedPool(2, backend={name!r}, lifetimes=LIFETIMES) as pool:
        pool.map(load_held, range(100))
    """
    process = start(script, folder=tmp_path)
    ledger.wait_for("held", 1 if name == "inline" else 2)
    process.terminate()
    ledger.note("release 0")
    code, out, _ = finish(process)
    assert (code, out) == (-signal.SIGTERM, "")
    check(ledger)
    assert ledger.count("held") < 100


def test_sigterm_calls_the_handler_that_was_there(ledger: ModuleType, tmp_path: Path) -> None:
    """After the scopes are closed; without a pool it is put back."""
    script = """
    def handler(signum, frame):
        note(f"handler, engines closed: {count('engine-')}.")
        raise SystemExit(7)

    signal.signal(signal.SIGTERM, handler)
    with InjectedPool(1, lifetimes=LIFETIMES) as pool:
        pool.map(load, [1])
        assert signal.getsignal(signal.SIGTERM) is not handler
    assert signal.getsignal(signal.SIGTERM) is handler
    with InjectedPool(1, lifetimes=LIFETIMES, handle_signals=False) as pool:
        pool.map(load, [1])
        assert signal.getsignal(signal.SIGTERM) is handler
    with InjectedPool(1, lifetimes=LIFETIMES) as pool:
        pool.map(load, [1])
        os.kill(os.getpid(), signal.SIGTERM)
    """
    assert finish(start(script, folder=tmp_path)) == (7, "", "")
    assert "handler, engines closed: 3." in ledger.texts()
    ledger.check_balanced()


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("way", ["pass", "raise SystemExit(3)", "1 / 0"], ids=["end", "exit", "error"])
def test_the_end_of_the_interpreter_without_shutdown(ledger: ModuleType, tmp_path: Path, name: str, way: str) -> None:
    """Everything is closed all the same, however the program ends."""
    script = f"""
    pool = InjectedPool(2, backend={name!r}, lifetimes=LIFETIMES)
    assert pool.map(load, range(10)) == list(range(10))
    results = pool.imap(load, itertools.count(10))
    next(results)
    {way}
    """
    code, out, _ = finish(start(script, folder=tmp_path))
    assert (code, out) == ({"pass": 0, "1 / 0": 1}.get(way, 3), "")
    check(ledger)


def test_a_caller_that_is_killed_takes_nothing_along(ledger: ModuleType, tmp_path: Path) -> None:
    """Its workers notice, end their item and close their scopes by themselves."""
    script = """
    with InjectedPool(2, lifetimes=LIFETIMES) as pool:
        pool.map(load_held, range(100))
    """
    process = start(script, folder=tmp_path)
    ledger.wait_for("held", 2)
    process.kill()
    process.wait(PATIENCE)
    ledger.note("release 0")
    ledger.wait_for("engine-", 2)
    finish(process)
    check(ledger)


def test_sigterm_to_the_whole_group_closes_everything(ledger: ModuleType, tmp_path: Path) -> None:
    """As a service manager sends it: caller, workers and fork server get it at the same time."""
    script = """
    with InjectedPool(2, lifetimes=LIFETIMES) as pool:
        pool.map(load_held, range(100))
    """
    process = start(script, folder=tmp_path)
    ledger.wait_for("held", 2)
    os.killpg(process.pid, signal.SIGTERM)
    code, out, _ = finish(process)
    assert (code, out) == (-signal.SIGTERM, "")
    check(ledger)
