"""`run(stepwise=True)`: the caller lets the run advance, and decides which events go on."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from flowkit import (
    Context,
    Event,
    Handler,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WrongCall,
    step,
)
from flowkit.memory_store import MemoryStore
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.sqlite_store import SQLiteStore
from flowkit.store import Store


class Joke(Event):
    text: str


class Part(Event):
    n: int


class Sum(Event):
    n: int


class JokeFlow(Workflow):
    @step
    async def generate(self, ev: StartEvent) -> Joke:
        return Joke(f"a joke about {ev.topic}")

    @step
    async def critique(self, ev: Joke) -> StopEvent:
        return StopEvent(result=f"{ev.text}: fine")


class FanFlow(Workflow):
    """Fans out to parallel steps and joins, and notes each start of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[str] = []

    @step
    async def fan(self, ev: StartEvent) -> list[Part]:
        self.started.append("fan")
        return [Part(n) for n in range(ev.size)]

    @step(num_workers=2)
    async def work(self, ev: Part) -> Sum:
        self.started.append(f"work {ev.n}")
        await anyio.sleep(1)
        return Sum(10 * ev.n)

    @step
    async def join(self, evs: list[Sum]) -> StopEvent:
        self.started.append("join")
        return StopEvent(result=[ev.n for ev in evs])


async def rounds(handler: Handler) -> list[list[Event]]:
    """The seed's loop; what each call produced."""
    produced_rounds: list[list[Event]] = []
    while produced_events := await handler.run_step():
        produced_rounds.append(list(produced_events))
        for ev in produced_events:
            handler.ctx.send_event(ev)
    return produced_rounds


async def test_the_seeds_loop() -> None:
    handler = JokeFlow().run(stepwise=True, topic="pirates")
    assert await rounds(handler) == [
        [Joke("a joke about pirates")],
        [StopEvent(result="a joke about pirates: fine")],
    ]
    assert await handler == "a joke about pirates: fine"


async def test_nothing_runs_until_it_is_told_to() -> None:
    workflow = FanFlow()
    handler = workflow.run(stepwise=True, size=2)
    await anyio.sleep(10)
    assert workflow.started == []
    await handler.run_step()
    await anyio.sleep(10)
    assert workflow.started == ["fan"]
    await handler.cancel_run()


async def test_each_call_runs_every_ready_step_to_its_end_and_nothing_twice() -> None:
    workflow = FanFlow()
    handler = workflow.run(stepwise=True, size=3)
    parts, sums, ends = await rounds(handler)
    assert parts == [Part(0), Part(1), Part(2)]
    assert sorted(event["n"] for event in sums) == [0, 10, 20]  # in the order the steps ended
    assert ends == [StopEvent(result=[0, 10, 20])]
    assert await handler == [0, 10, 20]
    assert sorted(workflow.started) == ["fan", "join", "work 0", "work 1", "work 2"]


async def test_a_call_that_produced_nothing_does_not_end_the_loop_while_work_is_left() -> None:
    class Flow(Workflow):
        @step
        async def send(self, ctx: Context, ev: StartEvent) -> Part | None:
            for n in range(3):
                ctx.send_event(Part(n))

        @step
        async def gather(self, ctx: Context, ev: Part) -> Sum | None:
            batch = ctx.collect_events(ev, [Part] * 3)
            return None if batch is None else Sum(sum(part.n for part in batch))

        @step
        async def end(self, ev: Sum) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run(stepwise=True)
    assert await rounds(handler) == [[Part(0), Part(1), Part(2)], [Sum(3)], [StopEvent(result=3)]]
    assert await handler == 3


async def test_events_that_are_not_sent_back_are_dropped() -> None:
    handler = FanFlow().run(stepwise=True, size=4)
    produced = await handler.run_step()
    for event in produced[::2]:
        handler.ctx.send_event(event)
    assert set(await handler.run_step()) == {Sum(0), Sum(20)}
    # Not sent back either: the join runs on what is left.
    handler.ctx.send_event(Sum(7))
    await rounds(handler)
    assert await handler == []


async def test_dropping_everything_ends_the_loop_and_stalls_the_run() -> None:
    handler = JokeFlow().run(stepwise=True, topic="pirates")
    assert await handler.run_step()
    assert await handler.run_step() == []
    with pytest.raises(WorkflowRuntimeError, match="stalled"):
        await handler


