"""Tells a worker from its copies, in processes that the user's code forks in an item.

A copy is left alone as long as that code runs, and mostly ends in it, as the children of ``multiprocessing`` do. One
that comes back would go on with the chunk and answer for it, as if it were the worker: it ends there instead.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

from poolinject._worker.lifecycle import end_process

_watched: weakref.WeakSet[Original] = weakref.WeakSet()


class Original:
    """Knows whether this process is still the one that it was made in; asking costs next to nothing.

    Attributes:
        is_copy: Whether it is not.
        is_at_work: Asked after a fork; if not, what was forked is none of the worker's business.
        on_copy: Called in the copy, in the middle of the user's code.
    """

    def __init__(self) -> None:
        self.is_copy = False
        self.is_at_work: Callable[[], bool] = _always
        self.on_copy: Callable[[], None] = _nothing
        _watched.add(self)

    def end_copy(self, error: BaseException | None = None) -> None:
        """End this process if it is a copy; the user's code came back with that error, or well."""
        if self.is_copy:
            end_process(error)


def _tell_in_forked_process() -> None:
    for original in list(_watched):
        if original.is_at_work():
            original.is_copy = True
            original.on_copy()


def _always() -> bool:
    return True


def _nothing() -> None:
    return


os.register_at_fork(after_in_child=_tell_in_forked_process)
