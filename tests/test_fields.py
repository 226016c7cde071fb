"""The fields of an event: what is checked where its class is defined and where it is built, and how that is said."""

import enum
from typing import Annotated, Any, Final, TypeVar

import attrs
import pytest
from misuses import Case, Misuses

from flowkit import Event, EventError, FrozenEvent, StartEvent, StopEvent, UnknownField

T = TypeVar("T")


class Part(Event):
    n: int = 0


class Other(Event):
    name: str
    tags: tuple[str, ...] = ()


def test_a_bad_class_is_told_as_a_whole() -> None:
    with pytest.raises(EventError) as refused:

        class Bad(Event):
            names: list[str] = []  # noqa: RUF012
            size: int = "3"

    assert str(refused.value).count("default") == 2
    assert refused.value.field == "names"
    assert refused.value.where.startswith(__file__)


# ---------------------------------------------------------------------------------------------- types that are checked


class Color(enum.IntEnum):
    RED = 1


class Text(str):
    pass


@pytest.mark.parametrize(
    ("annotation", "fits", "fails"),
    [
        (int, [1, Color.RED], [True, "1", 1.0, None]),
        (float, [1.5, 1], [True, "1"]),
        (str, ["a", Text("a")], [b"a", None]),
        (bool, [True], [1, 0]),
        (bytes, [b"a"], ["a", bytearray()]),
        (list[int], [[1], []], [(1,), "ab"]),
        (tuple[int, ...], [(1,)], [[1]]),
        (dict[str, int], [{"a": 1}], [[("a", 1)]]),
        (set[int], [{1}], [frozenset({1}), [1]]),
        (None, [None], [0]),
        (str | None, ["a", None], [1]),
        (int | str, [1, "a"], [True, 1.5]),
        (float | None, [1, None], ["1"]),
        (Annotated[int, "kilometres"], [1], ["1"]),
        (Final[int], [1], ["1"]),
        ("int | None", [1, None], ["1"]),
        (Any, [1, "a", None], []),
        (T, [1, "a"], []),
        (Part, [Part(), "not checked"], []),
        (int | Part, [1, "not checked"], []),
    ],
)
def test_fields_of_plain_types_are_checked(annotation: Any, fits: list[Any], fails: list[Any]) -> None:
    kind = type("Mine", (Event,), {"__annotations__": {"field": annotation}, "__module__": __name__})
    for value in fits:
        assert kind(field=value).field is value
        assert kind(value).field is value
    for value in fails:
        with pytest.raises(EventError, match=r"Mine\.field takes"):
            kind(field=value)


def test_fields_are_checked_in_replace_too() -> None:
    assert Part(1).replace(n=2) == Part(2)
    with pytest.raises(EventError, match=r"Part\.n takes int"):
        Part(1).replace(n="2")


def test_a_value_whose_repr_fails_or_is_long_does_not_spoil_the_message() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(EventError, match="takes int, but got <a Broken whose repr fails>"):
        Part(Broken())
    with pytest.raises(EventError) as refused:
        Part("x" * 10_000)
    assert len(str(refused.value)) < 200


# ------------------------------------------------------------------------------------------------------------- misuses

misuse = Misuses()


@misuse(EventError, "Other needs 'name': write Other(name=…).")
def a_field_missing() -> None:
    Other()


@misuse(
    EventError,
    "Other has no field 'nmae' (given 'Ada') and needs 'name': it takes name, tags; did you mean 'name'?",
)
def a_field_misspelt() -> None:
    Other(nmae="Ada")


@misuse(
    EventError,
    "Other has no field 'age' (given 36): it takes name, tags; declare 'age' in the class, or leave it out.",
)
def a_field_unknown() -> None:
    Other(name="Ada", age=36)


@misuse(EventError, "Part.n takes int, but got '3' (str): convert it, or widen the annotation.")
def a_field_of_the_wrong_type() -> None:
    Part(n="3")


@misuse(
    EventError,
    "Other.name takes str, but got 3 (int); Other.tags takes tuple, but got ['a'] (list): convert it, or widen"
    " the annotation.",
)
def all_fields_of_the_wrong_type() -> None:
    Other(name=3, tags=["a"])


@misuse(
    EventError,
    "Other.name takes str, but got None (NoneType): give it a value, or widen the annotation by | None.",
)
def a_field_without_value() -> None:
    Other(name=None)


@misuse(EventError, "Part takes 1 field by position, but got 2: it takes n.")
def too_many_fields() -> None:
    Part(1, 2)


