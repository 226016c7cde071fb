"""The part of a terminal that is drawn over and over, and what is printed above it meanwhile."""

# ruff: noqa: T201 - printing is what it is about

import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from screens import Screen

from flowkit.live_view.diversion import Diversion
from flowkit.live_view.screen import Guard, Held, Output, Region


class Terminal(io.StringIO):
    """A text file that says it is a terminal."""

    def isatty(self) -> bool:
        super().isatty()  # raises where it is closed
        return True


# -------------------------------------------------------------------------------------------------------------- region

words = st.text("abcdefgh ", min_size=1, max_size=20).map(str.rstrip)
frames = st.lists(words, max_size=6)
prints = st.lists(words, max_size=4)


@given(st.lists(st.tuples(frames, prints, st.booleans()), max_size=8), st.integers(8, 30))
def test_whatever_is_drawn_the_last_frame_stands_below_all_that_was_printed(
    steps: list[tuple[list[str], list[str], bool]], height: int
) -> None:
    file, screen = io.StringIO(), Screen(20, height)
    region = Region(Output(file))
    printed: list[str] = []
    for lines, above, erases in steps:
        printed += above
        text = "".join(f"{line}\n" for line in above)
        if erases:
            region.erase(text)
            lines = []
        else:
            region.draw(lines, [len(line) for line in lines], 20, text)
        screen.feed(file.getvalue())
        file.seek(0)
        file.truncate()
        expected = [*printed, *lines]
        while expected and not expected[-1]:
            del expected[-1]
        assert screen.lines == expected
        assert (screen.is_hidden, screen.wraps) == (not erases, True)


def test_lines_that_have_not_changed_are_not_written_again() -> None:
    file = io.StringIO()
    region = Region(Output(file))
    region.draw(["one", "two", "three"], [3, 3, 5], 80)
    file.seek(0)
    file.truncate()
    region.draw(["one", "TWO", "three"], [3, 3, 5], 80)
    assert "TWO" in file.getvalue() and "one" not in file.getvalue() and "three" not in file.getvalue()


def test_a_line_that_the_terminal_finds_wider_is_cut_and_not_wrapped() -> None:
    file = io.StringIO()
    region = Region(Output(file))
    for _ in range(2):
        region.draw(["x" * 30, "end"], [20, 3], 20)
    assert Screen(20, 5).feed(file.getvalue()).lines == ["x" * 20, "end"]


def test_lines_that_a_narrower_terminal_has_wrapped_are_erased_whole() -> None:
    file, screen = io.StringIO(), Screen(20, 10)
    region = Region(Output(file))
    region.draw(["a" * 20, "b" * 12], [20, 12], 20)
    screen.feed(file.getvalue())
    screen.width, screen.rows, screen.row = 10, ["a" * 10, "a" * 10, "b" * 10, "bb", ""], 4  # as terminals do
    file.seek(0)
    file.truncate()
    region.draw(["c"], [1], 10)
    assert screen.feed(file.getvalue()).lines == ["c"]


# -------------------------------------------------------------------------------------------------------------- output


def test_a_closed_pipe_ends_it_quietly() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        output = Output(file)
        output.write("first\n")
        assert os.read(reading, 100) == b"first\n"
        os.close(reading)
        output.write("second\n")
        assert output.gone
        output.write("third\n")
    # Leaving the block has closed the file: nothing was left in its buffer that couldn't be written.


def test_a_closed_file_ends_it_quietly() -> None:
    file = io.StringIO()
    output = Output(file)
    file.close()
    output.write("text")
    assert output.gone


def test_what_was_printed_before_comes_before() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        output = Output(file)
        file.write("printed ")
        output.write("written")
    assert os.read(reading, 100) == b"printed written"
    os.close(reading)


def test_a_pipe_that_is_full_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    got: list[bytes] = []

    def read() -> None:
        while data := os.read(reading, 4096):
            got.append(data)

    reader = threading.Thread(target=read)
    with os.fdopen(writing, "w") as file:
        output = Output(file)
        reader.start()
        output.write("x" * 1_000_000)
        assert not output.gone
    reader.join()
    os.close(reading)
    assert len(b"".join(got)) == 1_000_000


def test_what_an_encoding_lacks_is_replaced() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="latin-1") as file:
        Output(file).write("é ↻")
    assert os.read(reading, 100) == b"\xe9 ?"
    os.close(reading)


def test_lines_are_held_back_while_somebody_is_asked_on_the_same_terminal() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for file, meanwhile in (terminal, ""), (pipe, "one\n"):
        held = Held(Output(file))
        held.pause()
        held.pause()
        held.write("one\n")
        assert file.getvalue() == meanwhile
        held.resume()
        assert file.getvalue() == meanwhile
        held.resume()
        held.write("two\n")
        assert file.getvalue() == "one\ntwo\n"


