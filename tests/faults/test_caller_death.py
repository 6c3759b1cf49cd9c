"""The caller is killed: none of its processes outlives it for long, and what was open is closed.

A few moments at random in the usual suite. For 50 with each start method, and the figures::

    POOLINJECT_FAULT_RUNS=50 python -m pytest -rP tests/faults/test_caller_death.py -k random

``POOLINJECT_FAULT_SEED`` repeats the moments of an earlier run, whose seed each test prints.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest

from poolinject import Depends, InjectedPool
from tests.backends.answering import vanishes
from tests.conftest import Kind
from tests.faults.conftest import Begin
from tests.faults.sessions import SEED, chance, runs
from tests.faults.work import PHASES
from tests.pool.ledger import note, wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="what is left is looked up in /proc")

BOUND = 2.0  # seconds in which everything is gone
LATEST = {"startup": 0.8, "items": 0.6, "idle": 0.2, "shutdown": 0.4}  # after the beginning of the phase


def kill_at_random(begin: Begin, ledger: ModuleType, method: str, number: int) -> None:
    """Kill one caller and look what is left."""
    phase = PHASES[number % len(PHASES)]
    delay = chance("kill", method, number).uniform(0.0, LATEST[phase])
    session = begin("-m", "tests.faults.work", method, phase)
    ledger.wait_for(f"{phase}.")
    time.sleep(delay)
    session.kill()
    was_open, processes = len(session.open_scopes()), len(session.processes())
    seconds = session.vanishes(BOUND)
    what = f"{method} {number}: {phase} + {delay:.3f} s, {processes} processes left, {was_open} scopes open"
    print(f"{what}; gone after {seconds:.3f} s (seed {SEED})")  # noqa: T201 - for the report
    session.check_nothing_left()
    assert "Traceback" not in session.output()


@pytest.mark.parametrize("number", runs(5))
def test_killed_at_random(begin: Begin, ledger: ModuleType, number: int) -> None:
    """At whatever moment, everything is closed and gone."""
    kill_at_random(begin, ledger, "forkserver", number)


@pytest.mark.parametrize("number", runs(2))
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_killed_at_random_with_other_start_methods(begin: Begin, ledger: ModuleType, method: str, number: int) -> None:
    """They have no fork server to see to it."""
    kill_at_random(begin, ledger, method, number)


def get_engine() -> Iterator[str]:
    """One in each process."""
    try:
        note("engine+")
        yield "engine"
    finally:
        note("engine-")


def get_session(engine: Annotated[str, Depends(get_engine)]) -> Iterator[str]:
    """One for each item."""
    try:
        note("session+")
        yield "session"
    finally:
        note("session-")


Session = Annotated[str, Depends(get_session)]
LIFETIMES: Any = {get_engine: "pool"}


def sleep(item: int, session: Session) -> None:
    """Wait in a system call."""
    note("began.")
    time.sleep(60)


def spin(item: int, session: Session) -> None:
    """Keep a core busy."""
    note("began.")
    while True:
        pass


async def sleep_in_async_code(item: int, session: Session) -> None:
    """Wait in an event loop."""
    note("began.")
    await asyncio.sleep(60)


def swallow_once(item: int, session: Session) -> None:
    """Take an interrupt for a hiccup."""
    note("began.")
    try:
        time.sleep(60)
    except BaseException:  # noqa: BLE001 - as careless code does
        note("swallowed.")
    time.sleep(60)


def spin_with_blocked_signals(item: int, session: Session) -> None:
    """Let no signal through, but run Python code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    note("began.")
    while True:
        pass


def swallow(item: int, session: Session) -> None:
    """Never let go."""
    note("began.")
    while True:
        try:
            time.sleep(60)
        except BaseException:  # noqa: BLE001 - as careless code does
            note("swallowed.")


