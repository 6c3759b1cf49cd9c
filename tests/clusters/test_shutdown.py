"""The tests of ``tests.pool.test_shutdown`` that are for every backend."""

from tests.pool.test_shutdown import *
