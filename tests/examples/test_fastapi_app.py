"""The example application, served by a real server to a real client: streams, clients that leave, and signals."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT, CLIENT_TIMEOUT = 20.0, 15.0
GRACE = 1  # seconds that the server gives to open responses after SIGTERM
EXIT_TIMEOUT = 10.0  # seconds in which it must be gone
PRIME = 1_000_000_000_039  # a run of numbers from here on takes a while: its primes take 60 ms each
MANY = 100_000


@dataclass
class Server:
    """A server process and how it is reached."""

    process: subprocess.Popen[str]
    client: httpx.Client
    workers: list[psutil.Process] = field(default_factory=list)

    def note_workers(self) -> None:
        """Note everything that the server has started."""
        self.workers = psutil.Process(self.process.pid).children(recursive=True)
        assert self.workers

    def status(self) -> dict[str, Any]:
        """Ask what the pool is at."""
        found: dict[str, Any] = self.client.get("/status").raise_for_status().json()
        return found

    def wait_idle(self) -> int:
        """Wait until no run is left, and give how many items have been done."""
        deadline = time.monotonic() + CLIENT_TIMEOUT
        while ", 0 runs," not in (status := self.status())["pool"]:
            assert time.monotonic() < deadline, status
            time.sleep(0.02)
        return sum(status["items_done"])


@contextmanager
def serve(tmp_path: Path) -> Iterator[Server]:
    """Start uvicorn on a port that the system chooses; killed at the end, with its workers, whatever happened."""
    command = [sys.executable, "-m", "uvicorn", "--port", "0", "--timeout-graceful-shutdown", str(GRACE)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), str(ROOT)]),
        "FACTORS_DATABASE": str(tmp_path / "factors.sqlite3"),
    }
    log = (tmp_path / "server.log").open("w+")
    with (
        log,
        subprocess.Popen(
            [*command, "tests.examples.noted_app:app"], env=environment, cwd=ROOT, stderr=log, stdout=log, text=True
        ) as process,
    ):
        watchdog = threading.Timer(START_TIMEOUT + 2 * CLIENT_TIMEOUT, process.kill)
        watchdog.start()
        try:
            url = wait_for_url(process, tmp_path / "server.log")
            with httpx.Client(base_url=url, timeout=CLIENT_TIMEOUT) as client:
                yield Server(process, client)
        finally:
            watchdog.cancel()
            left = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            for child in left:
                child.kill()


def wait_for_url(process: subprocess.Popen[str], log: Path) -> str:
    """Wait until the server says where it listens."""
    deadline = time.monotonic() + START_TIMEOUT
    while (found := re.search(r"running on (http://[\d.:]+)", log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return found[1]


@pytest.fixture
def server(tmp_path: Path, ledger: ModuleType) -> Iterator[Server]:
    """Serve the application for one test."""
    with serve(tmp_path) as running:
        yield running


def events_of(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give name and data of each event as it comes."""
    name = "message"
    for line in response.iter_lines():
        key, _, text = line.partition(": ")
        if key == "event":
            name = text
        elif key == "data":
            yield name, json.loads(text)
            name = "message"


def stream(server: Server, first: int, count: int) -> list[tuple[str, dict[str, Any]]]:
    """Read a stream to its end."""
    with server.client.stream("GET", "/factors", params={"first": first, "count": count}) as response:
        return list(events_of(response))


def stop(server: Server) -> int:
    """End the server with SIGTERM and give its exit code, once it and its workers are gone."""
    server.process.send_signal(signal.SIGTERM)
    code = server.process.wait(EXIT_TIMEOUT)
    deadline = time.monotonic() + 1
    while alive := [worker for worker in server.workers if not has_ended(worker)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.01)
    return code


def has_ended(process: psutil.Process) -> bool:
    """Tell whether a process runs no more; where nobody waits for orphans it stays as a zombie."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_routes_and_pool_share_their_dependencies(server: Server, ledger: ModuleType) -> None:
    """A route and a stream give the same; the route opens a database for its request, each worker one for all items."""
    numbers = range(90, 110)
    served = {number: server.client.get(f"/factors/{number}").json() for number in numbers}
    assert served[96] == [2, 2, 2, 2, 2, 3]
    *events, end = stream(server, numbers[0], len(numbers))
    assert end == ("end", {})
    assert {name for name, _ in events} == {"message"}
    assert {data["number"]: data["factors"] for _, data in events} == served
    server.note_workers()
    stop(server)
    opened = [entry.pid for entry in ledger.read() if entry.text == "database+"]
    assert opened.count(server.process.pid) == len(numbers)
    assert len(opened) <= len(numbers) + 2
    ledger.check_balanced()


def test_outcomes_are_sent_as_they_come(server: Server) -> None:
    """The first events are with the client while most items have not run."""
    with server.client.stream("GET", "/factors", params={"first": PRIME, "count": MANY}) as response:
        name, data = next(events_of(response))
        assert (name, data["number"] >= PRIME) == ("message", True)
        status = server.status()
        assert ", 1 runs," in status["pool"]
        assert sum(status["items_done"]) < MANY / 2


def test_next_run_sees_new_overrides(server: Server) -> None:
    """An override that is set while the application is served counts for routes and for the next run."""
    assert {name for name, _ in stream(server, 20, 3)} == {"message", "end"}
    server.client.put("/overrides").raise_for_status()
    assert server.client.get("/factors/20").status_code == httpx.codes.UNPROCESSABLE_ENTITY
    events = stream(server, 9, 3)
    assert sorted(data["number"] for name, data in events if name == "message") == [9, 10]
    assert [data for name, data in events if name == "failure"] == [
        {"number": 11, "error": "422: 11 is not between 1 and 10"}
    ]


def test_client_that_leaves_ends_its_run(server: Server, ledger: ModuleType) -> None:
    """A disconnect cancels what is left of the run, other clients' runs go on, and nothing stays open."""
    with server.client.stream("GET", "/factors", params={"first": PRIME, "count": MANY}) as response:
        next(events_of(response))
    assert server.wait_idle() < MANY / 2
    done = ledger.count("transaction+")
    assert len(stream(server, 1, 50)) == 51
    assert ledger.count("transaction+") == done + 50
    server.note_workers()
    stop(server)
    ledger.check_balanced()


def test_sigterm_during_a_run_ends_server_and_workers(server: Server, ledger: ModuleType) -> None:
    """The server exits after its grace, ends the run, closes every scope of every worker and leaves none behind."""
    with server.client.stream("GET", "/factors", params={"first": PRIME, "count": MANY}) as response:
        next(events_of(response))
        server.note_workers()
        began = time.monotonic()
        code = stop(server)
        assert time.monotonic() - began < GRACE + 5
    assert code in (0, -signal.SIGTERM)
    assert ledger.count("transaction+") < MANY / 2
    ledger.check_balanced()
