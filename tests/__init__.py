"""The suite; a room of tests for each room of the library."""

SAMPLE = "POOLINJECT_SAMPLE"  # set where of the largest files a sample of the tests is enough
