"""The ledger: one file that every process of a test appends to, so that it tells who did what, in which order.

It is the gate as well: a worker that has to wait for the test (or the other way round) waits for an entry.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

PLACE = "POOLINJECT_TEST_LEDGER"  # workers inherit the environment as it is when they start
POINTER = "POOLINJECT_TEST_LEDGER_POINTER"  # a file that names the ledger, for workers that outlast a test
PATIENCE = 15.0  # seconds that anything may be waited for


@dataclass(frozen=True)
class Entry:
    """One line: what was noted, and by which process and thread."""

    pid: int
    thread: int
    text: str


def place() -> Path:
    """Give where the ledger is."""
    pointer = os.environ.get(POINTER)
    return Path(os.environ[PLACE] if pointer is None else Path(pointer).read_text())


def note(text: str) -> None:
    """Append an entry; one ``write`` to a file opened for appending is never torn apart."""
    file = os.open(place(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{os.getpid()} {threading.get_ident()} {text}\n".encode())
    finally:
        os.close(file)


def read() -> list[Entry]:
    """Give all entries so far."""
    path = place()
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")  # a reader may see half of an entry that crosses two pages
    parts = (line.split(" ", 2) for line in whole.splitlines())
    return [Entry(int(pid), int(thread), text) for pid, thread, text in parts]


def texts() -> list[str]:
    """Give what was noted, without by whom."""
    return [entry.text for entry in read()]


def count(prefix: str) -> int:
    """Give how many entries begin so."""
    return sum(text.startswith(prefix) for text in texts())


def wait_for(prefix: str, times: int = 1, patience: float = PATIENCE) -> None:
    """Wait until so many entries begin with *prefix*.

    Raises:
        TimeoutError: If they do not come.
    """
    deadline = time.monotonic() + patience
    while count(prefix) < times:
        if time.monotonic() > deadline:
            message = f"no {times} x {prefix!r} in the ledger: {texts()[-20:]}"
            raise TimeoutError(message)
        time.sleep(0.002)


def span(name: str) -> Iterator[str]:
    """Note a setup and its cleanup: for providers to delegate to with ``yield from``."""
    note(f"{name}+")
    try:
        yield name
    finally:
        note(f"{name}-")


def check_balanced(lost: Collection[int] = (), interrupted: Collection[int] = ()) -> None:
    """Every setup (``name+``) has exactly one cleanup (``name-``), in its process, in reverse order in its family.

    The last word of a name is its family. Entries that end otherwise are passed over. What *lost* processes had open
    may have stayed so; of each of the *interrupted* ones what the signal hit in the middle of its setup or cleanup.
    """
    stacks: dict[tuple[int, str], list[str]] = {}
    spared = set(interrupted)
    for entry in read():
        name, sign = entry.text[:-1], entry.text[-1]
        stack = stacks.setdefault((entry.pid, name.split(" ")[-1]), [])
        if sign == "+":
            stack.append(name)
        elif sign == "-":
            if entry.pid in spared and stack[-2:-1] == [name]:
                spared.remove(entry.pid)
                stack.pop()
            assert stack, f"{entry} closes what its process has not open"
            assert stack.pop() == name, f"{entry} does not close the newest: {stack}"
    left = {key: names for key, names in stacks.items() if names and key[0] not in lost}
    for key, names in list(left.items()):
        if len(names) == 1 and key[0] in spared:
            spared.remove(key[0])
            del left[key]
    assert not left, f"never closed: {left}"
