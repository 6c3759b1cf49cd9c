"""``app=``: providers that take a ``Request`` for the application's sake, its overrides and its lifespan."""

import asyncio
import os
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, Request, Response, WebSocket

from poolinject import Failure, InjectedPool, PlanError, PoolInjectError, Resolver, Success
from tests.conftest import Kind
from tests.injection import web_app
from tests.injection.web_app import NAME

MODULE = web_app.__name__
ITEMS = [1, 2, 3, 4]


@pytest.fixture(autouse=True)
def _tidy(monkeypatch: pytest.MonkeyPatch, ledger: ModuleType) -> None:
    """Leave the application as it was imported."""
    monkeypatch.setattr(web_app.app, "dependency_overrides", {})


def price_with_tax() -> int:
    """Stand in for ``get_tax``."""
    return 100


def price_with_more_tax() -> int:
    """Stand in for ``get_tax``, too."""
    return 200


def expected(item: int, tax: int = 0) -> list[Any]:
    """Give what ``web_app.price`` gives."""
    return [item * 3 + tax, "client of the lifespan", item, True, 3]


async def serve(path: str, items: list[int]) -> list[Any]:
    """Ask a route for each item, with the state of the lifespan in each scope, as a server does it."""
    app = web_app.app
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(with_state), base_url="http://oracle") as client:
            return [(await client.get(path, params={"item": item})).json() for item in items]


def test_providers_reach_the_application(every_backend: Kind) -> None:
    """``request.app.state`` and the state that the lifespan yielded are there, in providers and in the function."""
    with every_backend.pool(app=NAME) as pool:
        assert pool.map(web_app.price, ITEMS) == [expected(item) for item in ITEMS]


def test_pool_gives_what_a_route_gives(backend: Kind) -> None:
    """FastAPI serves the same function to a client and comes to the same results, overrides included."""
    web_app.app.dependency_overrides[web_app.get_tax] = price_with_tax
    served = asyncio.run(serve("/price", ITEMS))
    with backend.pool(app=NAME) as pool:
        assert pool.map(web_app.price, ITEMS) == served


def test_lifespan_runs_once_in_each_process(backend: Kind, ledger: ModuleType) -> None:
    """It is entered once before the first item, and left at shutdown, in each process that needed it."""
    with backend.pool(app=NAME) as pool:
        for _ in range(3):
            pool.map(web_app.price, range(20), chunksize=1)
        pids = {outcome.value for outcome in pool.broadcast(os.getpid).values() if isinstance(outcome, Success)}
        assert not ledger.count("lifespan-")
    entries = ledger.read()
    for sign in "+-":
        entered = [entry.pid for entry in entries if entry.text == f"lifespan{sign}"]
        assert len(entered) == len(set(entered))
        assert entered
        assert set(entered) <= pids
    ledger.check_balanced()


def test_lifespan_outlives_what_took_its_request(backend: Kind, ledger: ModuleType) -> None:
    """A dependency of lifetime ``pool`` that takes ``Request`` comes after the start-up, goes before the shutdown."""
    with backend.pool(1, app=NAME, warm=[web_app.get_prices], lifetimes={web_app.get_prices: "pool"}) as pool:
        assert ledger.texts() == ["lifespan+", "prices+"]
        assert pool.map(web_app.price_of_list, ITEMS) == [3, 6, 9, 12]
    assert ledger.texts() == ["lifespan+", "prices+", "prices-", "lifespan-"]


def test_lifespan_stays_closed_where_nothing_takes_a_request(backend: Kind, ledger: ModuleType) -> None:
    """A function that needs nothing of the application but its overrides starts nothing."""
    with backend.pool(app=NAME) as pool:
        assert pool.map(web_app.taxed, ITEMS) == ITEMS
    assert ledger.texts() == []


def test_overrides_of_the_application_are_read_anew_for_each_run(backend: Kind) -> None:
    """They count like ``overrides=``, also in a new dict, and those that the pool does not use call for no warning."""
    with backend.pool(app=NAME) as pool:
        results = [pool.map(web_app.taxed, [1])]
        web_app.app.dependency_overrides[web_app.get_tax] = price_with_tax
        web_app.app.dependency_overrides[web_app.read_header] = lambda: "unused here"
        results.append(pool.map(web_app.taxed, [1]))
        web_app.app.dependency_overrides = {web_app.get_tax: price_with_more_tax}
        results.append(pool.map(web_app.taxed, [1]))
        web_app.app.dependency_overrides.clear()
        results.append(pool.map(web_app.taxed, [1]))
    assert results == [[1], [101], [201], [1]]


