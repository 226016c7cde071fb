"""A part of a terminal that is drawn over and over, and what makes sure that the terminal is sane afterwards.

**Region.** The lines of a display, below everything else that the program prints. The cursor rests in the line below
the last one, so whatever the terminal echoes (``^C``) and whatever comes after a ``kill -9`` stands on a line of its
own. A frame goes out in one write, and only those of its lines that have changed. Lines are cut by the terminal where
it finds them wider than we did (emoji), never wrapped: a wrapped line would break the count of lines to go up. Where a
terminal has become narrower it has wrapped them, though: then they are counted as it shows them.

**Guard.** While there is a region, SIGTERM and SIGTSTP (Ctrl-Z) first give the terminal back, where nobody else has a
handler for them; so does the interpreter's end. Nothing can be done about SIGKILL: there the cursor stays hidden
(``tput cnorm`` shows it).

The alternate screen is never used: what was shown stays in the terminal's history.
"""

import atexit
import contextlib
import errno
import os
import select
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, TextIO

__all__ = ["Guard", "Held", "Output", "Region"]

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
_CUT, _WRAP = "\x1b[?7l", "\x1b[?7h"
_CLEAR_BELOW, _CLEAR_RIGHT, _PLAIN = "\x1b[J", "\x1b[K", "\x1b[0m"


class Output:
    """Where text goes at once. When the other end is closed it is ``gone``, and takes what comes quietly.

    Written to by file descriptor where there is one: what a file's buffer couldn't get rid of would be tried again, and
    reported, when the interpreter ends.
    """

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.gone = False
        self.encoding: str = getattr(file, "encoding", None) or "utf-8"
        try:
            self._descriptor: int | None = file.fileno() if os.name == "posix" else None
        except (AttributeError, OSError, ValueError):
            self._descriptor = None

    def write(self, text: str) -> None:
        """Write all of it, or find that it is gone."""
        if self.gone or not text:
            return
        try:
            if self._descriptor is None:
                self.file.write(text)
                self.file.flush()
            else:
                self.file.flush()  # so that what was printed before comes before
                self._write(self._descriptor, text.encode(self.encoding, "replace"))
        except (OSError, ValueError):  # a closed pipe, a terminal that hung up; a file that was closed
            self.gone = True

    def _write(self, descriptor: int, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
                _ = select.select([], [descriptor], [])  # somebody has made it non-blocking


class Held:
    """Writes lines to an output; while it is paused they are held back, where it is a terminal."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._pauses = 0
        self._lines: list[str] = []

    def write(self, line: str) -> None:
        """Write a line, or keep it for later."""
        if self._pauses:
            self._lines.append(line)
        else:
            self._output.write(line)

    def pause(self) -> None:
        """Hold back what comes."""
        self._pauses += self._output.file.isatty()

    def resume(self) -> None:
        """Write what was held back."""
        self._pauses = max(0, self._pauses - 1)
        if not self._pauses:
            lines, self._lines = self._lines, []
            self._output.write("".join(lines))


class Region:
    """The lines at the bottom. Not safe to call from two threads."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lines: list[str] = []
        self._sizes: list[int] = []
        self._width = 0
        self._is_hidden = False

    @property
    def height(self) -> int:
        return len(self._lines)

    def draw(self, lines: Sequence[str], sizes: Sequence[int], width: int, above: str = "") -> None:
        """Draw these lines, each ``sizes`` cells wide, in the place of those before, and ``above`` them a text."""
        rows = sum(max(1, -(-size // width)) if width < self._width else 1 for size in self._sizes)
        keeps = not above and rows == len(self._lines)
        parts = [] if self._is_hidden else [HIDE]
        if rows:
            parts.append(f"\x1b[{rows}A\r")
        if above:
            parts += [_CLEAR_BELOW, above if above.endswith("\n") else above + "\n"]
        parts.append(_CUT)
        for index, line in enumerate(lines):
            is_same = keeps and index < len(self._lines) and self._lines[index] == line
            parts.append("\r\n" if is_same else f"{line}{_PLAIN}{_CLEAR_RIGHT}\r\n")
        parts.append(_WRAP)
        if rows > len(lines) or not keeps:
            parts.append(_CLEAR_BELOW)
        self._lines, self._sizes, self._width, self._is_hidden = list(lines), list(sizes), width, True
        self._output.write("".join(parts))

    def erase(self, then: str = "") -> None:
        """Leave nothing of it, the cursor where it began, and shown again. ``then`` is written there."""
        parts = [f"\x1b[{len(self._lines)}A\r{_CLEAR_BELOW}"] if self._lines else []
        if self._is_hidden:
            # Wrapping, too: where Ctrl-C comes, the terminal's driver drops what it hasn't shown of the last frame.
            parts.append(_WRAP + SHOW)
        self._lines, self._sizes, self._is_hidden = [], [], False
        if then and not then.endswith("\n"):
            then += "\n"
        self._output.write("".join([*parts, then]))


class Guard:
    """Gives the terminal back, by ``release``, where the process is stopped or ended; ``resume`` takes it again."""

    def __init__(self, release: Callable[[], None], resume: Callable[[], None]) -> None:
        self._release = release
        self._resume = resume
        self._installed: list[signal.Signals] = []

    def __enter__(self) -> "Guard":
        atexit.register(self._release)
        if threading.current_thread() is threading.main_thread():
            wanted = [signal.SIGTERM]
            if hasattr(signal, "SIGTSTP"):
                wanted.append(signal.SIGTSTP)
            for number in wanted:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._come)
                    self._installed.append(number)
        return self

    def __exit__(self, *_: object) -> None:
        atexit.unregister(self._release)
        for number in self._installed:
            # Not where somebody has put another in its place since; nor can another thread than the main one.
            if signal.getsignal(number) == self._come:
                with contextlib.suppress(ValueError):
                    signal.signal(number, signal.SIG_DFL)
        self._installed.clear()

    def _come(self, number: int, _frame: FrameType | None) -> Any:
        self._release()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # as if there had been no handler; Ctrl-Z stops here until the process goes on
        if number != signal.SIGTERM:
            signal.signal(number, self._come)
            self._resume()
