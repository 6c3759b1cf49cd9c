"""Time limits of items in a worker process.

The monitor sees that an item is over its limit and sends the main thread a signal, which interrupts system calls that
block; the signal's handler raises an ``ItemTimeoutError`` in the item. An item that does not let go in time
(it swallows the error, blocks signals, or runs C code that keeps the interpreter) is ended with its process by
the caller, who reads in the control block until when that may take.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poolinject._injection.generators import Failed as ItemFailed
from poolinject._worker.control import DEADLINE
from poolinject.errors import ItemTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from poolinject._injection.event_loop import EventLoop
    from poolinject._worker.outcomes import Work

# What the Go runtime chose for the same purpose, for the same reasons: Linux and macOS have it (they have no real-time
# signals in common), no C library uses it, and it means next to nothing elsewhere (out-of-band data, on request), so
# libraries that set SIGALRM, SIGUSR1 or SIGPROF are left alone. It is ignored by default, so one that comes late or to
# a process that has taken its handler away does no harm.
SIGNAL = signal.SIGURG
GRACE_SECONDS = 2.0  # from the error in the item to the end of the worker
DEAF_SECONDS = 0.05  # after so long an event loop that has not heard of the error is in code that blocks it
STUCK = 3  # signals that find the same instruction: a millisecond each, so it is a call that takes long
KILL_SECONDS = 5.0  # for which a worker waits for the end that the caller is about to make
NEVER = 1 << 63
SECOND = 1_000_000_000  # in the unit of the clock
LIBRARY, GENERATED = str(Path(__file__).parents[1]), "<poolinject "  # how the names of source files begin
DELICATE = {"asyncio", "importlib", "logging", "threading"}  # an error amid their own steps would outlast the item


class Clock:
    """Raises an ``ItemTimeoutError`` in an item that is over its limit, once.

    One item at a time is running: from ``start`` to ``end``. The handler judges by its own look at the clock, on the
    thread that calls these two, so that a signal which comes late hits neither what is between two items nor the next
    one. It raises only in the user's code: where it finds the library's, it leaves it to the next signal, a millisecond
    later. While the worker's event loop turns, the loop is asked to throw it in; where that is blocked, it raises, too.
    """

    def __init__(self, words: memoryview, loop: EventLoop) -> None:
        self._words, self._loop = words, loop
        self._thread = threading.get_ident()
        self._timeout, self._limit = 0.0, 0
        self._index, self._due = 0, NEVER
        self._error: ItemTimeoutError | None = None
        self._deaf_at = 0
        self._place, self._seen = (0, 0), 0

    def prepare(self, timeout: float) -> None:
        """Get ready for a chunk with a limit; user code may have taken the signal away meanwhile."""
        settle(self._words)  # the last of its items to be unpickled
        self._timeout, self._limit = timeout, max(int(timeout * SECOND), 1)
        signal.signal(SIGNAL, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})

    def start(self, index: int) -> None:
        """An item begins."""
        self._index, self._seen = index, 0
        due = time.monotonic_ns() + self._limit
        self._words[DEADLINE] = due + int(GRACE_SECONDS * SECOND)
        self._due = due

    def end(self) -> ItemTimeoutError | None:
        """An item has come to something: from here on nothing is raised; give the error that was raised in it."""
        self._due = NEVER
        error, self._error = self._error, None
        return error

    def settle(self) -> None:
        """The outcome of an item is safe: the next one may begin, unless the caller is about to end this worker."""
        settle(self._words)

    def detach(self) -> None:
        """Leave the deadline that the caller sees to the worker; for a copy of the process."""
        self._words = memoryview(bytearray(self._words.nbytes)).cast("Q")

    def look(self) -> None:
        """Send the signal if it is time; for the monitor."""
        if time.monotonic_ns() >= self._due:
            signal.pthread_kill(self._thread, SIGNAL)

    def _on_signal(self, _signum: int, frame: FrameType | None) -> None:
        now = time.monotonic_ns()
        if now < self._due:  # it came late, or from elsewhere
            return
        waiting = self._loop.waiting
        is_deaf = waiting is not None and waiting.is_deaf
        if self._error is None and waiting is not None:
            self._error = ItemTimeoutError(self._index, self._timeout)
            self._deaf_at = now + int(DEAF_SECONDS * SECOND)
            waiting.interrupt(self._error)
        elif self._error is not None and not is_deaf:
            self._due = NEVER  # the loop has thrown it in
        elif frame is not None and (not is_deaf or now >= self._deaf_at) and self._is_in_reach(frame):
            self._due = NEVER
            self._error = self._error or ItemTimeoutError(self._index, self._timeout)
            raise self._error

    def _is_in_reach(self, frame: FrameType) -> bool:
        """Tell whether user code is running: in this frame, or below it in a call of C code that takes long."""
        place = (id(frame), frame.f_lasti)
        self._seen = self._seen + 1 if place == self._place else 1
        self._place = place
        return self._seen >= STUCK or not _is_shielded(frame)


def _is_shielded(frame: FrameType) -> bool:
    """Tell whether an error must not be raised here: in the library, or in what the library itself has called."""
    if frame.f_code.co_filename.startswith((LIBRARY, GENERATED)) or _module(frame) in DELICATE:
        return True
    caller: FrameType | None = frame
    while caller is not None and _module(caller) in sys.stdlib_module_names:
        caller = caller.f_back
    return caller is not None and caller.f_code.co_filename.startswith(LIBRARY)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def settle(words: memoryview) -> None:
    """Take the deadline of an item away; where it is missed, no other item is to be hit by what was meant for this."""
    if 0 < words[DEADLINE] <= time.monotonic_ns():
        time.sleep(KILL_SECONDS)
    words[DEADLINE] = 0


def with_deadlines(words: memoryview, timeout: float, numbers: Iterable[int]) -> Iterator[int]:
    """Set each item a deadline when its number is asked for; nothing is raised in it, it has not begun yet."""
    for number in numbers:
        settle(words)
        words[DEADLINE] = time.monotonic_ns() + int((timeout + GRACE_SECONDS) * SECOND)
        yield number


class TimedItems:
    """The items of a chunk, under a clock: each begins when it is asked for and ends with ``append`` or ``fail``."""

    def __init__(
        self, clock: Clock, numbered: Iterable[tuple[int, Any]], work: Work, fail: Callable[[ItemFailed], bool]
    ) -> None:
        self._clock, self._numbered, self._work, self._fail = clock, numbered, work, fail

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for pair in self._numbered:
            self._clock.start(pair[0] - 1)
            yield pair

    def append(self, value: Any) -> None:
        """Take the result of an item; one that has swallowed its error has failed all the same."""
        error = self._clock.end()
        if error is None:
            self._work.append(value)
        else:
            self._fail(ItemFailed(error, "timeout", None))
        self._clock.settle()

    def fail(self, failed: ItemFailed) -> bool:
        """Take the failure of an item; what it made of the error is told as the cause of another one."""
        error = self._clock.end()
        if error is not None:
            provider = failed.provider
            if failed.error is not error:  # a cleanup has put another one in its place
                error, provider = ItemTimeoutError(*error.args), None
                error.__cause__ = failed.error
            failed = ItemFailed(error, "timeout", provider)
        ends = self._fail(failed)
        self._clock.settle()
        return ends