async def test_a_replaced_event_goes_on_in_place_of_the_produced_one() -> None:
    handler = JokeFlow().run(stepwise=True, topic="pirates")
    (joke,) = await handler.run_step()
    assert isinstance(joke, Joke)
    handler.send_event(joke.replace(text="a better one"))
    assert await rounds(handler) == [[StopEvent(result="a better one: fine")]]


async def test_a_stop_event_among_others_ends_the_run_when_it_is_sent_back() -> None:
    class Flow(Workflow):
        @step
        async def stop(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="stopped")

        @step
        async def go_on(self, ev: StartEvent) -> Part:
            return Part(1)

        @step
        async def never(self, ev: Part) -> StopEvent:
            raise AssertionError

    handler = Flow().run(stepwise=True)
    produced = await handler.run_step()
    assert set(produced) == {StopEvent(result="stopped"), Part(1)}
    stop = next(event for event in produced if isinstance(event, StopEvent))
    handler.ctx.send_event(stop)
    assert await handler.run_step() == []
    assert await handler == "stopped"


async def test_the_seeds_loop_ends_at_the_first_stop_event_whatever_else_was_produced() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(5)]

        @step(num_workers=5)
        async def race(self, ev: Part) -> StopEvent | None:
            await anyio.sleep(ev.n)
            return StopEvent(result=ev.n) if ev.n % 2 else None

    handler = Flow().run(stepwise=True)
    *_, last = await rounds(handler)
    assert last == [StopEvent(result=1), StopEvent(result=3)]
    assert await handler == 1


async def test_a_step_is_retried_within_one_call() -> None:
    class Flow(Workflow):
        attempts = 0

        @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=5))
        async def flaky(self, ev: StartEvent) -> Part:
            self.attempts += 1
            if self.attempts <= 2:
                raise OSError
            return Part(self.attempts)

        @step
        async def end(self, ev: Part) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run(stepwise=True)
    assert await handler.run_step() == [Part(3)]
    assert anyio.current_time() == pytest.approx(10)
    await handler.cancel_run()


async def test_awaiting_a_stepwise_run_runs_the_rest_freely() -> None:
    handler = FanFlow().run(stepwise=True, size=3)
    for event in await handler.run_step():
        handler.ctx.send_event(event)
    assert await handler == [0, 10, 20]


async def test_awaiting_at_once_runs_everything_freely() -> None:
    assert await FanFlow().run(stepwise=True, size=2) == [0, 10]


async def test_a_block_that_is_left_runs_the_rest_freely() -> None:
    async with FanFlow().run(stepwise=True, size=2) as handler:
        for event in await handler.run_step():
            handler.ctx.send_event(event)
    assert handler.result() == [0, 10]


async def test_a_failure_ends_the_loop_and_is_raised_by_awaiting() -> None:
    class Flow(Workflow):
        @step
        async def fail(self, ev: StartEvent) -> StopEvent:
            raise ValueError("no")

    handler = Flow().run(stepwise=True)
    assert await rounds(handler) == []
    with pytest.raises(StepFailed, match="no"):
        await handler


async def test_a_question_is_asked_once_and_its_answer_is_an_event_like_others() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent(prefix="number? ")

        @step
        async def answer(self, ev: HumanResponseEvent) -> Sum:
            return Sum(int(ev.response))

        @step
        async def end(self, ev: Sum) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run(stepwise=True)
    stream = handler.stream_events()
    (question,) = await handler.run_step()
    assert await anext(stream) == question == InputRequiredEvent(prefix="number? ")
    handler.ctx.send_event(question)
    assert await handler.run_step() == []  # nothing left to do until somebody answers
    handler.ctx.send_event(HumanResponseEvent(response="42"))
    assert await rounds(handler) == [[Sum(42)], [StopEvent(result=42)]]
    assert await handler == 42
    assert [event async for event in stream] == [StopEvent(result=42)]


async def test_a_step_that_waits_does_not_hold_up_the_call() -> None:
    class Flow(Workflow):
        @step
        async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await ctx.wait_for_event(Part))

    handler = Flow().run(stepwise=True)
    assert await handler.run_step() == []
    handler.ctx.send_event(Part(1))
    assert await rounds(handler) == [[StopEvent(result=Part(1))]]


async def test_run_step_needs_a_stepwise_run() -> None:
    handler = JokeFlow().run(topic="pirates")
    with pytest.raises(WorkflowRuntimeError, match=r"start it with run\(stepwise=True\)"):
        await handler.run_step()
    await handler


