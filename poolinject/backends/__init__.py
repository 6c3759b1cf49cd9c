"""The backends by name; each module is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from poolinject.backends.base import Backend

if TYPE_CHECKING:
    from collections.abc import Mapping

    BackendName = str

BACKENDS: Mapping[str, tuple[str, str]] = {
    "process": ("poolinject.backends.process", "ProcessBackend"),
    "thread": ("poolinject.backends.thread", "ThreadBackend"),
    "inline": ("poolinject.backends.inline", "InlineBackend"),
    "dask": ("poolinject.backends.dask", "DaskBackend"),
    "ray": ("poolinject.backends.ray", "RayBackend"),
}


def make_backend(backend: str | Backend, start_method: str | None) -> Backend:
    """Find a backend by name.

    Raises:
        TypeError: If it is neither a name nor a backend.
        ValueError: If the name is not known, or *start_method* is for one that starts no process or was made.
        BackendUnavailableError: If the library that it needs is not installed.
    """
    if isinstance(backend, Backend):
        if start_method is not None:
            message = f"start_method {start_method!r} is of use only with backend='process', not with one that was made"
            raise ValueError(message)
        return backend
    if not isinstance(backend, str):
        message = f"backend must be a name or a Backend, not {backend!r}"
        raise TypeError(message)
    if backend not in BACKENDS:
        message = f"backend {backend!r} is not one of {', '.join(map(repr, BACKENDS))}"
        raise ValueError(message)
    module, name = BACKENDS[backend]
    made = getattr(import_module(module), name)
    if backend == "process":
        return made(start_method)  # type: ignore[no-any-return]
    if start_method is not None:
        message = f"start_method {start_method!r} is of use only with backend='process', not {backend!r}"
        raise ValueError(message)
    return made()  # type: ignore[no-any-return]
