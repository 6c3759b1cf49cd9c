# ruff: noqa: D103 - a provider says it in its name
"""What can be called, and which arguments it gets by position: the longest prefix that its code takes there."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Self

from poolinject import Depends
from poolinject._injection.plan import Call
from tests.injection.golden_shapes import get_number

One = Annotated[int, Depends(get_number)]
Passed = tuple[object, ...]


def takes_three(a: One, b: One, c: One) -> Passed:
    return a, b, c


def has_default_between(a: One, limit: int = 5, *, b: One, c: int = 6) -> Passed:
    return a, limit, b, c


def has_default_first(limit: int = 5, b: One = 0, c: One = 0) -> Passed:
    return limit, b, c


def only_by_position(a: One, limit: int = 5, /, b: One = 0, *rest: int, c: One) -> Passed:
    return a, limit, b, rest, c


def wrapping(provider: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(provider)
    def wrapper(*args: object, **kwargs: object) -> object:
        return args, kwargs

    return wrapper


def by_keyword_only(provider: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(provider)
    def wrapper(**kwargs: object) -> object:
        return kwargs

    return wrapper


def showing(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a function another signature than it has."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD

    def show(provider: Callable[..., Any]) -> Callable[..., Any]:
        parameters = [inspect.Parameter(name, kind, annotation=One) for name in names]
        provider.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return provider

    return show


@functools.wraps(takes_three)
def takes_first(a: int, **kwargs: object) -> object:
    return a, kwargs


@showing("b", "a")
def shown_swapped(a: int, b: int) -> Passed:
    return a, b


@showing("a", "b")
def shown_as_it_is(a: int, b: int) -> Passed:
    return a, b


class Methods:
    """Every way in which a class takes arguments."""

    def __init__(self, a: One, b: One) -> None:
        self.seen = (a, b)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and self.seen == other

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, a: One, b: One) -> Passed:
        return a, b

    def bound(self, a: One, b: One) -> Passed:
        return a, b

    @classmethod
    def of_class(cls, a: One, b: One) -> Passed:
        return a, b

    @wrapping
    def wrapped(self, a: One, b: One) -> Passed:
        return a, b


class FromNew(tuple[int, ...]):
    """Takes its arguments in ``__new__``."""

    __slots__ = ()

    def __new__(cls, a: One, b: One) -> Self:
        return super().__new__(cls, (a, b))


class FromBoth:
    """Takes them in two places, in another order."""

    def __new__(cls, a: One, b: One) -> Self:  # noqa: ARG004 - the case
        return super().__new__(cls)

    def __init__(self, b: int, a: int) -> None:
        self.seen = (a, b)

    def __eq__(self, other: object) -> bool:
        return self.seen == other

    __hash__ = None  # type: ignore[assignment]


class Meta(type):
    """Sees how its classes are called."""

    def __call__(cls, *args: object, **kwargs: object) -> object:
        return args, kwargs


class FromMeta(metaclass=Meta):
    """Shows the parameters of its constructor."""

    __signature__ = inspect.signature(takes_three)


class Counted(functools.partial[Any]):
    """A partial that looks at what it gets."""

    def __call__(self, /, *args: object, **kwargs: object) -> object:
        return args, kwargs


methods = Methods(0, 0)
by_keyword = {"a": 1, "b": 1}
PASSED: dict[str, tuple[Callable[..., Any], str, object]] = {  # what is called, the arguments, what comes of them
    "all": (takes_three, "v0, v0, v0", (1, 1, 1)),
    "default between": (has_default_between, "v0, b=v0", (1, 5, 1, 6)),
    "default first": (has_default_first, "b=v0, c=v0", (5, 1, 1)),
    "only by position": (only_by_position, "v0, default, v0, c=v0", (1, 5, 1, (), 1)),
    "partial by position": (functools.partial(takes_three, 7), "v0, v0", (7, 1, 1)),
    "partial by keyword": (functools.partial(has_default_between, limit=7), "v0, b=v0", (1, 7, 1, 6)),
    "parameters after a partial keyword": (functools.partial(has_default_first, limit=7), "b=v0, c=v0", (7, 1, 1)),
    "partial keyword that is injected": (functools.partial(takes_three, b=7), "v0, b=v0, c=v0", (1, 1, 1)),
    "partial of a partial": (functools.partial(functools.partial(takes_three, 7), 8), "v0", (7, 8, 1)),
    "partial of a method": (functools.partial(methods.bound, 7), "v0", (7, 1)),
    "partial of a wrapper": (functools.partial(wrapping(takes_three), 7), "b=v0, c=v0", ((7,), {"b": 1, "c": 1})),
    "subclass of partial": (Counted(shown_as_it_is), "a=v0, b=v0", ((), by_keyword)),
    "method": (methods.bound, "v0, v0", (1, 1)),
    "class method": (Methods.of_class, "v0, v0", (1, 1)),
    "wrapped method": (methods.wrapped, "a=v0, b=v0", ((methods,), by_keyword)),
    "instance": (methods, "v0, v0", (1, 1)),
    "class with __init__": (Methods, "v0, v0", (1, 1)),
    "class with __new__": (FromNew, "v0, v0", (1, 1)),
    "class with both": (FromBoth, "a=v0, b=v0", (1, 1)),
    "metaclass": (FromMeta, "a=v0, b=v0, c=v0", ((), by_keyword | {"c": 1})),
    "wrapper": (wrapping(takes_three), "a=v0, b=v0, c=v0", ((), by_keyword | {"c": 1})),
    "wrapper that takes the first": (takes_first, "v0, b=v0, c=v0", (1, {"b": 1, "c": 1})),
    "signature in another order": (shown_swapped, "b=v0, a=v0", (1, 1)),
    "signature of its own": (shown_as_it_is, "v0, v0", (1, 1)),
    "cached": (functools.cache(shown_as_it_is), "a=v0, b=v0", (1, 1)),
}


def second_takes_item(a: One, row: str, b: One) -> Passed:
    return a, row, b


def item_with_scale(row: str, scale: int = 3, a: One = 0) -> Passed:
    return row, scale, a


def item_among_positions(a: One, row: str, /, b: One) -> Passed:
    return a, row, b


def rows_and_one(*rows: str, a: One) -> Passed:
    return rows, a


def row_and_rows(row: str, a: One, *rows: str) -> Passed:
    return row, a, rows


TAKEN: dict[str, tuple[Callable[..., Any], Call, object, str, object]] = {
    "item inside": (second_takes_item, "map", "r", "v0, item, v0", (1, "r", 1)),
    "item inside, only by position": (item_among_positions, "map", "r", "v0, item, v0", (1, "r", 1)),
    "item inside a wrapper": (
        wrapping(second_takes_item),
        "map",
        "r",
        "a=v0, row=item, b=v0",
        ((), {"a": 1, "row": "r", "b": 1}),
    ),
    "default after the item": (item_with_scale, "map", "r", "item, a=v0", ("r", 3, 1)),
    "default in the tuple": (item_with_scale, "starmap", ("r",), "i0, i1, v0", ("r", 3, 1)),
    "rows": (rows_and_one, "map", "r", "item, a=v0", (("r",), 1)),
    "any number of rows": (rows_and_one, "starmap", ("r", "s"), "*item, a=v0", (("r", "s"), 1)),
    "rows at the end": (row_and_rows, "map", "r", "item, v0", ("r", 1, ())),
    "a tuple of unknown length": (row_and_rows, "starmap", ("r",), "*item, a=v0", ("r", 1, ())),
    "no item": (takes_three, "broadcast", None, "v0, v0, v0", (1, 1, 1)),
    "wrapper": (wrapping(item_with_scale), "map", "r", "item, a=v0", (("r",), {"a": 1})),
    "wrapper of keywords": (
        by_keyword_only(item_with_scale),
        "map",
        "r",
        "row=item, a=v0",
        {"row": "r", "a": 1},
    ),
    "wrapper of keywords, tuples": (
        by_keyword_only(item_with_scale),
        "starmap",
        ("r",),
        "row=i0, scale=i1, a=v0",
        {"row": "r", "scale": 3, "a": 1},
    ),
    "wrapper of keywords around a wrapper": (
        by_keyword_only(wrapping(second_takes_item)),
        "map",
        "r",
        "a=v0, row=item, b=v0",
        {"a": 1, "row": "r", "b": 1},
    ),
    "partial wrapper of keywords": (
        functools.partial(by_keyword_only(item_with_scale), scale=4),
        "map",
        "r",
        "row=item, a=v0",
        {"row": "r", "scale": 4, "a": 1},
    ),
    "partial": (functools.partial(second_takes_item, 7), "map", "r", "item, v0", (7, "r", 1)),
}
