"""Graphs about generators: order of cleanup, and what errors do to it."""
# ruff: noqa: D103 - a function's name says what it shows; it need not use its dependencies

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends

from tests.injection import providers as p
from tests.injection.ledger import Boom, Graph, OtherBoom, boom, called, is_last_raised, log, traced

A = Annotated[str, Depends(p.gen_a)]
B = Annotated[str, Depends(p.gen_b)]
C = Annotated[str, Depends(p.gen_c)]


def last_in_first_out(item: str, a: A, b: B, c: C) -> list[Any]:
    return called(item, a, b, c)


def error_reaches_all(item: str, a: A, b: B) -> list[Any]:
    called()
    boom(Boom(item))


def gen_on_a(a: A) -> Iterator[str]:
    with traced("on_a"):
        yield f"on {a}"


def closed_before_its_child(item: str, b: B, on_a: Annotated[str, Depends(gen_on_a)], a: A) -> list[Any]:
    return called(item, b, on_a, a)


def swallowed(item: str, a: A, s: Annotated[str, Depends(p.gen_swallowing)], b: B) -> list[Any]:
    called()
    boom()


def swallowed_then_failing(
    item: str, a: A, o: Annotated[str, Depends(p.gen_failing_after_yield)], s: Annotated[str, Depends(p.gen_swallowing)]
) -> list[Any]:
    called()
    boom(OtherBoom("first"))


def swallowing_without_error(item: str, s: Annotated[str, Depends(p.gen_swallowing)]) -> list[Any]:
    return called(item, s)


def replaced(item: str, a: A, r: Annotated[str, Depends(p.gen_replacing)], b: B) -> list[Any]:
    called()
    boom(Boom(item))


def gen_raising_from() -> Iterator[None]:
    try:
        yield
    except Boom as error:
        raise OtherBoom(f"from {error}") from error


def replaced_with_cause(item: str, a: A, r: Annotated[None, Depends(gen_raising_from)]) -> list[Any]:
    boom(Boom(item))


def gen_raising_same() -> Iterator[None]:
    try:
        yield
    except Boom as error:
        log(f"same:{is_last_raised(error)}")
        raise error  # noqa: TRY201 - the explicit way is what is shown


def raised_again(item: str, a: A, s: Annotated[None, Depends(gen_raising_same)]) -> list[Any]:
    boom(Boom(item))


def gen_without_yield(a: A) -> Iterator[str]:
    log("none")
    if a == "":
        yield a


def not_yielding(item: str, b: B, n: Annotated[str, Depends(gen_without_yield)]) -> list[Any]:
    return called(item, n)


def gen_twice() -> Iterator[int]:
    log("first")
    yield 1
    log("second")
    yield 2
    log("never")


def yielding_twice(item: str, a: A, t: Annotated[int, Depends(gen_twice)], b: B) -> list[Any]:
    return called(item, t)


def gen_twice_on_error() -> Iterator[int]:
    log("first")
    try:
        yield 1
    except Boom:
        log("second")
        yield 2


def yielding_again_on_error(item: str, a: A, t: Annotated[int, Depends(gen_twice_on_error)]) -> list[Any]:
    called()
    boom()


def gen_twice_freed() -> Iterator[int]:
    try:
        yield 1
        log("second")
        yield 2
    finally:
        log("freed")


def yielding_twice_is_freed(item: str, a: A, t: Annotated[int, Depends(gen_twice_freed)]) -> list[Any]:
    return called(item, t)


def gen_twice_not_freed() -> Iterator[int]:
    try:
        yield 1
        log("second")
        yield 2
    except GeneratorExit:
        boom(OtherBoom("cannot be freed"))


def yielding_twice_is_not_freed(item: str, a: A, t: Annotated[int, Depends(gen_twice_not_freed)]) -> list[Any]:
    return called(item, t)


def gen_again_not_freed() -> Iterator[int]:
    try:
        yield 1
    except Boom:
        log("second")
        try:
            yield 2
        finally:
            boom(OtherBoom("cannot be freed"))


def yielding_again_is_not_freed(item: str, a: A, t: Annotated[int, Depends(gen_again_not_freed)]) -> list[Any]:
    called()
    boom()


def error_after_yield(item: str, a: A, e: Annotated[str, Depends(p.gen_failing_after_yield)], b: B) -> list[Any]:
    return called(item, e)


def every_cleanup_runs(
    item: str,
    a: A,
    e: Annotated[str, Depends(p.gen_failing_after_yield)],
    b: B,
    o: Annotated[str, Depends(p.gen_other_failing_after_yield)],
    c: C,
) -> list[Any]:
    return called(item)


def every_cleanup_runs_after_error(
    item: str, a: A, o: Annotated[str, Depends(p.gen_other_failing_after_yield)], b: B
) -> list[Any]:
    called()
    boom()


def setup_fails_third(item: str, a: A, b: B, f: Annotated[str, Depends(p.failing)], c: C) -> list[Any]:
    return called(item, c)


def setup_of_generator_fails(
    item: str, a: A, b: B, f: Annotated[str, Depends(p.gen_failing_before_yield)], c: C
) -> list[Any]:
    return called(item, c)


