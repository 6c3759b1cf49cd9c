"""A program in a session of its own, and what is left of it: processes, open scopes, files, sockets."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
RUNS = "POOLINJECT_FAULT_RUNS"
SEED = os.environ.get("POOLINJECT_FAULT_SEED") or str(random.SystemRandom().getrandbits(32))
PATIENCE = 20.0
SHARED = Path("/dev/shm")  # noqa: S108 - looked at, not written to


def runs(usual: int) -> range:
    """Number the runs of a test at random moments: the usual ones, or as many as the environment says."""
    return range(int(os.environ.get(RUNS, usual)))


def chance(*what: object) -> random.Random:
    """Give the random numbers of one run; ``POOLINJECT_FAULT_SEED`` repeats those of an earlier one."""
    return random.Random(f"{SEED} {what}")  # noqa: S311 - moments, not secrets


class Session:
    """A program with everything that it starts."""

    def __init__(self, arguments: list[str], ledger: ModuleType, folder: Path) -> None:
        self._ledger, self.temporary = ledger, folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        self._shared = set(SHARED.glob("*"))
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))}
        self.caller = subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**environ, "TMPDIR": str(self.temporary)},
            start_new_session=True,
        )

    def kill(self) -> None:
        """End the caller without a chance to do anything, and wait for that."""
        self.caller.kill()
        self.caller.wait(PATIENCE)

    def processes(self) -> dict[int, str]:
        """Give the processes of the session that have not ended, and their command lines."""
        return dict(self._processes())

    def _processes(self) -> Iterator[tuple[int, str]]:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (folder / "stat").read_text().rpartition(") ")[2].split()[:4]
                if int(session) == self.caller.pid and state not in "ZX":
                    yield int(folder.name), (folder / "cmdline").read_text().replace("\0", " ")[:200]
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue

    def vanishes(self, patience: float) -> float:
        """Wait until no process is left, and give how long that took.

        Raises:
            TimeoutError: If one stays.
        """
        began = time.monotonic()
        while left := self.processes():
            if time.monotonic() - began > patience:
                message = f"still there after {patience} s: {left}; ledger: {self._ledger.texts()[-10:]}"
                raise TimeoutError(message)
            time.sleep(0.005)
        return time.monotonic() - began

    def output(self) -> str:
        """Give what the session has written to its standard error."""
        return self.caller.communicate(timeout=PATIENCE)[1]

    def open_scopes(self) -> list[tuple[int, str]]:
        """Give what processes have opened and not closed.

        One that was interrupted before it could say that it was open may have been closed all the same.
        """
        entries = self._ledger.read()
        opened = Counter((entry.pid, entry.text[:-1]) for entry in entries if entry.text.endswith("+"))
        opened.subtract((entry.pid, entry.text[:-1]) for entry in entries if entry.text.endswith("-"))
        return [scope for scope, count in opened.items() if count > 0]

    def check_nothing_left(self) -> None:
        """No scope is open, no file is left."""
        assert self.open_scopes() == []
        assert list(self.temporary.iterdir()) == []
        assert {path.name for path in set(SHARED.glob("*")) - self._shared if "poolinject" in path.name} == set()
        assert "poolinject" not in Path("/proc/net/unix").read_text()

    def end(self) -> None:
        """Leave nothing behind, whatever has gone wrong."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.caller.communicate(timeout=PATIENCE)
