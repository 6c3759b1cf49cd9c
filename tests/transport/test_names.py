"""What the members of a batch name stands in it once: classes, functions, and a few objects that there is one of."""

import collections
import copyreg
import enum
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import pytest

from poolinject._transport import batch_writer, picklers
from poolinject._transport.batch_reader import decode_batch
from poolinject._transport.batch_writer import BatchWriter, encode_batch
from poolinject._transport.codec import DamagedBatch, Mark, Unsendable

VANISHING = """
import enum, typing
class Thing: pass
def call(): pass
class Colour(enum.Enum):
    RED = 1
class Row(typing.NamedTuple):
    x: object
class Named(enum.Flag):
    TWO = 2
    __reduce_ex__ = lambda self, _: (getattr, (Named, self.name))
"""


@dataclass
class Row:
    """A result as there are many."""

    number: int


class Pair(NamedTuple):
    """Another one."""

    first: int
    second: object


class Standard(enum.Enum):
    """What everybody has."""

    ONE = 1


class Refusing:
    """Is pickled with a function that nobody can find."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return hidden, ()


def hidden() -> NoReturn:
    """Take the name of another one."""
    raise AssertionError


hidden.__qualname__ = "visible"


def visible() -> None:
    """Have a name that leads here."""


class Stateful(type):
    """A metaclass for classes that differ in their state."""

    state: int


def make_stateful(state: int) -> Stateful:
    """Make such a class."""
    return Stateful("State", (), {"state": state})


class State(metaclass=Stateful):
    """One of them."""

    state = 0


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> list[type[Row]]:
    """Make 300 classes of this module."""
    classes = [type(f"Class{number}", (Row,), {"__module__": __name__}) for number in range(300)]
    for cls in classes:
        monkeypatch.setitem(globals(), cls.__name__, cls)
    return classes


@pytest.fixture
def vanishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a module that the reader of a batch does not have, once it is deleted."""
    (tmp_path / "vanishing.py").write_text(VANISHING)
    monkeypatch.syspath_prepend(tmp_path)
    return __import__("vanishing")


def vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the module away."""
    (tmp_path / "vanishing.py").unlink()
    monkeypatch.delitem(sys.modules, "vanishing")


def test_a_class_is_named_three_times_at_the_most() -> None:
    """By the first two members, and for all others together."""
    rows = [Row(number) for number in range(1000)]
    data = encode_batch(rows)
    assert data.count(b"Row") == 3
    assert decode_batch(data) == rows


@pytest.mark.parametrize("times", [1, 3])
def test_many_names_take_no_more_room_than_they_would_alone(many: list[type], times: int) -> None:
    """Each member is given but a few, and none that no other names."""
    members = many * times
    data = encode_batch(members)
    assert decode_batch(data) == members
    assert len(data) < sum(len(encode_batch([member, object()])) for member in members) + 3 * 64 * len(members)
    assert times > 1 or data.count(b"Class") == len(many)


def test_members_of_many_classes_come_back_equal() -> None:
    """In any order, inside each other, alone and beside what names nothing."""
    members: list[Any] = [1, Row(2), Pair(3, Row(4)), [Row, Pair], Fraction(1, 3), Pair(5, Fraction(1, 7)), None]
    members += [collections.OrderedDict({Row: len}), Pair(6, visible), {"x": [Row(7)]}, Row, len, 8, Row(9)]
    assert decode_batch(encode_batch(members)) == members
    assert decode_batch(encode_batch(members[::-1])) == members[::-1]


def test_members_of_very_many_classes(many: list[type[Row]]) -> None:
    """More than are shared: the others stand where they are."""
    members = [cls(number) for number, cls in enumerate(4 * many)]
    again = decode_batch(encode_batch(members))
    assert again == members
    assert list(map(type, again)) == 4 * many


def test_a_class_whose_metaclass_has_a_say_is_no_name() -> None:
    """What is pickled of it may be another thing the next time."""
    copyreg.pickle(Stateful, lambda cls: (make_stateful, (cls.state,)))
    try:
        writer = BatchWriter("result")
        for State.state in range(4):
            writer.add([State])
        assert [cls.state for (cls,) in decode_batch(writer.take()[0])] == [0, 1, 2, 3]
    finally:
        del copyreg.dispatch_table[Stateful]


def test_named_tuples_that_go_by_value_share_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not wait to be pickled together, which would fail each time somebody asks for the last of them."""
    by_value = list[object]()

    def dumps(obj: object) -> bytes:
        by_value.append(obj)
        return picklers.dumps_by_value(obj)

    monkeypatch.setattr(batch_writer, "dumps_by_value", dumps)

    class Local(NamedTuple):
        number: int

    writer = BatchWriter("result")
    for number in range(10):
        writer.add(Local(number))
        assert decode_batch(writer.last()) == [Local(number)]
    assert decode_batch(writer.take()[0]) == [Local(number) for number in range(10)]
    assert len(by_value) == 1


