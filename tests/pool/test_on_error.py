"""What becomes of an item that fails, wherever it fails, and of the run that it belongs to."""

from __future__ import annotations

import gc
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, NoReturn, Self

import pytest

from poolinject import Depends, Failure, Success, TransportError
from tests.conftest import THREAD, Kind
from tests.pool import ledger as ledger_module

MANY = 100_000


class RefusedError(Exception):
    """An error whose constructor takes two arguments and keeps none in ``args``."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code, self.reason = code, reason


class StubbornError(Exception):
    """An error that cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("not me")


@dataclass(frozen=True)
class FrozenError(Exception):
    """An error that refuses every attribute, notes, cause and traceback among them."""

    reason: str


def hold() -> Iterator[str]:
    """Be open while the item runs, and note that it is closed."""
    try:
        yield "held"
    finally:
        ledger_module.note("closed")


def fail_frozen(item: int, held: Annotated[str, Depends(hold)]) -> int:
    """Fail once."""
    if item == 2:
        raise FrozenError(held)
    return item


async def fail_frozen_async(item: int, held: Annotated[str, Depends(hold)]) -> int:
    """Do the same, in a task."""
    return fail_frozen(item, held)


class UntouchableError(Exception):
    """An error that cannot even be looked at."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise ValueError(name)


def raise_untouchable(item: int, held: Annotated[str, Depends(hold)]) -> NoReturn:
    """Fail with it."""
    raise UntouchableError


class AloofError(ExceptionGroup[Exception]):
    """A group that does not tell what is in it."""

    def __new__(cls) -> Self:
        return super().__new__(cls, "aloof", [ValueError("member")])

    def subgroup(self, _: object) -> NoReturn:
        raise ValueError("subgroup")


def raise_hostile(kind: type[Exception] | None) -> None:
    """Fail with one of them."""
    if kind is not None:
        raise kind


async def raise_hostile_async(kind: type[Exception] | None) -> None:
    """Do the same, in a task."""
    raise_hostile(kind)


class Lock:
    """Something that cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


def explode(*_: object) -> NoReturn:
    """Raise, when something is unpickled."""
    raise RuntimeError("boom on arrival")


class Bomb:
    """Pickles, but cannot be unpickled, by a function that raises."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return explode, ()


class StateBomb:
    """Pickles, but cannot be unpickled, by its own ``__setstate__``."""

    def __init__(self) -> None:
        self.state = 1

    def __setstate__(self, state: object) -> None:
        raise SystemExit(3)


class Unwilling:
    """An item whose ``__reduce__`` raises."""

    def __reduce__(self) -> NoReturn:
        raise KeyError("unwilling")

    def __repr__(self) -> str:
        raise RuntimeError("no repr either")


def refuse(item: int) -> int:
    """Fail for 3."""
    if item == 3:
        raise RefusedError(7, reason="refused")
    return item


def get_session(item: int) -> Iterator[str]:
    """Open and close something for each item."""
    yield from ledger_module.span(f"session {item}")


def refuse_in_session(item: int, session: Annotated[str, Depends(get_session)]) -> int:
    """Fail for 3 with a scope open."""
    return refuse(item)


def get_refused(item: int) -> int:
    """Fail in the setup for 3."""
    return refuse(item)


def setup_refused(item: int, _: Annotated[int, Depends(get_refused)]) -> int:
    """Fail in the setup."""
    return item


def get_late(item: int) -> Iterator[None]:
    """Fail in the cleanup for 3."""
    yield
    refuse(item)


def cleanup_refused(item: int, _: Annotated[None, Depends(get_late)]) -> int:
    """Fail in the cleanup."""
    return item


def get_translating(item: int) -> Iterator[None]:
    """Raise another error in place of the one that comes."""
    try:
        yield
    except LookupError:
        refuse(item)


def translated(item: int, _: Annotated[None, Depends(get_translating)]) -> int:
    """Fail, for 3, with an error that the provider replaces."""
    if item == 3:
        raise LookupError(item)
    return item


def test_raise_keeps_the_type_and_tells_where_it_was(backend: Kind) -> None:
    """A note names item, phase, worker and attempt; the cause is the worker's traceback."""
    with backend.pool(1) as pool:
        with pytest.raises(RefusedError, match="refused") as caught:
            pool.map(refuse, range(10))
        error = caught.value
        assert (error.code, error.reason) == (7, "refused")
        (note,) = error.__notes__
        assert note == "item 3 (3) failed in phase 'call' on worker 0, attempt 1"
        cause = str(error.__cause__)
        assert "Traceback (most recent call last)" in cause
        assert "in refuse" in cause
        assert pool.map(refuse, [1, 2]) == [1, 2]


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
def test_every_method_raises_the_same(backend: Kind, method: str) -> None:
    """Lazily or not; what was finished before may be had."""
    with backend.pool() as pool:
        seen: list[int] = []
        with pytest.raises(RefusedError):
            seen.extend(getattr(pool, method)(refuse, range(10), chunksize=2))
        with pytest.raises(RefusedError):
            pool.starmap(refuse, [(3,)])
        assert pool.map(refuse, [1]) == [1]


