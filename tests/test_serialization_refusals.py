"""What can't come back exactly is refused when it is written, with its path and the cure."""

import dataclasses
import json
import struct
import sys
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, datetime, time
from fractions import Fraction
from pathlib import Path, PureWindowsPath
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import pytest
from stored_values import (
    CLASSES,
    DEEP,
    Box,
    Color,
    Fetch,
    MyDict,
    MyInt,
    MyList,
    MyStr,
    NamedSpot,
    Plain,
    Plaintext,
    Slotted,
    SomeEnum,
    SomeError,
    SomeEvent,
    Spot,
    UserZone,
    deep,
    raised,
    with_extra,
)

from flowkit.errors import SerializationError
from flowkit.events import StartEvent
from flowkit.serialization import MAX_DEPTH, Codec


@pytest.fixture
def codec() -> Codec:
    return Codec(CLASSES)


# -------------------------------------------------------------------------------------------------------- refusals


def cycle() -> Any:
    value: list[Any] = [1]
    value.append({"again": value})
    return value


def handmade_member() -> Any:
    member = object.__new__(Color)
    member._name_, member._value_ = "RED", 1
    return member


def broken_unicode_error() -> Any:
    error = UnicodeDecodeError("ascii", b"x", 0, 1, "why")
    error.start = -1_000_000
    return error


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
        "$[0].content[3]: stored_values.SomeEvent isn't registered: write codec.register(SomeEvent).",
    ),
    "unregistered enum": (
        lambda: {1: SomeEnum.A},
        "$.values()[0]: stored_values.SomeEnum isn't registered: write codec.register(SomeEnum).",
    ),
    "unregistered exception": (
        lambda: raised(ValueError(), SomeError()),
        "$.__cause__: stored_values.SomeError isn't registered: write codec.register(SomeError).",
    ),
    "unregistered plain": (
        lambda: Plaintext("x"),
        "$: stored_values.Plaintext isn't registered: "
        "write codec.register(Plaintext, unstructure=…, structure=…), or store what it is made of.",
    ),
    "unregistered key": (
        lambda: {SomeEnum.A: 1},
        "$.keys()[0]: stored_values.SomeEnum isn't registered: write codec.register(SomeEnum).",
    ),
    "unregistered class": (
        lambda: [SomeEvent],
        "$[0]: the class stored_values.SomeEvent isn't registered: write codec.register(SomeEvent).",
    ),
    "int subclass": (
        lambda: MyInt(1),
        "$: stored_values.MyInt isn't registered: write codec.register(MyInt, unst",
    ),
    "str subclass": (lambda: {MyStr("k"): 1}, "$.keys()[0]: stored_values.MyStr isn't registered: write"),
    "list subclass": (lambda: MyList(), "$: stored_values.MyList isn't registered: write"),
    "dict subclass": (lambda: MyDict(), "$: stored_values.MyDict isn't registered: write"),
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
    "zone": (lambda: time(1, tzinfo=UserZone()), "$.tzinfo: stored_values.UserZone isn't registered: write"),
    "windows path": (lambda: with_parts(), "$: this path would come back as 'c:y'."),
    "two places of one name": (
        lambda: with_extra(OSError(2, "x"), errno=5),
        "$: it has 'errno' twice, once in __dict__: rename one.",
    ),
    "a field's name again": (
        lambda: with_extra(NamedSpot(1.0), x=2.0),
        "$: it has 'x' twice, once in __dict__: rename one.",
    ),
    "handmade member": (handmade_member, "$: stored_values.Color has no member like this one: don't make"),
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
