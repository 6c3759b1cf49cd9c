"""The end of a pool: drained, cancelled or killed; what the report says; and that it always comes."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from types import ModuleType
from typing import Annotated, Any

import pytest

from poolinject import CleanupError, Depends, InjectedPool, PoolClosedError, WorkerContext, WorkerLostError
from tests.conftest import THREAD, Kind
from tests.pool.ledger import note, span, wait_for

PATIENCE = 15.0


def echo(item: Any) -> Any:
    """Return the item."""
    return item


def hold(item: int) -> int:
    """Wait for the test."""
    note(f"began {item}")
    wait_for("release")
    return item


def get_connection(worker: WorkerContext) -> Iterator[str]:
    """One in each worker."""
    yield from span(f"connection w{worker.worker_id}")


def connected(item: int, connection: Annotated[str, Depends(get_connection)]) -> int:
    """Use it."""
    return item


def hold_connected(item: int, connection: Annotated[str, Depends(get_connection)]) -> int:
    """Use it and wait for the test."""
    return hold(item)


def get_bad_goodbye(worker: WorkerContext) -> Iterator[None]:
    """Fail to close."""
    yield
    raise ConnectionError(f"goodbye from {worker.worker_id}")


def get_worse_goodbye(_: Annotated[None, Depends(get_bad_goodbye)]) -> Iterator[None]:
    """Fail to close as well."""
    yield
    raise OSError("worse")


def ends_badly(item: int, _: Annotated[None, Depends(get_worse_goodbye)]) -> int:
    """Use both."""
    return item


def get_hanging() -> Iterator[None]:
    """Never end closing."""
    yield
    note("hanging")
    wait_for("never", patience=60)


def hangs(item: int, _: Annotated[None, Depends(get_hanging)]) -> int:
    """Use it."""
    return item


BAD: Any = {get_bad_goodbye: "worker", get_worse_goodbye: "worker"}


def test_drain_finishes_what_a_map_on_another_thread_began(parallel: Kind, ledger: ModuleType) -> None:
    """Its whole input is run; then the workers end."""
    pool = parallel.pool(2, lifetimes={get_connection: "worker"})
    with ThreadPoolExecutor(1) as threads:
        mapping = threads.submit(pool.map, hold_connected, (item for item in range(10)), chunksize=1)
        ledger.wait_for("began", 2)
        ending = threading.Timer(0.05, ledger.note, ["release"])
        ending.start()
        report = pool.shutdown("drain")
        assert mapping.result(PATIENCE) == list(range(10))
        ending.join()
    assert report.clean
    assert [worker.status for worker in report.workers.values()] == ["clean", "clean"]
    ledger.check_balanced()


def test_drain_with_a_timeout_cancels_after_it(parallel: Kind, ledger: ModuleType) -> None:
    """What runs ends, the rest does not start."""
    pool = parallel.pool(1, lifetimes={get_connection: "worker"})
    with ThreadPoolExecutor(1) as threads:
        mapping = threads.submit(pool.map, hold_connected, range(100), chunksize=10)
        ledger.wait_for("began")
        ending = threads_started(pool.shutdown, "drain", 0.05)
        until_cancelled(pool)
        ledger.note("release")
        assert ending.result(PATIENCE).clean
        with pytest.raises(PoolClosedError):
            mapping.result(PATIENCE)
    assert ledger.count("began") < 100
    ledger.check_balanced()


def test_cancel_starts_no_further_item(parallel: Kind, ledger: ModuleType) -> None:
    """The caller of ``map`` gets ``PoolClosedError``."""
    pool = parallel.pool(2, lifetimes={get_connection: "worker"})
    with ThreadPoolExecutor(1) as threads:
        mapping = threads.submit(pool.map, hold_connected, itertools.count(), chunksize=5)
        ledger.wait_for("began", 2)
        ending = threads_started(pool.shutdown, "cancel")
        until_cancelled(pool)
        ledger.note("release")
        assert ending.result(PATIENCE).clean
        with pytest.raises(PoolClosedError):
            mapping.result(PATIENCE)
    assert ledger.count("began") == 2
    ledger.check_balanced()


def test_kill_ends_workers_at_once(process: Kind, ledger: ModuleType) -> None:
    """Without their cleanups, and it says so."""
    pool = process.pool(2, lifetimes={get_connection: "worker"})
    results = pool.imap(hold_connected, itertools.count())
    ledger.wait_for("began", 2)
    began = time.monotonic()
    report = pool.shutdown("kill")
    assert time.monotonic() - began < 5
    assert [worker.status for worker in report.workers.values()] == ["lost", "lost"]
    assert not report.clean
    assert {worker.state for worker in pool.workers} == {"lost"}
    with pytest.raises(WorkerLostError):
        next(results)


def test_killed_threads_stop_and_close_what_they_have_open(ledger: ModuleType) -> None:
    """At once where they have nothing to do, else after their item, for which nobody waits for long."""
    pool = THREAD.pool(2, lifetimes={get_connection: "worker"})
    pool.map(connected, range(4))
    assert pool.shutdown("kill").clean
    ledger.check_balanced()
    before = ledger.count("connection")
    pool = THREAD.pool(2, lifetimes={get_connection: "worker"})
    results = pool.imap(hold_connected, [1])
    ledger.wait_for("began")
    statuses = [worker.status for worker in pool.shutdown("kill").workers.values()]
    assert sorted(statuses) == ["clean", "lost"]
    with pytest.raises(PoolClosedError):
        next(results)
    ledger.note("release")
    ledger.wait_for("connection", before + 2)
    ledger.check_balanced()


def test_kill_cuts_a_drain_short(process: Kind, ledger: ModuleType) -> None:
    """A harder mode on another thread wins."""
    pool = process.pool(2)
    results = pool.imap(hold, range(4))
    ledger.wait_for("began", 2)
    ending = threads_started(pool.shutdown, "drain")
    assert [worker.status for worker in pool.shutdown("kill").workers.values()] == ["lost", "lost"]
    assert ending.result(PATIENCE) == pool.shutdown()
    with pytest.raises(WorkerLostError):
        list(results)


def test_the_errors_of_all_cleanups_are_reported(backend: Kind) -> None:
    """Each with its provider, in the order in which they were raised."""
    pool = backend.pool(2, lifetimes=BAD)
    pool.broadcast(use_both)
    report = pool.shutdown()
    for worker_id, worker in report.workers.items():
        assert worker.status == "errors"
        assert [(provider, type(error)) for provider, error in worker.errors] == [
            ("get_worse_goodbye", OSError),
            ("get_bad_goodbye", ConnectionError),
        ]
        assert str(worker.errors[1][1]) == f"goodbye from {worker_id}"
    assert len(report.errors) == 2 * len(report.workers)
    assert not report.clean


def use_both(_: Annotated[None, Depends(get_worse_goodbye)]) -> None:
    """Open both on a worker."""


def test_leaving_the_with_block_raises_them_together(backend: Kind) -> None:
    """As a ``CleanupError``, which is a group."""
    with pytest.raises(CleanupError) as caught, backend.pool(2, lifetimes=BAD) as pool:
        assert pool.map(ends_badly, [1]) == [1]
    errors = caught.value.exceptions
    assert {type(error) for error in errors} == {OSError, ConnectionError}
    assert any("in the cleanup of get_worse_goodbye on worker" in note for note in errors[0].__notes__)


def test_an_exception_of_the_block_is_not_replaced(backend: Kind) -> None:
    """The errors of cleanups are noted on it."""

    def leave() -> None:
        with backend.pool(1, lifetimes=BAD) as pool:
            pool.map(ends_badly, [1])
            raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        leave()
    assert [note for note in caught.value.__notes__ if "worse" in note]


def test_a_cleanup_that_hangs_is_ended(process: Kind, ledger: ModuleType) -> None:
    """After ``cleanup_timeout``; the others are clean. The error names the provider and the worker."""
    pool = process.pool(2, lifetimes={get_hanging: "worker", get_connection: "worker"}, cleanup_timeout=0.5)
    pool.map(hangs, [1])
    began = time.monotonic()
    report = pool.shutdown()
    assert time.monotonic() - began < 10
    assert sorted(worker.status for worker in report.workers.values()) == ["clean", "timed out"]
    (worker_id,) = (number for number, worker in report.workers.items() if worker.errors)
    with pytest.raises(CleanupError) as caught:
        report.raise_errors()
    (error,) = caught.value.exceptions
    assert str(error) == "it took longer than cleanup_timeout, and was terminated"
    assert error.__notes__ == [f"in the cleanup of get_hanging on worker {worker_id}"]
    ledger.wait_for("hanging")


def test_a_cleanup_that_hangs_in_a_thread_is_given_up(ledger: ModuleType) -> None:
    """Nothing can end it from outside, but shutdown ends."""
    pool = Kind("thread").pool(1, lifetimes={get_hanging: "worker"}, cleanup_timeout=0.2)
    pool.map(hangs, [1])
    began = time.monotonic()
    assert pool.shutdown().workers[0].status == "timed out"
    assert time.monotonic() - began < 10
    ledger.note("never")


def test_an_item_that_hangs_is_ended(process: Kind, ledger: ModuleType) -> None:
    """The terminated worker closes what it has open on its way out."""
    pool = process.pool(1, lifetimes={get_connection: "worker"}, cleanup_timeout=0.3)
    results = pool.imap(hold_connected, range(3))
    ledger.wait_for("began")
    began = time.monotonic()
    report = pool.shutdown("cancel")
    assert time.monotonic() - began < 10
    assert report.workers[0].status == "timed out"
    ledger.check_balanced()
    with pytest.raises(WorkerLostError, match="worker 0 was ended by SIGTERM while it held item 0"):
        next(results)


def test_a_worker_that_is_killed_during_shutdown_is_lost(process: Kind, ledger: ModuleType) -> None:
    """Its cleanups did not run, and the report says so."""
    pool = process.pool(2, lifetimes={get_hanging: "worker"})
    pool.map(hangs, [1])
    ending = threads_started(pool.shutdown)
    ledger.wait_for("hanging")
    os.kill(next(entry.pid for entry in ledger.read() if entry.text == "hanging"), signal.SIGKILL)
    assert sorted(worker.status for worker in ending.result(PATIENCE).workers.values()) == ["clean", "lost"]


def test_a_second_shutdown_gives_the_same_report(backend: Kind) -> None:
    """Whatever its mode."""
    pool = backend.pool(2)
    pool.map(echo, range(5))
    report = pool.shutdown()
    assert report == pool.shutdown() == pool.shutdown("kill")
    assert len(report.workers) == (2 if backend.is_parallel else 1)
    assert 0 <= report.seconds < PATIENCE


def test_the_shutdown_of_a_pool_that_never_started_is_empty(backend: Kind) -> None:
    """And closes it all the same."""
    pool = backend.pool(2)
    assert pool.shutdown().workers == {}
    with pytest.raises(PoolClosedError):
        pool.map(echo, [1])
    with backend.pool(2):
        pass


@pytest.mark.parametrize("started", [True, False])
def test_a_closed_pool_refuses_everything(backend: Kind, started: bool) -> None:
    """With an error that names it; nothing is read."""
    pool = backend.pool(1, name="finished")
    if started:
        pool.map(echo, [1])
    pool.shutdown()
    items = iter(range(3))
    for method in ("map", "imap", "imap_unordered", "starmap", "outcomes"):
        with pytest.raises(PoolClosedError, match="finished is closed"):
            getattr(pool, method)(echo, items)
    for method in ("submit", "broadcast", "explain"):
        with pytest.raises(PoolClosedError, match="finished is closed"):
            getattr(pool, method)(echo)
    with pytest.raises(PoolClosedError), pool:
        raise AssertionError
    assert next(items) == 0


def test_shutdown_after_half_an_iterator(backend: Kind) -> None:
    """What was read is delivered; then ``PoolClosedError`` tells that the input was cut."""
    pool = backend.pool(2)
    results = pool.imap(echo, itertools.count())
    seen = [next(results) for _ in range(10)]
    if backend.is_parallel:
        pool.shutdown("drain")
        with pytest.raises(PoolClosedError):
            seen.extend(iter(results))
        assert seen == list(range(len(seen)))
    else:
        pool.shutdown("cancel")
        with pytest.raises(PoolClosedError):
            list(results)


def test_drain_delivers_an_iterator_whose_input_was_read(parallel: Kind) -> None:
    """To its end, without an error."""
    pool = parallel.pool(2)
    results = pool.imap(echo, range(10))
    pool.shutdown("drain")
    assert list(results) == list(range(10))


def test_cancel_cancels_futures_that_have_not_started(parallel: Kind, ledger: ModuleType) -> None:
    """Those that run get their result."""
    pool = parallel.pool(1)
    futures = [pool.submit(hold, item) for item in range(5)]
    ledger.wait_for("began")
    ending = threads_started(pool.shutdown, "cancel")
    until_cancelled(pool)
    ledger.note("release")
    ending.result(PATIENCE)
    assert not wait(futures, PATIENCE).not_done  # it hears of a cancelled future only where that is told
    assert futures[0].result(PATIENCE) == 0
    for future in futures[1:]:
        with pytest.raises(CancelledError):
            future.result(PATIENCE)


def test_who_waits_for_a_cancelled_future_is_told(parallel: Kind, ledger: ModuleType) -> None:
    """Before or after its item has started, without a shutdown."""
    with parallel.pool(1) as pool:
        running, waiting = pool.submit(hold, 0), pool.submit(hold, 1)
        ledger.wait_for("began")
        assert running.cancel()
        assert waiting.cancel()
        ledger.note("release")
        assert not wait([running, waiting], PATIENCE).not_done
    assert ledger.count("began") == 1


def test_drain_waits_for_futures(backend: Kind) -> None:
    """All of them."""
    with backend.pool(2) as pool:
        futures = [pool.submit(echo, item) for item in range(20)]
    assert [future.result(0) for future in futures] == list(range(20))


def test_a_drain_goes_on_where_a_worker_is_lost(process: Kind, ledger: ModuleType) -> None:
    """It is replaced, so that what waits for it gets its turn."""
    pool = process.pool(1)
    futures = [pool.submit(die_at_first, item) for item in range(4)]
    ending = threads_started(pool.shutdown, "drain")
    until_begun(pool)
    ledger.note("release")
    assert isinstance(futures[0].exception(PATIENCE), WorkerLostError)
    assert [future.result(PATIENCE) for future in futures[1:]] == [1, 2, 3]
    assert ending.result(PATIENCE).clean


def die_at_first(item: int) -> int:
    """Die where it is the first item, once the test says so."""
    if item == 0:
        wait_for("release")
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_future_can_be_cancelled_before_it_starts(parallel: Kind, ledger: ModuleType) -> None:
    """Its item then never runs."""
    with parallel.pool(1) as pool:
        first, second = pool.submit(hold, 0), pool.submit(hold, 1)
        ledger.wait_for("began")
        assert second.cancel()
        third = pool.submit(echo, 3)
        ledger.note("release")
        assert (first.result(PATIENCE), third.result(PATIENCE)) == (0, 3)
        assert ledger.texts().count("began 1") == 0


def test_a_done_callback_may_not_wait_for_its_pool(parallel: Kind) -> None:
    """It runs on the pool's thread; it gets an error instead of a dead lock."""
    errors: list[BaseException] = []
    finished = threading.Event()
    with parallel.pool(1) as pool:

        def call_back(_: Future[int]) -> None:
            for call in (pool.shutdown, lambda: pool.map(echo, [1]), lambda: list(pool.imap(echo, [1]))):
                try:
                    call()
                except RuntimeError as error:
                    errors.append(error)
            finished.set()

        pool.submit(echo, 1).add_done_callback(call_back)
        assert finished.wait(PATIENCE)
        assert len(errors) == 3
        assert pool.map(echo, [1]) == [1]


