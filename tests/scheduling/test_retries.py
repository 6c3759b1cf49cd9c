"""Which failures get another attempt and when, and what the scheduler makes of it."""

import math
from typing import Any

import pytest

from poolinject import RetryPolicy, WorkerLostError
from poolinject._scheduling.backpressure import ReorderBuffer
from poolinject._scheduling.blocks import Block
from poolinject._scheduling.chunking import Chunking
from poolinject._scheduling.retries import Attempts, Retry, as_policy, delay_of, may_retry, retries_of
from poolinject._scheduling.scheduler import Scheduler
from poolinject._scheduling.state import Action, Emit, Finish, Later, Lose, RunState, Send, TakeBack
from poolinject._transport.messages import Failed, Phase


def half() -> float:
    """Stand in for a random number."""
    return 0.5


def delays(policy: RetryPolicy) -> list[float | None]:
    """Give the waits before the second attempt, the third and so on."""
    return [delay_of(policy, attempt, "call", ValueError(), half) for attempt in range(1, policy.attempts + 1)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.0, 0.0, 0.0, None]),
        ({"backoff": 1.0}, [1.0, 2.0, 4.0, None]),
        ({"backoff": 1.0, "factor": 1}, [1.0, 1.0, 1.0, None]),
        ({"backoff": 10, "factor": 3, "max": 40}, [10.0, 30.0, 40.0, None]),
        ({"backoff": 8.0, "max": 2}, [2.0, 2.0, 2.0, None]),
        ({"backoff": 1.0, "jitter": 0.5}, [0.75, 1.5, 3.0, None]),
        ({"backoff": 1.0, "jitter": 1.0, "max": 2.0}, [0.5, 1.0, 1.0, None]),
        ({"backoff": 1e300, "factor": 1e300}, [60.0, 60.0, 60.0, None]),
        ({"factor": 1e300}, [0.0, 0.0, 0.0, None]),
    ],
)
def test_waits_grow_by_the_factor_up_to_the_longest(options: Any, expected: list[float | None]) -> None:
    """After the last attempt there is none; jitter only shortens."""
    assert delays(RetryPolicy(4, **options)) == expected


def test_jitter_leaves_out_no_more_than_its_fraction() -> None:
    """Whatever the random number."""
    policy = RetryPolicy(2, backoff=1.0, jitter=0.25)
    assert delay_of(policy, 1, "call", ValueError(), lambda: 0.0) == 1.0
    assert delay_of(policy, 1, "call", ValueError(), lambda: 1 - 2**-53) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("options", "error", "phase", "again"),
    [
        ({}, ValueError(), "call", True),
        ({}, WorkerLostError(0), "lost", True),
        ({}, KeyboardInterrupt(), "call", False),
        ({}, SystemExit(), "setup", False),
        ({"on": BaseException}, SystemExit(), "setup", True),
        ({"on": (OSError, KeyError)}, ConnectionError(), "call", True),
        ({"on": (OSError, KeyError)}, IndexError(), "call", False),
        ({"on": ()}, ValueError(), "call", False),
        ({"phases": ("setup", "lost")}, ValueError(), "setup", True),
        ({"phases": ["setup", "lost"]}, ValueError(), "call", False),
        ({"phases": ()}, ValueError(), "call", False),
    ],
)
def test_error_and_phase_must_both_be_asked_for(options: Any, error: BaseException, phase: Phase, again: bool) -> None:
    """By default every ``Exception`` in every phase is."""
    assert (delay_of(RetryPolicy(2, **options), 1, phase, error, half) is not None) == again


@pytest.mark.parametrize(("retries", "attempts"), [(None, 1), (0, 1), (1, 2), (3, 4)])
def test_number_means_so_many_further_attempts(retries: int | None, attempts: int) -> None:
    """At once, after every error."""
    policy = as_policy(retries)
    assert policy == (None if attempts == 1 else RetryPolicy(attempts))
    assert [may_retry(policy, attempt) for attempt in range(1, attempts + 1)] == [True] * (attempts - 1) + [False]


def test_policy_of_one_attempt_is_none() -> None:
    """Such a run is like one without."""
    assert as_policy(RetryPolicy(1)) is None
    assert as_policy(RetryPolicy(2, backoff=1)) == RetryPolicy(2, backoff=1)


