"""A text, or JSON, to a value of an annotation: `from_text`, `from_json`; and `expected`, an annotation in words.

What a text means is decided by the annotation alone: ``5`` is a number where one is expected, and a text elsewhere.

- ``str``: the text as it is. ``bool``: true, false, yes, no, on, off, 1, 0. ``int``, ``float``, ``complex``,
  ``Decimal``, ``Fraction``: as Python reads them. ``None``: none, null, or nothing.
- An enum: a member's name, else its value. ``Literal``: what its members look like.
- ``datetime``, ``date``, ``time``: ISO 8601. ``timedelta``: seconds, ``1h30m``, ``2d`` or ``1:30:00``.
- ``UUID``, ``Path``; ``bytes``: the text in UTF-8.
- A union: the first of its members that the text fits; ``None`` goes before the others, and ``str`` after them.
- Lists, tuples, sets, dicts, attrs classes (events, too), dataclasses, named tuples, typed dicts: JSON, whose inner
  values are read by the inner annotations.
- ``Any``, and what has no annotation: as JSON where it looks like it (``5``, ``true``, ``[1, 2]``, ``"5"``), else a
  text.
- Any other class: by the workflow's own converter, if it has one (``Workflow(converter=…)``).

JSON isn't guessed at: a string is no number, and ``1`` is not true.
"""

import collections.abc
import datetime
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any, cast, get_args, get_origin
from uuid import UUID

from flowkit import hints
from flowkit.errors import did_you_mean, shown
from flowkit.events import Event
from flowkit.testing.parameters import MISSING, bare, has_parameters, is_event, items_of, parameters_of

__all__ = ["Convert", "Wrong", "expected", "from_json", "from_text", "type_text"]

Convert = Callable[[Any, Any], Any]
"""A converter's ``structure``: data and a class to an instance."""

_YES, _NO = frozenset({"true", "yes", "on", "1", "y"}), frozenset({"false", "no", "off", "0", "n"})
_NONE = frozenset({"none", "null", ""})
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")
_CLOCK = re.compile(r"(?:(-?\d+)\s*days?,?\s*)?(-?)(\d+):(\d\d)(?::(\d\d(?:\.\d+)?))?")
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_SETS = (set, frozenset, collections.abc.Set, collections.abc.MutableSet)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Wrong(Exception):
    """A value doesn't fit: what was ``wanted``, what was ``given``, and where inside it (``path``)."""

    def __init__(self, wanted: str, given: str, path: str = "", advice: str | None = None) -> None:
        super().__init__(wanted, given, path, advice)
        self.wanted, self.given, self.path, self.advice = wanted, given, path, advice

    def __str__(self) -> str:
        at = f"{self.path} " if self.path else ""
        return f"{at}takes {self.wanted}, but got {self.given}" + (f": {self.advice}" if self.advice else "")


# -------------------------------------------------------------------------------------------------------------- words


def type_text(annotation: Any) -> str:
    """An annotation as its author would write it."""
    if isinstance(annotation, str):
        return annotation
    if annotation is hints.UNRESOLVED:
        return "?"
    if annotation is None or annotation is types.NoneType:
        return "None"
    if get_origin(annotation) is typing.Annotated:
        return type_text(get_args(annotation)[0])
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(map(type_text, get_args(annotation)))
    if get_origin(annotation) is typing.Literal:
        return f"Literal[{', '.join(map(repr, get_args(annotation)))}]"
    arguments = get_args(annotation)
    name: str = getattr(bare(annotation), "__name__", None) or str(annotation).removeprefix("typing.")
    if not arguments:
        return name
    inner = ["..." if one is Ellipsis else type_text(one) for one in arguments]
    return f"{name}[{', '.join(inner)}]"


def expected(annotation: Any) -> str:
    """An annotation in words: what is to be written."""
    members = hints.members(annotation)
    if len(members) > 1:
        words = [expected(one) for one in members]
        return f"{', '.join(words[:-1])} or {words[-1]}"
    (kind,) = members
    return _expected(kind)


