"""``Resolver`` in sync code: one item at a time, everything closed in time."""

import contextvars
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from poolinject import CleanupError, Depends, ItemContext, PlanError, PoolClosedError, Resolver
from poolinject._injection.registry import MOST_KEPT

ROOT = Path(__file__).parents[2]
TIMEOUT = 20.0
events: list[str] = []
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(autouse=True)
def _forget_events() -> None:
    """Begin each test with an empty list."""
    events.clear()


def get_engine() -> Iterator[str]:
    """Provide what lives as long as the resolver."""
    events.append("engine+")
    yield "engine"
    events.append("engine-")


def get_session(engine: Annotated[str, Depends(get_engine, lifetime="pool")]) -> Iterator[str]:
    """Provide what lives as long as an item."""
    events.append("session+")
    try:
        yield f"session on {engine}"
    except BaseException as error:
        events.append(f"session!{type(error).__name__}")
        raise
    events.append("session-")


async def get_stream(session: Annotated[str, Depends(get_session)]) -> AsyncIterator[str]:
    """Provide something async for an item."""
    events.append("stream+")
    yield f"stream of {session}"
    events.append("stream-")


def load(item: str, stream: Annotated[str, Depends(get_stream)]) -> str:
    """Use everything."""
    return f"{item} from {stream}"


def refuse(item: str, session: Annotated[str, Depends(get_session)]) -> None:
    """Fail."""
    raise LookupError(item)


def test_call_fills_and_closes() -> None:
    """Each item has its own session, both share the engine, which is closed at the end."""
    with Resolver() as resolver:
        assert resolver.call(load, "a") == "a from stream of session on engine"
        assert events == ["engine+", "session+", "stream+", "stream-", "session-"]
        resolver.call(load, "b")
        assert events.count("engine+") == 1
        assert repr(resolver) == "<Resolver 'resolver' open, 2 items>"
    assert events[-1] == "engine-"
    assert repr(resolver) == "<Resolver 'resolver' closed, 2 items>"


def test_call_raises_the_error_of_the_function() -> None:
    """The session has seen it, the engine lives on."""
    with Resolver() as resolver:
        with pytest.raises(LookupError, match="a"):
            resolver.call(refuse, "a")
        assert events == ["engine+", "session+", "session!LookupError"]
        assert resolver.call(load, "b").startswith("b from")


def test_call_runs_in_a_copy_of_the_context() -> None:
    """What one item sets, the next one and the caller do not see."""

    def function(item: str) -> str:
        before = variable.get()
        variable.set(item)
        return before

    with Resolver() as resolver:
        assert [resolver.call(function, "a"), resolver.call(function, "b"), variable.get()] == ["unset"] * 3


def test_call_counts_items() -> None:
    """``ItemContext`` has the number of the call; scopes count too."""

    def function(context: ItemContext) -> tuple[int, Any, int, int]:
        return context.index, context.item, context.attempt, context.worker_id

    with Resolver() as resolver:
        assert resolver.call(function, "a") == (0, "a", 1, 0)
        with resolver.scope("b") as scope:
            assert scope.get(get_session) == "session on engine"
        assert resolver.call(function) == (2, None, 1, 0)


def test_scope_gives_the_same_dependency_each_time() -> None:
    """Everything got from one scope is shared in it and closed with it, the newest first."""
    with Resolver() as resolver, resolver.scope() as scope:
        assert scope.get(get_stream) == "stream of session on engine"
        assert scope.get(get_session) == "session on engine"
        assert events == ["engine+", "session+", "stream+"]
    assert events == ["engine+", "session+", "stream+", "stream-", "session-", "engine-"]


def test_scope_that_is_left_by_an_error_closes_with_it() -> None:
    """The generators see it, then it goes on as it was."""
    error = KeyError("inside")
    with Resolver() as resolver:
        with pytest.raises(KeyError) as raised, resolver.scope() as scope:  # noqa: PT012 - the block is the case
            scope.get(get_session)
            raise error
        assert raised.value is error
        assert events[-1] == "session!KeyError"


def test_scope_does_not_swallow_what_a_dependency_swallows() -> None:
    """A dependency cannot make a failed block look well."""

    def get_forgiving() -> Iterator[int]:
        try:
            yield 1
        except KeyError:
            events.append("swallowed")

    with Resolver() as resolver, pytest.raises(KeyError), resolver.scope() as scope:  # noqa: PT012 - the block is the case
        scope.get(get_forgiving)
        raise KeyError
    assert events == ["swallowed"]


def test_error_of_a_cleanup_leaves_the_scope() -> None:
    """It replaces nothing: the block had ended well."""

    def get_broken() -> Iterator[int]:
        yield 1
        raise OSError("cleanup")

    with Resolver() as resolver:
        with pytest.raises(OSError, match="cleanup"), resolver.scope() as scope:
            scope.get(get_broken)
        assert resolver.call(load, "b").startswith("b from")


def test_scopes_may_be_nested() -> None:
    """The inner one has its own session and is closed first."""

    def get_object() -> Iterator[object]:
        made = object()
        events.append("made")
        yield made
        events.append("closed")

    with Resolver() as resolver, resolver.scope() as outer:
        first = outer.get(get_object)
        with resolver.scope() as inner:
            assert inner.get(get_object) is not first
            assert resolver.call(load, "x")
        assert events.count("closed") == 1
        assert outer.get(get_object) is first


