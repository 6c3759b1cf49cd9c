"""Checks of what users pass, each with the name of the option and what it takes."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, TypedDict, get_args

from poolinject._injection.application import Application
from poolinject._injection.async_backends import check_available
from poolinject._injection.signature import kind_of
from poolinject._scheduling.progress import Progress, check_progress
from poolinject._scheduling.recycling import Limits
from poolinject._scheduling.retries import RetryPolicy, as_policy, without_lost
from poolinject._scheduling.runs import RunOptions
from poolinject._scheduling.shutdown import MODES
from poolinject._transport.messages import Failure
from poolinject.backends.base import Capabilities
from poolinject.markers import AsyncBackend

Delivery: TypeAlias = Literal["at_least_once", "at_most_once"]
OnError: TypeAlias = "Literal['raise', 'return'] | Callable[[Failure], Any]"

DELIVERIES = get_args(Delivery)


def workers(count: int | None, capabilities: Capabilities) -> int:
    """Give the number of workers, by default that of the cores that this process may use; 0: all that there will be.

    Where items run in the caller there is one, whatever was asked for.
    """
    if count is not None:
        count = _count("workers", count)
    if capabilities.runs_in_caller:
        return 1
    if count is not None:
        return count
    if capabilities.grows:
        return 0
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable is not None else os.cpu_count() or 1


def at_least_one(name: str, count: int | None) -> int | None:
    """Check a count that may be left out."""
    return None if count is None else _count(name, count)


def limits(items: int | None, memory: int | None, backend: str, capabilities: Capabilities) -> Limits:
    """Check what a worker may do before it is recycled, and that the backend can do that."""
    for name, value in (("max_items_per_worker", items), ("max_worker_memory", memory)):
        if at_least_one(name, value) is not None and not capabilities.recycles:
            message = (
                f"{name}={value} needs workers that end and are replaced, which backend {backend!r} has not: "
                f"use backend='process', or leave {name} out"
            )
            raise ValueError(message)
    return Limits(items, memory)


def _count(name: str, count: object) -> int:
    if not isinstance(count, int) or isinstance(count, bool):
        message = f"{name} must be an int, not {count!r}"
        raise TypeError(message)
    if count < 1:
        message = f"{name} must be at least 1, not {count}"
        raise ValueError(message)
    return count


def seconds(name: str, value: Any) -> float:
    """Check a duration."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        message = f"{name} must be a number of seconds, not {value!r}"
        raise TypeError(message)
    if value != value or value < 0:  # noqa: PLR0124 - an int may be too large for ``math.isnan``
        message = f"{name} must not be negative, but is {value}"
        raise ValueError(message)
    return math.inf if value > sys.float_info.max else float(value)


LONGEST_TIMEOUT = 1e9  # seconds; 31 years


def timeout(value: float | None, backend: str, *, times_out: bool) -> float | None:
    """Check a time limit for items; ``None`` where it never comes."""
    if value is None:
        return None
    limit = seconds("timeout", value)
    if limit == 0:
        message = "timeout must be more than 0 seconds: leave it out for no limit"
        raise ValueError(message)
    if not times_out:
        message = (
            f"backend {backend!r} cannot keep a timeout, because nothing can end what it runs: "
            "use backend='process', or give the function a limit of its own"
        )
        raise ValueError(message)
    return limit if limit <= LONGEST_TIMEOUT else None


def lifetimes(declared: Mapping[Any, Any] | None) -> Mapping[Any, Any]:
    """Check that it is a mapping; what it says is checked where it is read."""
    return _mapping("lifetimes", "lifetime", declared)


def overrides(replacements: Mapping[Any, Any] | None) -> Mapping[Any, Any]:
    """Check that both sides can be called; give the mapping itself, which may change between runs."""
    checked = _mapping("overrides", "provider", replacements)
    for pair in checked.items():
        _providers("overrides", pair)
    return checked


def application(name: str | None, capabilities: Capabilities) -> Application | None:
    """Import the application, if there is one, and check that workers can import it too."""
    if name is None:
        return None
    imported = Application(name)
    if imported.module == "__main__" and not capabilities.shares_memory:
        message = f"app={name!r}: worker processes have another __main__. Put the application into a module"
        raise ValueError(message)
    return imported


ASYNC_BACKENDS = get_args(AsyncBackend)


def async_backend(name: AsyncBackend) -> AsyncBackend:
    """Check that there is such an event loop, and that it can be imported here.

    Raises:
        ValueError: If there is not.
        BackendUnavailableError: If its library is not installed.
    """
    if name not in ASYNC_BACKENDS:
        message = f"async_backend {name!r} is not one of {', '.join(map(repr, ASYNC_BACKENDS))}"
        raise ValueError(message)
    check_available(name)
    return name