def _expected(kind: Any) -> str:
    origin = bare(kind)
    if get_origin(kind) is typing.Literal:
        return " or ".join(_literal_text(one) for one in get_args(kind))
    simple: dict[Any, str] = {
        str: "a text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        complex: "a complex number, such as 1+2j",
        Decimal: "a decimal number",
        Fraction: "a fraction, such as 1/3",
        bytes: "a text",
        types.NoneType: "none",
        None: "none",
        datetime.datetime: "a date and time, such as 2026-01-31T12:00",
        datetime.date: "a date, such as 2026-01-31",
        datetime.time: "a time, such as 12:00",
        datetime.timedelta: "a duration, such as 90 (seconds), 1h30m or 2d",
        UUID: "a UUID",
    }
    if origin in simple:
        return simple[origin]
    if isinstance(origin, type):
        if issubclass(origin, Enum):
            names = list(origin.__members__)
            return f"one of {', '.join(names)}" if len(names) > 1 else names[0] if names else f"a {origin.__name__}"
        if issubclass(origin, PurePath):
            return "a path"
    if _is_listlike(origin):
        return f"a JSON list ({type_text(kind)})"
    if origin in _DICTS or _is_object(origin):
        return f"a JSON object ({type_text(kind)})"
    return f"a {type_text(kind)}" if isinstance(origin, type) and origin is not object else "anything"


def _literal_text(value: Any) -> str:
    return value.name if isinstance(value, Enum) else str(value)


def _is_listlike(origin: Any) -> bool:
    return origin in _LISTS or origin in _SETS or origin is tuple


def _is_object(origin: Any) -> bool:
    return isinstance(origin, type) and (has_parameters(origin) or is_event(origin) or typing.is_typeddict(origin))


def _is_open(kind: Any) -> bool:
    return kind in (Any, object, hints.UNRESOLVED) or isinstance(kind, typing.TypeVar)


# --------------------------------------------------------------------------------------------------------------- text


_EXAMPLES = {(str,): '["a", "b"]', (int,): "[1, 2]", (float,): "[1.5, 2]"}


def from_text(text: str, annotation: Any, convert: Convert | None = None) -> Any:
    """What a text means where this annotation is.

    Raises:
        Wrong: nothing.
    """
    members = hints.members(annotation)
    if len(members) == 1:
        return _text(text, members[0], convert)
    if types.NoneType in members or None in members:
        if text.strip().lower() in _NONE:
            return None
        members = [one for one in members if one not in (types.NoneType, None)]
    errors: list[Wrong] = []
    for member in sorted(members, key=lambda one: one is str):
        if member is bool and text.strip() in ("0", "1") and {int, float}.intersection(members):
            continue
        try:
            return _text(text, member, convert)
        except Wrong as error:
            errors.append(error)
    raise _nearest(errors, annotation, members, shown(text), "")


def _nearest(errors: list[Wrong], annotation: Any, members: Sequence[Any], given: str, path: str) -> Wrong:
    """What is wrong with something that fits no member of a union: where one of them was nearly it, what is wrong with
    it as that."""
    plain = [_expected(member) for member in members]
    near = [error for error in errors if error.path != path or error.wanted not in plain]
    advice = errors[0].advice if len(errors) == 1 else None
    return near[0] if len(near) == 1 else Wrong(expected(annotation), given, path, advice)


def _text(text: str, kind: Any, convert: Convert | None) -> Any:
    if _is_open(kind):
        return _guessed(text)
    origin = bare(kind)
    if origin is str:
        return text
    if get_origin(kind) is typing.Literal:
        return _literal(text, kind)
    read = _LEAVES.get(origin)
    if read is not None:
        try:
            return read(text.strip() if origin is not bytes else text)
        except (ValueError, ArithmeticError, InvalidOperation):
            raise Wrong(_expected(kind), shown(text)) from None
    if isinstance(origin, type) and issubclass(origin, Enum):
        return _enum(text, origin)
    if isinstance(origin, type) and issubclass(origin, PurePath):
        return origin(text)
    if _is_listlike(origin) or origin in _DICTS or _is_object(origin):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            advice = "write it in quotes, so that the shell leaves it alone" if text[:1] in ("[", "{") else None
            if advice is None and (example := _EXAMPLES.get(get_args(kind)[:1])) and _is_listlike(origin):
                advice = f"write it as '{example}'"
            raise Wrong(_expected(kind), shown(text), "", advice) from None
        return from_json(data, kind, convert)
    return _converted(text, kind, convert, "")


