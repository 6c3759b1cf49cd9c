"""An item that takes too long is told so: it fails, its scope closes, its worker goes on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Annotated, Any

import pytest

from poolinject import Depends, Failure, ItemTimeoutError, Success
from tests.conftest import INLINE, THREAD, Kind
from tests.pool.hanging import (
    LIMIT,
    LONG,
    WAYS,
    Session,
    await_way,
    check_timeout,
    get_engine,
    nap,
    run_way,
    runner_of,
    sleep,
)
from tests.pool.ledger import note, span

PATIENCE = 15.0


@pytest.mark.parametrize("hang", WAYS, ids=lambda way: way.__name__)
def test_whatever_an_item_hangs_in_is_interrupted(
    process: Kind, ledger: ModuleType, hang: Callable[[Any], Any]
) -> None:
    """It fails, its scope closes with the error, its worker and the other items go on."""
    items: list[Any] = [(number, hang if number in (0, 3) else None) for number in range(6)]
    with process.pool(1, lifetimes={get_engine: "worker"}) as pool:
        alone: Any = {"chunksize": 6, "concurrency": 1}
        results: Any = pool.map(runner_of(hang), items, timeout=LIMIT, on_error="return", **alone)
        check_timeout(results[0], 0)
        check_timeout(results[3], 3)
        assert [results[number] for number in (1, 2, 4, 5)] == [1, 2, 4, 5]
        assert [worker.generation for worker in pool.workers] == [0]
    assert ledger.count("rolled back for ItemTimeoutError") == 2
    assert ledger.count("engine+") == 1
    ledger.check_balanced()


def test_every_way_to_start_a_worker_knows_limits(start: Kind, ledger: ModuleType) -> None:
    """The signal reaches the thread that runs items."""
    with start.pool(1) as pool:
        (failure,) = pool.map(run_way, [(0, sleep)], timeout=LIMIT, on_error="return")
        check_timeout(failure, 0)
        assert pool.map(run_way, [(1, None)], timeout=PATIENCE) == [1]
        assert [worker.generation for worker in pool.workers] == [0]
    ledger.check_balanced()


def test_a_function_of_c_is_interrupted(process: Kind) -> None:
    """No Python code of the user's is there to be hit."""
    with process.pool(1) as pool:
        (failure,) = pool.map(time.sleep, [LONG], timeout=LIMIT, on_error="return")
        check_timeout(failure, 0)
        assert [worker.generation for worker in pool.workers] == [0]


def test_the_error_comes_soon_after_the_limit(process: Kind, ledger: ModuleType) -> None:
    """At best within 20 ms; a machine with other work may take longer at times."""
    with process.pool(1) as pool:
        pool.map(note_lateness, range(10), timeout=0.05, on_error="return")
    late = [float(text) for text in ledger.texts()]
    assert len(late) == 10
    assert min(late) < 0.02
    assert max(late) < 1


def note_lateness(_: int) -> None:
    """Measure from the start of the function."""
    began = time.monotonic()
    try:
        time.sleep(LONG)
    finally:
        note(str(time.monotonic() - began - 0.05))


# setup and cleanup


def hang_before(item: int) -> Iterator[str]:
    """Hang in the setup."""
    if item == 1:
        time.sleep(LONG)
    yield "value"


def hang_after(item: int) -> Iterator[str]:
    """Hang in the cleanup."""
    yield "value"
    if item == 1:
        time.sleep(LONG)


async def hang_before_async(item: int) -> AsyncIterator[str]:
    """Hang in the setup."""
    if item == 1:
        await asyncio.sleep(LONG)
    yield "value"


async def hang_after_async(item: int) -> AsyncIterator[str]:
    """Hang in the cleanup."""
    yield "value"
    if item == 1:
        await asyncio.sleep(LONG)


class Times:
    """How often a provider was called in this process."""

    calls = 0


def hang_first() -> Iterator[str]:
    """Hang in the setup, the first time."""
    Times.calls += 1
    if Times.calls == 1:
        time.sleep(LONG)
    yield from span("shared")


