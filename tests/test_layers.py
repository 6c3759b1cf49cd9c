"""Imports point down, as the rooms are laid out; also those under ``TYPE_CHECKING`` and inside functions."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "poolinject"
ROOMS = {  # what each room may import beside itself
    "errors": set[str](),
    "_references": set[str](),
    "_exceptions": set[str](),
    "_atoms": {"_references"},
    "markers": {"errors"},
    "_injection": {"_atoms", "_exceptions", "markers", "errors"},
    "_transport": {"_atoms", "_references", "markers", "errors"},
    "_worker": {"_atoms", "_transport", "_injection", "markers", "errors"},
    "backends": {"_references", "_worker", "_transport", "_injection", "markers", "errors"},
    "_scheduling": {"_exceptions", "backends", "_worker", "_transport", "_injection", "markers", "errors"},
    "_options": {"_scheduling", "backends", "_worker", "_transport", "_injection", "markers", "errors"},
    "_wiring": {"_exceptions", "_options", "_scheduling", "backends", "_injection", "markers", "errors"},
    "_async_pool": {"_wiring", "_options", "_scheduling", "_transport", "_injection", "markers", "errors"},
    "pool": {
        "_async_pool",
        "_wiring",
        "_options",
        "_scheduling",
        "backends",
        "_worker",
        "_transport",
        "_injection",
        "markers",
        "errors",
    },
    "__init__": {"pool", "_scheduling", "backends", "_transport", "_injection", "markers", "errors"},
}
NEVER = {  # libraries that have no place in a room
    "_injection": {"multiprocessing", "socket", "subprocess", "tqdm", "cloudpickle", "pickle"},
    "_transport": {"fastapi", "asyncio", "tqdm", "subprocess"},
    "_worker": {"tqdm", "subprocess"},
    "_scheduling": {"pickle", "cloudpickle", "fastapi", "subprocess", "socket"},
    "pool": {"pickle", "cloudpickle", "subprocess", "socket"},
}
PURE = ("scheduler", "state", "chunking", "backpressure", "retries", "losses", "placing")
IMPURE = {"time", "threading", "os", "socket", "selectors", "queue", "logging", "asyncio", "random"}
FILES = sorted(PACKAGE.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])


def module_of(path: Path) -> str:
    """Give the dotted name of a file, below the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """Give the room of a module below the package."""
    return module.partition(".")[0]


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    """List everything that a file imports, wherever in the file."""
    return frozenset(_imports_of(path))


def _imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write absolute imports"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = {module_of(path): path for path in FILES}


def own_imports(path: Path) -> set[str]:
    """List the modules of the package that a file imports, by their names below it."""
    found = set()
    for name in imports_of(path):
        root, _, below = name.partition(".")
        if root == "poolinject":
            found.add(next((part for part in (below, below.rpartition(".")[0]) if part in MODULES), "__init__"))
    return found


def test_every_room_is_known() -> None:
    """A new room must find its place in the order."""
    assert {room_of(module) for module in MODULES} == set(ROOMS)


@each_file
def test_imports_point_down(path: Path) -> None:
    """A module imports from its own room and from those below."""
    room = room_of(module_of(path))
    wrong = {name for name in own_imports(path) if room_of(name) not in ROOMS[room] | {room}}
    assert not wrong


@each_file
def test_room_keeps_out_what_is_not_its_subject(path: Path) -> None:
    """No processes in the injection, no pickling in the scheduling."""
    libraries = {name.partition(".")[0] for name in imports_of(path)}
    assert not libraries & NEVER.get(room_of(module_of(path)), set())


@pytest.mark.parametrize("name", PURE)
def test_deciding_modules_have_neither_clock_nor_input(name: str) -> None:
    """The state machine and its parts cannot wait, look at the time or talk to anybody."""
    assert not {library.partition(".")[0] for library in imports_of(PACKAGE / "_scheduling" / f"{name}.py")} & IMPURE


def test_no_import_cycle() -> None:
    """Also between modules of one room, and for the type checker."""
    graph = {module: own_imports(path) - {module} for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for below in sorted(graph[module]):
                visit(below, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())
