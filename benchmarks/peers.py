"""The pools that are compared, behind one face. Worker processes start by forkserver wherever a pool lets one choose.

Each adapter opens a pool of so many workers and gives a function ``run(func, items, chunksize)`` that gives the results
in order; ``chunksize=None`` is what the pool does by itself. Peers are imported when they are opened: none is needed.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Contestant, Round, timed
from poolinject import InjectedPool

Run = Callable[[Callable[..., Any], Iterable[Any], int | None], Iterable[Any]]
WORKERS = 2
CONTEXT = multiprocessing.get_context("forkserver")


@contextmanager
def open_poolinject_map(workers: int) -> Iterator[Run]:
    """Open this library; ``map``."""
    with InjectedPool(workers) as pool:
        yield lambda func, items, chunksize: pool.map(func, items, chunksize=chunksize)


@contextmanager
def open_poolinject_imap(workers: int) -> Iterator[Run]:
    """Open this library; ``imap``."""
    with InjectedPool(workers) as pool:
        yield lambda func, items, chunksize: pool.imap(func, items, chunksize=chunksize)


@contextmanager
def open_mp_map(workers: int) -> Iterator[Run]:
    """Open the standard library's pool; ``map``, which divides the input into four chunks a worker by itself."""
    with CONTEXT.Pool(workers) as pool:
        yield pool.map


@contextmanager
def open_mp_imap(workers: int) -> Iterator[Run]:
    """Open the standard library's pool; ``imap``, one item a message by itself.

    One of its threads spins while a result lies unread (CPython 3.11, every start method), and competes for the
    interpreter with the thread that reads: its rounds differ a lot, so the best of them counts and the worst is shown.
    """
    with CONTEXT.Pool(workers) as pool:
        yield lambda func, items, chunksize: pool.imap(func, items, chunksize or 1)


@contextmanager
def open_executor(workers: int) -> Iterator[Run]:
    """Open the standard library's executor, one item a message by itself."""
    with ProcessPoolExecutor(workers, mp_context=CONTEXT) as pool:
        yield lambda func, items, chunksize: pool.map(func, items, chunksize=chunksize or 1)


@contextmanager
def open_loky(workers: int) -> Iterator[Run]:
    """Open loky's executor, which starts its processes its own way; one item a message by itself."""
    import loky  # noqa: PLC0415 - a peer may be missing

    with loky.ProcessPoolExecutor(workers) as pool:
        yield lambda func, items, chunksize: pool.map(func, items, chunksize=chunksize or 1)


@contextmanager
def open_joblib(workers: int) -> Iterator[Run]:
    """Open joblib on loky's processes, which sizes its batches and maps large arrays by itself.

    Its workers outlive it, so they are ended here: the next row shall not have them beside it.
    """
    import joblib  # noqa: PLC0415 - a peer may be missing
    from joblib.externals.loky import get_reusable_executor  # noqa: PLC0415 - the same

    with ExitStack() as stack:
        stack.callback(lambda: get_reusable_executor().shutdown(wait=True))
        parallel = stack.enter_context(joblib.Parallel(n_jobs=workers))

        def run(func: Callable[..., Any], items: Iterable[Any], chunksize: int | None) -> Iterable[Any]:
            parallel.batch_size = chunksize or "auto"
            results: Iterable[Any] = parallel(joblib.delayed(func)(item) for item in items)
            return results

        yield run


@contextmanager
def open_mpire(workers: int) -> Iterator[Run]:
    """Open mpire with workers that stay; it sizes its chunks by itself."""
    import mpire  # noqa: PLC0415 - a peer may be missing

    with mpire.WorkerPool(n_jobs=workers, start_method="forkserver", keep_alive=True) as pool:
        yield lambda func, items, chunksize: pool.map(func, items, chunk_size=chunksize)


@contextmanager
def open_pebble(workers: int) -> Iterator[Run]:
    """Open pebble, one item a message by itself."""
    import pebble  # noqa: PLC0415 - a peer may be missing

    with pebble.ProcessPool(max_workers=workers, context=CONTEXT) as pool:
        yield lambda func, items, chunksize: pool.map(func, items, chunksize=chunksize or 1).result()


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to run items.

    Attributes:
        name: As the table shows it, without the chunk size.
        open: The adapter above.
        needs: The module that it is from, where it may be missing.
    """

    name: str
    open: Callable[[int], AbstractContextManager[Run]]
    needs: str | None = None


POOLINJECT_MAP = Peer("poolinject map", open_poolinject_map)
POOLINJECT_IMAP = Peer("poolinject imap", open_poolinject_imap)
MP_MAP = Peer("mp.Pool.map", open_mp_map)
MP_IMAP = Peer("mp.Pool.imap", open_mp_imap)
EXECUTOR = Peer("ProcessPoolExecutor.map", open_executor)
LOKY = Peer("loky map", open_loky, "loky")
JOBLIB = Peer("joblib Parallel", open_joblib, "joblib")
MPIRE = Peer("mpire map", open_mpire, "mpire")
PEBBLE = Peer("pebble map", open_pebble, "pebble")


@dataclass(frozen=True, slots=True)
class Work:
    """What every contestant of a row is given.

    Attributes:
        func: Runs on the workers.
        items: Makes the input, outside of the timed region.
        count: How many items that is.
        is_right: Checks what ``consume`` gives.
        consume: Takes the results, inside of the timed region.
        workers: How many workers there are.
        warm_up: Warms a pool that has just been opened; by default a whole round does.
    """

    func: Callable[..., Any]
    items: Callable[[], Iterable[Any]]
    count: int
    is_right: Callable[[Any], bool]
    consume: Callable[[Iterable[Any]], Any] = list
    workers: int = WORKERS
    warm_up: Callable[[Run], object] | None = None

    def by(
        self,
        peer: Peer,
        name: str = "",
        *,
        chunksize: int | None = None,
        information: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> Contestant:
        """Make the contestant that does this work with that pool."""

        @contextmanager
        def opened() -> Iterator[Round]:
            with peer.open(self.workers) as run:
                if self.warm_up is not None:
                    self.warm_up(run)
                yield lambda: self._once(run, chunksize, clock)

        label = name or (peer.name if chunksize is None else f"{peer.name}(chunksize={chunksize:,})")
        warm_ups = 1 if self.warm_up is None else 0
        return Contestant(label, self.count, opened, information, peer.needs, warm_ups=warm_ups)

    def _once(self, run: Run, chunksize: int | None, clock: Callable[[], float] | None) -> float:
        items = self.items()
        if clock is None:
            return timed(lambda: self.consume(run(self.func, items, chunksize)), self.is_right)
        return timed(lambda: self.consume(run(self.func, items, chunksize)), self.is_right, clock)
