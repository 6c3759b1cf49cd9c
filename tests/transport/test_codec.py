import datetime as dt
import enum
import itertools
import os
import pickle
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolinject._references import is_importable
from poolinject._transport import picklers
from poolinject._transport.batch_reader import decode_batch, shared_object
from poolinject._transport.batch_writer import BatchWriter, encode_atoms, encode_batch
from poolinject._transport.codec import Mark, Unsendable, decode, encode
from poolinject.errors import TransportError


class Status(enum.Enum):
    """A column of many tables."""

    NEW = "new"
    DONE = 2


class Refusing(enum.Enum):
    """Whose members cannot be pickled."""

    ONE = 1

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("not this one")


ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.binary()
    | st.text(st.characters())  # lone surrogates too
    | st.complex_numbers(allow_nan=False)
    | st.dates()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=st.none() | st.just(dt.UTC))
    | st.times(timezones=st.none() | st.just(dt.timezone(dt.timedelta(hours=2))))
    | st.sampled_from(Status)
    | st.sampled_from([np.float64(1.5), np.int8(3), np.bool_(True), np.complex64(1j)])  # noqa: FBT003 - a value
)
STRUCTURES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.frozensets(ATOMS),
    max_leaves=20,
)
T = TypeVar("T")


class RaisesOnPickling:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        raise self.error


class RaisesOnUnpickling:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __setstate__(self, state: dict[str, Any]) -> NoReturn:
        raise state["error"]("not today")


class LooksRound:
    """Calls ``look``, which a test gives it, when it is unpickled."""

    look: Callable[[], None]

    def __init__(self, number: int) -> None:
        self.number = number

    def __setstate__(self, state: dict[str, Any]) -> None:
        LooksRound.look()


class DecodesInside:
    """Its state is a batch of its own."""

    def __init__(self, *members: object) -> None:
        self.members: list[object] = list(members)

    def __getstate__(self) -> bytes:
        return encode_batch(self.members)

    def __setstate__(self, state: bytes) -> None:
        self.members = decode_batch(state)


@dataclass(frozen=True)
class Row:
    number: int


def deep_list(depth: int = 100_000) -> list[Any]:
    """Return lists in lists, deeper than any pickler goes."""
    deep: list[Any] = []
    for _ in range(depth):
        deep = [deep]
    return deep


def written(members: list[object]) -> bytes:
    """Return a batch that was written member by member."""
    writer = BatchWriter("result")
    for member in members:
        writer.add(member)
    return writer.take()[0]


def round_trip(*objects: object) -> list[Any]:
    """Return what arrives for a batch."""
    return decode_batch(encode_batch(objects))


@settings(max_examples=50, deadline=None)
@given(st.lists(STRUCTURES, max_size=30))
def test_primitive_structures_come_back_equal_in_a_single_pickle(objects: list[object]) -> None:
    """Primitives of any shape need no pickle of their own."""
    data = encode_batch(objects)
    assert data[0] == 0
    assert decode_batch(memoryview(data)) == objects


@settings(max_examples=50, deadline=None)
@given(st.lists(STRUCTURES | st.uuids() | st.datetimes(timezones=st.timezones()), max_size=10))
def test_mixed_batches_come_back_equal(objects: list[object]) -> None:
    """Foreign objects anywhere change nothing for the members beside them."""
    assert decode_batch(encode_batch(objects)) == objects


@pytest.mark.parametrize("encoded", [encode_batch, lambda members: encode_atoms(list(members)), written])
def test_atom_that_cannot_be_pickled_costs_only_itself(encoded: Callable[[list[object]], bytes]) -> None:
    """Nobody can change a member of an enum, but it has a say in how it is pickled."""
    first, bad, last = decode_batch(encoded([(Status.NEW, 1), Refusing.ONE, "x"]))
    assert (first, last) == ((Status.NEW, 1), "x")
    assert isinstance(bad, Unsendable)
    assert "not this one" in str(bad.error)


