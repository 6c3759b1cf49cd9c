"""Starting worker processes by each method, what they inherit, and how their end is reported."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

from poolinject._transport.private_files import close_private, private_socketpair
from poolinject.backends import _servers
from poolinject.backends._forkserver import ORPHAN_SECONDS
from poolinject.backends._launch import UNKNOWN, WorkerProcess, available_start_methods
from poolinject.errors import BackendUnavailableError
from tests import MEASURED, unmeasured
from tests.backends.answering import ENTRY, PATIENCE, Started, exists, vanishes

pytestmark = pytest.mark.timeout(30)


def _is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def _server() -> WorkerProcess:
    assert _servers._server is not None
    return _servers._server.process


def test_forkserver_is_the_default() -> None:
    """The first method that is available is the default."""
    assert available_start_methods() == ("forkserver", "spawn", "fork")


def test_methods_follow_what_the_system_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without passing files between processes there is no server; without fork there is nothing."""
    monkeypatch.delattr(socket, "send_fds")
    assert available_start_methods() == ("spawn", "fork")
    monkeypatch.delattr(os, "fork")
    assert available_start_methods() == ()


def test_unknown_method_is_refused() -> None:
    """A method that does not exist is an error that names those that do."""
    with pytest.raises(BackendUnavailableError, match="forkserver"):
        Started("teleport")


