"""What goes wrong in other engines, row by row of the list that flowkit was designed against.

Costs are asserted by counting executed lines, calls and bytes, never by time.
"""

import asyncio
import contextlib
import gc
import importlib
import json
import logging
import sys
import threading
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any
from uuid import UUID

import anyio
import attrs
import pytest

from flowkit import (
    Context,
    Event,
    EventError,
    HumanResponseEvent,
    InputRequiredEvent,
    Resource,
    SerializationError,
    StartEvent,
    StepFailed,
    StopEvent,
    UnhandledEventWarning,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowCheckpointer,
    WorkflowStalled,
    WorkflowTimeoutError,
    WorkflowValidationError,
    step,
)


class Number(Event):
    n: int


class Text(Event):
    text: str


class Answer(HumanResponseEvent):
    text: str


class Question(InputRequiredEvent):
    text: str


# ------------------------------------------------------------------------------------------------- 1-10: runs


async def test_row_01_concurrent_first_uses_build_a_resource_once() -> None:
    built: list[object] = []

    async def connect() -> object:
        await anyio.sleep(1)
        built.append(object())
        return built[-1]

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, db: Annotated[object, Resource(connect)]) -> StopEvent:
            return StopEvent(result=db)

    workflow, got = Flow(), list[object]()

    async def run() -> None:
        got.append(await workflow.run())

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(run)

    assert len(built) == 1
    assert got == built * 3


async def test_row_02_each_wait_in_sequence_gets_its_own_event() -> None:
    bodies: list[Event] = []

    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            bodies.append(ev)
            return StopEvent(result=[(await ctx.wait_for_event(Number)).n for _ in range(5)])

    async with Flow().run() as handler:
        for n in range(5):
            await anyio.sleep(1)
            handler.ctx.send_event(Number(n))
        assert await handler == [0, 1, 2, 3, 4]
    assert len(bodies) == 1


async def test_row_03_collecting_after_an_await_runs_the_body_once_per_event() -> None:
    bodies: list[int] = []

    class Flow(Workflow):
        @step
        async def send(self, ctx: Context, ev: StartEvent) -> Number | None:
            for n in range(8):
                ctx.send_event(Number(n))

        @step
        async def gather(self, ctx: Context, ev: Number) -> StopEvent | None:
            bodies.append(ev.n)
            await anyio.sleep(1)
            batch = ctx.collect_events(ev, [Number] * 8)
            return None if batch is None else StopEvent(result=sorted(number.n for number in batch))

    assert await Flow().run() == list(range(8))
    assert sorted(bodies) == list(range(8))


async def test_row_04_collecting_keeps_the_surplus_for_the_next_batch() -> None:
    class Flow(Workflow):
        @step
        async def send(self, ctx: Context, ev: StartEvent) -> Number | Text | None:
            for event in (Number(1), Number(2), Text("one"), Text("two")):
                ctx.send_event(event)

        @step(num_workers=1)
        async def pair(self, ctx: Context, ev: Number | Text) -> StopEvent | None:
            batch = ctx.collect_events(ev, [Number, Text])
            if batch is None:
                return None
            pairs = await ctx.get("pairs", default=[])
            await ctx.set("pairs", [*pairs, batch])
            return StopEvent(result=await ctx.get("pairs")) if pairs else None

    assert await Flow().run() == [[Number(1), Text("one")], [Number(2), Text("two")]]


async def test_row_05_a_cancellation_error_that_escapes_a_step_fails_the_run_at_once() -> None:
    class Flow(Workflow):
        @step
        async def leak(self, ev: StartEvent) -> StopEvent:
            caught: list[BaseException] = []
            with anyio.CancelScope() as scope:
                scope.cancel()
                try:
                    await anyio.sleep(1)
                except anyio.get_cancelled_exc_class() as error:
                    caught.append(error)
            raise caught[0]

    with pytest.raises(StepFailed, match="a cancellation error escaped the step"):
        await Flow(timeout=60).run()
    assert anyio.current_time() < 1


