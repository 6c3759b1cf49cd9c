import pickle
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Annotated, Any

import pytest
from fastapi import Depends

from poolinject._transport.functions import function_name, load_function, pack_function
from poolinject.errors import TransportError

global_lock = threading.Lock()


@dataclass(frozen=True)
class FakePlan:
    providers: Any = ()


class Loader:
    def __init__(self, member: object) -> None:
        self.member = member

    def load(self, item: object) -> tuple[object, object]:
        return item, self.member

    @classmethod
    def make(cls, item: object) -> object:
        return cls(item)

    def __call__(self, item: object) -> object:
        return item


class Slotted:
    __slots__ = ("_lock", "unset")

    def __init__(self) -> None:
        self._lock = threading.Lock()


class Reduces:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return Reduces, (self.lock,)


class Shy:
    """Cannot be pickled, nor looked at."""

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError("shy")

    def __getattr__(self, name: str) -> Any:
        raise ValueError(name)


def importable(item: Any) -> Any:
    """Add one."""
    return item + 1


def with_lock() -> Callable[..., Any]:
    """Return a function with a lock in its closure."""
    lock = threading.Lock()

    def load(item: object) -> object:
        with lock:
            return item

    return load


def below() -> Callable[..., Any]:
    """Return a function whose helper has the lock."""
    helper = with_lock()
    helper.__qualname__ = "helper"
    return lambda item: [helper(item)]


def with_global() -> Callable[..., Any]:
    """Return a function that uses a global in a function inside."""

    def load(item: object) -> object:
        return [global_lock for _ in [item]]

    return load


def with_defaults() -> Callable[..., Any]:
    """Return a function with a bad default."""

    def load(item: object, y: int = 1, x: object = threading.Lock(), *, z: int = 2) -> object:
        return item, y, x, z

    return load


def with_keyword_default() -> Callable[..., Any]:
    """Return a function with a bad keyword-only default."""

    def load(item: object, *, z: object = threading.Lock()) -> object:
        return item, z

    return load


def with_attribute() -> Callable[..., Any]:
    """Return a function with a bad attribute."""

    def load(item: object) -> object:
        return item

    load.lock = threading.Lock()  # type: ignore[attr-defined]
    return load


def with_dependency(*, annotated: bool) -> Callable[..., Any]:
    """Return a function whose provider has the lock."""
    get_session = with_lock()
    get_session.__qualname__ = "get_session"
    if annotated:

        def load(item: object, session: Annotated[object, Depends(get_session)]) -> object:
            return item, session

        return load

    def load_default(item: object, session: object = Depends(get_session)) -> object:
        return item, session

    load_default.__qualname__ = "load"
    return load_default


def with_local_class() -> Callable[..., Any]:
    """Return a bound method of a class with the lock."""

    class Job:
        lock = threading.Lock()

        def run(self, item: object) -> object:
            return item

    return Job().run


def with_base_class() -> Callable[..., Any]:
    """Return a function that makes a class whose base has the lock."""

    class Base:
        lock = threading.Lock()

        @staticmethod
        def make() -> int:
            return 1

    class Job(Base): ...

    return lambda: Job


def with_recursion() -> Callable[..., Any]:
    """Return a function that refers to itself before it refers to the lock."""
    lock = threading.Lock()

    def again(item: object) -> object:
        return again, lock, item

    return again


def with_empty_cell() -> Callable[..., Any]:
    """Return a function with a closure variable that is not assigned, beside a bad one."""
    lock = threading.Lock()

    def load() -> object:
        return later, lock

    if lock.locked():
        later = 1
    return load


@pytest.mark.parametrize(
    ("func", "what"),
    [
        (with_lock(), "closure variable `lock` of `load`"),
        (below(), "closure variable `lock` of `helper`"),
        (with_global(), "global `global_lock` used by `load`"),
        (with_defaults(), "default of parameter `x` of `load`"),
        (with_keyword_default(), "default of parameter `z` of `load`"),
        (with_attribute(), "attribute `lock` of `load`"),
        (with_dependency(annotated=True), "closure variable `lock` of `get_session`"),
        (with_dependency(annotated=False), "closure variable `lock` of `get_session`"),
        (with_local_class(), "attribute `lock` of class `Job`"),
        (with_base_class(), "attribute `lock` of class `Base`"),
        (with_recursion(), "closure variable `lock` of `again`"),
        (with_empty_cell(), "closure variable `lock` of `load`"),
        (partial(importable, threading.Lock()), "argument 0 of the partial of `importable`"),
        (partial(importable, item=threading.Lock()), "argument `item` of the partial of `importable`"),
        (partial(with_lock(), 1), "closure variable `lock` of `load`"),
        (Loader(threading.Lock()).load, "attribute `member` of `self` of the bound method `Loader.load`"),
        (Loader(Slotted()).load, "attribute `_lock` of attribute `member` of `self` of the bound method `Loader.load`"),
        (Loader(Reduces()).load, "attribute `member` of `self` of the bound method `Loader.load`"),
        (Loader({"a": [with_lock()]}).load, "closure variable `lock` of `load`"),
        (Loader(threading.Lock()), "attribute `member` of function `Loader`"),
        (threading.Lock().acquire, "function `lock.acquire`"),
        (Loader(Shy()).load, "attribute `member` of `self` of the bound method `Loader.load`"),
    ],
)
def test_error_names_what_cannot_be_sent(func: Callable[..., Any], what: str) -> None:
    """The innermost member that can be named is, in words of the source."""
    with pytest.raises(TransportError) as info:
        pack_function(func, None)
    assert info.value.what == what
    assert "cannot be pickled: " in info.value.reason
    assert info.value.__cause__ is None


