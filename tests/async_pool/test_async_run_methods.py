"""The run methods for async code give what the sync ones give, on every backend and every event loop."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from inspect import Parameter, signature
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from poolinject import Depends, Failure, InjectedPool, ItemContext, Success, WorkerContext
from poolinject._async_pool import UNASKED
from poolinject._options import Options, OutcomeOptions
from poolinject.errors import CleanupError, ItemTimeoutError, PlanError, PoolClosedError, PoolInjectError
from tests.async_pool.conftest import Loop
from tests.conftest import Kind

PATIENCE = 15.0


def double(item: Any) -> Any:
    """Double anything."""
    return item * 2


def add(left: int, right: int = 10) -> int:
    """Add two numbers."""
    return left + right


def fail_negative(item: int) -> int:
    """Fail for negative items."""
    if item < 0:
        raise ValueError(item)
    return item


def who(worker: WorkerContext) -> int:
    """Tell the worker."""
    return worker.worker_id


def generate(items: Any) -> Iterator[Any]:
    """Give an input of unknown length."""
    yield from items


async def agenerate(items: Any) -> AsyncIterator[Any]:
    """Give an async input, now and then with a wait."""
    for number, item in enumerate(items):
        if number % 10 == 0:
            await anyio.lowlevel.checkpoint()
        yield item


async def take_all(results: AsyncIterator[Any], given: list[Any]) -> None:
    """Take what is given up to an error."""
    async for value in results:
        given.append(value)  # noqa: PERF401 - an extension would be lost with the error


each_form = pytest.mark.parametrize("form", [list, iter, generate, agenerate])


@each_form
@pytest.mark.parametrize("count", [0, 1, 100, 3000])
def test_results_are_those_of_the_sync_methods(
    backend: Kind, loop: Loop, form: Callable[[range], Any], count: int
) -> None:
    """In order or not, whatever the input is."""
    items, expected = range(count), [2 * item for item in range(count)]

    async def main() -> None:
        async with backend.pool() as pool:
            assert await pool.amap(double, form(items)) == expected
            assert [value async for value in pool.aimap(double, form(items))] == expected
            assert sorted([value async for value in pool.aimap_unordered(double, form(items), chunksize=7)]) == expected
            outcomes = [outcome async for outcome in pool.aoutcomes(double, form(items))]
            assert all(isinstance(outcome, Success) for outcome in outcomes)
            assert sorted(outcome.index for outcome in outcomes) == list(items)
            assert pool.report.items == pool.report.succeeded == count

    loop.run(main)


def test_tuples_single_calls_and_broadcasts(backend: Kind, loop: Loop) -> None:
    """``astarmap``, ``asubmit`` and ``abroadcast``."""

    async def main() -> None:
        async with backend.pool(2) as pool:
            assert await pool.astarmap(add, [(1, 2), (3,)]) == [3, 13]
            assert await pool.astarmap(add, agenerate([(1, 2), (3,)])) == [3, 13]
            assert await pool.asubmit(add, 5, 6) == 11
            outcomes = await pool.abroadcast(who)
            assert len(outcomes) == len(pool.workers)
            assert all(isinstance(each, Success) and each.value == number for number, each in outcomes.items())

    loop.run(main)


async def triple(item: int) -> int:
    """Triple a number, in async code."""
    await anyio.sleep(0.001)
    return item * 3


def test_coroutine_functions_run_beside_each_other(backend: Kind, loop: Loop) -> None:
    """In the workers, as for the sync methods."""

    async def main() -> None:
        async with backend.pool(2) as pool:
            expected = list(range(0, 600, 3))
            assert await pool.amap(triple, agenerate(range(200)), concurrency=50) == expected
            assert [value async for value in pool.aimap(triple, range(200))] == expected
            assert await pool.asubmit(triple, 5) == 15

    loop.run(main)


def test_a_list_as_long_as_the_limit_comes_to_its_end(loop: Loop) -> None:
    """The input is known to have ended, though there is no room to look for more."""

    async def main() -> None:
        async with Kind("thread").pool(2, max_in_flight=32) as pool:
            assert [value async for value in pool.aimap(double, list(range(32)))] == list(range(0, 64, 2))

    loop.run(main)


@each_form
def test_an_item_that_fails_raises_its_own_error(backend: Kind, loop: Loop, form: Callable[[Any], Any]) -> None:
    """Type kept, noted, the outcomes before it first; the pool stays usable."""
    items = [*range(50), -1, *range(50)]

    async def main() -> None:
        async with backend.pool(1) as pool:
            with pytest.raises(ValueError, match="-1") as raised:
                await pool.amap(fail_negative, form(items))
            assert any("item 50 (-1) failed in phase 'call'" in note for note in raised.value.__notes__)
            given = list[int]()
            with pytest.raises(ValueError, match="-1"):
                await take_all(pool.aimap(fail_negative, form(items)), given)
            assert given == list(range(50))
            with pytest.raises(ValueError, match="-1"):
                await pool.asubmit(fail_negative, -1)
            assert await pool.amap(fail_negative, form([1, 2])) == [1, 2]

    loop.run(main)


def test_failures_can_stand_in_the_place(backend: Kind, loop: Loop) -> None:
    """As themselves, or as what a function makes of them, on a thread, or an async one, on the loop."""
    threads = set[int]()

    def handle(failure: Failure) -> Any:
        threads.add(threading.get_ident())
        return failure.item * 100

    async def ahandle(failure: Failure) -> Any:
        await anyio.lowlevel.checkpoint()
        assert threading.get_ident() not in threads
        return failure.item * 1000

    async def main() -> None:
        async with backend.pool() as pool:
            first, second, third = await pool.amap(fail_negative, [1, -2, 3], on_error="return")
            assert (first, third) == (1, 3)
            assert isinstance(second, Failure)
            assert await pool.amap(fail_negative, [1, -2, 3, -4], on_error=handle) == [1, -200, 3, -400]
            assert threads
            assert threading.get_ident() not in threads
            assert await pool.amap(fail_negative, [1, -2, 3, -4], on_error=ahandle) == [1, -2000, 3, -4000]
            results = pool.aimap(fail_negative, [1, -2, 3, -4], on_error=ahandle, chunksize=4)
            assert [value async for value in results] == [1, -2000, 3, -4000]
            kinds = {type(outcome) async for outcome in pool.aoutcomes(fail_negative, [1, -2])}
            assert kinds == {Success, Failure}

    loop.run(main)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_of_the_handler_comes_after_the_outcomes_before_it(loop: Loop, is_async: bool) -> None:
    """And ends the run, as in sync code."""

    def handle(failure: Failure) -> Any:
        if failure.item == -2:
            raise KeyError(failure.item)
        return "handled"

    async def ahandle(failure: Failure) -> Any:
        return handle(failure)

    async def main() -> None:
        async with Kind("thread").pool() as pool:
            given = list[Any]()
            handler = ahandle if is_async else handle
            results = pool.aimap(fail_negative, [1, -1, 2, -2, 3], on_error=handler, chunksize=5)
            with pytest.raises(KeyError, match="-2"):
                await take_all(results, given)
            assert given == [1, "handled", 2]

    loop.run(main)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_of_the_input_comes_after_what_was_read(backend: Kind, loop: Loop, is_async: bool) -> None:
    """Which has run."""

    def source() -> Iterator[int]:
        yield from range(20)
        raise KeyError("input")

    async def asource() -> AsyncIterator[int]:
        for item in source():
            yield item

    async def main() -> None:
        async with backend.pool() as pool:
            with pytest.raises(KeyError, match="input"):
                await pool.amap(double, asource() if is_async else source())
            assert pool.report.succeeded == 20
            given = list[int]()
            with pytest.raises(KeyError, match="input"):
                await take_all(pool.aimap(double, asource() if is_async else source()), given)
            assert given == list(range(0, 40, 2))
            assert await pool.amap(double, [1]) == [2]

    loop.run(main)


def test_several_tasks_use_a_pool_at_once(backend: Kind, loop: Loop) -> None:
    """Each gets its own results."""
    found: dict[int, Any] = {}

    async def main() -> None:
        async def use(number: int) -> None:
            if number % 2:
                found[number] = await pool.amap(add, agenerate(range(number, number + 500)))
            else:
                found[number] = [value async for value in pool.aimap(add, range(number, number + 500))]

        async with backend.pool() as pool, anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(use, number)

    loop.run(main)
    assert found == {number: list(range(number + 10, number + 510)) for number in range(8)}


def test_items_never_run_on_the_thread_of_the_event_loop(loop: Loop) -> None:
    """Not with ``backend="inline"`` either, which has a thread of its own here."""

    async def main() -> None:
        async with InjectedPool(2, backend="inline") as pool:
            idents = set(await pool.amap(lambda _: threading.get_ident(), range(20)))
            assert len(idents) == len(pool.workers) == 1
            assert threading.get_ident() not in idents

    loop.run(main)


def test_inline_items_of_sync_code_stay_where_they_are(loop: Loop) -> None:
    """What the calling thread has opened cannot be used by another one."""

    async def main() -> None:
        pool = InjectedPool(backend="inline")
        assert pool.map(double, [1]) == [2]
        with pytest.raises(PoolInjectError, match="from the beginning"):
            await pool.amap(double, [1])
        assert (await pool.ashutdown()).clean

    loop.run(main)


def test_the_input_is_read_in_the_context_of_the_caller(loop: Loop) -> None:
    """Also where it is read by another task, or by a thread."""
    variable = contextvars.ContextVar("variable", default=0)

    def source() -> Iterator[int]:
        yield variable.get()

    async def asource() -> AsyncIterator[int]:
        yield variable.get()

    async def main() -> None:
        variable.set(21)
        async with Kind("thread").pool(1) as pool:
            assert await pool.amap(double, source()) == [42]
            assert await pool.amap(double, asource()) == [42]
            assert await pool.amap(lambda _: variable.get(), [0]) in ([0], [21])

    loop.run(main)


def get_wrong(request_id: int) -> int:
    """Depend on what a request would have filled."""
    return request_id


def use_wrong(item: int, wrong: Annotated[int, Depends(get_wrong)]) -> int:
    """Cannot be called."""
    return wrong


def test_wrong_calls_are_refused(loop: Loop) -> None:
    """With the errors of the sync methods."""

    async def main() -> None:
        pool: Any = Kind("thread").pool(1)
        async with pool:
            with pytest.raises(PlanError, match="request_id"):
                await pool.amap(use_wrong, [1])
            with pytest.raises(TypeError, match="items must be iterable"):
                await pool.amap(double, 5)
            with pytest.raises(TypeError, match=r"no option 'sorted': they take chunksize, .* concurrency$"):
                await pool.amap(double, [5], sorted=True)
            with pytest.raises(TypeError, match="on_error"):
                await anext(pool.aoutcomes(double, [5], on_error="raise"))
            with pytest.raises(ValueError, match="chunksize"):
                await anext(pool.aimap(double, [5], chunksize=0))
            with pytest.raises(ValueError, match="mode"):
                await pool.ashutdown("hard")
        with pytest.raises(PoolClosedError):
            await pool.amap(double, [1])
        with pytest.raises(PoolClosedError):
            async with pool:
                pass

    loop.run(main)


def test_only_one_task_at_a_time_asks_an_iterator(loop: Loop) -> None:
    """The second is told; the first gets its outcome."""
    gate = threading.Event()

    def wait(item: int) -> int:
        assert gate.wait(PATIENCE)
        return item

    async def main() -> None:
        async with Kind("thread").pool(1) as pool, anyio.create_task_group() as tasks:
            results = pool.aimap(wait, [7])
            found = []

            async def ask() -> None:
                found.append(await anext(results))

            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="another task"):
                await anext(results)
            gate.set()
        assert found == [7]

    loop.run(main)


def test_an_iterator_stays_on_its_event_loop(loop: Loop) -> None:
    """Another one is told at once; the first goes on."""

    async def main() -> None:
        async with Kind("thread").pool(1) as pool:
            results = pool.aimap(double, [1, 2])
            assert await anext(results) == 2

            async def ask() -> None:
                with pytest.raises(RuntimeError, match="another event loop"):
                    await anext(results)

            await anyio.to_thread.run_sync(anyio.run, ask)
            assert await anext(results) == 4

    loop.run(main)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_an_item_cannot_end_the_iterator(loop: Loop, kind: type[Exception]) -> None:
    """It becomes a ``RuntimeError`` that has it as its cause, as what generators and coroutines raise."""

    def stop(item: int) -> int:
        raise kind(item)

    async def stop_in_place(_: Failure) -> None:
        raise kind(7)

    async def main() -> None:
        async with Kind("thread").pool(1) as pool:
            with pytest.raises(RuntimeError, match=f"^an item raised {kind.__name__}$") as caught:
                [value async for value in pool.aimap(stop, [7])]
            assert repr(caught.value.__cause__) == repr(kind(7))
            if kind is StopIteration:  # else a coroutine may raise it
                for call in (pool.amap(stop, [7]), pool.asubmit(stop, 7)):
                    with pytest.raises(RuntimeError, match=r"^an item raised StopIteration$"):
                        await call
            else:
                with pytest.raises(RuntimeError, match=r"^on_error raised StopAsyncIteration$"):
                    await pool.amap(stop, [7], on_error=stop_in_place)

    loop.run(main)


def take_long(item: int) -> int:
    """Take longer than allowed."""
    threading.Event().wait(PATIENCE)
    return item


def fail_at_first(item: int, context: ItemContext) -> int:
    """Fail once."""
    if context.attempt == 1:
        raise ValueError(item)
    return item


def test_retries_and_time_limits_are_kept(loop: Loop) -> None:
    """The options are those of the sync methods."""

    async def main() -> None:
        async with Kind("process").pool(1) as pool:
            assert await pool.amap(fail_at_first, [1, 2, 3], retries=1) == [1, 2, 3]
            with pytest.raises(ItemTimeoutError):
                await pool.amap(take_long, [1], timeout=0.2)

    loop.run(main)


def get_failing_engine() -> Iterator[int]:
    """Fail at the end."""
    yield 1
    raise KeyError("at the end")


def use_failing_engine(item: int, engine: Annotated[int, Depends(get_failing_engine)]) -> int:
    """Use it."""
    return item


def test_errors_of_cleanups_leave_the_block(backend: Kind, loop: Loop) -> None:
    """As a ``CleanupError``, or as notes of the error that has ended it."""
    lifetimes: Any = {get_failing_engine: "pool"}

    async def leave(error: Exception | None) -> None:
        async with backend.pool(1, lifetimes=lifetimes) as pool:
            assert await pool.amap(use_failing_engine, [1]) == [1]
            if error is not None:
                raise error

    with pytest.raises(CleanupError) as raised:
        loop.run(leave, None)
    assert [type(error) for error in raised.value.exceptions] == [KeyError]
    with pytest.raises(ValueError, match="mine") as other:
        loop.run(leave, ValueError("mine"))
    assert any("at the end" in note for note in other.value.__notes__)


def get_no_engine() -> int:
    """Fail at once."""
    raise KeyError("no engine")


def test_what_cannot_be_warmed_fails_the_block(backend: Kind, loop: Loop) -> None:
    """Before its body."""

    async def main() -> None:
        pool = backend.pool(2, lifetimes={get_no_engine: "pool"}, warm=[get_no_engine])
        with pytest.raises(KeyError, match="no engine"):
            async with pool:
                raise AssertionError

    loop.run(main)


def test_the_options_are_those_of_the_sync_methods() -> None:
    """With the same defaults."""
    for method, options in ((InjectedPool.map, Options), (InjectedPool.outcomes, OutcomeOptions)):
        parameters = signature(method).parameters.values()
        keywords = {each.name: each.default for each in parameters if each.kind is Parameter.KEYWORD_ONLY}
        assert keywords.keys() == options.__optional_keys__
        assert keywords == {name: getattr(UNASKED, name) for name in keywords}
