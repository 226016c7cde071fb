"""``key=value …``: what is made of it by the fields of an event, and what is said of a mistake."""

import collections.abc
import dataclasses
import datetime
import enum
import io
import sys
import typing
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import pytest

pytest.importorskip("click")

from flowkit import Event, HumanResponseEvent, StartEvent, StopEvent, Workflow, step
from flowkit.command_line.exits import Refused
from flowkit.command_line.typed import Wrong, expected, from_json, from_text, type_text
from flowkit.command_line.values import answer_of, event_named, event_of, fields_text


class Color(enum.Enum):
    RED = "#f00"
    GREEN = "#0f0"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@attrs.frozen
class Item:
    name: str
    price: Decimal
    count: int = 1


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Pair(typing.NamedTuple):
    left: int
    right: str = "r"


class Options(typing.TypedDict):
    size: int
    loud: typing.NotRequired[bool]


class Box:
    """A plain class, which nothing here can make."""


Meters = typing.NewType("Meters", float)
NOON = datetime.datetime(2026, 1, 31, 12)
A_UUID = UUID("12345678-1234-5678-1234-567812345678")


# ---------------------------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("5", str, "5"),
        (" a ", str, " a "),
        ("", str, ""),
        ("5", int, 5),
        ("-1_000", int, -1000),
        ("5", float, 5.0),
        ("1e3", float, 1000.0),
        ("true", bool, True),
        ("Yes", bool, True),
        ("1", bool, True),
        ("off", bool, False),
        ("0", bool, False),
        ("1+2j", complex, 1 + 2j),
        ("1.10", Decimal, Decimal("1.10")),
        ("1/3", Fraction, Fraction(1, 3)),
        ("grün", bytes, "grün".encode()),
        ("none", None, None),
        ("RED", Color, Color.RED),
        ("green", Color, Color.GREEN),
        ("#0f0", Color, Color.GREEN),
        ("2", Level, Level.HIGH),
        ("low", Level, Level.LOW),
        ("2026-01-31T12:00", datetime.datetime, NOON),
        ("2026-01-31T12:00Z", datetime.datetime, NOON.replace(tzinfo=datetime.UTC)),
        ("2026-01-31", datetime.date, NOON.date()),
        ("12:00", datetime.time, NOON.time()),
        ("90", datetime.timedelta, datetime.timedelta(seconds=90)),
        ("1.5", datetime.timedelta, datetime.timedelta(seconds=1.5)),
        ("1h30m", datetime.timedelta, datetime.timedelta(minutes=90)),
        ("250ms", datetime.timedelta, datetime.timedelta(milliseconds=250)),
        ("2d 4h", datetime.timedelta, datetime.timedelta(days=2, hours=4)),
        ("-1:30", datetime.timedelta, datetime.timedelta(hours=-1, minutes=-30)),
        ("2 days, 1:00:05", datetime.timedelta, datetime.timedelta(days=2, hours=1, seconds=5)),
        (str(A_UUID), UUID, A_UUID),
        ("a/b", Path, Path("a/b")),
        ("low", typing.Literal["low", "high"], "low"),
        ("HIGH", typing.Literal["low", "high"], "high"),
        ("2", typing.Literal[1, 2], 2),
        ("true", typing.Literal[True, "maybe"], True),
        ("RED", typing.Literal[Color.RED], Color.RED),
        ("none", str | None, None),
        ("", int | None, None),
        ("5", int | None, 5),
        ("5", int | str, 5),
        ("5", str | int, 5),
        ("five", int | str, "five"),
        ("1", bool | int, 1),
        ("true", bool | int, True),
        ("2026-01-31", datetime.date | str, NOON.date()),
        ("[1, 2]", list[int] | None, [1, 2]),
        ("1.5", typing.Annotated[float, "meters"], 1.5),
        ("1.5", Meters, 1.5),
        ("[1, 2]", list[int], [1, 2]),
        ("[]", list, []),
        ('["a"]', collections.abc.Sequence[str], ["a"]),
        ("[1, 1]", set[int], {1}),
        ("[1]", frozenset[int], frozenset({1})),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ('[1, "a"]', tuple[int, str], (1, "a")),
        ('{"a": 1}', dict[str, int], {"a": 1}),
        ('{"1": ["2026-01-31"]}', dict[int, list[datetime.date]], {1: [NOON.date()]}),
        ('{"name": "a", "price": "1.10"}', Item, Item("a", Decimal("1.10"))),
        ('[{"name": "a", "price": 2, "count": 3}]', list[Item], [Item("a", Decimal(2), 3)]),
        ('{"x": 1}', Point, Point(1.0)),
        ('{"left": 1}', Pair, Pair(1)),
        ('[1, "b"]', Pair, Pair(1, "b")),
        ('{"size": 1}', Options, {"size": 1}),
        ("5", Any, 5),
        ("five", Any, "five"),
        ('"5"', Any, "5"),
        ("[1", Any, "[1"),
        ("null", object, None),
    ],
)
def test_a_text_by_its_annotation(text: str, annotation: Any, value: Any) -> None:
    found = from_text(text, annotation)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "said"),
    [
        ("five", int, "takes a whole number, but got 'five'"),
        ("1.5", int, "takes a whole number, but got '1.5'"),
        ("x", float, "takes a number, but got 'x'"),
        ("maybe", bool, "takes true or false, but got 'maybe'"),
        ("x", Decimal, "takes a decimal number, but got 'x'"),
        ("1/0", Fraction, "takes a fraction, such as 1/3, but got '1/0'"),
        ("blu", Color, "takes one of RED, GREEN, but got 'blu'"),
        ("GREN", Color, "takes one of RED, GREEN, but got 'GREN': did you mean 'GREEN'?"),
        ("now", datetime.datetime, "takes a date and time, such as 2026-01-31T12:00, but got 'now'"),
        ("31.1.", datetime.date, "takes a date, such as 2026-01-31, but got '31.1.'"),
        ("soon", datetime.timedelta, "takes a duration, such as 90 (seconds), 1h30m or 2d, but got 'soon'"),
        ("nan", datetime.timedelta, "takes a duration, such as 90 (seconds), 1h30m or 2d, but got 'nan'"),
        ("1e99", datetime.timedelta, "takes a duration, such as 90 (seconds), 1h30m or 2d, but got '1e99'"),
        ("x", UUID, "takes a UUID, but got 'x'"),
        ("hi", typing.Literal["low", "high"], "takes low or high, but got 'hi': did you mean 'high'?"),
        ("x", int | None, "takes a whole number or none, but got 'x'"),
        ("x", int | datetime.date, "takes a whole number or a date, such as 2026-01-31, but got 'x'"),
        ("1, 2", list[int], "takes a JSON list (list[int]), but got '1, 2': write it as '[1, 2]'"),
        ("a,b", set[str], "takes a JSON list (set[str]), but got 'a,b': write it as '[\"a\", \"b\"]'"),
        ("a", list[str] | None, "takes a JSON list (list[str]) or none, but got 'a': write it as '[\"a\", \"b\"]'"),
        ("GREN", Color | None, "takes one of RED, GREEN or none, but got 'GREN': did you mean 'GREEN'?"),
        ('{"name": "a"}', Item | None, "takes all fields of Item, but got none for price: Decimal"),
        ("[1]", tuple[int, str] | None, "takes a JSON list of 2 (tuple[int, str]), but got [1]"),
        ('[{"name": "a"}]', list[Item | None], "[0] takes all fields of Item, but got none for price: Decimal"),
        ("[1, 2", list[int], "takes a JSON list (list[int]), but got '[1, 2': write it in quotes, so that the shell "),
        ("{}", list[int], "takes a JSON list (list[int]), but got {}"),
        ('[1, "2"]', list[int], '[1] takes a whole number, but got "2"'),
        ("[1]", tuple[int, str], "takes a JSON list of 2 (tuple[int, str]), but got [1]"),
        ('{"a": "b"}', dict[str, int], "['a'] takes a whole number, but got \"b\""),
        ('{"a": 1}', dict[int, int], "takes a whole number as a key, but got 'a'"),
        ('{"nme": "a"}', Item, "takes the fields of Item, but got 'nme': did you mean 'name'?"),
        ('{"name": "a"}', Item, "takes all fields of Item, but got none for price: Decimal"),
        ('[{"name": 1, "price": 1}]', list[Item], "[0].name takes a text, but got 1"),
        ('{"size": "x"}', Options, '.size takes a whole number, but got "x"'),
        ("3", Item, "takes a JSON object (Item), but got 3"),
        (
            "x",
            Box,
            'takes a Box, which can\'t be written on a command line, but got "x": give the workflow a converter',
        ),
        ("[" * 5000, list[int], "takes a JSON list (list[int]), but got"),
    ],
)
def test_a_text_that_does_not_fit(text: str, annotation: Any, said: str) -> None:
    with pytest.raises(Wrong) as caught:
        from_text(text, annotation)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("data", "annotation"),
    [("5", int), (True, int), (1, bool), (1.5, int), ("true", bool), (5, str), (None, str), (True, float), (1, Path)],
)
def test_json_is_not_guessed_at(data: Any, annotation: Any) -> None:
    with pytest.raises(Wrong):
        from_json(data, annotation)