@pytest.mark.parametrize(
    ("plan", "what"),
    [
        (FakePlan((importable, with_lock())), "closure variable `lock` of `load`"),
        (FakePlan({"a": with_lock()}), "closure variable `lock` of `load`"),
        (FakePlan((Loader(threading.Lock()),)), "attribute `member` of provider `Loader`"),
        (FakePlan(5), "plan"),
        (threading.Lock(), "plan"),
    ],
)
def test_error_names_a_bad_provider(plan: object, what: str) -> None:
    """The plan is looked through after the function."""
    if plan == FakePlan(5):
        plan = [FakePlan(5), threading.Lock()]
    with pytest.raises(TransportError) as info:
        pack_function(importable, plan)
    assert info.value.what == what


def test_importable_functions_go_by_reference() -> None:
    """No code is sent, and the very same objects come back."""
    blob = pack_function(importable, FakePlan((importable,)))
    func, plan = load_function(blob.data)
    assert func is importable
    assert plan.providers == (importable,)
    assert len(blob.data) < 250
    assert blob.name == "importable"
    assert pickle.loads(pickle.dumps(blob)) == blob


def test_function_and_plan_share_providers() -> None:
    """A provider by value, referred to by both, is one object on arrival."""

    def provider() -> int:
        return 1

    def load(item: int, got: Annotated[int, Depends(provider)]) -> int:
        return item + got

    func, plan = load_function(pack_function(load, FakePlan((provider,))).data)
    assert func.__annotations__["got"].__metadata__[0].dependency is plan.providers[0]
    assert func(1, 2) == 3


def test_digests_tell_functions_apart() -> None:
    """Two functions of the same name have two digests, of 16 bytes."""
    first, second = (pack_function(lambda _, y=y: y, None) for y in (1, 2))
    assert first.digest != second.digest
    assert len(first.digest) == 16


def test_blob_that_does_not_load_is_a_transport_error() -> None:
    """Loading never raises anything else."""
    with pytest.raises(TransportError, match="function `load`: cannot be unpickled: ModuleNotFoundError"):
        load_function(b"cnot_there\nx\n.", "load")
    with pytest.raises(TransportError, match="function: cannot be unpickled"):
        load_function(b"junk")


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (importable, "importable"),
        (with_lock(), "load"),
        (lambda: 1, "<lambda>"),
        (Loader(1).load, "Loader.load"),
        (Loader.make, "Loader.make"),
        (Loader, "Loader"),
        (Loader(1), "Loader"),
        (partial(partial(importable, 1)), "importable"),
        (wraps(importable)(lambda: 1), "importable"),
        (len, "len"),
    ],
)
def test_names_are_those_of_the_source(func: Callable[..., Any], name: str) -> None:
    """Whatever the kind of callable, its name is the one that the user wrote."""
    assert function_name(func) == name


def test_main_module_functions_run_elsewhere(run_python: Callable[[str, bytes], bytes]) -> None:
    """Functions, their globals and closures travel from a bare script to a process without it."""
    make = """
        factor = 3
        def helper(x):
            return factor * x
        def load(x):
            return helper(x) + sum(1 for _ in [factor])
        class Loader:
            def load(self, x):
                return load(x)
        sys.stdout.buffer.write(encode([pack_function(f, None).data for f in (load, Loader().load)], "blobs"))
    """
    use = """
        blobs = decode(sys.stdin.buffer.read())
        sys.stdout.buffer.write(encode([load_function(blob)[0](5) for blob in blobs], "results"))
    """
    assert pickle.loads(run_python(use, run_python(make, b""))) == [16, 16]


def test_main_module_culprits_are_named(run_python: Callable[[str, bytes], bytes]) -> None:
    """A script's own global, as every beginner has one, is found."""
    script = """
        import threading
        conn = threading.Lock()
        def helper():
            return conn
        def load(x):
            return helper()
        try:
            pack_function(load, None)
        except Exception as error:
            print(error.what, end="")
    """
    assert run_python(script, b"") == b"global `conn` used by `helper`"
