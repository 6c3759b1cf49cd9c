"""A thread for an event loop, and how other threads wait for what happens on it. Runs in the worker."""

from __future__ import annotations

import concurrent.futures
import os
import select
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_SECONDS = 1.0  # after so long a wait looks whether the loop's thread is still there


class OwnThread:
    """What loops with a thread of their own have in common.

    Attributes:
        thread: The loop's, once that has been started.
    """

    is_elsewhere = True
    has_own_tasks = False  # it turns all the time

    def __init__(self, name: str) -> None:
        self._name = name
        self.thread: threading.Thread | None = None
        self._nudged = threading.Condition()
        self._pipe: tuple[int, int] | None = None  # for who waits for a file, too

    def start_thread(self, function: Callable[..., object], *arguments: Any) -> None:
        """Start the thread; it ends with the function."""
        name = f"{self._name} event loop"
        self.thread = threading.Thread(target=function, args=arguments, name=name, daemon=True)
        self.thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread is there."""
        return self.thread is not None and self.thread.is_alive()

    def wait_for(self, future: concurrent.futures.Future[Any]) -> Any:
        """Wait for what runs on the loop, as long as its thread is there.

        Raises:
            RuntimeError: If the thread has ended.
        """
        while True:
            concurrent.futures.wait([future], timeout=LOOK_SECONDS)
            if future.done():
                return future.result()
            self._check_alive()

    def wait_until(self, is_over: Callable[[], bool], file: int | None = None) -> None:
        """Wait until it is over, or until a file can be read, as long as the loop's thread is there.

        Raises:
            RuntimeError: If the thread has ended.
        """
        if file is not None:
            self._wait_with_file(is_over, file)
            return
        while not is_over():
            self._check_alive()
            with self._nudged:
                if not is_over():
                    self._nudged.wait(LOOK_SECONDS)

    def _check_alive(self) -> None:
        if not self.is_alive:
            message = f"the thread of the event loop of {self._name!r} has ended"
            raise RuntimeError(message)

    def _wait_with_file(self, is_over: Callable[[], bool], file: int) -> None:
        if self._pipe is None:
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
        nudges = self._pipe[0]
        poller = select.poll()
        for each in (nudges, file):
            poller.register(each, select.POLLIN)
        while not is_over():
            self._check_alive()
            ready = [each for each, _ in poller.poll(LOOK_SECONDS * 1000)]
            if nudges in ready:
                os.read(nudges, 4096)
            if file in ready:
                return

    def nudge(self) -> None:
        """Have whoever waits look whether it is over."""
        with self._nudged:
            self._nudged.notify_all()
        if self._pipe is not None:
            try:
                os.write(self._pipe[1], b"\0")
            except BlockingIOError:  # full of nudges
                return

    def close_pipe(self) -> None:
        """Close what files there are, at the end of the thread."""
        pipe, self._pipe = self._pipe, None
        for end in pipe or ():
            os.close(end)
