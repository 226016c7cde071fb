"""Exit codes, refusals, and what becomes of an error: a line on standard error and a code, never a traceback of ours.

A traceback is shown where a step failed and ``--traceback`` was given, of the author's own code, and of a bug of
flowkit's own.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import cast

__all__ = [
    "CHECK_FAILED",
    "DONE",
    "FAILED",
    "INTERNAL",
    "INTERRUPTED",
    "MEANINGS",
    "STORE_UNUSABLE",
    "WAITING",
    "WRONG_USE",
    "Refused",
    "code_of",
    "full_traceback",
    "line_of",
    "one_of",
    "place_of",
]

DONE = 0
FAILED = CHECK_FAILED = 1
WRONG_USE = 2
STORE_UNUSABLE = 3
WAITING = 4
INTERNAL = 5
INTERRUPTED = 130

MEANINGS = {
    DONE: "done",
    FAILED: "the run failed",
    WRONG_USE: "wrong use: an unknown module, workflow, step or run, a value of the wrong type",
    STORE_UNUSABLE: "the store can't be used: it is missing, locked, damaged or newer, or the run is driven elsewhere",
    WAITING: "the run waits for somebody outside",
    INTERNAL: "a bug of flowkit",
    INTERRUPTED: "stopped by Ctrl-C",
}

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep
_EXAMPLES = _PACKAGE + "examples" + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class Refused(Exception):
    """What was asked for can't be done; the message is for whoever asked: what, where, and what to write instead.

    ``cause`` is the error of the author's code it is about, whose traceback ``--traceback`` shows.
    """

    def __init__(self, message: str, code: int = WRONG_USE, *, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.cause = cause


def one_of(error: BaseException) -> BaseException:
    """The error in a group that has just one, or the Ctrl-C or exit in it; any other error as it is."""
    from flowkit.errors import InvalidWorkflow

    one: BaseException = error
    while isinstance(one, BaseExceptionGroup) and not isinstance(one, InvalidWorkflow):
        several: list[BaseException] = list(cast("BaseExceptionGroup[BaseException]", one).exceptions)
        leaving = [each for each in several if not isinstance(each, Exception)]
        if not leaving and len(several) > 1:
            return error
        one = (leaving or several)[0]
    return one


def code_of(error: BaseException) -> int | None:
    """The exit code for an error that flowkit raises on purpose; ``None`` for any other."""
    from flowkit import errors, storage_errors

    if isinstance(error, Refused):
        return error.code
    if not isinstance(error, errors.WorkflowError):
        return None
    if isinstance(error, errors.ImpossibleFact):
        return INTERNAL
    unusable = storage_errors.StoreError | storage_errors.RunElsewhere | storage_errors.RunDamaged
    if isinstance(error, unusable | storage_errors.LeaseLost):
        return STORE_UNUSABLE
    if isinstance(error, storage_errors.RunSuspended):
        return WAITING
    wrong = errors.WorkflowValidationError | errors.EventError | errors.WrongCall | errors.MisdirectedEvent
    unfit = storage_errors.CodeChanged | storage_errors.UnknownRun | storage_errors.WrongWorkflow
    if isinstance(error, wrong | unfit | storage_errors.UnexpectedEvent | errors.RunFinished):
        return WRONG_USE
    return FAILED


def line_of(error: BaseException, workflow: str | None = None) -> str:
    """An error in words: of a step that failed its class, its text, the step and the place; else the error's own."""
    from flowkit.errors import StepFailed, WorkflowError, in_words
    from flowkit.storage_errors import UnknownRun

    if not isinstance(error, StepFailed):
        if isinstance(error, UnknownRun):
            return str(error).replace("await runtime.runs()", "`flowkit runs list`")
        if isinstance(error, WorkflowError | Refused):
            return str(error)
        place = place_of(error)
        return f"{in_words(error)}{f' ({place})' if place else ''}"
    cause = error.__cause__
    step = f"{workflow}.{error.step}" if workflow else f"step {error.step!r}"
    tries = "" if error.attempts == 1 else f" (after {error.attempts} attempts)"
    if cause is None:
        return str(error)
    if isinstance(cause, StepFailed):  # of a run nested in this step
        return f"{step}: {line_of(cause)}{tries}"
    place = place_of(cause)
    if isinstance(cause, WorkflowError):
        return f"{step} failed{tries}: {cause}" + (f" ({place})" if place and place not in str(cause) else "")
    return f"{step} raised {in_words(cause)}{tries}" + (f" ({place})" if place else "")


def place_of(error: BaseException) -> str | None:
    """``file:line`` in the author's code where an error was raised; ``None`` where none of it had a part in it."""
    if isinstance(error, BaseExceptionGroup):
        members = cast("BaseExceptionGroup[BaseException]", error).exceptions
        if (inner := place_of(members[0])) is not None:
            return inner
    frames = list(_own_frames(error.__traceback__))
    if not frames:
        return None
    name, line = frames[-1]
    return f"{_short(name)}:{line}"


def full_traceback(error: BaseException) -> str:
    """The traceback of what a step raised, its causes with it, without flowkit's own frames."""
    from flowkit.errors import StepFailed

    while isinstance(error, StepFailed) and error.__cause__ is not None:
        error = error.__cause__
    told = traceback.TracebackException.from_exception(error)
    todo: list[traceback.TracebackException | None] = [told]
    while todo:
        one = todo.pop()
        if one is not None:
            own = [frame for frame in one.stack if not _is_machinery(frame.filename)]
            one.stack = traceback.StackSummary.from_list(own)
            todo += [one.__cause__, one.__context__, *(one.exceptions or ())]
    return "".join(told.format()).rstrip()


def _own_frames(found: TracebackType | None) -> Iterator[tuple[str, int]]:
    """The frames of the author's code; where there are none, those of installed libraries."""
    every = [(one.filename, one.lineno or 0) for one in traceback.extract_tb(found) if not _is_machinery(one.filename)]
    own = [frame for frame in every if not _is_library(frame[0])]
    yield from own or every


def _is_machinery(name: str) -> bool:
    """Whether a file is flowkit's own, or Python's import system. The examples are programs of their own."""
    if name.startswith("<frozen ") or name == importlib.__file__:
        return True
    return name.startswith(_PACKAGE) and not name.startswith(_EXAMPLES)


def _is_library(name: str) -> bool:
    standard = str(Path(os.__file__).parent) + os.sep
    return any(part in name for part in _INSTALLED) or name.startswith((standard, sys.prefix + os.sep + "lib"))


def _short(name: str) -> str:
    """A path as it is read most easily from here."""
    try:
        shorter = os.path.relpath(name)
    except (ValueError, OSError):  # on another drive; or the current directory is gone
        return name
    return shorter if len(shorter) < len(name) and not shorter.startswith(os.pardir) else name
