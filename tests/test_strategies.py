"""`testing.events`: of each shape of event the right values, all of them, and the simplest last."""

import abc
import enum
import math
import os
import pickle
import re
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from numbers import Number
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NoReturn,
    NotRequired,
    Optional,
    Self,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID, uuid4

import attrs
import postponed_shapes
import pytest
from attrs import validators as v
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from flowkit import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StepFailedEvent, StopEvent, testing
from flowkit.errors import EventError
from flowkit.serialization import Codec
from flowkit.testing.problems import TestingError
from flowkit.testing.registered import FROM_THE_START, Registered
from flowkit.testing.strategies import NoStrategy, events

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
N = TypeVar("N", int, str)


def drawn(strategy: st.SearchStrategy[Any], count: int = 100) -> list[Any]:
    """What a test is given, always the same; Hypothesis' own health checks are on."""
    examples: list[Any] = []

    @settings(max_examples=count, derandomize=True, database=None, phases=[Phase.generate], deadline=None)
    @given(strategy)
    def collect(example: Any) -> None:
        examples.append(example)

    collect()
    return examples


def simplest(strategy: st.SearchStrategy[Any], condition: Callable[[Any], bool] = lambda event: True) -> Any:
    phases = [Phase.generate, Phase.shrink]
    quick = settings(max_examples=10_000, derandomize=True, database=None, phases=phases, deadline=None)
    return find(strategy, condition, settings=quick)


# ------------------------------------------------------------------------------------------------------- the table


@attrs.frozen
class Shape:
    """What is expected of the events of one type."""

    of: Any
    simplest: str
    always: Callable[[Any], bool]
    finds: tuple[Callable[[Any], Any], ...]
    stored: bool
    count: int


SHAPES: list[Shape] = []


def shape(
    simplest: str,
    *finds: Callable[[Any], Any],
    always: Callable[[Any], bool] = lambda event: True,
    stored: bool = True,
    count: int = 40,
) -> Callable[[Any], Any]:
    """The simplest event's repr; conditions that some events fulfil; one that each does."""

    def register(of: Any) -> Any:
        SHAPES.append(Shape(of, simplest, always, finds, stored, count))
        return of

    return register


def every(*kinds: type) -> tuple[Callable[[Any], bool], ...]:
    """Conditions: the field ``x`` is of each of these types, now and then."""
    return tuple(lambda event, kind=kind: type(event.x) is kind for kind in kinds)


def either_of(*values: Any) -> tuple[Callable[[Any], bool], ...]:
    return tuple(lambda event, value=value: event.x == value for value in values)


class Color(enum.Enum):
    RED = 1
    BLUE = "b"


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


# ---- plain fields


@shape("Plain(name='', count=0)", lambda e: e.name, lambda e: e.count < 0, lambda e: not e.name.isascii())
class Plain(Event):
    name: str
    count: int


@shape("Nothing()")
class Nothing(Event):
    pass


@shape("Scalars(a=False, b=0.0, c=b'', d=None)", lambda e: e.a, lambda e: math.isinf(e.b), always=lambda e: e.b == e.b)
class Scalars(Event):
    a: bool
    b: float
    c: bytes
    d: None


@shape("Odd(a=0j, b=bytearray(b''), c=Fraction(0, 1), d=Decimal('0'))", always=lambda e: e.d.is_finite())
class Odd(Event):
    a: complex
    b: bytearray
    c: Fraction
    d: Decimal


@shape("Moments(a=datetime.date(2000, 1, 1), b=datetime.datetime(2000, 1, 1, 0, 0), c=datetime.time(0, 0), "
       "d=datetime.timedelta(0))", always=lambda e: e.b.tzinfo is None)  # fmt: skip
class Moments(Event):
    a: date
    b: datetime
    c: time
    d: timedelta


@shape("Things(a=UUID('00000000-0000-0000-0000-000000000000'), b=PosixPath('.'))", lambda e: len(e.b.parts) > 1)
class Things(Event):
    a: UUID
    b: Path


@shape("Anything(x=None)", *every(bool, int, float, str, list, dict), always=lambda e: e == e, count=200)
class Anything(Event):
    x: Any


@shape("Object(x=None)", *every(bool, int, str))
class Object(Event):
    x: object


@shape("Numbers(x=0)", *every(int, float, Decimal, complex), always=lambda e: e.x == e.x)
class Numbers(Event):
    x: Number


@shape("Choice(x=1)", *either_of(1, "a", Color.RED, None))
class Choice(Event):
    x: Literal[1, "a", Color.RED, None]


@shape("Colored(x=<Color.RED: 1>)", *either_of(Color.RED, Color.BLUE))
class Colored(Event):
    x: Color


@shape("Allowed(x=<Right.READ: 1>)", *either_of(Right.READ, Right.WRITE))
class Allowed(Event):
    x: Right


UserId = NewType("UserId", int)


@shape("Named(x=0, y='', z=[])")
class Named(Event):
    x: UserId
    y: Annotated[str, "a note"]
    z: Final[list[int]]
    constant: ClassVar[int] = 3


@shape("Digit(x=0)", *either_of(0, 9), always=lambda e: 0 <= e.x <= 9)
class Digit(Event):
    x: Annotated[int, st.integers(0, 9)]


class Sku(str):
    pass


@shape("Wares(x='')", lambda e: e.x, always=lambda e: type(e.x) is Sku, stored=False)
class Wares(Event):
    x: Sku


@shape("Kinds(x=<class 'test_strategies.Shape1'>)", lambda e: e.x is Square, stored=False)
class Kinds(Event):
    x: "type[Shape1]"


class Shape1(Event):
    pass


class Square(Shape1):
    pass


@shape("Failed(x=Exception(''))", *every(ValueError, RuntimeError), stored=False)
class Failed(Event):
    x: Exception


