"""Generated code and a plain interpreter of the same plan: the same events, the same outcomes, on random graphs."""

from __future__ import annotations

import asyncio
import contextvars
import warnings
from collections.abc import Callable
from typing import Any

from hypothesis import assume, given, settings

from poolinject import PlanError, WorkerContext
from poolinject._injection.async_runtime import AsyncRuntime
from poolinject._injection.generators import Failed
from poolinject._injection.plan import Plan
from poolinject._injection.planner import Planner
from poolinject._injection.registry import Registry
from poolinject._injection.runtime import Runtime
from poolinject._injection.scopes import CleanupFailure
from tests.injection.interpreter import Interpreter
from tests.injection.random_graphs import ITEMS, Node, World, graphs, make_function, told

WORKER = WorkerContext(0, 0, "pool")
Story = list[object]


def tell(outcome: Any) -> object:
    """Tell what an item came to."""
    if isinstance(outcome, Failed):
        return told(outcome.error), outcome.phase, outcome.provider
    return outcome


def tell_failures(failures: list[CleanupFailure]) -> object:
    """Tell what the last cleanups raised."""
    return [(failure.provider, type(failure.error).__name__) for failure in failures]


def run_sync(plan: Plan, world: World) -> Story:
    """Run the generated sync function, as a worker does."""
    runtime = Runtime(WORKER)
    bound = runtime.bind(plan)
    story: Story = []
    for world.item in range(ITEMS):
        story.append(tell(contextvars.copy_context().run(bound, world.item, world.item, 1)))
    return [*story, tell_failures(runtime.close())]


def run_async(plan: Plan, world: World) -> Story:
    """Run the generated async function, as ``Resolver.acall`` does."""

    async def run() -> Story:
        story: Story = []
        runtime = await AsyncRuntime(WORKER).__aenter__()
        bound = runtime.bind(plan)
        for world.item in range(ITEMS):
            story.append(tell(await runtime.run(bound, world.item, world.item)))
        return [*story, tell_failures(await runtime.close())]

    return asyncio.run(run())


def interpret(plan: Plan, world: World) -> Story:
    """Run the interpreter."""

    async def run() -> Story:
        story: Story = []
        interpreter = Interpreter(WORKER)
        for world.item in range(ITEMS):
            ended = await interpreter.run(plan, world.item, world.item)
            failed = told(ended.error), ended.phase, ended.provider
            story.append(ended.value if ended.error is None else failed)
        return [*story, await interpreter.close()]

    return asyncio.run(run())


def story_of(run: Callable[[Plan, World], Story], plan: Plan, world: World) -> tuple[Story, list[str]]:
    """Run a plan in a new world; give outcomes and events."""
    world.events, world.made = [], 0
    story = run(plan, world)
    return story, world.events


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_generated_code_does_what_the_plan_says(graph: tuple[Node, ...]) -> None:
    """Sync and async flavour, with failures in setup, call and cleanup, swallowed and replaced errors."""
    world = World()
    try:
        plan = Planner(Registry(), {}, {}).plan(make_function(graph, world), "map")
    except PlanError:  # a lifetime or scope that does not fit
        assume(False)  # noqa: FBT003
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = story_of(interpret, plan, world)
        assert story_of(run_sync, plan, world) == expected
        assert story_of(run_async, plan, world) == expected
