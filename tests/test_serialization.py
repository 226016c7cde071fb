"""`flowkit.serialization`: what comes back is what went in, or nothing goes in; hostile data gives one error."""

import base64
import builtins
import dataclasses
import decimal
import json
import math
import struct
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum, auto
from fractions import Fraction
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID, SafeUUID, uuid5
from zoneinfo import ZoneInfo

import attrs
import cattrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowkit import errors, events
from flowkit.errors import SerializationError, StepFailed, UnknownKey, WaitTimedOut, WorkflowTimeoutError
from flowkit.events import Event, HumanResponseEvent, StartEvent, StepFailedEvent, StopEvent
from flowkit.serialization import MAX_DEPTH, Codec

T = TypeVar("T")

# Of a strategy, in a report that nobody reads.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


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


@pytest.fixture
def codec() -> Codec:
    return Codec(CLASSES)


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


@pytest.mark.parametrize(
    ("a", "b"),
    [
        *((1, True), (1, 1.0), (0.0, -0.0), ([1], (1,)), ({1}, frozenset({1})), ({1: 2}, {1: 2.0}), ("a", b"a")),
        *(({1: 0, 2: 0}, {2: 0, 1: 0}), (Spot(1), Spot(1.0)), (Level.LOW, 1), (Box(1), Box(True)), (Box(1), Loose(1))),
        *((time(1), time(1, fold=1)), (Decimal("1.0"), Decimal("1.00")), (deque([1]), deque([1], 2)), (MyInt(1), 1)),
        *((ValueError(1), ValueError(True)), (Plain(), Plain(a=0)), (Picky(1), with_extra(Fetch(1), x=1))),
        *((timezone(timedelta(hours=1)), timezone(timedelta(hours=1), "UTC+01:00")), (OrderedDict(), {})),
    ],
)
def test_the_test_tells_values_apart(a: Any, b: Any) -> None:
    assert same(a, a) and same(b, b) and not same(a, b) and not same([a], [b])


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

EXACT: dict[str, Any] = {
    "none": None,
    "bools": [True, False, 1, 0, 1.0, 0.0],
    "ints": [0, -1, 2**53 + 1, -(2**63), 10**616, -(2**2048) + 1],
    "huge ints": [2**2048, -(2**2048), 10**5000, -(10**20_000)],
    "floats": [0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, -1e-7, 1e22],
    "infinities": [math.inf, -math.inf],
    "nans": [NAN, ODD_NAN, -NAN],
    "text": ["", "é", "\U0001d4b3", "\0", "\x7f\u2028", "$", "$bytes", "\ud7ff\ue000", '"\\'],
    "surrogates": ["\ud800", "\udfff", "a\ud83d\ude00b", "\udc80"],
    "bytes": [b"", b"\0\xff", bytearray(b"ab"), bytearray()],
    "list": [[], [[]], [[1], [2, [3]]]],
    "tuple": [(), (1,), ((), [(2,)])],
    "sets": [set(), {1, "a", None, (1, 2)}, frozenset(), frozenset({frozenset({1}), 2.5})],
    "dict": [{}, {"b": 1, "a": 2}, {"": {}}],
    "dict that looks tagged": [{"$": 1}, {"$bytes": "AA=="}, {"$dict": []}, {"$a": 1, "b": 2}, {"$unset": None}],
    "dict with other keys": [
        {1: "a", "1": "b", 1.5: "c", None: "d", (1, (2,)): "e", b"k": "f", Color.RED: "g"},
        {NAN: 1, -0.0: 2, frozenset({1}): 3, date(2024, 2, 29): 4, Slotted(1, (2,)): 5, int: 6},
        {True: 1, "True": 2},
        {"\ud800": 1},
    ],
    "nan keys": {float("nan"): 1, float("nan"): 2},
    "ordered": [OrderedDict(b=1, a=2), Counter("abca"), Counter({(1,): -1}), OrderedDict({1: {}})],
    "defaultdict": [defaultdict(None, a=1), defaultdict(list, {1: [2]}), defaultdict(Plain, {})],
    "deque": [deque([1, (2,)]), deque([1, 2], 2), deque([1], 1), deque(maxlen=3)],
    "range and slice": [range(3), range(5, 1, -2), range(0, 10**30, 7), slice(None), slice(1, (2,), "x")],
    "dates": [date.min, date.max, date(2024, 2, 29)],
    "times": [
        time.min,
        time.max,
        time(1, 2, 3, 4),
        time(2, 30, fold=1),
        time(1, tzinfo=UTC),
        time(1, tzinfo=PARIS),
    ],
    "datetimes": [
        *(datetime.min, datetime.max, datetime(2024, 1, 1), datetime(2024, 1, 1, 12, 30, 1, 5)),
        datetime(2024, 10, 27, 2, 30, tzinfo=PARIS),
        datetime(2024, 10, 27, 2, 30, tzinfo=PARIS, fold=1),
        datetime(2024, 1, 1, fold=1),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(timedelta(seconds=-1, microseconds=1))),
    ],
    "timezones": [
        *(UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=1), "CET"), timezone.min, timezone.max),
        *(timezone(timedelta(0), "UTC"), timezone(timedelta(hours=1), ""), timezone(timedelta(hours=1), "a b\ud800")),
        *(PARIS, ZoneInfo("UTC")),
    ],
    "timedeltas": [timedelta(), timedelta.min, timedelta.max, timedelta(microseconds=-1), timedelta(days=1, seconds=2)],
    "decimals": [
        *map(Decimal, ("0", "-0", "1.50", "1E+5", "1E-7", "0E-20", "NaN", "-sNaN123", "Infinity", "-Infinity")),
        *map(Decimal, ("1E+999999999999999999", "-9.99E-999999999999", "1" * 5000)),
    ],
    "fractions": [Fraction(1, 3), Fraction(-7), Fraction(2**60_000, 3)],
    "complex": [1j, complex(-0.0, 0.0), complex(math.inf, NAN), complex(0.0, -0.0)],
    "uuid": [
        UUID(int=0),
        uuid5(UUID(int=1), "x"),
        UUID(int=5, is_safe=SafeUUID.safe),
        UUID(int=5, is_safe=SafeUUID.unsafe),
    ],
    "paths": [
        *(Path("a/b"), Path(), Path("/"), Path("../x y"), PurePosixPath("//a/b"), PurePosixPath("C:\\x")),
        *(PureWindowsPath("C:\\x"), PureWindowsPath("//server/share/x"), Path("bad\udcff")),
    ],
    "enums": [Color.RED, Color.CRIMSON, Color.BLUE, Level.HIGH, Word.YES],
    "flags": [Right.READ, Right.READ | Right.WRITE, Right(0), Bits.ONE | Bits.FOUR, Bits(0), Bits(2), ~Bits.ONE],
    "classes": [int, str, type(None), datetime, Fetch, StopEvent, Color, ValueError, Box, object, bool, PurePosixPath],
    "named tuples": [Spot(1), Spot(NAN, "there"), [Spot(1, (2,))], with_extra(NamedSpot(1.0), note=(1,))],  # type: ignore[arg-type]
    "dataclass": [Slotted(1), Slotted((1, {2}), Slotted(3)), Box(Box((1,))), Box[int]("no int")],  # type: ignore[arg-type]
    "unset fields": [
        Plain(1),
        with_extra(Plain(2), late=(3,), note={4}),
        unset(Plain(), "a"),
        unset(Slotted(1, 2), "a"),
    ],
    "attrs": [Loose((1,)), Loose[str](b"no str"), Picky(5)],  # type: ignore[arg-type]
    "cached hash": [Hashed("x"), called(Hashed("y"), "__hash__"), called(HashedSlots("z"), "__hash__")],
    "events": [
        *(Fetch(Path("x")), Fetch(path=(1,), tries=2), Nested({"a": (1,)}), Nested([1], b"x")),
        *(Ended(answer=Fetch(1)), with_extra(Fetch(1), seen=(1,)), called(Nested(1), "twice")),
    ],
    "open events": [
        *(StartEvent(), StartEvent(topic=1, z=(2,), a={3}), StopEvent(), StopEvent(result=(1,)), Event(x=1)),
        *(
            StopEvent(result=StopEvent(1), more=2),
            HumanResponseEvent(response="\ud800"),
            StartEvent(**{"$a b": 1, "\ud800": 2}),
        ),
    ],
    "failed event": StepFailedEvent("read", Fetch(1), raised(ValueError("x"), KeyError("y"), "note"), 3, 1.5),
    "exceptions": [
        *(
            ValueError(),
            ValueError("x", (1,), {2}),
            KeyError("k"),
            raised(TypeError("t"), OSError(2, "no", "f"), "n1", "n2"),
        ),
        *(
            OSError(2, "no such file", "here"),
            OSError(2, "x", "a", None, "b"),
            OSError("text"),
            OSError(0, None),
            OSError(0, None, None),
        ),
        *(StopIteration((1,)), SystemExit(3), ImportError("m", name="n", path="p"), NameError("x", name="y")),
        *(SyntaxError("bad", ("f.py", 3, 4, "x = ", 3, 9)), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte")),
        *(UnicodeEncodeError("ascii", "é", 0, 1, "no"), UnicodeTranslateError("é", 0, 1, "no"), KeyboardInterrupt()),
        *(
            with_extra(ValueError("v"), extra=(1,)),
            BlockingIOError(11, "later", 5),
            TimeoutError(),
            DeprecationWarning("d"),
        ),
    ],
    "exceptions of users": [OwnError(3, hint="h"), AttrsError(4), AttrsError(5, hint=(1,)), DiskError("m", where=(1,))],
    "groups": [
        *(ExceptionGroup("g", [ValueError(1), KeyError(2)]), ExceptionGroup("t", (ValueError(1),))),
        *(
            BaseExceptionGroup("b", [KeyboardInterrupt(), ExceptionGroup("in", [OSError(1, "x")])]),
            BadBatch("b", [OwnError(1, hint="")]),
        ),
    ],
    "errors of flowkit": [
        *(StepFailed("read", Fetch(1), 2, ValueError("x")), UnknownKey("k", ["a"]), WaitTimedOut("s", "E", 5)),
        *(WorkflowTimeoutError("F", 60, ["a"]), SerializationError("p", path="$.x", cure="c")),
    ],
    "class in a field": {"types": [Fetch, int], Fetch: Ended},
}