def sleep_with_blocked_signals(item: int, session: Session) -> None:
    """Wait in a system call that nothing interrupts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    note("began.")
    time.sleep(60)


def keep_the_lock(item: int, session: Session) -> None:
    """Let no other thread run either, as some C code does."""
    note("began.")
    ctypes.PyDLL(None).sleep(60)


def get_hanging(session: Session) -> Iterator[str]:
    """Hang in the cleanup."""
    yield "hanging"
    note("began.")
    time.sleep(60)


def hang_in_cleanup(item: int, hanging: Annotated[str, Depends(get_hanging)]) -> None:
    """Leave it to the dependency."""


def begin_item(
    begin: Begin,
    method: str,
    function: str,
    head: str = "",
    items: Sequence[int] = (0,),
    async_backend: str = "asyncio",
) -> Any:
    """Start a caller that maps one of these functions."""
    script = f"""
    from poolinject import InjectedPool
    from tests.faults import test_caller_death as here
    {head}
    options = {{"start_method": {method!r}, "lifetimes": here.LIFETIMES, "async_backend": {async_backend!r}}}
    with InjectedPool(1, **options) as pool:
        pool.map({function}, {list(items)}, on_error='return')
    """
    return begin("-c", textwrap.dedent(script))


LETS_GO = [sleep, spin, sleep_in_async_code, swallow_once, spin_with_blocked_signals]
REFUSES = [swallow, sleep_with_blocked_signals, hang_in_cleanup]


@pytest.mark.parametrize("function", LETS_GO, ids=lambda function: function.__name__)
def test_interrupted_item_lets_everything_close(begin: Begin, ledger: ModuleType, start: Kind, function: Any) -> None:
    """In a system call or not, in sync code or async."""
    session = begin_item(begin, str(start), f"here.{function.__name__}")
    ledger.wait_for("began.")
    session.kill()
    session.vanishes(BOUND)
    assert ledger.count("engine+") == ledger.count("session+") == 1
    session.check_nothing_left()


async def wait_in_tasks(item: int, session: Session) -> None:
    """Wait beside others."""
    await anyio.lowlevel.checkpoint()  # the first time, it imports much
    note("began.")
    await anyio.sleep(60)


async def get_waiting(session: Session) -> None:
    """Wait while the main thread does."""
    await anyio.lowlevel.checkpoint()  # as above
    note("began.")
    await anyio.sleep(60)


def wait_in_provider(item: int, waiting: Annotated[None, Depends(get_waiting)]) -> None:
    """Leave it to the dependency."""


@pytest.mark.parametrize("items", [[0], [0, 1, 2]], ids=len)
@pytest.mark.parametrize("function", [wait_in_tasks, wait_in_provider], ids=lambda function: function.__name__)
@pytest.mark.parametrize("async_backend", ["asyncio", "uvloop", "trio"])
def test_interrupted_async_work_lets_everything_close(
    begin: Begin, ledger: ModuleType, async_backend: str, function: Any, items: list[int]
) -> None:
    """On every event loop."""
    pytest.importorskip(async_backend)
    session = begin_item(begin, "forkserver", f"here.{function.__name__}", items=items, async_backend=async_backend)
    ledger.wait_for("began.", len(items) if function is wait_in_tasks else 1)
    session.kill()
    session.vanishes(BOUND)
    session.check_nothing_left()
    assert "Traceback" not in session.output()


async def sleep_beside_others(item: int, session: Session) -> None:
    """Wait in an event loop, with others."""
    note("began.")
    await asyncio.sleep(60)


async def swallow_cancellation_once(item: int, session: Session) -> None:
    """Take a cancellation for a hiccup."""
    note("began.")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        note("swallowed.")
    await asyncio.sleep(0.1)


async def get_slow_in_async_code(session: Session) -> AsyncIterator[None]:
    """Take a while in the cleanup."""
    try:
        yield
    finally:
        await asyncio.sleep(0.5)
        note("slow-")


async def close_slowly(item: int, slow: Annotated[None, Depends(get_slow_in_async_code)]) -> None:
    """Leave it to the dependency."""
    note("began.")
    await asyncio.sleep(60)


async def block_the_loop(item: int, session: Session) -> None:
    """Let no other task go on."""
    note("began.")
    if item == 4:
        time.sleep(60)  # noqa: ASYNC251 - the case
    await asyncio.sleep(60)


async def swallow_cancellations(item: int, session: Session) -> None:
    """Never let go."""
    note("began.")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            note("swallowed.")


@pytest.mark.parametrize(
    "function", [sleep_beside_others, swallow_cancellation_once, close_slowly], ids=lambda function: function.__name__
)
def test_items_beside_each_other_let_everything_close(begin: Begin, ledger: ModuleType, function: Any) -> None:
    """All of them, also where a cleanup is async and slow."""
    session = begin_item(begin, "forkserver", f"here.{function.__name__}", items=range(5))
    ledger.wait_for("began.", 5)
    session.kill()
    session.vanishes(BOUND)
    assert ledger.count("session+") == 5
    session.check_nothing_left()


@pytest.mark.parametrize("function", [block_the_loop, swallow_cancellations], ids=lambda function: function.__name__)
def test_items_beside_each_other_that_refuse_end_in_time(begin: Begin, ledger: ModuleType, function: Any) -> None:
    """By force."""
    session = begin_item(begin, "forkserver", f"here.{function.__name__}", items=range(5))
    ledger.wait_for("began.", 5)
    session.kill()
    session.vanishes(BOUND)


def get_slow_to_close(item: int, session: Session) -> Iterator[str]:
    """Take a while in the cleanup."""
    try:
        note("slow+")
        yield "slow"
    finally:
        note("began.")
        time.sleep(0.5)
        note("slow-")


async def get_slow_to_close_async(item: int, session: Session) -> AsyncIterator[str]:
    """Take a while in the cleanup, in async code."""
    try:
        note("slow+")
        yield "slow"
    finally:
        note("began.")
        await asyncio.sleep(0.5)
        note("slow-")


def use_sync(item: int, slow: Annotated[str, Depends(get_slow_to_close)]) -> None:
    """Go through, or fail."""
    if item:
        raise ValueError(item)


def use_async(item: int, slow: Annotated[str, Depends(get_slow_to_close_async)]) -> None:
    """Go through, or fail."""
    if item:
        raise ValueError(item)


@pytest.mark.parametrize("item", [0, 1], ids=["success", "failure"])
@pytest.mark.parametrize("function", [use_sync, use_async], ids=lambda function: function.__name__)
def test_running_cleanup_is_left_in_peace(begin: Begin, ledger: ModuleType, function: Any, item: int) -> None:
    """An item that is being closed needs no interrupt, and the next one does not start."""
    session = begin_item(begin, "forkserver", f"here.{function.__name__}", items=[item, 0, 0])
    ledger.wait_for("began.")
    session.kill()
    session.vanishes(BOUND)
    assert ledger.count("slow+") == ledger.count("slow-") == 1
    session.check_nothing_left()


@pytest.mark.parametrize("function", REFUSES, ids=lambda function: function.__name__)
def test_item_that_does_not_let_go_is_killed(begin: Begin, ledger: ModuleType, start: Kind, function: Any) -> None:
    """Its scopes stay open: nothing could close them."""
    session = begin_item(begin, str(start), f"here.{function.__name__}")
    ledger.wait_for("began.")
    session.kill()
    assert session.vanishes(BOUND) > 1.0
    assert ledger.count("engine-") == 0


def test_c_code_that_keeps_the_interpreters_lock_is_killed(begin: Begin, ledger: ModuleType) -> None:
    """By the process that forked it, since no thread of its own can."""
    session = begin_item(begin, "forkserver", "here.keep_the_lock")
    ledger.wait_for("began.")
    session.kill()
    session.vanishes(BOUND)


@pytest.mark.parametrize("where", ["here.get_slow", "here.get_slow_async"])
def test_slow_start_is_cut_short(begin: Begin, ledger: ModuleType, start: Kind, where: str) -> None:
    """A dependency that is being made ahead of the items: those made before are closed."""
    head = f"here.LIFETIMES[{where}] = 'worker'"
    script = f"""
    from poolinject import InjectedPool
    from tests.faults import test_caller_death as here
    {head}
    with InjectedPool(2, start_method={str(start)!r}, lifetimes=here.LIFETIMES, warm=[{where}]):
        pass
    """
    session = begin("-c", textwrap.dedent(script))
    ledger.wait_for("began.", 2)
    session.kill()
    session.vanishes(BOUND)
    assert ledger.count("engine+") == 2
    session.check_nothing_left()


def get_slow(engine: Annotated[str, Depends(get_engine)]) -> str:
    """Take long to be made."""
    note("began.")
    time.sleep(60)
    return "slow"


async def get_slow_async(engine: Annotated[str, Depends(get_engine)]) -> str:
    """Take long to be made, in async code."""
    note("began.")
    await asyncio.sleep(60)
    return "slow"


def test_slow_import_is_cut_short(begin: Begin, ledger: ModuleType, start: Kind, tmp_path: Path) -> None:
    """Whichever process imports the module of the function."""
    (tmp_path / "slow_module.py").write_text(
        "import os, time\n"
        "from tests.pool.ledger import note\n"
        "if os.environ.setdefault('POOLINJECT_TEST_CALLER', str(os.getpid())) != str(os.getpid()):\n"
        "    note('began.')\n"
        "    time.sleep(60)\n"
        "def function(item):\n"
        "    note('began.')\n"
        "    time.sleep(60)\n"
    )
    session = begin_item(begin, str(start), "slow_module.function", "import slow_module")
    ledger.wait_for("began.")
    session.kill()
    session.vanishes(BOUND)


def leave_grandchild(item: int) -> int:
    """Start a process that outlives the worker and was given nothing."""
    grandchild = subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(20)"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    note(f"grandchild {grandchild.pid}.")
    grandchild.returncode = 0  # nobody waits for it
    return grandchild.pid


def leave_forked_grandchild(item: int) -> int:
    """Fork a process that has a copy of everything the worker has."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(20)
        os._exit(0)
    note(f"grandchild {pid}.")
    return pid


