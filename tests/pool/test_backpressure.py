"""The input is read no further than the limit, and an iterator that nobody wants any more frees its work."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NoReturn

import pytest

from poolinject import InjectedPool
from poolinject._scheduling.driver import Driver
from tests.conftest import Kind
from tests.pool import ledger as ledger_module

PATIENCE = 15.0
BOUNDED = 100_000  # what the automatic limit may read ahead at the very most


def echo(item: Any) -> Any:
    """Return the item."""
    return item


class Counter:
    """An endless input that knows how much of it was read, and whether it was closed."""

    def __init__(self) -> None:
        self.read = 0
        self.closed = threading.Event()
        self.still = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        try:
            while True:
                with self.still:
                    self.read += 1
                    self.still.notify_all()
                yield self.read - 1
        finally:
            self.closed.set()

    def wait_until_read(self, count: int) -> None:
        """Wait until so many items have been read."""
        with self.still:
            assert self.still.wait_for(lambda: self.read >= count, PATIENCE), f"read only {self.read}"

    def settle(self) -> int:
        """Wait until nothing has been read for a while and give how much was."""
        with self.still:
            before = -1
            while before != self.read:
                before = self.read
                self.still.wait(0.1)
            return self.read


@pytest.mark.parametrize(("limit", "chunksize"), [(1, None), (2, 3), (20, None), (20, 3)])
@pytest.mark.parametrize("method", ["imap", "outcomes"])
def test_a_paused_consumer_pauses_the_input(parallel: Kind, limit: int, chunksize: int | None, method: str) -> None:
    """What was read is what was handed out and what may be in flight, never more."""
    source = Counter()
    with parallel.pool(2, max_in_flight=limit) as pool:
        results = getattr(pool, method)(echo, source, chunksize=chunksize)
        source.wait_until_read(limit)
        assert source.settle() == limit
        list(itertools.islice(results, 50))
        assert source.settle() <= limit + 50
        results.close()


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
@pytest.mark.parametrize("count", [31, 32, 33])
def test_a_list_as_long_as_the_limit_comes_to_its_end(backend: Kind, method: str, count: int) -> None:
    """That it has been read to its end is known, though there is no room to look for more."""
    with backend.pool(2, max_in_flight=32) as pool:
        assert sorted(getattr(pool, method)(echo, list(range(count)))) == list(range(count))


@pytest.mark.parametrize("limit", [1, 7])
def test_inline_reads_no_further_than_the_limit(limit: int) -> None:
    """Nor does it work ahead: there is nobody to do it."""
    source = Counter()
    with Kind("inline").pool(max_in_flight=limit) as pool:
        results = pool.imap(echo, source)
        for taken in range(1, 50):
            next(results)
            assert source.read <= limit + taken
        results.close()  # type: ignore[attr-defined]


def test_map_keeps_to_the_limit_as_well(backend: Kind) -> None:
    """Its results are held anyway, but its input is not read ahead."""
    ahead: list[int] = []
    done = itertools.count(1)
    finished = 0

    def source() -> Iterator[int]:
        for item in range(500):
            ahead.append(item + 1 - finished)
            yield item

    def handle(_: object) -> None:
        raise AssertionError

    class Bar:
        def __init__(self, **_: Any) -> None: ...

        def update(self, count: int) -> None:
            nonlocal finished
            for _ in range(count):
                finished = next(done)

        def close(self) -> None: ...

    with backend.pool(2, max_in_flight=20) as pool:
        assert pool.map(echo, source(), progress=Bar, on_error=handle) == list(range(500))
    assert max(ahead) <= 20


def test_the_automatic_limit_is_bounded(parallel: Kind) -> None:
    """An endless input with a paused consumer stops being read."""
    source = Counter()
    with parallel.pool(2) as pool:
        results = pool.imap(echo, source)
        assert next(results) == 0
        assert source.settle() < BOUNDED
        results.close()  # type: ignore[attr-defined]


def abandon_by_break(results: Iterator[int]) -> None:
    """Leave a loop."""
    for _ in results:
        break


def abandon_by_close(results: Iterator[int]) -> None:
    """Close what has begun."""
    next(results)
    results.close()  # type: ignore[attr-defined]


def abandon_unstarted(results: Iterator[int]) -> None:
    """Take nothing at all."""


def abandon_in_flight(results: Iterator[int]) -> None:
    """Close before anything was taken."""
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "abandon",
    [abandon_by_break, abandon_by_close, abandon_unstarted, abandon_in_flight],
    ids=lambda abandon: abandon.__name__,
)
@pytest.mark.parametrize("method", ["imap", "imap_unordered", "outcomes"])
def test_an_abandoned_iterator_frees_its_work(backend: Kind, abandon: Any, method: str) -> None:
    """The input is closed, nothing more is read, the pool can be used at once."""
    source = Counter()
    with backend.pool(2) as pool:
        abandon(getattr(pool, method)(echo, iter(source)))
        gc.collect()
        assert pool.map(echo, range(20)) == list(range(20))
        if source.read:  # a generator that was never started has nothing to close
            assert source.closed.wait(PATIENCE)
        read = source.settle()
        assert pool.map(echo, range(20)) == list(range(20))
        assert source.read == read
        until(lambda: "0 runs" in repr(pool))


def hold(item: int) -> int:
    """Wait for the test."""
    ledger_module.note(f"began {item}")
    ledger_module.wait_for("release")
    return item


def test_an_abandoned_iterator_starts_no_further_item(parallel: Kind, ledger: ModuleType) -> None:
    """What runs ends; what was in flight behind it does not begin."""
    with parallel.pool(1) as pool:
        results = pool.imap(hold, range(100), chunksize=10)
        ledger.wait_for("began")
        results.close()  # type: ignore[attr-defined]
        until(lambda: all(run.cancelled for run in driver_of(pool).dispatcher.scheduler.runs.values()))
        waiting = pool.submit(echo, 1)
        ledger.note("release")
        assert waiting.result(PATIENCE) == 1
        assert ledger.count("began") == 1


def test_a_pool_dropped_with_its_iterator_ends(parallel: Kind) -> None:
    """Whoever forgets everything leaves nothing behind, and is told."""
    results: Any = [parallel.pool(2).imap(echo, itertools.count())]
    assert next(results[0]) == 0
    with pytest.warns(ResourceWarning, match="was not shut down"):
        results.clear()


def test_an_iterator_keeps_its_pool_alive(parallel: Kind) -> None:
    """``for result in InjectedPool().imap(...)`` is not cut short."""

    def use() -> list[int]:
        results = parallel.pool(2).imap(echo, iter(range(100)))
        gc.collect()
        return list(results)

    with pytest.warns(ResourceWarning, match="was not shut down"):
        assert use() == list(range(100))


class InputError(Exception):
    """What a broken input raises."""


def broken(after: int, error: BaseException) -> Iterator[int]:
    """Give some items, then raise."""
    yield from range(after)
    raise error


@pytest.mark.parametrize("after", [0, 1, 10, 1000])
@pytest.mark.parametrize("chunksize", [None, 7])
def test_an_input_that_raises_midway_ends_the_run_after_its_results(
    backend: Kind, after: int, chunksize: int | None
) -> None:
    """Everything read is delivered first; then the same exception reaches the caller."""
    error = InputError("midway")
    with backend.pool(2) as pool:
        results = pool.imap(echo, broken(after, error), chunksize=chunksize)
        assert [next(results) for _ in range(after)] == list(range(after))
        with pytest.raises(InputError) as caught:
            next(results)
        assert caught.value is error
        assert list(results) == []
        seen: list[int] = []
        with pytest.raises(InputError) as caught:
            seen.extend(iter(pool.imap_unordered(echo, broken(after, error), chunksize=chunksize)))
        assert caught.value is error
        with pytest.raises(InputError):
            pool.map(echo, broken(after, error), chunksize=chunksize)
        assert pool.report.succeeded == after
        assert pool.map(echo, [1]) == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2), StopAsyncIteration()], ids=repr)
def test_an_input_may_raise_anything(backend: Kind, error: BaseException) -> None:
    """It is raised in the caller, as it is."""
    with backend.pool(2) as pool:
        with pytest.raises(type(error)) as caught:
            list(pool.imap(echo, broken(5, error)))
        assert caught.value is error
        assert pool.map(echo, [1]) == [1]


class BadIterator:
    """An iterator whose ``__next__`` raises at once."""

    def __iter__(self) -> BadIterator:
        return self

    def __next__(self) -> NoReturn:
        raise InputError("at once")


def test_slow_items_go_one_by_one(parallel: Kind, ledger: ModuleType) -> None:
    """A worker that holds an item holds no other, so another worker can take those."""
    with parallel.pool(2) as pool:
        results = pool.imap_unordered(hold, range(8))
        ledger.wait_for("began", 2)
        ledger.note("release")
        assert sorted(results) == list(range(8))
    began = [entry for entry in ledger.read() if entry.text.startswith("began")]
    workers = {(entry.pid, entry.thread) for entry in began[:2]}
    assert len(workers) == 2


def test_slow_items_are_shared_out(parallel: Kind, ledger: ModuleType) -> None:
    """Each worker of four gets one of four slow items, however they are sent."""
    with parallel.pool(4) as pool:
        results = pool.imap(hold, range(4))
        ledger.wait_for("began", 4)
        ledger.note("release")
        assert list(results) == list(range(4))


def test_an_iterator_over_the_same_list_leaves_it_alone(backend: Kind) -> None:
    """The caller may go on with it."""
    items = list(range(50))
    with backend.pool(2) as pool:
        assert list(pool.imap(echo, items)) == items
        assert len(items) == 50
        with pytest.raises(InputError):
            pool.map(echo, BadIterator())


def test_a_long_list_is_not_copied_into_flight(parallel: Kind) -> None:
    """Lists count against the limit as other inputs do."""
    with parallel.pool(2, max_in_flight=5) as pool:
        results = pool.imap(echo, list(range(1000)))
        assert next(results) == 0
        (run,) = driver_of(pool).dispatcher.runs.values()
        assert run.pressure.read <= 5 + 2
        results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["imap", "outcomes", "map"])
@pytest.mark.parametrize("is_posted", [False, True], ids=["before", "after"])
def test_an_interrupt_while_a_run_begins_leaves_none(backend: Kind, method: str, *, is_posted: bool) -> None:
    """Nobody has its iterator then, and leaving ``with`` would wait for its end."""

    def interrupted(call: Callable[[], None]) -> None:
        driver.post = post  # type: ignore[method-assign]
        if is_posted:
            post(call)
        raise KeyboardInterrupt

    with backend.pool(2) as pool:
        assert pool.map(echo, range(10)) == list(range(10))
        driver = driver_of(pool)
        post = driver.post
        driver.post = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            getattr(pool, method)(echo, iter(range(100_000)))
        until(lambda: not driver.dispatcher.runs)
        assert pool.map(echo, range(10)) == list(range(10))


@pytest.mark.parametrize("limit", [1, None])
def test_a_submitted_call_ends_its_run(backend: Kind, limit: int | None) -> None:
    """However few may be in flight; else shutdown would wait for its input."""
    with backend.pool(2, max_in_flight=limit) as pool:
        assert pool.submit(echo, 1).result(PATIENCE) == 1
        until(lambda: not driver_of(pool).dispatcher.runs)
        assert pool.report.items == 1


def driver_of(pool: InjectedPool) -> Driver:
    """Give what only tests look at."""
    assert pool._engine.driver is not None
    return pool._engine.driver


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that the driver does on its own time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_the_first_result_waits_for_no_second_item(backend: Kind) -> None:
    """However much a chunk of this function has by now, and wherever the input is read."""
    taken = threading.Event()

    def slow() -> Iterator[int]:
        yield 0
        if not taken.wait(PATIENCE / 3):
            raise TimeoutError
        yield 1

    with backend.pool(1) as pool:
        pool.map(echo, range(1000))
        results = pool.imap(echo, slow())
        assert next(results) == 0
        taken.set()
        assert list(results) == [1]


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "outcomes"])
@pytest.mark.parametrize("options", [{"chunksize": 2**32}, {"chunksize": 2**62}, {"max_in_flight": 2**64}], ids=str)
def test_no_number_is_too_large(backend: Kind, method: str, options: dict[str, int]) -> None:
    """Neither for a message nor for an iterator: it means all that there is."""
    limits = {name: options[name] for name in options.keys() & {"max_in_flight"}}
    with backend.pool(**limits) as pool:
        for items in (range(4), iter(range(4))):
            results = list(getattr(pool, method)(echo, items, chunksize=options.get("chunksize")))
            assert len(results) == 4
