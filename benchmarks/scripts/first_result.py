"""Prints the seconds from before a pool of four workers is made to its first result: a list, a number for each pool.

Usage: ``first_result.py CONTESTANT POOLS``. A user's script: it imports fastapi at its top, its function uses it, and
it has the main guard that multiprocessing needs. Nothing else is imported at the top, since the workers of most
contestants import this file again.
"""

import json
import sys
import time

import fastapi

WORKERS = 4
ITEMS = range(8)


def work(item: int) -> int:
    """Need fastapi on the worker."""
    return item if fastapi.__version__ else -1


def time_poolinject() -> float:
    """Time this library."""
    from poolinject import InjectedPool  # noqa: PLC0415 - see above

    start = time.perf_counter()
    with InjectedPool(WORKERS) as pool:
        results = pool.imap(work, ITEMS, chunksize=1)
        return _until_first(results, start)


def time_mp(method: str, preload: list[str] | None = None) -> float:
    """Time the standard library's pool with a start method."""
    import multiprocessing  # noqa: PLC0415 - see above

    context = multiprocessing.get_context(method)
    if preload is not None:
        context.set_forkserver_preload(preload)
    start = time.perf_counter()
    with context.Pool(WORKERS) as pool:
        return _until_first(pool.imap(work, ITEMS), start)


def time_executor() -> float:
    """Time the standard library's executor."""
    import multiprocessing  # noqa: PLC0415 - see above
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415 - see above

    context = multiprocessing.get_context("forkserver")
    start = time.perf_counter()
    with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        return _until_first(pool.map(work, ITEMS), start)


def time_loky() -> float:
    """Time loky."""
    import loky  # noqa: PLC0415 - see above

    start = time.perf_counter()
    with loky.ProcessPoolExecutor(WORKERS) as pool:
        return _until_first(pool.map(work, ITEMS), start)


def _until_first(results: object, start: float) -> float:
    iterator = iter(results)  # type: ignore[call-overload]
    first = next(iterator)
    seconds = time.perf_counter() - start
    if [first, *iterator] != list(ITEMS):
        raise ValueError(first)
    return seconds


CONTESTANTS = {
    "poolinject": time_poolinject,
    "mp-forkserver": lambda: time_mp("forkserver"),
    "mp-preload": lambda: time_mp("forkserver", ["fastapi"]),
    "mp-spawn": lambda: time_mp("spawn"),
    "executor": time_executor,
    "loky": time_loky,
}

if __name__ == "__main__":
    contestant = CONTESTANTS[sys.argv[1]]
    sys.stdout.write(json.dumps([contestant() for _ in range(int(sys.argv[2]))]))
