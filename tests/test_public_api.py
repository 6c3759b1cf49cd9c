"""What users import: exactly the names in ``__all__``, from modules without an underscore."""

import inspect
import pkgutil
import subprocess
import sys
from importlib.resources import files
from types import ModuleType
from typing import get_type_hints

import pytest

import poolinject

PUBLIC_MODULES = {"poolinject.backends", "poolinject.errors", "poolinject.markers", "poolinject.pool"}
BACKENDS = {"base", "dask", "inline", "membership", "process", "ray", "thread"}
CONTRACT = {
    "Backend",
    "BackendUnavailableError",
    "CleanupError",
    "CleanupReport",
    "DependencyCycleError",
    "Depends",
    "Failure",
    "InjectedPool",
    "ItemContext",
    "ItemTimeoutError",
    "LifetimeError",
    "Outcome",
    "PlanError",
    "PlanView",
    "PoolClosedError",
    "PoolInjectError",
    "Resolver",
    "RetryPolicy",
    "RunReport",
    "Success",
    "TransportError",
    "WorkerContext",
    "WorkerInfo",
    "WorkerLostError",
}
each_name = pytest.mark.parametrize("name", poolinject.__all__)


def test_all_is_exactly_what_is_public() -> None:
    """No name without underscore is left out of ``__all__``, none is there that does not exist."""
    public = {name for name in dir(poolinject) if not name.startswith("_")}
    found = {name for name in public if not isinstance(getattr(poolinject, name), ModuleType)}
    assert set(poolinject.__all__) == found
    assert list(poolinject.__all__) == sorted(poolinject.__all__)


def test_a_name_is_imported_on_first_use() -> None:
    """Who only declares dependencies does not pay for the pool, nor for what a run alone needs."""
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"  # a measured run has more
        "import poolinject\n"
        "assert not [name for name in sys.modules if name.startswith('poolinject.')], sys.modules\n"
        "from poolinject import Depends\n"
        "assert 'poolinject.pool' not in sys.modules\n"
        "assert poolinject.errors.PlanError is poolinject.PlanError\n"
        "assert not hasattr(poolinject, 'no_such_name')\n"
        "from poolinject import *\n"
        "assert InjectedPool is poolinject.pool.InjectedPool\n"
        "late = {'tqdm', 'multiprocessing', 'poolinject.backends.thread'} - before\n"
        "assert not late & set(sys.modules), late & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)


def test_contract_is_kept() -> None:
    """Names that other people's programs import are there."""
    assert set(poolinject.__all__) >= CONTRACT


@each_name
def test_public_name_is_explained(name: str) -> None:
    """Each class has a docstring of its own, and so has each of its public methods."""
    value = getattr(poolinject, name)
    if not inspect.isclass(value):  # an alias of a union
        return
    assert "__doc__" in vars(value)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")  # what dataclasses make
    for method_name, method in inspect.getmembers(value, inspect.isfunction):
        if not method_name.startswith("_"):
            assert inspect.getdoc(method), f"{name}.{method_name}"


@pytest.mark.parametrize("name", ["InjectedPool", "Resolver"])
def test_options_are_keywords(name: str) -> None:
    """An option that is added later changes no call: all but the first one are given by name."""
    value = getattr(poolinject, name)
    for method_name, method in inspect.getmembers(value, inspect.isfunction):
        if method_name.startswith("_"):
            continue
        for parameter in list(inspect.signature(method).parameters.values())[3:]:
            assert parameter.kind is not parameter.POSITIONAL_OR_KEYWORD, f"{name}.{method_name}({parameter.name})"


def test_only_intended_modules_are_public() -> None:
    """A module without underscore is a promise; there are few."""
    top = {module.name for module in pkgutil.iter_modules(poolinject.__path__, "poolinject.")}
    assert {name for name in top if not name.partition(".")[2].startswith("_")} == PUBLIC_MODULES
    names = {module.name for module in pkgutil.iter_modules(poolinject.backends.__path__)}
    assert {name for name in names if not name.startswith("_")} == BACKENDS


def test_errors_are_exported_from_the_root() -> None:
    """Whatever the library raises can be caught with a name from the root."""
    classes = {
        name for name, value in vars(poolinject.errors).items() if inspect.isclass(value) and name.endswith("Error")
    }
    assert classes <= set(poolinject.__all__)


def test_package_says_that_it_is_typed() -> None:
    """The marker that type checkers look for is part of the package."""
    assert (files("poolinject") / "py.typed").is_file()


@pytest.mark.parametrize("name", ["ItemContext", "WorkerContext", "Success", "Failure", "WorkerInfo", "RunReport"])
def test_records_tell_the_types_of_their_fields(name: str) -> None:
    """Annotations of public records can be evaluated by tools."""
    assert get_type_hints(getattr(poolinject, name))