def test_imap_gives_every_result_before_the_failure(backend: Kind) -> None:
    """In order, so exactly those before it: one worker has begun none of the others."""
    with backend.pool(1) as pool:
        results = pool.imap(refuse, range(10))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(RefusedError):
            next(results)
        assert list(results) == []


def count_and_refuse(item: int) -> None:
    """Fail for 3, and leave a trace of every item that began."""
    ledger_module.note(f"began {item}")
    refuse(item)


def test_no_further_item_starts_after_a_failure(backend: Kind, ledger: ModuleType) -> None:
    """Neither those in the same chunk nor those in the next."""
    with backend.pool(1) as pool:
        with pytest.raises(RefusedError):
            pool.map(count_and_refuse, range(1000), chunksize=50)
        assert ledger.texts() == [f"began {item}" for item in range(4)]


def test_a_failure_stops_an_endless_input(backend: Kind) -> None:
    """The input is read no further."""
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            yield read
            read += 1

    with backend.pool() as pool:
        with pytest.raises(RefusedError):
            pool.map(refuse, endless())
        after = read
        assert pool.map(refuse, [1]) == [1]
        assert read == after < MANY


def test_scopes_that_are_open_close_before_the_error_is_raised(backend: Kind, ledger: ModuleType) -> None:
    """Also those of other items on other workers."""
    with backend.pool(2) as pool:
        with pytest.raises(RefusedError):
            pool.map(refuse_in_session, range(50), chunksize=5)
        ledger.check_balanced()
        assert "session 3-" in ledger.texts()


@pytest.mark.parametrize(
    ("func", "phase", "provider"),
    [
        (refuse, "call", None),
        (setup_refused, "setup", "get_refused"),
        (cleanup_refused, "cleanup", "get_late"),
        (translated, "cleanup", "get_translating"),
    ],
)
def test_return_puts_a_failure_in_the_items_place(
    backend: Kind, func: Callable[..., Any], phase: str, provider: str | None
) -> None:
    """With phase and provider; the others go on."""
    with backend.pool() as pool:
        results = pool.map(func, range(10), on_error="return")
        failure = results[3]
        assert results[:3] + results[4:] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert isinstance(failure, Failure)
        assert (failure.index, failure.item, failure.phase, failure.provider) == (3, 3, phase, provider)
        assert (failure.attempts, failure.worker_id in range(2)) == (1, True)
        assert isinstance(failure.error, RefusedError)
        assert "in refuse" in failure.traceback
        with pytest.raises(RefusedError) as caught:
            pool.map(func, range(10))
        assert f"in phase {phase!r}{f' of {provider}' if provider else ''} on worker" in caught.value.__notes__[0]


