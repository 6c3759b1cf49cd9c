"""The plan: the ordered, validated dependency graph of one function, as frozen records that cross a process.

The caller makes it, the worker compiles it. ``Shared`` nodes (lifetime ``worker`` or ``pool``) carry a key given by
the caller: equal keys mean the same instance, also when the provider arrives in another blob as another object.
All are tuples: a frozen dataclass takes 0.3 ms to define, before the first worker can start.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from poolinject._injection.signature import Kind
    from poolinject.markers import Lifetime, Provider

Call: TypeAlias = Literal["map", "starmap", "broadcast", "get"]


class FromStep(NamedTuple):
    """The value that an earlier step of the same item made."""

    slot: int


class FromShared(NamedTuple):
    """The instance that a worker or pool scope holds under ``key``."""

    key: int
    lifetime: Lifetime


class FromItem(NamedTuple):
    """The item, or the member of its tuple at ``position``."""

    position: int


class Constant(NamedTuple):
    """A default; ``fresh`` says how each call gets its own: as it is, deep-copied, or from a factory."""

    value: Any
    fresh: Literal["same", "copy", "factory"]


class OwnDefault(NamedTuple):
    """What the function itself has as a default, read off it where it runs: a copy that was sent is another object."""

    name: str


class FromContext(NamedTuple):
    """An ``ItemContext`` or ``WorkerContext``."""

    which: Literal["item", "worker"]


class FromScopes(NamedTuple):
    """FastAPI's ``SecurityScopes`` with the scopes asked for on the way down."""

    scopes: tuple[str, ...]


Source: TypeAlias = FromStep | FromShared | FromItem | Constant | FromContext | FromScopes


class Argument(NamedTuple):
    """One argument of a call; ``name`` is ``None`` where it is passed by position: many keywords are slow to match."""

    name: str | None
    source: Source


class Step(NamedTuple):
    """One provider call of the item; ``key`` is its place in an item's cache, read only if ``use_cache``."""

    slot: int
    key: int
    use_cache: bool
    name: str
    provider: Provider
    kind: Kind
    arguments: tuple[Argument, ...]
    closes: Literal["function", "request"]


class Fetch(NamedTuple):
    """The place, in the order of the item, where a shared dependency is built if it does not exist yet."""

    slot: int
    name: str
    source: FromShared


class Shared(NamedTuple):
    """A dependency that outlives the item, built on first use in the scope of its lifetime."""

    key: int
    name: str
    lifetime: Lifetime
    provider: Provider
    kind: Kind
    arguments: tuple[Argument, ...]


class Plan(NamedTuple):
    """Everything a worker needs to call ``function`` for an item.

    ``leading`` names the parameters that the item, or the members of its tuple, fill, in order. They come first in the
    call, before ``arguments``; only where an injected parameter precedes the one that takes the item, or where the
    function takes nothing by position, is the item one of the ``arguments`` (``item_inside``). ``required`` is how many
    members a tuple must have at least; ``variadic`` says that ``*args`` takes any number. ``spares`` fill the members
    that a shorter tuple leaves out. ``tree`` is what ``explain`` draws.
    """

    name: str
    call: Call
    function: Provider
    kind: Kind
    leading: tuple[str, ...]
    item_inside: bool
    required: int
    variadic: bool
    spares: tuple[Constant | OwnDefault, ...]
    steps: tuple[Step | Fetch, ...]
    shared: tuple[Shared, ...]
    arguments: tuple[Argument, ...]
    tree: Branch

    @property
    def providers(self) -> tuple[Provider, ...]:
        """Every provider that runs for the function, in the order of first use."""
        steps = (step.provider for step in self.steps if isinstance(step, Step))
        return tuple(itertools.chain((node.provider for node in self.shared), steps))

    @property
    def has_coroutines(self) -> bool:
        """Whether an item needs the event loop; shared dependencies are no part of it."""
        kinds = (step.kind for step in self.steps if isinstance(step, Step))
        return not {"coroutine", "async generator"}.isdisjoint((self.kind, *kinds))


class Branch(NamedTuple):
    """One line of the drawn tree and what hangs below it."""

    label: str
    below: tuple[Branch, ...] = ()
