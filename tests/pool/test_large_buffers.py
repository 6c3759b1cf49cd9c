"""Arrays to workers and back: ordinary ones, whatever becomes of the worker, and nothing of them is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from poolinject import Failure, InjectedPool
from tests.conftest import Kind

Array = npt.NDArray[np.float64]
SIZE = 200_000  # of eight bytes each: large enough to go through shared memory
kept: list[Array] = []


def change(array: Array) -> Array:
    """Write into what has come."""
    array[0] = -1.0
    return array


def keep(array: Array) -> float:
    """Hold on to every array, and read the first one again."""
    kept.append(array)
    return float(kept[0].sum())


def mark_own(index: int) -> Array:
    """Give the worker's own array, which the next item changes."""
    if not kept:
        kept.append(np.zeros(SIZE))
    kept[0][:] = index
    return kept[0]


def die_on_negative(array: Array) -> Array:
    """End the worker while it holds an array."""
    if array[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return array * 2


def shared_files() -> list[str]:
    """List what this process has mapped; the files have no names that could be left anywhere else."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    return [line for line in maps.splitlines() if "memfd:poolinject" in line]


def test_arrays_are_ordinary_on_both_sides(backend: Kind) -> None:
    """They can be written to."""
    arrays = [np.full(SIZE, float(number)) for number in range(8)]
    with backend.pool(2) as pool:
        for number, result in enumerate(pool.imap(change, [array.copy() for array in arrays])):
            result[1] = -2.0
            assert result[:2].tolist() == [-1.0, -2.0]
            assert result[2:].tolist() == arrays[number][2:].tolist()


def test_worker_may_keep_arrays(process: Kind) -> None:
    """Later ones do not overwrite them."""
    with process.pool(1) as pool:
        sums = pool.map(keep, (np.full(SIZE, float(number)) for number in range(1, 20)))
    assert sums == [float(SIZE)] * 19


def test_result_is_what_it_was_when_its_item_ended(process: Kind) -> None:
    """Although the worker changes the same array for the next item."""
    with process.pool(2) as pool:
        results = pool.map(mark_own, range(30), chunksize=10)
    assert [(result.min(), result.max()) for result in results] == [(index, index) for index in range(30)]


def test_more_than_there_is_room_for(process: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into the shared memory goes through the socket."""
    monkeypatch.setattr("poolinject.backends.process.SPAN", 2 * 8 * SIZE)
    with process.pool(1) as pool:
        results = pool.map(change, [np.ones(SIZE) for _ in range(6)], chunksize=6)
    assert [result.sum() for result in results] == [SIZE - 2.0] * 6


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the maps that Linux has")
def test_nothing_is_left_after_a_worker_has_died_with_an_array(process: Kind) -> None:
    """Its memory goes with it, and another worker goes on."""
    before = shared_files()
    arrays: list[Any] = [np.full(SIZE, -1.0 if number == 5 else 1.0) for number in range(12)]
    with process.pool(2) as pool:
        results = pool.map(die_on_negative, arrays, on_error="return")
        assert [index for index, result in enumerate(results) if isinstance(result, Failure)] == [5]
        assert all(result.sum() == 2 * SIZE for index, result in enumerate(results) if index != 5)
    assert shared_files() == before


def test_limited_address_space_is_no_hindrance() -> None:
    """A pool of many workers starts there too, with smaller arenas."""
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "from poolinject import InjectedPool\n"
        "with InjectedPool(4) as pool: print(sum(pool.map(abs, range(10))))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=25, check=False)
    assert (done.stdout, done.stderr) == ("45\n", "")


def test_pool_in_the_same_process_shares_nothing() -> None:
    """Threads get the caller's own arrays."""
    array = np.zeros(SIZE)
    with InjectedPool(1, backend="thread") as pool:
        (result,) = pool.map(change, [array])
    assert result is array