def test_what_a_validator_refuses() -> None:
    @attrs.frozen
    class Positive:
        n: int = attrs.field(validator=attrs.validators.gt(0))

    with pytest.raises(Wrong, match="takes a valid Positive, but got ValueError: 'n' must be > 0: -1"):
        from_text('{"n": -1}', Positive)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (int | None, "int | None"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (typing.Literal["a", 1], "Literal['a', 1]"),
        (typing.Annotated[int, 3], "int"),
        (typing.Any, "Any"),
        (Color, "Color"),
    ],
)
def test_an_annotation_as_it_is_written(annotation: Any, text: str) -> None:
    assert type_text(annotation) == text


def test_several_in_words() -> None:
    assert expected(int | str | None) == "a whole number, a text or none"


# --------------------------------------------------------------------------------------------------------------- events


class Ask(StartEvent):
    question: str
    limit: int = 5
    color: Color = Color.RED
    tags: list[str] = attrs.field(factory=list)


class Bare(StartEvent):
    pass


class Checked(StartEvent):
    n: int = attrs.field(validator=attrs.validators.gt(0))


class Reply(HumanResponseEvent):
    text: str
    who: str = "somebody"


class Flow(Workflow):
    @step
    async def only(self, ev: Ask) -> StopEvent:
        return StopEvent()

    @step
    async def take(self, ev: Reply) -> None: ...


