"""Reads an async iterable for a run, in a task on the caller's event loop, no further than there is room."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import anyio

from poolinject._scheduling.async_waking import Turn, start_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from poolinject._scheduling.async_waking import Bell
    from poolinject._scheduling.driver import Driver
    from poolinject._scheduling.runs import Run


class Reader:
    """The one task in which the input is read, and closed where it is an async generator that is left early.

    It holds no reference to who consumes the run, who may be dropped while it reads.
    """

    def __init__(self, driver: Driver, run: Run, source: AsyncIterable[Any], bell: Bell, patience: float) -> None:
        self.ended = anyio.Event()
        self._driver, self._run, self._source, self._bell = driver, run, source, bell
        self._patience = patience  # seconds for closing the input
        self._is_reading = True
        bell.on_ring = self._heed
        self._cancel = start_task(self._serve, self._end)

    def _heed(self) -> None:
        """Leave off waiting for an item that nobody wants any more."""
        if self._run.stop_reading and self._is_reading:
            self._is_reading = False
            self._cancel()

    def _end(self) -> None:
        if not self._run.input_ended:
            self._run.cut_input(self._driver.notify)
        self._bell.on_ring = None
        self.ended.set()

    async def _serve(self) -> None:
        run = self._run
        try:
            await self._read()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - the user's input may raise anything
            run.error = run.error or error
            run.end_input(self._driver.notify)

    async def _read(self) -> None:
        iterator = aiter(self._source)
        try:
            await self._read_each(iterator)
        finally:
            self._is_reading = False  # the input is to come to its end undisturbed
            if isinstance(iterator, AsyncGenerator):  # here, where it was entered; else the loop does it anywhere
                with anyio.move_on_after(self._patience, shield=True):
                    await iterator.aclose()

    async def _read_each(self, iterator: Any) -> None:
        run, notify, turn = self._run, self._driver.notify, Turn()
        while True:
            while not run.look_for_room():
                await self._bell.wait()
            if turn.is_over:
                await turn.pass_on()
            if run.stop_reading:
                return
            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                run.end_input(notify)
                return
            if not run.read(iter((item,)), notify, most=1):
                return
            del item
