"""How a worker is interrupted."""

from __future__ import annotations


class Terminated(SystemExit):
    """SIGTERM: raised where the code is, so that open scopes close on the way out."""


def is_interrupt(error: BaseException) -> bool:
    """Tell whether an error was meant for the whole process and not for the item that it hit."""
    return isinstance(error, (KeyboardInterrupt, Terminated))