@shape("Refused(x=KeyError(''))", always=lambda e: type(e.x) is KeyError, stored=False)
class Refused(Event):
    x: KeyError


# ---- unions


@shape("Both(x=0)", *every(int, str))
class Both(Event):
    x: int | str


@shape("Maybe(x=None)", *every(type(None), list))
class Maybe(Event):
    x: list[int] | None


@shape("Old(x=None, y=None)", *every(type(None), int, str))
class Old(Event):
    x: Union[int, str, None]  # noqa: UP007
    y: Optional["Plain"]


@shape("MaybeFlag(x=None)", *either_of(None, False, True, Color.RED))
class MaybeFlag(Event):
    x: bool | Color | None


# ---- collections


@shape("Lists(a=[], b=[], c=[], d=deque([]))", lambda e: len(e.a) > 5, always=lambda e: type(e.c) is list)
class Lists(Event):
    a: list[int]
    b: list  # type: ignore[type-arg]
    c: Sequence[str]
    d: deque[bool]


@shape("Tuples(a=(), b=(0, ''), c=(), d=())", lambda e: len(e.a) > 3, always=lambda e: len(e.b) == 2 and e.d == ())
class Tuples(Event):
    a: tuple[int, ...]
    b: tuple[int, str]
    c: tuple  # type: ignore[type-arg]
    d: tuple[()]


@shape("Sets(a=set(), b=frozenset(), c=set(), d=set())", lambda e: len(e.a) > 2,
       always=lambda e: all(type(one) is frozenset for one in e.d))  # fmt: skip
class Sets(Event):
    a: set[int]
    b: frozenset[tuple[str, bool]]
    c: Set[Any]
    d: set[Set[int]]


@shape("Mappings(a={}, b={}, c=OrderedDict(), d=defaultdict(<class 'list'>, {}), e=Counter())",
       always=lambda e: type(e.b) is dict and e.d["new"] == [] and all(one >= 0 for one in e.a.values()))  # fmt: skip
class Mappings(Event):
    a: dict[str, int] = attrs.field(validator=v.deep_mapping(v.instance_of(str), v.ge(0)))
    b: Mapping[tuple[int, ...], list[str]]
    c: OrderedDict[str, int]
    d: defaultdict[str, list[int]]
    e: Counter[str]


@shape("Iterables(a=[], b=[])", stored=False)
class Iterables(Event):
    a: Iterable[int]
    b: list[Hashable]


# ---- other classes inside


@attrs.define
class Point:
    x: int
    _secret: str = "s"
    label: str = attrs.field(default="l", kw_only=True)


@dataclass
class Size:
    width: int
    factor: InitVar[int] = 1  # without a default, Hypothesis can't print one
    tags: list[str] = field(default_factory=list)
    area: int = field(init=False, default=0)

    def __post_init__(self, factor: int) -> None:
        if factor < 0:
            raise ValueError(factor)
        self.area = self.width * factor


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Options(TypedDict):
    name: str
    size: NotRequired[int]


@shape("Holder(point=Point(x=0, _secret='s', label='l'), size=Size(width=0, tags=[], area=0), "
       "pair=Pair(left=0, right='r'), options={'name': ''}, inner=Plain(name='', count=0))",
       lambda e: e.point.label != "l", lambda e: e.size.tags, lambda e: e.pair.right not in ("r", ""),
       lambda e: "size" in e.options, lambda e: e.size.area, lambda e: e.inner.name)  # fmt: skip
class Holder(Event):
    point: Point
    size: Size
    pair: Pair
    options: Options
    inner: Plain


@shape("InSets(a=frozenset(), b=set())", lambda e: e.a, lambda e: e.b)
class InSets(Event):
    a: frozenset[Plain]
    b: set[Pair]


# ---- generics


@shape("Box(item=None)", lambda e: type(e.item) is int, lambda e: type(e.item) is str)
class Box(Event, Generic[T]):
    item: T


shape("Box(item=0)", lambda e: e.item > 0, always=lambda e: type(e.item) is int)(Box[int])
shape("Box(item=[])", lambda e: e.item, always=lambda e: type(e.item) is list)(Box[list[str]])
shape("Box(item=Box(item=False))", lambda e: e.item.item, always=lambda e: type(e.item.item) is bool)(Box[Box[bool]])


@shape("Prices(item=0, count=0)", always=lambda e: type(e.item) is int)
class Prices(Box[int]):
    count: int


@shape("Keyed(item='', keys={}, more=[])", always=lambda e: type(e.item) is str)
class Keyed(Box[str], Generic[K]):
    keys: dict[K, Box[K]]
    more: list[K]


@shape("Constrained(x=0)", *every(int, str))
class Constrained(Event, Generic[N]):
    x: N


# ---- recursion


def size_of(tree: Any) -> int:
    return 1 + sum(map(size_of, tree.children))


def depth_of(tree: Any) -> int:
    return 1 + max(map(depth_of, tree.children), default=0)


@shape("Tree(value=0, children=[])", lambda e: depth_of(e) >= 4, lambda e: len(e.children) >= 3,
       always=lambda e: depth_of(e) <= 5 and size_of(e) < 200, count=200)  # fmt: skip
class Tree(Event):
    value: int
    children: list["Tree"]


@shape("Chain(next=None)", lambda e: e.next and e.next.next)
class Chain(Event):
    next: Self | None


@shape("Ping(pong=Pong(ping=None, name=''))", lambda e: e.pong.ping)
class Ping(Event):
    pong: "Pong"


@shape("Pong(ping=None, name='')", lambda e: e.ping and e.ping.pong.name)
class Pong(Event):
    ping: Ping | None
    name: str


@shape("Branches(left=None, right=None, by_name={}, pairs=())", lambda e: e.left and e.right, lambda e: e.by_name,
       lambda e: e.pairs)  # fmt: skip
