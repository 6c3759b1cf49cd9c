"""Functions and classes of the main module: no guard, no second import, whatever the main module is."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 25.0
WAYS = ["file", "command", "stdin", "module"]


def run(script: str, how: str, folder: Path, *, options: str = "") -> str:
    """Run a script to its end and give what it wrote; it may write nothing to the standard error."""
    text = textwrap.dedent(script).replace("OPTIONS", options)
    path = folder / "my_script.py"
    path.write_text(text)
    arguments = {
        "file": [path.name],
        "command": ["-c", text],
        "stdin": ["-"],
        "module": ["-m", "my_script"],
    }[how]
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        input=text if how == "stdin" else None,
        stdin=None if how == "stdin" else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


BARE = """
import os
from poolinject import InjectedPool

print("imported", __name__)
OFFSET = 100

def shift(item):
    return item + OFFSET

pool = InjectedPool(2, OPTIONS)
print(sum(pool.map(shift, range(100))))
OFFSET = 0
print(sum(pool.map(shift, range(100))))
print(sum(pool.imap(lambda item: item * 2, range(100))))
print(sum(pool.submit(shift, item).result() for item in range(3)))
pool.shutdown()
"""


@pytest.mark.parametrize(
    ("how", "start_method"),
    [*((how, "forkserver") for how in WAYS), ("file", "spawn"), ("stdin", "spawn"), ("file", "fork")],
)
def test_a_bare_script_needs_no_guard(tmp_path: Path, how: str, start_method: str) -> None:
    """Its main module runs once; what it changes between runs reaches the workers."""
    out = run(BARE, how, tmp_path, options=f"start_method={start_method!r}")
    assert out == "imported __main__\n14950\n4950\n9900\n3\n"


OBJECTS = """
import dataclasses, enum
from typing import Annotated, NamedTuple
from poolinject import Depends, InjectedPool

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

@dataclasses.dataclass(frozen=True)
class Row:
    number: int
    colour: Colour = Colour.RED

class Point(NamedTuple):
    x: int
    y: int

class Plain:
    def __init__(self, value):
        self.value = value
    def doubled(self):
        return Plain(self.value * 2)

class RefusedError(Exception):
    def __init__(self, row, *, why):
        super().__init__(f"{why}: {row.number}")
        self.row, self.why = row, why

def get_colour() -> Colour:
    return Colour.BLUE

def paint(row: Row, colour: Annotated[Colour, Depends(get_colour)]) -> Row:
    assert type(row) is Row and row.colour is Colour.RED
    if row.number == 3:
        raise RefusedError(row, why="three")
    return dataclasses.replace(row, colour=colour)

with InjectedPool(2, OPTIONS) as pool:
    for _ in range(2):
        rows = pool.map(paint, map(Row, range(3)))
        assert rows == [Row(number, Colour.BLUE) for number in range(3)], rows
        assert all(type(row) is Row and row.colour is Colour.BLUE for row in rows)
        try:
            pool.map(paint, map(Row, range(10)))
        except RefusedError as error:
            assert error.row == Row(3) and error.why == "three" and str(error) == "three: 3"
        else:
            raise AssertionError("nothing was raised")
        assert pool.map(lambda point: Point(point.y, point.x), [Point(1, 2)]) == [Point(2, 1)]
        (plain,) = pool.map(Plain.doubled, [Plain(2)])
        assert type(plain) is Plain and plain.value == 4
        assert pool.map(Colour, [1, 2]) == [Colour.RED, Colour.BLUE]
        assert pool.map(type, [Row(1), Colour.RED]) == [Row, Colour]
        assert pool.starmap(Row, [(1, Colour.BLUE)]) == [Row(1, Colour.BLUE)]
print("done")
"""


@pytest.mark.parametrize(
    ("how", "backend_name"), [*((how, "process") for how in WAYS), ("file", "thread"), ("file", "inline")]
)
def test_classes_of_the_main_module_are_items_results_and_exceptions(
    tmp_path: Path, how: str, backend_name: str
) -> None:
    """They come back as the same classes, enum members as the same members."""
    assert run(OBJECTS, how, tmp_path, options=f"backend={backend_name!r}") == "done\n"


GUARDED = """
import sys
from concurrent.futures import ThreadPoolExecutor
from poolinject import InjectedPool

def work(item):
    return item, __name__

def main():
    with InjectedPool(2, OPTIONS) as pool:
        print(pool.map(work, [1, 2]))
    print(sorted(sys.argv[1:]))

if __name__ == "__main__":
    main()
"""


def test_a_guard_does_no_harm(tmp_path: Path) -> None:
    """``__name__`` is the same in the workers."""
    assert run(GUARDED, "file", tmp_path) == "[(1, '__main__'), (2, '__main__')]\n[]\n"


NEIGHBOUR = """
import neighbour
from poolinject import InjectedPool

with InjectedPool(2, OPTIONS) as pool:
    print(pool.map(neighbour.work, [1, 2]))
    print(pool.map(lambda item: neighbour.work(item), [1, 2]))
