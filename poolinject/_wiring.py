"""What the methods of a pool share, sync and async: the checks before each of them, and the way to a run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import poolinject.backends.process  # noqa: F401 - ahead: the first pool may be made where an event loop runs
from poolinject import _options
from poolinject._exceptions import add_note
from poolinject._scheduling import consuming
from poolinject._scheduling.futures import RunFuture, drive_inline
from poolinject._scheduling.progress import Bar
from poolinject._scheduling.runs import RunOptions
from poolinject.backends.membership import is_inside
from poolinject.errors import PoolClosedError, PoolInjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from poolinject._injection.plan import Call, Plan
    from poolinject._options import Asked
    from poolinject._scheduling.engine import Engine
    from poolinject._scheduling.reports import CleanupReport


class Wiring:
    """The parts of a pool, and how its methods put them to use."""

    _engine: Engine
    _backend_name: str
    _name: str
    _pid: int

    def _begin(
        self,
        func: Callable[..., Any],
        call: Call,
        items: Iterable[Any],
        options: RunOptions,
        asked: Asked,
    ) -> tuple[consuming.Consumption, consuming.Convert | None]:
        asked.apply_to(options, self._backend_name, self._engine.backend.capabilities)
        source = _options.iterator(items)
        plan = self._plan(func, call)
        options.concurrency = _options.concurrency(asked.concurrency, plan.name, is_async=plan.kind == "coroutine")
        load = self._engine.functions.load(plan)
        driver = self._engine.start(self, plan)
        run = self._engine.make_run(driver, load, options, asked.chunksize, Bar(asked.progress, items))
        consumption = self._engine.consume(self, driver, run, source, items)
        return consumption, None if asked.on_error == "raise" else consuming.replacing(asked.on_error)

    def _submit(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Future[Any]:
        plan = self._plan(func, "starmap")
        load = self._engine.functions.load(plan)
        driver = self._engine.start(self, plan)
        options = RunOptions(ordered=False, fail_fast=False)
        options.concurrency = _options.concurrency(None, plan.name, is_async=plan.kind == "coroutine")
        run = self._engine.make_run(driver, load, options, None, Bar(None, None))
        future = RunFuture[Any](driver, run)
        run.use([args])
        run.read(iter(()), consuming.unheard, most=1)
        driver.open(run)
        if driver.inline:
            drive_inline(driver, run)
        return future

    def _begin_broadcast(self, func: Callable[..., Any]) -> consuming.Consumption:
        plan = self._plan(func, "broadcast")
        load = self._engine.functions.load(plan)
        driver = self._engine.start(self, plan)
        options = RunOptions(fail_fast=False, eager=True, timed=True, pinned=range(driver.workers))
        run = self._engine.make_run(driver, load, options, 1, Bar(None, None))
        items = [None] * driver.workers
        return self._engine.consume(self, driver, run, iter(items), items)

    def _warm_up(self) -> None:
        try:
            driver = self._engine.start(self)
        except BaseException:
            if self._engine.driver is not None:  # interrupted: nobody leaves a block that was not entered
                self._engine.shut_down("cancel", None)
            raise
        self._engine.wait_started(driver)

    def _plan(self, func: Callable[..., Any], call: Call) -> Plan:
        self._check_usable()
        if not callable(func):
            message = f"func must be callable, not {func!r}"
            raise TypeError(message)
        return self._engine.functions.plan(func, call)

    def _check_usable(self) -> None:
        if self._engine.closed:
            raise PoolClosedError(self._name)
        if self._pid != os.getpid():
            message = f"pool {self._name!r} belongs to another process: make a new one after a fork"
            raise PoolInjectError(message)
        self._refuse_inside()

    def _check_shutdown(self, mode: str, timeout: float | None) -> None:
        _options.mode(mode)
        if timeout is not None:
            _options.seconds("timeout", timeout)
        self._refuse_inside()

    def _refuse_inside(self) -> None:
        if is_inside(self._engine.backend):
            message = f"pool {self._name!r} is used inside one of its own workers, which would wait for itself"
            raise PoolInjectError(message)


def note_cleanup_errors(report: CleanupReport, error: BaseException) -> None:
    """Add what cleanups raised to the error that ended the pool."""
    for cleanup_error in report.errors:
        add_note(error, f"besides, a cleanup at shutdown raised {cleanup_error!r}")
