"""A run that goes on elsewhere is in the trace it began in: from stores, contexts as data, checkpoints, forks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry import context as contexts
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from spans import Telemetry, complaints

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    MemoryStore,
    SQLiteStore,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCheckpointer,
    open_runtime,
    step,
)
from flowkit.store import Store


class Middle(Event):
    n: int


class Sleepy(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> Middle:
        return Middle(1)

    @step
    async def sleep(self, ev: Middle) -> StopEvent:
        await anyio.sleep(100)
        return StopEvent(result=ev.n)


class Asking(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(prefix="?"))
        return StopEvent(result=answer.response)


class Outer(Workflow):
    @step
    async def delegate(self, ev: StartEvent, inner: Sleepy) -> StopEvent:
        return StopEvent(result=await inner.run())


@pytest.fixture(autouse=True)
def _nothing_to_complain_of() -> Iterator[None]:
    with complaints() as said:
        yield
    assert said == []


@pytest.fixture(params=["memory", "sqlite"])
def reopened(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Gives the store; of SQLite one that has just been opened."""
    if request.param == "memory":
        store = MemoryStore()
        return lambda: store
    return lambda: SQLiteStore(tmp_path / "runs.db")


async def for_a_while(workflow: Workflow, seconds: float, **options: Any) -> None:
    """Run it for so long; then its owner goes away."""
    with anyio.move_on_after(seconds):
        await workflow.run(**options)
        raise AssertionError("it should have taken longer")


def trace_of(told: Telemetry) -> int:
    [trace] = {span.context.trace_id for span in told.spans if span.context is not None}
    return trace


async def test_a_stored_run_goes_on_in_its_trace(reopened: Any) -> None:
    first, second = Telemetry(), Telemetry()
    store: Store = reopened()
    await for_a_while(Sleepy(instruments=[first.instrument]), 5, store=store, run_id="r")
    store.close()
    store = reopened()
    assert await Sleepy(instruments=[second.instrument]).run(store=store, run_id="r") == 1
    store.close()
    assert first.amiss() == second.amiss() == []
    assert first.tree() == ["Sleepy", "  begin", "    begin attempt", "  sleep", "    sleep attempt"]
    assert second.tree() == ["Sleepy", "  sleep", "    sleep attempt"]
    began, on = first.one("Sleepy"), second.one("Sleepy")
    assert trace_of(first) == trace_of(second)
    assert on.parent is not None and began.context is not None and on.parent.span_id == began.context.span_id
    assert on.attributes is not None and began.attributes is not None
    assert (began.attributes["flowkit.run.resumed"], on.attributes["flowkit.run.resumed"]) == (False, True)
    assert began.attributes["flowkit.run.outcome"] == "suspended" and began.attributes["flowkit.run.stored"] is True
    assert began.status.status_code.name == "UNSET"
    assert on.attributes["input.value"] == began.attributes["input.value"] == "{}"


async def test_each_time_it_goes_on_it_is_a_child_of_the_first() -> None:
    store, told = MemoryStore(), Telemetry()
    for _ in range(3):
        await for_a_while(Sleepy(instruments=[told.instrument]), 5, store=store, run_id="r")
    first, second, third = told.named("Sleepy")
    assert first.context is not None and second.parent is not None and third.parent is not None
    assert second.parent.span_id == third.parent.span_id == first.context.span_id
    assert told.amiss() == []


async def test_a_process_without_instruments_in_between(reopened: Any) -> None:
    first, third = Telemetry(), Telemetry()
    store: Store = reopened()
    await for_a_while(Sleepy(instruments=[first.instrument]), 5, store=store, run_id="r")
    await for_a_while(Sleepy(), 5, store=store, run_id="r")
    await Sleepy(instruments=[third.instrument]).run(store=store, run_id="r")
    store.close()
    assert trace_of(first) == trace_of(third)


