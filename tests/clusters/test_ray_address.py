"""Which Ray cluster a backend without an address takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clusters.conftest import WORKERS, Cluster

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60.0
SCRIPT = """
import ray
from poolinject import InjectedPool
with InjectedPool(2, backend="ray") as pool:
    print(pool.map(abs, [-1, -2]), int(ray.cluster_resources()["CPU"]))
"""


def run(script: str, **environment: str) -> str:
    """Run a script in a process of its own; give the last line that it prints."""
    result = subprocess.run(
        [sys.executable, "-"],
        input=script,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(("address", "cpus"), [("auto", WORKERS), ("", 2)])
def test_address_in_the_environment_counts_and_no_other_cluster_is_looked_for(
    address: str, cpus: int, ray: Cluster
) -> None:
    """What ``RAY_ADDRESS`` names is used as it is; without it a cluster of the pool's size is started."""
    assert run(SCRIPT, RAY_ADDRESS=address) == f"[1, 2] {cpus}"


def test_a_cluster_can_be_had_by_host_and_port(ray: Cluster) -> None:
    """With the token that Ray asks for."""
    import ray as library  # noqa: PLC0415 - optional

    address = library.get_runtime_context().gcs_address
    script = SCRIPT.replace('backend="ray"', f"backend=RayBackend({address!r})")
    script = f"from poolinject.backends.ray import RayBackend{script}"
    assert run(script, RAY_ADDRESS="", RAY_AUTH_MODE="token") == f"[1, 2] {WORKERS}"
