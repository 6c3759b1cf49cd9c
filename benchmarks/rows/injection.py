"""Rows about what injection costs: the seed's graph on a pool and in one process, plain graphs, planning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from benchmarks import graphs, seed
from benchmarks.measure import Contestant, Round, WrongResultError, always_open, compete, timed
from benchmarks.peers import CONTEXT, MP_MAP, POOLINJECT_MAP, WORKERS, Run, Work
from benchmarks.row import Check, Effort, Figure, Result, Row
from poolinject import InjectedPool, Resolver

Function = Callable[..., Any]
GRAPH_NODES = (1, 10, 50)
SHAPES: tuple[graphs.Shape, ...] = ("chain", "fan")
MOST_GROWTH = 1.2  # of the time per node from 10 nodes to 50: what counts as flat
DIAMOND_LAYERS = 25


def seed_work(func: Function, observe: Function, count: int) -> Work:
    """Make the work of one map over so many messages; *observe* checks freshness and cleanup while warming."""

    def warm_up(run: Run) -> None:
        if not all(run(observe, range(1000), None)) or sum(run(func, range(count), None)) != sum(range(count)):
            raise WrongResultError(func.__name__)

    return Work(func, lambda: range(count), count, lambda results: sum(results) == sum(range(count)), warm_up=warm_up)


def seed_against_hand(func: Function, observe: Function, bound: float, effort: Effort) -> Result:
    """Compare with the same graph written with ``contextlib``; both by ``map``, each with its own chunk size."""
    count = effort.size(100_000, 5_000)
    ours = seed_work(func, observe, count).by(POOLINJECT_MAP, "poolinject")
    by_hand = seed_work(seed.process_with_contextlib, seed.observe_contextlib, count)
    theirs = by_hand.by(MP_MAP, "mp.Pool.map, contextlib by hand")
    contest = compete([ours, theirs], effort.rounds(9))
    result = contest.result()
    result.checks.append(Check(theirs.name, contest.ratio(ours.name, theirs.name), "<=", bound))
    return result


def measure_seed_async(effort: Effort) -> Result:
    """The graph has its asynchronous mayor here, and a plain one by hand."""
    return seed_against_hand(seed.process, seed.observe, 0.9, effort)


def measure_seed_sync(effort: Effort) -> Result:
    """The graph has a plain mayor on both sides."""
    return seed_against_hand(seed.process_sync, seed.observe_sync, 0.6, effort)


def injectable_in_pool(count: int) -> Contestant:
    """Make the contestant that runs the seed's loop body in ``mp.Pool``: a new pool a round, since it slows down."""

    @contextmanager
    def opened() -> Iterator[Round]:
        with CONTEXT.Pool(WORKERS) as pool:
            if not all(pool.map(seed.observe_injectable, range(8), 1)):
                raise WrongResultError(seed.observe_injectable.__name__)

            def once() -> float:
                expected = sum(range(count))
                return timed(
                    lambda: pool.map(seed.process_with_injectable, range(count)), lambda got: sum(got) == expected
                )

            yield once

    name = "fastapi-injectable in mp.Pool"
    return Contestant(name, count, opened, needs="fastapi_injectable", fresh=True, warm_ups=0)


def measure_seed_injectable(effort: Effort) -> Result:
    """The asynchronous mayor on both sides carries the goal; our sync providers are information."""
    count = effort.size(100_000, 5_000)
    theirs = injectable_in_pool(effort.size(6_000, 40))
    ours = seed_work(seed.process, seed.observe, count).by(POOLINJECT_MAP, "poolinject, async provider")
    ours_sync = seed_work(seed.process_sync, seed.observe_sync, count).by(
        POOLINJECT_MAP, "poolinject, sync providers", information=True
    )
    contest = compete([ours, ours_sync, theirs], effort.rounds(3))
    result = contest.result()
    if theirs.name in contest.rounds:
        result.checks.append(Check(theirs.name, contest.ratio(theirs.name, ours.name), ">=", 3000, "times"))
        sync = contest.ratio(theirs.name, ours_sync.name)
        result.notes.append(f"{ours_sync.name}: {sync:,.0f} times as fast")
        counted = f"{theirs.items:,} messages on a new pool each round, not {count:,}, which would take over an hour"
        result.notes.append(f"{theirs.name}: {counted}: it slows down with each, so that fewer favour it")
    return result


def loop(name: str, func: Function, count: int, *, information: bool = False) -> Contestant:
    """Make a contestant that calls a function for so many messages in this process."""

    def work_through() -> int:
        total = 0
        for message in range(count):
            total += func(message)
        return total

    expected = sum(range(count))
    return Contestant(
        name, count, lambda: always_open(lambda: timed(work_through, lambda got: got == expected)), information
    )


def resolver_loop(name: str, func: Function, observe: Function, count: int) -> Contestant:
    """Make a contestant that does ``Resolver.call`` for so many messages in this process."""

    @contextmanager
    def opened() -> Iterator[Round]:
        with Resolver() as resolver:
            if not all(resolver.call(observe, message) for message in range(100)):
                raise WrongResultError(name)
            call = resolver.call

            def work_through() -> int:
                total = 0
                for message in range(count):
                    total += call(func, message)
                return total

            yield lambda: timed(work_through, lambda got: got == sum(range(count)))

    return Contestant(name, count, opened)


def measure_resolver_sync(effort: Effort) -> Result:
    """One process, one message after another, sync providers on both sides."""
    count = effort.size(50_000, 5_000)
    ours = resolver_loop("Resolver.call", seed.process_sync, seed.observe_sync, count)
    theirs = loop("contextlib by hand", seed.process_with_contextlib, count)
    bare = loop("try and finally by hand", seed.process_with_try, count, information=True)
    contest = compete([ours, theirs, bare], effort.rounds(9))
    result = contest.result()
    result.checks.append(Check(theirs.name, contest.ratio(ours.name, theirs.name), "<=", 0.9))
    return result