def use_shared(item: int, session: Session, _: Annotated[str, Depends(hang_first)]) -> int:
    """Use both."""
    del session
    return item


def provide(item: int) -> str:
    """Stand for one of the others."""
    return str(item)


def use(item: int, session: Session, other: Annotated[str, Depends(provide)]) -> int:
    """Use both."""
    del session, other
    return item


@pytest.mark.parametrize("provider", [hang_before, hang_after, hang_before_async, hang_after_async])
def test_a_provider_that_hangs_is_named(process: Kind, ledger: ModuleType, provider: Callable[..., Any]) -> None:
    """In its setup and in its cleanup, which both count; the others are rolled back."""
    with process.pool(1, overrides={provide: provider}, lifetimes={get_engine: "worker"}) as pool:
        results = pool.map(use, range(3), timeout=LIMIT, on_error="return", chunksize=3)
        check_timeout(results[1], 1, provider.__name__)
        assert [results[0], results[2]] == [0, 2]
        assert [worker.generation for worker in pool.workers] == [0]
    assert ledger.count("rolled back for ItemTimeoutError") == 1
    ledger.check_balanced()


def test_a_shared_provider_that_hangs_is_tried_again(process: Kind, ledger: ModuleType) -> None:
    """What was interrupted is not kept."""
    with process.pool(1, lifetimes={get_engine: "worker", hang_first: "worker"}) as pool:
        results: Any = pool.map(use_shared, range(3), timeout=LIMIT, on_error="return", chunksize=3)
        check_timeout(results[0], 0, "hang_first")
        assert results[1:] == [1, 2]
    assert ledger.count("shared+") == 1
    ledger.check_balanced()


# what an item makes of the error


def give_value_instead(_: int) -> str:
    """Swallow it."""
    try:
        time.sleep(LONG)
    except TimeoutError:
        return "fine"
    return "never"


def raise_instead(_: int) -> None:
    """Replace it."""
    try:
        time.sleep(LONG)
    except TimeoutError:
        message = "the other one"
        raise KeyError(message) from None


def exit_instead(_: int) -> None:
    """Replace it with what is no ``Exception``."""
    try:
        time.sleep(LONG)
    finally:
        raise SystemExit(3)


@pytest.mark.parametrize("react", [give_value_instead, raise_instead, exit_instead])
def test_an_item_cannot_talk_its_way_out(process: Kind, react: Callable[[int], Any]) -> None:
    """It has failed by its limit whatever it returns or raises; what it raised is in the traceback."""
    with process.pool(1) as pool:
        (failure,) = pool.map(react, [0], timeout=LIMIT, on_error="return")
        check_timeout(failure, 0)
        assert ("KeyError: 'the other one'" in failure.traceback) == (react is raise_instead)
        assert pool.map(abs, [-1], timeout=LIMIT) == [1]
        assert [worker.generation for worker in pool.workers] == [0]


def get_slow_rollback() -> Iterator[str]:
    """Take longer than the limit to roll back."""
    note("slow+")
    try:
        yield "slow"
    finally:
        for _ in range(8):
            time.sleep(LIMIT / 2)
        note("slow-")


async def get_slow_async_rollback() -> AsyncIterator[str]:
    """Take longer than the limit to roll back."""
    note("slow+")
    try:
        yield "slow"
    finally:
        for _ in range(8):
            await asyncio.sleep(LIMIT / 2)
        note("slow-")


def sleep_with(_: int, __: Annotated[str, Depends(provide)]) -> None:
    """Hang."""
    time.sleep(LONG)


async def wait_with(_: int, __: Annotated[str, Depends(provide)]) -> None:
    """Hang."""
    await asyncio.sleep(LONG)


