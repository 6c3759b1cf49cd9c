"""The methods of a pool for async code, on asyncio and on trio. What takes long is done on threads."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar, Unpack, overload

import anyio

from poolinject._options import Asked, AskedToAwait, Options, OutcomeOptions
from poolinject._scheduling import consuming
from poolinject._scheduling.async_consuming import AsyncConsumption, AsyncResults
from poolinject._scheduling.async_waking import in_thread
from poolinject._scheduling.reports import CleanupReport
from poolinject._scheduling.runs import RunOptions
from poolinject._transport.messages import Outcome
from poolinject._wiring import Wiring, note_cleanup_errors

if TYPE_CHECKING:
    from types import TracebackType

    from poolinject._injection.plan import Call
    from poolinject._scheduling.consuming import Consumption, Convert
    from poolinject._scheduling.shutdown import Mode

Value = TypeVar("Value")
Async: TypeAlias = Callable[..., Coroutine[Any, Any, Value]]
Items: TypeAlias = Iterable[Any] | AsyncIterable[Any]
Tuples: TypeAlias = Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]]

OPTION_NAMES = dict.fromkeys(field.name for field in fields(Asked))
UNASKED = AskedToAwait(None, None, on_error="raise", retries=None, timeout=None, delivery="at_least_once")


class AsyncMethods(Wiring):
    """A run method for async code has the name of the sync one with an ``a`` before it, and takes the same.

    Cancelling the task that waits ends the run: nothing more is read, no further item starts, and before the
    cancellation goes on the scopes of those that run close, for which it waits at most ``cleanup_timeout``. The pool
    stays usable. Several tasks may use a pool at once.
    """

    async def __aenter__(self) -> Self:
        self._check_usable()
        if self._engine.options.warm:
            try:
                await in_thread(self._warm_up_aside)
            except anyio.get_cancelled_exc_class():
                await self._shut_down_shielded()
                raise
            self._engine.watch_signals()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            (await self.ashutdown("drain")).raise_errors()
            return
        note_cleanup_errors(await self._shut_down_shielded(), error)

    @overload
    async def amap(self, func: Async[Value], items: Items, **options: Unpack[Options]) -> list[Value]: ...
    @overload
    async def amap(self, func: Callable[..., Value], items: Items, **options: Unpack[Options]) -> list[Value]: ...
    async def amap(self, func: Callable[..., Any], items: Items, **options: Unpack[Options]) -> list[Any]:
        """Do as ``map`` does, without blocking the event loop.

        Args:
            func: As for ``map``.
            items: An iterable is read on a thread. An async one is read in a task on this event loop, no further ahead
                than the in-flight limit; an async generator that is not read to its end is closed there.
            **options: Those of ``map``. An ``on_error`` that is an async function is awaited, another one is called on
                a thread.

        Raises:
            BaseException: What ``map`` raises.
        """
        return await self._consume(func, "map", items, RunOptions(eager=True), options).collect()

    @overload
    async def astarmap(self, func: Async[Value], items: Tuples, **options: Unpack[Options]) -> list[Value]: ...
    @overload
    async def astarmap(self, func: Callable[..., Value], items: Tuples, **options: Unpack[Options]) -> list[Value]: ...
    async def astarmap(self, func: Callable[..., Any], items: Tuples, **options: Unpack[Options]) -> list[Any]:
        """Do as ``amap`` does; each item is a tuple of leading arguments."""
        return await self._consume(func, "starmap", items, RunOptions(eager=True), options).collect()

    @overload
    def aimap(self, func: Async[Value], items: Items, **options: Unpack[Options]) -> AsyncResults[Value]: ...
    @overload
    def aimap(self, func: Callable[..., Value], items: Items, **options: Unpack[Options]) -> AsyncResults[Value]: ...
    def aimap(self, func: Callable[..., Any], items: Items, **options: Unpack[Options]) -> AsyncResults[Any]:
        """Do as ``amap`` does, lazily: results come in order as they are ready.

        Work begins when the first result is asked for and goes on in the background within the in-flight limit. Leaving
        the loop early cancels, ``aclose`` waits until open scopes are closed as well; so does cancelling the task that
        waits for a result, after which the iterator is at its end.
        """
        return AsyncResults(self._consume(func, "map", items, RunOptions(), options))

    @overload
    def aimap_unordered(self, func: Async[Value], items: Items, **options: Unpack[Options]) -> AsyncResults[Value]: ...
    @overload
    def aimap_unordered(
        self, func: Callable[..., Value], items: Items, **options: Unpack[Options]
    ) -> AsyncResults[Value]: ...
    def aimap_unordered(self, func: Callable[..., Any], items: Items, **options: Unpack[Options]) -> AsyncResults[Any]:
        """Do as ``aimap`` does; results come as they are ready, in any order."""
        return AsyncResults(self._consume(func, "map", items, RunOptions(ordered=False), options))

    def aoutcomes(
        self,
        func: Callable[..., Any],
        items: Items,
        **options: Unpack[OutcomeOptions],
    ) -> AsyncResults[Outcome]:
        """Do as ``outcomes`` does, as ``aimap`` does it."""
        run_options = RunOptions(ordered=False, timed=True)
        asked = Options(**options, on_error="return")
        return AsyncResults(self._consume(func, "map", items, run_options, asked, convert=consuming.to_outcomes))

    @overload
    async def asubmit(self, func: Async[Value], /, *args: Any) -> Value: ...
    @overload
    async def asubmit(self, func: Callable[..., Value], /, *args: Any) -> Value: ...
    async def asubmit(self, func: Callable[..., Any], /, *args: Any) -> Any:
        """Call ``func`` once, with *args* as its leading arguments, and give the result.

        Raises:
            BaseException: What the item raised, as in ``amap``.
        """
        results = await self._consume(func, "starmap", [args], RunOptions(), {}).collect()
        return results[0]

    async def abroadcast(self, func: Callable[..., Any]) -> dict[int, Outcome]:
        """Do as ``broadcast`` does, without blocking the event loop."""

        def prepare() -> tuple[Consumption, Convert | None]:
            self._engine.leave_caller()
            return self._begin_broadcast(func), consuming.to_outcomes

        outcomes: list[Outcome] = await AsyncConsumption(prepare, self._engine.watch_signals).collect()
        return {outcome.index: outcome for outcome in outcomes}

    async def ashutdown(
        self,
        mode: Mode = "drain",
        timeout: float | None = None,  # noqa: ASYNC109 - after which it does not give up but cancels
    ) -> CleanupReport:
        """Do as ``shutdown`` does, without blocking the event loop; cancelled while it drains, it cancels and waits.

        Raises:
            ValueError: If the mode is not known.
        """
        self._check_shutdown(mode, timeout)
        try:
            return await in_thread(self._engine.shut_down, mode, timeout)
        except anyio.get_cancelled_exc_class():
            await self._shut_down_shielded()
            raise
        finally:
            self._engine.unwatch_signals()

    async def _shut_down_shielded(self) -> CleanupReport:
        self._refuse_inside()
        with anyio.CancelScope(shield=True):
            report = await in_thread(self._engine.shut_down, "cancel", None)
        self._engine.unwatch_signals()
        return report

    def _warm_up_aside(self) -> None:
        self._engine.leave_caller()
        self._warm_up()

    def _consume(
        self,
        func: Callable[..., Any],
        call: Call,
        items: Items,
        run_options: RunOptions,
        options: Options,
        *,
        convert: Convert | None = None,
    ) -> AsyncConsumption:
        for name in options.keys() - OPTION_NAMES:
            message = f"run methods have no option {name!r}: they take {', '.join(OPTION_NAMES)}"
            raise TypeError(message)
        asked = replace(UNASKED, **options)
        source = items if isinstance(items, AsyncIterable) else None
        read_here: Any = items if source is None else iter(())

        def prepare() -> tuple[Consumption, Convert | None]:
            self._engine.leave_caller()
            consumption, replacing = self._begin(func, call, read_here, run_options, asked)
            return consumption, convert or replacing

        handle = asked.on_error if callable(asked.on_error) else None
        return AsyncConsumption(prepare, self._engine.watch_signals, source, handle=handle)
