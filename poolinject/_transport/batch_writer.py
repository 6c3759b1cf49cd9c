"""Batches of objects, to bytes. Runs in the caller and in workers; ``batch_reader`` says what they look like.

A batch of builtin primitives, other atoms and their containers is one pickle. Any other is one pickle for each member
(``BatchWriter``), so that a member which cannot be pickled or unpickled costs only itself. (Of what is packed together
only a member of an enum can fail where its class is found; then the whole batch does.) User code that runs on the way
may raise what it likes: batches are made where no Ctrl-C is heard.
"""

from __future__ import annotations

import functools
import io
import pickle
import struct
from typing import TYPE_CHECKING, Any

from poolinject._atoms import IDS, snapshot
from poolinject._transport.batch_reader import APART, BUFFERED, BUFFERS, HEAD, KIND, NAME, TAIL, TOGETHER, shared_object
from poolinject._transport.codec import encode, not_encoded
from poolinject._transport.payloads import set_aside
from poolinject._transport.picklers import PROTOCOL, PrimitivePickler, SharingPickler, Tables, dumps_by_value
from poolinject.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from poolinject._transport.payloads import Arena

_APART, _BUFFERED = KIND.pack(APART), KIND.pack(BUFFERED)
_LENGTH = struct.Struct("<q")
_SMALL = 16  # up to here a look at the types is cheaper than a pickler of our own


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

    Of builtin primitives other threads see, and change, nothing in between: no bytecode runs meanwhile.
    """
    head = HEAD.pack(TOGETHER, len(objects))
    if type(objects) is range:
        return head + pickle.dumps(objects, PROTOCOL)
    members = objects if type(objects) is list else list(objects)
    try:
        if len(members) <= _SMALL and IDS.issuperset(map(id, map(type, members))):
            return head + pickle.dumps(members, PROTOCOL)
        file = io.BytesIO()
        file.write(head)
        PrimitivePickler(file, PROTOCOL).dump(members)
    except BaseException:  # noqa: BLE001 - user code may raise anything
        return None
    return file.getvalue()


def encode_atoms(objects: list[Any], what: str = "result") -> bytes:
    """Return the bytes of a batch of atoms and of what ``snapshot`` has given."""
    try:
        return HEAD.pack(TOGETHER, len(objects)) + pickle.dumps(objects, PROTOCOL)
    except BaseException:  # noqa: BLE001 - members of an enum that goes by value, or refuses
        return _encode_apart(objects, what)


class BatchWriter:
    """Encodes the members of a batch one by one; what they name is shared among them.

    Nobody can change what ``snapshot`` gives, so as long as there is only that, it waits to be encoded together.
    """

    def __init__(self, what: str, arena: Arena | None = None) -> None:
        self._what, self._arena = what, arena
        self._atoms: list[object] = []
        self._members: _Members | None = None  # which do not wait

    def __len__(self) -> int:
        return len(self._atoms) if self._members is None else len(self._members.lengths)

    def add(self, member: object) -> None:
        """Encode one more; one that cannot be pickled is decoded as `Unsendable`."""
        if self._members is None:
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
        if self._members is None:
            self._members = _Members(self._what, self._arena)
        self._members.add(member)

    def bare(self) -> bytes | None:
        """Return a plain pickle of the newest member, where it waits and needs no class to be read."""
        if not self._atoms or id(type(self._atoms[-1])) not in IDS:
            return None
        return pickle.dumps(self._atoms[-1], PROTOCOL)

    def last(self, count: int = 1) -> bytes:
        """Return the bytes of a batch of so many newest members alone."""
        if self._members is None:
            return encode_atoms(self._atoms[-count:], self._what)
        return self._members.last(count)

    def take(self) -> tuple[bytes, int]:
        """Return the bytes of the batch and the number of its members, and begin another one."""
        count, members = len(self), self._members
        if members is not None:
            self._members = None
            return members.all(), count
        atoms, self._atoms = self._atoms, []
        return encode_atoms(atoms, self._what), count


class _Members:
    """The members of one batch, each pickled for itself.

    Attributes:
        lengths: Of their pickles; negative for one that tells why there is none.
    """

    def __init__(self, what: str, arena: Arena | None) -> None:
        self._what, self._arena = what, arena
        self.lengths: list[int] = []
        self._places: list[tuple[int, int]] = []  # of buffers in the arena
        self._counts: list[int] = []  # of them, for each member
        self._file = io.BytesIO()
        self._tables = Tables({}, {}, {})
        self._table, self._in_table = b"", 0  # of what goes by value
        self._names, self._prefix, self._learned = b"", b"", 0  # of what is named
        self._primed: Any = None  # a memo of these alone
        self._make_pickler()

    def _make_pickler(self) -> None:
        # the pickler must not know this object, which would live until garbage is collected
        callback = None if self._arena is None else functools.partial(_keep_in_band, self._arena, self._places)
        self._pickler = SharingPickler(self._file, self._tables, shared_object, callback)

    def add(self, member: object) -> None:
        """Encode one more; one that cannot be pickled is decoded as `Unsendable`."""
        start, placed, pickler = self._file.tell(), len(self._places), self._pickler
        try:
            if id(type(member)) in IDS:
                self._count(self._file.write(pickle.dumps(member, PROTOCOL)))
                return
            if len(self._tables.named) > self._learned:
                self._learn_names()
            if self._learned:
                self._file.write(self._prefix)
                pickler.memo = self._primed
            else:
                pickler.clear_memo()
            pickler.dump(member)
            if len(self._tables.shared) > self._in_table:
                self._table = dumps_by_value([obj for _, obj in self._tables.shared.values()])
                self._in_table = len(self._tables.shared)
            self.lengths.append(self._file.tell() - start)
            self._counts.append(len(self._places) - placed)
        except BaseException:  # noqa: BLE001 - user code may raise anything
            self._add_alone(member, start, placed)

    def _learn_names(self) -> None:
        """Have the members from here on find in their memo what two of those before have named."""
        named = self._tables.named.items()
        names = pickle.dumps([pickle.dumps(obj, PROTOCOL) for _, obj in named], PROTOCOL)
        pickler = pickle.Pickler(io.BytesIO())
        pickler.memo = {key: (index, obj) for index, (key, obj) in enumerate(named)}
        self._primed, self._names, self._prefix, self._learned = pickler.memo, names, NAME * len(named), len(named)

    def _count(self, length: int) -> None:
        self.lengths.append(length)
        self._counts.append(0)

    def _add_alone(self, member: object, start: int, placed: int) -> None:
        while self._arena is not None and len(self._places) > placed:
            self._arena.drop(self._places.pop()[0])
        while len(self._tables.shared) > self._in_table:
            self._tables.shared.popitem()
        while len(self._tables.named) > self._learned:
            self._tables.named.popitem()
        self._make_pickler()
        self._file.seek(start)
        self._file.truncate()
        try:
            self._count(self._file.write(encode(member, self._what)))
        except (TransportError, KeyboardInterrupt) as error:
            failure = error if isinstance(error, TransportError) else not_encoded(member, self._what, error)
            self._count(-self._file.write(pickle.dumps((failure.what, failure.reason), PROTOCOL)))

    def last(self, count: int) -> bytes:
        """Return the bytes of a batch of so many newest members alone."""
        lengths = self.lengths[-count:]
        self._file.seek(-abs(lengths[0]) if count == 1 else -sum(map(abs, lengths)), io.SEEK_CUR)
        return self._batch(self._file.read(), lengths)

    def all(self) -> bytes:
        """Return the bytes of the batch."""
        return self._batch(self._file.getbuffer(), self.lengths)

    def _batch(self, members: bytes | memoryview, lengths: list[int]) -> bytes:
        """Put what belongs to the newest members, as many as there are lengths, around their pickles."""
        count, kind, places = len(lengths), _APART, b""
        if self._places:
            counts = self._counts[-count:]
            placed = sum(counts)
            flat = [number for place in self._places[len(self._places) - placed :] for number in place]
            kind = _BUFFERED
            places = struct.pack(f"<{count}I{len(flat)}Q", *counts, *flat) + BUFFERS.pack(placed)
        packed = _LENGTH.pack(*lengths) if count == 1 else struct.pack(f"<{count}q", *lengths)
        tail = TAIL.pack(len(self._table), len(self._names), count)
        return b"".join((kind, members, self._table, self._names, packed, places, tail))


def _keep_in_band(arena: Arena, places: list[tuple[int, int]], buffer: pickle.PickleBuffer) -> bool:
    return not set_aside(arena, buffer.raw(), places)