def test_a_callable_gets_each_failure_and_fills_its_place(backend: Kind) -> None:
    """In ``map`` and lazily."""
    with backend.pool() as pool:
        seen: list[Failure] = []

        def handle(failure: Failure) -> str:
            seen.append(failure)
            return f"no {failure.item}"

        assert pool.map(refuse, [1, 3, 5, 3], on_error=handle) == [1, "no 3", 5, "no 3"]
        assert list(pool.imap(refuse, [1, 3], on_error=handle)) == [1, "no 3"]
        assert pool.starmap(refuse, [(3,)], on_error=lambda failure: failure.index) == [0]
        assert [failure.index for failure in seen] == [1, 3, 1]


def test_a_callable_that_raises_ends_the_run(backend: Kind) -> None:
    """With its own exception."""

    def handle(failure: Failure) -> NoReturn:
        raise LookupError(failure.index)

    with backend.pool() as pool:
        with pytest.raises(LookupError, match="3"):
            pool.map(refuse, range(10), on_error=handle)
        with pytest.raises(LookupError, match="3"):
            list(pool.imap(refuse, range(10), on_error=handle))
        assert pool.map(refuse, [1]) == [1]


def leave(item: int) -> int:
    """Try to end the whole process."""
    if item == 1:
        sys.exit(5)
    if item == 2:
        raise KeyboardInterrupt
    if item == 3:
        raise GeneratorExit
    return item


def test_an_item_cannot_end_its_worker_by_an_exception(parallel: Kind) -> None:
    """``SystemExit``, ``KeyboardInterrupt`` and ``GeneratorExit`` fail the item, as they are."""
    with parallel.pool(1) as pool:
        results: Any = pool.map(leave, [0, 1, 2, 3, 4], on_error="return")
        errors = [type(result.error) for result in results[1:4]]
        assert errors == [SystemExit, KeyboardInterrupt, GeneratorExit]
        assert results[1].error.code == 5
        assert (results[0], results[4]) == (0, 4)
        assert {worker.generation for worker in pool.workers} == {0}
        with pytest.raises(SystemExit):
            pool.map(leave, [1])
        assert pool.map(leave, [0]) == [0]


def test_an_interrupt_of_an_inline_item_reaches_the_caller() -> None:
    """It is the caller's own thread."""
    with Kind("inline").pool() as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.map(leave, [0, 2, 4], on_error="return")
        assert pool.map(leave, [0]) == [0]


def raise_stubborn(item: int) -> int:
    """Raise what cannot be pickled."""
    if item == 3:
        raise StubbornError("text")
    return item


def test_an_exception_that_cannot_be_pickled_comes_as_near_as_it_can(process: Kind) -> None:
    """With its type and text where it can be built anew; the item has failed, and nothing else has."""
    with process.pool() as pool:
        results: Any = pool.map(raise_stubborn, range(6), on_error="return")
        assert [type(result) for result in results] == [int, int, int, Failure, int, int]
        assert repr(results[3].error) == "StubbornError('text')"
        assert "raise_stubborn" in results[3].traceback


def make(kind: str) -> object:
    """Return what its name says."""
    return {"lock": Lock, "bomb": Bomb, "state": StateBomb, "fine": str}[kind]()


@pytest.mark.parametrize("kind", ["lock", "bomb", "state"])
def test_a_result_that_cannot_be_sent_costs_one_item(process: Kind, kind: str) -> None:
    """Whether it fails in the worker or in the caller."""
    with process.pool() as pool:
        for chunksize in (None, 3):
            results: Any = pool.map(make, ["fine", kind, "fine", "fine", kind], on_error="return", chunksize=chunksize)
            assert [type(result) for result in results] == [str, Failure, str, str, Failure]
            for index in (1, 4):
                failure = results[index]
                assert (failure.index, failure.item, failure.phase) == (index, kind, "transport")
                assert isinstance(failure.error, TransportError)
        with pytest.raises(TransportError):
            pool.map(make, ["fine", kind])
        with pytest.raises(TransportError):
            list(pool.imap(make, ["fine", kind]))
        assert isinstance(pool.submit(make, kind).exception(15), TransportError)
        assert pool.map(make, ["fine"]) == [""]