@pytest.mark.parametrize(
    ("error", "match", "make"),
    [
        (TypeError, "attempts must be an int", lambda: RetryPolicy("3")),  # type: ignore[arg-type]
        (TypeError, "attempts must be an int", lambda: RetryPolicy(attempts=True)),
        (ValueError, "attempts must be at least 1", lambda: RetryPolicy(0)),
        (TypeError, "on must be an exception type", lambda: RetryPolicy(2, on="ValueError")),  # type: ignore[arg-type]
        (TypeError, "on must be an exception type", lambda: RetryPolicy(2, on=(ValueError, int))),  # type: ignore[arg-type]
        (TypeError, "on must be an exception type", lambda: RetryPolicy(2, on=ValueError())),  # type: ignore[arg-type]
        (ValueError, "phases must be some of 'setup'", lambda: RetryPolicy(2, phases="call")),  # type: ignore[arg-type]
        (ValueError, "phases must be some of 'setup'", lambda: RetryPolicy(2, phases=("cal",))),  # type: ignore[arg-type]
        (TypeError, "backoff must be a number", lambda: RetryPolicy(2, backoff="1")),  # type: ignore[arg-type]
        (ValueError, "backoff must be finite and not negative", lambda: RetryPolicy(2, backoff=-1)),
        (ValueError, "factor must be finite and not negative", lambda: RetryPolicy(2, factor=math.nan)),
        (ValueError, "max must be finite and not negative", lambda: RetryPolicy(2, max=math.inf)),
        (ValueError, "jitter must be a fraction", lambda: RetryPolicy(2, jitter=1.5)),
        (TypeError, "retries must be an int", lambda: as_policy("3")),  # type: ignore[arg-type]
        (TypeError, "retries must be an int", lambda: as_policy(retries=True)),
        (TypeError, "retries must be an int", lambda: as_policy(2.0)),  # type: ignore[arg-type]
        (ValueError, "retries must be at least 0", lambda: as_policy(-1)),
    ],
)
def test_what_cannot_work_is_refused(error: type[Exception], match: str, make: Any) -> None:
    """The error names the argument and says what it takes."""
    with pytest.raises(error, match=match):
        make()


def failure(offset: int, error: BaseException | None = None) -> Failed:
    """Return a failure in the call."""
    return Failed(offset, error or ValueError(offset), "", "call", None)


def test_failures_of_a_block_are_told_apart() -> None:
    """By index, those of another type left out."""
    failures = [failure(0), failure(2, KeyError()), failure(5)]
    policy = RetryPolicy(3, on=ValueError, backoff=1.0)
    assert retries_of(policy, 2, 10, failures, half) == [Retry(10, 2.0), Retry(15, 2.0)]
    assert retries_of(policy, 3, 10, failures, half) == []
    assert retries_of(None, 1, 10, failures, half) == []


def test_last_error_tells_of_the_attempts_before_it() -> None:
    """Once each, also where it is the same object; what went through in the end is forgotten."""
    attempts, error = Attempts(), ValueError("third")
    attempts.remember(4, 1, failure(0, KeyError("first")))
    attempts.remember(4, 2, Failed(0, WorkerLostError(1, -9, 4), "", "lost", None))
    attempts.remember(5, 1, failure(0, KeyError("x" * 300)))
    attempts.tell(4, error)
    attempts.tell(4, error)
    assert error.__notes__ == [
        "attempt 1 failed in phase 'call': KeyError: 'first'",
        "attempt 2 failed in phase 'lost': WorkerLostError: worker 1 was ended by SIGKILL while it held item 4",
    ]
    attempts.forget([4, 6])
    other = ValueError()
    attempts.tell(4, other)
    assert not hasattr(other, "__notes__")
    attempts.tell(5, other)
    assert len(other.__notes__[0]) < 300


class StubbornError(Exception):
    """An error that takes no notes and has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def add_note(self, _: str) -> None:
        raise RuntimeError("no notes")


def test_error_that_refuses_notes_is_left_alone() -> None:
    """Nothing is raised on the driver's thread."""
    attempts = Attempts()
    attempts.remember(0, 1, failure(0, StubbornError()))
    attempts.tell(0, StubbornError())
    error = ValueError()
    attempts.tell(0, error)
    assert error.__notes__ == [
        "attempt 1 failed in phase 'call': StubbornError: <StubbornError; its str failed with RuntimeError>"
    ]


