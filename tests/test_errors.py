"""Every error class survives the way between processes."""

import copy
import inspect
import pickle

import cloudpickle
import pytest

from poolinject import CleanupError, PoolInjectError, errors

EXAMPLES: dict[str, tuple[object, ...]] = {
    "PoolInjectError": ("some text",),
    "PlanError": (("load", "get_session", "engine"), "nothing fills this parameter", "Give it a default"),
    "LifetimeError": (("load", "get_session"), "it lives too short", "Let it live longer"),
    "DependencyCycleError": (("load", "a", "b", "a"), "a circle", "Take one out"),
    "TransportError": ("closure variable `lock` of `load`", "cannot pickle '_thread.lock' object"),
    "WorkerLostError": (3, -9, 17),
    "ItemTimeoutError": (17, 2.5),
    "CleanupError": ("2 cleanup(s) failed", [ValueError("first"), OSError(5, "second")]),
    "PoolClosedError": ("flights",),
    "BackendUnavailableError": ("ray", "pip install poolinject[ray]"),
}
CLASSES: dict[str, type[Exception]] = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
}
each_error = pytest.mark.parametrize("name", EXAMPLES)


def make(name: str) -> Exception:
    """Make the example of an error."""
    error: Exception = CLASSES[name](*EXAMPLES[name])
    return error


def data_of(error: object) -> object:
    """Give what an error holds, with inner errors as their texts."""
    return {key: repr(value) for key, value in vars(error).items()}


def test_every_class_has_its_example() -> None:
    """A new class cannot be forgotten here."""
    assert set(CLASSES) == set(EXAMPLES)


@each_error
def test_error_has_the_common_base_and_an_ending(name: str) -> None:
    """One ``except PoolInjectError`` catches all; each is called an error and says what it is for."""
    assert issubclass(CLASSES[name], PoolInjectError)
    assert name.endswith("Error")
    assert CLASSES[name].__doc__


@each_error
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_error_survives_pickling(name: str, protocol: int) -> None:
    """Type, arguments, attributes and text are the same on the other side, also after two trips."""
    error = make(name)
    error.add_note("a note")
    once = pickle.loads(pickle.dumps(error, protocol))
    twice = pickle.loads(cloudpickle.dumps(once))
    copies: tuple[BaseException, ...] = (once, twice, copy.copy(error))
    for there in copies:
        assert type(there) is type(error)
        assert str(there) == str(error)
        assert repr(there.args) == repr(error.args)
        assert data_of(there) == data_of(error)
        assert there.__notes__ == ["a note"]


@each_error
def test_arguments_are_kept_as_given(name: str) -> None:
    """The text is made when it is asked for; ``args`` hold the data."""
    assert repr(make(name).args) == repr(EXAMPLES[name])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.WorkerLostError(1), "worker 1 ended"),
        (errors.WorkerLostError(1, 3), "worker 1 exited with code 3"),
        (errors.WorkerLostError(1, -9, 7), "worker 1 was ended by SIGKILL while it held item 7"),
        (errors.WorkerLostError(1, -250), "worker 1 was ended by signal 250"),
        (errors.ItemTimeoutError(4, 2.0), "item 4 ran longer than 2 s"),
        (
            errors.PlanError(["f", "x"], "nothing fills it", "Give it a default"),
            "f -> x: nothing fills it. Give it a d",
        ),
        (errors.PoolClosedError("flights"), "flights is closed: make a new one"),
        (errors.BackendUnavailableError("ray", "install it"), "backend 'ray' is not available: install it"),
    ],
    ids=str,
)
def test_text_is_for_people(error: Exception, text: str) -> None:
    """What happened, to what, and what to do."""
    assert str(error).startswith(text)


def test_cleanup_error_splits_into_its_own_kind() -> None:
    """``except*`` keeps the class of both parts."""
    error = CleanupError("2 cleanups failed", [ValueError("first"), OSError("second")])
    matching, rest = error.split(ValueError)
    assert isinstance(matching, CleanupError)
    assert isinstance(rest, CleanupError)
    assert isinstance(error, ExceptionGroup)


def test_item_timeout_is_a_timeout() -> None:
    """Code that knows nothing of poolinject can catch it."""
    assert issubclass(errors.ItemTimeoutError, TimeoutError)
