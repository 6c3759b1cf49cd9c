"""What a worker does with messages, without a caller on the other side."""

from __future__ import annotations

from poolinject import WorkerContext
from poolinject._injection.runtime import Runtime
from poolinject._scheduling.functions import Functions
from poolinject._transport.messages import Chunk, FromWorker, Results
from poolinject._worker.control import private_control
from poolinject._worker.runner import Runner


async def echo(item: int) -> int:
    """Return the item."""
    return item


def test_a_chunk_that_is_taken_back_before_the_first_item_ends() -> None:
    """Also where no coroutine has run in the worker, so that it has no event loop yet."""
    functions = Functions({}, {}, by_reference=True)
    load = functions.load(functions.plan(echo, "map"))
    sent: list[FromWorker] = []
    control = private_control()
    runner = Runner(Runtime(WorkerContext(0, 0, "pool")), control, sent.append)
    runner.load(load)
    control.prepare(0, 0, 2)
    control.take_back(0, 0)
    runner.follow(Chunk(7, 0, 0, load.function, 0, exact=True, concurrency=16, items=[1, 2]))
    runner.finish()
    (told,) = sent
    assert isinstance(told, Results)
    assert (told.chunk, told.size, told.done) == (7, 0, True)
    runner.runtime.close()
