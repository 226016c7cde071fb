"""Values that become one string, and what all of serialization has in common: limits, refusals, paths.

serialization.py tells the format.
"""

import base64
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta, timezone
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import NoneType
from typing import Any, TypeVar
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

from flowkit.errors import SerializationError
from flowkit.storage_errors import NewerData, TypeChanged

__all__ = [
    "LEAF_READERS",
    "LEAF_WRITERS",
    "LEAVES",
    "MALFORMED",
    "MAX_DEPTH",
    "PLAIN_INT",
    "SELVES",
    "SURROGATE",
    "TO_JSON",
    "UNSET",
    "UNSET_DATA",
    "Hooks",
    "Misfit",
    "Newer",
    "Read",
    "Refusal",
    "T",
    "Write",
    "brief",
    "check_depth",
    "check_keys",
    "class_name",
    "is_exactly",
    "is_text_by_name",
    "path_step",
    "read_int",
    "scalar_text",
    "to_json",
    "write_str",
]

MAX_DEPTH = 100
"""How deep containers and objects may nest. A level takes at most 4 of the interpreter's 1,000 stack frames,
here and in `json`: the caller has the others. Precedents: protobuf 100, serde_json 128, .NET's JSON 64."""

MAX_PLAIN_BITS = 2_048
"""Longer ints are written in hexadecimal, in linear time. Decimal takes quadratic time, and `int` refuses it
from a length on that may be 640 digits (`sys.int_info.str_digits_check_threshold`); these are 617."""

MAX_FRACTION_BITS = 65_536
"""Bound of a fraction's two numbers: reducing it takes quadratic time, here a few milliseconds."""

MAX_SAME_HASH = 200
"""How many keys of a dict or set may share a hash: numbers' can be foreseen, n equal ones take n² steps."""

T = TypeVar("T")
# Any is what this file is about: values of whatever type, and data that isn't to be trusted to have one.
Write = Callable[[Any, int], Any]  # value, depth -> data
Read = Callable[[Any, int], Any]  # data, depth -> value
Hooks = tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]
SURROGATE = re.compile("[\ud800-\udfff]")
PLAIN_INT = 1 << MAX_PLAIN_BITS
SELVES = frozenset({str, int, bool, NoneType})
TO_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
MALFORMED = "it was damaged, or not written by Codec.encode"


def _json_writer() -> Callable[[Any], str]:
    """`TO_JSON.encode` in half the time: that one makes a new one of json's writers in C for each value. Where there is
    none, or it isn't as expected, `TO_JSON.encode` itself."""
    try:
        make: Any = vars(json.encoder)["c_make_encoder"]
        write: Any = make(None, TO_JSON.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)
        if "".join(write(["é", {"a": 0.5}], 0)) == '["é",{"a":0.5}]':
            return lambda data: "".join(write(data, 0))
    except (KeyError, TypeError):  # another Python
        pass
    return TO_JSON.encode


to_json = _json_writer()


class Refusal(Exception):
    """A refusal on its way up; each level that it passes adds its step to the trail."""

    def __init__(self, problem: str, cure: str = "", *trail: str) -> None:
        super().__init__(problem)
        self.problem, self.cure, self.trail = problem, cure, list(trail)

    def located(self) -> SerializationError:
        return SerializationError(self.problem, path=self.path(), cure=self.cure)

    def path(self) -> str:
        steps = self.trail[::-1]
        if len(steps) > 16:
            steps[8:-4] = [f"…{len(steps) - 12} more…"]
        return "$" + "".join(steps)


class Misfit(Refusal):
    """The data is sound; the classes as they are now aren't those that it was written with."""

    def located(self) -> SerializationError:
        return TypeChanged(self.problem, path=self.path(), cure=self.cure)


class Newer(Misfit):
    """The data is of a later version of a class than the one that is here."""

    def __init__(self, tag: str, version: int, known: int) -> None:
        error = NewerData(tag, version, known)
        super().__init__(error.problem, error.cure)
        self.facts = (tag, version, known)

    def located(self) -> SerializationError:
        return NewerData(*self.facts, path=self.path())


