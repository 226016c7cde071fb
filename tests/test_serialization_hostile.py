"""Data that `Codec` never wrote gives one kind of error; and what Hypothesis thinks of."""

import base64
import dataclasses
import json
import math
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stored_values import (
    CLASSES,
    CODEC,
    DEEP,
    AttrsError,
    Bits,
    Box,
    Color,
    Fetch,
    Level,
    Loose,
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
    deep,
    raised,
    round_trip,
    same,
    text_of,
    with_extra,
)

from flowkit.errors import SerializationError
from flowkit.events import Event, StartEvent, StepFailedEvent, StopEvent
from flowkit.serialization import Codec

# Of a strategy, in a report that nobody reads.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@pytest.fixture
def codec() -> Codec:
    return Codec(CLASSES)


# --------------------------------------------------------------------------------------------------- hostile data


def tag(name: str) -> str:
    return f"stored_values:{name}"


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
    ({"$obj": [tag("Color"), {}]}, "$: stored_values.Color was written as $obj, but is read as $enum"),
    ({"$enum": [tag("Color"), "GREEN"]}, "$: stored_values.Color has no member 'GREEN'"),
    ({"$enum": [tag("Color"), 1]}, "$: stored_values.Color has no member 1"),
    ({"$enum": [tag("Color"), "__class__"]}, "$: stored_values.Color has no member '__class__'"),
    ({"$enum": [tag("Right"), 8]}, "$: stored_values.Right has no member 8"),
    ({"$enum": [tag("Right"), -1]}, "$: stored_values.Right has no member -1"),
    ({"$enum": [tag("Right"), True]}, "$: stored_values.Right has no member True"),
    ({"$enum": [tag("Bits"), 1 << 100_000]}, "$: stored_values.Bits has no member <int>"),
    ({"$enum": [tag("Color"), "RED", 1]}, "$: $enum can't be read"),
    (
        {"$obj": [tag("Slotted"), {"a": 1}]},
        "$: the fields of stored_values.Slotted aren't those that were written ('b' is missing): read",
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
