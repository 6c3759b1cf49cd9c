"""What each cell of the matrix must come to, or the reason why it makes no sense."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from poolinject import ItemTimeoutError, TransportError, WorkerLostError
from tests.conftest import FORK, FORKSERVER, SPAWN, THREAD, Kind
from tests.faults.faults import ENDS, ERRORS, FAULTS, RESULTS, Fault
from tests.faults.places import PLACES, Place

KINDS = (THREAD, FORK, FORKSERVER, SPAWN)
PICKLING: tuple[Place, ...] = ("pickling the item", "unpickling the item", "sending the result", "reading the result")
IN_CALLER: tuple[Place, ...] = ("pickling the item", "reading the result")
PHASES: dict[Place, str] = {
    "pickling the item": "transport",
    "unpickling the item": "transport",
    "setup of an item dependency": "setup",
    "setup of a pool dependency": "setup",
    "the call": "call",
    "cleanup of an item dependency": "cleanup",
    "cleanup of a pool dependency": "errors",  # the status in the report of the shutdown
    "sending the result": "transport",
    "reading the result": "transport",
}
PROVIDERS: dict[Place, str] = {
    "setup of an item dependency": "get_row",
    "setup of a pool dependency": "Engine()",
    "cleanup of an item dependency": "get_row",
    "cleanup of a pool dependency": "Leaking()",
}


@dataclass(frozen=True)
class Gap:
    """Cells that make no sense, and why."""

    reason: str
    places: Collection[Place] = PLACES
    faults: Collection[Fault] = FAULTS
    kinds: Collection[Kind] = KINDS


GAPS = (
    Gap("nothing is pickled between threads", places=PICKLING, kinds=[THREAD]),
    Gap("it would end the caller", faults=ENDS, kinds=[THREAD]),
    Gap("it would end the caller, whose code pickles items and unpickles results", places=IN_CALLER, faults=ENDS),
    Gap("the caller's own code would hang", places=IN_CALLER, faults=["hang"]),
    Gap("only what the function returns is sent", places=set(PLACES) - {"sending the result"}, faults=RESULTS),
    Gap(
        "nothing can end a thread: `timeout` is refused",
        places=set(PLACES) - {"cleanup of a pool dependency"}, faults=["hang"], kinds=[THREAD],
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """What a cell must come to: the failure of the touched item, or what the report tells of its worker."""

    phase: str
    error: type[BaseException]
    provider: str | None = None
    exit_code: int | None = None


def expected(place: Place, fault: Fault, kind: Kind) -> Expected | Gap:
    """Give what a cell must come to, or why there is none."""
    for gap in GAPS:
        if place in gap.places and fault in gap.faults and kind in gap.kinds:
            return gap
    at_shutdown = place == "cleanup of a pool dependency"
    if fault in ENDS:
        return Expected("lost", WorkerLostError, exit_code=ENDS[fault][1])
    if fault == "hang":
        if at_shutdown:
            return Expected("timed out", BaseException, PROVIDERS[place])
        return Expected("timeout", ItemTimeoutError, PROVIDERS.get(place))
    if place in PICKLING:
        return Expected("transport", TransportError)
    return Expected(PHASES[place], ERRORS[fault][1], PROVIDERS.get(place))
