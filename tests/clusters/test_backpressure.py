"""The tests of ``tests.pool.test_backpressure`` that are for every backend."""

from tests.pool.test_backpressure import *
