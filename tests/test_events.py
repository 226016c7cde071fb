"""Events: attrs classes by subclassing, checked where they are built, frozen, and readable as mappings."""

import abc
import copy
import inspect
import pickle
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit import (
    Event,
    EventError,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    UnknownField,
)

T = TypeVar("T")


class Part(Event):
    n: int = 0


class Other(Event):
    name: str
    tags: tuple[str, ...] = ()


class Ask(InputRequiredEvent):
    prefix: str


OPEN = [Event, StartEvent, StopEvent, InputRequiredEvent, HumanResponseEvent]


# ------------------------------------------------------------------------------------------------------------ building


def test_by_position_and_by_keyword() -> None:
    assert Other("Ada", ("x",)) == Other(name="Ada", tags=("x",)) == Other("Ada", tags=("x",))
    assert repr(Other("Ada")) == "Other(name='Ada', tags=())"


def test_an_event_class_is_a_frozen_attrs_class() -> None:
    assert [field.name for field in attrs.fields(Other)] == ["name", "tags"]
    assert attrs.asdict(Other("Ada")) == {"name": "Ada", "tags": ()}
    assert str(inspect.signature(Other)) == "(name: str, tags: tuple[str, ...] = ()) -> None"


@pytest.mark.parametrize("kind", OPEN)
def test_the_events_of_flowkit_take_any_field(kind: Any) -> None:
    event = kind(topic="pirates", self=1, keys=2)
    assert (event.topic, event.self, event["keys"]) == ("pirates", 1, 2)


@pytest.mark.parametrize("kind", OPEN[1:])
def test_what_is_derived_from_them_is_typed(kind: Any) -> None:
    class Mine(kind):
        n: int

    assert Mine(1).n == 1
    with pytest.raises(EventError, match="Mine has no field 'topic'"):
        Mine(n=1, topic="pirates")


def test_a_stop_event_has_a_result_and_one_derived_from_it_its_own_fields() -> None:
    class End(StopEvent):
        score: int

    assert StopEvent(3) == StopEvent(result=3)
    assert StopEvent().result is None
    assert "result" not in End(score=1)


def test_a_required_field_after_a_default_is_by_keyword_only() -> None:
    class Base(Event):
        n: int = 0

    class Sub(Base):
        name: str

    assert Sub(1, name="Ada") == Sub(name="Ada", n=1)
    with pytest.raises(EventError, match="it takes n, name, of these name by keyword only"):
        Sub(1, "Ada")


def test_a_default_made_for_each() -> None:
    class Batch(Event):
        parts: list[int] = attrs.field(factory=list)
        size: int = attrs.field(default=attrs.Factory(lambda self: len(self.parts), takes_self=True))

    assert Batch().parts is not Batch().parts
    assert Batch([1, 2]).size == 2


def test_a_private_name_is_given_without_its_underscore() -> None:
    class Secret(Event):
        _key: str

    event = Secret(key="x")
    assert (event._key, event["_key"], event.replace(key="y")._key) == ("x", "x", "y")


def test_an_alias() -> None:
    class Import(Event):
        source: str = attrs.field(alias="from_")

    assert Import(from_="x").source == "x"
    with pytest.raises(EventError, match=r"Import has no field 'source' .* needs 'from_'"):
        Import(source="x")


def test_a_class_attribute_is_no_field() -> None:
    class Retry(Event):
        limit: ClassVar[int] = 3
        words = "again"
        n: int

    event = Retry(1)
    assert (list(event), event.limit, event.words) == (["n"], 3, "again")
    with pytest.raises(EventError, match="'words' is a class attribute: annotate it"):
        Retry(1, words="no")


def test_validators_and_converters() -> None:
    class Batch(Event):
        size: int = attrs.field(converter=int, validator=attrs.validators.ge(1))

    assert Batch("3").size == 3
    with pytest.raises(ValueError, match="'size' must be >= 1") as refused:
        Batch(0)
    assert refused.value.__notes__ == ["This came from a validator, converter or __attrs_post_init__ of Batch."]


def test_a_type_error_of_a_validator_is_its_own() -> None:
    class Batch(Event):
        size: Any = attrs.field(validator=attrs.validators.instance_of(int))

    with pytest.raises(TypeError, match="'size' must be") as refused:
        Batch("3")
    assert type(refused.value) is TypeError


def test_a_wrong_type_is_said_before_the_validator_stumbles_over_it() -> None:
    class Batch(Event):
        size: int = attrs.field(validator=attrs.validators.ge(1))

    with pytest.raises(EventError, match=r"Batch\.size takes int, but got '3'"):
        Batch("3")


def test_an_init_of_ones_own() -> None:
    class Sum(Event):
        total: int

        def __init__(self, *terms: int) -> None:
            self.__attrs_init__(sum(terms))

    assert Sum(1, 2).total == 3
    with pytest.raises(EventError, match=r"Sum\.total takes int, but got 1\.5"):
        Sum(1, 0.5)


def test_what_is_set_after_init() -> None:
    class Square(Event):
        side: int
        area: int = attrs.field(init=False)

        def __attrs_post_init__(self) -> None:
            object.__setattr__(self, "area", self.side**2)

    assert Square(3).area == 9
    assert Square(3).replace(side=4).area == 16


def test_methods_properties_and_bases() -> None:
    class Named(Protocol):
        name: str

        def shout(self) -> str: ...

    class Loud(abc.ABC):
        @abc.abstractmethod
        def shout(self) -> str: ...

    class Call(Event, Named, Loud):
        name: str

        def shout(self) -> str:
            return self.upper + "!"

        @property
        def upper(self) -> str:
            return self.name.upper()

    assert Call("Ada").shout() == "ADA!"


