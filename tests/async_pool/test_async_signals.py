"""SIGTERM and Ctrl-C to a program whose pool is used from async code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 25.0
PROGRAM = """
    import asyncio, itertools, signal, sys, threading
    import anyio
    from poolinject import InjectedPool
    from tests.async_pool.test_async_cancellation import load
    from tests.pool.ledger import note

    async def main():
        handle()
        try:
            async with InjectedPool(2) as pool:
                await pool.amap(load, itertools.count())
        finally:
            note("left")

    def handle(): ...
"""


def start(program: str) -> subprocess.Popen[str]:
    """Start a program in another process."""
    script = textwrap.dedent(PROGRAM) + textwrap.dedent(program)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(program: subprocess.Popen[str], signum: int) -> tuple[int, str]:
    """Send a signal and give the exit code and what was said."""
    program.send_signal(signum)
    _, said = program.communicate(timeout=PATIENCE)
    return program.returncode, said


def test_sigterm_closes_the_scopes_where_nobody_else_heeds_it(ledger: ModuleType) -> None:
    """Then it ends the program."""
    program = start("asyncio.run(main())")
    ledger.wait_for("session", 10)
    assert end(program, signal.SIGTERM)[0] == -signal.SIGTERM
    ledger.check_balanced()


def test_a_handler_of_the_program_stays(ledger: ModuleType) -> None:
    """A server has its own, which ends what uses the pool before the pool."""
    program = start("""
        def handle():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
        try:
            asyncio.run(main())
        except asyncio.CancelledError:
            sys.exit(7)
    """)
    ledger.wait_for("session", 10)
    assert end(program, signal.SIGTERM) == (7, "")
    ledger.check_balanced()
    assert ledger.texts()[-1] == "left"


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_ctrl_c_cancels(name: str, ledger: ModuleType) -> None:
    """Scopes close, and ``KeyboardInterrupt`` is raised once."""
    program = start(f"""
        try:
            anyio.run(main, backend={name!r})
        except KeyboardInterrupt:
            sys.exit(7)
    """)
    ledger.wait_for("session", 10)
    assert end(program, signal.SIGINT) == (7, "")
    ledger.check_balanced()


def test_sigterm_ends_a_program_whose_first_pool_was_closed_on_another_thread(ledger: ModuleType) -> None:
    """The handler that the first one has left behind is not taken for one of the program's."""
    program = start("""
        first = InjectedPool(1, backend="thread")
        first.map(abs, [1])
        thread = threading.Thread(target=first.shutdown)
        thread.start()
        thread.join()
        with InjectedPool(2) as pool:
            pool.map(load, itertools.count())
    """)
    ledger.wait_for("session", 10)
    assert end(program, signal.SIGTERM)[0] == -signal.SIGTERM
    ledger.check_balanced()
