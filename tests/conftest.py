"""Fixtures that more than one room uses: the backends, one by one, and the ledger of what a test's processes did."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from poolinject import InjectedPool
from tests import SAMPLE
from tests.pool import ledger as ledger_module


@dataclass(frozen=True)
class Kind:
    """A backend under test.

    Attributes:
        name: As ``InjectedPool(backend=)`` takes it.
        start_method: How its processes start, if it has any.
    """

    name: str
    start_method: str | None = None

    def pool(self, workers: int = 2, **options: Any) -> InjectedPool:
        """Make a pool."""
        return InjectedPool(workers, backend=self.name, start_method=self.start_method, **options)

    @property
    def is_parallel(self) -> bool:
        """Whether the caller goes on while items run."""
        return self.name != "inline"

    @property
    def has_processes(self) -> bool:
        """Whether objects are pickled on their way."""
        return self.name not in ("inline", "thread")

    def __str__(self) -> str:
        return self.start_method or self.name


INLINE, THREAD = Kind("inline"), Kind("thread")
FORKSERVER, SPAWN, FORK = (Kind("process", method) for method in ("forkserver", "spawn", "fork"))


@pytest.fixture(params=[INLINE, THREAD, FORKSERVER], ids=str)
def backend(request: pytest.FixtureRequest) -> Kind:
    """Run the test on every local backend."""
    kind: Kind = request.param
    return kind


@pytest.fixture(params=[INLINE, THREAD, FORKSERVER, SPAWN, FORK], ids=str)
def every_backend(request: pytest.FixtureRequest) -> Kind:
    """Run the test on every local backend, with every way to start a process."""
    kind: Kind = request.param
    return kind


@pytest.fixture(params=[THREAD, FORKSERVER], ids=str)
def parallel(request: pytest.FixtureRequest) -> Kind:
    """Run the test on the backends whose items run beside the caller."""
    kind: Kind = request.param
    return kind


@pytest.fixture(params=[FORKSERVER, SPAWN, FORK], ids=str)
def start(request: pytest.FixtureRequest) -> Kind:
    """Run the test on processes, started in every way."""
    kind: Kind = request.param
    return kind


@pytest.fixture
def process() -> Kind:
    """Run the test on processes, started as they are by default."""
    return FORKSERVER


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Give an empty ledger to the test and to every process that it starts."""
    monkeypatch.delenv(ledger_module.POINTER, raising=False)  # of clusters
    monkeypatch.setenv(ledger_module.PLACE, str(tmp_path / "ledger"))
    return ledger_module


SAMPLED = {  # of so many tests of these files and rooms one, drawn by the name
    "pool": 4,
    "faults": 2,
    "async_pool": 6,
    "test_async_backends.py": 6,
    "test_caller_death.py": 4,
}
BORROWED_SAMPLED = 8  # the same of those of another room's that clusters run too
RAY_SAMPLED = 24  # the same of those, where each worker takes seconds to start
SPAWN_SAMPLED = 3  # the same of those whose processes start slowest, which is all that differs in them


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not in the sample; each function keeps one of its cases, in the room it is of."""
    if SAMPLE not in os.environ:
        return
    kept, left, seen = list[pytest.Item](), list[pytest.Item](), set[str]()
    for item in items:
        one_in = next((SAMPLED[part] for part in (item.path.name, item.path.parent.name) if part in SAMPLED), 1)
        one_in = max(one_in, SPAWN_SAMPLED if "spawn" in item.name else 1)
        function = item.nodeid.partition("[")[0]
        is_borrowed = isinstance(item, pytest.Function) and item.function.__module__ != item.module.__name__
        if is_borrowed:
            one_in = RAY_SAMPLED if "[ray" in item.name else BORROWED_SAMPLED
        is_drawn = zlib.crc32(item.nodeid.encode()) % one_in == 0 or not (is_borrowed or function in seen)
        seen.add(function)
        (kept if is_drawn else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)
