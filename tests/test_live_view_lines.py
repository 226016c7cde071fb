"""Plain lines, for where there is no terminal: one for each thing that happens."""

import re

import anyio
import pytest
from live_views import virtual_clock

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailed,
    StopEvent,
    WaitTimedOut,
    Workflow,
    step,
)
from flowkit.instruments import ObservedRun
from flowkit.live_view.lines import Lines
from flowkit.retry_policy import ConstantDelayRetryPolicy


class Item(Event):
    n: int


class Made(Event):
    n: int


class Child(Workflow):
    @step
    async def look(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(1)
        return StopEvent(result=1)


class Shop(Workflow):
    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> list[Item]:
        ctx.write_event_to_stream(Event(text="planning\n\x1b[31m[bold]now[/bold]"))
        return [Item(0), Item(1), Item(2)]

    @step(num_workers=1, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=2))
    async def work(self, ctx: Context, ev: Item, child: Child) -> Made:
        await anyio.sleep(0.25)
        if ev.n == 0 and not ctx.retry_info().attempts:
            raise OSError("busy\nnow")
        if ev.n == 1:
            await child.run()
        if ev.n == 2:
            await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(prefix="Go on?"), timeout=60)
        return Made(ev.n)

    @step
    async def gather(self, evs: list[Made]) -> StopEvent:
        return StopEvent(result=len(evs))


class VirtualLines(Lines):
    def __init__(self) -> None:
        self.text = ""
        clock, self._start = virtual_clock()
        super().__init__(self._add, clock)

    def _add(self, text: str) -> None:
        self.text += text

    def run_started(self, run: ObservedRun) -> None:
        if run.parent is None:
            self._start(run)
        super().run_started(run)


def shop(lines: Lines) -> Shop:
    workflow = Shop(instruments=[lines], timeout=90)
    workflow.add_workflows(child=Child())
    return workflow


WHOLE = """\
+0.000 Shop run=r1 starts with StartEvent(topic='tea') (timeout in 1m30s)
+0.000 Shop.plan#1 begins with StartEvent(topic='tea')
+0.000 Shop.plan#1 shows Event(text='planning\\n\\x1b[31m[bold]now[/bold]')
+0.000 Shop.plan#1 returned 3 events in 0 ms
+0.000 Shop.work#2 begins with Item(n=0)
+0.250 Shop.work#2 attempt 1 failed in 250 ms: OSError: busy now; again in 2.0 s
+0.250 Shop.work#3 begins with Item(n=1)
+0.500 Shop.work#3/Child run=… starts with StartEvent()
+0.500 Shop.work#3/Child.look#1 begins with StartEvent()
+1.500 Shop.work#3/Child.look#1 returned StopEvent in 1.0 s
+1.500 Shop.work#3/Child finished in 1.0 s
+1.500 Shop.work#3 returned Made in 1.2 s
+1.500 Shop.work#4 begins with Item(n=2)
+1.750 Shop.work#4 waits for HumanResponseEvent for at most 1m00s, asks InputRequiredEvent(prefix='Go on?')
+2.250 Shop.work#2 begins with Item(n=0) (attempt 2)
+2.500 Shop.work#2 returned Made in 250 ms
+5.000 Shop is sent HumanResponseEvent(response='yes') from outside
+5.000 Shop.work#4 wait answered with HumanResponseEvent(response='yes') after 3.2 s
+5.000 Shop.work#4 returned Made in 3.5 s
+5.000 Shop.gather#8 begins with 3 events
+5.000 Shop.gather#8 returned StopEvent in 0 ms
+5.000 Shop finished in 5.0 s
"""


async def test_each_thing_that_happens_is_a_line() -> None:
    lines = VirtualLines()
    async with shop(lines).run(run_id="r1", topic="tea") as handler:
        await anyio.sleep(5)
        handler.send_event(HumanResponseEvent(response="yes"))
        await handler
    assert re.sub(r"/Child run=\S+", "/Child run=…", lines.text) == WHOLE


async def test_a_second_run_has_a_number() -> None:
    lines = VirtualLines()
    workflow = Child(instruments=[lines])
    await workflow.run()
    await workflow.run()
    assert [line.split()[1] for line in lines.text.splitlines()] == [
        "Child",
        "Child.look#1",
        "Child.look#1",
        "Child",
        "Child(2)",
        "Child(2).look#1",
        "Child(2).look#1",
        "Child(2)",
    ]


class Broken(Workflow):
    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Item, timeout=3)
        return StopEvent()


async def test_a_failed_run_says_why() -> None:
    lines = VirtualLines()
    with pytest.raises(StepFailed) as failed:
        await Broken(instruments=[lines]).run(run_id="r1")
    assert isinstance(failed.value.__cause__, WaitTimedOut)
    assert lines.text.splitlines()[-3:] == [
        "+3.000 Broken.go#1 wait timed out after 3.0 s",
        "+3.000 Broken.go#1 attempt 1 failed in 3.0 s: WaitTimedOut: step 'go' waited 3 seconds for Item in vain.",
        "+3.000 Broken failed after 3.0 s: step go: WaitTimedOut: step 'go' waited 3 seconds for Item in vain.",
    ]


class Asks(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="Well?")

    @step
    async def hear(self, ctx: Context, ev: HumanResponseEvent) -> Item | None:
        for n in range(2):
            ctx.send_event(Item(n))
        return None

    @step
    async def gather(self, ctx: Context, ev: Item) -> StopEvent | None:
        return None if ctx.collect_events(ev, [Item] * 2) is None else StopEvent()


async def test_questions_sent_and_collected_events_are_told() -> None:
    lines = VirtualLines()
    async with Asks(instruments=[lines]).run(run_id="r1") as handler:
        await anyio.sleep(1)
        handler.ctx.send_event(HumanResponseEvent(response="so"))
        await handler
    told = [line.partition(" ")[2] for line in lines.text.splitlines()]
    assert "Asks.ask#1 asks InputRequiredEvent(prefix='Well?')" in told
    assert "Asks is sent HumanResponseEvent(response='so') from outside" in told
    assert any(line.endswith("sends Item(n=1)") for line in told)
    assert any(line.endswith("has collected 2 events") for line in told)


async def test_what_a_cancelled_run_leaves_is_told() -> None:
    lines = VirtualLines()
    async with shop(lines).run(run_id="r1") as handler:
        await anyio.sleep(0.125)
        await handler.cancel_run()
    assert [line.partition(" ")[2] for line in lines.text.splitlines()[-2:]] == [
        "Shop.work#2 cancelled after 125 ms",
        "Shop cancelled after 125 ms: WorkflowCancelledByUser: Shop was cancelled: cancel_run() was called.",
    ]
