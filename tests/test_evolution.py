"""`stored_as`: classes that are renamed and changed while values of them are stored."""

import dataclasses
import json
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import attrs
import pytest

from flowkit import Event, SerializationError, StopEvent
from flowkit.evolution import note_of
from flowkit.serialization import Codec, stored_as
from flowkit.storage_errors import NewerData, TypeChanged


def codec(*types: type) -> Codec:
    return Codec(types)


def paid(version: int = 1, upgrades: dict[int, Any] | None = None, **annotations: type) -> type[Event]:
    """An event class ``shop.paid`` as it was, or is, at some version."""
    body = {"__annotations__": annotations, "__module__": __name__, "__qualname__": "Paid"}
    return stored_as("shop.paid", version=version, upgrades=upgrades)(type("Paid", (Event,), body))


def split_name(fields: dict[str, Any]) -> dict[str, Any]:
    first, _, last = fields.pop("name").partition(" ")
    return {**fields, "first": first, "last": last}


def add_currency(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "currency": "EUR"}


# ------------------------------------------------------------------------------------------------------------- tags


@stored_as("shop.order", aliases=("shop:Order", "shop:Ordered"))
class Order(Event):
    n: int


def test_a_class_is_written_under_its_tag_and_read_under_those_it_had() -> None:
    assert codec(Order).encode(Order(1)) == {"$obj": ["shop.order", {"n": 1}]}
    for tag in ("shop.order", "shop:Order", "shop:Ordered", "test_evolution:Order"):
        assert codec(Order).decode({"$obj": [tag, {"n": 1}]}) == Order(1)


def test_a_class_itself_goes_by_its_tags_too() -> None:
    assert codec(Order).encode(Order) == {"$type": "shop.order"}
    assert codec(Order).decode({"$type": "shop:Ordered"}) is Order


@pytest.mark.parametrize("tag", ["shop.order", "shop:Order", "test_evolution:Order"])
def test_an_event_class_that_nobody_registered_is_found_by_each_of_its_tags(tag: str) -> None:
    found = Codec(any_event=True)
    assert found.decode({"$obj": [tag, {"n": 1}]}) == Order(1)
    assert found.encode(Order(1)) == {"$obj": ["shop.order", {"n": 1}]}


def test_it_is_noted_on_this_class_alone() -> None:
    class Late(Order):
        pass

    assert note_of(Late).tag is None
    assert codec(Order, Late).encode(Late(1))["$obj"][0].endswith("<locals>.Late")


def test_a_tag_that_is_said_goes_before_one_that_is_implied() -> None:
    @stored_as("shop.delivery", aliases=("test_evolution:Parcel",))
    class Delivery(Event):
        n: int

    body = {"__module__": __name__, "__qualname__": "Parcel"}
    parcel = stored_as("shop.parcel")(type("Parcel", (Event,), body))  # a new class under the old one's name
    for types in ((Delivery, parcel), (parcel, Delivery)):
        assert codec(*types).decode({"$obj": ["test_evolution:Parcel", {"n": 1}]}) == Delivery(1)
    assert Codec(any_event=True).decode({"$obj": ["test_evolution:Parcel", {"n": 1}]}) == Delivery(1)


def test_two_classes_can_not_have_one_tag() -> None:
    with pytest.raises(SerializationError, match=r"the tag 'shop\.order' already stands for another class"):
        codec(Order, stored_as("shop.order")(type("Other", (Event,), {})))


def test_enums_are_renamed_as_well() -> None:
    @stored_as("shop.color", aliases=("shop:Colour",))
    class Color(Enum):
        RED = 1

    assert codec(Color).encode(Color.RED) == {"$enum": ["shop.color", "RED"]}
    assert codec(Color).decode({"$enum": ["shop:Colour", "RED"]}) is Color.RED


# --------------------------------------------------------------------------------------------------------- versions


def test_data_of_an_earlier_version_is_brought_up_to_date_step_by_step() -> None:
    first = paid(name=str)
    third = paid(3, {1: split_name, 2: add_currency}, first=str, last=str, currency=str)
    second = paid(2, first=str, last=str)
    old = codec(first).dumps(first(name="Ada Lovelace"))
    assert json.loads(old) == {"$obj": ["shop.paid", {"name": "Ada Lovelace"}]}
    assert codec(third).loads(old) == third(first="Ada", last="Lovelace", currency="EUR")
    middle = codec(second).dumps(second(first="Ada", last="Lovelace"))
    assert json.loads(middle)["$obj"][0] == "shop.paid@2"
    assert codec(third).loads(middle) == third(first="Ada", last="Lovelace", currency="EUR")
    assert json.loads(codec(third).dumps(third(first="A", last="L", currency="EUR")))["$obj"][0] == "shop.paid@3"


