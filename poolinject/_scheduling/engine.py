"""The parts of one pool, wired when the first run comes and ended together. Runs in the caller."""

from __future__ import annotations

import itertools
import threading
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from poolinject._injection.plan import Fetch
from poolinject._scheduling import consuming, signals
from poolinject._scheduling.backpressure import Backpressure
from poolinject._scheduling.chunking import (
    BESIDE_SECONDS,
    COSTLY_SECONDS,
    EAGER_BESIDE_SECONDS,
    EAGER_SECONDS,
    MOST,
    TARGET_SECONDS,
    Chunking,
    Pace,
)
from poolinject._scheduling.driver import Driver
from poolinject._scheduling.endings import kill_all
from poolinject._scheduling.recycling import Limits
from poolinject._scheduling.reports import CleanupReport
from poolinject._scheduling.runs import Run, RunOptions
from poolinject._transport.functions import is_loading
from poolinject.backends import make_backend
from poolinject.backends.membership import is_inside
from poolinject.errors import LifetimeError, PoolClosedError, PoolInjectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from poolinject._injection.plan import Plan
    from poolinject._scheduling.functions import Functions
    from poolinject._scheduling.progress import Bar
    from poolinject._scheduling.shutdown import Mode
    from poolinject._transport.messages import Load
    from poolinject.backends.base import Backend
    from poolinject.markers import AsyncBackend, Provider

