import itertools
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from json import JSONDecodeError
from typing import Any, NoReturn, Self, TypeVar

import pytest

from poolinject._transport.remote_errors import (
    RemoteTraceback,
    Unsent,
    pack_error,
    traceback_text,
    unpack_error,
)
from poolinject.errors import CleanupError, ItemTimeoutError, WorkerLostError

EXITS: BaseExceptionGroup[SystemExit] = BaseExceptionGroup("g", [SystemExit(2)])
E = TypeVar("E", bound=BaseException)
counter = itertools.count()


class RequiredError(Exception):
    def __init__(self, code: int, place: str) -> None:
        super().__init__(f"{code} at {place}")
        self.code, self.place = code, place


class KeywordError(ValueError):
    def __init__(self, *, code: int) -> None:
        super().__init__("keyword")
        self.code = code


class DoublingError(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


class SlottedError(Exception):
    __slots__ = ("__secret", "code")

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code
        self.__secret = code + 1

    @property
    def secret(self) -> int:
        return self.__secret


class PathError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "gone", path)
        self.path = path


class StrictError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__:
            raise AttributeError(name)
        super().__setattr__(name, value)


class ReducingError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code, self.lock = code, threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return ReducingError, (self.code,)


class NewError(Exception):
    def __new__(cls, *args: object) -> Self:
        if args != ("right",):
            raise SystemExit
        return super().__new__(cls, *args)


class MuteError(Exception):
    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


class MovingError(Exception):
    """Says something else each time."""

    def __str__(self) -> str:
        return str(next(counter))


class Row:
    """Has an address in its ``repr``."""


class MissingError(Exception):
    """Makes a text of an attribute."""

    def __init__(self, *columns: object) -> None:
        super().__init__("missing")
        self.columns = set(columns)

    def __str__(self) -> str:
        return f"no {self.columns}"


