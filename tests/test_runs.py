"""A run: three ways to own it, how it ends, and that nothing of it survives its end."""

import asyncio
import gc
import logging
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from loops import loop

from flowkit import (
    CleanupFailedWarning,
    Context,
    ContextInUse,
    Event,
    EventError,
    Handler,
    MisdirectedEvent,
    NoEventLoop,
    RunFinished,
    StartEvent,
    StepFailed,
    StopEvent,
    UnhandledEventWarning,
    Workflow,
    WorkflowCancelled,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WorkflowStalled,
    WorkflowTimeoutError,
    WorkflowValidationError,
    step,
)


class Part(Event):
    n: int = 0


class Sleeper(Workflow):
    """Sleeps, and notes when its clean-up ended: after ``cleanup`` seconds that nothing cuts short."""

    def __init__(self, seconds: float = 100, cleanup: float = 0, **options: Any) -> None:
        super().__init__(**options)
        self.seconds, self.cleanup = seconds, cleanup
        self.began: list[float] = []
        self.ended: list[float] = []

    @step
    async def sleep(self, ev: StartEvent) -> StopEvent:
        self.began.append(anyio.current_time())
        try:
            await anyio.sleep(self.seconds)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(self.cleanup)
            self.ended.append(anyio.current_time())
        return StopEvent(result=ev.get("result", "slept"))


