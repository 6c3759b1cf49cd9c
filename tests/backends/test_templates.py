"""What is imported ahead of the fork, by which process, and what happens where that does no good."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from poolinject.backends import _servers
from poolinject.errors import BackendUnavailableError
from tests.backends.answering import Started, vanishes

REFUSE_TO_FORK = """
from poolinject.backends import _forkserver
def fork(): raise OSError(11, "no more processes")
_forkserver.fork = fork
"""
UNFIT = {
    "thread": "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n",
    "raw thread": "import _thread, time\n_thread.start_new_thread(time.sleep, (60,))\n",
    "file": "kept = open(__file__)\n",
    "socket": "import socket\nkept = socket.socket()\n",
    "child": "import subprocess\nkept = subprocess.Popen(['sleep', '30'], close_fds=True)\n",
    "end": "import os\nos._exit(9)\n",
    "signal": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
}
FIT = {
    "nothing": "",
    "error": "raise RuntimeError('when it is imported')\n",
    "exit": "raise SystemExit(3)\n",
    "interrupt": "raise KeyboardInterrupt\n",
    "handlers": "import signal\nfor each in ('SIGCHLD', 'SIGINT', 'SIGTERM'):\n"
    "    signal.signal(getattr(signal, each), signal.SIG_DFL)\n",
    "thread that ends": "import threading\nhelper = threading.Thread(target=int)\nhelper.start()\nhelper.join()\n",
    "child that ends": "import subprocess\nsubprocess.run(['true'])\n",
}

_numbers = itertools.count()

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Give a function that writes a module, which notes each import of it in a file called ``imports``."""
    monkeypatch.syspath_prepend(tmp_path)
    own_name = f"imported_ahead_{next(_numbers)}"

    def write(text: str = "", name: str = own_name) -> str:
        note = f"import os\nwith open({str(tmp_path / 'imports')!r}, 'a') as f:\n    print(os.getpid(), file=f)\n"
        (tmp_path / f"{name}.py").write_text(note + text)
        return name

    return write


@pytest.fixture
def imports(tmp_path: Path) -> Callable[[], list[int]]:
    """Give a function that tells which processes have imported modules, one for each time."""
    place = tmp_path / "imports"
    return lambda: [int(line) for line in place.read_text().split()] if place.exists() else []


def _end(*workers: Started) -> list[int | None]:
    return [worker.end() for worker in workers]


def _template_pid() -> int:
    assert _servers._template is not None
    return _servers._template.server.process.pid


def _server_pid() -> int:
    assert _servers._server is not None
    return _servers._server.process.pid


def test_a_module_is_imported_once_for_all_workers(
    module: Callable[..., str], imports: Callable[[], list[int]]
) -> None:
    """By one process, from which all of them are forked; workers that come later get it, too."""
    name = module()
    workers = [Started("forkserver", name) for _ in range(4)]
    assert all(name in worker.ask("modules") for worker in workers)
    assert {worker.ask("parent") for worker in workers} == set(imports()) == {_template_pid()}
    assert len(imports()) == 1
    assert _end(*workers) == [0, 0, 0, 0]
    later = Started("forkserver", name)
    assert later.ask("parent") == _template_pid()
    assert len(imports()) == 1
    assert _end(later) == [0]


def test_other_modules_come_from_another_template_of_the_same_server(module: Callable[..., str]) -> None:
    """A worker sees what was imported for it; the template before ends, and goes on reporting until then."""
    first, second = module(name="imported_first"), module(name="imported_second")
    one = Started("forkserver", first)
    server, old = _server_pid(), _template_pid()
    other, bare = Started("forkserver", second), Started("forkserver")
    assert _server_pid() == server
    assert first in one.ask("modules")
    assert second in other.ask("modules")
    assert first not in other.ask("modules")
    assert not {first, second} & set(bare.ask("modules"))
    one.send("exit 3")
    assert _end(one, other, bare) == [3, 0, 0]
    assert vanishes(old)


