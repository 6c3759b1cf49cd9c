"""``Resolver`` in async code, on asyncio and trio."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest

from poolinject import CleanupError, Depends, PoolClosedError, Resolver

pytestmark = pytest.mark.anyio
events: list[str] = []


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Each event loop."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _forget_events() -> None:
    """Begin each test with an empty list."""
    events.clear()


async def get_engine() -> AsyncIterator[str]:
    """Provide what lives as long as the resolver, entered and left in one task."""
    async with anyio.create_task_group():
        events.append("engine+")
        await anyio.lowlevel.checkpoint()
        yield "engine"
        events.append("engine-")


async def get_session(engine: Annotated[str, Depends(get_engine, lifetime="worker")]) -> AsyncIterator[str]:
    """Provide what lives as long as an item."""
    events.append("session+")
    try:
        yield f"session on {engine}"
    except BaseException as error:
        events.append(f"session!{type(error).__name__}")
        raise
    await anyio.lowlevel.checkpoint()
    events.append("session-")


def get_sync(session: Annotated[str, Depends(get_session)]) -> Iterator[str]:
    """Provide something sync above something async."""
    yield f"sync over {session}"
    events.append("sync-")


async def load(item: str, sync: Annotated[str, Depends(get_sync)]) -> str:
    """Use everything, and wait."""
    await anyio.lowlevel.checkpoint()
    return f"{item} from {sync}"


def load_sync(item: str, sync: Annotated[str, Depends(get_sync)]) -> str:
    """Use everything, without waiting."""
    return f"{item} from {sync}"


async def refuse(item: str, session: Annotated[str, Depends(get_session)]) -> None:
    """Fail."""
    raise LookupError(item)


@pytest.mark.parametrize("function", [load, load_sync])
async def test_acall_fills_and_closes(function: Any) -> None:
    """Coroutine functions and plain ones; the engine is closed at the end."""
    async with Resolver() as resolver:
        assert await resolver.acall(function, "a") == "a from sync over session on engine"
        await resolver.acall(function, "b")
    assert events == ["engine+", "session+", "sync-", "session-", "session+", "sync-", "session-", "engine-"]


async def test_acall_raises_the_error_of_the_function() -> None:
    """The session has seen it, the engine lives on."""
    async with Resolver() as resolver:
        with pytest.raises(LookupError, match="a"):
            await resolver.acall(refuse, "a")
        assert events == ["engine+", "session+", "session!LookupError"]
        assert (await resolver.acall(load, "b")).startswith("b from")


async def test_ascope_gives_the_same_dependency_each_time() -> None:
    """Everything got from one scope is closed with it, the newest first."""
    async with Resolver() as resolver:
        async with resolver.ascope("a") as scope:
            assert await scope.get(get_sync) == "sync over session on engine"
            assert await scope.get(get_session) == "session on engine"
            async with resolver.ascope("b") as inner:
                await inner.get(get_session)
            assert events == ["engine+", "session+", "session+", "session-"]
        with pytest.raises(RuntimeError, match="item scope is closed"):
            await scope.get(get_session)
    assert events[4:] == ["sync-", "session-", "engine-"]


async def test_ascope_that_is_left_by_an_error_closes_with_it() -> None:
    """The generators see it, then it goes on as it was."""
    error = KeyError("inside")
    async with Resolver() as resolver:
        with pytest.raises(KeyError) as raised:  # noqa: PT012 - the block is the case
            async with resolver.ascope() as scope:
                await scope.get(get_session)
                raise error
        assert raised.value is error
    assert events == ["engine+", "session+", "session!KeyError", "engine-"]


async def test_shared_dependency_is_built_once_by_many_tasks() -> None:
    """Tasks of one loop ask at the same time; one engine is built, and left where it was entered."""
    results: list[str] = []
    async with Resolver() as resolver:

        async def call(item: str) -> None:
            results.append(await resolver.acall(load, item))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for number in range(10):
                    group.start_soon(call, str(number))
    assert len(results) == 10
    assert (events.count("engine+"), events.count("engine-"), events[-1]) == (1, 1, "engine-")


async def test_cancelled_item_closes_its_scope() -> None:
    """The session sees the cancellation; the resolver stays usable."""

    async def wait(item: str, session: Annotated[str, Depends(get_session)]) -> None:
        await anyio.sleep(60)

    async with Resolver() as resolver:
        with anyio.move_on_after(0.05) as scope:
            await resolver.acall(wait, "a")
        assert scope.cancelled_caught
        assert events[2].startswith("session!Cancel")
        assert await resolver.acall(load, "b")


async def test_what_is_for_sync_code_is_refused_inside_async_with() -> None:
    """Nobody would close what it makes; nothing is made."""
    async with Resolver() as resolver:
        with pytest.raises(RuntimeError, match="use acall and ascope"):
            resolver.call(load_sync, "a")
        with pytest.raises(RuntimeError, match="use acall and ascope"), resolver.scope():
            pass
        assert await resolver.acall(load_sync, "a")
    assert events == ["engine+", "session+", "sync-", "session-", "engine-"]


async def test_close_runs_every_cleanup_in_a_task_that_is_being_cancelled() -> None:
    """Cleanups that wait are shielded."""
    with anyio.CancelScope() as scope:
        async with Resolver() as resolver:
            await resolver.acall(load, "a")
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert events[-1] == "engine-"


async def test_cleanups_at_the_end_leave_together() -> None:
    """Sync and async ones; each is noted with its provider."""

    async def get_bad() -> AsyncIterator[int]:
        yield 1
        await anyio.lowlevel.checkpoint()
        raise OSError("bad")

    def get_worse(bad: Annotated[int, Depends(get_bad)]) -> Iterator[int]:
        yield bad
        raise ValueError("worse")

    def function(item: str, worse: Annotated[int, Depends(get_worse, lifetime="pool")]) -> int:
        return worse

    with pytest.raises(CleanupError) as raised:
        async with Resolver() as resolver:
            await resolver.acall(function, "a")
    assert [str(error) for error in raised.value.exceptions] == ["worse", "bad"]
    assert raised.value.exceptions[0].__notes__ == ["in the cleanup of get_worse"]


async def test_provider_that_fails_is_tried_again() -> None:
    """The owner task survives."""
    attempts: list[int] = []

    async def get_flaky() -> int:
        attempts.append(1)
        await anyio.lowlevel.checkpoint()
        if len(attempts) == 1:
            raise ConnectionError
        return 7

    def function(item: str, flaky: Annotated[int, Depends(get_flaky, lifetime="pool")]) -> int:
        return flaky

    async with Resolver() as resolver:
        with pytest.raises(ConnectionError):
            await resolver.acall(function, "a")
        assert [await resolver.acall(function, "b"), await resolver.acall(function, "c")] == [7, 7]
    assert len(attempts) == 2


async def test_overrides_are_read_anew() -> None:
    """As in sync code."""
    overrides: dict[Any, Any] = {}
    async with Resolver(overrides=overrides) as resolver:
        assert await resolver.acall(load, "a") == "a from sync over session on engine"
        overrides[get_sync] = lambda: "override"
        assert await resolver.acall(load, "a") == "a from override"


async def test_async_methods_need_async_with() -> None:
    """Otherwise nobody would close; and a closed one is closed."""
    resolver = Resolver()
    with pytest.raises(RuntimeError, match="async with"):
        await resolver.acall(load, "a")
    async with resolver:
        pass
    with pytest.raises(PoolClosedError):
        await resolver.acall(load, "a")
    with pytest.raises(PoolClosedError):
        await resolver.__aenter__()
    with pytest.raises(PoolClosedError):
        async with resolver.ascope():
            pass


async def fail_behind() -> None:
    """Fail while nobody looks."""
    await anyio.sleep(0.01)
    raise ValueError("behind")


async def get_held(engine: Annotated[str, Depends(get_engine, lifetime="pool")]) -> AsyncIterator[str]:
    """Hold a task that fails later."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail_behind)
        yield f"held over {engine}"