class Branches(Event):
    left: "Branches | None"
    right: "Branches | None"
    by_name: dict[str, "Branches"]
    pairs: tuple[tuple["Branches", int], ...]


class Expr(Event, abc.ABC):
    @abc.abstractmethod
    def value(self) -> int: ...


class Sum(Expr):
    left: Expr
    right: Expr

    def value(self) -> int:
        return self.left.value() + self.right.value()


class Num(Expr):
    n: int

    def value(self) -> int:
        return self.n


shape("Num(n=0)", lambda e: type(e) is Num, lambda e: type(e) is Sum and type(e.right) is Sum)(Expr)
shape("Sum(left=Num(n=0), right=Num(n=0))", lambda e: type(e.left) is Sum)(Sum)


@shape("Growing(item=None, inner=None)", lambda e: e.inner and e.inner.item == [], stored=False)
class Growing(Event, Generic[T]):
    item: T
    inner: "Growing[list[T]] | None"


JSON = Union[None, int, list["JSON"], dict[str, "JSON"]]  # noqa: UP007


@shape("Json(x=None)", *every(int, list, dict), lambda e: type(e.x) is list and [] in e.x, stored=False)
class Json(Event):
    x: JSON


@shape("Group(members=[0])", lambda e: any(isinstance(one, Group) for one in e.members), always=lambda e: e.members)
class Group(Event):
    members: list["Group | int"]

    def __attrs_post_init__(self) -> None:
        if not self.members:
            raise ValueError("empty")


# ---- defaults


@shape("Defaults(a=5, b='b', c=None, d=[], e=[1])", lambda e: e.a != 5, lambda e: e.a == 5 and e.b == "b",
       lambda e: e.c is not None, lambda e: e.d, lambda e: e.e not in ([1], []))  # fmt: skip
class Defaults(Event):
    a: int = 5
    b: str = "b"
    c: int | None = None
    d: list[int] = attrs.field(factory=list)
    e: list[int] = attrs.field(factory=lambda: [1])


@shape("ByKeyword(a=1, b=0)", lambda e: e.b)
class ByKeyword(Event):
    a: int = 1
    b: int = attrs.field(kw_only=True)


@shape("Derived(a=0, twice=0, fixed='f', hidden=7)", lambda e: e.a and e.twice == 2 * e.a,
       lambda e: e.twice != 2 * e.a, always=lambda e: e.fixed == "f")  # fmt: skip
class Derived(Event):
    a: int
    twice: int = attrs.field(default=attrs.Factory(lambda self: 2 * self.a, takes_self=True))
    fixed: str = attrs.field(default="f", init=False)
    hidden: int = attrs.field(default=7, alias="shown", kw_only=True)


@shape("Chosen(x='b')", *either_of("a", "b", "c"))
class Chosen(Event):
    x: Literal["a", "b", "c"] = "b"


@shape("Private(_x=0, count=0)")
class Private(Event):
    _x: int
    count: int = attrs.field(alias="how_many")


@shape("Stamped(id=UUID('00000000-0000-0000-0000-000000000000'), at=datetime.datetime(2000, 1, 1, 0, 0))")
class Stamped(Event):
    id: UUID = attrs.field(factory=uuid4)
    at: datetime = attrs.field(factory=lambda: datetime.now(UTC))


# ---- validators


@shape("Bounded(x=3, y=1.0, z=Decimal('0'))", lambda e: e.x == 3, lambda e: e.x == 9,
       always=lambda e: 3 <= e.x < 10 and 0 < e.y <= 1 and -1 < e.z <= 1)  # fmt: skip
class Bounded(Event):
    x: int = attrs.field(validator=[v.ge(3), v.lt(10)])
    y: float = attrs.field(validator=v.and_(v.gt(0), v.le(1)))
    z: Decimal = attrs.field(validator=[v.gt(-1), v.le(1)])


@shape("Fractional(x=1, y=1.0)", always=lambda e: e.x >= 1 and e.y >= Decimal("0.1"))
class Fractional(Event):
    x: int = attrs.field(validator=v.gt(0.5))
    y: float = attrs.field(validator=v.ge(Decimal("0.1")))


@shape("Sized(a='000', b=[0], c=b'', d=set())", lambda e: len(e.a) == 5, lambda e: len(e.b) > 1,
       always=lambda e: 3 <= len(e.a) <= 5 and e.b and len(e.c) <= 1)  # fmt: skip
class Sized(Event):
    a: str = attrs.field(validator=[v.min_len(3), v.max_len(5)])
    b: list[int] = attrs.field(validator=v.min_len(1))
    c: bytes = attrs.field(validator=v.max_len(1))
    d: set[bool] = attrs.field(validator=v.max_len(2))


@shape("Code(x='AA-0', y='a')", always=lambda e: re.fullmatch("[A-Z]{2}-[0-9]", e.x) and re.match("a|b", e.y))
class Code(Event):
    x: str = attrs.field(validator=v.matches_re("[A-Z]{2}-[0-9]"))
    y: str = attrs.field(validator=[v.matches_re("^(a|b)", func=re.match), v.max_len(3)])


@shape("OneOf(x='b', y=1, z='m')", *either_of("a", "b"), lambda e: e.y == 3, lambda e: e.z == "n")
class OneOf(Event):
    x: str = attrs.field(validator=v.in_(["b", "a", 3]))
    y: int = attrs.field(validator=[v.in_(range(10)), v.gt(0), v.lt(4)])
    z: Any = attrs.field(validator=v.in_({"n", "m"}))


@shape("Instances(x=0, y='', z=[], w=0)", lambda e: type(e.y) is bytes, always=lambda e: type(e.w) in (int, str))
class Instances(Event):
    x: Any = attrs.field(validator=v.instance_of(int))
    y: object = attrs.field(validator=v.instance_of((str, bytes)))
    z: list[int] = attrs.field(validator=v.instance_of(list))
    w: Hashable = attrs.field(validator=v.instance_of(int | str))


