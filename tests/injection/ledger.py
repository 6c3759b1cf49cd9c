"""What a graph of the conformance tests is, and the ledger of events that its providers write.

The ledger is a list in the process that runs the graph. A pool of one worker gives it back with
``pool.map(drain_events, [""])``: cleanup ends before an outcome leaves the worker, so nothing can be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

_events: list[str] = []
_raised: list[Exception] = []
_by_item: list[tuple[list[str], list[Exception]]] | None = None  # the same for each item, where contexts tell
_own: ContextVar[tuple[list[str], list[Exception]]] = ContextVar("ledger_of_item")


class Boom(Exception):  # noqa: N818 - the shortest word that reads well in a ledger
    """The error that graphs raise on purpose."""


class OtherBoom(Exception):  # noqa: N818 - as above
    """The error that replaces a ``Boom``."""


@dataclass(frozen=True, eq=False)
class Graph:
    """One function with dependencies, and what running it for one item must write to the ledger.

    Attributes:
        name: The id of the test.
        function: Its first parameter is ``item``.
        events: Separated by blanks; ``{item}`` stands for the item.
        overrides: As in ``app.dependency_overrides``.
        since: The FastAPI that behaves so; ``None`` where FastAPI cannot run the graph.
        compare: How much of an error. ``"type"`` where our text may say more than FastAPI's; ``"failure"`` where
            FastAPI fails too, but with an error about its own response.
        phase: Where the item fails, if it fails and only one phase can be meant.
        events_of_b: As ``events``, for the item ``"b"`` alone.
        value: The result as JSON, with ``{item}`` as in ``events``, where no FastAPI can tell.
    """

    name: str
    function: Callable[..., Any]
    events: str
    overrides: Mapping[Callable[..., Any], Callable[..., Any]] = field(default_factory=dict)
    since: tuple[int, int, int] | None = (0, 112, 0)
    compare: Literal["text", "type", "failure"] = "text"
    phase: Literal["setup", "call", "cleanup"] | None = None
    events_of_b: str | None = None
    value: str | None = None

    def events_of(self, item: str) -> tuple[str, ...]:
        """Return what the ledger must hold after *item*."""
        events = self.events if item != "b" or self.events_of_b is None else self.events_of_b
        return tuple(events.replace("{item}", item).split())

    def value_of(self, item: str) -> str | None:
        """Return the JSON text of the result for *item*, ``None`` where it is left to FastAPI."""
        return None if self.value is None else self.value.replace("{item}", item)


def _here() -> tuple[list[str], list[Exception]]:
    if _by_item is None:
        return _events, _raised
    own = _own.get(None)
    if own is None:
        own = [], []
        _own.set(own)
        _by_item.append(own)
    return own


def log(event: str) -> None:
    """Write *event* to the ledger of this process."""
    _here()[0].append(event)


def tell_apart(item: str = "") -> None:
    """Keep the events of each item by themselves, for such as run beside each other, each in its own context."""
    global _by_item  # noqa: PLW0603 - as the ledger itself
    _by_item = []


def drain_each(item: str = "") -> list[list[str]]:
    """Return what each item has written, the first to write first, and tell them apart no longer."""
    global _by_item
    by_item, _by_item = _by_item or [], None
    return [events for events, _ in by_item]


def drain_events(item: str = "") -> list[str]:
    """Empty the ledger of this process and return what it held."""
    events = _events.copy()
    _events.clear()
    _raised.clear()
    return events


def boom(error: Exception | None = None) -> NoReturn:
    """Raise *error* (by default a ``Boom``) and remember it, for ``traced`` to know it again."""
    raised = Boom("boom") if error is None else error
    _here()[1].append(raised)
    raise raised


def is_last_raised(error: BaseException) -> bool:
    """Say whether *error* is the very object that ``boom`` raised last."""
    raised = _here()[1]
    return bool(raised) and raised[-1] is error


@contextmanager
def traced(name: str) -> Iterator[None]:
    """Log ``name+`` and then ``name-``, or ``name!Error``; ``?`` marks an error that ``boom`` did not raise."""
    log(f"{name}+")
    try:
        yield
    except Exception as error:
        log(f"{name}!{type(error).__name__}{'' if is_last_raised(error) else '?'}")
        raise
    log(f"{name}-")


def called(*values: object) -> list[Any]:
    """Log the call of the function itself and return *values* as its result."""
    log("call")
    return list(values)
