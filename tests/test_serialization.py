"""`flowkit.serialization`: what comes back is what went in, and how it is written."""

import decimal
import math
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID, SafeUUID, uuid5
from zoneinfo import ZoneInfo

import pytest
from stored_values import (
    CLASSES,
    NAN,
    ODD_NAN,
    PARIS,
    AttrsError,
    BadBatch,
    Bits,
    Box,
    Color,
    DiskError,
    Ended,
    Fetch,
    Hashed,
    HashedSlots,
    Level,
    Loose,
    MyInt,
    NamedSpot,
    Nested,
    OwnError,
    Picky,
    Plain,
    Right,
    Slotted,
    Spot,
    Word,
    builtin_exceptions,
    called,
    raised,
    round_trip,
    same,
    unset,
    with_extra,
)

from flowkit.errors import SerializationError, StepFailed, UnknownKey, WaitTimedOut, WorkflowTimeoutError
from flowkit.events import Event, HumanResponseEvent, StartEvent, StepFailedEvent, StopEvent
from flowkit.serialization import Codec


@pytest.fixture
def codec() -> Codec:
    return Codec(CLASSES)


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
    assert stale == {"$obj": ["stored_values:Hashed", {"name": "x"}, {"_attrs_cached_hash": None}]}


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
        (Color.BLUE, '{"$enum":["stored_values:Color","BLUE"]}'),
        (Right.READ | Right.WRITE, '{"$enum":["stored_values:Right",3]}'),
        (Fetch, '{"$type":"stored_values:Fetch"}'),
        (Fetch(1), '{"$obj":["stored_values:Fetch",{"path":1,"tries":0}]}'),
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
