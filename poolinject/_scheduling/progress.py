"""A tqdm bar for a run. Runs in the caller; a bar that fails is dropped, not the run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sized
from typing import Any, TypeAlias

Progress: TypeAlias = bool | str | Mapping[str, Any] | type[Any] | None

_FAILURES = (Exception, SystemExit, GeneratorExit)  # on the driver's thread, which has to go on


def length_of(items: object) -> int | None:
    """Give how many items there are, ``None`` where that is not known, or more than Python can say."""
    if not isinstance(items, Sized):
        return None
    try:
        return len(items)
    except Exception:  # noqa: BLE001 - a user's own, or a range longer than an index can be
        return None


class Bar:
    """Counts finished items, failures and retries beside the rate."""

    def __init__(self, progress: Progress, items: object) -> None:
        self._bar = _make(progress, length_of(items))
        self._failed = self._retries = 0

    @property
    def is_shown(self) -> bool:
        """Whether there is one."""
        return self._bar is not None

    def update(self, finished: int, failed: int = 0, retries: int = 0) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        try:
            if failed or retries:
                self._failed += failed
                self._retries += retries
                counts = {"failed": self._failed, "retries": self._retries}
                self._bar.set_postfix({name: str(count) for name, count in counts.items() if count}, refresh=False)
            self._bar.update(finished)
        except _FAILURES as error:  # whatever a terminal or a user's class raises
            self._bar = None
            _warn(f"the progress bar failed and is gone: {error!r}")

    def close(self) -> None:
        """Draw the last state and let go of the line."""
        bar, self._bar = self._bar, None
        if bar is not None:
            try:
                bar.close()
            except _FAILURES as error:
                _warn(f"the progress bar failed to close: {error!r}")


def _warn(message: str) -> None:
    """Warn on the driver's thread, which must go on where the user has made warnings errors."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    except RuntimeWarning as warning:
        sys.stderr.write(f"poolinject: {warning}\n")


def check_progress(progress: Progress) -> None:
    """Refuse what is no progress option.

    Raises:
        TypeError: If it is neither a bool, a text, a mapping of tqdm's options nor a tqdm class.
    """
    if not (progress is None or isinstance(progress, (bool, str, Mapping, type))):
        message = f"progress must be a bool, a text, a dict of tqdm options or a tqdm class, not {progress!r}"
        raise TypeError(message)


def _make(progress: Progress, total: int | None) -> Any:
    if progress is None or progress is False:
        return None
    if isinstance(progress, type):
        return progress(total=total)
    options: dict[str, Any] = {"total": total, "unit": "item"}
    if isinstance(progress, str):
        options["desc"] = progress
    elif isinstance(progress, Mapping):
        options |= progress
    if sys.stderr is None and options.get("file") is None:  # a program without a terminal, such as pythonw
        return None
    from tqdm.auto import tqdm  # noqa: PLC0415 - it looks for a notebook when it is imported

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets it draws text, which is fine
        return tqdm(**options)
