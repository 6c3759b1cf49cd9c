"""Minutes of work under faults: ``python -m tests.faults.soak [--minutes 5] [--seed N]``. Not a part of the suite.

One pool after another gets runs of every kind from two threads, while workers are killed and items fail in every way.
Each outcome is checked, and the ledger after each pool. Ends with a line that sums it up, and with 1 if anything was
not as it should be: a result, a count, a scope left open, anything left behind, a caller whose memory grows.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from poolinject import Failure, InjectedPool
from tests.faults.accounts import Accounts, Batch, Reading, living
from tests.faults.jobs import FUNCTIONS, HARMLESS, LIFETIMES, LIMIT_SECONDS, PROCESS_FAULTS, Job
from tests.faults.watchdog import bounded
from tests.pool import ledger
from tests.resources import check_nothing_left, resources

REPORT_SECONDS = 30.0
SCENES = 24  # in the life of a pool
SCENE_SECONDS = 60.0
POOL_SECONDS = 120.0
KILL_SECONDS = (0.05, 0.8)  # between two kills
SPARE_BYTES = 8 << 20  # by which the caller may have grown
PROCESS = psutil.Process()


@dataclass
class Tally:
    """What has been done since the start."""

    chance: random.Random
    items: int = 0
    lost: int = 0
    kills: int = 0
    ends: int = 0
    pools: int = 0
    memory: list[int] = field(default_factory=list)  # after each pool
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        seconds = time.monotonic() - self.began
        deaths = f"{self.kills} kills cost {self.lost} items, {self.ends} ended their worker"
        return (
            f"{seconds:.0f} s, {self.pools} pools, {self.items:,} items, {self.items / seconds:,.0f} a second, {deaths}"
        )


class Stage:
    """One pool and what it is given. Its scenes run on two threads."""

    def __init__(self, tally: Tally, pool: InjectedPool) -> None:
        self.tally, self.pool = tally, pool
        self.accounts = Accounts()
        self._numbers, self._lock = count(1), threading.Lock()

    def batch(self, chance: random.Random, most: int, options: dict[str, Any]) -> Batch:
        """Make jobs of which some are faulty; *options* are those of their run."""
        faulty = chance.choice([0.0, 0.02, 0.3])
        mends_at = chance.choice([math.inf, 2, 3])
        names = [
            chance.choice(list(PROCESS_FAULTS)) if chance.random() < faulty else chance.choice(HARMLESS)
            for _ in range(chance.randrange(most))
        ]
        with self._lock:
            made = [Job(next(self._numbers), name, mends_at) for name in names]
            self.tally.items += len(made)
            at_most_once = options.get("delivery") == "at_most_once"
            return self.accounts.give(Batch(chance.choice(FUNCTIONS), made, at_most_once, options.get("retries", 0)))

    def map(self, chance: random.Random) -> None:
        """Run to the end."""
        options = draw_options(chance)
        batch = self.batch(chance, 300, options)
        call = partial(self.pool.map, batch.function, batch.jobs, on_error="return", **options)
        self.accounts.settle(batch, call, raises=False)

    def map_to_the_first_failure(self, chance: random.Random) -> None:
        """Run until something fails."""
        options = draw_options(chance)
        batch = self.batch(chance, 100, options)
        call = partial(self.pool.map, batch.function, iter(batch.jobs), **options)
        self.accounts.settle(batch, call, raises=True)

    def read(self, chance: random.Random) -> None:
        """Read lazily, to the end or not."""
        options = draw_options(chance)
        batch = self.batch(chance, 300, options)
        method = chance.choice(["imap", "imap_unordered", "outcomes"])
        handling = {} if method == "outcomes" else {"on_error": "return"}
        results = getattr(self.pool, method)(batch.function, iter(batch.jobs), **handling, **options)
        most = chance.choice([None, None, 10])
        Reading(batch, results, method == "imap", raises=False).read(self.accounts, most)

    def submit(self, chance: random.Random) -> None:
        """Submit jobs one by one."""
        batch = self.batch(chance, 40, {})
        for job in batch.jobs:
            one = Batch(batch.function, [job])
            future = self.pool.submit(batch.function, job)
            self.accounts.settle(one, lambda future=future: [future.result(SCENE_SECONDS)], raises=True)  # type: ignore[misc]

    def hang(self, chance: random.Random) -> None:
        """Let one item of a few hang until its time is over."""
        with self._lock:
            names = ["none", chance.choice(["hang", "hang in cleanup", "hang stubbornly"]), "slow"]
            made = [Job(next(self._numbers), name) for name in names]
            self.tally.items += len(made)
            batch = self.accounts.give(Batch(chance.choice(FUNCTIONS), made))
        call = partial(self.pool.map, batch.function, batch.jobs, on_error="return", timeout=LIMIT_SECONDS)
        self.accounts.settle(batch, call, raises=False)

    def run_quick_ones(self, chance: random.Random) -> None:
        """Run many items that take next to nothing."""
        items = range(chance.randrange(50_000))
        results: list[Any] = self.pool.map(negate, items, on_error="return")
        self.check_values(len(items), results, lambda index: -index)

    def run_arrays(self, chance: random.Random) -> None:
        """Send large buffers to and fro."""
        number = chance.randrange(30)
        arrays = (np.full(1 << 17, index, dtype=np.float64) for index in range(number))
        results = self.pool.imap(negate_array, arrays, on_error="return")
        self.check_values(number, results, lambda index: float(-index))

    def check_values(self, number: int, results: Any, expected: Callable[[int], float]) -> None:
        """Check results of items that do not fail by themselves."""
        seen = 0
        for index, result in enumerate(results):
            seen += 1
            if isinstance(result, Failure):
                assert (result.index, result.phase) == (index, "lost"), f"{result}\n{result.traceback}"
                with self._lock:
                    self.accounts.lost += 1
                continue
            values = (result.min(), result.max()) if isinstance(result, np.ndarray) else (result,)
            assert set(values) == {expected(index)}
        assert seen == number
        with self._lock:
            self.tally.items += number

    def end(self) -> None:
        """Check what can be checked only when the pool has ended, and count."""
        self.accounts.check_ledger()
        assert self.accounts.lost <= self.accounts.kills, f"more lost than killed: {self.accounts}"
        self.tally.kills += self.accounts.kills
        self.tally.lost += self.accounts.lost
        self.tally.ends += self.accounts.ends


SCENERY: list[Callable[[Stage, random.Random], None]] = [
    *[Stage.map, Stage.read] * 3,
    *[Stage.map_to_the_first_failure, Stage.submit, Stage.run_quick_ones, Stage.run_arrays] * 2,
    Stage.hang,
]


def draw_options(chance: random.Random) -> dict[str, Any]:
    """Draw the options of a run."""
    return {
        "chunksize": chance.choice([None, None, 1, 7]),
        "retries": chance.choice([0, 0, 1, 3]),
        "delivery": chance.choice(["at_least_once", "at_least_once", "at_most_once"]),
    }


def negate(item: int) -> int:
    """Take next to no time."""
    return -item


def negate_array(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Give another array."""
    negative: np.ndarray[Any, Any] = -array
    return negative


