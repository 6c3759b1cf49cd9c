"""Graphs about order, the cache and plain parameters."""
# ruff: noqa: D103 - a function's name says what it shows; both styles of Depends are shown

from typing import Annotated, Any

from fastapi import Cookie, Depends, Header, Query

from tests.injection.ledger import Boom, Graph, called, log
from tests.injection.providers import fresh, gen_a, one, three, two


def no_dependencies(item: str) -> list[Any]:
    return called(item)


def left(first: Annotated[str, Depends(one)], second: Annotated[str, Depends(two)]) -> str:
    log("left")
    return f"left({first},{second})"


def right(first: Annotated[str, Depends(three)]) -> str:
    log("right")
    return f"right({first})"


def depth_first(item: str, a: Annotated[str, Depends(left)], b: Annotated[str, Depends(right)]) -> list[Any]:
    return called(item, a, b)


def left_of_one(a: Annotated[str, Depends(one)]) -> str:
    log("left")
    return f"left({a})"


def right_of_one(a: str = Depends(one)) -> str:
    log("right")
    return f"right({a})"


def diamond(item: str, a: Annotated[str, Depends(left_of_one)], b: Annotated[str, Depends(right_of_one)]) -> list[Any]:
    return called(item, a, b)


def mixed_styles(
    item: str, a: Annotated[str, Depends(two)], b: str = Depends(one), *, c: str = Depends(right), d: str = Depends(one)
) -> list[Any]:
    return called(item, a, b, c, d)


def not_cached(
    item: str,
    a: Annotated[object, Depends(fresh, use_cache=False)],
    b: Annotated[object, Depends(fresh, use_cache=False)],
) -> list[Any]:
    return called(item, a is b)


def not_cached_fills_the_cache(
    item: str, a: Annotated[object, Depends(fresh, use_cache=False)], b: Annotated[object, Depends(fresh)]
) -> list[Any]:
    return called(item, a is b)


def not_cached_does_not_replace_the_cached(
    item: str,
    a: Annotated[object, Depends(fresh)],
    b: Annotated[object, Depends(fresh, use_cache=False)],
    c: Annotated[object, Depends(fresh)],
) -> list[Any]:
    return called(item, a is b, a is c)


def falsy_none() -> None:
    log("none")


def falsy_zero(nothing: Annotated[None, Depends(falsy_none)]) -> int:
    log(f"zero({nothing})")
    return 0


def falsy_text(zero: Annotated[int, Depends(falsy_zero)]) -> str:
    log(f"text({zero})")
    return ""


def falsy_values_are_cached(
    item: str,
    a: Annotated[None, Depends(falsy_none)],
    b: Annotated[int, Depends(falsy_zero)],
    c: Annotated[str, Depends(falsy_text)],
    d: Annotated[str, Depends(falsy_text)],
    e: Annotated[int, Depends(falsy_zero)],
) -> list[Any]:
    return called(item, a, b, c, d, e)


def parent_of_uncached(child: Annotated[str, Depends(one, use_cache=False)]) -> str:
    log("parent")
    return f"parent({child})"


def children_before_the_cache(
    item: str, a: Annotated[str, Depends(parent_of_uncached)], b: Annotated[str, Depends(parent_of_uncached)]
) -> list[Any]:
    return called(item, a, b)


def above_parent_of_uncached(parent: Annotated[str, Depends(parent_of_uncached)]) -> str:
    log("above")
    return f"above({parent})"


def grandchildren_before_the_cache(
    item: str,
    a: Annotated[str, Depends(above_parent_of_uncached)],
    b: Annotated[str, Depends(parent_of_uncached)],
    c: Annotated[str, Depends(above_parent_of_uncached)],
) -> list[Any]:
    return called(item, a, b, c)


def uncached_generators(
    item: str, a: Annotated[str, Depends(gen_a, use_cache=False)], b: Annotated[str, Depends(gen_a, use_cache=False)]
) -> list[Any]:
    return called(item, a, b)


def layer_1(a: Annotated[str, Depends(one)], b: Annotated[str, Depends(one)]) -> str:
    log("layer1")
    return a + b


def layer_2(a: Annotated[str, Depends(layer_1)], b: Annotated[str, Depends(layer_1)]) -> str:
    log("layer2")
    return a + b


def layer_3(a: Annotated[str, Depends(layer_2)], b: Annotated[str, Depends(layer_1)]) -> str:
    log("layer3")
    return a + b


def layered(item: str, a: Annotated[str, Depends(layer_3)], b: Annotated[str, Depends(layer_2)]) -> list[Any]:
    return called(item, a, b)


def knows_item(item: str) -> str:
    log(f"knows:{item}")
    return item.upper()


