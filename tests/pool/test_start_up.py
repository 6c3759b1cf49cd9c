"""How workers come by the modules of a run's functions, and that work begins with the first worker."""

from __future__ import annotations

import errno
import itertools
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import fastapi
import pytest

from poolinject import (
    BackendUnavailableError,
    Depends,
    Failure,
    InjectedPool,
    PlanError,
    PoolClosedError,
    PoolInjectError,
    TransportError,
    WorkerContext,
)
from poolinject._scheduling.driver import Driver
from poolinject._worker.control import Control
from tests.conftest import Kind
from tests.resources import check_nothing_left, resources

PATIENCE = 20.0
FUNCTIONS = """
import os, threading
def tell(item):
    return os.getpid(), os.getppid(), threading.active_count()
"""
ELSEWHERE = "if os.environ['POOLINJECT_TEST_CALLER'] != str(os.getpid()):\n    "
GATE = "POOLINJECT_TEST_GATE"
_numbers = itertools.count()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Give a function that writes a module which notes its imports, and imports it here."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("POOLINJECT_TEST_CALLER", str(os.getpid()))

    def write_module(text: str) -> ModuleType:
        name = f"functions_of_a_run_{next(_numbers)}"
        note = f"import os\nwith open({str(tmp_path / 'imports')!r}, 'a') as f:\n    print(os.getpid(), file=f)\n"
        (tmp_path / f"{name}.py").write_text(note + text + FUNCTIONS)
        return import_module(name)

    return write_module


@pytest.fixture
def imports(tmp_path: Path) -> Callable[[], list[int]]:
    """Give a function that tells which processes but this one have imported modules, one for each time."""
    own = os.getpid()
    return lambda: [pid for pid in map(int, (tmp_path / "imports").read_text().split()) if pid != own]


def test_a_module_is_imported_once_for_all_workers_and_pools(
    process: Kind, write: Callable[[str], ModuleType], imports: Callable[[], list[int]]
) -> None:
    """Four workers and a second pool come from the process that has made the imports."""
    module = write("")
    pids, parents = set(), set()
    for _ in range(2):
        with process.pool(4) as pool:
            for pid, parent, _threads in pool.imap_unordered(module.tell, range(200), chunksize=1):
                pids.add(pid)
                parents.add(parent)
    assert len(pids) > 2
    assert len(parents) == 1
    assert imports() == list(parents)


def test_modules_of_providers_and_of_functions_by_value_count(
    process: Kind, write: Callable[[str], ModuleType], imports: Callable[[], list[int]]
) -> None:
    """What a lambda, a partial or a provider needs is imported ahead as well."""
    module, provider = write(""), write("def provide():\n    return 1\n")

    def tell(item: int, one: int = fastapi.Depends(provider.provide)) -> Any:
        return module.tell(item)

    tell.__module__ = "__main__"  # as a script's or a notebook's
    with process.pool(3) as pool:
        parents = {parent for _, parent, _ in pool.map(tell, range(60), chunksize=1)}
    assert len(parents) == 1
    assert imports() == [*parents, *parents]


def test_a_module_that_fails_on_import_fails_its_items_only(
    process: Kind, write: Callable[[str], ModuleType], imports: Callable[[], list[int]]
) -> None:
    """The items say why, and the pool goes on."""
    module = write(f"{ELSEWHERE}raise RuntimeError('not here')\n")
    with process.pool(2) as pool:
        failures = pool.map(module.tell, range(4), on_error="return")
        assert {type(failure) for failure in failures} == {Failure}
        for failure in failures:
            assert failure.phase == "transport"
            assert isinstance(failure.error, TransportError)
            assert "not here" in str(failure.error)
        with pytest.raises(TransportError, match="not here"):
            pool.map(module.tell, range(4))
        assert pool.map(abs, [-1, -2]) == [1, 2]
    assert imports()


