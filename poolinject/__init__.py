"""Batch execution with FastAPI's dependencies: ``InjectedPool.map(func, items)``, cleaned up on every worker."""

from poolinject._injection.plan import PlanView
from poolinject._injection.resolver import Resolver
from poolinject._scheduling.reports import CleanupReport, RunReport
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
    "RunReport",
    "Success",
    "TransportError",
    "WorkerContext",
    "WorkerInfo",
    "WorkerLostError",
]