async def test_whoever_has_it_go_on_is_linked() -> None:
    store, first, second = MemoryStore(), Telemetry(), Telemetry()
    await for_a_while(Sleepy(instruments=[first.instrument]), 5, store=store, run_id="r")
    with second.tracer.start_as_current_span("request") as request:
        await Sleepy(instruments=[second.instrument]).run(store=store, run_id="r")
    [link] = second.one("Sleepy").links
    assert link.context == request.get_span_context() and link.attributes is not None
    assert link.attributes["flowkit.link"] == "caller"
    assert second.one("Sleepy").context.trace_id == trace_of(first)  # type: ignore[union-attr]


async def test_a_human_answers_in_another_process(reopened: Any) -> None:
    first, second = Telemetry(), Telemetry()
    store: Store = reopened()
    await for_a_while(Asking(instruments=[first.instrument]), 5, store=store, run_id="r")
    assert first.one("wait for HumanResponseEvent").attributes["flowkit.wait.outcome"] == "cancelled"  # type: ignore[index]
    store.close()
    store = reopened()
    async with Asking(instruments=[second.instrument]).run(store=store, run_id="r") as handler:
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                handler.send_event(HumanResponseEvent(response="fine"))
        assert await handler == "fine"
    store.close()
    assert first.amiss() == second.amiss() == []
    assert second.tree() == ["Asking", "  ask", "    ask attempt", "      wait for HumanResponseEvent"]
    assert trace_of(first) == trace_of(second)


async def test_a_nested_run_goes_on_in_its_attempt_and_is_linked_to_its_beginning() -> None:
    def made(told: Telemetry) -> Outer:
        outer = Outer(instruments=[told.instrument])
        outer.add_workflows(inner=Sleepy())
        return outer

    store, first, second = MemoryStore(), Telemetry(), Telemetry()
    await for_a_while(made(first), 5, store=store, run_id="r")
    assert await made(second).run(store=store, run_id="r") == 1
    assert first.amiss() == second.amiss() == []
    assert second.tree() == [
        "Outer",
        "  delegate",
        "    delegate attempt",
        "      Sleepy",
        "        sleep",
        "          sleep attempt",
    ]
    assert trace_of(first) == trace_of(second)
    [link] = second.one("Sleepy").links
    assert link.context.span_id == first.one("Sleepy").context.span_id  # type: ignore[union-attr]
    assert link.attributes == {"flowkit.link": "resumed"}


async def test_a_context_as_data() -> None:
    first, second = Telemetry(), Telemetry()
    handler = Sleepy(instruments=[first.instrument]).run()
    async with handler:
        await anyio.sleep(5)
        data = json.loads(json.dumps(handler.ctx.to_dict()))
        await handler.cancel_run()
    handler.exception()
    workflow = Sleepy(instruments=[second.instrument])
    assert await workflow.run(ctx=Context.from_dict(workflow, data)) == 1
    assert trace_of(first) == trace_of(second)
    on = second.one("Sleepy")
    assert on.attributes is not None and on.attributes["flowkit.run.resumed"] is True
    assert on.parent is not None and on.parent.span_id == first.one("Sleepy").context.span_id  # type: ignore[union-attr]


@pytest.mark.parametrize("stored", [False, True])
async def test_a_checkpoint(stored: bool) -> None:
    told = Telemetry()
    checkpointer = WorkflowCheckpointer(Sleepy(instruments=[told.instrument]), store=MemoryStore() if stored else None)
    await checkpointer.run(run_id="r")
    await checkpointer.run_from(checkpointer.checkpoints["r"][0])
    first, second = told.named("Sleepy")
    assert second.parent is not None and first.context is not None and second.parent.span_id == first.context.span_id
    assert told.amiss() == []


