"""Runs as data: `Context.to_dict` and back, and `WorkflowCheckpointer`."""

import json
import time
from typing import Annotated, Any

import anyio
import attrs
import pytest

from flowkit import (
    Checkpoint,
    Collect,
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    SerializationError,
    StartEvent,
    StepFailed,
    StopEvent,
    Take,
    WaitTimedOut,
    Workflow,
    WorkflowCheckpointer,
    WorkflowRuntimeError,
    step,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy


class Part(Event):
    n: int


class Result(Event):
    n: int


class Question(InputRequiredEvent):
    text: str


class Answer(HumanResponseEvent):
    n: int


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the wall clock, by which a run that goes on learns what time it is, go as virtual time does."""
    real = time.time

    def virtual() -> float:
        try:
            return 1_000_000_000 + anyio.current_time()
        except RuntimeError:  # no event loop is running
            return real()

    monkeypatch.setattr(time, "time", virtual)


async def saved(workflow: Workflow, at: float, *sent: Event, **fields: Any) -> dict[str, Any]:
    """Run a workflow until ``at`` seconds after its start, save it, and cancel it as if the process had died."""
    handler = workflow.run(**fields)
    for event in sent:
        handler.send_event(event)
    await anyio.sleep(at)
    try:
        return json.loads(json.dumps(handler.ctx.to_dict()))  # type: ignore[no-any-return]
    finally:
        await handler.cancel_run()


# ---------------------------------------------------------------------------------- contexts of finished runs


class Counter(Workflow):
    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.set("n", await ctx.get("n", default=0) + 1)
        return StopEvent(result=await ctx.get("n"))


async def test_a_finished_runs_state_goes_on_in_another_process() -> None:
    handler = Counter().run()
    await handler
    workflow = Counter()
    ctx = Context.from_dict(workflow, json.loads(json.dumps(handler.ctx.to_dict())))
    assert await ctx.get("n") == 1
    assert await workflow.run(ctx=ctx) == 2
    assert await ctx.get("n") == 2


async def test_a_context_that_was_never_run_can_be_saved() -> None:
    workflow = Counter()
    ctx = Context(workflow)
    await ctx.set("n", 41)
    assert await workflow.run(ctx=Context.from_dict(workflow, ctx.to_dict())) == 42


@attrs.define
class Totals:
    n: int = 0
    names: list[str] = attrs.field(factory=list[str])


async def test_typed_state_comes_back_as_its_class() -> None:
    class Typed(Workflow):
        @step
        async def count(self, ctx: Context[Totals], ev: StartEvent) -> StopEvent:
            async with ctx.store.edit_state() as totals:
                totals.n += 1
                totals.names.append(ev.name)
            return StopEvent(result=await ctx.store.get_state())

    handler = Typed().run(name="a")
    await handler
    workflow = Typed()
    ctx = Context.from_dict(workflow, json.loads(json.dumps(handler.ctx.to_dict())))
    assert await workflow.run(ctx=ctx, name="b") == Totals(2, ["a", "b"])


# -------------------------------------------------------------------------------------- unfinished runs go on


class Loop(Workflow):
    """Notes each start of a step; a step that has ended must not start again."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[str] = []

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Part:
        self.started.append("begin")
        await ctx.set("name", ev.name)
        return Part(1)

    @step
    async def slow(self, ctx: Context, ev: Part) -> StopEvent:
        self.started.append(f"slow {ev.n}")
        await anyio.sleep(10)
        return StopEvent(result=f"{await ctx.get('name')} {ev.n}")


async def test_what_was_running_starts_again_and_what_had_ended_does_not() -> None:
    data = await saved(Loop(), 5, name="Ada")
    workflow = Loop()
    assert await workflow.run(ctx=Context.from_dict(workflow, data)) == "Ada 1"
    assert workflow.started == ["slow 1"]


async def test_one_saved_context_can_start_several_runs() -> None:
    data = await saved(Loop(), 5, name="Ada")
    workflow = Loop()
    handlers = [workflow.run(ctx=Context.from_dict(workflow, data)) for _ in range(3)]
    assert [await handler for handler in handlers] == ["Ada 1"] * 3


async def test_an_unfinished_run_has_had_its_start_event() -> None:
    data = await saved(Loop(), 5, name="Ada")
    workflow = Loop()
    with pytest.raises(WorkflowRuntimeError, match="which has had its start event: leave the other arguments out"):
        workflow.run(ctx=Context.from_dict(workflow, data), name="Bob")


class Asking(Workflow):
    """Asks two questions in one step."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies = 0

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        self.bodies += 1
        first = await ctx.wait_for_event(HumanResponseEvent, waiter_event=Question("first"))
        second = await ctx.wait_for_event(HumanResponseEvent, waiter_event=Question("second"), timeout=100)
        return StopEvent(result=[first.n, second.n])


async def test_waits_that_were_answered_keep_their_answers_and_only_the_open_question_is_shown_again() -> None:
    data = await saved(Asking(), 5, HumanResponseEvent(n=1))
    workflow = Asking()
    async with workflow.run(ctx=Context.from_dict(workflow, data)) as handler:
        await anyio.sleep(1)
        handler.send_event(HumanResponseEvent(n=2))
        assert await handler == [1, 2]
        shown = [event async for event in handler.stream_events()]
    assert shown == [Question(text="second"), StopEvent(result=[1, 2])]
    assert workflow.bodies == 1


async def test_a_wait_keeps_its_deadline() -> None:
    data = await saved(Asking(), 60, HumanResponseEvent(n=1))
    workflow = Asking()
    with pytest.raises(StepFailed, match="waited 100 seconds") as failed:
        await workflow.run(ctx=Context.from_dict(workflow, data))
    assert isinstance(failed.value.__cause__, WaitTimedOut)
    assert anyio.current_time() == pytest.approx(100)


async def test_events_that_nobody_has_taken_yet_are_saved() -> None:
    class Flow(Workflow):
        @step
        async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await anyio.sleep(10)
            return StopEvent(result=[(await ctx.wait_for_event(HumanResponseEvent)).n for _ in range(2)])

    data = await saved(Flow(), 5, HumanResponseEvent(n=1), HumanResponseEvent(n=2))
    workflow = Flow()
    assert await workflow.run(ctx=Context.from_dict(workflow, data)) == [1, 2]


async def test_what_an_interrupted_attempt_had_sent_and_collected_is_not_doubled() -> None:
    class Flow(Workflow):
        @step
        async def send(self, ctx: Context, ev: StartEvent) -> Part | None:
            ctx.send_event(Part(1))
            await anyio.sleep(10)
            ctx.send_event(Part(2))
            return None

        @step
        async def gather(self, ctx: Context, ev: Part) -> StopEvent | None:
            batch = ctx.collect_events(ev, [Part, Part])
            if batch is None and ev.n == 1:
                await anyio.sleep(15)
            return None if batch is None else StopEvent(result=[part.n for part in batch])

    data = await saved(Flow(), 5)
    workflow = Flow()
    assert await workflow.run(ctx=Context.from_dict(workflow, data)) == [1, 2]


async def test_a_question_that_is_open_stays_open() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Question:
            return Question("number?")

        @step
        async def answered(self, ev: Answer) -> StopEvent:
            return StopEvent(result=ev.n)

    data = await saved(Flow(), 5)
    workflow = Flow()
    async with workflow.run(ctx=Context.from_dict(workflow, data)) as handler:
        await anyio.sleep(1000)
        handler.send_event(Answer(42))
        assert await handler == 42


async def test_a_retry_keeps_its_count_and_its_time() -> None:
    class Flow(Workflow):
        @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=100))
        async def fail(self, ctx: Context, ev: StartEvent) -> StopEvent:
            infos.append((ctx.retry_info().attempts, round(ctx.retry_info().elapsed_time)))
            raise OSError

    infos: list[tuple[int, int]] = []
    data = await saved(Flow(), 150)  # while the second retry is due at 200
    workflow = Flow()
    with pytest.raises(StepFailed) as failed:
        await workflow.run(ctx=Context.from_dict(workflow, data))
    assert infos == [(0, 0), (1, 100), (2, 200), (3, 300)]
    assert failed.value.attempts == 4
    assert anyio.current_time() == pytest.approx(300)


class Joining(Workflow):
    """A fan-out whose n-th part takes n seconds, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.worked: list[int] = []

    @step
    async def fan(self, ev: StartEvent) -> list[Part]:
        return [Part(n) for n in range(5)]

    @step(num_workers=1)
    async def work(self, ev: Part) -> Result:
        self.worked.append(ev.n)
        await anyio.sleep(ev.n)
        return Result(10 * ev.n)

    @step
    async def join(self, evs: list[Result]) -> StopEvent:
        return StopEvent(result=[ev.n for ev in evs])


@pytest.mark.parametrize(("at", "left"), [(0.5, [1, 2, 3, 4]), (2, [2, 3, 4]), (5, [3, 4]), (9.5, [4])])
async def test_joins_and_queued_work_go_on(at: float, left: list[int]) -> None:
    data = await saved(Joining(), at)
    workflow = Joining()
    assert await workflow.run(ctx=Context.from_dict(workflow, data)) == [0, 10, 20, 30, 40]
    assert workflow.worked == left


@pytest.mark.parametrize(("at", "result"), [(0.5, [0, 1]), (1.5, [0, 1])])
async def test_a_join_that_takes_the_first_goes_on(at: float, result: list[int]) -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(4)]

        @step
        async def work(self, ev: Part) -> Result:
            await anyio.sleep(ev.n)
            return Result(ev.n)

        @step
        async def first(self, evs: Annotated[list[Result], Collect(Take(2))]) -> Answer:
            return Answer(len(evs))

        @step
        async def end(self, ctx: Context, ev: Answer) -> StopEvent:
            await anyio.sleep(10)
            return StopEvent(result=ev.n)

    data = await saved(Flow(), at)
    workflow = Flow()
    assert await workflow.run(ctx=Context.from_dict(workflow, data)) == 2


