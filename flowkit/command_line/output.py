"""What is printed. Data goes to standard output and everything else to standard error, so that data can be piped.

Text of others (a result, an event, an error) is shown without control characters, which could steer the terminal.
"""

import contextlib
import io
import json
import os
import re
import sys
import unicodedata
from collections.abc import Generator
from typing import Any

import click

from flowkit.command_line.exits import FAILED, Refused

__all__ = [
    "give_up_stdout",
    "is_terminal",
    "plain",
    "printable",
    "prints_aside",
    "prints_nowhere",
    "say",
    "tell",
    "tell_json",
    "tell_json_line",
]


def tell(text: str) -> None:
    """Print data.

    Raises:
        BrokenPipeError: nobody reads it any more.
        Refused: it can't be written.
    """
    _write(printable(text))


def tell_json(data: Any) -> None:
    """Print one JSON document, for people to read too."""
    _write(_json(data, 2))


def tell_json_line(data: Any) -> None:
    """Print one line of JSON Lines."""
    _write(_json(data, None))


def _json(data: Any, indent: int | None) -> str:
    found = plain(data)
    text = json.dumps(found, indent=indent, ensure_ascii=not _writes_unicode())
    return text if text.isascii() or _UNWRITABLE.search(text) is None else json.dumps(found, indent=indent)


_UNWRITABLE = re.compile("[\ud800-\udfff]")
"""Halves of characters: JSON can name them, UTF-8 can't."""


def _write(text: str) -> None:
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_stdout()
        raise Refused(f"standard output can't be written: {error.strerror}", FAILED) from error


def say(text: str = "") -> None:
    """Print what isn't data: progress, advice, errors."""
    click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """``text`` without control characters but tabs and ends of lines."""
    if text.isprintable():
        return text
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(each) in ("Cc", "Cs") and each not in "\n\t" else each
        for each in text
    )


def plain(value: Any) -> Any:
    """A value as JSON has it: events and attrs classes as objects, times as ISO 8601, and what JSON knows nothing of as
    its ``repr``. For reading, not to be read back."""
    return _plain(value, 0)


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int | float):
        finite = not isinstance(value, float) or value - value == 0
        return value if finite and type(value) in (int, float) else _leaf(value)
    if depth > 50:
        return _leaf(value)
    if isinstance(value, dict):
        return {_key(key): _plain(one, depth + 1) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_plain(one, depth + 1) for one in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, set | frozenset):
        return sorted((_plain(one, depth + 1) for one in value), key=repr)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    fields = _fields_of(value)
    return _leaf(value) if fields is None else {name: _plain(one, depth + 1) for name, one in fields.items()}


def _fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of an event, an attrs class or a dataclass."""
    import dataclasses

    import attrs

    from flowkit.events import Event
    from flowkit.hints import kind_of

    if isinstance(value, Event):
        return dict(vars(value))
    if isinstance(value, type):
        return None
    kind: Any = kind_of(value)
    if attrs.has(kind):
        return {field.name: getattr(value, field.name, None) for field in attrs.fields(kind)}
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(kind)}
    return None


def _leaf(value: Any) -> Any:
    import datetime
    import decimal
    import enum
    import pathlib
    import uuid

    from flowkit.errors import shown, text_of

    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID | decimal.Decimal | pathlib.PurePath | datetime.timedelta | float):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": text_of(value)}
    return shown(value, 10_000)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(_leaf(key))


@contextlib.contextmanager
def prints_aside(wanted: bool = True) -> Generator[None]:
    """Have what the author's code prints in here go to standard error, so that standard output has only data."""
    if not wanted:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def prints_nowhere() -> Generator[None]:
    """Have what the author's code prints in here be lost."""
    with contextlib.redirect_stdout(_Nowhere()):
        yield


class _Nowhere(io.TextIOBase):
    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        return len(text)


def _writes_unicode() -> bool:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return "utf" in encoding.lower()


def is_terminal(stream: Any) -> bool:
    """Whether a stream (``sys.stdin``, …) is a terminal; it may have been closed before the program began."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it was closed since
        return False


def give_up_stdout() -> None:
    """Nobody reads standard output any more (``| head``): what is still buffered has nowhere to go."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):  # it has no file: a test's
        return