def measure_resolver_async(effort: Effort) -> Result:
    """One process, sync code, the asynchronous mayor on both sides; the seed's loop in a new process each round."""
    messages = effort.size(400, 40)
    seen: list[seed.LoopSeconds] = []

    @contextmanager
    def opened() -> Iterator[Round]:
        with ProcessPoolExecutor(1, mp_context=CONTEXT) as executor:

            def once() -> float:
                seen.append(executor.submit(seed.time_injectable_loop, messages).result())
                return seen[-1].whole

            yield once

    name = "the seed's loop with fastapi-injectable"
    theirs = Contestant(name, messages, opened, needs="fastapi_injectable", fresh=True, warm_ups=0)
    ours = resolver_loop("Resolver.call", seed.process, seed.observe, effort.size(20_000, 2_000))
    contest = compete([ours, theirs], effort.rounds(3))
    result = contest.result()
    if seen:
        result.checks.append(Check(name, contest.ratio(name, ours.name), ">=", 100, "times"))
        slower = min(seen, key=lambda seconds: seconds.whole)
        growth = slower.last_quarter / slower.first_quarter
        result.notes.append(f"{name}: {messages} messages; the last quarter took {growth:.2f} times the first")
    return result


def measure_graph(effort: Effort) -> Result:
    """``Resolver.call`` above n plain providers, as a chain and as a fan; a node's time is ``(t(n) - t(0)) / n``."""
    calls = effort.size(20_000, 2_000)
    contestants = [_graph_loop("0 nodes", graphs.without_dependencies(), calls)]
    for shape in SHAPES:
        contestants += [
            _graph_loop(f"{shape} of {nodes}", graphs.make_graph(shape, nodes), calls) for nodes in GRAPH_NODES
        ]
    contest = compete(contestants, effort.rounds(15))
    result = Result(notes=contest.notes)
    nothing = contest.best("0 nodes")
    per_node = {}
    for shape in SHAPES:
        for nodes in GRAPH_NODES:
            label = f"{shape} of {nodes}"
            per_node[shape, nodes] = (contest.best(label) - nothing) / nodes * 1e6
            figure = Figure(label, per_node[shape, nodes], "µs a node", tuple(contest.rounds[label]), calls)
            result.figures.append(figure)
    growth = max(per_node[shape, 50] / per_node[shape, 10] for shape in SHAPES)
    result.checks.append(Check("a node, at most", max(per_node.values()), "<=", 0.25, "µs"))
    result.checks.append(Check("a node of 50 to a node of 10", growth, "<=", MOST_GROWTH))
    bare = Figure("no dependencies", nothing * 1e6, "µs a call", tuple(contest.rounds["0 nodes"]), calls)
    result.figures.append(replace(bare, information=True))
    return result


def _graph_loop(name: str, func: Function, calls: int) -> Contestant:
    return resolver_loop(name, func, lambda _item: True, calls)


def measure_diamond(effort: Effort) -> Result:
    """``pool.explain`` of a new diamond on a new pool, which starts no worker: plans, draws, generates the code."""

    def explain() -> float:
        func = graphs.layered_diamond(DIAMOND_LAYERS)
        with InjectedPool(1) as pool:
            return timed(lambda: pool.explain(func), lambda view: len(set(view.providers)) > 0)

    def call() -> float:
        func = graphs.layered_diamond(DIAMOND_LAYERS)
        with Resolver() as resolver:
            return timed(lambda: resolver.call(func), lambda paths: paths == 2**DIAMOND_LAYERS)

    contestants = [
        Contestant("pool.explain", 1, lambda: always_open(explain)),
        Contestant("first Resolver.call, planning included", 1, lambda: always_open(call), information=True),
    ]
    contest = compete(contestants, effort.rounds(9))
    result = contest.result("ms a plan")
    result.checks.append(Check("to plan", contest.best("pool.explain") * 1e3, "<=", 50, "ms"))
    return result


SEED_ASYNC = Row(
    "seed-async",
    "seed graph, 100,000 items, with its async provider",
    "`mp.Pool.map` of the same written with `contextlib`",
    "<= 0.9",
    measure_seed_async,
)
SEED_SYNC = Row(
    "seed-sync",
    "seed graph, 100,000 items, sync providers",
    "`mp.Pool.map` of the same written with `contextlib`",
    "<= 0.6",
    measure_seed_sync,
)
SEED_INJECTABLE = Row(
    "seed-injectable",
    "seed graph, 100,000 items, with its async provider",
    "fastapi-injectable in `mp.Pool`",
    ">= 3,000 times faster",
    measure_seed_injectable,
)
RESOLVER_SYNC = Row(
    "resolver-sync",
    "`Resolver.call` on the seed graph, sync providers",
    "`contextlib` by hand in one process",
    "<= 0.9",
    measure_resolver_sync,
)
RESOLVER_ASYNC = Row(
    "resolver-async",
    "`Resolver.call` on the seed graph, async provider, from sync code",
    "the seed's loop with fastapi-injectable",
    ">= 100 times faster",
    measure_resolver_async,
)
GRAPH = Row("graph", "graph of 1, 10, 50 plain nodes", "", "time per node flat, <= 0.25 µs", measure_graph)
DIAMOND = Row("diamond", "layered diamond, 25 layers: time to plan", "", "<= 50 ms", measure_diamond)
