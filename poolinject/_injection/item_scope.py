"""One item's dependencies, got one by one: what ``Resolver.scope`` and ``Resolver.ascope`` give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.security import SecurityScopes

from poolinject._injection import generators
from poolinject._injection.defaults import default_of
from poolinject._injection.plan import Constant, Fetch, FromContext, FromScopes, FromStep, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolinject._injection.plan import Argument, Plan, Source
    from poolinject.markers import ItemContext, WorkerContext


class OpenScope:
    """The cache and the open generators of an item; follows plans step by step, for sync and async code alike."""

    def __init__(
        self, context: ItemContext, worker: WorkerContext, shared: Callable[[Fetch], generators.Steps[Any]]
    ) -> None:
        self._context, self._worker, self._shared = context, worker, shared
        self._cache: dict[int, Any] = {}
        self._open: list[tuple[Step, Any]] = []
        self.closed = False

    def solving(self, plan: Plan) -> generators.Steps[Any]:
        """Make the dependency of a plan; what the scope has made before is used again."""
        if self.closed:
            message = "the item scope is closed"
            raise RuntimeError(message)
        values: list[Any] = []
        for step in plan.steps:
            if isinstance(step, Fetch):
                values.append((yield from self._shared(step)))
            elif step.use_cache and step.key in self._cache:
                values.append(self._cache[step.key])
            else:
                values.append((yield from self._making(step, values)))
        return self._value(plan.arguments[0].source, values)

    def _making(self, step: Step, values: list[Any]) -> generators.Steps[Any]:
        made = step.provider(*self._passed(step.arguments, values), **self._named(step.arguments, values))
        value = yield from generators.opening(made, step.kind, step.name)
        if "generator" in step.kind:
            self._open.append((step, made))
        self._cache.setdefault(step.key, value)
        return value

    def _passed(self, arguments: tuple[Argument, ...], values: list[Any]) -> list[Any]:
        return [self._value(argument.source, values) for argument in arguments if argument.name is None]

    def _named(self, arguments: tuple[Argument, ...], values: list[Any]) -> dict[str, Any]:
        return {argument.name: self._value(argument.source, values) for argument in arguments if argument.name}

    def _value(self, source: Source, values: list[Any]) -> Any:
        match source:
            case FromStep(slot):
                return values[slot]
            case Constant():
                return default_of(source)
            case FromContext(which):
                return self._context if which == "item" else self._worker
            case FromScopes(scopes):
                return SecurityScopes(list(scopes))
        message = f"{source} has no place in an item scope"
        raise AssertionError(message)

    def closing(self, error: BaseException | None) -> generators.Steps[BaseException | None]:
        """Close what is open, as at the end of an item; give the error that the item ends with."""
        self.closed = True
        newest_first = [entry for entry in reversed(self._open) if entry[0].closes == "function"]
        newest_first += [entry for entry in reversed(self._open) if entry[0].closes != "function"]
        self._open.clear()
        current = error
        for step, made in newest_first:
            raised = yield from generators.closing_one(made, step.name, current)
            error = error if raised is None else raised
            current = raised
        return error
