"""One blob for a function and its plan, and the name of whatever keeps it from being made. Runs in the caller.

Only `load_function` runs in workers.
"""

from __future__ import annotations

import dis
import hashlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from poolinject._references import is_importable
from poolinject._transport.codec import decode, encode
from poolinject._transport.picklers import Buffer, CachedFunction, safe_text
from poolinject.errors import TransportError

Member = tuple[str, Any]  # a label and the object it stands for

_WITH_MODULE = (ModuleType, FunctionType, MethodType, partial, type)
_IN_EVERY_WORKER = frozenset((*sys.builtin_module_names, "fastapi", "poolinject", "typing"))
REMEDY = "Have a provider make it in the worker, or move what defines it to a module that workers can import"
_CLASS_INTERNALS = frozenset(("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"))


class _Loading(threading.local):
    now = False


_loading = _Loading()


@dataclass(frozen=True, slots=True)
class FunctionBlob:
    """A function and its plan as bytes, known by their digest."""

    digest: bytes
    data: bytes
    name: str


def pack_function(func: Callable[..., Any], plan: object) -> FunctionBlob:
    """Pickle *func* and *plan* together, so that a provider which both refer to stays one object.

    Raises:
        TransportError: If that fails; it names the member that cannot be sent, as far down as it can be found.
    """
    name = function_name(func)
    try:
        data = encode((func, plan), f"function `{name}`")
    except TransportError as error:
        what, reason = _find_culprit(func, plan) or (error.what, error.reason)
        raise TransportError(what, f"{reason}. {REMEDY}") from None
    return FunctionBlob(hashlib.blake2b(data, digest_size=16).digest(), data, name)


def load_function(data: Buffer, name: str = "function") -> tuple[Callable[..., Any], Any]:
    """Return the function and the plan.

    Raises:
        TransportError: If they cannot be unpickled here.
    """
    with loading():
        func, plan = decode(data, f"function `{name}`" if name != "function" else name)
    return func, plan


@contextmanager
def loading() -> Iterator[None]:
    """Mark the block as one that imports the modules of functions for a worker."""
    before, _loading.now = _loading.now, True
    try:
        yield
    finally:
        _loading.now = before


def is_loading() -> bool:
    """Tell whether the calling code is the top level of such a module."""
    return _loading.now


def modules_of(functions: Iterable[object]) -> list[str]:
    """Name the modules that a worker imports when it loads these functions, as far as their code tells.

    Those that every worker has imported already are left out.
    """
    modules: dict[str, None] = {}
    seen: set[int] = set()
    ahead = deque(functions)
    while ahead:
        value = ahead.popleft()
        kind = value if isinstance(value, _WITH_MODULE) else type(value)
        if id(kind) in seen:
            continue
        seen.add(id(kind))
        name = kind.__name__ if isinstance(kind, ModuleType) else getattr(kind, "__module__", None)
        if isinstance(kind, (MethodType, partial)) or not (isinstance(name, str) and is_importable(name)):
            ahead.extend(member for _, member in _members("", kind))
        elif name.partition(".")[0] not in _IN_EVERY_WORKER:
            modules[name] = None
    return list(modules)


def function_name(func: object) -> str:
    """Return the name by which a user knows *func*, without the functions that it was defined in."""
    if isinstance(func, partial):
        return function_name(func.func)
    if isinstance(func, MethodType):
        inner = getattr(func.__func__, "__name__", "?")
        owner = func.__self__ if isinstance(func.__self__, type) else type(func.__self__)
        return f"{function_name(owner)}.{inner}"
    name = getattr(func, "__qualname__", None)
    return str(name or type(func).__qualname__).rpartition("<locals>.")[2]


def _find_culprit(func: object, plan: object) -> tuple[str, str] | None:
    """Return what cannot be sent and why: a member of *func*, else of a provider, else of *plan*."""
    seen: set[int] = set()
    if culprit := _search(f"function `{function_name(func)}`", func, seen):
        return culprit
    for provider in _providers(plan):
        if culprit := _search(f"provider `{function_name(provider)}`", provider, seen):
            return culprit
    return _search("plan", plan, seen)


