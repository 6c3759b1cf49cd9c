"""The graphs of ``tests.injection.test_fastapi_conformance``, in a worker of a cluster."""

from __future__ import annotations

from functools import partial

import pytest

from tests.clusters.conftest import Cluster
from tests.injection.test_fastapi_conformance import (
    MakePool,
    shared_pool,
    test_async_twins_do_what_fastapi_does,
    test_pool_does_what_fastapi_does,
)

__all__ = ["shared_pool", "test_async_twins_do_what_fastapi_does", "test_pool_does_what_fastapi_does"]


@pytest.fixture(scope="module", params=["dask", "ray"])
def make_pool(request: pytest.FixtureRequest) -> MakePool:
    """Make pools of one worker on a cluster."""
    cluster: Cluster = request.getfixturevalue(request.param)
    return partial(cluster.pool, 1)
