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

from poolinject._injection.whereabouts import is_closing, is_inside
from poolinject._transport.private_files import register_private_fd

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection
    from types import CodeType, FrameType

NUDGE_SECONDS = 0.1  # after the caller's end
AGAIN_SECONDS = 0.8
END_SECONDS = 1.5
WAIT_SECONDS = 60.0


class CallerWatch:
    """Waits for the caller's end on a thread of its own, and then does what SIGTERM does, with force behind it.

    Attributes:
        caller_is_gone: From then on SIGTERM comes from here, and is to be heeded only where ``wants_interrupt``.
    """

    def __init__(
        self, connection: socket.socket, stop: Callable[[], None], interruptible: Collection[CodeType]
    ) -> None:
        """Begin to wait.

        Args:
            connection: The other end of it is the caller's.
            stop: Lets no further item start; called on the thread of this watch.
            interruptible: The functions that run the user's code on the main thread. Elsewhere that notices by itself,
                or is closing scopes.
        """
        self.caller_is_gone = False
        self._stop, self._interruptible = stop, interruptible
        self._file = os.dup(connection.fileno())  # open until the process ends, which the main thread may delay
        register_private_fd(self._file)
        self._heard = False
        self._raised: weakref.ref[BaseException] | None = None
        threading.Thread(target=self._serve, name="poolinject caller watch", daemon=True).start()

    def wants_interrupt(self, error: BaseException, frame: FrameType | None) -> bool:
        """Tell whether to raise *error* in the main thread, which is at *frame*: once, and again if it was swallowed.

        Cleanups are left in peace. They may also be the item's own, which handle the exception as long as there is one.
        """
        self._heard = True
        if not is_inside(frame, self._interruptible) or is_closing(frame):
            return False
        if self._raised is not None:
            gc.collect()  # a swallowed one is in a cycle with the frames of its traceback
            if self._raised() is not None:
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
