"""The job of ``flights_etl.py`` on worker processes of this machine or of a Dask or Ray cluster: the same table.

Nothing is shared with the workers of a cluster but the network. So the airlines and airports are read here and sent to
each worker once, workers check and join the flights, and the rows come back and are written here. Each flight has
exactly one outcome, in the order of the input: the database is the same to the last digit wherever it was made, and
also when a worker is lost on the way, for what it held runs again, and nothing is written twice.

The workers need this library and nothing of this directory: the module with the job is sent along.

    python examples/flights_cluster.py --backend process --workers 2 --out flights.sqlite3
    python examples/flights_cluster.py --backend dask --address tcp://10.0.0.1:8786 --out flights.sqlite3
    python examples/flights_cluster.py --backend ray --address ray-head:6379 --workers 8 --out flights.sqlite3

Without an address a cluster is started on this machine, and ended with the job. The table goes to standard output; how
many workers were lost, and where the flights ran, to standard error.
"""

import argparse
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import flights_etl
from flights_etl import INSERT, TABLE, Tally, get_reference, join

from poolinject import Backend, Failure, InjectedPool, RetryPolicy


def make_backend(name: str, address: str | None) -> Backend | str:
    """Give what the pool is to run on; only the library that is asked for is imported."""
    if name == "dask":
        from poolinject.backends.dask import DaskBackend  # noqa: PLC0415 - optional

        return DaskBackend(address, by_value=[flights_etl])
    if name == "ray":
        from poolinject.backends.ray import RayBackend  # noqa: PLC0415 - optional

        return RayBackend(address, by_value=[flights_etl])
    return name


def loaded(results: Iterable[Any], tally: Tally) -> Iterator[flights_etl.Row]:
    """Count the results and give the rows among them."""
    for result in results:
        tally.add(result)
        if not isinstance(result, Failure):
            yield result


def run(options: argparse.Namespace, target: Path) -> Tally:
    """Load the flights into a new database, *target*."""
    tally, reference = Tally(), get_reference()
    started = time.perf_counter()
    with (
        closing(sqlite3.connect(target, isolation_level=None)) as connection,
        InjectedPool(
            workers=options.workers,
            backend=make_backend(options.backend, options.address),
            lifetimes={get_reference: "pool"},
            overrides={get_reference: lambda: reference},
        ) as pool,
    ):
        results = pool.imap(
            join,
            tally.counted(islice(flights_etl.read_flights(), options.limit)),
            progress=flights_etl.bar_of(options.limit),
            on_error="return",
            retries=RetryPolicy(options.retries + 1, phases=("lost",)),  # a rejected flight stays rejected
        )
        connection.execute("BEGIN")
        connection.execute(TABLE)
        connection.executemany(INSERT, loaded(results, tally))
        connection.execute("COMMIT")
        tally.seconds = time.perf_counter() - started
        print_workers(pool)
    return tally


def print_workers(pool: InjectedPool) -> None:
    """Say how many workers were lost, and where the flights ran."""
    print(f"workers lost on the way: {pool.report.lost_workers}", file=sys.stderr)
    for worker in pool.workers:
        where = worker.address or f"process {worker.pid}"
        print(f"worker {worker.worker_id} at {where}: {worker.items_done:,} flights", file=sys.stderr)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["process", "dask", "ray"], default="process")
    parser.add_argument(
        "--address", help="a running cluster: Dask's scheduler, tcp://HOST:8786, or Ray's head node, HOST:6379"
    )
    parser.add_argument(
        "--workers", type=int, help="at most so many; default: as many as the cluster has, or one for each core"
    )
    parser.add_argument(
        "--retries", type=int, default=2, help="further attempts for a flight that is lost with its worker; default: 2"
    )
    flights_etl.add_common_options(parser)
    options = parser.parse_args(arguments)
    if options.address and options.backend == "process":
        parser.error("--address is for --backend dask and --backend ray")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, check and report; 1 if the counts contradict one another."""
    options = parse(arguments)
    with flights_etl.working_directory(options.out) as directory:
        tally = run(options, target := Path(directory, "flights.sqlite3"))
        return flights_etl.conclude(tally, target, options.out)


if __name__ == "__main__":
    raise SystemExit(main())
