"""Objects to bytes and back, singly and in batches. Runs in the caller and in workers.

A batch of builtin primitives, other atoms and their containers is one pickle. Any other is one pickle for each member
(``BatchWriter``), so that a member which cannot be pickled or unpickled costs only itself. (Of atoms only members of
an enum can fail to be unpickled; then the whole batch does.) User code that runs on the way (``__reduce__``,
``__setstate__``) may raise what it likes, ``KeyboardInterrupt`` as well: batches are made and read where no Ctrl-C is
heard. Only ``encode``, which the calling thread uses for functions, lets that through.
"""

from __future__ import annotations

import functools
import io
import itertools
import pickle
import struct
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from poolinject._atoms import IDS, snapshot
from poolinject._transport.payloads import Arena, set_aside
from poolinject._transport.picklers import (
    PROTOCOL,
    Buffer,
    PrimitivePickler,
    SharingPickler,
    describe_error,
    describe_type,
    dumps,
    dumps_by_value,
    safe_text,
)
from poolinject.errors import TransportError

# Together: the head, then one pickle of the list.
# Apart: the kind, the pickles of the members, that of the table of shared objects, the length of each member (negative
# for the two texts of a TransportError in its place), and the tail. Buffered: the same, and before the tail for each
# member the number of its large buffers in the arena, the place and length of each buffer, and their number.
_TOGETHER, _APART, _BUFFERED = 0, 1, 2
_KIND = struct.Struct("<B")
_BUFFERS = struct.Struct("<Q")  # number of buffers
_HEAD = struct.Struct("<BQ")  # kind, number of members
_TAIL = struct.Struct("<QQ")  # length of the table, number of members
_SMALL = 16  # up to here a look at the types is cheaper than a pickler of our own


@dataclass(frozen=True, slots=True)
class Unsendable:
    """Stands in a batch for an object that could not be encoded or decoded."""

    error: TransportError


class DamagedBatch(list[Any]):
    """Members of a batch among which there is at least one ``Unsendable``."""


class Mark(NamedTuple):
    """Where to say which member of a batch is being converted, and by which numbers; each is asked for in time."""

    place: memoryview | list[int]
    numbers: Iterable[int]


class _Shared(threading.local):
    """The table of the batch that this thread is decoding."""

    objects: Sequence[Any] = ()
    failure: str | None = None


_shared = _Shared()


def shared_object(index: int) -> Any:
    """Return a member of the table of the batch that is being decoded; named in pickles, called by them alone."""
    if _shared.failure is not None:
        raise pickle.UnpicklingError(_shared.failure)
    return _shared.objects[index]


def encode(obj: object, what: str) -> bytes:
    """Return the bytes of one object.

    Raises:
        TransportError: If *obj*, called *what*, cannot be pickled.
    """
    try:
        return dumps(obj)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - user code may raise anything
        raise _not_encoded(obj, what, error) from None


def decode(data: Buffer, what: str = "object", buffers: Sequence[Buffer] = ()) -> Any:
    """Return the object of which *data* are the bytes.

    Raises:
        TransportError: If the object, called *what*, cannot be unpickled.
    """
    try:
        return pickle.loads(data, buffers=buffers)
    except BaseException as error:  # noqa: BLE001 - user code may raise anything
        raise TransportError(what, _decoding_failure(error)) from None


def encode_batch(objects: Sequence[object], what: str = "item", arena: Arena | None = None) -> bytes:
    """Return the bytes of all *objects*; one that cannot be pickled is decoded as `Unsendable`.

    Members of a batch of primitives stay identical to each other where they were. Large buffers go to the arena.
    """
    data = encode_primitives(objects)
    return _encode_apart(objects, what, arena) if data is None else data


def _encode_apart(objects: Iterable[object], what: str, arena: Arena | None = None) -> bytes:
    writer = BatchWriter(what, arena)
    for obj in objects:
        writer.add_apart(obj)
    return writer.take()[0]


def encode_primitives(objects: Sequence[object]) -> bytes | None:
    """Return the bytes of a batch of builtin primitives, ``None`` where it has anything else.

    No bytecode runs meanwhile, so that other threads see, and change, nothing of it in between.
    """
    head = _HEAD.pack(_TOGETHER, len(objects))
    if type(objects) is range:
        return head + pickle.dumps(objects, PROTOCOL)
    members = objects if type(objects) is list else list(objects)
    if len(members) <= _SMALL and IDS.issuperset(map(id, map(type, members))):
        return head + pickle.dumps(members, PROTOCOL)
    file = io.BytesIO()
    file.write(head)
    try:
        PrimitivePickler(file, PROTOCOL).dump(members)
    except BaseException:  # noqa: BLE001 - user code may raise anything
        return None
    return file.getvalue()


