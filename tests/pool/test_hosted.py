"""A worker in somebody else's process, without a cluster: what carriers may do to messages on their way."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

from poolinject import Depends
from poolinject._injection.async_backends import local_loop
from poolinject._scheduling.functions import Functions
from poolinject._transport import wire
from poolinject._transport.frames import FrameReader
from poolinject._transport.messages import (
    Chunk,
    FromWorker,
    Load,
    Ready,
    Results,
    Returned,
    Setup,
    Stopped,
    ToWorker,
    Warm,
)
from poolinject._worker import hosted as hosted_module
from poolinject._worker.hosted import HostedWorker, Reply
from poolinject.errors import BackendUnavailableError

PATIENCE = 10.0
LONG = 60.0  # of a hold or a lease that is not to run out

begun = threading.Event()  # by an item that waits
gate = threading.Event()  # for it
notes: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Close the gate, empty the notes; afterwards let whoever waits go."""
    begun.clear()
    gate.clear()
    notes.clear()
    yield
    gate.set()


def double(item: int) -> int:
    """Give twice the item."""
    return 2 * item


def wait(item: int) -> int:
    """Say that it has begun, and wait for the gate."""
    begun.set()
    assert gate.wait(PATIENCE)
    return item


def note(item: int) -> int:
    """Note the item."""
    notes.append(f"item {item}")
    return item


async def wait_beside(item: int) -> int:
    """Wait for ever, beside others, until cancelled."""
    begun.set()
    try:
        await asyncio.sleep(LONG)
    finally:
        notes.append(f"cancelled {item}")
    return item


def get_resource() -> Iterator[str]:
    """Note when it is opened, and closed."""
    notes.append("opened")
    yield "resource"
    notes.append("closed")


def get_damaged() -> Iterator[str]:
    """Fail to close."""
    yield "damaged"
    message = "does not close"
    raise ValueError(message)


def use_resource(item: int, resource: Annotated[str, Depends(get_resource)]) -> str:
    """Open it."""
    return f"{resource} {item}"


def use_damaged(item: int, damaged: Annotated[str, Depends(get_damaged)]) -> str:
    """Open it."""
    return f"{damaged} {item}"


def hold_resource(item: int, resource: Annotated[str, Depends(get_resource)]) -> str:
    """Open it, and wait at the gate."""
    return f"{resource} {wait(item)}"


@dataclass
class Caller:
    """The other side, which numbers what it sends and puts answers in order."""

    worker: HostedWorker
    functions: Functions = field(
        default_factory=lambda: Functions({get_resource: "pool", get_damaged: "worker"}, {}, by_reference=False)
    )
    chunks: int = 0
    calls: int = 0
    orders: int = 0
    replies: dict[int, Reply] = field(default_factory=dict)

    def load(self, function: Callable[..., Any]) -> Load:
        """Pack a function."""
        return self.functions.load(self.functions.plan(function, "map"))

    def chunk(self, load: Load, items: list[Any], *, slot: int = 0, concurrency: int = 1) -> Chunk:
        """Make the next chunk."""
        self.chunks += 1
        function, chunk = load.function, self.chunks
        return Chunk(chunk, 0, slot, function, 0, patience=0.0, exact=True, concurrency=concurrency, items=items)

    def call(self, *messages: ToWorker, number: int | None = None, hold: float = LONG) -> Reply:
        """Exchange frames under the next number, or under any."""
        if number is None:
            number, self.calls = self.calls, self.calls + 1
        data = b"".join(bytes(buffer) for message in messages for buffer in wire.encode_to_worker(message))
        reply = self.worker.exchange(number, self.heard, data, hold)
        self.replies[reply.number] = reply
        return reply

    def order(self, order: hosted_module.Order, *arguments: int, number: int | None = None) -> None:
        """Give an order under the next number, or under any."""
        if number is None:
            number, self.orders = self.orders, self.orders + 1
        self.worker.control(number, order, *arguments)

    def end(self) -> list[FromWorker]:
        """Stop the worker, and give all that it said, in its order."""
        self.order("stop")
        last = self.worker.last_words(PATIENCE)
        assert last.over
        self.replies[last.number] = last
        return self.told

    @property
    def heard(self) -> int:
        """How many answers have come without a gap."""
        return next(number for number in itertools.count() if number not in self.replies)

    @property
    def told(self) -> list[FromWorker]:
        """What has been said so far."""
        assert sorted(self.replies) == list(range(len(self.replies))), "an answer that nobody has got"
        frames = b"".join(self.replies[number].frames for number in sorted(self.replies))
        return [wire.decode_from_worker(kind, body) for kind, body in FrameReader().feed(frames)]

    def wait_for(self, kind: type[FromWorker], times: int = 1) -> None:
        """Call until so many answers of a kind have come."""
        deadline = time.monotonic() + PATIENCE
        while sum(isinstance(message, kind) for message in self.told) < times:
            assert time.monotonic() < deadline, f"no {times} x {kind.__name__}: {self.told}"
            self.call(hold=0.05)


