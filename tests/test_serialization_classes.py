"""How classes are made known to a codec, with hooks and without."""

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, Literal

import attrs
import cattrs
import pytest
from stored_values import (
    CLASSES,
    DEEP,
    Box,
    Fetch,
    MyDict,
    MyInt,
    MyStr,
    Plaintext,
    SomeEnum,
    SomeError,
    SomeEvent,
    T,
    UserZone,
    round_trip,
    same,
)

from flowkit import StartEvent, StopEvent, Workflow, errors, events, step, storage_errors
from flowkit.errors import SerializationError
from flowkit.events import Event
from flowkit.serialization import Codec
from flowkit.snapshot import codec_for
from flowkit.storage_errors import StoredError
from flowkit.workflow import plan_of


@pytest.fixture
def codec() -> Codec:
    return Codec(CLASSES)


# ----------------------------------------------------------------------------------------------------- registering


class Leaf(Event):
    n: int


class Twig(Event):
    leaves: "list[Leaf]"


class Branch(Event):
    twig: "Twig | None"
    color: Literal[SomeEnum.A]
    unknown: "Undefined"  # type: ignore[name-defined]  # noqa: F821


class Tree(Event, Generic[T]):
    branches: dict[str, tuple[Branch, ...]]
    back: "Tree[int] | None" = None
    kind: type[SomeEvent] | None = None
    lock: Any = None
    act: "Callable[[Box[SomeError]], None] | None" = None


Json = None | int | str | list["Json"] | dict[str, "Json"]


class Answered(Event):
    data: Json


def test_a_type_alias_may_mention_itself() -> None:
    codec = Codec([Answered])
    answered = Answered([1, [None, {"a": "b"}]])
    assert same(round_trip(codec, answered), answered)


def test_registering_registers_what_the_annotations_mention() -> None:
    codec = Codec([Tree])
    tree: Tree[int] = Tree({"a": (Branch(Twig([Leaf(1)]), SomeEnum.A, None),)}, kind=SomeEvent)
    assert same(round_trip(codec, tree), tree)
    assert same(round_trip(codec, [SomeError("x"), Box(1)]), [SomeError("x"), Box(1)])
    with pytest.raises(SerializationError, match=r"write codec\.register\(Fetch\)"):
        codec.encode(Fetch(1))


def test_registering_a_generic_registers_its_arguments() -> None:
    codec = Codec()
    codec.register(Box[list[Leaf]])
    assert same(round_trip(codec, Box([Leaf(1)])), Box([Leaf(1)]))


def test_register_returns_the_class_and_may_be_repeated() -> None:
    codec = Codec()
    assert codec.register(Fetch) is Fetch
    assert codec.register(Fetch, aliases=["old:Fetch"]) is Fetch
    assert codec.decode({"$type": "old:Fetch"}) is Fetch
    assert codec.encode(Fetch) == {"$type": "stored_values:Fetch"}


def test_a_new_tag_is_written_and_the_old_one_still_read() -> None:
    codec = Codec([Fetch])
    old = codec.dumps(Fetch(1))
    codec.register(Fetch, tag="fetch")
    codec.register(Fetch)
    assert codec.dumps(Fetch(1)) == b'{"$obj":["fetch",{"path":1,"tries":0}]}'
    assert codec.loads(old) == Fetch(1)


