"""Runs the suite under coverage, worker processes counted: ``python -m tests [pytest's arguments]``.

Without arguments the suite runs in parts side by side, since most of its tests wait for processes, and of the files
with the most tests a sample, always the same: ``python -m tests tests`` runs all of them. With arguments only a part
may run, so the coverage floor is not enforced then.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import SAMPLE

ROOT = Path(__file__).resolve().parent.parent
ROOMS_APART = ("faults", "clusters")  # each a part of its own
UNMEASURED = "faults"  # the part that coverage leaves out: it would double what starting so many processes costs
WIDTH = "240"


def main(arguments: Sequence[str]) -> int:
    """Return pytest's exit code, or that of the coverage report, which is made where the tests passed."""
    run("coverage", "erase")
    if not arguments:
        os.environ[SAMPLE] = "yes"
    failed = run_parts({"": list(arguments)} if arguments else parts_of_suite())
    if failed:
        return failed
    run("coverage", "combine", "--quiet")
    return run("coverage", "report", *(["--fail-under=0"] if arguments else []))


def parts_of_suite() -> dict[str, list[str]]:
    """Divide the test files into parts that take about as long: those of the pool go to two of them in turn."""
    parts: dict[str, list[str]] = {room: [] for room in (*ROOMS_APART, "")}
    for number, file in enumerate(sorted((ROOT / "tests").rglob("test_*.py"))):
        room = file.parent.name
        if room == "pool":
            room = ("faults", "")[number % 2]
        parts[room if room in ROOMS_APART else ""].append(str(file))
    return parts


def run_parts(parts: Mapping[str, list[str]]) -> int:
    """Run pytest for each part, all at the same time; print those that failed last, return the worst exit code."""
    if len(parts) == 1:
        return run("coverage", "run", "-m", "pytest", *parts[""])
    with ThreadPoolExecutor(len(parts)) as threads:
        ended = sorted(threads.map(run_quietly, *zip(*parts.items(), strict=True)), key=lambda end: abs(end.returncode))
    for part in ended:
        sys.stdout.write(part.stdout)
    sys.stdout.flush()
    return abs(ended[-1].returncode)


def run_quietly(room: str, files: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run pytest for a part and keep what it prints."""
    measuring = [] if room == UNMEASURED else ["-m", "coverage", "run"]
    command = [sys.executable, *measuring, "-m", "pytest", *files]
    wide = {**os.environ, "COLUMNS": WIDTH}  # where pytest's summary has room for what went wrong
    return subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=wide
    )


def run(module: str, *arguments: str) -> int:
    """Run *module* with this interpreter in the project's folder and return its exit code."""
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
