"""Workers killed at random moments: every item has its outcome, and what was finished is not done again.

``POOLINJECT_SEED`` repeats the moments of an earlier run.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from poolinject import Failure, InjectedPool, ItemContext

ITEMS = 100_000
KILLS = 50
SEED = int(os.environ.get("POOLINJECT_SEED", "0")) or random.randrange(1, 10**6)  # noqa: S311 - not a secret


def append_line(job: tuple[str, int], context: ItemContext) -> int:
    """Leave a line for the item and its attempt, as a side effect that cannot be taken back."""
    path, number = job
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, b"%d %d\n" % (number, context.attempt))
    finally:
        os.close(file)
    return -number


@contextmanager
def killer(pool: InjectedPool, path: Path, kills: int) -> Iterator[list[int]]:
    """Kill workers of a pool at random moments of a job, which are told by how much has been written."""
    chance = random.Random(SEED)  # noqa: S311 - the moments of a test
    whole = sum(len(str(number)) + 3 for number in range(ITEMS))
    moments = sorted(chance.uniform(0, 0.95) * whole for _ in range(kills))
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        while moments and not done.wait(chance.uniform(0, 0.001)):
            busy = [worker.pid for worker in pool.workers if worker.state == "busy" and worker.pid not in killed]
            if busy and path.exists() and path.stat().st_size >= moments[0]:
                killed.append(chance.choice(busy))
                with suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)
                del moments[0]

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_what_was_finished_is_not_done_again(
    tmp_path: Path, delivery: Literal["at_least_once", "at_most_once"], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of so many items under so many kills at the most one for each kill is done twice, or lost for good.

    With retries, which try again what was lost, every result is right. At most once means that nothing is done twice,
    so what was lost stays so.
    """
    path = tmp_path / "lines"
    began = time.perf_counter()
    with InjectedPool(2) as pool, killer(pool, path, KILLS) as killed:
        jobs = [(str(path), number) for number in range(ITEMS)]
        results: Any = pool.map(append_line, jobs, on_error="return", retries=KILLS, delivery=delivery)
        report = pool.report
    lines = Counter(path.read_text().splitlines())
    lost = [number for number, result in enumerate(results) if isinstance(result, Failure)]
    again = sum(count - 1 for count in lines.values())  # in the same attempt: it had come to its end before
    cut_short = sum(not line.endswith(" 1") for line in lines)  # lost amid an attempt, and tried again
    with capsys.disabled():
        kills = f"{len(killed)} kills, seed {SEED}, {time.perf_counter() - began:.1f} s"
        counts = f"{len(lost)} lost, {cut_short} tried again, {again} finished ones done again"
        print(f"\n{delivery}: {ITEMS:,} items, {kills}: {counts}")  # noqa: T201
    assert all(result == -number for number, result in enumerate(results) if number not in set(lost))
    assert {results[number].phase for number in lost} <= {"lost"}
    assert set(range(ITEMS)) - set(lost) <= {int(line.split()[0]) for line in lines}
    assert report.lost_workers == len(killed) == KILLS
    assert again <= KILLS  # and 0, unless the worker has taken the items for quicker than they are
    if delivery == "at_least_once":
        assert not lost
        assert cut_short <= report.retries <= KILLS  # fewer where an attempt was lost before it had left its line
    else:
        assert cut_short == report.retries == 0
