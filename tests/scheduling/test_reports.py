"""Reports of runs and shutdowns."""

import pytest

from poolinject import CleanupError, CleanupReport
from poolinject._scheduling.reports import CleanupStatus, WorkerCleanup


@pytest.mark.parametrize("status", ["errors", "timed out", "lost"])
def test_report_is_clean_only_if_every_worker_is(status: CleanupStatus) -> None:
    """One worker that did not end well makes the report unclean."""
    assert not CleanupReport({0: WorkerCleanup("clean"), 1: WorkerCleanup(status)}, 0.1).clean


def test_report_without_workers_is_clean() -> None:
    """A pool that never started a worker has nothing to raise."""
    report = CleanupReport({}, 0.0)
    assert report.clean
    report.raise_errors()


def test_errors_of_all_workers_leave_together() -> None:
    """Each one is noted with its worker and provider, in order."""
    first, second = ValueError("first"), OSError("second")
    workers = {0: WorkerCleanup("errors", (("get_a", first),)), 3: WorkerCleanup("errors", (("get_b", second),))}
    report = CleanupReport(workers, 0.1)
    assert report.errors == (first, second)
    with pytest.raises(CleanupError, match=r"2 cleanup\(s\) failed") as raised:
        report.raise_errors()
    assert raised.value.exceptions == (first, second)
    assert second.__notes__ == ["in the cleanup of get_b on worker 3"]


def test_exit_of_a_cleanup_becomes_an_ordinary_error() -> None:
    """What is no ``Exception`` does not leave the caller's program, and keeps its name."""
    report = CleanupReport({0: WorkerCleanup("errors", (("get_a", SystemExit(3)),))}, 0.1)
    with pytest.raises(CleanupError) as raised:
        report.raise_errors()
    assert str(raised.value.exceptions[0]) == "SystemExit: 3"
