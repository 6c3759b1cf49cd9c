"""Graphs whose annotations are strings, some of them unknown at run time."""
# ruff: noqa: D103 - a function's name says what it shows

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Query, Security
from fastapi.security import SecurityScopes

from tests.injection import providers as p
from tests.injection.ledger import Graph, called, log, traced

SINCE = (0, 128, 0)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from decimal import Decimal


class Service:
    def __init__(self, one: Annotated[str, Depends(p.one)], size: int = 2) -> None:
        log("Service")
        self.text = f"service({one},{size})"


def gen_text(service: Annotated[Service, Depends()]) -> Iterator[str]:
    with traced("text"):
        yield service.text


async def async_gen_text(text: Annotated[str, Depends(gen_text)]) -> AsyncIterator[str]:
    with traced("async"):
        yield text


def string_annotations(
    item: str, a: Annotated[str, Depends(async_gen_text)], b: Annotated[Service, Depends()], c: Service = Depends()
) -> list[Any]:
    return called(item, a, b.text, b is c)


def unknown_name(d: Decimal = Depends(p.one), e: Decimal = Depends(p.two)) -> Decimal:
    log("unknown")
    return d


def type_checking_names(item: str, a: Annotated[str, Depends(unknown_name)], d: Decimal = Depends(p.one)) -> list[Any]:
    return called(item, a, d)


def with_unknown_default(d: Decimal | None = None, size: Annotated[int, Query()] = 3) -> list[Any]:
    log("default")
    return [d, size]


def unknown_type_of_default(
    item: Decimal, a: Annotated[list[Any], Depends(with_unknown_default)], d: Decimal | None = None
) -> list[Any]:
    return called(item, a, d)


def unknown_and_known(
    item: str, d: Decimal = Depends(p.one), a: Annotated[str, Depends(p.two)] = "", *, s: Service = Depends()
) -> list[Any]:
    return called(item, d, a, s.text)


def secured(scopes: SecurityScopes) -> str:
    log(scopes.scope_str)
    return scopes.scope_str


def string_scopes(item: str, a: Annotated[str, Security(secured, scopes=["read"])]) -> list[Any]:
    return called(item, a)


GRAPHS = (
    Graph("string annotations", string_annotations, "one Service text+ async+ call async- text-", since=SINCE),
    Graph("TYPE_CHECKING names", type_checking_names, "one two unknown call", since=SINCE),
    Graph("TYPE_CHECKING name beside known ones", unknown_and_known, "one two Service call", since=SINCE),
    Graph(
        "TYPE_CHECKING name beside a default",
        unknown_type_of_default,
        "default call",
        since=None,
        value='["{item}", [null, 3], null]',
    ),
    Graph("string SecurityScopes", string_scopes, "read call"),
)
