"""Rows about the time until something happens, each round in an interpreter of its own."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.interpreter import run_code, run_script
from benchmarks.measure import Contestant, always_open, compete
from benchmarks.row import Check, Effort, Figure, Result, Row

IMPORT_CODE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def first_result_of(kind: str, name: str, *, information: bool = False, needs: str | None = None) -> Contestant:
    """Make the contestant whose round is a script that makes a pool of four workers and waits for the first result."""

    def once() -> float:
        seconds: list[float] = run_script("first_result.py", kind, "1")
        return seconds[0]

    return _in_fresh_interpreter(name, once, information=information, needs=needs)


def measure_first_result(effort: Effort) -> Result:
    """From before the pool is made to the first result; the script's module imports fastapi."""
    ours = first_result_of("poolinject", "poolinject")
    theirs = first_result_of("mp-forkserver", "mp.Pool, forkserver")
    peers = [
        first_result_of("mp-preload", "mp.Pool, forkserver told to preload fastapi", information=True),
        first_result_of("mp-spawn", "mp.Pool, spawn", information=True),
        first_result_of("executor", "ProcessPoolExecutor, forkserver", information=True),
        first_result_of("loky", "loky", information=True, needs="loky"),
    ]
    contest = compete([ours, theirs, *peers], effort.rounds(5))
    result = contest.result("ms to the first result")
    result.checks.append(Check(theirs.name, contest.ratio(ours.name, theirs.name), "<=", 0.7))
    return result


def measure_second_pool(effort: Effort) -> Result:
    """The first pool is shut down, then the second one made, in the same interpreter; best of each."""
    result = Result()
    for kind, name, information in (
        ("poolinject", "poolinject", False),
        ("mp-forkserver", "mp.Pool, forkserver", True),
    ):
        rounds = [run_script("first_result.py", kind, "2") for _ in range(effort.rounds(5))]
        best = []
        for place, label in enumerate(("first", "second")):
            seconds = tuple(each[place] for each in rounds)
            best.append(min(seconds))
            figure = Figure(f"{name}, {label} pool", best[-1] * 1e3, "ms to the first result", seconds, 1, information)
            result.figures.append(figure)
        if not information:
            result.checks.append(Check("the first pool", best[1] / best[0], "<=", 0.25))
    return result


def measure_import(effort: Effort) -> Result:
    """Seconds of the ``import`` statement, compiled files there; best with poolinject less best without."""
    contestants = [_importing("fastapi"), _importing("fastapi, poolinject")]
    contest = compete(contestants, effort.rounds(9))
    result = contest.result("ms to import")
    beyond = contest.best(contestants[1].name) - contest.best(contestants[0].name)
    result.checks.append(Check("beyond fastapi", beyond * 1e3, "<=", 80, "ms"))
    return result


def _importing(modules: str) -> Contestant:
    def once() -> float:
        seconds: float = run_code(IMPORT_CODE.format(modules))
        return seconds

    return _in_fresh_interpreter(f"import {modules}", once)


def _in_fresh_interpreter(
    name: str, once: Callable[[], float], *, information: bool = False, needs: str | None = None
) -> Contestant:
    return Contestant(name, 1, lambda: always_open(once), information, needs)


FIRST_RESULT = Row(
    "first-result",
    "first result of four workers, module imports fastapi",
    "`mp.Pool`, forkserver",
    "<= 0.7",
    measure_first_result,
)
SECOND_POOL = Row(
    "second-pool", "first result of a second pool in the process", "the first", "<= 0.25", measure_second_pool
)
IMPORT = Row("import", "`import poolinject` beyond `import fastapi`", "", "<= 80 ms", measure_import)
