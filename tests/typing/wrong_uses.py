"""Wrong uses of flowkit, and what mypy --strict (E) and pyright strict (P) say of them. Checked by check.py, never run.

Where only one of them, or neither, sees a mistake, flowkit itself reports it when the class is built, the run is
started or the line is reached; those lines are here too, so that it is known when a checker learns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

import attrs

from flowkit import (
    Collect,
    Context,
    Event,
    Handler,
    MemoryStore,
    Resource,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Take,
    Workflow,
    WorkflowCheckpointer,
    catch_error,
    open_runtime,
    step,
)
from flowkit.retry_policy import (
    ConstantDelayRetryPolicy,
    retry,
    retry_if,
    stop_after,
    wait_fixed,
)

T = TypeVar("T")


class Fetch(Event):
    path: Path
    depth: int = 0


class Ask(StartEvent):
    question: str


class Answer(StopEvent):
    text: str


class Box(Event, Generic[T]):
    item: T


class Numbered(Event):
    number: int = attrs.field(converter=int)


def takes_text(text: str) -> None: ...


# -------------------------------------------------------------------------------------------- events


class RequiredAfterDefault(Fetch):
    # It runs: flowkit makes it keyword-only. The rules for dataclasses want attrs.field(kw_only=True).
    extra: str  # E: misc  # P: reportGeneralTypeIssues


class DefaultOfAnotherType(Event):
    number: int = "3"  # E: assignment  # P: reportAssignmentType
    names: list[str] = attrs.field(factory=dict[str, str])  # P: reportAssignmentType


def events(fetch: Fetch, box: Box[int]) -> None:
    Fetch(path=3)  # E: arg-type  # P: reportArgumentType
    Fetch(Path("a"), "deep")  # E: arg-type  # P: reportArgumentType
    Fetch()  # E: call-arg  # P: reportCallIssue
    Fetch(Path("a"), 1, 2)  # E: call-arg  # P: reportCallIssue
    Fetch(path=Path("a"), colour="red")  # E: call-arg  # P: reportCallIssue
    Fetch(Path("a"), path=Path("a"))  # E: misc  # P: reportCallIssue
    fetch.path = Path("b")  # E: misc  # P: reportAttributeAccessIssue
    fetch.pth = Path("b")  # E: attr-defined  # P: reportAttributeAccessIssue
    del fetch.path  # P: reportAttributeAccessIssue
    print(fetch.pth)  # E: attr-defined  # P: reportAttributeAccessIssue
    fetch["path"] = Path("b")  # E: index  # P: reportIndexIssue
    takes_text(fetch.depth)  # E: arg-type  # P: reportArgumentType
    takes_text(box.item)  # E: arg-type  # P: reportArgumentType
    Ask()  # E: call-arg  # P: reportCallIssue
    Ask("why?", topic="pirates")  # E: call-arg  # P: reportCallIssue
    Answer(result="because")  # E: call-arg  # P: reportCallIssue, reportCallIssue
    StartEvent("pirates")  # E: call-arg  # P: reportCallIssue
    StopEvent(1, 2)  # E: call-arg  # P: reportCallIssue
    # It runs: mypy knows attrs' converters only in classes made by attrs' own decorators.
    Numbered("3")  # E: arg-type


def misspelt_fields_of_typed_starts_are_found_when_run(ev: Ask) -> None:
    # Reading any attribute of a plain StartEvent is right, and a checker hands that down to its subclasses.
    print(ev.questoin)


# --------------------------------------------------------------------------------------------- steps


class WrongName:
    def next_delay(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
        return None


class TooFew:
    def next(self, attempts: int) -> float | None:
        return None


class WrongResult:
    def next(self, elapsed_time: float, attempts: int, error: Exception) -> str:
        return "soon"


class OnlyValueErrors:
    def next(self, elapsed_time: float, attempts: int, error: ValueError) -> float | None:
        return None


class WrongOptions(Workflow):
    @step(num_workers="4")  # E: call-overload, untyped-decorator  # P: reportArgumentType
    async def workers(self, ev: Fetch) -> None: ...

    @step(num_worker=4)  # E: call-overload, untyped-decorator  # P: reportCallIssue, reportUntypedFunctionDecorator
    async def misspelt(self, ev: Fetch) -> None: ...

    @step(timeout="30 s")  # E: call-overload, untyped-decorator  # P: reportArgumentType
    async def seconds(self, ev: Fetch) -> None: ...

    @step(retry_policy=3)  # E: call-overload, untyped-decorator  # P: reportArgumentType
    async def retries(self, ev: Fetch) -> None: ...

    @step(retry_policy=ConstantDelayRetryPolicy)  # E: call-overload, untyped-decorator  # P: reportArgumentType
    async def a_class(self, ev: Fetch) -> None: ...

    @step(retry_policy=WrongName())  # E: call-overload, untyped-decorator  # P: reportArgumentType
    async def wrong_name(self, ev: Fetch) -> None: ...

    @step(retry_policy=TooFew())  # E: call-overload, untyped-decorator  # P: reportArgumentType
    async def too_few(self, ev: Fetch) -> None: ...

    @step(retry_policy=WrongResult())  # E: call-overload, untyped-decorator  # P: reportArgumentType
    async def wrong_result(self, ev: Fetch) -> None: ...

    @step(retry_policy=OnlyValueErrors())  # E: call-overload, untyped-decorator  # P: reportArgumentType
    async def only_value_errors(self, ev: Fetch) -> None: ...

    @step("name")  # E: call-overload, untyped-decorator  # P: reportArgumentType, reportUntypedFunctionDecorator
    async def by_position(self, ev: Fetch) -> None: ...

    @step(workflow=int)  # E: arg-type  # P: reportArgumentType
    async def no_workflow(self, ev: Fetch) -> None: ...

    @catch_error(for_steps=3)  # E: call-overload, untyped-decorator  # P: reportArgumentType
    async def for_a_number(self, ev: StepFailedEvent) -> None: ...

    @catch_error(for_steps=[Fetch])  # E: list-item  # P: reportArgumentType
    async def for_an_event(self, ev: StepFailedEvent) -> None: ...

    # A string is an iterable of strings: refused when the class is built.
    @catch_error(for_steps="workers")
    async def for_a_string(self, ev: StepFailedEvent) -> None: ...


class WrongResults(Workflow):
    @step  # E: type-var  # P: reportArgumentType, reportUntypedFunctionDecorator
    async def text(self, ev: Fetch) -> str:
        return "text"

    @step()  # E: type-var  # P: reportArgumentType, reportUntypedFunctionDecorator
    def plain_text(self, ev: Fetch) -> str:
        return "text"

    @step  # E: type-var  # P: reportArgumentType, reportUntypedFunctionDecorator
    async def texts(self, ev: Fetch) -> list[str]:
        return ["text"]

    @step  # E: type-var  # P: reportArgumentType, reportUntypedFunctionDecorator
    async def a_class(self, ev: Fetch) -> type[Fetch]:
        return Fetch

    @catch_error  # E: type-var  # P: reportArgumentType, reportUntypedFunctionDecorator
    async def caught(self, ev: StepFailedEvent) -> Exception:
        return ValueError()

    @step
    async def undeclared(self, ev: Fetch) -> Fetch:
        return Answer("because")  # E: return-value  # P: reportReturnType

    @step
    async def forgotten(self, ev: Fetch) -> Answer:  # E: return  # P: reportReturnType
        print(ev)


# ------------------------------------------------------------------------------------------- context


@attrs.define
class MyState:
    count: int = 0


async def context(ctx: Context[MyState], workflow: Workflow) -> None:
    ctx.send_event("text")  # E: arg-type  # P: reportArgumentType
    ctx.send_event(Fetch)  # E: arg-type  # P: reportArgumentType
    ctx.send_event(Fetch(Path("a")), step=Fetch)  # E: arg-type  # P: reportArgumentType
    ctx.write_event_to_stream({"msg": "hello"})  # E: arg-type  # P: reportArgumentType
    ctx.collect_events(Fetch, [Fetch])  # E: arg-type  # P: reportArgumentType
    ctx.collect_events(Fetch(Path("a")), [Fetch(Path("a"))])  # E: list-item  # P: reportArgumentType
    ctx.collect_events(Fetch(Path("a")), Fetch)  # E: arg-type  # P: reportArgumentType
    ctx.get("key")  # E: unused-coroutine  # P: reportUnusedCoroutine
    await ctx.get(3)  # E: arg-type  # P: reportArgumentType
    await ctx.set("key")  # E: call-arg  # P: reportCallIssue
    ctx.wait_for_event(Fetch)  # E: unused-coroutine  # P: reportUnusedCoroutine
    await ctx.wait_for_event(Fetch(Path("a")))  # E: arg-type  # P: reportArgumentType
    await ctx.wait_for_event(str)  # E: type-var  # P: reportArgumentType
    await ctx.wait_for_event(Fetch, waiter_event="sure?")  # E: arg-type  # P: reportArgumentType
    await ctx.wait_for_event(Fetch, timeout="1 day")  # E: arg-type  # P: reportArgumentType
    takes_text((await ctx.wait_for_event(Fetch)).depth)  # E: arg-type  # P: reportArgumentType
    await ctx.send_event(Fetch(Path("a")))  # E: func-returns-value, misc  # P: reportGeneralTypeIssues
    ctx.retry_info().retries  # E: attr-defined  # P: reportAttributeAccessIssue, reportUnknownMemberType
    async with ctx.store.edit_state() as state:
        state.count = "one"  # E: assignment  # P: reportAttributeAccessIssue
        state.cuont = 1  # E: attr-defined  # P: reportAttributeAccessIssue
    with ctx.store.edit_state():  # E: attr-defined, attr-defined  # P: reportGeneralTypeIssues, reportGeneralTypeIssues
        pass
    await ctx.store.set_state({"count": 1})  # E: arg-type  # P: reportArgumentType
    Context[MyState](workflow, state=3)  # E: arg-type  # P: reportArgumentType
    Context("workflow")  # E: arg-type  # P: reportArgumentType
    Context.from_dict(workflow, "{}")  # E: arg-type  # P: reportArgumentType


# ---------------------------------------------------------------------------------------------- runs


class Flow(Workflow):
    @step
    async def only(self, ev: Ask) -> Answer:
        return Answer(ev.question)


def options() -> None:
    Flow(60)  # E: call-arg  # P: reportCallIssue
    Flow(timeout="60")  # E: arg-type  # P: reportArgumentType
    Flow(time_out=60)  # E: call-arg  # P: reportCallIssue
    Flow(stalled="never")  # E: arg-type  # P: reportArgumentType
    Flow(num_concurrent_runs="2")  # E: arg-type  # P: reportArgumentType


async def runs(workflow: Flow, handler: Handler) -> None:
    # mypy's rule is optional (`enable_error_code`); pyright reports only coroutines that are left alone.
    workflow.run(question="why?")  # E: unused-awaitable
    await workflow.run  # E: misc  # P: reportGeneralTypeIssues
    await workflow  # E: misc  # P: reportGeneralTypeIssues
    workflow.run(question="why?").text  # E: attr-defined  # P: reportAttributeAccessIssue, reportUnknownMemberType
    with handler:  # E: attr-defined, attr-defined  # P: reportGeneralTypeIssues, reportGeneralTypeIssues
        pass
    await workflow.run("why?")  # E: arg-type  # P: reportArgumentType
    await workflow.run(ctx=handler)  # E: arg-type  # P: reportArgumentType
    await workflow.run(start_event="why?")  # E: arg-type  # P: reportArgumentType
    await workflow.run(start_event=Ask)  # E: arg-type  # P: reportArgumentType
    await workflow.run(timeout="60")  # E: arg-type  # P: reportArgumentType
    await workflow.run(run_id=3)  # E: arg-type  # P: reportArgumentType
    async for _ in handler.stream_events:  # E: attr-defined  # P: reportGeneralTypeIssues, reportUnknownVariableType
        pass
    list(handler.stream_events())  # E: call-overload  # P: reportArgumentType
    await handler.stream_events()  # E: misc  # P: reportGeneralTypeIssues
    async for event in handler.stream_events():
        event.msg  # E: attr-defined  # P: reportAttributeAccessIssue, reportUnknownMemberType
    handler.send_event("42")  # E: arg-type  # P: reportArgumentType
    handler.ctx.send_event("42")  # E: arg-type  # P: reportArgumentType
    await handler.send_event(Fetch(Path("a")))  # E: func-returns-value, misc  # P: reportGeneralTypeIssues
    handler.run_step()  # E: unused-coroutine  # P: reportUnusedCoroutine
    await handler.ctx  # E: misc  # P: reportGeneralTypeIssues
    await handler.is_done()  # E: misc  # P: reportGeneralTypeIssues
    list(handler.run_step())  # E: call-overload  # P: reportArgumentType
    handler.ctx = Context(workflow)  # E: misc  # P: reportAttributeAccessIssue
    handler.run_id = "mine"  # E: misc  # P: reportAttributeAccessIssue
    workflow.add_workflows(child=Flow)  # E: arg-type  # P: reportArgumentType
    WorkflowCheckpointer(workflow=Flow)  # E: arg-type  # P: reportArgumentType
    await WorkflowCheckpointer(workflow).run_from(checkpoint="first")  # E: arg-type  # P: reportArgumentType


# ------------------------------------------------------------------------------ resources and policies


def resources_and_policies() -> None:
    Resource(3)  # E: arg-type  # P: reportArgumentType
    Resource(dict, scope="forever")  # E: arg-type  # P: reportArgumentType
    Resource(dict, False, "run")  # E: call-arg  # P: reportCallIssue
    Collect(3)  # E: arg-type  # P: reportArgumentType
    Collect(Take)  # E: arg-type  # P: reportArgumentType
    Take("3")  # E: arg-type  # P: reportArgumentType
    Take()  # E: call-arg  # P: reportCallIssue
    ConstantDelayRetryPolicy(maximum_attempts="3")  # E: arg-type  # P: reportArgumentType
    ConstantDelayRetryPolicy(retries=3)  # E: call-arg  # P: reportCallIssue
    retry(ValueError)  # E: arg-type  # P: reportArgumentType
    retry(stop=wait_fixed(3))  # E: arg-type  # P: reportArgumentType
    retry(stop=3)  # E: arg-type  # P: reportArgumentType
    retry_if(ValueError) | stop_after(3)  # E: operator  # P: reportOperatorIssue, reportUnusedExpression
    wait_fixed(3) + 3  # E: operator  # P: reportOperatorIssue, reportUnusedExpression
    retry_if(KeyboardInterrupt)  # E: arg-type  # P: reportArgumentType
    retry_if("busy")  # E: arg-type  # P: reportArgumentType
    stop_after("3")  # E: arg-type  # P: reportArgumentType


# ------------------------------------------------------------------------------ stores and runtimes


async def stores_and_runtimes(workflow: Workflow) -> None:
    await workflow.run(store="runs.db")  # E: arg-type  # P: reportArgumentType
    await workflow.run(store=MemoryStore)  # E: arg-type  # P: reportArgumentType
    await workflow.run(store=MemoryStore(), durability="none")  # E: arg-type  # P: reportArgumentType
    async with open_runtime(MemoryStore(), [workflow]):  # E: call-arg  # P: reportCallIssue
        pass
    async with open_runtime(store=MemoryStore()):  # E: call-arg  # P: reportCallIssue
        pass
    async with open_runtime(store=MemoryStore(), workflows=[workflow]) as runtime:
        await runtime.runs(status="done")  # E: arg-type  # P: reportArgumentType
        await runtime.fork("order-42")  # E: call-arg, unused-awaitable  # P: reportCallIssue
        await runtime.send_event("order-42", "approved")  # E: arg-type  # P: reportArgumentType
        runtime.cancel("order-42")  # E: unused-coroutine  # P: reportUnusedCoroutine