def type_name(item: object) -> str:
    """Tell what has arrived."""
    return type(item).__name__


@pytest.mark.parametrize("item", [Lock(), Unwilling(), Bomb(), StateBomb(), (1, Lock())], ids=type_name)
def test_an_item_that_cannot_be_sent_costs_only_itself(process: Kind, item: object) -> None:
    """Whether it fails in the caller or in the worker."""
    with process.pool() as pool:
        results = pool.map(type_name, [1, item, "a", 2.0], on_error="return")
        assert (results[0], *results[2:]) == ("int", "str", "float")
        assert isinstance(results[1], Failure)
        assert (results[1].index, results[1].phase) == (1, "transport")
        assert results[1].item is item
        assert isinstance(results[1].error, TransportError)
        with pytest.raises(TransportError) as caught:
            pool.map(type_name, [item])
        assert "in phase 'transport'" in caught.value.__notes__[0]
        (outcome,) = pool.outcomes(type_name, [item])
        assert isinstance(outcome, Failure)
        assert pool.map(type_name, [1]) == ["int"]


def test_nothing_need_be_picklable_without_processes() -> None:
    """Threads and the caller share memory."""
    for name in ("thread", "inline"):
        lock = Lock()
        with Kind(name).pool() as pool:
            assert pool.map(type_name, [lock, Unwilling()]) == ["Lock", "Unwilling"]
            (outcome,) = pool.outcomes(lambda item: item, [lock])
            assert isinstance(outcome, Success)
            assert outcome.value is lock


def test_a_function_that_cannot_be_sent_is_refused_at_the_call(process: Kind) -> None:
    """The error names the culprit; nothing is read and no worker starts."""
    lock = threading.Lock()

    def load(item: int) -> int:
        with lock:
            return item

    with process.pool() as pool:
        read = iter(range(3))
        for method in (pool.map, pool.imap, pool.imap_unordered, pool.outcomes):
            with pytest.raises(TransportError, match="closure variable `lock` of `load`"):
                method(load, read)
        with pytest.raises(TransportError, match="closure variable `lock` of `load`"):
            pool.submit(load, 1)
        assert list(pool.workers) == []
        assert next(read) == 0
        assert pool.map(type_name, [1]) == ["int"]


def test_a_function_that_cannot_be_loaded_fails_its_items(process: Kind) -> None:
    """The next function is none the worse for it."""
    bomb = Bomb()
    with process.pool() as pool:
        results: Any = pool.map(lambda item: (item, bomb), [1, 2], on_error="return")
        assert [result.phase for result in results] == ["transport", "transport"]
        assert "boom on arrival" in str(results[0].error)
        assert pool.map(type_name, [1]) == ["int"]


def test_two_failures_at_once_raise_the_first_that_came(parallel: Kind) -> None:
    """And the second is dropped, with the run."""
    with parallel.pool(2) as pool:
        for _ in range(20):
            with pytest.raises(RefusedError):
                pool.map(refuse, [3, 3, 3, 3], chunksize=1)
        assert pool.map(refuse, [1]) == [1]


def test_the_failure_of_an_iterator_is_raised_once(backend: Kind) -> None:
    """After that it is exhausted."""
    with backend.pool() as pool:
        results = pool.imap_unordered(refuse, [3])
        with pytest.raises(RefusedError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)


def stop(item: int) -> NoReturn:
    """Raise what would end an iteration."""
    raise StopIteration(item)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_an_item_does_not_end_the_iteration_in_silence(backend: Kind, method: str) -> None:
    """``StopIteration`` becomes the cause of a ``RuntimeError``; where no generator is in between it is raised."""
    with backend.pool() as pool:
        with pytest.raises(RuntimeError, match=r"^an item raised StopIteration$") as caught:
            list(getattr(pool, method)(stop, [3]))
        assert isinstance(caught.value.__cause__, StopIteration)
        assert caught.value.__cause__.value == 3
        with pytest.raises(StopIteration):
            pool.map(stop, [3])


