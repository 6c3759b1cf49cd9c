"""Whether what each item comes to is recorded at once.

It is where items spend time in system calls, since they may have left something there that must not be done twice, and
where they take so long that recording costs little beside them. What others come to is recorded together each time that
the monitor looks: each millisecond, or as soon as pure Python lets another thread run.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from poolinject._injection.plan import Step
from poolinject._transport.messages import Chunk
from poolinject._worker.journal import Journal
from poolinject._worker.outcomes import Work
from poolinject._worker.stores import Packed

if TYPE_CHECKING:
    from poolinject._injection.plan import Plan

CALM_SECONDS = 5e-5  # for an item; recording one takes some 1.5e-6, and as much again for what it drives out of caches
SHARE, EXACT_SECONDS = 0.4, 1e-5  # of an item for recording it, and for an item, where what had begun is not run again
# Time in the system, in calls of the cheapest kind: a write of one byte to a file takes three, pure Python a tenth.
SYSTEM_CALLS = 1.5  # that an item may take, beside those with which asyncio asks for the number of the process
LOOP_CALLS = 1.0 if sys.version_info < (3, 12) else 0.0  # each time that the loop is shown or hidden
# The following are parts of what recording takes, and seconds, of which the less counts, for an item. A write of one
# byte to a file takes half as long as recording, and some 8e-7 seconds.
HARMLESS_SHARE, HARMLESS_SECONDS = 0.75, 1.2e-6  # an item quicker than that is not in the system for long
BULK_SHARE, BULK_SECONDS = 0.3, 5e-7  # items quicker than that are not even counted, and cannot leave much
COARSE = 6  # Linux' CLOCK_MONOTONIC_COARSE, which goes on with each tick of the system; Python has no name for it


def tick() -> float:
    """Give the seconds between two looks of the system at what runs, by which it tells the time spent in it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return max(time.clock_getres(COARSE), 0.001)
    return 0.01


WINDOW = 2 * tick()  # seconds that as many items as were seen may spend in the system
LATER_WINDOW = 8 * tick()  # the same where a worker has ended before: by chance there are less than two ticks one in 10
LEAST_ITEMS = 64  # that must have been seen; what is told of a few of them is mostly the noise of the clocks
ROUNDS, ITEMS = 8, 32  # of the measurement, about 0.3 ms
WHOSE = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)  # the thread's, where the system tells


class Conduct:
    """What the items of a function have taken of late, in CPU seconds."""

    __slots__ = ("_began", "_items", "_most", "_system", "_total", "_window")

    def __init__(self, call: float, generation: int = 0, plan: Plan | None = None) -> None:
        """Know nothing yet of the items but what a call takes in the system, and what their plan asks of it.

        What is lost with a worker is likelier to be where one has ended already.
        """
        self._most = (SYSTEM_CALLS + (LOOP_CALLS * switches_of(plan) if plan is not None else 0)) * call
        self._window = LATER_WINDOW if generation else WINDOW
        self._began = (0.0, 0.0)
        self._items, self._total, self._system = 0.0, 0.0, 0.0

    def begin(self) -> None:
        """Items begin."""
        self._began = _times()

    def end(self, items: int, recording: float) -> None:
        """So many items have ended; of the time since they began so much went into recording them."""
        total, system = _times()
        self._items += items
        self._system += system - self._began[1]
        self._total += max(total - self._began[0] - recording, 0.0)
        if self._most * self._items > 2 * self._window:
            self._items, self._system, self._total = self._items / 2, self._system / 2, self._total / 2

    def is_quicker_than(self, seconds: float, *, harmless: float = 0.0) -> bool:
        """Tell whether an item takes less, and next to nothing of it in the system.

        Where one takes less than *harmless*, too little for a system call, this need not have been seen for long.
        """
        most = self._most * self._items
        is_calm = self._system < most if most >= self._window else self._total < harmless * self._items
        return self._items >= LEAST_ITEMS and is_calm and self._total < seconds * self._items


def _times() -> tuple[float, float]:
    """Give the CPU seconds of this thread, and how many of them went into the system."""
    # in this order: the first brings the other up to date
    return time.thread_time(), resource.getrusage(WHOSE).ru_stime


def switches_of(plan: Plan) -> int:
    """Tell how often an item shows the event loop to async code, or hides it from the code that follows."""
    kinds = [plan.kind, *(step.kind for step in plan.steps if isinstance(step, Step))]
    return 2 * kinds.count("coroutine") + 4 * kinds.count("async generator")


class Cost(NamedTuple):
    """What recording takes here, in seconds for a result; *around* is the part that a ``Work`` does not see itself.

    Beside it what the cheapest *call* takes in the system.
    """

    whole: float
    around: float
    call: float


def cost_of_recording(journal: Journal) -> Cost:
    """Measure it; the journal must be empty, and is so again."""
    best = inside = 1.0
    for _ in range(ROUNDS):
        chunk = Chunk(id=0, run=0, slot=0, function=0, start=0, items=range(ITEMS))
        words = memoryview(bytearray(24)).cast("Q")
        words[0] = ITEMS
        work = Work(chunk, Packed(None), words, journal, seconds=0.0, is_quick=False, counts=True)
        began = time.thread_time()
        for item in range(ITEMS):
            work.append(item)
        best, inside = min(best, (time.thread_time() - began) / ITEMS), min(inside, work.recording(0.0) / ITEMS)
        journal.sent(journal.mark)
    return Cost(best, max(best - inside, 0.0), cost_of_call())


def cost_of_call() -> float:
    """Measure what the cheapest call takes in the system, which is half of what it takes."""
    best = 1.0
    for _ in range(ROUNDS):
        began = time.thread_time()
        deque(itertools.starmap(os.getppid, itertools.repeat((), ITEMS)), maxlen=0)  # no line that a tracer would see
        best = min(best, (time.thread_time() - began) / ITEMS)
    return best / 2
