"""A worker that lives in somebody else's process: a thread there runs items, and whoever calls carries the messages.

The caller numbers what it sends and the worker what it answers, because carriers may overtake each other. What is
known of the items that had begun dies with the process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from poolinject._injection.async_backends import local_loop
from poolinject._injection.runtime import Runtime
from poolinject._transport import wire
from poolinject._transport.frames import FrameReader
from poolinject._transport.messages import FromWorker, Ready, Results, Returned, Setup, Stop, Stopped
from poolinject._transport.waker import Waker
from poolinject._worker.control import private_control
from poolinject._worker.monitor import Monitor
from poolinject._worker.runner import Runner
from poolinject.errors import BackendUnavailableError
from poolinject.markers import WorkerContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from poolinject._transport.picklers import Buffer

Order: TypeAlias = Literal["take back", "cancel", "stop", "terminate"]
LEASE_SECONDS = 60.0  # without a word from the caller, until it counts as gone
LEASE_LOOK_SECONDS = 5.0
NO_BOUND = 1 << 62  # items, of a chunk that has not been taken back
JOIN_SECONDS = 5.0


class Reply(NamedTuple):
    """What a worker has to say: frames, and whether it has ended."""

    number: int
    frames: bytes
    over: bool = False


class HostedWorker:
    """One worker of one pool. Any thread may call the methods; items run on a thread of the worker's own."""

    def __init__(self, setup: Setup, lease: float = LEASE_SECONDS) -> None:
        self.setup, self._lease, self._heard_at = setup, lease, time.monotonic()
        self._changed = threading.Condition()
        self._inbox: deque[tuple[int, Buffer]] = deque()
        self._early: dict[int, bytes] = {}  # what has overtaken something
        self._next = self._replies = self._next_order = self._calls = 0
        self._orders: dict[int, tuple[Order, tuple[int, ...]]] = {}  # the same
        self._owed = 1  # answers: that it is ready
        self._outgoing: list[Buffer] = []
        self._unheard: deque[Reply] = deque()  # answers that the caller may not have got
        self._control = private_control()
        self._chunks: dict[int, int] = {}  # the newest in each slot
        self._newest = -1
        self._bounds: dict[int, int] = {}  # of chunks that were taken back before they came
        self._over = self._ending = False
        self._last: Reply | None = None
        self.terminated = False  # no further item starts
        self._at_end: list[Callable[[], None]] = []
        self._runner: Runner | None = None
        self._waker = Waker()
        self._monitor = Monitor(self._look, setup.pool_name)
        name = f"{setup.pool_name} worker {setup.worker_id}"
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch_lease, name=f"{name} lease", daemon=True).start()

    def exchange(self, number: int, heard: int, data: bytes, hold: float) -> Reply:
        """Hand frames over; wait until there is something to say, nothing to wait for, or for *hold* seconds.

        One call waits at a time, the one that came last: each keeps a thread that others may need. *heard* is how
        many answers the caller has got.
        """
        self.touch(heard)
        with self._changed:
            self._early[number] = data
            while self._next in self._early:
                self._deliver(self._early.pop(self._next))
                self._next += 1
            self._calls += 1
            own = self._calls
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._outgoing or self._over or not self._owed or self._calls > own, hold)
            return self._take()

    def control(self, number: int, order: Order, *arguments: int) -> None:
        """Do at once what the caller wants, whatever frames are on their way; orders have numbers of their own.

        One that comes a second time, because it may have been lost, says nothing new.
        """
        self.touch()
        with self._changed:
            if number >= self._next_order:
                self._orders[number] = order, arguments
            while self._next_order in self._orders:
                order, arguments = self._orders.pop(self._next_order)
                self._next_order += 1
                if order == "take back":
                    self._take_back(*arguments)
                elif order == "cancel":
                    self._push(wire.cancel_frame(*arguments))
                else:
                    self._end(at_once=order == "terminate")

    def _take_back(self, chunk: int, slot: int, keep: int) -> None:
        """Let no item of a chunk start beyond the first *keep*; say so at once where it has not begun."""
        if self._chunks.get(slot) == chunk:
            self._control.take_back(slot, keep)
            if self._control.is_opened(slot):  # the thread that runs it reads the bound, and answers
                return
        elif chunk > self._newest:
            self._bounds[chunk] = keep
        else:
            return
        self._outgoing += wire.encode_from_worker(Returned(chunk, keep))
        self._changed.notify_all()

    def _end(self, *, at_once: bool) -> None:
        """Close every scope and end, once what has been handed over is done or, *at_once*, starts no more."""
        if at_once:
            self.terminated = True
            if self._runner is not None:  # else it is being made, and looks then
                self._runner.terminate()
        if not self._ending:
            self._ending = True
            self._push((wire.STOP, b""))

    def last_words(self, patience: float) -> Reply:
        """Wait for the end, at most *patience* seconds; give what there is to say, again where it is asked again."""
        with self._changed:
            self._changed.wait_for(lambda: self._over, patience)
            reply = self._last or self._take()
            if self._over:
                self._last = reply
        if reply.over:
            self._thread.join(JOIN_SECONDS)
        return reply

    def unheard(self) -> list[Reply]:
        """Give every answer that the caller may not have got, each once: for where calls reach it no longer."""
        with self._changed:
            if self._over and self._last is None:
                self._last = self._take()
            elif self._outgoing:
                self._take()
            replies = list(self._unheard)
            self._unheard.clear()
            return replies

    def when_over(self, call: Callable[[], None]) -> None:
        """Have a function called at the end, on any thread; at once where that has come."""
        with self._changed:
            if not self._over:
                self._at_end.append(call)
                return
        call()

    def stop(self) -> None:
        """End where it is not the caller who wants it, once what has been handed over is done."""
        with self._changed:
            self._end(at_once=False)

    def touch(self, heard: int = 0) -> None:
        """The caller is there, and has got so many answers."""
        self._heard_at = time.monotonic()
        with self._changed:
            while self._unheard and self._unheard[0].number < heard:
                self._unheard.popleft()

    def _take(self) -> Reply:
        frames, self._outgoing = b"".join(self._outgoing), []
        self._unheard.append(Reply(self._replies, frames, self._over))
        self._replies += 1
        return self._unheard[-1]

    def _push(self, frame: tuple[int, Buffer]) -> None:
        self._inbox.append(frame)
        self._waker.wake()

    def _deliver(self, data: bytes) -> None:
        for kind, body in FrameReader().feed(data):
            if kind == wire.CHUNK:
                chunk = wire.read_chunk_header(body)
                self._control.prepare(chunk.slot, chunk.start, self._bounds.pop(chunk.id, NO_BOUND))
                self._chunks[chunk.slot] = self._newest = chunk.id
            self._owed += kind in (wire.CHUNK, wire.WARM)
            self._push((kind, body))

    def _put(self, message: FromWorker) -> None:
        buffers = wire.encode_from_worker(message)
        with self._changed:
            self._outgoing += buffers
            self._owed -= isinstance(message, Ready) or (isinstance(message, Results) and message.done)
            self._changed.notify_all()

    def _look(self) -> float:
        return 0.0 if self._runner is None else self._runner.look()

    def _serve(self) -> None:
        try:
            self._run()
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            for call in self._at_end:
                call()
            self._monitor.end(JOIN_SECONDS)
            self._waker.close()

    def _run(self) -> None:
        setup = self.setup
        try:
            loop = local_loop(setup.async_backend, setup.pool_name)
        except BackendUnavailableError as error:
            self._put(Ready(error))
            return
        runtime = Runtime(WorkerContext(setup.worker_id, setup.generation, setup.pool_name), loop)
        runner = self._runner = Runner(runtime, self._control, self._put, pickles=True, wake=self._monitor.wake)
        if self.terminated:
            runner.terminate()
        self._put(Ready())
        for kind, body in self._frames(runner):
            message = wire.decode_in_worker(kind, body)
            if isinstance(message, (Stop, Setup)):
                break
            runner.follow(message)
            del message, body
        runner.finish()
        failures = runtime.close()
        self._put(Stopped(tuple((failure.provider, failure.error) for failure in failures)))

    def _frames(self, runner: Runner) -> Iterator[tuple[int, Buffer]]:
        """Give what has been handed over; meanwhile items that run beside each other go on."""
        loop = runner.runtime.loop
        while True:
            self._waker.clear()
            while self._inbox:
                yield self._inbox.popleft()
            if runner.is_at_rest and not loop.has_own_tasks:
                self._waker.wait(LEASE_SECONDS)
                continue
            is_at_rest = runner.is_at_rest
            loop.wait_until(lambda: not (is_at_rest or runner.has_tasks), self._waker.fileno())  # noqa: B023 - now
            runner.go_on()

    def _watch_lease(self) -> None:
        """End where the caller has gone away without a word."""
        while not self._over:
            with self._changed:
                self._changed.wait_for(lambda: self._over, min(LEASE_LOOK_SECONDS, self._lease / 4))
            if time.monotonic() - self._heard_at > self._lease:
                with self._changed:
                    self._end(at_once=True)
                return