def failing_parent(b: B, f: Annotated[str, Depends(p.failing)]) -> str:
    log("never")
    return b + f


def setup_fails_below(item: str, a: A, f: Annotated[str, Depends(failing_parent)], c: C) -> list[Any]:
    return called(item, f)


def setup_fails_and_is_replaced(
    item: str, a: A, r: Annotated[str, Depends(p.gen_replacing)], f: Annotated[str, Depends(p.failing)]
) -> list[Any]:
    return called(item, f)


def setup_fails_and_is_swallowed(
    item: str, a: A, s: Annotated[str, Depends(p.gen_swallowing)], f: Annotated[str, Depends(p.failing)]
) -> list[Any]:
    return called(item, f)


def gen_with_finally() -> Iterator[str]:
    log("open")
    try:
        yield "finally"
    finally:
        log("closed")


def finally_runs(item: str, f: Annotated[str, Depends(gen_with_finally)]) -> list[Any]:
    called()
    boom(Boom(item))


def gen_falsy() -> Iterator[None]:
    with traced("falsy"):
        yield


def falsy_generator_is_cached(
    item: str, f: Annotated[None, Depends(gen_falsy)], g: Annotated[None, Depends(gen_falsy)]
) -> list[Any]:
    return called(item, f, g)


def gen_failing_for_b(item: str) -> Iterator[str]:
    with traced(item):
        yield item
        if item == "b":
            raise Boom(item)


def cleanup_knows_the_item(item: str, f: Annotated[str, Depends(gen_failing_for_b)]) -> list[Any]:
    return [item, f]


GRAPHS = (
    Graph("cleanup last in first out", last_in_first_out, "a+ b+ c+ call c- b- a-"),
    Graph("error reaches all", error_reaches_all, "a+ b+ call b!Boom a!Boom", phase="call"),
    Graph("closed before its child", closed_before_its_child, "b+ a+ on_a+ call on_a- a- b-"),
    Graph(
        "swallowed error fails the item",
        swallowed,
        "a+ swallowing+ b+ call b!Boom swallowed:True a-",
        compare="failure",
    ),
    Graph(
        "swallowed, then another fails",
        swallowed_then_failing,
        "a+ after+ swallowing+ call swallowed:True after- a!Boom",
    ),
    Graph("nothing to swallow", swallowing_without_error, "swallowing+ call"),
    Graph("replaced error", replaced, "a+ replacing+ b+ call b!Boom replacing:True a!OtherBoom"),
    Graph("replaced error with cause", replaced_with_cause, "a+ a!OtherBoom?"),
    Graph("same error raised again", raised_again, "a+ same:True a!Boom"),
    Graph(
        "generator without yield",
        not_yielding,
        "b+ a+ none a!RuntimeError? b!RuntimeError?",
        compare="type",
        phase="setup",
    ),
    Graph(
        "generator yields twice",
        yielding_twice,
        "a+ first b+ call b- second a!RuntimeError?",
        compare="type",
        phase="cleanup",
    ),
    Graph("generator yields again on error", yielding_again_on_error, "a+ first call second a!RuntimeError?"),
    Graph(
        "generator yields twice and is freed at once",
        yielding_twice_is_freed,
        "a+ call second freed a!RuntimeError?",
        compare="type",
        phase="cleanup",
    ),
    Graph(
        "generator yields twice and cannot be freed",
        yielding_twice_is_not_freed,
        "a+ call second a!OtherBoom",
        phase="cleanup",
    ),
    Graph("generator yields again and cannot be freed", yielding_again_is_not_freed, "a+ call second a!OtherBoom"),
    Graph("error after yield", error_after_yield, "a+ after+ b+ call b- after- a!Boom", phase="cleanup"),
    Graph(
        "every cleanup runs",
        every_cleanup_runs,
        "a+ after+ b+ other+ c+ call c- other!OtherBoom b!OtherBoom a!OtherBoom",
        phase="cleanup",
    ),
    Graph(
        "every cleanup runs after error",
        every_cleanup_runs_after_error,
        "a+ other+ b+ call b!Boom other!OtherBoom a!OtherBoom",
    ),
    Graph("set-up fails", setup_fails_third, "a+ b+ failing b!Boom a!Boom", phase="setup"),
    Graph("set-up of a generator fails", setup_of_generator_fails, "a+ b+ before+ b!Boom a!Boom", phase="setup"),
    Graph("set-up fails below", setup_fails_below, "a+ b+ failing b!Boom a!Boom", phase="setup"),
    Graph(
        "set-up fails and is replaced", setup_fails_and_is_replaced, "a+ replacing+ failing replacing:True a!OtherBoom"
    ),
    Graph(
        "set-up fails and is swallowed",
        setup_fails_and_is_swallowed,
        "a+ swallowing+ failing swallowed:True a-",
        compare="failure",
    ),
    Graph("finally runs", finally_runs, "open call closed", phase="call"),
    Graph(
        "cleanup knows the item",
        cleanup_knows_the_item,
        "{item}+ {item}-",
        events_of_b="b+ b!Boom?",
        phase="cleanup",
    ),
    Graph("falsy generator is cached", falsy_generator_is_cached, "falsy+ call falsy-"),
)
