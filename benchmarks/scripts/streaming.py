"""Streams items through ``imap`` and prints by how many bytes the resident memory of this process grew at the most.

Usage: ``streaming.py poolinject|mp ITEMS WARM_UP_ITEMS``. The warm-up runs on the same pool.
"""

import json
import multiprocessing
import sys
from collections.abc import Callable, Iterable

import psutil

from poolinject import InjectedPool

WORKERS = 2
SAMPLE_EVERY = 10_000  # items


def same(item: int) -> int:
    """Do nothing."""
    return item


def growth_of(imap: Callable[[Iterable[int]], Iterable[int]], count: int, warm_up: int) -> int:
    """Consume so many results, sampling; give the most memory less that after the warm-up.

    Raises:
        ValueError: If the results are not the items, in order.
    """
    process = psutil.Process()
    for _ in imap(number for number in range(warm_up)):
        pass
    before = most = process.memory_info().rss
    expected = 0
    for result in imap(number for number in range(count)):
        if result != expected:
            raise ValueError(result)
        expected += 1
        if expected % SAMPLE_EVERY == 0:
            most = max(most, process.memory_info().rss)
    if expected != count:
        raise ValueError(expected)
    return int(most - before)


def main(kind: str, count: int, warm_up: int) -> None:
    """Measure one kind of pool."""
    if kind == "poolinject":
        with InjectedPool(WORKERS) as pool:
            growth = growth_of(lambda items: pool.imap(same, items), count, warm_up)
    else:
        with multiprocessing.get_context("forkserver").Pool(WORKERS) as mp_pool:
            growth = growth_of(lambda items: mp_pool.imap(same, items, 1000), count, warm_up)
    sys.stdout.write(json.dumps({"growth_bytes": growth}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