@pytest.mark.parametrize("value", EXACT.values(), ids=EXACT.keys())
def test_what_comes_back_is_what_went_in(codec: Codec, value: Any) -> None:
    for item in value if type(value) is list else [value]:
        assert same(round_trip(codec, item), item), item
    assert same(round_trip(codec, Box(value)).content, value)


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


def test_every_builtin_exception_is_known() -> None:
    for error in builtin_exceptions():
        assert same(round_trip(Codec(), error), error), error


def test_what_is_not_kept_of_an_exception(codec: Codec) -> None:
    with pytest.raises(AttributeError) as info:
        try:
            raise KeyError("first")
        except KeyError:
            object().missing  # type: ignore[attr-defined]
    caught = info.value
    back = codec.loads(codec.dumps(caught))
    assert same(back, caught) and back.name == "missing"
    assert (back.__traceback__, back.__context__, back.obj) == (None, None, None)
    chained = round_trip(codec, raised(ValueError(), KeyError()))
    assert chained.__suppress_context__ and type(chained.__cause__) is KeyError


def test_an_object_that_came_back_works(codec: Codec) -> None:
    event = codec.loads(codec.dumps(Fetch(path=1)))
    assert event.replace(tries=2) == Fetch(1, 2) and hash(event) == hash(Fetch(1)) and event.keys() == ["path", "tries"]
    assert list(codec.loads(codec.dumps(StartEvent(b=1, a=2)))) == ["b", "a"]
    assert codec.loads(codec.dumps(Box(Picky(3)))).content == Picky(3)
    for value in (Hashed("x"), HashedSlots("x")):
        assert hash(codec.loads(codec.dumps(called(value, "__hash__")))) == hash(value)


def test_a_cached_hash_is_made_anew(codec: Codec) -> None:
    """Strings hash differently in the next process."""
    stale = codec.encode(called(Hashed("x"), "__hash__"))
    assert stale == {"$obj": ["test_serialization:Hashed", {"name": "x"}, {"_attrs_cached_hash": None}]}


def test_values_that_init_would_change_or_reject_come_back(codec: Codec) -> None:
    value = Picky(1)
    object.__setattr__(value, "_secret", "not small, not an int")
    value.made = (1,)
    assert same(codec.loads(codec.dumps(value)), value)


# ------------------------------------------------------------------------------------------------------ the format


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None, True, "é"]}, '{"a":[1,2.5,null,true,"é"]}'),
        ((1, 2), '{"$tuple":[1,2]}'),
        ({1: "a", 2: "b"}, '{"$dict":[[1,2],["a","b"]]}'),
        ({"$x": 1}, '{"$dict":[["$x"],[1]]}'),
        ({"b", "a"}, '{"$set":["a","b"]}'),
        (b"\0\1", '{"$bytes":"AAE="}'),
        (math.nan, '{"$float":"nan"}'),
        (ODD_NAN, '{"$float":"nan:fff8000000000001"}'),
        (2**2048, '{"$int":"0x1' + "0" * 512 + '"}'),
        ("\ud800", '{"$str":"7aCA"}'),
        (Decimal("1.50"), '{"$Decimal":"1.50"}'),
        (Fraction(1, 3), '{"$Fraction":"1/3"}'),
        (1 - 2j, '{"$complex":"1.0 -2.0"}'),
        (timedelta(seconds=1), '{"$timedelta":"1000000"}'),
        (datetime(2024, 1, 2, 3), '{"$datetime":"2024-01-02T03:00:00"}'),
        (datetime(2024, 1, 2, tzinfo=UTC), '{"$datetime":["2024-01-02T00:00:00",0,{"$timezone":"0"}]}'),
        (PurePosixPath("a/b"), '{"$PurePosixPath":"a/b"}'),
        (range(1, 9, 2), '{"$range":"1:9:2"}'),
        (deque([1], 5), '{"$deque":[5,[1]]}'),
        (defaultdict(int, a=1), '{"$defaultdict":[["a"],[1],{"$type":"int"}]}'),
        (Color.BLUE, '{"$enum":["test_serialization:Color","BLUE"]}'),
        (Right.READ | Right.WRITE, '{"$enum":["test_serialization:Right",3]}'),
        (Fetch, '{"$type":"test_serialization:Fetch"}'),
        (Fetch(1), '{"$obj":["test_serialization:Fetch",{"path":1,"tries":0}]}'),
        (StopEvent(1), '{"$obj":["StopEvent",{},{"result":1}]}'),
        (ValueError("x"), '{"$obj":["ValueError",{"args":{"$tuple":["x"]}}]}'),
    ],
)
def test_format(codec: Codec, value: Any, text: str) -> None:
    """Journals are read years later: whoever changes this breaks them."""
    assert codec.dumps(value).decode() == text
    assert same(codec.loads(text.encode()), value)


