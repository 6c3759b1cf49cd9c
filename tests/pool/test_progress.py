"""The bar counts finished items, failures included, to the end."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from tqdm import tqdm

from poolinject import InjectedPool
from poolinject._scheduling.chunking import EAGER_SECONDS
from poolinject._scheduling.engine import BAR_PATIENCE, Engine
from poolinject._scheduling.runs import Run
from tests.conftest import Kind

METHODS = ["map", "imap", "imap_unordered", "outcomes"]


def parse(item: str) -> int:
    """Fail for what is no number."""
    return int(item)


def endless() -> Iterator[str]:
    """Give an input without a length."""
    yield from map(str, range(30))


class Spy:
    """A class that is used as tqdm's is, and remembers."""

    made: ClassVar[list[Spy]] = []

    def __init__(self, **options: Any) -> None:
        self.options, self.count, self.closed = options, 0, 0
        self.postfix: dict[str, str] = {}
        self.made.append(self)

    def update(self, count: int) -> None:
        """Count."""
        self.count += count

    def set_postfix(self, counts: Any, **_: Any) -> None:
        """Remember what stands beside the rate."""
        self.postfix = dict(counts)

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed += 1


@pytest.fixture(autouse=True)
def spies() -> list[Spy]:
    """Give the bars made by the test."""
    Spy.made.clear()
    return Spy.made


@pytest.mark.parametrize("method", METHODS)
def test_the_bar_counts_finished_items_to_the_end(backend: Kind, spies: list[Spy], method: str) -> None:
    """One bar for a run, closed once."""
    with backend.pool() as pool:
        list(getattr(pool, method)(parse, [str(item) for item in range(25)], progress=Spy))
        (bar,) = spies
        assert (bar.count, bar.closed, bar.options) == (25, 1, {"total": 25})
        assert bar.postfix == {}


@pytest.mark.parametrize("method", METHODS)
def test_failures_count_and_are_shown(backend: Kind, spies: list[Spy], method: str) -> None:
    """Beside the rate."""
    options = {} if method == "outcomes" else {"on_error": "return"}
    with backend.pool() as pool:
        list(getattr(pool, method)(parse, ["1", "x", "3", "y"] * 5, progress=Spy, **options))
        (bar,) = spies
        assert (bar.count, bar.closed, {name: int(count) for name, count in bar.postfix.items()}) == (
            20,
            1,
            {"failed": 10},
        )


def test_an_input_without_a_length_has_no_total(backend: Kind, spies: list[Spy]) -> None:
    """The bar counts all the same."""
    with backend.pool() as pool:
        pool.map(parse, endless(), progress=Spy)
        assert (spies[0].count, spies[0].options) == (30, {"total": None})


def test_the_bar_counts_finished_items_not_those_taken(parallel: Kind, spies: list[Spy]) -> None:
    """A paused consumer does not hold it up."""
    with parallel.pool(max_in_flight=50) as pool:
        results = pool.imap(parse, endless(), progress=Spy)
        for taken in range(30):
            assert next(results) == taken
            assert spies[0].count > taken
        assert list(results) == []
        assert spies[0].count == 30


@pytest.mark.parametrize("how", ["fail", "abandon", "input"])
def test_the_bar_is_closed_however_the_run_ends(backend: Kind, spies: list[Spy], how: str) -> None:
    """By a failure, an iterator that is dropped, or an input that raises."""

    def broken() -> Iterator[str]:
        yield "1"
        raise LookupError

    with backend.pool() as pool:
        if how == "fail":
            with pytest.raises(ValueError, match="invalid literal"):
                pool.map(parse, ["1", "x", *["2"] * 100], progress=Spy)
        elif how == "input":
            with pytest.raises(LookupError):
                pool.map(parse, broken(), progress=Spy)
        else:
            next(pool.imap(parse, endless(), progress=Spy))
    assert [bar.closed for bar in spies] == [1]


@pytest.mark.parametrize(
    ("progress", "expected"), [(True, "20/20"), ("rows", "rows: 100%"), ({"desc": "cars", "unit": "car"}, "cars: 100%")]
)
def test_the_bar_is_drawn_on_the_standard_error(
    backend: Kind, capsys: pytest.CaptureFixture[str], progress: Any, expected: str
) -> None:
    """By tqdm, for ``True``, a text or a dict of options."""
    with backend.pool() as pool:
        pool.map(parse, map_of_texts(20), progress=progress)
    drawn = capsys.readouterr().err
    assert expected in drawn
    assert "20/20" in drawn


def map_of_texts(count: int) -> list[str]:
    """Give items."""
    return [str(item) for item in range(count)]


def test_the_drawn_bar_shows_failures(backend: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    """In its last state."""
    with backend.pool() as pool:
        pool.map(parse, ["1", "x"] * 10, progress={"file": None}, on_error="return")
    drawn = capsys.readouterr().err
    assert "20/20" in drawn
    assert "failed=10" in drawn


def test_a_tqdm_class_is_used_as_it_is(backend: Kind) -> None:
    """With its own defaults."""

    class Quiet(tqdm):  # type: ignore[type-arg]
        written = io.StringIO()

        def __init__(self, **options: Any) -> None:
            super().__init__(file=self.written, **options)

    with backend.pool() as pool:
        pool.map(parse, map_of_texts(20), progress=Quiet)
    assert "20/20" in Quiet.written.getvalue()


@pytest.mark.parametrize("progress", [None, False])
def test_no_bar_unless_asked_for(backend: Kind, capsys: pytest.CaptureFixture[str], progress: Any) -> None:
    """Nothing is written."""
    with backend.pool() as pool:
        pool.map(parse, map_of_texts(20), progress=progress)
    assert capsys.readouterr() == ("", "")


class Failing(Spy):
    """A bar that cannot be drawn."""

    def update(self, count: int) -> None:
        """Fail."""
        raise OSError("the terminal is gone")


@pytest.mark.filterwarnings("ignore:the progress bar failed:RuntimeWarning")
def test_a_bar_that_fails_does_not_harm_the_run(backend: Kind) -> None:
    """It is warned about and dropped."""
    with backend.pool() as pool:
        assert pool.map(parse, map_of_texts(20), progress=Failing) == list(range(20))


def test_a_bar_that_cannot_be_made_is_the_callers_error(backend: Kind) -> None:
    """Before anything is read; the pool stays usable."""
    with backend.pool() as pool:
        with pytest.raises(Exception, match="colours"):
            pool.map(parse, ["1"], progress={"colours": 3})
        assert pool.map(parse, ["1"]) == [1]


def test_broadcast_and_submit_have_no_bar(backend: Kind) -> None:
    """They take no options."""
    with backend.pool() as pool:
        with pytest.raises(TypeError, match="progress"):
            pool.submit(parse, "1", progress=True)  # type: ignore[call-overload]
        assert pool.submit(parse, "1").result(15) == 1


def test_outcomes_wait_less_where_a_bar_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else wants to hear of them before ``map`` has all."""
    patience, make_run = [], Engine.make_run

    def note(engine: Engine, *args: Any) -> Run:
        run = make_run(engine, *args)
        patience.append(run.options.patience)
        return run

    monkeypatch.setattr(Engine, "make_run", note)
    with InjectedPool(1, backend="inline") as pool:
        assert pool.map(abs, [-1]) == pool.map(abs, [-1], progress=Spy) == [1]
    assert patience == [EAGER_SECONDS, BAR_PATIENCE]
    assert BAR_PATIENCE < EAGER_SECONDS
