"""``backend="process"``: workers are processes, each at the other end of a socket of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import selectors
import signal
import socket
from collections import deque
from typing import TYPE_CHECKING, Literal

from poolinject._transport import wire
from poolinject._transport.frames import FrameReader
from poolinject._transport.messages import Chunk, FromWorker, Setup, ToWorker
from poolinject._transport.payloads import PLACES, SMALL_SPAN, SPAN
from poolinject._transport.private_files import close_private, private_socketpair
from poolinject._transport.waker import Waker
from poolinject._worker.control import SIZE as CONTROL_SIZE
from poolinject._worker.control import SLOTS, map_arena, map_control, shared_memory
from poolinject.backends._launch import available_start_methods, launch
from poolinject.backends.base import Backend, Capabilities, Gone
from poolinject.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from poolinject._transport.picklers import Buffer
    from poolinject.markers import AsyncBackend

RECEIVE_SIZE = 1 << 18
GATHER_SIZE = 1 << 14  # bytes of a message that is written at once
MOST_BUFFERS = 64  # in one system call
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


REMEDIES = {
    errno.EMFILE: "Ask for fewer, or raise ulimit -n",
    errno.ENFILE: "Ask for fewer, or raise ulimit -n",
    errno.ENOMEM: "Ask for fewer, or raise ulimit -v",
}


def _span() -> int:
    """Give the size of an arena: a small one where the address space of processes or the size of files is limited.

    Raises:
        BackendUnavailableError: If not even the control block may be as large as it is.
    """
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    span = SPAN if address_space == resource.RLIM_INFINITY else min(SPAN, SMALL_SPAN)
    file_size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if file_size == resource.RLIM_INFINITY:
        return span
    if file_size < CONTROL_SIZE:
        remedy = (
            f"files, and shared memory with them, may have {file_size} bytes at the most, and {CONTROL_SIZE} are "
            "needed; raise ulimit -f, or use backend='thread'"
        )
        raise BackendUnavailableError("process", remedy)
    return min(span, file_size - file_size % PLACES)


class Peer:
    """The caller's side of one worker process."""

    def __init__(self, setup: Setup, start_method: str, preload: Sequence[str]) -> None:
        self.setup = setup
        with contextlib.ExitStack() as passing, contextlib.ExitStack() as on_failure:
            shared, span = [], _span()
            for size in (CONTROL_SIZE, span, span):
                shared.append(shared_memory(size))
                passing.callback(os.close, shared[-1])
            self.control = on_failure.enter_context(contextlib.closing(map_control(shared[0])))
            self.outgoing = on_failure.enter_context(contextlib.closing(map_arena(shared[1])))
            self.incoming = on_failure.enter_context(contextlib.closing(map_arena(shared[2])))
            self.connection, theirs = private_socketpair()
            passing.callback(close_private, theirs)
            on_failure.callback(close_private, self.connection)
            socket.send_fds(self.connection, [b"".join(wire.encode_to_worker(setup))], shared)
            self.process = launch(start_method, theirs, preload)
            on_failure.pop_all()
        self.connection.settimeout(0)
        self.frames, self._received = FrameReader(), memoryview(bytearray(RECEIVE_SIZE))
        self.out: deque[Buffer] = deque()
        self.events = READ  # that the selector is asked for
        self.at_end = False  # of the worker's messages
        self._recorded: bytes | None = None

    def write(self) -> None:
        """Write as much as the socket takes now."""
        while self.out:
            batch = [self.out[position] for position in range(min(len(self.out), MOST_BUFFERS))]
            try:
                written = self.connection.sendmsg(batch)
            except BlockingIOError:
                return
            except OSError:  # the worker has ended; its sentinel says so, too
                self.out.clear()
                return
            while written:
                first = self.out.popleft()
                if written < len(first):
                    self.out.appendleft(memoryview(first)[written:])
                    break
                written -= len(first)

    def read(self, *, everything: bool = False) -> Iterator[FromWorker]:
        """Take what has come: about one buffer full, or everything that a worker which has ended had written."""
        while not self.at_end:
            try:
                size = self.connection.recv_into(self._received)
            except BlockingIOError:
                return
            except OSError:
                size = 0
            self.at_end = size == 0
            for kind, body in self.frames.feed(self._received[:size]):
                yield wire.decode_from_worker(kind, body, self.incoming)
            if not everything:
                return

    def read_journal(self) -> Iterator[FromWorker]:
        """Take, once, the outcomes that a worker which has ended may not have sent."""
        if self._recorded is None:
            self._recorded = self.control.recorded()
            yield from wire.read_journal(self._recorded, self.incoming)

    def close(self) -> None:
        """Close the files of a worker."""
        close_private(self.connection)
        for memory in (self.control, self.outgoing, self.incoming):
            memory.close()
        self.process.close()