@pytest.fixture
def caller() -> Iterator[Caller]:
    """Host a worker that is ready, and end it."""
    made = Caller(HostedWorker(Setup(3, 1, "pool"), LONG))
    made.wait_for(Ready)
    yield made
    gate.set()
    made.worker.control(made.orders, "terminate")
    assert made.worker.last_words(PATIENCE).over


def values_of(told: list[FromWorker]) -> list[Any]:
    """Give the values of all results."""
    return [value for message in told if isinstance(message, Results) for value in message.values]


def done_of(told: list[FromWorker]) -> list[int]:
    """Give the chunks that have been answered to the end."""
    return [message.chunk for message in told if isinstance(message, Results) and message.done]


def test_frames_that_overtake_each_other_are_read_in_their_order(caller: Caller) -> None:
    """A chunk that comes before its function waits for it."""
    load, first = caller.load(double), caller.calls
    assert caller.call(caller.chunk(load, [1, 2]), number=first + 1, hold=0.0).frames == b""
    caller.call(load, number=first)
    caller.calls = first + 2
    caller.wait_for(Results)
    assert values_of(caller.end()) == [2, 4]


def test_a_call_returns_at_once_where_nothing_is_owed(caller: Caller) -> None:
    """Nobody's thread is kept by a worker that has nothing to do."""
    with ThreadPoolExecutor(1) as other:
        assert other.submit(caller.call).result(PATIENCE).frames == b""


def test_warming_is_owed_an_answer(caller: Caller) -> None:
    """A call waits for it, as for results."""
    load = caller.load(use_resource)
    caller.call(load, Warm((load.function,)))
    assert caller.told == [Ready(), Ready()]
    assert notes == ["opened"]


def test_two_calls_under_way_get_what_there_is_between_them(caller: Caller) -> None:
    """Nothing is told twice, nothing gets lost, nobody waits for more than there is."""
    load = caller.load(wait)
    with ThreadPoolExecutor(2) as others:
        calls = [others.submit(caller.call, load, caller.chunk(load, [7]))]
        assert begun.wait(PATIENCE)
        calls.append(others.submit(caller.call))
        gate.set()
        assert [call.result(PATIENCE).over for call in calls] == [False, False]
    caller.wait_for(Results)
    assert values_of(caller.end()) == [7]


def test_of_two_calls_only_the_later_one_waits(caller: Caller) -> None:
    """Each keeps a thread of the process, which has few, and orders need one, too."""
    load = caller.load(wait)
    with ThreadPoolExecutor(2) as others:
        earlier = others.submit(caller.call, load, caller.chunk(load, [7]))
        assert begun.wait(PATIENCE)
        later = others.submit(caller.call)
        assert earlier.result(PATIENCE).frames == b""
        assert not later.done()
        gate.set()
        assert later.result(PATIENCE).frames != b""


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_a_chunk_that_is_taken_back_before_it_comes_runs_only_what_it_keeps(caller: Caller, keep: int) -> None:
    """The order has overtaken the frames; it is answered at once."""
    load = caller.load(note)
    chunk = caller.chunk(load, [1, 2, 3])
    caller.order("take back", chunk.id, chunk.slot, keep)
    caller.call(load, chunk)
    caller.wait_for(Results)
    told = caller.end()
    assert Returned(chunk.id, keep) in told
    assert notes == [f"item {item}" for item in (1, 2, 3)[:keep]]
    assert values_of(told) == [1, 2, 3][:keep]
    assert done_of(told) == [chunk.id]


