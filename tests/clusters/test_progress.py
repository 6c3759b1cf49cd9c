"""The tests of ``tests.pool.test_progress`` that are for every backend."""

from tests.pool.test_progress import *
