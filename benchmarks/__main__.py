"""Measures rows of the table beside their peers: ``python -m benchmarks [ROW ...]``.

Prints figures as they come, and writes JSON, a Markdown table and a plot: ``latest.*`` after a full run of all rows,
``partial.*`` after any other, so that a look at one row does not replace the table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine, plot, report
from benchmarks.report import Measured
from benchmarks.row import Effort, Result, Row
from benchmarks.rows import ROWS

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every row could be measured, whether or not it met its goal."""
    options = _parse(arguments)
    if options.list:
        for row in ROWS:
            print(f"{row.name:<16} {row.title}; {row.against or 'absolute'}: {row.goal}")
        return 0
    rows = [row for row in ROWS if not options.rows or row.name in options.rows]
    effort = Effort(options.quick, options.repeats)
    here = machine.describe()
    print(here.in_words(), flush=True)
    table = [_measure(row, effort) for row in rows]
    name = "latest" if len(rows) == len(ROWS) and not options.quick else "partial"
    paths = report.write(options.output, name, here, effort, table)
    if not options.no_plot:
        picture = options.output / f"{name}.png"
        if plot.draw(picture, here, table):
            paths.append(picture)
        else:
            print("no plot: matplotlib is not installed")
    print(f"\nwritten: {', '.join(path.name for path in paths)}")
    return 1 if any(measured.error for measured in table) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.partition("\n")[0])
    names = [row.name for row in ROWS]
    parser.add_argument("rows", nargs="*", metavar="ROW", help="only these rows; by default all")
    parser.add_argument("--list", action="store_true", help="name the rows and measure nothing")
    parser.add_argument("--quick", action="store_true", help="small inputs, few rounds: to see that it works")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds of every row; each has its own default")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR", help="where to write")
    parser.add_argument("--no-plot", action="store_true", help="write no PNG")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.rows) - set(names))
    if unknown:
        parser.error(f"no row is called {', '.join(unknown)}; there are {', '.join(names)}")
    if options.repeats is not None and options.repeats < 1:
        parser.error("--repeats must be 1 or more")
    return options


def _measure(row: Row, effort: Effort) -> Measured:
    print(f"\n{row.name}: {row.title}" + (f", against {row.against}" if row.against else ""), flush=True)
    start = time.perf_counter()
    try:
        measured = Measured(row, row.measure(effort), time.perf_counter() - start)
    except Exception as error:  # noqa: BLE001 - the other rows are still worth measuring
        text = "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
        measured = Measured(row, Result(), time.perf_counter() - start, text)
    for line in report.lines_of(measured):
        print(line, flush=True)
    return measured


if __name__ == "__main__":
    sys.exit(main())
