"""Annotations that are postponed, quoted, or mention what is defined further down or inside a function."""

import sys
import types
from typing import Any

import pytest

from flowkit import Event, InvalidWorkflow, StartEvent, StopEvent, Workflow, step


async def test_an_event_defined_further_down() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> "Later":
            return Later(n=1)

        @step
        async def work(self, ev: "Later") -> StopEvent:
            return StopEvent(result=ev.n)

    assert await Flow().run() == 1


class Later(Event):
    n: int


def test_what_is_wrong_beside_a_name_that_is_not_defined_yet_is_said_at_once() -> None:
    with pytest.raises(InvalidWorkflow) as invalid:

        class Flow(Workflow):
            @step
            async def one(self, ev: "Tomorrow", limit: int) -> StopEvent:  # noqa: F821
                return StopEvent()

            @step
            async def two(self, ev: StartEvent) -> int:
                return 3

    faults = "\n".join(map(str, invalid.value.exceptions))
    assert "Flow.one has a parameter 'limit'" in faults
    assert "Flow.two is annotated to return int" in faults
    assert "Tomorrow" not in faults


MODULE = """
from __future__ import annotations
from typing import Annotated
from flowkit import Context, Event, Resource, StartEvent, StopEvent, Workflow, step

class Flow(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Later | None:
        return Later(n=1)

    @step
    async def work(self, ev: "Later", bonus: Annotated[int, Resource(make)]) -> StopEvent:
        return StopEvent(result=ev.n + bonus)

def make(half: Annotated[int, Resource(make_half)]) -> int:
    return 2 * half

def make_half() -> int:
    return 5

class Later(Event):
    n: int

def local() -> Workflow:
    class Inner(Event):
        n: int

    def make_inner(ev: Begin) -> int:
        return ev.n

    class Begin(StartEvent):
        n: int

    class Local(Workflow):
        class Nested(Event):
            n: int

        @step
        async def begin(self, ev: Begin) -> Inner:
            return Inner(n=ev.n)

        @step
        async def go_on(self, ev: Inner) -> Nested:
            return self.Nested(n=ev.n + 1)

        @step
        async def work(self, ev: Nested, again: Annotated[int, Resource(make_inner)]) -> StopEvent:
            return StopEvent(result=(ev.n, again))

    return Local()
"""


@pytest.fixture
def postponed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module in which all annotations are postponed."""
    module = types.ModuleType("postponed")
    monkeypatch.setitem(sys.modules, "postponed", module)
    exec(compile(MODULE, "postponed.py", "exec", dont_inherit=True), module.__dict__)
    return module


async def test_postponed_annotations(postponed: Any) -> None:
    assert await postponed.Flow().run() == 11


async def test_postponed_annotations_inside_a_function(postponed: Any) -> None:
    assert await postponed.local().run(n=3) == (4, 3)


async def test_no_frame_is_kept_alive(postponed: Any) -> None:
    kept = postponed.local().__flowkit_local__
    assert kept.keys() <= {"Inner", "Begin", "make_inner", "Local", "Nested"}
