"""SIGTERM in the caller: every live pool closes its scopes, then the signal does what it would have done before."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from poolinject._worker.lifecycle import Terminated

if TYPE_CHECKING:
    from poolinject._scheduling.driver import Driver

POLL_SECONDS = 0.01
MARGIN_SECONDS = 10.0  # beyond what the shutdown itself allows its workers

_watched: list[tuple[Driver, float]] = []
_previous: Any = None


def watch(driver: Driver, cleanup_timeout: float, *, only_unheeded: bool = False) -> bool:
    """Let SIGTERM shut a pool down; only the main thread can ask for that. Gives whether it is so.

    With *only_unheeded* a handler that is there stays: a server's own, say, which ends what uses the pool first.
    """
    global _previous  # noqa: PLW0603 - a process has one handler
    if threading.current_thread() is not threading.main_thread():
        return False
    handler = signal.getsignal(signal.SIGTERM)
    if only_unheeded and handler not in (signal.SIG_DFL, _on_sigterm):
        return False
    if not _watched and handler is not _on_sigterm:  # which stays where the last pool was closed on another thread
        _previous = signal.signal(signal.SIGTERM, _on_sigterm)
    if all(watched is not driver for watched, _ in _watched):
        _watched.append((driver, cleanup_timeout))
    return True


def unwatch(driver: Driver) -> None:
    """Forget a pool; with the last one the previous handler is put back."""
    _watched[:] = [entry for entry in _watched if entry[0] is not driver]
    if not _watched and threading.current_thread() is threading.main_thread():
        _put_back()


def _put_back() -> None:
    global _previous  # noqa: PLW0603 - a process has one handler
    if _previous is not None and signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, _previous)
    _previous = None


def _on_sigterm(signum: int, _frame: object) -> None:
    """Shut down and wait without locks: the interrupted code may hold any of them."""
    for driver, _ in _watched:
        if driver.inline and driver.stepping_on == threading.get_ident():  # inside an item
            driver.after_step = partial(_on_sigterm, signum, None)
            raise Terminated(128 + signum)  # its scope closes while the exception goes up
    pools, _watched[:] = list(_watched), []
    if not pools:  # the last pool was closed on another thread
        _again(signum)
        return
    for driver, _ in pools:
        driver.shut_down("cancel", None)
    deadline = time.monotonic() + MARGIN_SECONDS + max(timeout for _, timeout in pools)
    for driver, _ in pools:
        while driver.alive and time.monotonic() < deadline:
            if driver.inline:
                driver.step(0)
            else:
                time.sleep(POLL_SECONDS)
    _again(signum)


def _again(signum: int) -> None:
    _put_back()
    os.kill(os.getpid(), signum)
