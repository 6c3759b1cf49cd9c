"""Batch execution with FastAPI's dependencies: ``InjectedPool.map(func, items)``, cleaned up on every worker.

A name is imported when it is first used: a worker, and a module of the user's that only declares dependencies, do
without the pool.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from poolinject._injection.plan_view import PlanView
    from poolinject._injection.resolver import Resolver
    from poolinject._scheduling.reports import CleanupReport, RunReport
    from poolinject._scheduling.retries import RetryPolicy
    from poolinject._transport.messages import Failure, Outcome, Success
    from poolinject.backends.base import Backend, WorkerInfo
    from poolinject.errors import (
        BackendUnavailableError,
        CleanupError,
        DependencyCycleError,
        ItemTimeoutError,
        LifetimeError,
        PlanError,
        PoolClosedError,
        PoolInjectError,
        TransportError,
        WorkerLostError,
    )
    from poolinject.markers import Depends, ItemContext, WorkerContext
    from poolinject.pool import InjectedPool

__all__ = [
    "Backend",
    "BackendUnavailableError",
    "CleanupError",
    "CleanupReport",
    "DependencyCycleError",
    "Depends",
    "Failure",
    "InjectedPool",
    "ItemContext",
    "ItemTimeoutError",
    "LifetimeError",
    "Outcome",
    "PlanError",
    "PlanView",
    "PoolClosedError",
    "PoolInjectError",
    "Resolver",
    "RetryPolicy",
    "RunReport",
    "Success",
    "TransportError",
    "WorkerContext",
    "WorkerInfo",
    "WorkerLostError",
]

_NAMES = {
    "_injection.plan_view": ["PlanView"],
    "_injection.resolver": ["Resolver"],
    "_scheduling.reports": ["CleanupReport", "RunReport"],
    "_scheduling.retries": ["RetryPolicy"],
    "_transport.messages": ["Failure", "Outcome", "Success"],
    "backends.base": ["Backend", "WorkerInfo"],
    "errors": [name for name in __all__ if name.endswith("Error")],
    "markers": ["Depends", "ItemContext", "WorkerContext"],
    "pool": ["InjectedPool"],
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = {"backends", "errors", "markers", "pool"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value  # so that it is asked for once
        return value
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    hidden = (name for name in globals() if name.startswith("_"))
    return sorted({*__all__, *_MODULES, *hidden})
