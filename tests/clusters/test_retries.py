"""The tests of ``tests.pool.test_retries`` that are for every backend."""

from tests.pool.test_retries import *