@pytest.mark.parametrize("function", [sleep_with, wait_with])
@pytest.mark.parametrize("provider", [get_slow_rollback, get_slow_async_rollback])
def test_a_rollback_is_not_interrupted_again(
    process: Kind, ledger: ModuleType, function: Callable[..., Any], provider: Callable[..., Any]
) -> None:
    """The error is raised once; a cleanup that takes its time after it comes to its end."""
    with process.pool(1, overrides={provide: provider}) as pool:
        (failure,) = pool.map(function, [0], timeout=LIMIT, on_error="return")
        check_timeout(failure, 0)
        assert [worker.generation for worker in pool.workers] == [0]
    ledger.check_balanced()


# many items


def sleep_about(item: int, session: Session) -> int:
    """End about when the limit is over."""
    del session
    time.sleep(0.004 + item % 7 * 0.0005)
    return item


def test_an_error_never_hits_what_comes_after_its_item(process: Kind, ledger: ModuleType) -> None:
    """Where items end just about when their time is up: each has one outcome, and no other thing is hit."""
    with process.pool(2, lifetimes={get_engine: "worker"}) as pool:
        results: Any = pool.map(sleep_about, range(600), timeout=0.006, on_error="return")
        failures = [result for result in results if isinstance(result, Failure)]
        assert {failure.phase for failure in failures} <= {"timeout"}
        assert all(failure.error.args == (failure.index, 0.006) for failure in failures)
        kept = [result for result in results if not isinstance(result, Failure)]
        assert kept == sorted(set(range(600)) - {failure.index for failure in failures})
        assert (pool.report.succeeded, pool.report.failed) == (len(kept), len(failures))
        assert [worker.generation for worker in pool.workers] == [0, 0]
    inside = {failure.index for failure in failures if failure.provider is not None}  # who notes may itself be hit
    noted = Counter(ledger.texts())
    for item in set(range(600)) - inside:
        assert (noted[f"session {item}+"], noted[f"session {item}-"]) == (1, 1)


@pytest.mark.parametrize("function", [run_way, await_way])
def test_the_event_loop_survives_limits_that_are_over_at_once(
    process: Kind, ledger: ModuleType, function: Callable[..., Any]
) -> None:
    """Also the one that is just being made."""
    with process.pool(1) as pool:
        for _ in range(40):
            pool.map(function, [(0, None)], timeout=1e-6, on_error="return")
        assert pool.map(function, [(number, None) for number in range(20)]) == list(range(20))
        assert [worker.generation for worker in pool.workers] == [0]


def test_quick_items_are_none_the_worse_for_a_limit(process: Kind) -> None:
    """The limit is for an item, not for its chunk, nor for the run."""
    with process.pool(2) as pool:
        for _ in range(3):
            assert pool.map(abs, range(20_000), timeout=0.5) == list(range(20_000))
        assert pool.map(nap, [0.05] * 10, timeout=0.3, chunksize=10) == [0.05] * 10
        assert pool.report.failed == 0


@pytest.mark.parametrize("method", ["map", "starmap", "imap", "imap_unordered", "outcomes"])
def test_every_method_takes_a_limit(process: Kind, method: str) -> None:
    """Some items of many hang; each of these fails, all others go through, once."""
    items: list[Any] = [LONG if number % 10 == 3 else 0.0 for number in range(40)]
    options = {} if method == "outcomes" else {"on_error": "return"}
    if method == "starmap":
        items = [(item,) for item in items]
    with process.pool(2) as pool:
        results = list(getattr(pool, method)(nap, iter(items), timeout=0.1, **options))
        failures = [result for result in results if isinstance(result, Failure)]
        assert sorted(failure.index for failure in failures) == [3, 13, 23, 33]
        for failure in failures:
            check_timeout(failure, failure.index, timeout=0.1)
        values = [result.value if isinstance(result, Success) else result for result in results]
        assert values.count(0.0) == 36
        assert (pool.report.succeeded, pool.report.failed, pool.report.lost_workers) == (36, 4, 0)


