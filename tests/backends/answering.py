"""Workers that answer commands, and the caller's side of them. Imports nothing that a worker would wait for."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from poolinject._transport.private_files import close_private, private_socketpair
from poolinject.backends._launch import WorkerProcess, launch

PATIENCE = 20.0
ENTRY = f"{__name__}:answer"


def answer(connection_fd: int) -> None:
    """Entry of the workers of this module: do as each line says until the caller is gone."""
    with socket.socket(fileno=connection_fd) as connection, connection.makefile("rw", encoding="utf-8") as stream:
        for line in stream:
            reply = COMMANDS[line.strip()]()
            stream.write(json.dumps(reply) + "\n")
            stream.flush()


def _tell() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "path": sys.path,
        "argv": sys.argv,
        "cwd": str(Path.cwd()),
        "environ": dict(os.environ),
        "stdin": os.fstat(0).st_rdev == Path(os.devnull).stat().st_rdev and sys.stdin.read() == "",
        "main_file": getattr(sys.modules["__main__"], "__file__", None),
        "sigint_ignored": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "sigterm_default": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        "sockets": sum(_is_socket(fd) for fd in range(3, 200)),
        "inheritable": [fd for fd in range(3, 200) if _is_socket(fd) and os.get_inheritable(fd)],
    }


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def _draw() -> float:
    drawn: float = sys.modules["numpy.random"].random()
    return drawn


def _fail() -> None:
    raise RuntimeError("a worker failed as it was told")


def _leave_grandchild() -> int:
    return subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(25)"], close_fds=False).pid


COMMANDS: dict[str, Callable[[], Any]] = {
    "tell": _tell,
    "modules": lambda: sorted(sys.modules),
    "parent": os.getppid,
    "random": _draw,
    "fail": _fail,
    "exit 0": lambda: sys.exit(0),
    "exit 3": lambda: sys.exit(3),
    "exit text": lambda: sys.exit("a last word"),
    "exit none": sys.exit,
    "grandchild": _leave_grandchild,
    "hang": lambda: time.sleep(25),
}


class Started:
    """A worker together with the caller's end of its connection."""

    all: ClassVar[list[Started]] = []

    def __init__(self, method: str, *preload: str) -> None:
        self.connection, theirs = private_socketpair()
        self.connection.settimeout(PATIENCE)
        try:
            self.process: WorkerProcess = launch(method, theirs, preload)
        except BaseException:
            close_private(self.connection)
            raise
        finally:
            close_private(theirs)
        self.all.append(self)

    def send(self, command: str) -> None:
        """Give a command that gets no answer."""
        self.connection.sendall(f"{command}\n".encode())

    def ask(self, command: str) -> Any:
        """Give a command and wait for its answer."""
        self.send(command)
        with self.connection.makefile(encoding="utf-8") as stream:
            return json.loads(stream.readline())

    def end(self) -> int | None:
        """Hang up, so that the entry returns; then give the exit code."""
        close_private(self.connection)
        code = self.process.wait(PATIENCE)
        self.process.kill(signal.SIGKILL)
        self.process.close()
        return code


def exists(pid: int) -> bool:
    """Whether the process is there, be it as a zombie."""
    return Path(f"/proc/{pid}").exists()


def vanishes(pid: int) -> bool:
    """Wait for the end of a process, and say whether it has come."""
    deadline = time.monotonic() + PATIENCE
    while exists(pid) and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    return not exists(pid)
