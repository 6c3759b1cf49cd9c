"""The outcomes of neighbours, kept together on their way to whoever takes them. Runs in the caller."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poolinject._transport.messages import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from poolinject._transport.messages import Failed


@dataclass(slots=True)
class Block:
    """Outcomes of consecutive items, all of the same attempt."""

    start: int
    items: Sequence[Any]
    values: Sequence[Any]
    failures: Sequence[Failed]
    each: Sequence[float]
    worker_id: int
    attempt: int = 1

    def around(self, left_out: Sequence[int]) -> Iterator[Block]:
        """Give the parts between some of its items, known by their indices in order."""
        first, failures = 0, deque(self.failures)
        for end in (*(index - self.start for index in left_out), len(self.values)):
            own = []
            while failures and failures[0].offset < end:
                failed = failures.popleft()
                own.append(failed._replace(offset=failed.offset - first))
            if failures and failures[0].offset == end:
                failures.popleft()
            if end > first:
                parts = self.items[first:end], self.values[first:end], own, self.each[first:end]
                yield Block(self.start + first, *parts, self.worker_id, self.attempt)
            first = end + 1

    def failure(self, position: int) -> Failure:
        """Make the record of one of its failures."""
        failed = self.failures[position]
        return Failure(
            index=self.start + failed.offset,
            item=self.items[failed.offset],
            error=failed.error,
            traceback=failed.traceback,
            phase=failed.phase,
            provider=failed.provider,
            attempts=self.attempt,
            worker_id=self.worker_id,
        )