def refusal(kind: type[Event], *arguments: str, **more: Any) -> str:
    with pytest.raises(Refused) as caught:
        event_of(kind, arguments, **more)
    assert caught.value.code == 2
    return caught.value.message


def test_an_event_of_its_fields() -> None:
    made = event_of(Ask, ["question=what is = to 1?", "limit=7", "color=green", 'tags=["a", "b"]'])
    assert made == Ask("what is = to 1?", 7, Color.GREEN, ["a", "b"])


def test_an_open_event_takes_json_where_it_looks_like_it() -> None:
    made = event_of(StartEvent, ["n=5", "name=Ada", "ok=true", "no=none", "xs=[1, 2]", 'text:="5"'])
    assert made == StartEvent(n=5, name="Ada", ok=True, no="none", xs=[1, 2], text="5")


def test_values_that_are_said_to_be_json() -> None:
    assert event_of(Ask, ['question:="yes"', "limit:=3"]) == Ask("yes", 3)
    assert refusal(Ask, "question:=3") == "Ask.question (str) takes a text, but got 3"
    said = refusal(Ask, "question:=yes")
    assert said.startswith("Ask.question (str) takes a text, as JSON, but got 'yes' (Expecting value")
    assert said.endswith(": text needs double quotes in JSON")


def test_values_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "question.txt"
    file.write_text("two\nlines\n", encoding="utf-8")
    (tmp_path / "tags.json").write_text('["a"]\n', encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("7\n"))
    made = event_of(Ask, [f"question=@{file}", f"tags:=@{tmp_path / 'tags.json'}", "limit=@-"])
    assert made == Ask("two\nlines", 7, Color.RED, ["a"])
    assert event_of(Ask, ["question=@@home"]) == Ask("@home")


