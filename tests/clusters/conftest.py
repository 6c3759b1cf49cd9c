"""The suite of the local backends, on clusters that live as long as the session."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from poolinject import InjectedPool
from poolinject.backends.base import Backend
from tests import MEASURED
from tests.conftest import Kind
from tests.pool import ledger as ledger_module

WORKERS = 4  # as many as a test wants


class Cluster(Kind):
    """A cluster under test; pools leave it running."""

    def pool(self, workers: int = 2, **options: Any) -> InjectedPool:
        """Make a pool on it."""
        return InjectedPool(workers, backend=self.connect(), **options)

    def connect(self) -> Backend:
        """Make a backend."""
        if self.name == "ray":
            from poolinject.backends.ray import RayBackend  # noqa: PLC0415 - optional

            return RayBackend()
        from poolinject.backends.dask import DaskBackend  # noqa: PLC0415 - optional

        return DaskBackend(address=os.environ["POOLINJECT_TEST_SCHEDULER"])


def available(name: str) -> bool:
    """Tell whether a library is there; in CI it has to be."""
    is_there = importlib.util.find_spec({"dask": "distributed"}.get(name, name)) is not None
    assert is_there or "CI" not in os.environ, f"{name} must be installed in CI"
    return is_there


@pytest.fixture(scope="session")
def pointer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the file that names the ledger of the test that is running, and tell workers of it."""
    path = tmp_path_factory.mktemp("clusters") / "pointer"
    path.write_text(os.devnull)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ledger_module.POINTER, str(path))
        yield path


@pytest.fixture(scope="session")
def dask(pointer: Path) -> Iterator[Cluster]:
    """Start a Dask cluster of as many processes."""
    if not available("dask"):
        pytest.skip("distributed is not installed")
    import distributed  # noqa: PLC0415 - optional

    from poolinject.backends.dask import CommandWorker  # noqa: PLC0415

    with (
        distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # whoever has the usual port
            worker_class=CommandWorker,
        ) as cluster,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("POOLINJECT_TEST_SCHEDULER", cluster.scheduler_address)
        yield Cluster("dask")


@pytest.fixture(scope="session")
def ray(pointer: Path) -> Iterator[Cluster]:
    """Start a Ray cluster of as many CPUs, by name."""
    if not available("ray"):
        pytest.skip("ray is not installed")
    import ray as library  # noqa: PLC0415 - optional

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        with pytest.MonkeyPatch.context() as start:
            start.delenv(MEASURED, raising=False)  # Ray's own processes import much, and each actor is a new one
            library.init("local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
        yield Cluster("ray")
        library.shutdown()


@pytest.fixture(params=["dask", "ray"])
def backend(request: pytest.FixtureRequest) -> Cluster:
    """Run the test on both."""
    cluster: Cluster = request.getfixturevalue(request.param)
    return cluster


@pytest.fixture
def ledger(tmp_path: Path, pointer: Path) -> ModuleType:
    """Give an empty ledger to the test and to the workers."""
    pointer.write_text(str(tmp_path / "ledger"))
    return ledger_module


NOT_OURS = {  # in the local suite
    "test_jitter_leaves_the_random_numbers_of_the_caller_alone",  # Dask itself draws from them
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the suite of the local backends leave out what is not about every backend, and allow for the start."""
    here = Path(__file__).parent
    for item in list(items):
        if here not in item.path.parents:
            continue
        name, function = getattr(item, "originalname", None), getattr(item, "function", None)
        is_local = getattr(function, "__module__", "").startswith("tests.pool.")
        if is_local and (name in NOT_OURS or "backend" not in getattr(item, "fixturenames", ())):
            items.remove(item)
        item.add_marker(pytest.mark.timeout(90))
