"""A few words of memory that caller and worker share: how far a chunk may go, and how far it has gone.

Each chunk in flight has a slot of two words. The caller lowers ``bound`` to take unstarted items back; the worker
writes ``started`` before each item, so that after its death the caller knows which item it was running.
"""

from __future__ import annotations

import mmap
import os
import tempfile

SLOTS = 64  # chunks in flight to one worker, at the most
WORDS = 2 * SLOTS
SIZE = 8 * WORDS


class Control:
    """The control block of one worker; word ``2 * slot`` is the bound, the next one what has been started."""

    __slots__ = ("_memory", "words")

    def __init__(self, memory: bytearray | mmap.mmap) -> None:
        self._memory = memory
        self.words = memoryview(memory).cast("Q")

    def open_slot(self, slot: int, count: int) -> None:
        """Prepare a slot for a chunk of so many items."""
        self.words[2 * slot + 1] = 0
        self.words[2 * slot] = count

    def take_back(self, slot: int) -> None:
        """Let no further item of the chunk start."""
        self.words[2 * slot] = 0

    def started(self, slot: int) -> int:
        """Tell how many items of the chunk have been started."""
        return self.words[2 * slot + 1]

    def close(self) -> None:
        """Release the memory."""
        self.words.release()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()


def private_control() -> Control:
    """Make a block for a worker in this process."""
    return Control(bytearray(SIZE))


def shared_control() -> tuple[Control, int]:
    """Make a block for a worker process, and a file descriptor to hand to it; the file has no name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("poolinject", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, SIZE)
    return Control(mmap.mmap(fd, SIZE)), fd


def received_control(fd: int) -> Control:
    """Open the block that the caller has handed over; the descriptor is closed."""
    try:
        return Control(mmap.mmap(fd, SIZE))
    finally:
        os.close(fd)
