"""Workers that live in processes of a cluster: what Dask and Ray have in common. They only carry calls there and back.

Every call of a worker is numbered, and so is every answer: carriers may overtake each other. While a worker owes an
answer there is a call under way that waits for it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from poolinject._references import send_by_value
from poolinject._transport import wire
from poolinject._transport.frames import FrameReader
from poolinject._transport.messages import Cancel, Chunk, FromWorker, Ready, Results, Setup, Stop, ToWorker, Warm
from poolinject._transport.waker import Waker
from poolinject.backends.base import Backend, Capabilities, Gone, Joined, Leaving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poolinject._worker.hosted import Order, Reply
    from poolinject.markers import AsyncBackend

    Heard = tuple[int, FromWorker | Gone | Joined | Leaving]

HOLD_SECONDS = 10.0  # for which a call waits for something to say, until it is renewed
UNSEEN = Gone(None, None)  # nobody knows how, nor at what it was
LEASE_SHARE = 4  # a caller that has nothing to say says so this often within a lease


@dataclass(slots=True, eq=False)
class Seat:
    """The caller's side of one generation of a worker."""

    setup: Setup
    address: str
    pid: int
    handle: Any = None  # the carrier's
    gathered: list[Any] = field(default_factory=list)  # buffers, and what a carrier has in place of them
    is_urgent: bool = False  # what is gathered is not to wait for more
    owed: int = 1  # answers: that it is ready
    calls: int = 0
    orders: int = 0
    under_way: int = 0
    chunks: dict[int, int] = field(default_factory=dict)  # the newest in each slot
    replies: dict[int, Reply] = field(default_factory=dict)  # which have overtaken something
    next_reply: int = 0
    leaving: bool = False  # it does what it was handed, gets nothing more, and says by itself how that went
    ended: bool = False


