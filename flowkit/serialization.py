"""Values to JSON and back, exactly or not at all.

**What comes back** is equal to what went in, of the same types all the way down. What can't be promised that
is refused by `SerializationError` when it is *written*, while the value is alive, with its path and the cure.

**Format.** What JSON can say stands for itself: null, booleans, numbers, strings, lists, and dicts whose keys
are all strings not starting with ``$``. Everything else is a dict with one key, that starts with ``$``; so a
``$`` key can't mean two things::

    {"$bytes": "AAE="}  {"$Decimal": "1.50"}  {"$float": "nan"}   leaves: a string, in its one spelling
    {"$tuple": [1, 2]}  {"$dict": [[1, 2], ["a", "b"]]}           containers; $dict: keys, then values
    {"$obj": ["shop:Order", {"id": 7}, {"note": "x"}]}            tag, declared fields, any other attributes
    {"$enum": ["shop:Color", "RED"]}  {"$type": "shop:Order"}     a member (flags: the number); a class itself
    {"$hook": ["shop:Money", ["EUR", 5]]}                         what the class's own hook made of it

**Dispatch** is by ``type(value)``, never by annotation: a field annotated ``float`` may hold an int, one
annotated ``Any`` anything. A subclass is another type: it is known by itself or refused. A value costs one
dict lookup and one call; paths cost nothing until something is refused: they are put together on the way up.

**Objects** (attrs classes, dataclasses, named tuples, events, exceptions) are rebuilt from their raw state,
without ``__init__``, converters or validators: those have run when the value was made, and one that was alive
must be neither changed nor rejected now. The data must have all declared fields and no others: where the
class has changed since, that is refused and not guessed at. (A field never set is ``{"$unset": null}``.)

**Hostile data.** Only registered classes come back; nothing is imported or looked up by name. Readers check
shape and type, a leaf is written again and compared, and what may take more than linear time is bounded (the
constants below).

**Not kept**, by design: which parts of a value were one and the same object (and a cycle is refused); an
exception's traceback, ``__context__`` and ``AttributeError.obj`` (pickle drops them too: they lead anywhere);
attrs' cached hash and typing's ``__orig_class__``; the order of a set (it is written sorted, so that equal
sets give equal bytes).

In this file, each part knowing those before it: refusals; leaves, which are one string; containers
(`_Values`); classes (`_Enum`, `_Hook`, `_Object`); and `Codec`, which knows what is registered.
"""

import base64
import builtins
import dataclasses
import inspect
import json
import math
import operator
import re
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Context, Decimal
from enum import Enum, Flag
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import BuiltinFunctionType, MemberDescriptorType, NoneType, UnionType
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

import attrs
import cattrs

from flowkit import errors, events
from flowkit.errors import SerializationError
from flowkit.hints import UNRESOLVED, resolve

__all__ = ["MAX_DEPTH", "Codec"]

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
_Write = Callable[[Any, int], Any]  # value, depth -> data
_Read = Callable[[Any, int], Any]  # data, depth -> value
_Hooks = tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN_INT = 1 << MAX_PLAIN_BITS
_SELVES = frozenset({str, int, bool, NoneType})
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
_MALFORMED = "it was damaged, or not written by Codec.encode"


class _Refusal(Exception):
    """A refusal on its way up; each level that it passes adds its step to the trail."""

    def __init__(self, problem: str, cure: str = "", *trail: str) -> None:
        super().__init__(problem)
        self.problem, self.cure, self.trail = problem, cure, list(trail)

    def located(self) -> SerializationError:
        steps = self.trail[::-1]
        if len(steps) > 16:
            steps[8:-4] = [f"…{len(steps) - 12} more…"]
        return SerializationError(self.problem, path="$" + "".join(steps), cure=self.cure)


def _is(value: Any, kind: type) -> bool:
    return type(value) is kind  # a call, so that type checkers don't narrow what they know nothing about


def _step(key: str) -> str:
    return f".{key}" if key.isidentifier() else f"[{_shown(key)}]"


