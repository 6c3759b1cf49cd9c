"""What users write into signatures: ``Depends`` with a lifetime, ``ItemContext``, ``WorkerContext``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from fastapi import params

Provider: TypeAlias = Callable[..., Any]
Lifetime: TypeAlias = Literal["item", "worker", "pool"]
AsyncBackend: TypeAlias = Literal["asyncio", "uvloop", "trio"]
LIFETIMES: tuple[Lifetime, ...] = get_args(Lifetime)  # shortest first


class Depends(params.Depends):
    """FastAPI's ``Depends`` with a lifetime; FastAPI itself takes it as it is.

    Attributes:
        lifetime: ``"item"``: built for each item. ``"worker"``: one for each worker, never used by two threads at
            once. ``"pool"``: one for each pool and process. ``None``: as long as what depends on it, at least the item.
    """

    lifetime: Lifetime | None

    def __init__(
        self,
        dependency: Provider | None = None,
        *,
        use_cache: bool = True,
        scope: Literal["function", "request"] | None = None,
        lifetime: Lifetime | None = None,
        **fastapi_options: Any,
    ) -> None:
        if lifetime is not None:
            check_lifetime(lifetime)
        if scope is not None:
            fastapi_options["scope"] = scope
        super().__init__(dependency, use_cache=use_cache, **fastapi_options)
        object.__setattr__(self, "lifetime", lifetime)  # FastAPI's class is frozen

    def __eq__(self, other: object) -> bool:
        # typing.Annotated keeps one of two metadata that are equal: the lifetime has to count.
        if not isinstance(other, Depends):
            return NotImplemented
        return vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.dependency, self.use_cache, self.lifetime))


def check_lifetime(lifetime: object) -> None:
    """Refuse anything but the three lifetimes.

    Raises:
        ValueError: If it is not one of them.
    """
    if lifetime not in LIFETIMES:
        message = f"lifetime {lifetime!r} is not one of {', '.join(map(repr, LIFETIMES))}"
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class ItemContext:
    """The item that is being processed, injected by type.

    Attributes:
        index: Its place in the caller's iterable, from 0.
        item: The item itself; for ``starmap`` and ``submit`` the tuple of arguments.
        attempt: 1 for the first try.
        worker_id: The slot of the worker.
    """

    index: int
    item: Any
    attempt: int
    worker_id: int


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The worker that runs the code, injected by type.

    Attributes:
        worker_id: A slot, 0 to workers - 1; a replacement takes over the slot of the worker that it replaces.
        generation: 0 for the first worker in the slot, one more for each replacement.
        pool_name: The ``name`` of the pool.
    """

    worker_id: int
    generation: int
    pool_name: str
