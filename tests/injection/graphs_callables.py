"""Graphs about what can stand inside ``Depends(...)``."""
# ruff: noqa: D103 - a function's name says what it shows

import functools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from fastapi import Depends
from pydantic import BaseModel

from tests.injection import providers as p
from tests.injection.ledger import Graph, called, log, traced


class Service:
    def __init__(self, one: Annotated[str, Depends(p.one)], size: int = 2) -> None:
        log("Service")
        self.text = f"service({one},{size})"


class Derived(Service):
    """A service with the constructor of its base."""


@dataclass
class Record:
    one: Annotated[str, Depends(p.one)]
    limit: int = 5


class Pair(NamedTuple):
    a: Annotated[str, Depends(p.gen_a)]
    limit: int = 6


class Settings(BaseModel):
    limit: int = 7
    name: str = "settings"


class Empty:
    """A class without a constructor of its own."""


def classes(
    item: str,
    a: Annotated[Service, Depends(Service)],
    b: Annotated[Service, Depends(Derived)],
    c: Annotated[Record, Depends(Record)],
    d: Annotated[Pair, Depends(Pair)],
    e: Annotated[Settings, Depends(Settings)],
) -> list[Any]:
    return called(item, a.text, type(b).__name__, c.one, c.limit, d.a, d.limit, e.limit, e.name)


def annotation_is_the_provider(
    item: str,
    a: Annotated[Service, Depends()],
    b: Service = Depends(),
    c: Derived = Depends(use_cache=False),
    d: Annotated[Empty, Depends()] = None,  # type: ignore[assignment]  # the default is not used
) -> list[Any]:
    return called(item, a.text, a is b, c.text, type(d).__name__)


class Caller:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, one: Annotated[str, Depends(p.one)]) -> str:
        log(self.name)
        return f"{self.name}({one})"


class GeneratorCaller(Caller):
    def __call__(self, one: Annotated[str, Depends(p.one)]) -> Iterator[str]:  # type: ignore[override]
        with traced(self.name):
            yield f"{self.name}({one})"


class AsyncCaller(Caller):
    async def __call__(self, one: Annotated[str, Depends(p.one)]) -> str:  # type: ignore[override]
        log(self.name)
        return f"{self.name}({one})"


class AsyncGeneratorCaller(Caller):
    async def __call__(self, one: Annotated[str, Depends(p.one)]) -> AsyncIterator[str]:  # type: ignore[override]
        with traced(self.name):
            yield f"{self.name}({one})"


def callable_instances(
    item: str,
    a: Annotated[str, Depends(Caller("plain"))],
    b: Annotated[str, Depends(GeneratorCaller("gen"))],
    c: Annotated[str, Depends(AsyncCaller("async"))],
    d: Annotated[str, Depends(AsyncGeneratorCaller("asyncgen"))],
) -> list[Any]:
    return called(item, a, b, c, d)


class Methods:
    def __init__(self, name: str) -> None:
        self.name = name

    def bound(self, one: Annotated[str, Depends(p.one)]) -> str:
        log(f"bound-{self.name}")
        return self.name + one

    def generator(self, one: Annotated[str, Depends(p.one)]) -> Iterator[str]:
        with traced(f"generator-{self.name}"):
            yield self.name + one

    async def coroutine(self, one: Annotated[str, Depends(p.one)]) -> str:
        log(f"coroutine-{self.name}")
        return self.name + one

    @staticmethod
    def static(one: Annotated[str, Depends(p.one)]) -> str:
        log("static")
        return one

    @classmethod
    def of_class(cls, one: Annotated[str, Depends(p.one)]) -> str:
        log(cls.__name__)
        return one


first = Methods("first")
second = Methods("second")


def methods(
    item: str,
    a: Annotated[str, Depends(first.bound)],
    b: Annotated[str, Depends(first.generator)],
    c: Annotated[str, Depends(first.coroutine)],
    d: Annotated[str, Depends(Methods.static)],
    e: Annotated[str, Depends(Methods.of_class)],
) -> list[Any]:
    return called(item, a, b, c, d, e)