@shape("Optionals(x=None, y=1, z=None)", lambda e: e.x == 4, lambda e: e.z == "a", always=lambda e: e.y is not None)
class Optionals(Event):
    x: int | None = attrs.field(validator=v.optional(v.in_([4, 5])))
    y: int | None = attrs.field(validator=v.ge(1))
    z: Any = attrs.field(validator=v.optional(v.in_("ab")))


if hasattr(v, "or_"):  # since attrs 24.1

    @shape("Ors(x=0, y='')", lambda e: e.x < 0, lambda e: e.x > 100, always=lambda e: e.x <= 0 or e.x > 100)
    class Ors(Event):
        x: int = attrs.field(validator=v.or_(v.le(0), v.gt(100)))
        y: Any = attrs.field(validator=v.or_(v.instance_of(str), v.instance_of(int)))


@shape("Deep(a=[1], b={}, c=((0,),))", lambda e: len(e.b) > 1,
       always=lambda e: min(e.a) >= 1 and all(len(key) == 2 and 0 <= one < 5 for key, one in e.b.items()))  # fmt: skip
class Deep(Event):
    a: list[int] = attrs.field(validator=v.deep_iterable(v.ge(1), v.min_len(1)))
    b: dict[str, int] = attrs.field(
        validator=v.deep_mapping(v.and_(v.min_len(2), v.max_len(2)), v.in_(range(5)), v.instance_of(dict))
    )
    c: tuple[tuple[int, ...]] = attrs.field(validator=v.deep_iterable(v.deep_iterable(v.le(9), v.min_len(1))))


def is_even(event: Any, attribute: Any, value: int) -> None:
    if value % 2:
        raise ValueError(f"{attribute.name} is odd")


@shape("Own(x=0, y=1, z=2)", lambda e: e.x > 100, always=lambda e: e.x % 2 == 0 and e.y != 0 and e.z % 2 == 0)
class Own(Event):
    x: int = attrs.field(validator=is_even)
    y: int = attrs.field(validator=v.not_(v.in_([0])))
    z: int = attrs.field(validator=[v.ge(1), is_even])


@shape("Rare(x=0)", lambda e: e.x, always=lambda e: e.x % 16 == 0)
class Rare(Event):
    x: int = attrs.field()

    @x.validator
    def _check(self, attribute: Any, value: int) -> None:
        if value % 16:
            raise ValueError


@shape("Span(start=0, end=0)", lambda e: e.start < e.end, always=lambda e: e.start <= e.end)
class Span(Event):
    start: int
    end: int = attrs.field()

    @end.validator
    def _after(self, attribute: Any, value: int) -> None:
        if value < self.start:
            raise ValueError("before the start")


@shape("Checked(a=0, b=0)", lambda e: e.a, always=lambda e: e.a >= e.b)
class Checked(Event):
    a: int
    b: int

    def __attrs_post_init__(self) -> None:
        assert self.a >= self.b


@shape("Aware(x=datetime.datetime(2024, 1, 1, 0, 0, tzinfo=datetime.timezone.utc), y=datetime.date(2000, 1, 1))",
       always=lambda e: e.x.year >= 2024 and e.y < date(2001, 1, 1))  # fmt: skip
class Aware(Event):
    x: datetime = attrs.field(validator=v.ge(datetime(2024, 1, 1, tzinfo=UTC)))
    y: date = attrs.field(validator=v.lt(date(2001, 1, 1)))


# ---- converters, and an __init__ of one's own


def to_cents(price: "Decimal | int") -> int:
    return int(price * 100)


@shape("Converted(a=0, b=('',), c=0, d='', e=(0,))", lambda e: e.a % 100 == 0 and e.a, lambda e: len(e.b) > 1,
       always=lambda e: type(e.b) is tuple)  # fmt: skip
class Converted(Event):
    a: int = attrs.field(converter=to_cents)
    b: tuple[str, ...] = attrs.field(converter=tuple, validator=v.min_len(1))
    c: int = attrs.field(default="0", converter=int)
    d: str = attrs.field(default=None, converter=attrs.converters.default_if_none(""))
    e: tuple[int, ...] = attrs.field(default=(0,), converter=attrs.converters.pipe(list, tuple))


if hasattr(attrs, "Converter"):  # since attrs 24.1

    @shape("Told(a=0, x=1, y='y')", always=lambda e: e.x != e.a or e.y.startswith("y"))
    class Told(Event):
        a: int
        x: int = attrs.field(converter=attrs.Converter(lambda value, event: value + 1, takes_self=True))
        y: str = attrs.field(converter=attrs.Converter(lambda value, field: field.name + value, takes_field=True))


@shape("OwnInit(text='', length=0)", lambda e: e.length > 3, always=lambda e: e.length == len(e.text))
class OwnInit(Event):
    text: str
    length: int

    def __init__(self, text: str) -> None:
        self.__attrs_init__(text=text, length=len(text))


# ---- Python 3.12

if sys.version_info >= (3, 12):
    exec(
        """
type Tree12 = int | list[Tree12]
type Twice[A] = tuple[A, A]

@shape("Box12(item=None, more=[])", lambda e: type(e) is Ints12)
class Box12[A](Event):
    item: A
    more: list["A"]

@shape("Ints12(item=0, more=[], pair=('', ''), tree=0)", lambda e: type(e.tree) is list and [] in e.tree,
       always=lambda e: type(e.item) is int and all(type(one) is int for one in e.more) and len(e.pair) == 2)
class Ints12(Box12[int]):
    pair: Twice[str]
    tree: Tree12
"""
    )

# ---- postponed annotations

shape("Late(name='', parts=[], spot=None)", lambda e: e.parts and e.parts[0].beside, lambda e: e.spot,
      always=lambda e: all(piece.size >= 1 for piece in e.parts))(postponed_shapes.Late)  # fmt: skip
