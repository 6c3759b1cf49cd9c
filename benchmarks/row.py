"""What a row of the table is, what measuring it gives, and how much effort goes into it. Plain records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

Relation = Literal["<=", ">="]
Size = TypeVar("Size")
QUICK_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Effort:
    """How many rounds and items are worth it.

    Attributes:
        quick: Whether rows shrink to see only that they work; such figures mean nothing.
        repeats: Rounds of every row, instead of what the row finds right.
    """

    quick: bool = False
    repeats: int | None = None

    def rounds(self, usual: int) -> int:
        """Give the number of rounds where a row usually takes so many."""
        return self.repeats or (QUICK_ROUNDS if self.quick else usual)

    def size(self, full: Size, quick: Size) -> Size:
        """Choose between the size that the row says and a small one."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Figure:
    """What one contestant reached.

    Attributes:
        label: The contestant.
        value: The best round, in the unit.
        unit: For example ``"µs an item"``.
        rounds: Every round as measured: seconds of the whole round, unless the unit is no time.
        items: Items in a round; 0 where nothing was divided.
        information: Whether no goal depends on it.
    """

    label: str
    value: float
    unit: str
    rounds: tuple[float, ...] = ()
    items: int = 0
    information: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """A goal of the row beside what was reached.

    Attributes:
        against: What the value is relative to; for an absolute value what it is.
        value: The ratio, or the absolute figure.
        relation: How the value has to stand to the bound.
        bound: The goal.
        unit: Empty for a share of the other's time, ``"times"`` for how many times faster, else the figure's unit.
    """

    against: str
    value: float
    relation: Relation
    bound: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.bound if self.relation == "<=" else self.value >= self.bound

    @property
    def share(self) -> float:
        """Where the value stands relative to the goal: up to 1 is met, whichever way the relation points."""
        if self.relation == "<=":
            return self.value / self.bound
        return self.bound / self.value if self.value else float("inf")


@dataclass(slots=True)
class Result:
    """What measuring a row gave; rows fill it piece by piece."""

    figures: list[Figure] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes:
        name: What the command line calls it.
        title: What is measured.
        against: What it is compared with; empty where the goal is absolute.
        goal: The goal, as text.
        measure: Measures it; the docstring says how.
    """

    name: str
    title: str
    against: str
    goal: str
    measure: Callable[[Effort], Result]