def test_equal_sets_give_equal_bytes(codec: Codec) -> None:
    words = [f"w{number}" for number in range(100)]
    assert codec.dumps(set(words)) == codec.dumps({*reversed(words)})


def test_the_users_decimal_context_has_no_say(codec: Codec) -> None:
    value = Decimal("1.23E+50")
    written = codec.dumps(value)
    with decimal.localcontext() as context:
        context.capitals, context.prec, context.traps[decimal.Inexact] = 0, 2, True
        assert codec.dumps(value) == written
        assert same(codec.loads(written), value)


# -------------------------------------------------------------------------------------------------------- refusals


def cycle() -> Any:
    value: list[Any] = [1]
    value.append({"again": value})
    return value


def deep(depth: int, wrap: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


def handmade_member() -> Any:
    member = object.__new__(Color)
    member._name_, member._value_ = "RED", 1
    return member


def broken_unicode_error() -> Any:
    error = UnicodeDecodeError("ascii", b"x", 0, 1, "why")
    error.start = -1_000_000
    return error


class UserZone(tzinfo):
    def utcoffset(self, when: Any) -> timedelta:
        return timedelta(0)

    def dst(self, when: Any) -> None:
        return None

    def tzname(self, when: Any) -> None:
        return None


class SameHash:
    def __init__(self, number: int) -> None:
        self.number = number


@attrs.frozen
class ConstantHash:
    number: int

    def __hash__(self) -> int:
        return 1


def mutated_key() -> Any:
    @dataclasses.dataclass(unsafe_hash=True)
    class Key:
        number: int

    one, two = Key(1), Key(2)
    keys = {one, two}
    two.number = 1
    return keys


RESOURCE = "keep live objects out of events and state, let a Resource hold them."
DEEP = f"it is nested more than {MAX_DEPTH} deep, or contains itself: refer to the inner parts by a key."

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "function": (lambda: {"f": [len]}, f"$.f[0]: a builtin_function_or_method can't be stored: {RESOURCE}"),
    "lambda": (lambda: (0, lambda: 1), f"$[1]: a function can't be stored: {RESOURCE}"),
    "lock": (lambda: Fetch(path=threading.Lock()), f"$.path: a lock can't be stored: {RESOURCE}"),
    "file": (lambda: {"a b": sys.__stdout__}, f"$['a b']: a TextIOWrapper can't be stored: {RESOURCE}"),
    "generator": (lambda: (n for n in [1]), f"$: a generator can't be stored: {RESOURCE}"),
    "module": (lambda: StartEvent(m=json), f"$.m: a module can't be stored: {RESOURCE}"),
    "memoryview": (lambda: memoryview(b""), f"$: a memoryview can't be stored: {RESOURCE}"),
    "ellipsis": (lambda: ..., f"$: a ellipsis can't be stored: {RESOURCE}"),
    "alias": (lambda: list[int], f"$: a GenericAlias can't be stored: {RESOURCE}"),
    "unregistered event": (
        lambda: [Box([0, 0, 0, SomeEvent(x=1)])],
        "$[0].content[3]: test_serialization.SomeEvent isn't registered: write codec.register(SomeEvent).",
    ),
    "unregistered enum": (
        lambda: {1: SomeEnum.A},
        "$.values()[0]: test_serialization.SomeEnum isn't registered: write codec.register(SomeEnum).",
    ),
    "unregistered exception": (
        lambda: raised(ValueError(), SomeError()),
        "$.__cause__: test_serialization.SomeError isn't registered: write codec.register(SomeError).",
    ),
    "unregistered plain": (
        lambda: Plaintext("x"),
        "$: test_serialization.Plaintext isn't registered: "
        "write codec.register(Plaintext, unstructure=…, structure=…), or store what it is made of.",
    ),
    "unregistered key": (
        lambda: {SomeEnum.A: 1},
        "$.keys()[0]: test_serialization.SomeEnum isn't registered: write codec.register(SomeEnum).",
    ),
    "unregistered class": (
        lambda: [SomeEvent],
        "$[0]: the class test_serialization.SomeEvent isn't registered: write codec.register(SomeEvent).",
    ),
    "int subclass": (
        lambda: MyInt(1),
        "$: test_serialization.MyInt isn't registered: write codec.register(MyInt, unst",
    ),
    "str subclass": (lambda: {MyStr("k"): 1}, "$.keys()[0]: test_serialization.MyStr isn't registered: write"),
    "list subclass": (lambda: MyList(), "$: test_serialization.MyList isn't registered: write"),
    "dict subclass": (lambda: MyDict(), "$: test_serialization.MyDict isn't registered: write"),
    "factory": (lambda: defaultdict(lambda: 1), f"$.default_factory: a function can't be stored: {RESOURCE}"),
    "attributes": (
        lambda: with_extra(Counter(), note=1),
        "$: this collections.Counter has attributes of its own: put them in fields beside it.",
    ),
    "cycle": (cycle, f"$[1].again[1].again[1].again[1].again…88 more…[1].again[1].again: {DEEP}"),
    "cycle of objects": (lambda: (lambda one: with_extra(one, late=one))(Plain()), DEEP),
    "cycle of causes": (lambda: (lambda one: raised(one, KeyError()) and with_cause(one))(ValueError()), DEEP),
    "deep list": (lambda: deep(MAX_DEPTH + 1), DEEP),
    "deeper": (lambda: deep(100_000), DEEP),
    "deep dict": (lambda: deep(MAX_DEPTH + 1, lambda inner: {1: inner}), DEEP),
    "zone": (lambda: time(1, tzinfo=UserZone()), "$.tzinfo: test_serialization.UserZone isn't registered: write"),
    "windows path": (lambda: with_parts(), "$: this path would come back as 'c:y'."),
    "two places of one name": (
        lambda: with_extra(OSError(2, "x"), errno=5),
        "$: it has 'errno' twice, once in __dict__: rename one.",
    ),
    "a field's name again": (
        lambda: with_extra(NamedSpot(1.0), x=2.0),
        "$: it has 'x' twice, once in __dict__: rename one.",
    ),
    "handmade member": (handmade_member, "$: test_serialization.Color has no member like this one: don't make"),
    "broken unicode error": (
        broken_unicode_error,
        "$: the attributes of this UnicodeDecodeError don't fit each other.",
    ),
    "large fraction": (lambda: Fraction(2**70_000), "$: it is a fraction of more than 65536 bits: round it."),
    "same hashes": (
        lambda: {(2**61 - 1) * number for number in range(500)},
        "$: 500 keys or members have the same hash: at most 200 may.",
    ),
    "same hash by design": (
        lambda: dict.fromkeys(map(ConstantHash, range(300))),
        "$: 300 keys or members have the same hash: at most 200 may.",
    ),
    "mutated members": (
        mutated_key,
        "$: some keys or members are equal: don't change an object that is a key or in a set.",
    ),
}


