"""The tests of ``tests.pool.test_concurrency`` that are for every backend."""

from tests.pool.test_concurrency import *