def test_a_bound_that_came_early_is_for_its_chunk_alone(caller: Caller) -> None:
    """The next chunk in the slot runs to its end."""
    load = caller.load(note)
    first, second = (caller.chunk(load, [1, 2]) for _ in range(2))
    caller.order("take back", first.id, 0, 0)
    caller.call(load, first)
    caller.wait_for(Results)
    caller.call(second)
    caller.wait_for(Results, 2)
    caller.end()
    assert notes == ["item 1", "item 2"]


@pytest.mark.parametrize("keep", [0, 2])
def test_a_chunk_that_is_taken_back_while_it_runs_answers_for_what_has_begun(caller: Caller, keep: int) -> None:
    """The answer does not wait for the item to end."""
    load = caller.load(wait)
    chunk = caller.chunk(load, [1, 2, 3])
    caller.call(load, chunk, hold=0.0)
    assert begun.wait(PATIENCE)
    caller.order("take back", chunk.id, 0, keep)
    caller.wait_for(Returned)
    assert not gate.is_set()
    gate.set()
    caller.wait_for(Results)
    told, kept = caller.end(), max(keep, 1)
    assert [message for message in told if isinstance(message, Returned)] == [Returned(chunk.id, kept)]
    assert values_of(told) == [1, 2, 3][:kept]


def test_a_chunk_that_waits_behind_another_is_given_back_at_once(caller: Caller) -> None:
    """The item that runs does not know of it."""
    load = caller.load(wait)
    first, second = caller.chunk(load, [1]), caller.chunk(load, [2, 3], slot=1)
    caller.call(load, first, second, hold=0.0)
    assert begun.wait(PATIENCE)
    caller.order("take back", second.id, 1, 0)
    caller.wait_for(Returned)
    gate.set()
    caller.wait_for(Results, 2)
    told = caller.end()
    assert {message for message in told if isinstance(message, Returned)} == {Returned(second.id, 0)}
    assert values_of(told) == [1]
    assert done_of(told) == [first.id, second.id]


def test_a_chunk_that_is_taken_back_after_its_end_is_left_as_it_is(caller: Caller) -> None:
    """So is the one that has its slot now."""
    load = caller.load(wait)
    first, second = caller.chunk(load, [1, 2]), caller.chunk(load, [3, 4])
    gate.set()
    caller.call(load, first)
    caller.wait_for(Results)
    caller.order("take back", first.id, 0, 0)
    gate.clear()
    begun.clear()
    caller.call(second, hold=0.0)
    assert begun.wait(PATIENCE)
    caller.order("take back", first.id, 0, 0)
    gate.set()
    while done_of(caller.told) != [first.id, second.id]:
        caller.wait_for(Results, sum(isinstance(message, Results) for message in caller.told) + 1)
    told = caller.end()
    assert not [message for message in told if isinstance(message, Returned)]
    assert values_of(told) == [1, 2, 3, 4]


def test_a_stop_that_overtakes_a_cancel_waits_for_it(caller: Caller) -> None:
    """Else the worker would wait for tasks that nobody cancels any more."""
    load = caller.load(wait_beside)
    caller.call(load, *(caller.chunk(load, [item], slot=item, concurrency=2) for item in range(2)), hold=0.0)
    assert begun.wait(PATIENCE)
    first, caller.orders = caller.orders, caller.orders + 2
    caller.order("stop", number=first + 1)
    assert not caller.worker.last_words(0.0)._replace(number=0).over
    caller.worker._replies -= 1  # that answer had nothing in it
    caller.order("cancel", 0, number=first)
    last = caller.worker.last_words(PATIENCE)
    assert last.over
    assert sorted(notes) == ["cancelled 0", "cancelled 1"]
    caller.replies[last.number] = last
    assert sorted(done_of(caller.told)) == [1, 2]