class SomeEvent(Event):
    x: int


class SomeEnum(Enum):
    A = 1


class SomeError(Exception):
    pass


def with_cause(error: BaseException) -> BaseException:
    assert error.__cause__ is not None
    error.__cause__.__cause__ = error
    return error


def with_parts() -> Any:
    path = PureWindowsPath("x/c:y").relative_to("x")
    if PureWindowsPath(str(path)) == path:
        pytest.skip("this Python writes the path exactly")
    return path


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_would_not_come_back_is_refused(codec: Codec, make: Callable[[], Any], message: str) -> None:
    value = make()
    for write in (codec.encode, codec.dumps):
        with pytest.raises(SerializationError) as caught:
            write(value)
        assert message in str(caught.value)
        assert str(caught.value).startswith(caught.value.path) and caught.value.problem


def test_a_zone_from_a_file_is_refused(codec: Codec, tmp_path: Path) -> None:
    # The smallest file of a time zone: version 1, no transitions, one type.
    counts = struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    (tmp_path / "zone").write_bytes(b"TZif\0" + b"\0" * 15 + counts + struct.pack(">lbb", 0, 0, 0) + b"UTC\0")
    with (tmp_path / "zone").open("rb") as file:
        zone = ZoneInfo.from_file(file, key="Europe/Paris")
    with pytest.raises(
        SerializationError, match=r"^\$\.tzinfo: its time zone was read from a file: use ZoneInfo\(key\)\.$"
    ):
        codec.encode(datetime(2024, 1, 1, tzinfo=zone))


KINDS: dict[str, Callable[[Any], Any]] = {
    "list": lambda inner: [inner],
    "tuple": lambda inner: (inner,),
    "dict": lambda inner: {"a": inner},
    "odd dict": lambda inner: {1: inner},
    "key": lambda inner: {(1, inner): 1} if type(inner) is not dict else {(1, frozenset(inner)): 1},
    "frozenset": lambda inner: frozenset({inner}),
    "deque": lambda inner: deque([inner], 1),
    "defaultdict": lambda inner: defaultdict(int, {1: inner}),
    "slice": lambda inner: slice(inner, None, None),
    "slotted": lambda inner: Slotted(inner),
    "event": lambda inner: Fetch(inner),
    "open event": lambda inner: StartEvent(a=inner),
    "named tuple": lambda inner: Spot(inner),
    "exception": lambda inner: ValueError(inner),
    "group": lambda inner: ExceptionGroup("g", [inner if isinstance(inner, Exception) else ValueError(inner)]),
    "hook": lambda inner: hooked(inner),
}


def hooked(inner: Any) -> Any:
    value = Plaintext("")
    value.text = inner
    return value


@pytest.mark.parametrize("wrap", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize(
    "leaf", [None, datetime(2024, 1, 1, tzinfo=UTC), Path("\udcff"), 2**3000, Color.RED, int, (), Slotted(1)]
)
def test_whatever_can_be_written_can_be_read(wrap: Callable[[Any], Any], leaf: Any) -> None:
    """At the very limit of depth, and with little stack left."""
    codec = Codec(CLASSES)
    codec.register(Plaintext, unstructure=lambda value: value.text, structure=lambda data, _: hooked(data))
    value, outcomes = leaf, set[str]()
    for _ in range(MAX_DEPTH + 5):
        try:
            data = codec.dumps(value)
        except SerializationError as error:
            outcomes.add("refused" if DEEP in str(error) else str(error))
        else:
            assert "refused" not in outcomes
            assert codec.dumps(codec.loads(data)) == data
            outcomes.add("written")
        value = wrap(value)
    assert outcomes == {"refused", "written"}


def test_the_limit_of_depth_is_as_stated(codec: Codec) -> None:
    assert codec.loads(codec.dumps(deep(MAX_DEPTH))) == deep(MAX_DEPTH)
    with pytest.raises(SerializationError, match="nested more than"):
        codec.loads(b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2))


def test_too_little_stack_is_a_typed_error(codec: Codec) -> None:
    value, written = deep(MAX_DEPTH - 1, Slotted), codec.dumps(deep(MAX_DEPTH - 1, Slotted))
    data = codec.encode(value)

    def descend() -> set[str]:
        found: set[str] = set()
        for work in (lambda: codec.dumps(value), lambda: codec.loads(written), lambda: codec.decode(data)):
            try:
                work()
            except SerializationError as error:
                found.add(str(error))
        return found if len(found) == 3 else found | descend()

    assert all("RecursionError" in text for text in descend())


def test_a_set_that_changes_meanwhile_is_a_typed_error(codec: Codec) -> None:
    @attrs.frozen
    class Meddler:
        target: Any

    def meddle(meddler: Meddler) -> Any:
        meddler.target["more"] = 1
        return None

    codec.register(Meddler, unstructure=meddle, structure=lambda data, cls: cls(data))
    value: dict[str, Any] = {}
    value.update(a=Meddler(value), b=1)
    with pytest.raises(SerializationError, match="RuntimeError: dictionary changed size"):
        codec.encode(value)


# ----------------------------------------------------------------------------------------------------- registering


class Leaf(Event):
    n: int


class Twig(Event):
    leaves: "list[Leaf]"


class Branch(Event):
    twig: "Twig | None"
    color: Literal[SomeEnum.A]
    unknown: "Undefined"  # type: ignore[name-defined]  # noqa: F821


class Tree(Event, Generic[T]):
    branches: dict[str, tuple[Branch, ...]]
    back: "Tree[int] | None" = None
    kind: type[SomeEvent] | None = None
    lock: Any = None
    act: "Callable[[Box[SomeError]], None] | None" = None


def test_registering_registers_what_the_annotations_mention() -> None:
    codec = Codec([Tree])
    tree: Tree[int] = Tree({"a": (Branch(Twig([Leaf(1)]), SomeEnum.A, None),)}, kind=SomeEvent)
    assert same(round_trip(codec, tree), tree)
    assert same(round_trip(codec, [SomeError("x"), Box(1)]), [SomeError("x"), Box(1)])
    with pytest.raises(SerializationError, match=r"write codec\.register\(Fetch\)"):
        codec.encode(Fetch(1))


def test_registering_a_generic_registers_its_arguments() -> None:
    codec = Codec()
    codec.register(Box[list[Leaf]])
    assert same(round_trip(codec, Box([Leaf(1)])), Box([Leaf(1)]))


def test_register_returns_the_class_and_may_be_repeated() -> None:
    codec = Codec()
    assert codec.register(Fetch) is Fetch
    assert codec.register(Fetch, aliases=["old:Fetch"]) is Fetch
    assert codec.decode({"$type": "old:Fetch"}) is Fetch
    assert codec.encode(Fetch) == {"$type": "test_serialization:Fetch"}


def test_a_new_tag_is_written_and_the_old_one_still_read() -> None:
    codec = Codec([Fetch])
    old = codec.dumps(Fetch(1))
    codec.register(Fetch, tag="fetch")
    codec.register(Fetch)
    assert codec.dumps(Fetch(1)) == b'{"$obj":["fetch",{"path":1,"tries":0}]}'
    assert codec.loads(old) == Fetch(1)


