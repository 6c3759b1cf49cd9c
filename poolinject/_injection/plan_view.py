"""What a plan looks like. Runs in the caller."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolinject._injection.plan import Branch


@dataclass(frozen=True, slots=True)
class PlanView:
    """How one function is called: ``str()`` draws the tree with lifetimes, ``source`` is the generated code.

    Attributes:
        name: The name of the function.
        tree: The dependency tree, a line for each use; a dependency seen before is drawn without what is below it.
        source: The Python source of the loop that a worker runs over the items of a chunk. Where the event loop has a
            thread of its own, as with trio and in thread workers, coroutines are handed to it.
        providers: The names of the providers, in the order in which they run for an item.
    """

    name: str
    tree: str
    source: str = field(repr=False)
    providers: tuple[str, ...]

    def __str__(self) -> str:
        return self.tree


def draw(tree: Branch) -> str:
    """Draw the tree with box characters, one line for each dependency."""
    lines = [tree.label]

    def below(branch: Branch, indent: str) -> None:
        for position, child in enumerate(branch.below, 1):
            last = position == len(branch.below)
            lines.append(f"{indent}{'└── ' if last else '├── '}{child.label}")
            below(child, indent + ("    " if last else "│   "))

    below(tree, "")
    return "\n".join(lines)
