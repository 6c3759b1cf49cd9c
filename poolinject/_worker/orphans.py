"""What ends a worker whose caller is gone: the item is interrupted, cleanups get a moment, then everything is cut off.

A thread of the worker does nothing but wait for the other end of the connection to be closed, so it notices whatever
the main thread is at: an item, a start-up, a cleanup. It does without what only some systems have. The parent-death
signal of Linux would not do: it tells of the end of the *thread* that forked, which in a living caller may be any, and
the parent of most workers is the fork server.

C code that keeps the interpreter's lock stops this thread, too. The fork server, being another process, then ends the
worker. With the start methods ``spawn`` and ``fork`` nobody does: such a worker ends when that code lets go.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

NUDGE_SECONDS = 0.1  # after the caller's end
AGAIN_SECONDS = 0.8
END_SECONDS = 1.5
WAIT_SECONDS = 60.0


class CallerWatch:
    """Waits for the caller's end on a thread of its own, and then does what SIGTERM does, with force behind it.

    The main thread enters it for what may be interrupted then, the user's code in a message. Elsewhere it notices by
    itself, or is closing scopes.

    Attributes:
        caller_is_gone: From then on SIGTERM comes from here, and is to be heeded only where ``wants_interrupt``.
    """

    def __init__(self, connection: socket.socket, stop: Callable[[], None]) -> None:
        self.caller_is_gone = self._entered = False
        self._stop = stop
        self._file = os.dup(connection.fileno())  # open until the process ends, which the main thread may delay
        self._heard = False
        self._raised: weakref.ref[BaseException] | None = None
        threading.Thread(target=self._serve, name="poolinject caller watch", daemon=True).start()

    def __enter__(self) -> None:
        self._entered = True

    def __exit__(self, *_: object) -> None:
        self._entered = False

    def wants_interrupt(self, error: BaseException) -> bool:
        """Tell whether to raise *error*, on the main thread: once, and again where the item has swallowed the last.

        An exception that is still on its way is being handled by cleanups, which are to run in peace.
        """
        self._heard = True
        if self._raised is not None:
            gc.collect()  # a swallowed one is in a cycle with the frames of its traceback
        if not self._entered or (self._raised is not None and self._raised() is not None):
            return False
        self._raised = weakref.ref(error)
        return True

    def _serve(self) -> None:
        poller = select.poll()
        poller.register(self._file, 0)  # for what is always told: that the other end has been closed
        while not poller.poll(WAIT_SECONDS * 1000):
            pass
        self.caller_is_gone = True
        began = time.monotonic()
        self._stop()
        self._interrupt()
        for seconds, step in ((NUDGE_SECONDS, self._nudge), (AGAIN_SECONDS, self._interrupt), (END_SECONDS, _end)):
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            step()

    def _interrupt(self) -> None:
        """Send SIGTERM to the process: where the main thread blocks it, another takes it, and the handler runs."""
        if callable(signal.getsignal(signal.SIGTERM)):  # else one has come: another would end the cleanup
            os.kill(os.getpid(), signal.SIGTERM)

    def _nudge(self) -> None:
        """Get the main thread out of a system call, where another thread has taken the signal."""
        main = threading.main_thread().ident
        if not self._heard and main is not None and callable(signal.getsignal(signal.SIGTERM)):
            signal.pthread_kill(main, signal.SIGTERM)


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
