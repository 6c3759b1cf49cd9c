"""``max_worker_memory``, and that the objects of an item are let go of when its outcome has left."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Annotated, Any

import pytest

from poolinject import Depends, InjectedPool, WorkerContext
from poolinject._worker.memory import resident
from tests.conftest import Kind
from tests.pool.ledger import note, span, wait_for

PATIENCE = 20.0  # seconds
BLOCK = 32 << 20
ROOM = 100 << 20  # above what a worker has at its start: three blocks, the fourth is too much
_hoard: list[bytearray] = []


def get_connection(worker: WorkerContext) -> Iterator[str]:
    """One in each worker."""
    yield from span(f"connection w{worker.worker_id}.{worker.generation}")


def hoard(item: int, connection: Annotated[str, Depends(get_connection)], worker: WorkerContext) -> tuple[int, int]:
    """Leak a block of memory."""
    _hoard.append(bytearray(b"x") * BLOCK)
    return item, worker.generation


def peak(item: int, worker: WorkerContext) -> int:
    """Use much memory, and give it back."""
    assert len(bytearray(b"x") * (4 * BLOCK)) > item
    return worker.generation


def nothing(item: int, worker: WorkerContext) -> int:
    """Take next to no time and no memory."""
    return worker.generation


def measure(_: int) -> int:
    """Tell what a worker has at its start."""
    return resident()


@pytest.fixture(scope="module")
def at_start() -> int:
    """Give what a worker has before it has done anything."""
    with InjectedPool(1) as pool:
        (size,) = pool.map(measure, [0])
    return size


def test_resident_memory_is_that_of_this_process() -> None:
    """It grows with what is used, and goes back with it."""
    before = resident()
    block = bytearray(b"x") * BLOCK
    assert before + BLOCK * 0.9 < resident() < before + BLOCK * 1.5
    del block
    assert resident() < before + BLOCK * 0.5


@pytest.mark.parametrize("chunksize", [None, 1, 5, 100])
def test_a_worker_above_the_limit_is_recycled_after_its_item(
    process: Kind, ledger: ModuleType, at_start: int, chunksize: int | None
) -> None:
    """With its cleanups; what it had not started goes to the next generation, nothing is lost."""
    with process.pool(1, lifetimes={get_connection: "worker"}, max_worker_memory=at_start + ROOM) as pool:
        results = pool.map(hoard, range(11), chunksize=chunksize)
        assert [item for item, _ in results] == list(range(11))
        assert Counter(generation for _, generation in results) == {0: 4, 1: 4, 2: 3}
        assert pool.report.lost_workers == 0
        assert pool.shutdown().clean
    ledger.check_balanced()
    assert ledger.count("connection") == 6


def test_memory_that_is_given_back_costs_no_worker(process: Kind, at_start: int) -> None:
    """The limit is for what an item leaves behind."""
    with process.pool(1, max_worker_memory=at_start + ROOM) as pool:
        assert set(pool.map(peak, range(8))) == {0}
        assert set(pool.map(nothing, range(20_000))) == {0}


def test_a_limit_that_no_worker_can_keep_is_warned_of_once(process: Kind) -> None:
    """Each generation runs one item all the same; the warning names the figures."""
    with process.pool(1, max_worker_memory=1000, name="tiny") as pool:
        with pytest.warns(RuntimeWarning, match=r"pool 'tiny'.* bytes resident.* max_worker_memory=1,000") as caught:
            assert pool.map(nothing, range(6)) == list(range(6))
        assert len(caught) == 1


def test_that_warning_as_an_error_ends_the_run_not_the_pool(process: Kind) -> None:
    """As warnings that are errors should."""
    with process.pool(1, max_worker_memory=1000) as pool:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning, match="max_worker_memory"):
                pool.map(nothing, range(50))
        assert len(pool.map(nothing, range(3))) == 3


def test_both_limits_work_together(process: Kind, ledger: ModuleType, at_start: int) -> None:
    """Whichever is passed first."""
    limits = {"max_items_per_worker": 3, "max_worker_memory": at_start + ROOM}
    with process.pool(1, lifetimes={get_connection: "worker"}, **limits) as pool:
        results = pool.map(hoard, range(9))
        assert Counter(generation for _, generation in results) == {0: 3, 1: 3, 2: 3}


# What is let go of, and when.


class Tracked:
    """Notes when a process lets go of it; ``name`` tells which one it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._track()

    def _track(self) -> None:
        weakref.finalize(self, note, f"freed {self.name}").atexit = False

    def __reduce__(self) -> Any:
        return Tracked, (self.name,)


def get_value(item: Tracked) -> Iterator[Tracked]:
    """Make something for the item."""
    yield Tracked(f"dependency of {item.name}")


