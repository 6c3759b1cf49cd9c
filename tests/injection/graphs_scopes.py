"""Graphs with ``Depends(scope=...)``. Importable where FastAPI knows the argument (0.121 and later)."""
# ruff: noqa: D103 - a function's name says what it shows

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends

from tests.injection import providers as p
from tests.injection.ledger import Boom, Graph, OtherBoom, boom, called, log, traced

SINCE = (0, 121, 0)

A = Annotated[str, Depends(p.gen_a)]
FunctionA = Annotated[str, Depends(p.gen_a, scope="function")]
RequestA = Annotated[str, Depends(p.gen_a, scope="request")]
FunctionB = Annotated[str, Depends(p.gen_b, scope="function")]
FunctionX = Annotated[str, Depends(p.async_gen_x, scope="function")]
Y = Annotated[str, Depends(p.async_gen_y)]


def function_closes_first(item: str, b: FunctionB, a: A) -> list[Any]:
    return called(item, b, a)


def function_closes_first_async(item: str, x: FunctionX, b: FunctionB, y: Y, a: A) -> list[Any]:
    return called(item, x, b, y, a)


def error_passes_both(item: str, b: FunctionB, a: A) -> list[Any]:
    called()
    boom(Boom(item))


def function_cleanup_fails(
    item: str,
    f: Annotated[str, Depends(p.gen_failing_after_yield, scope="function")],
    b: FunctionB,
    a: A,
) -> list[Any]:
    return called(item)


def function_replaces(
    item: str, f: Annotated[str, Depends(p.gen_replacing, scope="function")], b: FunctionB, a: A
) -> list[Any]:
    boom(Boom(item))


def request_cleanup_fails(
    item: str, f: FunctionB, e: Annotated[str, Depends(p.gen_failing_after_yield)], a: A
) -> list[Any]:
    return called(item)


def scope_is_in_the_key(item: str, a: A, b: RequestA, c: FunctionA, d: FunctionA) -> list[Any]:
    return called(item, a, b, c, d)


def plain_scope_is_in_the_key(
    item: str,
    a: Annotated[object, Depends(p.fresh)],
    b: Annotated[object, Depends(p.fresh, scope="function")],
    c: Annotated[object, Depends(p.fresh, scope="request")],
    d: Annotated[object, Depends(p.fresh)],
    e: Annotated[object, Depends(p.fresh, scope="request")],
) -> list[Any]:
    return called(item, a is b, b is c, a is c, a is d, c is e)


def gen_on_request(a: A) -> Iterator[str]:
    with traced("on"):
        yield f"on {a}"


def function_on_request(item: str, on: Annotated[str, Depends(gen_on_request, scope="function")]) -> list[Any]:
    return called(item, on)


def plain_on_function(b: FunctionB) -> str:
    log("plain")
    return f"plain {b}"


def plain_above_function(item: str, a: A, f: Annotated[str, Depends(plain_on_function)]) -> list[Any]:
    return called(item, a, f)


def setup_fails_in_both(item: str, b: FunctionB, a: A, f: Annotated[str, Depends(p.failing)]) -> list[Any]:
    return called(item)


def uncached_function(
    item: str, a: FunctionA, b: Annotated[str, Depends(p.gen_a, scope="function", use_cache=False)]
) -> list[Any]:
    return called(item, a, b)


def every_cleanup_in_both(
    item: str,
    o: Annotated[str, Depends(p.gen_other_failing_after_yield)],
    a: A,
    f: Annotated[str, Depends(p.gen_failing_after_yield, scope="function")],
    b: FunctionB,
) -> list[Any]:
    called()
    boom(OtherBoom(item))


GRAPHS = (
    Graph("function closes before request", function_closes_first, "b+ a+ call b- a-", since=SINCE),
    Graph(
        "function closes before request, async",
        function_closes_first_async,
        "x+ b+ y+ a+ call b- x- a- y-",
        since=SINCE,
    ),
    Graph("error passes function, then request", error_passes_both, "b+ a+ call b!Boom a!Boom", since=SINCE),
    Graph(
        "function cleanup fails",
        function_cleanup_fails,
        "after+ b+ a+ call b- after- a!Boom",
        since=SINCE,
        phase="cleanup",
    ),
    Graph(
        "function replaces for request",
        function_replaces,
        "replacing+ b+ a+ b!Boom replacing:True a!OtherBoom",
        since=SINCE,
    ),
    Graph(
        "request cleanup fails after function",
        request_cleanup_fails,
        "b+ after+ a+ call b- a- after-",
        since=SINCE,
        phase="cleanup",
    ),
    Graph("scope is in the key", scope_is_in_the_key, "a+ a+ call a- a-", since=SINCE),
    Graph("scope is in the key of plain callables", plain_scope_is_in_the_key, "fresh fresh fresh call", since=SINCE),
    Graph("function on request", function_on_request, "a+ on+ call on- a-", since=SINCE),
    Graph("plain above function", plain_above_function, "a+ b+ plain call b- a-", since=SINCE),
    Graph("set-up fails with both open", setup_fails_in_both, "b+ a+ failing b!Boom a!Boom", since=SINCE),
    Graph("uncached function", uncached_function, "a+ a+ call a- a-", since=SINCE),
    Graph(
        "every cleanup runs in both",
        every_cleanup_in_both,
        "other+ a+ after+ b+ call b!OtherBoom a!OtherBoom other!OtherBoom",
        since=SINCE,
    ),
    Graph(
        "replacement keeps the declared scope",
        function_closes_first,
        "c+ x+ call c- x-",
        overrides={p.gen_b: p.gen_c, p.gen_a: p.async_gen_x},
        since=SINCE,
    ),
    Graph(
        "plain replaced by generator keeps the declared scope",
        plain_scope_is_in_the_key,
        "a+ a+ a+ call a- a- a-",
        overrides={p.fresh: p.gen_a},
        since=SINCE,
    ),
)
