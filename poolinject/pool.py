"""``InjectedPool``: checks what it is asked and wires the parts. Runs in the caller."""

from __future__ import annotations

import itertools
import os
import threading
import warnings
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeAlias, TypeVar

from poolinject import _options
from poolinject._injection.codegen import generate
from poolinject._injection.plan import PlanView, draw
from poolinject._scheduling import consuming, signals
from poolinject._scheduling.backpressure import Backpressure
from poolinject._scheduling.chunking import MOST, Chunking
from poolinject._scheduling.driver import Driver
from poolinject._scheduling.functions import Functions
from poolinject._scheduling.progress import Bar, Progress
from poolinject._scheduling.reports import CleanupReport, RunReport
from poolinject._scheduling.runs import Run, RunOptions
from poolinject._transport.messages import Failure, Load, Outcome
from poolinject.backends import make_backend
from poolinject.backends.base import WorkerInfo
from poolinject.backends.membership import is_inside
from poolinject.errors import PoolClosedError, PoolInjectError, TransportError
from poolinject.markers import Lifetime, Provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from poolinject._injection.plan import Call
    from poolinject._scheduling.shutdown import Mode
    from poolinject.backends.base import Backend

Value = TypeVar("Value")
OnError: TypeAlias = "Literal['raise', 'return'] | Callable[[Failure], Any]"
EXIT_MARGIN = 15.0  # seconds beyond ``cleanup_timeout`` that shutdown takes at the most once runs are over


