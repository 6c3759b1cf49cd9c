"""Scopes of what outlives an item: built once, closed in reverse, whatever fails on the way."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest

from poolinject import Depends, WorkerContext
from poolinject._injection.generators import Failed
from poolinject._injection.local_loop import LocalLoop
from poolinject._injection.plan import Plan
from poolinject._injection.planner import Planner
from poolinject._injection.registry import Registry
from poolinject._injection.runtime import Runtime
from poolinject._injection.scopes import SharedScope

THREADS, TIMEOUT = 8, 5.0
WORKER = WorkerContext(0, 0, "pool")
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def make_plan(function: Callable[..., Any]) -> Plan:
    """Plan a function without options."""
    return Planner(Registry(), {}, {}).plan(function, "map")


def run(runtime: Runtime, function: Callable[..., Any], item: object = 0) -> Any:
    """Run a function for one item, as a worker does."""
    result = contextvars.copy_context().run(runtime.bind(make_plan(function)), item, 0, 1)
    if isinstance(result, Failed):
        raise result.error
    return result


def test_pool_dependency_is_built_once_by_many_threads() -> None:
    """The threads come together; one builds, the others wait for it."""
    built, gate, results = list[int](), threading.Barrier(THREADS, timeout=TIMEOUT), list[object]()

    def get_engine() -> object:
        built.append(1)
        return object()

    def function(item: int, engine: Annotated[object, Depends(get_engine, lifetime="pool")]) -> object:
        return engine

    loop = LocalLoop()
    pool_scope = SharedScope("pool", loop.host(), WORKER)
    plan = make_plan(function)

    def work() -> None:
        runtime = Runtime(WORKER, LocalLoop(), pool_scope)
        bound = runtime.bind(plan)
        gate.wait()
        results.append(bound(0, 0, 1))
        assert runtime.close() == []

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert (len(built), len(results), len(set(results))) == (1, THREADS, 1)


def test_provider_that_fails_is_tried_again() -> None:
    """The item fails; the next one builds it; what it was made of is kept."""
    events: list[str] = []

    def get_settings() -> str:
        events.append("settings")
        return "s"

    def get_engine(settings: Annotated[str, Depends(get_settings)]) -> Iterator[str]:
        events.append("engine")
        if len(events) == 2:
            raise ConnectionError("not yet")
        yield settings
        events.append("closed")

    def function(item: int, engine: Annotated[str, Depends(get_engine, lifetime="worker")]) -> str:
        return engine

    runtime = Runtime(WORKER)
    with pytest.raises(ConnectionError):
        run(runtime, function)
    assert run(runtime, function) == "s"
    assert runtime.close() == []
    assert events == ["settings", "engine", "engine", "closed"]


def test_cleanups_run_in_reverse_and_all_of_them() -> None:
    """Worker before pool, newest first; errors are listed with their providers and stop nothing."""
    events: list[str] = []

    def make(name: str, *, fails: bool) -> Callable[..., Any]:
        def provider() -> Iterator[str]:
            yield name
            events.append(name)
            if fails:
                raise OSError(name)

        async def async_provider() -> AsyncIterator[str]:
            yield name
            events.append(name)
            if fails:
                raise OSError(name)

        made: Callable[..., Any] = async_provider if name.startswith("async") else provider
        made.__qualname__ = name
        return made

    def function(
        item: int,
        a: Annotated[str, Depends(make("pool 1", fails=True), lifetime="pool")],
        b: Annotated[str, Depends(make("async worker 1", fails=True), lifetime="worker")],
        c: Annotated[str, Depends(make("async pool 2", fails=False), lifetime="pool")],
        d: Annotated[str, Depends(make("worker 2", fails=False), lifetime="worker")],
    ) -> None:
        """Use all."""

    runtime = Runtime(WORKER)
    run(runtime, function)
    failures = runtime.close()
    assert events == ["worker 2", "async worker 1", "async pool 2", "pool 1"]
    assert [(failure.provider, str(failure.error)) for failure in failures] == [
        ("async worker 1", "async worker 1"),
        ("pool 1", "pool 1"),
    ]
    assert runtime.close() == []


def test_cleanup_that_yields_again_is_reported() -> None:
    """A generator with two yields is closed and named."""
    events: list[str] = []

    def get_twice() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            events.append("closed")

    def function(item: int, twice: Annotated[int, Depends(get_twice, lifetime="worker")]) -> None:
        """Use it."""

    runtime = Runtime(WORKER)
    run(runtime, function)
    (failure,) = runtime.close()
    assert str(failure.error) == "get_twice didn't stop: it yielded more than once"
    assert events == ["closed"]


def test_error_of_an_item_does_not_reach_what_outlives_it() -> None:
    """Only the item's own generators see its error."""
    events: list[str] = []

    def get_engine() -> Iterator[int]:
        try:
            yield 1
        except BaseException:
            events.append("saw an error")
            raise
        events.append("closed")

    def function(item: int, engine: Annotated[int, Depends(get_engine, lifetime="worker")]) -> None:
        raise ValueError("item")

    runtime = Runtime(WORKER)
    with pytest.raises(ValueError, match="item"):
        run(runtime, function)
    runtime.close()
    assert events == ["closed"]


def test_context_of_a_shared_dependency_is_its_own() -> None:
    """What it sets no item sees; its cleanup finds it again, and may reset it with its token."""
    seen: list[str] = []

    def get_engine() -> Iterator[int]:
        token = variable.set("engine")
        yield 1
        seen.append(variable.get())
        variable.reset(token)

    def function(item: int, engine: Annotated[int, Depends(get_engine, lifetime="worker")]) -> str:
        return variable.get()

    runtime = Runtime(WORKER)
    assert [run(runtime, function), run(runtime, function)] == ["unset", "unset"]
    assert runtime.close() == []
    assert seen == ["engine"]


def test_shared_dependencies_get_their_parameters() -> None:
    """The worker's context by type, other shared ones, fresh defaults."""

    def get_settings(tags: list[str] = []) -> list[str]:  # noqa: B006 - the case
        tags.append("x")
        return tags

    def get_engine(
        settings: Annotated[list[str], Depends(get_settings, lifetime="pool")], worker: WorkerContext, /, size: int = 3
    ) -> object:
        return settings, worker, size

    def function(item: int, engine: Annotated[object, Depends(get_engine, lifetime="worker")]) -> object:
        return engine

    assert run(Runtime(WORKER), function) == (["x"], WORKER, 3)
    assert run(Runtime(WORKER), function) == (["x"], WORKER, 3)


def test_async_shared_dependency_is_left_in_the_task_in_which_it_was_entered() -> None:
    """A task group may live as long as the worker."""

    async def get_group() -> AsyncIterator[asyncio.TaskGroup]:
        async with asyncio.TaskGroup() as group:
            yield group

    def function(item: int, group: Annotated[object, Depends(get_group, lifetime="worker")]) -> int:
        return id(group)

    runtime = Runtime(WORKER)
    assert run(runtime, function) == run(runtime, function)
    assert runtime.close() == []


def test_warm_builds_in_the_order_of_the_plan() -> None:
    """What is warm is there before the first item."""
    events: list[str] = []

    def get_settings() -> None:
        events.append("settings")

    def get_engine(settings: Annotated[None, Depends(get_settings)]) -> None:
        events.append("engine")

    plan = Planner(Registry(), {get_engine: "pool"}, {}).plan_get(get_engine)
    runtime = Runtime(WORKER)
    runtime.warm(plan)
    runtime.warm(plan)
    assert events == ["settings", "engine"]