shape("Wrapped(item=0, more=[], quoted=None)", always=lambda e: type(e.item) is int)(postponed_shapes.Wrapped[int])
shape("WithItems(items_={'name': ''}, record=Record(items={'name': ''}, tags=[]))",
      lambda e: "size" in e.items_, lambda e: e.record.tags)(postponed_shapes.WithItems)  # fmt: skip
shape("Inner(level={'depth': 0})")(postponed_shapes.Inner)

# ---- open events, and flowkit's own

shape("Event()", lambda e: len(e) > 1)(Event)
shape("StartEvent()", lambda e: len(e) > 1)(StartEvent)
shape("StopEvent(result=None)", lambda e: type(e.result) is list, lambda e: len(e) > 2)(StopEvent)
shape("InputRequiredEvent()")(InputRequiredEvent)
shape("HumanResponseEvent()", lambda e: len(e) == 1)(HumanResponseEvent)
shape(
    "StepFailedEvent(step_name='', input_event=None, exception=Exception(''), attempts=0, elapsed_seconds=0.0)",
    stored=False,
)(StepFailedEvent)
shape("OpenInside(start=StartEvent(), any=Event())", lambda e: len(e.start))(
    type("OpenInside", (Event,), {"__annotations__": {"start": StartEvent, "any": Event}, "__module__": __name__})
)

# ---- several types


class Base(Event):
    name: str


class Rush(Base):
    fee: int = 3


class Slow(Base):
    days: int


class VerySlow(Slow):
    pass


shape("Base(name='')", *(lambda e, kind=kind: type(e) is kind for kind in (Base, Rush, Slow, VerySlow)))(Base)
shape("Nothing()", *(lambda e, kind=kind: type(e) is kind for kind in (Nothing, Plain)))(Nothing | Plain)


@shape("HasBase(one=Base(name=''), more=[])", lambda e: type(e.one) is VerySlow)
class HasBase(Event):
    one: Base
    more: list[Slow]


@pytest.mark.parametrize("row", SHAPES, ids=lambda row: str(getattr(row.of, "__name__", row.of)))
def test_shapes(row: Shape) -> None:
    codec = Codec([row.of] if isinstance(row.of, type) and row.stored else [], any_event=True)
    found = drawn(events(row.of), row.count)
    for event in found:
        assert row.always(event), event
        assert event == event
        if row.stored:
            assert codec.decode(codec.encode(event)) == event
    for condition in row.finds:  # what Hypothesis draws depends on the modules there are: it may need more examples
        assert any(map(condition, found)) or condition(simplest(events(row.of), condition))
    assert repr(simplest(events(row.of))) == row.simplest


def test_the_table_is_long_enough_and_of_what_is_exported() -> None:
    assert len(SHAPES) >= 80
    assert testing.events is events and testing.NoStrategy is NoStrategy


# --------------------------------------------------------------------------------------------------- simpler examples


def test_an_example_keeps_only_what_is_needed() -> None:
    assert simplest(events(Holder), lambda e: e.point.x > 100).point == Point(101)
    assert simplest(events(Defaults), lambda e: e.a > 5 and e.d) == Defaults(a=6, d=[0])
    assert simplest(events(Span), lambda e: e.end - e.start > 7) == Span(0, 8)
    assert simplest(events(Own), lambda e: e.x > 100) == Own(102, 1, 2)
    assert simplest(events(Base), lambda e: isinstance(e, Slow)) == Slow("", 0)


def test_what_holds_itself_gets_as_small_as_it_can() -> None:
    assert simplest(events(Tree), lambda e: depth_of(e) > 2) == Tree(0, [Tree(0, [Tree(0, [])])])
    assert simplest(events(Tree), lambda e: "101" in repr(e) or max(values(e)) > 100) == Tree(101, [])
    assert simplest(events(Expr), lambda e: e.value() > 100) == Num(101)
    assert simplest(events(Expr), lambda e: isinstance(e, Sum)) == Sum(Num(0), Num(0))


def values(tree: Tree) -> list[int]:
    return [tree.value, *(one for child in tree.children for one in values(child))]


def test_nothing_depends_on_the_run() -> None:
    """Not on what was drawn before, and not on the hashes of strings, which differ in every process."""
    program = "import test_strategies as t; print(t.drawn_of_all())"
    outputs: list[str] = []
    for seed in "12":
        where = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", program], env=where, capture_output=True, text=True, check=True)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] != ""
    assert drawn_of_all() == drawn_of_all()


def drawn_of_all() -> str:
    return ascii([drawn(events(of), 10) for of in (Plain, Anything, OneOf, Branches, Base, Stamped, Code, Converted)])


# -------------------------------------------------------------------------------------------------------- one's own


def test_a_field_is_drawn_from_what_is_given_for_it() -> None:
    found = drawn(events(Plain, name=st.sampled_from(["a", "b"]), count=7), 20)
    assert {(event.name, event.count) for event in found} == {("a", 7), ("b", 7)}


def test_a_field_is_given_by_its_name_or_by_its_alias() -> None:
    assert simplest(events(Private, _x=3, how_many=4)) == Private(x=3, how_many=4)
    assert simplest(events(Private, x=3, count=4)) == Private(x=3, how_many=4)


def test_a_field_that_is_given_need_not_be_known() -> None:
    class Called(Event):
        back: Callable[[], int]
        name: str

    assert simplest(events(Called, back=len)) == Called(len, "")


def test_what_is_given_goes_for_each_type_that_has_such_a_field() -> None:
    found = drawn(events(Nothing | Base, name="n", days=3))
    assert {type(event) for event in found} == {Nothing, Base, Rush, Slow, VerySlow}
    assert all(event.name == "n" for event in found if isinstance(event, Base))
    assert all(event.days == 3 for event in found if isinstance(event, Slow))


