"""``map`` and its kin on every backend: order, laziness, sizes, functions, contexts, reports."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import itertools
import math
import os
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest

from poolinject import Depends, Failure, InjectedPool, ItemContext, Success, WorkerContext
from poolinject.errors import PlanError
from tests.conftest import INLINE, THREAD, Kind
from tests.pool import ledger as ledger_module

PATIENCE = 15.0


def double(item: Any) -> Any:
    """Double anything."""
    return item * 2


def add(left: int, right: int = 10) -> int:
    """Add two numbers."""
    return left + right


def nothing(item: object) -> None:
    """Return nothing."""


def echo(item: Any) -> Any:
    """Return the item."""
    return item


class Scale:
    """A callable instance with a method."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, item: int) -> int:
        return item * self.factor

    def times(self, item: int) -> int:
        """Scale as a method."""
        return item * self.factor


class Wrapped:
    """A class that is the function."""

    def __init__(self, item: int) -> None:
        self.item = item

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Wrapped) and other.item == self.item

    def __hash__(self) -> int:
        return hash(self.item)


def get_base() -> int:
    """Give something to inject."""
    return 100


def with_base(item: int, base: Annotated[int, Depends(get_base)]) -> int:
    """Use what is injected."""
    return item + base


def generate(count: int) -> Iterator[int]:
    """Give an input whose length nobody knows."""
    yield from range(count)


def test_map_gives_results_in_the_order_of_the_items(every_backend: Kind) -> None:
    """Whichever worker is first."""
    with every_backend.pool() as pool:
        assert pool.map(double, range(100)) == [2 * item for item in range(100)]


@pytest.mark.parametrize("items", [[], [3], (1, 2), "abc", range(0), {5: 6}])
def test_every_iterable_is_an_input(backend: Kind, items: Any) -> None:
    """Empty ones, single ones, texts, mappings."""
    with backend.pool() as pool:
        expected = [2 * item for item in items]
        assert pool.map(double, items) == expected
        assert list(pool.imap(double, items)) == expected
        assert sorted(pool.imap_unordered(double, items)) == sorted(expected)
        assert sorted(outcome.index for outcome in pool.outcomes(double, items)) == list(range(len(items)))


def test_a_generator_of_unknown_length_is_an_input(backend: Kind) -> None:
    """Nobody asks for ``len``."""
    with backend.pool() as pool:
        assert pool.map(double, generate(50)) == list(range(0, 100, 2))
        assert list(pool.imap(double, generate(50))) == list(range(0, 100, 2))


@pytest.mark.parametrize("chunksize", [None, 1, 7, 1000, 50_000])
def test_ten_thousand_items_in_chunks_of_any_size(backend: Kind, chunksize: int | None) -> None:
    """Smaller than, not dividing and larger than the input."""
    count = 1000 if chunksize == 1 else 10_000
    with backend.pool() as pool:
        expected = list(range(0, 2 * count, 2))
        assert pool.map(double, generate(count), chunksize=chunksize) == expected
        assert list(pool.imap(double, range(count), chunksize=chunksize)) == expected
        assert sorted(pool.imap_unordered(double, generate(count), chunksize=chunksize)) == expected
        assert pool.report.items == pool.report.succeeded == count


def test_none_is_a_result_like_others(backend: Kind) -> None:
    """Neither dropped nor taken for a failure."""
    with backend.pool() as pool:
        assert pool.map(nothing, range(5)) == [None] * 5
        assert list(pool.imap(nothing, range(5))) == [None] * 5
        assert pool.map(echo, [None, None]) == [None, None]


def test_nested_data_comes_back_as_it_was(backend: Kind) -> None:
    """Items and results are not only atoms."""
    items: list[Any] = [{"a": [1, (2, {3})]}, [[]], (), {"x": {"y": None}}, b"\0", 1.5, float("inf")]
    with backend.pool() as pool:
        assert pool.map(echo, items) == items