async def test_run_step_is_called_once_at_a_time() -> None:
    handler = FanFlow().run(stepwise=True, size=2)
    for event in await handler.run_step():
        handler.send_event(event)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(handler.run_step)
        await anyio.sleep(0.5)
        with pytest.raises(WorkflowRuntimeError, match="already running"):
            await handler.run_step()
    await handler.cancel_run()


async def test_a_stepwise_run_can_be_cancelled_between_steps() -> None:
    handler = JokeFlow().run(stepwise=True, topic="pirates")
    await handler.run_step()
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler


# --------------------------------------------------------------------------------------------- goes on from a store


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "runs.db")
    yield store
    store.close()


async def suspended(store: Store, *, stepwise: bool, size: int = 3) -> None:
    """A run that was left after its first step, or while that is at work."""
    with anyio.move_on_after(0.5):
        async with FanFlow().run(store=store, run_id="a", stepwise=stepwise, size=size) as handler:
            if stepwise:
                await handler.run_step()
            await anyio.sleep(1)


async def test_what_was_held_back_is_given_first_when_the_run_goes_on(store: Store) -> None:
    await suspended(store, stepwise=True)
    workflow = FanFlow()
    handler = workflow.run(store=store, run_id="a", stepwise=True)
    produced = await handler.run_step()
    assert produced == [Part(0), Part(1), Part(2)]
    assert workflow.started == []
    for event in produced[:2]:
        handler.ctx.send_event(event)
    summed, last = await rounds(handler)
    assert (set(summed), last) == ({Sum(0), Sum(10)}, [StopEvent(result=[0, 10])])
    assert await handler == [0, 10]
    assert sorted(workflow.started) == ["join", "work 0", "work 1"]


@pytest.mark.parametrize("stepwise", [True, False])
async def test_a_run_that_goes_on_and_is_awaited_runs_freely_and_drops_nothing(store: Store, stepwise: bool) -> None:
    await suspended(store, stepwise=True)
    with anyio.fail_after(10):
        assert await FanFlow().run(store=store, run_id="a", stepwise=stepwise) == [0, 10, 20]


async def test_a_run_that_had_not_begun_its_first_step_begins_with_it(store: Store) -> None:
    with anyio.move_on_after(0.5):
        async with FanFlow().run(store=store, run_id="a", stepwise=True, size=2):
            await anyio.sleep(1)
    workflow = FanFlow()
    handler = workflow.run(store=store, run_id="a", stepwise=True)
    assert await handler.run_step() == [Part(0), Part(1)]
    assert workflow.started == ["fan"]
    await handler.cancel_run()


async def test_a_step_that_was_cut_off_starts_again_in_the_first_call(store: Store) -> None:
    with anyio.move_on_after(0.5):
        async with FanFlow().run(store=store, run_id="a", stepwise=True, size=2) as handler:
            for event in await handler.run_step():
                handler.ctx.send_event(event)
            await handler.run_step()
    handler = FanFlow().run(store=store, run_id="a", stepwise=True)
    summed, last = await rounds(handler)
    assert (set(summed), last) == ({Sum(0), Sum(10)}, [StopEvent(result=[0, 10])])
    await handler


async def test_a_stored_run_that_has_ended_has_no_more_steps(store: Store) -> None:
    assert await FanFlow().run(store=store, run_id="a", size=2) == [0, 10]
    handler = FanFlow().run(store=store, run_id="a", stepwise=True)
    with anyio.fail_after(10):
        assert await handler.run_step() == []
    assert await handler == [0, 10]


async def test_a_stored_run_that_did_not_begin_stepwise_has_no_steps(store: Store) -> None:
    await suspended(store, stepwise=False)
    handler = FanFlow().run(store=store, run_id="a", stepwise=True)
    with anyio.fail_after(10):
        with pytest.raises(WrongCall, match=r"run_step\(\) needs a stepwise run, which 'a' didn't begin as: await it"):
            await handler.run_step()
    assert await handler == [0, 10, 20]


async def test_an_event_from_outside_goes_on_by_itself_and_once() -> None:
    class Flow(Workflow):
        taken = 0

        @step
        async def work(self, ev: StartEvent) -> None:
            await anyio.sleep(2)

        @step
        async def take(self, ev: Part) -> StopEvent:
            self.taken += 1
            return StopEvent(result=ev.n)

    workflow = Flow(stalled="wait")
    handler = workflow.run(stepwise=True)
    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            await anyio.sleep(1)
            handler.send_event(Part(5))

        tasks.start_soon(send)
        assert await rounds(handler) == [[StopEvent(result=5)]]
    assert await handler == 5
    assert workflow.taken == 1