def test_values_from_files_that_can_not_be_read(tmp_path: Path) -> None:
    said = refusal(Ask, "question=@nowhere.txt")
    assert said == (
        "question=@nowhere.txt: the file can't be read (No such file or directory): write question=@@nowhere.txt for a "
        "text that begins with @"
    )
    (tmp_path / "latin").write_bytes(b"\xff")
    assert refusal(Ask, f"question=@{tmp_path / 'latin'}").endswith("latin: the file isn't UTF-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Ask needs question: str: add question=…"),
        (["qestion=x", "question=y"], "Ask has no field 'qestion': did you mean 'question'?"),
        (
            ["question=y", "xyz=1"],
            "Ask has no field 'xyz': it takes question: str, limit: int = 5, color: Color = RED, tags: list[str] = …",
        ),
        (["question=y", "limit=x"], "Ask.limit (int) takes a whole number, but got 'x'"),
        (["question=y", 'tags=["a", 1]'], "Ask.tags (list[str]) at [1] takes a text, but got 1"),
        (["question"], "'question' is no value for a field: write key=value, such as topic=pirates"),
        (["=x"], "'=x' is no value for a field: write the field's name before ="),
        (["my-key=x"], "'my-key=x' is no value for a field: write my_key=…"),
        (["--limit=3"], "'--limit=3' is no value for a field: options stand before `--`"),
        (["limit=1", "limit=2"], "limit is given twice, as '1' and as '2'"),
    ],
)
def test_a_mistake_in_the_values(arguments: list[str], said: str) -> None:
    assert refusal(Ask, *arguments) == said


def test_all_mistakes_are_told_at_once() -> None:
    assert refusal(Ask, "limit=x", "colour=RED") == (
        "Ask can't be built, 3 values are wrong:\n"
        "  Ask.limit (int) takes a whole number, but got 'x'\n"
        "  Ask has no field 'colour': did you mean 'color'?\n"
        "  Ask needs question: str: add question=…"
    )


def test_an_event_without_fields() -> None:
    assert event_of(Bare, []) == Bare()
    assert refusal(Bare, "n=1") == "Bare has no field 'n': it has no fields"


def test_what_the_event_itself_refuses() -> None:
    assert refusal(Checked, "n=-1").startswith("Checked refuses these values: ValueError: 'n' must be > 0: -1")


def test_a_converter_of_the_workflow() -> None:
    import cattrs

    converter = cattrs.Converter()
    converter.register_structure_hook(Box, lambda data, kind: (data, kind))

    class Boxed(StartEvent):
        box: Box

    class Boxes(Workflow):
        @step
        async def only(self, ev: Boxed) -> StopEvent:
            return StopEvent()

    made = event_of(Boxed, ["box=x"], workflow=Boxes(converter=converter))
    assert made["box"] == ("x", Box)
    assert "can't be written on a command line" in refusal(Boxed, "box=x")


def test_the_fields_in_words() -> None:
    assert fields_text(Ask) == "question: str, limit: int = 5, color: Color = RED, tags: list[str] = …"
    assert fields_text(StartEvent) == "any"
    assert fields_text(Bare) == "none"


# -------------------------------------------------------------------------------------------------------------- answers


def test_an_answer_in_a_line() -> None:
    assert answer_of(Reply, "yes") == Reply("yes")
    assert answer_of(Reply, '{"text": "yes", "who": "me"}') == Reply("yes", "me")
    assert answer_of(Reply, "{not json") == Reply("{not json")
    assert answer_of(HumanResponseEvent, "7") == HumanResponseEvent(response="7")
    assert answer_of(HumanResponseEvent, '{"n": 7}') == HumanResponseEvent(n=7)
    assert answer_of(Reply, "yes", None, {"who": "boss"}) == Reply("yes", "boss")
    assert answer_of(Reply, "me", None, {"text": "yes"}) == Reply("yes", "me")


def test_an_answer_that_is_none() -> None:
    class Two(HumanResponseEvent):
        a: int
        b: int

    for line, said in [
        ("5", 'takes a line of JSON with a: int, b: int, but got \'5\': write {"a": …, "b": …}'),
        ('{"a": 1}', "takes all fields of Two, but got none for b: int"),
        ('{"a": 1, "c": 2}', "takes the fields of Two, but got 'c': did you mean 'a'?"),
        ('{"a": "x", "b": 1}', '.a takes a whole number, but got "x"'),
    ]:
        with pytest.raises(Wrong) as caught:
            answer_of(Two, line)
        assert str(caught.value).startswith(said.partition(": did")[0])


def test_an_event_by_its_name() -> None:
    assert event_named(Flow(), "Reply") is Reply
    assert event_named(Flow(), "HumanResponseEvent") is HumanResponseEvent
    with pytest.raises(Refused, match=r"^Flow has no event 'Rely' in sight: did you mean 'Reply'\?$"):
        event_named(Flow(), "Rely")
