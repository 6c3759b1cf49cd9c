"""What the code of an item is at, for a signal handler that has only the interrupted frame. Runs in the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolinject._injection import generators
from poolinject._injection.codegen import FILE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import CodeType, FrameType


def is_inside(frame: FrameType | None, functions: Collection[CodeType]) -> bool:
    """Tell whether a frame was called from one of these functions, however far up."""
    while frame is not None:
        if frame.f_code in functions:
            return True
        frame = frame.f_back
    return False


def is_closing(frame: FrameType | None) -> bool:
    """Tell whether a scope of an item is being closed by generated code that the frame was called from.

    After a success each cleanup is a stage of that code; after a failure one call from it drives them all.
    """
    called = None
    while frame is not None:
        if frame.f_code.co_filename.startswith(FILE_PREFIX):
            stages, at = frame.f_globals["stages"], frame.f_locals.get("at", 0)
            if called in DRIVERS or stages[at].phase == "cleanup":
                return True
        called, frame = frame.f_code, frame.f_back
    return False


DRIVERS = (generators.drive.__code__, generators.drive_async.__code__)