def local_class() -> type:
    class Local(Event):
        x: int

    return Local


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (
            lambda codec: (codec.register(local_class()), codec.register(local_class())),
            "register(local_class.<locals>.Local): the tag 'test_serialization:local_class.<locals>.Local' "
            "already stands for another class, test_serialization.local_class.<locals>.Local: "
            "register one with another tag=….",
        ),
        (lambda codec: codec.register(Fetch, tag="int"), "the tag 'int' already stands for another class, int"),
        (lambda codec: codec.register(Fetch, aliases=[""]), "register(Fetch): '' can't be a tag: give a string."),
        (lambda codec: codec.register(Fetch, tag="\ud800"), r"register(Fetch): '\ud800' can't be a tag"),
        (lambda codec: codec.register(Fetch, tag=1), "register(Fetch): 1 can't be a tag"),
        (lambda codec: codec.register("Fetch"), "register(Fetch): it isn't a class."),
        (lambda codec: codec.register(int | str), "it isn't a class."),
        (
            lambda codec: codec.register(Plaintext, unstructure=str),
            "register(Plaintext): one hook was given without the other: give both.",
        ),
        (
            lambda codec: codec.register(datetime, unstructure=str, structure=str),
            "register(datetime): its form is fixed: wrap it in a class of your own.",
        ),
    ],
)
def test_wrong_registrations(codec: Codec, register: Callable[[Codec], Any], message: str) -> None:
    with pytest.raises(SerializationError) as caught:
        register(codec)
    assert message in str(caught.value)


def test_a_refused_registration_leaves_no_trace() -> None:
    codec = Codec()
    with pytest.raises(SerializationError):
        codec.register(Fetch, tag="fetch", aliases=["int"])
    codec.register(Leaf, tag="fetch")
    assert codec.decode({"$type": "fetch"}) is Leaf


def test_codecs_share_nothing() -> None:
    Codec([Fetch])
    with pytest.raises(SerializationError):
        Codec().encode(Fetch(1))


def test_all_of_flowkits_events_and_errors_are_known() -> None:
    codec = Codec()
    everything = [getattr(module, name) for module in (events, errors) for name in module.__all__]
    for cls in (one for one in everything if isinstance(one, type)):
        assert codec.decode(codec.encode(cls)) is cls


# ----------------------------------------------------------------------------------------------------------- hooks


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def unspeakable(value: Any) -> Any:
    raise Unspeakable


def to_list(value: Plaintext) -> list[Any]:
    return ["text", (value.text,)]


def from_list(data: Any, cls: type[Plaintext]) -> Plaintext:
    assert type(data[1]) is tuple, "a hook gets back what it gave"
    return cls(data[1][0])


def test_hooks_given_to_register() -> None:
    codec = Codec()
    codec.register(Plaintext, unstructure=to_list, structure=from_list)
    assert codec.encode(Plaintext("x")) == {"$hook": ["test_serialization:Plaintext", ["text", {"$tuple": ["x"]}]]}
    assert round_trip(codec, {1: Plaintext("x")}) == {1: Plaintext("x")}
    assert codec.converter.unstructure(Plaintext("x")) == ["text", ("x",)]
    assert codec.converter.structure(["text", ("x",)], Plaintext) == Plaintext("x")


@pytest.mark.parametrize("given", [False, True])
def test_hooks_registered_on_the_converter(given: bool) -> None:
    converter = cattrs.Converter()
    codec = Codec(converter=converter) if given else Codec()
    codec.register(Plaintext)
    codec.converter.register_unstructure_hook(Plaintext, to_list)
    codec.converter.register_structure_hook(Plaintext, from_list)
    assert round_trip(codec, Plaintext("x")) == Plaintext("x")
    assert not given or codec.converter is converter


@pytest.mark.parametrize("how", ["register", "converter"])
def test_hooks_go_before_the_fields(how: str) -> None:
    """So they can leave out what can't be stored."""

    @attrs.define
    class Guarded:
        number: int
        lock: Any = attrs.field(factory=threading.Lock, eq=False)

    codec = Codec()

    def unstructure(value: Guarded) -> int:
        return value.number

    def structure(data: Any, cls: type[Guarded]) -> Guarded:
        return cls(data)

    codec.register(Guarded)
    with pytest.raises(SerializationError, match=r"^\$\.lock: a lock can't be stored"):
        codec.encode(Guarded(1))
    if how == "register":
        codec.register(Guarded, unstructure=unstructure, structure=structure)
    else:
        codec = Codec([Guarded])
        codec.converter.register_unstructure_hook(Guarded, unstructure)
        codec.converter.register_structure_hook(Guarded, structure)
    assert codec.loads(codec.dumps(Guarded(1))) == Guarded(1)


def test_a_subclass_of_a_builtin_by_hooks() -> None:
    codec = Codec()
    codec.register(MyInt, unstructure=int, structure=lambda data, cls: cls(data))
    assert same(round_trip(codec, [MyInt(1), 1]), [MyInt(1), 1])


def test_a_registered_class_that_cant_be_taken_apart() -> None:
    for cls in (Plaintext, MyInt, MyStr, MyDict, UserZone, object):
        codec = Codec()
        codec.register(cls)
        assert codec.decode(codec.encode(cls)) is cls
        with pytest.raises(SerializationError) as caught:
            codec.encode(cls("1") if cls in (Plaintext, MyInt, MyStr) else cls())
        assert "is registered, but what it consists of can't be told: write codec.register(" in str(caught.value)


def test_a_hook_of_a_base_class_does_not_count() -> None:
    """It would make the base class of it."""

    class Sub(Plaintext):
        pass

    codec = Codec([Sub])
    codec.converter.register_unstructure_hook(Plaintext, to_list)
    codec.converter.register_structure_hook(Plaintext, lambda data, _: Plaintext(data[1][0]))
    with pytest.raises(SerializationError, match="can't be told"):
        codec.encode(Sub("x"))


@pytest.mark.parametrize(
    ("unstructure", "structure", "message"),
    [
        (
            lambda _: 1 / 0,
            from_list,
            "$[0]: the unstructure hook of test_serialization.Plaintext failed with ZeroDivisionError",
        ),
        (
            to_list,
            lambda *_: 1 / 0,
            "$[0]: the structure hook of test_serialization.Plaintext failed with ZeroDivisionError",
        ),
        (
            to_list,
            lambda *_: "x",
            "$[0]: the structure hook of test_serialization.Plaintext returned str: return the class.",
        ),
        (unspeakable, from_list, "$[0]: the unstructure hook of test_serialization.Plaintext failed with Unspeakable."),
        (lambda value: value, from_list, DEEP),
        (lambda _: [1, len], from_list, "$[0][1]: a builtin_function_or_method can't be stored"),
        (lambda _: Codec().encode({"a": len}), from_list, "$[0].a: a builtin_function_or_method can't be stored"),
    ],
)
def test_hooks_that_fail(unstructure: Any, structure: Any, message: str) -> None:
    codec = Codec()
    codec.register(Plaintext, unstructure=unstructure, structure=structure)
    with pytest.raises(SerializationError) as caught:
        codec.decode(codec.encode([Plaintext("x")]))
    assert message in str(caught.value)