async def test_half_a_batch_goes_on() -> None:
    class Flow(Workflow):
        @step
        async def gather(self, ctx: Context, ev: StartEvent | Answer) -> StopEvent | None:
            batch = ctx.collect_events(ev, [Answer, StartEvent, Answer])
            return None if batch is None else StopEvent(result=batch)

    data = await saved(Flow(), 5, Answer(1))
    workflow = Flow()
    async with workflow.run(ctx=Context.from_dict(workflow, data)) as handler:
        handler.send_event(Answer(2))
        assert await handler == [Answer(1), StartEvent(), Answer(2)]


async def test_a_stepwise_run_goes_on_stepwise() -> None:
    handler = Joining().run(stepwise=True)
    assert await handler.run_step() == [Part(n) for n in range(5)]
    data = json.loads(json.dumps(handler.ctx.to_dict()))
    await handler.cancel_run()

    workflow = Joining()
    handler = workflow.run(ctx=Context.from_dict(workflow, data))
    while produced := await handler.run_step():  # the first releases what was produced before
        for event in produced:
            handler.ctx.send_event(event)
    assert await handler == [0, 10, 20, 30, 40]
    assert workflow.worked == [0, 1, 2, 3, 4]


async def test_an_event_sent_to_a_run_before_it_goes_on_is_delivered_once() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Question:
            return Question("number?")

        @step
        async def answered(self, ev: Answer) -> StopEvent:
            answers.append(ev.n)
            await anyio.sleep(1)
            return StopEvent(result=ev.n)

    answers: list[int] = []
    data = await saved(Flow(), 5)
    workflow = Flow()
    handler = workflow.run(ctx=Context.from_dict(workflow, data))
    handler.send_event(Answer(42))
    assert await handler == 42
    assert answers == [42]