def test_what_is_given_goes_for_the_event_only_and_not_for_what_it_holds() -> None:
    assert all(event.value == 5 for event in drawn(events(Tree, value=5)))
    assert any(child.value != 5 for event in drawn(events(Tree, value=5)) for child in event.children)


def test_what_is_given_and_fits_half_the_time_is_drawn_again() -> None:
    assert {event.x for event in drawn(events(Bounded, x=st.integers(0, 5)))} == {3, 4, 5}


def test_open_events_have_what_is_given() -> None:
    assert {event.to_dict()["topic"] for event in drawn(events(StartEvent, topic=st.booleans()), 20)} == {False, True}
    assert all(event.keys() == ["topic"] for event in drawn(events(StartEvent, topic="t"), 20))
    assert all(event == StopEvent(result=1, more=2) for event in drawn(events(StopEvent, result=1, more=2), 5))
    assert all(event.more == 2 and "result" in event for event in drawn(events(StopEvent, more=2), 5))


def test_a_registered_strategy_goes_first() -> None:
    class Money:
        def __init__(self, amount: int) -> None:
            self.amount = amount

    class Priced(Event):
        price: Money
        maybe: Money | None

    class Known(Event):
        x: int

    class Basket(Event):
        known: Known
        more: list[Known]

    Cents = NewType("Cents", int)

    class Paid(Event):
        cents: Cents

    st.register_type_strategy(Money, st.integers(1, 3).map(Money))
    st.register_type_strategy(Known, st.builds(Known, x=st.integers(8, 9)))
    st.register_type_strategy(Cents, st.integers(0, 99))
    assert {event.price.amount for event in drawn(events(Priced))} == {1, 2, 3}
    assert {event.x for event in drawn(events(Known))} == {8, 9}
    assert {one.x for event in drawn(events(Basket)) for one in (event.known, *event.more)} == {8, 9}
    assert any(event.x > 9 for event in drawn(events(Known, x=st.integers())))
    assert all(0 <= event.cents < 100 for event in drawn(events(Paid)))


def test_a_strategy_is_registered_for_a_generic_event() -> None:
    class Crate(Event, Generic[T]):
        item: T

    class Ship(Event):
        crate: Crate[int]

    st.register_type_strategy(Crate, lambda of: st.builds(Crate, item=st.just(of)))
    assert simplest(events(Ship)).crate.item == Crate[int]
    assert simplest(events(Crate[str])).item == Crate[str]


def test_a_strategy_is_registered_for_a_builtin_type() -> None:
    class Timed(Event):
        at: datetime = attrs.field(validator=v.ge(datetime(2024, 1, 1, tzinfo=UTC)))

    try:
        st.register_type_strategy(datetime, st.datetimes(datetime(2030, 1, 1), timezones=st.just(UTC)))
        assert simplest(events(Timed)).at.year == 2030
    finally:
        st.register_type_strategy(datetime, st.datetimes())
    assert simplest(events(Timed)).at.year == 2024


def test_hypothesis_is_told_about_events() -> None:
    class Leaf(Event):
        x: int = attrs.field(validator=v.ge(3))

    class Twig(Event):
        leaf: Leaf
        twigs: list["Twig"]

    class Bough(Event, Generic[T]):
        item: T

    st.register_type_strategy(Leaf, events(Leaf))
    st.register_type_strategy(Twig, events(Twig))
    st.register_type_strategy(Bough, lambda of: events(of))
    assert simplest(st.from_type(Leaf)) == simplest(events(Leaf)) == Leaf(3)
    assert simplest(st.from_type(Twig), lambda e: e.twigs) == Twig(Leaf(3), [Twig(Leaf(3), [])])
    assert simplest(st.from_type(Bough[int])) == simplest(events(Bough[int])) == Bough(0)


def test_nothing_is_registered_from_the_start() -> None:
    """Hypothesis may come to draw other values of a type that flowkit draws; `FROM_THE_START` is to say so then."""
    assert [kind for kind in FROM_THE_START if Registered().instead(kind)] == []
    assert {int, UUID, list} <= Registered().known


# -------------------------------------------------------------------------------------------------- when, and where


def test_a_strategy_is_made_when_it_is_drawn_from() -> None:
    class Later(Event):
        x: "Unfinished"  # noqa: F821
        y: Point

    strategy = events(Later)
    with pytest.raises(NoStrategy, match=r"Later\.x: Unfinished can't be drawn"):
        simplest(strategy)

    class Last(Later):
        z: int = 3

    globals()["Unfinished"] = Color
    try:
        assert {type(event) for event in drawn(strategy)} == {Later, Last}
    finally:
        del globals()["Unfinished"]


def test_classes_inside_functions() -> None:
    class Tag:
        Level = Literal["low", "high"]

    @attrs.frozen
    class Part:
        level: "Tag.Level"

    class Whole(Event):
        parts: "list[Part]"
        itself: "Whole | None"

    assert any(event.itself and event.parts for event in drawn(events(Whole)))


def test_classes_inside_a_function_that_was_left_are_named() -> None:
    of = postponed_shapes.made_in_a_function()
    with pytest.raises(NoStrategy, match=r"Holder\.local: Local can't be drawn, a name"):
        simplest(events(of))
    assert simplest(events(of, local=3, itself=None)) == of(3)


def test_a_factory_is_not_called_before_it_has_to_be() -> None:
    calls: list[int] = []

    class Counted(Event):
        x: int = attrs.field(factory=lambda: calls.append(1) or 3)  # type: ignore[func-returns-value]

    strategy = events(Counted, x=4)
    assert calls == []
    assert simplest(strategy) == Counted(4) and calls == []


def test_a_strategy_says_what_it_is_for() -> None:
    assert repr(events(Plain, Box[int], count=3)) == "events(Plain, Box[int], count=…)"


# ---------------------------------------------------------------------------------------------------------- refusals


