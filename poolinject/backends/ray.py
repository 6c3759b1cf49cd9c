"""``backend="ray"``: a worker in each of our own actors on a Ray cluster.

An actor has a few threads, so that what is to reach it at once does not wait for the call that is under way.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from poolinject._transport import wire
from poolinject._transport.messages import Load, Setup, ToWorker
from poolinject._worker.hosted import LEASE_SECONDS, HostedWorker, Order, Reply
from poolinject.backends._remote import HOLD_SECONDS, LEASE_SHARE, RemoteBackend, Seat
from poolinject.errors import BackendUnavailableError

try:
    import ray
except ImportError as error:  # it cannot be used then
    raise BackendUnavailableError("ray", "pip install 'poolinject[ray]'") from error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from types import ModuleType

OF_THIS_MACHINE = ("auto", "local")  # addresses that Ray finds, or makes, by itself
CONNECT_SECONDS = 60.0  # for a cluster to answer
LOOK_SECONDS = 0.2
PLACEMENT_SECONDS = 60.0  # for the cluster to find room for an actor and to start it
STOP_SECONDS = 3600.0  # the longest that a worker may take to close; the pool has a bound of its own
THREADS = 8  # of an actor
LARGE = 1 << 17  # bytes that are put into the object store once for all workers


class HostActor:
    """One worker, in an actor's process."""

    def __init__(self, setup: Setup) -> None:
        self._hosted = HostedWorker(setup)

    def place(self) -> tuple[int, str]:
        """Give the process and the node that the actor is on."""
        return os.getpid(), ray.get_runtime_context().get_node_id()

    def exchange(self, number: int, heard: int, *parts: bytes) -> Reply:
        """Call the worker."""
        return self._hosted.exchange(number, heard, b"".join(parts), HOLD_SECONDS)

    def control(self, number: int, order: Order, arguments: tuple[int, ...]) -> Reply | None:
        """Do at once what the caller wants."""
        self._hosted.control(number, order, *arguments)
        return self._hosted.last_words(STOP_SECONDS) if order == "stop" else None

    def touch(self, heard: int) -> None:
        """The caller is there, and has got so many answers."""
        self._hosted.touch(heard)


