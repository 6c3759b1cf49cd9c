"""Scripts that start a cluster of their own: no guard, nothing on the standard error, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.clusters.conftest import available

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 80.0
LIBRARIES = ["dask", "ray"]

SCRIPT = """
import os
import sys
from poolinject import InjectedPool

print("imported", __name__)
OFFSET = 100

class Shifted:
    def __init__(self, value):
        self.value = value

def shift(item):
    return Shifted(item + OFFSET)

with InjectedPool(1, backend=sys.argv[1]) as pool:
    print(sum(shifted.value for shifted in pool.map(shift, range(100))))
    print(sum(pool.imap(lambda item: item * 2, range(100))))
    print(pool.workers[0].pid)
"""

ENDLESS = """
import sys
import time
from poolinject import InjectedPool

def wait(item):
    time.sleep(60)

pool = InjectedPool(1, backend=sys.argv[1])
pool.map(int, ["1"])
print(pool.workers[0].pid, flush=True)
pool.map(wait, range(3))
"""


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    """Give the name of a backend whose library is there."""
    name = str(request.param)
    if not available(name):
        pytest.skip(f"{name} is not installed")
    return name


def start(
    library: str, script: str, folder: Path, *, stdin: bool = False, own_group: bool = False
) -> subprocess.Popen[str]:
    """Start a script, from a file or on its standard input."""
    path = folder / "my_script.py"
    path.write_text(script)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with path.open() as text:
        return subprocess.Popen(
            [sys.executable, "-" if stdin else path.name, library],
            stdin=text if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**environment, "PYTHONPATH": str(ROOT)},
            process_group=0 if own_group else None,
        )


def wait_until_gone(pid: int) -> None:
    """Wait until there is no such process."""
    deadline = time.monotonic() + PATIENCE
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"{pid} goes on"
        time.sleep(0.05)


@pytest.fixture
def taken() -> Iterator[None]:
    """Take the port that Dask's web server has by default, if nobody has it yet."""
    with socket.socket() as server:
        with contextlib.suppress(OSError):
            server.bind(("127.0.0.1", 8787))
            server.listen()
        yield


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("stdin", [False, True], ids=["file", "stdin"])
def test_a_script_needs_no_guard(library: str, tmp_path: Path, *, stdin: bool) -> None:
    """Its functions and classes go to the workers, which do not import it again."""
    with start(library, SCRIPT, tmp_path, stdin=stdin) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    *lines, pid = out.splitlines()
    assert lines == ["imported __main__", "14950", "9900"]
    wait_until_gone(int(pid))


def test_a_caller_that_is_killed_leaves_no_worker(library: str, tmp_path: Path) -> None:
    """Of a cluster that it has started itself, though an item runs."""
    with start(library, ENDLESS, tmp_path) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        wait_until_gone(pid)


INTERRUPTED = """
import sys
import time
from typing import Annotated
from fastapi import Depends
from poolinject import InjectedPool

def note(text):
    with open("ledger", "a") as ledger:
        print(text, file=ledger)

def get_engine():
    note("opened")
    yield
    note("closed")

def wait(item, engine: Annotated[None, Depends(get_engine)]):
    note(f"begun {item}")
    while item and "interrupted" not in open("ledger").read():
        time.sleep(0.01)
    note(f"ended {item}")

with InjectedPool(1, backend=sys.argv[1], lifetimes={get_engine: "pool"}) as pool:
    try:
        pool.map(wait, range(10), chunksize=1)
    except KeyboardInterrupt:
        print("interrupted")
    print(pool.shutdown().workers[0].status)
"""


def test_an_interrupt_of_the_whole_group_ends_items_and_closes_scopes(library: str, tmp_path: Path) -> None:
    """As Ctrl-C in a terminal does, which reaches what has been started, too."""
    ledger = tmp_path / "ledger"
    with start(library, INTERRUPTED, tmp_path, own_group=True) as process:
        deadline = time.monotonic() + PATIENCE
        while not (ledger.exists() and "begun 1" in ledger.read_text()):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        with ledger.open("a") as file:
            file.write("interrupted\n")
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "interrupted\nclean\n", "")
    lines = ledger.read_text().splitlines()
    assert lines.count("opened") == lines.count("closed") == 1
    assert sum("begun" in line for line in lines) == sum("ended" in line for line in lines)


def test_a_missing_library_is_named_with_its_extra(library: str, tmp_path: Path) -> None:
    """Before anything is started."""
    module = {"dask": "distributed"}.get(library, library)
    script = f"""
import sys
sys.modules[{module!r}] = None
from poolinject import BackendUnavailableError, InjectedPool
try:
    InjectedPool(1, backend=sys.argv[1])
except BackendUnavailableError as error:
    print(error)
"""
    with start(library, script, tmp_path) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert err == ""
    assert f"poolinject[{library}]" in out
