"""Containers of values, and whatever is in them: lists, tuples, sets, dicts and their kin, moments in time.

serialization.py tells the format.
"""

import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import datetime, time
from types import NoneType
from typing import Any, cast

from flowkit.leaves import (
    LEAF_READERS,
    LEAF_WRITERS,
    MALFORMED,
    MAX_DEPTH,
    SELVES,
    TO_JSON,
    Read,
    Refusal,
    Write,
    brief,
    check_depth,
    check_keys,
    class_name,
    is_exactly,
    path_step,
    scalar_text,
    write_str,
)

__all__ = ["CONTAINERS", "Values"]

CONTAINERS = (list, tuple, set, frozenset, dict, OrderedDict, Counter, defaultdict, deque, slice, datetime, time)


class _Writers(dict[type, Write]):
    """Writers by exact type. One that is missing is made when it is first needed."""

    def __init__(self, make: Callable[[type], Write], given: dict[type, Write]) -> None:
        super().__init__(given)
        self.make = make

    def __missing__(self, kind: type) -> Write:
        writer = self[kind] = self.make(kind)
        return writer


class Values:
    """Writes and reads anything: leaves and containers by itself, classes by what is added."""

    def __init__(self, make: Callable[[type], Write]) -> None:
        own_writers: dict[type, Write] = {
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
        self.writers = _Writers(make, {**LEAF_WRITERS, **own_writers})
        self.readers: dict[str, Read] = {
            **LEAF_READERS,
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
        check_depth(depth)
        writers, data = self.writers, list[Any]()
        depth += 1
        for item in value:
            try:
                data.append(writers[type(item)](item, depth))
            except Refusal as refusal:
                refusal.trail.append(f"{place}[{len(data)}]")
                raise
        return data

    def read_list(self, data: Any, depth: int, place: str = "") -> list[Any]:
        if not is_exactly(data, list):
            raise ValueError("a list is expected")
        items: list[Any] = []
        depth += 1
        for item in data:
            try:
                items.append(self.read(item, depth))
            except Refusal as refusal:
                refusal.trail.append(f"{place}[{len(items)}]")
                raise
        return items

    def write_items(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        writers, data = self.writers, dict[str, Any]()
        for key, item in value.items():
            try:
                data[key] = writers[type(item)](item, depth)
            except Refusal as refusal:
                refusal.trail.append(path_step(key))
                raise
        return data

    def read_items(self, data: dict[str, Any], depth: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, item in data.items():
            try:
                value[key] = self.read(item, depth)
            except Refusal as refusal:
                refusal.trail.append(path_step(key))
                raise
        return value

    def write_set(self, value: Any, depth: int) -> Any:
        members = list(value)
        check_keys(members)
        return {f"${type(value).__name__}": sorted(self.write_list(members, depth), key=TO_JSON.encode)}

    def read_keys(self, data: Any, depth: int, place: str = "") -> list[Any]:
        keys = self.read_list(data, depth, place)
        check_keys(keys)
        return keys

    def write_dict(self, value: dict[Any, Any], depth: int) -> Any:
        check_depth(depth)
        for key in value:
            if type(key) is not str or key.startswith("$") or write_str(key, depth) is not key:
                return {"$dict": self.write_pairs(value, depth)}
        return self.write_items(value, depth + 1)

    def write_pairs(self, value: dict[Any, Any], depth: int) -> list[Any]:
        pairs = list(value.items())
        keys = [key for key, _ in pairs]
        check_keys(keys)
        items = self.write_list([item for _, item in pairs], depth, ".values()")
        return [self.write_list(keys, depth, ".keys()"), items]

    def read_pairs(self, data: Any, depth: int) -> dict[Any, Any]:
        keys, items = data
        read_keys = self.read_keys(keys, depth, ".keys()")
        return dict(zip(read_keys, self.read_list(items, depth, ".values()"), strict=True))

    def write_mapping(self, value: Any, depth: int) -> Any:
        kind = cast(type, value.__class__)
        if getattr(value, "__dict__", None):
            raise Refusal(f"this {class_name(kind)} has attributes of its own", "put them in fields beside it")
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
        text, fold, zone = data if is_exactly(data, list) else (data, 0, None)
        value, zone = cls.fromisoformat(text), self.read(zone, depth)
        if value.tzinfo is not None or value.isoformat() != text or type(fold) is not int:
            raise ValueError("it isn't written like that")
        return value.replace(tzinfo=zone, fold=fold)

    def read(self, data: Any, depth: int) -> Any:
        kind: Any = cast(Any, type)(data)
        if kind in SELVES or (kind is float and math.isfinite(data)):
            return data
        if kind is not dict and kind is not list:
            raise Refusal(f"{data if kind is float else class_name(kind)} isn't JSON data", MALFORMED)
        if depth > MAX_DEPTH:
            check_depth(depth)
        if kind is list:
            return self.read_list(data, depth)
        for key in data:
            if type(key) is not str:
                raise Refusal(f"JSON data has no key {scalar_text(key)}", MALFORMED)
            if key.startswith("$"):
                return self.read_tagged(data, depth)
        return self.read_items(data, depth + 1)

    def read_tagged(self, data: dict[str, Any], depth: int) -> Any:
        key, *others = data
        if others or key not in self.readers:
            raise Refusal(f"nothing is written as a dict with the key {scalar_text(key)}", MALFORMED)
        try:
            return self.readers[key](data[key], depth)
        except Refusal:
            raise
        except Exception as error:  # damaged data fails in as many ways as there are types
            raise Refusal(f"{key} can't be read, {brief(error)}", MALFORMED) from error
