"""The stream of a run: any number of readers, each with a place of its own."""

import gc
import logging

import anyio
import anyio.lowlevel
import pytest

from flowkit import (
    Context,
    Event,
    InputRequiredEvent,
    Origin,
    StartEvent,
    StepFailed,
    StopEvent,
    StreamGap,
    Workflow,
    WorkflowCancelledByUser,
    step,
)


class Tick(Event):
    n: int


class Ticker(Workflow):
    """Shows ``n`` ticks, ``every`` so many seconds, and fails at the end if told so."""

    @step
    async def tick(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(ev.get("n", 5)):
            ctx.write_event_to_stream(Tick(n))
            await anyio.sleep(ev.get("every", 1))
        if ev.get("fail"):
            raise ValueError("no more ticks")
        return StopEvent(result="done")


ALL = [*map(Tick, range(5)), StopEvent(result="done")]


async def test_the_seeds_loop_sees_every_event_and_then_the_stop_event() -> None:
    handler = Ticker().run()
    seen = [event async for event in handler.stream_events()]
    assert seen == ALL
    assert await handler == "done"


async def test_events_are_seen_as_they_are_written() -> None:
    times: list[float] = []
    async with Ticker().run() as handler:
        async for _ in handler.stream_events():
            times.append(anyio.current_time())
    assert times == [pytest.approx(n) for n in range(6)]


async def test_a_loop_that_was_left_goes_on_where_it_stood() -> None:
    async with Ticker().run() as handler:
        stream, seen = handler.stream_events(), list[Event]()
        for _ in range(3):
            async for event in stream:
                seen.append(event)
                if len(seen) % 2 == 0:
                    break
        assert seen == ALL
        assert [event async for event in stream] == []


async def test_a_second_loop_over_a_new_reader_goes_on_where_the_first_was_left() -> None:
    async with Ticker().run() as handler:
        async for event in handler.stream_events():
            if event == Tick(1):
                break
        await anyio.sleep(2)
        assert [event async for event in handler.stream_events()] == ALL[2:]


async def test_several_readers_each_see_every_event() -> None:
    seen: list[list[Event]] = []

    async with Ticker().run() as handler, anyio.create_task_group() as tasks:

        async def read(delay: float) -> None:
            await anyio.sleep(delay)
            seen.append([event async for event in handler.stream_events(from_start=True)])

        for delay in (0, 2.5, 100):
            tasks.start_soon(read, delay)
    assert seen == [ALL] * 3


async def test_readers_opened_together_do_not_take_events_from_one_another() -> None:
    async with Ticker().run() as handler:
        first, second = handler.stream_events(), handler.stream_events()
        assert [await anext(first), await anext(first)] == ALL[:2]
        assert [event async for event in second] == ALL
        assert [event async for event in first] == ALL[2:]


async def test_cancelling_a_reader_loses_no_event() -> None:
    seen: list[Event] = []
    async with Ticker().run(every=10) as handler:
        stream = handler.stream_events()
        while len(seen) < 6:
            with anyio.move_on_after(3):
                seen.append(await anext(stream))
    assert seen == ALL


async def test_a_stream_can_be_read_after_the_run() -> None:
    handler = Ticker().run()
    await handler
    assert [event async for event in handler.stream_events()] == ALL
    assert [event async for event in handler.stream_events()] == []
    assert [event async for event in handler.stream_events(from_start=True)] == ALL


async def test_a_stream_ends_with_a_failed_run_whose_error_is_raised_by_awaiting_it() -> None:
    handler = Ticker().run(n=2, fail=True)
    assert [event async for event in handler.stream_events()] == ALL[:2]
    for _ in range(2):
        with pytest.raises(StepFailed, match="no more ticks"):
            await handler


async def test_a_stream_ends_with_a_cancelled_run() -> None:
    handler, seen = Ticker().run(), list[Event]()
    async for event in handler.stream_events():
        seen.append(event)
        if event == Tick(2):
            handler.cancel_run()
    assert seen == ALL[:3]
    with pytest.raises(WorkflowCancelledByUser):
        await handler


async def test_a_reader_that_fell_behind_is_told_how_much_it_missed() -> None:
    async with Ticker(stream_buffer=10).run(n=100, every=0) as handler:
        stream = handler.stream_events()
        assert await anext(stream) == Tick(0)
        await handler
        gap, *rest = [event async for event in stream]
    assert isinstance(gap, StreamGap)
    assert 10 <= len(rest) <= 20
    assert rest == [*map(Tick, range(1 + gap.missed, 100)), StopEvent(result="done")]


async def test_a_reader_can_start_at_the_oldest_event_that_is_kept() -> None:
    async with Ticker(stream_buffer=2).run(every=0) as handler:
        await handler
        gap, *rest = [event async for event in handler.stream_events(from_start=True)]
    assert isinstance(gap, StreamGap)
    assert rest == ALL[gap.missed :]


async def test_reading_a_long_stream_lets_other_tasks_run() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with Ticker().run(n=1000, every=0) as handler:
        await handler
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            assert len([event async for event in handler.stream_events()]) == 1001
            tasks.cancel_scope.cancel()
    assert turns >= 10


async def test_a_returned_question_is_shown_and_other_returned_events_are_not() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Tick:
            return Tick(1)

        @step
        async def ask(self, ev: Tick) -> InputRequiredEvent:
            return InputRequiredEvent(prefix="? ")

        @step
        async def answered(self, ev: InputRequiredEvent) -> StopEvent:
            return StopEvent()

    async with Flow().run() as handler:
        assert [event async for event in handler.stream_events()] == [
            InputRequiredEvent(prefix="? "),
            StopEvent(),
        ]


async def test_the_events_of_a_nested_run_come_with_their_origin() -> None:
    class Parent(Workflow):
        @step
        async def delegate(self, ctx: Context, ev: StartEvent, child: Ticker) -> StopEvent:
            ctx.write_event_to_stream(Tick(-1))
            handler = child.run(n=1)
            ids.append(handler.run_id)
            return StopEvent(result=await handler)

    ids: list[str] = []
    parent = Parent()
    parent.add_workflows(child=Ticker())
    async with parent.run() as handler:
        stream = handler.stream_events()
        seen = [(event, stream.origin) async for event in stream]
    origin = Origin(workflow="Ticker", run_id=ids[0], path=("delegate",))
    assert seen == [
        (Tick(-1), None),
        (Tick(0), origin),
        (StopEvent(result="done"), origin),
        (StopEvent(result="done"), None),
    ]


async def test_a_failure_that_is_only_seen_as_the_end_of_a_stream_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handler = Ticker().run(n=1, fail=True)
    async for _ in handler.stream_events():
        pass
    with caplog.at_level(logging.ERROR, "flowkit"):
        del handler
        gc.collect()
    assert "failed and nobody awaited it" in caplog.text