def test_overrides_of_the_pool_win(backend: Kind) -> None:
    """``overrides=`` says otherwise than the application, as long as it says anything."""
    web_app.app.dependency_overrides[web_app.get_tax] = price_with_tax
    overrides = {web_app.get_tax: price_with_more_tax}
    with backend.pool(app=NAME, overrides=overrides) as pool:
        assert pool.map(web_app.taxed, [1]) == [201]
        overrides.clear()
        assert pool.map(web_app.taxed, [1]) == [101]


def test_request_is_one_for_an_item(backend: Kind) -> None:
    """What an item writes into ``request.state`` is gone with it, as it is with a request."""
    with backend.pool(1, app=NAME) as pool:
        assert pool.map(web_app.signer, ITEMS) == [False] * len(ITEMS)


@pytest.mark.parametrize("function", [web_app.name_of_app, web_app.price_of_list], ids=["item", "pool"])
def test_failing_start_up_fails_the_item(backend: Kind, function: Any) -> None:
    """The item fails in its setup, by the lifespan, whatever needed the request; the pool goes on."""
    with backend.pool(1, app=f"{MODULE}:refusing_app") as pool:
        (failure,) = pool.outcomes(function, [1])
        assert isinstance(failure, Failure)
        assert (failure.phase, failure.provider) == ("setup", f"lifespan of {MODULE}:refusing_app")
        assert isinstance(failure.error, ConnectionError)
        assert pool.map(web_app.taxed, [1]) == [1]


def test_failing_start_up_fails_a_warm_pool_at_once(backend: Kind) -> None:
    """``warm=`` enters the lifespan, and raises what it raises."""
    pool = backend.pool(
        1, app=f"{MODULE}:refusing_app", warm=[web_app.get_prices], lifetimes={web_app.get_prices: "pool"}
    )
    with pytest.raises(ConnectionError, match="no database"), pool:
        pass


def test_failing_shutdown_is_reported(backend: Kind) -> None:
    """What the lifespan raises at its end stands in the report, with its name."""
    pool = backend.pool(1, app=f"{MODULE}:untidy_app")
    pool.map(web_app.name_of_app, [1])
    ((name, error),) = pool.shutdown().workers[0].errors
    assert name == f"lifespan of {MODULE}:untidy_app"
    assert isinstance(error, ConnectionError)


def test_starlette_application_will_do(backend: Kind) -> None:
    """An application without lifespan and without overrides has nothing to add."""
    with backend.pool(1, app=f"{MODULE}:plain_app") as pool:
        assert pool.map(web_app.name_of_app, [1]) == ["no title"]


def test_what_only_a_client_sends_is_refused(backend: Kind) -> None:
    """A provider that reads a header fails its item, with an error that names what it read."""
    with backend.pool(1, app=NAME) as pool:
        (failure,) = pool.outcomes(web_app.greet, [1])
    assert isinstance(failure, Failure)
    assert (failure.phase, failure.provider) == ("setup", "read_header")
    with pytest.raises(PoolInjectError, match=r"^request\.headers: there is no web request in a pool"):
        raise failure.error


def give_request(request: Request) -> Request:
    """Give the request itself."""
    return request


@pytest.mark.parametrize(
    "name", ["url", "headers", "query_params", "path_params", "cookies", "client", "method", "user", "session", "json"]
)
def test_request_has_nothing_of_a_client(name: str) -> None:
    """Neither an attribute nor an entry of the scope is made up; what it has none of stays an ``AttributeError``."""
    with Resolver(app=NAME) as resolver, resolver.scope() as scope:
        request = scope.get(give_request)
        with pytest.raises(PoolInjectError, match=rf"request\.{name}: there is no web request"):
            getattr(request, name)
        with pytest.raises(PoolInjectError, match=rf"request\.scope\['{name}'\]: there is no web request"):
            request[name]
        assert not hasattr(request, "no_such_name")
        assert request["app"] is request.app is web_app.app


