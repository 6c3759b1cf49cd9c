"""Draws what was reached against the goals, as a PNG. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import Machine
from benchmarks.report import Measured, goal_of, in_words

MET, MISSED = "#2a7f62", "#c0392b"
LEAST = 0.003  # a share drawn shorter than this would not be seen


def draw(path: Path, machine: Machine, table: Sequence[Measured]) -> bool:
    """Write a bar for each goal, its length the figure relative to the goal; say whether matplotlib is there."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - it may be missing

        mpl.use("Agg")
        from matplotlib import pyplot as plt  # noqa: PLC0415 - the same
    except ImportError:
        return False
    bars = [(measured.row, check) for measured in reversed(table) for check in reversed(measured.result.checks)]
    figure, axes = plt.subplots(figsize=(11, 1.6 + 0.32 * len(bars)))
    shares = [max(check.share, LEAST) for _, check in bars]
    colours = [MET if check.met else MISSED for _, check in bars]
    axes.barh(range(len(bars)), shares, color=colours, height=0.6)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(LEAST, max([*shares, 1.0]) * 30)
    axes.set_yticks(range(len(bars)), [row.name for row, _ in bars])
    for place, (share, (_, check)) in enumerate(zip(shares, bars, strict=True)):
        axes.text(share * 1.06, place, f"{in_words(check)} (goal {goal_of(check)})", va="center", fontsize=7)
    axes.set_xlabel("reached, relative to the goal: left of the line is met")
    axes.set_title(f"poolinject, {machine.date[:10]}, {machine.cpus} CPUs, Python {machine.python}", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True