def test_upgrades_work_wherever_the_value_is() -> None:
    first, second = paid(name=str), paid(2, {1: split_name}, first=str, last=str)
    ada = first(name="Ada Lovelace")
    nested = {"list": [ada, (ada,)], 7: {"deep": StopEvent(result=[ada])}}
    new = second(first="Ada", last="Lovelace")
    assert codec(second).loads(codec(first).dumps(nested)) == {
        "list": [new, (new,)],
        7: {"deep": StopEvent(result=[new])},
    }


def test_an_upgrade_gets_values_and_may_give_any() -> None:
    def to_tuple(fields: dict[str, Any]) -> dict[str, Any]:
        assert fields == {"items": [1, b"x"]}
        return {"items": tuple(fields["items"])}

    first, second = paid(items=list), paid(2, {1: to_tuple}, items=tuple)
    assert codec(second).loads(codec(first).dumps(first(items=[1, b"x"]))) == second(items=(1, b"x"))


def _attrs(body: Callable[[type], type], version: int, upgrades: Any, **annotations: type) -> type:
    cls = body(type("Point", (), {"__annotations__": annotations, "__module__": __name__, "__qualname__": "Point"}))
    return stored_as("point", version=version, upgrades=upgrades)(cls)


@pytest.mark.parametrize("body", [attrs.define, attrs.frozen, dataclasses.dataclass, dataclasses.dataclass(slots=True)])
def test_every_kind_of_class_has_versions(body: Callable[[type], type]) -> None:
    first = _attrs(body, 1, None, x=int)
    second = _attrs(body, 2, {1: lambda fields: {**fields, "y": 0}}, x=int, y=int)
    assert codec(second).loads(codec(first).dumps(first(3))) == second(3, 0)


def test_a_named_tuple_has_versions() -> None:
    @stored_as("pair", version=2, upgrades={1: lambda fields: {"b": fields["a"], "a": 0}})
    class Pair(NamedTuple):
        a: int
        b: int

    assert codec(Pair).decode({"$obj": ["pair", {"a": 5}]}) == Pair(0, 5)


def test_an_exceptions_attributes_are_fields_of_it() -> None:
    @stored_as("declined", version=2, upgrades={1: lambda fields: {**fields, "code": int(fields["reason"])}})
    class Declined(Exception):
        code: int

    error = codec(Declined).decode({"$obj": ["declined", {"args": {"$tuple": ["no"]}}, {"reason": "51"}]})
    assert (type(error), error.args, error.code) == (Declined, ("no",), 51)


def test_aliases_have_versions_too() -> None:
    second = stored_as("b", version=2, aliases=("a",), upgrades={1: add_currency})(
        type("B", (Event,), {"__annotations__": {"currency": str}})
    )
    assert codec(second).decode({"$obj": ["a", {}]}) == second(currency="EUR")
    assert codec(second).decode({"$obj": ["a@2", {"currency": "USD"}]}) == second(currency="USD")


# -------------------------------------------------------------------------------------------------------- refusals


def test_newer_data_is_refused_by_name() -> None:
    first, third = paid(name=str), paid(3, first=str)
    data = codec(third).encode([{"a": third(first="A")}])
    with pytest.raises(NewerData) as refused:
        codec(first).decode(data)
    assert (refused.value.tag, refused.value.version, refused.value.known) == ("shop.paid", 3, 1)
    assert str(refused.value) == (
        "$[0].a: it is version 3 of shop.paid, and the class here is version 1: run the newer code."
    )


def fails(fields: dict[str, Any]) -> dict[str, Any]:
    raise KeyError("gone")


@pytest.mark.parametrize(
    ("upgrades", "told"),
    [
        (
            {},
            "$: it is version 1 of shop.paid, and the class here is version 2: give stored_as(upgrades={1: …}), a "
            "function that takes the dict of version 1's fields and gives version 2's.",
        ),
        (
            {1: fails},
            "$: the upgrade of shop.paid from version 1 failed with KeyError: 'gone': mend it, and read again.",
        ),
        (
            {1: lambda fields: None},
            "$: the upgrade of shop.paid from version 1 gave None: return a dict of version 2's fields.",
        ),
        (
            {1: lambda fields: {1: 2}},
            "$: the upgrade of shop.paid from version 1 gave {1: 2}: return a dict of version 2's fields.",
        ),
        (
            {1: lambda fields: fields},
            "$: the upgrades of shop.paid from version 1 don't give the fields it has ('first' is missing, 'name' is "
            "unknown): let them give first.",
        ),
    ],
)
def test_a_wrong_upgrade_is_told(upgrades: dict[int, Any], told: str) -> None:
    first, second = paid(name=str), paid(2, upgrades, first=str)
    with pytest.raises(TypeChanged) as refused:
        codec(second).loads(codec(first).dumps(first(name="A")))
    assert str(refused.value) == told


