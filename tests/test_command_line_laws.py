"""What holds of every text and every JSON given for a value: it is read, or refused by `Wrong` and nothing else."""

import contextlib
import datetime
import json
import typing
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("click")

from flowkit import HumanResponseEvent
from flowkit.command_line.exits import Refused
from flowkit.command_line.output import plain, printable
from flowkit.command_line.typed import Wrong, expected, from_json, from_text, type_text
from flowkit.command_line.values import answer_of, event_of
from flowkit.errors import EventError


class Color(Enum):
    RED = 1
    GREEN = "green"


@attrs.frozen
class Item:
    name: str
    sizes: list[int] = attrs.field(factory=list)


class Reply(HumanResponseEvent):
    text: str
    item: Item | None = None
    when: datetime.date = datetime.date(2026, 1, 31)


LEAVES: list[Any] = [
    str,
    int,
    float,
    bool,
    None,
    complex,
    bytes,
    Decimal,
    Fraction,
    UUID,
    PurePosixPath,
    datetime.datetime,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    Color,
    typing.Literal["a", 1, None],
    Any,
    object,
    Item,
    type("Odd", (), {}),
]
annotations = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        inner.map(lambda one: list[one]),
        inner.map(lambda one: set[one]),
        inner.map(lambda one: tuple[one, ...]),
        st.tuples(inner, inner).map(lambda two: tuple[two]),
        st.tuples(inner, inner).map(lambda two: typing.Union[two]),  # noqa: UP007
        st.tuples(st.sampled_from([str, int, Color]), inner).map(lambda two: dict[two]),
        inner.map(lambda one: typing.Annotated[one, "more"]),
    ),
    max_leaves=4,
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
texts = (
    st.text() | documents.map(json.dumps) | st.sampled_from(["", "none", "1", "true", "1h", "2026-01-31", "[", "1/0"])
)


@given(texts, annotations)
def test_a_text_is_read_or_refused(text: str, annotation: Any) -> None:
    with contextlib.suppress(Wrong):
        from_text(text, annotation)


@given(documents, annotations)
def test_json_is_read_or_refused(data: Any, annotation: Any) -> None:
    with contextlib.suppress(Wrong):
        from_json(data, annotation)


@given(annotations)
def test_every_annotation_can_be_said(annotation: Any) -> None:
    assert type_text(annotation) and expected(annotation)


@given(st.lists(st.text() | st.tuples(st.sampled_from(["text", "item", "when", "x"]), texts).map("=".join), max_size=3))
def test_values_make_an_event_or_are_refused(arguments: list[str]) -> None:
    with contextlib.suppress(Refused):
        assert isinstance(event_of(Reply, [one for one in arguments if "=@" not in one]), Reply)


@given(texts)
def test_a_line_is_an_answer_or_is_refused(line: str) -> None:
    with contextlib.suppress(Wrong, EventError):
        assert isinstance(answer_of(Reply, line), Reply)


@pytest.mark.parametrize(
    ("values", "annotation"),
    [
        (st.integers(), int),
        (st.floats(allow_nan=False), float),
        (st.booleans(), bool),
        (st.text(), str),
        (st.decimals(allow_nan=False), Decimal),
        (st.fractions(), Fraction),
        (st.uuids(), UUID),
        (st.dates(), datetime.date),
        (st.datetimes(), datetime.datetime),
        (st.times(), datetime.time),
        (st.timedeltas(), datetime.timedelta),
    ],
)
def test_a_value_comes_back_from_its_text(values: st.SearchStrategy[Any], annotation: Any) -> None:
    @given(values)
    def comes_back(value: Any) -> None:
        assert from_text(str(value), annotation) == value

    comes_back()


@given(documents)
def test_whatever_is_printed_as_json_is_json(data: Any) -> None:
    json.dumps(plain([data, {"a": (data,)}, Item("x"), Reply("y"), {1, "z"}, object()]), allow_nan=False)


@given(st.text())
def test_printed_text_steers_no_terminal(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert all(one in "\n\t" or one >= " " for one in shown) and "\x7f" not in shown and "\x9b" not in shown
