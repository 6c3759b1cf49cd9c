"""The tests of ``tests.pool.test_on_error`` that are for every backend."""

from tests.pool.test_on_error import *
