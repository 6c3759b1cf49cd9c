"""The picklers, and the choice between "by reference" and "by value". Runs in the caller and in workers.

By reference means: by module and name, which a worker imports. Workers do not import the caller's main module, so
what lives there, or in a module that no search would find, goes by value through cloudpickle.
"""

from __future__ import annotations

import copyreg
import datetime as dt
import enum
import functools
import io
import pickle
import sys
import weakref
from collections import ChainMap
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, ClassVar, NamedTuple

import cloudpickle

from poolinject._atoms import ATOMS, is_atom, is_named_tuple
from poolinject._references import follows_reference, names_importable

Buffer = bytes | bytearray | memoryview

PROTOCOL = 5

CachedFunction = type(functools.lru_cache(int))
MOST_NAMES = 64  # in a batch; each of its members is given all of them
PLAIN_CLASSES = ATOMS | {dt.datetime, dt.time, dt.timezone}

_classes: weakref.WeakValueDictionary[object, type] = weakref.WeakValueDictionary()  # by tracking number, both ways
_own_classes: weakref.WeakSet[type] = weakref.WeakSet()  # sent from here by value
_adopted_classes: weakref.WeakSet[type] = weakref.WeakSet()  # received here by value


class ForeignObjectError(Exception):
    """Ends a pickle early: an object that is no builtin primitive, or that must not go by reference."""


class PrimitivePickler(pickle.Pickler):
    """Accepts builtin primitives, other atoms and their containers alone; C asks only for what it has no opcode for."""

    def reducer_override(self, obj: object) -> Any:
        """Leave an atom or named tuple to plain pickle, with its class and time zone, or raise: nobody reads a text."""
        cls: Any = obj if isinstance(obj, type) else type(obj)
        if cls in PLAIN_CLASSES:
            return NotImplemented
        if (is_named_tuple(cls) or isinstance(obj, enum.EnumMeta) or is_atom(obj)) and follows_reference(obj):
            return NotImplemented
        if _makes_numpy_scalars(obj):
            return NotImplemented
        raise ForeignObjectError


class ReferencePickler(pickle.Pickler):
    """Plain pickle that refuses references which a worker could not follow."""

    def reducer_override(self, obj: Any) -> Any:
        """Leave *obj* to plain pickle, or refuse it."""
        if not follows_reference(obj):
            raise ForeignObjectError(f"{describe_type(obj)} cannot be imported by a worker")
        return NotImplemented


class Tables(NamedTuple):
    """What the members of a batch have in common, by id: what goes by value, and what was named by one, or by two."""

    shared: dict[int, tuple[int, Any]]
    met: dict[int, object]
    named: dict[int, object]


class SharingPickler(pickle.Pickler):
    """Plain pickle for one member of a batch; classes and functions that go by value are put into a shared table.

    So the items of a batch carry a class of the main module once, not once each. What a second member names by
    reference is noted, so that those after it can do without looking it up.
    """

    def __init__(
        self,
        file: io.BytesIO,
        tables: Tables,
        reference: Callable[[int], object],
        buffer_callback: Callable[[pickle.PickleBuffer], bool] | None = None,
    ) -> None:
        super().__init__(file, PROTOCOL, buffer_callback=buffer_callback)
        self.tables, self.reference = tables, reference

    def reducer_override(self, obj: Any) -> Any:
        """Leave *obj* to plain pickle, replace it by its place in the table, or refuse it."""
        if isinstance(obj, (type, FunctionType, CachedFunction)):
            if not is_found_by_name(obj):
                shared = self.tables.shared
                index, _ = shared.setdefault(id(obj), (len(shared), obj))
                return self.reference, (index,)
            if type(obj) not in copyreg.dispatch_table:  # else its metaclass has a say
                self._note(obj)
        elif isinstance(obj, BuiltinFunctionType):
            if isinstance(obj.__self__, ModuleType):
                self._note(obj)
        elif is_numpy_dtype(obj):
            self._note(obj)
        elif type(obj).__module__ == "typing" and not follows_reference(obj):
            raise ForeignObjectError  # a type variable goes by its own module and name
        return NotImplemented

    def _note(self, obj: object) -> None:
        _, met, named = self.tables
        if id(obj) not in met:
            met[id(obj)] = obj
        elif len(named) < MOST_NAMES:
            named[id(obj)] = obj


def reduce_cached_function(function: Any) -> Any:
    """Give the name where a worker finds it, else what makes another one, which has nothing in its cache."""
    if is_found_by_name(function):
        return function.__qualname__
    state = {name: value for name, value in vars(function).items() if name != "__wrapped__"}
    return make_cached_function, (function.__wrapped__, function.cache_parameters()), state


def reduce_cached_property(cached: Any) -> Any:
    """Leave its lock behind (before Python 3.12), and keep its name, which a class made in steps does not tell it."""
    return make_cached_property, (cached.func, cached.attrname)


def reduce_weak_keys(dictionary: Any) -> Any:
    """Leave the weak references behind: what has the same keys makes others."""
    return weakref.WeakKeyDictionary, (dict(dictionary),)