async def test_a_fork_has_a_trace_of_its_own_and_goes_on_in_that(reopened: Any) -> None:
    first, second = Telemetry(), Telemetry()
    store: Store = reopened()
    async with open_runtime(store=store, workflows=[Sleepy(instruments=[first.instrument])]) as runtime:
        await runtime.run(Sleepy(instruments=[first.instrument]), run_id="r")
        await anyio.sleep(5)
        await runtime.fork("r", after="begin", new_id="f")
        await anyio.sleep(5)
    store.close()
    store = reopened()
    workflow = Sleepy(instruments=[second.instrument])
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        assert await (await runtime.run(workflow, run_id="f")) == 1
    store.close()

    def of(told: Telemetry, run_id: str) -> Any:
        return next(
            one for one in told.named("Sleepy") if one.attributes and one.attributes["flowkit.run.id"] == run_id
        )

    origin, fork, on = of(first, "r"), of(first, "f"), of(second, "f")
    assert fork.parent is None and fork.context.trace_id != origin.context.trace_id
    [link] = fork.links
    assert link.context.span_id == origin.context.span_id and link.attributes == {"flowkit.link": "forked from"}
    assert fork.attributes["flowkit.run.forked_from"] == "r"
    assert on.parent.span_id == fork.context.span_id and on.context.trace_id == fork.context.trace_id
    assert first.amiss() == second.amiss() == []


async def test_a_session_goes_along() -> None:
    seen: list[object] = []

    class Looking(Sleepy):
        @step
        async def sleep(self, ev: Middle) -> StopEvent:
            seen.append((contexts.get_value("session.id"), contexts.get_value("user.id")))
            await anyio.sleep(100)
            return StopEvent()

    store, first, second = MemoryStore(), Telemetry(), Telemetry()
    token = contexts.attach(contexts.set_value("user.id", "u-1", contexts.set_value("session.id", "s-7")))
    try:
        handler = Looking(instruments=[first.instrument]).run(store=store, run_id="r")
    finally:
        contexts.detach(token)
    with anyio.move_on_after(5):
        await handler
    await Looking(instruments=[second.instrument]).run(store=store, run_id="r")
    assert seen == [("s-7", "u-1")] * 2
    for span in (*first.spans, *second.spans):
        assert span.attributes is not None
        assert (span.attributes["session.id"], span.attributes["user.id"]) == ("s-7", "u-1")


async def test_what_was_sampled_out_stays_so() -> None:
    store, first = MemoryStore(), Telemetry(sampler=ParentBased(ALWAYS_OFF))
    second = Telemetry()  # its own sampler is asked only where there is no parent
    await for_a_while(Sleepy(instruments=[first.instrument]), 5, store=store, run_id="r")
    await Sleepy(instruments=[second.instrument]).run(store=store, run_id="r")
    assert (first.open.begun, second.open.begun) == (0, 0)


async def test_what_is_no_trace_context_is_passed_over() -> None:
    told = Telemetry()
    handler = Sleepy().run()
    async with handler:
        await anyio.sleep(5)
        data = handler.ctx.to_dict() | {"carried": {"traceparent": "00-nonsense"}}
        await handler.cancel_run()
    handler.exception()
    workflow = Sleepy(instruments=[told.instrument])
    with told.tracer.start_as_current_span("caller"):
        await workflow.run(ctx=Context.from_dict(workflow, data))
    assert told.one("Sleepy").parent is not None
    assert told.one("Sleepy").parent.span_id == told.one("caller").context.span_id  # type: ignore[union-attr]


async def test_a_run_that_has_ended_has_no_span() -> None:
    store, told = MemoryStore(), Telemetry()
    await Sleepy().run(store=store, run_id="r")
    assert await Sleepy(instruments=[told.instrument]).run(store=store, run_id="r") == 1
    assert told.open.begun == 0


async def test_a_run_that_can_not_be_stored_has_one_with_its_error() -> None:
    class Odd:
        pass

    told = Telemetry()
    with pytest.raises(Exception, match="Odd"):
        await Sleepy(instruments=[told.instrument]).run(store=MemoryStore(), run_id="r", odd=Odd())
    assert told.tree() == ["Sleepy !"]
    assert told.amiss() == []
