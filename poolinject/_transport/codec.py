"""Objects to bytes and back, singly and in batches. Runs in the caller and in workers.

A batch of builtin primitives is one pickle. Any other batch is one pickle for each member, so that a member which
cannot be pickled or unpickled costs only itself. User code that runs on the way (``__reduce__``, ``__setstate__``)
may raise what it likes; only ``KeyboardInterrupt`` passes through.
"""

from __future__ import annotations

import io
import pickle
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
# for the two texts of a TransportError in its place), and the tail.
_TOGETHER, _APART = 0, 1
_KIND = struct.Struct("<B")
_HEAD = struct.Struct("<BQ")  # kind, number of members
_TAIL = struct.Struct("<QQ")  # length of the table, number of members
_ATOMS = frozenset((type(None), bool, int, float, str, bytes))
_SMALL = 16  # up to here a look at the types is cheaper than a pickler of our own


@dataclass(frozen=True, slots=True)
class Unsendable:
    """Stands in a batch for an object that could not be encoded or decoded."""

    error: TransportError


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
        raise TransportError(what, _encoding_failure(obj, error)) from None


def decode(data: Buffer, what: str = "object") -> Any:
    """Return the object of which *data* are the bytes.

    Raises:
        TransportError: If the object, called *what*, cannot be unpickled.
    """
    try:
        return pickle.loads(data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - user code may raise anything
        raise TransportError(what, _decoding_failure(error)) from None


def encode_batch(objects: Sequence[object], what: str = "item") -> bytes:
    """Return the bytes of all *objects*; one that cannot be pickled is decoded as `Unsendable`.

    Members of a batch of primitives stay identical to each other where they were.
    """
    members = objects if type(objects) is list else list(objects)
    head = _HEAD.pack(_TOGETHER, len(members))
    if len(members) <= _SMALL and _ATOMS.issuperset(map(type, members)):
        return head + pickle.dumps(members, PROTOCOL)
    file = io.BytesIO()
    file.write(head)
    try:
        PrimitivePickler(file, PROTOCOL).dump(members)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - user code may raise anything
        return _encode_sharing(members, what) or _encode_apart(members, what)
    return file.getvalue()


def decode_batch(data: Buffer, what: str = "item") -> list[Any]:
    """Return as many objects as were encoded; one that cannot be unpickled comes out as `Unsendable`.

    Raises:
        TransportError: If *data* are not the bytes of a batch.
    """
    try:
        if data[0] == _TOGETHER:
            _, count = _HEAD.unpack_from(data)
        else:
            return _decode_apart(memoryview(data), what)
    except (struct.error, IndexError) as error:
        raise TransportError("batch", _decoding_failure(error)) from None
    try:
        members: list[Any] = decode(memoryview(data)[_HEAD.size :], what)
    except TransportError as error:
        return [Unsendable(error)] * count
    return members


def _encode_sharing(members: list[object], what: str) -> bytes | None:
    """Encode each member by itself but for the table; ``None`` if the table cannot be pickled."""
    file, lengths, shared = io.BytesIO(), list[int](), dict[int, tuple[int, Any]]()
    file.write(_KIND.pack(_APART))
    pickler = SharingPickler(file, shared, shared_object)
    for member in members:
        start = file.tell()
        try:
            pickler.clear_memo()
            pickler.dump(member)
            lengths.append(file.tell() - start)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - user code may raise anything
            file.seek(start)
            file.truncate()
            pickler = SharingPickler(file, shared, shared_object)
            lengths.append(_write_alone(file, member, what))
    table = b""
    if shared:
        try:
            table = dumps_by_value([obj for _, obj in shared.values()])
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - user code may raise anything
            return None
    return _finish(file, table, lengths)


def _encode_apart(members: list[object], what: str) -> bytes:
    file = io.BytesIO()
    file.write(_KIND.pack(_APART))
    lengths = [_write_alone(file, member, what) for member in members]
    return _finish(file, b"", lengths)


def _finish(file: io.BytesIO, table: bytes, lengths: list[int]) -> bytes:
    file.write(table)
    file.write(struct.pack(f"<{len(lengths)}q", *lengths))
    file.write(_TAIL.pack(len(table), len(lengths)))
    return file.getvalue()


def _write_alone(file: io.BytesIO, member: object, what: str) -> int:
    try:
        return file.write(encode(member, what))
    except TransportError as error:
        return -file.write(pickle.dumps((error.what, error.reason), PROTOCOL))


def _decode_apart(view: memoryview, what: str) -> list[Any]:
    table_size, count = _TAIL.unpack_from(view, len(view) - _TAIL.size)
    lengths_start = len(view) - _TAIL.size - 8 * count
    lengths = struct.unpack_from(f"<{count}q", view, lengths_start)
    outer = _shared.objects, _shared.failure  # a batch may be decoded by the `__setstate__` of another one's member
    _shared.objects, _shared.failure = (), None
    try:
        if table_size:
            _load_table(view[lengths_start - table_size : lengths_start])
        members, start = [], _KIND.size
        for length in lengths:
            end = start + abs(length)
            members.append(_decode_member(view[start:end], what, failed=length < 0))
            start = end
    finally:
        _shared.objects, _shared.failure = outer
    return members


def _load_table(data: memoryview) -> None:
    try:
        _shared.objects = decode(data)
    except TransportError as error:
        _shared.failure = error.reason


def _decode_member(data: memoryview, what: str, *, failed: bool) -> Any:
    try:
        member = decode(data, what)
    except TransportError as error:
        return Unsendable(error)
    return Unsendable(TransportError(*member)) if failed else member


def _encoding_failure(obj: object, error: BaseException) -> str:
    return f"{safe_text(obj, describe_type)} cannot be pickled: {describe_error(error)}"


def _decoding_failure(error: BaseException) -> str:
    return f"cannot be unpickled: {describe_error(error)}"