def test_half_a_hook_on_the_converter() -> None:
    codec = Codec([Plaintext])
    codec.converter.register_structure_hook(Plaintext, from_list)
    with pytest.raises(SerializationError, match=r"has only one hook for test_serialization\.Plaintext: register both"):
        codec.encode(Plaintext("x"))


# --------------------------------------------------------------------------------------------------- hostile data


def tag(name: str) -> str:
    return f"test_serialization:{name}"


HOSTILE: list[tuple[Any, str]] = [
    (float("nan"), "$: nan isn't JSON data"),
    ([math.inf], "$[0]: inf isn't JSON data"),
    ((1,), "$: tuple isn't JSON data"),
    ({1: 2}, "$: JSON data has no key 1"),
    (b"", "$: bytes isn't JSON data"),
    ({"a": {"$nothing": 1}}, "$.a: nothing is written as a dict with the key '$nothing'"),
    ({"$": 1}, "$: nothing is written as a dict with the key '$'"),
    ({"$bytes": "", "b": 1}, "$: nothing is written as a dict with the key '$bytes'"),
    ({"b": 1, "$bytes": ""}, "$: nothing is written as a dict with the key 'b'"),
    ({"$unset": None}, "$: nothing is written as a dict with the key '$unset'"),
    ({"$obj": ["os:system", {}]}, "$: no registered class has the tag 'os:system': write codec.register for it"),
    ({"$obj": ["builtins:eval", {}]}, "$: no registered class has the tag 'builtins:eval'"),
    ({"$type": "eval"}, "$: no registered class has the tag 'eval'"),
    ({"$type": []}, "$: $type can't be read, ValueError: a tag is expected: it was damaged"),
    ({"$obj": []}, "$: $obj can't be read"),
    ({"$obj": {}}, "$: $obj can't be read"),
    ({"$obj": [[], {}]}, "$: $obj can't be read"),
    ({"$obj": ["int", {}]}, "$: int is registered, but what it consists of can't be told"),
    ({"$obj": ["object", {}]}, "$: object is registered, but what it consists of can't be told"),
    ({"$hook": ["StopEvent", 1]}, "$: flowkit.events.StopEvent was written as $hook, but is read as $obj"),
    ({"$obj": [tag("Color"), {}]}, "$: test_serialization.Color was written as $obj, but is read as $enum"),
    ({"$enum": [tag("Color"), "GREEN"]}, "$: test_serialization.Color has no member 'GREEN'"),
    ({"$enum": [tag("Color"), 1]}, "$: test_serialization.Color has no member 1"),
    ({"$enum": [tag("Color"), "__class__"]}, "$: test_serialization.Color has no member '__class__'"),
    ({"$enum": [tag("Right"), 8]}, "$: test_serialization.Right has no member 8"),
    ({"$enum": [tag("Right"), -1]}, "$: test_serialization.Right has no member -1"),
    ({"$enum": [tag("Right"), True]}, "$: test_serialization.Right has no member True"),
    ({"$enum": [tag("Bits"), 1 << 100_000]}, "$: test_serialization.Bits has no member <int>"),
    ({"$enum": [tag("Color"), "RED", 1]}, "$: $enum can't be read"),
    (
        {"$obj": [tag("Slotted"), {"a": 1}]},
        "$: the fields of test_serialization.Slotted aren't those that were written ('b' is missing): read",
    ),
    ({"$obj": [tag("Slotted"), {"a": 1, "b": 2, "c": 3}]}, "('c' is unknown)"),
    ({"$obj": [tag("Slotted"), {"a": 1, "b": 2}, {"c": 3}]}, "it has no place for 'c'"),
    ({"$obj": [tag("Slotted"), {"a": 1, "b": 2}, {"a": 3}]}, "$: $obj can't be read"),
    ({"$obj": [tag("Slotted"), [1, 2]]}, "$: $obj can't be read"),
    ({"$obj": [tag("Slotted"), {"a": {"$bytes": "?"}, "b": 2}]}, "$.a: $bytes can't be read"),
    ({"$obj": [tag("Fetch"), {"path": 1, "tries": 2}, {"path": 3}]}, "$: $obj can't be read"),
    ({"$obj": [tag("Fetch"), {"path": 1, "tries": 2}, {"$dict": [[1], [2]]}]}, "it has no place for 1"),
    ({"$obj": [tag("Spot"), {"x": {"$unset": None}, "label": 2}]}, "$: $obj can't be read"),
    ({"$obj": [tag("Spot"), {"x": 1, "label": 2}, {"note": 2}]}, "it has no place for 'note'"),
    ({"$obj": ["ValueError", {"args": "abc"}]}, "its state doesn't fit its class"),
    ({"$obj": ["ValueError", {"args": {"$tuple": []}}, {"__cause__": 1}]}, "$: $obj can't be read, TypeError"),
    ({"$obj": ["ValueError", {"args": {"$tuple": []}}, {"__traceback__": 1}]}, None),  # type: ignore[list-item]
    ({"$obj": ["ExceptionGroup", {"message": "m", "exceptions": []}]}, "$: $obj can't be read, ValueError"),
    ({"$obj": ["ExceptionGroup", {"message": "m", "exceptions": [1]}]}, "$: $obj can't be read, ValueError"),
    (
        {
            "$obj": [
                "BaseExceptionGroup",
                {"message": "m", "exceptions": [{"$obj": ["ValueError", {"args": {"$tuple": []}}]}]},
            ]
        },
        "fit its class",
    ),
    (
        {"$obj": ["UnicodeDecodeError", {"args": {"$tuple": []}}, {"object": 5, "start": 0, "end": 1}]},
        "the attributes of this UnicodeDecodeError don't fit each other",
    ),
    (
        {"$obj": ["UnicodeEncodeError", {"args": {"$tuple": []}}, {"object": "x", "start": -9, "end": -8}]},
        "the attributes of this UnicodeEncodeError don't fit each other",
    ),
    ({"$tuple": {}}, "$: $tuple can't be read, ValueError: a list is expected"),
    ({"$tuple": [1, {"$set": [1, 1]}]}, "$[1]: some keys or members are equal"),
    ({"$set": [1, 1.0]}, "$: some keys or members are equal"),
    ({"$set": [[1]]}, "$: $set can't be read, TypeError: unhashable type"),
    ({"$dict": [[1, 1], [2, 3]]}, "$: some keys or members are equal"),
    ({"$dict": [[1, 2], [2]]}, "$: $dict can't be read"),
    ({"$dict": [[{"$int": "x"}], [2]]}, "$.keys()[0]: $int can't be read"),
    ({"$dict": 1}, "$: $dict can't be read"),
    ({"$defaultdict": [[], [], 5]}, "$: $defaultdict can't be read, TypeError"),
    ({"$deque": [1, [1, 2]]}, "$: $deque can't be read"),
    ({"$deque": [-1, []]}, "$: $deque can't be read"),
    ({"$deque": [True, [1]]}, "$: $deque can't be read"),
    ({"$slice": [1, 2]}, "$: $slice can't be read"),
    ({"$bytes": "AAE"}, "$: $bytes can't be read"),
    ({"$bytes": "AAF="}, "$: $bytes can't be read, ValueError: it isn't written like that"),
    ({"$bytes": "é"}, "$: $bytes can't be read"),
    ({"$bytes": 5}, "$: $bytes can't be read, ValueError: a string is expected"),
    ({"$bytes": {"$str": {"$str": "x"}}}, "$: $bytes can't be read, ValueError: a string is expected"),
    ({"$str": "YQ=="}, None),  # type: ignore[list-item]
    ({"$str": "/w=="}, "$: $str can't be read, UnicodeDecodeError"),
    ({"$int": " 0x5"}, "$: $int can't be read"),
    ({"$int": "0x_5"}, "$: $int can't be read"),
    ({"$int": "5"}, "$: $int can't be read"),
    ({"$int": "9" * 1_000_000}, "$: $int can't be read"),
    ({"$float": "1_0"}, "$: $float can't be read"),
    ({"$float": "nan:00"}, "$: $float can't be read"),
    ({"$float": "nan:3ff0000000000000"}, "$: $float can't be read"),
    ({"$complex": "1.0"}, "$: $complex can't be read"),
    ({"$Decimal": "1.5x"}, "$: $Decimal can't be read"),
    ({"$Decimal": "1e5"}, "$: $Decimal can't be read"),
    ({"$Fraction": "2/4"}, "$: $Fraction can't be read"),
    ({"$Fraction": "1/0"}, "$: $Fraction can't be read, ZeroDivisionError"),
    ({"$Fraction": "0x" + "f" * 1_000_000 + "/3"}, "$: $Fraction can't be read, ValueError: too long"),
    ({"$range": "1:2:0"}, "$: $range can't be read"),
    ({"$UUID": "{00000000-0000-0000-0000-000000000000}"}, "$: $UUID can't be read"),
    ({"$UUID": "00000000-0000-0000-0000-000000000000 unknown"}, "$: $UUID can't be read"),
    ({"$date": "20240101"}, "$: $date can't be read"),
    ({"$date": "2024-02-30"}, "$: $date can't be read"),
    ({"$datetime": "2024-01-01T00:00:00+01:00"}, "$: $datetime can't be read"),
    ({"$datetime": ["2024-01-01T00:00:00", True, None]}, "$: $datetime can't be read"),
    ({"$datetime": ["2024-01-01T00:00:00", 2, None]}, "$: $datetime can't be read"),
    ({"$datetime": ["2024-01-01T00:00:00", 0, "UTC"]}, "$: $datetime can't be read"),
    ({"$datetime": ["2024-01-01T00:00:00", 0]}, "$: $datetime can't be read"),
    ({"$datetime": 5}, "$: $datetime can't be read"),
    ({"$time": "24:00"}, "$: $time can't be read"),
    ({"$timedelta": "9" * 30}, "$: $timedelta can't be read"),
    ({"$timezone": "86400000000"}, "$: $timezone can't be read"),
    ({"$ZoneInfo": "../../etc/passwd"}, "$: $ZoneInfo can't be read"),
    ({"$ZoneInfo": "Europe"}, "$: $ZoneInfo can't be read"),
    ({"$ZoneInfo": "No/Where"}, "$: $ZoneInfo can't be read"),
    ({"$PosixPath" if sys.platform == "win32" else "$WindowsPath": "a"}, "$: $"),
    ({"$PurePosixPath": "a//b"}, "$: $PurePosixPath can't be read"),
    (deep(100_000), DEEP),
    (deep(100_000, lambda inner: {"$tuple": [inner]}), DEEP),
    (deep(100_000, lambda inner: {"a": inner}), DEEP),
    (deep(100_000, lambda inner: {"$obj": [tag("Box"), {"content": inner}]}), DEEP),
    (deep(100_000, lambda inner: {"$bytes": inner}), "$: $bytes can't be read"),
    ({"$set": [(2**61 - 1) * number for number in range(20_000)]}, "$: 20000 keys or members have the same hash"),
    ({"$dict": [[(2**61 - 1) * number for number in range(20_000)], [0] * 20_000]}, "have the same hash"),
]


