"""Where code stands: the author's line, not the library's."""

import os
import sys
from importlib.util import find_spec
from types import FrameType
from typing import Any

__all__ = ["authors_line", "here", "line_of", "place_of"]

here = sys._getframe  # pyright: ignore[reportPrivateUsage] - CPython's and PyPy's; inspect has no frame from so far up
"""The frame of the caller, or of so many calls above it."""

_LIBRARIES = tuple(
    os.path.dirname(spec.origin) + os.sep
    for name in ("anyio", "asyncio", "hypothesis", "trio", "flowkit")
    if (spec := find_spec(name)) is not None and spec.origin is not None
)
_EXAMPLES = os.path.join(_LIBRARIES[-1], "examples") + os.sep
_OUTERMOST = [
    (os.path.join(_LIBRARIES[-1], "testing", f"{backend}_kernel.py"), "go_on") for backend in ("asyncio", "trio")
]
_STANDARD = os.path.dirname(os.__file__) + os.sep


def _is_authors(filename: str) -> bool:
    """Whether a source file is neither of a library that a simulation runs on nor of Python itself."""
    if filename.startswith(_LIBRARIES):
        return filename.startswith(_EXAMPLES)
    return not (filename.startswith("<") or (filename.startswith(_STANDARD) and "site-packages" not in filename))


def line_of(frame: FrameType) -> str:
    """``file.py:12 in function`` of the innermost author's frame from this one outwards, else of this one."""
    found: FrameType | None = frame
    while found is not None and not _is_authors(found.f_code.co_filename):
        found = found.f_back
    return _line(found or frame)


def authors_line(frame: FrameType) -> str | None:
    """``file.py:12 in function`` of the innermost author's frame from this one outwards, ``None`` where there is none
    in the simulated process: its event loop's own callers are none of its business."""
    found: FrameType | None = frame
    while found is not None and (found.f_code.co_filename, found.f_code.co_name) not in _OUTERMOST:
        if _is_authors(found.f_code.co_filename):
            return _line(found)
        found = found.f_back
    return None


def place_of(coro: Any) -> str:
    """``file.py:12 in function`` of where a suspended coroutine waits: the author's innermost line, else its own, in
    brackets."""
    frame = frame_of(coro)
    if frame is None:
        return "(its end)"
    return _line(frame) if _is_authors(frame.f_code.co_filename) else f"({_line(frame)})"


def frame_of(coro: Any) -> FrameType | None:
    """The frame of the innermost author's line that a suspended coroutine waits in, else its outermost frame."""
    found = first = None
    while coro is not None:
        frame = _attribute(coro, "cr_frame", "ag_frame", "gi_frame")
        if frame is not None:
            first = first or frame
            if _is_authors(frame.f_code.co_filename):
                found = frame
        coro = _attribute(coro, "cr_await", "ag_await", "gi_yieldfrom")
    return found or first


def _line(frame: FrameType) -> str:
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_qualname}"


def _attribute(owner: Any, *names: str) -> Any:
    for name in names:
        if (value := getattr(owner, name, None)) is not None:
            return value
    return None
