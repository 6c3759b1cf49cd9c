"""Large buffers on their way between caller and worker: through memory that both see, not through the socket.

An arena is one direction. The sender copies a buffer to a free place, the lowest, so that the pages stay warm; the
receiver copies it out and sets a flag, after which the place is free again. So what either side holds is its own, and
nothing of an arena outlives the two processes: the file behind it has no name.
"""

from __future__ import annotations

import contextlib
import mmap

LARGE = 1 << 17  # bytes; smaller buffers are as quick through the socket
SPAN = 1 << 30  # bytes of address space; a page costs memory only once it was used
SMALL_SPAN = 1 << 24  # the same where address space is limited
PLACES = 4096  # buffers in an arena at the same time, at the most; a flag and a byte of the first page for each
KEPT = 1 << 26  # bytes that stay allocated in an empty arena


class Arena:
    """One side's view of the shared memory of one direction.

    Attributes:
        moved: Bytes that this side has copied, in or out.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory, self._view = memory, memoryview(memory)
        self._placed: dict[int, tuple[int, int]] = {}  # the sender's: slot to start and end
        self._highest = PLACES
        self.moved = 0

    def place(self, buffer: memoryview) -> int | None:
        """Copy a buffer in, and give its place; ``None`` where there is no room."""
        self._reclaim()
        slot = next((slot for slot in range(len(self._placed) + 1) if slot not in self._placed), PLACES)
        start = self._first_gap(buffer.nbytes)
        end = start + buffer.nbytes
        if slot >= PLACES or end > len(self._view):
            return None
        self._view[start:end] = buffer
        self._view[slot] = 0
        self._placed[slot] = (start, end)
        self.moved += buffer.nbytes
        self._highest = max(self._highest, end)
        return start + slot

    def _first_gap(self, size: int) -> int:
        """Find where a buffer fits; starts are multiples of ``PLACES``, so that a place can carry the slot too."""
        start = PLACES
        for begin, end in sorted(self._placed.values()):
            if begin - start >= size:
                break
            start = end + -end % PLACES
        return start

    def _reclaim(self) -> None:
        """Forget what the receiver has taken; give memory back that an unusual peak has left behind."""
        for slot in [slot for slot in self._placed if self._view[slot]]:
            del self._placed[slot]
        if not self._placed and self._highest > KEPT:
            start = KEPT
            with contextlib.suppress(OSError, ValueError, AttributeError):  # where the system cannot
                self._memory.madvise(mmap.MADV_REMOVE, start, self._highest + -self._highest % mmap.PAGESIZE - start)
            self._highest = PLACES

    def drop(self, place: int) -> None:
        """Free a place that is not sent after all."""
        del self._placed[place % PLACES]

    def take(self, place: int, size: int) -> bytearray:
        """Copy a buffer out and free its place; the receiver's."""
        slot = place % PLACES
        data = bytearray(self._view[place - slot : place - slot + size])
        self._view[slot] = 1
        self.moved += size
        return data

    def close(self) -> None:
        """Let go of the memory."""
        self._view.release()
        self._memory.close()


def set_aside(arena: Arena, buffer: memoryview, places: list[tuple[int, int]]) -> bool:
    """Place a large buffer and note where; give whether it is there."""
    if buffer.nbytes < LARGE:
        return False
    place = arena.place(buffer)
    if place is not None:
        places.append((place, buffer.nbytes))
    return place is not None
