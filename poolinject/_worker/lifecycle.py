"""How a worker is interrupted."""

from __future__ import annotations


class Terminated(SystemExit):
    """SIGTERM: raised where the code is, so that open scopes close on the way out."""


def is_interrupt(error: BaseException) -> bool:
    """Tell whether an error was meant for the whole process and not for the item that it hit."""
    return _is_or_has(error, (KeyboardInterrupt, Terminated))


def is_terminated(error: BaseException) -> bool:
    """Tell whether an item has failed because of SIGTERM; a task group of its may have wrapped that."""
    return _is_or_has(error, Terminated)


def _is_or_has(error: BaseException, types: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(types) is not None
    return isinstance(error, types)
