"""Texts for a terminal: whatever comes in, one harmless line comes out.

Names, errors and the contents of events may come from anywhere: from a model, from a file, from whoever answers a
question. A control character in them could steer the terminal, a newline would break the display.

`brief` writes an event down without calling code of its author: the display does so in its own thread, where a
``__repr__`` that looks at something the loop is changing would be wrong, and one that takes long would hold it up.
"""

import enum
from collections.abc import Iterable, Iterator, Sized
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from pathlib import PurePath
from typing import Any
from uuid import UUID

from flowkit.errors import StepFailed, in_words
from flowkit.events import Event

__all__ = ["LONGEST", "brief", "counted", "error_text", "harmless", "kind_of_event", "lasting", "roughly", "said"]

LONGEST = 400
"""Characters of any text that is shown: as much as two lines of the widest terminal."""
_DEEPEST = 2
_MOST = 4

_SPELT = (date, datetime, time, timedelta, Decimal, Fraction, UUID)
"""Types of the standard library whose ``str`` is short and says it all."""


def harmless(text: str) -> str:
    """``text`` as one line, without anything that a terminal would obey.

    White space of all kinds becomes a space. Other control characters, lone surrogates and what has no glyph become a
    replacement character; format characters (which turn the direction of writing, or are not seen) are left out.
    """
    if len(text) > LONGEST:
        text = text[:LONGEST] + "…"
    if text.isprintable():
        return text
    return "".join(map(_harmless, " ".join(text.split())))


def _harmless(each: str) -> str:
    if each.isprintable():
        return each
    if each.isspace():
        return " "
    return "" if ord(each) in _FORMAT else "\N{REPLACEMENT CHARACTER}"


_FORMAT = frozenset(
    [0xAD, 0x61C, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)],
)
"""Soft hyphen, zero-width characters, marks that turn the direction of writing."""


def brief(value: Any) -> str:
    """A value in a few words, whatever it is; at most some `LONGEST` characters."""
    return harmless(_brief(value, 0))


def said(event: Event) -> str:
    """A question or an answer: its text, where it is nothing else."""
    fields = tuple(vars(event).values())
    return brief(fields[0] if len(fields) == 1 and type(fields[0]) is str else event)


def kind_of_event(event: Any) -> str:
    """What a step was given or has returned: the name of an event's class, or how many events."""
    if event is None:
        return "nothing"
    if type(event) is list:
        return f"{len(event)} events"  # pyright: ignore[reportUnknownArgumentType]
    return harmless(type(event).__name__)


def error_text(error: BaseException | None) -> str:
    """An error's class and text; of a failed step's, that of what the step raised."""
    if error is None:
        return ""
    if isinstance(error, StepFailed) and error.__cause__ is not None:
        return harmless(f"step {error.step}: ") + error_text(error.__cause__)
    return harmless(in_words(error)[: LONGEST + 1])


def _brief(value: Any, depth: int) -> str:
    kind: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType]
    if value is None or kind is bool or kind is float:
        return repr(value)
    if kind is int:
        return repr(value) if value.bit_length() < 200 else f"a number of {value.bit_length()} bits"
    if kind is str or kind is bytes:
        return repr(value) if len(value) <= 60 else repr(value[:60]) + "…"
    if kind in _SPELT:
        return str(value)
    if isinstance(value, PurePath):
        return PurePath.__str__(value)
    if isinstance(value, enum.Enum):
        return f"{kind.__name__}.{value._name_}"
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, BaseException):
        return kind.__name__
    if isinstance(value, Event):
        if depth >= _DEEPEST:
            return f"{kind.__name__}({'…' if vars(value) else ''})"
        return f"{kind.__name__}({_some(_fields(value, depth), vars(value))})"
    if kind in _BRACKETS:
        opening, closing = _BRACKETS[kind]
        if depth >= _DEEPEST:
            return f"{opening}…{closing}" if value else opening + closing
        try:
            items: Iterable[str] = _pairs(value, depth) if kind is dict else (_brief(one, depth + 1) for one in value)
            return f"{opening}{_some(items, value)}{closing}"
        except RuntimeError:  # the loop is changing it at this moment
            return f"{opening}…{closing}"
    return f"<{kind.__name__}>"


_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("{", "}"),
    dict: ("{", "}"),
}


def _some(items: Iterable[str], of: Sized) -> str:
    shown = list(islice(items, _MOST))
    more = len(of) - len(shown)
    return ", ".join(shown) + (f", … {more} more" if more > 0 else "")


def _fields(event: Event, depth: int) -> Iterator[str]:
    for name, value in vars(event).items():
        yield f"{name}={_brief(value, depth + 1)}"


def _pairs(value: dict[Any, Any], depth: int) -> Iterator[str]:
    for key, one in value.items():
        yield f"{_brief(key, depth + 1)}: {_brief(one, depth + 1)}"


# --------------------------------------------------------------------------------------------------------- numbers


def lasting(seconds: float) -> str:
    """How long something takes or took, in at most 7 characters."""
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    days = whole // 86400
    return f"{days}d{whole % 86400 // 3600:02}h" if days < 1000 else f"{days}d"


def roughly(seconds: float) -> str:
    """How long something has taken so far, in at most 5 characters."""
    seconds = max(0.0, seconds)
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    for unit, below, many in ("m", "s", 60), ("h", "m", 24), ("d", "h", 1000):
        if minutes < 10:
            return f"{minutes}{unit}{rest:02}{below}"
        if minutes < many:
            return f"{minutes}{unit}"
        minutes, rest = divmod(minutes, many)
    return "years"


def counted(number: int) -> str:
    """A number in at most 5 characters (under 10,000 million)."""
    if number < 10_000:
        return str(number)
    if number < 99_950:
        return f"{number / 1000:.1f}k"
    if number < 999_500:
        return f"{number / 1000:.0f}k"
    return f"{number / 1_000_000:.1f}M" if number < 99_950_000 else f"{number // 1_000_000}M"
