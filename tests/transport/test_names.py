"""What the members of a batch name stands in it once: classes, functions, and a few objects that there is one of."""

import collections
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import pytest

from poolinject._transport.batch_reader import decode_batch
from poolinject._transport.batch_writer import BatchWriter, encode_batch
from poolinject._transport.codec import DamagedBatch, Mark, Unsendable


@dataclass
class Row:
    """A result as there are many."""

    number: int


class Pair(NamedTuple):
    """Another one."""

    first: int
    second: object


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


@pytest.fixture
def vanishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a module that the reader of a batch does not have, once it is deleted."""
    (tmp_path / "vanishing.py").write_text("class Thing:\n    pass\ndef call(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    return __import__("vanishing")


def vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the module away."""
    (tmp_path / "vanishing.py").unlink()
    monkeypatch.delitem(sys.modules, "vanishing")


def test_a_class_is_named_twice_at_the_most() -> None:
    """By the first member, and for all others together."""
    rows = [Row(number) for number in range(1000)]
    data = encode_batch(rows)
    assert data.count(b"Row") == 2
    assert decode_batch(data) == rows


def test_members_of_many_classes_come_back_equal() -> None:
    """In any order, inside each other, alone and beside what names nothing."""
    members: list[Any] = [1, Row(2), Pair(3, Row(4)), [Row, Pair], Fraction(1, 3), Pair(5, Fraction(1, 7)), None]
    members += [collections.OrderedDict({Row: len}), Pair(6, visible), {"x": [Row(7)]}, Row, len, 8, Row(9)]
    assert decode_batch(encode_batch(members)) == members
    assert decode_batch(encode_batch(members[::-1])) == members[::-1]


def test_more_names_than_a_short_number_can_tell() -> None:
    """Their places take more than a byte then."""
    classes = [type(f"Class{number}", (Row,), {"__module__": __name__}) for number in range(300)]
    globals().update({cls.__name__: cls for cls in classes})
    members = [cls(number) for number, cls in enumerate(2 * classes)]
    again = decode_batch(encode_batch(members))
    assert again == members
    assert list(map(type, again)) == 2 * classes


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
    things = [vanishing.Thing(), Row(1), vanishing.Thing(), Row(2), vanishing.Thing, [vanishing.call], Pair(3, 4), 5]
    data = encode_batch(things)
    vanish(tmp_path, monkeypatch)
    again = decode_batch(data, "result")
    assert isinstance(again, DamagedBatch)
    assert [again[1], again[3], again[6], again[7]] == [Row(1), Row(2), Pair(3, 4), 5]
    for place in (0, 2, 4, 5):
        assert str(again[place].error).endswith("unpickled: ModuleNotFoundError: No module named 'vanishing'")


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
