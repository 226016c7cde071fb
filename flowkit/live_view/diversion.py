"""What a program prints and logs while a display is shown: it goes above the display, line by line.

``sys.stdout`` and ``sys.stderr`` are replaced, where they are a terminal, and so are the streams of logging handlers
that hold one of the two. What is written through a file descriptor (by a subprocess, by C code) isn't noticed.

Lines are handed on when they are complete; each thread has its own unfinished one. Of escape sequences only colours
get through: others could move the cursor.
"""

import logging
import re
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

__all__ = ["Diversion"]

LONGEST = 65536
"""Characters of a line that is handed on before it is complete."""

_MOVING = re.compile(
    r"\x1b\[[0-9;:]*m"  # a colour: kept
    r"|\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)


def _kept(match: re.Match[str]) -> str:
    found = match.group()
    return found if found.startswith("\x1b[") and found.endswith("m") else ""


class _Stream:
    """Stands for a text file; hands lines on while it is ``active``, and is the file itself otherwise."""

    def __init__(self, file: TextIO, hand_on: Callable[[str], None]) -> None:
        self._file = file
        self._hand_on = hand_on
        self._unfinished: dict[int, str] = {}
        self.active = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        if not self.active:
            return self._file.write(text)
        me = threading.get_ident()
        whole = self._unfinished.pop(me, "") + text
        lines, newline, rest = whole.rpartition("\n")
        if newline:
            self._hand_on(_clean(lines) + "\n")
        if len(rest) > LONGEST:
            self._hand_on(_clean(rest) + "\n")
        elif rest:
            self._unfinished[me] = rest
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._file.flush()

    def __iter__(self) -> Any:
        return iter(self._file)

    def finish(self) -> list[str]:
        """Stand aside, and give what is unfinished."""
        self.active = False
        unfinished, self._unfinished = self._unfinished, {}
        return [_clean(rest) + "\n" for rest in unfinished.values()]


def _clean(text: str) -> str:
    if "\r" in text:  # a progress bar that draws over itself: its last state
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    if "\x1b" in text or not text.isprintable():
        text = _MOVING.sub(_kept, text)
        if "\x1b" in text:
            text = "\n".join(f"{line}\x1b[0m" if "\x1b" in line else line for line in text.split("\n"))
    return text


class Diversion:
    """Has what is printed handed on, from `start` to `stop`."""

    def __init__(self, hand_on: Callable[[str], None]) -> None:
        self._hand_on = hand_on
        self._streams: list[tuple[str, TextIO, _Stream]] = []
        self._handlers: list[tuple[logging.StreamHandler[Any], TextIO, _Stream]] = []

    def start(self) -> None:
        """Take over what is a terminal."""
        for name in ("stdout", "stderr"):
            file = getattr(sys, name)
            if file is not None and not isinstance(file, _Stream) and _is_terminal(file):
                stream = _Stream(file, self._hand_on)
                self._streams.append((name, file, stream))
                setattr(sys, name, stream)
        for handler in _handlers():
            for _, file, stream in self._streams:
                if handler.stream is file:
                    handler.setStream(stream)  # pyright: ignore[reportArgumentType]
                    self._handlers.append((handler, file, stream))
                    break

    def stop(self) -> list[str]:
        """Put everything back, unless somebody else has put something in its place meanwhile. Unfinished lines are
        given."""
        unfinished: list[str] = []
        for handler, file, stream in self._handlers:
            if handler.stream is stream:
                handler.setStream(file)
        for name, file, stream in self._streams:
            if getattr(sys, name) is stream:
                setattr(sys, name, file)
            unfinished += stream.finish()
        self._handlers.clear()
        self._streams.clear()
        return unfinished


def _is_terminal(file: Any) -> bool:
    try:
        return bool(file.isatty())
    except (AttributeError, ValueError):  # a stand-in for a file; a closed one
        return False


def _handlers() -> list["logging.StreamHandler[Any]"]:
    """All handlers of all loggers that write to a stream."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    found = [handler for each in loggers if isinstance(each, logging.Logger) for handler in each.handlers]
    return [each for each in dict.fromkeys(found) if isinstance(each, logging.StreamHandler)]