class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no annotations
    """cloudpickle, except that a class which comes home is left as it is, and that more can go.

    cloudpickle makes another class, which its metaclass and base classes hear of, before it finds the original by its
    tracking number; and then it sets every attribute of that anew. Classes keep their slots, and code the name of its
    file, which tracebacks need; cloudpickle takes it away since 3.1.3.
    """

    dispatch_table: ClassVar[ChainMap[type, Callable[[Any], Any]]] = ChainMap(
        {
            CachedFunction: reduce_cached_function,
            functools.cached_property: reduce_cached_property,
            weakref.WeakKeyDictionary: reduce_weak_keys,  # in functions of ``functools.singledispatch``
        },
        cloudpickle.Pickler.dispatch_table,
    )

    def reducer_override(self, obj: Any) -> Any:
        """Let cloudpickle reduce *obj*, and put the watch on a class before its state is set."""
        if isinstance(obj, CodeType):
            return make_code, (*self.dispatch_table[CodeType](obj), obj.co_filename)
        if isinstance(obj, (type, FunctionType)):
            _mark_by_value(obj)
        reduced = super().reducer_override(obj)
        if isinstance(obj, type) and isinstance(reduced, tuple) and len(reduced) == 6:  # noqa: PLR2004 - with a setter
            make, arguments, state, _, _, setter = reduced
            if obj not in _adopted_classes:
                _own_classes.add(obj)
                _classes[arguments[-2]] = obj
            if "__slots__" in vars(obj) and not issubclass(obj, (enum.Enum, tuple)):  # which are made in another way
                arguments[3]["__slots__"] = vars(obj)["__slots__"]  # among what the empty class is made with
            return make_class, (make, *arguments), (setter, state), None, None, set_class_state
        return reduced


def is_numpy_dtype(obj: Any) -> bool:
    """Tell whether an object is one of numpy's own element types, which nobody can change."""
    return type(obj).__module__ == "numpy.dtypes" and obj.isbuiltin == 1


def _makes_numpy_scalars(obj: Any) -> bool:
    """Tell whether an object is what numpy's scalars are pickled with: a function, their type, and its class."""
    if isinstance(obj, BuiltinFunctionType):
        return obj.__name__ == "scalar" and (obj.__module__ or "").startswith("numpy.")
    return is_numpy_dtype(obj) or obj is getattr(sys.modules.get("numpy"), "dtype", ForeignObjectError)


def is_found_by_name(obj: Any) -> bool:
    """Tell whether a worker finds a class or function by its module and name."""
    return follows_reference(obj) and "<" not in obj.__qualname__


def make_cached_function(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Make a function whose cache is as large as that of another one."""
    return functools.lru_cache(**parameters)(function)


def make_cached_property(function: Callable[[Any], Any], name: str | None) -> Any:
    """Make a property that is kept under a name."""
    made = functools.cached_property(function)
    if name is not None:
        made.__set_name__(object, name)
    return made


def make_class(make: Callable[..., type], *arguments: Any) -> type:
    """Give the class with a tracking number, or make it, still empty."""
    found = _classes.get(arguments[-2])
    if found is None:
        found = _classes[arguments[-2]] = make(*arguments)
    return found


def make_code(make: Callable[..., CodeType], arguments: tuple[Any, ...], filename: str) -> CodeType:
    """Make code as cloudpickle does, with the name of its file."""
    return make(*arguments).replace(co_filename=filename)


def set_class_state(cls: type, setter_and_state: tuple[Callable[[type, Any], object], Any]) -> None:
    """Fill a class received by value, unless it was defined here."""
    if cls in _own_classes:
        return
    _adopted_classes.add(cls)
    setter, state = setter_and_state
    setter(cls, state)


def dumps_by_reference(obj: object) -> bytes:
    """Pickle plainly.

    Raises:
        ForeignObjectError: If a worker could not follow one of the references.
        BaseException: Whatever pickle or the object itself raises.
    """
    file = io.BytesIO()
    ReferencePickler(file, PROTOCOL).dump(obj)
    return file.getvalue()


def dumps_by_value(obj: object) -> bytes:
    """Pickle with cloudpickle; raises whatever it or the object itself raises."""
    file = io.BytesIO()
    ValuePickler(file, PROTOCOL).dump(obj)
    return file.getvalue()


def dumps(obj: object) -> bytes:
    """Pickle plainly where a worker can follow it, else by value; raises as `dumps_by_value` does."""
    try:
        return dumps_by_reference(obj)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: S110, BLE001 - the second pickler has the last word
        pass
    return dumps_by_value(obj)


def _mark_by_value(obj: Any) -> None:
    """Tell cloudpickle, which takes every loaded module for importable, about one that is not."""
    name = getattr(obj, "__module__", None)
    if type(name) is str and name in sys.modules and not names_importable(name) and name != "__main__":
        cloudpickle.register_pickle_by_value(sys.modules[name])


def describe_type(obj: object) -> str:
    """Say what *obj* is by its type's full name, or its own where it is a class or function."""
    named = obj if isinstance(obj, (type, FunctionType)) else type(obj)
    kind = "function" if isinstance(obj, FunctionType) else "class" if isinstance(obj, type) else "object of type"
    return f"{kind} `{full_name(named)}`"


def full_name(named: type | FunctionType) -> str:
    """Return module and qualified name; builtins go without their module."""
    return named.__qualname__ if named.__module__ == "builtins" else f"{named.__module__}.{named.__qualname__}"


def describe_error(error: BaseException) -> str:
    """Return type and text of *error* in one line of bounded length, also where its ``__str__`` fails."""
    return f"{type(error).__name__}: {safe_text(error)}"


def safe_text(value: object, convert: Callable[[object], str] = str, limit: int = 2000) -> str:
    """Return ``convert(value)`` cut to *limit* characters, or a word about its failure; never raises."""
    try:
        text = convert(value)
    except BaseException as error:  # noqa: BLE001 - user code may raise anything
        return f"<{type(value).__name__}; its {convert.__name__} failed with {type(error).__name__}>"
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