class InjectedPool:
    """Runs functions with FastAPI's ``Depends`` parameters over many items in worker processes or threads.

    Workers start with the first run and live until ``shutdown``, or until the ``with`` block is left: normally, which
    drains, or by an exception, which cancels. Two threads may use a pool at once.

    Args:
        workers: How many; by default one for each usable core.
        backend: ``"process"``, ``"thread"``, ``"inline"`` (the calling thread, for debugging) or a ``Backend``.
        start_method: ``"forkserver"``, ``"spawn"`` or ``"fork"``; by default the first that the platform has.
        lifetimes: ``"item"``, ``"worker"`` or ``"pool"`` for providers; wins over ``Depends(lifetime=)``.
        overrides: Replacements for providers, as in ``app.dependency_overrides``; read anew for each run.
        warm: Providers of lifetime ``worker`` or ``pool`` to be built when the workers start, failing fast.
        max_in_flight: How many items may be read whose outcomes the caller has not got; by default a few chunks for
            each worker, more while chunks grow.
        cleanup_timeout: Seconds that a worker gets at shutdown to end its item and close its scopes.
        handle_signals: Whether SIGTERM closes the scopes before it does what it would do otherwise. Needs the pool's
            first run, or ``with``, to be on the main thread.
        name: Used in errors, thread names and ``WorkerContext``.

    Raises:
        ValueError, TypeError: If an option is wrong; nothing has been started then.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        backend: str | Backend = "process",
        start_method: str | None = None,
        lifetimes: Mapping[Provider, Lifetime] | None = None,
        overrides: Mapping[Provider, Provider] | None = None,
        warm: Iterable[Provider] = (),
        max_in_flight: int | None = None,
        cleanup_timeout: float = 30.0,
        handle_signals: bool = True,
        name: str = "poolinject",
    ) -> None:
        self._driver: Driver | None = None
        self._workers = _options.workers(workers)
        self._backend = make_backend(backend, start_method)
        by_reference = self._backend.capabilities.shares_memory
        overrides = _options.overrides(overrides)
        self._functions = Functions(_options.lifetimes(lifetimes), overrides, by_reference=by_reference)
        self._warm = _options.warm(warm)
        self._max_in_flight = _options.at_least_one("max_in_flight", max_in_flight)
        self._cleanup_timeout = _options.seconds("cleanup_timeout", cleanup_timeout)
        self._handle_signals, self._name = handle_signals, str(name)
        self._run_numbers = itertools.count()
        self._lock = threading.Lock()
        self._closed = False
        self._cleanup_report: CleanupReport | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "new" if self._driver is None else "open"
        done = 0 if self._driver is None else sum(self._driver.dispatcher.items_done)
        running = 0 if self._driver is None else len(self._driver.dispatcher.runs)
        return f"<InjectedPool {self._name!r} {state}, {self._workers} workers, {running} runs, {done} items done>"

    def __reduce__(self) -> NoReturn:
        raise TransportError(f"pool {self._name!r}", "a pool cannot be sent to a worker: make another one there")

    def __enter__(self) -> Self:
        self._check_usable()
        if self._warm:
            self._wait_started(self._started())
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.shutdown("drain").raise_errors()
            return
        report = self.shutdown("cancel")
        for cleanup_error in report.errors:
            error.add_note(f"besides, a cleanup at shutdown raised {cleanup_error!r}")

    def __del__(self) -> None:
        if getattr(self, "_driver", None) is not None and not self._closed and self._pid == os.getpid():
            warnings.warn(f"{self!r} was not shut down", ResourceWarning, stacklevel=2, source=self)

    def map(
        self,
        func: Callable[..., Value],
        items: Iterable[Any],
        *,
        chunksize: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> list[Value]:
        """Call ``func`` for each item and give the results in the order of the items.

        The input is read on the calling thread, no further ahead than the in-flight limit.

        Args:
            func: Its first parameter without ``Depends`` gets the item.
            items: Any iterable; its length need not be known.
            chunksize: Items in one message; by default adapted to what items take.
            progress: ``True``, a text, a dict of tqdm's options or a tqdm class.
            on_error: ``"raise"``: the first failure ends the run and its exception is raised. ``"return"``: a
                ``Failure`` stands in the item's place. A callable: gets each ``Failure``, what it returns stands there.

        Raises:
            PlanError, TransportError, TypeError, ValueError: Before any item is sent, if the call cannot work.
            PoolClosedError: If shutdown has begun.
            BaseException: With ``on_error="raise"`` what an item raised, type kept, noted with item and worker; what
                ``items`` raised, after what had been read has run.
        """
        consumption, convert = self._begin(
            func, "map", items, RunOptions(eager=True), chunksize=chunksize, progress=progress, on_error=on_error
        )
        return consumption.collect(convert)

    def starmap(
        self,
        func: Callable[..., Value],
        items: Iterable[Sequence[Any]],
        *,
        chunksize: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> list[Value]:
        """Do as ``map`` does; each item is a tuple of leading arguments."""
        options = RunOptions(eager=True)
        consumption, convert = self._begin(
            func, "starmap", items, options, chunksize=chunksize, progress=progress, on_error=on_error
        )
        return consumption.collect(convert)

    def imap(
        self,
        func: Callable[..., Value],
        items: Iterable[Any],
        *,
        chunksize: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Iterator[Value]:
        """Do as ``map`` does, lazily: results come in order as they are ready.

        Work begins at the call and goes on in the background within the in-flight limit. The input is read on a
        thread of its own, unless it is a short list, tuple or range. Closing or dropping the iterator cancels.
        """
        consumption, convert = self._begin(
            func, "map", items, RunOptions(), chunksize=chunksize, progress=progress, on_error=on_error
        )
        return consumption.iterate(convert)

    def imap_unordered(
        self,
        func: Callable[..., Value],
        items: Iterable[Any],
        *,
        chunksize: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Iterator[Value]:
        """Do as ``imap`` does; results come as they are ready, in any order."""
        options = RunOptions(ordered=False)
        consumption, convert = self._begin(
            func, "map", items, options, chunksize=chunksize, progress=progress, on_error=on_error
        )
        return consumption.iterate(convert)

    def outcomes(
        self,
        func: Callable[..., Any],
        items: Iterable[Any],
        *,
        chunksize: int | None = None,
        progress: Progress = None,
    ) -> Iterator[Outcome]:
        """Give a ``Success`` or ``Failure`` for each item, as they are ready; never raises for an item."""
        options = RunOptions(ordered=False, timed=True)
        consumption, _ = self._begin(
            func, "map", items, options, chunksize=chunksize, progress=progress, on_error="return"
        )
        return consumption.iterate(consuming.to_outcomes)

    def submit(self, func: Callable[..., Value], /, *args: Any) -> Future[Value]:
        """Call ``func`` once, with *args* as its leading arguments, and give a future of the result.

        A future that is cancelled before its item has started never runs. Done-callbacks run on the pool's thread and
        must not wait for the pool.
        """
        plan = self._plan(func, "starmap")
        load = self._functions.load(plan)
        driver = self._started()
        run = self._make_run(driver, load, RunOptions(ordered=False, fail_fast=False), None, Bar(None, None))
        future: Future[Value] = Future()
        consuming.deliver_to_future(driver, run, future)
        run.read(iter([args]), driver.notify, most=2)
        driver.open(run)
        if driver.inline:
            consuming.drive_inline(driver, run)
        return future

    def broadcast(self, func: Callable[..., Any]) -> dict[int, Outcome]:
        """Call ``func``, all of whose parameters are injected, once on every worker; give the outcomes by worker id."""
        plan = self._plan(func, "broadcast")
        load = self._functions.load(plan)
        driver = self._started()
        everyone = range(driver.workers)
        options = RunOptions(fail_fast=False, eager=True, timed=True, pinned=everyone)
        run = self._make_run(driver, load, options, 1, Bar(None, None))
        items = [None] * driver.workers
        consumption = self._consume(driver, run, iter(items), items)
        outcomes: list[Outcome] = consumption.collect(consuming.to_outcomes)
        return {outcome.index: outcome for outcome in outcomes}

    def explain(self, func: Callable[..., Any]) -> PlanView:
        """Show how ``func`` would be called by ``map``: ``print(pool.explain(func))``. Starts nothing."""
        plan = self._plan(func, "map")
        names = tuple(step.name for step in plan.steps)
        return PlanView(plan.name, draw(plan.tree), generate(plan).source, names)

    def shutdown(self, mode: Mode = "drain", timeout: float | None = None) -> CleanupReport:
        """End the pool: close every scope of every worker, then the workers; a second call gives the same report.

        Args:
            mode: ``"drain"``: finish what was read, and the input of ``map``, ``starmap`` and ``submit``; lazy
                iterators read no further. ``"cancel"``: start no further item. ``"kill"``: end workers at once,
                without their cleanups.
            timeout: Seconds for draining; after that it cancels. By default no limit.

        Raises:
            ValueError: If the mode is not known.
        """
        _options.mode(mode)
        if timeout is not None:
            _options.seconds("timeout", timeout)
        self._refuse_inside()
        if self._driver is not None and self._driver.is_current_thread:
            message = "a done-callback must not shut its own pool down"
            raise RuntimeError(message)
        with self._lock:
            self._closed = True
            driver = self._driver
        if driver is None:
            return CleanupReport({}, 0.0)
        driver.shut_down(mode, timeout)
        try:
            driver.wait_over(None if mode == "drain" else self._cleanup_timeout + EXIT_MARGIN)
        except KeyboardInterrupt:
            driver.shut_down("cancel", None)
            driver.wait_over(self._cleanup_timeout + EXIT_MARGIN)
            raise
        finally:
            signals.unwatch(driver)
        return driver.cleanup_report or CleanupReport({}, 0.0)

    @property
    def report(self) -> RunReport:
        """The report of the newest finished run.

        Raises:
            RuntimeError: If none has finished yet.
        """
        report = None if self._driver is None else self._driver.newest_report
        if report is None:
            message = "no run has finished yet"
            raise RuntimeError(message)
        return report

    @property
    def workers(self) -> Sequence[WorkerInfo]:
        """The workers as they are now; none before the first run."""
        return () if self._driver is None else self._driver.describe_workers()

    # wiring

    def _begin(
        self,
        func: Callable[..., Any],
        call: Call,
        items: Iterable[Any],
        options: RunOptions,
        *,
        chunksize: int | None,
        progress: Progress,
        on_error: OnError,
    ) -> tuple[consuming.Consumption, consuming.Convert | None]:
        _options.run(chunksize, progress, on_error)
        source = _options.iterator(items)
        plan = self._plan(func, call)
        load = self._functions.load(plan)
        driver = self._started()
        options.fail_fast = on_error == "raise"
        run = self._make_run(driver, load, options, chunksize, Bar(progress, items))
        consumption = self._consume(driver, run, source, items)
        convert = None if on_error == "raise" else consuming.replacing(_give_back if on_error == "return" else on_error)
        return consumption, convert

    def _plan(self, func: Callable[..., Any], call: Call) -> Any:
        self._check_usable()
        if not callable(func):
            message = f"func must be callable, not {func!r}"
            raise TypeError(message)
        return self._functions.plan(func, call)

    def _consume(self, driver: Driver, run: Run, source: Iterator[Any], items: object) -> consuming.Consumption:
        settle = self._cleanup_timeout
        return consuming.Consumption(driver, run, source, items=items, owner=self, settle_seconds=settle)

    def _make_run(self, driver: Driver, load: Load, options: RunOptions, chunksize: int | None, bar: Bar) -> Run:
        limit = self._max_in_flight
        options.widens = limit is None
        if limit is None:
            limit = max(16, 4 * (chunksize or 1)) * driver.workers
        chunking = Chunking(chunksize, MOST if options.widens else limit // (2 * driver.workers))
        number = next(self._run_numbers)
        return Run(number, load, options, chunking=chunking, pressure=Backpressure(limit), bar=bar)

    def _started(self) -> Driver:
        with self._lock:
            if self._closed:
                raise PoolClosedError(self._name)
            if self._driver is None:
                warm = [self._functions.load(self._functions.plan(provider, "get")) for provider in self._warm]
                count = self._backend.start(self._name, self._workers, ())
                self._driver = Driver(self._backend, count, warm, self._cleanup_timeout, self._name)
                weakref.finalize(self, _end_at_exit, self._driver, self._cleanup_timeout)
                if self._handle_signals:
                    signals.watch(self._driver, self._cleanup_timeout)
            return self._driver

    def _wait_started(self, driver: Driver) -> None:
        driver.wait_started()
        if driver.failure is not None:
            self.shutdown("cancel")
            raise driver.failure

    def _check_usable(self) -> None:
        if self._closed:
            raise PoolClosedError(self._name)
        if self._pid != os.getpid():
            message = f"pool {self._name!r} belongs to another process: make a new one after a fork"
            raise PoolInjectError(message)
        self._refuse_inside()

    def _refuse_inside(self) -> None:
        if is_inside(self._backend):
            message = f"pool {self._name!r} is used inside one of its own workers, which would wait for itself"
            raise PoolInjectError(message)


def _give_back(failure: Failure) -> Failure:
    return failure


def _end_at_exit(driver: Driver, cleanup_timeout: float) -> None:
    if driver.alive:
        driver.shut_down("cancel", None)
        if not (driver.is_current_thread or is_inside(driver.backend)):  # whoever ran the garbage collector
            driver.wait_over(cleanup_timeout + EXIT_MARGIN)
    signals.unwatch(driver)
