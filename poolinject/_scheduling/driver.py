"""The only loop that waits: messages in, the dispatcher's and the shutdown's answers out. Runs in the caller."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from poolinject._scheduling.dispatcher import Dispatcher
from poolinject._scheduling.endings import Endings, kill_all
from poolinject._scheduling.recycling import Limits, Wear
from poolinject._scheduling.shutdown import Shutdown
from poolinject._transport.messages import FromWorker, Limit, Load, Ready, Results, Returned, Stopped, Warm, Worn
from poolinject.backends.base import Gone, Joined, Leaving, WorkerInfo
from poolinject.errors import BackendUnavailableError, PoolClosedError, WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poolinject._scheduling.reports import CleanupReport, RunReport
    from poolinject._scheduling.runs import Run
    from poolinject._scheduling.shutdown import Mode
    from poolinject.backends.base import Backend, State

POLL_SECONDS = 1.0  # the longest that the driver waits without looking round
FAILED_STARTS = 3  # workers in a row that end before they have begun an item, until the pool gives up
KILLED_STARTS = 10  # the same where they were killed or terminated, by somebody who may soon leave off
DESERTED_SECONDS = 60.0  # without any worker, until the pool gives up
FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, 0)  # exit codes; after SIGTERM a worker closes its scopes, and exits


class Driver:
    """Owns the workers of one pool. Other threads ``post`` to it; its own thread does the rest.

    Where items run in the caller (``inline``) there is no thread: whoever waits calls ``step``.
    """

    def __init__(
        self,
        backend: Backend,
        workers: int,
        warm: Sequence[Load],
        cleanup_timeout: float,
        name: str,
        *,
        limits: Limits,
    ) -> None:
        self.backend, self.name, self.workers = backend, name, workers
        self._endings = Endings(backend, workers, cleanup_timeout)
        self.dispatcher = Dispatcher(backend, self._endings, self._note_report, limits.items)
        self._limits, self._wear = limits, Wear(limits.memory, name)
        self.newest_report: RunReport | None = None
        self.cleanup_report: CleanupReport | None = None
        self.failure: BaseException | None = None  # why the pool cannot go on
        self.starting = set(range(workers))
        self.started, self.over, self._begun = threading.Event(), threading.Event(), threading.Event()
        self.stepping_on: int | None = None  # the thread that is in ``step``
        self.after_step: Callable[[], None] | None = None  # what a signal handler put off to the end of it
        self.inline, self._pid = backend.capabilities.runs_in_caller, os.getpid()  # a forked process is another caller
        self._warm, self._to_warm = tuple(warm), set(range(workers)) if warm else set()
        self._inbox: deque[Callable[[], None]] = deque()
        self._shutdown: Shutdown | None = None
        self._failed_starts = 0.0  # in parts of what the pool bears
        self._deserted_at: float | None = None  # since then there is no worker
        self._step_lock = threading.RLock()
        self._thread = threading.Thread(target=self._serve, name=f"{name} driver", daemon=True)

    def begin(self) -> None:
        """Let its thread begin, once somebody has the driver who can end it."""
        if not self.inline:
            self._thread.start()

    def give_up(self, timeout: float) -> None:
        """End what has begun; its thread does so, unless whoever was to begin that was interrupted before."""
        self.shut_down("cancel", None)
        if self.inline or self._begun.wait(POLL_SECONDS):
            self.wait_over(timeout)
        else:
            self._abandon()

    def _abandon(self) -> None:
        """End everything at once, without cleanups."""
        self.backend.wake()
        with self._step_lock:
            kill_all(self.backend, self.workers)
            self._finish()

    def post(self, call: Callable[[], None]) -> None:
        """Have the driver call something on its own thread; a signal handler may do this."""
        self._inbox.append(call)
        self.backend.wake()

    def open(self, run: Run) -> None:
        """Begin a run; one that comes too late ends at once."""
        self.post(lambda: self._open(run))
        if self.over.is_set():  # the driver looks no more
            self._refuse_rest()

    def cancel(self, run: Run) -> None:
        """Start no further item of a run."""
        run.stop_input()
        self.post(lambda: self.dispatcher.cancel(run))

    def notify(self) -> None:
        """Have the driver look at the inputs."""
        self.backend.wake()

    def shut_down(self, mode: Mode, timeout: float | None) -> None:
        """Begin shutdown; ``over`` tells when it has ended, ``cleanup_report`` how."""
        self.post(lambda: self._begin_shutdown(mode, timeout))

    @property
    def alive(self) -> bool:
        """Whether outcomes can still come."""
        return not self.over.is_set() and (os.getpid() == self._pid if self.inline else self._thread.is_alive())

    @property
    def is_current_thread(self) -> bool:
        """Whether the calling code would wait for itself."""
        return threading.current_thread() is self._thread

    def wait_over(self, timeout: float | None) -> None:
        """Wait for the end of a shutdown that has begun."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while self.alive and time.monotonic() < deadline:
            if self.inline:
                for run in list(self.dispatcher.runs.values()):
                    run.cut_unread(self.notify)
                self.step(0)
            patience = self.dispatcher.rest() if self.inline else POLL_SECONDS
            self.over.wait(min(patience, max(0.0, deadline - time.monotonic())))
        if not self.inline:
            self._thread.join(POLL_SECONDS)

    def rest(self, run: Run) -> float:
        """Give for how long nothing can come of a run but by waiting, where items run in the caller."""
        return 0.0 if run.wants_items and run.pressure.room > 0 else self.dispatcher.rest()

    def wait_started(self) -> None:
        """Wait until every worker is ready, or cannot be."""
        while not self.started.is_set() and self.alive:
            if self.inline:
                self.step(0)
            else:
                self.started.wait(POLL_SECONDS)

    def describe_workers(self) -> list[WorkerInfo]:
        """Tell of each worker what it is and does."""
        return [
            WorkerInfo(
                worker_id=worker_id,
                pid=self.backend.pid(worker_id),
                generation=self.backend.generation(worker_id),
                state=self._state(worker_id),
                items_done=self.dispatcher.items_done[worker_id],
                address=self.backend.address(worker_id),
            )
            for worker_id in range(self.workers)
        ]

    def _state(self, worker_id: int) -> State:
        if worker_id not in self._endings.alive:
            return "lost" if self._endings.was_lost(worker_id) else "stopped"
        if self._endings.is_ending(worker_id):
            return "stopped"
        if worker_id in self.starting:
            return "starting"
        return "busy" if self.dispatcher.is_busy(worker_id) else "idle"

    def _serve(self) -> None:
        self._begun.set()
        try:
            while not self.over.is_set():
                self.step(POLL_SECONDS)
        except BaseException as error:  # noqa: BLE001 - nobody may wait for a driver that is gone
            self.failure = error
            self._abandon()

    def step(self, timeout: float) -> None:
        """Do what is there to do, waiting at most *timeout* seconds for something."""
        with self._step_lock:
            before, self.stepping_on = self.stepping_on, threading.get_ident()
            try:
                if not self.over.is_set():
                    self._step(timeout)
            finally:
                self.stepping_on = before
                if before is None and self.after_step is not None:
                    after, self.after_step = self.after_step, None
                    after()

    def _step(self, timeout: float) -> None:
        while self._inbox:
            self._inbox.popleft()()
        self.dispatcher.look_at_inputs()
        if not self._endings.alive or self._deserted_at is not None:
            self._look_whether_deserted()
        timeout = min(timeout, self.dispatcher.look())
        if self._shutdown is None:
            timeout = self._endings.advance(timeout)
        else:
            timeout = self._shutdown.advance(timeout)
            if self._shutdown.over:
                self._finish()
                return
        self.dispatcher.tell()
        messages = self.backend.receive(0 if self._inbox else timeout)
        for worker_id, message in messages:
            self._follow(worker_id, message)
        self.dispatcher.look_at_balance(heard=bool(messages))
        self.dispatcher.tell()

    def _follow(self, worker_id: int, message: FromWorker | Gone | Joined | Leaving) -> None:
        match message:
            case Results():
                self._failed_starts = 0.0
                self.dispatcher.results(worker_id, message)
            case Returned(chunk, kept):
                self.dispatcher.returned(worker_id, chunk, kept)
            case Ready(error):
                self._on_ready(worker_id, error)
            case Worn():
                self._on_worn(worker_id, message)
            case Stopped():
                self._endings.stopped(worker_id, message)
            case Leaving():
                self._endings.expect(worker_id)
                self.dispatcher.wind_down(worker_id)
            case Gone():
                self._on_gone(worker_id, message)
            case Joined():
                self._on_joined(worker_id)

    def _on_ready(self, worker_id: int, error: BaseException | None) -> None:
        if error is not None:
            self._fail(error)
        elif worker_id in self._to_warm:
            self._to_warm.discard(worker_id)
            for load in self._warm:
                self.dispatcher.load(worker_id, load)
            self.backend.send(worker_id, Warm(tuple(load.function for load in self._warm)))
            return
        else:
            if self._limits.memory is not None:
                self.backend.send(worker_id, Limit(self._limits.memory))
            self.dispatcher.ready(worker_id)
        self._no_longer_starting(worker_id)

    def _on_worn(self, worker_id: int, message: Worn) -> None:
        self.dispatcher.wind_down(worker_id)
        try:
            self._wear.note(worker_id, message)
        except RuntimeWarning as warning:
            self.dispatcher.end_all(warning)

    def _on_gone(self, worker_id: int, message: Gone) -> None:
        fruitless = self.dispatcher.gone(worker_id, message)
        self._endings.gone(worker_id, holds=message.holds)
        if self._shutdown is not None and not self._shutdown.drains:
            return
        if fruitless or worker_id in self.starting:
            self._failed_starts += 1 / (KILLED_STARTS if message.exit_code in FROM_OUTSIDE else FAILED_STARTS)
        if self._failed_starts > 1 - 1e-6:
            self._fail(WorkerLostError(worker_id, message.exit_code))
            return
        self.starting.add(worker_id)
        try:
            is_replaced = self.backend.replace(worker_id)
        except Exception as error:  # noqa: BLE001 - whatever the machine has run out of
            self._fail(error)
            return
        if is_replaced:
            self._await_start(worker_id)
        else:
            self._no_longer_starting(worker_id)
            self.dispatcher.vacate(worker_id)

    def _on_joined(self, worker_id: int) -> None:
        if worker_id == self.workers:
            self.workers += 1
            self.dispatcher.add_worker()
        self._await_start(worker_id)
        if self._shutdown is not None:
            self._shutdown.joined(worker_id)

    def _await_start(self, worker_id: int) -> None:
        self.starting.add(worker_id)
        if self._warm:
            self._to_warm.add(worker_id)
        self._endings.replaced(worker_id)

    def _no_longer_starting(self, worker_id: int) -> None:
        self.starting.discard(worker_id)
        if not self.starting:
            self.started.set()

    def _look_whether_deserted(self) -> None:
        """Give up where every worker has gone and none has come for a while."""
        if self._endings.alive or (self._shutdown is not None and not self._shutdown.drains):
            self._deserted_at = None
        elif self._deserted_at is None:
            self._deserted_at = time.monotonic()
        elif time.monotonic() - self._deserted_at > DESERTED_SECONDS:
            remedy = (
                f"every worker has gone, and none has come for {DESERTED_SECONDS:g} seconds: look after the cluster"
            )
            self._fail(BackendUnavailableError(self.backend.name, remedy))

    def _fail(self, error: BaseException) -> None:
        """End the pool, since its workers cannot start."""
        self.failure = self.failure or error
        self.dispatcher.end_all(error)
        self._begin_shutdown("cancel", None)
        self.started.set()

    def _open(self, run: Run) -> None:
        self.dispatcher.open(run)
        if self._shutdown is not None:
            run.error = run.error or self.failure or PoolClosedError(self.name)
            self.dispatcher.cancel(run)

    def _begin_shutdown(self, mode: Mode, timeout: float | None) -> None:
        if self._shutdown is None:
            self._shutdown = Shutdown(self.dispatcher, self._endings, self.name)
        self._shutdown.ask(mode, timeout)

    def _note_report(self, report: RunReport) -> None:
        self.newest_report = report

    def _finish(self) -> None:
        self.dispatcher.drop_all(self.failure or PoolClosedError(self.name))
        if self._shutdown is not None:
            self.cleanup_report = self._shutdown.report()
        self.backend.close()
        self.started.set()
        self.over.set()
        self._refuse_rest()

    def _refuse_rest(self) -> None:
        """End the runs that came when all was over, on whichever thread notices."""
        with self._step_lock:
            while self._inbox:
                self._inbox.popleft()()
            self.dispatcher.drop_all(self.failure or PoolClosedError(self.name))
