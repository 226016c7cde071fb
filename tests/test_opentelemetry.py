"""Runs as OpenTelemetry's spans: their tree, their parents, their attributes, what it costs when nobody records."""

import gc
import json
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as contexts
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import NoOpTracerProvider, StatusCode
from spans import Telemetry, complaints
from watched_flows import Approved, Item, Made, Question, make_shop

import flowkit
from flowkit import (
    Context,
    Event,
    InputRequiredEvent,
    StartEvent,
    StepFailed,
    StepFailedEvent,
    StopEvent,
    Workflow,
    WorkflowCancelled,
    WorkflowCancelledByUser,
    WorkflowTimeoutError,
    WrongCall,
    catch_error,
    open_runtime,
    step,
)
from flowkit.handler import Handler
from flowkit.memory_store import MemoryStore
from flowkit.opentelemetry import MAX_MESSAGE, OpenTelemetry
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.serialization import Codec


class Draft(Event):
    text: str


class Chain(Workflow):
    @step
    async def write(self, ev: StartEvent) -> Draft:
        return Draft(ev.get("text", "a joke"))

    @step
    async def judge(self, ev: Draft) -> StopEvent:
        return StopEvent(result=ev.text)


class Failing(Workflow):
    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=3))
    async def work(self, ev: StartEvent) -> StopEvent:
        raise ValueError("no luck")