def test_an_interrupted_wait_for_a_drain_cancels(process: Kind, ledger: ModuleType) -> None:
    """Ctrl-C during shutdown is raised once everything is closed."""
    pool = process.pool(1, lifetimes={get_connection: "worker"})
    results = pool.imap(hold_connected, range(50), chunksize=10)
    ledger.wait_for("began")

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        until_cancelled(pool)
        ledger.note("release")

    timer = threading.Timer(0.1, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pool.shutdown("drain")
    timer.join()
    assert ledger.count("began") < 50
    ledger.check_balanced()
    with pytest.raises(PoolClosedError):
        list(results)


def test_an_interrupted_cancel_kills(process: Kind, ledger: ModuleType) -> None:
    """Who presses Ctrl-C again does not want to wait for what hangs."""
    pool = process.pool(1, lifetimes={get_connection: "worker"}, cleanup_timeout=PATIENCE)
    results = pool.imap(hold_connected, range(50), chunksize=10)
    ledger.wait_for("began")

    def interrupt() -> None:
        until_cancelled(pool)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        pool.shutdown("cancel")
    interrupter.join()
    assert [worker.state for worker in pool.workers] == ["lost"]
    with pytest.raises((WorkerLostError, PoolClosedError)):
        list(results)


def get_slowly(worker: WorkerContext) -> Iterator[str]:
    """Be there once the test says so."""
    note("opening")
    wait_for("release")
    yield from span(f"connection w{worker.worker_id}")


def test_an_interrupted_start_closes_what_has_started(parallel: Kind, ledger: ModuleType) -> None:
    """Nobody leaves a ``with`` block that was never entered."""
    pool = parallel.pool(1, lifetimes={get_slowly: "worker"}, warm=[get_slowly])

    def interrupt() -> None:
        ledger.wait_for("opening")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        while " open" in repr(pool) and time.monotonic() < deadline:  # it is new where its driver had just begun
            time.sleep(0.001)
        ledger.note("release")

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt), pool:
        pytest.fail("the block was entered")
    interrupter.join()
    assert {worker.state for worker in pool.workers} <= {"stopped"}
    ledger.check_balanced()


def threads_started(call: Any, *arguments: Any) -> Future[Any]:
    """Call something on a thread of its own."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:  # noqa: BLE001 - it is what the future is for
            future.set_exception(error)

    threading.Thread(target=work, name="shutting down").start()
    return future


def until_cancelled(pool: InjectedPool) -> None:
    """Wait until the driver has cancelled every run."""
    deadline = time.monotonic() + PATIENCE
    driver = pool._engine.driver
    assert driver is not None
    while not all(run.cancelled for run in list(driver.dispatcher.scheduler.runs.values())):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def until_begun(pool: InjectedPool) -> None:
    """Wait until the driver has begun to shut down."""
    deadline = time.monotonic() + PATIENCE
    driver = pool._engine.driver
    assert driver is not None
    while driver._shutdown is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
