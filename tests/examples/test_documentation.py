"""README.md and docs/: their code runs as it stands, their links lead somewhere, and ``.ci/run`` finds its commands."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.pool.server import serving

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TIMEOUT = 20.0
SQUARES = str(sum(number**2 for number in range(100)))
SCRIPTS = {  # what tells a block from all others, and patterns of the lines that it prints, sorted
    "squares.sqlite3": [SQUARES],
    "orders.sqlite3": [
        r"\({'id': '2', .*}, 'call', 'customer'\)",
        r"\({'id': '3', .*}, 'call', 'amount'\)",
        r"loaded 2 orders of 42\.5 in .* s, rejected 2:",
    ],
    "logging.basicConfig": [],
    "Resolver(": [
        "goodbye: session on the connection",
        "hello: session on the connection",
        "session on the connection",
        "session on the connection",
    ],
    "import asyncio": [SQUARES, SQUARES],
    "RetryPolicy(": [r"\['/tea: attempt 2', '/jam: attempt 2'\]"],
}
ELSEWHERE = ("# shop.py", "# job.py", "import httpx", "DaskBackend(")  # in a test of their own, or in need of a cluster


def blocks() -> list[str]:
    """Give the Python code of all documents."""
    texts = (document.read_text(encoding="utf-8") for document in DOCUMENTS)
    return [block for text in texts for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def block_with(mark: str) -> str:
    """Give the one block of code that has a text in it."""
    found = [block for block in blocks() if mark in block]
    assert len(found) == 1, mark
    return found[0]


def run(*arguments: str, code: str | None = None, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        input=code,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.mark.parametrize("mark", SCRIPTS)
def test_code_runs_as_it_stands(mark: str, tmp_path: Path) -> None:
    """Also on standard input."""
    result = run("-", code=block_with(mark), directory=tmp_path)
    lines = sorted(result.stdout.splitlines())
    assert result.returncode == 0, result.stderr
    assert len(lines) == len(SCRIPTS[mark]), result.stdout
    assert all(re.fullmatch(pattern, line) for pattern, line in zip(SCRIPTS[mark], lines, strict=True)), result.stdout


def test_logging_is_set_up_in_workers(tmp_path: Path) -> None:
    """Each item's line comes from a worker's own handler."""
    result = run("-", code=block_with("logging.basicConfig"), directory=tmp_path)
    assert sorted(re.findall(r"INFO loaded (\d)", result.stderr)) == list("0123")


def test_application_and_job_run_as_they_stand(tmp_path: Path) -> None:
    """As two files in one directory."""
    for name in ("shop.py", "job.py"):
        (tmp_path / name).write_text(block_with(f"# {name}\n"), encoding="utf-8")
    result = run("job.py", directory=tmp_path)
    assert (result.returncode, result.stdout) == (0, "[3, 5]\n"), result.stderr


def test_scrape_runs_as_it_stands(ledger: ModuleType, tmp_path: Path) -> None:
    """With a server at the address that it names."""
    code = block_with("import httpx")
    with serving() as address:
        result = run("-", code=code.replace("http://localhost:8000", address), directory=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"{sum(len(str(2 * n)) for n in range(300))}\n"), result.stderr
    assert 0 < ledger.count("opened") <= 40  # connections are those of a worker


def test_every_block_is_tested() -> None:
    """A new one needs a place in this file."""
    marks = (*SCRIPTS, *ELSEWHERE)
    assert [block for block in blocks() if not any(mark in block for mark in marks)] == []


def anchors(document: Path) -> set[str]:
    """Give the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    """To a file that is there, and to a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("part", ["examples/flights_etl.py", "python -m tests"])
def test_readme_has_the_commands_of_ci(part: str) -> None:
    """One line each, by which ``.ci/run`` finds it."""
    lines = DOCUMENTS[0].read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if "python3 -m venv .venv" in line and part in line]) == 1
