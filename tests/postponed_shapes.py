"""Events in a module that postpones its annotations."""

from __future__ import annotations

import dataclasses
from typing import Generic, NamedTuple, NotRequired, TypedDict, TypeVar

import attrs

from flowkit import Event

T = TypeVar("T")


class Late(Event):
    name: str
    parts: list[Piece] = attrs.field(factory=list)
    spot: Place | None = None


@attrs.frozen
class Piece:
    size: int = attrs.field(validator=attrs.validators.ge(1))
    beside: Piece | None = None


class Place(NamedTuple):
    x: int
    label: str = "here"


class Wrapped(Event, Generic[T]):
    item: T
    more: list[T]
    quoted: list[T] | None


class LateItems(TypedDict):
    name: str
    size: NotRequired[int]


@dataclasses.dataclass
class Record:
    items: LateItems
    inner: dataclasses.InitVar[int] = 3
    tags: list[str] = dataclasses.field(default_factory=list)


class WithItems(Event):
    items_: LateItems
    record: Record


class Inner(Event):
    class Level(TypedDict):
        depth: int

    level: Level


def made_in_a_function() -> type[Event]:
    @attrs.frozen
    class Local:
        x: int

    class Holder(Event):
        local: Local
        itself: Holder | None = None

    return Holder
