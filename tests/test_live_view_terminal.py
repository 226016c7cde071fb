"""The live view in real terminals: a pseudo-terminal, tmux where it is installed, and a pipe."""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from screens import Screen

pytest.importorskip("rich")
if os.name != "posix":
    pytest.skip("pseudo-terminals and tmux are POSIX's", allow_module_level=True)

import fcntl
import pty
import struct
import termios

PROGRAM = Path(__file__).with_name("live_program.py")
PATIENCE = 60.0
"""Seconds until a test fails that waits for what doesn't come. None waits where all is well."""


def environment(**more: str) -> dict[str, str]:
    """The environment without what changes how a program shows itself."""
    changing = ("CI", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "TMUX")
    kept = {name: value for name, value in os.environ.items() if name not in changing}
    here = str(PROGRAM.parents[1])
    if Path(here, "flowkit").is_dir():  # else the installed package is tested
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [here, kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", **more}


class Terminal:
    """A program in a pseudo-terminal, and what its screen shows."""

    def __init__(self, *arguments: str, width: int = 80, height: int = 24) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self._before = termios.tcgetattr(theirs)
        self.text = ""
        self.screen = Screen(width, height)

        def adopt() -> None:  # so that Ctrl-C is a signal there
            os.setsid()
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(),
            preexec_fn=adopt,
        )
        self._theirs = theirs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Read until the lines on the screen are so."""
        end = time.monotonic() + PATIENCE
        while not condition(self.screen.lines):
            assert time.monotonic() < end, "\n".join(["never came to it:", *self.screen.lines])
            self._read(1.0)
        return self.screen.lines

    def end(self) -> int:
        """Read to the program's end; its exit code."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < end, "\n".join(["never ended:", *self.screen.lines])
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.returncode

    def is_sane(self) -> bool:
        """Whether the terminal is as it was: its modes, and a cursor that is shown."""
        is_shown = not self.screen.is_hidden and self.screen.wraps
        return is_shown and termios.tcgetattr(self._theirs) == self._before

    def _read(self, patience: float) -> bool:
        if not select.select([self._ours], [], [], patience)[0]:
            return False
        text = os.read(self._ours, 65536).decode("utf-8")
        self.text += text
        self.screen.feed(text)
        return True


def shows(text: str) -> Callable[[list[str]], bool]:
    return lambda lines: any(text in line for line in lines)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_run_in_a_terminal_from_its_beginning_to_its_summary(tmp_path: Path, backend: str) -> None:
    with Terminal(str(tmp_path), backend) as terminal:
        lines = terminal.until(lambda lines: shows("21/30")(lines) and shows("shown")(lines))
        assert lines[:2] == ["[red]printed[/red] by a step", "logged by a step"]
        assert re.fullmatch(r"● Program  \S+ m?s  1[45]m\d+s left  run r1", lines[2])
        assert [line.split()[:2] for line in lines[4:7]] == [["✓", "plan"], ["●", "work"], ["·", "gather"]]
        assert "3/3" in lines[5] and "21/30" in lines[5]
        assert "Event(text='shown\\n\\x1b[2Jby a step')" in lines[-1]
        assert terminal.screen.is_hidden
        (tmp_path / "go").touch()
        terminal.until(shows("30/30"))
        (tmp_path / "prompt").touch()
        terminal.until(lambda lines: lines[-1:] == ["Publish?"])
        assert not terminal.screen.is_hidden and not shows("Program")(terminal.screen.lines)
        terminal.type("yes\n")
        lines = terminal.until(shows("gather gets 'yes'"))
        assert lines[2] == "Publish? yes"
        (tmp_path / "end").touch()
        assert terminal.end() == 0
        lines = terminal.screen.lines
        assert lines[:4] == ["[red]printed[/red] by a step", "logged by a step", "Publish? yes", "result: yes"]
        assert lines[4].startswith("✓ Program  finished in ") and lines[-1] == "after"
        assert [line.split()[:4] for line in lines[6:-1]] == [
            ["✓", "plan", "1", "30"],
            ["✓", "work", "30", "30"],
            ["✓", "gather", "1", "1"],
        ]
        assert terminal.is_sane() and "\x1b[?1049" not in terminal.text
        assert terminal.text.count("\x1b[?25l") == terminal.text.count("\x1b[?25h") == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_leaves_a_terminal_in_order_and_says_how_far_it_came(tmp_path: Path, backend: str) -> None:
    with Terminal(str(tmp_path), backend) as terminal:
        terminal.until(shows("21/30"))
        terminal.type("\x03")
        assert terminal.end() != 0
        assert terminal.is_sane()
        assert shows("Program  cancelled after")(terminal.screen.lines)
        assert "KeyboardInterrupt" in terminal.screen.lines[-1]


def test_sigterm_leaves_a_terminal_in_order(tmp_path: Path) -> None:
    with Terminal(str(tmp_path)) as terminal:
        terminal.until(shows("21/30"))
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == -signal.SIGTERM
        assert terminal.is_sane()
        assert terminal.screen.lines == ["[red]printed[/red] by a step", "logged by a step"]


def test_a_failure_is_told_below_what_was_shown(tmp_path: Path) -> None:
    for name in ("go", "prompt", "end"):
        (tmp_path / name).touch()
    with Terminal(str(tmp_path), "fail") as terminal:
        terminal.until(lambda lines: lines[-1:] == ["Publish?"])
        terminal.type("yes\n")
        assert terminal.end() == 1
        lines = terminal.screen.lines
        assert terminal.is_sane()
        summary = next(index for index, line in enumerate(lines) if line.startswith("✗ Program  failed after"))
        assert lines[summary + 5] == "  └ ValueError: no luck" and lines[-1].startswith("flowkit.errors.StepFailed")


