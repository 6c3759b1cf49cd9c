"""Starts worker processes and learns how they end. Runs in the caller.

The main module of the caller is never imported again, so a script needs no guard. Three start methods:

- ``forkserver``: a server for each caller, with the imports already made, forks the workers.
- ``spawn``: a fresh interpreter for each worker.
- ``fork``: a copy of the caller, with all the dangers of forking a program that has threads.

A reporter (the server, or a thread of the caller) waits for exactly its own workers and writes each exit code
to a socket that only it holds. The other end of that socket is the sentinel.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

from poolinject._transport.private_files import close_private, private_socketpair, shared_with_fork
from poolinject.backends import _servers
from poolinject.backends._boot import UNKNOWN, WORKER_ENTRY, become_worker, fork
from poolinject.backends._interpreter import interrupts_blocked, spawn
from poolinject.backends._worker_process import WorkerProcess, watch
from poolinject.errors import BackendUnavailableError

__all__ = ["UNKNOWN", "WORKER_ENTRY", "WorkerProcess", "available_start_methods", "launch"]


def available_start_methods() -> tuple[str, ...]:
    """Give the start methods of this system, the default first."""
    if not hasattr(os, "fork"):
        return ()
    return ("forkserver", "spawn", "fork") if hasattr(socket, "send_fds") else ("spawn", "fork")


def launch(start_method: str, connection: socket.socket, preload: Sequence[str] = ()) -> WorkerProcess:
    """Start a worker that talks through *connection*, which the caller still has to close on its side.

    *preload* names modules that are imported before the fork server forks; the other methods pass over it.

    Raises:
        BackendUnavailableError: If the method does not exist here, or no process could be started in time. The
            connection is then of no use any more, since a worker may have received it.
    """
    if start_method not in available_start_methods():
        raise BackendUnavailableError("process", f"use one of the start methods {available_start_methods()}")
    try:
        if start_method == "forkserver":
            return _servers.fork_worker(connection, WORKER_ENTRY, preload)
        return spawn(connection, WORKER_ENTRY) if start_method == "spawn" else _fork(connection)
    except OSError as error:
        raise BackendUnavailableError("process", f"no process could be started: {error}") from error


def _fork(connection: socket.socket) -> WorkerProcess:
    ours, reporter = private_socketpair()
    fd = connection.fileno()
    try:
        with interrupts_blocked():
            with shared_with_fork(fd):
                pid = fork()
                if pid == 0:
                    become_worker(WORKER_ENTRY, fd, _empty_stdin)
            return watch(pid, ours, reporter)
    except BaseException:
        close_private(reporter, ours)
        raise


def _empty_stdin() -> None:
    """Leave the standard input to the caller."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