def local_class() -> type:
    class Local(Event):
        x: int

    return Local


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (
            lambda codec: (codec.register(local_class()), codec.register(local_class())),
            "register(local_class.<locals>.Local): the tag 'test_serialization_classes:local_class.<locals>.Local' "
            "already stands for another class, test_serialization_classes.local_class.<locals>.Local: "
            "register one with another tag=….",
        ),
        (lambda codec: codec.register(Fetch, tag="int"), "the tag 'int' already stands for another class, int"),
        (lambda codec: codec.register(Fetch, aliases=[""]), "register(Fetch): '' can't be a tag: give a string."),
        (lambda codec: codec.register(Fetch, tag="\ud800"), r"register(Fetch): '\ud800' can't be a tag"),
        (lambda codec: codec.register(Fetch, tag=1), "register(Fetch): 1 can't be a tag"),
        (lambda codec: codec.register("Fetch"), "register(Fetch): it isn't a class."),
        (lambda codec: codec.register(int | str), "it isn't a class."),
        (
            lambda codec: codec.register(Plaintext, unstructure=str),
            "register(Plaintext): one hook was given without the other: give both.",
        ),
        (
            lambda codec: codec.register(datetime, unstructure=str, structure=str),
            "register(datetime): its form is fixed: wrap it in a class of your own.",
        ),
    ],
)
def test_wrong_registrations(codec: Codec, register: Callable[[Codec], Any], message: str) -> None:
    with pytest.raises(SerializationError) as caught:
        register(codec)
    assert message in str(caught.value)


def test_a_refused_registration_leaves_no_trace() -> None:
    codec = Codec()
    with pytest.raises(SerializationError):
        codec.register(Fetch, tag="fetch", aliases=["int"])
    codec.register(Leaf, tag="fetch")
    assert codec.decode({"$type": "fetch"}) is Leaf


def test_codecs_share_nothing() -> None:
    Codec([Fetch])
    with pytest.raises(SerializationError):
        Codec().encode(Fetch(1))


def test_all_of_flowkits_events_and_errors_are_known() -> None:
    codec = Codec()
    everything = [getattr(module, name) for module in (events, errors, storage_errors) for name in module.__all__]
    for cls in (one for one in everything if isinstance(one, type)):
        assert codec.decode(codec.encode(cls)) is cls


# ----------------------------------------------------------------------------------------------------------- hooks


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def unspeakable(value: Any) -> Any:
    raise Unspeakable


def to_list(value: Plaintext) -> list[Any]:
    return ["text", (value.text,)]


def from_list(data: Any, cls: type[Plaintext]) -> Plaintext:
    assert type(data[1]) is tuple, "a hook gets back what it gave"
    return cls(data[1][0])


def test_hooks_given_to_register() -> None:
    codec = Codec()
    codec.register(Plaintext, unstructure=to_list, structure=from_list)
    assert codec.encode(Plaintext("x")) == {"$hook": ["stored_values:Plaintext", ["text", {"$tuple": ["x"]}]]}
    assert round_trip(codec, {1: Plaintext("x")}) == {1: Plaintext("x")}
    assert codec.converter.unstructure(Plaintext("x")) == ["text", ("x",)]
    assert codec.converter.structure(["text", ("x",)], Plaintext) == Plaintext("x")


@pytest.mark.parametrize("given", [False, True])
def test_hooks_registered_on_the_converter(given: bool) -> None:
    converter = cattrs.Converter()
    codec = Codec(converter=converter) if given else Codec()
    codec.register(Plaintext)
    codec.converter.register_unstructure_hook(Plaintext, to_list)
    codec.converter.register_structure_hook(Plaintext, from_list)
    assert round_trip(codec, Plaintext("x")) == Plaintext("x")
    assert not given or codec.converter is converter


@pytest.mark.parametrize("how", ["register", "converter"])
def test_hooks_go_before_the_fields(how: str) -> None:
    """So they can leave out what can't be stored."""

    @attrs.define
    class Guarded:
        number: int
        lock: Any = attrs.field(factory=threading.Lock, eq=False)

    codec = Codec()

    def unstructure(value: Guarded) -> int:
        return value.number

    def structure(data: Any, cls: type[Guarded]) -> Guarded:
        return cls(data)

    codec.register(Guarded)
    with pytest.raises(SerializationError, match=r"^\$\.lock: a lock can't be stored"):
        codec.encode(Guarded(1))
    if how == "register":
        codec.register(Guarded, unstructure=unstructure, structure=structure)
    else:
        codec = Codec([Guarded])
        codec.converter.register_unstructure_hook(Guarded, unstructure)
        codec.converter.register_structure_hook(Guarded, structure)
    assert codec.loads(codec.dumps(Guarded(1))) == Guarded(1)


