"""The tests of ``tests.pool.test_run_methods`` that are for every backend."""

from tests.pool.test_run_methods import *
