"""Runs the suite under coverage, worker processes counted, and reports: ``python -m tests [pytest's arguments]``.

With arguments only a part may run, so the coverage floor is not enforced then.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str]) -> int:
    """Return pytest's exit code, or that of the coverage report where the tests passed."""
    run("coverage", "erase")
    tests = run("coverage", "run", "-m", "pytest", *arguments)
    run("coverage", "combine", "--quiet")
    report = run("coverage", "report", *(["--fail-under=0"] if arguments else []))
    return tests or report


def run(module: str, *arguments: str) -> int:
    """Run *module* with this interpreter in the project's folder and return its exit code."""
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