def _guessed(text: str) -> Any:
    """As JSON where it looks like it: a text that isn't JSON is what it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _literal(text: str, kind: Any) -> Any:
    members = {_literal_text(one): one for one in reversed(get_args(kind))}
    if text in members:
        return members[text]
    for name, one in members.items():
        if name.lower() == text.strip().lower():
            return one
    raise Wrong(_expected(kind), shown(text), "", did_you_mean(text, members))


def _enum(text: str, kind: type[Enum]) -> Any:
    members = kind.__members__
    if text in members:
        return members[text]
    for one in kind:
        if str(one.value) == text:
            return one
    for name, one in members.items():
        if name.lower() == text.strip().lower():
            return one
    raise Wrong(_expected(kind), shown(text), "", did_you_mean(text, members))


def _bool(text: str) -> bool:
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise ValueError(text)


def _none(text: str) -> None:
    if text.lower() not in _NONE:
        raise ValueError(text)


def _timedelta(text: str) -> datetime.timedelta:
    if clock := _CLOCK.fullmatch(text):  # also Python's own way to write it: -1 day, 23:59:59
        days, minus, hours, minutes, seconds = clock.groups()
        found = datetime.timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds or 0))
        return datetime.timedelta(int(days or 0)) + (-found if minus else found)
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text)
    if text and _DURATION.sub("", text) == "":
        return sign * datetime.timedelta(seconds=sum(float(n) * _UNITS[unit] for n, unit in _DURATION.findall(text)))
    return sign * datetime.timedelta(seconds=float(text))


_LEAVES: dict[Any, Callable[[str], Any]] = {
    bool: _bool,
    int: int,
    float: float,
    complex: complex,
    Decimal: Decimal,
    Fraction: Fraction,
    bytes: lambda text: text.encode(),
    types.NoneType: _none,
    None: _none,
    datetime.datetime: datetime.datetime.fromisoformat,
    datetime.date: datetime.date.fromisoformat,
    datetime.time: datetime.time.fromisoformat,
    datetime.timedelta: _timedelta,
    UUID: UUID,
}
"""What one word of text is read by. They raise `ValueError` or an `ArithmeticError`."""
_BY_TEXT = {
    complex,
    Decimal,
    Fraction,
    bytes,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    UUID,
}


# --------------------------------------------------------------------------------------------------------------- JSON


def from_json(data: Any, annotation: Any, convert: Convert | None = None, path: str = "") -> Any:
    """What JSON means where this annotation is.

    Raises:
        Wrong: nothing.
    """
    members = hints.members(annotation)
    if len(members) == 1:
        return _json(data, members[0], convert, path)
    errors: list[Wrong] = []
    for member in sorted(members, key=lambda one: one is str):
        try:
            return _json(data, member, convert, path)
        except Wrong as error:
            errors.append(error)
    raise _nearest(errors, annotation, members, _shown(data), path)


def _json(data: Any, kind: Any, convert: Convert | None, path: str) -> Any:
    if _is_open(kind):
        return data
    origin = bare(kind)
    wrong = Wrong(_expected(kind), _shown(data), path)
    if get_origin(kind) is typing.Literal:
        found = [one for one in get_args(kind) if type(one) is type(data) and one == data]
        found = found or [one for one in get_args(kind) if isinstance(one, Enum) and one.name == data]
        if not found:
            raise wrong
        return found[0]
    if origin in (str, bool, types.NoneType, None):
        if not isinstance(data, origin or types.NoneType):
            raise wrong
        return data
    if origin in (int, float):
        if isinstance(data, bool) or not isinstance(data, int if origin is int else int | float):
            raise wrong
        return data if origin is int else float(data)
    if origin in _BY_TEXT:
        if isinstance(data, bool) or not isinstance(data, str | int | float):
            raise wrong
        return _inner(str(data), kind, convert, path)
    if isinstance(origin, type) and issubclass(origin, Enum):
        for one in origin:
            if one.value == data and type(one.value) is type(data):
                return one
        if not isinstance(data, str):
            raise wrong
        return _inner(data, kind, convert, path)
    if isinstance(origin, type) and issubclass(origin, PurePath):
        if not isinstance(data, str):
            raise wrong
        return origin(data)
    if _is_listlike(origin):
        return _list(data, kind, convert, path)
    if origin in _DICTS:
        return _dict(data, kind, convert, path)
    if _is_object(origin):
        return _object(data, kind, convert, path)
    return _converted(data, kind, convert, path)


def _inner(text: str, kind: Any, convert: Convert | None, path: str) -> Any:
    try:
        return _text(text, kind, convert)
    except Wrong as error:
        raise Wrong(error.wanted, error.given, path, error.advice) from None


def _list(data: Any, kind: Any, convert: Convert | None, path: str) -> Any:
    if not isinstance(data, list):
        raise Wrong(_expected(kind), _shown(data), path)
    members: list[Any] = data  # pyright: ignore[reportUnknownVariableType]
    origin, arguments = bare(kind), get_args(kind)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        wanted = [] if arguments == ((),) else list(arguments)
        if len(wanted) != len(members):
            count = f"a JSON list of {len(wanted)} ({type_text(kind)})"
            raise Wrong(count, _shown(members), path)
        return tuple(
            from_json(one, inner, convert, f"{path}[{number}]")
            for number, (one, inner) in enumerate(zip(members, wanted, strict=True))
        )
    inner = arguments[0] if arguments else Any
    found = [from_json(one, inner, convert, f"{path}[{number}]") for number, one in enumerate(members)]
    if origin in _SETS:
        try:
            return frozenset(found) if origin in (frozenset, collections.abc.Set) else set(found)
        except TypeError:
            raise Wrong("members that can be in a set", _shown(members), path) from None
    return tuple(found) if origin is tuple else found


def _dict(data: Any, kind: Any, convert: Convert | None, path: str) -> dict[Any, Any]:
    if not isinstance(data, dict):
        raise Wrong(_expected(kind), _shown(data), path)
    keys, values = get_args(kind) or (Any, Any)
    given = cast("dict[str, Any]", data)
    return {
        (key if _is_open(hints.plain(keys)) else _inner_key(key, keys, convert, path)): from_json(
            one, values, convert, f"{path}[{key!r}]"
        )
        for key, one in given.items()
    }


def _inner_key(key: str, kind: Any, convert: Convert | None, path: str) -> Any:
    try:
        return from_text(key, kind, convert)
    except Wrong as error:
        raise Wrong(f"{error.wanted} as a key", error.given, path, error.advice) from None


def _object(data: Any, kind: Any, convert: Convert | None, path: str) -> Any:
    origin: Any = bare(kind)
    name = origin.__name__
    is_dict = typing.is_typeddict(origin)
    if isinstance(data, list) and issubclass(origin, tuple):  # a named tuple
        members: list[Any] = data  # pyright: ignore[reportUnknownVariableType]
        names = [one.keyword for one in parameters_of(kind, {})]
        data = dict(zip(names, members, strict=False)) if len(members) <= len(names) else members
    if not isinstance(data, dict):
        raise Wrong(_expected(kind), _shown(data), path)
    given: dict[str, Any] = data  # pyright: ignore[reportUnknownVariableType]
    if is_event(origin) and cast("type[Event]", origin).__flowkit_open__:
        return _built(origin, given, path)
    known = {one.keyword: one for one in (items_of if is_dict else parameters_of)(kind, {})}
    for key in given:
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has no fields"
            raise Wrong(f"the fields of {name}", repr(key), path, did_you_mean(key, known) or has)
    if missing := [key for key, one in known.items() if one.default is MISSING and key not in given]:
        listed = ", ".join(f"{key}: {type_text(known[key].annotation)}" for key in missing)
        raise Wrong(f"all fields of {name}", f"none for {listed}", path)
    values = {key: from_json(one, known[key].annotation, convert, f"{path}.{key}") for key, one in given.items()}
    return values if is_dict else _built(origin, values, path)


def _built(cls: Any, fields: Mapping[str, Any], path: str) -> Any:
    try:
        return cls(**fields)
    except Exception as error:  # the author's validators
        raise Wrong(f"a valid {cls.__name__}", f"{type(error).__name__}: {error}", path) from error


def _converted(data: Any, kind: Any, convert: Convert | None, path: str) -> Any:
    name = type_text(kind)
    if convert is None:
        advice = "give the workflow a converter that makes one (Workflow(converter=…)), or call run() in a script"
        raise Wrong(f"a {name}, which can't be written on a command line", _shown(data), path, advice)
    try:
        return convert(data, kind)
    except Exception as error:  # the author's hooks
        raise Wrong(f"a {name}", f"{_shown(data)} ({type(error).__name__}: {error})", path) from error


def _shown(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False, default=repr)
    return text if len(text) <= 80 else f"{text[:77]}..."
