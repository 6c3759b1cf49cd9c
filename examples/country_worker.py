"""A message worker that reuses an application's FastAPI dependencies outside any request.

For each message a country, its capital and the capital's mayor are made afresh, the job uses the country, and the
capital and its mayor are cleaned up before the next message begins:

    python examples/country_worker.py Hello World
    tail -f messages.txt | python examples/country_worker.py --backend process -
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import Depends

from poolinject import InjectedPool


class Mayor:
    """Lives as long as one message."""

    def cleanup(self) -> None:
        """Say that the mayor is gone."""
        print("mayor cleanup", flush=True)


class Capital:
    """Owns its mayor."""

    def __init__(self, mayor: Mayor) -> None:
        self.mayor = mayor

    def cleanup(self) -> None:
        """Say that the capital is gone, and clean its mayor up."""
        print("capital cleanup", flush=True)
        self.mayor.cleanup()


class Country:
    """What the job works with."""

    def __init__(self, capital: Capital) -> None:
        self.capital = capital

    def do_something(self, message: str) -> None:
        """Stand for the application's own work."""
        print(f"do_something for {message}", flush=True)


async def get_mayor() -> Mayor:
    """Provide the mayor: asynchronous, below a function that is not."""
    return Mayor()


def get_capital(mayor: Annotated[Mayor, Depends(get_mayor)]) -> Iterator[Capital]:
    """Provide the capital, and clean it up when the message is done."""
    capital = Capital(mayor)
    yield capital
    capital.cleanup()


def get_country(capital: Annotated[Capital, Depends(get_capital)]) -> Country:
    """Provide the country."""
    return Country(capital)


def process_message(position: str, message: str, country: Annotated[Country, Depends(get_country)]) -> str:
    """Do the job for one message; *position* is its place, for example ``1 of 2``."""
    print(f"processing message {position}", flush=True)
    print(f"message: {message}", flush=True)
    country.do_something(message)
    return message


def work_through(pool: InjectedPool, messages: Sequence[str]) -> None:
    """Process messages that are all there already."""
    total = len(messages)
    pool.starmap(process_message, [(f"{n} of {total}", message) for n, message in enumerate(messages, start=1)])


def consume(pool: InjectedPool, lines: Iterator[str]) -> None:
    """Process messages as they arrive, each one finished and cleaned up before the next is read."""
    for n, line in enumerate(lines, start=1):
        message = pool.submit(process_message, str(n), line.rstrip("\n")).result()
        print(f"done: {message}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and process the messages, one worker, in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("messages", nargs="*", default=["Hello", "World"], help="messages, or - to read one a line")
    parser.add_argument("--backend", choices=["inline", "thread", "process"], default="process")
    options = parser.parse_args(arguments)
    with InjectedPool(workers=1, backend=options.backend) as pool:
        if options.messages == ["-"]:
            consume(pool, iter(sys.stdin.readline, ""))
        else:
            work_through(pool, options.messages)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
