"""Defaults: which ones Python fills in itself, and which ones each call gets a copy of.

An item must not change what the next one gets, so what can be changed is copied. What only is itself, such as a
sentinel that the function compares with ``is``, is left to Python: a copy would be something else.
"""

from __future__ import annotations

import copy
import copyreg
import inspect
from typing import TYPE_CHECKING, Any

from pydantic.fields import FieldInfo

from poolinject._injection.plan import Constant, OwnDefault
from poolinject._injection.signature import Declared, is_a

if TYPE_CHECKING:
    from poolinject._injection.plan import Plan, Source

UNCHANGING = (type(None), bool, int, float, complex, str, bytes)


def constant(default: Any) -> Constant:
    """Decide how each call gets a default."""
    if is_a(default, FieldInfo) and default.default_factory is not None:
        return Constant(default.default_factory, "factory")
    return Constant(default, "copy" if needs_copy(default) else "same")


def is_left_to_python(source: Source, parameter: Declared) -> bool:
    """Tell whether nothing need be passed for a parameter."""
    return isinstance(source, Constant) and source.fresh == "same" and parameter.own_default


def spare(parameter: Declared) -> Constant | OwnDefault:
    """Decide what stands for a member that a tuple may leave out."""
    made = constant(parameter.default)
    if is_left_to_python(made, parameter) and not is_a(parameter.default, *UNCHANGING):
        return OwnDefault(parameter.name)
    return made


def needs_copy(default: object) -> bool:
    """Tell whether each call must get its own copy of a default; what cannot be copied is shared."""
    if is_a(default, *UNCHANGING):
        return False
    if type(default) in {tuple, frozenset}:
        return any(map(needs_copy, default))  # type: ignore[call-overload]
    try:
        return not _holds_nothing(default) and copy.deepcopy(default) is not default
    except Exception:  # noqa: BLE001 - a lock, a socket: whatever its class raises
        return False


def _holds_nothing(default: object) -> bool:
    """Tell whether an object is what its class makes without arguments: nothing set on it, no items to come."""
    if hasattr(type(default), "__deepcopy__"):
        return False
    try:
        reduced = default.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 - whatever its class raises
        return False
    if isinstance(reduced, str):
        return True  # the name of a global, which is the only one
    make, arguments, *state_and_items = reduced
    is_bare = make is copyreg.__newobj__ and len(arguments) == 1  # type: ignore[attr-defined]
    return is_bare and all(part is None for part in state_and_items)


def own_spares(plan: Plan) -> tuple[Constant, ...]:
    """Give the spares of a plan where it runs."""
    if not any(isinstance(spare, OwnDefault) for spare in plan.spares):
        return plan.spares  # type: ignore[return-value]
    parameters = inspect.signature(plan.function).parameters
    return tuple(
        Constant(parameters[spare.name].default, "same") if isinstance(spare, OwnDefault) else spare
        for spare in plan.spares
    )


def spread(name: str, required: int, spares: tuple[Constant, ...], item: tuple[Any, ...]) -> tuple[Any, ...]:
    """Fill a tuple that is shorter than the parameters with their defaults.

    Raises:
        TypeError: If it is too short or too long.
    """
    most = required + len(spares)
    if not required <= len(item) <= most:
        takes = str(most) if required == most else f"{required} to {most}"
        message = f"{name}() takes {takes} positional arguments but the item has {len(item)}"
        raise TypeError(message)
    return (*item, *(default_of(spare) for spare in spares[len(item) - required :]))


def default_of(constant: Constant) -> Any:
    """Give the value of a default for one call."""
    if constant.fresh == "factory":
        return constant.value()
    return copy.deepcopy(constant.value) if constant.fresh == "copy" else constant.value
