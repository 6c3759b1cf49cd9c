# ruff: noqa: D103 - a provider says it in its name
"""Functions whose generated source is kept in ``golden/``, one for each shape that the generator knows."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

from fastapi import Query, Security
from fastapi.security import SecurityScopes

from poolinject import Depends, ItemContext, WorkerContext
from poolinject._injection.codegen import Form
from poolinject._injection.plan import Call
from tests.injection.graphs import FASTAPI_VERSION

HAS_SCOPE = FASTAPI_VERSION >= (0, 121, 0)  # before that there is no ``Depends(scope=)``
FUNCTION_SCOPE: dict[str, Any] = {"scope": "function"} if HAS_SCOPE else {}


def get_number() -> int:
    return 1


async def get_remote(number: Annotated[int, Depends(get_number)]) -> int:
    return number


def get_session(number: Annotated[int, Depends(get_number)]) -> Iterator[int]:
    yield number


def get_early(number: Annotated[int, Depends(get_number, use_cache=False)]) -> Iterator[int]:
    yield number


async def get_stream() -> AsyncIterator[int]:
    yield 1


def get_engine() -> Iterator[int]:
    yield 1


def get_user(scopes: SecurityScopes, who: WorkerContext) -> str:
    return f"{scopes.scope_str} {who.worker_id}"


def get_seen(row: str, context: ItemContext, tags: list[str] = Query(default_factory=list)) -> object:
    return row, context, tags


def plain(item: int) -> int:
    return item


def seed(
    message: str,
    engine: Annotated[int, Depends(get_engine, lifetime="pool")],
    session: Annotated[int, Depends(get_session)],
    early: Annotated[int, Depends(get_early, **FUNCTION_SCOPE)],
) -> object:
    return message, engine, session, early


def mixed(
    remote: Annotated[int, Depends(get_remote)],
    item: str,
    stream: Annotated[int, Depends(get_stream)],
    session: Annotated[int, Depends(get_session)],
) -> object:
    return remote, item, stream, session


def members(
    row: str,
    scale: float = 1.0,
    marks: list[str] = [],  # noqa: B006 - the case
    *,
    seen: Annotated[object, Depends(get_seen)],
    user: Annotated[str, Security(get_user, scopes=["read"])],
) -> object:
    return row, scale, marks, seen, user


def variadic(*rows: str, session: Annotated[int, Depends(get_session)]) -> object:
    return rows, session


async def on_every_worker(engine: Annotated[int, Depends(get_engine, lifetime="worker")]) -> int:
    return engine


SHAPES: dict[str, tuple[Callable[..., Any], Call, Form]] = {
    "plain": (plain, "map", "chunk"),
    "plain_bulk": (plain, "map", "bulk"),
    "seed": (seed, "map", "chunk"),
    "mixed_chunk": (mixed, "map", "chunk"),
    "mixed_call": (mixed, "map", "call"),
    "mixed_await": (mixed, "map", "await"),
    "members": (members, "starmap", "chunk"),
    "variadic": (variadic, "starmap", "chunk"),
    "on_every_worker": (on_every_worker, "broadcast", "chunk"),
}
