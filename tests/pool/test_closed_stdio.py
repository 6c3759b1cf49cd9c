"""A caller without standard files, as ``>&-`` and daemons leave it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Kind

PATIENCE = 25.0
SCRIPT = """
import os, sys
closed = [int(number) for number in sys.argv[2:]]
for number in closed:
    os.close(number)
from poolinject import InjectedPool

def write(item):
    for number in (1, 2):
        try:
            os.write(number, b"a warning of a C library")
        except OSError:  # a forked worker has the caller's files, and one of those may have the number
            pass
    return item

with InjectedPool(2, start_method=sys.argv[1]) as pool:
    results = pool.map(write, range(50))
    write(0)
    results += pool.map(write, range(50, 100))
os.write(int(os.environ["POOLINJECT_TEST_ANSWER"]), str(results == list(range(100))).encode())
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_no_file_of_the_library_stands_for_a_closed_one(start: Kind, closed: str) -> None:
    """Neither in a worker nor in the caller, so what is printed goes into no message."""
    reading, writing = os.pipe()
    environ = {**os.environ, "POOLINJECT_TEST_ANSWER": str(writing)}
    command = [sys.executable, "-c", SCRIPT, str(start), *closed.split()]
    folder = Path(__file__).parents[2]
    done = subprocess.run(command, env=environ, cwd=folder, pass_fds=(writing,), timeout=PATIENCE, check=False)
    os.close(writing)
    with open(reading, encoding="ascii") as answer:  # noqa: PTH123 - a file without a name
        assert (done.returncode, answer.read()) == (0, "True")
