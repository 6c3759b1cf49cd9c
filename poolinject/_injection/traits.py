"""What is true of everything below a provider, worked out once for each provider. Runs in the caller."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from fastapi.security.base import SecurityBase

from poolinject._injection.registry import identity, look_up
from poolinject._injection.signature import Declared, declared_parameters, without_partial
from poolinject._injection.validation import takes_scopes

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from fastapi import params

    from poolinject.markers import Provider


class Traits:
    """Answers for one set of overrides; a provider in a cycle counts as having no trait (the cycle is an error)."""

    def __init__(self, overrides: Mapping[Provider, Provider]) -> None:
        self._overrides = overrides
        self._scopes: dict[Hashable, bool] = {}
        self._cached: dict[Hashable, bool] = {}

    def uses_scopes(self, provider: Provider) -> bool:
        """Tell whether security scopes reach the provider or anything declared below it (overrides do not count)."""
        who = identity(provider)
        if who not in self._scopes:
            self._scopes[who] = False
            parameters = declared_parameters(provider) or ()
            self._scopes[who] = (
                isinstance(inspect.unwrap(without_partial(provider)), SecurityBase)
                or any(takes_scopes(parameter) and not parameter.depends for parameter in parameters)
                or any(self._asks_for_scopes(depends, child) for depends, child in _below(parameters))
            )
        return self._scopes[who]

    def _asks_for_scopes(self, depends: params.Depends, child: Provider) -> bool:
        return bool(getattr(depends, "scopes", None)) or self.uses_scopes(child)

    def is_cached_below(self, provider: Provider) -> bool:
        """Tell whether nothing below the provider, overrides followed, is declared ``use_cache=False``."""
        who = identity(provider)
        if who not in self._cached:
            self._cached[who] = True
            self._cached[who] = all(
                depends.use_cache and self.is_cached_below(look_up(self._overrides, child) or child)
                for depends, child in _below(declared_parameters(provider) or ())
            )
        return self._cached[who]


def _below(parameters: tuple[Declared, ...]) -> list[tuple[params.Depends, Provider]]:
    found = []
    for parameter in parameters:
        for depends in parameter.depends[:1]:
            child = depends.dependency or parameter.annotation
            if callable(child):
                found.append((depends, child))
    return found