def test_writer_lets_what_nobody_can_change_wait() -> None:
    """Flat rows are copied and encoded together; the first other object has each encoded for itself."""
    writer, row = BatchWriter("result"), [1]
    writer.add(row)
    row[0] = 2
    writer.add(row)
    assert writer.bare() is None  # in which there may be what needs a class
    assert decode_batch(writer.last()) == [[2]]
    writer.add(3)
    assert pickle.loads(writer.bare() or b"") == 3
    data, count = writer.take()
    assert (data[0], count, decode_batch(data)) == (0, 3, [[1], [2], 3])
    for member in ((1, Status.DONE), Row(3), 4):
        writer.add(member)
    assert writer.bare() is None
    data, count = writer.take()
    assert (data[0], count, decode_batch(data)) == (1, 3, [(1, Status.DONE), Row(3), 4])
    writer.add(Refusing.ONE)
    assert writer.bare() is None
    assert isinstance(decode_batch(writer.last())[0], Unsendable)


@pytest.mark.parametrize(
    "member",
    [
        10**5000,
        -(1 << 100_000),
        dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
        Row(3),
        Row,
        encode_batch,
        sys.version_info[:2],
        "\udc80",
        b"x" * 1_000_000,
        bytearray(b"x"),
        {1, 2},
        Path("/x"),
        encode_batch([1, Row(2)]),
        range(3),
        T,
    ],
    ids=lambda member: type(member).__name__,
)
def test_members_come_back_equal(member: object) -> None:
    """What plain pickle can do is done, beside primitives and beside a bad neighbour."""
    assert round_trip(member) == [member]
    again, bad = round_trip(member, threading.Lock())
    assert again == member
    assert isinstance(bad, Unsendable)


def test_empty_batch_comes_back_empty() -> None:
    """A batch of nothing is a batch."""
    assert round_trip() == []


def test_references_inside_one_member_are_kept() -> None:
    """An object that a member holds twice, or that holds itself, stays one object."""
    row, loop = Row(1), list[Any]()
    loop.append(loop)
    pair, again = round_trip((row, row), loop)
    assert pair[0] is pair[1]
    assert again[0] is again


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (threading.Lock(), "object of type `_thread.lock` cannot be pickled: TypeError: cannot pickle"),
        ([threading.Lock()], "object of type `list` cannot be pickled: TypeError"),
        (deep_list(), "recursion"),
        (RaisesOnPickling(ValueError("no")), r"RaisesOnPickling` cannot be pickled: ValueError: no"),
        (RaisesOnPickling(SystemExit(3)), "SystemExit: 3"),
        (RaisesOnPickling(RecursionError("deep")), "deep"),
        (RaisesOnPickling(MemoryError()), "MemoryError"),
        (RaisesOnPickling(GeneratorExit()), "GeneratorExit"),
        (RaisesOnPickling(KeyboardInterrupt()), "RaisesOnPickling` cannot be pickled: KeyboardInterrupt"),
        (RaisesOnPickling(BaseExceptionGroup("g", [SystemExit()])), "BaseExceptionGroup"),
        (RaisesOnUnpickling(ValueError), "cannot be unpickled: ValueError: not today"),
        (RaisesOnUnpickling(SystemExit), "cannot be unpickled: SystemExit: not today"),
        (RaisesOnUnpickling(KeyboardInterrupt), "cannot be unpickled: KeyboardInterrupt: not today"),
        (lambda lock=threading.Lock(): lock, "function `.*lambda.*` cannot be pickled"),
        ((i for i in "ab"), "generator"),
    ],
)
def test_bad_member_costs_only_itself(bad: object, words: str) -> None:
    """The length stays, the neighbours arrive, and the reason names type and cause."""
    before, failed, after, row = decode_batch(encode_batch([1, bad, "x", Row(2)], what="result"), what="result")
    assert (before, after, row) == (1, "x", Row(2))
    assert isinstance(failed, Unsendable)
    assert failed.error.what == "result"
    with pytest.raises(TransportError, match=words):
        raise failed.error


def test_keyboard_interrupt_passes_through_where_one_object_is_encoded() -> None:
    """Ctrl-C while a function is made ready to be sent is the caller's."""
    with pytest.raises(KeyboardInterrupt):
        encode(RaisesOnPickling(KeyboardInterrupt()), "x")