async def test_a_run_that_has_not_begun_can_not_be_saved() -> None:
    handler = Counter().run()
    with pytest.raises(WorkflowRuntimeError, match=r"to_dict\(\): this run of Counter has not begun"):
        handler.ctx.to_dict()
    await handler


async def test_saving_disturbs_nothing() -> None:
    handler = Joining().run()
    for _ in range(20):
        await anyio.sleep(0.5)
        if not handler.is_done():
            handler.ctx.to_dict()
    assert await handler == [0, 10, 20, 30, 40]
    assert anyio.current_time() == pytest.approx(10)


async def test_a_type_that_no_step_mentions_is_known_where_the_workflow_is_told_of_it() -> None:
    @attrs.frozen
    class Point:
        x: int

    class Flow(Workflow):
        @step
        async def start(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.set("at", Point(1))
            return StopEvent(result=await ctx.get("at"))

    workflow = Flow(types=[Point])
    handler = workflow.run()
    assert await handler == Point(1)
    assert await Context.from_dict(workflow, handler.ctx.to_dict()).get("at") == Point(1)

    handler = Flow().run()
    await handler
    with pytest.raises(SerializationError, match=r"Point isn't registered: write Workflow\(types=\[Point\]\)"):
        handler.ctx.to_dict()


async def test_an_event_type_that_only_a_wait_mentions_is_known() -> None:
    class Approval(Event):
        n: int

    class Flow(Workflow):
        @step
        async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.wait_for_event(Approval)).n)

    data = await saved(Flow(), 5)
    workflow = Flow()
    async with workflow.run(ctx=Context.from_dict(workflow, data)) as handler:
        handler.send_event(Approval(1))
        assert await handler == 1


