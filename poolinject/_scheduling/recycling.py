"""What a worker may do before it is recycled, and whether recycling helps. Runs in the caller."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolinject._transport.messages import Worn

IN_A_ROW = 2  # generations of a slot that managed a single item


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker may do before it is recycled; ``None`` is no limit.

    Attributes:
        items: How many items it runs.
        memory: How many bytes it has resident after an item.
    """

    items: int | None = None
    memory: int | None = None


class Wear:
    """Notices where every item costs a worker, and warns of it once."""

    def __init__(self, limit: int | None, name: str) -> None:
        self._limit, self._name = limit, name
        self._single: dict[int, int] = {}  # generations in a row, by worker
        self._warned = False

    def note(self, worker_id: int, message: Worn) -> None:
        """A worker has passed the limit of memory.

        Raises:
            RuntimeWarning: The warning itself, where warnings are errors.
        """
        self._single[worker_id] = self._single.get(worker_id, 0) + 1 if message.items == 1 else 0
        if self._single[worker_id] >= IN_A_ROW and not self._warned:
            self._warned = True
            text = (
                f"pool {self._name!r}: a worker has {message.memory:,} bytes resident after its first item, more than "
                f"max_worker_memory={self._limit:,}, so that every item costs a new worker: raise the limit"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=1)
