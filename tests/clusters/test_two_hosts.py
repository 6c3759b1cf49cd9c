"""Two hosts on one machine: network namespaces joined by a cable, and a Dask cluster of commands in both of them.

Nothing but the cable and the library is shared: the workers find neither the examples nor a file of the caller's.
"""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import unmeasured
from tests.clusters.conftest import available

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT, JOB_TIMEOUT, IP_TIMEOUT, END_TIMEOUT = 60.0, 300.0, 10.0, 10.0
PORT = 8786
ROWS, LOADED, REJECTED = 336_776, 319_809, 16_967
MIDWAY = ROWS // 4  # rows that are done when a worker is killed; the bar lags behind


@dataclass(frozen=True)
class Host:
    """A network namespace with one address."""

    name: str
    address: str

    def start(self, log: Path, *command: str) -> subprocess.Popen[bytes]:
        """Start Python there, in a directory of its own; what it prints goes to *log*."""
        directory = log.with_suffix("")
        directory.mkdir()
        with log.open("wb") as file:
            return subprocess.Popen(
                self.command(*command), stdout=file, stderr=subprocess.STDOUT, cwd=directory, env=environment()
            )

    def command(self, *arguments: str) -> list[str]:
        """Give the command that runs Python there; ``ip`` becomes it, and so does its process."""
        return ["ip", "netns", "exec", self.name, sys.executable, *arguments]


def environment() -> dict[str, str]:
    """Give every process this library, and nothing else of the working directory; none is measured, for its tempo."""
    return {**unmeasured(), "PYTHONPATH": str(ROOT)}


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Configure the network."""
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=IP_TIMEOUT, check=False)  # noqa: S607 - wherever it is


@contextmanager
def namespace(host: Host) -> Iterator[Host]:
    """Make a host; skip the test where that is not allowed."""
    made = ip("netns", "add", host.name)
    if made.returncode != 0:
        pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
    try:
        yield host
    finally:
        ip("netns", "delete", host.name)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Make two hosts and lay the cable."""
    has_ip = shutil.which("ip") is not None
    if not has_ip and ("CI" not in os.environ or sys.platform != "linux"):
        pytest.skip("there is no command ip")
    assert has_ip, "the command ip must be installed in CI"
    first, second = (Host(f"poolinject-{os.getpid()}-{end}", f"10.77.0.{end}") for end in (1, 2))
    with namespace(first), namespace(second):
        pair = ("type", "veth", "peer", "name", "cable", "netns", second.name)
        laid = [ip("link", "add", "cable", "netns", first.name, *pair)]
        for host in (first, second):
            laid.append(ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable"))
            laid += [ip("-n", host.name, "link", "set", device, "up") for device in ("lo", "cable")]
        assert [result.stderr for result in laid if result.returncode] == []
        yield first, second


@dataclass
class Cluster:
    """A scheduler on the first host, one worker there and two on the second."""

    address: str
    workers: dict[str, subprocess.Popen[bytes]]


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill a process in the end."""
    try:
        yield
    finally:
        process.kill()
        process.wait(END_TIMEOUT)


@pytest.fixture
def cluster(hosts: tuple[Host, Host], tmp_path: Path) -> Iterator[Cluster]:
    """Start each process of a Dask cluster by its own command; no nanny brings a worker back."""
    if not available("dask"):
        pytest.skip("distributed is not installed")
    first, second = hosts
    cluster = Cluster(f"tcp://{first.address}:{PORT}", {})
    common = ("--no-dashboard", "--port", str(PORT), "--host", first.address)
    with ExitStack() as stack:
        scheduler = first.start(tmp_path / "scheduler.log", "-m", "distributed.cli.dask_scheduler", *common)
        stack.enter_context(ended(scheduler))
        for name, host in {"near": first, "far": second, "doomed": second}.items():
            options = ("--no-nanny", "--no-dashboard", "--nthreads", "1", "--host", host.address, "--name", name)
            command = ("-m", "distributed.cli.dask_worker", cluster.address, *options)
            cluster.workers[name] = host.start(tmp_path / f"{name}.log", *command)
            stack.enter_context(ended(cluster.workers[name]))
        wait_until_registered(cluster, tmp_path)
        yield cluster


def wait_until_registered(cluster: Cluster, logs: Path) -> None:
    """Wait until the scheduler has all workers, as each of them says itself."""
    deadline = time.monotonic() + START_TIMEOUT
    while missing := [name for name in cluster.workers if "Registered to" not in (logs / f"{name}.log").read_text()]:
        told = {log.name: log.read_text() for log in logs.glob("*.log")}
        assert all(cluster.workers[name].poll() is None for name in missing), told
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


def read_progress(process: subprocess.Popen[bytes], rows: int) -> str:
    """Read the bar of the flights job until it has come to so many rows; give what was read."""
    assert process.stderr is not None
    text = ""
    while block := os.read(process.stderr.fileno(), 1 << 16):
        text += block.decode()
        if any(int(done) >= rows for done in re.findall(rf"(\d+)/{ROWS}", text)):
            break
    return text


@pytest.mark.timeout(START_TIMEOUT + JOB_TIMEOUT + 4 * END_TIMEOUT)
def test_flights_job_loses_no_row_when_a_worker_on_another_host_is_killed(
    cluster: Cluster, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    """Every row has its outcome once, both hosts have worked, and the report tells of the worker that was lost."""
    out = tmp_path / "flights.sqlite3"
    job = [str(ROOT / "examples" / "flights_cluster.py"), "--backend", "dask", "--address", cluster.address]
    with subprocess.Popen(
        hosts[0].command(*job, "--out", str(out)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        watchdog = threading.Timer(JOB_TIMEOUT, process.kill)
        watchdog.start()
        try:
            text = read_progress(process, MIDWAY)
            cluster.workers["doomed"].kill()
            printed, told = (end.decode() for end in process.communicate(timeout=JOB_TIMEOUT))
        finally:
            watchdog.cancel()
            process.kill()
    assert process.returncode == 0, text + told
    for label, count in {"rows in": ROWS, "loaded": LOADED, "rejected": REJECTED}.items():
        assert re.search(rf"^{label} +{count:,}$", printed, re.MULTILINE), printed
    with closing(sqlite3.connect(out)) as connection:
        assert connection.execute("SELECT count(*) FROM flights").fetchone() == (LOADED,)
    assert "workers lost on the way: 1\n" in told
    shares = re.findall(r"^worker \d at tcp://([\d.]+):\d+: ([\d,]+) flights$", told, re.MULTILINE)
    assert sorted(address for address, share in shares if share != "0") == ["10.77.0.1", "10.77.0.2", "10.77.0.2"]
    assert sum(int(share.replace(",", "")) for _, share in shares) == ROWS
