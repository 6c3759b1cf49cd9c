"""The table of the matrix: what each cell has come to, kind by kind."""

from __future__ import annotations

from tests.conftest import Kind
from tests.faults.cells import KINDS, Gap, expected
from tests.faults.faults import FAULTS, Fault
from tests.faults.places import PLACES, Place

Table = dict[tuple[Kind, Place, Fault], str]


def draw(entries: Table) -> str:
    """Draw the cells of every kind."""
    return "\n".join(f"\n{drawn(entries, kind)}" for kind in KINDS)


def drawn(entries: Table, kind: Kind) -> str:
    """Draw the cells of a kind, a row for each fault, a column for each place; a dash where one makes no sense."""
    rows = [[fault, *(cell(entries, kind, place, fault) for place in PLACES)] for fault in FAULTS]
    heads = [str(kind), *(place.replace("dependency", "dep.").replace("the ", "") for place in PLACES)]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    padded = (map(str.ljust, line, widths) for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def cell(entries: Table, kind: Kind, place: Place, fault: Fault) -> str:
    """Give the text of a cell, a question mark where its test did not run."""
    return "-" if isinstance(expected(place, fault, kind), Gap) else entries.get((kind, place, fault), "?")
