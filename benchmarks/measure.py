"""Interleaved rounds, best of several. Every contestant does the same work, is warmed first, and is verified.

A round of every contestant follows a round of every other one (A, B, C, A, B, C ...), so that whatever else the machine
does hits all of them alike. Pools are opened and warmed before the first round that counts, and stay open.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.row import Figure, Result

Value = TypeVar("Value")
Round = Callable[[], float]  # does the work once and gives the seconds that it took
SCALES = {"s": 1.0, "ms": 1e3, "µs": 1e6}


class WrongResultError(Exception):
    """A contestant did not give the results that the work has; its time means nothing."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One that does the work of a row.

    Attributes:
        name: As the table shows it.
        items: How many items a round has.
        open: Makes what is needed (a pool, say) outside of the timed region and gives the round.
        information: Whether no goal depends on it; if it fails, the row goes on without it.
        needs: The module without which it is skipped.
        fresh: Whether it is opened again for each round, because it does not stay as it was.
        warm_ups: Rounds before the first one that counts; 0 where opening warms.
    """

    name: str
    items: int
    open: Callable[[], AbstractContextManager[Round]]
    information: bool = False
    needs: str | None = None
    fresh: bool = False
    warm_ups: int = 1


@dataclass(slots=True)
class Contest:
    """The raw seconds of every contestant's rounds, and what was said about those that did not take part."""

    contestants: Sequence[Contestant]
    rounds: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def best(self, name: str) -> float:
        """Give the seconds for an item in the best round.

        Raises:
            KeyError: If that contestant did not take part.
        """
        items = next(contestant.items for contestant in self.contestants if contestant.name == name)
        return min(self.rounds[name]) / items

    def ratio(self, name: str, other: str) -> float:
        """Give the time of one as a share of the other's."""
        return self.best(name) / self.best(other)

    def result(self, unit: str = "µs an item") -> Result:
        """Give the figures of all; the unit begins with that of the time."""
        scale = SCALES[unit.split(maxsplit=1)[0]]
        figures = [
            Figure(
                contestant.name,
                self.best(contestant.name) * scale,
                unit,
                tuple(self.rounds[contestant.name]),
                contestant.items,
                contestant.information,
            )
            for contestant in self.contestants
            if contestant.name in self.rounds
        ]
        return Result(figures, notes=list(self.notes))


def timed(
    action: Callable[[], Value], is_right: Callable[[Value], bool], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Give the seconds of the action; its result is checked, and garbage collected, outside of them.

    Raises:
        WrongResultError: If the result is not right.
    """
    gc.collect()
    start = clock()
    value = action()
    seconds = clock() - start
    if not is_right(value):
        raise WrongResultError(f"{str(value)[:200]} is not what the work gives")
    return seconds


@contextmanager
def always_open(once: Round) -> Iterator[Round]:
    """Give the round as it is, for contestants that have nothing to open."""
    yield once


def compete(contestants: Sequence[Contestant], rounds: int) -> Contest:
    """Run so many interleaved rounds of all contestants whose modules are installed.

    Raises:
        WrongResultError: If a contestant with a goal gives wrong results.
        Exception: Whatever else such a contestant raises.
    """
    contest = Contest(contestants)
    with ExitStack() as stack:
        running = {}
        for contestant in contestants:
            if contestant.needs is not None and importlib.util.find_spec(contestant.needs) is None:
                contest.notes.append(f"{contestant.name}: skipped, {contestant.needs} is not installed")
                continue
            once = _attempt(contest, contestant, functools.partial(_enter, stack, contestant))
            if once is not None:
                running[contestant.name] = (contestant, once)
        for _ in range(rounds):
            for contestant, once in list(running.values()):
                seconds = _attempt(contest, contestant, once)
                if seconds is None:
                    del running[contestant.name]
                else:
                    contest.rounds.setdefault(contestant.name, []).append(seconds)
    return contest


def _enter(stack: ExitStack, contestant: Contestant) -> Round:
    if contestant.fresh:
        return lambda: _open_once(contestant)
    once = stack.enter_context(contestant.open())
    for _ in range(contestant.warm_ups):
        once()
    return once


def _open_once(contestant: Contestant) -> float:
    with contestant.open() as once:
        for _ in range(contestant.warm_ups):
            once()
        return once()


def _attempt(contest: Contest, contestant: Contestant, action: Callable[[], Value]) -> Value | None:
    try:
        return action()
    except Exception as error:
        if not contestant.information:
            raise
        contest.rounds.pop(contestant.name, None)
        contest.notes.append(f"{contestant.name}: left out, it raised {error!r}"[:300])
        return None
