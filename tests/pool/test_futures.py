"""Futures of ``submit``, where what the user hangs on them raises on the driver's thread."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future
from types import ModuleType
from typing import Any, NoReturn

import pytest

from tests.conftest import Kind
from tests.pool import ledger as ledger_module
from tests.pool.ledger import PATIENCE


class UnspeakableItem:
    """Something whose ``repr`` raises what ends a thread."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        raise self.kind


def hold(item: int) -> int:
    """Wait for the test."""
    ledger_module.wait_for("release")
    return item


def fail(_: object) -> NoReturn:
    """Fail."""
    raise ValueError("failed")


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["done", "cancelled"])
def test_a_done_callback_that_exits_ends_neither_the_pool_nor_other_callbacks(
    parallel: Kind, ledger: ModuleType, caplog: pytest.LogCaptureFixture, *, is_cancelled: bool
) -> None:
    """``SystemExit`` on the driver's thread is logged, as errors are; what the callbacks after it do is done."""
    called = threading.Event()

    def leave(_: Future[int]) -> None:
        if threading.current_thread() is not threading.main_thread():
            sys.exit(1)

    with parallel.pool(1) as pool:
        future = pool.submit(hold, 3)
        future.add_done_callback(leave)
        future.add_done_callback(lambda _: called.set())
        if is_cancelled:
            future.cancel()
        ledger.note("release")
        assert called.wait(PATIENCE)
        assert pool.map(abs, [-1]) == [1]
    assert is_cancelled or "a done-callback raised SystemExit" in caplog.text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_item_without_a_text_still_has_its_failure(backend: Kind, kind: type[BaseException]) -> None:
    """Whatever its ``repr`` raises while the note is made: the future completes, and the pool goes on."""
    with backend.pool(1) as pool:
        future: Future[Any] = pool.submit(fail, UnspeakableItem(kind))
        error = future.exception(PATIENCE)
        assert type(error) is ValueError
        assert f"whose repr raises {kind.__name__}" in error.__notes__[0]
        assert pool.map(abs, [-1]) == [1]