class Failing(Workflow):
    @step
    async def fail(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(1)
        raise ev.get("error") or ValueError("no")


# ----------------------------------------------------------------------------------------- three ways to own


async def awaited(workflow: Workflow, **fields: Any) -> Any:
    return await workflow.run(**fields)


async def in_a_block(workflow: Workflow, **fields: Any) -> Any:
    async with workflow.run(**fields) as handler:
        return await handler


async def left_by_the_block(workflow: Workflow, **fields: Any) -> Any:
    async with workflow.run(**fields) as handler:
        pass
    return handler.result()


async def in_the_background(workflow: Workflow, **fields: Any) -> Any:
    handler = workflow.run(**fields)
    await anyio.sleep(0.5)
    return await handler


WAYS = [awaited, in_a_block, left_by_the_block, in_the_background]


@pytest.mark.parametrize("own", WAYS)
async def test_however_it_is_owned_a_run_gives_its_result(own: Any) -> None:
    workflow = Sleeper(10)
    assert await own(workflow, result=7) == 7
    assert workflow.ended == [pytest.approx(10)]


@pytest.mark.parametrize("own", WAYS)
async def test_however_it_is_owned_a_failure_is_a_step_failed_with_its_cause(own: Any) -> None:
    with pytest.raises(StepFailed, match=r"^Error in step 'fail': ValueError: no$") as failed:
        await own(Failing())
    assert failed.value.step == "fail"
    assert failed.value.event == StartEvent()
    assert failed.value.attempts == 1
    assert failed.value.others == ()
    assert isinstance(failed.value.__cause__, ValueError)


@pytest.mark.parametrize("own", WAYS)
async def test_however_it_is_owned_cancelling_the_owner_waits_for_the_clean_up(own: Any) -> None:
    workflow = Sleeper(cleanup=20)
    with anyio.move_on_after(5) as scope:
        await own(workflow)
    assert scope.cancelled_caught
    assert workflow.ended == [pytest.approx(25)]
    assert anyio.current_time() == pytest.approx(25)


@pytest.mark.parametrize("own", WAYS)
async def test_however_it_is_owned_a_timeout_names_the_active_steps(own: Any) -> None:
    workflow = Sleeper(timeout=5, cleanup=20)
    with pytest.raises(WorkflowTimeoutError, match="Sleeper timed out after 5 seconds; active: sleep") as late:
        await own(workflow)
    assert isinstance(late.value, TimeoutError)
    assert late.value.active_steps == ("sleep",)
    assert workflow.ended == [pytest.approx(25)]


async def test_a_block_that_is_left_by_an_error_cancels_its_run_and_raises_that_error() -> None:
    workflow = Sleeper()
    with pytest.raises(KeyError, match="mine"):
        async with workflow.run():
            await anyio.sleep(3)
            raise KeyError("mine")
    assert workflow.ended == [pytest.approx(3)]


async def test_a_block_raises_the_failure_that_nobody_awaited() -> None:
    with pytest.raises(StepFailed):
        async with Failing().run():
            await anyio.sleep(3)


async def test_a_block_can_not_be_entered_after_its_run_has_begun() -> None:
    handler = Sleeper(1).run()
    await anyio.sleep(0.5)
    with pytest.raises(WorkflowRuntimeError, match="in one go"):
        async with handler:
            pass
    assert await handler == "slept"


async def test_two_tasks_can_await_one_run() -> None:
    handler, got = Sleeper(10).run(), list[str]()

    async def wait() -> None:
        got.append(await handler)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        tasks.start_soon(wait)
    assert got == ["slept"] * 2
    assert await handler == "slept"
    assert anyio.current_time() == pytest.approx(10)


async def test_cancelling_one_of_two_awaiters_cancels_the_run_for_both() -> None:
    handler, errors = Sleeper().run(), list[BaseException]()

    async def wait() -> None:
        try:
            await handler
        except WorkflowCancelled as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(1)
        with anyio.move_on_after(1):
            await handler
    assert [str(error) for error in errors] == ["Sleeper was cancelled: the task that awaited it was cancelled."]


async def test_a_failure_is_raised_each_time_the_run_is_awaited() -> None:
    handler = Failing().run()
    for _ in range(3):
        with pytest.raises(StepFailed):
            await handler
    assert isinstance(handler.exception(), StepFailed)
    with pytest.raises(StepFailed):
        handler.result()


async def test_a_handler_says_how_far_its_run_is() -> None:
    handler = Sleeper(10).run()
    await anyio.sleep(1)
    assert not handler.is_done()
    assert repr(handler).endswith(": running>")
    with pytest.raises(WorkflowRuntimeError, match="has not ended"):
        handler.result()
    with pytest.raises(WorkflowRuntimeError, match="has not ended"):
        handler.exception()
    await handler
    assert handler.is_done()
    assert handler.done()
    assert handler.exception() is None
    assert handler.result() == "slept"
    assert repr(handler).endswith(": done>")


# ------------------------------------------------------------------------------------------------------ ends


async def test_cancel_run_cancels_at_once_and_awaiting_it_waits_for_the_clean_up() -> None:
    workflow = Sleeper(cleanup=20)
    handler = workflow.run()
    await anyio.sleep(1)
    await handler.cancel_run()
    assert anyio.current_time() == pytest.approx(21)
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    await handler.cancel_run()  # does nothing any more


async def test_cancel_run_before_the_run_has_begun() -> None:
    workflow = Sleeper()
    handler = workflow.run()
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert workflow.began == []


async def test_a_step_can_cancel_its_own_run() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> StopEvent:
            handlers[0].cancel_run()
            await anyio.sleep(100)
            return StopEvent()

    handlers = [Flow().run()]
    with pytest.raises(WorkflowCancelledByUser):
        await handlers[0]
    assert anyio.current_time() < 1


async def test_the_first_stop_event_ends_the_run_and_cancels_the_rest() -> None:
    class Flow(Workflow):
        @step
        async def quick(self, ev: StartEvent) -> StopEvent:
            await anyio.sleep(1)
            return StopEvent(result="quick")

        @step
        async def slow(self, ev: StartEvent) -> StopEvent:
            with pytest.raises(anyio.get_cancelled_exc_class()):
                await anyio.sleep(100)
            raise OSError("clean-up")

    with pytest.warns(CleanupFailedWarning, match="clean-up"):
        assert await Flow().run() == "quick"
    assert anyio.current_time() == pytest.approx(1)


async def test_failures_of_siblings_and_of_clean_up_are_kept_in_others() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(3)]

        @step
        async def work(self, ev: Part) -> StopEvent:
            try:
                await anyio.sleep(1 if ev.n == 1 else 100)
            finally:
                raise ValueError(f"part {ev.n}")

    with pytest.raises(StepFailed, match="ValueError: part 1") as failed:
        await Flow().run()
    assert sorted(str(other) for other in failed.value.others) == ["part 0", "part 2"]
    assert "also failed" in str(failed.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("own", [awaited, in_a_block, in_the_background])
async def test_what_ends_a_program_reaches_the_caller_as_it_is(own: Any, error: type[BaseException]) -> None:
    with pytest.raises(error):
        await own(Failing(), error=error())


async def test_a_cancellation_error_that_escapes_a_step_fails_the_run() -> None:
    class Flow(Workflow):
        @step
        async def leak(self, ev: StartEvent) -> StopEvent:
            with anyio.CancelScope() as scope:
                scope.cancel()
                try:
                    await anyio.sleep(1)
                except anyio.get_cancelled_exc_class() as error:
                    cancelled = error
            raise cancelled

    with pytest.raises(StepFailed, match="a cancellation error escaped the step") as failed:
        await Flow().run()
    assert failed.value.__cause__ is not None
    assert isinstance(failed.value.__cause__.__cause__, anyio.get_cancelled_exc_class())


async def test_a_step_may_cancel_scopes_of_its_own() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            with anyio.move_on_after(1):
                await anyio.sleep_forever()
            return StopEvent(result=anyio.current_time())

    assert await Flow().run() == pytest.approx(1)


async def test_run_takes_a_timeout_of_its_own() -> None:
    with pytest.raises(WorkflowTimeoutError):
        await Sleeper(timeout=60).run(timeout=1)
    assert await Sleeper(10, timeout=1).run(timeout=None) == "slept"
    with pytest.raises(WorkflowValidationError, match="Sleeper has timeout=0"):
        Sleeper().run(timeout=0)


async def test_a_step_has_a_timeout_for_each_attempt() -> None:
    class Flow(Workflow):
        @step(timeout=5)
        async def work(self, ev: StartEvent) -> StopEvent:
            await anyio.sleep(100)
            return StopEvent()

    with pytest.raises(StepFailed, match="'work' took longer than its timeout of 5 seconds") as failed:
        await Flow().run()
    assert isinstance(failed.value.__cause__, TimeoutError)
    assert anyio.current_time() == pytest.approx(5)


# ---------------------------------------------------------------------------- runs whose owner has gone away


async def test_asyncio_wait_for_cancels_the_run(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own function")
    workflow = Sleeper(cleanup=20)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(workflow.run(), 5)  # type: ignore[arg-type]
    assert workflow.ended == [pytest.approx(25)]


async def test_a_dropped_handle_cancels_its_run() -> None:
    workflow = Sleeper(cleanup=20)
    handler = workflow.run()
    await anyio.sleep(1)
    with pytest.warns(ResourceWarning, match="the handle of a run of Sleeper was dropped"):
        del handler
    await anyio.sleep(30)
    assert workflow.ended == [pytest.approx(21)]


async def test_a_handle_dropped_at_once_never_begins() -> None:
    workflow = Sleeper()
    with pytest.warns(ResourceWarning, match="was never begun"):
        workflow.run()
    await anyio.sleep(1)
    assert workflow.began == []


async def test_reading_the_stream_keeps_a_run_alive() -> None:
    events = [event async for event in Sleeper(10).run().stream_events()]
    assert events == [StopEvent(result="slept")]


@pytest.mark.filterwarnings("ignore:.*was dropped:ResourceWarning")
def test_a_run_is_cleaned_up_when_its_event_loop_ends(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.importorskip("trio")
    workflow, kept = Sleeper(), list[Handler]()

    async def main() -> None:
        kept.append(workflow.run())
        await anyio.sleep(1)

    # Not watched: it leaves a task behind on purpose.
    loop(anyio_backend_name, main)
    assert workflow.ended == [pytest.approx(1)]
    assert kept[0].is_done()
    assert isinstance(kept[0].exception(), WorkflowCancelled)
    with pytest.warns(ResourceWarning, match="event loop ended"):
        kept.clear()


async def test_a_failed_run_that_nobody_awaited_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    handler = Failing().run()
    await anyio.sleep(2)
    with caplog.at_level(logging.ERROR, "flowkit"):
        del handler
        gc.collect()
    (record,) = caplog.records
    assert record.getMessage() == "a run of Failing failed and nobody awaited it"
    assert record.exc_info is not None


async def test_a_failed_run_that_somebody_looked_at_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    handler = Failing().run()
    await anyio.sleep(2)
    handler.exception()
    del handler
    gc.collect()
    assert caplog.records == []


# -------------------------------------------------------------------------- what a run takes from its caller

topic: ContextVar[str] = ContextVar("topic", default="none")


class TopicFlow(Workflow):
    @step
    async def read(self, ev: StartEvent) -> Part:
        return Part()

    @step
    async def read_again(self, ev: Part) -> StopEvent:
        return StopEvent(result=topic.get())


@pytest.mark.parametrize("own", WAYS)
async def test_a_run_inherits_context_variables(own: Any) -> None:
    topic.set("pirates")
    assert await own(TopicFlow()) == "pirates"


async def test_a_background_run_keeps_the_context_variables_it_was_started_with() -> None:
    topic.set("pirates")
    handler = TopicFlow().run()
    topic.set("robots")
    await anyio.sleep(1)
    assert await handler == "pirates"


async def test_a_background_run_keeps_the_deadline_it_was_started_under() -> None:
    workflow = Sleeper()
    with anyio.fail_after(5):
        handler = workflow.run()
        await anyio.sleep(1)
    with pytest.raises(WorkflowCancelled, match="the deadline of the scope it was started in has passed"):
        await handler
    assert workflow.ended == [pytest.approx(5)]


# --------------------------------------------------------------------------------- several runs, one context


async def test_further_runs_wait_their_turn_and_waiting_uses_up_no_timeout() -> None:
    workflow = Sleeper(10, num_concurrent_runs=2, timeout=15)
    handlers = [workflow.run(result=n) for n in range(5)]
    assert [await handler for handler in handlers] == list(range(5))
    assert workflow.began == [pytest.approx(n) for n in (0, 0, 10, 10, 20)]


async def test_a_run_that_waits_its_turn_can_be_cancelled_at_once() -> None:
    workflow = Sleeper(10, num_concurrent_runs=1)
    first = workflow.run()
    await anyio.sleep(1)
    second, third = workflow.run(), workflow.run()
    await anyio.sleep(1)
    await second.cancel_run()
    assert anyio.current_time() == pytest.approx(2)
    with pytest.raises(WorkflowCancelledByUser):
        await second
    await first
    await third
    assert workflow.began == [pytest.approx(0), pytest.approx(10)]


async def test_the_callers_deadline_also_counts_while_a_run_waits_its_turn() -> None:
    workflow = Sleeper(10, num_concurrent_runs=1)
    first = workflow.run()
    await anyio.sleep(1)
    with anyio.fail_after(3):
        second = workflow.run()
        await anyio.sleep(1)
    with pytest.raises(WorkflowCancelled, match="the deadline of the scope it was started in has passed"):
        await second
    assert anyio.current_time() == pytest.approx(4)
    await first


class Counter(Workflow):
    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        n = await ctx.get("n", default=0) + 1
        await anyio.sleep(1)
        await ctx.set("n", n)
        return StopEvent(result=n)


async def test_a_run_goes_on_from_the_state_of_another() -> None:
    workflow = Counter()
    handler = workflow.run()
    assert await handler == 1
    handler = workflow.run(ctx=handler.ctx)
    assert await handler == 2
    assert await handler.ctx.get("n") == 2
    assert await workflow.run() == 1  # state does not leak between runs


async def test_a_context_drives_one_run_at_a_time() -> None:
    workflow = Counter()
    first = workflow.run()
    with pytest.raises(ContextInUse):
        workflow.run(ctx=first.ctx)
    await first
    second = workflow.run(ctx=first.ctx)
    with pytest.raises(ContextInUse):
        workflow.run(ctx=first.ctx)
    assert await second == 2


# -------------------------------------------------------------------------------------- starting and sending


async def test_a_run_takes_fields_or_a_start_event_but_not_both() -> None:
    class Begin(StartEvent):
        n: int

    class Flow(Workflow):
        @step
        async def begin(self, ev: Begin) -> StopEvent:
            return StopEvent(result=ev.n)

    assert await Flow().run(n=1) == await Flow().run(start_event=Begin(1)) == 1
    with pytest.raises(WorkflowRuntimeError, match="got start_event and the fields n"):
        Flow().run(start_event=Begin(1), n=1)
    with pytest.raises(WorkflowRuntimeError, match="takes a Begin as start_event"):
        Flow().run(start_event=StartEvent())
    with pytest.raises(EventError, match=r"Flow\.run\(\): Begin has no field 'm'"):
        Flow().run(m=1)


def test_a_run_needs_an_event_loop() -> None:
    with pytest.raises(NoEventLoop, match="needs a running event loop"):
        Counter().run()


async def test_sending_to_a_finished_run_is_an_error() -> None:
    handler = Counter().run()
    await handler
    for send in (handler.send_event, handler.ctx.send_event, handler.ctx.write_event_to_stream):
        with pytest.raises(RunFinished, match="this run of Counter has ended"):
            send(Part())


async def test_sending_to_a_step_that_can_not_take_the_event_fails_at_the_call() -> None:
    async with Sleeper(1).run() as handler:
        with pytest.raises(MisdirectedEvent, match="Sleeper has no step 'sleeep' to send Part to; it has 'sleep'"):
            handler.send_event(Part(), step="sleeep")
        with pytest.raises(MisdirectedEvent, match=r"Sleeper\.sleep takes StartEvent, not Part\."):
            handler.send_event(Part(), step="sleep")


class Pair(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> None: ...

    @step
    async def pair(self, ctx: Context, ev: Part) -> StopEvent | None:
        batch = ctx.collect_events(ev, [Part, Part])
        return None if batch is None else StopEvent(result=[part.n for part in batch])


async def test_a_workflow_that_is_driven_from_outside_waits_instead_of_stalling() -> None:
    async with Pair(stalled="wait").run() as handler:
        for n in (1, 2):
            await anyio.sleep(1000)
            handler.send_event(Part(n))
        assert await handler == [1, 2]


async def test_a_stalled_run_says_what_each_step_has_and_needs() -> None:
    class Flow(Pair):
        @step
        async def make(self, ev: StartEvent) -> Part:
            await anyio.sleep(1)
            return Part(1)

    with pytest.raises(WorkflowStalled, match="step 'pair' has collected 1 Part and still needs 1 Part") as stalled:
        await Flow(timeout=60).run()
    assert len(stalled.value.waiting) == 1
    assert anyio.current_time() == pytest.approx(1)


async def test_an_event_that_nobody_took_is_named_when_the_run_ends() -> None:
    class Lost(Event):
        pass

    async with Sleeper(1).run() as handler:
        handler.send_event(Lost())
        with pytest.warns(UnhandledEventWarning, match=r"Sleeper ended, but Lost sent by send_event\(\) from outside"):
            await handler
