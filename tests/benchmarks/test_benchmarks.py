"""The benchmarks' command line, run as a user runs it; what they measure is not asserted here."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import workloads
from benchmarks.measure import Contestant, WrongResultError, always_open, compete, timed
from benchmarks.rows import ROWS

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 25.0


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def test_list_names_every_row() -> None:
    """One line a row, its name first, nothing measured."""
    result = run_benchmarks("--list")
    assert result.returncode == 0, result.stderr
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert names == [row.name for row in ROWS]
    assert len(set(names)) == len(names) == 26


def test_a_row_is_measured_and_written(tmp_path: Path) -> None:
    """A run of some rows writes what it found, raw rounds included, and leaves the full table alone."""
    result = run_benchmarks("diamond", "--quick", "--repeats", "3", "--output", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    endings = {"json", "md", "png"} if importlib.util.find_spec("matplotlib") else {"json", "md"}
    assert {path.name for path in tmp_path.iterdir()} == {f"partial.{ending}" for ending in endings}
    written = json.loads((tmp_path / "partial.json").read_text())
    assert [row["name"] for row in written["rows"]] == ["diamond"]
    assert [len(figure["rounds"]) for figure in written["rows"][0]["figures"]] == [3, 3]
    assert re.search(r"^\| diamond \|.*\| <= 50 ms \|", (tmp_path / "partial.md").read_text(), re.MULTILINE)


def test_unknown_row_is_refused() -> None:
    """The message names it and those that exist."""
    result = run_benchmarks("diamonds")
    assert result.returncode == 2
    assert "no row is called diamonds" in result.stderr
    assert "seed-async" in result.stderr


def test_contestants_take_turns_and_missing_ones_are_told() -> None:
    """Warm-ups come first; then a round of each, again and again; a missing peer is a note."""
    turns: list[str] = []

    def contestant(name: str, **options: object) -> Contestant:
        def once() -> float:
            turns.append(name)
            return 1.0

        return Contestant(name, 1, lambda: always_open(once), **options)  # type: ignore[arg-type]

    contest = compete([contestant("A"), contestant("B"), contestant("C", needs="no_such_module")], rounds=2)
    assert turns == ["A", "B", "A", "B", "A", "B"]
    assert contest.rounds == {"A": [1.0, 1.0], "B": [1.0, 1.0]}
    assert contest.notes == ["C: skipped, no_such_module is not installed"]


def test_wrong_results_have_no_time() -> None:
    """They end a row where a goal depends on them, and are a note where they are information."""

    def once() -> float:
        return timed(lambda: 1, lambda value: value == 2)

    with pytest.raises(WrongResultError, match="1 is not what the work gives"):
        compete([Contestant("A", 1, lambda: always_open(once))], rounds=1)
    contest = compete([Contestant("A", 1, lambda: always_open(once), information=True)], rounds=1)
    assert contest.rounds == {}
    assert contest.notes[0].startswith("A: left out")


def test_ideal_makespan_is_a_lower_bound() -> None:
    """The longest item bounds it where one is longer than its worker's share."""
    assert workloads.ideal_makespan([1.0, 1.0, 2.0], 2) == 2.0
    assert workloads.ideal_makespan([1.0, 5.0], 2) == 5.0
    assert workloads.in_order_makespan([1.0, 1.0, 2.0], 2) == 3.0
