"""Dependency graphs made to measure, of new functions each time: a chain, a fan, a layered diamond; all plain."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import Depends

Function = Callable[..., Any]
Shape = Literal["chain", "fan"]


def make_graph(shape: Shape, nodes: int) -> Function:
    """Make a function of one item above so many plain providers; it gives the item back."""
    return chain(nodes) if shape == "chain" else fan(nodes)


def without_dependencies() -> Function:
    """Make the function that the others are compared with."""

    def func(item: int) -> int:
        return item

    return func


def chain(nodes: int) -> Function:
    """Make a function whose dependency has one that has one, and so on."""

    def node() -> int:
        return 1

    last: Function = node
    for _ in range(nodes - 1):
        last = _above(last)

    def func(item: int, _value: Annotated[int, Depends(last)]) -> int:
        return item

    return func


def fan(nodes: int) -> Function:
    """Make a function with so many dependencies that have none."""
    providers = {f"provider_{number}": _leaf() for number in range(nodes)}
    parameters = ", ".join(f"value_{number}: Annotated[int, Depends(provider_{number})]" for number in range(nodes))
    names: dict[str, Any] = {"Annotated": Annotated, "Depends": Depends, **providers}
    # Only source text can have a number of parameters that is known at run time.
    exec(f"def func(item, {parameters}):\n    return item\n", names)  # noqa: S102
    func: Function = names["func"]
    return func


def layered_diamond(layers: int) -> Function:
    """Make a function above layers of two providers, each of which needs both of the layer below.

    A planner that walks every path walks two to the power of the layers. The function's value is the number of paths.
    """
    left, right = _leaf(), _leaf()
    for _ in range(layers - 1):
        left, right = _joining(left, right), _joining(left, right)

    def func(_item: object, one: Annotated[int, Depends(left)], other: Annotated[int, Depends(right)]) -> int:
        return one + other

    return func


def _leaf() -> Function:
    def node() -> int:
        return 1

    return node


def _above(below: Function) -> Function:
    def node(value: Annotated[int, Depends(below)]) -> int:
        return value

    return node


def _joining(left: Function, right: Function) -> Function:
    def node(one: Annotated[int, Depends(left)], other: Annotated[int, Depends(right)]) -> int:
        return one + other

    return node
