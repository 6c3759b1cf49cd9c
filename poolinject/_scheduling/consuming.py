"""The consumer's side of a run: feeds it, waits for its blocks, hands outcomes to the user's code."""

from __future__ import annotations

import contextvars
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from poolinject._exceptions import has_cause, notes_of, set_cause, set_notes
from poolinject._scheduling.blocks import Block
from poolinject._scheduling.iteration import Iteration, Parts
from poolinject._scheduling.progress import length_of
from poolinject._scheduling.runs import WAIT_SECONDS, Run
from poolinject._transport.messages import Failure, Success
from poolinject._transport.remote_errors import RemoteTraceback
from poolinject.errors import PoolClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from poolinject._scheduling.driver import Driver
    from poolinject._scheduling.runs import RunOptions

    Convert = Callable[[Block], Iterable[Any]]

ITEM_NOTES = 10  # at an error, which may be one object for many items
_OWN = " failed in phase "
ITEM_REPR = 200  # characters of an item's repr in an error text
READ_SECONDS = 0.001  # for the items of a chunk, where those run on the thread that reads
SEQUENCES = (list, tuple, range)  # of which slices can be had at once


class Consumption:
    """One run and where its input comes from, its blocks go to."""

    def __init__(
        self, driver: Driver, run: Run, source: Iterator[Any], *, items: Any, owner: object, settle_seconds: float
    ) -> None:
        self._owner = owner  # a pool that nothing else refers to must live as long as the iterator
        self.driver, self.run, self._source = driver, run, source
        self.settle_seconds = settle_seconds
        self._is_closed = False
        self._length = length_of(items) if type(items) in SEQUENCES else None
        if self._length is not None:
            run.use(items)

    def collect(self, convert: Convert | None) -> list[Any]:
        """Run to the end on the calling thread, which reads the input, and give everything in order.

        Raises:
            BaseException: What ended the run, once nothing of it runs any more.
        """
        driver, run = self.driver, self.run
        values: list[Any] = []
        try:
            self._refuse_to_wait()
            if convert is None:
                run.gather(values)
            goes_on = not driver.inline
            if goes_on and self._length is not None:  # what is there already comes together with the run
                goes_on = run.read(self._source, unheard)
            driver.open(run)
            while goes_on and driver.alive:
                goes_on = run.read(self._source, driver.notify)
            while (block := self._next_block()) is not None:
                values.extend(block.values if convert is None else convert(block))
                del block  # or its items would live until the next one comes
        except BaseException:
            self._settle()
            raise
        self.raise_end()
        return values

    def iterate(self, convert: Convert | None) -> Iterator[Any]:
        """Begin the run and give an iterator over it; the input is read in the background."""
        try:
            self.begin()
            return Iteration.over(Parts(self._iterate(convert), self._close))
        except BaseException:  # before anybody has the iterator
            self._settle()
            raise

    def _close(self) -> None:
        """Let the iteration end, on whichever thread it is."""
        self._is_closed = True
        abandon(self.driver, self.run)
        if self.driver.inline and self.driver.stepping_on is None:  # nobody else would close what is open
            self._settle()

    def begin(self) -> None:
        """Begin the run; what cannot be read at once is read on a thread."""
        driver, run = self.driver, self.run
        driver.open(run)
        if driver.inline:
            return
        if self._length is not None and self._length <= run.pressure.limit:
            run.read(self._source, driver.notify, most=self._length + 1)
            return
        # made of plain parts: the thread must not keep the iterator alive that the user may abandon
        context = contextvars.copy_context()
        feeder = threading.Thread(
            target=context.run, args=(_feed, driver, run, self._source), name=f"{driver.name} reader", daemon=True
        )
        feeder.start()

    def _iterate(self, convert: Convert | None) -> Generator[Iterator[Any], None, None]:
        """Give what the iterator is to give, part by part; a part is empty once this is closed."""
        run, part = self.run, list[Any]()
        try:
            yield iter(part)
            while (block := self._next_block()) is not None:
                given = self._given(block, convert)
                del block  # or its items would live until the next one comes; so would its values
                if isinstance(given, list):
                    step = max(1, run.pressure.limit // 8)
                    for first in range(0, len(given), step):
                        part = given if step >= len(given) else given[first : first + step]
                        yield iter(part)
                        run.release(len(part), at_once=False)
                else:
                    for value in given:
                        if self._is_closed:  # by what *on_error* calls
                            return
                        part = [value]
                        del value
                        yield iter(part)
                        run.release(1, at_once=False)
                run.release(0, at_once=True)
                del given
                part = []
            if not self._is_closed:
                self.raise_end()
        except GeneratorExit:
            raise
        except StopIteration as error:
            self._settle()
            raise ended_by(error, "an item") from error
        except BaseException:
            self._settle()
            raise
        finally:
            part.clear()
            abandon(self.driver, run)

    def _given(self, block: Block, convert: Convert | None) -> Iterable[Any]:
        if convert is not None:
            return convert(block)
        return up_to_failure(block, self.run.options) if block.failures else block.values

    def _next_block(self) -> Block | None:
        driver, run = self.driver, self.run
        self._refuse_to_wait()
        while not self._is_closed:
            if driver.inline and not run.finished:
                self._read_chunk()
                driver.step(0)
            block = run.take(driver.rest(run) if driver.inline else WAIT_SECONDS)
            if block is not None or run.exhausted:
                return block
            if not driver.alive and not run.finished:
                raise driver.failure or PoolClosedError(driver.name)
        return None

    def _read_chunk(self) -> None:
        """Read on the thread that runs the items: for a chunk, fewer where the input is so slow that those wait.

        The first one waits for no other, unless they run beside each other.
        """
        run, count = self.run, 1
        left = max(run.chunking.size, run.options.concurrency) if run.wants_items else 0
        if self._length is None and run.pressure.read == 0 and run.options.concurrency == 1:
            left = min(left, 1)
        until = time.perf_counter() + READ_SECONDS
        while run.read(self._source, self.driver.notify, most=min(count, left)) and left > count:
            left, count = left - count, 2 * count
            if time.perf_counter() > until:
                break

    def _refuse_to_wait(self) -> None:
        if self.driver.is_current_thread:
            message = "a done-callback must not wait for its own pool: submit the call, or do it on another thread"
            raise RuntimeError(message)

    def raise_end(self) -> None:
        """Raise what ended the run, if it did not come to its end.

        Raises:
            BaseException: The failure of an item, what the input raised, or that the pool was shut down.
        """
        run = self.run
        failure, run.failure, error, run.error = run.failure, None, run.error, None
        try:
            if failure is not None and run.options.fail_fast:
                raise_failure(failure, run.options)
            if error is not None:
                raise error
            if run.input_was_cut:
                raise PoolClosedError(self.driver.name)
        finally:
            del failure, error  # which refer to this frame when they have been raised: each would keep the other

    def _settle(self) -> None:
        """Let nothing more start and give open scopes the time to close; a second interrupt cuts it short."""
        driver, run = self.driver, self.run
        driver.cancel(run)
        deadline = time.monotonic() + self.settle_seconds
        while not run.finished and driver.alive and not driver.is_current_thread and time.monotonic() < deadline:
            if driver.inline:
                driver.step(0)
            else:
                run.take(min(WAIT_SECONDS, max(0.0, deadline - time.monotonic())))
        run.failure = run.error = None  # as in ``raise_end``


def unheard() -> None:
    """Tell nobody: the run is not open yet, and its input is looked at when it is."""


def _feed(driver: Driver, run: Run, source: Iterator[Any]) -> None:
    while run.read(source, driver.notify) and driver.alive:
        pass


def abandon(driver: Driver, run: Run) -> None:
    """Start no further item, without waiting for those that run."""
    if not run.finished and driver.alive:
        driver.cancel(run)


def up_to_failure(block: Block, options: RunOptions) -> Iterator[Any]:
    """Give the values before the first failure, then raise that."""
    values, failure = block.values[: block.failures[0].offset], block.failure(0)
    del block
    yield from values
    try:
        raise_failure(failure, options)
    except StopIteration as error:
        raise ended_by(error, "an item") from error
    finally:
        del failure  # as in ``raise_end``


def ended_by(error: StopIteration | StopAsyncIteration, who: str) -> RuntimeError:
    """Make the error that tells of one which would end the iteration instead, or which a coroutine may not raise."""
    return RuntimeError(f"{who} raised {type(error).__name__}")


def replacing(on_error: Literal["return"] | Callable[[Failure], Any]) -> Convert:
    """Make a conversion that puts something in the place of each failure: itself, or what *on_error* makes of it."""

    def convert(block: Block) -> Iterable[Any]:
        return handled(block) if block.failures else block.values

    def handled(block: Block) -> Iterator[Any]:
        failures = {failed.offset: position for position, failed in enumerate(block.failures)}
        for offset, value in enumerate(block.values):
            if offset in failures:
                failure = block.failure(failures[offset])
                yield failure if on_error == "return" else replaced(failure, on_error)
            else:
                yield value

    return convert


def replaced(failure: Failure, on_error: Callable[[Failure], Any]) -> Any:
    """Give what the user puts in the place of a failure."""
    try:
        return on_error(failure)
    except StopIteration as error:
        raise ended_by(error, "on_error") from error


def to_outcomes(block: Block) -> Iterator[Success[Any] | Failure]:
    """Give a ``Success`` or ``Failure`` for each item."""
    failures = {failed.offset: position for position, failed in enumerate(block.failures)}
    for offset, value in enumerate(block.values):
        if offset in failures:
            yield block.failure(failures[offset])
        else:
            seconds = block.each[offset] if offset < len(block.each) else 0.0
            item = block.items[offset]
            yield Success(block.start + offset, item, value, block.attempt, block.worker_id, seconds)


def raise_failure(failure: Failure, options: RunOptions) -> NoReturn:
    """Raise the original exception of a failed item, with a note and the worker's traceback."""
    try:
        raise error_of(failure, options)
    finally:
        del failure  # as in ``raise_end``


def error_of(failure: Failure, options: RunOptions) -> BaseException:
    """Give the original exception, with a note that names the item and the worker's traceback as its cause."""
    error = failure.error
    where = "" if failure.provider is None else f" of {failure.provider}"
    worker = "" if failure.worker_id is None else f" on worker {failure.worker_id}"
    item = f" ({short_repr(failure.item)})" if options.repr_items else ""
    _add_item_note(
        error,
        f"item {failure.index}{item} failed in phase {failure.phase!r}{where}{worker}, attempt {failure.attempts}",
    )
    if not has_cause(error):
        set_cause(error, RemoteTraceback(failure.traceback))
    return error


def _add_item_note(error: BaseException, note: str) -> None:
    """Note at an error which item it failed; where one object fails many, the newest of them."""
    notes = [each for each in notes_of(error) if each != note]
    own = [each for each in notes if isinstance(each, str) and each.startswith("item ") and _OWN in each]
    for each in own[: max(0, len(own) + 1 - ITEM_NOTES)]:
        notes.remove(each)
    set_notes(error, [*notes, note])


def short_repr(item: object) -> str:
    """Give the ``repr`` of an item, cut; one that raises is told by its type."""
    try:
        text = repr(item)
    except BaseException as error:  # noqa: BLE001 - the user's own code, on a thread that has to go on
        return f"<{type(item).__name__}, whose repr raises {type(error).__name__}>"
    return text if len(text) <= ITEM_REPR else f"{text[:ITEM_REPR]}..."
