"""Rows about Dask and Ray on this machine: what a trivial item costs, beside their own ways to map."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import workloads
from benchmarks.measure import compete
from benchmarks.peers import WORKERS, Peer, Run, Work
from benchmarks.row import Check, Effort, Result, Row
from poolinject import InjectedPool
from poolinject.backends.base import Backend

GOAL = 20.0  # µs an item


def measure_dask(effort: Effort) -> Result:
    """One cluster of two processes for all; Dask has a task for each item, so it gets fewer of them."""
    if importlib.util.find_spec("distributed") is None:
        return Result(notes=["skipped, distributed is not installed"])
    import distributed  # noqa: PLC0415 - a peer may be missing

    from poolinject.backends.dask import DaskBackend  # noqa: PLC0415 - it needs distributed

    with (
        distributed.LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):

        @contextmanager
        def open_theirs(_: int) -> Iterator[Run]:
            yield lambda func, items, _: client.gather(client.map(func, items, pure=False))

        return _measure(effort, lambda: DaskBackend(client=client), Peer("dask Client.map", open_theirs))


def measure_ray(effort: Effort) -> Result:
    """One cluster of two CPUs for all; Ray's own pool has a task for each chunk, here of one item as by itself."""
    if importlib.util.find_spec("ray") is None:
        return Result(notes=["skipped, ray is not installed"])
    import ray  # noqa: PLC0415 - a peer may be missing

    from poolinject.backends.ray import RayBackend  # noqa: PLC0415 - it needs ray

    ray.init(num_cpus=2 * WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        return _measure(effort, RayBackend, Peer("ray.util.multiprocessing.Pool.imap", open_ray_pool))
    finally:
        ray.shutdown()


def _measure(effort: Effort, make: Callable[[], Backend], theirs: Peer) -> Result:
    ours = Peer("poolinject map", functools.partial(open_on_cluster, make))
    contest = compete(
        [
            _work(effort.size(20_000, 1_000)).by(ours),
            _work(effort.size(500, 50)).by(theirs, information=True),
        ],
        effort.rounds(5),
    )
    result = contest.result()
    result.checks.append(Check("an item", contest.best(ours.name) * 1e6, "<=", GOAL, "µs"))
    return result


def _work(count: int) -> Work:
    items = list(range(count))
    return Work(workloads.same, lambda: items, count, lambda results: results == items)


@contextmanager
def open_on_cluster(make: Callable[[], Backend], workers: int) -> Iterator[Run]:
    """Open this library on a cluster that is there."""
    with InjectedPool(workers, backend=make()) as pool:
        yield lambda func, items, chunksize: pool.map(func, items, chunksize=chunksize)


@contextmanager
def open_ray_pool(workers: int) -> Iterator[Run]:
    """Open Ray's own pool, one item a task."""
    from ray.util.multiprocessing import Pool  # noqa: PLC0415 - a peer may be missing

    pool: Any = Pool(workers)
    try:
        yield lambda func, items, chunksize: pool.imap(func, items, chunksize or 1)
    finally:
        pool.terminate()
        pool.join()


DASK = Row("dask", "trivial item, 20,000, on a Dask cluster", "", f"<= {GOAL:g} µs", measure_dask)
RAY = Row("ray", "trivial item, 20,000, on a Ray cluster", "", f"<= {GOAL:g} µs", measure_ray)
