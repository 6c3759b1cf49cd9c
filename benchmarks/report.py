"""What a run has found, as text, JSON and Markdown. Writes only where it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import Machine
from benchmarks.row import Check, Effort, Figure, Result, Row

STEPS = ((100, 0), (10, 1), (0, 2))  # from this value on, so many digits after the point


@dataclass(frozen=True, slots=True)
class Measured:
    """A row with what measuring it gave.

    Attributes:
        row: The row.
        result: Empty where the row failed.
        seconds: How long measuring took, everything included.
        error: What a row that could not be measured raised.
    """

    row: Row
    result: Result
    seconds: float
    error: str | None = None


def lines_of(measured: Measured) -> Iterator[str]:
    """Say what a row gave, for the terminal."""
    for figure in measured.result.figures:
        mark = " (information)" if figure.information else ""
        yield f"  {figure.label:<48} {in_unit(figure.value, figure.unit)}{mark}"
    for check in measured.result.checks:
        yield f"  -> {in_words(check)}: goal {goal_of(check)}, {'met' if check.met else 'NOT MET'}"
    yield from (f"  note: {note}" for note in measured.result.notes)
    yield f"  measured in {measured.seconds:.0f} s"
    if measured.error is not None:
        yield f"  FAILED: {measured.error}"


def number(value: float) -> str:
    """Give a number with as many digits as matter."""
    digits = next(digits for least, digits in STEPS if abs(value) >= least)
    return f"{value:,.{digits}f}"


def in_unit(value: float, unit: str) -> str:
    """Give a number and its unit."""
    return f"{number(value)} {unit}".rstrip()


def in_words(check: Check) -> str:
    """Say what was reached, and relative to what."""
    if check.unit == "times":
        return f"{number(check.value)} times as fast as {check.against}"
    if check.unit:
        return f"{check.against}: {in_unit(check.value, check.unit)}"
    return f"{check.value:.3f} of {check.against}"


def goal_of(check: Check) -> str:
    """Give the goal as text."""
    return f"{check.relation} {check.bound:,} {check.unit}".rstrip()


def as_json(machine: Machine, effort: Effort, table: Sequence[Measured]) -> str:
    """Give everything: also the raw seconds of each round."""
    rows = [
        {
            "name": measured.row.name,
            "title": measured.row.title,
            "against": measured.row.against,
            "goal": measured.row.goal,
            "figures": [asdict(figure) for figure in measured.result.figures],
            "checks": [{**asdict(check), "met": check.met} for check in measured.result.checks],
            "notes": measured.result.notes,
            "seconds": round(measured.seconds, 1),
            "error": measured.error,
        }
        for measured in table
    ]
    return json.dumps({"machine": asdict(machine), "effort": asdict(effort), "rows": rows}, indent=1) + "\n"


def as_markdown(machine: Machine, effort: Effort, table: Sequence[Measured]) -> str:
    """Give two tables: the goals, and every contestant's figure."""
    pieces = ["# Benchmarks", "", machine.in_words(), ""]
    if effort.quick:
        pieces += ["**A quick run: it shows that the rows work, its figures mean nothing.**", ""]
    pieces += _goal_table(table)
    pieces += [
        "",
        "## Every contestant",
        "",
        "Best round of each, and the worst as a multiple of it. *Information*: no goal depends on it.",
        "",
    ]
    pieces += ["| row | contestant | figure | worst / best | |", "| --- | --- | ---: | ---: | --- |"]
    for measured in table:
        pieces += [_figure_line(measured.row, figure) for figure in measured.result.figures]
    notes = [f"- {measured.row.name}: {note}" for measured in table for note in measured.result.notes]
    if notes:
        pieces += ["", "## Notes", "", *notes]
    return "\n".join(pieces) + "\n"


def _goal_table(table: Sequence[Measured]) -> Iterator[str]:
    yield "| row | what | against | goal | reached | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for measured in table:
        row = measured.row
        if measured.error is not None or not measured.result.checks:
            reached = f"failed: {_in_cell(measured.error)}" if measured.error else "nothing to compare with"
            yield f"| {row.name} | {row.title} | {row.against} | {row.goal} | {reached} | |"
        for check in measured.result.checks:
            reached, goal = _in_cell(in_words(check)), goal_of(check)
            met = "met" if check.met else "**not met**"
            yield f"| {row.name} | {row.title} | {row.against} | {goal} | {reached} | {met} |"


def _figure_line(row: Row, figure: Figure) -> str:
    kind = "information" if figure.information else ""
    reached = in_unit(figure.value, figure.unit)
    return f"| {row.name} | {_in_cell(figure.label)} | {reached} | {_spread(figure)} | {kind} |"


def _spread(figure: Figure) -> str:
    least = min(figure.rounds, default=0.0)
    return f"{max(figure.rounds) / least:.2f}" if least > 0 else ""


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def write(directory: Path, name: str, machine: Machine, effort: Effort, table: Sequence[Measured]) -> list[Path]:
    """Write JSON and Markdown; give their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = {"json": as_json(machine, effort, table), "md": as_markdown(machine, effort, table)}
    paths = []
    for ending, text in texts.items():
        path = directory / f"{name}.{ending}"
        path.write_text(text)
        paths.append(path)
    return paths
