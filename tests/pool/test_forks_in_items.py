"""What an item forks ends with the item's code, and never goes on as a second worker."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Annotated, Any

import pytest

from poolinject import Depends, InjectedPool
from tests.conftest import Kind
from tests.pool.ledger import note

ITEMS = 60


class Plain:
    """A result that has to be pickled by itself."""


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns about threads
        return os.fork()


def end_well(number: int) -> Any:
    """Come back as the item itself does."""
    return [number]


def end_with_object(number: int) -> Any:
    """Come back with what is pickled at once."""
    return Plain()


def end_by_exit(number: int) -> Any:
    """End as a program does."""
    sys.exit(number)


def end_by_error(number: int) -> Any:
    """Fail."""
    raise LookupError(number)


ENDS: list[tuple[Callable[[int], Any], int]] = [
    (end_well, 0),
    (end_with_object, 0),
    (end_by_exit, 7),
    (end_by_error, 1),
]
ends = pytest.mark.parametrize(("end", "status"), ENDS, ids=lambda value: getattr(value, "__name__", ""))


def fork_once(item: tuple[int, Callable[[int], Any]]) -> int:
    """Fork in one item, and give what has become of the child."""
    number, end = item
    note(f"item {number}")
    if number != 7:
        return number
    pid = _fork()
    if pid == 0:
        end(number)
        return -1
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def fork_in_task(item: tuple[int, Callable[[int], Any]]) -> int:
    """Do the same as a task."""
    return fork_once(item)


@ends
@pytest.mark.parametrize("options", [{}, {"delivery": "at_most_once"}, {"timeout": 60.0}], ids=str)
@pytest.mark.parametrize("function", [fork_once, fork_in_task])
def test_a_child_that_comes_back_ends(
    process: Kind,
    ledger: ModuleType,
    function: Callable[[Any], Any],
    options: dict[str, Any],
    end: Callable[[int], Any],
    status: int,
) -> None:
    """With the status of a program; no item runs twice, and the worker lives on."""
    with process.pool(1) as pool:
        expected = [status if number == 7 else number for number in range(ITEMS)]
        assert pool.map(function, [(number, end) for number in range(ITEMS)], **options) == expected
        assert sorted(ledger.texts()) == sorted(f"item {number}" for number in range(ITEMS))
        assert pool.report.lost_workers == 0


def fork_late(number: int) -> int:
    """Fork once the items are known to be quick."""
    return fork_once((7, end_well)) if number == 60_000 else number


def test_a_child_of_a_quick_item_ends(process: Kind, ledger: ModuleType) -> None:
    """Also where nothing is counted or recorded for each of them."""
    with process.pool(1) as pool:
        assert pool.map(fork_late, range(80_000)) == [*range(60_000), 0, *range(60_001, 80_000)]
        assert ledger.texts() == ["item 7"]


@ends
@pytest.mark.parametrize("backend", ["thread", "inline"])
def test_a_child_of_the_caller_ends_too(
    backend: str, ledger: ModuleType, end: Callable[[int], Any], status: int
) -> None:
    """Where the program has no process for its items."""
    with InjectedPool(1, backend=backend) as pool:
        assert pool.map(fork_once, [(number, end) for number in range(ITEMS)])[7] == status
        assert len(ledger.texts()) == ITEMS


def use_children(item: int) -> tuple[int, int]:
    """Have children of ``multiprocessing`` that use pools of their own."""
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(duplex=False)
    child = context.Process(target=use_pools, args=(item, writing))
    child.start()
    writing.close()
    total = reading.recv()
    child.join()
    return total, child.exitcode or 0


def use_pools(item: int, writing: Any) -> None:
    """Map on every backend."""
    total = 0
    for backend in ("inline", "thread", "process"):
        with InjectedPool(1, backend=backend) as pool:
            total += sum(pool.map(abs, range(item)))
    writing.send(total)


def test_children_that_end_by_themselves_are_let_be(process: Kind) -> None:
    """Those of ``multiprocessing`` may have pools of their own."""
    with process.pool(1) as pool:
        assert pool.map(use_children, [3, 4]) == [(9, 0), (18, 0)]


def write_into_files(item: int) -> int:
    """Write into every socket of the worker from a child."""
    pid = _fork()
    if pid == 0:
        for number in range(100):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.fstat(number).st_mode):
                    os.write(number, b"not a message")
        os._exit(0)
    os.waitpid(pid, 0)
    return item


def test_a_child_cannot_reach_the_caller(start: Kind) -> None:
    """The worker's files are none of its."""
    with start.pool(1) as pool:
        assert pool.map(write_into_files, range(5)) == list(range(5))


def open_resource() -> Iterator[int]:
    """Note who closes it."""
    yield 0
    note("closed")


def use_resource(item: int, resource: Annotated[int, Depends(open_resource, lifetime="pool")]) -> int:
    """Use what outlives the item."""
    return item + resource


def test_a_child_of_the_caller_closes_nothing(backend: Kind, ledger: ModuleType) -> None:
    """When it ends, or shuts the pool down; both belong to the caller."""
    pool = backend.pool(1)
    assert pool.map(use_resource, range(5)) == list(range(5))
    pid = _fork()
    if pid == 0:
        pool.shutdown()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert ledger.count("closed") == 0
    assert pool.map(use_resource, range(5)) == list(range(5))
    pool.shutdown()
    assert [entry.pid == os.getpid() for entry in ledger.read()] == [not backend.has_processes]
