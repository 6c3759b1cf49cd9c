"""Builds plans from ``Depends`` declarations. Runs in the caller, starts nothing, calls no provider.

FastAPI decides the order and the cache while it solves; both depend on the declarations alone, so they are decided
here once: a second use of a cached dependency becomes a reference to the step that made it. What ``use_cache=False``
makes below a cached dependency is made again all the same, as FastAPI does.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastapi import params

from poolinject._injection import defaults, validation
from poolinject._injection.plan import (
    Argument,
    Branch,
    Call,
    Fetch,
    FromContext,
    FromItem,
    FromScopes,
    FromShared,
    FromStep,
    Plan,
    Shared,
    Source,
    Step,
)
from poolinject._injection.registry import Registry, identity, look_up
from poolinject._injection.signature import EMPTY, Declared, declared_parameters, kind_of, name_of, takes_only_keywords
from poolinject._injection.signature import POSITIONAL as POSITIONAL_KINDS
from poolinject._injection.traits import Traits
from poolinject._injection.validation import Site
from poolinject.errors import PlanError
from poolinject.markers import ItemContext, Lifetime, Provider, WorkerContext

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from poolinject._injection.application import Application


def give(value: Any) -> Any:
    """Return the dependency itself: the function of a plan that only gets one."""
    return value


class Planner:
    """Makes plans that share one registry, so that equal dependencies have equal keys in all of them.

    ``overrides`` is read anew for each plan, with those of the application below. Keys that were given and that no plan
    has used yet are in ``unmatched``.
    """

    def __init__(
        self,
        registry: Registry,
        lifetimes: Mapping[Provider, Lifetime],
        overrides: Mapping[Provider, Provider],
        application: Application | None = None,
    ) -> None:
        self.registry, self.lifetimes = registry, validation.Lifetimes(lifetimes)
        self._given, self._application = overrides, application
        self.overrides = overrides if application is None else application.overrides_below(overrides)
        self._matched: set[Hashable] = set()

    def plan(self, function: Provider, call: Call) -> Plan:
        """Build and validate the plan of a function.

        Raises:
            PlanError: If anything is declared wrongly, with the path to it.
        """
        try:
            return self._draft().function(function, call)
        except RecursionError:
            raise _too_deep(function) from None

    def plan_get(self, provider: Provider) -> Plan:
        """Build the plan that makes one dependency, as ``Depends(provider)`` would."""
        try:
            return self._draft().dependency(provider)
        except RecursionError:
            raise _too_deep(provider) from None

    def unmatched(self) -> list[Provider]:
        """Give the overridden providers that no plan so far depends on."""
        return [provider for provider in self._given if identity(provider) not in self._matched]

    def _draft(self) -> Draft:
        return Draft(self.registry, self.lifetimes, dict(self.overrides), self._matched, self._application)


def _too_deep(function: Provider) -> PlanError:
    limit = sys.getrecursionlimit()
    remedy = f"sys.setrecursionlimit, which is at {limit:,} here, can allow more"
    return PlanError((name_of(function),), "its dependencies are nested too deeply to follow", remedy)


class Draft:
    """One plan while it is being built."""

    def __init__(
        self,
        registry: Registry,
        lifetimes: validation.Lifetimes,
        overrides: Mapping[Provider, Provider],
        matched: set[Hashable],
        application: Application | None,
    ) -> None:
        self.registry, self.lifetimes, self.overrides, self.matched = registry, lifetimes, overrides, matched
        self.application = application
        self.traits = Traits(overrides)
        self.leading: tuple[str, ...] = ()
        self.steps: list[Step | Fetch] = []
        self.cache: dict[int, FromStep] = {}  # an item's cache, as FastAPI would have it at this point
        self.shared: dict[int, Shared] = {}
        self.shared_uses: dict[Hashable, FromShared] = {}

    def function(self, function: Provider, call: Call) -> Plan:
        """Plan the call of a function for an item."""
        parameters = declared_parameters(function)
        site = Site((name_of(function),), (identity(function),), call, (), (), "item", closes_late=False)
        validation.refuse_generator(function, site.path)
        leading = _leading(parameters, call)
        self.leading = tuple(parameter.name for parameter in leading)
        if call == "map" and parameters is not None and not takes_item(parameters, leading):
            raise validation.takes_no_item(site.path)
        first = leading[0] if leading else None
        by_name = first is not None and not first.by_position and takes_only_keywords(function)
        inside = first is not None and (by_name or first is not (parameters or leading)[0])
        variadic = parameters is None or any(p.kind is p.kind.VAR_POSITIONAL for p in parameters)
        rest = [parameter for parameter in parameters or () if inside or parameter not in leading]
        in_place = not variadic or call == "broadcast" or (call == "map" and bool(leading))
        arguments, branches = self.arguments(rest, site, in_place=in_place)
        spares = tuple(defaults.spare(parameter) for parameter in leading if parameter.default is not EMPTY)
        return Plan(
            name=name_of(function),
            call=call,
            function=function,
            kind=kind_of(function),
            leading=self.leading,
            item_inside=inside,
            required=len(leading) - len(spares),
            variadic=variadic,
            spares=spares,
            steps=tuple(self.steps),
            shared=tuple(self.shared.values()),
            arguments=arguments,
            tree=Branch(_signature(function, self.leading, call), branches),
        )

    def dependency(self, provider: Provider) -> Plan:
        """Plan a call that gives one dependency."""
        site = Site((name_of(provider),), (), "get", (), (), "item", closes_late=False)
        source, branch = self.depend(params.Depends(provider), EMPTY, site)
        return Plan(
            name=name_of(provider),
            call="get",
            function=give,
            kind="call",
            leading=(),
            item_inside=False,
            required=0,
            variadic=False,
            spares=(),
            steps=tuple(self.steps),
            shared=tuple(self.shared.values()),
            arguments=(Argument(None, source),),
            tree=branch,
        )

    def arguments(
        self, parameters: list[Declared], site: Site, *, in_place: bool = True
    ) -> tuple[tuple[Argument, ...], tuple[Branch, ...]]:
        """Decide what fills each parameter, in signature order: by position up to the first that cannot be.

        ``in_place`` says that the parameters before these, if any, are all filled by position, each exactly once.
        """
        arguments: list[Argument] = []
        branches: list[Branch] = []
        for parameter in parameters:
            below = replace(site, path=(*site.path, parameter.name))
            if parameter.variadic:
                validation.refuse_variadic(parameter, below.path)
                continue
            depends = self.depends_of(parameter, below)
            if depends is not None:
                source, branch = self.depend(depends, parameter.annotation, below)
                branches.append(branch._replace(label=f"{parameter.name}: {branch.label}"))
            else:
                source = self.plain(parameter, below)
            only_by_position = parameter.kind is parameter.kind.POSITIONAL_ONLY
            is_passed = only_by_position or not defaults.is_left_to_python(source, parameter)
            in_place = in_place and is_passed and parameter.by_position
            if is_passed:
                arguments.append(Argument(None if only_by_position or in_place else parameter.name, source))
        return tuple(arguments), tuple(branches)

    def depends_of(self, parameter: Declared, site: Site) -> params.Depends | None:
        """Give the ``Depends`` of a parameter: its own, or that of the application's request."""
        if parameter.depends:
            return validation.only_one(parameter, site.path)
        if self.application is None or not validation.takes_request(parameter):
            return None
        self.application.refuse_in_lifespan(site.path)
        if site.holder != "item":  # the lifespan has its own place in the item, and so its own name in errors
            self.depend(self.application.lifespan, EMPTY, replace(site, holder="item"))
        return self.application.request

    def plain(self, parameter: Declared, site: Site) -> Source:
        """Decide what fills a parameter without ``Depends``."""
        if parameter.annotation is ItemContext:
            self.lifetimes.refuse_item(site, "ItemContext")
            return FromContext("item")
        if parameter.annotation is WorkerContext:
            return FromContext("worker")
        if validation.takes_scopes(parameter):
            return FromScopes(site.scopes)
        validation.refuse_request(parameter, site)
        if parameter.name in self.leading:
            self.lifetimes.refuse_item(site, f"the item parameter {parameter.name!r}")
            return FromItem(self.leading.index(parameter.name))
        if parameter.default is EMPTY:
            raise validation.nothing_fills(parameter, site, self.leading)
        return defaults.constant(parameter.default)

    def depend(self, depends: params.Depends, annotation: object, site: Site) -> tuple[Source, Branch]:
        """Plan one use of a dependency and everything below it that is not there yet."""
        declared = validation.provider_of(depends, annotation, site.path)
        used = look_up(self.overrides, declared)
        if used is None:
            used = declared
            validation.refuse_type(declared, site.path)
        else:
            self.matched.add(identity(declared))
        own = tuple(getattr(depends, "scopes", None) or ())
        lifetime = self.lifetimes.of(declared, depends, site)
        asked = getattr(depends, "scope", None)
        closes = asked or ("request" if "generator" in kind_of(declared) else "")
        if asked == "function" and site.closes_late:
            raise validation.closes_too_early(site.path, name_of(declared))
        path = (*site.path[:-1], name_of(used)) if site.stack else site.path
        validation.refuse_cycle(identity(used), site.stack, path)
        scopes = _scopes(site.asked_scopes, own)
        below = Site(
            path=path,
            stack=(*site.stack, identity(used)),
            call=site.call,
            scopes=scopes,
            asked_scopes=scopes if self.overrides else (*site.asked_scopes, *own),  # as FastAPI: any override counts
            holder=lifetime,
            closes_late=asked != "function" and "generator" in kind_of(used),
        )
        of_cache = tuple(sorted(set(scopes))) if own or self.traits.uses_scopes(declared) else ()
        use = ("use", identity(declared), of_cache, closes)
        if lifetime == "item":
            return self.item_step(used, depends, use, below)
        source, branch = self.shared_node(used, depends, use, below)
        return (self.fetch(source), branch) if site.holder == "item" else (source, branch)

    def item_step(
        self, used: Provider, depends: params.Depends, use: tuple[Hashable, ...], site: Site
    ) -> tuple[Source, Branch]:
        key = self.registry.number(use)
        label = f"{name_of(used)} [item{_closing(use)}]"
        cached = depends.use_cache and self.cache.get(key)
        if cached and self.traits.is_cached_below(used):
            return cached, Branch(label + " (the same)")
        arguments, branches = self.arguments(list(declared_parameters(used) or ()), site)
        cached = depends.use_cache and self.cache.get(key)
        if cached:
            return cached, Branch(label + " (the same)", branches)
        slot = len(self.steps)
        closes = "function" if use[-1] == "function" else "request"
        step = Step(slot, key, depends.use_cache, name_of(used), used, kind_of(used), arguments, closes)  # type: ignore[arg-type]
        self.steps.append(step)
        self.cache.setdefault(key, FromStep(slot))
        return FromStep(slot), Branch(label, branches)

    def shared_node(
        self, used: Provider, depends: params.Depends, use: tuple[Hashable, ...], site: Site
    ) -> tuple[FromShared, Branch]:
        label = f"{name_of(used)} [{site.holder}]"
        declared_here = self.lifetimes.declared(use[1], depends) is not None
        cacheable = depends.use_cache or declared_here  # a declared lifetime means one instance, whatever the flag
        known = self.shared_uses.get((*use, site.holder)) if cacheable else None
        if known is not None:
            return known, Branch(label + " (the same)")
        arguments, branches = self.arguments(list(declared_parameters(used) or ()), site)
        made_of = tuple(argument.source.key for argument in arguments if isinstance(argument.source, FromShared))
        structure: Hashable = (use, identity(used), site.holder, made_of)
        if not cacheable:
            structure = (structure, site.stack, site.path)
        source = FromShared(self.registry.number(structure), site.holder)
        node = Shared(source.key, name_of(used), site.holder, used, kind_of(used), arguments)
        self.shared.setdefault(source.key, node)
        if cacheable:
            self.shared_uses[*use, site.holder] = source
        return source, Branch(label, branches)

    def fetch(self, source: FromShared) -> Source:
        cached = self.cache.get(source.key)
        if cached is None:
            cached = self.cache[source.key] = FromStep(len(self.steps))
            self.steps.append(Fetch(cached.slot, self.shared[source.key].name, source))
        return cached