class Client:
    def __init__(self, url: str) -> None: ...


@attrs.define
class Job:
    work: Callable[[], int]


class Missing(Event):
    x: "list[Nowhere]"  # noqa: F821


class Jobs(Event):
    jobs: dict[str, list[Job]]


class Endless(Event):
    next: "Endless"


class Endless2(Event):
    other: "Endless3"


class Endless3(Event):
    back: list[Endless2] = attrs.field(validator=v.min_len(1))


class Abstract(Event, abc.ABC):
    @abc.abstractmethod
    def run(self) -> None: ...


class Empty(enum.Enum):
    pass


class NeedsTwo(ValueError):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)


def parsed(text: str) -> date:
    return date.fromisoformat(text)


def never(event: Any, attribute: Any, value: Any) -> None:
    raise ValueError("never")


class NeverBuilt(Event):
    a: int
    b: str

    def __attrs_post_init__(self) -> None:
        raise ValueError("not today")


class NeverBuiltOfNothing(Event):
    def __attrs_post_init__(self) -> None:
        raise ValueError("not today")


def of_type(annotation: Any, validator: Any = None, **more: Any) -> type[Event]:
    """``class E(Event): x: annotation``"""
    body = {"__annotations__": {"x": annotation}, "x": attrs.field(validator=validator, **more), "__module__": __name__}
    return type("E", (Event,), body)


GIVE = ": give it a strategy, events(E, x=…)"
REGISTER = ", or register one, hypothesis.strategies.register_type_strategy({}, …)"
REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "a function": (
        lambda: events(of_type(Callable[[int], str])),
        f"E.x: Callable[[int], str] can't be drawn, a function isn't data{GIVE}.",
    ),
    "a function that may be left out": (
        lambda: events(of_type(Callable[..., str] | None, default=None)),
        f"E.x: Callable[..., str] | None can't be drawn, a function isn't data{GIVE}.",
    ),
    "an unknown class": (
        lambda: events(of_type(list[Client])),
        f"E.x: list[Client] can't be drawn, nothing is known about Client{GIVE}{REGISTER.format('Client')}.",
    ),
    "inside": (
        lambda: events(Jobs),
        "Job.work: Callable[[], int] (in Jobs.jobs) can't be drawn, a function isn't data: give Jobs.jobs a strategy, "
        f"events(Jobs, jobs=…){REGISTER.format('Job')}.",
    ),
    "in a subclass": (
        lambda: events(HasClients),
        "WithClient.client: Client can't be drawn, nothing is known about Client: give it a strategy, "
        f"events(WithClient, client=…){REGISTER.format('Client')}.",
    ),
    "an undefined name": (
        lambda: events(Missing),
        "Missing.x: list[Nowhere] can't be drawn, a name in its annotation isn't defined, where its class is or where "
        "events() was called: give it a strategy, events(Missing, x=…).",
    ),
    "an iterator": (
        lambda: events(of_type(Iterator[int])),
        f"E.x: Iterator[int] can't be drawn, no values are known for it{GIVE}.",
    ),
    "an asynchronous iterator": (
        lambda: events(of_type(AsyncIterator[int])),
        "E.x: AsyncIterator[int] can't be drawn, nothing is known about AsyncIterator"
        f"{GIVE}{REGISTER.format('AsyncIterator')}.",
    ),
    "a live object": (
        lambda: events(of_type(threading.Thread)),
        f"E.x: Thread can't be drawn, nothing is known about Thread{GIVE}{REGISTER.format('Thread')}.",
    ),
    "no value at all": (
        lambda: events(of_type(NoReturn)),
        f"E.x: NoReturn can't be drawn, no values are known for it{GIVE}.",
    ),
    "an enum without members": (
        lambda: events(of_type(Empty)),
        f"E.x: Empty can't be drawn, Empty has no members{GIVE}.",
    ),
    "an error that isn't built from a text": (
        lambda: events(of_type(NeedsTwo)),
        f"E.x: NeedsTwo can't be drawn, NeedsTwo isn't built from a text{GIVE}{REGISTER.format('NeedsTwo')}.",
    ),
    "an abstract class": (
        lambda: events(of_type(Abstract)),
        f"E.x: Abstract can't be drawn, Abstract is abstract and has no subclass{GIVE}{REGISTER.format('Abstract')}.",
    ),
    "an abstract event": (
        lambda: events(Abstract),
        "Abstract can't be drawn, Abstract is abstract and has no subclass: register one, "
        "hypothesis.strategies.register_type_strategy(Abstract, …).",
    ),
    "no end": (
        lambda: events(Endless),
        "Endless.next: Endless can't be drawn, each Endless would hold another: let it be `| None`, or be in a list: "
        "give it a strategy, events(Endless, next=…).",
    ),
    "no end, over another": (
        lambda: events(Endless2),
        "Endless2.other: Endless3 can't be drawn, each Endless2 would hold another: let it be `| None`, or be in a "
        "list: give it a strategy, events(Endless2, other=…).",
    ),
    "what can't be a key": (
        lambda: events(of_type(dict[tuple[list[int]], str])),
        "E.x: dict[tuple[list[int]], str] can't be drawn, a list can't be hashed, as a member of a set or a key has "
        f"to be{GIVE}.",
    ),
    "what holds what can't be a key": (
        lambda: events(of_type(set[Lists])),
        "Lists.a: list[int] (in E.x) can't be drawn, a list can't be hashed, as a member of a set or a key has to be: "
        f"give E.x a strategy, events(E, x=…){REGISTER.format('Lists')}.",
    ),
    "bounds that leave nothing": (
        lambda: events(of_type(int, [v.gt(3), v.lt(4)])),
        f"E.x: int can't be drawn, nothing is more than 3 and less than 4{GIVE}.",
    ),
    "bounds that leave nothing, of floats": (
        lambda: events(of_type(float, [v.ge(3), v.lt(3)])),
        f"E.x: float can't be drawn, nothing is at least 3 and less than 3{GIVE}.",
    ),
    "lengths that leave nothing": (
        lambda: events(of_type(str, [v.min_len(3), v.max_len(2)])),
        f"E.x: str can't be drawn, nothing has a length of at least 3 and at most 2{GIVE}.",
    ),
    "more members than there are": (
        lambda: events(of_type(set[Color | None], v.min_len(4))),
        f"E.x: set[Color | None] can't be drawn, there are no 4 members that differ{GIVE}.",
    ),
    "members that leave nothing": (
        lambda: events(of_type(list[int], v.deep_iterable(v.and_(v.ge(2), v.le(1))))),
        f"E.x: list[int] can't be drawn, nothing is at least 2 and at most 1{GIVE}.",
    ),
    "options of another type": (
        lambda: events(of_type(str, v.in_([1, 2]))),
        f"E.x: str can't be drawn, none of [1, 2] fits{GIVE}.",
    ),
    "choices that a validator refuses": (
        lambda: events(of_type(bool, never)),
        f"E.x: bool can't be drawn, its validator never refuses every value{GIVE}.",
    ),
    "None, refused": (
        lambda: events(of_type(None, v.instance_of(int))),
        f"E.x: None can't be drawn, its validators refuse None{GIVE}.",
    ),
    "a wrong default besides": (
        lambda: events(of_type(int, v.in_([]), default=3)),
        f"E.x: int can't be drawn, none of [] fits{GIVE}.",
    ),
    "a validator that refuses all": (
        lambda: events(of_type(str, never)),
        f"E.x: str can't be drawn, its validator never refuses whatever is drawn{GIVE}.",
    ),
    "a function by its validator": (
        lambda: events(of_type(Any, v.is_callable())),
        f"E.x: Any can't be drawn, its validator <is_callable validator> refuses whatever is drawn{GIVE}.",
    ),
    "a converter that refuses all": (
        lambda: events(of_type(date, converter=lambda value: date.fromisoformat(value + 1))),
        "E.x: date can't be drawn, each E that is built fails, TypeError: unsupported operand type(s) for +: "
        f"'datetime.date' and 'int'{GIVE}{REGISTER.format('E')}.",
    ),
    "an event that is never built": (
        lambda: events(NeverBuilt),
        "NeverBuilt can't be drawn, each NeverBuilt that is built fails, ValueError: not today: give fields that go "
        "together, events(NeverBuilt, a=…), or register one, "
        "hypothesis.strategies.register_type_strategy(NeverBuilt, …).",
    ),
    "an event that is never built, of nothing": (
        lambda: events(NeverBuiltOfNothing),
        "NeverBuiltOfNothing can't be drawn, each NeverBuiltOfNothing that is built fails, ValueError: not today: "
        "register one, hypothesis.strategies.register_type_strategy(NeverBuiltOfNothing, …).",
    ),
    "a constant that is refused": (
        lambda: events(of_type(int, v.ge(0)), x=-1),
        "E.x: int can't be drawn, each E that is built fails, ValueError: 'x' must be >= 0: -1"
        f"{GIVE}{REGISTER.format('E')}.",
    ),
    "a registered strategy that fails": (
        lambda: events(of_type(Unlucky)),
        "E.x: Unlucky can't be drawn, what Hypothesis has for it fails, Cannot have max_value=0 < min_value=1"
        f"{GIVE}{REGISTER.format('Unlucky')}.",
    ),
    "no type": (lambda: events(), "events() was given no type: write events(OrderPlaced)."),
    "no event type": (
        lambda: events(Plain, int),
        "events() takes event types, but got int: draw it by a strategy of Hypothesis, or put it into a field of an "
        "event.",
    ),
    "an event": (
        lambda: events(Nothing()),
        "events() takes event types, but got Nothing(): draw it by a strategy of Hypothesis, or put it into a field of "
        "an event.",
    ),
    "a misspelt field": (
        lambda: events(Plain, nmae="a"),
        "events() was given nmae='a', which Plain can't be built with: did you mean 'name'.",
    ),
    "a field that isn't given": (
        lambda: events(Derived, fixed=3),
        "events() was given fixed=3, which Derived can't be built with: it takes a, twice, hidden, shown.",
    ),
    "a field of none": (
        lambda: events(Nothing | Plain, other=3),
        "events() was given other=3, which Nothing and Plain can't be built with: they take name, count.",
    ),
}