async def test_row_06_an_undeclared_event_fails_the_run_and_a_subclass_is_routed() -> None:
    class Digit(Number):
        pass

    class Flow(Workflow):
        @step
        async def make(self, ev: StartEvent) -> Number:
            return ev.event

        @step
        async def take(self, ev: Number) -> StopEvent:
            return StopEvent(result=type(ev))

    assert await Flow().run(event=Digit(7)) is Digit
    with pytest.raises(StepFailed, match=r"Flow\.make returned Text, but its annotation allows Number"):
        await Flow(timeout=60).run(event=Text("seven"))


async def test_row_06_an_event_that_nobody_takes_is_named() -> None:
    class Flow(Workflow):
        @step
        async def send(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            ctx.send_event(Text("hello"))
            return StopEvent(result=1) if ev.stop else None

    with pytest.raises(WorkflowStalled, match="Text sent by step 'send'") as stalled:
        await Flow(timeout=60).run(stop=False)
    assert stalled.value.unhandled == (Text("hello"),)
    with pytest.warns(UnhandledEventWarning, match="Text sent by step 'send'"):
        assert await Flow().run(stop=True) == 1


async def test_row_07_a_run_that_can_never_end_fails_at_once() -> None:
    class Flow(Workflow):
        @step
        async def gather(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            return None if ctx.collect_events(ev, [StartEvent, StartEvent]) is None else StopEvent()

    with pytest.raises(WorkflowStalled, match="collected 1 StartEvent and still needs 1 StartEvent"):
        await Flow(timeout=3600).run()
    assert anyio.current_time() < 1


async def test_row_08_a_plain_step_uses_its_context_from_its_thread() -> None:
    class Flow(Workflow):
        @step
        def send(self, ctx: Context, ev: StartEvent) -> Number | None:
            ctx.write_event_to_stream(Text("from a thread"))
            ctx.send_event(Number(1))
            ctx.send_event(Number(2))

        @step(num_workers=1)
        def gather(self, ctx: Context, ev: Number) -> StopEvent | None:
            batch = ctx.collect_events(ev, [Number, Number])
            return None if batch is None else StopEvent(result=(batch, threading.current_thread().name))

    async with Flow().run() as handler:
        shown = [event async for event in handler.stream_events()]
        batch, thread = await handler
    assert Text("from a thread") in shown
    assert batch == [Number(1), Number(2)]
    assert thread != threading.main_thread().name


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_row_09_no_step_outlives_its_run(how: str) -> None:
    ended: list[float] = []

    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(30)
                ended.append(anyio.current_time())
            return StopEvent()

    if how == "timeout":
        with pytest.raises(WorkflowTimeoutError, match="timed out after 5 seconds; active: work"):
            await Flow(timeout=5).run()
    else:
        handler = Flow().run()
        await anyio.sleep(5)
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
    assert ended == [pytest.approx(35)]
    assert anyio.current_time() == pytest.approx(35)


async def test_row_10_a_failed_run_that_nobody_awaits_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Flow(Workflow):
        @step
        async def fail(self, ev: StartEvent) -> StopEvent:
            raise ValueError("nobody looks")

    handler = Flow().run()
    await anyio.sleep(1)
    with caplog.at_level(logging.ERROR, "flowkit"):
        del handler
        gc.collect()
    assert "a run of Flow failed and nobody awaited it" in caplog.text
    assert "nobody looks" in caplog.text


# ---------------------------------------------------------------------------------------------- 11-17: events


async def test_row_11_second_failures_are_kept() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent:
            await anyio.sleep(1)
            raise ValueError("first")

        @step
        async def second(self, ev: StartEvent) -> StopEvent:
            try:
                await anyio.sleep_forever()
            finally:
                raise OSError("while cleaning up")

    with pytest.raises(StepFailed, match="Error in step 'first'") as failed:
        await Flow().run()
    assert isinstance(failed.value.__cause__, ValueError)
    assert [str(other) for other in failed.value.others] == ["while cleaning up"]


async def test_row_12_an_event_sent_before_the_wait_opens_is_kept() -> None:
    class Flow(Workflow):
        @step
        async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await anyio.sleep(10)
            return StopEvent(result=await ctx.wait_for_event(Number))

    async with Flow().run() as handler:
        await anyio.sleep(1)
        handler.ctx.send_event(Number(1))
        assert await handler == Number(1)


async def test_row_13_events_are_frozen_and_what_they_refer_to_is_shared() -> None:
    class Carrier(Event):
        cargo: list[int]

    class Flow(Workflow):
        @step
        async def make(self, ev: StartEvent) -> Carrier:
            return Carrier(cargo)

        @step
        async def change(self, ev: Carrier) -> StopEvent:
            with pytest.raises(attrs.exceptions.FrozenInstanceError, match="Carrier is frozen"):
                ev.cargo = []  # type: ignore[misc]
            return StopEvent(result=ev.cargo)

    cargo = [1]
    assert await Flow().run() is cargo


async def test_row_14_a_stream_can_be_left_taken_up_again_and_read_twice() -> None:
    class Flow(Workflow):
        @step
        async def show(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for n in range(4):
                ctx.write_event_to_stream(Number(n))
                await anyio.sleep(1)
            return StopEvent()

    async with Flow().run() as handler:
        stream, seen = handler.stream_events(), list[Event]()
        async for event in stream:
            seen.append(event)
            if event == Number(1):
                break
        seen += [event async for event in stream]
        again = [event async for event in handler.stream_events(from_start=True)]
    assert seen == again == [*map(Number, range(4)), StopEvent()]


class Color(Enum):
    RED = 1


@attrs.frozen
class Point:
    x: int


class Everything(Event):
    point: Point
    color: Color
    value: Any


EXACT = [
    (1, (2, 3)),
    {1: "one", (2, 3): "pair"},
    {"a", "b"},
    frozenset({1}),
    datetime(2024, 2, 29, tzinfo=UTC),
    timedelta(seconds=1.5),
    Path("a/b"),
    b"\x00\xff",
    Decimal("1.50"),
    UUID(int=7),
    float("inf"),
    10**100,
    Point(1),
    Color.RED,
    ValueError("no"),
]


@pytest.mark.parametrize("value", EXACT, ids=lambda value: type(value).__name__)
async def test_row_15_what_is_saved_comes_back_exactly(value: Any) -> None:
    class Flow(Workflow):
        @step
        async def keep(self, ctx: Context, ev: StartEvent) -> Everything:
            await ctx.set("value", value)
            return Everything(Point(1), Color.RED, value)

        @step
        async def use(self, ctx: Context, ev: Everything) -> StopEvent:
            await anyio.sleep(10)
            return StopEvent(result=(ev, ev.value, await ctx.get("value")))

    workflow, handler = Flow(), Flow().run()
    await anyio.sleep(1)
    data = json.loads(json.dumps(handler.ctx.to_dict()))
    await handler.cancel_run()

    event, *values = await workflow.run(ctx=Context.from_dict(workflow, data))
    assert event.replace(value=0) == Everything(Point(1), Color.RED, 0)
    assert [type(got) for got in values] == [type(value)] * 2
    assert [repr(got) for got in values] == [repr(value)] * 2


async def test_row_15_what_can_not_come_back_exactly_is_refused() -> None:
    class Flow(Workflow):
        @step
        async def keep(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.set("lock", threading.Lock())
            return StopEvent()

    handler = Flow().run()
    await handler
    with pytest.raises(SerializationError, match=r"\$\.lock"):
        handler.ctx.to_dict()


def test_row_16_a_misspelt_field_is_refused_and_declared_ones_are_visible() -> None:
    with pytest.raises(EventError, match=r"Text has no field 'txet' .* did you mean 'text'\?"):
        Text(txet="hello")  # type: ignore[call-arg]
    event = Text(text="hello")
    assert event.get("text") == event["text"] == "hello"
    assert "text" in event


def test_row_17_a_parameter_that_nobody_fills_is_refused_when_declared() -> None:
    with pytest.raises(WorkflowValidationError, match="'limit' of type int, which flowkit can't fill"):

        class Flow(Workflow):
            @step
            async def work(self, ev: StartEvent, limit: int) -> StopEvent:
                return StopEvent(result=limit)


# ------------------------------------------------------------------------------------------------ 18-20: cost


@contextlib.contextmanager
def counting() -> Iterator[list[int]]:
    """Counts the lines of Python executed in this thread: also those of a comprehension, item by item."""
    count = [0]

    def trace(frame: FrameType, kind: str, _: object) -> Any:
        count[0] += kind != "return"
        return trace

    before = sys.gettrace()
    gc.disable()  # Hypothesis has a callback on collections, which would be counted
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)
        gc.enable()


async def lines_per_item(run: Callable[[int], Awaitable[object]], n: int) -> float:
    with counting() as count:
        await run(n)
    return count[0] / n


async def assert_linear(run: Callable[[int], Awaitable[object]]) -> None:
    await run(1)  # plans and routes are made once
    few, many = await lines_per_item(run, 200), await lines_per_item(run, 2000)
    assert many / few < 1.2, f"{few:.0f} lines per item for 200 items, {many:.0f} for 2000"


class FanByList(Workflow):
    @step
    async def fan(self, ev: StartEvent) -> list[Number]:
        return [Number(n) for n in range(ev.n)]

    @step
    async def work(self, ev: Number) -> Text:
        return Text(str(ev.n))

    @step
    async def join(self, evs: list[Text]) -> StopEvent:
        return StopEvent(result=len(evs))


class FanByCollecting(Workflow):
    @step
    async def fan(self, ctx: Context, ev: StartEvent) -> Number | None:
        await ctx.set("expected", [Text] * ev.n)
        for n in range(ev.n):
            ctx.send_event(Number(n))

    @step
    async def work(self, ev: Number) -> Text:
        return Text(str(ev.n))

    @step
    async def join(self, ctx: Context, ev: Text) -> StopEvent | None:
        batch = ctx.collect_events(ev, await ctx.get("expected"))
        return None if batch is None else StopEvent(result=len(batch))


@pytest.mark.parametrize("flow", [FanByList, FanByCollecting])
async def test_row_18_fan_in_costs_the_same_per_item_however_many(flow: type[Workflow]) -> None:
    await assert_linear(lambda n: flow().run(n=n))


class Loop(Workflow):
    """Goes around ``n`` times and then sleeps."""

    @step
    async def begin(self, ev: StartEvent) -> Number:
        return Number(ev.n)

    @step
    async def again(self, ctx: Context, ev: Number) -> Number | StopEvent:
        await ctx.set("left", ev.n)
        if ev.n:
            return Number(ev.n - 1)
        await anyio.sleep_forever()
        return StopEvent()


async def test_row_19_saving_a_run_costs_the_same_however_long_it_has_been() -> None:
    async def lines_and_size(n: int) -> tuple[int, int]:
        handler = Loop().run(n=n)
        await anyio.sleep(1)
        handler.ctx.to_dict()  # classes are looked at once
        with counting() as count:
            data = handler.ctx.to_dict()
        await handler.cancel_run()
        return count[0], len(json.dumps(data))

    few, many = await lines_and_size(10), await lines_and_size(4000)
    assert many[0] <= few[0] * 1.05
    assert many[1] <= few[1] + 20  # a few numbers have more digits


async def test_row_19_a_checkpoint_costs_the_same_however_long_the_run_has_been() -> None:
    async def run(n: int) -> None:
        checkpointer = WorkflowCheckpointer(Loop())
        handler = checkpointer.run(n=n)
        await anyio.sleep(1)
        assert len(checkpointer.checkpoints[handler.run_id]) == n + 1
        await handler.cancel_run()

    await assert_linear(run)


async def test_row_20_the_memory_of_a_run_does_not_grow_with_its_events() -> None:
    traced: list[int] = []

    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Text:
            return Text("")

        @step
        async def again(self, ctx: Context, ev: Text) -> Text | StopEvent:
            n = await ctx.get("n", default=0)
            await ctx.set("n", n + 1)
            if n in (1000, 5000):
                gc.collect()
                traced.append(tracemalloc.get_traced_memory()[0])
            ctx.write_event_to_stream(Text("shown" * 200))
            return StopEvent() if n == 5000 else Text("x" * 1000)

    tracemalloc.start()
    try:
        await Flow(stream_buffer=100).run()
    finally:
        tracemalloc.stop()
    early, late = traced
    assert late - early < 100_000  # 4,000 events of 1 KB, twice, would be 8,000,000


# ----------------------------------------------------------------------------------------------- 21-28: usage


async def test_row_21_steps_of_an_instance_and_positional_stop_events() -> None:
    class MyStopEvent(StopEvent):
        response: str

    workflow = Workflow()

    @step(workflow=workflow)
    async def answer(ctx: Context, ev: StartEvent) -> MyStopEvent:
        await ctx.set("topic", ev.topic)
        return MyStopEvent(await ctx.get("topic"))

    assert await workflow.run(topic="pirates") == MyStopEvent(response="pirates")


@pytest.mark.parametrize("flow", [FanByList, FanByCollecting])
async def test_row_21_the_stepwise_loop_runs_joins_and_parallel_steps(flow: type[Workflow]) -> None:
    handler = flow().run(n=9, stepwise=True)
    while produced := await handler.run_step():
        for event in produced:
            handler.ctx.send_event(event)
    assert await handler == 9


async def test_row_21_a_run_goes_on_from_a_checkpoint() -> None:
    checkpointer = WorkflowCheckpointer(workflow=FanByList())
    handler = checkpointer.run(n=3)
    assert await handler == 3
    first, *_ = checkpointer.checkpoints[handler.run_id]
    assert first.last_completed_step == "fan"
    assert await checkpointer.run_from(checkpoint=first) == 3


async def test_row_21_a_workflow_runs_inside_a_step() -> None:
    class Parent(Workflow):
        @step
        async def delegate(self, ev: StartEvent, child: FanByList) -> StopEvent:
            return StopEvent(result=await child.run(n=ev.n))

    parent = Parent()
    parent.add_workflows(child=FanByList())
    assert await parent.run(n=4) == 4


def failing() -> Any:
    async def fail(ev: StartEvent) -> StopEvent:
        raise ValueError

    return fail


def failing_in_a_thread() -> Any:
    def fail(ev: StartEvent) -> StopEvent:
        raise ValueError

    return fail


@pytest.mark.parametrize("make", [failing, failing_in_a_thread])
async def test_row_22_retries_are_timed_by_one_clock(make: Callable[[], Any]) -> None:
    asked: list[tuple[float, int]] = []

    class Policy:
        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            asked.append((round(elapsed_time, 6), attempts))
            return [5.0, 10.0, None][attempts]

    workflow = Workflow()
    step(workflow=workflow, retry_policy=Policy())(make())
    with pytest.raises(StepFailed) as failed:
        await workflow.run()
    assert asked == [(0, 0), (5, 1), (15, 2)]
    assert failed.value.attempts == 3
    assert anyio.current_time() == pytest.approx(15)


async def test_row_23_a_question_in_a_nested_workflow_is_answered_through_the_parent() -> None:
    class Child(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Question:
            return Question("name?")

        @step
        async def done(self, ev: Answer) -> StopEvent:
            return StopEvent(result=ev.text)

    class Parent(Workflow):
        @step
        async def delegate(self, ev: StartEvent, child: Child) -> StopEvent:
            return StopEvent(result=await child.run())

    parent = Parent(timeout=60)
    parent.add_workflows(child=Child())
    async with parent.run() as handler:
        async for event in handler.stream_events():
            if isinstance(event, Question):
                handler.ctx.send_event(Answer("Ada"))
        assert await handler == "Ada"


@pytest.mark.parametrize("how", ["wait_for", "dropped"])
async def test_row_24_a_run_that_nobody_waits_for_any_more_is_cancelled(how: str, anyio_backend_name: str) -> None:
    cleaned: list[float] = []

    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            try:
                await anyio.sleep(100)
            finally:
                cleaned.append(anyio.current_time())
            return StopEvent()

    handler = Flow().run()
    await anyio.sleep(1)
    if how == "dropped":
        with pytest.warns(ResourceWarning, match="handle of a run of Flow was dropped"):
            del handler
        await anyio.sleep(1)
        assert cleaned == [pytest.approx(1)]
        return
    with pytest.raises(TimeoutError):
        if anyio_backend_name == "asyncio":
            await asyncio.wait_for(handler, 1)  # type: ignore[arg-type]
        else:
            with anyio.fail_after(1):
                await handler
    assert handler.is_done()
    assert cleaned == [pytest.approx(2)]


async def test_row_25_only_registered_types_come_back_and_nothing_is_imported() -> None:
    class Flow(Workflow):
        @step
        async def keep(self, ctx: Context, ev: StartEvent) -> Number:
            await ctx.set("number", Number(1))
            return Number(1)

        @step
        async def end(self, ev: Number) -> StopEvent:
            return StopEvent()

    workflow = Flow()
    handler = workflow.run()
    await handler
    text = json.dumps(handler.ctx.to_dict())
    tag = f"{Number.__module__}:{Number.__qualname__}"
    assert tag in text
    hostile = json.loads(text.replace(tag, "__hello__:main"))
    sys.modules.pop("__hello__", None)
    with pytest.raises(SerializationError, match="no registered class has the tag '__hello__:main'"):
        Context.from_dict(workflow, hostile)
    assert "__hello__" not in sys.modules


def test_row_26_drawings_are_files_that_load_nothing(tmp_path: Path) -> None:
    drawing = importlib.import_module("flowkit.drawing")
    page = tmp_path / "flow.html"
    drawing.draw_all_possible_flows(FanByList, filename=str(page))
    assert "://" not in page.read_text(encoding="utf-8").replace("http://www.w3.org/", "")


async def test_row_27_everything_runs_on_trio_as_on_asyncio(anyio_backend_name: str) -> None:
    class Flow(Workflow):
        @step
        async def where(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=anyio.get_cancelled_exc_class().__module__.partition(".")[0])

    assert await Flow().run() == anyio_backend_name


def test_row_28_a_harness_explores_what_a_run_could_do() -> None:
    pytest.importorskip("hypothesis")
    testing = importlib.import_module("flowkit.testing")
    looked_at = testing.assert_schedule_independent(FanByList, StartEvent(n=3), budget=100)
    assert looked_at.runs == 100
    with pytest.raises(testing.Counterexample):
        testing.assert_schedule_independent(InOrderOfCompletion, budget=100)


class Asked(Event):
    n: int


class InOrderOfCompletion(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> list[Asked]:
        await ctx.set("answers", "")
        return [Asked(n) for n in range(3)]

    @step
    async def ask(self, ctx: Context, ev: Asked) -> StopEvent | None:
        await anyio.lowlevel.checkpoint()
        answers = await ctx.get("answers") + str(ev.n)
        await ctx.set("answers", answers)
        return StopEvent(result=answers) if len(answers) == 3 else None
