"""The tests of ``tests.pool.test_large_buffers`` that are for every backend."""

from tests.pool.test_large_buffers import *
