"""Turns a plan into the source of one Python function, the way a careful person would write it by hand.

``at`` says where the function is, so that one ``except`` serves every step: ``stages[at]`` names the phase, the
provider and the generators that are open there. There are four forms:

- ``"chunk"`` is what workers run: a loop over numbered items, which counts in shared memory what it has begun, appends
  each result to ``kept`` and gives each ``Failed`` to ``fail``. A result that is not an atom, so that it may change
  later, goes to ``other``. It returns ``None`` at the end of the items, ``True`` where the next item needs a
  fresh copy of the context, ``False`` where ``fail`` says that no further one is to start. With coroutines in it, it is
  a generator that yields what they wait for, and ``show()`` and ``hide()`` the event loop around each of them; where
  the event loop is ``elsewhere`` they are handed to it instead.
- ``"bulk"`` is the same for functions so quick that counting would cost as much as they do: the items come without
  numbers, and nothing is counted.
- ``"call"`` takes one item and gives the result or a ``Failed``; it never raises.
- ``"await"`` is the same as a coroutine function.
"""

from __future__ import annotations

import functools
import hashlib
import keyword
import linecache
import re
import types
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from poolinject._injection.defaults import own_spares, spread
from poolinject._injection.generators import Stage
from poolinject._injection.plan import Constant, Fetch, FromContext, FromItem, FromScopes, FromStep, Step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType

    from poolinject._injection.plan import Argument, Plan, Source

Form: TypeAlias = Literal["chunk", "bulk", "call", "await"]
MOST_ON_STACK = 30  # arguments of a call, members of a tuple; CPython's STACK_USE_GUIDELINE
FILE_PREFIX = "<poolinject "  # of the file name that tracebacks show for generated code


class Generated(NamedTuple):
    """The source of one function and the constants that it names."""

    function: str
    source: str
    constants: dict[str, Any]
    stages: tuple[Stage, ...]
    yields: bool


def generate(plan: Plan, form: Form = "chunk", *, elsewhere: bool = False, measured: bool = False) -> Generated:
    """Write the function for a plan; with *measured* it calls ``mark()`` at each stage and after the last one."""
    return _Writer(plan, form, elsewhere=elsewhere, measured=measured).write()


def compile_generated(generated: Generated, names: dict[str, Any]) -> Any:
    """Make the function; ``names`` are the live things it uses beside its constants. Tracebacks show the source."""
    namespace = {**generated.constants, **names}
    exec(_code(generated.source, generated.function), namespace)  # noqa: S102 - our own source
    function = namespace[generated.function]
    return types.coroutine(function) if generated.yields else function


@functools.lru_cache(maxsize=256)
def _code(source: str, function: str) -> CodeType:
    digest = hashlib.blake2b(source.encode(), digest_size=4).hexdigest()
    filename = f"{FILE_PREFIX}{function} {digest}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    return compile(source, filename, "exec")


def _identifier(text: str) -> str:
    word = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "function"
    if word[0].isdigit():
        return f"_{word}"
    return f"{word}_" if keyword.iskeyword(word) else word


HEADERS: dict[Form, str] = {
    "chunk": "def {}(numbered, attempt, begun, place, kept, other, fail, context, clean):",
    "bulk": "def {}(numbered, attempt, begun, place, kept, other, fail, context, clean):",
    "call": "def {}(item, index, attempt):",
    "await": "async def {}(item, index, attempt):",
}