def test_block_is_split_around_what_is_left_out() -> None:
    """Each part has its own items, values, times and failures."""
    block = Block(10, list("abcdef"), [0, 1, None, None, 4, 5], (failure(2), failure(3)), (0.1,) * 6, 7, 2)
    first, second = block.around([11])
    assert (first.start, first.items, first.values, first.each) == (10, ["a"], [0], (0.1,))
    assert (second.start, second.items, second.values) == (12, list("cdef"), [None, None, 4, 5])
    assert [(second.failure(at).index, second.failure(at).item) for at in (0, 1)] == [(12, "c"), (13, "d")]
    third, last = block.around([10, 13, 15])
    assert (third.start, third.items, [failed.offset for failed in third.failures]) == (11, ["b", "c"], [1])
    assert (last.start, last.values, last.failures) == (14, [4], [])
    assert {(part.worker_id, part.attempt) for part in (first, second, third)} == {(7, 2)}


def scheduler_of(count: int, *, ordered: bool = True, fail_fast: bool = False) -> tuple[Scheduler, Send]:
    """Return a scheduler with one of two workers, which has got everything of a run in one chunk."""
    scheduler = Scheduler(2)
    scheduler.open(RunState(0, Chunking(count), ReorderBuffer() if ordered else None, fail_fast))
    scheduler.ready(0)
    (send,) = scheduler.arrived(0, count)
    assert isinstance(send, Send)
    scheduler.ended(0)
    return scheduler, send


def answer(scheduler: Scheduler, chunk: int, count: int, *retried: int, **options: Any) -> list[Action]:
    """Let the worker answer for a chunk."""
    retries = [Retry(index, 1.5) for index in retried]
    return scheduler.results(0, chunk, count, 0.0, **{"failed": False, "done": True} | options, retried=retries)


def test_outcomes_around_a_retry_go_out() -> None:
    """In any order, they need not wait for it; the run goes on until it has come to its end."""
    scheduler, send = scheduler_of(5, ordered=False)
    assert answer(scheduler, send.chunk, 5, 1, 3) == [
        Emit(0, 0),
        Later(0, 1, 1.5),
        Emit(0, 2),
        Later(0, 3, 1.5),
        Emit(0, 4),
    ]
    (again,) = scheduler.due([(0, 3)])
    assert isinstance(again, Send)
    assert (again.start, again.size, again.again, again.attempt) == (3, 1, True, 2)
    assert answer(scheduler, again.chunk, 1) == [Emit(0, 3)]
    (again,) = scheduler.due([(0, 1)])
    assert isinstance(again, Send)
    assert answer(scheduler, again.chunk, 1) == [Emit(0, 1), Finish(0)]


def test_ordered_run_holds_what_comes_after_a_retry() -> None:
    """Until the item has an outcome."""
    scheduler, send = scheduler_of(4)
    assert answer(scheduler, send.chunk, 4, 1) == [Emit(0, 0), Later(0, 1, 1.5)]
    (again,) = scheduler.due([(0, 1)])
    assert isinstance(again, Send)
    assert answer(scheduler, again.chunk, 1, 1) == [Later(0, 1, 1.5)]
    (third,) = scheduler.due([(0, 1)])
    assert isinstance(third, Send)
    assert third.attempt == 3
    assert answer(scheduler, third.chunk, 1) == [Emit(0, 1), Emit(0, 2), Finish(0)]


def test_neighbours_of_the_same_attempt_share_a_chunk() -> None:
    """Others have one of their own."""
    scheduler, send = scheduler_of(6)
    answer(scheduler, send.chunk, 6, 1, 2, 3, 5, done=False)
    sent = [action for action in scheduler.due([(0, 1), (0, 2), (0, 3), (0, 5)]) if isinstance(action, Send)]
    assert not sent, "the worker has its chunk"
    sent = [action for action in answer(scheduler, send.chunk, 0) if isinstance(action, Send)]
    assert sent[0].attempt == 2
    assert 1 <= sent[0].start < sent[0].start + sent[0].size <= 4


def test_item_that_its_worker_died_of_waits_like_any_other() -> None:
    """The others of its chunk are in the attempt in which they were."""
    scheduler, send = scheduler_of(3, ordered=False)
    assert scheduler.gone(0, {send.slot: 1}, {send.chunk: 2.5}) == [Lose(0, 0, 0, 1, 2.5), Later(0, 0, 2.5)]
    (first,) = scheduler.ready(0)
    assert isinstance(first, Send)
    assert (first.start, first.attempt) == (1, 1)
    while not isinstance((actions := answer(scheduler, first.chunk, first.size))[-1], Emit):
        first = next(action for action in actions if isinstance(action, Send))
    (again,) = scheduler.due([(0, 0)])
    assert isinstance(again, Send)
    assert (again.start, again.attempt) == (0, 2)
    assert scheduler.gone(0, {again.slot: 1}) == [Lose(0, 0, 0, 2), Emit(0, 0), Finish(0)]