class RayBackend(RemoteBackend):
    """Actors on a Ray cluster.

    Args:
        address: A running cluster, as ``ray.init`` takes it; by default the one that this process is connected to, or
            that ``RAY_ADDRESS`` names, else one is started on this machine and ended with the pool.
        by_value: Modules that are not installed on the nodes; what they define is sent along.
        resources: What each worker needs, as options of an actor, say ``{"num_gpus": 1}``; one CPU by default.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        by_value: ModuleType | Sequence[ModuleType] = (),
        resources: Mapping[str, Any] | None = None,
    ) -> None:
        if address is not None and not isinstance(address, str):
            message = f"address must be a text such as 'host:6379' or 'auto', not {address!r}"
            raise TypeError(message)
        if address is not None and not _may_be_address(address):
            message = f"address {address!r} is not one such as 'host:6379', 'ray://host:10001', 'auto' or 'local'"
            raise ValueError(message)
        if resources is not None and not isinstance(resources, Mapping):
            message = f"resources must be options of an actor by name, say {{'num_gpus': 1}}, not {resources!r}"
            raise TypeError(message)
        if "name" in (resources or {}):
            message = f"resources cannot have a name ({resources!r}): no two actors may have the same"
            raise ValueError(message)
        self._address, self._resources = address, {"num_cpus": 1, **(resources or {})}
        super().__init__()
        self._send_by_value(by_value)

    def _reset(self) -> None:
        super()._reset()
        self._owns_connection = False
        self._shared: dict[int, Any] = {}  # large functions, in the object store
        self._placing: dict[Seat, float] = {}  # since when
        self._ended = threading.Event()

    def _take_places(self, setup: Setup, workers: int) -> None:
        """Place the actors; those that find no room within a minute are an error."""
        if not ray.is_initialized():
            self._connect(workers)
        workers = workers or self._room()
        self._seats.extend(self._make(setup._replace(worker_id=worker_id)) for worker_id in range(workers))
        self._place(self._seats)
        threading.Thread(target=self._keep_lease, name=f"{setup.pool_name} lease", daemon=True).start()

    @property
    def _needs(self) -> dict[str, float]:
        """What each worker takes of the cluster, by the names that Ray has for it there."""
        asked = {"CPU": self._resources.get("num_cpus"), "GPU": self._resources.get("num_gpus")}
        asked |= {"memory": self._resources.get("memory"), **(self._resources.get("resources") or {})}
        return {name: amount for name, amount in asked.items() if amount}

    def _room(self) -> int:
        """Give how many workers there is room for on a cluster that does nothing else, one at least."""
        there = ray.cluster_resources()
        return max(1, int(min((there.get(name, 0) // amount for name, amount in self._needs.items()), default=1)))

    def _connect(self, workers: int) -> None:
        options: dict[str, Any] = {"logging_level": logging.ERROR}
        address = self._address or os.environ.get("RAY_ADDRESS") or "local"  # else Ray looks for any that runs here
        if address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what we start tells nobody
            options |= {"num_cpus": workers or None, "include_dashboard": False}
        try:
            _wait_for_answer(address)
            ray.init(address=address, **options)
        except ConnectionError as error:
            remedy = (
                f"no Ray cluster at {address!r} lets this process in ({error}); "
                "for one that asks for a token set RAY_AUTH_MODE=token"
            )
            raise BackendUnavailableError("ray", remedy) from error
        self._owns_connection = True

    def _make(self, setup: Setup) -> Seat:
        options = {"max_concurrency": THREADS, "max_restarts": 0, "max_task_retries": 0, **self._resources}
        return Seat(setup, "", 0, ray.remote(HostActor).options(**options).remote(setup))

    def _place(self, seats: Sequence[Seat]) -> None:
        """Wait until each actor has a place."""
        refs = [seat.handle.place.remote() for seat in seats]
        ready, missing = ray.wait(refs, num_returns=len(refs), timeout=PLACEMENT_SECONDS)
        if missing:
            raise self._no_place(len(seats), len(ready))
        try:
            places = ray.get(refs)
        except ray.exceptions.RayError as error:
            raise _unusable(error) from error
        for seat, place in zip(seats, places, strict=True):
            seat.pid, seat.address = place

    def _no_place(self, wanted: int, found: int) -> BackendUnavailableError:
        free = {name: ray.available_resources().get(name, 0) for name in self._needs}
        remedy = (
            f"{found} of {wanted} workers found a place on the cluster within {PLACEMENT_SECONDS:g} seconds; each "
            f"needs {self._needs}, and {free} is left. Ask for fewer workers, or for less"
        )
        return BackendUnavailableError("ray", remedy)

    def _open(self, setup: Setup) -> Seat | None:
        """Make the next actor; until it tells where it is, that of the one before stands there: 0 would be a group."""
        before, seat = self._seats[setup.worker_id], self._make(setup)
        seat.pid, seat.address = before.pid, before.address
        self._placing[seat] = time.monotonic()

        def note(place: Future[tuple[int, str]]) -> None:
            with contextlib.suppress(Exception):  # the call that is under way tells
                seat.pid, seat.address = place.result()
            self._placing.pop(seat, None)

        seat.handle.place.remote().future().add_done_callback(note)
        return seat

    # the carrier

    def _write(self, seat: Seat, message: ToWorker) -> int:
        """Put a large function into the object store, once for all workers."""
        if not isinstance(message, Load) or message.blob is None or len(message.blob) < LARGE:
            return super()._write(seat, message)
        if message.function not in self._shared:
            self._shared[message.function] = ray.put(b"".join(wire.encode_to_worker(message)))
        seat.gathered.append(self._shared[message.function])
        return len(message.blob)

    def _call(self, seat: Seat, number: int, parts: list[Any]) -> None:
        arguments: list[Any] = [bytearray()]
        for part in parts:
            if isinstance(part, ray.ObjectRef):
                arguments += [part, bytearray()]
            else:
                arguments[-1] += part
        self._await(seat, seat.handle.exchange.remote(number, seat.next_reply, *arguments), is_call=True)

    def _order(self, seat: Seat, number: int, order: Order, arguments: tuple[int, ...]) -> None:
        self._await(seat, seat.handle.control.remote(number, order, arguments), is_call=False)

    def _await(self, seat: Seat, ref: Any, *, is_call: bool) -> None:
        """Pass an answer on when it comes."""

        def pass_on(answer: Future[Reply | None]) -> None:
            try:
                reply = answer.result()
            except ray.exceptions.RayTaskError as error:
                self._end(seat, _unusable(error))
            except Exception:  # noqa: BLE001 - the actor is gone, whichever way Ray puts it
                self._end(seat)
            else:
                if reply is not None:
                    self._arrive(seat, reply, is_call=is_call)

        ref.future().add_done_callback(pass_on)

    def _abandon(self, seat: Seat) -> None:
        """End the actor; its worker does not answer."""
        with contextlib.suppress(Exception):  # it is gone
            ray.kill(seat.handle)

    def _keep_lease(self) -> None:
        """Tell the workers now and then that the caller is there; look for those that find no place."""
        while not self._ended.wait(LEASE_SECONDS / LEASE_SHARE):
            for seat in list(self._seats):
                if seat.ended:
                    continue
                with contextlib.suppress(Exception):  # the connection is being closed
                    # no call is under way while it rests
                    self._await(seat, seat.handle.touch.remote(seat.next_reply), is_call=False)
                if time.monotonic() - self._placing.get(seat, math.inf) > PLACEMENT_SECONDS:
                    self._end(seat, self._no_place(1, 0))

    def _leave(self) -> None:
        """End the actors, and what was started."""
        self._ended.set()
        for seat in self._seats:
            self._abandon(seat)
        if self._owns_connection:
            ray.shutdown()


def _may_be_address(address: str) -> bool:
    """Tell whether Ray could make something of it; protocols that others have added are theirs to look into."""
    is_of_others = "://" in address and not address.startswith("ray://")
    return address in OF_THIS_MACHINE or is_of_others or _place_of(address) is not None


def _place_of(address: str) -> tuple[str, int] | None:
    """Give host and port, where those are what it has."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return (host.strip("[]"), int(port)) if host and "/" not in host and port.isdecimal() else None


def _wait_for_answer(address: str) -> None:
    """Wait a while until somebody listens there: Ray itself would try for minutes.

    Raises:
        ConnectionError: If nobody does.
    """
    place = _place_of(address)
    if place is None:
        return
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection(place, timeout=CONNECT_SECONDS).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(str(error)) from error
            time.sleep(LOOK_SECONDS)
        else:
            return


def _unusable(error: Exception) -> BackendUnavailableError:
    return BackendUnavailableError("ray", f"an actor cannot run it ({error}); the nodes need the same poolinject")
