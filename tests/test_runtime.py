"""`open_runtime`: runs by their id, from their start to their end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
from stored_flows import (
    Approved,
    Ask,
    Broken,
    Charged,
    Order,
    Patient,
    Placed,
    Question,
    Slow,
    Unstorable,
    WaitsForApproval,
    the_logs_errors,
    wall_clock,
)

from flowkit import (
    Context,
    Handler,
    HumanResponseEvent,
    InputRequiredEvent,
    MisdirectedEvent,
    RunFinished,
    SerializationError,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowTimeoutError,
    step,
)
from flowkit.memory_store import MemoryStore
from flowkit.runtime import Runtime, open_runtime
from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import RunSuspended, UnexpectedEvent, UnknownRun, WrongWorkflow
from flowkit.store import RunInfo, Store

__all__ = ["wall_clock"]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "runs.db")
    yield store
    store.close()


async def status(runtime: Runtime, run_id: str) -> str:
    return next(one.status for one in await runtime.runs() if one.run_id == run_id)


# ---------------------------------------------------------------------------------------------------------- run


async def test_a_run_has_its_result_and_is_in_the_store(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Order()]) as runtime:
        handler = await runtime.run("Order", run_id="order-1", item="pen")
        assert handler.run_id == "order-1"
        assert await status(runtime, "order-1") == "running"
        assert await handler == "pen for pen"
        assert await status(runtime, "order-1") == "finished"


async def test_the_same_id_is_the_same_run_while_it_is_under_way(store: Store) -> None:
    workflow = Order()
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        first = await runtime.run(workflow, run_id="a", item="pen")
        again = await runtime.run(workflow, run_id="a", item="pen")
        assert await first == await again == "pen for pen"
        assert await (await runtime.run(workflow, run_id="a", item="pen")) == "pen for pen"
        assert await (await runtime.run(workflow, run_id="a")) == "pen for pen"
    assert workflow.done == ["charge", "ship"]


async def test_an_id_given_by_many_at_once_is_one_run(store: Store) -> None:
    workflow = Order()
    results: list[str] = []

    async def order() -> None:
        results.append(await (await runtime.run(workflow, run_id="a", item="pen")))

    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(order)
    assert results == ["pen for pen"] * 20
    assert workflow.done == ["charge", "ship"]


async def test_an_id_of_an_earlier_runtime_gives_its_result_and_runs_nothing(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Order()]) as runtime:
        await (await runtime.run("Order", run_id="a", item="pen"))
    workflow = Order()
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        handler = await runtime.run(workflow, run_id="a", item="pen")
        assert await handler == "pen for pen"
        assert [type(event).__name__ async for event in handler.stream_events()] == []
    assert workflow.done == []


async def test_other_fields_for_an_id_that_is_there_are_ignored_with_a_warning(store: Store) -> None:
    text = "run 'a' of Order is in its store already, so what it was to start with now is ignored"
    async with open_runtime(store=store, workflows=[Order()]) as runtime:
        first = await runtime.run("Order", run_id="a", item="pen")
        with pytest.warns(UserWarning, match=text):
            assert await (await runtime.run("Order", run_id="a", item="car")) == "pen for pen"
        assert await first == "pen for pen"
        with pytest.warns(UserWarning, match=text):
            assert await (await runtime.run("Order", run_id="a", item="car")) == "pen for pen"


async def test_an_id_of_another_workflow_is_refused(store: Store) -> None:
    text = "run 'a' belongs to Ask, not to Order: give this run another run_id, or run it with Ask"
    async with open_runtime(store=store, workflows=[Order(), Ask()]) as runtime:
        handler = await runtime.run("Ask", run_id="a")
        with pytest.raises(WrongWorkflow, match=text):
            await runtime.run("Order", run_id="a", item="pen")
        await runtime.send_event("a", HumanResponseEvent(response=1))
        await handler
        with pytest.raises(WrongWorkflow, match=text):
            await runtime.run("Order", run_id="a", item="pen")


async def test_a_run_without_an_id_gets_one_of_its_own(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Order()]) as runtime:
        handlers = [await runtime.run("Order") for _ in range(3)]
        assert len({one.run_id for one in handlers}) == 3
        await runtime.join()
        assert {one.run_id for one in await runtime.runs(status="finished")} == {one.run_id for one in handlers}


async def test_a_start_event_and_a_timeout_can_be_given() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Order(), Slow()]) as runtime:
        assert await (await runtime.run("Order", start_event=Placed("pen"))) == "pen for pen"
        slow = await runtime.run("Slow", run_id="slow", timeout=5)
        with pytest.raises(WorkflowTimeoutError, match=r"Slow timed out after 5 seconds; active: work\."):
            await slow
        assert await status(runtime, "slow") == "failed"


async def test_a_run_that_failed_is_failed_in_the_store_and_fails_again_for_whoever_asks(store: Store) -> None:
    text = "Error in step 'work': ValueError: no such customer"
    async with open_runtime(store=store, workflows=[Broken()]) as runtime:
        handler = await runtime.run("Broken", run_id="a")
        with pytest.raises(StepFailed, match=text):
            await handler
        assert await status(runtime, "a") == "failed"
        with pytest.raises(StepFailed, match=text):
            await runtime.handler("a")
    async with open_runtime(store=store, workflows=[Broken()]) as runtime:
        with pytest.raises(StepFailed, match=text) as failed:
            await (await runtime.run("Broken", run_id="a"))
        assert isinstance(failed.value.__cause__, ValueError)
        assert (failed.value.step, failed.value.attempts) == ("work", 1)


# ------------------------------------------------------------------------------------------------- runs, handlers


async def test_runs_are_listed_by_status_workflow_and_number_the_latest_first(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Order(), Ask(), Slow(), Broken()]) as runtime:
        for n in range(3):
            await anyio.sleep(1)
            await (await runtime.run("Order", run_id=f"order-{n}"))
        ask = await runtime.run("Ask", run_id="ask")
        slow = await runtime.run("Slow", run_id="slow")
        broken = await runtime.run("Broken", run_id="broken")
        await anyio.sleep(1)
        with pytest.raises(StepFailed):
            await broken

        async def ids(**conditions: Any) -> list[str]:
            return [one.run_id for one in await runtime.runs(**conditions)]

        assert await ids() == ["broken", "slow", "ask", "order-2", "order-1", "order-0"]
        assert await ids(limit=2) == ["broken", "slow"]
        assert await ids(limit=0) == []
        assert await ids(status="finished") == ["order-2", "order-1", "order-0"]
        assert await ids(status="finished", limit=1) == ["order-2"]
        assert await ids(status="waiting") == ["ask"]
        assert await ids(status="running") == ["slow"]
        assert await ids(status="failed") == ["broken"]
        assert await ids(status="cancelled") == []
        assert await ids(workflow="Order") == await ids(workflow=Order()) == ["order-2", "order-1", "order-0"]
        assert await ids(workflow="Ask", status="finished") == []
        await runtime.cancel("slow")
        assert await ids(status="cancelled") == ["slow"]
        assert (ask.is_done(), slow.is_done()) == (False, True)


async def test_what_is_known_of_a_run() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Order()]) as runtime:
        await anyio.sleep(5)
        handler = await runtime.run("Order", run_id="a")
        (info,) = await runtime.runs()
        assert (info.workflow, info.status, info.parent, info.due) == ("Order", "running", None, None)
        assert info.owner is not None
        await handler
        (after,) = await runtime.runs()
        assert after.created == info.created
        assert after.updated == pytest.approx(info.created + 2)
        assert after.owner is None


async def test_a_handler_of_a_run_in_memory_is_a_handle_to_that_run() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Ask()]) as runtime:
        first = await runtime.run("Ask", run_id="a")
        assert runtime.handler("a") is first
        del first
        await anyio.sleep(1)
        handler = runtime.handler("a")
        handler.send_event(HumanResponseEvent(response=7))
        assert await handler == 7
        ended = runtime.handler("a")
        assert await ended == 7
        assert ended.is_done()


async def test_a_handler_of_an_unknown_run() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Order()]) as runtime:
        await (await runtime.run("Order", run_id="order-41"))
        with pytest.raises(UnknownRun, match=r"the store has no run 'order-42': did you mean 'order-41'\?") as unknown:
            runtime.handler("order-42")
        assert isinstance(unknown.value, KeyError)
        for call in (runtime.cancel, runtime.history):
            with pytest.raises(UnknownRun, match=r"did you mean 'order-41'\?"):
                await call("order-42")
        with pytest.raises(UnknownRun, match=r"did you mean 'order-41'\?"):
            await runtime.send_event("order-42", Charged("pen"))
        with pytest.raises(UnknownRun, match=r"has no run 'x': await runtime.runs\(\) lists those it has"):
            await runtime.fork("x", after="charge")


async def test_a_run_that_is_deleted_before_it_is_read() -> None:
    store = MemoryStore()
    async with open_runtime(store=store, workflows=[Ask(), Order()]) as runtime:
        await (await runtime.run("Order", run_id="a"))
        handler = runtime.handler("a")
        assert store.delete(["a"]) == 1
        with pytest.raises(UnknownRun, match="the store has no run 'a'"):
            await handler
        assert store.find() == []


async def test_a_handle_that_is_dropped_leaves_the_run_alone(caplog: pytest.LogCaptureFixture) -> None:
    workflow = Order()
    with the_logs_errors(caplog) as told:
        async with open_runtime(store=MemoryStore(), workflows=[workflow]) as runtime:
            await runtime.run(workflow, run_id="a")
            await anyio.sleep(10)
            assert await runtime.handler("a") == "book for book"
    assert workflow.done == ["charge", "ship"]
    assert told == []


async def test_a_run_that_failed_before_and_is_only_looked_at_is_reported_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_runtime(store=store, workflows=[Broken()]) as runtime:
        with pytest.raises(StepFailed):
            await (await runtime.run("Broken", run_id="a"))
        with the_logs_errors(caplog) as told:
            handler = runtime.handler("a")
            await anyio.sleep(1)
            assert handler.is_done()
            del handler
            runtime.handler("a")  # dropped at once
            await anyio.sleep(1)
            runtime.handler("a")
            store.delete(["a"])
            await anyio.sleep(1)
        assert told == []


async def test_awaiting_a_handler_can_be_cancelled_and_the_run_goes_on() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Slow()]) as runtime:
        handler = await runtime.run("Slow", run_id="a")
        with anyio.move_on_after(5) as scope:
            await handler
        assert scope.cancelled_caught
        assert not handler.is_done()
        assert await handler == "slept"


async def test_a_run_outlives_the_scope_it_was_started_in() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Slow()]) as runtime:
        with anyio.move_on_after(5):
            handler = await runtime.run("Slow")
            await anyio.sleep_forever()
        assert await handler == "slept"


async def test_two_await_one_run() -> None:
    results: list[str] = []

    async def wait(handler: Handler) -> None:
        results.append(await handler)

    async with open_runtime(store=MemoryStore(), workflows=[Slow()]) as runtime:
        await runtime.run("Slow", run_id="a")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, runtime.handler("a"))
            tasks.start_soon(wait, runtime.handler("a"))
    assert results == ["slept", "slept"]


async def test_each_of_several_readers_sees_the_whole_stream() -> None:
    seen: list[list[str]] = [[], []]

    async def read(handler: Handler, into: list[str]) -> None:
        into += [type(event).__name__ async for event in handler.stream_events(from_start=True)]

    async with open_runtime(store=MemoryStore(), workflows=[Ask()]) as runtime:
        handler = await runtime.run("Ask", run_id="a")
        async with anyio.create_task_group() as tasks:
            for one in seen:
                tasks.start_soon(read, runtime.handler("a"), one)
            await anyio.sleep(1)
            await runtime.send_event("a", HumanResponseEvent(response=1))
        await handler
    assert seen == [["Question", "StopEvent"]] * 2


# -------------------------------------------------------------------------------------------------------- events


async def test_an_event_ends_a_run_that_waits(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Ask(), WaitsForApproval()]) as runtime:
        ask = await runtime.run("Ask", run_id="ask")
        wait = await runtime.run("WaitsForApproval", run_id="wait")
        await runtime.join()
        await runtime.send_event("ask", HumanResponseEvent(response=7))
        await runtime.send_event("wait", Approved("her"))
        assert (await ask, await wait) == (7, "her")


async def test_an_event_for_a_run_that_is_busy_is_kept_for_it() -> None:
    class Later(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await anyio.sleep(50)
            return StopEvent(result=(await ctx.wait_for_event(Approved)).by)

    async with open_runtime(store=MemoryStore(), workflows=[Later()]) as runtime:
        handler = await runtime.run("Later", run_id="a")
        await runtime.send_event("a", Approved("early"))
        assert await handler == "early"


async def test_an_event_can_be_sent_to_a_step() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Patient()]) as runtime:
        handler = await runtime.run("Patient", run_id="a")
        await runtime.send_event("a", Charged("pen"), step="note")
        with pytest.raises(MisdirectedEvent, match=r"Patient has no step 'notes' to send Charged to; .*mean 'note'\?"):
            await runtime.send_event("a", Charged("pen"), step="notes")
        with pytest.raises(MisdirectedEvent, match=r"Patient\.end takes Approved, not Charged"):
            await runtime.send_event("a", Charged("pen"), step="end")
        await runtime.send_event("a", Approved())
        assert await handler == ["pen"]


async def test_an_event_that_nobody_takes_is_refused_and_not_stored(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Ask(), WaitsForApproval()]) as runtime:
        ask = await runtime.run("Ask", run_id="ask")
        wait = await runtime.run("WaitsForApproval", run_id="wait")
        await runtime.join()
        before = [len(await runtime.history(one)) for one in ("ask", "wait")]
        with pytest.raises(
            UnexpectedEvent, match="Ask doesn't take Approved now: it takes HumanResponseEvent"
        ) as error:
            await runtime.send_event("ask", Approved())
        assert error.value.expected == ("HumanResponseEvent",)
        with pytest.raises(UnexpectedEvent, match="WaitsForApproval doesn't take Charged now: it takes Approved"):
            await runtime.send_event("wait", Charged("pen"))
        assert [len(await runtime.history(one)) for one in ("ask", "wait")] == before
        await runtime.send_event("ask", HumanResponseEvent(response=1))
        await runtime.send_event("wait", Approved())
        assert (await ask, await wait) == (1, "me")


async def test_a_busy_run_that_turns_out_not_to_want_the_event_refuses_it() -> None:
    class Work(Workflow):
        @step
        async def work(self, ev: StartEvent) -> Question:
            await anyio.sleep(50)
            return Question("done?")

        @step
        async def answer(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent()

    async with open_runtime(store=MemoryStore(), workflows=[Work()]) as runtime:
        await runtime.run("Work", run_id="a")
        with pytest.raises(UnexpectedEvent, match="it takes HumanResponseEvent"):
            await runtime.send_event("a", Approved())
        assert anyio.current_time() == pytest.approx(50)


async def test_a_patient_run_takes_what_it_may_want_later() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Patient()]) as runtime:
        handler = await runtime.run("Patient", run_id="a")
        await runtime.join()
        await runtime.send_event("a", Question("what for?"))
        await runtime.send_event("a", Approved())
        assert await handler == []


async def test_an_event_for_a_run_that_has_ended_is_refused(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Order(), Slow()]) as runtime:
        await (await runtime.run("Order", run_id="a"))
        slow = await runtime.run("Slow", run_id="slow")
        await runtime.cancel("slow")
        for run_id in ("a", "slow"):
            with pytest.raises(RunFinished, match=r"send_event\(Charged\): this run of (Order|Slow) has ended"):
                await runtime.send_event(run_id, Charged("pen"))
        with pytest.raises(WorkflowCancelledByUser):
            await slow


async def test_an_event_that_the_run_ends_before_it_takes() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Slow()]) as runtime:
        await runtime.run("Slow", run_id="a")
        with pytest.raises(RunFinished, match=r"send_event\(Charged\): this run of Slow has ended"):
            await runtime.send_event("a", Charged("pen"))


async def test_an_event_that_cannot_be_stored_is_refused_and_nothing_is_stored(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Ask()]) as runtime:
        handler = await runtime.run("Ask", run_id="a")
        await runtime.join()
        before = len(await runtime.history("a"))
        with pytest.raises(SerializationError, match=r"Unstorable"):
            await runtime.send_event("a", HumanResponseEvent(response=Unstorable()))
        assert len(await runtime.history("a")) == before
        await runtime.send_event("a", HumanResponseEvent(response=1))
        assert await handler == 1


async def test_a_start_event_that_cannot_be_stored_starts_nothing(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Ask()]) as runtime:
        with pytest.raises(SerializationError, match=r"\$\.event\.thing.*Unstorable"):
            await runtime.run("Ask", run_id="a", thing=Unstorable())
        assert await runtime.runs() == []
        handler = await runtime.run("Ask", run_id="a", thing=1)
        await runtime.send_event("a", HumanResponseEvent(response=1))
        assert await handler == 1


async def test_an_answer_finds_its_way_into_a_nested_run() -> None:
    class Outer(Workflow):
        @step
        async def work(self, ev: StartEvent, child: Ask) -> StopEvent:
            return StopEvent(result=("child", await child.run()))

    outer = Outer()
    outer.add_workflows(child=Ask())
    async with open_runtime(store=MemoryStore(), workflows=[outer]) as runtime:
        handler = await runtime.run("Outer", run_id="a")
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                break
        with pytest.raises(UnexpectedEvent, match="it takes HumanResponseEvent"):
            await runtime.send_event("a", Approved())
        await runtime.send_event("a", HumanResponseEvent(response=3))
        assert await handler == ("child", 3)
        assert [one.run_id for one in await runtime.runs()] == ["a"]


# -------------------------------------------------------------------------------------------------------- cancel


async def test_cancelling_is_for_good(store: Store) -> None:
    workflow = Slow()
    async with open_runtime(store=store, workflows=[workflow, Ask()]) as runtime:
        slow = await runtime.run(workflow, run_id="slow")
        ask = await runtime.run("Ask", run_id="ask")
        await anyio.sleep(1)
        for run_id in ("slow", "ask", "ask"):
            await runtime.cancel(run_id)
        assert workflow.ended == 1
        for handler in (slow, ask):
            with pytest.raises(WorkflowCancelledByUser, match=r"cancel_run\(\) was called"):
                await handler
        assert {one.run_id for one in await runtime.runs(status="cancelled")} == {"slow", "ask"}
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        with pytest.raises(WorkflowCancelledByUser):
            await (await runtime.run(workflow, run_id="slow"))
    assert workflow.began == 1


async def test_cancelling_a_finished_run_does_nothing() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Order()]) as runtime:
        handler = await runtime.run("Order", run_id="a")
        await handler
        await runtime.cancel("a")
        assert await status(runtime, "a") == "finished"
        assert await handler == "book for book"


async def test_further_runs_wait_their_turn_and_can_be_cancelled_meanwhile(store: Store) -> None:
    workflow = Slow(num_concurrent_runs=1)
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        first = await runtime.run(workflow, run_id="first")
        with anyio.move_on_after(10) as scope:
            await runtime.run(workflow, run_id="second")
        assert not scope.cancelled_caught
        third = await runtime.run(workflow, run_id="third")
        await anyio.sleep(1)
        assert workflow.began == 1
        await runtime.cancel("second")
        with pytest.raises(WorkflowCancelledByUser):
            await runtime.handler("second")
        assert await first == "slept"
        assert await third == "slept"
        assert anyio.current_time() == pytest.approx(200)
        assert await status(runtime, "second") == "cancelled"
    assert workflow.began == 2


async def test_what_waited_for_its_turn_when_the_runtime_was_closed_has_it_in_the_next(store: Store) -> None:
    workflow = Slow(num_concurrent_runs=1)
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        for name in "abc":
            await runtime.run(workflow, run_id=name)
        await anyio.sleep(50)
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        await runtime.join()
        assert {one.status for one in await runtime.runs()} == {"finished"}
    assert anyio.current_time() == pytest.approx(350)


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "stored"])
async def test_a_runtime_that_is_closed_while_a_run_is_looked_up_does_not_wait_for_it(is_there: bool) -> None:
    class Closes(MemoryStore):
        closes: Runtime | None = None

        def info(self, run_id: str) -> RunInfo | None:
            if self.closes is not None:
                anyio.from_thread.run_sync(self.closes.stop)
            return super().info(run_id)

    store = Closes()
    if is_there:
        async with open_runtime(store=store, workflows=[WaitsForApproval()]) as runtime:
            await runtime.run("WaitsForApproval", run_id="w")
            await runtime.join()  # or the next takes it up by itself
    with anyio.fail_after(60):
        async with open_runtime(store=store, workflows=[WaitsForApproval()]) as runtime:
            store.closes = runtime
            with pytest.raises(RunSuspended):
                await (await runtime.run("WaitsForApproval", run_id="w"))
    store.closes = None
    async with open_runtime(store=store, workflows=[WaitsForApproval()]) as runtime:
        await runtime.run("WaitsForApproval", run_id="w")
        await runtime.join()
        assert await status(runtime, "w") == "waiting"
