"""``InjectedPool``: checks what it is asked and wires the parts. Runs in the caller."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, Unpack, overload

from poolinject import _options
from poolinject._async_pool import Async, AsyncMethods
from poolinject._injection.codegen import generate
from poolinject._injection.plan_view import PlanView, draw
from poolinject._options import Asked, Delivery, OnError, Options
from poolinject._scheduling import consuming
from poolinject._scheduling.engine import Engine, EngineOptions
from poolinject._scheduling.functions import Functions
from poolinject._scheduling.progress import Progress
from poolinject._scheduling.reports import CleanupReport, RunReport
from poolinject._scheduling.retries import RetryPolicy
from poolinject._scheduling.runs import RunOptions
from poolinject._transport.messages import Outcome
from poolinject._wiring import note_cleanup_errors
from poolinject.backends import make_backend
from poolinject.backends.base import WorkerInfo
from poolinject.errors import TransportError
from poolinject.markers import AsyncBackend, Lifetime, Provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from poolinject._scheduling.shutdown import Mode
    from poolinject.backends.base import Backend

Value = TypeVar("Value")


class InjectedPool(AsyncMethods):
    """Runs functions with FastAPI's ``Depends`` parameters over many items in worker processes or threads.

    Workers start with the first run and live until ``shutdown``, or until the ``with`` block is left: normally, which
    drains, or by an exception, which cancels. Two threads may use a pool at once. ``async with`` and the methods whose
    names begin with ``a`` are for async code.

    Args:
        workers: How many; by default one for each usable core, on a running cluster as many as it has.
        backend: ``"process"``, ``"thread"``, ``"inline"`` (the calling thread, for debugging), ``"dask"``, ``"ray"``,
            or a ``Backend``, say ``DaskBackend(address=...)``.
        start_method: ``"forkserver"``, ``"spawn"`` or ``"fork"``; by default the first that the platform has.
        lifetimes: ``"item"``, ``"worker"`` or ``"pool"`` for providers; wins over ``Depends(lifetime=)``.
        overrides: Replacements for providers, as in ``app.dependency_overrides``; read anew for each run.
        app: The name of a FastAPI or Starlette application, ``"package.module:app"``, that each worker imports. Its
            ``dependency_overrides`` count, below ``overrides``. Providers may take ``Request``, and reach the
            application through ``request.app`` and ``request.state``: the first one makes the worker enter the
            lifespan, which is left at shutdown, as a dependency of lifetime ``pool``.
        warm: Providers of lifetime ``worker`` or ``pool`` to be built when the workers start, failing fast.
        async_backend: The event loop that coroutine functions and async providers run on in each worker:
            ``"asyncio"``, ``"uvloop"`` or ``"trio"``. Trio's has a thread of its own, where sync functions never run.
        max_in_flight: How many items may be read whose outcomes the caller has not got; by default a few chunks for
            each worker, more while chunks grow.
        max_items_per_worker: After so many items a worker process closes its scopes and ends, between two items, and
            is replaced; by default it lives as long as the pool.
        max_worker_memory: The same after an item that leaves it with more than so many bytes resident.
        cleanup_timeout: Seconds that a worker gets, at shutdown or where it is recycled, to end its item and close its
            scopes.
        handle_signals: Whether SIGTERM closes the scopes before it does what it would do otherwise. Needs the pool's
            first run, or ``with``, to be on the main thread.
        repr_items: Whether the notes of errors show the item, by its ``repr`` cut at 200 characters, or its index only.
        name: Used in errors, thread names and ``WorkerContext``.

    Raises:
        ValueError, TypeError: If an option is wrong; nothing has been started then.
        BackendUnavailableError: If the library of ``async_backend`` is not installed.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        backend: str | Backend = "process",
        start_method: str | None = None,
        lifetimes: Mapping[Provider, Lifetime] | None = None,
        overrides: Mapping[Provider, Provider] | None = None,
        app: str | None = None,
        warm: Iterable[Provider] = (),
        async_backend: AsyncBackend = "asyncio",
        max_in_flight: int | None = None,
        max_items_per_worker: int | None = None,
        max_worker_memory: int | None = None,
        cleanup_timeout: float = 30.0,
        handle_signals: bool = True,
        repr_items: bool = True,
        name: str = "poolinject",
    ) -> None:
        made = make_backend(backend, start_method)
        self._backend_name = backend if isinstance(backend, str) else type(backend).__name__
        replacements = _options.overrides(overrides)
        by_reference = made.capabilities.shares_memory
        application = _options.application(app, made.capabilities)
        functions = Functions(_options.lifetimes(lifetimes), replacements, application, by_reference=by_reference)
        options = EngineOptions(
            workers=_options.workers(workers, made.capabilities),
            warm=_options.warm(warm),
            max_in_flight=_options.at_least_one("max_in_flight", max_in_flight),
            limits=_options.limits(max_items_per_worker, max_worker_memory, self._backend_name, made.capabilities),
            cleanup_timeout=_options.seconds("cleanup_timeout", cleanup_timeout),
            handle_signals=handle_signals,
            repr_items=repr_items,
            name=str(name),
            async_backend=_options.async_backend(async_backend),
        )
        made.claim(options.name)
        self._engine = Engine(made, functions, options)
        self._name = options.name
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<InjectedPool {self._name!r} {self._engine}>"

    def __reduce__(self) -> NoReturn:
        raise TransportError(f"pool {self._name!r}", "a pool cannot be sent to a worker: make another one there")

    def __enter__(self) -> Self:
        self._check_usable()
        if self._engine.options.warm:
            self._warm_up()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.shutdown("drain").raise_errors()
            return
        note_cleanup_errors(self.shutdown("cancel"), error)

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)  # none where an option was refused
        if engine is not None and engine.driver is not None and not engine.closed and self._pid == os.getpid():
            warnings.warn(f"{self!r} was not shut down", ResourceWarning, stacklevel=2, source=self)

    @overload
    def map(self, func: Async[Value], items: Iterable[Any], **options: Unpack[Options]) -> list[Value]: ...
    @overload
    def map(self, func: Callable[..., Value], items: Iterable[Any], **options: Unpack[Options]) -> list[Value]: ...
    def map(
        self,
        func: Callable[..., Any],
        items: Iterable[Any],
        *,
        chunksize: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
        retries: RetryPolicy | int | None = None,
        timeout: float | None = None,
        delivery: Delivery = "at_least_once",
        concurrency: int | None = None,
    ) -> list[Any]:
        """Call ``func`` for each item and give the results in the order of the items.

        The input is read on the calling thread, no further ahead than the in-flight limit.

        Args:
            func: Its first parameter without ``Depends`` gets the item.
            items: Any iterable; its length need not be known.
            chunksize: Items are handed to workers in multiples of this; by default as many as take a while.
            progress: ``True``, a text, a dict of tqdm's options or a tqdm class.
            on_error: ``"raise"``: the first failure ends the run and its exception is raised. ``"return"``: a
                ``Failure`` stands in the item's place. A callable: gets each ``Failure``, what it returns stands there.
            retries: How many further attempts an item that fails gets, or a ``RetryPolicy``.
            timeout: Seconds that an item may take from its start in the worker, dependencies and cleanup included;
                ``backend="process"`` only. After that an ``ItemTimeoutError`` is raised in it, so that its scope
                closes; an item that has not let go 2 seconds later is ended with its worker, which is replaced.
            delivery: What happens, when a worker is lost, to items that it had begun besides the one that it was
                running: ``"at_least_once"``: those whose outcomes it had not recorded run again; it records them at
                once, or every few milliseconds where they take less than 50 microseconds of CPU time and next to none
                of it in system calls, on average. ``"at_most_once"``: they fail, too, and ``retries`` does not count
                for what was lost.
            concurrency: How many items run beside each other on each worker, each in a task of its own on the worker's
                event loop: 16 by default where ``func`` is a coroutine function, whose chunks have no more items
                than that, whatever ``chunksize`` says; others run one item after another.

        Raises:
            PlanError, TransportError, TypeError, ValueError: Before any item is sent, if the call cannot work.
            PoolClosedError: If shutdown has begun.
            BaseException: With ``on_error="raise"`` what an item raised, type kept, noted with item and worker; what
                ``items`` raised, after what had been read has run.
        """
        asked = Asked(chunksize, progress, on_error, retries, timeout, delivery, concurrency)
        consumption, convert = self._begin(func, "map", items, RunOptions(eager=True), asked)
        return consumption.collect(convert)

    @overload
    def starmap(
        self,
        func: Async[Value],
        items: Iterable[Sequence[Any]],
        **options: Unpack[Options],
    ) -> list[Value]: ...
    @overload
    def starmap(
        self, func: Callable[..., Value], items: Iterable[Sequence[Any]], **options: Unpack[Options]
    ) -> list[Value]: ...
    def starmap(
        self,
        func: Callable[..., Any],
        items: Iterable[Sequence[Any]],
        *,
        chunksize: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
        retries: RetryPolicy | int | None = None,
        timeout: float | None = None,
        delivery: Delivery = "at_least_once",
        concurrency: int | None = None,
    ) -> list[Any]:
        """Do as ``map`` does; each item is a tuple of leading arguments."""
        asked = Asked(chunksize, progress, on_error, retries, timeout, delivery, concurrency)
        consumption, convert = self._begin(func, "starmap", items, RunOptions(eager=True), asked)
        return consumption.collect(convert)

    @overload
    def imap(self, func: Async[Value], items: Iterable[Any], **options: Unpack[Options]) -> Iterator[Value]: ...
    @overload
    def imap(self, func: Callable[..., Value], items: Iterable[Any], **options: Unpack[Options]) -> Iterator[Value]: ...
    def imap(
        self,
        func: Callable[..., Any],
        items: Iterable[Any],
        *,
        chunksize: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
        retries: RetryPolicy | int | None = None,
        timeout: float | None = None,
        delivery: Delivery = "at_least_once",
        concurrency: int | None = None,
    ) -> Iterator[Any]:
        """Do as ``map`` does, lazily: results come in order as they are ready.

        Work begins at the call and goes on in the background within the in-flight limit. The input is read on a
        thread of its own, unless it is a short list, tuple or range. Closing or dropping the iterator cancels.
        """
        asked = Asked(chunksize, progress, on_error, retries, timeout, delivery, concurrency)
        consumption, convert = self._begin(func, "map", items, RunOptions(), asked)
        return consumption.iterate(convert)

    @overload
    def imap_unordered(
        self, func: Async[Value], items: Iterable[Any], **options: Unpack[Options]
    ) -> Iterator[Value]: ...
    @overload
    def imap_unordered(
        self, func: Callable[..., Value], items: Iterable[Any], **options: Unpack[Options]
    ) -> Iterator[Value]: ...
    def imap_unordered(
        self,
        func: Callable[..., Any],
        items: Iterable[Any],
        *,
        chunksize: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
        retries: RetryPolicy | int | None = None,
        timeout: float | None = None,
        delivery: Delivery = "at_least_once",
        concurrency: int | None = None,
    ) -> Iterator[Any]:
        """Do as ``imap`` does; results come as they are ready, in any order."""
        asked = Asked(chunksize, progress, on_error, retries, timeout, delivery, concurrency)
        consumption, convert = self._begin(func, "map", items, RunOptions(ordered=False), asked)
        return consumption.iterate(convert)

    def outcomes(
        self,
        func: Callable[..., Any],
        items: Iterable[Any],
        *,
        chunksize: int | None = None,
        progress: Progress = None,
        retries: RetryPolicy | int | None = None,
        timeout: float | None = None,
        delivery: Delivery = "at_least_once",
        concurrency: int | None = None,
    ) -> Iterator[Outcome]:
        """Give a ``Success`` or ``Failure`` for each item, as they are ready; never raises for an item."""
        asked = Asked(chunksize, progress, "return", retries, timeout, delivery, concurrency)
        consumption, _ = self._begin(func, "map", items, RunOptions(ordered=False, timed=True), asked)
        return consumption.iterate(consuming.to_outcomes)

    @overload
    def submit(self, func: Async[Value], /, *args: Any) -> Future[Value]: ...
    @overload
    def submit(self, func: Callable[..., Value], /, *args: Any) -> Future[Value]: ...
    def submit(self, func: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Call ``func`` once, with *args* as its leading arguments, and give a future of the result.

        A future that is cancelled before its item has started never runs. Done-callbacks run on the pool's thread and
        must not wait for the pool.
        """
        return self._submit(func, args)

    def broadcast(self, func: Callable[..., Any]) -> dict[int, Outcome]:
        """Call ``func``, all of whose parameters are injected, once on every worker; give the outcomes by worker id."""
        outcomes: list[Outcome] = self._begin_broadcast(func).collect(consuming.to_outcomes)
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
                without their cleanups; threads, which nothing can end, stop after their item.
            timeout: Seconds for draining; after that it cancels. By default no limit.

        Raises:
            ValueError: If the mode is not known.
        """
        self._check_shutdown(mode, timeout)
        return self._engine.shut_down(mode, timeout)

    @property
    def report(self) -> RunReport:
        """The report of the newest finished run.

        Raises:
            RuntimeError: If none has finished yet.
        """
        driver = self._engine.driver
        report = None if driver is None else driver.newest_report
        if report is None:
            message = "no run has finished yet"
            raise RuntimeError(message)
        return report

    @property
    def workers(self) -> Sequence[WorkerInfo]:
        """The workers as they are now; none before the first run."""
        driver = self._engine.driver
        return () if driver is None else driver.describe_workers()
