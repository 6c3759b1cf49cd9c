"""What the code of an item is at, for a signal handler that has only the interrupted frame. Runs in the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolinject._injection import generators
from poolinject._injection.codegen import FILE_PREFIX
from poolinject._injection.local_host import LocalHost

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
        generated = _generated(frame)
        if generated is not None and (called in DRIVERS or _is_cleanup(generated)):
            return True
        called, frame = frame.f_code, frame.f_back
    return False


def _generated(frame: FrameType) -> FrameType | None:
    """Give the frame of generated code that a frame is, or that has yielded to it what a coroutine waits for."""
    if frame.f_code is LocalHost.follow.__code__:
        work = frame.f_locals.get("work")
        return None if work is None else work.gi_frame
    return frame if frame.f_code.co_filename.startswith(FILE_PREFIX) else None


def _is_cleanup(frame: FrameType) -> bool:
    phase: str = frame.f_globals["stages"][frame.f_locals.get("at", 0)].phase
    return phase == "cleanup"


DRIVERS = (generators.drive.__code__, generators.drive_async.__code__)
