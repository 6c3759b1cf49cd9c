"""Runs the async work of sync code on an event loop that the sync code never sees. Runs in the worker.

A coroutine that never suspends costs no turn of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import sys
from asyncio.events import _get_running_loop, _set_running_loop
from asyncio.tasks import _enter_task, _leave_task
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from poolinject._injection.event_loop import wind_up
from poolinject._injection.local_host import LocalHost
from poolinject._injection.tasks import AsyncioRunning, AsyncioTasks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from poolinject._injection.contexts import Step


class LocalLoop:
    """A loop on the thread that uses it, made when the first coroutine comes."""

    is_elsewhere = False

    def __init__(
        self,
        make: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        *,
        watch: Literal["the file", "a selector"] = "the file",
    ) -> None:
        """Make no loop yet.

        Args:
            make: Makes one.
            watch: What the loop may be given to wait for a file. Some loops have files that they watch block no more.
        """
        self._make, self._watch = make, watch
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hosts: list[LocalHost] = []
        self._is_awaited = False
        self._tasks = AsyncioTasks()
        self.failing, self.finishing = self._tasks.failing, self._tasks.finishing
        self.entered: asyncio.Task[None] | None = None  # the task that counts as the current one
        self.waiting: LocalHost | None = None  # the host that the loop turns for

    def enter(self, task: asyncio.Task[None] | None) -> None:
        """Let a task be the current one, until another is."""
        entered, self.entered = self.entered, task
        if entered is not None:
            _leave_task(entered.get_loop(), entered)
        if task is not None:
            _enter_task(task.get_loop(), task)

    def get(self) -> asyncio.AbstractEventLoop:
        """Give the loop, made on first use."""
        if self._loop is None:
            self._loop = self._make()
            if sys.get_asyncgen_hooks() == (
                None,
                None,
            ):  # for the whole thread: to set them for each step costs too much
                sys.set_asyncgen_hooks(finalizer=self._finalize)
        return self._loop

    def _finalize(self, generator: AsyncGenerator[Any, None]) -> None:
        """Close an async generator that user code has left before its end."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.create_task, generator.aclose())

    def is_current(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether a loop is this one and not being closed."""
        return loop is self._loop

    def host(self) -> LocalHost:
        """Make a new host; it costs nothing until it runs something."""
        host = LocalHost(self)
        self._hosts.append(host)
        return host

    def start(self, work: Callable[[], Step], limit: float, late: Callable[[], BaseException]) -> AsyncioRunning:
        """Start a task, which goes on while somebody waits in the loop."""
        return self._tasks.start(self.get(), work, limit, late)

    def call(self, function: Callable[[], None]) -> None:
        """Call a function here and now; what it has called soon needs a loop."""
        self.get()
        function()

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call a function when the loop turns."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function)

    @property
    def has_own_tasks(self) -> bool:
        """Whether there are tasks beside those of the hosts; asked for where no item runs."""
        return self._loop is not None and len(asyncio.all_tasks(self._loop)) > sum(host.is_open for host in self._hosts)

    def wait_until(self, is_over: Callable[[], bool], file: int | None = None) -> None:
        """Let the loop turn."""
        loop = self.get()
        can_be_read = False

        def note() -> None:
            nonlocal can_be_read
            can_be_read = True
            self.nudge()

        try:
            with self._turning(), self._reading(loop, file, note):
                while not can_be_read and not is_over():
                    self._is_awaited = True
                    loop.run_forever()
        finally:
            self._is_awaited = False

    @contextmanager
    def _reading(self, loop: asyncio.AbstractEventLoop, file: int | None, note: Callable[[], None]) -> Iterator[None]:
        """Have a function called when a file can be read."""
        if file is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            if self._watch == "a selector":
                selector = stack.enter_context(contextlib.closing(selectors.DefaultSelector()))
                selector.register(file, selectors.EVENT_READ)
                file = selector.fileno()  # those of Linux and macOS are files themselves
            loop.add_reader(file, note)
            stack.callback(loop.remove_reader, file)
            yield

    def nudge(self) -> None:
        """Have whoever waits look whether it is over."""
        if self._loop is not None and self._is_awaited:
            self._is_awaited = False  # uvloop counts: a second stop would be for who turns the loop next
            self._loop.stop()

    @contextmanager
    def _turning(self) -> Iterator[None]:
        self.enter(None)
        previous = _get_running_loop()
        _set_running_loop(None)
        try:
            yield
        finally:
            _set_running_loop(previous)

    def turn(self, until: Any) -> Any:
        """Let the loop turn until a future or a coroutine has come to its end; give its result."""
        with self._turning():
            return self.get().run_until_complete(until)

    def close(self) -> None:
        """Cancel what is left, close the loop; the next coroutine would get a new one."""
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        try:
            with self._turning():
                loop.run_until_complete(wind_up())
        finally:
            loop.close()
            if sys.get_asyncgen_hooks().finalizer == self._finalize:
                sys.set_asyncgen_hooks(None, None)
            for host in self._hosts:
                host.forget()