def _providers(plan: object) -> Iterator[object]:
    try:
        providers: Any = getattr(plan, "providers", ())
        yield from providers.values() if isinstance(providers, Mapping) else providers
    except Exception:  # noqa: BLE001 - user objects may raise anything
        return


def _search(label: str, value: object, seen: set[int]) -> tuple[str, str] | None:
    if id(value) in seen:
        return None
    try:
        encode(value, label)
    except TransportError as error:
        culprit = error.what, error.reason
    else:
        return None
    seen.add(id(value))
    try:
        for member_label, member in _members(label, value):
            if found := _search(member_label, member, seen):
                return found
    except Exception:  # noqa: BLE001 - user objects may raise anything
        return culprit  # an object that does not like to be looked at: it is the culprit for all one can say
    return culprit


def _members(label: str, value: Any) -> Iterator[Member]:
    """Yield what goes along when *value* is pickled, most telling first."""
    if isinstance(value, FunctionType):
        yield from _function_members(value)
    elif isinstance(value, CachedFunction):
        yield label, value.__wrapped__
    elif isinstance(value, MethodType):
        yield f"`self` of the bound method `{function_name(value)}`", value.__self__
        yield label, value.__func__
    elif isinstance(value, partial):
        name = function_name(value)
        yield from ((f"argument {index} of the partial of `{name}`", each) for index, each in enumerate(value.args))
        yield from ((f"argument `{key}` of the partial of `{name}`", each) for key, each in value.keywords.items())
        yield label, value.func
    elif isinstance(value, type):
        yield from _class_members(value)
    elif isinstance(value, Mapping):
        yield from ((label, member) for pair in value.items() for member in pair)
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((label, member) for member in value)
    elif callable(dependency := getattr(value, "dependency", None)):
        yield f"provider `{function_name(dependency)}`", dependency
        yield from _attributes(label, value)
    else:
        yield from _attributes(label, value)


def _function_members(func: FunctionType) -> Iterator[Member]:
    name = function_name(func)
    for variable, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
        try:
            yield f"closure variable `{variable}` of `{name}`", cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    for variable in _global_names(func.__code__):
        if variable in func.__globals__:
            yield f"global `{variable}` used by `{name}`", func.__globals__[variable]
    positional = func.__code__.co_varnames[: func.__code__.co_argcount]
    defaults = func.__defaults__ or ()
    for parameter, default in zip(positional[len(positional) - len(defaults) :], defaults, strict=True):
        yield f"default of parameter `{parameter}` of `{name}`", default
    for parameter, default in (func.__kwdefaults__ or {}).items():
        yield f"default of parameter `{parameter}` of `{name}`", default
    for attribute, each in vars(func).items():
        yield f"attribute `{attribute}` of `{name}`", each
    for parameter, annotation in func.__annotations__.items():
        place = f"annotation of parameter `{parameter}` of `{name}`"
        yield from ((place, member) for member in getattr(annotation, "__metadata__", ()))
        yield place, annotation


def _global_names(code: CodeType) -> dict[str, None]:
    """Return the names of globals that *code* and the functions inside it use, in order."""
    names = {each.argval: None for each in dis.get_instructions(code) if each.opname.endswith("_GLOBAL")}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names


def _class_members(cls: type) -> Iterator[Member]:
    for attribute, each in vars(cls).items():
        if attribute not in _CLASS_INTERNALS:
            inner = getattr(each, "__func__", None) or getattr(each, "fget", None) or each
            yield f"attribute `{attribute}` of class `{function_name(cls)}`", inner
    for base in cls.__bases__:
        yield f"class `{function_name(base)}`", base


def _attributes(label: str, value: object) -> Iterator[Member]:
    """Yield the attributes of an instance, where nothing but these goes into its pickle."""
    cls = type(value)
    if cls.__reduce__ is not object.__reduce__ or cls.__reduce_ex__ is not object.__reduce_ex__:
        return
    yield f"class `{function_name(cls)}`", cls
    names = dict.fromkeys(getattr(value, "__dict__", ()))
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        names |= dict.fromkeys((slots,) if isinstance(slots, str) else slots)
    for name in names:
        if hasattr(value, name):
            yield f"attribute `{safe_text(name)}` of {label}", getattr(value, name)
