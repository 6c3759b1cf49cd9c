"""Whether a failed item gets another attempt, after which delay, and what is told of the attempts before the last.

Pure arithmetic: the caller gives the random numbers and keeps the time. Runs in the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, get_args

from poolinject._exceptions import add_note, notes_of
from poolinject._transport.messages import Failed, Phase
from poolinject._transport.picklers import safe_text

PHASES: tuple[Phase, ...] = get_args(Phase)
NOTE_SIZE = 200  # characters of an earlier error in a note
NOTES = 10  # of earlier attempts: the first half and the newest half of them


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often an item that fails is tried, after which failures, and how long it waits in between.

    Each attempt has a fresh item scope. Waiting costs no worker, but the item stays in flight.

    Attributes:
        attempts: How often an item is tried at the most, the first time included.
        on: Errors after which it is tried again, as in an ``except`` clause.
        phases: Phases of ``Failure`` after which it is tried again.
        backoff: Seconds before the second attempt.
        factor: How many times as long each further wait is as the one before.
        jitter: The fraction of a wait, 0 to 1, of which a random part is left out, so that not all come back at once.
        max: Seconds that no wait exceeds.

    Raises:
        TypeError, ValueError: If an argument is wrong.
    """

    attempts: int
    _: KW_ONLY
    on: type[BaseException] | tuple[type[BaseException], ...] = Exception
    phases: Sequence[Phase] = PHASES
    backoff: float = 0.0
    factor: float = 2.0
    jitter: float = 0.0
    max: float = 60.0

    def __post_init__(self) -> None:
        _check_count("attempts", self.attempts, 1)
        _check_types(self.on)
        if not isinstance(self.phases, (tuple, list, set, frozenset)) or not set(self.phases) <= set(PHASES):
            message = f"phases must be some of {', '.join(map(repr, PHASES))}, in a tuple, not {self.phases!r}"
            raise ValueError(message)
        object.__setattr__(self, "phases", tuple(self.phases))
        for name in ("backoff", "factor", "jitter", "max"):
            _check_number(name, getattr(self, name))
        if self.jitter > 1:
            message = f"jitter must be a fraction from 0 to 1, not {self.jitter}"
            raise ValueError(message)


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        message = f"{name} must be an int, not {value!r}"
        raise TypeError(message)
    if value < least:
        message = f"{name} must be at least {least}, not {value}"
        raise ValueError(message)


def _check_types(on: Any) -> None:
    types = on if isinstance(on, tuple) else (on,)
    if not all(isinstance(each, type) and issubclass(each, BaseException) for each in types):
        message = f"on must be an exception type or a tuple of such, not {on!r}"
        raise TypeError(message)


def _check_number(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        message = f"{name} must be a number, not {value!r}"
        raise TypeError(message)
    if not 0 <= value < math.inf:
        message = f"{name} must be finite and not negative, but is {value}"
        raise ValueError(message)


def as_policy(retries: RetryPolicy | int | None) -> RetryPolicy | None:
    """Give the policy that ``retries=`` asks for, ``None`` where there is to be one attempt.

    Raises:
        TypeError, ValueError: If it is neither a policy nor a number of further attempts.
    """
    if isinstance(retries, RetryPolicy):
        return retries if retries.attempts > 1 else None
    if retries is None:
        return None
    _check_count("retries", retries, 0)
    return RetryPolicy(retries + 1) if retries else None


def without_lost(policy: RetryPolicy | None) -> RetryPolicy | None:
    """Give a policy by which nothing is tried again that may have run to its end on a lost worker."""
    return policy and replace(policy, phases=tuple(phase for phase in policy.phases if phase != "lost"))


@dataclass(frozen=True, slots=True)
class Retry:
    """An item of a run that is to be tried again after so many seconds."""

    index: int
    delay: float


def may_retry(policy: RetryPolicy | None, attempt: int) -> bool:
    """Tell whether an item that fails in this attempt may be tried again."""
    return policy is not None and attempt < policy.attempts


def delay_of(
    policy: RetryPolicy | None, attempt: int, phase: Phase, error: BaseException, random: Callable[[], float]
) -> float | None:
    """Give for how long an item waits that failed so in this attempt, ``None`` where it is not tried again."""
    if policy is None or not may_retry(policy, attempt):
        return None
    if phase not in policy.phases or not _matches(error, policy.on):
        return None
    try:
        delay = min(policy.backoff * float(policy.factor) ** (attempt - 1), policy.max)
    except OverflowError:
        delay = policy.max if policy.backoff else 0.0
    return delay * (1 - policy.jitter * random()) if policy.jitter else delay


def _matches(error: BaseException, on: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """Decide as an ``except`` clause does, which asks no metaclass."""
    return any(type.__subclasscheck__(each, type(error)) for each in (on if isinstance(on, tuple) else (on,)))


def retries_of(
    policy: RetryPolicy | None, attempt: int, start: int, failures: Iterable[Failed], random: Callable[[], float]
) -> list[Retry]:
    """Give those of the items of a block that are to be tried again, in order."""
    delays = (
        (start + failed.offset, delay_of(policy, attempt, failed.phase, failed.error, random)) for failed in failures
    )
    return [Retry(index, delay) for index, delay in delays if delay is not None]


class Attempts:
    """What is remembered of the failed attempts of a run's items, until the items come to their end."""

    def __init__(self) -> None:
        self._notes: dict[int, list[str]] = {}

    def end(self, start: int, count: int, attempt: int, failures: Iterable[Failed], again: Collection[int]) -> None:
        """An attempt of consecutive items has come to its end; some that failed, by their indices, get another one."""
        for failed in failures:
            index = start + failed.offset
            if index in again:
                self.remember(index, attempt, failed)
            else:
                self.tell(index, failed.error)
        if attempt > 1:
            self.forget(index for index in range(start, start + count) if index not in again)

    def remember(self, index: int, attempt: int, failed: Failed) -> None:
        """An attempt failed and is not the last one."""
        error = f"{type(failed.error).__name__}: {safe_text(failed.error, limit=NOTE_SIZE)}"
        note = f"attempt {attempt} failed in phase {failed.phase!r}: {error}"
        notes = self._notes.setdefault(index, [])
        if len(notes) == NOTES:
            del notes[NOTES // 2]
        notes.append(note)

    def tell(self, index: int, error: BaseException) -> None:
        """Note at the error of an item's last attempt what became of those before."""
        for note in self._notes.get(index, ()):
            if note not in notes_of(error):  # it may be one object for several items
                add_note(error, note)

    def forget(self, indices: Iterable[int]) -> None:
        """Items have come to their end."""
        for index in indices:
            self._notes.pop(index, None)
