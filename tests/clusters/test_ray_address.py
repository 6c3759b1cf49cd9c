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


@pytest.mark.parametrize(("address", "cpus"), [("auto", WORKERS), ("", 2)])
def test_address_in_the_environment_counts_and_no_other_cluster_is_looked_for(
    address: str, cpus: int, ray: Cluster
) -> None:
    """What ``RAY_ADDRESS`` names is used as it is; without it a cluster of the pool's size is started."""
    result = subprocess.run(
        [sys.executable, "-"],
        input=SCRIPT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == f"[1, 2] {cpus}"
