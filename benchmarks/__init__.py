"""Benchmarks: ``python -m benchmarks`` measures every row of the table beside its peers; run by hand."""
