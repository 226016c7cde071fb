"""The live view's model: what it counts, in virtual time and without a terminal."""

import gc
import sys
from typing import Any

import anyio
import pytest
from live_views import VirtualBoard, balance, rows_of

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailed,
    StepFailedEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    catch_error,
    step,
)
from flowkit.instruments import ObservedRun
from flowkit.live_view.board import NOTES
from flowkit.live_view.frame import StepRow, frame_of
from flowkit.retry_policy import ConstantDelayRetryPolicy


class Item(Event):
    n: int


class Made(Event):
    n: int


class Text(Event):
    piece: str


class Fan(Workflow):
    @step
    async def plan(self, ev: StartEvent) -> list[Item]:
        return [Item(n) for n in range(6)]

    @step(num_workers=2, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=1.5))
    async def work(self, ctx: Context, ev: Item) -> Made:
        await anyio.sleep(1)
        if ev.n == 0 and not ctx.retry_info().attempts:
            raise OSError("busy")
        return Made(ev.n)

    @step
    async def gather(self, evs: list[Made]) -> StopEvent:
        return StopEvent(result=len(evs))


async def test_a_fan_out_is_counted_from_its_queue_to_its_end() -> None:
    board = VirtualBoard()
    work: list[Any] = []
    async with Fan(instruments=[board], timeout=60).run() as handler:
        await anyio.sleep(0.75)
        for _ in range(4):
            tally = board.tally("work")
            work.append((tally.queued, tally.running, len(tally.retrying), tally.done, tally.reached, tally.goal))
            assert balance(board) == []
            await anyio.sleep(1)
        assert await handler == 6
    assert work == [
        (4, 2, 0, 0, 0, 6),
        (2, 2, 1, 1, 1, 6),
        (1, 2, 0, 3, 3, 6),  # the retry is due, and waits for a worker
        (0, 1, 0, 5, 5, 6),
    ]
    tally = board.tally("work")
    assert (tally.given, tally.retries, tally.done, tally.failed, tally.produced) == (6, 1, 6, 0, 6)
    assert (tally.reached, tally.goal) == (6, 6)
    assert (tally.last, tally.total) == (pytest.approx(1), pytest.approx(7))
    assert balance(board) == [] and not board.live


async def test_a_frame_says_what_goes_on() -> None:
    board = VirtualBoard()
    async with Fan(instruments=[board], timeout=60).run(topic="x") as handler:
        await anyio.sleep(1.25)
        frame = frame_of(board)
        run, _, work, retry, _ = frame.rows
        assert (run.elapsed, run.left) == (pytest.approx(1.25), pytest.approx(58.75))  # type: ignore[union-attr]
        assert (work.state, work.running, work.workers) == ("running", 2, 2)  # type: ignore[union-attr]
        assert work.age == pytest.approx(0.25)  # type: ignore[union-attr]
        assert work.due == pytest.approx(1.25)  # type: ignore[union-attr]
        assert retry.text == "attempt 2 in 1.2 s, after OSError: busy"  # type: ignore[union-attr]
        assert rows_of(frame) == [
            f"Fan: running run {handler.run_id}",
            "- plan: done",
            "- work: running 1/6",
            "  retry: attempt 2 in 1.2 s, after OSError: busy",
            "- gather: idle",
        ]
        assert [(row.who, row.text) for row in frame.log] == [("work", "attempt 1 failed: OSError: busy")]
        await handler
    assert rows_of(board) == ["Fan: done finished in 4.0 s", "- plan: done", "- work: done 6/6", "- gather: done"]


