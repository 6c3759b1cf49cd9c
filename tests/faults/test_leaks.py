"""After many pools the process has what it had before them: files, threads, processes, shared memory, and memory."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import psutil
import pytest

from poolinject import InjectedPool
from tests.conftest import FORK, FORKSERVER, SPAWN, THREAD, Kind
from tests.faults.accounts import living
from tests.faults.jobs import LIFETIMES, Job, with_cursor
from tests.resources import check_nothing_left, resources

WARM_UP = 25  # pools, until the allocator has all the arenas that so many threads ask for
SPARE_BYTES = 1 << 20  # by which the last ten may have more than the first ten: the allocator takes memory in steps
JOBS = [Job(number) for number in range(40)]


def run(pool: InjectedPool) -> None:
    """Do what pools are for."""
    with pool:
        assert pool.map(with_cursor, JOBS) == [-job.number for job in JOBS]


def lose_a_worker(pool: InjectedPool) -> None:
    """Kill a worker, where there is one, and go on without it."""
    with pool:
        pool.map(with_cursor, JOBS)
        for worker in living(pool)[:1]:
            if worker.pid != os.getpid():
                os.kill(worker.pid, signal.SIGKILL)
        assert pool.map(with_cursor, JOBS) == [-job.number for job in JOBS]


def abandon_an_iterator(pool: InjectedPool) -> None:
    """Read a part of the results, and let go of the iterator and of the pool."""
    with pool:
        results = pool.imap(with_cursor, iter(JOBS))
        assert next(results) == 0
        del results


def get_unready() -> None:
    """Fail."""
    raise ConnectionError("not ready")


def fail_to_start(pool: InjectedPool) -> None:
    """Let what is to be warmed fail."""
    with pytest.raises(ConnectionError), pool:
        raise AssertionError


def kill(pool: InjectedPool) -> None:
    """End a pool without any cleanup, its work half done."""
    results = pool.imap(with_cursor, JOBS)
    assert next(results) == 0
    pool.shutdown("kill")


LIVES: list[Callable[[InjectedPool], None]] = [run, lose_a_worker, abandon_an_iterator, fail_to_start, kill]


def pools(kind: Kind) -> Iterator[None]:
    """Let pools live, each in another way."""
    for live in cycle(LIVES):
        options: dict[str, Any] = {"lifetimes": LIFETIMES}
        if live is fail_to_start:
            options = {"warm": [get_unready], "lifetimes": {get_unready: "worker"}}
        live(kind.pool(2, **options))
        yield


def objects() -> Counter[str]:
    """Count the objects of the library's classes, by class."""
    classes = map(type, gc.get_objects())
    return Counter(each.__qualname__ for each in classes if str(each.__module__).startswith("poolinject"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "count"), [(THREAD, 50), (FORKSERVER, 50), (FORK, 25), (SPAWN, 5)], ids=str)
def test_many_pools_leave_nothing(ledger: ModuleType, kind: Kind, count: int) -> None:
    """Whether they came to a good end or not; the caller's memory does not grow with them."""
    before, process = resources(), psutil.Process()
    memory: list[int] = []
    kept: list[Counter[str]] = []
    for _ in islice(pools(kind), count):
        Path(os.environ[ledger.PLACE]).unlink(missing_ok=True)
        gc.collect()
        memory.append(process.memory_info().rss)
        kept.append(objects())
    check_nothing_left(before)
    assert not objects() - kept[len(LIVES) - 1], "objects are kept"
    if count >= WARM_UP + 20:  # else there is too little to compare
        growth = median(memory[-10:]) - median(memory[WARM_UP:][:10])
        assert growth < SPARE_BYTES, f"grown by {growth / 1024:.0f} KB: {[rss >> 10 for rss in memory]}"
