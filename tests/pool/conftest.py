"""After each test of this room the process has what it had before."""

from tests.resources import lasting, no_leaks

__all__ = ["lasting", "no_leaks"]