class ExitingError(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        raise SystemExit

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        raise KeyboardInterrupt


class ImpostorError(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return str, ("impostor",)


def sent(error: BaseException) -> Any:
    """Return what arrives for *error*."""
    return unpack_error(pack_error(error))


def noted(error: E, *notes: str) -> E:
    """Return *error* with *notes*."""
    for note in notes:
        error.add_note(note)
    return error


def raised(error: BaseException) -> BaseException:
    """Return *error* after a ride with a cause that cannot be pickled."""

    def fail() -> NoReturn:
        raise error from ValueError(threading.Lock())

    with pytest.raises(type(error)) as info:
        fail()
    return info.value


def moved_syntax_error() -> SyntaxError:
    """Return one whose line was set afterwards, which no pickle knows of."""
    error = SyntaxError("bad", ("f.py", 1, 2, "x", 1, 3))
    error.lineno = 9
    return error


def unicode_error() -> UnicodeDecodeError:
    """Return what a decoder raises."""
    return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")


ERRORS: list[BaseException] = [
    ValueError("x", 1),
    KeyError("x"),
    SystemExit(3),
    KeyboardInterrupt(),
    StopIteration(5),
    OSError(2, "gone", "/x"),
    FileNotFoundError(2, "gone", "/x", None, "/y"),
    ImportError("no", name="x", path="/x"),
    unicode_error(),
    JSONDecodeError("bad", "{", 1),
    SyntaxError("bad", ("f.py", 1, 2, "x", 1, 3)),
    noted(ValueError("x"), "one", "two"),
    RequiredError(3, "here"),
    noted(RequiredError(3, "here"), "one"),
    KeywordError(code=3),
    DoublingError("bread"),
    SlottedError(3),
    PathError("/x"),
    StrictError(3),
    NewError("right"),
    WorkerLostError(1, -9, 5),
    ItemTimeoutError(3, 1.5),
    CleanupError("cleanup failed", [ValueError("a"), RequiredError(1, "b")]),
    ExceptionGroup("g", [ValueError("a"), ExceptionGroup("h", [KeywordError(code=1)])]),
    EXITS,
    noted(ExceptionGroup("g", [noted(ValueError("a"), "inner")]), "outer"),
    subprocess.CalledProcessError(3, ["x"], b"out"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_arrives_as_it_was(error: BaseException) -> None:
    """Type, text, arguments, attributes and notes are kept, whatever the constructor asks for."""
    again = sent(raised(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert repr(again.args) == repr(error.args)
    assert {name: repr(value) for name, value in vars(again).items()} == {
        name: repr(value) for name, value in vars(error).items()
    }
    for name in ("filename", "filename2", "errno", "code", "place", "name", "path", "value", "start", "lineno"):
        assert getattr(again, name, None) == getattr(error, name, None), name
    assert again.__cause__ is None


def test_slots_arrive() -> None:
    """Attributes without a ``__dict__`` entry count too, private ones included."""
    again = sent(SlottedError(3))
    assert (again.code, again.secret) == (3, 4)


def test_unpicklable_members_arrive_as_their_text() -> None:
    """An exception keeps its type though an argument and an attribute cannot be sent."""
    lock = threading.Lock()
    error = ValueError(lock, 1)
    vars(error).update(conn=lock, ok=[1])
    again = sent(error)
    assert type(again) is ValueError
    assert again.args == (Unsent(repr(lock)), 1)
    assert vars(again) == {"conn": Unsent(repr(lock)), "ok": [1]}
    assert str(again) == str(error)


def shrunk_set() -> set[int]:
    """Return a set that another one with the same members is not iterated over like."""
    numbers = set(range(20))
    numbers -= set(range(20)) - {1, 9, 16}
    return numbers


@pytest.mark.parametrize(
    "error",
    [
        ValueError(Row()),
        LookupError("no handler for", [Row()], {"row": Row()}),
        TypeError(Row(), threading.Lock(), float("nan")),
        KeyError(shrunk_set()),
        MissingError(Row()),
        MovingError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_text_that_cannot_stay_the_same_does_not_cost_the_type(error: BaseException) -> None:
    """Addresses, and the order of a set, are others on a copy; nothing was lost."""
    again = sent(error)
    assert type(again) is type(error)
    assert len(again.args) == len(error.args)
    assert again.args[:1] == error.args[:1] or type(again.args[0]) is Row


def test_own_reduce_decides_what_is_kept() -> None:
    """An exception that knows how to pickle itself is taken by its word."""
    assert sent(ReducingError(3)).code == 3


@pytest.mark.parametrize(
    ("error", "text", "note"),
    [
        (moved_syntax_error(), "SyntaxError: bad (f.py, line 9)", "its text came back as 'bad (f.py, line 1)'"),
        (noted(moved_syntax_error(), "kept"), "SyntaxError: ", "its text came back as"),
    ],
)
def test_stand_in_says_what_and_why(error: BaseException, text: str, note: str) -> None:
    """What would arrive changed is replaced, with the reason in a note and the old notes kept."""
    again = sent(error)
    assert type(again) is RuntimeError
    assert text in str(again)
    *old, last = again.__notes__
    assert old == getattr(error, "__notes__", [])
    assert "could not be sent from the worker" in last
    assert note in last


@pytest.mark.parametrize("error", [ExitingError("x"), ImpostorError("x"), MuteError("x")])
def test_hostile_errors_still_arrive(error: BaseException) -> None:
    """Pickling hooks and texts that raise are passed by; the type arrives."""
    assert type(sent(error)) is type(error)


def test_hostile_error_inside_a_group_costs_only_itself() -> None:
    """The group and its other members keep their types."""
    again = sent(ExceptionGroup("g", [ValueError("a"), moved_syntax_error()]))
    assert [type(member) for member in again.exceptions] == [ValueError, RuntimeError]
    assert type(again) is ExceptionGroup


def test_groups_in_groups_without_end_are_replaced() -> None:
    """Depth is no way to make packing fail."""
    error: Exception = ValueError("x")
    for _ in range(500):
        error = ExceptionGroup("g", [error])
    assert isinstance(sent(error), ExceptionGroup)


def test_group_with_a_constructor_of_its_own_arrives() -> None:
    """Members are rebuilt below a subclass that takes other arguments."""

    class ManyErrors(ExceptionGroup[Exception]):
        def __new__(cls, errors: list[Exception]) -> Self:
            return super().__new__(cls, "many", errors)

    again = sent(ManyErrors([KeywordError(code=1)]))
    assert type(again) is ManyErrors
    assert vars(again.exceptions[0])["code"] == 1


@pytest.mark.parametrize("data", [b"", b"junk", pickle.dumps(5), pickle.dumps(("d", [], "", "whole", b"junk"))])
def test_unreadable_data_give_a_stand_in(data: bytes) -> None:
    """Unpacking never raises."""
    assert type(unpack_error(data)) is RuntimeError


def test_error_that_loads_only_in_the_worker_gives_a_stand_in(run_python: Callable[[str, bytes], bytes]) -> None:
    """What goes by reference to a module that only the worker has is told by its text."""
    script = """
        import importlib, pathlib, tempfile
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "only_there.py").write_text("class LocalError(Exception): pass")
            sys.path.insert(0, folder)
            error = importlib.import_module("only_there").LocalError("words")
            error.add_note("note")
            sys.stdout.buffer.write(pack_error(error))
    """
    again = unpack_error(run_python(script, b""))
    assert str(again) == "only_there.LocalError: words"
    assert again.__notes__[0] == "note"
    assert "ModuleNotFoundError" in again.__notes__[1]


def test_error_classes_of_the_main_module_come_home(run_python: Callable[[str, bytes], bytes]) -> None:
    """A function sent by value raises, in another process, an exception that the caller's ``except`` matches."""
    script = """
        import subprocess
        class MyError(Exception):
            def __init__(self, code, *, why):
                super().__init__(code)
                self.why = why
        def fail(x):
            raise MyError(x, why="because")
        worker = '''
        import sys
        from poolinject._transport.functions import load_function
        from poolinject._transport.remote_errors import pack_error
        try:
            load_function(sys.stdin.buffer.read())[0](3)
        except Exception as error:
            sys.stdout.buffer.write(pack_error(error))
        '''.replace("\\n        ", "\\n")
        blob = pack_function(fail, None).data
        done = subprocess.run([sys.executable, "-c", worker], input=blob, stdout=subprocess.PIPE, timeout=20)
        error = unpack_error(done.stdout)
        assert type(error) is MyError, repr(error)
        assert error.args == (3,) and error.why == "because"
        print("ok")
    """
    assert run_python(script.replace("\n        ", "\n"), b"").strip() == b"ok"


def test_traceback_has_causes_and_notes() -> None:
    """The chain that is not pickled is in the text."""
    text = traceback_text(raised(noted(KeyError("outer"), "a note")))
    assert "ValueError: <unlocked" in text
    assert "direct cause" in text
    assert text.endswith("KeyError: 'outer'\na note\n")


def test_traceback_of_a_mute_error_is_made() -> None:
    """A text that raises does not keep the traceback from being made."""
    assert "MuteError" in traceback_text(raised(MuteError()))


def test_traceback_that_cannot_be_formatted_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formatter's failure is told, not raised."""

    def fail(_error: object) -> list[str]:
        raise RecursionError("too deep")

    monkeypatch.setattr("traceback.format_exception", fail)
    text = traceback_text(ValueError("x"))
    assert text.startswith("ValueError: x")
    assert "too deep" in text


def test_very_long_traceback_is_cut_in_the_middle() -> None:
    """Both ends, where the culprit and the entry are, stay."""
    text = traceback_text(raised(ValueError("<" + "x" * 1_000_000 + ">")))
    assert len(text) <= 100_000
    assert text.startswith("ValueError: <unlocked")
    assert text.endswith("xx>\n")
    assert "characters left out" in text


def test_remote_traceback_prints_and_pickles() -> None:
    """It is the cause of what the caller sees, and may be sent on."""
    cause = RemoteTraceback("Traceback: x")
    assert pickle.loads(pickle.dumps(cause)).text == "Traceback: x"
    error = ValueError("y")
    error.__cause__ = cause
    assert "\nTraceback: x" in traceback_text(error)
    assert sys.exc_info() == (None, None, None)
