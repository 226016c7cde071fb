"""Whatever comes in, one harmless line comes out; numbers fit into their columns."""

import enum
import sys
import unicodedata
from datetime import date
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit import Event, StepFailed
from flowkit.live_view.texts import LONGEST, brief, counted, error_text, harmless, kind_of_event, lasting

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n\t\x00\x9b31m\u202eevil\u2066\u200b\ud800\u2028end"


def test_what_a_terminal_would_obey_is_gone() -> None:
    assert harmless(HOSTILE) == "�[2J�]0;owned� ��31mevil� end"
    assert harmless("plain [red]text[/red] 漢字 é 😀") == "plain [red]text[/red] 漢字 é 😀"


@given(st.text(st.characters(), max_size=2 * LONGEST))
def test_every_text_becomes_one_printable_line_of_bounded_length(text: str) -> None:
    line = harmless(text)
    assert len(line) <= LONGEST + 1
    assert {unicodedata.category(each) for each in line}.isdisjoint({"Cc", "Cs", "Zl", "Zp"})
    assert line == harmless(line)


class Colour(enum.Enum):
    RED = 1


class Shape(Event):
    name: str
    sides: Any = None


class Hostile:
    """Must not be asked for anything."""

    def __repr__(self) -> str:
        raise AssertionError("its code was called")

    __str__ = __repr__
    __len__ = __repr__  # type: ignore[assignment]


class Liar(str):
    """A text with code of its own."""

    def __repr__(self) -> str:
        raise AssertionError("its code was called")

    __str__ = __repr__


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Shape("a"), "Shape(name='a', sides=None)"),
        (Shape("a", Shape("b", Shape("c", Shape("d")))), "Shape(name='a', sides=Shape(name='b', sides=Shape(…)))"),
        (Shape("x" * 100), f"Shape(name='{'x' * 60}'…, sides=None)"),
        (Shape("a\nb", b"\x1b"), "Shape(name='a\\nb', sides=b'\\x1b')"),
        (Shape("a", [1, 2, 3, 4, 5, 6]), "Shape(name='a', sides=[1, 2, 3, 4, … 2 more])"),
        (Shape("a", {"k": (1.5, [[2]])}), "Shape(name='a', sides={'k': (…)})"),
        (Shape("a", [[], {}, ()]), "Shape(name='a', sides=[[], {}, ()])"),
        (Shape("a", Colour.RED), "Shape(name='a', sides=Colour.RED)"),
        (Shape("a", date(2026, 1, 31)), "Shape(name='a', sides=2026-01-31)"),
        (Shape("a", [Decimal("1.50"), PurePosixPath("/tmp/x")]), "Shape(name='a', sides=[1.50, /tmp/x])"),
        (Shape("a", 10**5000), "Shape(name='a', sides=a number of 16610 bits)"),
        (Shape("a", Hostile()), "Shape(name='a', sides=<Hostile>)"),
        (Shape("a", Liar("b")), "Shape(name='a', sides=<Liar>)"),
        (Shape("a", ValueError(Hostile())), "Shape(name='a', sides=ValueError)"),
        (Shape("a", Hostile), "Shape(name='a', sides=Hostile)"),
        (Event(a=1, b=2, c=3, d=4, e=5), "Event(a=1, b=2, c=3, d=4, … 1 more)"),
    ],
)
def test_a_value_is_written_down_briefly_and_without_its_own_code(value: Any, text: str) -> None:
    assert brief(value) == text


def test_a_container_that_is_being_changed_is_left_out() -> None:
    changing: dict[Any, Any] = {}

    class Key:
        """Changes the dict that it is a key of, as a step might meanwhile."""

        __name__ = "key"

        @property
        def __class__(self) -> Any:
            changing[len(changing)] = 1
            return Key

    changing[Key()] = 1
    changing["b"] = 2
    assert brief(changing) == "{…}"


def test_what_steps_make_is_named() -> None:
    assert [kind_of_event(made) for made in (None, Shape("a"), [Shape("a")] * 3)] == ["nothing", "Shape", "3 events"]


def test_an_error_is_its_class_and_text_and_a_step_s_that_of_its_cause() -> None:
    failed = StepFailed("ask", Shape("a"), 3, ValueError("no\nluck"))
    assert error_text(failed) == "step ask: ValueError: no luck"
    assert [error_text(each) for each in (None, OSError(), KeyError("k"))] == ["", "OSError", "KeyError: 'k'"]

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert error_text(Broken()) == "Broken: (its text raises RuntimeError)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.0004, "0 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1m00s"),
        (3599.4, "59m59s"),
        (3599.6, "1h00m"),
        (86399, "23h59m"),
        (90000, "1d01h"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert lasting(seconds) == text


@given(st.floats(0, 800_000_000), st.integers(0, 9_999_000_000))
def test_numbers_fit_into_their_columns(seconds: float, number: int) -> None:
    assert len(lasting(seconds)) <= 7
    assert len(counted(number)) <= 5


@pytest.mark.parametrize(
    ("number", "text"), [(9999, "9999"), (10_000, "10.0k"), (99_949, "99.9k"), (99_950, "100k"), (999_500, "1.0M")]
)
def test_large_numbers_are_rounded(number: int, text: str) -> None:
    assert counted(number) == text


def test_no_recursion_is_too_deep() -> None:
    deep: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 2):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)
    assert (brief(deep), brief(endless)) == ("[[[…]]]", "[[[…]]]")