def test_an_object_that_comes_again_is_another_one() -> None:
    """What a member holds is no name: it may have changed since."""
    writer, row = BatchWriter("result"), Row(1)
    for row.number in (1, 2, 3):
        writer.add([row])
    (first,), (second,), (third,) = decode_batch(writer.take()[0])
    assert [first.number, second.number, third.number] == [1, 2, 3]


def test_the_newest_members_make_a_batch_of_their_own() -> None:
    """With the names that they use."""
    writer = BatchWriter("result")
    for number in range(5):
        writer.add(Row(number))
        assert decode_batch(writer.last()) == [Row(number)]
    assert decode_batch(writer.last(3)) == [Row(2), Row(3), Row(4)]
    assert decode_batch(writer.last(5)) == decode_batch(writer.take()[0])


def test_a_member_that_cannot_be_pickled_leaves_no_name() -> None:
    """Those after it are read as if it had not been there."""
    members = [Row(1), Row(2), (Pair(1, 2), Refusing()), Pair(3, 4), Row(5), (Fraction(1), Refusing()), Fraction(2)]
    again = decode_batch(encode_batch(members))
    assert [type(each) is Unsendable for each in again] == [False, False, True, False, False, True, False]
    assert [again[0], again[1], again[3], again[4], again[6]] == [Row(1), Row(2), Pair(3, 4), Row(5), Fraction(2)]


def test_what_names_a_missing_module_costs_only_itself(
    vanishing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many members share the name; it is told which module it is."""
    inner = [1]
    theirs = [vanishing.Thing(), vanishing.Thing(), [vanishing.Thing(), vanishing.call], vanishing.Thing]
    ours = [[inner, inner], Row(1), Row(2), [inner, inner, Row(3)]]
    data = encode_batch([member for pair in zip(ours, theirs, strict=True) for member in pair])
    vanish(tmp_path, monkeypatch)
    again = decode_batch(data, "result")
    assert isinstance(again, DamagedBatch)
    assert again[::2] == ours
    for member in again[1::2]:
        assert str(member.error) == "result: cannot be unpickled: ModuleNotFoundError: No module named 'vanishing'"


def test_what_was_packed_together_and_names_a_missing_module_costs_only_itself(
    vanishing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows with named tuples and enums, in whatever is packed together; as items and as results."""
    module = vanishing
    ours = [1, Pair(1, 2), (1, "a"), {"a": Standard.ONE}, None]
    theirs = [module.Row(1), module.Colour.RED, (1, module.Colour.RED), {module.Colour.RED: 1}, {module.Colour.RED}]
    members = [member for pair in zip(ours, theirs, strict=True) for member in pair]
    writer = BatchWriter("result")
    for member in (*members, module.Named.TWO):
        writer.add(member)
    more = [[[module.Row([2])]], module.Row, [module.Colour]]
    encoded = [encode_batch(members), writer.take()[0], encode_batch([*members, *more])]
    assert [data[0] for data in encoded] == [0, 0, 0]  # together
    vanish(tmp_path, monkeypatch)
    for data in encoded:
        again = decode_batch(data, "result")
        assert isinstance(again, DamagedBatch)
        assert again[:10:2] == ours
        for member in (*again[1:10:2], *again[10:]):
            assert str(member.error).endswith("unpickled: ModuleNotFoundError: No module named 'vanishing'")


def test_a_module_made_by_hand_goes_by_value_together_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else could find its named tuples and enums."""
    module = ModuleType("made_by_hand")
    exec(VANISHING, module.__dict__)  # noqa: S102
    monkeypatch.setitem(sys.modules, "made_by_hand", module)
    writer = BatchWriter("result")
    for member in (1, module.Row(2), module.Colour.RED):
        writer.add(member)
    data, _ = writer.take()
    monkeypatch.delitem(sys.modules, "made_by_hand")
    one, row, colour = decode_batch(data)
    assert (one, row.x, colour.value) == (1, 2, 1)


def test_a_missing_module_leaves_no_garbage(
    vanishing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing keeps the message that it was named in."""
    data = bytearray(encode_batch([vanishing.Thing() for _ in range(10)]))
    vanish(tmp_path, monkeypatch)
    assert len(decode_batch(data)) == 10
    data.append(0)  # which it could not be while something referred to it


def test_the_first_member_is_marked_while_names_are_looked_up(
    vanishing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import of a module may end the process."""
    place, seen = [0], list[int]()
    data = encode_batch([vanishing.Thing(), vanishing.Thing()])
    (tmp_path / "vanishing.py").write_text("import builtins\nbuiltins.note()\nclass Thing:\n    pass\n")
    monkeypatch.delitem(sys.modules, "vanishing")
    monkeypatch.setattr("builtins.note", lambda: seen.append(place[0]), raising=False)
    assert [type(each).__name__ for each in decode_batch(data, mark=Mark(place, iter([7, 8])))] == ["Thing", "Thing"]
    assert (seen, place) == ([7], [0])
