"""Whether two values of two runs are alike: equal, or equal but for what can't be.

Results and states of two runs are different objects. Those of a class without an ``__eq__`` of its own, exceptions and
NaN are never equal, and arrays don't say in one word whether they are: all these are compared by what they hold.
"""

import re
from collections.abc import Mapping, Set
from dataclasses import is_dataclass
from typing import Any

import attrs

from flowkit.errors import shown

__all__ = ["alike", "steady"]

DEEPEST = 30
"""How deep values are compared; further in they are alike."""

LONGEST = 20_000
"""Characters of a text that are compared."""

_VARIABLE = re.compile(r"0x[0-9a-fA-F]+|\bid='?\d{6,}'?|\b(Task|Thread)-\d+")


def steady(value: Any) -> str:
    """Its `repr`, without what differs from run to run and means nothing: addresses, and how many there were before."""
    return _VARIABLE.sub("…", shown(value, LONGEST))


def alike(one: Any, other: Any, depth: int = 0) -> bool:
    """Whether they are alike."""
    if one is other or depth > DEEPEST:
        return True
    try:
        if one == other:
            return True
        knows = True
    except Exception:  # noqa: BLE001 - an array in it isn't true or false; what else it may be is the author's business
        knows = False
        if hasattr(one, "tolist") and hasattr(other, "tolist"):
            return alike(one.tolist(), other.tolist(), depth + 1)
    if type(one) is not type(other):
        return False
    if knows and one != one:  # NaN, of whichever type
        return steady(one) == steady(other)
    these, those = _parts(one), _parts(other)
    if these is None or those is None:
        return not knows and steady(one) == steady(other)
    return len(these) == len(those) and all(
        this[0] == that[0] and alike(this[1], that[1], depth + 1) for this, that in zip(these, those, strict=True)
    )


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """What a value that isn't equal to another holds, each part with its name; ``None`` where it knows for itself."""
    anything: Any = value  # narrowed, it would be of types that no checker knows
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [(at, part) for at, part in enumerate(anything)]
    if isinstance(value, Mapping):
        return sorted(((steady(key), part) for key, part in anything.items()), key=_name)
    if isinstance(value, Set):
        return [(text, None) for text in sorted(map(steady, anything))]
    if isinstance(value, BaseException):
        return [("", str(value)), ("args", value.args), *_fields(value)]
    if attrs.has(kind) or is_dataclass(kind) or kind.__eq__ is object.__eq__:
        return _fields(value) or [("", steady(value))]
    return None


def _fields(value: Any) -> list[tuple[str, Any]]:
    slots = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ()) if name != "__dict__"]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
    return sorted(found.items(), key=_name)


def _name(part: tuple[str, Any]) -> str:
    return part[0]