# ----------------------------------------------------------------------------------------------------------- diversion


@contextlib.contextmanager
def standing_in() -> Generator[Terminal]:
    """Standard output and standard error are a terminal."""
    file = Terminal()
    with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield file


@contextlib.contextmanager
def diverted() -> Generator[tuple[list[str], Diversion, Terminal]]:
    """What is printed is collected."""
    got: list[str] = []
    with standing_in() as terminal:
        diversion = Diversion(got.append)
        diversion.start()
        yield got, diversion, terminal


def test_whole_lines_are_handed_on_and_the_rest_in_the_end() -> None:
    with diverted() as (got, diversion, terminal):
        print("one")
        print("two", "three", end="")
        print(" four\nfive", file=sys.stderr)
        sys.stdout.writelines(["six\n", "seven"])
        assert got == ["one\n", " four\n", "five\n", "two threesix\n"]
        assert diversion.stop() == ["seven\n"]
        assert sys.stdout is sys.stderr is terminal
        print("after")
    assert terminal.getvalue() == "after\n"


def test_threads_don_t_mix_their_unfinished_lines() -> None:
    with diverted() as (got, diversion, _):
        sys.stdout.write("main ")
        thread = threading.Thread(target=print, args=["thread"])
        thread.start()
        thread.join()
        sys.stdout.write("line\n")
        diversion.stop()
    assert got == ["thread\n", "main line\n"]


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m"),
        ("\x1b[2J\x1b[3Aup\x1b]0;title\x07", "up"),
        ("\x1b(Bplain\x1b7\x1b8", "plain"),
        ("10%\r50%\r100%", "100%"),
        ("dos\r", "dos"),
        ("bell\x07 tab\there", "bell tab\there"),
        ("漢字 [red]", "漢字 [red]"),
    ],
)
def test_colours_get_through_and_what_moves_the_cursor_doesn_t(printed: str, shown: str) -> None:
    with diverted() as (got, diversion, _):
        print(printed)
        diversion.stop()
    assert got == [f"{shown}\n"]


def test_an_endless_line_is_handed_on_in_parts() -> None:
    with diverted() as (got, diversion, _):
        for _ in range(300):
            sys.stdout.write("x" * 1000)
        rest = diversion.stop()
    assert sum(len(each.strip()) for each in [*got, *rest]) == 300_000 and max(map(len, got)) < 70_000


def test_logging_handlers_follow_and_are_put_back() -> None:
    log = logging.getLogger("tests.live_view.diversion")
    log.propagate = False
    with standing_in() as terminal:
        got: list[str] = []
        mine, other = logging.StreamHandler(terminal), logging.StreamHandler(io.StringIO())
        log.handlers = [mine, other]
        try:
            diversion = Diversion(got.append)
            diversion.start()
            log.warning("warned")
            diversion.stop()
            log.warning("later")
        finally:
            log.handlers = []
    assert got == ["warned\n"]
    assert (mine.stream, terminal.getvalue()) == (terminal, "later\n")


def test_what_somebody_else_put_in_place_meanwhile_stays() -> None:
    with diverted() as (got, diversion, terminal):
        taken, own = sys.stdout, io.StringIO()
        sys.stdout = own
        diversion.stop()
        assert sys.stdout is own
        taken.write("through a reference that was kept\n")
    assert terminal.getvalue() == "through a reference that was kept\n" and got == []


def test_what_is_no_terminal_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, closed = io.StringIO(), Terminal()
    closed.close()
    for file in (pipe, closed, None):
        monkeypatch.setattr(sys, "stdout", file)
        diversion = Diversion(lambda _: pytest.fail("it was taken over"))
        diversion.start()
        assert sys.stdout is file
        diversion.stop()


# -------------------------------------------------------------------------------------------------------------- guard


def test_handlers_are_installed_only_where_there_are_none_and_taken_away() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGTSTP)

    def own(*_: Any) -> None: ...

    try:
        signal.signal(signal.SIGTERM, own)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        with Guard(lambda: None, lambda: None):
            assert signal.getsignal(signal.SIGTERM) is own
            assert signal.getsignal(signal.SIGTSTP) not in (own, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with Guard(lambda: None, lambda: None):
            signal.signal(signal.SIGTERM, own)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGTSTP), before, strict=True):
            signal.signal(number, handler)


def test_another_thread_than_the_main_one_installs_none() -> None:
    found: list[Any] = []

    def enter() -> None:
        with Guard(lambda: None, lambda: None):
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]
