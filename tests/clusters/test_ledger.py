"""The tests of ``tests.pool.test_ledger`` that are for every backend."""

from tests.pool.test_ledger import *