@pytest.mark.parametrize(("data", "message"), HOSTILE, ids=map(str, range(len(HOSTILE))))
def test_hostile_data_is_refused(codec: Codec, data: Any, message: str | None) -> None:
    if message is None:  # odd, but harmless: it is what it says
        codec.dumps(codec.decode(data))
        return
    with pytest.raises(SerializationError) as caught:
        codec.decode(data)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it can't be parsed, JSONDecodeError: Expecting value"),
        (b"[1", "it can't be parsed, JSONDecodeError"),
        (b"[1]]", "it can't be parsed, JSONDecodeError: Extra data"),
        (b"\xff", "it can't be parsed, UnicodeDecodeError"),
        (b"\xef\xbb\xbf1", "it can't be parsed, JSONDecodeError"),
        (b'"\xed\xa0\x80"', "it can't be parsed, UnicodeDecodeError"),
        (b"[NaN]", "it can't be parsed, ValueError: NaN isn't JSON"),
        (b"[-Infinity]", "it can't be parsed, ValueError: -Infinity isn't JSON"),
        (b"1e999", "$: inf isn't JSON data"),
        (b'{"a":1,"b":2,"a":1}', "it can't be parsed, ValueError: the key 'a' occurs twice"),
        (b'{"$obj":["StopEvent",{},{"result":1,"result":2}]}', "the key 'result' occurs twice"),
        (b"9" * 641, "it can't be parsed, ValueError: an int this long"),
        (b"-" + b"9" * 10_000_000, "it can't be parsed, ValueError: an int this long"),
        (b"[" * 1_000_000, "it can't be parsed, RecursionError"),
        (b'{"a":' * 1_000_000, "it can't be parsed, RecursionError"),
        ("text", "it can't be parsed, TypeError"),
        (None, "it can't be parsed, TypeError"),
        (b'"\x01"', "it can't be parsed, JSONDecodeError: Invalid control character"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_hostile_bytes_are_refused(codec: Codec, data: Any, message: str) -> None:
    with pytest.raises(SerializationError) as caught:
        codec.loads(data)
    assert message in str(caught.value)


def test_a_class_that_has_changed_is_refused(codec: Codec) -> None:
    """Never a guess: neither a default for a new field nor silence about one that is gone."""
    written = codec.dumps(Fetch(1))

    class Changed(Event):
        path: Any
        retries: int = 0

    later = Codec()
    later.register(Changed, tag=tag("Fetch"))
    with pytest.raises(
        SerializationError, match=r"\('retries' is missing, 'tries' is unknown\): read it with the class as"
    ):
        later.loads(written)


# -------------------------------------------------------------------------------------------------- by Hypothesis

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.builds(lambda bits, more: (1 << 2000 + bits) - more, st.integers(0, 99), st.integers(0, 1)),
    st.floats(),
    st.text(st.characters()),
    st.text(st.characters(categories=["Cs"]), min_size=1),
    st.sampled_from(["$", "$obj", "$dict", "$tuple", "__class__"]),
    st.binary(),
    st.complex_numbers(),
    st.decimals(),
    st.fractions(),
    st.uuids(),
    st.dates(),
    st.times(timezones=st.none() | st.timezones()),
    st.datetimes(timezones=st.none() | st.timezones()),
    st.datetimes(timezones=st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)),
    st.timedeltas(),
    st.builds(range, st.integers(), st.integers(), st.integers(1)),
    st.text(st.characters(exclude_characters="\0")).map(PurePosixPath),
    st.sampled_from([*Color, *Level, *Word, *Bits, Right.READ | Right.WRITE, Right(0), Bits(5), Bits(64), int, Fetch]),
)
hashables = st.recursive(
    scalars.filter(lambda value: not (type(value) is Decimal and value.is_snan())),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Slotted, inner, inner),
        st.builds(Box, inner),
        st.builds(Fetch, path=inner),
        st.builds(Spot, inner, inner),
    ),
    max_leaves=5,
)
# Hypothesis takes words out of the code it tests: neither what builtin exceptions have, nor what isn't kept.
TAKEN = {"__orig_class__", "_attrs_cached_hash", *dir(BaseException), *Spot._fields}
names = st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=4) | st.text(max_size=3)
names = names.filter(lambda name: name not in TAKEN)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.lists(inner, max_size=3)
    pairs = st.lists(st.tuples(hashables, inner), max_size=3)
    fields = st.dictionaries(names, inner, max_size=3)
    exceptions = st.one_of(
        st.builds(ValueError, inner),
        st.builds(OSError, st.sampled_from([0, 2, 13]), inner, inner),
        st.builds(AttrsError, inner, inner),
        st.builds(lambda code, more: with_extra(OwnError(code, hint="h"), **more), inner, fields),
        st.builds(StopIteration, inner),
    )
    return st.one_of(
        items,
        items.map(tuple),
        st.builds(deque, items, st.none() | st.integers(3, 9)),
        st.sets(hashables, max_size=3),
        fields,
        pairs.map(dict),
        pairs.map(OrderedDict),
        st.builds(defaultdict, st.sampled_from([None, int, Plain]), pairs.map(dict)),
        pairs.map(lambda given: Counter(dict(given))),
        st.builds(slice, inner, inner, inner),
        st.builds(bytearray, st.binary()),
        st.builds(Plain, inner),
        st.builds(lambda a, late: with_extra(Plain(a), late=late), inner, inner),
        st.builds(Slotted, inner, inner),
        st.builds(Box, inner),
        st.builds(Loose, inner),
        st.builds(Nested, inner=inner, private=inner),
        fields.map(lambda given: with_extra(StartEvent(), **given)),
        st.builds(StopEvent, inner),
        st.builds(lambda x, more: with_extra(NamedSpot(x), **more), inner, fields),
        exceptions,
        st.builds(raised, exceptions, st.none() | exceptions, st.text()),
        st.builds(ExceptionGroup, st.text(), st.lists(exceptions, min_size=1, max_size=3)),
        st.builds(StepFailedEvent, st.text(), st.builds(StartEvent, a=inner), exceptions, st.integers(), st.floats()),
    )


