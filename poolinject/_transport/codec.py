"""Objects to bytes and back, one by one, and what stands for one that could not be. Runs in the caller and in workers.

User code that runs on the way (``__reduce__``, ``__setstate__``) may raise what it likes, ``KeyboardInterrupt`` as
well. Only ``encode``, which the calling thread uses for functions, lets that through.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from poolinject._transport.picklers import Buffer, describe_error, describe_type, dumps, safe_text
from poolinject.errors import TransportError


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
        raise not_encoded(obj, what, error) from None


def decode(data: Buffer, what: str = "object", buffers: Sequence[Buffer] = ()) -> Any:
    """Return the object of which *data* are the bytes.

    Raises:
        TransportError: If the object, called *what*, cannot be unpickled.
    """
    try:
        return pickle.loads(data, buffers=buffers)
    except BaseException as error:  # noqa: BLE001 - user code may raise anything
        raise TransportError(what, decoding_failure(error)) from None


def not_encoded(obj: object, what: str, error: BaseException) -> TransportError:
    """Say that an object, called *what*, cannot be pickled, and why."""
    return TransportError(what, f"{safe_text(obj, describe_type)} cannot be pickled: {describe_error(error)}")


def decoding_failure(error: BaseException) -> str:
    """Say why something cannot be unpickled."""
    return f"cannot be unpickled: {describe_error(error)}"
