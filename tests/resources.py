"""The leak check: after a test the process has what it had before. The ``conftest`` of a room imports the fixtures."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolinject import InjectedPool
from poolinject.backends import _servers

PATIENCE = 5.0  # seconds in which what is on its way out must be gone
SHARED = Path("/dev/shm")  # noqa: S108 - looked at, not written to


@pytest.fixture(scope="package", autouse=True)
def lasting() -> None:
    """Make what lasts as long as the process: the fork server with its files, the imports that open some."""
    with InjectedPool(1) as pool:
        pool.map(int, ["1"])


@pytest.fixture(autouse=True)
def no_leaks(lasting: None) -> Iterator[None]:
    """Compare files, threads, processes and shared memory before and after."""
    before = resources()
    yield
    check_nothing_left(before)


def check_nothing_left(before: set[str]) -> None:
    """Wait until the process has nothing that it had not *before*; a zombie counts as a process."""
    _servers.stop_template()  # it outlasts a pool, on purpose, to serve the next one
    deadline = time.monotonic() + PATIENCE
    while leaked := resources() - before:
        assert time.monotonic() < deadline, f"left behind: {sorted(leaked)}"
        gc.collect()
        time.sleep(0.01)


def resources() -> set[str]:
    """Name the files, threads, processes and shared memory that there are."""
    return {*_files(), *_threads(), *_children(), *_shared_memory()}


def _files() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else ():  # noqa: PTH208 - names alone
        try:
            yield f"file {name} {os.readlink(f'/proc/self/fd/{name}')}"  # noqa: PTH115 - a socket is no path
        except FileNotFoundError:  # the one that lists them
            continue


def _threads() -> Iterator[str]:
    """Name the threads, but for the one that tqdm keeps, and those that trio keeps for ten seconds."""
    for each in threading.enumerate():
        if type(each).__name__ != "TMonitor" and not each.name.startswith("Trio thread"):
            yield f"thread {each.name} {each.ident}"


def _children(pid: str = "self") -> Iterator[str]:
    """Name the child processes and theirs, so that the workers of a fork server count, too."""
    try:
        children = [child for task in os.listdir(f"/proc/{pid}/task") for child in _children_of(pid, task)]  # noqa: PTH208
    except FileNotFoundError:  # it has ended, or this system has no such files
        return
    for child in children:
        yield f"process {child}"
        yield from _children(child)


def _children_of(pid: str, task: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # the thread has ended
        return []


def _shared_memory() -> Iterator[str]:
    return (f"shared memory {path.name}" for path in SHARED.glob("poolinject*"))