class RemoteBackend(Backend):
    """Workers that another library places and carries calls to."""

    capabilities = Capabilities(shares_memory=False, counts_begun=False, grows=True, costly_messages=True)

    def __init__(self) -> None:
        self._waker: Waker | None = None
        self._reset()

    def _reset(self) -> None:
        """Forget a start that failed: the cluster may be there the next time."""
        self._seats: list[Seat] = []
        self._events: deque[Callable[[], list[Heard]]] = deque()  # what carriers have to tell, for the driver's thread
        self._closed = False

    @staticmethod
    def _send_by_value(modules: object) -> None:
        given = list(modules) if isinstance(modules, Iterable) and not isinstance(modules, str) else [modules]
        for module in given:
            if not isinstance(module, ModuleType):
                message = f"by_value must be modules in a list, not {module!r}: import it and give what that gives"
                raise TypeError(message)
            send_by_value(module)

    def start(self, pool_name: str, workers: int, preload: Sequence[str], async_backend: AsyncBackend) -> int:  # noqa: ARG002
        """Connect, and take places for workers; what goes wrong leaves nothing behind."""
        self._reset()
        self._waker = Waker()
        try:
            self._take_places(Setup(0, 0, pool_name, async_backend), workers)
        except BaseException:
            self.close()
            raise
        return len(self._seats)

    @abstractmethod
    def _take_places(self, setup: Setup, workers: int) -> None:
        """Make the first seats, up to a number; 0: as many as there are."""

    @abstractmethod
    def _call(self, seat: Seat, number: int, parts: list[Any]) -> None:
        """Have a worker's ``exchange`` called; tell by ``_arrive`` or ``_end``."""

    @abstractmethod
    def _order(self, seat: Seat, number: int, order: Order, arguments: tuple[int, ...]) -> None:
        """Have its ``control`` called at once, beside the calls under way; tell of its ``last_words`` after a stop."""

    def _abandon(self, seat: Seat) -> None:
        """Do what can be done about a worker that does not answer."""

    @abstractmethod
    def _leave(self) -> None:
        """End what was started here, and let go of what was not."""

    @abstractmethod
    def _open(self, setup: Setup) -> Seat | None:
        """Find a place for the next generation of a worker, ``None`` where there is none now."""

    # for carriers, on any thread

    def _post(self, event: Callable[[], list[Heard]]) -> None:
        self._events.append(event)
        self.wake()

    def _arrive(self, seat: Seat, reply: Reply, *, is_call: bool = True) -> None:
        """An answer has come."""
        self._post(lambda: self._on_reply(seat, reply, is_call=is_call))

    def _part(self, seat: Seat) -> None:
        """A worker is being sent away."""
        self._post(lambda: self._on_parting(seat))

    def _end(self, seat: Seat, error: BaseException | None = None) -> None:
        """A worker is gone; an *error* says that it could never be had."""
        self._post(lambda: self._on_end(seat, error))

    def _control(self, seat: Seat, order: Order, *arguments: int) -> None:
        seat.orders += 1
        self._order(seat, seat.orders - 1, order, arguments)

    # for the driver

    def send(self, worker_id: int, message: ToWorker) -> int:
        """Encode; ``receive`` has what has gathered carried in one call."""
        seat = self._seats[worker_id]
        if seat.ended:
            return 0
        match message:
            case Cancel(run):
                self._control(seat, "cancel", run)
                return 0
            case Stop():
                self._flush(seat)
                if not seat.leaving:
                    self._control(seat, "stop")
                return 0
            case Chunk():
                seat.chunks[message.slot] = message.id
        if isinstance(message, (Chunk, Warm)):
            seat.owed += 1
            seat.is_urgent = True
        return self._write(seat, message)

    def _write(self, seat: Seat, message: ToWorker) -> int:
        buffers = wire.encode_to_worker(message)
        seat.gathered += buffers
        return sum(map(len, buffers))

    def _flush(self, seat: Seat) -> None:
        if not seat.leaving and (seat.is_urgent or (seat.owed and not seat.under_way)):
            parts, number = seat.gathered, seat.calls
            seat.gathered, seat.is_urgent = [], False
            seat.calls += 1
            seat.under_way += 1
            self._call(seat, number, parts)

    def receive(self, timeout: float | None) -> list[Heard]:
        """Carry out what was sent, wait for answers."""
        for seat in self._seats:
            if not seat.ended:
                self._flush(seat)
        if not self._events and self._waker is not None:
            self._waker.wait(timeout)
        heard: list[Heard] = []
        while self._events:
            heard += self._events.popleft()()
        return heard

    def _on_reply(self, seat: Seat, reply: Reply, *, is_call: bool) -> list[Heard]:
        seat.under_way -= is_call
        if seat.ended or reply.number < seat.next_reply:
            return []
        worker_id = seat.setup.worker_id
        heard: list[Heard] = []
        seat.replies[reply.number] = reply
        while (next_reply := seat.replies.pop(seat.next_reply, None)) is not None:
            seat.next_reply += 1
            for kind, body in FrameReader().feed(next_reply.frames):
                message = wire.decode_from_worker(kind, body)
                seat.owed -= isinstance(message, Ready) or (isinstance(message, Results) and message.done)
                heard.append((worker_id, message))
            if next_reply.over:
                return [*heard, *self._on_end(seat, None, Gone(0, {}))]  # it was at nothing
        return heard

    def _on_parting(self, seat: Seat) -> list[Heard]:
        if seat.ended or seat.leaving:
            return []
        seat.leaving = True
        return [(seat.setup.worker_id, Leaving())]

    def _on_end(self, seat: Seat, error: BaseException | None, gone: Gone = UNSEEN) -> list[Heard]:
        if seat.ended:
            return []
        seat.ended = True
        if error is not None:
            return [(seat.setup.worker_id, Ready(error))]
        return [(seat.setup.worker_id, gone)]

    def _join(self, seat: Seat) -> list[Heard]:
        """A worker has been found for a slot, a new one or one whose worker had gone."""
        worker_id = seat.setup.worker_id
        self._seats[worker_id : worker_id + 1] = [seat]
        return [(worker_id, Joined())]

    def wake(self) -> None:
        """End the wait."""
        if self._waker is not None:
            self._waker.wake()

    def take_back(self, worker_id: int, slot: int, keep: int) -> None:
        """Have the worker lower the bound of the chunk."""
        seat = self._seats[worker_id]
        if not seat.ended:
            self._control(seat, "take back", seat.chunks[slot], slot, keep)

    def is_opened(self, worker_id: int, slot: int) -> bool:  # noqa: ARG002 - nobody here knows
        """Say yes: the worker answers at once where it has not come to the chunk."""
        return True

    def replace(self, worker_id: int) -> bool:
        """Find another place; without one ``Joined`` tells when there is."""
        setup = self._seats[worker_id].setup
        seat = self._open(setup._replace(generation=setup.generation + 1))
        if seat is not None:
            self._seats[worker_id] = seat
        return seat is not None

    def end(self, worker_id: int, how: Literal["terminate", "kill"]) -> None:
        """Let no further item start; one that has to be killed is left to the cluster."""
        seat = self._seats[worker_id]
        if not seat.ended:
            self._control(seat, "terminate")
            if how == "kill":
                self._abandon(seat)
                self._end(seat)

    def close(self) -> None:
        """Leave the cluster."""
        if self._closed:
            return
        self._closed = True
        self._leave()
        for seat in self._seats:
            seat.ended = True  # what carriers may still tell of it is for nobody
        if self._waker is not None:
            self._waker.close()

    def pid(self, worker_id: int) -> int:
        """Give the process that the worker lives in."""
        return self._seats[worker_id].pid

    def address(self, worker_id: int) -> str:
        """Give where that is."""
        return self._seats[worker_id].address

    def generation(self, worker_id: int) -> int:
        """Give how often the slot was taken over."""
        return self._seats[worker_id].setup.generation