@pytest.mark.parametrize(
    ("func", "items", "expected"),
    [
        (lambda item: item + 1, [1, 2], [2, 3]),
        (partial(add, 5), [1, 2], [6, 7]),
        (partial(add, right=1), [1, 2], [2, 3]),
        (int, ["1", "2"], [1, 2]),
        (math.sqrt, [4, 9], [2.0, 3.0]),
        (str.upper, ["a"], ["A"]),
        (Scale(3).times, [1, 2], [3, 6]),
        (Scale(3), [1, 2], [3, 6]),
        (Wrapped, [1], [Wrapped(1)]),
        (with_base, [1], [101]),
    ],
    ids=["lambda", "partial", "partial-keyword", "int", "sqrt", "str.upper", "method", "instance", "class", "injected"],
)
def test_every_callable_is_a_function(
    backend: Kind, func: Callable[..., Any], items: list[Any], expected: list[Any]
) -> None:
    """Not only those made with ``def``."""
    with backend.pool() as pool:
        assert pool.map(func, items) == expected


def test_a_closure_takes_its_variables_along_anew_for_each_run(backend: Kind) -> None:
    """Also where they have changed since the run before."""
    factor = 2

    def scale(item: int) -> int:
        return item * factor

    with backend.pool() as pool:
        assert pool.map(scale, [1, 2]) == [2, 4]
        factor = 3
        assert pool.map(scale, [1, 2]) == [3, 6]


def test_starmap_spreads_tuples_over_the_parameters(backend: Kind) -> None:
    """A tuple that is too short leaves the default."""
    with backend.pool() as pool:
        assert pool.starmap(pow, [(2, 3), (3, 2), (2, 5, 7)]) == [8, 9, 4]
        assert pool.starmap(add, [(1, 2), (1,)]) == [3, 11]
        assert pool.starmap(add, [[1, 2]]) == [3]
        assert pool.starmap(add, []) == []


def test_submit_gives_a_future(backend: Kind) -> None:
    """With the result, or the exception."""
    with backend.pool() as pool:
        future = pool.submit(add, 1, 2)
        assert isinstance(future, Future)
        assert future.result(PATIENCE) == 3
        assert pool.submit(get_base).result(PATIENCE) == 100
        assert isinstance(pool.submit(int, "x").exception(PATIENCE), ValueError)


def test_many_submits_are_all_answered(backend: Kind) -> None:
    """Each is a run of its own."""
    with backend.pool() as pool:
        futures = [pool.submit(double, item) for item in range(100)]
        assert [future.result(PATIENCE) for future in futures] == list(range(0, 200, 2))


def where(worker: WorkerContext) -> tuple[int, int, str, int]:
    """Tell where the code runs."""
    return worker.worker_id, worker.generation, worker.pool_name, os.getpid()


def test_broadcast_reaches_every_worker_exactly_once(backend: Kind) -> None:
    """The outcomes come by worker id."""
    with backend.pool(3, name="flock") as pool:
        outcomes = pool.broadcast(where)
        expected = list(range(3)) if backend.is_parallel else [0]
        assert list(outcomes) == expected
        for worker_id, outcome in outcomes.items():
            assert isinstance(outcome, Success)
            assert outcome.worker_id == worker_id
            assert outcome.value == (worker_id, 0, "flock", pool.workers[worker_id].pid)


def fail_on_one(worker: WorkerContext) -> int:
    """Fail on the last worker alone."""
    if worker.worker_id == 1:
        raise ValueError("not here")
    return worker.worker_id


def test_broadcast_never_raises_for_a_worker(parallel: Kind) -> None:
    """The failure stands beside the others."""
    with parallel.pool(3) as pool:
        outcomes = pool.broadcast(fail_on_one)
        assert [type(outcomes[worker_id]) for worker_id in range(3)] == [Success, Failure, Success]
        with pytest.raises(PlanError, match="item"):
            pool.broadcast(double)


def context_of(item: str, context: ItemContext, worker: WorkerContext) -> ItemContext:
    """Give the context away."""
    assert context.worker_id == worker.worker_id
    return context