class Asking(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await anyio.sleep(1)
        question = InputRequiredEvent(prefix="Go on?")
        answer = await ctx.wait_for_event(HumanResponseEvent, question, timeout=60)
        await anyio.sleep(2)
        return StopEvent(result=answer.response)


async def test_a_wait_is_shown_with_its_question_and_isn_t_time_at_work() -> None:
    board = VirtualBoard()
    async with Asking(instruments=[board]).run() as handler:
        await anyio.sleep(11)
        assert rows_of(board)[1:] == [
            "- ask: waiting",
            "  wait: waits 10.0 s (50.0 s left) for HumanResponseEvent: 'Go on?'",
        ]
        assert (board.tally("ask").running, board.tally("ask").waiting) == (0, 1)
        handler.send_event(HumanResponseEvent(response="yes"))
        assert await handler == "yes"
    assert (board.tally("ask").last, board.tally("ask").waiting) == (pytest.approx(3), 0)
    assert [(row.kind, row.text) for row in frame_of(board).log] == [
        ("asked", "asks 'Go on?'"),
        ("answered", "gets 'yes'"),
    ]
    assert balance(board) == []


class TwoWaits(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        async def wait(seconds: float) -> None:
            with anyio.move_on_after(seconds):
                await ctx.wait_for_event(Item, waiter_id=str(seconds))

        async with anyio.create_task_group() as group:
            group.start_soon(wait, 1)
            group.start_soon(wait, 3)
        await anyio.sleep(4)
        return StopEvent()


async def test_waits_of_one_attempt_count_once() -> None:
    board = VirtualBoard()
    async with TwoWaits(instruments=[board]).run() as handler:
        await anyio.sleep(0.5)
        for waiting in 1, 1, 1, 0:
            assert (board.tally("ask").waiting, balance(board)) == (waiting, [])
            await anyio.sleep(1)
        await handler
    assert board.tally("ask").total == pytest.approx(4)


class Failing(Workflow):
    @step
    async def plan(self, ev: StartEvent) -> list[Item]:
        return [Item(n) for n in range(4)]

    @step(num_workers=1)
    async def work(self, ev: Item) -> Made:
        await anyio.sleep(1)
        if ev.n == 1:
            raise ValueError("no\nluck")
        return Made(ev.n)

    @step
    async def gather(self, evs: list[Made]) -> StopEvent:
        return StopEvent()


async def test_what_a_failure_stops_is_dropped_and_not_under_way() -> None:
    board = VirtualBoard()
    with pytest.raises(StepFailed):
        await Failing(instruments=[board]).run()
    tally = board.tally("work")
    assert (tally.given, tally.done, tally.failed, tally.dropped, tally.queued) == (4, 1, 1, 2, 0)
    assert rows_of(board) == [
        "Failing: failed failed after 2.0 s: step work: ValueError: no luck",
        "- plan: done",
        "- work: failed 2/4",
        "  error: ValueError: no luck",
        "- gather: idle",
    ]
    assert balance(board) == []


class Caught(Failing):
    @catch_error(for_steps=["work"])
    async def lost(self, ev: StepFailedEvent) -> Made:
        return Made(-1)


async def test_a_failure_that_is_caught_counts_and_the_fan_out_goes_on() -> None:
    board = VirtualBoard()
    await Caught(instruments=[board]).run()
    tally = board.tally("work")
    assert (tally.done, tally.failed, tally.reached, tally.goal) == (3, 1, 4, 4)
    assert board.tally("lost").done == 1 and rows_of(board)[2:4] == ["- work: done 4/4", "  error: ValueError: no luck"]


async def test_a_cancelled_run_leaves_nothing_under_way() -> None:
    board = VirtualBoard()
    async with Fan(instruments=[board]).run() as handler:
        await anyio.sleep(1.2)  # two at work, one to be tried again, two queued
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
    tally = board.tally("work")
    assert (tally.done, tally.dropped, tally.given) == (1, 5, 6)
    assert rows_of(board)[:3] == ["Fan: stopped cancelled after 1.2 s", "- plan: done", "- work: stopped 1/6"]
    assert balance(board) == []


class Child(Workflow):
    @step
    async def look(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(1)
        if ev.n == 0:
            raise ValueError("nought")
        return StopEvent(result=ev.n)


class Parent(Workflow):
    @step
    async def plan(self, ev: StartEvent) -> list[Item]:
        return [Item(n) for n in range(6)]

    @step(num_workers=3)
    async def work(self, ev: Item, child: Child) -> Made:
        try:
            return Made(await child.run(n=ev.n))
        except StepFailed:
            return Made(-1)

    @step
    async def gather(self, evs: list[Made]) -> StopEvent:
        return StopEvent()


async def test_nested_runs_of_one_step_are_a_group() -> None:
    board = VirtualBoard()
    workflow = Parent(instruments=[board])
    workflow.add_workflows(child=Child())
    async with workflow.run() as handler:
        await anyio.sleep(0.5)
        assert rows_of(board)[2:5] == [
            "- work: running 0/6",
            "  Child in work x3: running 3 running",
            "  - look: running",
        ]
        look = frame_of(board).rows[4]
        assert isinstance(look, StepRow) and (look.running, look.workers) == (3, 12)  # each run has four
        await anyio.sleep(1)
        assert rows_of(board)[3] == "  Child in work x6: running 3 running, 2 finished, 1 failed"
        await handler
    assert rows_of(board)[3:6] == [
        "  Child in work x6: failed 5 finished, 1 failed (step look: ValueError: nought)",
        "  - look: done",
        "    error: ValueError: nought",
    ]
    (group,) = board.groups.values()
    (nested,) = group.inner.values()
    assert nested.tallies["look"].given == 6 and nested.label == "Parent/Child"
    assert ("Child.look", "failed: ValueError: nought") in [(row.who, row.text) for row in frame_of(board).log]
    assert balance(board) == []


class Down(Workflow):
    @step
    async def go(self, ev: StartEvent, below: "Down", child: Child) -> StopEvent:
        return StopEvent(result=await (child if ev.n == 1 else below).run(n=ev.n - 1 or 7))


async def test_a_workflow_nested_in_itself_is_one_group() -> None:
    board = VirtualBoard()
    workflow = Down(instruments=[board])
    workflow.add_workflows(below=workflow, child=Child())
    await workflow.run(n=41)
    (group,) = board.groups.values()
    (nested,) = group.inner.values()
    assert (group.begun, group.finished, group.tallies["go"].done) == (41, 41, 41)
    assert (nested.workflow, nested.begun, nested.inner) == ("Child", 1, {})
    assert balance(board) == []


class Collecting(Workflow):
    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(5):
            ctx.send_event(Item(n))
            await anyio.sleep(1)

    @step
    async def gather(self, ctx: Context, ev: Item) -> StopEvent | None:
        if ctx.collect_events(ev, [Item] * 5) is None:
            return None
        return StopEvent()


async def test_collected_events_are_counted_against_how_many_make_a_batch() -> None:
    board = VirtualBoard()
    async with Collecting(instruments=[board]).run() as handler:
        await anyio.sleep(2.5)
        assert board.tally("gather").gathered == (3, 5)
        assert rows_of(board)[2] == "- gather: done 3/5"
        await handler
    assert board.tally("gather").gathered == (5, 5)
    assert board.tally("plan").produced == 5


class Talking(Workflow):
    @step
    async def talk(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for word in ["once", "upon", "a", "time"]:
            ctx.write_event_to_stream(Text(piece=f"{word} "))
            await anyio.sleep(0.1)
        for n in range(9):
            ctx.write_event_to_stream(Item(n=n))
        await anyio.sleep(10)
        ctx.write_event_to_stream(Item(n=3))
        return StopEvent()


async def test_events_in_quick_succession_share_a_line() -> None:
    board = VirtualBoard()
    await Talking(instruments=[board]).run()
    assert [(round(row.offset, 1), row.text, row.tail) for row in frame_of(board).log] == [
        (0.3, "once upon a time ", True),
        (0.4, "Item(n=0)", False),
        (0.4, "Item(n=1)", False),
        (0.4, "7 events, last Item(n=8)", False),
        (10.4, "Item(n=3)", False),
    ]


class Loop(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> Item:
        return Item(ev.n)

    @step
    async def again(self, ctx: Context, ev: Item) -> Item | StopEvent:
        ctx.write_event_to_stream(Made(ev.n) if ev.n % 2 else Text(piece=str(ev.n)))
        return Item(ev.n - 1) if ev.n else StopEvent()


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


async def test_memory_doesn_t_grow_with_the_length_of_a_run_nor_with_their_number() -> None:
    board = VirtualBoard()
    workflow = Loop(instruments=[board], stream_buffer=10)
    for _ in range(3):
        await workflow.run(n=2000)
    before = _blocks()
    for _ in range(10):
        await workflow.run(n=2000)
    assert _blocks() - before < 2000  # 20,000 events more
    assert len(board.notes) <= NOTES and len(board.groups) == 1
    assert board.tally("again").done == 13 * 2001


async def test_what_began_before_it_was_looked_at_is_left_alone() -> None:
    board = VirtualBoard()

    class Late(VirtualBoard):
        """Was installed while the run was under way."""

        def run_started(self, run: ObservedRun) -> None:
            return None

    late = Late()
    workflow = Fan(instruments=[board, late])
    await workflow.run()
    assert not late.groups and not late.notes and not late.live


async def test_two_workflows_are_two_groups_and_what_has_ended_is_above() -> None:
    board = VirtualBoard()
    first, second = Asking(instruments=[board]), Fan(instruments=[board])
    async with first.run() as asking:
        await second.run()
        assert [row.name for row in frame_of(board).rows if not hasattr(row, "kind")] == [
            "Fan",
            "plan",
            "work",
            "gather",
            "Asking",
            "ask",
        ]
        asking.send_event(HumanResponseEvent(response="x"))