def takes_item(parameters: tuple[Declared, ...], leading: list[Declared]) -> bool:
    """Tell whether an item can reach the function at all."""
    takes_all = any(parameter.kind is parameter.kind.VAR_POSITIONAL for parameter in parameters)
    return bool(leading) or takes_all or any(parameter.annotation is ItemContext for parameter in parameters)


def _leading(parameters: tuple[Declared, ...] | None, call: Call) -> list[Declared]:
    """Find the parameters that the item fills: for ``map`` one, else all up to the first that is injected."""
    if call == "broadcast" or not parameters:
        return []
    leading: list[Declared] = []
    for parameter in parameters:
        plain = parameter.kind in POSITIONAL_KINDS and not validation.is_injected(parameter)
        if not plain and (leading or call != "map"):
            break
        if plain:
            leading.append(parameter)
        if leading and call == "map":
            break
    return leading


def _scopes(asked: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    """Add the scopes of one use that were not asked for before; FastAPI keeps the repeats among those that were."""
    return (*asked, *(scope for scope in dict.fromkeys(own) if scope not in asked))


def _closing(use: tuple[Hashable, ...]) -> str:
    return f", closed with the {use[-1]}" if use[-1] == "function" else ""


def _signature(function: Provider, leading: tuple[str, ...], call: Call) -> str:
    return f"{name_of(function)}({', '.join(leading)})" + (" on every worker" if call == "broadcast" else "")