def equal_bound_methods_are_one(
    item: str,
    a: Annotated[str, Depends(first.bound)],
    b: Annotated[str, Depends(first.bound)],
    c: Annotated[str, Depends(second.bound)],
    d: Annotated[str, Depends(first.generator)],
    e: Annotated[str, Depends(first.generator)],
) -> list[Any]:
    return called(item, a, b, c, d, e)


def sized(size: int, one: Annotated[str, Depends(p.one)], limit: int = 3) -> str:
    log(f"sized-{size}")
    return f"{size},{one},{limit}"


def gen_sized(name: str, one: Annotated[str, Depends(p.one)]) -> Iterator[str]:
    with traced(name):
        yield name + one


async def async_sized(size: int, one: Annotated[str, Depends(p.one)]) -> str:
    log(f"async-{size}")
    return f"{size},{one}"


async def async_gen_sized(name: str, one: Annotated[str, Depends(p.one)]) -> AsyncIterator[str]:
    with traced(name):
        yield name + one


sized_four = functools.partial(sized, 4)


def partials(
    item: str,
    a: Annotated[str, Depends(sized_four)],
    b: Annotated[str, Depends(functools.partial(gen_sized, "g"))],
    c: Annotated[str, Depends(functools.partial(async_sized, 5))],
    d: Annotated[str, Depends(functools.partial(sized_four, limit=9))],
    e: Annotated[str, Depends(sized_four)],
) -> list[Any]:
    return called(item, a, b, c, d, e)


def partial_of_async_generator(
    item: str, a: Annotated[str, Depends(functools.partial(async_gen_sized, "ag"))]
) -> list[Any]:
    return called(item, a)


class Equal:
    """Equal and hashed by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __call__(self) -> str:
        log(self.name)
        return self.name


def equal_instances_are_one(
    item: str,
    a: Annotated[str, Depends(Equal("e"))],
    b: Annotated[str, Depends(Equal("e"))],
    c: Annotated[str, Depends(Equal("f"))],
) -> list[Any]:
    return called(item, a, b, c)


def unequal_instances_are_two(
    item: str, a: Annotated[str, Depends(Caller("c"))], b: Annotated[str, Depends(Caller("c"))]
) -> list[Any]:
    return called(item, a, b)


@dataclass
class Unhashable:
    """Equal by its name, and without a hash."""

    name: str

    def __call__(self) -> str:
        log(self.name)
        return self.name


unhashable = Unhashable("u")


def unhashable_instances_by_identity(
    item: str,
    a: Annotated[str, Depends(unhashable)],
    b: Annotated[str, Depends(unhashable)],
    c: Annotated[str, Depends(Unhashable("u"))],
) -> list[Any]:
    return called(item, a, b, c)


nameless = lambda one=Depends(p.one): f"lambda({one})"


def lambdas(item: str, a: Annotated[str, Depends(nameless)]) -> list[Any]:
    return called(item, a)


caller = Caller("declared")

GRAPHS = (
    Graph("classes", classes, "one Service Service a+ call a-"),
    Graph("annotation is the provider", annotation_is_the_provider, "one Service Service call"),
    Graph("callable instances", callable_instances, "one plain gen+ async asyncgen+ call asyncgen- gen-"),
    Graph("methods", methods, "one bound-first generator-first+ coroutine-first static Methods call generator-first-"),
    Graph(
        "equal bound methods are one",
        equal_bound_methods_are_one,
        "one bound-first bound-second generator-first+ call generator-first-",
    ),
    Graph("partials", partials, "one sized-4 g+ async-5 sized-4 call g-", since=(0, 124, 0)),
    Graph("partial of async generator", partial_of_async_generator, "one ag+ call ag-", since=(0, 121, 0)),
    Graph("equal instances are one", equal_instances_are_one, "e f call"),
    Graph("unequal instances are two", unequal_instances_are_two, "one c c call"),
    Graph(
        "unhashable instances by identity",
        unhashable_instances_by_identity,
        "u u call",
        since=None,
        value='["{item}", "u", "u", "u"]',
    ),
    Graph("lambda", lambdas, "one call"),
)