async def use_held(_item: str, held: Annotated[str, Depends(get_held, lifetime="pool")]) -> str:
    """Use it."""
    return held


async def test_a_task_of_a_shared_dependency_that_fails_ends_what_is_shared_and_the_next_use_builds_anew() -> None:
    """Each in the task in which it was entered; what failed is told at the end."""
    resolver = await Resolver().__aenter__()
    assert await resolver.acall(use_held, "item") == "held over engine"
    with anyio.fail_after(5):
        while "engine-" not in events:  # noqa: ASYNC110 - there is no event for it
            await anyio.sleep(0.001)
    assert await resolver.acall(use_held, "item") == "held over engine"
    with pytest.raises(CleanupError) as caught:
        await resolver.__aexit__(None, None, None)
    assert events == ["engine+", "engine-", "engine+", "engine-"]
    groups: Any = caught.value.exceptions
    assert [str(group.exceptions[0]) for group in groups] == ["behind", "behind"]


async def get_impossible(engine: Annotated[str, Depends(get_engine, lifetime="pool")]) -> AsyncIterator[str]:
    """Wait for a task that was cancelled."""
    task = asyncio.create_task(asyncio.sleep(10))
    task.cancel()
    await task
    yield engine


async def use_impossible(_item: str, impossible: Annotated[str, Depends(get_impossible, lifetime="pool")]) -> str:
    """Never begin."""
    return impossible


def test_a_cancellation_inside_a_shared_provider_is_its_own() -> None:
    """The item fails with it; the resolver and the task that asked go on."""

    async def main() -> None:
        async with Resolver() as resolver:
            for _ in range(2):
                with pytest.raises(asyncio.CancelledError):
                    await resolver.acall(use_impossible, "item")
            await asyncio.sleep(0.001)
            assert (await resolver.acall(load, "item")).startswith("item from sync")

    asyncio.run(main())
    assert events == ["engine+", "engine+", "session+", "sync-", "session-", "engine-", "engine-"]


def test_cleanups_run_though_asyncio_cancels_every_task_at_its_end() -> None:
    """As they would in the task that holds the resolver."""
    tasks = []

    async def serve(ready: asyncio.Event) -> None:
        async with Resolver() as resolver:
            await resolver.acall(load, "item")
            ready.set()
            await asyncio.Event().wait()

    async def main() -> None:
        ready = asyncio.Event()
        tasks.append(asyncio.create_task(serve(ready)))
        await ready.wait()

    asyncio.run(main())
    assert tasks[0].cancelled()
    assert events[-1] == "engine-"