@misuse(
    EventError,
    "StartEvent got {'topic': 'pirates'} by position: give its fields by name, StartEvent(key=…); a `class "
    "Mine(StartEvent): key: str` takes them by position too.",
)
def an_open_event_by_position() -> None:
    StartEvent({"topic": "pirates"})


@misuse(
    EventError,
    "StopEvent got 2 by position: give its fields by name, StopEvent(key=…); a `class Mine(StopEvent): key: "
    "str` takes them by position too.",
)
def a_stop_event_with_two_results() -> None:
    StopEvent(1, 2)


@misuse(EventError, "Part has no field 'm' (given 3): it takes n; declare 'm' in the class, or leave it out.")
def replacing_what_is_not_there() -> None:
    Part().replace(m=3)


@misuse(FrozenEvent, "Part is frozen, 'n' can't be changed: write ev = ev.replace(n=…) and send that.")
def changing_a_field() -> None:
    Part().n = 3


@misuse(
    FrozenEvent,
    "StartEvent is frozen, 'topic' can't be changed: write ev = ev.replace(topic=…) and send that.",
)
def changing_an_item() -> None:
    StartEvent(topic="pirates")["topic"] = "parrots"


@misuse(
    FrozenEvent,
    "Part is frozen, 'm' can't be changed: declare 'm' in the class and give it when you build the event, or "
    "keep it in the context.",
)
def adding_a_field() -> None:
    Part().m = 3


@misuse(FrozenEvent, "Part is frozen, 'n' can't be changed: write ev = ev.replace(n=…) and send that.")
def deleting_a_field() -> None:
    del Part().n


@misuse(UnknownField, "StartEvent has no field 'topci' (it has: topic): did you mean 'topic'?")
def reading_a_misspelt_field() -> None:
    StartEvent(topic="pirates").topci


@misuse(UnknownField, "Part has no field 'm' (it has: n): ev.get('m') gives None instead.")
def reading_an_unknown_item() -> None:
    Part()["m"]


@misuse(
    EventError,
    "Batch can't be hashed, its field 'parts' holds a list: let it hold a tuple or a frozenset, or exclude it "
    "by attrs.field(hash=False).",
)
def hashing_a_list() -> None:
    class Batch(Event):
        parts: list[int]

    hash(Batch([1]))


@misuse(
    EventError,
    "Batch has the default [] for 'parts', which all events would share: write parts: … = "
    "attrs.field(factory=list). (HERE)",
)
def a_default_shared_by_all() -> None:
    class Batch(Event):
        parts: list[int] = []  # noqa: RUF012


@misuse(
    EventError,
    "Batch declares 'name' as str, but its default is None: write name: str | None = None; it declares 'size' "
    "as int, but its default is '3': make the two agree. (HERE)",
)
def a_default_of_the_wrong_type() -> None:
    class Batch(Event):
        name: str = None
        size: int = "3"


@misuse(
    EventError,
    "Batch has an attrs.field without annotation: annotate it, `name: Any = attrs.field(…)`. (HERE)",
)
def a_field_without_annotation() -> None:
    class Batch(Event):
        size = attrs.field(default=3)


@misuse(EventError, "Batch has __slots__: leave them out: an event keeps its fields in its __dict__. (HERE)")
def slots() -> None:
    class Batch(Event):
        __slots__ = ("size",)
        size: int


@misuse(
    EventError,
    "Batch defines __setattr__: leave it out: events are frozen, ev.replace(…) makes another. (HERE)",
)
def thawing() -> None:
    class Batch(Event):
        def __setattr__(self, name: str, value: Any) -> None:
            self.__dict__[name] = value


@misuse(
    EventError,
    "Batch is declared with frozen=False: leave it out: an event is a frozen attrs class, and what it has are "
    "fields. (HERE)",
)
def thawing_by_option() -> None:
    class Batch(Event, frozen=False):
        size: int


@misuse(EventError, "Batch.__init__ leaves 'size' unset: call self.__attrs_init__(size=…) in it.")
def an_init_that_leaves_fields_unset() -> None:
    class Batch(Event):
        size: int

        def __init__(self) -> None:
            pass

    Batch()


@misuse(
    FrozenEvent,
    "Batch is frozen, 'size' can't be changed: in its own __init__, call self.__attrs_init__(size=…).",
)
def an_init_that_assigns() -> None:
    class Batch(Event):
        size: int

        def __init__(self, size: int) -> None:
            self.size = size

    Batch(3)


@pytest.mark.parametrize("case", misuse.built, ids=str)
def test_a_misuse_is_told_at_its_line(case: Case) -> None:
    assert case.told() == case.text