def knows_item_below(upper: Annotated[str, Depends(knows_item)], item: str = "default") -> str:
    log(f"below:{item}")
    return upper + item


def same_name_as_the_item(item: str, a: Annotated[str, Depends(knows_item_below)]) -> list[Any]:
    return called(item, a)


def with_defaults(size: int = 3, name: str | None = None, *, rate: float = 0.5) -> list[Any]:
    log("defaults")
    return [size, name, rate]


def other_defaults(size: int = 4, *, flag: bool = True) -> list[Any]:
    log("others")
    return [size, flag]


def plain_defaults(
    item: str, a: Annotated[list[Any], Depends(with_defaults)], b: Annotated[list[Any], Depends(other_defaults)]
) -> list[Any]:
    return called(item, a, b)


def grows(tags: list[str] = Query(default=["t"]), *, names: Annotated[list[str], Query()] = ["n"]) -> list[str]:  # noqa: B006 - shown to be copied
    tags.append("more")
    names.append("more")
    log(f"{len(tags)},{len(names)}")
    return tags + names


def query_default_is_copied(
    item: str,
    a: Annotated[list[str], Depends(grows, use_cache=False)],
    b: Annotated[list[str], Depends(grows, use_cache=False)],
) -> list[Any]:
    return called(item, a, b)


def grows_plain(options: dict[str, int] = {}) -> int:  # noqa: B006 - shown to be copied
    options[str(len(options))] = 1
    log(f"options:{len(options)}")
    return len(options)


def plain_default_is_copied(item: str, a: Annotated[int, Depends(grows_plain)]) -> list[Any]:
    return called(item, a)


def from_factories(
    a: list[str] = Query(default_factory=list), *, b: Annotated[list[str], Query(default_factory=list)]
) -> list[str]:
    a.append("a")
    b.append("b")
    log("factories")
    return a + b


def from_header_and_cookie(
    agent: str | None = Header(default="none", alias="x-conformance"), token: Annotated[str, Cookie()] = "no-token"
) -> list[Any]:
    log("header")
    return [agent, token]


def parameter_defaults(
    item: str,
    a: Annotated[list[str], Depends(from_factories)],
    b: Annotated[list[Any], Depends(from_header_and_cookie)],
    limit: int = Query(default=7),
    offset: Annotated[int, Query(ge=0)] = 1,
) -> list[Any]:
    return called(item, a, b, limit, offset)


def fails_for_b(item: str) -> str:
    log(f"check:{item}")
    if item == "b":
        raise Boom(item)
    return item


def failure_of_one_item(
    item: str, a: Annotated[str, Depends(gen_a)], b: Annotated[str, Depends(fails_for_b)]
) -> list[Any]:
    log("end")
    return [item, a, b]


Base = Annotated[str, Depends(one)]


def last_marker_counts(
    item: str,
    a: Annotated[Base, Depends(two)],
    b: Annotated[str, Depends(two), Depends(three)],
    c: Annotated[str, Query(), Depends(one)],
    d: Annotated[str, Depends(fresh), Query()] = "default",
) -> list[Any]:
    return called(item, a, b, c, d)


GRAPHS = (
    Graph("last marker counts", last_marker_counts, "two three one call"),
    Graph("no dependencies", no_dependencies, "call"),
    Graph("depth first in signature order", depth_first, "one two left three right call"),
    Graph("diamond is cached", diamond, "one left right call"),
    Graph("both styles and keyword-only", mixed_styles, "two one three right call"),
    Graph("use_cache=False does not read", not_cached, "fresh fresh call"),
    Graph("use_cache=False fills", not_cached_fills_the_cache, "fresh call"),
    Graph("use_cache=False does not replace", not_cached_does_not_replace_the_cached, "fresh fresh call"),
    Graph("falsy values are cached", falsy_values_are_cached, "none zero(None) text(0) call"),
    Graph("children before the cache", children_before_the_cache, "one parent one call"),
    Graph("grandchildren before the cache", grandchildren_before_the_cache, "one parent above one one call"),
    Graph("uncached generators", uncached_generators, "a+ a+ call a- a-"),
    Graph("layered diamond", layered, "one layer1 layer2 layer3 call"),
    Graph("parameter named like the item", same_name_as_the_item, "knows:{item} below:{item} call"),
    Graph("plain defaults", plain_defaults, "defaults others call"),
    Graph("Query default is copied", query_default_is_copied, "2,2 2,2 call"),
    Graph("plain default is copied", plain_default_is_copied, "options:1 call"),
    Graph(
        "failure of one item",
        failure_of_one_item,
        "a+ check:{item} end a-",
        events_of_b="a+ check:b a!Boom?",
        phase="setup",
    ),
    Graph("default factory, Header, Cookie, Query", parameter_defaults, "factories header call"),
)