def test_orders_do_not_wait_for_frames(caller: Caller) -> None:
    """A stop ends a worker to whom a call has not come through; that call finds that it is over."""
    caller.order("stop")
    last = caller.worker.last_words(PATIENCE)
    assert last.over
    assert caller.call(hold=LONG).over


def test_a_worker_that_is_stopped_before_the_first_call_says_all_at_once() -> None:
    """It was ready, and it has closed everything."""
    caller = Caller(HostedWorker(Setup(0, 0, "pool"), LONG))
    assert caller.end() == [Ready(), Stopped(())]


def test_a_stop_lets_what_was_handed_over_end(caller: Caller) -> None:
    """Nothing is lost that came before it."""
    load = caller.load(wait)
    caller.call(load, caller.chunk(load, [1, 2]), caller.chunk(load, [3], slot=1), hold=0.0)
    assert begun.wait(PATIENCE)
    caller.order("stop")
    gate.set()
    last = caller.worker.last_words(PATIENCE)
    caller.replies[last.number] = last
    assert values_of(caller.told) == [1, 2, 3]
    assert isinstance(caller.told[-1], Stopped)


def test_a_worker_that_is_terminated_ends_the_item_and_starts_no_other(caller: Caller) -> None:
    """Its scopes close all the same, and it says so."""
    load = caller.load(hold_resource)
    caller.call(load, caller.chunk(load, [1, 2]), caller.chunk(load, [3], slot=1), hold=0.0)
    assert begun.wait(PATIENCE)
    caller.order("terminate")
    gate.set()
    last = caller.worker.last_words(PATIENCE)
    caller.replies[last.number] = last
    assert values_of(caller.told) == ["resource 1"]
    assert notes == ["opened", "closed"]
    assert caller.told[-1] == Stopped(())


def test_a_worker_that_is_terminated_while_it_starts_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been handed over meanwhile does not run."""

    def make_late(*arguments: Any) -> Any:
        begun.set()
        assert gate.wait(PATIENCE)
        return local_loop(*arguments)

    monkeypatch.setattr(hosted_module, "local_loop", make_late)
    caller = Caller(HostedWorker(Setup(0, 0, "pool"), LONG))
    assert begun.wait(PATIENCE)
    load = caller.load(note)
    caller.call(load, caller.chunk(load, [1]), hold=0.0)
    caller.order("terminate")
    gate.set()
    last = caller.worker.last_words(PATIENCE)
    assert last.over
    assert notes == []


def test_a_worker_without_its_event_loop_says_why_and_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is to be awaited of it."""

    def refuse(*_: Any) -> Any:
        name = "trio"
        raise BackendUnavailableError(name, "pip install trio")

    monkeypatch.setattr(hosted_module, "local_loop", refuse)
    caller = Caller(HostedWorker(Setup(0, 0, "pool"), LONG))
    last = caller.worker.last_words(PATIENCE)
    assert last.over
    caller.replies[last.number] = last
    (ready,) = caller.told
    assert isinstance(ready, Ready)
    assert isinstance(ready.error, BackendUnavailableError)


def test_last_words_are_waited_for_no_longer_than_they_may_take(caller: Caller) -> None:
    """A worker that goes on has none yet."""
    reply = caller.worker.last_words(0.0)
    caller.replies[reply.number] = reply
    assert not reply.over
    assert isinstance(caller.end()[-1], Stopped)


def test_answers_that_the_caller_has_not_got_are_given_again(caller: Caller) -> None:
    """Once, without those that it is known to have got, and with what there is to say beside."""
    load = caller.load(double)
    caller.call(load, caller.chunk(load, [1, 2]))
    caller.wait_for(Results)
    got = caller.heard
    caller.worker.touch(got)
    assert caller.worker.unheard() == []
    lost = caller.call(caller.chunk(load, [3]))
    del caller.replies[lost.number]
    over = threading.Event()
    caller.worker.when_over(over.set)
    caller.worker.stop()
    assert over.wait(PATIENCE)
    again = caller.worker.unheard()
    assert again[0] == lost
    assert [reply.over for reply in again] == [False] * (len(again) - 1) + [True]
    caller.replies.update((reply.number, reply) for reply in again)
    assert values_of(caller.told) == [2, 4, 6]
    assert isinstance(caller.told[-1], Stopped)
    assert caller.worker.unheard() == []


