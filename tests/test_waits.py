"""`ctx.wait_for_event`: a step suspended where it stands."""

from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowStalled,
    step,
)
from flowkit.facts import Publish, RunResumed, RunStarted, StartStep, WaitOpened
from flowkit.machine import Machine
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.state import State
from flowkit.testing.virtual_time import run_virtual
from flowkit.workflow import plan_of


class Reply(Event):
    n: int = 0
    to: str = ""


class LateReply(Reply):
    pass


class Done(Event):
    n: int = 0
    to: str = ""


class Ask(InputRequiredEvent):
    text: str


async def test_waits_in_sequence_each_get_the_next_event_and_the_body_runs_once() -> None:
    class Flow(Workflow):
        bodies = 0

        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            self.bodies += 1
            return StopEvent(result=[(await ctx.wait_for_event(Reply)).n for _ in range(5)])

    workflow = Flow()
    async with workflow.run() as handler:
        for n in range(5):
            handler.send_event(Reply(n))
            await anyio.sleep(1)
        assert await handler == [0, 1, 2, 3, 4]
    assert workflow.bodies == 1


async def test_waits_side_by_side_in_one_step_each_get_an_event() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            got: dict[str, int] = {}

            async def wait(name: str) -> None:
                got[name] = (await ctx.wait_for_event(Reply, requirements={"to": name})).n

            async with anyio.create_task_group() as tasks:
                for name in "abc":
                    tasks.start_soon(wait, name)
            return StopEvent(result=got)

    async with Flow().run() as handler:
        await anyio.sleep(1)
        for n, name in enumerate("cab"):
            handler.send_event(Reply(n, to=name))
        assert await handler == {"a": 1, "b": 2, "c": 0}


async def test_the_wait_that_has_been_open_longest_gets_the_event() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Ask]:
            return [Ask(name) for name in "abc"]

        @step
        async def ask(self, ctx: Context, ev: Ask) -> Done:
            await anyio.sleep("cab".index(ev.text))
            return Done((await ctx.wait_for_event(Reply)).n, to=ev.text)

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result={reply.to: reply.n for reply in evs})

    async with Flow().run() as handler:
        await anyio.sleep(10)
        for n in range(3):
            handler.send_event(Reply(n))
        assert await handler == {"c": 0, "a": 1, "b": 2}


async def test_an_event_that_fails_the_requirements_waits_for_another_wait() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            first = await ctx.wait_for_event(Reply, requirements={"to": "me", "n": 2})
            return StopEvent(result=(first, await ctx.wait_for_event(Reply), await ctx.wait_for_event(Reply)))

    async with Flow().run() as handler:
        await anyio.sleep(1)
        for reply in (Reply(1, to="me"), Reply(2, to="you"), Reply(2, to="me")):
            handler.send_event(reply)
        assert await handler == (Reply(2, to="me"), Reply(1, to="me"), Reply(2, to="you"))


async def test_a_wait_also_takes_subclasses() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.wait_for_event(Reply))

    async with Flow().run() as handler:
        await anyio.sleep(1)
        handler.send_event(LateReply(1))
        assert await handler == LateReply(1)


async def test_events_that_came_before_the_wait_are_kept_in_order() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await anyio.sleep(5)
            return StopEvent(result=[await ctx.wait_for_event(Reply) for _ in range(3)])

    replies = [Reply(1), LateReply(2), Reply(3)]
    async with Flow().run() as handler:
        for reply in replies:
            handler.send_event(reply)
        assert await handler == replies


async def test_a_wait_times_out_inside_the_step() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(WaitTimedOut, match="step 'ask' waited 5 seconds for Reply in vain") as late:
                await ctx.wait_for_event(Reply, timeout=5)
            assert isinstance(late.value, TimeoutError)
            return StopEvent(result=await ctx.wait_for_event(Reply, timeout=5))

    async with Flow().run() as handler:
        await anyio.sleep(9)
        handler.send_event(Reply(1))
        assert await handler == Reply(1)


async def test_a_wait_that_times_out_and_is_not_caught_fails_the_step() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Reply, timeout=5)
            return StopEvent()

    with pytest.raises(StepFailed, match="waited 5 seconds"):
        await Flow().run()
    assert anyio.current_time() == pytest.approx(5)