def relay(item: Tracked, value: Annotated[Tracked, Depends(get_value)]) -> str:
    """Wait at the last item for the test."""
    made = Tracked(f"local of {item.name}")
    if item.name == "last":
        note("last began")
        wait_for("release")
    return made.name


def make(item: int) -> Tracked:
    """Return something; wait at the last one."""
    if item == 3:
        note("last began")
        wait_for("release")
    return Tracked(f"result {item}")


def fail(item: Tracked, value: Annotated[Tracked, Depends(get_value)]) -> None:
    """Fail before the last item."""
    if item.name == "last":
        note("last began")
        wait_for("release")
    raise ValueError(item.name)


@pytest.mark.parametrize("func", [relay, fail])
@pytest.mark.parametrize("chunksize", [1, 4])
def test_objects_of_items_are_gone_while_a_slow_one_runs(
    parallel: Kind, ledger: ModuleType, func: Any, chunksize: int
) -> None:
    """Items, what was made for them and errors, in worker and caller; a later item of the chunk holds up nothing."""
    copies = 2 if parallel.has_processes else 1  # the caller's, and the worker's
    with parallel.pool(1) as pool, ThreadPoolExecutor(1) as threads:
        items = (Tracked(name) for name in ("item 1", "item 2", "item 3", "last"))
        consumer = threads.submit(list, pool.imap(func, items, chunksize=chunksize, on_error=repr))
        ledger.wait_for("last began")
        ledger.wait_for("freed dependency of item", 3)
        ledger.wait_for("freed item", 3 * copies)
        ledger.note("release")
        consumer.result(PATIENCE)


@pytest.mark.parametrize("method", ["imap", "imap_unordered", "outcomes"])
def test_results_are_gone_while_a_slow_item_runs(parallel: Kind, ledger: ModuleType, method: str) -> None:
    """Neither the worker nor the pool keeps them once the caller has got them and has let go."""
    copies = 2 if parallel.has_processes else 1
    with parallel.pool(1) as pool, ThreadPoolExecutor(1) as threads:
        iterator = getattr(pool, method)(make, iter(range(4)), chunksize=1)
        consumer = threads.submit(count, iterator)
        ledger.wait_for("last began")
        ledger.wait_for("freed result", 3 * copies)
        ledger.note("release")
        assert consumer.result(PATIENCE) == 4
        ledger.wait_for("freed result", 4 * copies)


def count(iterator: Iterator[Any]) -> int:
    """Take everything, keep nothing."""
    return len(list(map(type, iterator)))  # a loop would hold the newest


@pytest.mark.parametrize("method", ["map", "submit"])
def test_an_idle_pool_keeps_nothing(parallel: Kind, ledger: ModuleType, method: str) -> None:
    """The last item's objects go when its outcome has left, not when the next item comes, and without a collector."""
    copies = 2 if parallel.has_processes else 1
    gc.disable()
    try:
        with parallel.pool(1) as pool:
            if method == "map":
                assert len(pool.map(echo, (Tracked(name) for name in ("item a", "item b")))) == 2
            else:
                assert pool.submit(echo, Tracked("item a")).result(PATIENCE).name == "echo item a"
                assert pool.submit(echo, Tracked("item b")).result(PATIENCE).name == "echo item b"
            ledger.wait_for("freed item", 2 * copies)
            ledger.wait_for("freed echo", 2 * copies)
    finally:
        gc.enable()


def echo(item: Tracked) -> Tracked:
    """Return something else."""
    return Tracked(f"echo {item.name}")


def same(item: Any) -> Any:
    """Give the item back."""
    return item


def fail_each(item: Any) -> None:
    """Fail."""
    raise ValueError(item)


def take_garbage(_worker: WorkerContext) -> set[str]:
    """Name the types of what only a collection frees, and let it go; leave it to the next call to collect."""
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    types = {type(each).__name__ for each in gc.garbage}
    gc.garbage.clear()
    gc.set_debug(0)
    return types


@pytest.mark.parametrize("chunksize", [None, 1, 100])
@pytest.mark.parametrize("item", [1, [1], [[1]], {"a": {1}}], ids=["atoms", "flat", "nested", "dicts"])
def test_chunks_leave_nothing_to_the_collector(process: Kind, item: Any, chunksize: int | None) -> None:
    """It would come late, when many large lists have gathered, and cost each item more than the rest of its way."""
    with process.pool(1) as pool:
        pool.map(same, [item])
        pool.broadcast(take_garbage)
        assert pool.map(same, [item] * 1000, chunksize=chunksize) == [item] * 1000
        assert len(list(pool.imap(same, iter([item] * 1000), chunksize=chunksize))) == 1000
        pool.map(fail_each, [item] * 20, chunksize=chunksize, on_error=repr)
        garbage: Any = pool.broadcast(take_garbage)[0]
        assert garbage.value == set()
