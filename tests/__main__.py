"""Runs the suite under coverage, worker processes counted, and reports: ``python -m tests [pytest's arguments]``.

Without arguments the suite runs in parts side by side, since most of its tests wait for processes, and of the files
with the most tests a sample, always the same: ``python -m tests tests`` runs all of them. With arguments only a part
may run, so the coverage floor is not enforced then.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tests import SAMPLE

ROOT = Path(__file__).resolve().parent.parent
ROOMS_APART = ("pool", "faults", "clusters")  # each a part of its own
ELSEWHERE = {  # files that go with another part, which takes less time
    "pool/test_main_module.py": "faults",
    "pool/test_recycling.py": "faults",
    "pool/test_backpressure.py": "",
    "pool/test_ledger.py": "",
    "pool/test_async_backends.py": "faults",
    "pool/test_concurrency_faults.py": "",
    "pool/test_loop_hygiene.py": "",
    "pool/test_scrape.py": "",
}


def main(arguments: Sequence[str]) -> int:
    """Return pytest's exit code, or that of the coverage report where the tests passed."""
    run("coverage", "erase")
    if not arguments:
        os.environ[SAMPLE] = "yes"
    tests = run_parts([list(arguments)] if arguments else parts_of_suite())
    run("coverage", "combine", "--quiet")
    report = run("coverage", "report", *(["--fail-under=0"] if arguments else []))
    return tests or report


def parts_of_suite() -> list[list[str]]:
    """Divide the test files into parts that take about as long."""
    parts: dict[str, list[str]] = {room: [] for room in (*ROOMS_APART, "")}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        room = ELSEWHERE.get(f"{file.parent.name}/{file.name}", file.parent.name)
        parts[room if room in ROOMS_APART else ""].append(str(file))
    return list(parts.values())


def run_parts(parts: Sequence[list[str]]) -> int:
    """Run pytest for each part at the same time; print one after another, return the worst exit code."""
    command = [sys.executable, "-m", "coverage", "run", "-m", "pytest"]
    if len(parts) == 1:
        return run("coverage", "run", "-m", "pytest", *parts[0])
    running = [
        subprocess.Popen([*command, *part], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for part in parts
    ]
    outputs: list[list[str]] = [[] for _ in running]
    readers = [threading.Thread(target=read, args=(part, into)) for part, into in zip(running, outputs, strict=True)]
    for reader in readers:
        reader.start()
    for reader, output in zip(readers, outputs, strict=True):
        reader.join()
        sys.stdout.write("".join(output))
        sys.stdout.flush()
    return max((abs(part.wait()) for part in running), default=0)


def read(part: "subprocess.Popen[str]", into: list[str]) -> None:
    """Gather what a part prints, so that its pipe never fills."""
    assert part.stdout is not None
    into.extend(part.stdout)


def run(module: str, *arguments: str) -> int:
    """Run *module* with this interpreter in the project's folder and return its exit code."""
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
