"""A plain interpreter of plans: the library's semantics told a second time, with contextlib and no generated code.

It is slow, and everything runs in one coroutine: no host, no owner task, no context of its own.
"""

from __future__ import annotations

import copy
import inspect
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi.security import SecurityScopes

from poolinject import ItemContext, WorkerContext
from poolinject._injection.plan import (
    Argument,
    Constant,
    Fetch,
    FromContext,
    FromItem,
    FromScopes,
    FromShared,
    FromStep,
    OwnDefault,
    Plan,
    Shared,
    Step,
)

if TYPE_CHECKING:
    from types import TracebackType


@dataclass
class Ended:
    """What an item came to: its value, or its newest error and where that comes from."""

    value: object = None
    error: BaseException | None = None
    phase: str | None = None
    provider: str | None = None

    def fail(self, error: BaseException, phase: str, provider: str | None) -> None:
        """Note one more error."""
        self.error, self.phase, self.provider = error, phase, provider


class Entered:
    """A dependency on a stack; notes what its cleanup raises."""

    def __init__(self, node: Step | Shared, ended: Ended) -> None:
        self.node, self.ended = node, ended
        self.manager: Any = None

    async def enter(self, *args: object, **kwargs: object) -> Any:
        """Run to the ``yield``."""
        if self.node.kind == "generator":
            self.manager = contextmanager(self.node.provider)(*args, **kwargs)
            return self.manager.__enter__()
        self.manager = asynccontextmanager(self.node.provider)(*args, **kwargs)
        return await self.manager.__aenter__()

    async def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Run the rest."""
        try:
            if self.node.kind == "generator":
                return bool(self.manager.__exit__(kind, error, traceback))
            return bool(await self.manager.__aexit__(kind, error, traceback))
        except BaseException as raised:
            if raised is not error:
                self.ended.fail(raised, "cleanup", self.node.name)
            raise


class Interpreter:
    """One worker: an item at a time, and what outlives the items."""

    def __init__(self, worker: WorkerContext) -> None:
        self.worker = worker
        self.shared: dict[int, Any] = {}
        self.open: dict[str, list[Entered]] = {"worker": [], "pool": []}

    async def run(self, plan: Plan, item: object, index: int) -> Ended:
        """Run a plan for an item; what closes early has a stack inside that of the rest."""
        frame = Frame(plan, item, ItemContext(index, item, 1, self.worker.worker_id), self)
        try:
            async with AsyncExitStack() as late, AsyncExitStack() as early:
                try:
                    frame.ended.value = await frame.call({"function": early, "request": late})
                except BaseException as error:
                    frame.ended.fail(error, frame.phase, frame.provider)
                    raise
        except BaseException as error:
            if error is not frame.ended.error:
                raise
        return frame.ended

    async def build(self, plan: Plan, source: FromShared) -> Any:
        """Give what outlives the item, made on first use."""
        if source.key not in self.shared:
            node = next(node for node in plan.shared if node.key == source.key)
            passed = [(argument, await self.fill(plan, argument)) for argument in node.arguments]
            value, entered = await make(node, passed, Ended())
            self.shared[source.key] = value
            self.open[node.lifetime] += entered
        return self.shared[source.key]

    async def fill(self, plan: Plan, argument: Argument) -> Any:
        """Give an argument of what outlives the item."""
        if isinstance(argument.source, FromShared):
            return await self.build(plan, argument.source)
        return self.common(argument)

    def common(self, argument: Argument) -> Any:
        """Give an argument that needs no item."""
        match argument.source:
            case Constant() as constant:
                return value_of(constant)
            case FromContext("worker"):
                return self.worker
            case FromScopes(scopes):
                return SecurityScopes(list(scopes))
        raise AssertionError(argument)

    async def close(self) -> list[tuple[str, str]]:
        """Close what outlives the items, each by itself; list provider and type of error."""
        failed = []
        for entered in [*reversed(self.open["worker"]), *reversed(self.open["pool"])]:
            try:
                await entered.leave(None, None, None)
            except BaseException as error:  # noqa: BLE001 - each one must run
                failed.append((entered.node.name, type(error).__name__))
        return failed


@dataclass
class Frame:
    """The values of one item."""

    plan: Plan
    item: Any
    context: ItemContext
    owner: Interpreter
    values: list[Any] = field(default_factory=list)
    ended: Ended = field(default_factory=Ended)
    phase: str = "setup"
    provider: str | None = None

    async def call(self, stacks: dict[str, AsyncExitStack]) -> Any:
        """Make the dependencies in order, then call the function."""
        for step in self.plan.steps:
            self.provider = step.name
            if isinstance(step, Fetch):
                value = await self.owner.build(self.plan, step.source)
            else:
                passed = [(argument, self.fill(argument)) for argument in step.arguments]
                value, entered = await make(step, passed, self.ended)
                for one in entered:
                    stacks[step.closes].push_async_exit(one.leave)
            self.values.append(value)
        self.phase, self.provider = "call", None
        by_position, by_name = apart([(argument, self.fill(argument)) for argument in self.plan.arguments])
        leading = [] if self.plan.item_inside else self.leading()
        result = self.plan.function(*leading, *by_position, **by_name)
        return await result if self.plan.kind == "coroutine" else result

    def leading(self) -> list[Any]:
        """Give what the item itself fills."""
        if self.plan.call != "starmap":
            return [self.item]
        given = len(self.item) - self.plan.required
        return [*self.item, *(self.spare(spare) for spare in self.plan.spares[given:])]

    def spare(self, spare: Constant | OwnDefault) -> Any:
        """Give what stands for a member that the tuple leaves out."""
        if isinstance(spare, OwnDefault):
            return inspect.signature(self.plan.function).parameters[spare.name].default
        return value_of(spare)

    def fill(self, argument: Argument) -> Any:
        """Give an argument of what is made for the item."""
        match argument.source:
            case FromStep(slot):
                return self.values[slot]
            case FromItem(position):
                return self.leading()[position]
            case FromContext("item"):
                return self.context
        return self.owner.common(argument)


async def make(node: Step | Shared, passed: list[tuple[Argument, Any]], ended: Ended) -> tuple[Any, list[Entered]]:
    """Make one dependency; give its value and what is to be left later."""
    by_position, by_name = apart(passed)
    if "generator" in node.kind:
        entered = Entered(node, ended)
        return await entered.enter(*by_position, **by_name), [entered]
    made = node.provider(*by_position, **by_name)
    return await made if node.kind == "coroutine" else made, []


def apart(passed: list[tuple[Argument, Any]]) -> tuple[list[Any], dict[str, Any]]:
    """Tell arguments by position from those by name."""
    by_position = [value for argument, value in passed if argument.name is None]
    return by_position, {argument.name: value for argument, value in passed if argument.name is not None}


def value_of(constant: Constant) -> Any:
    """Give a default for one call."""
    if constant.fresh == "factory":
        return constant.value()
    return copy.deepcopy(constant.value) if constant.fresh == "copy" else constant.value