class Slow(Workflow):
    @step
    async def sleep(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(100)
        return StopEvent()


@pytest.fixture(autouse=True)
def _nothing_to_complain_of() -> Iterator[None]:
    with complaints() as said:
        yield
    assert said == []


async def answered(handler: Handler) -> Any:
    async with handler:
        events = handler.stream_events()
        async for event in events:
            if isinstance(event, Question):
                handler.send_event(Approved(event.n), to=events.origin)
        return await handler


def linked(span: Any) -> list[tuple[int, str]]:
    return [(link.context.span_id, link.attributes["flowkit.link"]) for link in span.links]


# ------------------------------------------------------------------------------------------------------------ the tree


async def test_a_chain() -> None:
    told = Telemetry()
    await Chain(instruments=[told.instrument]).run(run_id="r")
    assert told.tree() == ["Chain", "  write", "    write attempt", "  judge", "    judge attempt"]
    assert told.amiss() == []
    assert told.one("Chain").parent is None
    assert linked(told.one("write attempt")) == []
    assert linked(told.one("judge attempt")) == [(told.one("write attempt").context.span_id, "cause")]
    assert {span.status.status_code for span in told.spans} == {StatusCode.UNSET}
    scope = told.one("Chain").instrumentation_scope
    assert scope is not None and (scope.name, scope.version) == ("flowkit", flowkit.__version__)


async def test_retries_waits_answers_nested_runs_and_fan_outs() -> None:
    told = Telemetry()
    assert await answered(make_shop(told.instrument).run()) == [0, 1, 2]
    assert told.amiss() == []
    [first] = [span for span in told.named("work") if span.attributes["input.value"] == '{"n": 0}']
    works = [line for line in told.tree() if line.startswith("  ")]
    assert sorted(works) == sorted(
        [
            "  plan",
            "    plan attempt",
            "  work",
            "    work attempt !",
            "    work attempt",
            "  work",
            "    work attempt",
            "      Wrapping",
            "        wrap",
            "          wrap attempt",
            "  work",
            "    work attempt",
            "      wait for Approved",
            "  gather",
            "    gather attempt",
        ]
    )
    attempts = [one for one in told.named("work attempt") if one.parent.span_id == first.context.span_id]
    failed, again = attempts
    assert failed.attributes["flowkit.retry.delay"] == 2.0
    assert (failed.attributes["flowkit.attempt"], again.attributes["flowkit.attempt"]) == (1, 2)
    assert linked(again) == [(failed.context.span_id, "retry")]
    assert linked(failed) == [(told.one("plan attempt").context.span_id, "cause")]
    assert again.start_time - failed.end_time == pytest.approx(2e9, abs=1e7)
    [retry] = first.events
    assert (retry.name, retry.attributes["flowkit.retry.delay"], retry.timestamp) == ("retry", 2.0, failed.end_time)
    assert first.attributes["flowkit.step.attempts"] == 2 and first.status.status_code is StatusCode.UNSET
    [cause] = linked(told.one("gather attempt"))
    assert cause[1] == "cause"


async def test_times_are_those_of_the_run() -> None:
    told = Telemetry()
    with pytest.raises(StepFailed):
        await Failing(instruments=[told.instrument]).run()
    run = told.one("Failing")
    assert run.end_time - run.start_time == pytest.approx(3e9, abs=1e7)


async def test_the_wait_lies_in_the_authors_span_around_it() -> None:
    told = Telemetry()

    class Asking(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with told.tracer.start_as_current_span("mine"):
                await ctx.wait_for_event(Approved, Question(1))
            return StopEvent()

    await answered(Asking(instruments=[told.instrument]).run())
    assert told.tree() == ["Asking", "  ask", "    ask attempt", "      mine", "        wait for Approved"]
    wait = told.one("wait for Approved")
    assert wait.attributes["flowkit.wait.outcome"] == "answered"
    assert wait.attributes["input.value"] == '{"n": 1}' == wait.attributes["output.value"]
    assert wait.attributes["flowkit.input.type"] == "Question"


async def test_a_wait_that_times_out() -> None:
    told = Telemetry()

    class Asking(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await ctx.wait_for_event(Approved, timeout=5)
            except TimeoutError:
                return StopEvent(result="late")
            return StopEvent()

    assert await Asking(instruments=[told.instrument]).run() == "late"
    wait = told.one("wait for Approved")
    assert (wait.attributes["flowkit.wait.outcome"], wait.attributes["flowkit.wait.timeout"]) == ("timed out", 5)
    assert wait.status.status_code is StatusCode.UNSET
    assert wait.end_time - wait.start_time == pytest.approx(5e9, abs=1e7)


class Collecting(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(3):
            ctx.send_event(Item(n))
        return None

    @step(num_workers=1)
    async def count(self, ctx: Context, ev: Item) -> StopEvent | None:
        return StopEvent(result=len(batch)) if (batch := ctx.collect_events(ev, [Item] * 3)) else None


async def test_what_was_sent_is_caused_by_its_sender_though_that_is_at_work_still() -> None:
    told = Telemetry()
    assert await Collecting(instruments=[told.instrument]).run() == 3
    sender = told.one("begin attempt").context.span_id
    assert [linked(span) for span in told.named("count attempt")] == [[(sender, "cause")]] * 3
    assert {span.attributes["graph.node.parent_id"] for span in told.named("count")} == {"begin"}


async def test_stepwise() -> None:
    told = Telemetry()
    handler = Chain(instruments=[told.instrument]).run(stepwise=True)
    while events := await handler.run_step():
        for event in events:
            handler.send_event(event)
    assert await handler == "a joke"
    assert told.tree() == ["Chain", "  write", "    write attempt", "  judge", "    judge attempt"]
    assert told.amiss() == []


# ------------------------------------------------------------------------------------------------ what is current where


class Looking(Workflow):
    """Makes a span in each place where an author's code may be."""

    def __init__(self, told: Telemetry, **options: Any) -> None:
        super().__init__(instruments=[told.instrument], **options)
        self.told = told

    def look(self, name: str) -> None:
        with self.told.tracer.start_as_current_span(name):
            pass

    @step
    async def here(self, ev: StartEvent) -> list[Item]:
        self.look("in the step")

        async def task(name: str) -> None:
            await anyio.sleep(1)
            self.look(name)

        async with anyio.create_task_group() as group:
            for n in range(2):
                group.start_soon(task, f"in task {n}")
        await anyio.to_thread.run_sync(self.look, "in a thread")
        return [Item(1), Item(2)]

    @step
    def plain(self, ev: Item) -> Made:
        self.look(f"in plain {ev.n}")
        return Made(ev.n)

    @step
    async def end(self, evs: list[Made]) -> StopEvent:
        assert trace.get_current_span().get_span_context().is_valid
        return StopEvent()


async def test_the_attempts_span_is_current_in_its_task_its_tasks_and_its_threads() -> None:
    told = Telemetry()
    await Looking(told).run()
    assert told.amiss() == []
    by_id = {span.context.span_id: span for span in told.spans}
    parents = {span.name: by_id[span.parent.span_id] for span in told.spans if span.name.startswith("in ")}
    assert {name: span.name for name, span in parents.items()} == {
        **dict.fromkeys(["in the step", "in task 0", "in task 1", "in a thread"], "here attempt"),
        **dict.fromkeys(["in plain 1", "in plain 2"], "plain attempt"),
    }
    for n in (1, 2):
        around = by_id[parents[f"in plain {n}"].parent.span_id]
        assert around.attributes["input.value"] == json.dumps({"n": n})
    assert not trace.get_current_span().get_span_context().is_valid


async def test_steps_at_the_same_time_have_their_own() -> None:
    told = Telemetry()

    class Parallel(Workflow):
        @step
        async def plan(self, ev: StartEvent) -> list[Item]:
            return [Item(n) for n in range(4)]

        @step
        async def work(self, ev: Item) -> Made:
            mine = trace.get_current_span()
            for _ in range(3):
                await anyio.sleep(1)
                assert trace.get_current_span() is mine
            return Made(mine.get_span_context().span_id)

        @step
        async def end(self, evs: list[Made]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in evs))

    seen = await Parallel(instruments=[told.instrument]).run()
    assert seen == sorted(span.context.span_id for span in told.named("work attempt"))


async def test_workers_are_not_replaced_on_account_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose attempt has left a context variable behind is replaced by a clean one: this leaves none."""
    replaced: list[object] = []
    monkeypatch.setattr("flowkit.performer.Performer._replace", lambda *args: replaced.append(args))
    await Chain(instruments=[Telemetry().instrument]).run()
    assert replaced == []


async def owned_here(workflow: Workflow) -> Handler:
    handler = workflow.run()
    await handler
    return handler


async def owned_by_a_block(workflow: Workflow) -> Handler:
    return workflow.run()


async def in_the_background(workflow: Workflow) -> Handler:
    handler = workflow.run()
    await anyio.lowlevel.checkpoint()
    return handler


@pytest.mark.parametrize("start", [owned_here, owned_by_a_block, in_the_background])
async def test_a_runs_parent_is_the_caller_of_run_whoever_drives_it(start: Callable[[Workflow], Any]) -> None:
    told = Telemetry()
    workflow = Chain(instruments=[told.instrument])
    with told.tracer.start_as_current_span("caller"):
        handler = await start(workflow)
    with told.tracer.start_as_current_span("somebody else"):
        if start is owned_by_a_block:
            async with handler:
                await handler
        else:
            await handler
    assert told.one("Chain").parent.span_id == told.one("caller").context.span_id


async def test_the_parent_of_a_runtimes_run_is_the_caller_of_run() -> None:
    told = Telemetry()
    workflow = Chain(instruments=[told.instrument])
    with told.tracer.start_as_current_span("server"):
        async with open_runtime(store=MemoryStore(), workflows=[workflow]) as runtime:
            with told.tracer.start_as_current_span("request"):
                handler = await runtime.run(workflow, run_id="r")
            assert await handler == "a joke"
    assert told.one("Chain").parent.span_id == told.one("request").context.span_id


async def test_a_run_that_waits_for_its_turn_is_still_its_callers() -> None:
    told = Telemetry()
    workflow = Slow(instruments=[told.instrument], num_concurrent_runs=1)
    handlers = []
    for name in ("a", "b"):
        with told.tracer.start_as_current_span(name):
            handlers.append(workflow.run())
    for handler in handlers:
        await handler
    parents = [span.parent.span_id for span in told.named("Slow")]
    assert parents == [told.one("a").context.span_id, told.one("b").context.span_id]
    first, second = told.named("Slow")
    assert second.start_time - first.start_time == pytest.approx(100e9, abs=1e7)


async def test_what_else_the_callers_context_holds_is_there_in_the_steps() -> None:
    class Reading(Workflow):
        @step
        async def read(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(baggage.get_baggage("tenant"), contexts.get_value("session.id")))

    told = Telemetry()
    with_session = contexts.set_value("session.id", "s-7", baggage.set_baggage("tenant", "acme"))
    token = contexts.attach(contexts.set_value("tag.tags", ["a", "b"], with_session))
    try:
        handler = Reading(instruments=[told.instrument]).run()
    finally:
        contexts.detach(token)
    assert await handler == ("acme", "s-7")
    assert {span.attributes["session.id"] for span in told.spans} == {"s-7"}
    assert {span.attributes["tag.tags"] for span in told.spans} == {("a", "b")}


async def test_text_that_can_not_be_sent_loses_no_batch_of_spans() -> None:
    class Asking(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Approved, waiter_id="w\udcff")
            return StopEvent()

    told = Telemetry()
    token = contexts.attach(contexts.set_value("session.id", "s\udcff", contexts.set_value("tag.tags", ["t\udcff"])))
    handler = Asking(instruments=[told.instrument]).run(store=MemoryStore())
    contexts.detach(token)
    async with handler:
        await anyio.sleep(1)
        handler.send_event(Approved(1))
        await handler
    assert told.amiss() == [] and len(told.spans) == 4
    said = json.dumps([dict(span.attributes or {}) for span in told.spans], ensure_ascii=False)
    assert said.isprintable() and said.encode()
    for text in ("w\\\\udcff", "s\\\\udcff", "t\\\\udcff"):
        assert text in said


async def test_a_remote_caller() -> None:
    told = Telemetry()
    remote = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1))
    token = contexts.attach(trace.set_span_in_context(trace.NonRecordingSpan(remote)))
    try:
        await Chain(instruments=[told.instrument]).run()
    finally:
        contexts.detach(token)
    assert {span.context.trace_id for span in told.spans} == {1}
    assert told.one("Chain").parent.span_id == 2


# -------------------------------------------------------------------------------------------------------------- endings


async def test_errors_are_on_the_attempts_the_step_and_the_run() -> None:
    told = Telemetry()
    with pytest.raises(StepFailed):
        await Failing(instruments=[told.instrument]).run()
    assert told.tree() == ["Failing !", "  work !", "    work attempt !", "    work attempt !"]
    assert told.amiss() == []
    for span in [*told.named("work attempt"), told.one("work")]:
        assert span.status.description == "ValueError: no luck"
        assert span.attributes["error.type"] == "ValueError"
        error = next(event for event in span.events if event.name == "exception")
        assert error.attributes["exception.type"] == "ValueError"
        assert error.attributes["exception.message"] == "no luck"
        assert 'raise ValueError("no luck")' in error.attributes["exception.stacktrace"]
    run = told.one("Failing")
    assert run.attributes["flowkit.run.outcome"] == "failed"
    assert run.attributes["error.type"] == "flowkit.errors.StepFailed"
    assert run.status.description.startswith("StepFailed: Error in step 'work': ValueError: no luck")
    assert [span.attributes.get("flowkit.retry.delay") for span in told.named("work attempt")] == [3.0, None]


async def test_an_error_that_a_step_catches_is_not_the_runs() -> None:
    class Catching(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            raise ValueError("no luck")

        @catch_error()
        async def rescue(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result="rescued")

    told = Telemetry()
    assert await Catching(instruments=[told.instrument]).run() == "rescued"
    assert told.tree() == ["Catching", "  work !", "    work attempt !", "  rescue", "    rescue attempt"]
    assert linked(told.one("rescue attempt")) == [(told.one("work attempt").context.span_id, "cause")]
    given = json.loads(told.one("rescue").attributes["input.value"])
    assert given.pop("elapsed_seconds") >= 0
    assert given == {"step_name": "work", "input_event": {}, "exception": "ValueError: no luck", "attempts": 1}


async def test_a_wrong_return() -> None:
    class Wrong(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            return Draft("no")  # type: ignore[return-value]

    told = Telemetry()
    with pytest.raises(StepFailed):
        await Wrong(instruments=[told.instrument]).run()
    assert told.tree() == ["Wrong !", "  work !", "    work attempt !"]
    assert told.one("work").attributes["error.type"] == "flowkit.errors.WrongReturn"


async def test_timeouts_of_a_step_and_of_a_run() -> None:
    class Limited(Workflow):
        @step(timeout=5)
        async def sleep(self, ev: StartEvent) -> StopEvent:
            await anyio.sleep(100)
            return StopEvent()

    told = Telemetry()
    with pytest.raises(StepFailed):
        await Limited(instruments=[told.instrument]).run()
    assert told.one("sleep attempt").attributes["error.type"] == "TimeoutError"
    with pytest.raises(WorkflowTimeoutError):
        await Slow(instruments=[told.instrument], timeout=5).run()
    run, attempt = told.one("Slow"), told.named("sleep attempt")[1]
    assert run.attributes["error.type"] == "flowkit.errors.WorkflowTimeoutError"
    assert attempt.status.status_code is StatusCode.UNSET
    assert attempt.attributes["flowkit.step.outcome"] == "cancelled"
    assert attempt.end_time - attempt.start_time == pytest.approx(5e9, abs=1e7)
    assert told.amiss() == []


@pytest.mark.parametrize("how", ["cancel_run", "scope"])
async def test_cancelling_is_no_error(how: str) -> None:
    told = Telemetry()
    if how == "scope":
        with anyio.move_on_after(5):
            await Slow(instruments=[told.instrument]).run()
    else:
        async with Slow(instruments=[told.instrument]).run() as handler:
            await anyio.sleep(5)
            await handler.cancel_run()
            with pytest.raises(WorkflowCancelledByUser):
                await handler
    assert told.tree() == ["Slow", "  sleep", "    sleep attempt"]
    assert told.amiss() == []
    run = told.one("Slow")
    assert run.attributes["flowkit.run.outcome"] == "cancelled"
    assert run.attributes["flowkit.run.reason"].startswith("Slow was cancelled")
    assert {span.status.status_code for span in told.spans} == {StatusCode.UNSET}
    assert told.one("sleep").attributes["flowkit.step.outcome"] == "cancelled"
    assert [event for span in told.spans for event in span.events] == []


async def test_a_run_that_ends_while_attempts_are_at_work_waiting_or_to_be_made_again() -> None:
    class Racing(Workflow):
        @step
        async def win(self, ev: StartEvent) -> StopEvent:
            await anyio.sleep(5)
            return StopEvent()

        @step
        async def work(self, ev: StartEvent) -> Made | None:
            await anyio.sleep(100)
            return None

        @step
        async def wait(self, ctx: Context, ev: StartEvent) -> None:
            await ctx.wait_for_event(Approved)

        @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=50))
        async def fail(self, ev: StartEvent) -> None:
            raise ValueError("no luck")

        @step
        def plain(self, ev: StartEvent) -> None:
            pass

    told = Telemetry()
    await Racing(instruments=[told.instrument], disable_validation=True).run()
    assert told.amiss() == []
    by_step = {name: told.one(name).attributes["flowkit.step.outcome"] for name in ("work", "wait", "fail", "win")}
    assert by_step == {"work": "cancelled", "wait": "cancelled", "fail": "cancelled", "win": "returned"}
    assert told.one("wait for Approved").attributes["flowkit.wait.outcome"] == "cancelled"
    assert told.one("fail attempt").status.status_code is StatusCode.ERROR
    assert told.one("Racing").status.status_code is StatusCode.UNSET


async def test_a_wait_lies_in_what_the_step_is_in_unless_that_is_another_trace() -> None:
    told = Telemetry()

    class Asking(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with told.tracer.start_as_current_span("mine"):
                await ctx.wait_for_event(Approved, waiter_id="in mine")
            with told.tracer.start_as_current_span("apart", context=contexts.Context()):
                await ctx.wait_for_event(Approved, waiter_id="in another trace")
            return StopEvent()

    async with Asking(instruments=[told.instrument]).run() as handler:
        for n in range(2):
            await anyio.sleep(1)
            handler.send_event(Approved(n))
        await handler
    above = {span.context.span_id: span.name for span in told.spans}
    assert [above[wait.parent.span_id] for wait in told.named("wait for Approved")] == ["mine", "ask attempt"]


async def test_a_nested_run_left_behind_ends_within_its_attempt_or_the_run() -> None:
    class Leaving(Workflow):
        @step
        async def start(self, ev: StartEvent, slow: Slow) -> StopEvent:
            self.kept = slow.run()
            await anyio.sleep(5)
            return StopEvent()

    told = Telemetry()
    leaving = Leaving(instruments=[told.instrument])
    leaving.add_workflows(slow=Slow())
    await leaving.run()
    assert told.one("Slow").attributes["flowkit.run.outcome"] == "cancelled"
    assert told.open.spans == []
    assert told.one("Slow").end_time <= told.one("Leaving").end_time


async def test_the_error_of_a_nested_run() -> None:
    class Outer(Workflow):
        @step
        async def delegate(self, ev: StartEvent, inner: Failing) -> StopEvent:
            return StopEvent(result=await inner.run())

    told = Telemetry()
    outer = Outer(instruments=[told.instrument])
    outer.add_workflows(inner=Failing())
    with pytest.raises(StepFailed):
        await outer.run()
    assert told.amiss() == []
    assert told.tree()[:4] == ["Outer !", "  delegate !", "    delegate attempt !", "      Failing !"]


class Unsayable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Unsayable(), "<a Unsayable, whose text can't be told>"),
        (ValueError("\ud800"), "\\ud800"),
        (ValueError("x" * 100_000), "x" * (MAX_MESSAGE - 1) + "…"),
        (ExceptionGroup("several", [ValueError("a"), KeyError("b")]), "several (2 sub-exceptions)"),
    ],
)
async def test_whatever_a_step_raises_can_be_recorded(
    error: Exception, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Raising(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            raise error

        @catch_error()
        async def rescue(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent()

    told = Telemetry()
    await Raising(instruments=[told.instrument]).run()
    [event] = told.one("work attempt").events
    assert event.name == "exception" and event.attributes["exception.message"] == message
    assert len(event.attributes["exception.stacktrace"]) <= 4 * MAX_MESSAGE
    assert caplog.records == []


# ------------------------------------------------------------------------------------------------- attributes, contents


async def test_the_attributes_of_each_kind_of_span() -> None:
    told = Telemetry()
    await Chain(instruments=[told.instrument]).run(run_id="r", text="hey")
    where = told.one("Chain").attributes["flowkit.where"]
    assert "test_opentelemetry.py:" in where
    assert dict(told.one("Chain").attributes) == {
        "openinference.span.kind": "CHAIN",
        "flowkit.workflow": "Chain",
        "flowkit.run.id": "r",
        "flowkit.run.resumed": False,
        "flowkit.run.stored": False,
        "flowkit.run.outcome": "finished",
        "flowkit.where": where,
        "metadata": '{"workflow": "Chain", "run_id": "r"}',
        "flowkit.input.type": "StartEvent",
        "input.value": '{"text": "hey"}',
        "input.mime_type": "application/json",
        "flowkit.output.type": "str",
        "output.value": "hey",
        "output.mime_type": "text/plain",
    }
    judge = dict(told.one("judge").attributes)
    assert judge.pop("flowkit.where") != where
    assert judge == {
        "openinference.span.kind": "CHAIN",
        "flowkit.workflow": "Chain",
        "flowkit.run.id": "r",
        "flowkit.step": "judge",
        "flowkit.step.invocation": 2,
        "flowkit.step.attempts": 1,
        "flowkit.step.outcome": "returned",
        "graph.node.id": "judge",
        "graph.node.parent_id": "write",
        "flowkit.input.type": "Draft",
        "input.value": '{"text": "hey"}',
        "input.mime_type": "application/json",
        "flowkit.output.type": "StopEvent",
        "output.value": '{"result": "hey"}',
        "output.mime_type": "application/json",
    }
    attempt = dict(told.one("judge attempt").attributes)
    assert attempt.pop("flowkit.step.queue_time") >= 0
    assert attempt == {
        "openinference.span.kind": "CHAIN",
        "flowkit.workflow": "Chain",
        "flowkit.run.id": "r",
        "flowkit.step": "judge",
        "flowkit.attempt": 1,
        "flowkit.step.outcome": "returned",
    }


class Money:
    def __str__(self) -> str:
        return "5 €"


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Bag(Event):
    value: Any
    items: Any = None


async def shown(value: Any, **options: Any) -> Any:
    """What is recorded of a step's input."""
    told = Telemetry(**options)

    class Passing(Workflow):
        @step
        async def start(self, ev: StartEvent) -> Bag:
            return Bag(value)

        @step
        async def end(self, ev: Bag) -> StopEvent:
            return StopEvent()

    await Passing(instruments=[told.instrument]).run()
    return told.one("end").attributes


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        (None, "null"),
        ((1, {"a": b"\x00"}), '[1, {"a": "AA=="}]'),
        ({1: 2, (3, 4): []}, '{"1": 2, "[3, 4]": []}'),
        (Draft("hey"), '{"text": "hey"}'),
        ([Draft("a"), Draft("b")], '[{"text": "a"}, {"text": "b"}]'),
        (Money(), '"5 €"'),
        (Broken(), '"<a Broken, whose text can\'t be told>"'),
        (Question, '"watched_flows:Question"'),
        (ValueError("no"), '"ValueError: no"'),
    ],
)
async def test_contents_are_json_to_read(value: Any, text: str) -> None:
    named = await shown(value)
    assert json.loads(named["input.value"])["items"] is None
    got = named["input.value"].removeprefix('{"value": ').removesuffix(', "items": null}')
    assert got == text
    assert named["input.mime_type"] == "application/json"


async def test_contents_are_cut_off() -> None:
    named = await shown("x" * 100_000, max_length=100)
    assert len(named["input.value"]) == 100 and named["input.value"].endswith("x…")
    assert named["input.mime_type"] == "text/plain"  # it is JSON no more
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    assert "[...]" in (await shown(cyclic))["input.value"]


async def test_of_a_long_list_of_events_the_first_are_shown() -> None:
    class Fan(Workflow):
        @step
        async def plan(self, ev: StartEvent) -> list[Item]:
            return [Item(n) for n in range(250)]

        @step
        async def work(self, ev: Item) -> Made:
            return Made(ev.n)

        @step
        async def end(self, evs: list[Made]) -> StopEvent:
            return StopEvent(result=len(evs))

    told = Telemetry()
    assert await Fan(instruments=[told.instrument]).run() == 250
    named = told.one("end").attributes
    data = json.loads(named["input.value"])
    assert (len(data), data[0], data[-1], named["flowkit.input.type"]) == (101, {"n": 0}, "… 150 more", "list[Made]")


async def test_surrogates_can_be_sent() -> None:
    named = await shown("\ud800")
    assert named["input.value"].encode()


HIDING = "OPENINFERENCE_HIDE_INPUTS", "OPENINFERENCE_HIDE_OUTPUTS"


@pytest.mark.parametrize(
    ("contents", "set_to", "expected"),
    [
        (None, {}, {"input", "output"}),
        (True, {}, {"input", "output"}),
        (False, {}, set()),
        (None, {HIDING[0]: "true"}, {"output"}),
        (None, {HIDING[1]: "True"}, {"input"}),
        (None, {HIDING[0]: "false", HIDING[1]: ""}, {"input", "output"}),
        (True, {HIDING[0]: "true", HIDING[1]: "true"}, {"input", "output"}),
    ],
)
async def test_contents_may_be_hidden(
    contents: bool | None, set_to: dict[str, str], expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in HIDING:
        monkeypatch.delenv(name, raising=False)
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    told = Telemetry(contents=contents)
    await answered(make_shop(told.instrument).run())
    names = {name for span in told.spans for name in span.attributes}
    assert {name.partition(".")[0] for name in names if name.endswith(".value")} == expected
    assert {"flowkit.input.type", "flowkit.output.type"} <= names


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"contents": "yes"}, r"got contents='yes': give True, False, or None"),
        ({"max_length": 0}, r"got max_length=0: give a whole number, 1 or more"),
        ({"max_length": True}, r"got max_length=True: give a whole number, 1 or more"),
        ({"max_length": 1.5}, r"got max_length=1\.5: give a whole number, 1 or more"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], text: str) -> None:
    with pytest.raises(WrongCall, match=rf"^OpenTelemetry\(\) {text}"):
        OpenTelemetry(**options)


