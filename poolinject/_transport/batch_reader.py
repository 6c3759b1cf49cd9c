"""Batches of objects, from bytes. Runs in the caller and in workers.

A batch is one pickle of a list, or one pickle for each member, so that a member which cannot be unpickled costs only
itself. User code that runs on the way may raise what it likes: batches are read where no Ctrl-C is heard.

What members have in common stands once, in front of the place where it is used, in two tables. *Names* are classes,
functions and the like that the reader can import: ``pickle`` gives each member those that it may need as if they were
buffers out of band, and they are where its memo has them. *Shared* are those that go by value, which a member asks for
by calling ``shared_object``.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import pickle
import pickletools
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from poolinject._transport.codec import DamagedBatch, Mark, Unsendable, decode, decoding_failure
from poolinject.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poolinject._transport.payloads import Arena
    from poolinject._transport.picklers import Buffer

# Together: the head, then one pickle of the list.
# Apart: the kind, the pickles of the members, that of the shared objects, that of the pickles of the names, the length
# of each member (negative for the two texts of a TransportError in its place), and the tail. Buffered: the same, and
# before the tail for each member the number of its large buffers in the arena, the place and length of each buffer,
# and their number.
TOGETHER, APART, BUFFERED = 0, 1, 2
KIND = struct.Struct("<B")
BUFFERS = struct.Struct("<Q")  # number of buffers
HEAD = struct.Struct("<BQ")  # kind, number of members
TAIL = struct.Struct("<QQQ")  # length of the shared objects, of the names, number of members
NAME = pickle.NEXT_BUFFER + pickle.MEMOIZE + pickle.POP  # a member begins with so many of these as it has names


class _Shared(threading.local):
    """The table of the batch that this thread is reading."""

    objects: Sequence[Any] = ()
    failure: str | None = None
    newest: tuple[bytes, Sequence[Any]] = (b"", ())  # which was read, and what it is known by


_shared = _Shared()


def shared_object(index: int) -> Any:
    """Return a shared object of the batch that is being read; named in pickles, called by them alone."""
    if _shared.failure is not None:
        raise pickle.UnpicklingError(_shared.failure)
    return _shared.objects[index]


def decode_batch(data: Buffer, what: str = "item", arena: Arena | None = None, mark: Mark | None = None) -> list[Any]:
    """Return as many objects as were encoded; one that cannot be unpickled comes out as `Unsendable`.

    Where there is one, the list is a ``DamagedBatch``. While user code may run, the mark says for which member.

    Raises:
        TransportError: If *data* are not the bytes of a batch.
    """
    try:
        if data[0] == TOGETHER:
            _, count = HEAD.unpack_from(data)
        else:
            return _decode_apart(memoryview(data), what, arena, mark or Mark([0], itertools.repeat(0)))
    except (struct.error, IndexError) as error:
        raise TransportError("batch", decoding_failure(error)) from None
    together = memoryview(data)[HEAD.size :]
    try:
        members: list[Any] = decode(together, what)
    except TransportError as error:
        return _salvage(together, what) or DamagedBatch([Unsendable(error)] * count)
    return members


class _Missing(type):
    """A class in the place of one that is missing; so are its attributes."""

    mark: Unsendable

    def __getattr__(cls, _name: str) -> Any:
        return cls


class _Salvager(pickle.Unpickler):
    """Reads what could not be read, with something that can be told in the place of what is missing."""

    def __init__(self, data: memoryview, what: str) -> None:
        super().__init__(io.BytesIO(data))
        self._what = what

    def find_class(self, module: str, name: str) -> Any:
        """Find a class or function, or make one in its place."""
        try:
            return super().find_class(module, name)
        except BaseException as error:  # noqa: BLE001 - whatever the import of a module raises
            missing = _Missing(name, (), {"__new__": lambda cls, *_: object.__new__(cls), "__setstate__": _ignore})
            missing.mark = Unsendable(TransportError(self._what, decoding_failure(error)))
            return missing


def _ignore(*_: object) -> None:
    """Take what a pickle would set."""


def _salvage(together: memoryview, what: str) -> list[Any]:
    """Read those members that need nothing which is missing; none where that is not what is wrong."""
    try:
        members = _Salvager(together, what).load()
    except BaseException:  # noqa: BLE001 - user code may raise anything
        return []
    return DamagedBatch([_mark_in(member) or member for member in members])


def _mark_in(member: object) -> Unsendable | None:
    """Look for what is missing in a member of containers and atoms."""
    ahead, seen = [member], set[int]()
    while ahead:
        value = ahead.pop()
        cls: Any = value if isinstance(value, _Missing) else type(value)
        if isinstance(cls, _Missing):
            return cls.mark
        if isinstance(value, (list, tuple, set, frozenset, dict)) and id(value) not in seen:
            seen.add(id(value))
            ahead += value
            ahead += value.values() if isinstance(value, dict) else ()
    return None


def _decode_apart(view: memoryview, what: str, arena: Arena | None, mark: Mark) -> list[Any]:
    shared_size, names_size, count = TAIL.unpack_from(view, len(view) - TAIL.size)
    end = len(view) - TAIL.size
    buffers: Iterable[Sequence[Buffer]] = itertools.repeat(())
    if view[0] == BUFFERED and arena is not None:
        end, buffers = _take_buffers(view, end, count, arena)
    middle = end - 8 * count
    lengths = struct.unpack_from(f"<{count}q", view, middle)
    outer = _shared.objects, _shared.failure  # a batch may be read by the ``__setstate__`` of another one's member
    _shared.objects, _shared.failure = (), None
    place, numbers = mark.place, iter(mark.numbers)
    try:
        first = place[0] = next(numbers)  # whose modules may be imported now
        if shared_size:
            _load_shared(view[middle - names_size - shared_size : middle - names_size])
        names = _Names(view[middle - names_size : middle])
        places = zip(lengths, buffers, itertools.chain([first], numbers), strict=False)
        return _members(view, what, names, places, place)
    finally:
        _shared.objects, _shared.failure = outer
        mark.place[0] = 0


def _members(
    view: memoryview,
    what: str,
    names: _Names,
    places: Iterator[tuple[int, Sequence[Buffer], int]],
    place: memoryview | list[int],
) -> list[Any]:
    members: list[Any] = []
    is_damaged, end, objects = False, KIND.size, names.objects
    for length, own, place[0] in places:
        start, end = end, end + abs(length)
        member, reason = view[start:end], ""
        if names.missing:
            reason = names.missing_in(member)
        if not reason:
            try:
                value = pickle.loads(member, buffers=names.before(member, own) if own else objects)
                members.append(value if length >= 0 else Unsendable(TransportError(*value)))
            except BaseException as error:  # noqa: BLE001 - user code may raise anything
                reason = decoding_failure(error)
        if reason:
            members.append(Unsendable(TransportError(what, reason)))
        if reason or length < 0:
            is_damaged = True
    return DamagedBatch(members) if is_damaged else members


class _Names:
    """The names of a batch, each unpickled by itself: what uses one that is missing here cannot be unpickled either."""

    def __init__(self, data: memoryview) -> None:
        self.objects: list[Any] = []
        self.missing: dict[int, str] = {}  # why
        for index, name in enumerate(decode(data, "batch") if data else ()):
            try:
                self.objects.append(pickle.loads(name))
            except BaseException as error:  # noqa: BLE001 - whatever the import of a module raises
                self.objects.append(None)
                self.missing[index] = decoding_failure(error)

    def before(self, member: memoryview, buffers: Sequence[Buffer]) -> list[Any]:
        """Give what a member that has large buffers of its own takes from out of band."""
        return [*self.objects[: _count_names(member)], *buffers]

    def missing_in(self, member: memoryview) -> str:
        """Say why a name is missing that the member uses; nothing where none is."""
        opcodes = pickletools.genops(bytes(member))
        used = {index for opcode, index, _ in opcodes if opcode.name in ("BINGET", "LONG_BINGET")}
        count = _count_names(member)
        return next((why for index, why in self.missing.items() if index < count and index in used), "")


def _count_names(member: memoryview) -> int:
    """Count the names that a member is given; those that were learned after it was written are not among them."""
    count = 0
    while member[len(NAME) * count : len(NAME) * (count + 1)] == NAME:
        count += 1
    return count


def _take_buffers(view: memoryview, end: int, count: int, arena: Arena) -> tuple[int, list[list[Buffer]]]:
    """Give where the part about buffers begins, and for each member its buffers, out of the arena."""
    (total,) = BUFFERS.unpack_from(view, end - BUFFERS.size)
    begin = end - BUFFERS.size - 16 * total - 4 * count
    numbers = struct.unpack_from(f"<{count}I{2 * total}Q", view, begin)
    places = zip(numbers[count::2], numbers[count + 1 :: 2], strict=True)
    return begin, [[arena.take(*next(places)) for _ in range(own)] for own in numbers[:count]]


def _load_shared(data: memoryview) -> None:
    """Read a table, unless it is as the one before: what classes of the script hold here would be set anew by it."""
    digest = hashlib.blake2b(data, digest_size=16).digest()
    if digest != _shared.newest[0]:
        try:
            _shared.newest = digest, decode(data)
        except TransportError as error:
            _shared.failure = error.reason
            return
    _shared.objects = _shared.newest[1]