GRANDCHILDREN = [leave_grandchild, leave_forked_grandchild]


@pytest.mark.parametrize("function", GRANDCHILDREN, ids=lambda function: function.__name__)
def test_grandchild_does_not_delay_shutdown(start: Kind, ledger: ModuleType, function: Any) -> None:
    """It lives on, and the pool ends without it."""
    with start.pool(1) as pool:
        (grandchild,) = pool.map(function, [0])
        try:
            began = time.monotonic()
            assert pool.shutdown().workers[0].status == "clean"
            assert time.monotonic() - began < BOUND
            os.kill(grandchild, 0)
        finally:
            os.kill(grandchild, signal.SIGKILL)


@pytest.mark.parametrize("function", GRANDCHILDREN, ids=lambda function: function.__name__)
def test_grandchild_does_not_hide_the_end_of_the_caller(
    begin: Begin, ledger: ModuleType, start: Kind, function: Any
) -> None:
    """The workers end as they would without it."""
    session = begin_item(begin, str(start), f"lambda item: here.{function.__name__}(item) and here.sleep(item, 's')")
    ledger.wait_for("began.")
    grandchild = next(int(text.split()[1][:-1]) for text in ledger.texts() if text.startswith("grandchild"))
    try:
        session.kill()
        session.vanishes(BOUND)
        os.kill(grandchild, 0)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def ignore_sigterm(item: int) -> None:
    """Be deaf to what is meant to end the worker."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note("began.")
    wait_for("never", patience=25)


def test_worker_that_ignores_sigterm_does_not_delay_shutdown(start: Kind, ledger: ModuleType) -> None:
    """It is killed once ``cleanup_timeout`` and the moment for SIGTERM are over."""
    pool: InjectedPool = start.pool(1, cleanup_timeout=0.3)
    results = pool.imap(ignore_sigterm, [0])
    ledger.wait_for("began.")
    pid, began = pool.workers[0].pid, time.monotonic()
    report = pool.shutdown("cancel")
    assert time.monotonic() - began < 0.3 + 2 * BOUND
    assert report.workers[0].status == "timed out"
    assert vanishes(pid)
    with pytest.raises(Exception, match="SIGKILL"):
        next(results)
