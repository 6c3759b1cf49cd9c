"""What is Ray's own: places on a cluster, and a connection that others use."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from poolinject import BackendUnavailableError, InjectedPool
from tests.clusters.conftest import WORKERS, Cluster
from tests.clusters.work import process_id


def make(*address: Any, **options: Any) -> Any:
    """Make a backend."""
    from poolinject.backends.ray import RayBackend  # noqa: PLC0415 - optional

    return RayBackend(*address, **options)


def test_more_workers_than_there_is_room_for_are_an_error(ray: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how many found a place, and what was left; they are given back."""
    pool = InjectedPool(WORKERS + 1, backend=make())
    with monkeypatch.context() as patch:
        patch.setattr("poolinject.backends.ray.PLACEMENT_SECONDS", 6.0)
        with pytest.raises(BackendUnavailableError) as caught:
            pool.map(int, ["1"])
    found = re.search(rf"\b(\d) of {WORKERS + 1} workers found a place", str(caught.value))
    assert found is not None
    assert int(found[1]) <= WORKERS  # fewer where actors are slow to start
    assert "each needs {'CPU': 1}" in str(caught.value)
    pool.shutdown()
    with ray.pool(WORKERS) as other:
        assert other.map(int, ["1"]) == [1]


def test_a_start_that_failed_may_be_tried_again(ray: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The actors of the first one have ended."""
    from poolinject.backends.ray import RayBackend  # noqa: PLC0415 - optional

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with ray.pool(WORKERS) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(RayBackend, "_place", interrupt)
            with pytest.raises(KeyboardInterrupt):
                pool.map(int, ["1"])
        assert pool.map(int, ["1"]) == [1]
        assert len(pool.workers) == WORKERS


def test_without_a_number_there_is_a_worker_for_each_cpu(ray: Cluster) -> None:
    """Or for as many as each wants of them."""
    with InjectedPool(backend=make()) as pool:
        pool.map(int, ["1"])
        assert len(pool.workers) == WORKERS
    with InjectedPool(backend=make(resources={"num_cpus": 2})) as pool:
        pool.map(int, ["1"])
        assert len(pool.workers) == WORKERS // 2


def test_what_a_cluster_has_not_is_named(ray: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker is tried, though there is room for none."""
    monkeypatch.setattr("poolinject.backends.ray.PLACEMENT_SECONDS", 1.0)
    pool = InjectedPool(backend=make(resources={"resources": {"telescope": 2}}))
    with pytest.raises(BackendUnavailableError, match=r"0 of 1 workers .*'telescope': 2.*'telescope': 0"):
        pool.map(int, ["1"])
    pool.shutdown()


def test_a_connection_of_the_caller_stays(ray: Cluster) -> None:
    """Pools come and go on it."""
    import ray as library  # noqa: PLC0415 - optional

    value = library.put("mine")
    for _ in range(2):
        with ray.pool(1) as pool:
            assert pool.map(int, ["1"]) == [1]
    assert library.is_initialized()
    assert library.get(value) == "mine"


def test_workers_that_take_no_cpu_are_as_many_as_asked_for(ray: Cluster) -> None:
    """Without a number, one."""
    with InjectedPool(2, backend=make(resources={"num_cpus": 0})) as pool:
        assert pool.map(process_id, range(3))
        assert len(pool.workers) == 2
    with InjectedPool(backend=make(resources={"num_cpus": 0})) as pool:
        assert pool.map(int, ["1"]) == [1]


@pytest.mark.parametrize("address", ["", "host", "host:port", "ray://", "ray://host"])
def test_what_is_no_address_is_refused(address: str) -> None:
    """Before anything is connected."""
    with pytest.raises(ValueError, match=f"address '{address}' is not one such as 'host:6379'"):
        make(address)


def test_an_address_is_a_text_and_resources_are_named() -> None:
    """So says the error; the protocol of an address may be anything."""
    wrong: Any = 6379
    with pytest.raises(TypeError, match="address must be a text such as 'host:6379' or 'auto', not 6379"):
        make(wrong)
    with pytest.raises(TypeError, match="resources must be options of an actor by name"):
        make(resources=[1])
    with pytest.raises(ValueError, match="resources cannot have a name"):
        make(resources={"name": "one"})
    assert make("smoke://anywhere")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nowhere.invalid:6379"])
def test_a_cluster_that_does_not_answer_is_named(address: str) -> None:
    """Within a bound, and nothing stays behind; in a process of its own, since this one may be connected."""
    script = (
        "from poolinject import InjectedPool\n"
        "from poolinject.backends import ray\n"
        "ray.CONNECT_SECONDS = 0.5\n"
        f"with InjectedPool(1, backend=ray.RayBackend({address!r})) as pool:\n"
        "    pool.map(abs, [-1])\n"
    )
    result = subprocess.run(
        [sys.executable, "-"], input=script, capture_output=True, text=True, timeout=60.0, check=False
    )
    assert result.returncode == 1
    assert (
        f"BackendUnavailableError: backend 'ray' is not available: no Ray cluster at '{address}' lets this process in"
        in result.stderr
    )
