"""The source that is generated, as text: readable, the same every time, and found by tracebacks.

After an intended change write the files anew with ``POOLINJECT_GOLDEN=write python -m pytest tests/injection``, and
read the difference.
"""

import functools
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

from poolinject import Depends, InjectedPool, Resolver, WorkerContext
from poolinject._injection.codegen import MOST_ON_STACK, Form, generate
from poolinject._injection.generators import Failed
from poolinject._injection.plan import Call
from poolinject._injection.planner import Planner
from poolinject._injection.registry import Registry
from poolinject._injection.runtime import Runtime
from tests.injection.calls import PASSED, TAKEN, row_and_rows
from tests.injection.golden_shapes import HAS_SCOPE, SHAPES, mixed

GOLDEN = Path(__file__).parent / "golden"
WRITES = os.environ.get("POOLINJECT_GOLDEN") == "write"


@pytest.mark.parametrize("name", SHAPES)
def test_source_is_as_it_was(name: str) -> None:
    """Each shape gives the text that somebody has read."""
    if name == "seed" and not HAS_SCOPE:
        pytest.skip("this FastAPI has no Depends(scope=)")
    source = generate(make_plan(*SHAPES[name][:2]), SHAPES[name][2]).source
    path = GOLDEN / f"{name}.txt"
    if WRITES:
        path.write_text(source)
    assert source == path.read_text()


def test_every_golden_file_has_its_shape() -> None:
    """No text is left over from a shape that is gone."""
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(SHAPES)


def make_plan(function: Callable[..., Any], call: Call = "map") -> Any:
    """Plan a function without options."""
    return Planner(Registry(), {}, {}).plan(function, call)


def run(function: Callable[..., Any], item: object) -> Any:
    """Run a function as a worker would."""
    runtime = Runtime(WorkerContext(0, 0, "pool"))
    return runtime.bind(make_plan(function))(item, 0, 1)


@pytest.mark.parametrize("form", ["chunk", "call", "await"])
def test_explain_shows_what_runs(form: Form) -> None:
    """``explain`` gives the source of the loop in a worker and the order of the providers, and starts nothing."""
    with InjectedPool(1, backend="inline") as pool:
        view = pool.explain(mixed)
        assert not pool.workers
    assert (view.source == generate(make_plan(mixed), form).source) is (form == "chunk")
    assert view.providers == ("get_number", "get_remote", "get_stream", "get_session")
    assert str(view).startswith("mixed(item)\n├── remote: get_remote [item]\n│   └── number: get_number [item]\n")


def test_traceback_shows_the_generated_line() -> None:
    """An error in a provider is read together with the call that led to it."""

    def get_broken() -> int:
        raise ValueError("broken")

    def function(item: int, broken: Annotated[int, Depends(get_broken)]) -> None:
        """Never get here."""

    failed = run(function, 0)
    assert isinstance(failed, Failed)
    text = "".join(traceback.format_exception(failed.error))
    assert "<poolinject call_function" in text
    assert "v0 = get_broken()" in text


@pytest.mark.parametrize(
    "name",
    ["result", "error", "at", "item", "v0", "g1", "run", "mark", "class", "<lambda>", "1st", "é t", "x²", "ﬁt", "len"],
)
def test_provider_may_have_any_name(name: str) -> None:
    """What a provider is called never collides with the names of the generated code."""

    def get_value(item: int) -> int:
        return item + 1

    def function(item: int, value: Annotated[int, Depends(get_value)]) -> int:
        return value

    get_value.__qualname__ = function.__qualname__ = name
    assert run(function, 41) == 42


def test_provider_may_be_called_like_the_generated_function() -> None:
    """The function for ``function`` is ``call_function``; so may a provider be."""

    def call_function() -> int:
        return 42

    def function(item: int, value: Annotated[int, Depends(call_function)]) -> int:
        return value

    assert run(function, 0) == 42


def test_two_providers_of_one_name_stay_apart() -> None:
    """Names are made unique where objects differ."""

    def make(value: int) -> Callable[[], int]:
        def get() -> int:
            return value

        return get

    def function(item: int, a: Annotated[int, Depends(make(1))], b: Annotated[int, Depends(make(2))]) -> list[int]:
        return [item, a, b]

    assert run(function, 0) == [0, 1, 2]


# by position or by keyword


@pytest.mark.parametrize("name", PASSED)
def test_provider_gets_the_longest_prefix_by_position(name: str) -> None:
    """Up to the first parameter that keeps its default or that the code which runs does not take there."""
    provider, arguments, value = PASSED[name]

    def function(item: int, got: Annotated[Any, Depends(provider)]) -> object:
        return got

    assert f"({arguments})\n" in generate(make_plan(function)).source.split("v1 = ")[1]
    assert run(function, 0) == value

    def shared(item: int, got: Annotated[Any, Depends(provider, lifetime="worker")]) -> object:
        return got

    assert run(shared, 0) == value
    with Resolver() as resolver, resolver.scope() as scope:
        assert scope.get(provider) == value


@pytest.mark.parametrize("name", TAKEN)
def test_function_gets_the_longest_prefix_by_position(name: str) -> None:
    """Also where the item stands among what is injected; never behind a tuple of unknown length."""
    function, call, item, arguments, value = TAKEN[name]
    plan = make_plan(function, call)
    assert f"({arguments})\n" in generate(plan).source.split("result = ")[1]
    assert Runtime(WorkerContext(0, 0, "pool")).bind(plan)(item, 0, 1) == value


def taking(count: int, *, keyword: str) -> Callable[..., Any]:
    """Make a function of the item and so many dependencies, one more of them by keyword; it gives all of them."""
    names = [f"p{number}" for number in range(count)]
    parameters = ", ".join(f"{name}: Annotated[int, Depends(gets[{number}])]" for number, name in enumerate(names))
    source = f"def function(item, {parameters}, *, {keyword}: Annotated[int, Depends(gets[-1])]):\n"
    source += f"    return [item, {', '.join(names)}, {keyword}]\n"
    gets = [functools.partial(int, number) for number in range(count + 1)]
    namespace: dict[str, Any] = {"Annotated": Annotated, "Depends": Depends, "gets": gets}
    exec(source, namespace)  # noqa: S102 - only source text can have a number of parameters
    made: Callable[..., Any] = namespace["function"]
    return made


@pytest.mark.parametrize("count", [MOST_ON_STACK - 2, MOST_ON_STACK - 1, MOST_ON_STACK, 2 * MOST_ON_STACK, 200])
@pytest.mark.parametrize("item", [-1, (-1,)])
def test_each_of_many_arguments_has_its_place(count: int, item: object) -> None:
    """Those that Python would gather in a list, one by one, come as a sum of tuples, none of them longer than that."""
    plan = make_plan(taking(count, keyword="last"), "map" if item == -1 else "starmap")
    assert Runtime(WorkerContext(0, 0, "pool")).bind(plan)(item, 0, 1) == [-1, *range(count + 1)]
    call = generate(plan).source.split("result = ")[1].split("\n")[0]
    assert call.count(",)") == (0 if count < MOST_ON_STACK else -(-(count + 1) // MOST_ON_STACK))


def test_tuple_too_long_never_fills_what_is_injected() -> None:
    """The second member and the dependency are for the same parameter: an error, not a value at the wrong place."""
    failed = Runtime(WorkerContext(0, 0, "pool")).bind(make_plan(row_and_rows, "starmap"))(("r", "s"), 0, 1)
    assert isinstance(failed.error, TypeError)