"""


@pytest.mark.parametrize("how", WAYS)
def test_modules_beside_the_script_are_found(tmp_path: Path, how: str) -> None:
    """They go by reference, so the workers look where the caller did."""
    (tmp_path / "neighbour.py").write_text("def work(item):\n    return item * 10\n")
    assert run(NEIGHBOUR, how, tmp_path) == "[10, 20]\n[10, 20]\n"


OUTPUT = """
import sys
from poolinject import InjectedPool

def speak(item):
    print("said", item)
    print("complained", item, file=sys.stderr)
    return sys.stdin.read()

with InjectedPool(1, OPTIONS) as pool:
    assert pool.map(speak, [1, 2]) == ["", ""]
"""


def test_what_workers_print_arrives_and_standard_input_stays_the_callers(tmp_path: Path) -> None:
    """Flushed at the latest when they end."""
    path = tmp_path / "script.py"
    path.write_text(OUTPUT.replace("OPTIONS", ""))
    done = subprocess.run(
        [sys.executable, path],
        input="not for workers",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout == "said 1\nsaid 2\n"
    assert done.stderr == "complained 1\ncomplained 2\n"


def test_a_traceback_shows_the_lines_of_the_script(tmp_path: Path) -> None:
    """Although its functions are sent by value."""
    script = tmp_path / "script.py"
    script.write_text(
        "from poolinject import InjectedPool\n"
        "def divide(item):\n"
        "    return 1 / item\n"
        "with InjectedPool(1) as pool:\n"
        "    print(pool.map(divide, [0], on_error='return')[0].traceback)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=30, check=True)
    assert f'File "{script}", line 3, in divide\n    return 1 / item\n' in done.stdout


CLASSES_OF_ALL_KINDS = """
import dataclasses
from poolinject import InjectedPool

class Plugin:
    registry = {}
    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        Plugin.registry[cls.__name__] = cls

class Shape(Plugin):
    def __init__(self, size):
        self.size = size

class Meta(type):
    made = []
    def __new__(meta, name, bases, namespace):
        cls = super().__new__(meta, name, bases, namespace)
        Meta.made.append(cls)
        return cls

class Row(metaclass=Meta):
    pass

class Slots:
    __slots__ = ("number", "__hidden")
    def __init__(self, number):
        self.number = self.__hidden = number

class MoreSlots(Slots):
    __slots__ = "more"

@dataclasses.dataclass(slots=True)
class Record:
    number: int

class Counter:
    used = 0

def count(counter):
    Counter.used += 1
    return Counter.used

with InjectedPool(1) as pool:
    print([type(shape) is Shape for shape in pool.map(Shape, range(2))], Plugin.registry == {"Shape": Shape})
    print(type(pool.submit(lambda: Row()).result()) is Row, Meta.made == [Row])
    print(pool.map(lambda cls: cls(1).number, [Slots, MoreSlots, Record]))
    print([made.number for made in pool.map(lambda cls: cls(2), [Slots, MoreSlots, Record])])
    print(pool.map(lambda item: (item.number, hasattr(item, "__dict__")), [Slots(3), MoreSlots(3), Record(3)]))
    print(pool.map(count, [Counter() for _ in range(6)], chunksize=2), Counter.used)
"""


def test_classes_of_the_main_module_stay_what_they_are(tmp_path: Path) -> None:
    """Nobody here hears of those that workers make; slots stay slots; what items have set in a class there stays."""
    assert run(CLASSES_OF_ALL_KINDS, "file", tmp_path).splitlines() == [
        "[True, True] True",
        "True True",
        "[1, 1, 1]",
        "[2, 2, 2]",
        "[(3, False), (3, False), (3, False)]",
        "[1, 2, 3, 4, 5, 6] 0",
    ]


CACHED = """
import functools
from typing import Annotated
from poolinject import Depends, InjectedPool

@functools.lru_cache
def get_settings():
    return {"offset": 100}

@functools.lru_cache(maxsize=None)
def fibonacci(number):
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)

@functools.singledispatch
def describe(value):
    return "thing"

@describe.register
def _(value: int):
    return "number"

class Circle:
    @functools.cached_property
    def area(self):
        return 3

    @functools.lru_cache(maxsize=5)
    def name(self):
        return "circle"

def work(item, settings: Annotated[dict, Depends(get_settings)]):
    circle = Circle()
    return settings["offset"], fibonacci(30), describe(item), circle.area, vars(circle), circle.name()

with InjectedPool(2) as pool:
    print(pool.map(work, [1, "a"]))
    print(pool.map(lambda cached: (cached(10), cached.cache_info().maxsize, cached.__name__), [fibonacci] * 2))
    print(pool.map(lambda circle: circle.area, [Circle()]), len(pool.map(lambda item: fibonacci, range(2))))
"""


def test_cached_functions_and_properties_of_the_main_module_can_go(tmp_path: Path) -> None:
    """Each worker has caches of its own."""
    first, second, third = run(CACHED, "file", tmp_path).splitlines()
    assert first == str([(100, 832040, kind, 3, {"area": 3}, "circle") for kind in ("number", "thing")])
    assert (second, third) == (str([(55, None, "fibonacci")] * 2), "[3] 2")
