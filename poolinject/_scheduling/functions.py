"""The functions of a pool: planned, packed and numbered, so that each reaches a worker once. Runs in the caller."""

from __future__ import annotations

import itertools
import threading
import warnings
from typing import TYPE_CHECKING, Any

from poolinject._injection.planner import Planner
from poolinject._injection.registry import Registry, identity, keep
from poolinject._injection.signature import without_partial
from poolinject._transport.functions import modules_of, pack_function
from poolinject._transport.messages import Load

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from poolinject._injection.application import Application
    from poolinject._injection.plan import Call, Plan
    from poolinject.markers import Lifetime, Provider

MOST_RECENT = 64  # plans of ``__main__``, whose functions may hold on to much
LITERALS = frozenset((str, int, bool, type(None)))


class Functions:
    """Plans by function, numbers by what the plan packs to.

    A function is packed for every run: what it refers to by value may have changed since the last one. Where nothing
    has, the pack is the same and so is the number. Plans are kept, but not those of ``__main__``, where running a
    notebook cell again may change what an annotation means: they are made anew, and numbered anew if they differ.
    """

    def __init__(
        self,
        lifetimes: Mapping[Provider, Lifetime],
        overrides: Mapping[Provider, Provider],
        application: Application | None = None,
        *,
        by_reference: bool,
    ) -> None:
        self._application, self._by_reference = application, by_reference
        self._planner = Planner(Registry(), lifetimes, overrides, application)
        self._overrides = self._planner.overrides
        self._seen: dict[Provider, Provider] = {}
        self._plans: dict[Hashable, tuple[Plan, int]] = {}
        self._recent: dict[Hashable, tuple[Plan, int]] = {}  # of those that are made anew
        self._numbers: dict[bytes, int] = {}
        self._counter = itertools.count()
        self._warned: set[Hashable] = set()
        self._lock = threading.Lock()

    def plan(self, function: Provider, call: Call) -> Plan:
        """Plan a function, or give the plan that was made before.

        Raises:
            PlanError: If anything is declared wrongly.
        """
        with self._lock:
            if self._seen != self._overrides:
                self._plans.clear()
                self._seen = dict(self._overrides)
            key = (call, identity(function))
            known = self._plans.get(key)
            if known is not None:
                return known[0]
            plan = self._planner.plan_get(function) if call == "get" else self._planner.plan(function, call)
            if getattr(without_partial(function), "__module__", "__main__") != "__main__":
                keep(self._plans, key, (plan, next(self._counter)))
            self._warn_of_unmatched()
            return plan

    def load(self, plan: Plan) -> Load:
        """Pack a plan for the workers.

        Raises:
            TransportError: If something in it cannot be pickled; it names the thing.
        """
        if self._by_reference:
            return Load(self._number_of(plan), plan.name, plan=plan)
        blob = pack_function(plan.function, plan)
        with self._lock:
            number = self._numbers.get(blob.digest)
            if number is None:
                number = keep(self._numbers, blob.digest, next(self._counter))
        return Load(number, plan.name, blob=blob.data)

    def modules(self, plans: Sequence[Plan]) -> list[str]:
        """Name the modules that workers import for these plans; none where they share the caller's."""
        if self._by_reference:
            return []
        modules = modules_of(function for plan in plans for function in (plan.function, *plan.providers))
        if self._application is not None:
            modules.append(self._application.module)
        return list(dict.fromkeys(modules))

    def _number_of(self, plan: Plan) -> int:
        """Give the number of a plan that is kept, or of a recent one that is the same; else a new one."""
        key = (plan.call, identity(plan.function))
        with self._lock:
            for kept in (self._plans.get(key), self._recent.get(key)):
                if kept is not None and _is_same(kept[0]._replace(function=plan.function), plan):
                    return kept[1]
            self._recent.pop(key, None)
            return keep(self._recent, key, (plan, next(self._counter)), MOST_RECENT)[1]

    def _warn_of_unmatched(self) -> None:
        for provider in self._planner.unmatched():
            if identity(provider) not in self._warned:
                self._warned.add(identity(provider))
                name = getattr(provider, "__qualname__", repr(provider))
                message = f"the override of {name} matches nothing: no function of this pool depends on it so far"
                warnings.warn(message, UserWarning, stacklevel=6)


def _is_same(one: Any, other: Any) -> bool:
    """Tell whether two plans have the same objects in the same places; none of them is asked."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return type(one) in LITERALS and bool(one == other)