def encode_atoms(objects: list[Any], what: str = "result") -> bytes:
    """Return the bytes of a batch of atoms and of what ``snapshot`` has given."""
    try:
        return _HEAD.pack(_TOGETHER, len(objects)) + pickle.dumps(objects, PROTOCOL)
    except BaseException:  # noqa: BLE001 - members of an enum that goes by value, or refuses
        return _encode_apart(objects, what)


class BatchWriter:
    """Encodes the members of a batch one by one; classes and functions that go by value are shared among them.

    Nobody can change what ``snapshot`` gives, so as long as there is only that, it waits to be encoded together.
    """

    def __init__(self, what: str, arena: Arena | None = None) -> None:
        self._what, self._arena = what, arena
        self._begin()

    def _begin(self) -> None:
        self._places: list[tuple[int, int]] = []  # of buffers in the arena
        self._counts: list[int] = []  # of them, for each member
        self._atoms: list[object] = []
        self._file, self._lengths = io.BytesIO(), list[int]()
        self._file.write(_KIND.pack(_APART))
        self._shared: dict[int, tuple[int, Any]] = {}
        self._table, self._in_table = b"", 0
        self._make_pickler()

    def _make_pickler(self) -> None:
        # the pickler must not know the writer, which would live until garbage is collected
        callback = None if self._arena is None else functools.partial(_keep_in_band, self._arena, self._places)
        self._pickler = SharingPickler(self._file, self._shared, shared_object, callback)

    def __len__(self) -> int:
        return len(self._lengths) + len(self._atoms)

    def add(self, member: object) -> None:
        """Encode one more; one that cannot be pickled is decoded as `Unsendable`."""
        if not self._lengths:
            flat = member if id(type(member)) in IDS else snapshot(member)
            if flat is not None or member is None:
                self._atoms.append(flat)
                return
            for atom in self._atoms:
                self.add_apart(atom)
            self._atoms.clear()
        self.add_apart(member)

    def add_apart(self, member: object) -> None:
        """Encode one more, which does not wait."""
        if id(type(member)) in IDS:
            self._count(self._file.write(pickle.dumps(member, PROTOCOL)))
            return
        start, placed = self._file.tell(), len(self._places)
        try:
            self._pickler.clear_memo()
            self._pickler.dump(member)
            if len(self._shared) > self._in_table:
                self._table = dumps_by_value([obj for _, obj in self._shared.values()])
                self._in_table = len(self._shared)
            self._count(self._file.tell() - start, len(self._places) - placed)
        except BaseException:  # noqa: BLE001 - user code may raise anything
            self._add_alone(member, start, placed)

    def bare(self) -> bytes | None:
        """Return a plain pickle of the newest member, where it waits and that can be had."""
        try:
            return pickle.dumps(self._atoms[-1], PROTOCOL) if self._atoms else None
        except BaseException:  # noqa: BLE001 - as in ``encode_atoms``
            return None

    def last(self) -> bytes:
        """Return the bytes of a batch of the newest member alone."""
        if not self._lengths:
            return encode_atoms(self._atoms[-1:], self._what)
        length, count = self._lengths[-1], self._counts[-1]
        self._file.seek(-abs(length), io.SEEK_CUR)
        member = self._file.read()
        kind, places = _APART, b""
        if count:
            flat = [number for place in self._places[-count:] for number in place]
            kind, places = _BUFFERED, struct.pack(f"<I{len(flat)}Q", count, *flat) + _BUFFERS.pack(count)
        return b"".join((
            _KIND.pack(kind), member, self._table, struct.pack("<q", length), places, _TAIL.pack(len(self._table), 1)
        ))  # fmt: skip

    def _count(self, length: int, buffers: int = 0) -> None:
        self._lengths.append(length)
        self._counts.append(buffers)

    def _add_alone(self, member: object, start: int, placed: int) -> None:
        while self._arena is not None and len(self._places) > placed:
            self._arena.drop(self._places.pop()[0])
        while len(self._shared) > self._in_table:
            self._shared.popitem()
        self._make_pickler()
        self._file.seek(start)
        self._file.truncate()
        try:
            self._count(self._file.write(encode(member, self._what)))
        except (TransportError, KeyboardInterrupt) as error:
            failure = error if isinstance(error, TransportError) else _not_encoded(member, self._what, error)
            self._count(-self._file.write(pickle.dumps((failure.what, failure.reason), PROTOCOL)))

    def take(self) -> tuple[bytes, int]:
        """Return the bytes of the batch and the number of its members, and begin another one."""
        count = len(self)
        if self._atoms or not count:
            atoms, self._atoms = self._atoms, []
            return encode_atoms(atoms, self._what), count
        self._file.write(self._table)
        self._file.write(struct.pack(f"<{count}q", *self._lengths))
        if self._places:
            flat = [number for place in self._places for number in place]
            self._file.write(struct.pack(f"<{count}I{len(flat)}Q", *self._counts, *flat))
            self._file.write(_BUFFERS.pack(len(self._places)))
            self._file.seek(0)
            self._file.write(_KIND.pack(_BUFFERED))
            self._file.seek(0, io.SEEK_END)
        self._file.write(_TAIL.pack(len(self._table), count))
        data = self._file.getvalue()
        self._begin()
        return data, count