def test_what_there_is_to_say_is_said_before_the_end(caller: Caller) -> None:
    """Nobody has to call."""
    load = caller.load(wait)
    caller.call(load, caller.chunk(load, [1]), hold=0.0)
    assert begun.wait(PATIENCE)
    caller.worker.touch(caller.heard)
    assert caller.worker.unheard() == []
    gate.set()
    deadline = time.monotonic() + PATIENCE
    while not (again := caller.worker.unheard()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    caller.replies.update((reply.number, reply) for reply in again)
    assert values_of(caller.end()) == [1]


def test_what_a_cleanup_raises_is_among_the_last_words(caller: Caller) -> None:
    """By the name of its provider."""
    load = caller.load(use_damaged)
    caller.call(load, caller.chunk(load, [1]))
    caller.wait_for(Results)
    stopped = caller.end()[-1]
    assert isinstance(stopped, Stopped)
    ((provider, error),) = stopped.failures
    assert (provider, str(error)) == ("get_damaged", "does not close")


def test_whoever_wants_to_know_of_the_end_is_told_once(caller: Caller) -> None:
    """Also where it has come already."""
    told: list[str] = []
    over = threading.Event()
    caller.worker.when_over(lambda: told.append("before"))
    caller.worker.when_over(over.set)
    caller.worker.stop()
    caller.worker.stop()
    assert over.wait(PATIENCE)
    caller.worker.when_over(lambda: told.append("after"))
    assert told == ["before", "after"]


@dataclass
class Clock:
    """Stands in for the module ``time`` there: a clock that is moved by hand, and counts who looks."""

    now: float = 100.0
    looks: int = 0
    looked: threading.Condition = field(default_factory=threading.Condition)

    def monotonic(self) -> float:
        """Tell the time."""
        with self.looked:
            self.looks += 1
            self.looked.notify_all()
        return self.now

    def wait_for_looks(self, count: int) -> None:
        """Wait until it has been looked at so many more times."""
        with self.looked:
            wanted = self.looks + count
            assert self.looked.wait_for(lambda: self.looks >= wanted, PATIENCE)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock of leases."""
    made = Clock()
    monkeypatch.setattr(hosted_module, "time", made)
    monkeypatch.setattr(hosted_module, "LEASE_LOOK_SECONDS", 0.005)
    return made


def test_a_worker_whose_caller_is_gone_closes_its_scopes(clock: Clock) -> None:
    """The item that runs comes to its end, no other begins."""
    caller, over = Caller(HostedWorker(Setup(0, 0, "pool"), LONG)), threading.Event()
    caller.worker.when_over(over.set)
    load = caller.load(hold_resource)
    caller.call(load, caller.chunk(load, [1, 2]), hold=0.0)
    assert begun.wait(PATIENCE)
    clock.now += LONG + 1
    while not caller.worker._ending:
        clock.wait_for_looks(1)
    assert notes == ["opened"]
    gate.set()
    assert over.wait(PATIENCE)
    assert notes == ["opened", "closed"]
    last = caller.worker.last_words(PATIENCE)
    caller.replies[last.number] = last
    assert values_of(caller.told) == ["resource 1"]


def test_a_caller_who_says_something_now_and_then_keeps_the_lease(clock: Clock) -> None:
    """Whatever it says: a word, a call, an order."""
    caller = Caller(HostedWorker(Setup(0, 0, "pool"), LONG))
    for say in (caller.worker.touch, lambda: caller.call(hold=0.0), lambda: caller.order("cancel", 5)):
        clock.now += 0.9 * LONG
        say()
        clock.wait_for_looks(3)
    assert not caller.worker._ending
    assert caller.end() == [Ready(), Stopped(())]