async def test_a_waiting_step_gives_its_worker_back() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Ask]:
            return [Ask(str(n)) for n in range(5)]

        @step(num_workers=1)
        async def ask(self, ctx: Context, ev: Ask) -> Done:
            await anyio.sleep(1)
            order.append(f"asks {ev.text}")
            reply = await ctx.wait_for_event(Reply, requirements={"to": ev.text})
            order.append(f"goes on with {ev.text}")
            await anyio.sleep(1)
            return Done(to=reply.to)

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=[reply.to for reply in evs])

    order: list[str] = []
    async with Flow().run() as handler:
        await anyio.sleep(10)
        assert order == [f"asks {n}" for n in range(5)]
        for n in reversed(range(5)):
            handler.send_event(Reply(to=str(n)))
        # Answered all at once, they go on one after another: there is one worker.
        assert await handler == ["0", "1", "2", "3", "4"]
    assert order[5:] == [f"goes on with {n}" for n in reversed(range(5))]
    assert anyio.current_time() == pytest.approx(15)


@given(st.integers(1, 4), st.integers(1, 9), st.lists(st.sampled_from([0, 1, 2]), min_size=3, max_size=12))
def test_never_more_than_num_workers_run_however_waits_are_answered(
    anyio_backend_name: str, workers: int, size: int, pauses: list[int]
) -> None:
    running, most = 0, 0

    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Ask]:
            return [Ask(str(n)) for n in range(size)]

        @step(num_workers=workers)
        async def ask(self, ctx: Context, ev: Ask) -> Done:
            await work(int(ev.text))
            await ctx.wait_for_event(Reply)
            await work(int(ev.text) + 1)
            return Done()

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=len(evs))

    async def work(n: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(pauses[n % len(pauses)])
        running -= 1

    async def main() -> None:
        async with Flow().run() as handler:
            for n in range(size):
                await anyio.sleep(pauses[-1 - n % len(pauses)])
                handler.send_event(Reply())
            assert await handler == size

    run_virtual(main, backend=anyio_backend_name)
    assert most <= workers


async def test_a_scope_of_the_steps_own_can_give_up_a_wait_and_no_event_is_lost() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with anyio.move_on_after(5) as scope:
                await ctx.wait_for_event(Reply)
            assert scope.cancelled_caught
            await anyio.sleep(5)
            return StopEvent(result=await ctx.wait_for_event(Reply))

    async with Flow().run() as handler:
        await anyio.sleep(7)
        handler.send_event(Reply(1))
        assert await handler == Reply(1)


async def test_an_answer_that_comes_while_the_wait_is_being_cancelled_is_not_lost() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            got: list[int] = []
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                got.append((await ctx.wait_for_event(Reply)).n)
            while len(got) < 2:
                got.append((await ctx.wait_for_event(Reply)).n)
            return StopEvent(result=sorted(got))

    scopes: list[anyio.CancelScope] = []
    async with Flow().run() as handler:
        await anyio.sleep(1)
        scopes[0].cancel()
        handler.send_event(Reply(1))
        handler.send_event(Reply(2))
        assert await handler == [1, 2]


async def test_no_wait_survives_its_run() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await ctx.wait_for_event(Reply)
            finally:
                ended.append(anyio.current_time())
            return StopEvent()

    ended: list[float] = []
    handler = Flow().run()
    await anyio.sleep(3)
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert ended == [pytest.approx(3)]


class AskTwice(Workflow):
    """Asks two questions, and fails ``failures`` times after each answer."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures, self.bodies = failures, 0

    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=10, delay=1))
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        self.bodies += 1
        first = await ctx.wait_for_event(Reply, waiter_event=Ask("first"))
        if self.bodies <= self.failures:
            raise OSError("after the first")
        second = await ctx.wait_for_event(Reply, waiter_event=Ask("second"))
        if self.bodies <= 2 * self.failures:
            raise OSError("after the second")
        return StopEvent(result=[first.n, second.n])


@pytest.mark.parametrize("failures", [0, 1, 3])
async def test_a_question_is_shown_once_and_its_answer_kept_across_retries(failures: int) -> None:
    workflow, asked = AskTwice(failures), list[str]()
    async with workflow.run() as handler:
        async for event in handler.stream_events():
            if isinstance(event, Ask):
                asked.append(event.text)
                handler.send_event(Reply(len(asked)))
        assert await handler == [1, 2]
    assert asked == ["first", "second"]
    assert workflow.bodies == 1 + 2 * failures


async def test_a_retry_that_waits_under_the_same_id_finds_its_answer() -> None:
    class Flow(Workflow):
        bodies = 0

        @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=1))
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            self.bodies += 1
            names = ["a", "b"] if self.bodies == 1 else ["b", "a"]
            got = {name: (await ctx.wait_for_event(Reply, waiter_id=name)).n for name in names}
            if self.bodies == 1:
                raise OSError
            return StopEvent(result=got)

    async with Flow().run() as handler:
        for n in (1, 2):
            await anyio.sleep(1)
            handler.send_event(Reply(n))
        assert await handler == {"a": 1, "b": 2}


async def test_the_timeout_of_a_wait_goes_on_across_retries() -> None:
    class Flow(Workflow):
        @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=4))
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with anyio.move_on_after(1):
                await ctx.wait_for_event(Reply, waiter_id="w", timeout=12)
            raise OSError

    with pytest.raises(StepFailed, match="waited 12 seconds") as failed:
        await Flow().run()
    assert failed.value.attempts == 4  # at 0, 5, 10 and 15: too late
    assert anyio.current_time() == pytest.approx(15)


# ----------------------------------------------------------------------------------------- human in the loop


class HumanInTheLoop(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="Enter a number: ")

    @step
    async def answer(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)


async def test_the_seeds_loop_answers_inline() -> None:
    handler = HumanInTheLoop().run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(response=len(event.prefix)))
    assert await handler == 16


async def test_the_seeds_loop_is_left_answered_and_taken_up_again() -> None:
    handler = HumanInTheLoop().run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            break
    await anyio.sleep(80_000)
    handler.ctx.send_event(HumanResponseEvent(response="42"))
    async for _ in handler.stream_events():
        continue
    assert await handler == "42"


async def test_several_questions_may_be_open_at_once() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Reply]:
            return [Reply(n) for n in range(3)]

        @step
        async def ask(self, ctx: Context, ev: Reply) -> Done:
            answer = await ctx.wait_for_event(
                HumanResponseEvent, waiter_event=Ask(str(ev.n)), requirements={"to": str(ev.n)}
            )
            return Done(answer.n)

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent(result=[reply.n for reply in evs])

    questions: list[str] = []
    async with Flow().run() as handler:
        async for event in handler.stream_events():
            if isinstance(event, Ask):
                questions.append(event.text)
            if len(questions) == 3:
                break
        for text in reversed(questions):
            handler.send_event(HumanResponseEvent(to=text, n=10 * int(text)))
        assert await handler == [0, 10, 20]


async def test_a_block_that_is_left_while_its_run_waits_for_somebody_cancels_it() -> None:
    with pytest.raises(Exception, match="its block was left while it waited for somebody outside"):
        async with HumanInTheLoop().run():
            pass


# -------------------------------------------------------------------------------------------------- mistakes


async def test_an_event_that_no_wait_wants_is_named_when_the_run_stalls() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            await ctx.wait_for_event(LateReply)
            return None

    handler = Flow().run()
    await anyio.sleep(1)
    handler.send_event(Reply())
    handler.send_event(LateReply())
    with pytest.raises(WorkflowStalled, match=r"Reply sent by send_event\(\) from outside was not taken") as stalled:
        await handler
    assert stalled.value.unhandled == (Reply(),)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"event_type": str}, "takes an event class"),
        ({"event_type": Reply, "timeout": -1}, "takes timeout in seconds"),
        ({"event_type": Reply, "timeout": float("nan")}, "takes timeout in seconds"),
    ],
)
async def test_a_wait_checks_its_arguments(arguments: dict[str, Any], text: str) -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(**arguments)
            return StopEvent()

    with pytest.raises(StepFailed, match=text):
        await Flow().run()


async def test_two_waits_of_one_id_can_not_be_open_at_once() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ctx.wait_for_event, Reply, None, "same")
                await anyio.sleep(1)
                with pytest.raises(WorkflowRuntimeError, match="give each wait its own waiter_id"):
                    await ctx.wait_for_event(Reply, waiter_id="same")
                tasks.cancel_scope.cancel()
            return StopEvent()

    await Flow().run()


async def test_waiting_is_for_steps() -> None:
    async with HumanInTheLoop(stalled="wait").run() as handler:
        with pytest.raises(WorkflowRuntimeError, match="works only inside a step"):
            await handler.ctx.wait_for_event(Reply)
        handler.send_event(HumanResponseEvent(response=1))
        await handler


def test_a_question_is_asked_again_however_often_the_run_is_resumed_before_its_step_gets_there() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.wait_for_event(Reply, Ask("Well?")))

    machine = Machine(plan_of(Flow()), State(None))
    (start,) = machine.receive(RunStarted(0.0, "run", StartEvent()))
    assert isinstance(start, StartStep)
    opened = WaitOpened(1.0, start.invocation, "#1", Reply, {}, None, Ask("Well?"))
    asked = Publish(Ask("Well?"))
    assert asked in machine.receive(opened)
    machine.receive(RunResumed(2.0))
    machine.receive(RunResumed(3.0))  # its process had ended before the step came so far
    assert asked in machine.receive(opened)
    machine.receive(RunResumed(4.0))
    assert asked in machine.receive(opened)
