"""Functions are known to a worker while they are used, not for ever."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from poolinject import Success, WorkerContext
from poolinject._scheduling import loading
from poolinject._worker.runner import Runner
from tests.conftest import Kind

MOST = 4


def adding(number: int) -> Callable[[int], int]:
    """Make a function that is another one for each number."""
    return lambda item: item + number


def count_known(worker: WorkerContext) -> int:
    """Count the functions that the runner of this worker knows."""
    runners = [found for found in gc.get_objects() if isinstance(found, Runner)]  # here, of other pools too
    (own,) = [runner for runner in runners if runner.runtime.worker is worker]
    return len(own._functions)


def test_a_worker_forgets_the_functions_of_runs_that_are_over(backend: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first; what is wanted again is sent again."""
    monkeypatch.setattr(loading, "MOST_LOADED", MOST)
    functions = [adding(number) for number in range(3 * MOST)]
    with backend.pool(1) as pool:
        assert [pool.submit(function, 1).result(20) for function in functions] == list(range(1, 3 * MOST + 1))
        assert pool.map(functions[0], range(3)) == [0, 1, 2]
        (outcome,) = pool.broadcast(count_known).values()
        assert isinstance(outcome, Success)
        assert outcome.value <= MOST


def test_functions_of_runs_that_go_on_are_kept(backend: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    monkeypatch.setattr(loading, "MOST_LOADED", 1)
    with backend.pool(1) as pool:
        iterators = [pool.imap(adding(number), range(100), chunksize=1) for number in range(5)]
        for _ in range(100):
            for iterator in iterators:
                next(iterator)
        assert [list(iterator) for iterator in iterators] == [[]] * 5
