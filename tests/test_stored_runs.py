"""`workflow.run(store=…)`: one run kept in a store, whoever owns its handle."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from stored_flows import (
    Approved,
    Ask,
    Broken,
    Charged,
    Form,
    Order,
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
    EventError,
    HumanResponseEvent,
    RunFinished,
    SerializationError,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowTimeoutError,
    WrongCall,
    step,
)
from flowkit.memory_store import MemoryStore
from flowkit.runtime import open_runtime
from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import RunElsewhere, RunSuspended, WrongWorkflow
from flowkit.store import Store
from flowkit.testing.scenario import Cancel, Scenario
from flowkit.testing.simulation import Simulation
from flowkit.testing.virtual_time import run_virtual, virtual_backend

__all__ = ["wall_clock"]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "runs.db")
    yield store
    store.close()


def status(store: Store, run_id: str) -> str:
    info = store.info(run_id)
    assert info is not None
    assert info.owner is None
    return info.status


async def test_a_run_is_kept_and_the_same_id_is_its_result(store: Store) -> None:
    workflow = Order()
    assert await workflow.run(store=store, run_id="a", item="pen") == "pen for pen"
    assert status(store, "a") == "finished"
    assert await workflow.run(store=store, run_id="a", item="pen") == "pen for pen"
    assert await workflow.run(store=store, run_id="a") == "pen for pen"
    assert workflow.done == ["charge", "ship"]
    assert store.owners() == []


async def test_a_run_without_an_id_can_be_found_by_its_handle(store: Store) -> None:
    handler = Order().run(store=store)
    assert await handler == "book for book"
    assert status(store, handler.run_id) == "finished"


async def test_other_fields_are_ignored_with_a_warning() -> None:
    store = MemoryStore()
    await Order().run(store=store, run_id="a", item="pen")
    with pytest.warns(UserWarning, match="run 'a' of Order is in its store already, so what it was to start with now"):
        assert await Order().run(store=store, run_id="a", item="car") == "pen for pen"
    with pytest.warns(UserWarning, match="run 'a' of Order is in its store already, so what it was to start with now"):
        assert await Order().run(store=store, run_id="a", start_event=Placed("car")) == "pen for pen"


async def test_an_id_of_another_workflow() -> None:
    store = MemoryStore()
    await Order().run(store=store, run_id="a")
    with pytest.raises(WrongWorkflow, match="run 'a' belongs to Order, not to Slow"):
        await Slow().run(store=store, run_id="a")


async def test_fields_that_are_missing_are_said_where_the_run_is_new() -> None:
    class Named(StartEvent):
        name: str

    class Greet(Workflow):
        @step
        async def greet(self, ev: Named) -> StopEvent:
            return StopEvent(result=f"hello {ev.name}")

    store = MemoryStore()
    with pytest.raises(EventError, match=r"Greet\.run\(\): Named needs 'name': write run\(name=…\)"):
        await Greet().run(store=store, run_id="a")
    assert store.find() == []
    assert await Greet().run(store=store, run_id="a", name="you") == "hello you"
    assert await Greet().run(store=store, run_id="a") == "hello you"


# --------------------------------------------------------------------------------------------------- who owns it


async def test_a_cancelled_scope_suspends_it_and_the_same_call_goes_on(store: Store) -> None:
    workflow = Order()
    with anyio.move_on_after(1.5) as scope:
        await workflow.run(store=store, run_id="a", item="pen")
    assert scope.cancelled_caught
    assert status(store, "a") == "running"
    assert await workflow.run(store=store, run_id="a", item="pen") == "pen for pen"
    assert workflow.done == ["charge", "ship", "ship"]


async def test_a_cancelled_wait_is_asked_again() -> None:
    store, workflow = MemoryStore(), WaitsForApproval()
    for _ in range(3):
        with anyio.move_on_after(5):
            await workflow.run(store=store, run_id="a")
    async with workflow.run(store=store, run_id="a") as handler:
        async for event in handler.stream_events():
            assert event == Question("approve?")
            handler.send_event(Approved("her"))
            break
        assert await handler == "her"


async def test_a_block_that_is_left_while_it_waits_suspends_it(store: Store) -> None:
    text = "run 'a' of Ask was suspended, as its block was left while it waited for somebody outside"
    with pytest.raises(RunSuspended, match=text) as suspended:
        async with Ask().run(store=store, run_id="a"):
            pass
    assert suspended.value.waiting
    assert status(store, "a") == "waiting"
    async with Ask().run(store=store, run_id="a") as handler:
        async for event in handler.stream_events():
            assert event == Question("how many?")
            handler.send_event(HumanResponseEvent(response=3))
            break
    assert handler.result() == 3


async def test_an_error_in_the_block_suspends_it_and_comes_out_as_itself() -> None:
    store = MemoryStore()
    with pytest.raises(ValueError, match="mine"):
        async with Slow().run(store=store, run_id="a"):
            await anyio.sleep(1)
            raise ValueError("mine")
    assert status(store, "a") == "running"
    assert await Slow().run(store=store, run_id="a") == "slept"


async def test_a_background_run_is_kept_too(store: Store) -> None:
    handler = Order().run(store=store, run_id="a", item="pen")
    await anyio.sleep(1.5)
    assert not handler.is_done()
    assert await handler == "pen for pen"
    assert status(store, "a") == "finished"


async def test_a_dropped_handle_suspends_it() -> None:
    store, workflow = MemoryStore(), Slow()
    handler = workflow.run(store=store, run_id="a")
    await anyio.sleep(5)
    with pytest.warns(ResourceWarning, match="the handle of a run of Slow was dropped, so the run is suspended: await"):
        del handler
    await anyio.sleep(1)
    assert workflow.ended == 1
    assert status(store, "a") == "running"
    assert await workflow.run(store=store, run_id="a") == "slept"


async def test_a_handle_that_is_dropped_at_once_stores_nothing() -> None:
    store = MemoryStore()
    with pytest.warns(ResourceWarning, match="a run of Slow was never begun: await the handler, or keep it"):
        Slow().run(store=store, run_id="a")
    await anyio.sleep(1)
    assert store.find() == []


def test_a_loop_that_ends_suspends_it_and_another_loop_goes_on(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, workflow = MemoryStore(), Order()

    async def begin() -> None:
        kept.append(workflow.run(store=store, run_id="a", item="pen"))
        await anyio.sleep(1.5)

    async def go_on() -> Any:
        await anyio.sleep(60)  # its lease may not have been given up
        return await workflow.run(store=store, run_id="a", item="pen")

    kept: list[Any] = []
    anyio.run(begin, backend=anyio_backend_name, backend_options=virtual_backend(anyio_backend_name)[1])
    with pytest.warns(ResourceWarning, match=r"under way when its event loop ended, so it was suspended: await"):
        kept.clear()
    assert run_virtual(go_on, backend=anyio_backend_name) == "pen for pen"
    assert workflow.done == ["charge", "ship", "ship"]


async def test_cancel_run_is_for_good(store: Store) -> None:
    handler = Slow().run(store=store, run_id="a")
    await anyio.sleep(1)
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert status(store, "a") == "cancelled"
    with pytest.raises(WorkflowCancelledByUser):
        await Slow().run(store=store, run_id="a")


@pytest.mark.parametrize("turns", range(12))
async def test_cancel_run_at_once(turns: int) -> None:
    store = MemoryStore()
    handler = Slow().run(store=store, run_id="a")
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert status(store, "a") == "cancelled"


async def test_an_event_for_a_suspended_run_is_refused_with_why() -> None:
    store = MemoryStore()
    with pytest.raises(RunSuspended):
        async with Ask().run(store=store, run_id="a") as handler:
            pass
    with pytest.raises(RunSuspended, match="run 'a' of Ask was suspended"):
        handler.send_event(HumanResponseEvent(response=1))
    assert await Order().run(store=store, run_id="b") == "book for book"
    ended = Order().run(store=store, run_id="b")
    await ended
    with pytest.raises(RunFinished):
        ended.send_event(Charged("x"))


async def test_the_same_id_twice_at_once() -> None:
    store = MemoryStore()
    first = Slow().run(store=store, run_id="a")
    await anyio.sleep(1)
    with pytest.raises(RunElsewhere, match="run 'a' is driven by another handle in this process"):
        await Slow().run(store=store, run_id="a")
    assert await first == "slept"


async def test_an_id_that_is_driven_by_a_runtime() -> None:
    store = MemoryStore()
    async with open_runtime(store=store, workflows=[Slow()]) as runtime:
        handler = await runtime.run("Slow", run_id="a")
        with pytest.raises(RunElsewhere, match="run 'a' is driven by "):
            await Slow().run(store=store, run_id="a")
        assert await handler == "slept"
    assert await Slow().run(store=store, run_id="a") == "slept"


async def test_many_runs_in_one_store_at_once(store: Store) -> None:
    results: list[str] = []

    async def order(n: int) -> None:
        results.append(await Order().run(store=store, run_id=str(n), item=str(n)))

    async with anyio.create_task_group() as tasks:
        for n in range(50):
            tasks.start_soon(order, n)
    assert sorted(results) == sorted(f"{n} for {n}" for n in range(50))
    assert len(store.find(statuses=["finished"])) == 50


async def test_runs_wait_their_turn() -> None:
    store, workflow = MemoryStore(), Slow(num_concurrent_runs=1, timeout=150)
    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(lambda name: wait(workflow, store, name), name)
        await anyio.sleep(1)
        assert len(store.find()) == 3
        assert [len(store.read(name)) for name in "abc"] == [2, 2, 2]
    assert anyio.current_time() == pytest.approx(300)
    assert len(store.find(statuses=["finished"])) == 3


async def wait(workflow: Workflow, store: Store, name: str) -> None:
    await workflow.run(store=store, run_id=name)


async def test_a_run_that_was_torn_while_it_waited_its_turn_has_its_start() -> None:
    store, workflow = MemoryStore(), Order(num_concurrent_runs=1)
    with anyio.move_on_after(1.5):
        async with anyio.create_task_group() as tasks:
            for name in "ab":
                tasks.start_soon(lambda name: workflow.run(store=store, run_id=name, item=name)._outcome(), name)
            await anyio.sleep_forever()
    assert [one.status for one in store.find()] == ["running", "running"]
    for name in "ab":
        assert await workflow.run(store=store, run_id=name) == f"{name} for {name}"


# -------------------------------------------------------------------------------------------------- how it ends


async def test_a_run_that_failed_fails_again() -> None:
    store, workflow = MemoryStore(), Broken()
    for _ in range(2):
        with pytest.raises(StepFailed, match="Error in step 'work': ValueError: no such customer") as failed:
            await workflow.run(store=store, run_id="a")
        assert isinstance(failed.value.__cause__, ValueError)
        assert status(store, "a") == "failed"


async def test_the_timeout_is_the_runs_and_counts_from_its_beginning() -> None:
    store = MemoryStore()
    for _ in range(2):
        with anyio.move_on_after(60):
            await Ask(timeout=150).run(store=store, run_id="a")
    with pytest.raises(WorkflowTimeoutError, match=r"Ask timed out after 150 seconds"):
        await Ask().run(store=store, run_id="a")
    assert anyio.current_time() == pytest.approx(150)
    with pytest.raises(WorkflowTimeoutError, match=r"Ask timed out after 150 seconds"):
        await Ask().run(store=store, run_id="a")


async def test_a_state_goes_along(store: Store) -> None:
    class Fill(Workflow):
        @step
        async def fill(self, ctx: Context[Form], ev: StartEvent) -> StopEvent:
            async with ctx.store.edit_state() as form:
                form.pages.append(len(form.pages))
            await ctx.wait_for_event(Approved)
            return StopEvent(result=(await ctx.store.get_state()).pages)

    workflow = Fill()
    with anyio.move_on_after(5):
        await workflow.run(store=store, run_id="a", ctx=Context(workflow, state=Form("me", [7])))
    async with workflow.run(store=store, run_id="a") as handler:
        await anyio.sleep(1)
        assert await handler.ctx.store.get("name") == "me"
        handler.send_event(Approved())
        assert await handler == [7, 1, 2]


async def test_the_state_is_there_before_the_run_is_awaited(store: Store) -> None:
    await Order().run(store=store, run_id="a", item="pen")
    handler = Order().run(store=store, run_id="a")
    assert await handler.ctx.get("charged") == "pen"
    assert await handler == "pen for pen"


async def test_a_run_goes_on_from_another_in_a_store() -> None:
    class Chat(Workflow):
        @step
        async def say(self, ctx: Context, ev: StartEvent) -> StopEvent:
            said = [*await ctx.get("said", []), ev.get("text")]
            await ctx.set("said", said)
            return StopEvent(result=said)

    store, workflow = MemoryStore(), Chat()
    first = workflow.run(store=store, run_id="1", text="a")
    await first
    second = workflow.run(ctx=first.ctx, store=store, run_id="2", text="b")
    assert await second == ["a", "b"]
    assert await workflow.run(store=store, run_id="1") == ["a"]
    assert await workflow.run(store=store, run_id="2") == ["a", "b"]


async def test_a_stepwise_run_is_kept() -> None:
    store, workflow = MemoryStore(), Order()
    async with workflow.run(store=store, run_id="a", item="pen", stepwise=True) as handler:
        while events := await handler.run_step():
            for event in events:
                handler.ctx.send_event(event)
        assert await handler == "pen for pen"
    assert status(store, "a") == "finished"


async def test_nested_runs_are_kept_with_theirs(store: Store) -> None:
    class Outer(Workflow):
        @step
        async def work(self, ev: StartEvent, child: Order) -> StopEvent:
            return StopEvent(result=await child.run(item="pen"))

    order, outer = Order(), Outer()
    outer.add_workflows(child=order)
    with anyio.move_on_after(1.5):
        await outer.run(store=store, run_id="a")
    assert await outer.run(store=store, run_id="a") == "pen for pen"
    (nested,) = store.find(parent="a")
    assert nested.status == "finished"
    assert [one.run_id for one in store.find()] == ["a"]
    assert order.done == ["charge", "ship", "ship"]


async def test_async_durability(store: Store) -> None:
    workflow = Order()
    assert await workflow.run(store=store, run_id="a", item="pen", durability="async") == "pen for pen"
    assert status(store, "a") == "finished"
    assert await workflow.run(store=store, run_id="a") == "pen for pen"


# ------------------------------------------------------------------------------------------------ what can't be


async def test_a_start_event_that_can_not_be_stored() -> None:
    store = MemoryStore()
    with pytest.raises(
        SerializationError,
        match=r"\$\.event\.thing: stored_flows\.Unstorable isn't registered: write Workflow\(types=\[Unstorable\], c",
    ):
        await Ask().run(store=store, run_id="a", thing=Unstorable())
    assert store.find() == []


async def test_a_result_that_can_not_be_stored_fails_the_step() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=Unstorable())

    store = MemoryStore()
    with pytest.raises(StepFailed, match=r"Error in step 'work': SerializationError: .*Unstorable"):
        await Flow().run(store=store, run_id="a")
    assert status(store, "a") == "failed"


async def test_a_state_that_can_not_be_stored_is_said_where_it_is_written() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(SerializationError, match=r"Unstorable"):
                await ctx.set("thing", Unstorable())
            with pytest.raises(SerializationError, match=r"Unstorable"):
                ctx.send_event(HumanResponseEvent(response=Unstorable()))
            with pytest.raises(SerializationError, match=r"Unstorable"):
                ctx.write_event_to_stream(HumanResponseEvent(response=Unstorable()))
            return StopEvent(result=await ctx.get("thing", None))

    assert await Flow().run(store=MemoryStore(), run_id="a") is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"store": "runs.db"}, r"takes a store, but got 'runs\.db': give one, SQLiteStore\(\"runs\.db\"\)"),
        ({"store": MemoryStore}, r"takes a store, but got MemoryStore: make one, MemoryStore\(…\)"),
        ({"store": MemoryStore(), "durability": "full"}, r"got durability='full': give \"sync\" or \"async\""),
        ({"store": MemoryStore(), "run_id": 7}, r"takes a string as run_id, but got 7: write str\(…\)"),
        ({"store": MemoryStore(), "run_id": ""}, r"got run_id='': give a name, or leave it out"),
        ({"store": MemoryStore(), "run_id": "\ud800"}, r"got run_id='\\ud800', which is no text"),
        ({"durability": "async"}, r"got durability='async' without a store: give store=, or leave it out"),
    ],
)
async def test_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(WrongCall, match=rf"Order\.run\(\) {text}"):
        await Order().run(**arguments)


@pytest.mark.parametrize("run_id", ["a/b", "ä ö", "x" * 1000, "\x00", "a\nb", "'; drop table runs; --", "%s", "1"])
async def test_any_text_is_an_id(run_id: str, store: Store) -> None:
    assert await Order().run(store=store, run_id=run_id) == "book for book"
    assert [one.run_id for one in store.find()] == [run_id]
    assert await Order().run(store=store, run_id=run_id) == "book for book"


async def test_nothing_is_said_of_a_run_that_went_well(caplog: pytest.LogCaptureFixture) -> None:
    with the_logs_errors(caplog) as told:
        await Order().run(store=MemoryStore(), run_id="a")
    assert told == []
    assert logging.getLogger("flowkit").handlers == []


class Inner(Workflow):
    @step
    async def sleep(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(10)
        return StopEvent()


class Outer(Workflow):
    @step
    async def delegate(self, ev: StartEvent, child: Inner) -> StopEvent:
        await child.run()
        return StopEvent()


def made() -> Outer:
    outer = Outer()
    outer.add_workflows(child=Inner())
    return outer


def test_a_nested_run_that_is_stopped_with_its_parent_is_no_failure_beside_it(anyio_backend_name: Any) -> None:
    simulation = Simulation(made, {}, stored=True, backend=anyio_backend_name)
    with simulation.opened():
        steps = simulation.run(Scenario()).world.scheduler.steps
        for step_number in range(steps):  # among them while the nested run is just beginning
            verdict = simulation.run(Scenario(cancel=Cancel(step_number, "run")))
            assert verdict.problem is None
