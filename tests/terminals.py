"""A pseudo-terminal with a program in it, typed into as somebody at a keyboard would."""

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import flowkit

__all__ = ["PLAIN", "Terminal", "plain_environment"]

PATIENCE = 60.0
"""Seconds to wait for a text before a test fails: machines may be slow, and no test waits where all is well."""

PLAIN = ("CI", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM", "FLOWKIT_STORE", "FLOWKIT_FLOWS")
"""What decides in the environment how a program shows itself, and what it falls back on."""


def plain_environment(**more: str) -> dict[str, str]:
    """The environment without what changes how a program shows itself, so that it is the same on every machine."""
    kept = {name: value for name, value in os.environ.items() if name not in PLAIN}
    path = os.pathsep.join(filter(None, [str(Path(flowkit.__file__).parents[1]), kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, "PYTHONUTF8": "1", **more}


class Terminal:
    """A program in a terminal of its own: what it prints there, standard output (unless that goes to the file ``out``)
    and standard error alike."""

    def __init__(self, arguments: Sequence[str], folder: Path, out: Path | None = None, **environment: str) -> None:
        import pty
        import termios

        ours, theirs = pty.openpty()
        self._ours = ours
        self.before = termios.tcgetattr(ours)
        self.text = ""
        self._theirs = theirs

        def adopt() -> None:  # so that Ctrl-C is a signal there
            import fcntl

            os.setsid()
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

        with contextlib.ExitStack() as stack:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flowkit", *arguments],
                stdin=theirs,
                stdout=theirs if out is None else stack.enter_context(out.open("wb")),
                stderr=theirs,
                cwd=folder,
                env=plain_environment(TERM="xterm", COLUMNS="120", **environment),
                preexec_fn=adopt,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.hang_up()

    def read_until(self, text: str) -> str:
        """What it has printed since this was asked last, up to and with this text."""
        end = time.monotonic() + PATIENCE
        while text not in self.text:
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"{text!r} never came; there is {self.text!r}")
        before, _, self.text = self.text.partition(text)
        return before + text

    def type(self, keys: str) -> None:
        """Type: a line ends with ``\\n``; ``\\x03`` is Ctrl-C, ``\\x04`` Ctrl-D."""
        os.write(self._ours, keys.encode())

    def end(self) -> tuple[int, str]:
        """Wait for the program's end: its exit code, and what it has printed since."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise AssertionError(f"it doesn't end; there is {self.text!r}")
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.returncode, self.text

    def hang_up(self) -> None:
        """Close the terminal."""
        for end in (self._ours, self._theirs):
            if end >= 0:
                os.close(end)
        self._ours = self._theirs = -1

    def is_as_before(self) -> bool:
        """Whether the terminal's modes are those it had."""
        import termios

        return termios.tcgetattr(self._ours) == self.before

    def _read(self, patience: float) -> bool:
        if self._ours not in select.select([self._ours], [], [], max(0.0, patience))[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # nobody has the other end any more
            return False
        self.text += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(data)
