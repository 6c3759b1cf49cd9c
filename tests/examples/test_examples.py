"""The example scripts, run as a user runs them: each in a process of its own, every wait bounded."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.clusters.conftest import available

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BACKENDS = ["inline", "thread", "process"]
TIMEOUT = 20.0
CLUSTER_TIMEOUT = 60.0  # a cluster has to start first, and to end


def run_example(
    name: str, *arguments: str, text: str | None = None, timeout: float = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Run an example to its end."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout, check=False)


@contextmanager
def started_consumer(backend: str) -> Iterator[subprocess.Popen[str]]:
    """Start the country worker on messages from standard input; killed at the end, and also when it hangs."""
    command = [sys.executable, str(EXAMPLES / "country_worker.py"), "--backend", backend, "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        watchdog = threading.Timer(TIMEOUT, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def send_message(process: subprocess.Popen[str], message: str) -> list[str]:
    """Send one message and return what is printed until it is done."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{message}\n")
    process.stdin.flush()
    printed = []
    for line in process.stdout:
        printed.append(line.rstrip("\n"))
        if printed[-1] == f"done: {message}":
            break
    return printed


def events_of(message: str, position: str) -> list[str]:
    """Return the scenario's lines for one message."""
    return [
        f"processing message {position}",
        f"message: {message}",
        f"do_something for {message}",
        "capital cleanup",
        "mayor cleanup",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_country_worker_cleans_up_after_each_message_before_the_next(backend: str) -> None:
    """Every backend prints the scenario's order for each message."""
    result = run_example("country_worker.py", "--backend", backend, "Hello", "World")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == events_of("Hello", "1 of 2") + events_of("World", "2 of 2")


@pytest.mark.parametrize("backend", BACKENDS)
def test_country_worker_processes_messages_as_they_arrive(backend: str) -> None:
    """A message is done while the next one has not been sent; the end of the input ends the worker."""
    with started_consumer(backend) as process:
        assert send_message(process, "Hello") == [*events_of("Hello", "1"), "done: Hello"]
        assert send_message(process, "World") == [*events_of("World", "2"), "done: World"]
        assert process.communicate(timeout=TIMEOUT) == ("", "")
        assert process.returncode == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_sigterm_between_two_messages_leaves_nothing_open(backend: str) -> None:
    """The first message is cleaned up, nothing of a second is made, and every process of the worker is gone."""
    with started_consumer(backend) as process:
        assert send_message(process, "Hello")[-3:] == ["capital cleanup", "mayor cleanup", "done: Hello"]
        family = psutil.Process(process.pid).children(recursive=True)
        assert bool(family) == (backend == "process")
        os.kill(process.pid, signal.SIGTERM)
        assert process.communicate(timeout=TIMEOUT) == ("", "")
        assert process.returncode == -signal.SIGTERM
        assert psutil.wait_procs(family, timeout=TIMEOUT)[1] == []


def table_of(text: str) -> dict[str, int]:
    """Return the whole numbers of the flights job's table by their label."""
    return {
        match["label"].strip(): int(match["number"].replace(",", ""))
        for match in re.finditer(r"^(?P<label>\s*\S.*?)\s{2,}(?P<number>[\d,]+)$", text, re.MULTILINE)
    }


def test_flights_job_accounts_for_every_row(tmp_path: Path) -> None:
    """Rows in are those loaded and those rejected, the database holds the loaded ones, and no shard stays behind."""
    out = tmp_path / "flights.sqlite3"
    result = run_example("flights_etl.py", "--workers", "2", "--limit", "5000", "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert "5000/5000" in result.stderr
    table = table_of(result.stdout)
    assert table["rows in"] == 5000 == table["loaded"] + table["rejected"]
    assert table["rejected"] == table["unknown airport"] + table["no arrival delay"]
    with closing(sqlite3.connect(out)) as connection:
        assert connection.execute("SELECT count(*) FROM flights").fetchone() == (table["loaded"],)
        assert connection.execute("SELECT count(*) FROM flights WHERE airline = 'JetBlue Airways'").fetchone() > (100,)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("backend", BACKENDS)
def test_flights_job_gives_the_same_counts_on_every_backend(backend: str) -> None:
    """What is loaded does not depend on where it runs."""
    result = run_example("flights_etl.py", "--backend", backend, "--workers", "2", "--limit", "1000")
    assert result.returncode == 0, result.stderr
    table = table_of(result.stdout)
    assert (table["rows in"], table["loaded"], table["rejected"]) == (1000, 956, 44)


def without_rate(text: str) -> str:
    """Leave out the line of the flights job's table that differs from run to run."""
    kept, left_out = re.subn(r"^rows per second .*\n", "", text, flags=re.MULTILINE)
    assert left_out == 1
    return kept


def rows_in(database: Path) -> list[tuple[object, ...]]:
    """Give the flights in the order in which they were written."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT * FROM flights ORDER BY rowid").fetchall()


@pytest.fixture(scope="module")
def flights_inline(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[tuple[object, ...]]]:
    """Give what the job prints and writes where one thread does all, in the order of the input."""
    out = tmp_path_factory.mktemp("flights") / "flights.sqlite3"
    result = run_example("flights_etl.py", "--backend", "inline", "--limit", "5000", "--out", str(out))
    assert result.returncode == 0, result.stderr
    return without_rate(result.stdout), rows_in(out)


@pytest.mark.timeout(CLUSTER_TIMEOUT + 2 * TIMEOUT)
@pytest.mark.parametrize("backend", ["process", "dask", "ray"])
def test_flights_job_gives_the_same_to_the_digit_on_a_cluster(
    backend: str, flights_inline: tuple[str, list[tuple[object, ...]]], tmp_path: Path
) -> None:
    """The table is that of the job in one thread, and so are the rows, in the order of the input."""
    if backend != "process" and not available(backend):
        pytest.skip(f"{backend} is not installed")
    out = tmp_path / "flights.sqlite3"
    arguments = ("--backend", backend, "--workers", "2", "--limit", "5000", "--out", str(out))
    result = run_example("flights_cluster.py", *arguments, timeout=CLUSTER_TIMEOUT)
    assert result.returncode == 0, result.stderr
    assert (without_rate(result.stdout), rows_in(out)) == flights_inline
    assert "workers lost on the way: 0\n" in result.stderr
    assert list(tmp_path.iterdir()) == [out]