# -------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"flowkit": 99}, "it was written in format 99, and this flowkit reads 1: update flowkit"),
        ({"workflow": "Other"}, "it belongs to a 'Other', not to a Loop: pass it to the workflow it came from"),
        ({"state": [1]}, r"\$\.state: the state is a list, and this workflow's is a dict"),
        ({"run": {}}, "the run's books don't fit this workflow"),
        ({"run": 5}, "the run's books don't fit this workflow"),
        ({"flowkit": None}, "this is no context"),
    ],
)
async def test_damaged_data_is_refused(change: dict[str, Any], text: str) -> None:
    data = await saved(Loop(), 5, name="Ada")
    with pytest.raises(SerializationError, match=text):
        Context.from_dict(Loop(), data | change)


async def test_a_step_that_is_gone_is_named() -> None:
    data = await saved(Loop(), 5, name="Ada")
    text = json.dumps(data).replace('"slow"', '"fast"')
    with pytest.raises(SerializationError, match="it has work for a step 'fast', and Loop has only begin, slow"):
        Context.from_dict(Loop(), json.loads(text))


async def test_what_can_not_come_back_is_named_with_its_path() -> None:
    class Flow(Workflow):
        @step
        async def keep(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.set("deep", {"list": [1, lambda: None]})
            await anyio.sleep(10)
            return StopEvent()

    handler = Flow().run()
    await anyio.sleep(1)
    with pytest.raises(SerializationError, match=r"^\$\.deep\.list\[1\]: a function can't be stored"):
        handler.ctx.to_dict()
    await handler


# --------------------------------------------------------------------------------------- WorkflowCheckpointer


class Jokes(Workflow):
    @step
    async def write(self, ctx: Context, ev: StartEvent) -> Part:
        await ctx.set("topic", ev.topic)
        return Part(len(ev.topic))

    @step
    async def rate(self, ctx: Context, ev: Part) -> Result:
        written.append(ev.n)
        return Result(ev.n * 2)

    @step
    async def end(self, ctx: Context, ev: Result) -> StopEvent:
        return StopEvent(result=(await ctx.get("topic"), ev.n))


written: list[int] = []


@pytest.fixture(autouse=True)
def nothing_written() -> None:
    written.clear()


async def checkpointed(**options: Any) -> tuple[WorkflowCheckpointer, list[Checkpoint]]:
    checkpointer = WorkflowCheckpointer(workflow=Jokes(), **options)
    handler = checkpointer.run(topic="cats")
    assert await handler == ("cats", 8)
    return checkpointer, checkpointer.checkpoints[handler.run_id]


async def test_a_checkpoint_is_kept_after_each_step() -> None:
    checkpointer, kept = await checkpointed()
    assert [(one.last_completed_step, one.input_event, one.output_event) for one in kept] == [
        ("write", StartEvent(topic="cats"), Part(4)),
        ("rate", Part(4), Result(8)),
        ("end", Result(8), StopEvent(result=("cats", 8))),
    ]
    assert len({one.id_ for one in kept}) == 3
    assert len(checkpointer.checkpoints) == 1


async def test_a_run_goes_on_after_a_checkpoint_with_an_id_of_its_own() -> None:
    checkpointer, (first, second, _) = await checkpointed()
    for checkpoint, again in ((first, [4]), (second, [])):
        written.clear()
        handler = checkpointer.run_from(checkpoint)
        assert await handler == ("cats", 8)
        assert written == again
        steps = [one.last_completed_step for one in checkpointer.checkpoints[handler.run_id]]
        assert steps == ["rate", "end"][-len(steps) :]
    assert len(checkpointer.checkpoints) == 3


async def test_a_run_from_the_last_checkpoint_has_its_result_at_once() -> None:
    checkpointer, (*_, last) = await checkpointed()
    assert await checkpointer.run_from(last) == ("cats", 8)


async def test_checkpoints_of_a_run_that_went_on_can_be_gone_on_from() -> None:
    checkpointer, (first, *_) = await checkpointed()
    handler = checkpointer.run_from(first)
    await handler
    second = checkpointer.checkpoints[handler.run_id][0]
    assert await checkpointer.run_from(second) == ("cats", 8)


async def test_arguments_that_can_not_matter_any_more_warn() -> None:
    checkpointer, (first, *_) = await checkpointed()
    with pytest.warns(UserWarning, match="run_from.. ignores topic: the start event was consumed"):
        handler = checkpointer.run_from(topic="ships", checkpoint=first)
    assert await handler == ("cats", 8)


async def test_a_checkpoints_context_is_one_that_from_dict_takes() -> None:
    _, (first, *_) = await checkpointed()
    workflow = Jokes()
    ctx = Context.from_dict(workflow, json.loads(json.dumps(first.ctx_state)))
    assert await ctx.get("topic") == "cats"
    assert await workflow.run(ctx=ctx) == ("cats", 8)


async def test_a_checkpoint_is_a_copy_of_the_state_as_it_was() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Part:
            await ctx.set("list", [1])
            return Part(1)

        @step
        async def second(self, ctx: Context, ev: Part) -> StopEvent:
            shared = await ctx.get("list")
            shared.append(2)
            await ctx.set("list", shared)
            return StopEvent(result=shared)

    checkpointer = WorkflowCheckpointer(Flow())
    handler = checkpointer.run()
    assert await handler == [1, 2]
    first, _ = checkpointer.checkpoints[handler.run_id]
    assert await checkpointer.run_from(first) == [1, 2]
    assert await checkpointer.run_from(first) == [1, 2]


async def test_steps_can_be_left_out() -> None:
    checkpointer, kept = await checkpointed(disabled_steps=["rate"])
    assert [one.last_completed_step for one in kept] == ["write", "end"]
    assert checkpointer.disabled_steps == {"rate"}
    assert checkpointer.enabled_steps == {"write", "end"}
    checkpointer.enable_checkpoint("rate")
    checkpointer.disable_checkpoint("end")
    handler = checkpointer.run(topic="dogs")
    await handler
    steps = [one.last_completed_step for one in checkpointer.checkpoints[handler.run_id]]
    assert steps == ["write", "rate"]
    with pytest.raises(WorkflowRuntimeError, match="Jokes has no step 'wrte'; it has end, rate, write"):
        checkpointer.disable_checkpoint("wrte")


async def test_checkpoints_can_be_filtered() -> None:
    checkpointer, kept = await checkpointed()
    handler = checkpointer.run(topic="dogs")
    await handler
    mine = checkpointer.checkpoints[handler.run_id]
    write, rate, end = mine
    find = checkpointer.filter_checkpoints
    assert find(run_id=handler.run_id) == mine
    assert find(last_completed_step="rate") == [kept[1], rate]
    assert find(input_event_type=Part, run_id=handler.run_id) == [rate]
    assert find(output_event_type=StopEvent, run_id=handler.run_id) == [end]
    assert find(output_event_type=Event, input_event_type=StartEvent, run_id=handler.run_id) == [write]
    assert find(last_completed_step="rate", output_event_type=StopEvent) == []
    with pytest.raises(WorkflowRuntimeError, match="at least one condition"):
        find()
    with pytest.raises(WorkflowRuntimeError, match="no checkpoints of a run 'x'"):
        find(run_id="x")


async def test_a_run_can_be_given_its_id_and_a_context() -> None:
    checkpointer = WorkflowCheckpointer(Counter())
    handler = checkpointer.run(run_id="one")
    await handler
    assert await checkpointer.run(ctx=handler.ctx, run_id="two") == 2
    assert list(checkpointer.checkpoints) == ["one", "two"]


async def test_fan_outs_waits_and_retries_are_checkpointed_too() -> None:
    class Flow(Joining):
        @step(num_workers=1, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=1))
        async def work(self, ctx: Context, ev: Part) -> Result:
            if ev.n == 2 and not ctx.retry_info().attempts:
                raise OSError
            if ev.n == 3:
                await ctx.wait_for_event(HumanResponseEvent)
            return await super().work(ev)

    checkpointer = WorkflowCheckpointer(Flow())
    async with checkpointer.run() as handler:
        handler.send_event(HumanResponseEvent())
        assert await handler == [0, 10, 20, 30, 40]
    kept = checkpointer.checkpoints[handler.run_id]
    assert [one.last_completed_step for one in kept] == ["fan", *["work"] * 5, "join"]
    assert checkpointer.filter_checkpoints(output_event_type=Part) == [kept[0]]
    for checkpoint in kept:  # the answer had come, or is kept in it
        assert await checkpointer.run_from(checkpoint) == [0, 10, 20, 30, 40]


async def test_a_failing_run_keeps_the_checkpoints_it_had() -> None:
    class Flow(Jokes):
        @step
        async def rate(self, ctx: Context, ev: Part) -> Result:
            if not broken:
                return Result(1)
            raise OSError

    broken = [True]
    checkpointer = WorkflowCheckpointer(Flow())
    handler = checkpointer.run(topic="cats")
    with pytest.raises(StepFailed):
        await handler
    (first,) = checkpointer.checkpoints[handler.run_id]
    broken.clear()
    assert await checkpointer.run_from(first) == ("cats", 1)


async def test_a_workflow_can_be_told_of_its_checkpoints_by_a_callback() -> None:
    workflow = Jokes()
    checkpointer = WorkflowCheckpointer(workflow)
    callback = checkpointer.new_checkpoint_callback_for_run("mine")
    assert await workflow.run_kept(callback, run_id="mine", topic="cats") == ("cats", 8)
    assert [one.last_completed_step for one in checkpointer.checkpoints["mine"]] == ["write", "rate", "end"]