@pytest.mark.parametrize("ready", ["process", "thread"])
def test_a_module_that_runs_a_pool_when_it_is_imported_does_not_go_on_so_for_ever(
    start: Kind, write: Callable[[str], ModuleType], ready: str
) -> None:
    """Each worker would import it and start workers; a pool of threads starts none."""
    module = write(
        f"{ELSEWHERE}from poolinject import InjectedPool\n"
        f"    with InjectedPool(2, backend={ready!r}) as pool:\n"
        "        pool.map(abs, [1])\n"
    )
    with start.pool() as pool:
        if ready == "thread" or start.start_method == "fork":
            assert pool.map(module.tell, [1])
            return
        with pytest.raises(TransportError, match=r"at the top level of a module.*__name__ == '__main__'"):
            pool.map(module.tell, [1])


def test_a_module_that_starts_a_thread_has_it_in_every_worker(
    process: Kind, write: Callable[[str], ModuleType], imports: Callable[[], list[int]]
) -> None:
    """It is imported by each of them, since no fork would keep the thread."""
    module = write(
        f"import threading\n{ELSEWHERE}threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    with process.pool(3) as pool:
        told = pool.map(module.tell, range(60), chunksize=1)
        assert pool.map(abs, [-1]) == [1]
    assert {threads for _, _, threads in told} == {4}  # the main one, the module's, the worker's monitor and its watch
    assert {pid for pid, _, _ in told} <= set(imports())


def test_an_edited_module_reaches_the_next_pool(process: Kind, write: Callable[[str], ModuleType]) -> None:
    """Workers of a new pool have the file as it is, not as the last pool saw it."""
    module = write("VALUE = 'old'\ndef value(item):\n    return VALUE\n")
    with process.pool(2) as pool:
        assert set(pool.map(module.value, range(10))) == {"old"}
        place = Path(str(module.__file__))
        place.write_text(place.read_text().replace("'old'", "'changed'"))
        assert set(pool.map(module.value, range(10))) == {"old"}
    with process.pool(2) as pool:
        assert set(pool.map(module.value, range(10))) == {"changed"}


def test_work_begins_with_the_first_worker_that_is_ready(
    parallel: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is slow to warm up holds nobody back."""
    gate = tmp_path / "gate"
    monkeypatch.setenv(GATE, str(gate))
    pool = parallel.pool(2, lifetimes={wait_at_gate: "worker"}, warm=[wait_at_gate])
    try:
        assert pool.map(tell_worker, range(20)) == [1] * 20
    finally:
        gate.touch()
        pool.shutdown()


def test_nothing_is_started_for_what_cannot_run() -> None:
    """A pool that is only made, or asked for what is declared wrongly, has started no process."""
    with InjectedPool(2) as pool:
        with pytest.raises(PlanError):
            pool.map(lambda _item, missing: missing, [1])
        assert pool.workers == ()


def wait_at_gate(worker: WorkerContext) -> int:
    """Be slow in worker 0: until the gate is opened."""
    deadline = time.monotonic() + PATIENCE
    while worker.worker_id == 0 and not Path(os.environ[GATE]).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return worker.worker_id


def tell_worker(item: int, worker_id: Annotated[int, Depends(wait_at_gate)]) -> int:
    """Say which worker runs the item."""
    return worker_id


def test_too_few_files_are_said_to_be_the_reason(tmp_path: Path) -> None:
    """With how far it came; a smaller pool works in the same process, and the same one as soon as it may have them."""
    script = tmp_path / "script.py"
    script.write_text(
        "import resource\n"
        "from poolinject import BackendUnavailableError, InjectedPool\n"
        "with InjectedPool(1) as pool:\n"
        "    pool.map(abs, [1])\n"
        "limits = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))\n"
        "large = InjectedPool(40)\n"
        "try:\n"
        "    large.map(abs, [1])\n"
        "except BackendUnavailableError as error:\n"
        "    print(error)\n"
        "with InjectedPool(1) as pool:\n"
        "    print(pool.map(abs, [-1]))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, limits)\n"
        "with large:\n"
        "    print(large.map(abs, [-2]), len(large.workers))\n"
    )
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert re.search(
        r"Too many open files after \d+ of 40 workers. Ask for fewer, or raise ulimit -n\n\[1\]\n\[2\] 40\n",
        done.stdout,
    )
    assert not done.stderr


def test_a_limit_on_the_size_of_files_is_heeded(tmp_path: Path) -> None:
    """Shared memory counts as a file; what does not fit goes through the socket. Where nothing does, that is said."""
    script = tmp_path / "script.py"
    script.write_text(
        "import resource\n"
        "from poolinject import BackendUnavailableError, InjectedPool\n"
        "before = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "for size in (500_000_000, 1 << 20, 100_000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))\n"
        "    with InjectedPool(2) as pool:\n"
        "        try:\n"
        "            pool.map(len, [bytes(200_000)] * 20)\n"
        "            print(sum(map(len, pool.map(bytes, [300_000] * 20))))\n"
        "        except BackendUnavailableError as error:\n"
        "            print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, before)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert re.search(r"^6000000\n6000000\n.* 100000 bytes at the most.*raise ulimit -f", done.stdout)
    assert not done.stderr


def test_rights_that_the_caller_gave_up_are_gone_for_the_next_pool(tmp_path: Path) -> None:
    """As are its old limits; nothing is left of the process that the first pool started."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, resource\n"
        "from poolinject import InjectedPool\n"
        "def tell(item):\n"
        "    os.umask(mask := os.umask(0o077))\n"
        "    return os.getgroups(), mask, resource.getrlimit(resource.RLIMIT_CORE)\n"
        "with InjectedPool(1) as pool:\n"
        "    assert pool.map(tell, [0]) == [tell(0)]\n"
        "changes = [lambda: os.umask(0o027), lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))]\n"
        "if os.getuid() == 0:\n"
        "    changes.append(lambda: os.setgroups([12345]))\n"
        "for change in changes:\n"
        "    change()\n"
        "    with InjectedPool(1) as pool:\n"
        "        assert pool.map(tell, [0]) == [tell(0)]\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_too_little_memory_is_said_to_be_the_reason(process: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """As too few files are."""

    def refuse(_fd: int) -> Control:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr("poolinject.backends.process.map_control", refuse)
    with process.pool() as pool, pytest.raises(BackendUnavailableError, match=r"after 0 of 2 workers.*ulimit -v"):
        pool.map(abs, [-1])


@pytest.mark.parametrize("moment", ["before", "while"])
def test_a_beginning_that_is_interrupted_leaves_nothing_and_may_be_tried_again(
    every_backend: Kind, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the start of the workers and that of the thread that looks after them."""

    def begin(driver: Driver) -> None:
        if moment == "while":
            begin_whole(driver)
        raise KeyboardInterrupt

    begin_whole = Driver.begin
    monkeypatch.setattr(Driver, "begin", begin)
    pool = every_backend.pool()
    before = resources()
    with pytest.raises(KeyboardInterrupt):
        pool.map(abs, [-1])
    check_nothing_left(before)
    monkeypatch.undo()
    with pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]


def test_a_caller_may_have_more_than_1024_files(every_backend: Kind) -> None:
    """Which is as far as ``select`` goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ExitStack() as files:
            for _ in range(1025):
                files.enter_context(open(os.devnull))  # noqa: PTH123 - nothing is read
            with every_backend.pool() as pool:
                assert pool.map(abs, range(-9, 0), chunksize=1) == list(range(9, 0, -1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("wanted", ["shutdown", "map"])
def test_a_signal_handler_may_use_the_pool_whose_start_it_interrupts(
    every_backend: Kind, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shutdown ends it there; a run cannot wait for the start, which waits for the handler."""
    pool = every_backend.pool()
    backend = type(pool._engine.backend)  # a signal would come some time or other
    start_whole = backend.start

    def start(*arguments: Any) -> int:
        count = start_whole(*arguments)
        if wanted == "shutdown":
            assert pool.shutdown("cancel").clean
        else:
            with pytest.raises(PoolInjectError, match="is being started by the code that this one has interrupted"):
                pool.map(abs, [-2])
        return count

    monkeypatch.setattr(backend, "start", start)
    before = resources()
    if wanted == "map":
        with pool:
            assert pool.map(abs, [-1]) == [1]
        return
    with pytest.raises(PoolClosedError):
        pool.map(abs, [-1])
    check_nothing_left(before)
