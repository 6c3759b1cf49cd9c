"""Graphs with overrides."""
# ruff: noqa: D103 - a function's name says what it shows

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends

from tests.injection import providers as p
from tests.injection.graphs_callables import Derived, Equal, Service, caller, first, sized_four
from tests.injection.ledger import Graph, boom, called, log, traced


def top(item: str, a: Annotated[str, Depends(p.one)], b: Annotated[str, Depends(p.gen_a)]) -> list[Any]:
    return called(item, a, b)


def child(one: Annotated[str, Depends(p.one)]) -> str:
    log("child")
    return f"child({one})"


def parent(child: Annotated[str, Depends(child)], a: Annotated[str, Depends(p.gen_a)]) -> str:
    log("parent")
    return f"parent({child},{a})"


def deep(item: str, parent: Annotated[str, Depends(parent)], one: Annotated[str, Depends(p.one)]) -> list[Any]:
    return called(item, parent, one)


def chain(
    item: str, a: Annotated[str, Depends(p.one)], b: Annotated[str, Depends(p.two)], c: Annotated[str, Depends(p.three)]
) -> list[Any]:
    return called(item, a, b, c)


def replacement(two: Annotated[str, Depends(p.two)], item: str, size: int = 9) -> str:
    log(f"replacement:{item}")
    return f"replacement({two},{size})"


def replacement_with_generator(b: Annotated[str, Depends(p.gen_b)]) -> Iterator[str]:
    with traced("replacement"):
        yield f"replacement({b})"


def replacement_above(child: Annotated[str, Depends(child)]) -> str:
    log("above")
    return f"above({child})"


def failing_replacement(b: Annotated[str, Depends(p.gen_b)]) -> str:
    log("failing")
    boom()


def uncached(
    item: str,
    a: Annotated[object, Depends(p.fresh, use_cache=False)],
    b: Annotated[object, Depends(p.fresh, use_cache=False)],
) -> list[Any]:
    return called(item, a is b)


def other_fresh(b: Annotated[str, Depends(p.gen_b, use_cache=False)]) -> object:
    log("other")
    return object()


def cached(item: str, a: Annotated[object, Depends(p.fresh)], b: Annotated[object, Depends(p.fresh)]) -> list[Any]:
    return called(item, a is b)


def two_declared(item: str, a: Annotated[object, Depends(p.one)], b: Annotated[object, Depends(p.two)]) -> list[Any]:
    return called(item, a is b)


def declared_and_its_replacement(
    item: str, a: Annotated[str, Depends(p.one)], b: Annotated[str, Depends(p.gen_b)]
) -> list[Any]:
    return called(item, a, b)


def keys(
    item: str,
    a: Annotated[str, Depends(first.bound)],
    b: Annotated[str, Depends(Equal("declared"))],
    c: Annotated[str, Depends(caller)],
    d: Annotated[str, Depends(sized_four)],
    e: Annotated[Service, Depends()],
) -> list[Any]:
    return called(item, a, b, c, d, type(e).__name__)


def below_both(item: str, a: Annotated[str, Depends(child)], b: Annotated[str, Depends(parent)]) -> list[Any]:
    return called(item, a, b)


GRAPHS = (
    Graph("override at the top", top, "two a+ call a-", overrides={p.one: p.two}),
    Graph("override deep", deep, "three child a+ parent call a-", overrides={p.one: p.three}),
    Graph("override in the middle", deep, "two a+ parent one call a-", overrides={child: p.two}),
    Graph(
        "overrides are not chained",
        chain,
        "two three one call",
        overrides={p.one: p.two, p.two: p.three, p.three: p.one},
    ),
    Graph("replacement has dependencies", top, "two replacement:{item} a+ call a-", overrides={p.one: replacement}),
    Graph(
        "dependency of the replacement is replaced",
        top,
        "three replacement:{item} a+ call a-",
        overrides={p.one: replacement, p.two: p.three},
    ),
    Graph(
        "dependencies of the replaced are not solved",
        deep,
        "two one call",
        overrides={parent: p.two},
    ),
    Graph(
        "replacement depends on another's dependency",
        below_both,
        "one child above call",
        overrides={parent: replacement_above},
    ),
    Graph(
        "plain replaced by generator",
        top,
        "b+ replacement+ a+ call a- replacement- b-",
        overrides={p.one: replacement_with_generator},
    ),
    Graph("generator replaced by plain", top, "one two call", overrides={p.gen_a: p.two}),
    Graph("plain replaced by async", top, "async_one a+ call a-", overrides={p.one: p.async_one}),
    Graph("generator replaced by async generator", top, "one x+ call x-", overrides={p.gen_a: p.async_gen_x}),
    Graph("replacement fails", deep, "b+ failing b!Boom", overrides={child: failing_replacement}, phase="setup"),
    Graph(
        "replacement of uncached is uncached",
        uncached,
        "b+ other b+ other call b- b-",
        overrides={p.fresh: other_fresh},
    ),
    Graph("replacement is cached", cached, "b+ other b+ call b- b-", overrides={p.fresh: other_fresh}),
    Graph("key is the declared callable", two_declared, "fresh fresh call", overrides={p.one: p.fresh, p.two: p.fresh}),
    Graph(
        "declared beside replaced",
        declared_and_its_replacement,
        "b+ b+ call b- b-",
        overrides={p.one: p.gen_b},
    ),
    Graph(
        "keys of overrides",
        keys,
        "two two two two one Service call",
        overrides={
            first.bound: p.two,
            Equal("declared"): p.two,
            caller: p.two,
            sized_four: p.two,
            Service: Derived,
        },
    ),
)
