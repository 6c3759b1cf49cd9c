"""The tests of ``tests.pool.test_bad_input`` that are for every backend."""

from tests.pool.test_bad_input import *