class HasClients(Event):
    pass


class WithClient(HasClients):
    client: Client


class Unlucky:
    pass


st.register_type_strategy(Unlucky, lambda of: st.integers(1, 0))


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str) -> None:
    make, text = REFUSALS[case]
    with pytest.raises(NoStrategy) as refused:
        simplest(make())
    assert str(refused.value) == text
    again = pickle.loads(pickle.dumps(refused.value))
    assert (str(again), again.event, again.field) == (text, refused.value.event, refused.value.field)


def test_a_refusal_names_the_place() -> None:
    with pytest.raises(NoStrategy) as refused:
        simplest(events(Jobs))
    error = refused.value
    assert (error.event, error.field, error.annotation) == ("Job", "work", "Callable[[], int]")
    assert error.problem.endswith("a function isn't data") and error.cure.startswith("give Jobs.jobs a strategy")
    assert isinstance(error, TestingError)


def test_a_refusal_is_seen_in_a_test_that_is_given_events() -> None:
    @settings(database=None, max_examples=10)
    @given(event=events(of_type(str, never)))
    def check(event: Event) -> None: ...

    with pytest.raises(NoStrategy, match="its validator never refuses whatever is drawn"):
        check()


def test_a_wrong_constant_is_an_error_of_the_event() -> None:
    with pytest.raises(EventError, match=r"Plain\.name takes str, but got 3"):
        simplest(events(Plain, name=3))