def needs_socket(item: int, socket: WebSocket) -> None:
    """Need more than an application."""


def needs_response(item: int, response: Response) -> None:
    """Need more than an application."""


def needs_tasks(item: int, tasks: BackgroundTasks) -> None:
    """Need more than an application."""


@pytest.mark.parametrize("function", [needs_socket, needs_response, needs_tasks])
def test_rest_of_a_web_request_stays_a_plan_error(function: Any) -> None:
    """An application does not make a client, a response or what comes after it."""
    with InjectedPool(1, app=NAME) as pool, pytest.raises(PlanError, match="outside a web request") as caught:
        pool.explain(function)
    assert "app=" not in caught.value.remedy


def test_request_without_application_is_a_plan_error_that_tells_of_it() -> None:
    """The remedy names both ways out."""
    with InjectedPool(1) as pool, pytest.raises(PlanError, match="no Request outside a web request") as caught:
        pool.explain(web_app.name_of_app)
    assert 'app="module:app"' in caught.value.remedy


def test_plan_shows_the_lifespan() -> None:
    """``explain`` draws the request where it is used, and what it hangs on."""
    with InjectedPool(1, app=NAME) as pool:
        assert str(pool.explain(web_app.name_of_app)).splitlines() == [
            "name_of_app(item)",
            "└── request: Request [item]",
            f"    └── lifespan: lifespan of {NAME} [pool]",
        ]


@pytest.mark.parametrize(
    ("app", "error", "text"),
    [
        ("web_app", ValueError, "'web_app' must be 'package.module:attribute'"),
        (":app", ValueError, "':app' must be"),
        ("tests.pool.no_such:app", ValueError, "importing tests.pool.no_such raised ModuleNotFoundError.*PYTHONPATH"),
        (f"{MODULE}:ap", ValueError, f"module {MODULE} has no attribute 'ap'"),
        (f"{MODULE}:lifespan", TypeError, "is a function, not a FastAPI or Starlette application"),
        (web_app.app, TypeError, "app must be a name"),
        ("__main__:app", ValueError, "__main__"),
    ],
)
@pytest.mark.parametrize("kind", [InjectedPool, Resolver])
def test_wrong_application_is_refused_at_once(app: Any, error: type[Exception], text: str, kind: Any) -> None:
    """The pool is not made; the error names what was given and what to do."""
    with pytest.raises(error, match=text):
        kind(app=app)


def test_main_module_is_not_that_of_worker_processes(backend: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application in ``__main__`` is found by threads only."""
    monkeypatch.setattr("__main__.app", web_app.app, raising=False)
    if backend.has_processes:
        with pytest.raises(ValueError, match="Put the application into a module"):
            backend.pool(app="__main__:app")
    else:
        with backend.pool(app="__main__:app") as pool:
            assert pool.map(web_app.name_of_app, [1]) == ["FastAPI"]


def test_lifespan_cannot_start_itself_through_a_pool(backend: Kind) -> None:
    """A lifespan that uses a pool with its own application would start workers without end: it fails instead."""
    with backend.pool(1, app=f"{MODULE}:recursive_app") as pool, pytest.raises(PlanError, match="without end"):
        pool.map(web_app.name_of_app, [1])


def test_resolver_enters_the_lifespan_in_process(ledger: ModuleType) -> None:
    """``Resolver(app=)`` does what a worker does: once, and left with it."""
    with Resolver(app=NAME) as resolver:
        assert [resolver.call(web_app.price, item) for item in ITEMS] == [expected(item) for item in ITEMS]
        web_app.app.dependency_overrides[web_app.get_tax] = price_with_tax
        assert resolver.call(web_app.price, 1) == expected(1, tax=100)
    assert ledger.texts() == ["lifespan+", "lifespan-"]


def test_async_resolver_enters_the_lifespan_in_its_owner_task(ledger: ModuleType) -> None:
    """``async with Resolver(app=)`` does the same on the caller's own loop."""

    async def main() -> list[Any]:
        async with Resolver(app=NAME) as resolver:
            return [await resolver.acall(web_app.price, item) for item in ITEMS]

    assert asyncio.run(main()) == [expected(item) for item in ITEMS]
    assert ledger.texts() == ["lifespan+", "lifespan-"]
