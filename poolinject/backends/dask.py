"""``backend="dask"``: a worker in each worker process of a Dask cluster, reached through its scheduler.

Each call of a worker is a Dask task that is bound to its address. A plugin, one for each pool, holds the workers on
the other side; where Dask ends a worker process in an orderly way it closes their scopes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import secrets
import sys
import time
from concurrent.futures import CancelledError, wait
from typing import TYPE_CHECKING, Any

from poolinject._transport.messages import Setup
from poolinject._worker.hosted import LEASE_SECONDS, Order, Reply
from poolinject.backends._remote import LEASE_SHARE, RemoteBackend, Seat
from poolinject.errors import BackendUnavailableError, PoolInjectError

try:
    import distributed
    from distributed.deploy.subprocess import SubprocessWorker
except ImportError as error:  # it cannot be used then
    raise BackendUnavailableError("dask", "pip install 'poolinject[dask]'") from error

from poolinject.backends._dask_hosting import PoolPlugin, control, exchange, touch

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from concurrent.futures import Future
    from types import ModuleType

START_SECONDS = 60.0  # for a first worker of the cluster to be there, and for the library to answer
SILENCE_SECONDS = 5.0  # without a sign of life, until a worker that is being sent away counts as gone
LOOK_SECONDS = 0.1
LARGE = 1 << 20  # bytes that do not go through the scheduler
TERMINATE_SECONDS = 2.0  # for the news that a worker is not to be waited for
HAVE_PORTS = ("tcp", "tls", "ws", "wss")  # protocols of which an address can be looked into
PRIORITY = 1_000_000  # of a call before the tasks of others that wait for a thread, which it leaves to them at once
ORDER_SECONDS = 0.1  # between two tries
ORDER_TRIES = 5  # for an order whose way has not said that it arrived


class CommandWorker(SubprocessWorker):  # type: ignore[misc]
    """A worker that is started by a command: one that Dask's own ``LocalCluster`` starts imports the main module."""

    def __init__(self, scheduler: str, name: Any = None, **options: Any) -> None:
        kept = {key: value for key, value in options.items() if isinstance(value, (str, int, float, type(None)))}
        super().__init__(scheduler, "distributed.Nanny", str(name), {**kept, "name": str(name)})

    async def _start(self) -> None:
        """Run the command in a process group of its own: Ctrl-C in a terminal is for the caller alone."""
        spec = json.dumps({"cls": self.worker_class, "opts": self.worker_kwargs})
        command = [sys.executable, "-m", "dask", "spec", self.scheduler, "--spec", spec]
        self.process = await asyncio.create_subprocess_exec(*command, process_group=0)