def test_a_property_that_fails_says_why() -> None:
    class Call(Event):
        name: str

        @property
        def upper(self) -> str:
            return self.nmae.upper()

    with pytest.raises(UnknownField, match="Call has no field 'nmae'"):
        Call("Ada").upper


def test_an_abstract_event_can_not_be_built() -> None:
    class Call(Event, abc.ABC):
        @abc.abstractmethod
        def shout(self) -> str: ...

    with pytest.raises(TypeError, match="abstract"):
        Call()


def test_generic_events() -> None:
    class Box(Event, Generic[T]):
        item: T

    class Number(Box[int]):
        unit: str = "m"

    assert Box[int](item=3) == Box(3)
    assert Number(3).unit == "m"
    with pytest.raises(EventError, match="did you mean 'item'"):
        Box[int](itm=3)


def test_classes_inside_functions_with_quoted_annotations() -> None:
    class Inner:
        pass

    class Outer(Event):
        inner: "Inner"
        n: "int"
        later: "Later"

    assert Outer(Inner(), 1, Later()).n == 1
    with pytest.raises(EventError, match=r"Outer\.n takes int"):
        Outer(Inner(), "1", Later())


class Later:
    pass


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("event", [Other("Ada"), StartEvent(name="Ada", tags=())])
def test_the_mapping_face(event: Event) -> None:
    assert event["name"] == event.get("name") == event.name == "Ada"
    assert event.get("age") is None
    assert event.get("age", 36) == 36
    assert "name" in event and "age" not in event
    assert list(event) == event.keys() == ["name", "tags"]
    assert event.values() == ["Ada", ()]
    assert event.items() == [("name", "Ada"), ("tags", ())]
    assert dict(event) == {**event} == event.to_dict() == {"name": "Ada", "tags": ()}
    assert len(event) == 2


def test_an_event_without_fields_is_true() -> None:
    assert Event()
    assert len(Event()) == 0


def test_a_field_may_bear_the_name_of_a_method() -> None:
    class Order(Event):
        items: list[str]
        get: str = ""
        result: int = 0

    event = Order(items=["pen"], get="x")
    assert (event.items, event["get"], event.result) == (["pen"], "x", 0)
    assert dict(event) == {"items": ["pen"], "get": "x", "result": 0}
    assert event.replace(items=[]).items == []


def test_a_missing_field_is_an_attribute_error_and_a_missing_item_a_key_error() -> None:
    assert not hasattr(Part(), "m")
    assert getattr(Part(), "m", None) is None
    with pytest.raises(AttributeError):
        Part().m
    with pytest.raises(KeyError):
        Part()["m"]
    with pytest.raises(EventError):
        Part().m


def test_it_can_be_taken_apart() -> None:
    match Other("Ada", ("x",)):
        case Other(name=name, tags=(tag,)):
            assert (name, tag) == ("Ada", "x")
        case _:
            pytest.fail("no match")


# -------------------------------------------------------------------------------------------------------------- values


def test_frozen_as_attrs_says_it() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Part().n = 1
    with pytest.raises(AttributeError):
        StartEvent(n=0).n = 1


def test_equal_are_events_of_one_class_with_equal_fields() -> None:
    class Bolt(Part):
        pass

    assert Part(1) == Part(1) != Part(2)
    assert Part(1) != Bolt(1)
    assert StartEvent(n=1) != Event(n=1)
    assert Part(1) != 1


values = st.dictionaries(st.text(min_size=1), st.integers() | st.text() | st.none())


@given(values)
def test_equal_events_have_equal_hashes_in_whatever_order_their_fields_came(fields: dict[str, Any]) -> None:
    one, other = Event(**fields), Event(**dict(reversed(fields.items())))
    assert one == other
    assert hash(one) == hash(other)


def test_events_in_sets() -> None:
    assert {Part(1), Part(1), Part(2)} == {Part(1), Part(2)}


def test_equality_repr_and_hash_of_ones_own() -> None:
    class Same(Event):
        n: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Same)

        def __hash__(self) -> int:
            return 1

        def __repr__(self) -> str:
            return "Same!"

    assert Same(1) == Same(2)
    assert len({Same(1), Same(2)}) == 1
    assert repr(Same(1)) == "Same!"


def test_fields_left_out_of_comparison_and_repr() -> None:
    class Timed(Event):
        n: int
        at: float = attrs.field(default=0.0, eq=False, repr=False)

    assert Timed(1, at=1.0) == Timed(1, at=2.0)
    assert repr(Timed(1)) == "Timed(n=1)"


@given(values)
def test_replace_changes_what_it_is_told_and_nothing_else(changes: dict[str, Any]) -> None:
    event = StartEvent(topic="pirates", n=1)
    assert dict(event.replace(**changes)) == {"topic": "pirates", "n": 1, **changes}
    assert dict(event) == {"topic": "pirates", "n": 1}


FAILED = StepFailedEvent(
    step_name="work", input_event=Part(1), exception=ValueError("no"), attempts=1, elapsed_seconds=0.0
)


@pytest.mark.parametrize("event", [Part(1), Other("Ada", ("x",)), StartEvent(n=[1]), StopEvent(3), Ask("?")], ids=repr)
def test_copies_are_equal(event: Event) -> None:
    assert copy.copy(event) == copy.deepcopy(event) == pickle.loads(pickle.dumps(event)) == event
    assert type(copy.deepcopy(event)) is type(event)


def test_a_failed_step_is_an_event_too() -> None:
    again = pickle.loads(pickle.dumps(FAILED))
    assert (again.step_name, again.input_event, str(again.exception)) == ("work", Part(1), "no")
