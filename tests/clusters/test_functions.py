"""The tests of ``tests.pool.test_functions`` that are for every backend."""

from tests.pool.test_functions import *
