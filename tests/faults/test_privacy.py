"""Nobody else can get at what caller and workers share, and errors tell no more of items than they may."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from poolinject import InjectedPool
from poolinject._worker.control import shared_memory
from tests.conftest import Kind
from tests.faults.conftest import Begin
from tests.faults.sessions import SHARED
from tests.pool.ledger import note, wait_for

LISTENING = 0x10000  # in the flags of /proc/net/unix
SECRET = "open sesame"  # noqa: S105 - no password
needs_proc = pytest.mark.skipif(not Path("/proc/net/unix").exists(), reason="sockets are looked up in /proc")


def unix_sockets() -> dict[int, tuple[int, str]]:
    """Give flags and path of each socket by its inode."""
    found = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *path = line.split(maxsplit=7)
        found[int(inode)] = int(flags, 16), "".join(path)
    return found


def internet_sockets() -> set[int]:
    """Give the inodes of the others."""
    names = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
    tables = [table for name in names if (table := Path(f"/proc/net/{name}")).exists()]
    return {int(line.split()[9]) for table in tables for line in table.read_text().splitlines()[1:]}


def sockets_of(pid: int) -> Iterator[int]:
    """Give the inodes of the sockets that a process has open."""
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(file))  # noqa: PTH115 - a socket is no path
            if match is not None:
                yield int(match[1])


@needs_proc
def test_no_process_listens_or_has_a_named_socket(begin: Begin, ledger: ModuleType, start: Kind) -> None:
    """Caller, fork server, template and workers alike, while items run."""
    session = begin(
        "-c",
        "from poolinject import InjectedPool\n"
        "from tests.faults.test_privacy import hold\n"
        f"with InjectedPool(2, start_method={str(start)!r}) as pool: pool.map(hold, range(2), chunksize=1)",
    )
    ledger.wait_for("began", 2)
    processes = session.processes()
    known, internet = unix_sockets(), internet_sockets()
    inodes = {inode for pid in processes for inode in sockets_of(pid)}
    assert len(processes) == (5 if start.start_method == "forkserver" else 3)
    assert len(inodes) >= 4
    assert inodes <= known.keys()
    assert not inodes & internet
    assert [known[inode] for inode in inodes if known[inode][0] & LISTENING or known[inode][1]] == []
    ledger.note("release")
    session.caller.wait(15)
    session.check_nothing_left()


def hold(item: int) -> int:
    """Wait for the test."""
    note("began")
    wait_for("release")
    return item


def list_shared(item: int) -> list[str]:
    """Give the name of each file that this worker has mapped to write to it and share that."""
    maps = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    return [parts[5] for parts in maps if parts[1] == "rw-s" and len(parts) == 6]


@needs_proc
def test_what_is_shared_is_nowhere_in_the_file_system(start: Kind, ledger: ModuleType) -> None:
    """It is mapped, but its name is gone."""
    places = SHARED, Path(tempfile.gettempdir())
    before = [set(place.glob("*poolinject*")) for place in places]
    with start.pool(1) as pool:
        (found,) = pool.map(list_shared, [0])
        assert len(found) >= 3
        assert all(name.endswith("(deleted)") for name in found)
        assert [set(place.glob("*poolinject*")) for place in places] == before


@pytest.mark.parametrize("has_memfd", [True, False])
def test_shared_memory_is_for_its_owner(has_memfd: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that no other user may open, that has no name and that no program started from here inherits."""
    if not has_memfd:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fd = shared_memory(4096)
    try:
        state = os.fstat(fd)
        assert stat.S_IMODE(state.st_mode) == 0o600
        assert (state.st_nlink, state.st_uid, state.st_size) == (0, os.getuid(), 4096)
        assert not os.get_inheritable(fd)
        assert list(tmp_path.iterdir()) == []
    finally:
        os.close(fd)


def test_pool_works_without_memfd(
    monkeypatch: pytest.MonkeyPatch, start: Kind, tmp_path: Path, ledger: ModuleType
) -> None:
    """With memory from unnamed files."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with start.pool(2) as pool:
        assert pool.map(len, [bytes(1 << 20)] * 4) == [1 << 20] * 4
        assert list((tmp_path / "temporary").iterdir()) == []


def fail(item: str) -> None:
    """Fail without a word about the item."""
    raise ValueError("no")


class Locked:
    """An item that shows what it holds, and cannot be sent."""

    def __repr__(self) -> str:
        return SECRET

    def __reduce__(self) -> Any:
        raise TypeError("not for sending")


def fail_in_every_way(pool: InjectedPool, item: object) -> str:
    """Give everything that the errors of an item say."""
    errors: list[BaseException] = []
    for call in (
        lambda: pool.map(fail, [item]),
        lambda: list(pool.imap(fail, [item])),
        lambda: list(pool.imap_unordered(fail, [item])),
        lambda: pool.submit(fail, item).result(15),
    ):
        with pytest.raises(Exception) as caught:
            call()
        errors.append(caught.value)
    return "\n".join(
        text for error in errors for text in (str(error), repr(error), str(error.__cause__), *error.__notes__)
    )


@pytest.mark.parametrize("item", [SECRET, Locked()], ids=["fails", "cannot be sent"])
def test_errors_show_no_item_where_they_must_not(
    every_backend: Kind, item: object, capfd: pytest.CaptureFixture[str]
) -> None:
    """With ``repr_items=False`` they tell the index alone."""
    with every_backend.pool(1, repr_items=False) as pool:
        text = fail_in_every_way(pool, item)
    assert SECRET not in text
    assert text.count("item 0 failed in phase") == 4
    assert SECRET not in "".join(capfd.readouterr())


def test_errors_show_the_item_cut_short(every_backend: Kind) -> None:
    """By default, 200 characters of it."""
    with every_backend.pool(1) as pool:
        text = fail_in_every_way(pool, "x" * 1000)
    assert "x" * 199 in text
    assert "x" * 201 not in text
