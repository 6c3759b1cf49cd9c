"""Workers here answer commands, and no test leaves a worker or an altered server to the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from poolinject.backends import _launch, _servers
from tests.backends.answering import ENTRY, Started

METHODS = ["forkserver", "spawn", "fork"]


@pytest.fixture(autouse=True)
def _entry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_launch, "WORKER_ENTRY", ENTRY)
    yield
    while Started.all:
        Started.all.pop().end()


@pytest.fixture(scope="module", autouse=True)
def _last_server() -> Iterator[None]:
    yield
    _servers.stop_server()


@pytest.fixture
def _fresh_server() -> Iterator[None]:
    """Start without a server, and leave none that this test has altered."""
    _servers.stop_server()
    yield
    _servers.stop_server()


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Each start method."""
    name: str = request.param
    return name