def test_the_item_context_tells_index_item_attempt_and_worker(backend: Kind) -> None:
    """Chunks do not show."""
    with backend.pool(2) as pool:
        for index, context in enumerate(pool.map(context_of, "abcdefg", chunksize=3)):
            assert (context.index, context.item, context.attempt) == (index, "abcdefg"[index], 1)
            assert context.worker_id in range(2)


def test_outcomes_tell_index_item_value_worker_and_seconds(backend: Kind) -> None:
    """A failure does not end the run."""
    with backend.pool() as pool:
        outcomes = sorted(pool.outcomes(int, ["1", "x", "3"]), key=lambda outcome: outcome.index)
    first, second, third = outcomes
    assert isinstance(first, Success)
    assert isinstance(third, Success)
    assert (first.index, first.item, first.value, first.attempts) == (0, "1", 1, 1)
    assert (third.index, third.item, third.value) == (2, "3", 3)
    assert first.worker_id in range(2)
    assert 0 < first.seconds < PATIENCE
    assert isinstance(second, Failure)
    assert (second.index, second.item, second.phase, second.attempts) == (1, "x", "call", 1)
    assert isinstance(second.error, ValueError)
    assert "invalid literal" in second.traceback


def test_imap_works_ahead_in_the_background(parallel: Kind, ledger: ModuleType) -> None:
    """Work begins at the call, not at the first ``next``."""
    with parallel.pool() as pool:
        results = pool.imap(noted, generate(4))
        ledger.wait_for("ran", 4)
        assert list(results) == [0, 1, 2, 3]


def noted(item: int) -> int:
    """Leave a trace."""
    ledger_module.note(f"ran {item}")
    return item


def test_imap_gives_a_result_before_the_input_has_ended(backend: Kind) -> None:
    """It is lazy: an endless input does no harm."""
    with backend.pool() as pool:
        for results in (pool.imap(double, itertools.count()), pool.imap_unordered(double, itertools.count())):
            assert len(list(itertools.islice(results, 100))) == 100
            results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_a_closed_iterator_gives_nothing_more(backend: Kind, on_error: Literal["raise", "return"]) -> None:
    """Also where results of the same chunk have come; closing it again, or an exhausted one, does no harm."""
    with backend.pool(2) as pool:
        results = pool.imap(double, range(100), chunksize=50, on_error=on_error)
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
        assert list(results) == []
        results.close()  # type: ignore[attr-defined]
        exhausted = pool.imap(double, range(3), on_error=on_error)
        assert list(exhausted) == [0, 2, 4]
        exhausted.close()  # type: ignore[attr-defined]
        assert next(exhausted, None) is None


flag: contextvars.ContextVar[object] = contextvars.ContextVar("flag", default="unset")


def swap_flag(_item: int) -> tuple[object, object]:
    """Give the flag, and set it to what ``==`` takes for the same, and then to what refuses to be compared."""
    before = flag.get()
    flag.set(False)
    between = flag.get()
    flag.set(Incomparable())
    return before, between


