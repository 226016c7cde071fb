"""What a step waits for is guessed from its code, and drawn dashed."""

from typing import Any

import pytest
import stored_flows

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from flowkit.drawing import to_mermaid
from flowkit.drawing.graph import Edge, graph_of
from flowkit.examples import approval


class Question(InputRequiredEvent):
    text: str


class Answer(HumanResponseEvent):
    text: str


class Delivered(Event): ...


class Packed(Event): ...


def dashed(workflow: type[Workflow] | Workflow) -> set[tuple[str, str, str]]:
    """The dashed arrows, by the names of their ends."""
    graph = graph_of(workflow)
    names = {node.id: node.name for node in graph.nodes}
    return {(names[one.source], one.label, names[one.target]) for one in graph.edges if one.style == "may"}


def lines(workflow: type[Workflow], step_name: str) -> tuple[str, ...]:
    return next(node.lines for node in graph_of(workflow).nodes if node.id == f"step {step_name}")


class AsksItself(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(Answer, Question("well?"))
        return StopEvent(result=answer.text)


class AsksByAMethod(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=[await one() for one in [lambda: self.asked(ctx)]])

    async def asked(self, ctx: Context) -> str:
        return (await ctx.wait_for_event(stored_flows.Approved)).by


async def asked(ctx: Context) -> Any:
    return await ctx.wait_for_event(Answer, Question("well?"))


class AsksByAFunction(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Packed:
        await asked(ctx)
        return Packed()

    @step
    async def go_on(self, ctx: Context, ev: Packed) -> StopEvent:
        await ctx.wait_for_event(Delivered, timeout=5)
        return StopEvent(result=Packed)


class MentionsOnly(Workflow):
    """Names the classes and waits for none of them."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Question:
        await ctx.set("kinds", (Answer, Delivered))
        return Question("well?")

    @step
    async def end(self, ev: Answer) -> StopEvent:
        return StopEvent(result=ev.text)


@pytest.mark.parametrize(
    ("workflow", "arrows"),
    [
        (AsksItself, {("begin", "asks", "Question"), ("Answer", "waits", "begin")}),
        (AsksByAMethod, {("Approved", "waits", "begin")}),
        (
            AsksByAFunction,
            {("begin", "asks", "Question"), ("Answer", "waits", "begin"), ("Delivered", "waits", "go_on")},
        ),
        (MentionsOnly, set()),
        (approval.Approval, {("sign", "asks", "Question"), ("Answer", "waits", "sign")}),
    ],
)
def test_arrows(workflow: type[Workflow], arrows: set[tuple[str, str, str]]) -> None:
    assert dashed(workflow) == arrows


def test_somebody_outside_reads_the_question_and_answers() -> None:
    graph = graph_of(AsksItself)
    ids = {node.name: node.id for node in graph.nodes}
    assert {Edge(ids["Question"], "person"), Edge("person", ids["Answer"])} < set(graph.edges)
    assert lines(AsksItself, "begin") == ("◌ waits",)
    detail = next(node.detail for node in graph.nodes if node.name == "begin")
    assert "asks Question, by its code\nwaits for Answer, by its code\n" in detail
    assert "asks" in to_mermaid(AsksItself)


def test_what_is_closed_over_is_found() -> None:
    class Mine(HumanResponseEvent): ...

    class Local(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.wait_for_event(Mine))

    assert dashed(Local) == {("Mine", "waits", "begin")}
    assert lines(Local, "begin") == ("◌ waits",)


def test_what_comes_from_elsewhere_is_not() -> None:
    async def wait(ctx: Context, kind: type[Event]) -> Any:
        return await ctx.wait_for_event(kind)

    kinds = {"answer": Answer}

    class Elsewhere(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await wait(ctx, kinds["answer"]))

    assert dashed(Elsewhere) == set()


def test_a_name_that_is_not_assigned_yet_is_passed_over() -> None:
    class Early(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Late)
            return StopEvent(result=await ctx.wait_for_event(Answer))

    assert dashed(Early) == {("Answer", "waits", "begin")}

    class Late(HumanResponseEvent): ...

    assert dashed(Early) == {("Answer", "waits", "begin"), ("Late", "waits", "begin")}
