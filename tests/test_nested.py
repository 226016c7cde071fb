"""Workflows inside steps: they are part of the run that holds them."""

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
import pytest

from flowkit import (
    Context,
    Event,
    Handler,
    HumanResponseEvent,
    InputRequiredEvent,
    InvalidWorkflow,
    Origin,
    Resource,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowCancelled,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
    WorkflowValidationError,
    step,
)


class Question(InputRequiredEvent):
    text: str


class Answer(HumanResponseEvent):
    text: str


class Progress(Event):
    text: str


class Child(Workflow):
    """Sleeps for a while and notes when its step has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[float] = []

    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Progress(f"child {ev.n}"))
        try:
            await anyio.sleep(10)
        finally:
            self.ended.append(anyio.current_time())
        if ev.get("fail"):
            raise ValueError("the child")
        return StopEvent(result=ev.n + 1)


class Parent(Workflow):
    @step
    async def delegate(self, ev: StartEvent, child: Child) -> StopEvent:
        return StopEvent(result=await child.run(n=1, fail=ev.get("fail")))


class Asking(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> Question:
        return Question(ev.get("text", "name?"))

    @step
    async def answered(self, ev: Answer) -> StopEvent:
        return StopEvent(result=ev.text)


class AskingParent(Workflow):
    @step
    async def delegate(self, ev: StartEvent, child: Asking) -> StopEvent:
        return StopEvent(result=await child.run())


def parent_of(child: Workflow, kind: type[Workflow] = Parent, **options: float) -> Workflow:
    parent = kind(**options)  # type: ignore[arg-type]
    parent.add_workflows(child=child)
    return parent


# ----------------------------------------------------------------------------------------- running and ending


async def test_a_child_runs_inside_a_step() -> None:
    assert await parent_of(Child()).run() == 2


async def test_a_child_can_be_owned_by_a_block_and_read_there() -> None:
    class Reading(Workflow):
        @step
        async def delegate(self, ev: StartEvent, child: Child) -> StopEvent:
            async with child.run(n=1) as handler:
                seen = [event async for event in handler.stream_events()]
                return StopEvent(result=(await handler, seen))

    result, seen = await parent_of(Child(), Reading).run()
    assert result == 2
    assert seen == [Progress("child 1"), StopEvent(result=2)]


async def test_a_child_that_fails_fails_the_step_with_both_names() -> None:
    with pytest.raises(StepFailed, match="Error in step 'delegate': StepFailed: Error in step 'work'") as failed:
        await parent_of(Child()).run(fail=True)
    assert isinstance(failed.value.__cause__, StepFailed)
    assert isinstance(failed.value.__cause__.__cause__, ValueError)


@pytest.mark.parametrize("background", [False, True])
async def test_cancelling_the_parent_cancels_the_child(background: bool) -> None:
    class Keeping(Workflow):
        @step
        async def delegate(self, ev: StartEvent, child: Child) -> StopEvent:
            handler = child.run(n=1)
            if background:
                await anyio.sleep(1)
            return StopEvent(result=await handler)

    child = Child()
    handler = parent_of(child, Keeping).run()
    await anyio.sleep(5)
    await handler.cancel_run()
    assert child.ended == [pytest.approx(5)]
    with pytest.raises(WorkflowCancelledByUser):
        await handler


@pytest.mark.parametrize("seconds", [0, 1])
async def test_a_child_that_its_step_leaves_behind_does_not_outlive_the_parent(seconds: int) -> None:
    class Careless(Workflow):
        @step
        async def delegate(self, ev: StartEvent, child: Child) -> StopEvent:
            kept.append(child.run(n=1))
            await anyio.sleep(seconds)
            return StopEvent()

    kept: list[Handler] = []
    child = Child()
    await parent_of(child, Careless).run()
    assert child.ended[:seconds] == [pytest.approx(1)] * seconds
    with pytest.raises(WorkflowCancelled, match="the run it was started in has ended"):
        await kept[0]


async def test_the_parents_timeout_ends_the_child() -> None:
    child = Child()
    with pytest.raises(WorkflowTimeoutError, match="Parent timed out after 3 seconds; active: delegate"):
        await parent_of(child, timeout=3).run()
    assert child.ended == [pytest.approx(3)]


async def test_two_children_run_at_once() -> None:
    class Both(Workflow):
        @step
        async def delegate(self, ev: StartEvent, left: Child, right: Child) -> StopEvent:
            got: dict[str, int] = {}

            async def run(name: str, child: Child, n: int) -> None:
                got[name] = await child.run(n=n)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, "left", left, 1)
                tasks.start_soon(run, "right", right, 2)
            return StopEvent(result=got)

    parent, left, right = Both(), Child(), Child()
    parent.add_workflows(left=left, right=right)
    assert await parent.run() == {"left": 2, "right": 3}
    assert left.ended == right.ended == [pytest.approx(10)]


async def test_one_child_instance_serves_two_parents_at_once() -> None:
    parent = parent_of(Child())
    first, second = parent.run(), parent.run()
    assert [await first, await second] == [2, 2]
    assert anyio.current_time() == pytest.approx(10)


# ---------------------------------------------------------------------------- the stream, and questions in it


async def test_the_childs_stream_surfaces_with_its_origin() -> None:
    class Grandparent(Workflow):
        @step
        async def pass_on(self, ev: StartEvent, middle: Parent) -> StopEvent:
            return StopEvent(result=await middle.run())

    grandparent = Grandparent()
    grandparent.add_workflows(middle=parent_of(Child()))
    async with grandparent.run() as handler:
        stream = handler.stream_events()
        seen = [(event, stream.origin) async for event in stream]
    assert [event for event, _ in seen] == [Progress("child 1"), *[StopEvent(result=2)] * 3]
    origins = [origin and (origin.workflow, origin.path) for _, origin in seen]
    child, parent = ("Child", ("pass_on", "delegate")), ("Parent", ("pass_on",))
    assert origins == [child, child, parent, None]


async def test_a_question_surfaces_and_the_answer_finds_its_way_down() -> None:
    async with parent_of(Asking(), AskingParent).run() as handler:
        async for event in handler.stream_events():
            if isinstance(event, Question):
                handler.ctx.send_event(Answer("Ada"))
        assert await handler == "Ada"


async def test_a_wait_in_the_child_is_answered_through_the_parent() -> None:
    class Waiting(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.wait_for_event(Answer, waiter_event=Question("name?")))

    class WaitingParent(Workflow):
        @step
        async def delegate(self, ev: StartEvent, child: Waiting) -> StopEvent:
            return StopEvent(result=await child.run())

    async with parent_of(Waiting(), WaitingParent).run() as handler:
        assert await anext(handler.stream_events()) == Question("name?")
        handler.send_event(Answer("Ada"))
        assert await handler == Answer("Ada")


class AskingTwo(Workflow):
    """Two children ask at once."""

    @step
    async def delegate(self, ev: StartEvent, child: Asking) -> StopEvent:
        got: dict[str, str] = {}

        async def ask(text: str) -> None:
            got[text] = await child.run(text=text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "name?")
            tasks.start_soon(ask, "age?")
        return StopEvent(result=got)


async def origins_of_questions(stream: object, count: int) -> dict[str, Origin]:
    found: dict[str, Origin] = {}
    async for event in stream:  # type: ignore[attr-defined]
        if isinstance(event, Question):
            found[event.text] = stream.origin  # type: ignore[attr-defined]
        if len(found) == count:
            break
    return found


async def test_an_answer_goes_to_the_child_that_asked() -> None:
    async with parent_of(Asking(), AskingTwo).run() as handler:
        origins = await origins_of_questions(handler.stream_events(), 2)
        handler.send_event(Answer("42"), to=origins["age?"])
        handler.send_event(Answer("Ada"), to=origins["name?"])
        assert await handler == {"name?": "Ada", "age?": "42"}


async def test_an_answer_to_a_child_that_has_ended_is_an_error() -> None:
    async with parent_of(Asking(), AskingTwo).run() as handler:
        origins = await origins_of_questions(handler.stream_events(), 2)
        handler.send_event(Answer("42"), to=origins["age?"])
        await anyio.sleep(1)
        with pytest.raises(WorkflowRuntimeError, match=r"no nested run '.*' is under way in this run of AskingTwo"):
            handler.send_event(Answer("43"), to=origins["age?"])
        handler.send_event(Answer("Ada"), to=origins["name?"])
        assert await handler == {"name?": "Ada", "age?": "42"}


async def test_an_event_that_the_parent_takes_stays_there() -> None:
    class Both(Workflow):
        @step
        async def delegate(self, ev: StartEvent, child: Asking) -> StopEvent:
            return StopEvent(result=await child.run())

        @step
        async def listen(self, ctx: Context, ev: Answer) -> None:
            heard.append(ev.text)

    heard: list[str] = []
    async with parent_of(Asking(), Both).run() as handler:
        origins = await origins_of_questions(handler.stream_events(), 1)
        handler.send_event(Answer("for the parent"))
        handler.send_event(Answer("for the child"), to=origins["name?"])
        assert await handler == "for the child"
    assert heard == ["for the parent"]


# -------------------------------------------------------------------------------------------------- resources


async def test_the_child_instance_keeps_its_resources_across_parents_and_runs() -> None:
    log: list[str] = []

    @contextlib.asynccontextmanager
    async def connect() -> AsyncIterator[str]:
        log.append("open")
        yield "connection"
        log.append("close")

    class Using(Workflow):
        @step
        async def use(self, ev: StartEvent, it: Annotated[str, Resource(connect)]) -> StopEvent:
            return StopEvent(result=it)

    class UsingParent(Workflow):
        @step
        async def delegate(self, ev: StartEvent, child: Using) -> StopEvent:
            return StopEvent(result=await child.run())

    async with Using() as child:
        for _ in range(2):
            assert await parent_of(child, UsingParent).run() == "connection"
        assert await child.run() == "connection"
        assert log == ["open"]
    assert log == ["open", "close"]


# --------------------------------------------------------------------------------------------------- mistakes


def test_a_missing_child_is_named_before_the_run() -> None:
    with pytest.raises(InvalidWorkflow, match=r"Parent\.delegate takes 'child', a Child, but none was added") as wrong:
        Parent().validate()
    assert r"call workflow.add_workflows(child=Child(…)) before the run" in str(wrong.value)


def test_what_is_no_workflow_is_refused() -> None:
    with pytest.raises(WorkflowValidationError, match="give a workflow instance"):
        Parent().add_workflows(child=Child)  # type: ignore[arg-type]