class _Writer:
    def __init__(self, plan: Plan, form: Form, *, elsewhere: bool, measured: bool) -> None:
        self.plan, self.form, self.measured = plan, form, measured
        self.is_async, self.in_loop = form == "await", form in {"chunk", "bulk"}
        self.yields = self.in_loop and not elsewhere and plan.has_coroutines
        self.name = f"{'run' if self.in_loop else 'call'}_{_identifier(plan.name)}"
        self.lines: list[str] = []
        self.constants: dict[str, Any] = {}
        generating = [step for step in plan.steps if isinstance(step, Step) and "generator" in step.kind]
        self.generators = {step.slot: position for position, step in enumerate(generating)}
        self.steps = {step.slot: step for step in generating}
        self.stages: list[Stage] = []

    def write(self) -> Generated:
        self.emit("try:", indent=1)
        self.unpack()
        for step in self.plan.steps:
            self.fetch(step) if isinstance(step, Fetch) else self.step(step)
        self.call()
        self.cleanups()
        if self.measured:
            self.emit("mark()")
        self.outcome()
        self.constants["stages"] = tuple(self.stages)
        self.constants["names"] = tuple(step.name for step in self.steps.values())
        source = "\n".join((*self.beginning(), *self.lines)) + "\n"
        return Generated(self.name, source, self.constants, tuple(self.stages), self.yields)

    def beginning(self) -> list[str]:
        lines = [HEADERS[self.form].format(self.name)]
        if self.generators:
            lines.append(f"    {''.join(f'g{slot} = ' for slot in self.generators)}None")
        if not self.in_loop:
            return [*lines, "    at = 0"]
        lines.append("    kind = None")
        if self.yields:
            lines.append("    outer = running()")
        loop = f"    for {'item' if self.form == 'bulk' else 'begun[place], item'} in numbered:"
        return [*lines, "    at = 0", loop] if len(self.stages) == 1 else [*lines, loop, "        at = 0"]

    def outcome(self) -> None:
        opened = "".join(f"g{slot}, " for slot in self.generators)
        closing = f"error, stages[at], ({opened}), names"
        failed = f"await failing({closing})" if self.is_async else f"drive(closing_failed({closing}), run)"
        self.emit("except BaseException as error:", indent=1)
        if self.in_loop:
            if self.yields:
                self.emit("hide(outer)")
            self.emit(f"if fail({failed}):")
            self.emit("return False", indent=3)
            self.emit("else:", indent=1)
            self.keep()
            if self.form == "chunk":
                self.emit(f"{self.own_names()} = None", indent=1)
            self.emit("if context and context != clean:", indent=1)  # mostly it has nothing
            self.emit("return True")
        else:
            self.emit(f"return {failed}")
            self.emit("return result", indent=1)

    def keep(self) -> None:
        """Keep a result; mostly its type is that of the one before, an atom's, which is quicker to tell than others."""
        self.emit("if type(result) is kind:")
        self.emit("kept.append(result)", indent=3)
        self.emit("elif id(type(result)) in atoms:")
        self.emit("kind = type(result)", indent=3)
        self.emit("kept.append(result)", indent=3)
        self.emit("else:")
        self.emit("other(result)", indent=3)

    def own_names(self) -> str:
        """Name what an item has made, which would otherwise live until the next one has made the like."""
        made = [step.slot for step in self.plan.steps if isinstance(step, Step)]
        return " = ".join(("result", *(f"v{slot}" for slot in made)))

    def emit(self, line: str, indent: int = 2) -> None:
        self.lines.append("    " * (indent + self.in_loop) + line)

    def stage(self, phase: Literal["setup", "call", "cleanup"], provider: str | None, still_open: list[int]) -> None:
        if self.stages:
            self.emit(f"at = {len(self.stages)}")
        if self.measured:
            self.emit("mark()")
        self.stages.append(Stage(phase, provider, tuple(self.generators[slot] for slot in still_open)))

    def opened(self, before: int) -> list[int]:
        """List the generators opened before a slot in the order in which they close."""
        slots = [slot for slot in reversed(self.generators) if slot < before]
        early = [slot for slot in slots if self.steps[slot].closes == "function"]
        return early + [slot for slot in slots if slot not in early]

    def unpack(self) -> None:
        plan = self.plan
        sources = [argument.source for argument in self.all_arguments()]
        if any(isinstance(source, FromContext) and source.which == "item" for source in sources):
            self.stage("setup", None, [])
            index = "begun[place] - 1" if self.in_loop else "index"
            self.emit(f"about = ItemContext({index}, item, attempt, worker.worker_id)")
        if plan.call == "starmap" and not plan.variadic:
            self.stage("call", None, [])
            self.constants["spread"] = functools.partial(spread, plan.name, plan.required, own_spares(plan))
            names = "".join(f"i{position}, " for position in range(len(plan.leading)))
            if names:
                self.emit(f"{names.rstrip()} = item if len(item) == {len(plan.leading)} else spread(item)")
            else:
                self.emit("item and spread(item)")

    def all_arguments(self) -> list[Argument]:
        of_steps = (step.arguments for step in self.plan.steps if isinstance(step, Step))
        return [argument for arguments in (*of_steps, self.plan.arguments) for argument in arguments]

    def fetch(self, step: Fetch) -> None:
        self.stage("setup", step.name, self.opened(step.slot))
        scope = f"{step.source.lifetime}_scope"
        if self.is_async:
            self.emit(f"v{step.slot} = await fetch({scope}, {step.source.key})")
        else:
            self.emit(f"v{step.slot} = {scope}[{step.source.key}]")

    def step(self, step: Step) -> None:
        self.stage("setup", step.name, self.opened(step.slot))
        slot, provider = step.slot, self.constant(_identifier(step.name), step.provider)
        call = f"{provider}({self.passed(step.arguments)})"
        name = self.constant("name", step.name) if "generator" in step.kind else ""
        if step.kind == "call":
            self.emit(f"v{slot} = {call}")
        elif step.kind == "coroutine":
            self.emit_awaited(call, f"v{slot} = ")
        elif step.kind == "async generator":
            self.emit(f"g{slot} = {call}")
            self.emit_awaited(f"open_async(g{slot}, {name})", f"v{slot} = ")
        else:
            self.emit(f"g{slot} = {call}")
            self.emit(f"for v{slot} in g{slot}: break")
            self.emit(f"else: did_not_yield({name})")

    def call(self) -> None:
        plan = self.plan
        self.stage("call", None, self.opened(len(plan.steps)))
        if plan.call == "map" and (plan.leading or plan.variadic) and not plan.item_inside:
            item = ["item"]
        elif plan.call == "starmap" and not plan.item_inside:
            item = ["*item"] if plan.variadic else [f"i{position}" for position in range(len(plan.leading))]
        else:
            item = []
        function = self.constant(_identifier(plan.name), plan.function)
        call = f"{function}({self.passed(plan.arguments, item)})"
        if plan.kind == "coroutine":
            self.emit_awaited(call, "result = ")
        else:
            self.emit(f"result = {call}")

    def cleanups(self) -> None:
        order = self.opened(len(self.plan.steps))
        if self.is_async and any(self.steps[slot].kind == "async generator" for slot in order):
            self.emit("finishing()")
        for position, slot in enumerate(order, 1):
            step = self.steps[slot]
            self.stage("cleanup", step.name, order[position:])
            name = self.constant("name", step.name)
            if step.kind == "async generator":
                self.emit_awaited(f"close_async(g{slot}, {name})")
            else:
                self.emit(f"for _ in g{slot}: did_not_stop(g{slot}, {name})")

    def emit_awaited(self, call: str, target: str = "") -> None:
        if self.yields:
            self.emit("show()")
            self.emit(f"{target}yield from {call}")
            self.emit("hide(outer)")
        else:
            self.emit(f"{target}await {call}" if self.is_async else f"{target}run({call})")

    def passed(self, arguments: tuple[Argument, ...], item: Sequence[str] = ()) -> str:
        """Write what stands between the parentheses: tuples added up where Python would append one by one to a list."""
        bare, named = [*item], []
        for argument in arguments:
            value = self.value(argument.source)
            if argument.name is None:
                bare.append(value)
            else:
                named.append(f"{argument.name}={value}")
        if len(bare) > MOST_ON_STACK:
            starts = range(0, len(bare), MOST_ON_STACK)
            tuples = (f"({', '.join(bare[start : start + MOST_ON_STACK])},)" for start in starts)
            bare = [f"*({' + '.join(tuples)})"]
        return ", ".join((*bare, *named))

    def value(self, source: Source) -> str:
        match source:
            case FromStep(slot):
                return f"v{slot}"
            case FromItem(position):
                in_tuple = f"item[{position}]" if self.plan.variadic else f"i{position}"
                return in_tuple if self.plan.call == "starmap" else "item"
            case Constant(value, fresh):
                name = self.constant("default", value)
                return {"same": name, "copy": f"deepcopy({name})", "factory": f"{name}()"}[fresh]
            case FromContext(which):
                return "about" if which == "item" else "worker"
            case FromScopes(scopes):
                return f"SecurityScopes({list(scopes)!r})"
        message = f"{source} has no place in a call"
        raise AssertionError(message)

    def constant(self, name: str, value: object) -> str:
        """Name a constant; the same object keeps its name."""
        unique, number = name, 1
        while unique == self.name or is_reserved(unique) or self.constants.get(unique, value) is not value:
            number += 1
            unique = f"{name}_{number}"
        self.constants[unique] = value
        return unique


OWN_NAMES = (
    "item index kind attempt at result error about worker stages names run fetch mark spread deepcopy worker_scope "
    "atoms type numbered begun place kept other fail context clean pool_scope open_async close_async did_not_yield "
    "did_not_stop closing_failed failing finishing drive ItemContext SecurityScopes id len BaseException _ "
    "outer running show hide"
)
RESERVED = frozenset(OWN_NAMES.split())


def is_reserved(name: str) -> bool:
    """Tell whether generated code uses a name for something of its own; slots are called v0, g0, i0 and so on."""
    return name in RESERVED or (name[:1] in "vgi" and name[1:].isdecimal())
