"""Rows about who runs what and when: makespans against the ideal, memory, backpressure, the caller's own work."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks import workloads
from benchmarks.interpreter import run_script
from benchmarks.measure import Contest, Contestant, WrongResultError, compete
from benchmarks.peers import MP_IMAP, MP_MAP, POOLINJECT_MAP, WORKERS, Run, Work
from benchmarks.row import Check, Effort, Figure, Result, Row
from poolinject import InjectedPool

MANY_WORKERS_COUNT = 32
LIMITS = (100, 5_000)  # in-flight limits whose keeping is checked
WARM_UP_ITEMS, WARM_UP_SECONDS = 50, 0.02
PLACEMENTS = (1, 2, 3)  # seeds of the places of long items: each is measured
TAKEN = 3  # results that the consumer takes before it pauses


def measure_skewed(effort: Effort) -> Result:
    """Items of 0.5 ms and 1 s, precise to a few µs (see ``last_for``)."""
    return _measure_makespan([workloads.skewed(4_000, 0.0005, 5, 1.0, seed) for seed in PLACEMENTS], effort)


def measure_skewed_random(effort: Effort) -> Result:
    """Items of 0.2 ms and 2 s, precise to a few µs (see ``last_for``)."""
    return _measure_makespan([workloads.skewed(8_000, 0.0002, 4, 2.0, seed) for seed in PLACEMENTS], effort)


def _measure_makespan(placements: Sequence[list[float]], effort: Effort) -> Result:
    """Compare with ``max(sum of durations / workers, longest duration)``; the placement that goes worst counts."""
    if effort.quick:
        placements = [_shortened(durations) for durations in placements[:1]]
    ideal = workloads.ideal_makespan(placements[0], WORKERS)
    works = [_of_durations(workloads.last_for, durations) for durations in placements]
    ours = [work.by(POOLINJECT_MAP, f"poolinject map, placement {n}") for n, work in enumerate(works, 1)]
    peers = [works[0].by(MP_MAP, information=True), works[0].by(MP_IMAP, chunksize=1, information=True)]
    contest = compete([*ours, *peers], effort.rounds(2))
    result = contest.result("ms an item")
    reached = [contest.best(contestant.name) * contestant.items for contestant in ours]
    result.checks.append(Check(f"the ideal, {ideal:.2f} s", max(reached) / ideal, "<=", 1.1))
    for contestant, durations, seconds in zip(ours, placements, reached, strict=True):
        at_best = workloads.in_order_makespan(durations, WORKERS)
        shares = f"{seconds / ideal:.3f} of the ideal; {at_best / ideal:.3f} is what starting in order costs at least"
        result.notes.append(f"{contestant.name}: {seconds:.3f} s, {shares}")
    result.notes += _shares_of(contest, peers, ideal)
    return result


def _shortened(durations: Sequence[float]) -> list[float]:
    return [min(duration, 0.05) for duration in durations[::10]]


def _shares_of(contest: Contest, peers: Sequence[Contestant], ideal: float) -> list[str]:
    return [
        f"{peer.name}: {contest.best(peer.name) * peer.items / ideal:.3f} of the ideal"
        for peer in peers
        if peer.name in contest.rounds
    ]


def _of_durations(func: Callable[[float], float], durations: Sequence[float], workers: int = WORKERS) -> Work:
    def warm_up(run: Run) -> None:
        for _ in run(func, [WARM_UP_SECONDS] * WARM_UP_ITEMS * workers, 1):  # long enough for every worker to be there
            pass

    return Work(
        func, lambda: durations, len(durations), lambda results: results == durations, workers=workers, warm_up=warm_up
    )


def measure_many_workers(effort: Effort) -> Result:
    """32 workers on few cores; 6,400 sleeps, so the ideal is 1 s."""
    durations = [0.005] * effort.size(6_400, 640)
    ideal = workloads.ideal_makespan(durations, MANY_WORKERS_COUNT)
    work = _of_durations(workloads.sleep_for, durations, MANY_WORKERS_COUNT)
    ours = work.by(POOLINJECT_MAP)
    peers = [work.by(MP_MAP, information=True), work.by(MP_IMAP, chunksize=1, information=True)]
    contest = compete([ours, *peers], effort.rounds(5))
    result = contest.result("ms an item")
    result.checks.append(Check(f"the ideal, {ideal:.2f} s", contest.best(ours.name) * ours.items / ideal, "<=", 1.1))
    result.notes += _shares_of(contest, peers, ideal)
    return result


def measure_caller_cpu(effort: Effort) -> Result:
    """CPU time of this process, all its threads, while two workers sleep 1 ms an item."""
    work = _of_durations(workloads.sleep_for, [0.001] * effort.size(4_000, 400))
    ours = work.by(POOLINJECT_MAP, clock=time.process_time)
    peers = [
        work.by(MP_MAP, information=True, clock=time.process_time),
        work.by(MP_IMAP, chunksize=1, information=True, clock=time.process_time),
    ]
    contest = compete([ours, *peers], effort.rounds(3))
    result = contest.result("µs of CPU an item")
    result.checks.append(Check("CPU an item", contest.best(ours.name) * 1e6, "<=", 5, "µs"))
    return result


def measure_stream(effort: Effort) -> Result:
    """The most resident memory above that after 100,000 warm-up items; a new interpreter for each round."""
    count = effort.size(2_000_000, 50_000)
    result = Result()
    for kind, information in (("poolinject", False), ("mp", True)):
        rounds = []
        for _ in range(effort.rounds(3) if kind == "poolinject" else 1):
            answer = run_script("streaming.py", kind, str(count), str(effort.size(100_000, 10_000)))
            rounds.append(answer["growth_bytes"] / 1e6)
        label = {"poolinject": "poolinject imap", "mp": "mp.Pool.imap(chunksize=1000)"}[kind]
        # The worst round counts: memory that grew once may grow again.
        result.figures.append(Figure(label, max(rounds), "MB", tuple(rounds), information=information))
    result.checks.append(Check("growth, the worst round", result.figures[0].value, "<=", 30, "MB"))
    return result


def measure_paused(effort: Effort) -> Result:
    """An endless generator counts what is read of it; read and not handed out yet is in flight."""
    seconds = effort.size(1.0, 0.3)
    result = Result()
    shares = []
    for limit in (*LIMITS, None):
        label = "automatic limit" if limit is None else f"max_in_flight={limit:,}"
        in_flight = read_while_paused(limit, seconds)
        result.figures.append(Figure(label, in_flight, "items in flight", (in_flight,), information=limit is None))
        if limit is not None:
            shares.append(in_flight / limit)
    result.checks.append(Check("in flight as a share of the limit, the worst", max(shares), "<=", 1.0))
    result.notes.append(f"trivial items; the consumer took {TAKEN} results and paused for {seconds} s, twice")
    return result


def read_while_paused(limit: int | None, seconds: float) -> int:
    """Count the items that are read but not handed out while the consumer pauses.

    Raises:
        WrongResultError: If the results are not the first items.
    """
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        for number in itertools.count():
            read += 1
            yield number

    most = 0
    with InjectedPool(WORKERS, max_in_flight=limit) as pool:
        results = pool.imap(workloads.same, endless())
        for pause in range(2):
            taken = list(itertools.islice(results, TAKEN))
            if taken != list(range(pause * TAKEN, (pause + 1) * TAKEN)):
                raise WrongResultError(str(taken))
            time.sleep(seconds)
            most = max(most, read - (pause + 1) * TAKEN)
        del results  # drops the run
    return most


SKEWED = Row("skewed", "4,000 items, five of them 2,000 times longer", "the ideal makespan", "<= 1.1", measure_skewed)
SKEWED_RANDOM = Row(
    "skewed-random",
    "8,000 items of 0.2 ms, four at random of 2 s",
    "the ideal makespan",
    "<= 1.1",
    measure_skewed_random,
)
STREAM = Row(
    "stream", "two million items streamed through `imap`", "", "the caller's memory grows <= 30 MB", measure_stream
)
PAUSED = Row("paused", "inputs read while the consumer is paused", "", "<= the in-flight limit", measure_paused)
MANY_WORKERS = Row(
    "many-workers", "32 workers, items of 5 ms sleep", "the ideal makespan", "<= 1.1", measure_many_workers
)
CALLER_CPU = Row("caller-cpu", "caller's CPU for an item of 1 ms, adaptive", "", "<= 5 µs", measure_caller_cpu)