def _keep_in_band(arena: Arena, places: list[tuple[int, int]], buffer: pickle.PickleBuffer) -> bool:
    return not set_aside(arena, buffer.raw(), places)


def decode_batch(data: Buffer, what: str = "item", arena: Arena | None = None, mark: Mark | None = None) -> list[Any]:
    """Return as many objects as were encoded; one that cannot be unpickled comes out as `Unsendable`.

    Where there is one, the list is a ``DamagedBatch``. While user code may run, the mark says for which member.

    Raises:
        TransportError: If *data* are not the bytes of a batch.
    """
    try:
        if data[0] == _TOGETHER:
            _, count = _HEAD.unpack_from(data)
        else:
            return _decode_apart(memoryview(data), what, arena, mark or Mark([0], itertools.repeat(0)))
    except (struct.error, IndexError) as error:
        raise TransportError("batch", _decoding_failure(error)) from None
    try:
        members: list[Any] = decode(memoryview(data)[_HEAD.size :], what)
    except TransportError as error:
        return DamagedBatch([Unsendable(error)] * count)
    return members


def _decode_apart(view: memoryview, what: str, arena: Arena | None, mark: Mark) -> list[Any]:
    table_size, count = _TAIL.unpack_from(view, len(view) - _TAIL.size)
    end = len(view) - _TAIL.size
    buffers: Iterable[Sequence[Buffer]] = itertools.repeat(())
    if view[0] == _BUFFERED and arena is not None:
        end, buffers = _take_buffers(view, end, count, arena)
    lengths_start = end - 8 * count
    lengths = struct.unpack_from(f"<{count}q", view, lengths_start)
    outer = _shared.objects, _shared.failure  # a batch may be decoded by the `__setstate__` of another one's member
    _shared.objects, _shared.failure = (), None
    try:
        if table_size:
            _load_table(view[lengths_start - table_size : lengths_start])
        members, start, place = [], _KIND.size, mark.place
        for length, own, place[0] in zip(lengths, buffers, mark.numbers, strict=False):
            end = start + abs(length)
            members.append(_decode_member(view[start:end], what, own, failed=length < 0))
            start = end
    finally:
        _shared.objects, _shared.failure = outer
        mark.place[0] = 0
    return DamagedBatch(members) if Unsendable in set(map(type, members)) else members


def _take_buffers(view: memoryview, end: int, count: int, arena: Arena) -> tuple[int, list[list[Buffer]]]:
    """Give where the part about buffers begins, and for each member its buffers, out of the arena."""
    (total,) = _BUFFERS.unpack_from(view, end - _BUFFERS.size)
    begin = end - _BUFFERS.size - 16 * total - 4 * count
    numbers = struct.unpack_from(f"<{count}I{2 * total}Q", view, begin)
    places = zip(numbers[count::2], numbers[count + 1 :: 2], strict=True)
    return begin, [[arena.take(*next(places)) for _ in range(own)] for own in numbers[:count]]


def _load_table(data: memoryview) -> None:
    try:
        _shared.objects = decode(data)
    except TransportError as error:
        _shared.failure = error.reason


def _decode_member(data: memoryview, what: str, buffers: Sequence[Buffer], *, failed: bool) -> Any:
    try:
        member = decode(data, what, buffers)
    except TransportError as error:
        return Unsendable(error)
    return Unsendable(TransportError(*member)) if failed else member


def _not_encoded(obj: object, what: str, error: BaseException) -> TransportError:
    return TransportError(what, f"{safe_text(obj, describe_type)} cannot be pickled: {describe_error(error)}")


def _decoding_failure(error: BaseException) -> str:
    return f"cannot be unpickled: {describe_error(error)}"
