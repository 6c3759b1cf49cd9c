"""What the caller iterates over, and what threads may do with it at the same time."""

from __future__ import annotations

import itertools
import operator
import threading
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator


class Iteration(itertools.chain[Any]):
    """What the caller iterates over: parts, one after another, at the speed of C. Closing or dropping it cancels."""

    parts: Parts

    @classmethod
    def over(cls, parts: Parts) -> Iteration:
        """Make one of parts."""
        made: Iteration = cls.from_iterable(parts)  # type: ignore[assignment]  # of a subclass it makes one, too
        made.parts = parts
        return made

    def __reduce__(self) -> NoReturn:
        message = "the iterator of a run can be neither copied nor pickled"
        raise TypeError(message)

    def close(self) -> None:
        """Cancel the run, and give nothing more; another thread that waits for a result comes to the end."""
        self.parts.close()


class Parts:
    """The parts of an iteration, given by a generator of list iterators, the first of which is empty.

    Threads may share the iteration, since a part is given again until nothing is left of it: of two threads that ask at
    the same time the second one would make ``chain`` forget what the first one has got.
    """

    def __init__(self, parts: Generator[Iterator[Any], None, None], cancel: Callable[[], None]) -> None:
        self._parts, self._cancel, self._lock = parts, cancel, threading.Lock()
        self._asking = 0  # the thread that is in the generator
        self._is_misused = False
        self._newest = next(parts)  # up to its first yield, so that closing it runs the code that cancels

    def __iter__(self) -> Iterator[Iterator[Any]]:
        return self

    def __next__(self) -> Iterator[Any]:
        if self._asking == threading.get_ident():
            self._is_misused = True  # ``chain`` has ended with this error, so the outer call must not seem to go on
            raise _misused()
        with self._lock:  # whose holder waits in bounded steps, and ends when the driver does
            if not operator.length_hint(self._newest):
                self._asking = threading.get_ident()
                try:
                    self._newest = next(self._parts)
                finally:
                    self._asking = 0
                if self._is_misused:
                    raise _misused()
            return self._newest

    def close(self) -> None:
        """Cancel what the parts come of; a thread that is in the generator ends it, else this one does."""
        self._cancel()
        if self._lock.acquire(blocking=False):
            try:
                self._parts.close()
            finally:
                self._lock.release()


def _misused() -> RuntimeError:
    return RuntimeError("on_error must not ask for the next result of the iterator that it is called by")