def test_cancel_drops_what_waits() -> None:
    """Its time comes to nothing, before the run has ended and after; also where a worker has nothing to do."""
    scheduler, send = scheduler_of(3)
    answer(scheduler, send.chunk, 2, 0, 1, done=False)
    assert scheduler.cancel(0) == [TakeBack(0, send.slot, send.chunk, 0)]
    scheduler.ready(1)
    assert scheduler.due([(0, 0)]) == []
    assert answer(scheduler, send.chunk, 1) == [Finish(0)]
    assert scheduler.due([(0, 1)]) == []


def test_item_of_a_retry_that_was_not_begun_keeps_its_attempt() -> None:
    """Whether it is taken back, its chunk ends before it, or its worker."""
    scheduler, send = scheduler_of(1)
    answer(scheduler, send.chunk, 1, 0)
    (second,) = scheduler.due([(0, 0)])
    assert isinstance(second, Send)
    (third,) = scheduler.returned(0, second.chunk, 0)
    assert isinstance(third, Send)
    assert answer(scheduler, second.chunk, 0) == []
    (fourth,) = answer(scheduler, third.chunk, 0)
    assert isinstance(fourth, Send)
    scheduler.gone(0, {})
    (fifth,) = scheduler.ready(0)
    assert isinstance(fifth, Send)
    assert [send.attempt for send in (second, third, fourth, fifth)] == [2] * 4


def test_lost_item_of_a_cancelled_run_is_not_tried_again() -> None:
    """It fails, as any other that had started."""
    scheduler, send = scheduler_of(1)
    scheduler.cancel(0)
    assert scheduler.gone(0, {send.slot: 1}, {send.chunk: 0.0}) == [Lose(0, 0, 0), Emit(0, 0), Finish(0)]


def test_only_a_failure_for_good_ends_a_fail_fast_run() -> None:
    """One that is tried again does not; one beside it does, and nothing is tried again."""
    scheduler, send = scheduler_of(4, fail_fast=True)
    actions = answer(scheduler, send.chunk, 2, 0, done=False)
    assert actions == [Later(0, 0, 1.5)]
    actions = answer(scheduler, send.chunk, 2, 2, failed=True, done=False)
    assert actions == [Later(0, 2, 1.5), TakeBack(0, send.slot, send.chunk, 0)]
    assert answer(scheduler, send.chunk, 0) == [Finish(0)]
    assert scheduler.due([(0, 0), (0, 2)]) == []


def test_of_many_attempts_the_first_and_the_newest_are_told() -> None:
    """What an item costs does not grow with its attempts."""
    attempts, error = Attempts(), ValueError("last")
    for attempt in range(1, 1001):
        attempts.remember(0, attempt, Failed(0, ValueError(attempt), "", "call", None))
    attempts.tell(0, error)
    numbers = [int(note.split()[1]) for note in error.__notes__]
    assert numbers == [1, 2, 3, 4, 5, 996, 997, 998, 999, 1000]


class Refusing(type):
    """A metaclass that does not want to be asked, and takes what is not its own."""

    def __instancecheck__(cls, _: object) -> bool:
        raise SystemExit

    __subclasscheck__ = __instancecheck__


class RefusingError(Exception, metaclass=Refusing):
    """An error of such a class."""


def test_no_metaclass_is_asked_which_errors_are_meant() -> None:
    """As in an ``except`` clause: the driver's thread has to go on."""
    policy = RetryPolicy(2, on=(RefusingError, KeyError))
    assert delay_of(policy, 1, "call", RefusingError(), half) == 0.0
    assert delay_of(policy, 1, "call", KeyError(), half) == 0.0
    assert delay_of(policy, 1, "call", LookupError(), half) is None


def test_policy_keeps_its_phases() -> None:
    """Whatever becomes of the list that they came in; something that can be read only once is refused."""
    phases: list[Any] = ["call"]
    policy = RetryPolicy(3, phases=phases)
    phases.clear()
    assert policy.phases == ("call",)
    for wrong in (iter(["call"]), 1, None, "call", ["never"]):
        with pytest.raises(ValueError, match="phases must be some of"):
            RetryPolicy(3, phases=wrong)  # type: ignore[arg-type]
