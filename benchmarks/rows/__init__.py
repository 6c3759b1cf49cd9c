"""Every row of the table, by subject, in the order of the table."""

from benchmarks.row import Row
from benchmarks.rows import clusters, concurrency, injection, scheduling, startup, transport

ROWS: tuple[Row, ...] = (
    injection.SEED_ASYNC,
    injection.SEED_SYNC,
    injection.SEED_INJECTABLE,
    injection.RESOLVER_SYNC,
    injection.RESOLVER_ASYNC,
    transport.MAP,
    transport.IMAP,
    transport.IMAP_ONE,
    transport.ARRAYS_SEND,
    transport.ARRAYS_BACK,
    scheduling.SKEWED,
    scheduling.SKEWED_RANDOM,
    scheduling.STREAM,
    scheduling.PAUSED,
    concurrency.ASYNC_SLEEP,
    concurrency.ASYNC_CPU,
    startup.FIRST_RESULT,
    startup.SECOND_POOL,
    startup.IMPORT,
    scheduling.MANY_WORKERS,
    scheduling.CALLER_CPU,
    injection.GRAPH,
    injection.DIAMOND,
    transport.SIZES_ROW,
    clusters.DASK,
    clusters.RAY,
)