def test_while_a_member_is_unpickled_the_mark_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds the process dead knows which one it was; afterwards there is nothing to be known."""
    place, seen = [0], list[int]()
    monkeypatch.setattr(LooksRound, "look", lambda: seen.append(place[0]), raising=False)
    data = encode_batch([Row(1), LooksRound(1), 3, LooksRound(2)])
    decode_batch(data, "item", None, Mark(place, itertools.count(10, 5)))
    assert seen == [15, 25]
    assert place == [0]


def test_bad_text_of_an_error_is_contained() -> None:
    """Even the message of what went wrong may go wrong."""

    class Mute(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise SystemExit

    (failed,) = round_trip(RaisesOnPickling(Mute()))
    assert "Mute" in failed.error.reason


def test_lambdas_and_local_classes_are_shared_by_the_batch() -> None:
    """What goes by value goes once, and members that refer to it get the same object."""

    class Local:
        def __init__(self, number: int) -> None:
            self.number = number

    double: Callable[[int], int] = lambda x: 2 * x
    many = encode_batch([Local(number) for number in range(100)])
    assert many.count(b"__init__") <= encode_batch([Local(1)]).count(b"__init__")
    first, second, func, other = round_trip(Local(1), Local(2), double, (double, Local))
    assert type(first) is type(second) is Local
    assert (first.number, second.number) == (1, 2)
    assert func(4) == 8
    assert func is other[0]


def test_bad_class_in_the_shared_table_costs_only_its_instances() -> None:
    """A class that cannot go by value does not take the others with it."""

    class Good: ...

    class Bad:
        lock = threading.Lock()

    good, bad, number = round_trip(Good(), Bad(), 7)
    assert isinstance(good, Good)
    assert isinstance(bad, Unsendable)
    assert number == 7


def test_shared_table_that_does_not_load_costs_only_its_users() -> None:
    """Members without anything from the table still arrive."""

    class Meta(type):
        def __setattr__(cls, name: str, value: object) -> None:
            raise ValueError(name)

    local = Meta("Local", (), {"x": 1, "__qualname__": "test.<locals>.Local"})
    data = encode_batch([local(), 7])
    picklers._own_classes.discard(local)
    failed, number = decode_batch(data)
    assert isinstance(failed, Unsendable)
    assert "ValueError" in failed.error.reason
    assert number == 7


def test_nested_batches_keep_their_tables_apart() -> None:
    """A member that decodes a batch while it is unpickled does not disturb the batch it is in."""

    class Outer: ...

    class Inner: ...

    inside, after = round_trip(DecodesInside(Inner(), Inner), Outer())
    assert isinstance(inside.members[0], Inner)
    assert isinstance(after, Outer)
    with pytest.raises(IndexError):
        shared_object(0)


def test_class_that_comes_home_is_left_as_it_is() -> None:
    """Attributes set after sending survive the return of an instance."""

    class Counter:
        total = 0

    data = encode_batch([Counter()])
    Counter.total = 5
    (again,) = decode_batch(data)
    assert type(again) is Counter
    assert Counter.total == 5


def test_class_received_twice_is_updated() -> None:
    """A class of the other side follows its definition there."""

    class Theirs:
        version = 1

    data = encode_batch([Theirs()])
    picklers._own_classes.discard(Theirs)
    Theirs.version = 2
    (again,) = decode_batch(data)
    assert again.version == 1
    assert round_trip(again)[0].version == 1


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x01", b"\x01" + b"\xff" * 16])
def test_data_that_are_no_batch_are_a_transport_error(data: bytes) -> None:
    """Damage is told apart from a member that cannot be decoded."""
    with pytest.raises(TransportError, match="batch"):
        decode_batch(data)


def test_damaged_primitives_fail_one_by_one() -> None:
    """The number of members is known even if none can be read."""
    failed = decode_batch(encode_batch(list(range(100)))[:-1])
    assert len(failed) == 100
    assert all(isinstance(each, Unsendable) for each in failed)


def test_single_objects_raise() -> None:
    """Outside a batch there is no place for `Unsendable`."""
    assert decode(encode({"a": Row(1)}, "value")) == {"a": Row(1)}
    with pytest.raises(TransportError, match=r"value: object of type `_thread\.lock`"):
        encode(threading.Lock(), "value")
    with pytest.raises(TransportError, match="value: cannot be unpickled"):
        decode(b"junk", "value")


def test_module_that_no_search_finds_goes_by_value(run_python: Callable[[str, bytes], bytes]) -> None:
    """A module made by hand, though in ``sys.modules``, does not exist in a worker."""
    module = ModuleType("made_by_hand")
    exec("class Thing:\n    x = 3\ndef get(): return Thing.x", module.__dict__)  # noqa: S102
    sys.modules["made_by_hand"] = module
    try:
        data = encode_batch([module.Thing(), module.get])
    finally:
        del sys.modules["made_by_hand"]
    script = """
        thing, get = decode_batch(sys.stdin.buffer.read())
        assert "made_by_hand" not in sys.modules
        sys.stdout.buffer.write(encode_batch([thing.x, get()]))
    """
    assert decode_batch(run_python(script, data)) == [3, 3]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("__main__", False), ("os", True), ("os.path", True), ("json.decoder", True), ("not_loaded", True)],
)
def test_importable_modules_are_recognised(name: str, expected: bool) -> None:
    """Frozen, aliased and nested modules count; what is not loaded is left to pickle."""
    assert is_importable(name) is expected


def test_module_shadowed_by_another_file_is_not_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that searched for the name would find something else."""
    (tmp_path / "shadowed.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType("shadowed")
    module.__spec__ = os.__spec__
    monkeypatch.setitem(sys.modules, "shadowed", module)
    assert not is_importable("shadowed")


def test_module_below_one_that_no_search_finds_is_not_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent decides first; beside it, a module without a specification was made by its parent's import."""
    for name in ("made_by_hand", "made_by_hand.inner", "json.made_inside"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert not is_importable("made_by_hand.inner")
    assert is_importable("json.made_inside")


def test_module_that_every_finder_denies_is_not_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file loaded by its path alone has a specification, yet a worker would not find it."""
    module = ModuleType("loaded_by_path")
    module.__spec__ = os.__spec__
    monkeypatch.setitem(sys.modules, "loaded_by_path", module)
    assert not is_importable("loaded_by_path")


def test_failing_finder_leaves_the_decision_to_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's broken import hook does not break the transport."""

    class Finder:
        def find_spec(self, *_: object) -> NoReturn:
            raise ValueError

    module = ModuleType("hooked")
    module.__spec__ = os.__spec__
    monkeypatch.setitem(sys.modules, "hooked", module)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert is_importable("hooked")


MAIN = """
    import subprocess, dataclasses, enum, pickle
    from typing import TypeVar
    T = TypeVar("T")
    seen = []

    @dataclasses.dataclass
    class Row:
        number: int
        def note(self):
            seen.append(self.number)

    class Colour(enum.Enum):
        RED = 1

    def double(row):
        return Row(2 * row.number)

    worker = '''
    import sys
    from poolinject._transport.batch_reader import decode_batch
    from poolinject._transport.batch_writer import encode_batch
    row, same, colour, double, T = decode_batch(sys.stdin.buffer.read())
    assert type(row) is type(same) and T.__name__ == "T"
    sys.stdout.buffer.write(encode_batch([row, same, colour, double(row), type(row)]))
    '''.replace("\\n    ", "\\n")
    sent = encode_batch([Row(1), Row(2), Colour.RED, double, T])
    done = subprocess.run([sys.executable, "-c", worker], input=sent, stdout=subprocess.PIPE, check=True, timeout=20)
    row, same, colour, doubled, cls = decode_batch(done.stdout)
    assert type(row) is Row and row == Row(1) and same == Row(2), row
    assert type(doubled) is Row and doubled == Row(2), doubled
    assert cls is Row
    assert colour is Colour.RED
    row.note()
    assert seen == [1]
    print("ok")
"""


def test_classes_of_the_main_module_come_home(run_python: Callable[[str, bytes], bytes]) -> None:
    """Sent to another process and returned, or made there, an instance is one of the caller's class."""
    assert run_python(MAIN, b"").strip() == b"ok"


def test_range_travels_as_a_range() -> None:
    """However many numbers it has."""
    numbers = range(3, 3_000_000, 7)
    data = encode_batch(numbers)
    received: object = decode_batch(data)
    assert received == numbers
    assert len(data) < 100


def test_batch_of_primitives_is_a_bare_pickle_behind_a_head() -> None:
    """Nothing but the count is added."""
    numbers = list(range(1000))
    assert encode_batch(numbers)[9:] == pickle.dumps(numbers, 5)
