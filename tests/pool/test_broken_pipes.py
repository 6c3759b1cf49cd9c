"""A caller that gives SIGPIPE its default, as many command-line tools do, outlives its workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE = 25.0
WRITES = ["send(b'x')", "sendall(b'x')", "sendmsg([b'x'])"]
SOCKETS = """
import signal, socket
from poolinject._transport.private_files import private_socketpair
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
ours, theirs = private_socketpair()
theirs.close()
try:
    {}
except BrokenPipeError:
    print("broken")
"""
POOLS = """
import os, signal, sys
from poolinject import InjectedPool, Success
signal.signal(signal.SIGPIPE, signal.SIG_DFL)

def die_now_and_then(item):
    number, _ = item
    if number % 50 == 7:
        os._exit(3)
    return signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN

with InjectedPool(2, start_method=sys.argv[1]) as pool:
    outcomes = list(pool.outcomes(die_now_and_then, ((number, bytes(100_000)) for number in range(200))))
assert len(outcomes) == 200
assert all(outcome.value for outcome in outcomes if isinstance(outcome, Success))
print(pool.report.failed)
"""


def run(*command: str) -> str:
    """Run Python and give what it says; a signal that ends it is an error."""
    done = subprocess.run(
        [sys.executable, *command], stdout=subprocess.PIPE, timeout=PATIENCE, check=True, cwd=Path(__file__).parents[2]
    )
    return done.stdout.decode().strip()


@pytest.mark.parametrize("write", [f"ours.{write}" for write in WRITES] + ["socket.send_fds(ours, [b'x'], [0])"])
def test_a_write_to_an_end_that_is_gone_is_an_error(write: str) -> None:
    """Whichever way it is written."""
    assert run("-c", SOCKETS.format(write)) == "broken"


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_a_caller_outlives_its_workers(method: str) -> None:
    """And a worker, where the signal is ignored as in any fresh Python, its caller."""
    assert run("-c", POOLS, method) == "4"
