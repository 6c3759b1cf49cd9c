"""The errors of declarations: each names the path from the function to the culprit, and what to do."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NewType

from fastapi.security import SecurityScopes
from starlette.background import BackgroundTasks
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from poolinject._injection.registry import identity, look_up
from poolinject._injection.signature import EMPTY, POSITIONAL, Declared, Unresolved, name_of, without_partial
from poolinject.errors import DependencyCycleError, LifetimeError, PlanError
from poolinject.markers import LIFETIMES, ItemContext, Lifetime, Provider, WorkerContext, check_lifetime

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from fastapi import params

    from poolinject._injection.plan import Call

CONTEXTS = (ItemContext, WorkerContext)
OF_A_REQUEST = (HTTPConnection, Response, BackgroundTasks)  # HTTPConnection: base of Request and WebSocket


@dataclass(frozen=True, slots=True)
class Site:
    """Where the planner stands: the way from the function, and what holds there."""

    path: tuple[str, ...]
    stack: tuple[Hashable, ...]
    call: Call
    scopes: tuple[str, ...]  # that ``SecurityScopes`` gets here
    asked_scopes: tuple[str, ...]  # of everything on the way, as those below get them
    holder: Lifetime
    closes_late: bool  # below a generator that is closed with the request

    @property
    def is_in_function(self) -> bool:
        """Whether this is a parameter of the function itself, for which no override can stand."""
        return len(self.path) == 2 and self.call != "get"  # noqa: PLR2004 - the function and its parameter


class Lifetimes:
    """The declared lifetimes: ``lifetimes=`` first, then ``Depends(lifetime=)``.

    In a notebook the cell that defines a provider may run again: a function of ``__main__`` that has taken the name
    of a declared one takes its lifetime too.
    """

    def __init__(self, declared: Mapping[Provider, Lifetime]) -> None:
        for provider, lifetime in declared.items():
            if not callable(provider):
                message = f"lifetimes: {provider!r} is not a provider: it cannot be called"
                raise TypeError(message)
            check_lifetime(lifetime)
        self._declared = dict(declared)
        self._by_name = {
            provider.__qualname__: lifetime for provider, lifetime in declared.items() if _is_of_main(provider)
        }

    def declared(self, who: Hashable, depends: params.Depends) -> Lifetime | None:
        """Give the declared lifetime of a provider, ``None`` where nothing is declared."""
        provider: Any = getattr(who, "call", who)
        found = look_up(self._declared, provider)
        if found is None and _is_of_main(provider):
            found = self._by_name.get(provider.__qualname__)
        return found or getattr(depends, "lifetime", None)

    def of(self, provider: Provider, depends: params.Depends, site: Site) -> Lifetime:
        """Give the lifetime of one use, that of its holder where none is declared.

        Raises:
            LifetimeError: If what depends on it lives longer.
        """
        lifetime = self.declared(identity(provider), depends) or site.holder
        if LIFETIMES.index(lifetime) < LIFETIMES.index(site.holder):
            raise LifetimeError(
                site.path,
                f"{name_of(provider)} has lifetime {lifetime!r} but what depends on it has {site.holder!r}",
                f"Give {name_of(provider)} the lifetime {site.holder!r}, or shorten that of what depends on it",
            )
        return lifetime

    def refuse_item(self, site: Site, what: str) -> None:
        """Refuse the item, or a part of it, to what outlives the item."""
        if site.holder != "item":
            raise LifetimeError(
                site.path,
                f"a dependency of lifetime {site.holder!r} cannot use {what}, which is another one for each item",
                "Declare it with lifetime 'item', or rename the parameter if its default was meant",
            )


def _is_of_main(provider: object) -> bool:
    return (
        inspect.isfunction(provider) and provider.__module__ == "__main__" and "<locals>" not in provider.__qualname__
    )


def provider_of(depends: params.Depends, annotation: object, path: tuple[str, ...]) -> Provider:
    """Find what a ``Depends`` calls: its argument, else the annotation."""
    provider = annotation if depends.dependency is None else depends.dependency
    if isinstance(provider, Unresolved):
        problem = f"the annotation {provider.text!r} cannot be evaluated ({provider.reason})"
        raise PlanError(path, problem, "Import the name at run time, or name the provider in Depends(...)")
    if provider is EMPTY:
        raise PlanError(path, "Depends() has nothing to call", "Annotate the parameter or write Depends(provider)")
    if not callable(provider):
        raise PlanError(path, f"{provider!r} cannot be called", "Give Depends a callable")
    return provider


def refuse_type(provider: Provider, path: tuple[str, ...]) -> None:
    """Refuse what only type checkers know, where no override stands in its place."""
    is_protocol = inspect.isclass(provider) and getattr(provider, "_is_protocol", False)
    if is_protocol or isinstance(provider, NewType):
        name, kind = name_of(provider), "a Protocol" if is_protocol else "a NewType"
        remedy = f"Name a provider in Depends(...), or override it: overrides={{{name}: a provider}}"
        raise PlanError(path, f"Depends() has nothing to call: {name} is {kind}", remedy)


def refuse_variadic(parameter: Declared, path: tuple[str, ...]) -> None:
    """Refuse a ``Depends`` where any number of arguments may come."""
    if parameter.depends:
        stars = "*" if parameter.kind is parameter.kind.VAR_POSITIONAL else "**"
        problem = f"a Depends cannot fill {stars}{parameter.name}"
        raise PlanError(path, problem, "Give the dependency a parameter of its own")


def only_one(parameter: Declared, path: tuple[str, ...]) -> params.Depends:
    """Give the one ``Depends`` of a parameter."""
    if len(parameter.depends) > 1:
        names = " and ".join(name_of(depends.dependency) for depends in parameter.depends)
        raise PlanError(path, f"two Depends on one parameter ({names})", "Keep one of them")
    return parameter.depends[0]


def is_injected(parameter: Declared) -> bool:
    """Tell whether a parameter of the function is filled by type or by ``Depends``, never by the item."""
    by_type = parameter.annotation in CONTEXTS or takes_scopes(parameter) or _is_of_a_request(parameter.annotation)
    return bool(parameter.depends) or by_type


def _is_of_a_request(annotation: object) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, OF_A_REQUEST)


def takes_scopes(parameter: Declared) -> bool:
    """Tell whether a parameter takes the ``SecurityScopes``, be it by the name of a subclass, as in FastAPI."""
    return inspect.isclass(parameter.annotation) and issubclass(parameter.annotation, SecurityScopes)


def takes_request(parameter: Declared) -> bool:
    """Tell whether a parameter takes a ``Request``, or the ``HTTPConnection`` that it is."""
    annotation = parameter.annotation
    is_connection = inspect.isclass(annotation) and issubclass(annotation, HTTPConnection)
    return is_connection and not issubclass(annotation, WebSocket)


def refuse_request(parameter: Declared, site: Site) -> None:
    """Refuse a parameter that only a web request could fill."""
    if _is_of_a_request(parameter.annotation):
        kind = parameter.annotation.__name__
        if site.is_in_function:
            remedy = "Take it out of the signature"
        else:
            remedy = f"Replace {_holder(site)} for the pool: {_override(site, f'that takes no {kind}')}"
        if takes_request(parameter):
            remedy += ', or, if it only leads to the application, name that: app="module:app"'
        raise PlanError(site.path, f"there is no {kind} outside a web request", remedy)


def nothing_fills(parameter: Declared, site: Site, leading: tuple[str, ...]) -> PlanError:
    """Make the error of a parameter without value."""
    reason = ""
    if isinstance(parameter.annotation, Unresolved):
        reason = f" (its annotation {parameter.annotation.text!r} cannot be evaluated: {parameter.annotation.reason})"
    elif parameter.unmarked:
        reason = f" ({name_of(parameter.unmarked[-1])} stands in its Annotated without Depends)"
    remedy = "Give it a Depends or a default"
    if site.is_in_function and site.call == "map" and parameter.kind in POSITIONAL:
        remedy += ", or use starmap of a pool, whose items are tuples that fill such parameters"
    if not site.is_in_function:
        item = f", name it like the item parameter ({', '.join(leading)})" if leading else ""
        remedy += f"{item}, or replace {_holder(site)} for the pool: {_override(site, 'that does not need it')}"
    return PlanError(site.path, f"nothing fills this parameter{reason}", remedy)


def _holder(site: Site) -> str:
    return site.path[-2]


def _override(site: Site, that: str) -> str:
    return f"overrides={{{_holder(site)}: a provider {that}}}"


def refuse_generator(function: Provider, path: tuple[str, ...]) -> None:
    """Refuse a function whose body would run when what it was given is closed.

    What it wraps does not count: the wrapper may make a list.
    """
    outer = without_partial(function)
    runs = [outer] if inspect.isclass(outer) else [outer, without_partial(getattr(outer, "__call__", None))]  # noqa: B004
    if any(map(inspect.isasyncgenfunction, runs)):
        kind, remedy = (
            "an async generator",
            "Write a coroutine function: return [value async for ...]",
        )
    elif any(map(inspect.isgeneratorfunction, runs)):
        kind, remedy = "a generator", "Return a list: return [value for ...]"
    else:
        return
    problem = f"{kind} does nothing until it is iterated, which no worker does"
    raise PlanError(path, problem, f"{remedy}; or move the loop to the caller, and give each value as an item")


def takes_no_item(path: tuple[str, ...]) -> PlanError:
    """Make the error of a function that could never see its item."""
    remedy = "Add a first parameter without Depends, or one of type ItemContext"
    return PlanError(path, "the function has no parameter for the item", remedy)


def closes_too_early(path: tuple[str, ...], name: str) -> PlanError:
    """Make the error of a ``scope="function"`` dependency below a generator that is closed later."""
    return PlanError(
        path,
        f"{name} has scope 'function' and is closed before the generator that depends on it, which has scope 'request'",
        "Give both the same scope",
    )


def refuse_cycle(who: Hashable, stack: tuple[Hashable, ...], path: tuple[str, ...]) -> None:
    """Refuse a provider that is being planned already further up."""
    if who in stack:
        problem = "the providers depend on each other in a circle"
        raise DependencyCycleError(path, problem, "Take one of these dependencies out")
