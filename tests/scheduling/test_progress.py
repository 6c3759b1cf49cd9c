"""Bars: what may be asked for, what they are told, and that one that fails is dropped."""

import io
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from poolinject._scheduling.progress import Bar, Progress, check_progress, length_of


class Recorder:
    """A tqdm class of the user's own."""

    made: ClassVar[list["Recorder"]] = []

    def __init__(self, total: int | None) -> None:
        self.total, self.finished, self.closed = total, 0, 0
        self.postfix: dict[str, str] = {}
        self.made.append(self)

    def update(self, finished: int) -> None:
        self.finished += finished

    def set_postfix(self, counts: dict[str, str], *, refresh: bool) -> None:
        assert not refresh
        self.postfix = counts

    def close(self) -> None:
        self.closed += 1


class FailsOnUpdate(Recorder):
    def update(self, finished: int) -> None:
        raise OSError(f"no terminal for {finished}")


class ExitsOnUpdate(Recorder):
    def update(self, finished: int) -> None:
        raise SystemExit(f"no terminal for {finished}")


class FailsOnClose(Recorder):
    def close(self) -> None:
        super().close()
        raise OSError("no terminal")


@pytest.fixture(autouse=True)
def _forget_bars() -> Iterator[None]:
    """Let no test see the bars of another."""
    Recorder.made.clear()
    yield
    Recorder.made.clear()


def test_class_is_made_with_the_length_of_the_input() -> None:
    """A tqdm class gets ``total``; where the input has no length, ``None``."""
    Bar(Recorder, [1, 2, 3])
    Bar(Recorder, iter([1, 2, 3]))
    assert [bar.total for bar in Recorder.made] == [3, None]


def test_bar_counts_items_and_shows_only_what_went_wrong() -> None:
    """Failures and retries add up beside the rate; what is zero is not shown."""
    bar = Bar(Recorder, range(10))
    (made,) = Recorder.made
    bar.update(3)
    assert made.postfix == {}
    bar.update(4, failed=2)
    assert made.postfix == {"failed": "2"}
    bar.update(1, failed=1, retries=5)
    assert made.postfix == {"failed": "3", "retries": "5"}
    assert made.finished == 8


def test_bar_is_closed_once() -> None:
    """After the end nothing reaches the bar."""
    bar = Bar(Recorder, [])
    bar.close()
    bar.close()
    bar.update(1)
    assert (Recorder.made[0].closed, Recorder.made[0].finished) == (1, 0)


@pytest.mark.parametrize("progress", [None, False])
def test_no_bar_where_none_is_wanted(progress: Progress) -> None:
    """Without progress nothing is drawn and nothing fails."""
    bar = Bar(progress, [1])
    bar.update(1, failed=1)
    bar.close()


@pytest.mark.parametrize(
    ("progress", "drawn"),
    [
        (True, r"100%.* 2/2 .*item/s, failed=1"),
        ("flights", r"flights: 100%.* 2/2"),
        ({"desc": "rows", "unit": "row"}, r"rows: 100%.*row/s"),
        ({"total": 4}, r"50%.* 2/4"),
    ],
    ids=str,
)
def test_tqdm_draws_what_was_asked_for(progress: Any, drawn: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``True``, a text and a dict of tqdm's options all give tqdm's own bar."""
    bar = Bar(progress, [1, 2])
    bar.update(2, failed=1)
    bar.close()
    assert re.search(drawn, capsys.readouterr().err.rpartition("\r")[2])


def test_options_reach_tqdm() -> None:
    """A dict may say where the bar is drawn."""
    file = io.StringIO()
    bar = Bar({"file": file, "desc": "here"}, [1])
    bar.update(1)
    bar.close()
    assert "here: 100%" in file.getvalue()


@pytest.mark.parametrize("progress", [FailsOnUpdate, ExitsOnUpdate])
def test_bar_that_fails_is_dropped_with_a_warning(progress: type[Recorder]) -> None:
    """One warning, then silence: the run goes on without a bar."""
    bar = Bar(progress, [1, 2])
    with pytest.warns(RuntimeWarning, match="no terminal for 1"):
        bar.update(1)
    bar.update(1)
    bar.close()
    assert Recorder.made[0].closed == 0


def test_bar_that_fails_to_close_warns() -> None:
    """The end of a run does not fail because of its bar."""
    bar = Bar(FailsOnClose, [1])
    with pytest.warns(RuntimeWarning, match="failed to close"):
        bar.close()
    bar.close()


@pytest.mark.filterwarnings("error")
def test_failing_bar_never_raises(capsys: pytest.CaptureFixture[str]) -> None:
    """Where warnings are errors the driver's thread still goes on, and the text goes to standard error."""
    Bar(FailsOnUpdate, [1]).update(1)
    Bar(FailsOnClose, [1]).close()
    assert capsys.readouterr().err.count("no terminal") == 2


@pytest.mark.parametrize("progress", [1, 2.5, object(), ["text"]], ids=repr)
def test_what_is_no_progress_option_is_refused(progress: Any) -> None:
    """The error says what would do."""
    with pytest.raises(TypeError, match="a bool, a text, a dict of tqdm options or a tqdm class"):
        check_progress(progress)


@pytest.mark.parametrize("progress", [None, True, False, "", "text", {}, Recorder], ids=repr)
def test_what_is_a_progress_option_passes(progress: Progress) -> None:
    """Each documented kind is taken."""
    check_progress(progress)


def test_length_that_cannot_be_told_is_not_known() -> None:
    """A range may have more numbers than Python can count, and a user's class may refuse."""

    class Refusing(list[int]):
        def __len__(self) -> int:
            raise RuntimeError

    assert length_of(range(5)) == 5
    assert length_of(iter(())) is length_of(Refusing()) is length_of(range(2**70)) is None


def test_nothing_is_drawn_where_there_is_no_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is so in programs without a terminal; another file may be given."""
    monkeypatch.setattr("sys.stderr", None)
    assert not Bar(True, range(3)).is_shown  # noqa: FBT003 - as users give it
    file = io.StringIO()
    bar = Bar({"file": file}, range(3))
    bar.update(3)
    bar.close()
    assert "3/3" in file.getvalue()