@contextmanager
def killing(stage: Stage, chance: random.Random) -> Iterator[None]:
    """Kill busy workers now and then, mostly by SIGKILL."""
    done = threading.Event()

    def kill() -> None:
        while not done.wait(chance.uniform(*KILL_SECONDS)):
            for worker in islice(living(stage.pool), chance.randrange(2), None):
                if worker.state == "busy":
                    stage.accounts.kill(worker, chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                    break

    thread = threading.Thread(target=kill, name="killer")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def live(tally: Tally) -> None:
    """Let one pool live."""
    chance = tally.chance
    Path(os.environ[ledger.PLACE]).unlink(missing_ok=True)
    most = chance.choice([None, 300, 5000])
    with InjectedPool(2, lifetimes=LIFETIMES, max_items_per_worker=most, name=f"soak{tally.pools}") as pool:
        stage = Stage(tally, pool)
        scenes = [(chance.choice(SCENERY), random.Random(chance.random())) for _ in range(SCENES)]  # noqa: S311 - not secret
        with ThreadPoolExecutor(2) as threads, killing(stage, random.Random(chance.random())):  # noqa: S311 - the same
            for future in [threads.submit(scene, stage, own) for scene, own in scenes]:
                future.result(SCENE_SECONDS)
    stage.end()
    tally.pools += 1


def tell(tally: Tally) -> None:
    """Print how the caller does."""
    rss, files = PROCESS.memory_info().rss, PROCESS.num_fds()
    caller = f"rss {rss / 1e6:.1f} MB, {files} files, {threading.active_count()} threads"
    print(f"{tally}; {caller}", flush=True)  # noqa: T201 - a command line prints


def trim() -> None:
    """Have the C library give back what it keeps free, where it can: arenas of threads that were, in steps of MB."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def soak(tally: Tally, minutes: float) -> None:
    """Let pools live until the time is over."""
    with InjectedPool(1) as pool:  # what lasts as long as the process
        pool.map(negate_array, [np.ones(3)])
    before, told = resources(), tally.began
    while time.monotonic() - tally.began < minutes * 60:
        with bounded("a pool", POOL_SECONDS):
            live(tally)
            gc.collect()
            check_nothing_left(before)
        trim()
        tally.memory.append(PROCESS.memory_info().rss)
        if time.monotonic() - told > REPORT_SECONDS:
            told = time.monotonic()
            tell(tally)
    settled = tally.memory[len(tally.memory) // 4 :]
    part = max(1, len(settled) // 4)
    growth = min(settled[-part:]) - min(settled[:part])  # what was large in between may stay for a while
    print(f"memory: {min(settled[:part]) / 1e6:.1f} MB, grown by {growth / 1e6:.2f} MB")  # noqa: T201 - the same
    assert growth < SPARE_BYTES, f"the caller has grown by {growth / 1e6:.1f} MB"


def main(arguments: list[str]) -> int:
    """Soak, then sum it up."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311 - not secret
    options = parser.parse_args(arguments)
    tally = Tally(random.Random(options.seed))  # noqa: S311 - not secret
    with tempfile.TemporaryDirectory() as folder:
        os.environ[ledger.PLACE] = str(Path(folder) / "ledger")
        try:
            soak(tally, options.minutes)
        except Exception:  # noqa: BLE001 - whatever is not as it should be
            traceback.print_exc()
            print(f"soak FAILED, seed {options.seed}: {tally}")  # noqa: T201 - a command line prints
            return 1
    print(f"soak passed, seed {options.seed}: {tally}")  # noqa: T201 - the same
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
