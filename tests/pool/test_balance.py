"""Nobody stands idle while another has more than it can do, and nothing waits for a slow neighbour."""

import itertools
import time
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.conftest import Kind
from tests.pool import ledger

COUNT = 400


def quick(item: int) -> int:
    """Take next to nothing, so that the next run expects as little."""
    return item


def note_or_wait(item: int) -> int:
    """The item -1 goes on only when all others are done, whoever had them at first."""
    if item == -1:
        ledger.note("slow")
        ledger.wait_for("done", COUNT)
    else:
        ledger.note("done")
    return item


@pytest.mark.parametrize("chunksize", [None, 1, 30])
@pytest.mark.parametrize("place", [0, 7, COUNT // 2, COUNT])
def test_what_waits_behind_a_slow_item_is_done_by_others(
    parallel: Kind, ledger: ModuleType, place: int, chunksize: int | None
) -> None:
    """Also where the slow item is not at the end of its chunk, and others wait behind that."""
    items = list(range(COUNT))
    items.insert(place, -1)
    with parallel.pool(2) as pool:
        assert pool.map(note_or_wait, items, chunksize=chunksize) == items
    assert ledger.count("done") == COUNT, "nothing ran twice"


@pytest.mark.parametrize("method", ["imap", "imap_unordered", "outcomes"])
def test_outcome_does_not_wait_for_the_slow_item_behind_it(parallel: Kind, ledger: ModuleType, method: str) -> None:
    """It comes while the next item of its chunk still runs."""
    with parallel.pool(1) as pool:
        pool.map(quick, range(1000))
        results = iter(getattr(pool, method)(wait_if_odd, iter(range(2)), chunksize=2))
        first = next(results)
        assert getattr(first, "value", first) == 0
        ledger.note("go")
        assert len(list(results)) == 1


def wait_if_odd(item: int) -> int:
    """Hold the second one."""
    if item % 2:
        ledger.wait_for("go")
    return item


def go_on_or_wait(item: int) -> int:
    """The item -1 goes on only when the one behind it, -2, is done; the others take a moment."""
    if item == -1:
        ledger.wait_for("behind")
    elif item == -2:
        ledger.note("behind")
    else:
        time.sleep(0.001)
    return item


@pytest.mark.parametrize("place", [100, 101, 102])
def test_what_waits_behind_a_slow_item_does_not_wait_until_another_worker_is_idle(
    parallel: Kind, ledger: ModuleType, place: int
) -> None:
    """None ever is: the input goes on for as long."""

    def items() -> Iterator[int]:
        yield from range(place)
        yield from (-1, -2)
        for number in itertools.count(place):
            yield number
            if number % 10 == 0 and ledger.count("behind"):
                return

    with parallel.pool(2) as pool:
        results = list(pool.imap_unordered(go_on_or_wait, items()))
    assert set(results) == set(range(-2, len(results) - 2))
