"""Random graphs of providers of every kind, which fail in every place, and write down what happens."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from hypothesis import strategies as st

from poolinject import Depends
from poolinject._injection.signature import Kind
from poolinject.markers import Lifetime
from tests.injection.golden_shapes import HAS_SCOPE

Setup = Literal["goes well", "raises", "does not yield"]
Cleanup = Literal["goes well", "raises", "yields again"]
OnError = Literal["passes it on", "swallows it", "replaces it", "yields again"]
ITEMS = 3


@dataclass(frozen=True)
class Use:
    """One ``Depends``."""

    node: int
    use_cache: bool
    scope: Literal["function", "request"] | None


@dataclass(frozen=True)
class Node:
    """One provider; the last one of a graph is the function. It misbehaves for the items in ``bad_items`` only."""

    kind: Kind
    uses: tuple[Use, ...]
    lifetime: Lifetime | None
    suspends: bool
    bad_items: frozenset[int]
    setup: Setup
    cleanup: Cleanup
    on_error: OnError
    shows: bool  # its own code has the parameters of its signature: they are passed by position


class BoomError(Exception):
    """An error with the name of who raised it."""


@dataclass
class World:
    """What happened, and the item that is being processed."""

    events: list[str] = field(default_factory=list)
    item: int = 0
    made: int = 0


@st.composite
def nodes(draw: st.DrawFn, position: int, *, is_function: bool = False) -> Node:
    """Draw a provider that depends on some of those before it."""
    kinds: list[Kind] = ["call", "coroutine"]
    if not is_function:
        kinds += ["generator", "async generator"] * 2
    scopes = st.sampled_from([None, "function", "request"] if HAS_SCOPE else [None])
    uses = st.builds(Use, st.integers(0, max(0, position - 1)), st.booleans() | st.just(value=True), scopes)
    lifetimes: list[Lifetime | None] = [None, None, None, None, None, None, "worker", "pool"]
    return Node(
        kind=draw(st.sampled_from(kinds)),
        uses=tuple(draw(st.lists(uses, max_size=4, min_size=2 if is_function else 0))) if position else (),
        lifetime=None if is_function else draw(st.sampled_from(lifetimes)),
        suspends=draw(st.booleans()),
        bad_items=draw(st.frozensets(st.integers(0, ITEMS - 1))),
        setup=draw(st.sampled_from(["goes well", "goes well", "goes well", "raises", "does not yield"])),
        cleanup=draw(st.sampled_from(["goes well", "goes well", "raises", "yields again"])),
        on_error=draw(st.sampled_from(["passes it on", "passes it on", "swallows it", "replaces it", "yields again"])),
        shows=draw(st.booleans()),
    )


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Node, ...]:
    """Draw some providers and a function that uses them."""
    count = draw(st.integers(1, 5))
    providers = [draw(nodes(position)) for position in range(count)]
    return (*providers, draw(nodes(count, is_function=True)))


def make_function(graph: tuple[Node, ...], world: World) -> Callable[..., Any]:
    """Make the providers and the function of a graph."""
    made: list[Callable[..., Any]] = []
    for position, node in enumerate(graph):
        provider = _Writer(f"n{position}", node, world).make()
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter("item", kind, annotation=int)] if position == len(graph) - 1 else []
        for number, use in enumerate(node.uses):
            depends = Depends(
                made[use.node],
                use_cache=use.use_cache,
                scope=use.scope if "generator" in graph[use.node].kind else None,
                lifetime=graph[use.node].lifetime,
            )
            parameters.append(inspect.Parameter(f"d{number}", kind, annotation=Annotated[str, depends]))
        if node.shows:
            provider = showing(provider, [parameter.name for parameter in parameters])
        provider.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        provider.__name__ = provider.__qualname__ = f"n{position}"
        made.append(provider)
    return made[-1]


def showing(provider: Callable[..., Any], parameters: list[str]) -> Callable[..., Any]:
    """Wrap a provider in code that has the parameters itself; the dependencies reach it by name."""
    passed = ", ".join("item" if name == "item" else f"{name}={name}" for name in parameters)
    names: dict[str, Any] = {"provider": provider}
    # Only source text can have a number of parameters that is known at run time.
    exec(f"def shown({', '.join(parameters)}):\n    return provider({passed})\n", names)  # noqa: S102
    shown: Callable[..., Any] = names["shown"]
    shown.__wrapped__ = provider  # type: ignore[attr-defined]  # tells its kind
    return shown


class _Writer:
    """Makes one provider of each kind out of the same parts."""

    def __init__(self, name: str, node: Node, world: World) -> None:
        self.name, self.node, self.world = name, node, world

    @property
    def is_bad(self) -> bool:
        return self.world.item in self.node.bad_items

    def make(self) -> Callable[..., Any]:
        kinds = {
            "call": self.call,
            "coroutine": self.coroutine,
            "generator": self.generator,
            "async generator": self.async_generator,
        }
        return kinds[self.node.kind]()

    def begin(self, values: tuple[object, ...]) -> str:
        self.world.made += 1
        value = f"{self.name}#{self.world.made}"
        self.world.events.append(f"{value}({', '.join(map(str, values))})")
        if self.node.setup == "raises" and self.is_bad:
            raise BoomError(f"setup of {value}")
        return value

    def end(self, value: str) -> bool:
        """Do the cleanup; say whether to yield again."""
        self.world.events.append(f"{value} closes")
        if self.is_bad and self.node.cleanup == "raises":
            raise BoomError(f"cleanup of {value}")
        return self.is_bad and self.node.cleanup == "yields again"

    def see(self, value: str, error: BaseException) -> bool:
        """Do what is done with an error; say whether to yield again."""
        self.world.events.append(f"{value} sees {type(error).__name__} {told(error)}")
        if self.node.on_error == "passes it on":
            raise error
        if self.node.on_error == "replaces it":
            raise BoomError(f"replaced by {value}") from error
        return self.node.on_error == "yields again"

    def call(self) -> Callable[..., Any]:
        def provider(*items: object, **values: object) -> str:
            return self.begin((*items, *values.values()))

        return provider

    def coroutine(self) -> Callable[..., Any]:
        async def provider(*items: object, **values: object) -> str:
            if self.node.suspends:
                await asyncio.sleep(0)
            return self.begin((*items, *values.values()))

        return provider

    def generator(self) -> Callable[..., Any]:
        def provider(**values: object) -> Iterator[str]:
            value = self.begin(tuple(values.values()))
            if self.node.setup == "does not yield" and self.is_bad:
                return
            try:
                yield value
            except Exception as error:  # noqa: BLE001 - written down
                again = self.see(value, error)
            else:
                again = self.end(value)
            if again:
                yield value

        return provider

    def async_generator(self) -> Callable[..., Any]:
        async def provider(**values: object) -> AsyncIterator[str]:
            if self.node.suspends:
                await asyncio.sleep(0)
            value = self.begin(tuple(values.values()))
            if self.node.setup == "does not yield" and self.is_bad:
                return
            try:
                yield value
            except Exception as error:  # noqa: BLE001 - written down
                again = self.see(value, error)
            else:
                again = self.end(value)
            if self.node.suspends:
                await asyncio.sleep(0)
            if again:
                yield value

        return provider


def told(error: BaseException | None) -> str:
    """Tell an error as far as it is the providers' own; the texts of others are each library's matter."""
    return str(error) if isinstance(error, BoomError) else type(error).__name__