@pytest.mark.usefixtures("_fresh_server")
@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 0", 0), ("exit none", 0), ("exit 3", 3), ("exit text", 1), ("fail", 1), ("", 0)],
)
def test_exit_code_is_reported(method: str, command: str, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Returning, ``sys.exit`` and an exception give the codes that an interpreter gives, and say why."""
    worker = Started(method)
    if command:
        worker.send(command)
    assert worker.end() == code
    assert {"exit text": "a last word", "fail": "RuntimeError: a worker failed"}.get(
        command, ""
    ) in capfd.readouterr().err


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_signal_is_reported_as_a_negative_code(method: str, signum: signal.Signals) -> None:
    """A worker ended by a signal has its negated number as the exit code."""
    worker = Started(method)
    assert worker.ask("tell")["pid"] == worker.process.pid
    assert worker.process.poll() is None
    assert worker.process.wait(0) is None
    worker.process.kill(signum)
    assert worker.end() == -signum


def test_sentinel_stays_readable_until_close(method: str) -> None:
    """The sentinel is silent while the worker lives, and readable from its end on, also after the code was read."""
    worker = Started(method)
    worker.ask("tell")
    assert not _is_readable(worker.process.sentinel)
    worker.send("exit 3")
    assert select.select([worker.process.sentinel], [], [], PATIENCE)[0]
    assert [worker.process.poll(), worker.process.wait(0), worker.process.poll()] == [3, 3, 3]
    assert _is_readable(worker.process.sentinel)
    assert worker.end() == 3
    assert worker.process.sentinel == -1
    assert worker.process.poll() == 3
    worker.process.close()


def test_handle_closed_early_knows_nothing(method: str) -> None:
    """Closing the handle of a living worker leaves it alone for the moment, and its end unknown."""
    worker = Started(method)
    worker.process.close()
    worker.process.kill(signal.SIGKILL)
    assert worker.ask("tell")["pid"] == worker.process.pid
    assert worker.process.wait(0) is None
    worker.end()
    assert vanishes(worker.process.pid)


def test_worker_that_nobody_waits_for_is_ended_by_the_server() -> None:
    """Also one that is at something which does not notice; others are left alone."""
    hanging, other = Started("forkserver"), Started("forkserver")
    hanging.send("hang")
    hanging.process.close()
    began = time.monotonic()
    assert vanishes(hanging.process.pid)
    assert ORPHAN_SECONDS - 0.1 < time.monotonic() - began < ORPHAN_SECONDS + 5
    assert other.ask("tell")["pid"] == other.process.pid
    assert other.end() == 0


def test_worker_sees_the_surroundings_of_the_caller(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Import path, arguments, folder and environment are those at the start of the worker, also after a change."""
    first = Started(method)
    monkeypatch.setenv("POOLINJECT_TEST", "caf\udce9 = \u2603")
    monkeypatch.setattr(sys, "argv", ["script.py", "--flag", "\u2603"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path, str(tmp_path / "more")])
    second = Started(method)
    told = second.ask("tell")
    assert told["pid"] == second.process.pid != first.process.pid
    assert told["argv"] == sys.argv
    assert told["cwd"] == str(tmp_path)
    told["environ"].pop(MEASURED, None)  # a measured run gives each process its own
    assert told["environ"] == unmeasured()
    assert [os.path.abspath(entry) for entry in told["path"]] == [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100
    assert [first.end(), second.end()] == [0, 0]


STRANGE = ["\0", "\ud800", "x" * (1 << 17)]


@pytest.mark.usefixtures("_fresh_server")
@pytest.mark.parametrize("fresh", ["forkserver", "spawn"])
@pytest.mark.parametrize(
    ("argv", "told"),
    [(None, []), ((), []), (["me.py", 7, *STRANGE, "last"], ["me.py", "7", "", "", "", "last"])],
)
def test_arguments_that_cannot_travel_are_no_obstacle(
    fresh: str, argv: object, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs put anything there; the others keep their places. Such entries of the path are left out."""
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "path", [*STRANGE, *sys.path])
    worker = Started(fresh)
    answer = worker.ask("tell")
    assert answer["argv"] == told
    assert not {"", *STRANGE} & set(answer["path"])
    assert worker.end() == 0


@pytest.mark.parametrize("name", [None, ""])
@pytest.mark.parametrize("fresh", ["forkserver", "spawn"])
@pytest.mark.usefixtures("_fresh_server")
def test_interpreter_without_a_name_is_an_error(fresh: str, name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python has it where it is embedded in another program."""
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: name)
    with pytest.raises(BackendUnavailableError, match=r"sys\.executable names no interpreter"):
        Started(fresh)


@pytest.mark.parametrize("fresh", ["forkserver", "spawn"])
def test_relative_entry_of_the_path_stays_what_it_was(
    fresh: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A module that the caller has found there is found by a worker, also after the folder was changed."""
    folder = tmp_path / f"modules_{fresh}"
    folder.mkdir()
    (folder / f"found_by_{fresh}.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder.name, *sys.path])
    import_module(f"found_by_{fresh}")
    monkeypatch.chdir("/")
    worker = Started(fresh)
    assert worker.ask("tell")["path"][0] == str(folder)
    assert worker.end() == 0


def test_worker_is_shielded_from_the_terminal(method: str) -> None:
    """Standard input is empty, Ctrl-C is ignored, SIGTERM ends the worker, and its socket is not passed on."""
    worker = Started(method)
    told = worker.ask("tell")
    assert told["stdin"]
    assert told["sigint_ignored"]
    assert told["sigterm_default"]
    assert told["inheritable"] == []
    assert worker.end() == 0


@pytest.mark.parametrize("fresh", ["forkserver", "spawn"])
def test_worker_does_not_import_the_main_module(fresh: str) -> None:
    """A worker that is not a copy of the caller has no file as its main module."""
    worker = Started(fresh)
    assert worker.ask("tell")["main_file"] is None
    assert worker.end() == 0


def test_worker_holds_no_socket_of_another(method: str) -> None:
    """A worker holds as many sockets when others live as when it is alone."""
    workers = [Started(method) for _ in range(3)]
    counts = [worker.ask("tell")["sockets"] for worker in workers]
    assert len(set(counts)) == 1
    assert [worker.end() for worker in workers] == [0, 0, 0]


def test_forked_process_of_the_user_holds_no_private_file() -> None:
    """A process that the user's code forks does not hide the death of the caller from the workers."""
    ours, theirs = private_socketpair()
    reader, writer = os.pipe()
    worker = Started("forkserver")
    pid = os.fork()
    if pid == 0:
        worker.process.kill(signal.SIGKILL)
        null = Path(os.devnull).stat().st_rdev
        replaced = all(os.fstat(end.fileno()).st_rdev == null for end in (ours, theirs))
        os._exit(0 if replaced and _servers._server is None and worker.process.poll() == UNKNOWN else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert worker.ask("tell")["pid"] == worker.process.pid
    assert worker.end() == 0
    close_private(ours, theirs)
    os.close(reader)
    os.close(writer)


def test_grandchild_does_not_delay_the_report(method: str) -> None:
    """The end of a worker is seen although a process that it started lives on."""
    worker = Started(method)
    grandchild = worker.ask("grandchild")
    try:
        worker.process.kill(signal.SIGKILL)
        assert worker.process.wait(PATIENCE) == -signal.SIGKILL
        assert exists(grandchild)
    finally:
        os.kill(grandchild, signal.SIGKILL)
    worker.end()


def test_ended_worker_is_no_zombie_and_is_not_signalled(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ended worker disappears without a call on its handle, whose pid then gets no signal any more."""
    worker = Started(method)
    worker.send("exit 0")
    assert vanishes(worker.process.pid)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("signalled"))
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: pytest.fail("signalled"))
    worker.process.kill(signal.SIGKILL)
    assert worker.end() == 0


def test_without_waitid_and_pidfd_all_works_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems without these calls get the same codes and no zombies."""
    monkeypatch.delattr(os, "waitid")
    monkeypatch.delattr(os, "pidfd_open")
    worker = Started(method)
    worker.process.kill(signal.SIGTERM)
    assert worker.end() == -signal.SIGTERM
    assert vanishes(worker.process.pid)


def test_sigterm_right_after_the_start_is_not_lost(method: str) -> None:
    """Also where the caller has a handler, which a fork inherits before it lets go of it."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        for _ in range(10):
            worker = Started(method)
            worker.process.kill(signal.SIGTERM)
            assert worker.end() == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def test_children_of_the_user_are_not_reaped(method: str) -> None:
    """Only workers are waited for; the user still gets the exit code of a child of theirs."""
    child = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(7)"])
    worker = Started(method)
    assert worker.end() == 0
    assert child.wait(PATIENCE) == 7


def test_stolen_exit_code_is_unknown() -> None:
    """Where the program waits for every child itself, the end is seen and the code is unknown."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        worker = Started("spawn")
        assert worker.ask("tell")["pid"] == worker.process.pid
        assert worker.end() == UNKNOWN
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("_fresh_server")
def test_one_server_serves_every_launch() -> None:
    """The server is started once and goes when the caller lets it go."""
    workers = [Started("forkserver")]
    server = _server()
    workers += [Started("forkserver") for _ in range(2)]
    assert _server() is server
    assert [worker.end() for worker in workers] == [0, 0, 0]
    assert server.poll() is None
    _servers.stop_server()
    assert vanishes(server.pid)


@pytest.mark.usefixtures("_fresh_server")
def test_server_that_was_let_go_reports_its_last_workers() -> None:
    """Letting the server go costs no worker its exit code."""
    worker = Started("forkserver")
    pid = _server().pid
    _servers.stop_server()
    worker.send("exit 3")
    assert worker.end() == 3
    assert vanishes(pid)


@pytest.mark.usefixtures("_fresh_server")
def test_killed_server_is_replaced_and_its_workers_end() -> None:
    """When the server is killed, its workers are reported as ended with an unknown code, and a new one serves."""
    orphan = Started("forkserver")
    assert orphan.ask("tell")["pid"] == orphan.process.pid
    old = _server()
    os.kill(old.pid, signal.SIGKILL)
    replacement = Started("forkserver")
    assert _server() is not old
    assert replacement.ask("tell")["pid"] == replacement.process.pid
    assert orphan.process.wait(PATIENCE) == UNKNOWN
    assert vanishes(orphan.process.pid)
    assert vanishes(old.pid)
    orphan.end()
    assert replacement.end() == 0


def test_server_ignores_ctrl_c() -> None:
    """The SIGINT that a terminal sends to the whole group ends neither server nor worker."""
    worker = Started("forkserver")
    for pid in (_server().pid, worker.process.pid):
        os.kill(pid, signal.SIGINT)
    assert worker.ask("tell")["pid"] == worker.process.pid
    other = Started("forkserver")
    assert other.ask("tell")["pid"] == other.process.pid
    assert [worker.end(), other.end()] == [0, 0]


@pytest.mark.usefixtures("_fresh_server")
def test_silent_server_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer is an error after a bounded time."""
    Started("forkserver").end()
    monkeypatch.setattr(_servers, "START_TIMEOUT", 0.2)
    os.kill(_server().pid, signal.SIGSTOP)
    try:
        with pytest.raises(BackendUnavailableError, match=r"within 0\.2 s"):
            Started("forkserver")
    finally:
        os.kill(_server().pid, signal.SIGCONT)


@pytest.mark.usefixtures("_fresh_server")
def test_server_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends at once is noticed at once."""
    monkeypatch.setattr(_servers, "SERVER_ENTRY", f"{__name__}:answer_not")
    with pytest.raises(BackendUnavailableError, match="fork server ended"):
        Started("forkserver")


@pytest.mark.usefixtures("_fresh_server")
def test_interpreter_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program that cannot be run is named."""
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: str(tmp_path / "nowhere"))
    for name in ("spawn", "forkserver"):
        with pytest.raises(BackendUnavailableError, match="nowhere"):
            Started(name)


@pytest.mark.usefixtures("_fresh_server")
@pytest.mark.parametrize("fresh", ["forkserver", "spawn"])
def test_frozen_program_is_not_started_again(fresh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no interpreter; one that ``multiprocessing`` was told of is."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(BackendUnavailableError, match=r"start itself again; use start_method='fork'"):
        Started(fresh)
    assert Started("fork").end() == 0
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: sys.executable + "3")
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: pytest.fail(command[0]))
    with pytest.raises(pytest.fail.Exception, match="python3"):
        Started(fresh)


def _open_files() -> int:
    """Count the files of this process once the reporters of ended workers are gone."""
    server = f"poolinject-wait-{_server().pid}" if _servers._server else ""
    for thread in threading.enumerate():
        if thread.name.startswith("poolinject-wait") and thread.name != server:
            thread.join(PATIENCE)
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only counted


def test_caller_that_cannot_fork_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal by the system is told, and leaves no file behind."""
    before = _open_files()

    def refuse() -> int:
        raise BlockingIOError(11, "no more processes")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(BackendUnavailableError, match="no more processes"):
        Started("fork")
    assert _open_files() == before


@pytest.mark.usefixtures("_fresh_server")
def test_interrupted_request_costs_the_server_but_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C in the middle of a request a new server serves, and earlier workers are still reported."""
    first = Started("forkserver")
    old = _server()

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(socket, "send_fds", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Started("forkserver")
    second = Started("forkserver")
    assert _server() is not old
    first.send("exit 3")
    assert [first.end(), second.end()] == [3, 0]


def test_busy_server_lock_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for another thread's request is bounded too."""
    monkeypatch.setattr(_servers, "START_TIMEOUT", 0.1)
    with _servers._lock, pytest.raises(BackendUnavailableError, match=r"within 0\.1 s"):
        Started("forkserver")


@pytest.mark.usefixtures("_fresh_server")
def test_folder_that_is_gone_is_no_obstacle(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller whose working folder was removed can start workers."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "path", [os.path.join(tmp_path, entry) for entry in sys.path])  # noqa: PTH118
    assert Started(method).end() == 0


def test_handle_without_pidfd_works(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """A kernel or sandbox that refuses a pidfd costs nothing but the last certainty."""

    def refuse(_pid: int) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refuse)
    worker = Started(method)
    assert repr(worker.process) == f"<WorkerProcess pid={worker.process.pid} exit_code=None>"
    worker.process.kill(signal.SIGKILL)
    assert worker.end() == -signal.SIGKILL


@pytest.mark.parametrize(("name", "count"), [("forkserver", 20), ("fork", 20), ("spawn", 3)])
def test_many_launches_leak_nothing(name: str, count: int) -> None:
    """Launches one after another leave neither files nor threads behind."""
    Started(name).end()
    before = _open_files()
    for _ in range(count):
        assert Started(name).end() == 0
    assert _open_files() == before


@pytest.mark.parametrize(("name", "count"), [("forkserver", 8), ("fork", 8), ("spawn", 3)])
def test_threads_launch_at_once(name: str, count: int) -> None:
    """Threads that launch at the same time get a worker each, and each worker sees the end of its own connection."""
    with ThreadPoolExecutor(count) as threads:
        workers = list(threads.map(lambda _: Started(name), range(count)))
    assert len({worker.ask("tell")["pid"] for worker in workers}) == count
    assert [worker.end() for worker in workers] == [0] * count


def test_server_and_workers_end_with_a_killed_caller(tmp_path: Path) -> None:
    """When the caller is killed, its server and its workers end by themselves."""
    script = tmp_path / "caller.py"
    script.write_text(
        "import os, signal, socket\n"
        "from poolinject.backends import _launch, _servers\n"
        f"_launch.WORKER_ENTRY = {ENTRY!r}\n"
        "ours, theirs = socket.socketpair()\n"
        "worker = _launch.launch('forkserver', theirs)\n"
        "print(worker.pid, _servers._server.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    done = subprocess.run([sys.executable, script], env=environ, stdout=subprocess.PIPE, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL
    assert all(vanishes(int(pid)) for pid in done.stdout.split())


@pytest.mark.parametrize(("parent", "code"), [("os.getppid()", 0), ("-1", UNKNOWN)])
def test_start_is_given_up_with_the_next_import(parent: str, code: int) -> None:
    """Once the parent is another; until then imports are as ever."""
    script = (
        "from poolinject.backends._boot import ending_with_parent\n"
        f"with ending_with_parent({parent}):\n"
        "    import wave\n"
        "assert 'wave' in sys.modules and len(sys.meta_path) == 3\n"
    )
    command = [sys.executable, "-I", "-S", "-c", f"import os, sys; sys.path[:0] = {sys.path!r}\n{script}"]
    assert subprocess.run(command, timeout=PATIENCE, check=False).returncode == code


def test_nothing_warns_at_the_end_of_the_program(tmp_path: Path) -> None:
    """A caller with a server, and with warnings as errors, ends without a word; so do its workers."""
    script = tmp_path / "caller.py"
    script.write_text(
        "from poolinject._transport import private_files\n"
        "from poolinject.backends import _launch\n"
        f"_launch.WORKER_ENTRY = {ENTRY!r}\n"
        "for method in _launch.available_start_methods():\n"
        "    ours, theirs = private_files.private_socketpair()\n"
        "    worker = _launch.launch(method, theirs)\n"
        "    private_files.close_private(ours, theirs)\n"
        f"    assert worker.wait({PATIENCE}) == 0\n"
        "    worker.close()\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    command = [sys.executable, "-X", "dev", "-W", "error", str(script)]
    done = subprocess.run(command, env=environ, capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