@pytest.mark.parametrize("width", [40, 160])
def test_narrow_and_wide_terminals(tmp_path: Path, width: int) -> None:
    with Terminal(str(tmp_path), width=width) as terminal:
        lines = terminal.until(shows("21/30"))
        assert max(map(len, lines)) < width
        (line,) = (line for line in lines if "21/30" in line)
        assert ("running 3 of 3" in line) is (width == 160)


# ---------------------------------------------------------------------------------------------------------------- pipe


def piped(tmp_path: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(tmp_path), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )


def test_through_a_pipe_there_are_lines_at_once(tmp_path: Path) -> None:
    with piped(tmp_path) as process:
        assert process.stdin is not None and process.stderr is not None and process.stdout is not None
        lines: list[str] = []
        while not re.search(r"Program\.work#\d+ shows ", lines[-1] if lines else ""):
            lines.append(process.stderr.readline().rstrip("\n"))
        assert process.poll() is None  # what it waits for hasn't come
        for name in ("go", "prompt", "end"):
            (tmp_path / name).touch()
        process.stdin.write("yes\n")
        process.stdin.close()
        lines += process.stderr.read().splitlines()
        out = process.stdout.read()
    assert process.returncode == 0
    assert re.fullmatch(r"\+0\.\d{3} Program run=r1 starts with StartEvent\(\) \(timeout in 15m00s\)", lines[0])
    assert all(re.match(r"\+\d+\.\d{3} Program", line) for line in lines if line != "logged by a step")
    assert sum(" returned Made in " in line for line in lines) == 30
    answered = r"\+\S+ Program\.gather#\d+ wait answered with HumanResponseEvent\(response='yes'\) after .*"
    assert any(re.fullmatch(answered, line) for line in lines)
    assert re.fullmatch(r"\+\d+\.\d{3} Program finished in .*", lines[-1])
    assert "\x1b" not in "".join(lines) and out.splitlines()[-2:] == ["Publish? result: yes", "after"]


def test_a_pipe_that_is_closed_ends_the_lines_and_not_the_run(tmp_path: Path) -> None:
    for name in ("prompt", "end"):
        (tmp_path / name).touch()
    with piped(tmp_path) as process:
        assert process.stdin is not None and process.stderr is not None and process.stdout is not None
        process.stderr.readline()
        process.stderr.close()
        (tmp_path / "go").touch()
        process.stdin.write("yes\n")
        process.stdin.close()
        assert process.stdout.read().splitlines()[-1] == "after"


# ---------------------------------------------------------------------------------------------------------------- tmux


class Tmux:
    """A terminal of tmux, with a shell in it."""

    def __init__(self, name: str, width: int, height: int) -> None:
        self._name = name
        size = ["-x", str(width), "-y", str(height)]
        self("-f", "/dev/null", "new-session", "-d", *size, "sh", env=environment(PS1="$ ", ENV=""))

    def __call__(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        command = ["tmux", "-u", "-L", self._name, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=env or environment()).stdout

    def type(self, text: str, *keys: str) -> None:
        if text:
            self("send-keys", "-l", text)
        if keys:
            self("send-keys", *keys)

    def until(self, condition: Callable[[list[str]], bool]) -> list[str]:
        end = time.monotonic() + PATIENCE
        while True:
            lines = [line.rstrip() for line in self("capture-pane", "-p").split("\n")]
            if condition(lines):
                return lines
            assert time.monotonic() < end, "\n".join(["never came to it:", *lines])

    def flags(self) -> str:
        """Whether the cursor is shown, lines are wrapped, and the alternate screen is shown."""
        return self("display", "-p", "#{cursor_flag} #{wrap_flag} #{alternate_on}").strip()


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux isn't installed")
    found = Tmux(f"flowkit-{os.getpid()}-{tmp_path.name}", 80, 24)
    try:
        yield found
    finally:
        found("kill-server")


def test_in_tmux_through_ctrl_z_and_other_sizes(tmp_path: Path, tmux: Tmux) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    tmux.until(lambda lines: lines[0][:1] in ("$", "#"))
    tmux.type(f"clear; {sys.executable} {PROGRAM} {folder}", "Enter")
    lines = tmux.until(shows("21/30"))
    assert tmux.flags() == "0 1 0"
    assert [line for line in lines if "printed" in line] == ["[red]printed[/red] by a step"]
    for width, height in (50, 15), (100, 30), (80, 24):
        tmux("resize-window", "-x", str(width), "-y", str(height))
        lines = tmux.until(
            lambda lines, width=width: (width >= 60) is shows("  step  ")(lines) and shows("21/30")(lines)
        )
        tmux.until(lambda lines: len([line for line in lines if "● Program" in line]) == 1)
    tmux.type("", "C-z")
    tmux.until(lambda lines: shows("topped")(lines) and not shows("● Program")(lines))
    tmux.until(lambda _: tmux.flags() == "1 1 0")
    tmux.type("fg", "Enter")
    tmux.until(shows("● Program"))
    tmux.until(lambda _: tmux.flags() == "0 1 0")
    (folder / "go").touch()
    (folder / "prompt").touch()
    tmux.until(lambda lines: shows("Publish?")(lines) and not shows("● Program")(lines))
    tmux.type("of course", "Enter")
    tmux.until(shows("gather gets 'of course'"))
    (folder / "end").touch()
    lines = tmux.until(shows("✓ Program  finished in"))
    lines = tmux.until(lambda lines: "after" in lines)
    assert "Publish? of course" in lines and "result: of course" in lines and not shows("●")(lines)
    assert tmux.flags() == "1 1 0"