@pytest.mark.parametrize("change", ["file", "helper", "environment", "folder", "path"])
def test_a_change_is_seen_by_the_next_worker(
    change: str,
    module: Callable[..., str],
    imports: Callable[[], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Whatever the module, or another that it imports, would read when it is imported is as it is now."""
    module("STATE = 1\n", name="helper_of_it")
    name = module("import helper_of_it\n")
    first = Started("forkserver", name)
    match change:
        case "file":
            module("import helper_of_it\nCHANGED = True\n")
        case "helper":
            module("STATE = 'changed'\n", name="helper_of_it")
        case "environment":
            monkeypatch.setenv("POOLINJECT_TEST", "changed")
        case "folder":
            monkeypatch.chdir(tmp_path)
        case "path":
            monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "more")])
    second = Started("forkserver", name)
    assert len(set(imports())) == 2
    assert first.ask("parent") != second.ask("parent") == _template_pid()
    assert _end(first, second) == [0, 0]


@pytest.mark.parametrize("text", UNFIT.values(), ids=UNFIT)
def test_what_a_fork_would_break_is_left_to_the_workers(
    text: str, module: Callable[..., str], imports: Callable[[], list[int]]
) -> None:
    """A module that starts something when it is imported costs one attempt; workers come from the clean server."""
    name = module(text)
    workers = [Started("forkserver", name) for _ in range(3)]
    assert len(imports()) == 1
    assert _servers._template is None
    assert vanishes(imports()[0])
    assert {worker.ask("parent") for worker in workers} == {_server_pid()}
    assert not any(name in worker.ask("modules") for worker in workers)
    assert _end(*workers) == [0, 0, 0]


@pytest.mark.parametrize("text", FIT.values(), ids=FIT)
def test_what_leaves_nothing_but_memory_does_no_harm(
    text: str, module: Callable[..., str], imports: Callable[[], list[int]]
) -> None:
    """Not even an import that fails: the worker will try again, and say why."""
    name = module(text)
    workers = [Started("forkserver", name) for _ in range(2)]
    assert len(imports()) == 1
    assert {worker.ask("parent") for worker in workers} == {_template_pid()}
    for pid in (_template_pid(), workers[0].process.pid):
        os.kill(pid, signal.SIGINT)
    told = workers[0].ask("tell")
    assert told["sigint_ignored"]
    assert told["sigterm_default"]
    workers[0].send("exit 3")
    assert _end(*workers) == [3, 0]


def test_numpy_is_fit_and_its_randomness_differs() -> None:
    """Its threads are ready for a fork, and workers do not all draw the same numbers."""
    pytest.importorskip("numpy")
    workers = [Started("forkserver", "numpy.random") for _ in range(3)]
    assert {worker.ask("parent") for worker in workers} == {_template_pid()}
    assert len({worker.ask("random") for worker in workers}) == 3
    assert _end(*workers) == [0, 0, 0]


def test_numpy_that_a_module_has_seeded_stays_seeded(module: Callable[..., str]) -> None:
    """Who asked for the same numbers each time gets them."""
    pytest.importorskip("numpy")
    name = module("import numpy\nnumpy.random.seed(42)\n")
    workers = [Started("forkserver", name) for _ in range(2)]
    assert len({worker.ask("random") for worker in workers}) == 1
    assert _end(*workers) == [0, 0]


def test_slow_import_is_given_up_in_time(module: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that takes too long costs that time once; workers then import it in their own time."""
    name = module("import time\ntime.sleep(25)\n")
    Started("forkserver")
    monkeypatch.setattr(_servers, "IMPORT_TIMEOUT", 0.2)
    workers = [Started("forkserver", name) for _ in range(2)]
    assert {worker.ask("parent") for worker in workers} == {_server_pid()}


def test_without_a_list_of_threads_nothing_is_imported_ahead(
    module: Callable[..., str], imports: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where a system does not tell whether a fork is safe, workers import for themselves."""
    monkeypatch.setattr(_servers, "TASKS", tmp_path / "nowhere")
    worker = Started("forkserver", module())
    assert worker.ask("parent") == _server_pid()
    assert imports() == []
    assert _end(worker) == [0]


@pytest.mark.parametrize("victim", ["template", "server"])
def test_killed_process_is_replaced(victim: str, module: Callable[..., str], imports: Callable[[], list[int]]) -> None:
    """The next worker comes from a new one, whichever has died."""
    name = module()
    Started("forkserver", name).end()
    pid = _template_pid() if victim == "template" else _server_pid()
    os.kill(pid, signal.SIGKILL)
    assert vanishes(pid) or victim == "template"
    worker = Started("forkserver", name)
    assert worker.ask("parent") == _template_pid()
    assert len(imports()) == 2 or victim == "server"
    assert _end(worker) == [0]


def test_template_that_cannot_fork_is_an_error(module: Callable[..., str]) -> None:
    """A refusal by the system is told."""
    with pytest.raises(BackendUnavailableError, match=r"no process could be started: .*unavailable"):
        Started("forkserver", module(REFUSE_TO_FORK))


def test_threads_that_launch_at_once_share_one_template(
    module: Callable[..., str], imports: Callable[[], list[int]]
) -> None:
    """The modules are imported once however many threads ask for them."""
    name = module("import time\ntime.sleep(0.05)\n")
    with ThreadPoolExecutor(6) as threads:
        workers = list(threads.map(lambda _: Started("forkserver", name), range(6)))
    assert len(imports()) == 1
    assert {worker.ask("parent") for worker in workers} == {_template_pid()}
    assert _end(*workers) == [0] * 6


@pytest.mark.usefixtures("_fresh_server")
def test_template_ends_with_the_server(module: Callable[..., str]) -> None:
    """Letting the server go lets the template go, too, once its last worker has been reported."""
    worker = Started("forkserver", module())
    pids = _server_pid(), _template_pid()
    _servers.stop_server()
    worker.send("exit 3")
    assert _end(worker) == [3]
    assert all(vanishes(pid) for pid in pids)


def test_forked_process_of_the_user_leaves_the_template_alone(module: Callable[..., str]) -> None:
    """It forgets the one of its parent, whose workers go on."""
    worker = Started("forkserver", module())
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _servers._template is None and _servers._server is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert worker.ask("parent") == _template_pid()
    assert _end(worker) == [0]