def is_exactly(value: Any, kind: type) -> bool:
    return type(value) is kind  # a call, so that type checkers don't narrow what they know nothing about


def is_text_by_name(value: Any) -> bool:
    return is_exactly(value, dict) and all(type(one) is str for item in value.items() for one in item)


def path_step(key: str) -> str:
    return f".{key}" if key.isidentifier() else f"[{scalar_text(key)}]"


def scalar_text(value: Any) -> str:
    # Scalars only: the repr of anything else is somebody's code, and may be long.
    if type(value) not in SELVES or (is_exactly(value, int) and abs(value) >= PLAIN_INT):
        return f"<{class_name(type(value))}>"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def class_name(cls: Any) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def brief(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {str(error)[:200]}"
    except Exception:  # noqa: BLE001 - the text of a user's error is the user's code
        return type(error).__name__


def check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise Refusal(
            f"it is nested more than {MAX_DEPTH} deep, or contains itself", "refer to the inner parts by a key"
        )


def check_keys(keys: list[Any]) -> None:
    """Refuse keys that take quadratic time to hash, or of which some would be lost for being equal."""
    if len(keys) > MAX_SAME_HASH:
        commonest = Counter(map(hash, keys)).most_common(1)[0][1]
        if commonest > MAX_SAME_HASH:
            raise Refusal(f"{commonest} keys or members have the same hash", f"at most {MAX_SAME_HASH} may")
    if len(set(keys)) != len(keys):
        raise Refusal("some keys or members are equal", "don't change an object that is a key or in a set")


# ----------------------------------------------------------------------------------------- leaves: one string


def _write_int(value: int) -> str:
    return str(value) if -PLAIN_INT < value < PLAIN_INT else hex(value)


def read_int(text: str) -> int:
    if "x" in text:
        return int(text, 16)
    if len(text) > 640:
        raise ValueError("an int this long is written in hexadecimal")
    return int(text)


def _write_float(value: float) -> str:
    bits = struct.pack(">d", value).hex()  # there are many NaNs
    return repr(value) if value == value or bits == "7ff8000000000000" else f"nan:{bits}"


def _read_float(text: str) -> float:
    return struct.unpack(">d", bytes.fromhex(text[4:]))[0] if text.startswith("nan:") else float(text)


def _read_complex(text: str) -> complex:
    return complex(*map(_read_float, text.split(" ")))


def _write_fraction(value: Fraction) -> str:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_FRACTION_BITS:
        raise Refusal(f"it is a fraction of more than {MAX_FRACTION_BITS} bits", "round it")
    return f"{_write_int(value.numerator)}/{_write_int(value.denominator)}"


def _read_fraction(text: str) -> Fraction:
    if len(text) > MAX_FRACTION_BITS:  # a hexadecimal digit has four bits, and there are two numbers
        raise ValueError("too long")
    return Fraction(*map(read_int, text.split("/")))


def _write_uuid(value: UUID) -> str:
    return str(value) if value.is_safe is SafeUUID.unknown else f"{value} {value.is_safe.name}"


def _read_uuid(text: str) -> UUID:
    number, _, safety = text.partition(" ")
    return UUID(number, is_safe=SafeUUID[safety or "unknown"])


def _write_timedelta(value: timedelta) -> str:
    return str(value // timedelta(microseconds=1))


def _read_timedelta(text: str) -> timedelta:
    return timedelta(microseconds=read_int(text))


def _write_timezone(value: Any) -> str:
    # Pickle's way: no other tells a name that was given from the one made of the offset.
    offset, *name = value.__getinitargs__()
    return " ".join([_write_timedelta(offset), *name])


def _read_timezone(text: str) -> timezone:
    offset, *name = text.split(" ", 1)
    return timezone(_read_timedelta(offset), *name)


def _write_zone(value: ZoneInfo) -> str:
    try:
        value.__reduce__()
    except Exception as error:  # pickle's error, for a zone that was read from a file of its own
        raise Refusal("its time zone was read from a file", "use ZoneInfo(key)") from error
    return value.key


def _write_path(value: Any) -> str:
    text = str(value)
    if type(value)(text).parts != value.parts:  # PureWindowsPath("x/c:y").relative_to("x")
        raise Refusal(f"this path would come back as {scalar_text(text)}")
    return text


def _write_bytes(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


def _read_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


LEAVES: dict[type, tuple[Callable[[Any], str], Callable[[str], Any]]] = {
    int: (hex, read_int),
    float: (_write_float, _read_float),
    # UTF-8 has no lone surrogates, and JSON would join two of them.
    str: (
        lambda value: _write_bytes(value.encode("utf-8", "surrogatepass")),
        lambda text: _read_bytes(text).decode("utf-8", "surrogatepass"),
    ),
    bytes: (_write_bytes, _read_bytes),
    bytearray: (_write_bytes, lambda text: bytearray(_read_bytes(text))),
    complex: (lambda value: f"{_write_float(value.real)} {_write_float(value.imag)}", _read_complex),
    # A context of our own: the one in use decides whether it is "1E+5" or "1e+5".
    Decimal: (Context(capitals=1).to_sci_string, Decimal),
    Fraction: (_write_fraction, _read_fraction),
    range: (
        lambda value: ":".join(map(_write_int, (value.start, value.stop, value.step))),
        lambda text: range(*map(read_int, text.split(":"))),
    ),
    UUID: (_write_uuid, _read_uuid),
    date: (date.isoformat, date.fromisoformat),
    timedelta: (_write_timedelta, _read_timedelta),
    timezone: (_write_timezone, _read_timezone),
    ZoneInfo: (_write_zone, ZoneInfo),
    **{cls: (_write_path, cls) for cls in (PosixPath, WindowsPath, PurePosixPath, PureWindowsPath)},
}


def _leaf_writer(cls: type) -> Write:
    key, write = f"${cls.__name__}", LEAVES[cls][0]
    if cls is str:
        return lambda value, depth: {key: write(value)}
    return lambda value, depth: {key: write_str(write(value), depth)}


def _leaf_reader(cls: type) -> Read:
    write, read = LEAVES[cls]

    def read_leaf(payload: Any, depth: int) -> Any:
        if is_exactly(payload, dict) and [*payload] == ["$str"] and cls is not str:
            payload = LEAF_READERS["$str"](payload["$str"], depth)
        if not is_exactly(payload, str):
            raise ValueError("a string is expected")
        value = read(payload)
        if type(value) is not cls or write(value) != payload:
            raise ValueError("it isn't written like that")
        return value

    return read_leaf


_ODD_INT, _ODD_FLOAT, _ODD_STR = _leaf_writer(int), _leaf_writer(float), _leaf_writer(str)


def _write_self(value: Any, depth: int) -> Any:
    return value


def write_str(value: str, depth: int) -> Any:
    return value if value.isascii() or not SURROGATE.search(value) else _ODD_STR(value, depth)


def _write_plain_int(value: int, depth: int) -> Any:
    return value if -PLAIN_INT < value < PLAIN_INT else _ODD_INT(value, depth)


def _write_plain_float(value: float, depth: int) -> Any:
    return value if math.isfinite(value) else _ODD_FLOAT(value, depth)


class Unset:
    """Stands for a declared field that an object doesn't have."""


UNSET = Unset()
UNSET_DATA = {"$unset": None}
LEAF_READERS: dict[str, Read] = {f"${cls.__name__}": _leaf_reader(cls) for cls in LEAVES}
LEAF_WRITERS: dict[type, Write] = {
    **{cls: _leaf_writer(cls) for cls in LEAVES},
    NoneType: _write_self,
    bool: _write_self,
    str: write_str,
    int: _write_plain_int,
    float: _write_plain_float,
    Unset: lambda value, depth: UNSET_DATA,
}
