"""Graphs with ``Security`` and ``SecurityScopes``."""
# ruff: noqa: D103 - a function's name says what it shows

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, Security
from fastapi.security import SecurityScopes

from tests.injection import providers as p
from tests.injection.ledger import Graph, called, log, traced


def token(scopes: SecurityScopes) -> list[str]:
    log(f"token:{','.join(scopes.scopes)}")
    return list(scopes.scopes)


def user(scopes: SecurityScopes, token: Annotated[list[str], Security(token, scopes=["me"])]) -> list[str]:
    log(f"user:{scopes.scope_str.replace(' ', ',')}")
    return token


def scopes_accumulate(item: str, a: Annotated[list[str], Security(user, scopes=["items", "admin"])]) -> list[Any]:
    return called(item, a)


def plain_user(token: Annotated[list[str], Depends(token)]) -> list[str]:
    log("plain")
    return token


def scopes_pass_plain_depends(
    item: str,
    a: Annotated[list[str], Security(plain_user, scopes=["x"])],
    b: Annotated[list[str], Depends(plain_user)],
) -> list[Any]:
    return called(item, a, b)


def deep(scopes: SecurityScopes) -> str:
    log(f"deep:{','.join(scopes.scopes)}")
    return scopes.scope_str


def middle(deep: Annotated[str, Security(deep, scopes=["c", "a", "d"])]) -> str:
    log("middle")
    return deep


def repeated_scopes(item: str, a: Annotated[str, Security(middle, scopes=["a", "b"])]) -> list[Any]:
    return called(item, a)


def scopes_in_the_key(
    item: str,
    a: Annotated[list[str], Security(token, scopes=["a"])],
    b: Annotated[list[str], Security(token, scopes=["b"])],
    c: Annotated[list[str], Security(token, scopes=["a"])],
    d: Annotated[list[str], Depends(token)],
    e: Annotated[list[str], Security(token)],
) -> list[Any]:
    return called(item, a, b, c, d, e)


def order_is_not_in_the_key(
    item: str,
    a: Annotated[list[str], Security(token, scopes=["a", "b"])],
    b: Annotated[list[str], Security(token, scopes=["b", "a"])],
) -> list[Any]:
    return called(item, a, b)


def uncached_security(
    item: str,
    a: Annotated[list[str], Security(token, scopes=["a"], use_cache=False)],
    b: Annotated[list[str], Security(token, scopes=["a"], use_cache=False)],
) -> list[Any]:
    return called(item, a, b)


def declared_with_scopes(
    item: str,
    a: Annotated[str, Security(p.one, scopes=["a"])],
    b: Annotated[str, Security(p.one, scopes=["b"])],
    c: Annotated[str, Depends(p.one)],
) -> list[Any]:
    return called(item, a, b, c)


def on_database(a: Annotated[str, Depends(p.gen_a)]) -> str:
    log("on")
    return a


def unused_scopes_are_not_in_the_key(
    item: str,
    a: Annotated[str, Security(on_database, scopes=["a"])],
    b: Annotated[str, Security(on_database, scopes=["b"])],
    c: Annotated[str, Depends(p.gen_a)],
) -> list[Any]:
    return called(item, a, b, c)


def gen_token(scopes: SecurityScopes) -> Iterator[list[str]]:
    with traced(f"gen:{','.join(scopes.scopes)}"):
        yield ["gen", *scopes.scopes]


def user_with_default(scopes: SecurityScopes, *, token: list[str] = Security(gen_token, scopes=["z"])) -> list[str]:
    log(f"user:{','.join(scopes.scopes)}")
    return token


def security_generators(
    item: str,
    a: Annotated[list[str], Security(user_with_default, scopes=["a"])],
    b: list[str] = Security(user_with_default, scopes=["b"]),
) -> list[Any]:
    return called(item, a, b)


def replacement_below(
    token: Annotated[list[str], Security(token, scopes=["own"])], scopes: SecurityScopes
) -> list[str]:
    log(f"replacement:{','.join(scopes.scopes)}")
    return token


def repeating(token: Annotated[list[str], Security(token, scopes=["a"])]) -> list[str]:
    return token


def repeating_more(
    a: Annotated[list[str], Security(repeating, scopes=["b", "a"])],
    b: Annotated[list[str], Depends(token, use_cache=False)],
) -> list[Any]:
    return [a, b]


def repeats_on_the_way(item: str, more: Annotated[list[Any], Security(repeating_more, scopes=["a", "a"])]) -> list[Any]:
    return called(item, more)


class OwnScopes(SecurityScopes):
    """The name that an application gave them."""


def token_of_own_scopes(scopes: OwnScopes) -> list[str]:
    log(f"own:{','.join(scopes.scopes)}")
    return scopes.scopes


def subclass_of_scopes(
    item: str,
    a: Annotated[list[str], Security(token_of_own_scopes, scopes=["a"])],
    b: Annotated[list[str], Security(token_of_own_scopes, scopes=["b"])],
) -> list[Any]:
    return called(item, a, b)


GRAPHS = (
    Graph("repeats on the way", repeats_on_the_way, "token:a,a,b,a token:a,a call", since=(0, 165, 0)),
    Graph(
        "no repeats on the way beside a replacement",
        repeats_on_the_way,
        "token:a,b token:a call",
        overrides={repeating: lambda token=Security(token): token},
        since=(0, 165, 0),
    ),
    Graph("subclass of SecurityScopes", subclass_of_scopes, "own:a own:b call"),
    Graph("scopes accumulate", scopes_accumulate, "token:items,admin,me user:items,admin call", since=(0, 123, 0)),
    Graph("scopes pass plain Depends", scopes_pass_plain_depends, "token:x plain token: plain call"),
    Graph("repeated scopes", repeated_scopes, "deep:a,b,c,d middle call", since=(0, 123, 0)),
    Graph("scopes are in the key", scopes_in_the_key, "token:a token:b token: call"),
    Graph("order of scopes is not in the key", order_is_not_in_the_key, "token:a,b call"),
    Graph("uncached Security", uncached_security, "token:a token:a call"),
    Graph("declared with scopes", declared_with_scopes, "one one one call"),
    Graph(
        "unused scopes are not in the key",
        unused_scopes_are_not_in_the_key,
        "a+ on on call a-",
        since=(0, 123, 0),
    ),
    Graph(
        "Security on generators",
        security_generators,
        "gen:a,z+ user:a gen:b,z+ user:b call gen:b,z- gen:a,z-",
        since=(0, 123, 0),
    ),
    Graph(
        "replacement gets the declared scopes",
        scopes_accumulate,
        "token:items,admin,own replacement:items,admin call",
        overrides={user: replacement_below},
        since=(0, 123, 0),
    ),
    Graph(
        "replacement below keeps the declared scopes",
        scopes_accumulate,
        "gen:items,admin,me+ user:items,admin call gen:items,admin,me-",
        overrides={token: gen_token},
        since=(0, 123, 0),
    ),
)
