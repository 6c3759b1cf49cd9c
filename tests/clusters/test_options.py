"""What clusters cannot do is refused before anything runs; modules that they have not are sent along."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from poolinject import InjectedPool
from tests.clusters.conftest import Cluster


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"timeout": 1.0}, "cannot keep a timeout"),
        ({"delivery": "at_most_once"}, "nobody knows which items it had begun"),
    ],
)
def test_what_a_run_cannot_be_asked_for_is_refused(backend: Cluster, options: dict[str, Any], match: str) -> None:
    """With what to do instead; the pool stays usable."""
    with backend.pool(1) as pool:
        for method in (pool.map, pool.imap, pool.imap_unordered, pool.outcomes):
            with pytest.raises(ValueError, match=match) as caught:
                method(int, ["1"], **options)
            assert "backend='process'" in str(caught.value)
            assert f"'{backend.name}" in str(caught.value).lower()
        assert pool.map(int, ["1"]) == [1]


@pytest.mark.parametrize("options", [{"max_items_per_worker": 5}, {"max_worker_memory": 1 << 30}])
def test_workers_of_a_cluster_are_not_recycled(backend: Cluster, options: dict[str, int]) -> None:
    """They are the cluster's."""
    with pytest.raises(ValueError, match="needs workers that end and are replaced"):
        backend.pool(1, **options)


def test_a_start_method_is_of_no_use(backend: Cluster) -> None:
    """The cluster starts its processes."""
    with pytest.raises(ValueError, match="start_method 'spawn' is of use only with backend='process'"):
        InjectedPool(1, backend=backend.name, start_method="spawn")


@pytest.fixture
def homemade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Give a module that only this process can import."""
    (tmp_path / "homemade.py").write_text(
        "class Box:\n    def __init__(self, item):\n        self.item = item\n\n"
        "def get_factor():\n    yield 3\n\n"
        "def pack(item):\n    return Box(item * 3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import homemade as module  # type: ignore[import-not-found]  # noqa: PLC0415 - made here

    assert isinstance(module, ModuleType)
    yield module
    del sys.modules["homemade"]


def test_a_module_that_workers_cannot_import_is_sent_by_value(backend: Cluster, homemade: ModuleType) -> None:
    """Functions, and the classes of items and results."""
    made: Any
    if backend.name == "ray":
        from poolinject.backends.ray import RayBackend  # noqa: PLC0415 - optional

        made = RayBackend(by_value=[homemade])
    else:
        from poolinject.backends.dask import DaskBackend  # noqa: PLC0415 - optional

        made = DaskBackend(os.environ["POOLINJECT_TEST_SCHEDULER"], by_value=[homemade])
    with InjectedPool(1, backend=made) as pool:
        boxes = pool.map(homemade.pack, range(3))
        assert [box.item for box in boxes] == [0, 3, 6]
        assert {type(box) for box in boxes} == {homemade.Box}
        assert pool.map(unpack, boxes) == [0, 3, 6]


@pytest.mark.parametrize("by_value", ["os", None, [None], ["os"]])
def test_what_is_no_module_is_not_sent_by_value(backend: Cluster, by_value: Any) -> None:
    """A name is none."""
    make: Any = type(backend.connect())
    with pytest.raises(TypeError, match="by_value must be modules in a list, not"):
        make(by_value=by_value)


def unpack(box: Any) -> int:
    """Give what is in it."""
    return int(box.item)