def test_closed_scope_gives_nothing() -> None:
    """What was opened then would never be closed."""
    with Resolver() as resolver:
        with resolver.scope() as scope:
            pass
        with pytest.raises(RuntimeError, match="item scope is closed"):
            scope.get(get_session)


def test_provider_that_fails_in_a_scope_may_be_got_again() -> None:
    """What was open before it stays open."""
    attempts: list[int] = []

    def get_flaky(session: Annotated[str, Depends(get_session)]) -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError
        return len(attempts)

    with Resolver() as resolver, resolver.scope() as scope:
        with pytest.raises(ConnectionError):
            scope.get(get_flaky)
        assert scope.get(get_flaky) == 2
        assert events.count("session+") == 1


def test_overrides_are_read_anew() -> None:
    """As ``app.dependency_overrides``, which tests change in between."""
    overrides: dict[Any, Any] = {}
    with Resolver(overrides=overrides) as resolver:
        assert resolver.call(load, "a") == "a from stream of session on engine"
        overrides[get_stream] = lambda: "override"
        assert resolver.call(load, "a") == "a from override"
        with resolver.scope() as scope:
            assert scope.get(get_stream) == "override"
        overrides.clear()
        assert resolver.call(load, "a") == "a from stream of session on engine"


def test_lifetimes_are_taken() -> None:
    """As the pool takes them."""
    with Resolver(lifetimes={get_session: "worker"}) as resolver:
        resolver.call(load, "a")
        resolver.call(load, "b")
    assert events == ["engine+", "session+", "stream+", "stream-", "stream+", "stream-", "session-", "engine-"]


def test_wrong_declaration_is_told_by_call_and_get() -> None:
    """Nothing has run then."""

    def get_nothing(page: int) -> int:
        return page

    def function(item: str, page: Annotated[int, Depends(get_nothing)]) -> None:
        """Never get here."""

    with Resolver() as resolver:
        with pytest.raises(PlanError, match="function -> get_nothing -> page"):
            resolver.call(function, "a")
        with resolver.scope() as scope, pytest.raises(PlanError, match="get_nothing -> page"):
            scope.get(get_nothing)


def test_cleanups_at_the_end_leave_together() -> None:
    """Every one runs, each error is noted with its provider."""

    def get_bad() -> Iterator[int]:
        yield 1
        raise OSError("bad")

    def get_worse(bad: Annotated[int, Depends(get_bad)]) -> Iterator[int]:
        yield bad
        raise ValueError("worse")

    def function(item: str, worse: Annotated[int, Depends(get_worse, lifetime="worker")]) -> int:
        return worse

    with pytest.raises(CleanupError) as raised, Resolver() as resolver:
        resolver.call(function, "a")
    assert [str(error) for error in raised.value.exceptions] == ["worse", "bad"]
    assert raised.value.exceptions[1].__notes__ == ["in the cleanup of get_bad"]
    with pytest.raises(PoolClosedError):
        resolver.call(function, "b")


def test_closed_resolver_refuses_everything() -> None:
    """After the end, and a second close does nothing."""
    resolver = Resolver(name="mine")
    with resolver:
        pass
    resolver.close()
    with pytest.raises(PoolClosedError, match="mine is closed"):
        resolver.call(load, "a")
    with pytest.raises(PoolClosedError), resolver.scope():
        pass
    with pytest.raises(PoolClosedError), resolver:
        pass


def test_resolver_works_without_with() -> None:
    """Whoever closes it by hand may."""
    resolver = Resolver()
    assert resolver.call(load, "a")
    resolver.close()
    assert events[-1] == "engine-"


def test_signal_handler_is_put_back() -> None:
    """Inside the block SIGTERM is ours, outside it is what it was; off the main thread nothing is touched."""
    before = signal.getsignal(signal.SIGTERM)
    with Resolver():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    with Resolver(handle_signals=False):
        assert signal.getsignal(signal.SIGTERM) is before
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with Resolver() as resolver:
                resolver.call(load, "a")
        except BaseException as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(TIMEOUT)
    assert not errors


def test_sigterm_closes_everything_that_is_open() -> None:
    """A message loop that is told to end between or inside two messages leaves nothing open."""
    script = """
        import os, signal, sys
        from typing import Annotated
        from poolinject import Depends, Resolver

        def get_engine():
            print("engine+")
            yield
            print("engine-")

        def get_session(engine: Annotated[None, Depends(get_engine, lifetime="worker")]):
            print("session+")
            try:
                yield
            finally:
                print("session-")

        def handle(item, session: Annotated[None, Depends(get_session)]):
            print("handle")
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(10**9):
                pass

        with Resolver() as resolver:
            resolver.call(handle, 1)
            print("never")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT, env=environment)
    assert done.stdout.split() == ["engine+", "session+", "handle", "session-", "engine-"], done.stderr
    assert done.returncode == 128 + signal.SIGTERM


def test_functions_that_come_once_are_forgotten_in_time() -> None:
    """A loop may make a new closure for each message."""
    known: list[weakref.ref[Any]] = []
    with Resolver() as resolver:
        for number in range(2 * MOST_KEPT):

            def add(item: int, number: int = number) -> int:
                return item + number

            known.append(weakref.ref(add))
            assert resolver.call(add, 1) == 1 + number
        del add
        gc.collect()
        assert sum(reference() is not None for reference in known) <= MOST_KEPT