def test_raise_tells_which_item(process: Kind) -> None:
    """As of any failure; it is a ``TimeoutError``, and the pool stays usable."""
    with process.pool(2) as pool:
        with pytest.raises(TimeoutError, match=r"item 1 ran longer than 0\.1 s") as caught:
            pool.map(nap, [0.0, LONG, *[0.0] * 100], timeout=0.1)
        assert "item 1 (60.0) failed in phase 'timeout'" in caught.value.__notes__[0]
        with pytest.raises(ItemTimeoutError, match="item 2"):
            list(pool.imap(nap, [0.0, 0.0, LONG], timeout=0.1))
        assert pool.map(nap, [0.0] * 20, timeout=PATIENCE) == [0.0] * 20


def test_a_callable_gets_the_failure(process: Kind) -> None:
    """What it returns stands in the place."""
    with process.pool(1) as pool:
        results = pool.map(nap, [0.0, LONG], timeout=0.1, on_error=lambda failure: failure.phase)
        assert results == [0.0, "timeout"]


class Stubborn:
    """An item that does not come back from its pickle."""

    def __reduce__(self) -> Any:
        return (int, ("no number",))


def test_items_that_do_not_arrive_do_not_confuse_the_clock(process: Kind) -> None:
    """They fail on their own account."""
    items = [0.0, Stubborn(), LONG, 0.0, Stubborn()]
    with process.pool(1) as pool:
        results: Any = pool.map(nap, items, timeout=LIMIT, on_error="return", chunksize=5)
        assert [results[index].phase for index in (1, 2, 4)] == ["transport", "timeout", "transport"]
        assert [results[0], results[3]] == [0.0, 0.0]


def test_runs_with_and_without_a_limit_do_not_mix(process: Kind) -> None:
    """One limit holds for its own run."""
    with process.pool(1) as pool, ThreadPoolExecutor(2) as threads:
        free = threads.submit(pool.map, nap, [0.2] * 4, chunksize=1)
        bound = threads.submit(pool.map, nap, [LONG, 0.0], timeout=0.1, on_error="return")
        results = bound.result(PATIENCE)
        check_timeout(results[0], 0, timeout=0.1)
        assert free.result(PATIENCE) == [0.2] * 4


# options


@pytest.mark.parametrize("timeout", [1e9, 1e12, float("inf"), 10**30, 3600])
def test_a_limit_that_never_comes_is_none(process: Kind, timeout: float) -> None:
    """However large."""
    with process.pool(1) as pool:
        assert pool.map(nap, [0.01], timeout=timeout) == [0.01]


@pytest.mark.parametrize("timeout", [1e-6, 1e-12, 5e-324])
def test_a_tiny_limit_fails_what_takes_any_time(process: Kind, timeout: float) -> None:
    """At the first look, a millisecond later."""
    with process.pool(1) as pool:
        (failure,) = pool.map(nap, [LONG], timeout=timeout, on_error="return")
        check_timeout(failure, 0, timeout=timeout)


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "starmap", "outcomes"])
@pytest.mark.parametrize(
    ("timeout", "error", "text"),
    [
        (0, ValueError, "timeout must be more than 0"),
        (-1.5, ValueError, "timeout must not be negative"),
        (float("nan"), ValueError, "timeout"),
        (True, TypeError, "timeout must be a number of seconds"),
        ("5", TypeError, "timeout must be a number of seconds"),
    ],
)
def test_a_bad_limit_is_named(process: Kind, method: str, timeout: Any, error: type[Exception], text: str) -> None:
    """At the call, before a worker starts or an item is read."""
    items = iter(range(3))
    with process.pool() as pool:
        with pytest.raises(error, match=text):
            getattr(pool, method)(abs, items, timeout=timeout)
        assert list(pool.workers) == []
        assert next(items) == 0


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "starmap", "outcomes"])
@pytest.mark.parametrize("kind", [INLINE, THREAD], ids=str)
def test_backends_that_can_end_nothing_refuse_a_limit(kind: Kind, method: str) -> None:
    """At the call, with the remedy."""
    with kind.pool() as pool:
        with pytest.raises(ValueError, match=rf"backend '{kind}' cannot .*use backend='process'"):
            getattr(pool, method)(abs, [1], timeout=5)
        assert list(pool.workers) == []
        assert pool.map(abs, [-1], timeout=None) == [1]
