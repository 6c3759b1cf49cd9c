"""What cannot work is refused with an error that names it, before anything starts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Request

from poolinject import Depends, Failure, InjectedPool, LifetimeError, PlanError, PoolInjectError, TransportError
from poolinject.backends.inline import InlineBackend
from tests.conftest import Kind

PATIENCE = 15.0


def echo(item: Any) -> Any:
    """Return the item."""
    return item


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"workers": 0}, ValueError, "workers must be at least 1"),
        ({"workers": -3}, ValueError, "workers must be at least 1"),
        ({"workers": 2.0}, TypeError, "workers must be an int"),
        ({"workers": "2"}, TypeError, "workers must be an int"),
        ({"workers": True}, TypeError, "workers must be an int"),
        ({"backend": "processes"}, ValueError, "'processes' is not one of 'process', 'thread', 'inline'"),
        ({"backend": None}, TypeError, "backend"),
        ({"backend": ["process"]}, TypeError, "backend"),
        ({"start_method": "forked"}, ValueError, "start_method 'forked' is not one of 'forkserver', 'spawn', 'fork'"),
        ({"start_method": "fork", "backend": "thread"}, ValueError, "start_method"),
        ({"start_method": "fork", "backend": InlineBackend()}, ValueError, "start_method"),
        ({"lifetimes": {echo: "forever"}}, ValueError, "'forever' is not one of"),
        ({"lifetimes": [echo]}, TypeError, "lifetimes must be a mapping"),
        ({"lifetimes": {"echo": "pool"}}, TypeError, "lifetimes"),
        ({"overrides": [(echo, echo)]}, TypeError, "overrides must be a mapping"),
        ({"overrides": {echo: 3}}, TypeError, "overrides: 3"),
        ({"overrides": {3: echo}}, TypeError, "overrides: 3"),
        ({"warm": [3]}, TypeError, "warm: 3"),
        ({"warm": echo}, TypeError, "warm"),
        ({"max_in_flight": 0}, ValueError, "max_in_flight must be at least 1"),
        ({"max_in_flight": 1.5}, TypeError, "max_in_flight must be an int"),
        ({"cleanup_timeout": -1}, ValueError, "cleanup_timeout must not be negative"),
        ({"cleanup_timeout": float("nan")}, ValueError, "cleanup_timeout"),
        ({"cleanup_timeout": "30"}, TypeError, "cleanup_timeout must be a number"),
        ({"cleanup_timeout": None}, TypeError, "cleanup_timeout must be a number"),
        ({"unknown": 1}, TypeError, "unknown"),
    ],
)
def test_a_bad_option_of_the_pool_is_named(options: dict[str, Any], error: type[Exception], text: str) -> None:
    """And nothing is started, nothing complains later."""
    with pytest.raises(error, match=text):
        InjectedPool(**options)


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "starmap", "outcomes"])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"chunksize": 0}, ValueError, "chunksize must be at least 1"),
        ({"chunksize": -1}, ValueError, "chunksize must be at least 1"),
        ({"chunksize": 1.5}, TypeError, "chunksize must be an int"),
        ({"chunksize": "8"}, TypeError, "chunksize must be an int"),
        ({"progress": 3}, TypeError, "progress must be"),
        ({"progress": ["x"]}, TypeError, "progress must be"),
        ({"progress": object()}, TypeError, "progress must be"),
        ({"surprise": 1}, TypeError, "surprise"),
    ],
)
def test_a_bad_option_of_a_run_is_named(
    process: Kind, method: str, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    """At the call, also of the lazy methods, before a worker starts or an item is read."""
    items = iter(range(3))
    with process.pool() as pool:
        with pytest.raises(error, match=text):
            getattr(pool, method)(echo, items, **options)
        assert list(pool.workers) == []
        assert next(items) == 0


async def handle_async(failure: Failure) -> int:
    """Nobody would await it."""
    return failure.index


def test_an_async_on_error_of_a_sync_method_is_refused(process: Kind) -> None:
    """Instead of coroutines that stand in the places of items."""
    with process.pool() as pool:
        for method in (pool.map, pool.imap, pool.imap_unordered):
            with pytest.raises(TypeError, match=r"handle_async.* is async, and only the async methods"):
                method(echo, [1], on_error=handle_async)
        assert list(pool.workers) == []


@pytest.mark.parametrize("on_error", ["ignore", None, 3, "RETURN"])
def test_a_bad_on_error_is_named(process: Kind, on_error: Any) -> None:
    """It takes two words or a callable."""
    with process.pool() as pool:
        with pytest.raises(ValueError, match="on_error must be 'raise', 'return' or a callable"):
            pool.map(echo, [1], on_error=on_error)
        assert list(pool.workers) == []


@pytest.mark.parametrize("func", [None, 3, "echo", [echo]])
@pytest.mark.parametrize(
    "method", ["map", "imap", "imap_unordered", "starmap", "outcomes", "submit", "broadcast", "explain"]
)
def test_what_cannot_be_called_is_no_function(process: Kind, method: str, func: Any) -> None:
    """``None`` least of all."""
    with process.pool() as pool:
        arguments = ([1],) if method not in ("submit", "broadcast", "explain") else ()
        with pytest.raises(TypeError, match="func must be callable"):
            getattr(pool, method)(func, *arguments)
        assert list(pool.workers) == []


@pytest.mark.parametrize("items", [None, 3, echo])
@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "starmap", "outcomes"])
def test_what_cannot_be_iterated_is_no_input(process: Kind, method: str, items: Any) -> None:
    """At the call."""
    with process.pool() as pool:
        with pytest.raises(TypeError, match="items must be iterable, not"):
            getattr(pool, method)(echo, items)
        assert list(pool.workers) == []


def test_an_iter_that_raises_raises_in_the_caller(backend: Kind) -> None:
    """With its own exception."""

    class Shy:
        def __iter__(self) -> Iterator[int]:
            raise LookupError("not today")

    with backend.pool() as pool, pytest.raises(LookupError, match="not today"):
        pool.imap(echo, Shy())


@pytest.mark.parametrize("item", [1, None, object()])
def test_starmap_takes_tuples(backend: Kind, item: Any) -> None:
    """Another item fails as the call would, the others go on."""
    with backend.pool() as pool:
        results = pool.starmap(max, [(1, 2), item, (3, 4)], on_error="return")
        assert (results[0], results[2]) == (2, 4)
        assert isinstance(results[1].error, (TypeError, TransportError))


@pytest.mark.parametrize(
    ("mode", "timeout"), [("now", None), (None, None), ("drain", -1), ("drain", "5"), ("drain", True)]
)
def test_a_bad_shutdown_leaves_the_pool_open(backend: Kind, mode: Any, timeout: Any) -> None:
    """The mode or the timeout is named."""
    with backend.pool() as pool:
        with pytest.raises((ValueError, TypeError), match=r"mode|timeout"):
            pool.shutdown(mode, timeout)
        assert pool.map(echo, [1]) == [1]


def get_request(request: Request) -> str:
    """Need what only a server has."""
    return request.url.path


def get_item_dependency(item: int) -> int:
    """Live as long as the item."""
    return item


def get_captive(item: Annotated[int, Depends(get_item_dependency, lifetime="item")]) -> int:
    """Live longer than what it needs."""
    return item


def needs_request(item: int, path: Annotated[str, Depends(get_request)]) -> None:
    """Cannot work."""


def needs_captive(item: int, captive: Annotated[int, Depends(get_captive)]) -> None:
    """Cannot work with ``get_captive`` in the pool."""


def needs_two(item: int, other: int) -> None:
    """Have a parameter that nothing fills."""


@pytest.mark.parametrize(
    ("func", "error", "text"),
    [
        (needs_request, PlanError, "needs_request.*get_request.*request"),
        (needs_captive, LifetimeError, "get_captive"),
        (needs_two, PlanError, "needs_two.*other"),
    ],
)
@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "outcomes"])
def test_a_plan_error_is_raised_before_any_worker_starts(
    process: Kind, method: str, func: Callable[..., Any], error: type[Exception], text: str
) -> None:
    """In the caller, naming the path; nothing is read."""
    items = iter(range(3))
    with process.pool(lifetimes={get_captive: "pool"}) as pool:
        with pytest.raises(error, match=text):
            getattr(pool, method)(func, items)
        with pytest.raises(error, match=text):
            pool.explain(func)
        assert list(pool.workers) == []
        assert next(items) == 0


def test_a_bad_plan_to_warm_is_raised_by_with(process: Kind) -> None:
    """Or by the first run, again and again; no worker starts."""
    pool = process.pool(warm=[get_request])
    with pytest.raises(PlanError, match="get_request"), pool:
        raise AssertionError
    for _ in range(2):
        with pytest.raises(PlanError, match="get_request"):
            pool.map(echo, [1])
    assert list(pool.workers) == []
    pool.shutdown()


@pytest.mark.parametrize("name", ["thread", "inline"])
def test_a_pool_refuses_to_be_used_inside_its_own_worker(name: str) -> None:
    """It would wait for itself."""
    with Kind(name).pool(1) as pool:
        calls: list[Callable[[Any], Any]] = [
            lambda _: pool.map(echo, [1]),
            lambda _: pool.imap(echo, [1]),
            lambda _: pool.submit(echo, 1),
            lambda _: pool.broadcast(lambda: 1),
            lambda _: pool.shutdown(),
        ]
        for call in calls:
            with pytest.raises(PoolInjectError, match="inside one of its own workers"):
                pool.map(call, [1])
        assert pool.map(echo, [1]) == [1]


def test_another_pool_may_be_used_inside_a_worker(backend: Kind) -> None:
    """Each waits for its own."""
    with backend.pool(1) as outer:

        def nested(item: int) -> list[int]:
            with Kind("inline").pool() as inner:
                return inner.map(echo, [item, item])

        assert outer.map(nested, [1, 2]) == [[1, 1], [2, 2]]


def test_a_pool_cannot_be_sent_to_a_worker(process: Kind) -> None:
    """Neither with the function nor as an item."""
    with process.pool(1) as pool:
        with pytest.raises(TransportError, match="pool"):
            pool.map(lambda item: pool.map(echo, [item]), [1])
        with pytest.raises(TransportError, match="pool"):
            pool.map(echo, [pool])
        assert pool.map(echo, [1]) == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_copy_of_the_caller_cannot_use_the_pool(parallel: Kind) -> None:
    """The workers belong to the process that started them."""
    with parallel.pool(1) as pool:
        pool.map(echo, [1])
        reading, writing = os.pipe()
        pid = _fork()
        if pid == 0:
            try:
                pool.map(echo, [1])
            except PoolInjectError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(pid, 0)
        assert b"belongs to another process" in os.read(reading, 4096)
        os.close(reading)
        assert pool.map(echo, [1]) == [1]


def _fork() -> int:
    import warnings  # noqa: PLC0415 - for this alone

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns about threads
        return os.fork()


def test_an_override_that_matches_nothing_is_warned_about_once(backend: Kind) -> None:
    """It is a mistake, but harms nobody."""
    with backend.pool(overrides={get_request: get_item_dependency}) as pool:
        with pytest.warns(UserWarning, match="override of get_request matches nothing"):
            pool.map(echo, [1])
        assert pool.map(echo, [1]) == [1]


def test_options_are_keyword_only(process: Kind) -> None:
    """``map(func, items, 8)`` says nothing about what 8 is."""
    with process.pool() as pool, pytest.raises(TypeError, match="positional"):
        pool.map(echo, [1], 8)  # type: ignore[call-overload]


def test_a_closed_pool_is_not_started_by_a_race(parallel: Kind) -> None:
    """Threads that come too late get the error, all others their results."""
    pool = parallel.pool(1)
    pool.map(echo, [1])
    outcomes: list[Any] = []

    def work() -> None:
        try:
            while True:
                outcomes.append(pool.map(echo, [1, 2]))
        except PoolInjectError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    pool.shutdown("drain")
    for thread in threads:
        thread.join(PATIENCE)
    assert sum(isinstance(outcome, PoolInjectError) for outcome in outcomes) == 3
    assert all(outcome == [1, 2] for outcome in outcomes if not isinstance(outcome, PoolInjectError))


def test_a_backend_serves_one_pool() -> None:
    """Also where that is over; one whose pool was refused is still free."""
    made = InlineBackend()
    with pytest.raises(ValueError, match="workers"):
        InjectedPool(-1, backend=made)
    with InjectedPool(backend=made, name="first") as pool:
        assert pool.map(abs, [-1]) == [1]
    with pytest.raises(
        ValueError, match="this InlineBackend belongs to pool 'first': make another one for pool 'next'"
    ):
        InjectedPool(backend=made, name="next")
