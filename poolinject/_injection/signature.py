"""Reads the parameters and the kind of a callable the way FastAPI does. Runs in the caller; calls nothing."""

from __future__ import annotations

import asyncio
import builtins
import functools
import inspect
import itertools
import sys
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from fastapi import params
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Kind: TypeAlias = Literal["call", "coroutine", "generator", "async generator"]
EMPTY = inspect.Parameter.empty
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

if sys.version_info >= (3, 13):
    _iscoroutinefunction = inspect.iscoroutinefunction
else:  # sees the marker that asyncio's own decorators and AsyncMock leave on 3.11 and 3.12
    _iscoroutinefunction = asyncio.iscoroutinefunction


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An annotation that cannot be evaluated; matters only where nothing else fills the parameter."""

    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Declared:
    """One parameter, its annotation evaluated and FastAPI's markers taken out.

    ``depends`` holds the last ``Depends`` of its ``Annotated`` and that of its default; ``default`` is ``EMPTY`` where
    there is none, and the default of a ``Query()``-like marker where it has one.
    """

    name: str
    kind: Any
    annotation: Any
    depends: tuple[params.Depends, ...]
    default: Any
    own_default: bool  # Python itself fills it with ``default``
    by_position: bool  # the code that runs takes it at this very place
    unmarked: tuple[Any, ...]  # callables that stand in its ``Annotated`` without ``Depends``

    @property
    def variadic(self) -> bool:
        """Whether it is ``*args`` or ``**kwargs``."""
        return self.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def name_of(call: object) -> str:
    """Give the name that a reader knows the callable by."""
    call = without_partial(call)
    name = getattr(call, "__qualname__", None)
    if not isinstance(name, str):
        return type(call).__qualname__ + "()"
    return name.rpartition("<locals>.")[2]


def is_a(value: object, *classes: type) -> bool:
    """Do as ``isinstance``, by the type alone: a lazy object, say Django's settings, may raise when asked its class."""
    return issubclass(type(value), classes)


def without_partial(call: object) -> Any:
    """Take every ``functools.partial`` off."""
    while isinstance(call, functools.partial):
        call = call.func
    return call


def kind_of(call: Callable[..., Any]) -> Kind:
    """Tell how a provider gives its value: FastAPI's rules, wrappers and callable instances looked through."""
    faces = list(_faces(call))
    if any(map(inspect.isasyncgenfunction, faces)):
        return "async generator"
    if any(map(inspect.isgeneratorfunction, faces)):
        return "generator"
    if any(map(_iscoroutinefunction, faces)):
        return "coroutine"
    return "call"


def _faces(call: Callable[..., Any]) -> Iterator[Any]:
    outer = without_partial(call)
    inner = inspect.unwrap(outer)
    yield outer
    yield inner
    if inspect.isclass(inner):
        return
    for face in (outer, inner):
        dunder = getattr(face, "__call__", None)  # noqa: B004 - the method itself is looked at
        yield without_partial(dunder)
        yield inspect.unwrap(without_partial(dunder))


def declared_parameters(call: Callable[..., Any]) -> tuple[Declared, ...] | None:
    """Read the parameters in signature order; ``None`` for a builtin that has no signature."""
    try:
        signature = inspect.signature(call)
    except ValueError:
        return None
    names = _Names(call)
    taken = itertools.zip_longest(signature.parameters.values(), _taken_by_position(call)[: len(signature.parameters)])
    return tuple(_declare(parameter, names, name) for parameter, name in taken)


def _taken_by_position(call: Any) -> tuple[str, ...]:
    """Name the parameters that the code which runs takes by position, in order; none where that is not known.

    A ``__wrapped__`` or ``__signature__`` shows other parameters than the code has. Where both have the same name at
    the same place, Python makes no difference between an argument by position and one by keyword; where they differ,
    a wrapper may look into its ``kwargs``.
    """
    if type(call) is functools.partial:
        names = _taken_by_position(call.func)[len(call.args) :]
        return tuple(itertools.takewhile(lambda name: name not in call.keywords, names))
    if type(call) is types.MethodType:
        return _taken_by_position(call.__func__)[1:]
    if type(call) is types.FunctionType:
        return call.__code__.co_varnames[: call.__code__.co_argcount]
    is_class = issubclass(type(call), type)
    method = _constructor(call) if is_class else inspect.getattr_static(type(call), "__call__", None)
    return _taken_by_position(method)[1:] if type(method) is types.FunctionType else ()


