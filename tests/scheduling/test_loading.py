"""Which functions a worker is told to forget."""

from __future__ import annotations

from typing import Any

import pytest

from poolinject._scheduling import loading as module
from poolinject._scheduling.loading import Loading
from poolinject._transport.messages import Forget, Load


class Messages:
    """Stands in for a backend."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, _: int, message: Load | Forget) -> None:
        self.sent.append(message)


def test_a_function_is_kept_until_its_last_run_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run is counted, so that nobody has to look through all of them for each function that is loaded."""
    monkeypatch.setattr(module, "MOST_LOADED", 2)
    messages = Messages()
    loading, loads = Loading(messages, 1), [Load(number, str(number)) for number in range(5)]  # type: ignore[arg-type]
    for load in (loads[0], loads[0], loads[1]):
        loading.need(load)
        loading.load(0, load)
    loading.release(loads[0])
    loading.load(0, loads[2])
    assert messages.sent == [*loads[:3]]
    loading.release(loads[0])
    loading.load(0, loads[3])
    loading.release(loads[1])
    loading.load(0, loads[4])
    assert messages.sent[3:] == [Forget(0), loads[3], Forget(1), loads[4]]
