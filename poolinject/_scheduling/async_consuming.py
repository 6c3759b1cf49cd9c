"""The consumer's side of a run in async code: its blocks awaited, handed over piece by piece, on the caller's loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import anyio

from poolinject._injection.signature import kind_of
from poolinject._scheduling import consuming
from poolinject._scheduling.async_reading import Reader
from poolinject._scheduling.async_waking import Bell, Turn, in_thread, running_loop
from poolinject.errors import PoolClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Iterator

    from poolinject._scheduling.blocks import Block
    from poolinject._scheduling.consuming import Consumption, Convert
    from poolinject._scheduling.progress import Bar
    from poolinject._transport.messages import Failure

    Prepare = Callable[[], tuple[Consumption, Convert | None]]
    Handle = Callable[[Failure], Any]

Value = TypeVar("Value")
PIECE = 1000  # values that are copied before it is looked whether others are to run


class AsyncConsumption:
    """One run, from its preparation on a thread to the last block.

    ``prepared`` is called on the loop after that. Where *handle* is given it is asked for something to put in the place
    of each failure: awaited if it is async, else called on a thread.
    """

    def __init__(
        self,
        prepare: Prepare,
        prepared: Callable[[], object],
        source: AsyncIterable[Any] | None = None,
        *,
        handle: Handle | None = None,
    ) -> None:
        self._prepare, self._prepared, self._source, self._handle = prepare, prepared, source, handle
        self._made: Consumption | None = None
        self._bar: Bar | None = None
        self._is_left = False  # nobody waits for it any more
        self._reader: Reader | None = None

    @property
    def _consumption(self) -> Consumption:
        assert self._made is not None  # noqa: S101 - tells mypy
        return self._made

    async def begin(self, values: list[Any] | None = None) -> None:
        """Prepare the run and open it; with *values* what need not be converted goes there, and no block comes."""
        consumption, self._convert = await in_thread(self._prepare_here, is_own=True)
        self._prepared()
        self._made, driver, run = consumption, consumption.driver, consumption.run
        self._bell = Bell()
        run.on_change = self._bell.ring
        if values is not None and self._convert is None:
            run.gather(values)
        if self._source is None:
            consumption.begin()
        else:
            driver.open(run)
            self._reader = Reader(driver, run, self._source, self._bell, consumption.settle_seconds)

    def _prepare_here(self) -> tuple[Consumption, Convert | None]:
        """Prepare the run on a thread, for which nobody may wait any more."""
        made = self._prepare()
        self._bar = made[0].run.bar
        if self._is_left:
            self._bar.close()
        return made

    async def collect(self) -> list[Any]:
        """Run to the end and give everything in order.

        Raises:
            BaseException: What ended the run, once nothing of it runs any more.
        """
        values: list[Any] = []
        turn = Turn()
        try:
            await self.begin(values)
            while (block := await self.next_block()) is not None:
                rest = iter(await self.values_of(block))
                del block
                while piece := list(islice(rest, PIECE)):
                    values += piece
                    if turn.is_over:
                        await turn.pass_on()
            await self.end()
        except GeneratorExit:  # nothing can be awaited any more
            self.abandon()
            raise
        except BaseException:
            await self.settle()
            raise
        return values

    async def next_block(self) -> Block | None:
        """Wait for the next block; ``None`` where none will come."""
        driver, run = self._consumption.driver, self._consumption.run
        while True:
            block = run.look_for_block()
            if block is not None or run.exhausted:
                return block
            if not driver.alive and not run.finished:
                raise driver.failure or PoolClosedError(driver.name)
            await self._bell.wait()

    async def values_of(self, block: Block) -> Iterable[Any]:
        """Convert a block; where no user's code is called it is done while it is iterated over."""
        if self._convert is None:
            return block.values
        if self._handle is None or not block.failures:
            return self._convert(block)
        values: list[Any] = []
        try:
            if kind_of(self._handle) == "coroutine":
                await _handle_each(block, self._handle, values)
            else:
                await in_thread(values.extend, self._convert(block))
        except StopAsyncIteration as error:
            return _up_to(values, consuming.ended_by(error, "on_error"), error)
        except Exception as error:  # noqa: BLE001 - the user's own; what was done before comes before
            return _up_to(values, error)
        return values

    async def end(self) -> None:
        """Come to the end after the last block.

        Raises:
            BaseException: What ended the run.
        """
        if self._reader is not None:
            with anyio.move_on_after(self._consumption.settle_seconds):
                await self._reader.ended.wait()
        try:
            self._consumption.raise_end()
        except StopIteration as error:
            raise consuming.ended_by(error, "an item") from error

    @property
    def step(self) -> int:
        """How many values may be handed over before it is said that they were."""
        return max(1, self._consumption.run.pressure.limit // 8)

    def up_to_failure(self, block: Block) -> Iterator[Any] | None:
        """Give the values before the first failure, then its error, where a failure is to be raised."""
        if self._convert is None and block.failures:
            return consuming.up_to_failure(block, self._consumption.run.options)
        return None

    def release(self, count: int, *, at_once: bool = False) -> None:
        """Say that the caller has got so many outcomes."""
        self._consumption.run.release(count, at_once=at_once)

    def abandon(self) -> None:
        """Start no further item, read no further; any thread may call this, and the garbage collector."""
        self._is_left = True
        if self._made is not None:
            consuming.abandon(self._made.driver, self._made.run)
        elif self._bar is not None:
            self._bar.close()

    async def settle(self) -> None:
        """Abandon, and give open scopes the time to close; a second cancellation of an asyncio task cuts it short."""
        self.abandon()
        if self._made is None:
            return
        driver, run = self._made.driver, self._made.run
        with anyio.move_on_after(self._made.settle_seconds, shield=True):
            while not run.finished and driver.alive:
                await self._bell.wait()
            if self._reader is not None:
                await self._reader.ended.wait()


class AsyncResults(AsyncIterator[Value], Generic[Value]):
    """The outcomes of a run, which begins when the first one is asked for. One task at a time may ask.

    ``aclose`` ends the run and waits for open scopes; dropped, it is ended without. So is it where waiting for an
    outcome is cancelled.
    """

    def __init__(self, consumption: AsyncConsumption) -> None:
        self._consumption = consumption
        self._values: Iterator[Any] = iter(())
        self._given, self._step = 0, 1
        self._turn = Turn()
        self._loop: object = None  # the one that has asked for the first outcome
        self._begun = self._over = self._is_asked = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Value:
        if self._over:
            raise StopAsyncIteration
        self._check_asker(running_loop())
        self._is_asked = True
        try:
            if self._given >= self._step or self._turn.is_over:
                await self._pause()
            while True:
                for value in self._values:
                    self._given += 1
                    return value  # type: ignore[no-any-return]
                if not await self._advance():
                    break
        except GeneratorExit:
            self._leave()
            raise
        except BaseException as error:
            self._leave()
            await self._consumption.settle()
            if isinstance(error, StopAsyncIteration):  # of an item; here it would mean that there are no more
                raise consuming.ended_by(error, "an item") from error
            raise
        finally:
            self._is_asked = False
        self._over = True
        raise StopAsyncIteration

    def _check_asker(self, loop: object) -> None:
        if self._is_asked:
            message = "another task is waiting for the next outcome"
            raise RuntimeError(message)
        if self._loop not in {None, loop}:
            message = "this iterator belongs to another event loop, in which its first outcome was asked for"
            raise RuntimeError(message)
        self._loop = loop

    async def _pause(self) -> None:
        """Say what has been handed over, and let others run if it is time."""
        if self._begun:
            self._consumption.release(self._given)
            self._given = 0
        if self._turn.is_over:
            await self._turn.pass_on()

    async def _advance(self) -> bool:
        """Go on to the next block; give whether there is one."""
        consumption = self._consumption
        self._values = iter(())  # or its items would live until the next one comes
        if self._begun:
            consumption.release(self._given, at_once=True)
        else:
            self._begun = True
            await consumption.begin()
        self._given, self._step = 0, consumption.step
        block = await consumption.next_block()
        if block is None:
            await consumption.end()
            return False
        self._values = consumption.up_to_failure(block) or iter(await consumption.values_of(block))
        return True

    async def aclose(self) -> None:
        """Start no further item and wait until the scopes of those that run are closed."""
        if self._begun and not self._over:
            self._leave()
            await self._consumption.settle()
        self._over = True

    def _leave(self) -> None:
        self._over = True
        self._values = iter(())
        self._consumption.abandon()

    def __del__(self) -> None:
        if not self._over:
            with suppress(Exception):  # the interpreter may be half gone
                self._consumption.abandon()


async def _handle_each(block: Block, handle: Handle, values: list[Any]) -> None:
    """Append the values of a block to *values*, with what *handle* gives in the place of failures."""
    for position, failed in enumerate(block.failures):
        values += block.values[len(values) : failed.offset]
        values.append(await handle(block.failure(position)))
    values += block.values[len(values) :]


def _up_to(values: list[Any], error: Exception, cause: Exception | None = None) -> Iterator[Any]:
    yield from values
    if cause is not None:
        raise error from cause
    raise error
