"""Starts programs in sessions of their own, of which nothing survives the test, nor does the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.faults.sessions import Session
from tests.resources import lasting, no_leaks

__all__ = ["begin", "lasting", "no_leaks"]

Begin = Callable[..., Session]


@pytest.fixture
def begin(ledger: ModuleType, tmp_path: Path) -> Iterator[Begin]:
    """Give a function that starts the interpreter with some arguments."""
    sessions: list[Session] = []

    def begin(*arguments: str) -> Session:
        sessions.append(Session(list(arguments), ledger, tmp_path))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.end()