EXIT_MARGIN = 15.0  # seconds beyond ``cleanup_timeout`` that shutdown takes at the most once runs are over
SMALLEST_LIMIT = 16  # items in flight for each worker where the limit is automatic
CHUNKS_IN_FLIGHT = 4  # the same, in chunks
BESIDE_IN_FLIGHT = 8  # items that count as a chunk, for each that runs beside others
BAR_PATIENCE = 0.1  # seconds that outcomes may wait where only a progress bar wants them
MOST_PACES = 1024  # functions of which it is remembered what their items take


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a pool was asked for, checked."""

    workers: int
    warm: Sequence[Provider]
    max_in_flight: int | None
    cleanup_timeout: float
    handle_signals: bool
    limits: Limits
    repr_items: bool
    name: str
    async_backend: AsyncBackend = "asyncio"


class Engine:
    """Starts workers and their driver once, makes runs, shuts everything down."""

    def __init__(self, backend: Backend, functions: Functions, options: EngineOptions) -> None:
        self.backend, self.functions, self.options = backend, functions, options
        self.driver: Driver | None = None
        self.closed = False
        self._run_numbers = itertools.count()
        self._paces: dict[int, Pace] = {}
        self._lock = threading.RLock()  # which a signal handler may want that interrupts the thread that holds it
        self._is_starting = False
        self._finalizer: weakref.finalize[..., object] | None = None

    def __str__(self) -> str:
        driver, workers = self.driver, self.options.workers
        if driver is None:
            return f"{'closed' if self.closed else 'new'}, {workers or 'all'} workers, 0 runs, 0 items done"
        counts = (
            f"{driver.workers} workers, {len(driver.dispatcher.runs)} runs, {sum(driver.dispatcher.items_done)} items"
        )
        return f"{'closed' if self.closed else 'open'}, {counts} done"

    def start(self, owner: object, plan: Plan | None = None) -> Driver:
        """Start the workers, or give what has been started; *owner* dying ends them.

        Workers that are started here may have the modules of *plan* and of what is to be warmed imported ahead.

        Raises:
            PoolClosedError: If shutdown has begun.
            BackendUnavailableError: If workers cannot be had here.
            PoolInjectError: If the calling code has interrupted the start itself, or is imported by a worker.
        """
        with self._lock:
            if self.closed:
                raise PoolClosedError(self.options.name)
            if self.driver is not None:
                return self.driver
            if self._is_starting:
                message = f"pool {self.options.name!r} is being started by the code that this one has interrupted"
                raise PoolInjectError(message)
            if is_loading() and not self.backend.capabilities.shares_memory:
                message = (
                    f"pool {self.options.name!r} is used at the top level of a module that a worker imports, which "
                    "would start workers without end. Put that under: if __name__ == '__main__'"
                )
                raise PoolInjectError(message)
            self._is_starting = True
            try:
                return self._start(owner, plan)
            finally:
                self._is_starting = False

    def _start(self, owner: object, plan: Plan | None) -> Driver:
        options = self.options
        plans = [self._plan_warm(provider) for provider in options.warm]
        warm = [self.functions.load(each) for each in plans]
        preload = self.functions.modules(plans if plan is None else [*plans, plan])
        driver = self._start_driver(warm, preload)
        if self.closed:  # by a signal handler
            driver.give_up(options.cleanup_timeout + EXIT_MARGIN)
            raise PoolClosedError(options.name)
        self.driver = driver
        self._finalizer = weakref.finalize(owner, _end_at_exit, driver, options.cleanup_timeout)
        if options.handle_signals:
            signals.watch(driver, options.cleanup_timeout)
        return driver

    def _start_driver(self, warm: Sequence[Load], preload: Sequence[str]) -> Driver:
        """Start the workers and what looks after them; where that is interrupted nothing is left of either."""
        options, driver = self.options, None
        count = self.backend.start(options.name, options.workers, preload, options.async_backend)
        try:
            driver = Driver(self.backend, count, warm, options.cleanup_timeout, options.name, limits=options.limits)
            driver.begin()
        except BaseException:
            if driver is not None:
                driver.give_up(options.cleanup_timeout + EXIT_MARGIN)
            else:
                kill_all(self.backend, count)
                self.backend.close()
            raise
        return driver

    def leave_caller(self) -> None:
        """Have items run on a thread of the pool's where they would run on the caller's, which has an event loop.

        Raises:
            PoolInjectError: If the caller's thread runs them already.
        """
        with self._lock:
            if not self.backend.capabilities.runs_in_caller:
                return
            if self.driver is not None:
                message = (
                    f"pool {self.options.name!r} runs its items on the thread of the sync code that has begun with it: "
                    "in async code use it from the beginning, or use another backend"
                )
                raise PoolInjectError(message)
            self.backend, self.options = make_backend("thread", None), replace(self.options, workers=1)

    def watch_signals(self) -> None:
        """Do what could not be done on the thread that started the workers; what heeds SIGTERM already goes on to."""
        if self.options.handle_signals and self.driver is not None and not self.closed:
            signals.watch(self.driver, self.options.cleanup_timeout, only_unheeded=True)

    def unwatch_signals(self) -> None:
        """Undo that."""
        if self.driver is not None:
            signals.unwatch(self.driver)

    def _plan_warm(self, provider: Provider) -> Plan:
        plan = self.functions.plan(provider, "get")
        if not plan.steps or not isinstance(plan.steps[-1], Fetch):
            problem = "only what outlives an item can be warmed, but this has lifetime 'item'"
            raise LifetimeError(("warm", plan.name), problem, "Give it the lifetime 'worker' or 'pool'")
        return plan

    def wait_started(self, driver: Driver) -> None:
        """Wait until every worker is ready and warm.

        Raises:
            BaseException: What a provider raised that was to be warmed, or an interrupt; the pool is shut down then.
        """
        try:
            driver.wait_started()
        except BaseException:
            self.shut_down("cancel", None)
            raise
        if driver.failure is not None:
            self.shut_down("cancel", None)
            raise driver.failure

    def make_run(self, driver: Driver, load: Load, options: RunOptions, chunksize: int | None, bar: Bar) -> Run:
        """Make a run, its in-flight limit and its chunk sizes."""
        limit = self.options.max_in_flight
        options.widens, options.repr_items = limit is None, self.options.repr_items
        is_costly = self.backend.capabilities.costly_messages
        target = COSTLY_SECONDS if is_costly else EAGER_SECONDS if options.eager else TARGET_SECONDS
        if options.eager or is_costly:
            options.patience = BAR_PATIENCE if bar.is_shown else target
        if not options.eager:
            options.unit = chunksize or 0
        most = MOST if limit is None else limit // (2 * driver.workers)
        if options.concurrency > 1:  # all of a chunk can run at the same time, so that none waits behind its neighbours
            each = EAGER_BESIDE_SECONDS if options.eager else BESIDE_SECONDS
            chunksize, most, target = None, options.concurrency, each * options.concurrency
        chunking = Chunking(chunksize, most, self._pace(load), target)
        if limit is None:
            together = BESIDE_IN_FLIGHT * options.concurrency if options.concurrency > 1 else chunksize or 1
            together = max(together, chunking.size)
            limit = max(SMALLEST_LIMIT, CHUNKS_IN_FLIGHT * together) * driver.workers
        number = next(self._run_numbers)
        return Run(number, load, options, chunking=chunking, pressure=Backpressure(limit), bar=bar)

    def _pace(self, load: Load) -> Pace:
        """Give what is known of the items of a function."""
        while len(self._paces) > MOST_PACES:
            del self._paces[next(iter(self._paces))]
        return self._paces.setdefault(load.function, Pace())

    def consume(
        self, owner: object, driver: Driver, run: Run, source: Iterator[Any], items: object
    ) -> consuming.Consumption:
        """Give the consumer's side of a run."""
        settle = self.options.cleanup_timeout
        return consuming.Consumption(driver, run, source, items=items, owner=owner, settle_seconds=settle)

    def shut_down(self, mode: Mode, timeout: float | None) -> CleanupReport:
        """End everything; Ctrl-C while it drains makes it cancel, while it cancels makes it kill."""
        if self.driver is not None and self.driver.is_current_thread:
            message = "a done-callback must not shut its own pool down"
            raise RuntimeError(message)
        with self._lock:
            self.closed = True
            driver = self.driver
        if driver is None:
            return CleanupReport({}, 0.0)
        longest = self.options.cleanup_timeout + EXIT_MARGIN
        driver.shut_down(mode, timeout)
        try:
            driver.wait_over(None if mode == "drain" else longest)
        except KeyboardInterrupt:
            driver.shut_down("cancel" if mode == "drain" else "kill", None)
            driver.wait_over(longest)
            raise
        finally:
            signals.unwatch(driver)
            if self._finalizer is not None and not driver.alive:
                self._finalizer.detach()  # it holds the driver, whose failure holds the frames that the owner is in
        return driver.cleanup_report or CleanupReport({}, 0.0)


def _end_at_exit(driver: Driver, cleanup_timeout: float) -> None:
    if driver.alive:
        driver.shut_down("cancel", None)
        if not (driver.is_current_thread or is_inside(driver.backend)):  # whoever ran the garbage collector
            driver.wait_over(cleanup_timeout + EXIT_MARGIN)
    signals.unwatch(driver)