class DaskBackend(RemoteBackend):
    """The workers of a Dask cluster.

    Args:
        address: The scheduler of a running cluster, ``"tcp://host:8786"``; by default a cluster is started on this
            machine, one process with one thread for each worker, and ended with the pool.
        client: A client of a running cluster, instead of its address. Either is left as it is.
        by_value: Modules that are not installed on the workers; what they define is sent along.
    """

    def __init__(
        self, address: str | None = None, *, client: Any = None, by_value: ModuleType | Sequence[ModuleType] = ()
    ) -> None:
        if address is not None and client is not None:
            message = "give DaskBackend an address or a client, not both"
            raise TypeError(message)
        if client is not None and not isinstance(client, distributed.Client):
            message = f"client must be a distributed.Client, not {client!r}"
            raise TypeError(message)
        if client is not None and client.scheduler is None:
            message = f"client is closed: {client!r}"
            raise ValueError(message)
        if address is not None:
            _check_address(address)
        self._address, self._their_client = address, client
        super().__init__()
        self._send_by_value(by_value)

    def _reset(self) -> None:
        super()._reset()
        self._token = secrets.token_hex(8)
        self._cluster: Any = None
        self._client: Any = None
        self._calls = itertools.count()
        self._doing: set[Future[None]] = set()
        self._terminating: list[Future[None]] = []
        self._parting: dict[Seat, float] = {}  # those being sent away, and when they were last heard of
        self._most = 0
        self._setup = Setup(0, 0, "")
        self._is_registered = False

    def _take_places(self, setup: Setup, workers: int) -> None:
        """Take a worker for each that the cluster has, up to the number asked for."""
        self._most, self._setup = workers, setup
        try:
            self._connect(workers)
            wanted = 1 if self._cluster is None else len(self._cluster.worker_spec)
            self._client.wait_for_workers(wanted, timeout=START_SECONDS)
            self._client.register_plugin(PoolPlugin(self._token))
            self._is_registered = True
            self._client.subscribe_topic("all", self._on_event)
            self._client.subscribe_topic(f"poolinject-{self._token}", self._on_last_words)
            pids = self._client.run(os.getpid)
        except (OSError, TimeoutError, ImportError) as error:
            where = self._address or "the cluster"
            remedy = f"{where} has no worker that answers ({type(error).__name__}: {error})"
            raise BackendUnavailableError("dask", remedy) from error
        for address, pid in sorted(pids.items())[: workers or None]:
            setup = self._setup._replace(worker_id=len(self._seats))
            self._seats.append(Seat(setup, address, pid, set()))
        there = self._client.nthreads()
        for seat in self._seats:
            if seat.address not in there:  # gone before there was a seat to say it of
                self._end(seat)
        self._do(self._keep_lease())

    def _connect(self, workers: int) -> None:
        """Make a client of our own: what it hears of and holds is nobody else's."""
        if self._their_client is not None:
            theirs = self._their_client
            address, security = theirs.scheduler.address, theirs.security
        elif self._address is not None:
            address, security = self._address, None
        else:
            logging.getLogger("distributed.batched").setLevel(logging.WARNING)  # it tells of our own end, at length
            self._cluster = distributed.LocalCluster(
                n_workers=workers or len(os.sched_getaffinity(0)),
                threads_per_worker=1,
                dashboard_address=None,
                scheduler_kwargs={
                    "dashboard_address": "127.0.0.1:0"
                },  # else it wants 8787, and warns where that is taken
                processes=True,
                worker_class=CommandWorker,
            )
            address, security = self._cluster.scheduler_address, None
        options = {} if security is None else {"security": security}
        self._client = distributed.Client(address, set_as_default=False, timeout=START_SECONDS, **options)

    def _do(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        """Do something on the client's event loop, which by itself would not keep it."""
        doing = asyncio.run_coroutine_threadsafe(work, self._client.loop.asyncio_loop)
        self._doing.add(doing)
        doing.add_done_callback(self._doing.discard)
        return doing

    # the carrier

    def _call(self, seat: Seat, number: int, parts: list[Any]) -> None:
        self._do(self._carry(seat, number, seat.next_reply, b"".join(parts)))

    async def _carry(self, seat: Seat, number: int, heard: int, data: bytes) -> None:
        try:
            options = {"workers": [seat.address], "allow_other_workers": False, "priority": PRIORITY}
            parcel = data if len(data) < LARGE else await self._client.scatter(data, workers=[seat.address], hash=False)
            key = f"poolinject-{self._token}-{next(self._calls)}"
            call = self._client.submit(
                exchange, self._token, seat.setup, number, heard, parcel, key=key, pure=False, retries=0, **options
            )
            seat.handle.add(call)
            try:
                reply = await call
            finally:
                seat.handle.discard(call)
        except (asyncio.CancelledError, CancelledError, distributed.KilledWorker, OSError):
            self._end(seat)  # the worker, the scheduler or the connection is gone, or everything was restarted
        except Exception as error:  # noqa: BLE001 - whatever a worker without the library, or with another one, raises
            self._end(seat, _unusable(seat, error))
        else:
            self._arrive(seat, reply)

    def _order(self, seat: Seat, number: int, order: Order, arguments: tuple[int, ...]) -> None:
        under_way = self._do(self._carry_order(seat, number, order, arguments))
        if order == "terminate":
            self._terminating.append(under_way)

    async def _carry_order(self, seat: Seat, number: int, order: Order, arguments: tuple[int, ...]) -> None:
        numbered, options = (number, order, arguments), {"workers": [seat.address], "on_error": "ignore"}
        for _ in range(ORDER_TRIES):
            with contextlib.suppress(OSError, ValueError, KeyError):  # the worker is gone; the scheduler tells
                replies = await self._client.run(control, self._token, seat.setup, numbered, **options)
                if seat.address in replies:
                    reply = replies[seat.address]
                    if reply != "done":
                        self._arrive(seat, reply, is_call=False)
                    return
            if seat.ended:
                return
            await asyncio.sleep(ORDER_SECONDS)

    async def _keep_lease(self) -> None:
        """Tell the workers now and then that the caller is there."""
        while not self._closed:
            await asyncio.sleep(LEASE_SECONDS / LEASE_SHARE)
            with contextlib.suppress(Exception):  # the next time, perhaps
                heard = {seat.address: seat.next_reply for seat in self._seats}
                await self._client.run(touch, self._token, heard, on_error="ignore")

    # the cluster

    def _on_event(self, event: tuple[float, dict[str, Any]]) -> None:
        """Heed what the scheduler says of its workers."""
        _, news = event
        if news.get("action") == "remove-worker":
            for seat in self._seats:
                if seat.address == news["worker"] and not seat.ended:
                    if news.get("expected"):
                        self._hear_parting(seat)
                    else:
                        self._do(self._drop(seat))
        elif news.get("action") == "add-worker":
            self._do(self._meet(news["worker"]))

    def _on_last_words(self, event: tuple[float, tuple[str, list[Any]]]) -> None:
        """Heed what a worker says that ends because its process is to."""
        _, (address, replies) = event
        for seat in self._seats:
            if seat.address == address and not seat.ended:
                self._hear_parting(seat)
                for reply in replies:
                    self._arrive(seat, Reply(*reply), is_call=False)

    def _hear_parting(self, seat: Seat) -> None:
        """A worker is being sent away, and has given a sign of life."""
        is_first = seat not in self._parting
        self._parting[seat] = time.monotonic()
        if is_first:
            self._part(seat)
            self._do(self._see_off(seat))

    async def _see_off(self, seat: Seat) -> None:
        """Wait for the last words of a worker, as long as it gives signs of life."""
        while not seat.ended and time.monotonic() - self._parting[seat] < SILENCE_SECONDS:  # noqa: ASYNC110 - a thread ends it
            await asyncio.sleep(LOOK_SECONDS)
        await self._drop(seat)

    async def _drop(self, seat: Seat) -> None:
        """Let go of the calls of a worker that is gone, and look for a spare one."""
        self._end(seat)
        self._parting.pop(seat, None)
        await self._client.cancel(list(seat.handle))
        for address in await self._client.nthreads():
            await self._meet(address)

    async def _meet(self, address: str) -> None:
        with contextlib.suppress(Exception):  # it has gone again
            pids = await self._client.run(os.getpid, workers=[address])
            self._post(lambda: self._settle(address, pids[address]))

    def _settle(self, address: str, pid: int) -> list[Any]:
        """Give a worker process that has come to a slot that has none, or to a new one."""
        if self._closed or any(seat.address == address and not seat.ended for seat in self._seats):
            return []
        vacant = next((seat for seat in self._seats if seat.ended), None)
        if vacant is not None:
            setup = vacant.setup._replace(generation=vacant.setup.generation + 1)
        elif self._most and len(self._seats) >= self._most:
            return []
        else:
            setup = self._setup._replace(worker_id=len(self._seats))
        return self._join(Seat(setup, address, pid, set()))

    def _open(self, setup: Setup) -> Seat | None:  # noqa: ARG002 - the cluster tells when it has replaced a worker
        return None

    def _leave(self) -> None:
        """Take the plugin away, which waits for workers that are to end in their own time; end what was started."""
        wait(self._terminating, TERMINATE_SECONDS)
        if self._client is not None:
            for topic in ("all", f"poolinject-{self._token}"):
                with contextlib.suppress(Exception):
                    self._client.unsubscribe_topic(topic)
            if self._is_registered:
                with contextlib.suppress(Exception):
                    self._client.unregister_worker_plugin(f"poolinject-{self._token}")
            with contextlib.suppress(Exception):
                self._client.close(timeout=START_SECONDS)
        if self._cluster is not None:
            self._cluster.close(timeout=START_SECONDS)


def _check_address(address: object) -> None:
    if not isinstance(address, str):
        message = f"address must be a text such as 'tcp://host:8786', not {address!r}"
        raise TypeError(message)
    try:
        scheme, _ = distributed.comm.parse_address(address)
        distributed.comm.registry.get_backend(scheme)
        if scheme in HAVE_PORTS:
            distributed.comm.get_address_host_port(address)
    except Exception as error:  # whatever the one for its protocol, if there is one, finds
        message = f"address {address!r} is not one such as 'tcp://host:8786' ({error})"
        raise ValueError(message) from error


def _unusable(seat: Seat, error: Exception) -> PoolInjectError:
    remedy = f"worker {seat.address} cannot run it ({type(error).__name__}: {error}); it needs the same poolinject"
    return BackendUnavailableError("dask", remedy)