values = st.recursive(scalars | hashables, containers, max_leaves=12)


@given(values)
def test_round_trip(value: Any) -> None:
    assert same(round_trip(CODEC, value), value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.text(max_size=4).filter(lambda key: key[:1] != "$"), inner, max_size=4),
        ),
        max_leaves=20,
    )
)
def test_json_stands_for_itself(value: Any) -> None:
    assert same(CODEC.encode(value), value)


@given(values, values)
def test_different_values_are_written_differently(a: Any, b: Any) -> None:
    if not same(a, b):
        assert CODEC.dumps(a) != CODEC.dumps(b) or str(a) == str(b)


def survives(data: bytes) -> None:
    """Whatever the bytes are: a value that can be written again, or a `SerializationError` with a path."""
    try:
        value = CODEC.loads(data)
    except SerializationError as error:
        if not error.path.startswith("$") or not error.problem:
            raise
        return
    if isinstance(value, BaseException):
        text_of(value)
    again = CODEC.dumps(value)
    assert CODEC.dumps(CODEC.loads(again)) == again


@given(values, st.data())
def test_damaged_bytes_give_one_kind_of_error(value: Any, data: st.DataObject) -> None:
    written = bytearray(CODEC.dumps(value))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(written)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "replace", "copy"])):
            case "flip" if place < len(written):
                written[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del written[place : place + data.draw(st.integers(1, 10))]
            case "insert":
                written[place:place] = data.draw(
                    st.binary(max_size=3) | st.sampled_from([b"$", b"[", b'{"$', b"null", b"9"])
                )
            case "replace":
                written[place : place + 1] = data.draw(st.sampled_from([b"-", b"0", b"e", b'"', b",", b"]", b"x"]))
            case _:
                written[place:place] = written[place : place + data.draw(st.integers(0, 30))]
    survives(bytes(written))


PAYLOADS = """
    $obj $enum $hook $type $tuple $set $frozenset $dict $OrderedDict $Counter $defaultdict $deque $slice $datetime
    $time $int $float $str $bytes $bytearray $complex $Decimal $Fraction $range $UUID $date $timedelta $timezone
    $ZoneInfo $PosixPath $WindowsPath $PurePosixPath $PureWindowsPath $unset $ a
"""
known_keys = st.sampled_from(PAYLOADS.split())
tags = st.sampled_from([*CLASSES, int, object, StopEvent, Event, *map(type, builtin_exceptions())]).map(
    lambda cls: CODEC.encode(cls)["$type"]
)
strings = st.one_of(
    *(
        tags,
        st.text(),
        st.sampled_from(["RED", "2024-01-01", "2024-01-01T00:00:00", "1/2", "1:2:3", "0x1", "nan", "1.5", "0"]),
    ),
    st.binary().map(lambda data: base64.b64encode(data).decode()),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | strings,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(known_keys | strings, inner, max_size=3),
        st.builds(lambda key, given: {key: given}, known_keys, inner | st.lists(inner, max_size=3)),
        st.builds(
            lambda name, *given: {"$obj": [name, *given]}, tags, st.dictionaries(strings, inner, max_size=3), inner
        ),
        st.builds(lambda name, member: {"$enum": [name, member]}, tags, inner),
        st.builds(
            lambda cls, fields, others: {"$obj": [tag(cls.__name__), fields(cls), *others]},
            st.sampled_from([Slotted, Fetch, Plain, Box, Loose, Picky]),
            st.lists(inner, min_size=6, max_size=6).map(
                lambda given: lambda cls: dict(zip([field.name for field in fields_of(cls)], given, strict=False))
            ),
            st.lists(st.dictionaries(strings, inner, max_size=2), max_size=1),
        ),
        st.builds(
            lambda name, args, others: {"$obj": [name, {"args": {"$tuple": args}}, others]},
            st.sampled_from(sorted(c.__name__ for c in map(type, builtin_exceptions()))),
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(
                    ["errno", "filename", "object", "start", "end", "reason", "encoding", "__cause__", "value", "name"]
                )
                | st.sampled_from(
                    ["msg", "lineno", "text", "offset", "characters_written", "__notes__", "args", "__dict__"]
                ),
                inner,
                max_size=4,
            ),
        ),
    ),
    max_leaves=15,
)


def fields_of(cls: Any) -> Any:
    return attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(cls)


@given(json_values)
@example({"$obj": ["KeyError", {"args": {"$tuple": [{"$set": [{"$float": "nan"}]}]}}, {"__notes__": 5}]})
def test_made_up_data_gives_one_kind_of_error(data: Any) -> None:
    survives(json.dumps(data).encode())


@given(st.binary())
def test_any_bytes_give_one_kind_of_error(data: bytes) -> None:
    survives(data)
