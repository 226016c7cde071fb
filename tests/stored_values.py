"""Values of every type that can be stored, classes for them, and an equality that tells `1` from `True`."""

import builtins
import dataclasses
import json
import struct
from collections import deque
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum, auto
from fractions import Fraction
from functools import cached_property
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs

from flowkit import errors
from flowkit.events import Event, StopEvent
from flowkit.serialization import MAX_DEPTH, Codec

T = TypeVar("T")


# ------------------------------------------------------------------------------------------------ values to store


class Color(Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796 - an alias
    BLUE = (2, "b")


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Word(StrEnum):
    YES = auto()


class Right(Flag):
    READ = auto()
    WRITE = auto()


class Bits(IntFlag):
    ONE = 1
    FOUR = 4


class Spot(NamedTuple):
    x: float
    label: str = "here"


class NamedSpot(Spot):
    """A subclass of a named tuple has a __dict__."""


@dataclasses.dataclass(repr=False)
class Plain:
    a: Any = None
    late: Any = dataclasses.field(init=False)
    fixed: Any = dataclasses.field(init=False, default=7)

    def __repr__(self) -> str:
        return "Plain"  # the generated one fails where a field isn't set


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    a: Any
    b: Any = None


@dataclasses.dataclass(frozen=True)
class Box(Generic[T]):
    content: T


@attrs.define
class Loose(Generic[T]):
    content: T


def _small(instance: Any, attribute: Any, value: Any) -> None:
    if value > 10:
        raise ValueError("too large")


@attrs.define
class Picky:
    _secret: int = attrs.field(converter=int, validator=_small)
    made: Any = attrs.field(init=False, default=None)


@attrs.frozen(slots=False, cache_hash=True)
class Hashed:
    name: str


@attrs.frozen(cache_hash=True)
class HashedSlots:
    name: str


class Fetch(Event):
    path: Any
    tries: int = 0


class Nested(Event, Generic[T]):
    inner: T
    _private: Any = None

    @cached_property
    def twice(self) -> tuple[Any, Any]:
        return (self.inner, self.inner)


class Ended(StopEvent):
    answer: Any


class OwnError(Exception):
    """Its __init__ takes something else than args."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code, self.hint = code, hint


@attrs.define
class AttrsError(Exception):
    code: int
    hint: Any = None


class DiskError(errors.WorkflowError, OSError):
    """Two bases with layouts of their own."""


class BadBatch(ExceptionGroup[Exception]):
    pass


class Plaintext:
    """Neither attrs nor a dataclass: needs hooks."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]


class MyInt(int):
    pass


class MyStr(str):
    pass


class MyList(list[Any]):
    pass


class MyDict(dict[str, Any]):
    pass


CLASSES: tuple[type, ...] = (
    *(Color, Level, Word, Right, Bits, Spot, NamedSpot, Plain, Slotted, Box, Loose, Picky, Hashed, HashedSlots),
    *(Fetch, Nested, Ended, OwnError, AttrsError, DiskError, BadBatch),
)


CODEC = Codec(CLASSES)
"""For the tests by Hypothesis, which run many examples in one fixture."""


def with_extra(value: Any, **extra: Any) -> Any:
    value.__dict__.update(extra)
    return value


# ------------------------------------------------------------------------------------------------- strict equality


def same(a: Any, b: Any) -> bool:
    """Equal, of the same types all the way down, in the same order; NaNs by their bits, zeros by their sign."""
    kind = type(a)
    if type(b) is not kind:
        return False
    if kind is float:
        return struct.pack("d", a) == struct.pack("d", b)
    if kind is complex:
        return same([a.real, a.imag], [b.real, b.imag])
    if kind is Decimal:
        return bool(a.as_tuple() == b.as_tuple())
    if kind is UUID:
        return bool(a == b and a.is_safe is b.is_safe)
    if kind is datetime or kind is time:
        plain = (a.replace(tzinfo=None), a.fold) == (b.replace(tzinfo=None), b.fold)
        return plain and same(a.tzinfo, b.tzinfo)
    if kind is timezone:
        return repr(a) == repr(b)
    if kind in (str, bytes, int, bool, type(None), type, range) or isinstance(a, Enum | tzinfo | type):
        return bool(a == b)
    if kind in (set, frozenset):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if isinstance(a, dict):
        if getattr(a, "default_factory", None) is not getattr(b, "default_factory", None):
            return False
        return same(list(a.items()), list(b.items()))
    if isinstance(a, list | deque) or kind is tuple:
        extra = getattr(a, "maxlen", None) == getattr(b, "maxlen", None)
        return extra and len(a) == len(b) and all(map(same, a, b))
    if kind is slice:
        return same([a.start, a.stop, a.step], [b.start, b.stop, b.step])
    if isinstance(a, PurePosixPath | PureWindowsPath):
        return bool(a.parts == b.parts)
    if kind in (Fraction, bytearray, date, timedelta):
        return bool(a == b)
    return same(state(a), state(b))


def state(value: Any) -> dict[str, Any]:
    """All that an object consists of."""
    found = {name: item for name, item in getattr(value, "__dict__", {}).items() if name != "__orig_class__"}
    for owner in type(value).__mro__:
        for name in vars(owner).get("__slots__", ()):
            if name not in ("__weakref__", "__dict__") and hasattr(value, name):
                found[name] = getattr(value, name)
    found.pop("_attrs_cached_hash", None)
    if isinstance(value, tuple):
        found["()"] = tuple(value)
    if isinstance(value, BaseException):
        found["args"], found["cause"], found["text"] = value.args, value.__cause__, text_of(value)
        for name in ("errno", "strerror", "filename", "filename2", "value", "code", "msg", "name", "path", "lineno"):
            if name not in found:
                found[name] = getattr(value, name, None)
    if isinstance(value, BaseExceptionGroup):
        found["exceptions"] = value.exceptions
    return found


def text_of(error: BaseException) -> Any:
    """Also of state that doesn't fit, with which an older CPython might read memory that isn't its own."""
    try:
        return sorted(str(error))  # sets in it have no order
    except Exception as failed:  # noqa: BLE001 - the text of what an error holds is anybody's code
        return type(failed)


def round_trip(codec: Codec, value: Any) -> Any:
    """Through data, through text, and through bytes: all three say the same."""
    data = codec.encode(value)
    text = json.loads(json.dumps(data, allow_nan=False))
    assert same(text, data)
    back = codec.decode(text)
    written = codec.dumps(value)
    assert same(json.loads(written), data)
    assert same(back, codec.loads(written))
    assert codec.dumps(back) == written
    return back


def raised(error: BaseException, cause: BaseException | None = None, *notes: str) -> Any:
    """The error as somebody caught it."""
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001 - any error may be stored
        for note in notes:
            caught.add_note(note)
        return caught


def unset(value: Any, *names: str) -> Any:
    for name in names:
        object.__delattr__(value, name)
    return value


def called(value: Any, name: str) -> Any:
    """With what a cached property, or a cached hash, left in it."""
    getattr(value, name)() if callable(getattr(value, name)) else getattr(value, name)
    return value


NAN = float("nan")
ODD_NAN = struct.unpack(">d", bytes.fromhex("fff8000000000001"))[0]
PARIS = ZoneInfo("Europe/Paris")


def builtin_exceptions() -> Iterator[BaseException]:
    for cls in {c for c in vars(builtins).values() if isinstance(c, type) and issubclass(c, BaseException)}:
        if issubclass(cls, BaseExceptionGroup):
            yield cls(
                "several", [ValueError("x"), KeyboardInterrupt()] if cls is BaseExceptionGroup else [ValueError("x")]
            )
        elif issubclass(cls, UnicodeDecodeError):
            yield cls("ascii", b"x", 0, 1, "why")
        elif issubclass(cls, UnicodeTranslateError):
            yield cls("x", 0, 1, "why")
        elif issubclass(cls, UnicodeEncodeError):
            yield cls("ascii", "x", 0, 1, "why")
        else:
            yield from (cls(), cls("text"))
            if not issubclass(cls, SyntaxError):
                yield cls(2, "two")


class UserZone(tzinfo):
    def utcoffset(self, when: Any) -> timedelta:
        return timedelta(0)

    def dst(self, when: Any) -> None:
        return None

    def tzname(self, when: Any) -> None:
        return None


class SomeEvent(Event):
    x: int


class SomeEnum(Enum):
    A = 1


class SomeError(Exception):
    pass


def deep(depth: int, wrap: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


DEEP = f"it is nested more than {MAX_DEPTH} deep, or contains itself: refer to the inner parts by a key."