class ProcessBackend(Backend):
    """Worker processes and one selector for all of them."""

    capabilities = Capabilities(shares_memory=False, times_out=True, recycles=True)

    def __init__(self, start_method: str | None = None) -> None:
        methods = available_start_methods()
        if start_method is not None and start_method not in methods:
            message = f"start_method {start_method!r} is not one of {', '.join(map(repr, methods))}"
            raise ValueError(message)
        self.start_method = start_method or methods[0]
        self._selector: selectors.BaseSelector | None = None
        self._peers: list[Peer] = []
        self._preload: tuple[str, ...] = ()
        self._unwritten: set[int] = set()

    def start(self, pool_name: str, workers: int, preload: Sequence[str], async_backend: AsyncBackend) -> int:
        """Start the processes; none of them imports the caller's main module."""
        self._peers.clear()  # of a start that failed
        self._preload = tuple(preload)
        self._waker = Waker()
        try:
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._waker, READ, None)
            for worker_id in range(workers):
                peer = Peer(Setup(worker_id, 0, pool_name, async_backend), self.start_method, self._preload)
                self._peers.append(peer)
                self._watch(worker_id, peer)
        except BaseException as error:
            started = len(self._peers)
            for worker_id in range(started):
                self.end(worker_id, "kill")
            self.close()
            if isinstance(error, OSError) and error.errno in REMEDIES:
                remedy = f"{error.strerror} after {started} of {workers} workers. {REMEDIES[error.errno]}"
                raise BackendUnavailableError("process", remedy) from error
            raise
        return workers

    def _watch(self, worker_id: int, peer: Peer) -> None:
        assert self._selector is not None  # noqa: S101 - start() has made it
        self._selector.register(peer.connection, READ, (worker_id, "connection"))
        self._selector.register(peer.process.sentinel, READ, (worker_id, "sentinel"))

    def send(self, worker_id: int, message: ToWorker) -> int:
        """Encode; ``receive`` writes what has gathered, several small messages in one system call."""
        peer = self._peers[worker_id]
        if isinstance(message, Chunk):
            peer.control.prepare(message.slot, message.start, len(message.items))
        before = peer.outgoing.moved
        buffers = wire.encode_to_worker(message, peer.outgoing)
        peer.out += buffers
        size = sum(map(len, buffers))
        if size < GATHER_SIZE:
            self._unwritten.add(worker_id)
        else:
            self._write(worker_id)
        return size + peer.outgoing.moved - before

    def _write(self, worker_id: int) -> None:
        """Write what the socket takes now, and have the selector tell when it takes more."""
        peer = self._peers[worker_id]
        peer.write()
        events = READ | WRITE if peer.out else READ
        if events != peer.events and not peer.at_end and self._selector is not None:
            self._selector.modify(peer.connection, events, (worker_id, "connection"))
            peer.events = events

    def receive(self, timeout: float | None) -> list[tuple[int, FromWorker | Gone]]:
        """Wait for sockets and sentinels alike, so that a worker's end is seen at once."""
        messages: list[tuple[int, FromWorker | Gone]] = []
        if self._selector is None:
            return messages
        for worker_id in self._unwritten:
            self._write(worker_id)
        self._unwritten.clear()
        ended = []
        for key, events in self._selector.select(timeout):
            if key.data is None:
                self._waker.clear()
            elif key.data[1] == "sentinel":
                ended.append(key.data[0])
            else:
                messages.extend(self._talk(key.data[0], events))
        for worker_id in ended:
            messages.extend((worker_id, message) for message in self._last_words(self._peers[worker_id]))
        heard = {worker_id for worker_id, _ in messages}
        for worker_id in ended:
            if worker_id not in heard:
                return [(worker_id, self._bury(self._peers[worker_id])), *messages]
        return messages

    @staticmethod
    def _last_words(peer: Peer) -> list[FromWorker]:
        """Give what a worker which has ended had written, or else, once, what it had recorded."""
        return list(peer.read(everything=True)) or list(peer.read_journal())

    def _talk(self, worker_id: int, events: int) -> Iterator[tuple[int, FromWorker]]:
        """Write to a worker and read from it, whichever it is ready for."""
        peer = self._peers[worker_id]
        if events & WRITE:
            self._write(worker_id)
        if events & READ:
            yield from ((worker_id, message) for message in peer.read())
            if peer.at_end and self._selector is not None:
                self._selector.unregister(peer.connection)

    def _bury(self, peer: Peer) -> Gone:
        """Tell of a worker's end, once its last messages have been followed.

        What was sent since opened slots anew. So it must be the first thing that is followed now: whatever comes before
        it may send more.
        """
        begun = {slot: peer.control.begun(slot) for slot in range(SLOTS)}
        assert self._selector is not None  # noqa: S101 - receive() has looked
        for file in (peer.connection, peer.process.sentinel):
            if file in self._selector.get_map():
                self._selector.unregister(file)
        return Gone(peer.process.poll(), begun, peer.control.holds, peer.control.suspect)

    def wake(self) -> None:
        """Write a byte that the selector sees."""
        self._waker.wake()

    def take_back(self, worker_id: int, slot: int, keep: int) -> None:
        """Lower the bound of the chunk."""
        self._peers[worker_id].control.take_back(slot, keep)

    def is_opened(self, worker_id: int, slot: int) -> bool:
        """Look into the control block."""
        return self._peers[worker_id].control.is_opened(slot)

    def deadline(self, worker_id: int) -> int:
        """Look into the control block."""
        return self._peers[worker_id].control.deadline

    def replace(self, worker_id: int) -> bool:
        """Start a process with the set-up of the one that has ended."""
        old = self._peers[worker_id]
        setup = old.setup._replace(generation=old.setup.generation + 1)
        old.close()
        self._peers[worker_id] = peer = Peer(setup, self.start_method, self._preload)
        self._watch(worker_id, peer)
        return True

    def end(self, worker_id: int, how: Literal["terminate", "kill"]) -> None:
        """Send SIGTERM or SIGKILL."""
        self._peers[worker_id].process.kill(signal.SIGTERM if how == "terminate" else signal.SIGKILL)

    def close(self) -> None:
        """Close every file."""
        if self._selector is None:
            return
        self._selector.close()
        self._selector = None
        for peer in self._peers:
            peer.close()
        self._waker.close()

    def pid(self, worker_id: int) -> int:
        """Give the process of a worker."""
        return self._peers[worker_id].process.pid

    def generation(self, worker_id: int) -> int:
        """Give how often the slot was taken over."""
        return self._peers[worker_id].setup.generation
