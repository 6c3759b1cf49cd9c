"""A few words of memory that caller and worker share: how far a chunk may go, and how far it has gone.

Each chunk in flight has a slot of three words. The caller lowers ``bound`` to take unstarted items back. The worker
sets ``opened`` when it comes to the chunk, and only then reads ``bound``; before each item it writes into ``begun``
where the next one is in its run, so that after its death the caller knows which item it was running. Where it does not
count, ``opened`` says so. Behind the slots is the journal of a worker process.

Three words more: ``DEADLINE`` says until when the running item must have ended, where it has a time limit, ``HOLDS``
whether something is open that outlives an item. ``SUSPECT`` names the item whose object is being pickled or unpickled
out of its turn, as all of a chunk are unpickled before the first is begun: user code may run there, and if the worker
ends with it, that item is lost.
"""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile

from poolinject._transport.codec import Mark
from poolinject._transport.payloads import Arena
from poolinject._transport.private_files import beyond_stdio

SLOTS = 4096  # chunks in flight to one worker, at the most
BEGIN, FILLED = 3 * SLOTS, 3 * SLOTS + 1  # words: where the entries of the journal begin, and end
DEADLINE = 3 * SLOTS + 2  # the word of the time limit
HOLDS = 3 * SLOTS + 3  # the word about what is open
SUSPECT = 3 * SLOTS + 4  # the word of the item that is being converted
WORDS = SUSPECT + 1
COUNTED, UNCOUNTED = 1, 2  # how a chunk has been opened
JOURNAL_SIZE = 1 << 19  # bytes; what does not fit is sent at once
SIZE = 8 * WORDS + JOURNAL_SIZE


class Control:
    """The control block of one worker; from word ``3 * slot`` on: bound, begun, opened. Then ``journal``, bytes."""

    __slots__ = ("_memory", "journal", "words")

    def __init__(self, memory: bytearray | mmap.mmap) -> None:
        self._memory = memory
        with memoryview(memory) as view:
            self.words, self.journal = view[: 8 * WORDS].cast("Q"), view[8 * WORDS :]

    def prepare(self, slot: int, start: int, count: int) -> None:
        """Prepare a slot for a chunk of so many items."""
        self.words[3 * slot + 2] = 0
        self.words[3 * slot + 1] = start
        self.words[3 * slot] = count

    def take_back(self, slot: int, keep: int) -> None:
        """Let no item of the chunk start beyond the first *keep*."""
        self.words[3 * slot] = keep

    def begun(self, slot: int) -> int | None:
        """Give the index in its run of the first item that has not been begun, ``None`` where nobody counted."""
        return None if self.words[3 * slot + 2] == UNCOUNTED else self.words[3 * slot + 1]

    def is_opened(self, slot: int) -> bool:
        """Tell whether the worker has come to the chunk."""
        return self.words[3 * slot + 2] != 0

    @property
    def suspect(self) -> tuple[int, int] | None:
        """The slot and the index in its run of the item that is being converted."""
        number, slot = divmod(self.words[SUSPECT], SLOTS)
        return (slot, number - 1) if number else None

    def recorded(self) -> bytes:
        """Give the entries of the journal."""
        return bytes(self.journal[self.words[BEGIN] : self.words[FILLED]])

    @property
    def deadline(self) -> int:
        """When the running item must have ended, by the monotonic clock in nanoseconds; 0 where there is no limit."""
        return self.words[DEADLINE]

    def hold(self) -> None:
        """Note that the worker opens something that it must close."""
        self.words[HOLDS] = 1

    @property
    def holds(self) -> bool:
        """Whether the worker had something to close at its end."""
        return self.words[HOLDS] != 0

    def close(self) -> None:
        """Release the memory."""
        self.words.release()
        self.journal.release()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()


def suspects(words: memoryview, slot: int, start: int) -> Mark:
    """Give where to name the items of a chunk, from an index in their run on, while they are converted."""
    return Mark(words[SUSPECT : SUSPECT + 1], itertools.count((start + 1) * SLOTS + slot, SLOTS))


def private_control() -> Control:
    """Make a block for a worker in this process, which needs no journal."""
    return Control(bytearray(8 * WORDS))


def shared_memory(size: int) -> int:
    """Make a file without a name, to be mapped here and handed to a worker process; no other user may open it."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("poolinject", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    fd = beyond_stdio(fd)
    try:
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def map_control(fd: int) -> Control:
    """Open a block."""
    return Control(mmap.mmap(fd, SIZE))


def map_arena(fd: int) -> Arena:
    """Open an arena."""
    return Arena(mmap.mmap(fd, 0))