class Incomparable:
    """It has no truth to tell about."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("not comparable")

    __hash__ = None  # type: ignore[assignment]


def test_what_an_item_sets_in_its_context_is_gone_for_the_next(backend: Kind) -> None:
    """Also where the caller, on whose thread it runs, had set an equal value."""

    def run() -> list[tuple[object, object]]:
        flag.set(0)
        with backend.pool(1) as pool:
            return pool.map(swap_flag, range(5))

    results = contextvars.copy_context().run(run)
    assert len({(type(before), type(between)) for before, between in results}) == 1
    assert all(between is False for _, between in results)


NOTHING_TO_COMPARE = Incomparable()


def get_default(of: object = NOTHING_TO_COMPARE) -> str:
    """Give what is known of a default."""
    return type(of).__name__


def with_defaults(
    item: int, made: Annotated[str, Depends(get_default)], own: Any = NOTHING_TO_COMPARE
) -> tuple[int, str, str]:
    """Have a default like a NumPy array, whose ``==`` gives no truth value."""
    return item, made, type(own).__name__


def test_defaults_may_refuse_to_be_compared(backend: Kind) -> None:
    """Of the function and of a provider."""
    with backend.pool(1) as pool:
        assert pool.map(with_defaults, [1]) == [(1, "Incomparable", "Incomparable")]
        assert "get_default" in str(pool.explain(with_defaults))


class Unhashed(type):
    """A metaclass whose classes cannot be looked up."""

    def __hash__(cls) -> int:
        raise ValueError("hash")


class Unfindable(metaclass=Unhashed):
    """Of such a class."""


def unfindable(item: int) -> object:
    """Give one in between."""
    return Unfindable() if item == 2 else item


@pytest.mark.parametrize("kind", [INLINE, THREAD], ids=str)
def test_the_class_of_a_result_may_refuse_to_be_hashed(kind: Kind) -> None:
    """No outcome is lost."""
    with kind.pool(1) as pool:
        results = pool.map(unfindable, range(5))
    assert [type(each).__name__ for each in results] == ["int", "int", "Unfindable", "int", "int"]


@pytest.mark.parametrize("method", ["imap", "imap_unordered", "outcomes"])
def test_threads_may_share_an_iterator(parallel: Kind, method: str) -> None:
    """Each result goes to one of them, whatever they are interrupted in."""
    interval = sys.getswitchinterval()
    with parallel.pool(2) as pool, ThreadPoolExecutor(4) as threads:
        sys.setswitchinterval(1e-6)
        try:
            results = getattr(pool, method)(echo, range(5000))
            parts = [part.result(PATIENCE) for part in [threads.submit(list, results) for _ in range(4)]]
        finally:
            sys.setswitchinterval(interval)
    given = [each.index if isinstance(each, Success) else each for part in parts for each in part]
    assert sorted(given) == list(range(5000))


def failing_in_between(item: int) -> int:
    """Fail for one item."""
    return 1 // (item - 2500)


def test_of_threads_that_share_an_iterator_one_gets_the_failure(parallel: Kind) -> None:
    """The results before it have gone to some of them, and all come to the end."""
    taken: deque[int] = deque()
    with parallel.pool(1) as pool, ThreadPoolExecutor(4) as threads:
        results = pool.imap(failing_in_between, range(5000))
        ends = [threads.submit(taken.extend, results).exception for _ in range(4)]
        errors = [error for end in ends if (error := end(PATIENCE)) is not None]
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert len(taken) == 2500


@pytest.mark.parametrize("asks", [next, list])
def test_on_error_must_not_ask_for_more(backend: Kind, asks: Callable[[Any], object]) -> None:
    """It is told so, and so is the loop, also where it takes no notice."""

    def handle(failure: Failure) -> str:
        with pytest.raises(RuntimeError, match="must not ask for the next result"):
            asks(results)
        return str(failure.item)

    with backend.pool(1) as pool:
        results = pool.imap(failing_in_between, range(2490, 2510), on_error=handle)
        with pytest.raises(RuntimeError, match="must not ask for the next result"):
            list(results)
        assert pool.map(echo, [1]) == [1]


def test_on_error_may_close_the_iterator(backend: Kind) -> None:
    """Nothing comes any more."""

    def handle(failure: Failure) -> str:
        results.close()  # type: ignore[attr-defined]
        return str(failure.item)

    with backend.pool(1) as pool:
        results = pool.imap(failing_in_between, range(2490, 2510), on_error=handle)
        assert list(results) == [-1] * 10
        assert pool.map(echo, [1]) == [1]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_iterator_cannot_be_duplicated(backend: Kind, duplicate: Callable[[object], object]) -> None:
    """As no generator can."""
    with backend.pool(1) as pool:
        results = pool.imap(echo, range(3))
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            duplicate(results)
        assert list(results) == [0, 1, 2]


def test_an_iterator_can_be_closed_while_another_thread_waits(parallel: Kind, ledger: ModuleType) -> None:
    """Which comes to the end at once, though its item goes on."""
    with parallel.pool(1) as pool, ThreadPoolExecutor(1) as threads:
        results = pool.imap(held, [1, 0, 2], chunksize=1)
        assert next(results) == 1
        rest = threads.submit(list, results)
        while not results.parts._lock.locked():  # type: ignore[attr-defined]  # it waits for a result
            assert not rest.done()
        results.close()  # type: ignore[attr-defined]
        assert rest.result(PATIENCE) == []
        ledger.note("release")


def test_a_slow_input_holds_no_result_up(backend: Kind) -> None:
    """Each comes before the item after the next is read, also where large chunks would be worth it."""
    read: list[int] = []

    def slow() -> Iterator[int]:
        for number in range(6):
            time.sleep(0.02)
            read.append(number)
            yield number

    with backend.pool(1) as pool:
        pool.map(echo, range(1000))
        waits = [len(read) - 1 - result for result in pool.imap(echo, slow())]
    assert max(waits) <= 1


async def get_noted(item: int) -> AsyncIterator[int]:
    """Open and close, with a wait in between."""
    with contextlib.contextmanager(ledger_module.span)(f"noted {item}"):
        yield item


async def sleep_long(item: int, _: Annotated[int, Depends(get_noted)]) -> int:
    """Let the first item end at once, the others late."""
    await asyncio.sleep(0 if item == 0 else PATIENCE)
    return item


def test_closing_an_iterator_ends_what_runs_beside(backend: Kind, ledger: ModuleType) -> None:
    """Also where nothing goes on by itself."""
    with backend.pool(1) as pool:
        results = pool.imap_unordered(sleep_long, range(8))
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
        deadline = time.monotonic() + PATIENCE
        while sum({"+": 1, "-": -1}[text[-1]] for text in ledger.texts()) and time.monotonic() < deadline:
            time.sleep(0.01)
        ledger.check_balanced()
        assert 1 <= ledger.count("noted") // 2 <= 8


def held(item: int) -> int:
    """Let the first item be the last to end."""
    if item == 0:
        ledger_module.wait_for("release")
    return item


def test_unordered_results_come_as_they_are_ready(parallel: Kind, ledger: ModuleType) -> None:
    """A slow item holds nobody up; in order, it does."""
    with parallel.pool(2) as pool:
        results = pool.imap_unordered(held, range(2), chunksize=1)
        assert next(results) == 1
        ledger.note("release")
        assert list(results) == [0]
        assert list(pool.imap(held, range(5), chunksize=1)) == [0, 1, 2, 3, 4]


def test_two_threads_map_at_once(backend: Kind) -> None:
    """Each gets its own results."""
    with backend.pool() as pool, ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.map, double, range(3000))
        second = threads.submit(pool.map, with_base, generate(3000))
        assert first.result(PATIENCE) == list(range(0, 6000, 2))
        assert second.result(PATIENCE) == list(range(100, 3100))


def test_two_threads_share_the_workers_fairly(parallel: Kind, ledger: ModuleType) -> None:
    """A run that waits does not keep a second one from its end."""
    with parallel.pool(2) as pool, ThreadPoolExecutor(1) as threads:
        blocked = threads.submit(pool.map, held, [0], chunksize=1)
        assert pool.map(double, range(100)) == list(range(0, 200, 2))
        ledger.note("release")
        assert blocked.result(PATIENCE) == [0]


def test_runs_of_one_thread_can_interleave(backend: Kind) -> None:
    """Two iterators of one pool, taken in turns."""
    with backend.pool() as pool:
        left, right = pool.imap(double, generate(200)), pool.imap(with_base, range(200))
        assert list(zip(left, right, strict=True)) == [(2 * item, item + 100) for item in range(200)]


def test_an_input_may_come_from_the_same_pool(parallel: Kind) -> None:
    """A chain of two runs."""
    with parallel.pool() as pool:
        doubled = pool.imap(double, generate(300))
        assert pool.map(double, doubled) == list(range(0, 1200, 4))


def test_the_report_counts_the_newest_finished_run(backend: Kind) -> None:
    """Items, failures, seconds, and what providers took."""
    with backend.pool() as pool:
        with pytest.raises(RuntimeError, match="no run"):
            _ = pool.report
        pool.map(int, ["1", "x", "3"], on_error="return")
        report = pool.report
        assert (report.function, report.items, report.succeeded, report.failed) == ("int", 3, 2, 1)
        assert (report.retries, report.lost_workers) == (0, 0)
        assert 0 < report.seconds < PATIENCE
        pool.map(with_base, range(10))
        assert (pool.report.function, pool.report.items) == ("with_base", 10)


def test_workers_tell_what_they_are_and_have_done(backend: Kind) -> None:
    """None before the first run; idle between runs; stopped in the end."""
    pool = backend.pool(2)
    assert list(pool.workers) == []
    with pool:
        pool.map(double, range(20))
        count = 2 if backend.is_parallel else 1
        assert [worker.worker_id for worker in pool.workers] == list(range(count))
        assert sum(worker.items_done for worker in pool.workers) == 20
        assert {worker.generation for worker in pool.workers} == {0}
        pids = {worker.pid for worker in pool.workers}
        assert (os.getpid() in pids) is not backend.has_processes
        assert len(pids) == (2 if backend.has_processes else 1)
    assert {worker.state for worker in pool.workers} == {"stopped"}


def test_explain_draws_the_plan_and_starts_nothing(backend: Kind) -> None:
    """Names and lifetimes."""
    with backend.pool(lifetimes={get_base: "pool"}) as pool:
        text = str(pool.explain(with_base))
        assert "with_base" in text
        assert "get_base" in text
        assert "pool" in text
        assert list(pool.workers) == []


def test_a_pool_tells_its_state(backend: Kind) -> None:
    """In its ``repr``."""
    pool = backend.pool(2, name="tellable")
    assert "'tellable' new" in repr(pool)
    assert f"{2 if backend.is_parallel else 1} workers" in repr(pool)
    with pool:
        pool.map(double, [1, 2])
        assert "open" in repr(pool)
        assert "2 items done" in repr(pool)
    assert "closed" in repr(pool)


def test_a_pool_is_usable_after_everything(backend: Kind) -> None:
    """Failures, abandoned iterators and broken inputs leave nothing behind."""

    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("input")

    with backend.pool() as pool:
        for _ in range(3):
            with pytest.raises(ValueError, match="invalid literal"):
                pool.map(int, ["1", "x"])
            next(pool.imap(double, itertools.count()))
            with pytest.raises(KeyError):
                pool.map(double, broken())
            assert pool.submit(double, 2).result(PATIENCE) == 4
            assert pool.map(double, range(10)) == list(range(0, 20, 2))
            assert len(pool.broadcast(where)) == len(pool.workers)


def test_a_thread_that_is_not_the_main_one_may_own_the_pool(backend: Kind) -> None:
    """Signal handlers are then left alone."""
    results: list[Any] = []

    def work() -> None:
        with backend.pool() as pool:
            results.extend(pool.map(double, range(5)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE)
    assert results == [0, 2, 4, 6, 8]


def test_a_pool_needs_no_with(backend: Kind) -> None:
    """``shutdown`` ends it just as well."""
    pool: InjectedPool = backend.pool()
    assert pool.map(double, [1]) == [2]
    assert pool.shutdown().clean


def open_slowly_once(context: ItemContext) -> int:
    """Take long for the first item alone."""
    if context.index == 0:
        time.sleep(0.5)
    return context.index


def give_opened(_: int, opened: Annotated[int, Depends(open_slowly_once)]) -> int:
    """Need it."""
    return opened


def test_what_a_provider_takes_is_not_told_by_the_first_item_of_a_chunk(backend: Kind) -> None:
    """Which finds caches cold and other workers' locks taken; of a chunk of one there is no other."""
    with backend.pool(1) as pool:
        assert list(pool.imap(give_opened, range(3), chunksize=3)) == [0, 1, 2]
        assert 0 < pool.report.provider_seconds["open_slowly_once"] < 0.25
        assert list(pool.imap(give_opened, range(1))) == [0]
        assert pool.report.provider_seconds["open_slowly_once"] > 0.25