def test_a_state_that_can_not_be_is_told() -> None:
    @stored_as("failed", version=2, upgrades={1: lambda fields: {"args": "no tuple"}})
    class Failed(Exception):
        pass

    with pytest.raises(TypeChanged, match="what the upgrades of failed from version 1 give can't be its state"):
        codec(Failed).decode({"$obj": ["failed", {"args": {"$tuple": []}}]})


@pytest.mark.parametrize(
    "tag", ["shop.paid@0", "shop.paid@1", "shop.paid@x", "shop.paid@", "shop.paid@02", "shop.paid@²"]
)
def test_a_version_that_is_never_written_is_refused(tag: str) -> None:
    first = paid(name=str)
    with pytest.raises(SerializationError, match="a version is expected after the @") as refused:
        codec(first).decode({"$obj": [tag, {"name": "A"}]})
    assert not isinstance(refused.value, TypeChanged)


def test_a_version_of_astronomic_size_is_refused_at_once() -> None:
    with pytest.raises(SerializationError):
        codec(paid(name=str)).decode({"$obj": ["shop.paid@" + "9" * 100_000, {"name": "A"}]})


def test_a_class_with_hooks_leaves_versions_to_them() -> None:
    @stored_as("money", version=2)
    class Money:
        pass

    both = Codec()
    both.register(Money, unstructure=lambda one: 1, structure=lambda data, cls: Money())
    with pytest.raises(
        SerializationError, match="has hooks of its own and is version 2: leave its version to the hooks"
    ):
        both.encode(Money())


# ---------------------------------------------------------------------------------------------------------- misuse


def misuses() -> list[tuple[Callable[[], Any], str]]:
    def above(**options: Any) -> Callable[[], Any]:
        return lambda: stored_as("a", **options)(type("Mine", (Event,), {}))

    class Color(Enum):
        RED = 1

    return [
        (
            lambda: stored_as(Order),
            "stored_as(Order): it was given the class: call it, @stored_as() or @stored_as('order').",
        ),  # type: ignore[arg-type]
        (lambda: stored_as("a")(3), "stored_as(3): it isn't a class: write @stored_as(…) above a class."),  # type: ignore[type-var]
        (lambda: stored_as("")(Order), "stored_as(Order): '' can't be a tag: give a string."),
        (lambda: stored_as(3)(Order), "stored_as(Order): 3 can't be a tag: give a string."),  # type: ignore[arg-type]
        (lambda: stored_as("\ud800")(Order), "stored_as(Order): '\\ud800' can't be a tag: give a string."),
        (
            lambda: stored_as("a@2")(Order),
            "stored_as(Order): 'a@2' can't be a tag, as the version is written after an @: leave the @ out.",
        ),
        (above(version=0), "stored_as(Mine): it has version=0: give a whole number, 1 or more."),
        (above(version=True), "stored_as(Mine): it has version=True: give a whole number, 1 or more."),
        (above(version="2"), "stored_as(Mine): it has version='2': give a whole number, 1 or more."),
        (above(aliases="b"), "stored_as(Mine): it has aliases='b': give a list of tags, aliases=['b']."),
        (above(aliases=[3]), "stored_as(Mine): 3 can't be a tag: give a string."),
        (above(upgrades=[split_name]), "stored_as(Mine): it has upgrades=[<function split_name"),
        (
            above(upgrades={1: split_name}),
            "stored_as(Mine): it has an upgrade from version 1, and is version 1: give version=2.",
        ),
        (
            above(version=2, upgrades={0: split_name}),
            "stored_as(Mine): it has an upgrade from version 0, and is version 2: number the upgrades by what they "
            "upgrade, from 1.",
        ),
        (
            above(version=2, upgrades={1: "split"}),
            "stored_as(Mine): it has upgrades={1: 'split'}: give a function of a dict of fields.",
        ),
        (
            lambda: stored_as("color", version=2)(Color),
            "stored_as(misuses.<locals>.Color): it has version=2, and an enum has no fields: keep the members that "
            "were written.",
        ),
        (lambda: stored_as("int")(int), "stored_as(int): it can't be marked: put it into a class of your own."),
    ]


@pytest.mark.parametrize(("do", "told"), misuses(), ids=lambda one: one[:50] if isinstance(one, str) else "")
def test_a_misuse_is_told(do: Callable[[], Any], told: str) -> None:
    with pytest.raises(SerializationError) as raised:
        do()
    assert str(raised.value).startswith(told)
