"""Messages to frames and back. What cannot be pickled becomes the failure of one item, on either side."""

from __future__ import annotations

import io
import pickle
import struct
from typing import TYPE_CHECKING, Any

from poolinject._transport import codec, frames, remote_errors
from poolinject._transport.batch_reader import decode_batch
from poolinject._transport.batch_writer import encode_batch
from poolinject._transport.messages import (
    Cancel,
    Chunk,
    Failed,
    Forget,
    FromWorker,
    Limit,
    Load,
    Ready,
    Results,
    Returned,
    Setup,
    Stop,
    Stopped,
    ToWorker,
    Warm,
    Worn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from poolinject._transport.payloads import Arena
    from poolinject._transport.picklers import Buffer

    Suspects = Callable[[Chunk], codec.Mark]

CHUNK, RESULTS, RETURNED, SETUP, LOAD, FORGET, WARM, STOP, READY, STOPPED, LIMIT, WORN, CANCEL = range(13)
_ONE_FIELD: dict[int, type[Forget | Warm | Limit | Cancel]] = {
    FORGET: Forget,
    WARM: Warm,
    LIMIT: Limit,
    CANCEL: Cancel,
}
_ONE_FIELD_KINDS = {message: kind for kind, message in _ONE_FIELD.items()}
_CHUNK = struct.Struct("<QQHQQIId????dI")
_RETURNED = struct.Struct("<QQ")
_RESULTS = struct.Struct("<QQQd?QQ")
_BARE = pickle.PROTO[0]  # how every pickle begins, and no frame
_SINGLE = struct.Struct("<BQQQQd?QQ")  # with the header of the frame


def encode_to_worker(message: ToWorker | Setup, arena: Arena | None = None) -> list[Buffer]:
    """Write one frame; an item that cannot be pickled arrives as ``Unsendable``. Large buffers go to the arena."""
    match message:
        case Chunk():
            header = _CHUNK.pack(*message[:-1])
            return frames.pack(CHUNK, header, encode_batch(message.items, "item", arena))
        case Load(function, name, _, blob):
            return frames.pack(LOAD, pickle.dumps((function, name, blob)))
        case Forget(content) | Warm(content) | Limit(content) | Cancel(content):
            return frames.pack(_ONE_FIELD_KINDS[type(message)], pickle.dumps(content))
        case Setup(worker_id, generation, pool_name, async_backend):
            return frames.pack(SETUP, pickle.dumps((worker_id, generation, pool_name, async_backend)))
        case Stop():
            return frames.pack(STOP)


def cancel_frame(run: int) -> tuple[int, Buffer]:
    """Give kind and body of the frame that cancels the tasks of a run."""
    return CANCEL, pickle.dumps(run)


def read_chunk_header(body: Buffer) -> Chunk:
    """Read the frame of a chunk, without its items."""
    return Chunk._make((*_CHUNK.unpack_from(body), ()))


def decode_in_worker(
    kind: int, body: Buffer, arena: Arena | None = None, suspects: Suspects | None = None
) -> ToWorker | Setup:
    """Read one frame; *suspects* gives, for a chunk without items yet, where to say which one is being unpickled."""
    if kind == CHUNK:
        chunk = read_chunk_header(body)
        mark = None if suspects is None else suspects(chunk)
        return chunk._replace(items=decode_batch(memoryview(body)[_CHUNK.size :], "item", arena, mark))
    if kind == LOAD:
        function, name, blob = pickle.loads(body)
        return Load(function, name, None, blob)
    if kind in _ONE_FIELD:
        return _ONE_FIELD[kind](pickle.loads(body))
    if kind == SETUP:
        return Setup(*pickle.loads(body))
    return Stop()


def encode_from_worker(message: FromWorker) -> list[Buffer]:
    """Write one frame; it never raises for what a user's object does."""
    match message:
        case Results():
            return _encode_results(message)
        case Returned():
            return frames.pack(RETURNED, _RETURNED.pack(*message))
        case Ready(error):
            return frames.pack(READY, b"" if error is None else remote_errors.pack_error(error))
        case Worn(memory, items):
            return frames.pack(WORN, pickle.dumps((memory, items)))
        case Stopped(failures):
            packed = [(provider, remote_errors.pack_error(error)) for provider, error in failures]
            return frames.pack(STOPPED, pickle.dumps(packed))


def read_journal(data: bytes, arena: Arena | None = None) -> Iterator[Results]:
    """Read what a worker has recorded; results that stand bare come together with the entry before them."""
    file, newest, bare = io.BytesIO(data), None, list[Any]()
    while (position := file.tell()) < len(data):
        if data[position] == _BARE:
            bare.append(pickle.load(file))
            continue
        if newest is not None:
            yield _extended(newest, bare)
        _kind, size = frames.HEADER.unpack(file.read(frames.HEADER.size))
        newest, bare = _decode_results(memoryview(file.read(size)), arena), []
    if newest is not None:
        yield _extended(newest, bare)


def _extended(results: Results, values: list[Any]) -> Results:
    size = results.size + len(values)
    seconds = results.seconds * size / max(results.size, 1)
    return results._replace(size=size, values=[*results.values, *values], seconds=seconds)


def encode_single(chunk: int, index: int, seconds: float, value: bytes) -> bytes:
    """Write one frame for the result of one item, a batch of one, as ``Results`` would be written."""
    head = RESULTS, _RESULTS.size + len(value), chunk, index, 1, seconds, False, len(value), 0
    return _SINGLE.pack(*head) + value


def _encode_results(message: Results) -> list[Buffer]:
    values, rest = message.values, b""
    if not isinstance(values, bytes):
        values = encode_batch(values, "result")
    if message.failures or message.each or message.sampled:
        failed = [
            (
                failure.offset,
                remote_errors.pack_error(failure.error),
                failure.traceback,
                failure.phase,
                failure.provider,
            )
            for failure in message.failures
        ]
        rest = pickle.dumps((failed, message.each, message.sampled))
    head = message.chunk, message.start, message.size, message.seconds, message.done
    return frames.pack(RESULTS, _RESULTS.pack(*head, len(values), len(rest)), values, rest)


def decode_from_worker(kind: int, body: Buffer, arena: Arena | None = None) -> FromWorker:
    """Read one frame; a result that cannot be unpickled becomes the failure of its item."""
    if kind == RESULTS:
        return _decode_results(memoryview(body), arena)
    if kind == RETURNED:
        return Returned(*_RETURNED.unpack(body))
    if kind == READY:
        return Ready(remote_errors.unpack_error(body) if body else None)
    packed = pickle.loads(body)
    if kind == WORN:
        return Worn(*packed)
    return Stopped(tuple((provider, remote_errors.unpack_error(error)) for provider, error in packed))


def _decode_results(body: memoryview, arena: Arena | None) -> Results:
    chunk, start, size, seconds, done, values_length, rest_length = _RESULTS.unpack_from(body)
    middle, before = _RESULTS.size + values_length, 0 if arena is None else arena.moved
    values = decode_batch(body[_RESULTS.size : middle], "result", arena)
    failures: list[Failed] = []
    each: tuple[float, ...] = ()
    sampled: tuple[tuple[str, int, float], ...] = ()
    if rest_length:
        packed, each, sampled = pickle.loads(body[middle:])
        failures = [Failed(offset, remote_errors.unpack_error(error), *rest) for offset, error, *rest in packed]
    weight = len(body) + (0 if arena is None else arena.moved - before)
    results = Results(chunk, start, size, values, tuple(failures), seconds, each, done, sampled, weight)
    return guard(results) if isinstance(values, codec.DamagedBatch) else results


def guard(results: Results) -> Results:
    """Turn what could not be sent among the values into failures of their items."""
    values: list[Any] = list(results.values)
    known = {failure.offset for failure in results.failures}
    extra = [
        Failed(offset, value.error, str(value.error), "transport", None)
        for offset, value in enumerate(values)
        if type(value) is codec.Unsendable and offset not in known
    ]
    for failure in extra:
        values[failure.offset] = None
    failures = sorted((*results.failures, *extra), key=lambda failure: failure.offset)
    return results._replace(values=values, failures=tuple(failures))
