"""The suite; a room of tests for each room of the library."""

import os

SAMPLE = "POOLINJECT_SAMPLE"  # set where of the largest files a sample of the tests is enough
MEASURED = "COVERAGE_PROCESS_CONFIG"  # by which a process of a measured run knows that it is part of it


def unmeasured() -> dict[str, str]:
    """Give the environment for a process that coverage does not measure, and so not slow down several times."""
    return {name: value for name, value in os.environ.items() if name != MEASURED}