# -------------------------------------------------------------------------------------------------- when nobody records


@pytest.fixture
def serialized(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is serialised."""
    seen: list[Any] = []
    encode = Codec.encode

    def noting(self: Codec, value: object) -> Any:
        seen.append(value)
        return encode(self, value)

    monkeypatch.setattr(Codec, "encode", noting)
    monkeypatch.setattr("flowkit.opentelemetry.json.dumps", lambda *args, **named: seen.append(args) or "{}")
    return seen


async def test_nothing_is_serialised_without_an_sdk(serialized: list[Any]) -> None:
    quiet = OpenTelemetry(NoOpTracerProvider(), NoOpMeterProvider())
    await answered(make_shop(quiet).run())
    assert serialized == []
    await Chain(instruments=[Telemetry().instrument]).run()
    assert serialized != []  # so this test can fail


async def test_without_an_sdk_nothing_is_carried_and_nothing_current() -> None:
    class Looking(Workflow):
        @step
        async def look(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=trace.get_current_span().get_span_context().is_valid)

    store = MemoryStore()
    assert await Looking(instruments=[OpenTelemetry()]).run(store=store, run_id="r") is False
    assert b'"carried"' not in store.read("r")[0]


async def test_of_a_run_that_is_sampled_out_nothing_is_made_and_its_callees_are_too(serialized: list[Any]) -> None:
    told = Telemetry(sampler=ParentBased(ALWAYS_OFF))
    await Looking(told).run()
    assert (told.open.begun, serialized) == (0, [])
    assert told.values("flowkit.run.ended") == {("Looking", "finished"): 1}  # metrics are counted all the same


async def test_a_step_of_a_run_that_is_sampled_out_passes_that_on() -> None:
    class Calling(Workflow):
        @step
        async def call(self, ev: StartEvent) -> StopEvent:
            span = trace.get_current_span().get_span_context()
            return StopEvent(result=(span.is_valid, span.trace_flags.sampled))

    told = Telemetry(sampler=ParentBased(ALWAYS_OFF))
    assert await Calling(instruments=[told.instrument]).run() == (True, False)


async def test_the_global_providers_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Telemetry()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", told.provider)
    await Chain(instruments=[OpenTelemetry()]).run()
    assert told.tree()[0] == "Chain"


async def test_nothing_is_kept_of_runs_that_have_ended_or_never_began() -> None:
    told = Telemetry()
    workflow = Chain(instruments=[told.instrument], num_concurrent_runs=1)
    first, second = workflow.run(), workflow.run()
    await second.cancel_run()
    with pytest.raises(WorkflowCancelled):
        await second
    await first
    await answered(make_shop(told.instrument).run())
    del first, second
    gc.collect()
    assert dict(told.instrument._runs) == {}


async def test_a_question_that_is_returned() -> None:
    class Asking(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return Question(1)

        @step
        async def end(self, ev: Approved) -> StopEvent:
            return StopEvent(result=ev.n)

    told = Telemetry()
    assert await answered(Asking(instruments=[told.instrument]).run()) == 1
    assert told.amiss() == []
    assert linked(told.one("end attempt")) == []  # somebody outside has caused it