@pytest.mark.parametrize("method", ["map", "imap"])
def test_what_replaces_failures_does_not_end_the_iteration_in_silence(backend: Kind, method: str) -> None:
    """The error tells who raised it."""

    def end(_: Failure) -> NoReturn:
        raise StopIteration

    with backend.pool() as pool, pytest.raises(RuntimeError, match=r"^on_error raised StopIteration$"):
        list(getattr(pool, method)(refuse, [3], on_error=end))


def test_one_exception_object_for_many_items_is_noted_for_the_newest() -> None:
    """Where memory is shared the same object may fail item after item, for as long as the program runs."""
    error = ValueError("shared")
    error.add_note("of the user")

    def fail(_: int) -> NoReturn:
        raise error

    with Kind("inline").pool() as pool:
        for item in (*range(50), 49):
            with pytest.raises(ValueError, match="shared"):
                pool.map(fail, [item])
    first, *others = error.__notes__
    assert first == "of the user"
    assert [note.partition(" failed")[0] for note in others] == [f"item 0 ({item})" for item in range(40, 50)]


def test_a_raised_error_can_be_pickled_with_its_notes(backend: Kind) -> None:
    """As any program may want to do."""
    with backend.pool() as pool, pytest.raises(ValueError, match="invalid literal") as caught:
        pool.map(int, ["x"])
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.__notes__ == caught.value.__notes__


class Held:
    """An item that can be watched."""


def refuse_always(_item: object) -> None:
    """Fail."""
    raise RefusedError(7, reason="refused")


def refuse_in_callback(failure: Failure) -> None:
    """Fail where the failure is handled."""
    raise LookupError(failure.index)


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
@pytest.mark.parametrize("on_error", ["raise", refuse_in_callback], ids=["raise", "callback"])
def test_a_failed_run_lets_its_items_go_with_its_error(parallel: Kind, method: str, on_error: Any) -> None:
    """At once, not when garbage is collected: an error and the frames that it went through do not keep each other."""
    item = Held()
    watch = weakref.ref(item)
    with parallel.pool(1) as pool:
        pool.map(abs, [1])
        gc.disable()
        try:
            with pytest.raises((RefusedError, LookupError)) as caught:
                list(getattr(pool, method)(refuse_always, [item], on_error=on_error))
            del item, caught
            assert pool.map(abs, [-1]) == [1]
            assert watch() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("function", [fail_frozen, fail_frozen_async])
def test_an_error_that_refuses_attributes_is_an_error_as_any(
    backend: Kind, ledger: ModuleType, function: Callable[..., Any]
) -> None:
    """Its item's scope closes, the pool goes on, and it is raised as it is."""
    with backend.pool() as pool:
        first, failure, third = pool.map(function, [1, 2, 3], on_error="return")
        assert (first, third) == (1, 3)
        assert (failure.phase, failure.error) == ("call", FrozenError("held"))
        with pytest.raises(FrozenError, match="held") as caught:
            pool.map(function, [2])
    assert "item 0 (2) failed in phase 'call'" in caught.value.__notes__[0]
    assert "FrozenError" in str(caught.value.__cause__)
    assert ledger.count("closed") == 4


@pytest.mark.parametrize("function", [raise_hostile, raise_hostile_async])
@pytest.mark.parametrize("kind", [UntouchableError, AloofError])
def test_an_error_that_answers_no_question_fails_its_item_alone(
    backend: Kind, kind: type[Exception], function: Callable[..., Any]
) -> None:
    """It is not asked what it is, or what it has: its type and its members tell whether it is an interrupt."""
    with backend.pool() as pool:
        first, failed, last = pool.map(function, [None, kind, None], on_error="return")
        assert (first, failed.phase, last) == (None, "call", None)
        assert pool.report.lost_workers == 0


def test_an_error_that_cannot_be_handled_ends_a_thread_pool_rather_than_the_wait_for_it() -> None:
    """It is told as it is."""
    with pytest.raises(ValueError, match="__class__"), THREAD.pool() as pool:
        pool.map(raise_untouchable, range(3), on_error="return")