def test_a_subclass_of_a_builtin_by_hooks() -> None:
    codec = Codec()
    codec.register(MyInt, unstructure=int, structure=lambda data, cls: cls(data))
    assert same(round_trip(codec, [MyInt(1), 1]), [MyInt(1), 1])


def test_a_registered_class_that_cant_be_taken_apart() -> None:
    for cls in (Plaintext, MyInt, MyStr, MyDict, UserZone, object):
        codec = Codec()
        codec.register(cls)
        assert codec.decode(codec.encode(cls)) is cls
        with pytest.raises(SerializationError) as caught:
            codec.encode(cls("1") if cls in (Plaintext, MyInt, MyStr) else cls())
        assert "is registered, but what it consists of can't be told: write codec.register(" in str(caught.value)


def test_a_hook_of_a_base_class_does_not_count() -> None:
    """It would make the base class of it."""

    class Sub(Plaintext):
        pass

    codec = Codec([Sub])
    codec.converter.register_unstructure_hook(Plaintext, to_list)
    codec.converter.register_structure_hook(Plaintext, lambda data, _: Plaintext(data[1][0]))
    with pytest.raises(SerializationError, match="can't be told"):
        codec.encode(Sub("x"))


@pytest.mark.parametrize(
    ("unstructure", "structure", "message"),
    [
        (
            lambda _: 1 / 0,
            from_list,
            "$[0]: the unstructure hook of stored_values.Plaintext failed with ZeroDivisionError",
        ),
        (
            to_list,
            lambda *_: 1 / 0,
            "$[0]: the structure hook of stored_values.Plaintext failed with ZeroDivisionError",
        ),
        (
            to_list,
            lambda *_: "x",
            "$[0]: the structure hook of stored_values.Plaintext returned str: return the class.",
        ),
        (unspeakable, from_list, "$[0]: the unstructure hook of stored_values.Plaintext failed with Unspeakable."),
        (lambda value: value, from_list, DEEP),
        (lambda _: [1, len], from_list, "$[0][1]: a builtin_function_or_method can't be stored"),
        (lambda _: Codec().encode({"a": len}), from_list, "$[0].a: a builtin_function_or_method can't be stored"),
    ],
)
def test_hooks_that_fail(unstructure: Any, structure: Any, message: str) -> None:
    codec = Codec()
    codec.register(Plaintext, unstructure=unstructure, structure=structure)
    with pytest.raises(SerializationError) as caught:
        codec.decode(codec.encode([Plaintext("x")]))
    assert message in str(caught.value)


def test_half_a_hook_on_the_converter() -> None:
    codec = Codec([Plaintext])
    codec.converter.register_structure_hook(Plaintext, from_list)
    with pytest.raises(SerializationError, match=r"has only one hook for stored_values\.Plaintext: register both"):
        codec.encode(Plaintext("x"))


def test_a_workflows_codec_takes_a_converter() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    converter = cattrs.Converter()
    converter.register_unstructure_hook(Plaintext, to_list)
    converter.register_structure_hook(Plaintext, from_list)
    codec = codec_for(plan_of(Flow()), [Plaintext], converter)
    assert codec.loads(codec.dumps(Fetch(Plaintext("x")))).path.text == "x"


@pytest.mark.parametrize("error", [SomeError("x"), ValueError(len), ExceptionGroup("g", [SomeError("x")])])
def test_a_codec_that_never_refuses_an_exception(error: Exception) -> None:
    codec = Codec()
    with pytest.raises(SerializationError):
        codec.dumps(error)
    assert isinstance(codec.loads(codec.nearly().dumps(error)), StoredError | ExceptionGroup)
    with pytest.raises(SerializationError, match="can't be stored"):
        codec.nearly().dumps([len])
    codec.register(SomeError)
    assert type(codec.loads(codec.nearly().dumps(SomeError("x")))) is SomeError