def takes_only_keywords(call: Callable[..., Any]) -> bool:
    """Tell whether the code that runs takes nothing by position, whatever the signature of what it wraps says."""
    takes = inspect.signature(call, follow_wrapped=False).parameters.values()
    return not any(parameter.kind in {*POSITIONAL, parameter.VAR_POSITIONAL} for parameter in takes)


def _constructor(cls: type) -> Any:
    """Find the one method that takes the arguments of a class; ``None`` where there are two or the metaclass has it."""
    if inspect.getattr_static(type(cls), "__call__") is not vars(type)["__call__"]:
        return None
    new, init = (inspect.getattr_static(cls, name) for name in ("__new__", "__init__"))
    if new is vars(object)["__new__"]:
        return init
    return getattr(new, "__func__", None) if init is vars(object)["__init__"] else None


def _declare(parameter: inspect.Parameter, names: _Names, taken: str | None) -> Declared:
    annotation = names.evaluate(parameter.annotation)
    default = parameter.default
    depends: list[params.Depends] = []
    extras: list[Any] = []
    if typing.get_origin(annotation) is Annotated:
        annotation, *extras = typing.get_args(annotation)
        depends = _last_marker(extras)
        if default is EMPTY:
            default = _default_of_markers(extras)
    if is_a(default, params.Depends):
        depends.append(default)
        default = EMPTY
    elif is_a(default, FieldInfo):
        default = _default_of_markers([default])
    if isinstance(annotation, (str, typing.ForwardRef)):
        annotation = names.evaluate(getattr(annotation, "__forward_arg__", annotation))
    own_default = default is parameter.default and default is not EMPTY
    by_position = parameter.kind in POSITIONAL and parameter.name == taken
    unmarked = tuple(filter(callable, extras))
    return Declared(
        parameter.name, parameter.kind, annotation, tuple(depends), default, own_default, by_position, unmarked
    )


def _last_marker(extras: list[Any]) -> list[params.Depends]:
    """Give the ``Depends`` of an ``Annotated``: as in FastAPI the last marker counts, which may be another one."""
    markers = [extra for extra in extras if is_a(extra, params.Depends, params.Param, params.Body)]
    return [marker for marker in markers[-1:] if isinstance(marker, params.Depends)]


def _default_of_markers(markers: list[Any]) -> Any:
    for marker in reversed(markers):
        if isinstance(marker, FieldInfo) and not marker.is_required():
            return marker.get_default(call_default_factory=False) if marker.default_factory is None else marker
    return EMPTY


class _Names:
    """The names that the annotations of one callable can see: its closure, its module, builtins."""

    def __init__(self, call: Callable[..., Any]) -> None:
        function = _function_behind(call)
        self.globals: dict[str, Any] = getattr(function, "__globals__", None) or vars(builtins)
        self.locals: dict[str, Any] = {}
        code = getattr(function, "__code__", None)
        cells = getattr(function, "__closure__", None) or ()
        for name, cell in zip(getattr(code, "co_freevars", ()), cells, strict=False):
            try:
                self.locals[name] = cell.cell_contents
            except ValueError:  # a cell that is not filled yet
                continue

    def evaluate(self, annotation: Any) -> Any:
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, self.globals, self.locals)  # noqa: S307 - the user's own annotation
            except Exception as error:  # noqa: BLE001 - whatever the annotation raises
                return Unresolved(annotation, f"{type(error).__name__}: {error}")
        if type(annotation).__name__ != "TypeAliasType":
            return annotation
        try:
            value = annotation.__value__  # of ``type X = ...`` in Python 3.12, which evaluates it only now
        except Exception as error:  # noqa: BLE001 - whatever the annotation raises
            return Unresolved(str(annotation), f"{type(error).__name__}: {error}")
        return self.evaluate(value)


def _function_behind(call: object) -> object:
    """Find the plain function whose annotations ``inspect.signature`` reports."""
    call = inspect.unwrap(without_partial(call))
    if inspect.isclass(call):
        for name in ("__new__", "__init__"):
            method = getattr(call, name)
            if hasattr(inspect.unwrap(method), "__globals__"):
                return inspect.unwrap(method)
        return call
    if not hasattr(call, "__globals__") and not inspect.ismethod(call):
        call = getattr(type(call), "__call__", call)  # noqa: B004
    return inspect.unwrap(getattr(call, "__func__", call))  # type: ignore[arg-type]