def _shown(value: Any) -> str:
    # Scalars only: the repr of anything else is somebody's code, and may be long.
    if type(value) not in _SELVES or (_is(value, int) and abs(value) >= _PLAIN_INT):
        return f"<{_name(type(value))}>"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _name(cls: Any) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _brief(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {str(error)[:200]}"
    except Exception:  # noqa: BLE001 - the text of a user's error is the user's code
        return type(error).__name__


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise _Refusal(
            f"it is nested more than {MAX_DEPTH} deep, or contains itself",
            "refer to the inner parts by a key",
        )


def _check_keys(keys: list[Any]) -> None:
    """Refuse keys that take quadratic time to hash, or of which some would be lost for being equal."""
    if len(keys) > MAX_SAME_HASH:
        commonest = Counter(map(hash, keys)).most_common(1)[0][1]
        if commonest > MAX_SAME_HASH:
            raise _Refusal(f"{commonest} keys or members have the same hash", f"at most {MAX_SAME_HASH} may")
    if len(set(keys)) != len(keys):
        raise _Refusal("some keys or members are equal", "don't change an object that is a key or in a set")


# ----------------------------------------------------------------------------------------- leaves: one string


def _write_int(value: int) -> str:
    return str(value) if -_PLAIN_INT < value < _PLAIN_INT else hex(value)


def _read_int(text: str) -> int:
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
        raise _Refusal(f"it is a fraction of more than {MAX_FRACTION_BITS} bits", "round it")
    return f"{_write_int(value.numerator)}/{_write_int(value.denominator)}"


def _read_fraction(text: str) -> Fraction:
    if len(text) > MAX_FRACTION_BITS:  # a hexadecimal digit has four bits, and there are two numbers
        raise ValueError("too long")
    return Fraction(*map(_read_int, text.split("/")))


def _write_uuid(value: UUID) -> str:
    return str(value) if value.is_safe is SafeUUID.unknown else f"{value} {value.is_safe.name}"


def _read_uuid(text: str) -> UUID:
    number, _, safety = text.partition(" ")
    return UUID(number, is_safe=SafeUUID[safety or "unknown"])


def _write_timedelta(value: timedelta) -> str:
    return str(value // timedelta(microseconds=1))


def _read_timedelta(text: str) -> timedelta:
    return timedelta(microseconds=_read_int(text))


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
        raise _Refusal("its time zone was read from a file", "use ZoneInfo(key)") from error
    return value.key


def _write_path(value: Any) -> str:
    text = str(value)
    if type(value)(text).parts != value.parts:  # PureWindowsPath("x/c:y").relative_to("x")
        raise _Refusal(f"this path would come back as {_shown(text)}")
    return text


def _write_bytes(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


def _read_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_LEAVES: dict[type, tuple[Callable[[Any], str], Callable[[str], Any]]] = {
    int: (hex, _read_int),
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
        lambda text: range(*map(_read_int, text.split(":"))),
    ),
    UUID: (_write_uuid, _read_uuid),
    date: (date.isoformat, date.fromisoformat),
    timedelta: (_write_timedelta, _read_timedelta),
    timezone: (_write_timezone, _read_timezone),
    ZoneInfo: (_write_zone, ZoneInfo),
    **{cls: (_write_path, cls) for cls in (PosixPath, WindowsPath, PurePosixPath, PureWindowsPath)},
}


def _leaf_writer(cls: type) -> _Write:
    key, write = f"${cls.__name__}", _LEAVES[cls][0]
    if cls is str:
        return lambda value, depth: {key: write(value)}
    return lambda value, depth: {key: _write_str(write(value), depth)}


def _leaf_reader(cls: type) -> _Read:
    write, read = _LEAVES[cls]

    def read_leaf(payload: Any, depth: int) -> Any:
        if _is(payload, dict) and [*payload] == ["$str"] and cls is not str:
            payload = _READERS["$str"](payload["$str"], depth)
        if not _is(payload, str):
            raise ValueError("a string is expected")
        value = read(payload)
        if type(value) is not cls or write(value) != payload:
            raise ValueError("it isn't written like that")
        return value

    return read_leaf


_ODD_INT, _ODD_FLOAT, _ODD_STR = _leaf_writer(int), _leaf_writer(float), _leaf_writer(str)


def _write_self(value: Any, depth: int) -> Any:
    return value


def _write_str(value: str, depth: int) -> Any:
    return value if value.isascii() or not _SURROGATE.search(value) else _ODD_STR(value, depth)


def _write_plain_int(value: int, depth: int) -> Any:
    return value if -_PLAIN_INT < value < _PLAIN_INT else _ODD_INT(value, depth)


def _write_plain_float(value: float, depth: int) -> Any:
    return value if math.isfinite(value) else _ODD_FLOAT(value, depth)


class _Unset:
    """Stands for a declared field that an object doesn't have."""


_UNSET = _Unset()
_UNSET_DATA = {"$unset": None}
_READERS: dict[str, _Read] = {f"${cls.__name__}": _leaf_reader(cls) for cls in _LEAVES}
_WRITERS: dict[type, _Write] = {
    **{cls: _leaf_writer(cls) for cls in _LEAVES},
    NoneType: _write_self,
    bool: _write_self,
    str: _write_str,
    int: _write_plain_int,
    float: _write_plain_float,
    _Unset: lambda value, depth: _UNSET_DATA,
}


# ------------------------------------------------------------------------------------------------- containers

_CONTAINERS = (
    list,
    tuple,
    set,
    frozenset,
    dict,
    OrderedDict,
    Counter,
    defaultdict,
    deque,
    slice,
    datetime,
    time,
)


class _Writers(dict[type, _Write]):
    """Writers by exact type. One that is missing is made when it is first needed."""

    def __init__(self, make: Callable[[type], _Write], given: dict[type, _Write]) -> None:
        super().__init__(given)
        self.make = make

    def __missing__(self, kind: type) -> _Write:
        writer = self[kind] = self.make(kind)
        return writer


class _Values:
    """Writes and reads anything: leaves and containers by itself, classes by what is added."""

    def __init__(self, make: Callable[[type], _Write]) -> None:
        own_writers: dict[type, _Write] = {
            list: self.write_list,
            tuple: lambda value, depth: {"$tuple": self.write_list(value, depth)},
            set: self.write_set,
            frozenset: self.write_set,
            dict: self.write_dict,
            OrderedDict: self.write_mapping,
            Counter: self.write_mapping,
            defaultdict: self.write_mapping,
            deque: lambda value, depth: {"$deque": [value.maxlen, self.write_list(value, depth)]},
            slice: lambda value, depth: {"$slice": self.write_list((value.start, value.stop, value.step), depth)},
            datetime: self.write_moment,
            time: self.write_moment,
        }
        self.writers = _Writers(make, {**_WRITERS, **own_writers})
        self.readers: dict[str, _Read] = {
            **_READERS,
            "$tuple": lambda data, depth: tuple(self.read_list(data, depth)),
            "$set": lambda data, depth: set(self.read_keys(data, depth)),
            "$frozenset": lambda data, depth: frozenset(self.read_keys(data, depth)),
            "$dict": self.read_pairs,
            "$OrderedDict": lambda data, depth: OrderedDict(self.read_pairs(data, depth)),
            "$Counter": lambda data, depth: Counter(self.read_pairs(data, depth)),
            "$defaultdict": self.read_defaultdict,
            "$deque": self.read_deque,
            "$slice": self.read_slice,
            "$datetime": lambda data, depth: self.read_moment(datetime, data, depth),
            "$time": lambda data, depth: self.read_moment(time, data, depth),
        }

    def write(self, value: Any, depth: int) -> Any:
        return self.writers[type(value)](value, depth)

    def write_list(self, value: Iterable[Any], depth: int, place: str = "") -> list[Any]:
        _check_depth(depth)
        writers, data = self.writers, list[Any]()
        depth += 1
        for item in value:
            try:
                data.append(writers[type(item)](item, depth))
            except _Refusal as refusal:
                refusal.trail.append(f"{place}[{len(data)}]")
                raise
        return data

    def read_list(self, data: Any, depth: int, place: str = "") -> list[Any]:
        if not _is(data, list):
            raise ValueError("a list is expected")
        items: list[Any] = []
        depth += 1
        for item in data:
            try:
                items.append(self.read(item, depth))
            except _Refusal as refusal:
                refusal.trail.append(f"{place}[{len(items)}]")
                raise
        return items

    def write_items(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        writers, data = self.writers, dict[str, Any]()
        for key, item in value.items():
            try:
                data[key] = writers[type(item)](item, depth)
            except _Refusal as refusal:
                refusal.trail.append(_step(key))
                raise
        return data

    def read_items(self, data: dict[str, Any], depth: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, item in data.items():
            try:
                value[key] = self.read(item, depth)
            except _Refusal as refusal:
                refusal.trail.append(_step(key))
                raise
        return value

    def write_set(self, value: Any, depth: int) -> Any:
        members = list(value)
        _check_keys(members)
        return {f"${type(value).__name__}": sorted(self.write_list(members, depth), key=_JSON.encode)}

    def read_keys(self, data: Any, depth: int, place: str = "") -> list[Any]:
        keys = self.read_list(data, depth, place)
        _check_keys(keys)
        return keys

    def write_dict(self, value: dict[Any, Any], depth: int) -> Any:
        _check_depth(depth)
        for key in value:
            if type(key) is not str or key.startswith("$") or _write_str(key, depth) is not key:
                return {"$dict": self.write_pairs(value, depth)}
        return self.write_items(value, depth + 1)

    def write_pairs(self, value: dict[Any, Any], depth: int) -> list[Any]:
        pairs = list(value.items())
        keys = [key for key, _ in pairs]
        _check_keys(keys)
        items = self.write_list([item for _, item in pairs], depth, ".values()")
        return [self.write_list(keys, depth, ".keys()"), items]

    def read_pairs(self, data: Any, depth: int) -> dict[Any, Any]:
        keys, items = data
        read_keys = self.read_keys(keys, depth, ".keys()")
        return dict(zip(read_keys, self.read_list(items, depth, ".values()"), strict=True))

    def write_mapping(self, value: Any, depth: int) -> Any:
        kind = cast(type, value.__class__)
        if getattr(value, "__dict__", None):
            raise _Refusal(f"this {_name(kind)} has attributes of its own", "put them in fields beside it")
        data = self.write_pairs(value, depth)
        if kind is defaultdict:
            data.append(self.write_items({"default_factory": value.default_factory}, depth + 1)["default_factory"])
        return {f"${kind.__name__}": data}

    def read_defaultdict(self, data: Any, depth: int) -> defaultdict[Any, Any]:
        *pairs, factory = data
        return defaultdict(self.read(factory, depth + 1), self.read_pairs(pairs, depth))

    def read_deque(self, data: Any, depth: int) -> deque[Any]:
        maxlen, items = data
        value = deque(self.read_list(items, depth), maxlen)
        if type(maxlen) not in (int, NoneType) or len(value) != len(items):
            raise ValueError("it is longer than its length")
        return value

    def read_slice(self, data: Any, depth: int) -> slice:
        start, stop, step = self.read_list(data, depth)
        return slice(start, stop, step)

    def write_moment(self, value: datetime | time, depth: int) -> Any:
        key, text = f"${type(value).__name__}", value.replace(tzinfo=None, fold=0).isoformat()
        if value.tzinfo is None and not value.fold:
            return {key: text}
        return {key: [text, value.fold, self.write_items({"tzinfo": value.tzinfo}, depth)["tzinfo"]]}

    def read_moment(self, cls: Any, data: Any, depth: int) -> Any:
        text, fold, zone = data if _is(data, list) else (data, 0, None)
        value, zone = cls.fromisoformat(text), self.read(zone, depth)
        if value.tzinfo is not None or value.isoformat() != text or type(fold) is not int:
            raise ValueError("it isn't written like that")
        return value.replace(tzinfo=zone, fold=fold)

    def read(self, data: Any, depth: int) -> Any:
        kind: Any = cast(Any, type)(data)
        if kind in _SELVES or (kind is float and math.isfinite(data)):
            return data
        if kind is not dict and kind is not list:
            raise _Refusal(f"{data if kind is float else _name(kind)} isn't JSON data", _MALFORMED)
        if depth > MAX_DEPTH:
            _check_depth(depth)
        if kind is list:
            return self.read_list(data, depth)
        for key in data:
            if type(key) is not str:
                raise _Refusal(f"JSON data has no key {_shown(key)}", _MALFORMED)
            if key.startswith("$"):
                return self.read_tagged(data, depth)
        return self.read_items(data, depth + 1)

    def read_tagged(self, data: dict[str, Any], depth: int) -> Any:
        key, *others = data
        if others or key not in self.readers:
            raise _Refusal(f"nothing is written as a dict with the key {_shown(key)}", _MALFORMED)
        try:
            return self.readers[key](data[key], depth)
        except _Refusal:
            raise
        except Exception as error:  # damaged data fails in as many ways as there are types
            raise _Refusal(f"{key} can't be read, {_brief(error)}", _MALFORMED) from error


# -------------------------------------------------------------------------------- classes, and what they hold

# Known from the start, under short tags: those of other classes have a colon.
_OWN: list[Any] = [vars(module)[name] for module in (events, errors) for name in module.__all__]
_BUILTIN: list[type] = [object, NoneType, bool, *_LEAVES, *_CONTAINERS]
_KNOWN: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *_BUILTIN,
        *(cls for cls in _OWN if isinstance(cls, type)),
        *(cls for cls in vars(builtins).values() if isinstance(cls, type) and issubclass(cls, BaseException)),
    )
}
_FIXED = frozenset({NoneType, bool, *_LEAVES, *_CONTAINERS})
_NOT_KEPT: list[Any] = [vars(BaseException)["__suppress_context__"], vars(AttributeError)["obj"]]
_KEPT = [(BaseException, "args"), (BaseException, "__cause__"), (OSError, "characters_written")]
_UNICODE_ERRORS: dict[type, type] = {
    UnicodeDecodeError: bytes,
    UnicodeEncodeError: str,
    UnicodeTranslateError: str,
}


def _declared(cls: Any) -> tuple[str, ...] | None:
    """Names of the fields that instances have; ``None`` for a class whose state can't be told."""
    root = _root(cls)
    if root is tuple:
        names: Any = getattr(cls, "_fields", None)
        return names if _is(names, tuple) else None
    if issubclass(root, BaseExceptionGroup):
        return ("message", "exceptions")
    if root is not object and not issubclass(root, BaseException):
        return None
    head = () if root is object else ("args",)
    if attrs.has(cls):
        return head + tuple(field.name for field in attrs.fields(cls))
    if dataclasses.is_dataclass(cls):
        return head + tuple(field.name for field in dataclasses.fields(cls))
    return head if head or issubclass(cls, events.Event) else None


def _root(cls: type) -> type:
    """The builtin base whose ``__new__`` makes instances of ``cls``: `object`, `tuple`, `OSError`, …"""
    root: Any = cls
    while not isinstance(cast(Any, vars(root)).get("__new__"), BuiltinFunctionType):
        root = root.__base__
    return cast(type, root)


def _is_taken_apart(cls: type) -> bool:
    return issubclass(cls, Enum) or _declared(cls) is not None


def _mentioned(cls: type) -> Iterator[type]:
    """The classes in the annotations of ``cls`` and its bases; what can't be resolved is passed over."""
    for owner in cls.__mro__[:-1]:
        module = sys.modules.get(owner.__module__)
        scope = {**(vars(module) if module else {}), **vars(owner), owner.__name__: owner}
        yield from _classes(list(inspect.get_annotations(owner).values()), scope)


def _classes(hints: list[Any], scope: dict[str, Any]) -> Iterator[type]:
    seen: list[Any] = []  # type aliases may be recursive
    while hints:
        hint: Any = hints.pop()
        hint = resolve(getattr(hint, "__forward_arg__", hint), scope, {})
        if hint is UNRESOLVED or any(hint is other for other in seen):
            continue
        seen.append(hint)
        if _is(hint, list):  # the parameters of a Callable
            hints += hint
        elif isinstance(hint, Enum):  # Literal[Color.RED]
            yield type(hint)
        elif isinstance(hint, type) and not get_args(hint):
            yield hint
        else:
            inner = ("__origin__", "__supertype__", "__bound__", "__value__")
            hints += [*get_args(hint), *(getattr(hint, name) for name in inner if hasattr(hint, name))]


def _unregistered(cls: type) -> _Refusal:
    name = cls.__name__
    if _is_taken_apart(cls):
        return _Refusal(f"{_name(cls)} isn't registered", f"write codec.register({name})")
    if cls.__module__.partition(".")[0] in ("builtins", "types") or cls.__module__.startswith("_"):
        return _Refusal(
            f"a {name} can't be stored", "keep live objects out of events and state, let a Resource hold them"
        )
    cure = f"write codec.register({name}, unstructure=…, structure=…), or store what it is made of"
    return _Refusal(f"{_name(cls)} isn't registered", cure)


@attrs.frozen
class _Enum:
    """Writes and reads the members of one enum."""

    values: _Values
    cls: Any
    tag: str
    kind = "$enum"

    def write(self, value: Any, depth: int) -> Any:
        member = value._value_ if issubclass(self.cls, Flag) else value._name_
        if self._member(member) is not value:
            raise _Refusal(f"{_name(self.cls)} has no member like this one", "don't make members by hand")
        return {self.kind: [self.tag, member]}

    def read(self, payload: list[Any], depth: int) -> Any:
        (member,) = payload
        value = self._member(member)
        if value is None:
            raise _Refusal(f"{_name(self.cls)} has no member {_shown(member)}", "keep the members that were written")
        return value

    def _member(self, member: Any) -> Any:
        if not issubclass(self.cls, Flag):
            return self.cls.__members__.get(member) if type(member) is str else None
        if type(member) is not int or abs(member) >= _PLAIN_INT:  # flags take quadratic time
            return None
        try:
            value = self.cls(member)
        except ValueError:
            return None
        return value if type(value) is self.cls and value._value_ == member else None


@attrs.frozen
class _Hook:
    """Writes and reads the instances of one class by the hooks that its user gave."""

    values: _Values
    cls: type
    tag: str
    hooks: _Hooks
    kind = "$hook"

    def write(self, value: Any, depth: int) -> Any:
        _check_depth(depth)
        try:
            data = self.hooks[0](value)
        except Exception as error:
            raise self._failed("unstructure", error) from error
        return {self.kind: [self.tag, self.values.write(data, depth + 1)]}

    def read(self, payload: list[Any], depth: int) -> Any:
        (data,) = payload
        data = self.values.read(data, depth + 1)
        try:
            value = self.hooks[1](data, self.cls)
        except Exception as error:
            raise self._failed("structure", error) from error
        if type(value) is not self.cls:
            raise _Refusal(f"the structure hook of {_name(self.cls)} returned {_name(type(value))}", "return the class")
        return value

    def _failed(self, which: str, error: Exception) -> _Refusal:
        if isinstance(error, SerializationError):  # the hook used the codec itself
            return _Refusal(error.problem, error.cure, error.path[1:])
        return _Refusal(f"the {which} hook of {_name(self.cls)} failed with {_brief(error)}")


class _Object:
    """Writes and reads the state of one class's instances: declared fields, and any other attributes."""

    kind = "$obj"

    def __init__(self, values: _Values, cls: Any, tag: str, fields: tuple[str, ...]) -> None:
        self.values, self.cls, self.tag, self.fields = values, cls, tag, fields
        self.root: Any = _root(cls)
        self.is_tuple, self.is_group = self.root is tuple, issubclass(cls, BaseExceptionGroup)
        self.has_dict = cls.__dictoffset__ != 0
        # What isn't in __dict__: slots, and what the builtin exceptions keep in C (where None means unset).
        self.slots: dict[str, Any] = {}
        self.optional: set[str] = set()
        for owner in cls.__mro__:
            for name, slot in dict[str, Any](cast(Any, vars(owner))).items():
                is_slot = isinstance(slot, MemberDescriptorType) and slot not in _NOT_KEPT
                if not is_slot and (owner, name) not in _KEPT:
                    continue
                if name in self.slots:
                    raise _Refusal(f"{_name(cls)} has two slots named {name!r}", "rename one")
                self.slots[name] = slot
                if owner.__module__ == "builtins":
                    self.optional.add(name)

    def write(self, value: Any, depth: int) -> Any:
        _check_depth(depth)
        fields, others = self._state(value)
        data = [self.tag, self.values.write_items(fields, depth + 1)]
        if others:
            data.append(self.values.write_dict(others, depth + 1))
        return {self.kind: data}

    def _state(self, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """All declared fields, in the order of their declaration, and the other attributes."""
        own: dict[str, Any] = value.__dict__ if self.has_dict else {}
        if not self.slots and tuple(own) == self.fields:
            return own, {}
        outside: dict[str, Any] = {}
        for name, slot in self.slots.items():
            try:
                item = slot.__get__(value)
            except AttributeError:  # never set, or deleted
                continue
            if item is not None or name not in self.optional or _is_set_to_none(value, name):
                outside[name] = item
        if self.is_tuple:
            outside.update(zip(self.fields, cast(Any, tuple).__iter__(value), strict=True))
        elif self.is_group:
            outside.update(_group_state(value, outside.pop("args")))
        elif self.root in _UNICODE_ERRORS:
            _check_unicode_error(value)
        for name in own.keys() & outside.keys():
            raise _Refusal(f"it has {name!r} twice, once in __dict__", "rename one")
        own = {**own, **outside}
        own.pop("__orig_class__", None)
        if "_attrs_cached_hash" in own:
            own["_attrs_cached_hash"] = None  # strings hash differently in every process
        return {name: own.pop(name, _UNSET) for name in self.fields}, own

    def read(self, payload: list[Any], depth: int) -> Any:
        data, *rest = payload
        if not _is(data, dict) or len(rest) > 1:
            raise ValueError("fields and other attributes are expected")
        odd = [f"{_shown(name)} is missing" for name in self.fields if name not in data]
        odd += [f"{_shown(name)} is unknown" for name in data if name not in self.fields]
        if odd:
            problem = f"the fields of {_name(self.cls)} aren't those that were written ({', '.join(odd[:5])})"
            raise _Refusal(problem, "read it with the class as it was then")
        state = self.values.read_items({name: item for name, item in data.items() if item != _UNSET_DATA}, depth + 1)
        if rest:
            others = self.values.read(rest[0], depth + 1)
            if not _is(others, dict) or not state.keys().isdisjoint(others):
                raise ValueError("other attributes are expected")
            state.update(others)
        return self._build(state)

    def _build(self, state: dict[Any, Any]) -> Any:
        new: Any = self.root.__new__
        if self.is_tuple:
            value = new(self.cls, [state.pop(name) for name in self.fields])
        elif self.is_group:
            value = new(self.cls, state.pop("message"), state.pop("exceptions"))
        else:
            value = new(self.cls)
        is_sound = "args" not in self.slots or _is(state.get("args", ()), tuple)
        if not _is(value, self.cls) or not is_sound:
            raise ValueError("its state doesn't fit its class")
        for name, item in state.items():
            if name in self.slots:
                self.slots[name].__set__(value, item)
            elif self.has_dict and _is(name, str):
                value.__dict__[name] = item
            else:
                raise ValueError(f"it has no place for {_shown(name)}")
        if self.root in _UNICODE_ERRORS:
            _check_unicode_error(value)
        return value


def _is_set_to_none(error: Any, name: str) -> bool:
    # OSError(0, None) is another text than an OSError whose errno and strerror were never set.
    return name in ("errno", "strerror") and 2 <= len(error.args) <= 5


def _group_state(group: BaseExceptionGroup[Any], args: tuple[Any, ...]) -> dict[str, Any]:
    names = ("message", "exceptions")
    message, exceptions = (vars(BaseExceptionGroup)[name].__get__(group) for name in names)
    # ``args`` has the exceptions once more: written twice at each level, nested groups grow as 2**depth.
    given = args[1] if len(args) == 2 and args[0] is message and type(args[1]) in (list, tuple) else ()
    if len(given) == len(exceptions) and all(map(operator.is_, given, exceptions)):
        return {"message": message, "exceptions": given}
    return {"message": message, "exceptions": exceptions, "args": args}


def _check_unicode_error(error: Any) -> None:
    """Refuse a state with which ``str(error)`` reads memory that isn't its own (CPython before 3.14)."""
    subject = next(subject for cls, subject in _UNICODE_ERRORS.items() if isinstance(error, cls))
    if error.object is not None and (not _is(error.object, subject) or not 0 <= error.start <= error.end):
        raise _Refusal(f"the attributes of this {_name(type(error))} don't fit each other")


# ------------------------------------------------------------------------------------------------------ codec


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {_shown(key)} occurs twice")
    return data


def _parse_constant(text: str) -> Any:
    raise ValueError(f"{text} isn't JSON")


def _no_hook(*_: Any) -> Any:
    """Stands for the hook of a class that has none of its own."""


def _no_hook_for(cls: Any) -> Any:
    return _no_hook


def _always(cls: Any) -> bool:
    return True


_PARSER = json.JSONDecoder(object_pairs_hook=_parse_object, parse_int=_read_int, parse_constant=_parse_constant)


class Codec:
    """Turns values into JSON data or bytes and back, exactly or not at all. The head of this file tells how.

    Builtin and standard value types, builtin exceptions and flowkit's own events and errors are known; any
    other class is registered: here, or by `register`. One that flowkit can't take apart needs cattrs hooks:
    given to `register`, or registered on ``converter`` for that very class (not for a base or by predicate)
    before its first value is written or read. A hook may return any value that the codec knows, and gets that
    value back.

    Threads may share a codec once its classes are registered.
    """

    def __init__(self, types: Iterable[type] = (), converter: cattrs.Converter | None = None) -> None:
        self.converter = converter if converter is not None else cattrs.Converter()
        self._classes = dict(_KNOWN)
        self._tags = {cls: tag for tag, cls in _KNOWN.items()}
        self._hooks: dict[type, _Hooks] = {}
        self._forms: dict[type, _Enum | _Hook | _Object] = {}
        self._values = _Values(self._new_writer)
        self._values.readers |= {
            "$type": lambda data, depth: self._class(data),
            "$obj": lambda data, depth: self._read_form("$obj", data, depth),
            "$enum": lambda data, depth: self._read_form("$enum", data, depth),
            "$hook": lambda data, depth: self._read_form("$hook", data, depth),
        }
        for cls in types:
            self.register(cls)

    def register(
        self,
        cls: type[T],
        *,
        tag: str | None = None,
        aliases: Iterable[str] = (),
        unstructure: Callable[[T], Any] | None = None,
        structure: Callable[[Any, type[T]], T] | None = None,
    ) -> type[T]:
        """Let through values of ``cls`` and of the classes that its annotations mention. Returns ``cls``.

        ``tag`` stands for the class in the data; by default ``module:qualname``. ``aliases`` are tags that it
        had: they are read, never written. ``unstructure`` and ``structure`` are cattrs hooks, kept on
        ``converter``; they go before the fields, so they may leave things out.

        Raises:
            SerializationError: the tag stands for another class; only one hook was given; hooks were given for
                a class whose form is fixed (``int``, ``datetime``, …); or ``cls`` isn't a class.
        """
        bare: Any = get_origin(cls) or cls  # Box[int] is Box
        place = f"register({getattr(bare, '__qualname__', bare)})"
        if not isinstance(bare, type) or bare in (UnionType, Annotated):
            raise SerializationError("it isn't a class", path=place)
        if (unstructure is None) is not (structure is None):
            raise SerializationError("one hook was given without the other", path=place, cure="give both")
        if unstructure is not None and bare in _FIXED:
            raise SerializationError("its form is fixed", path=place, cure="wrap it in a class of your own")
        is_new = bare not in self._tags
        if tag is None:
            tag = f"{bare.__module__}:{bare.__qualname__}" if is_new else self._tags[bare]
        self._claim((tag, *aliases), bare, place)
        self._tags[bare] = tag
        if unstructure is not None and structure is not None:
            self._hooks[bare] = unstructure, structure
            # By predicate: a hook registered by class serves its subclasses too, and resolves annotations.
            self.converter.register_unstructure_hook_func(lambda other: other is bare, unstructure)
            self.converter.register_structure_hook_func(lambda other: other is bare, structure)
        if self._forms.pop(bare, None) is not None:  # its tag or its hooks have changed
            self._values.writers.pop(bare, None)
        if is_new:
            for other in (*_classes(list(get_args(cls)), {}), *_mentioned(bare)):
                if other not in self._tags and _is_taken_apart(other):
                    self.register(other)
        return cls

    def _claim(self, tags: tuple[str, ...], cls: type, place: str) -> None:
        for tag in tags:
            if type(tag) is not str or not tag or _SURROGATE.search(tag):
                raise SerializationError(f"{_shown(tag)} can't be a tag", path=place, cure="give a string")
            owner = self._classes.get(tag, cls)
            if owner is not cls:
                problem = f"the tag {_shown(tag)} already stands for another class, {_name(owner)}"
                raise SerializationError(problem, path=place, cure="register one with another tag=…")
        self._classes.update(dict.fromkeys(tags, cls))

    def encode(self, value: object) -> Any:
        """The value as JSON data: dicts and lists, strings, ints, finite floats, booleans and ``None``.

        Raises:
            SerializationError: the value, or something in it, would not come back exactly.
        """
        try:
            return self._values.write(value, 0)
        except _Refusal as refusal:
            raise refusal.located() from refusal.__cause__
        except RuntimeError as error:  # another thread changed it meanwhile, or there is too little stack
            raise SerializationError(f"it can't be written, {_brief(error)}") from error

    def decode(self, data: object) -> Any:
        """The value that `encode` made this data of.

        Raises:
            SerializationError: the data isn't what `encode` makes, or a class in it isn't registered here.
        """
        try:
            return self._values.read(data, 0)
        except _Refusal as refusal:
            raise refusal.located() from refusal.__cause__
        except RecursionError as error:
            raise SerializationError(f"it can't be read, {_brief(error)}") from error

    def dumps(self, value: object) -> bytes:
        """`encode` as compact JSON in UTF-8.

        Raises:
            SerializationError: as `encode`.
        """
        data = self.encode(value)
        try:
            return _JSON.encode(data).encode()
        except RecursionError as error:
            raise SerializationError(f"it can't be written, {_brief(error)}") from error

    def loads(self, data: bytes) -> Any:
        """The value that `dumps` made these bytes of.

        Raises:
            SerializationError: as `decode`, or it isn't JSON in UTF-8.
        """
        try:
            parsed = _PARSER.decode(str(data, "utf-8"))
        except (ValueError, TypeError, RecursionError) as error:
            raise SerializationError(f"it can't be parsed, {_brief(error)}", cure=_MALFORMED) from error
        return self.decode(parsed)

    # ---- classes

    def _new_writer(self, cls: type) -> _Write:
        return self._write_type if issubclass(cls, type) else self._form(cast(Any, cls)).write

    def _write_type(self, value: Any, depth: int) -> Any:
        if value not in self._tags:
            raise _Refusal(f"the class {_name(value)} isn't registered", f"write codec.register({value.__name__})")
        return {"$type": self._tags[value]}

    def _class(self, tag: Any) -> type:
        if type(tag) is not str:
            raise ValueError("a tag is expected")
        if tag not in self._classes:
            cure = "write codec.register for it, with aliases=… if it was renamed"
            raise _Refusal(f"no registered class has the tag {_shown(tag)}", cure)
        return self._classes[tag]

    def _form(self, cls: type) -> "_Enum | _Hook | _Object":
        form = self._forms.get(cls)
        if form is None:
            form = self._forms[cls] = self._new_form(cls)
        return form

    def _new_form(self, cls: type) -> "_Enum | _Hook | _Object":
        tag = self._tags.get(cls)
        if tag is None:
            raise _unregistered(cls)
        hooks = self._hooks.get(cls) or (self._converter_hooks(cls) if cls not in _FIXED else None)
        if hooks is not None:
            return _Hook(self._values, cls, tag, hooks)
        if issubclass(cls, Enum):
            return _Enum(self._values, cls, tag)
        fields = _declared(cls)
        if fields is None:
            cure = f"write codec.register({cls.__name__}, unstructure=…, structure=…)"
            raise _Refusal(f"{_name(cls)} is registered, but what it consists of can't be told", cure)
        return _Object(self._values, cls, tag, fields)

    def _converter_hooks(self, cls: type) -> _Hooks | None:
        """The hooks the converter has for this very class: neither a predicate's nor a base's."""
        probe = self.converter.copy()
        probe.register_unstructure_hook_factory(_always, _no_hook_for)
        probe.register_structure_hook_factory(_always, _no_hook_for)
        found: list[Any] = []
        for get in (probe.get_unstructure_hook, probe.get_structure_hook):
            hook: Any = get(cls)
            if hook is not _no_hook and all(hook is not get(base) for base in cls.__mro__[1:]):
                found.append(hook)
        if len(found) == 1:
            raise _Refusal(f"the converter has only one hook for {_name(cls)}", "register both")
        return (found[0], found[1]) if found else None

    def _read_form(self, kind: str, data: Any, depth: int) -> Any:
        tag, *payload = data if _is(data, list) else [None]
        form = self._form(self._class(tag))
        if form.kind != kind:
            problem = f"{_name(form.cls)} was written as {kind}, but is read as {form.kind}"
            raise _Refusal(problem, "register it as it was then, with or without hooks")
        return form.read(payload, depth)
