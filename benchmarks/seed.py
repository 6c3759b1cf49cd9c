"""The seed's graph, mayor -> capital -> country, in every way that is compared.

For each message all three are made afresh, the job uses the country, and after it the capital cleans itself and its
mayor up. The graph exists with an asynchronous ``get_mayor`` (as the seed has it) and with a plain one; written by
hand, without any ``Depends``; and as the seed's own worker loop does it, with fastapi-injectable.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NamedTuple

from fastapi import Depends


class Mayor:
    """Lives as long as one message."""

    def __init__(self) -> None:
        self.cleaned = False

    def cleanup(self) -> None:
        """End it."""
        self.cleaned = True


class Capital:
    """Owns its mayor."""

    def __init__(self, mayor: Mayor) -> None:
        self.mayor = mayor
        self.cleaned = False

    def cleanup(self) -> None:
        """End it, and its mayor."""
        self.cleaned = True
        self.mayor.cleanup()


class Country:
    """What the job works with."""

    def __init__(self, capital: Capital) -> None:
        self.capital = capital

    def do_something(self, message: int) -> int:
        """Stand for the application's own work."""
        return message


# with an asynchronous provider


async def get_mayor() -> Mayor:
    """Provide the mayor, asynchronously."""
    return Mayor()


def get_capital(mayor: Annotated[Mayor, Depends(get_mayor)]) -> Iterator[Capital]:
    """Provide the capital, and clean it up."""
    capital = Capital(mayor)
    yield capital
    capital.cleanup()


def get_country(capital: Annotated[Capital, Depends(get_capital)]) -> Country:
    """Provide the country."""
    return Country(capital)


def process(message: int, country: Annotated[Country, Depends(get_country)]) -> int:
    """Do the job for one message."""
    return country.do_something(message)


# with plain providers only


def get_mayor_sync() -> Mayor:
    """Provide the mayor."""
    return Mayor()


def get_capital_sync(mayor: Annotated[Mayor, Depends(get_mayor_sync)]) -> Iterator[Capital]:
    """Provide the capital, and clean it up."""
    capital = Capital(mayor)
    yield capital
    capital.cleanup()


def get_country_sync(capital: Annotated[Capital, Depends(get_capital_sync)]) -> Country:
    """Provide the country."""
    return Country(capital)


def process_sync(message: int, country: Annotated[Country, Depends(get_country_sync)]) -> int:
    """Do the job for one message."""
    return country.do_something(message)


# by hand: the same providers, called; nobody would start an event loop for a mayor, so it is the plain one

open_capital = contextmanager(get_capital_sync)


def process_with_contextlib(message: int) -> int:
    """Do the job for one message, as one writes it with ``contextlib``."""
    with open_capital(get_mayor_sync()) as capital:
        country = get_country_sync(capital)
        return country.do_something(message)


def process_with_try(message: int) -> int:
    """Do the job for one message with the least code there is, the capital's provider dissolved."""
    capital = Capital(get_mayor_sync())
    try:
        return get_country_sync(capital).do_something(message)
    finally:
        capital.cleanup()


# as the seed does it


def process_with_injectable(message: int) -> int:
    """Do the job for one message as the seed's loop does it with fastapi-injectable."""
    import fastapi_injectable as injectable  # noqa: PLC0415 - a peer may be missing

    country: Country = injectable.get_injected_obj(get_country)
    result = country.do_something(message)
    injectable.run_coroutine_sync(injectable.cleanup_exit_stack_of_func(get_country))
    injectable.run_coroutine_sync(injectable.clear_dependency_cache())
    return result


class LoopSeconds(NamedTuple):
    """What the seed's loop took: the whole, its first quarter and its last one, since it slows down."""

    whole: float
    first_quarter: float
    last_quarter: float


def time_injectable_loop(messages: int) -> LoopSeconds:
    """Time the seed's loop in this process, which should be a fresh one: its cost grows with every message."""
    for message in range(3):
        process_with_injectable(message)
    quarter = messages // 4
    times = [time.perf_counter()]
    for count in (quarter, messages - 2 * quarter, quarter):
        if sum(map(process_with_injectable, range(count))) != sum(range(count)):
            raise ValueError(count)
        times.append(time.perf_counter())
    return LoopSeconds(times[3] - times[0], times[1] - times[0], times[3] - times[2])


# the same graphs observed: not timed, run once before the measured rounds

_previous: list[Country] = []


def is_fresh(country: Country) -> bool:
    """Say whether this country is not cleaned up yet while the one before it, in this process, is, mayor included."""
    capital = country.capital
    ok = not capital.cleaned and not capital.mayor.cleaned
    for former in _previous:
        ok = ok and former is not country and former.capital.cleaned and former.capital.mayor.cleaned
    _previous[:] = [country]
    return ok


def observe(_message: int, country: Annotated[Country, Depends(get_country)]) -> bool:
    """Check the graph with the asynchronous provider."""
    return is_fresh(country)


def observe_sync(_message: int, country: Annotated[Country, Depends(get_country_sync)]) -> bool:
    """Check the graph with plain providers."""
    return is_fresh(country)


def observe_contextlib(_message: int) -> bool:
    """Check the graph written by hand."""
    with open_capital(get_mayor_sync()) as capital:
        return is_fresh(get_country_sync(capital))


def observe_injectable(_message: int) -> bool:
    """Check the seed's loop."""
    import fastapi_injectable as injectable  # noqa: PLC0415 - a peer may be missing

    ok = is_fresh(injectable.get_injected_obj(get_country))
    injectable.run_coroutine_sync(injectable.cleanup_exit_stack_of_func(get_country))
    injectable.run_coroutine_sync(injectable.clear_dependency_cache())
    return ok
