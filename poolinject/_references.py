"""What another process finds by module and name, and what it does not, so that it goes by value.

Workers do not import the caller's main module, and nobody finds a module that was made by hand.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_sent_by_value: set[str] = set()  # names of modules that workers are said not to have
_found = {"builtins"}  # names of modules that a search has found; grows


def follows_reference(obj: Any) -> bool:
    """Whether a worker can import the module that *obj*, a class, function or instance, names as its own."""
    return names_importable(getattr(obj, "__module__", None))


def names_importable(module: object) -> bool:
    """Whether that is the name of a module that a worker can import, or no name at all."""
    return type(module) is not str or module in _found or is_importable(module)


def send_by_value(module: ModuleType) -> None:
    """Treat a module, and those below it, as one that workers cannot import, from now on."""
    _sent_by_value.add(module.__name__)
    _found.difference_update([name for name in _found if _is_sent_by_value(name)])


def _is_sent_by_value(name: str) -> bool:
    return bool(_sent_by_value) and any(f"{name}.".startswith(f"{each}.") for each in _sent_by_value)


def is_importable(name: str) -> bool:
    """Whether a search in a process with this one's ``sys.path`` would find the module *name* as it is here."""
    if name in ("__main__", "__mp_main__") or _is_sent_by_value(name):
        return False
    try:
        found = name not in sys.modules or _search_finds(name)
    except Exception:  # noqa: BLE001 - user code may raise anything
        found = True  # a finder that fails: leave it to pickle
    if found:
        _found.add(name)
    return found


def _search_finds(name: str) -> bool:
    parent, _, _ = name.rpartition(".")
    if parent and not is_importable(parent):
        return False
    spec = getattr(sys.modules[name], "__spec__", None)
    if spec is None:
        return bool(parent)  # made by its parent while that was imported, or made by hand
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    for finder in sys.meta_path:
        if (again := finder.find_spec(name, path)) is not None:
            return bool(again.origin == spec.origin)
    return False