def _mapping(name: str, target: str, mapping: Any) -> Mapping[Any, Any]:
    if mapping is None:
        return {}
    if not isinstance(mapping, Mapping):
        message = f"{name} must be a mapping from provider to {target}, not {mapping!r}"
        raise TypeError(message)
    return mapping


def warm(providers: Iterable[Any]) -> tuple[Any, ...]:
    """Check that all can be called."""
    if not isinstance(providers, Iterable):
        message = f"warm must be an iterable of providers, not {providers!r}"
        raise TypeError(message)
    return _providers("warm", tuple(providers))


def _providers(name: str, providers: tuple[Any, ...]) -> tuple[Any, ...]:
    for provider in providers:
        if not callable(provider):
            message = f"{name}: {provider!r} is not a provider: it cannot be called"
            raise TypeError(message)
    return providers


def mode(name: str) -> None:
    """Check a mode of shutdown."""
    if name not in MODES:
        message = f"mode {name!r} is not one of {', '.join(map(repr, MODES))}"
        raise ValueError(message)


class OutcomeOptions(TypedDict, total=False):
    """What every run method can be asked for, by name."""

    chunksize: int | None
    progress: Progress
    retries: RetryPolicy | int | None
    timeout: float | None
    delivery: Delivery
    concurrency: int | None


class Options(OutcomeOptions, total=False):
    """What those can be asked for that do not give outcomes."""

    on_error: OnError


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call of a run method was asked for, as it was given."""

    chunksize: int | None
    progress: Progress
    on_error: OnError
    retries: RetryPolicy | int | None
    timeout: float | None
    delivery: Delivery
    concurrency: int | None = None
    awaits: ClassVar[bool] = False  # what an async on_error gives

    def apply_to(self, options: RunOptions, backend: str, capabilities: Capabilities) -> None:
        """Check it and make it options of a run.

        Raises:
            TypeError, ValueError: If any of it is wrong, or beyond the backend.
        """
        at_least_one("chunksize", self.chunksize)
        at_least_one("concurrency", self.concurrency)
        check_progress(self.progress)
        if self.on_error not in ("raise", "return") and not callable(self.on_error):
            message = f"on_error must be 'raise', 'return' or a callable, not {self.on_error!r}"
            raise ValueError(message)
        if not self.awaits and callable(self.on_error) and kind_of(self.on_error) == "coroutine":
            message = f"on_error {self.on_error!r} is async, and only the async methods (amap and so on) await it"
            raise TypeError(message)
        if self.delivery not in DELIVERIES:
            message = f"delivery must be {' or '.join(map(repr, DELIVERIES))}, not {self.delivery!r}"
            raise ValueError(message)
        options.fail_fast = self.on_error == "raise"
        options.timeout = timeout(self.timeout, backend, times_out=capabilities.times_out)
        options.retries = as_policy(self.retries)
        if self.delivery == "at_most_once":
            if not capabilities.counts_begun:
                message = (
                    f"delivery='at_most_once' is beyond backend {backend!r}: when a worker of a cluster has ended, "
                    "nobody knows which items it had begun. Use backend='process', or make the function safe to repeat"
                )
                raise ValueError(message)
            options.at_most_once, options.retries = True, without_lost(options.retries)


class AskedToAwait(Asked):
    """The same of an async run method."""

    __slots__ = ()
    awaits = True


CONCURRENCY = 16  # of coroutine functions, where nobody says otherwise
MOST_CONCURRENCY = 2048


def concurrency(asked: int | None, name: str, *, is_async: bool) -> int:
    """Say how many items of a function run beside each other on a worker.

    Raises:
        ValueError: If the function cannot, or nothing can.
    """
    if not is_async:
        if asked is not None and asked > 1:
            message = (
                f"concurrency={asked} needs a coroutine function, but {name} is a sync one: leave it out, "
                "use more workers, or write it with 'async def'"
            )
            raise ValueError(message)
        return 1
    if asked is not None and asked > MOST_CONCURRENCY:
        message = f"concurrency must be at most {MOST_CONCURRENCY}, not {asked}"
        raise ValueError(message)
    return CONCURRENCY if asked is None else asked


def iterator(items: Any) -> Iterator[Any]:
    """Begin to iterate over the input."""
    try:
        return iter(items)
    except TypeError:
        message = f"items must be iterable, not {type(items).__name__}"
        raise TypeError(message) from None
