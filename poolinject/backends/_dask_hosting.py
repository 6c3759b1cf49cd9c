"""What the Dask backend has in each worker process of a cluster: one worker for each pool, and how it is reached."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

import distributed

from poolinject._transport.messages import Setup
from poolinject._worker.hosted import HostedWorker, Order, Reply
from poolinject.backends._remote import HOLD_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

CLOSE_SECONDS = 60.0  # for a worker that Dask sends away to do what it was handed and to close its scopes
SIGN_SECONDS = 0.5  # between two signs of life of such a worker
_hosted: dict[tuple[str, str, Setup], HostedWorker] = {}  # in worker processes, until their pool has gone
_finding = threading.Lock()


class PoolPlugin(distributed.WorkerPlugin):  # type: ignore[misc]  # distributed has no annotations
    """The workers of a pool in a Dask worker process; taken away, it closes them."""

    def __init__(self, token: str) -> None:
        self.token, self.name = token, f"poolinject-{token}"

    async def teardown(self, worker: Any) -> None:
        """Close what is open, and tell the caller how that went; the event loop goes on."""
        for key in [key for key in _hosted if key[:2] == (self.token, worker.address)]:
            hosted = _hosted.pop(key)
            hosted.stop()
            await self._see_off(worker, hosted)

    async def _see_off(self, worker: Any, hosted: HostedWorker) -> None:
        """Wait for the end; what there is to say meanwhile goes as events, since results of tasks are not fetched."""
        over = asyncio.ensure_future(_end_of(hosted))
        until = time.monotonic() + CLOSE_SECONDS
        while not (over.done() or hosted.terminated) and time.monotonic() < until:  # who terminates waits for nothing
            self._tell(worker, hosted)
            await asyncio.wait([over], timeout=SIGN_SECONDS)
        over.cancel()
        self._tell(worker, hosted)

    def _tell(self, worker: Any, hosted: HostedWorker) -> None:
        if worker.status == distributed.core.Status.closing:  # else it is the pool that ends, and knows
            worker.log_event(self.name, (worker.address, hosted.unheard()))


def _find(token: str, address: str, setup: Setup) -> HostedWorker:
    """Give the worker, made by whichever call comes first."""
    with _finding:
        key = token, address, setup
        if key not in _hosted:
            _hosted[key] = HostedWorker(setup)
        return _hosted[key]


async def _end_of(hosted: HostedWorker) -> None:
    """Wait for the end of a worker without a thread that waits."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the process ends, and nobody waits any more
            loop.call_soon_threadsafe(over.set)

    hosted.when_over(tell)
    await over.wait()


def exchange(token: str, setup: Setup, number: int, heard: int, data: bytes) -> Reply:
    """Call the worker; runs in a task, which leaves its slot to the next call: that may bring more to do meanwhile."""
    distributed.secede()
    return _find(token, distributed.get_worker().address, setup).exchange(number, heard, data, HOLD_SECONDS)


async def control(
    token: str, setup: Setup, numbered: tuple[int, Order, tuple[int, ...]], dask_worker: Any
) -> Reply | Literal["done"]:
    """Have the worker do something at once; runs on the Dask worker's event loop, beside tasks."""
    number, order, arguments = numbered
    hosted = _find(token, dask_worker.address, setup)
    hosted.control(number, order, *arguments)
    if order != "stop":
        return "done"
    await _end_of(hosted)
    return hosted.last_words(0)


def touch(token: str, heard: Mapping[str, int], dask_worker: Any) -> None:
    """The caller is there, and has got so many answers from each address."""
    for (other, address, _), hosted in list(_hosted.items()):
        if (other, address) == (token, dask_worker.address):
            hosted.touch(heard.get(address, 0))
