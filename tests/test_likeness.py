"""Whether two values of two runs are alike, though they are different objects."""

import dataclasses
import enum
import math
import threading
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from flowkit import Event
from flowkit.testing.likeness import alike, steady


class Plain:
    def __init__(self, n: Any) -> None:
        self.n = n


class Slotted:
    __slots__ = ("n",)

    def __init__(self, n: Any) -> None:
        self.n = n


class Bare: ...


@attrs.frozen
class Point:
    x: Any


@dataclasses.dataclass
class Data:
    x: Any


class Sent(Event):
    x: Any


class Picky:
    """Knows for itself."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picky) and self.n % 10 == other.n % 10

    __hash__ = None  # type: ignore[assignment]


class Array:
    """Doesn't say in one word whether it is equal, like those of NumPy."""

    def __init__(self, *items: float) -> None:
        self.items = items

    def __eq__(self, other: object) -> Any:
        return Array()

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    def tolist(self) -> list[float]:
        return list(self.items)

    __hash__ = None  # type: ignore[assignment]


class Color(enum.Enum):
    RED = 1
    BLUE = 2


def failing(message: str, **noted: Any) -> Exception:
    error = ValueError(message)
    error.__dict__.update(noted)
    return error


NAN = float("nan")

MAKES: list[tuple[Callable[[int], Any], bool]] = [
    # Made twice of the same: alike? Made of another: never, where it tells.
    (lambda n: n, True),
    (lambda n: float(n), True),
    (lambda n: complex(n, math.nan), True),
    (lambda n: [Decimal("NaN"), n], True),
    (lambda n: str(n), True),
    (lambda n: Decimal(n), True),
    (lambda n: [n, float("nan")], True),
    (lambda n: (n, math.inf, -math.nan), True),
    (lambda n: {"a": n, "b": float("nan")}, True),
    (lambda n: {n: float("nan")}, True),
    (lambda n: {n, 1_000}, True),
    (lambda n: frozenset({Point(n)}), True),
    (lambda n: Plain(n), True),
    (lambda n: Plain(Plain([n])), True),
    (lambda n: Slotted(n), True),
    (lambda n: SimpleNamespace(n=n), True),
    (lambda n: Point(n), True),
    (lambda n: Point(Plain(n)), True),
    (lambda n: Data([float("nan"), n]), True),
    (lambda n: Sent(Plain(n)), True),
    (lambda n: failing("no", n=n), True),
    (lambda n: failing(f"no {n}"), True),
    (lambda n: ExceptionGroup("several", [failing(str(n))]), True),
    (lambda n: Picky(n), True),
    (lambda n: [Picky(n)], True),
    (lambda n: Array(1, n), True),
    (lambda n: {"of": Array(n)}, True),
    (lambda n: Color(n), True),
    (lambda n: lambda: n, False),
    (lambda n: (one for one in range(n)), False),
    (lambda n: Bare(), False),
    (lambda n: object(), False),
    (lambda n: threading.Lock(), False),
    (lambda n: {Bare()}, False),
]


@pytest.mark.parametrize(("make", "tells"), MAKES)
def test_what_was_made_twice_is_alike_and_what_was_made_of_another_is_not(
    make: Callable[[int], Any], tells: bool
) -> None:
    assert alike(make(1), make(1))
    assert alike(make(2), make(1)) is not tells
    assert alike([make(1)], [make(1)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, "1"),
        (None, 0),
        (NAN, 1.0),
        (1.0, NAN),
        (Plain(1), Slotted(1)),
        (Point(1), Data(1)),
        ([1], [1, 2]),
        ([1, 2], [2, 1]),
        ([1], (1,)),
        ({"a": NAN}, {"b": NAN}),
        ({"a": NAN}, {"a": NAN, "b": 1}),
        (ValueError("x"), TypeError("x")),
        (Array(1), Array(1, 2)),
        (Array(1), 1),
        (Picky(1), Picky(2)),
        ({1}, {1, 2}),
    ],
)
def test_what_is_not_alike(one: Any, other: Any) -> None:
    assert not alike(one, other)
    assert not alike(other, one)


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (True, 1), ([1.0], [1]), (Picky(3), Picky(13))])
def test_what_is_equal_is_alike(one: Any, other: Any) -> None:
    assert alike(one, other)


def test_what_holds_itself_has_an_end() -> None:
    one, other = Plain(1), Plain(1)
    one.n, other.n = one, other
    assert alike(one, other)


def test_what_fails_to_compare_goes_by_its_repr() -> None:
    class Fails:
        def __init__(self, name: str) -> None:
            self.name = name

        def __eq__(self, other: object) -> bool:
            raise OSError("not now")

        def __repr__(self) -> str:
            return self.name

        __hash__ = None  # type: ignore[assignment]

    assert alike(Fails("a"), Fails("a"))
    assert not alike(Fails("a"), Fails("b"))


def test_a_repr_without_what_means_nothing() -> None:
    assert steady(object()) == "<object object at …>"
    assert steady("<Mock id='139703214968320'>") == '"<Mock …>"'
    assert steady("Task-17, Thread-3 (x), id=139703214968320, id=17") == "'…, … (x), …, id=17'"
