"""What a runtime finds in its store when it opens: it goes on as if nothing had happened in between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from stored_flows import (
    DAY,
    Approved,
    Ask,
    Broken,
    Charged,
    Form,
    Order,
    Placed,
    Question,
    Slow,
    WaitsForApproval,
    the_logs_errors,
    wall_clock,
)

from flowkit import (
    Context,
    HumanResponseEvent,
    InputRequiredEvent,
    Resource,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    step,
)
from flowkit.memory_store import MemoryStore
from flowkit.runtime import open_runtime
from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import LeaseLost, RunElsewhere, RunSuspended
from flowkit.store import Store

__all__ = ["wall_clock"]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    store: Store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "runs.db")
    yield store
    store.close()


class Legs(Workflow):
    """Four steps of 10 seconds, ``legs`` has the number of each that began."""

    def __init__(self) -> None:
        super().__init__()
        self.legs: list[int] = []

    @step
    async def go(self, ctx: Context, ev: Placed) -> list[Charged]:
        return [Charged(str(n)) for n in range(3)]

    @step(num_workers=1)
    async def leg(self, ctx: Context, ev: Charged) -> Approved:
        self.legs.append(int(ev.item))
        ctx.write_event_to_stream(Charged(f"leg {ev.item}"))
        await anyio.sleep(10)
        return Approved(ev.item)

    @step
    async def arrive(self, evs: list[Approved]) -> StopEvent:
        return StopEvent(result="".join(one.by for one in evs))


@pytest.mark.parametrize("at", [0, 0.001, 5, 9.999, 10, 10.001, 15, 20, 25, 29.999, 30, 35])
async def test_a_run_goes_on_wherever_it_was_when_the_block_was_left(store: Store, at: float) -> None:
    workflow = Legs()
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        await runtime.run(workflow, run_id="a")
        await anyio.sleep(at)
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        assert await runtime.handler("a") == "012"
    # What had completed hasn't run again, what was running has.
    assert sorted(set(workflow.legs)) == [0, 1, 2]
    assert len(workflow.legs) <= 4


@pytest.mark.parametrize("turns", range(25))
async def test_the_block_is_left_while_a_run_is_being_looked_up(turns: int) -> None:
    store, workflow = MemoryStore(), WaitsForApproval()
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        await runtime.run(workflow, run_id="a")
        await anyio.sleep(1)
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        handler = runtime.handler("a")
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
    with pytest.raises(RunSuspended, match="its runtime was closed"):
        await handler
    (info,) = store.find()
    assert info.owner is None
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        await runtime.send_event("a", Approved("her"))
        assert await runtime.handler("a") == "her"


async def test_a_run_that_is_torn_again_and_again_ends() -> None:
    store, workflow = MemoryStore(), Legs()
    for times in range(20):  # noqa: B007 - it is asserted below
        async with open_runtime(store=store, workflows=[workflow]) as runtime:
            handler = await runtime.run(workflow, run_id="a")
            with anyio.move_on_after(12):
                assert await handler == "012"
                break
    assert times == 2
    assert len(workflow.legs) == 5


async def test_many_runs_go_on_together() -> None:
    store = MemoryStore()
    async with open_runtime(store=store, workflows=[Legs(), Ask(), Order()]) as runtime:
        for n in range(30):
            await runtime.run(("Legs", "Ask", "Order")[n % 3], run_id=str(n))
        await anyio.sleep(1.5)
    async with open_runtime(store=store, workflows=[Legs(), Ask(), Order()]) as runtime:
        await runtime.join()
        assert {one.run_id for one in await runtime.runs(status="waiting")} == {str(n) for n in range(1, 30, 3)}
        assert len(await runtime.runs(status="finished")) == 20


async def test_a_question_is_asked_again_once_and_each_reader_sees_it(store: Store) -> None:
    async with open_runtime(store=store, workflows=[Ask(), WaitsForApproval()]) as runtime:
        await runtime.run("Ask", run_id="ask")
        await runtime.run("WaitsForApproval", run_id="wait")
        await runtime.join()
    for _ in range(3):
        async with open_runtime(store=store, workflows=[Ask(), WaitsForApproval()]) as runtime:
            for run_id in ("ask", "wait"):
                handlers = [runtime.handler(run_id), runtime.handler(run_id)]
                readers = [handler.stream_events(from_start=True) for handler in handlers]
                await anyio.sleep(1)
                for reader in readers:
                    assert isinstance(await anext(reader), InputRequiredEvent)
                    with anyio.move_on_after(1) as scope:
                        await anext(reader)
                    assert scope.cancelled_caught
    async with open_runtime(store=store, workflows=[Ask(), WaitsForApproval()]) as runtime:
        await runtime.send_event("ask", HumanResponseEvent(response=1))
        await runtime.send_event("wait", Approved("her"))
        handler = runtime.handler("ask")
        assert await handler == 1
        assert await runtime.handler("wait") == "her"


async def test_a_question_that_was_answered_is_not_asked_again() -> None:
    class Twice(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            first = await ctx.wait_for_event(HumanResponseEvent, waiter_event=Question("first?"))
            second = await ctx.wait_for_event(HumanResponseEvent, waiter_event=Question("second?"))
            return StopEvent(result=(first.response, second.response))

    store = MemoryStore()
    async with open_runtime(store=store, workflows=[Twice()]) as runtime:
        await runtime.run("Twice", run_id="a")
        await runtime.send_event("a", HumanResponseEvent(response=1))
        await runtime.join()
    async with open_runtime(store=store, workflows=[Twice()]) as runtime:
        handler = runtime.handler("a")
        reader = handler.stream_events(from_start=True)
        assert await anext(reader) == Question("second?")
        handler.send_event(HumanResponseEvent(response=2))
        assert await handler == (1, 2)


async def test_the_state_is_there_again(store: Store) -> None:
    class Count(Workflow):
        @step
        async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.set("starts", await ctx.get("starts", 0) + 1)
            await ctx.store.set("deep.er", {"list": [1, (2, 3)], "n": 10**30})
            await ctx.wait_for_event(Approved)
            return StopEvent(result=await ctx.get("starts"))

    for n in range(3):
        async with open_runtime(store=store, workflows=[Count()]) as runtime:
            handler = await runtime.run("Count", run_id="a")
            await runtime.join()
            assert await handler.ctx.get("starts") == n + 1
            assert await handler.ctx.store.get("deep.er") == {"list": [1, (2, 3)], "n": 10**30}
    async with open_runtime(store=store, workflows=[Count()]) as runtime:
        await runtime.send_event("a", Approved())
        assert await runtime.handler("a") == 4
    async with open_runtime(store=store, workflows=[Count()]) as runtime:
        ended = await runtime.run("Count", run_id="a")
        assert await ended.ctx.get("starts") == 4


async def test_a_typed_state_is_there_again(store: Store) -> None:
    class Fill(Workflow):
        @step
        async def fill(self, ctx: Context[Form], ev: StartEvent) -> StopEvent:
            async with ctx.store.edit_state() as form:
                form.name += "x"
                form.pages.append(len(form.pages))
            await ctx.wait_for_event(Approved)
            form = await ctx.store.get_state()
            return StopEvent(result=(form.name, form.pages))

    for _ in range(2):
        async with open_runtime(store=store, workflows=[Fill()]) as runtime:
            handler = await runtime.run("Fill", run_id="a")
            await runtime.join()
            assert isinstance(await handler.ctx.store.get_state(), Form)
    async with open_runtime(store=store, workflows=[Fill()]) as runtime:
        await runtime.send_event("a", Approved())
        assert await runtime.handler("a") == ("xxx", [0, 1, 2])


@pytest.mark.parametrize("scope", ["workflow", "run"])
async def test_resources_are_opened_anew_and_closed(scope: Any) -> None:
    opened: list[str] = []

    @asynccontextmanager
    async def connection() -> AsyncIterator[list[str]]:
        opened.append("open")
        await anyio.lowlevel.checkpoint()
        yield opened
        await anyio.lowlevel.checkpoint()
        opened.append("close")

    class Use(Workflow):
        @step
        async def use(
            self, ctx: Context, ev: StartEvent, one: Annotated[list[str], Resource(connection, scope=scope)]
        ) -> StopEvent:
            one.append("use")
            await ctx.wait_for_event(Approved)
            return StopEvent()

    store = MemoryStore()
    for _ in range(2):
        async with open_runtime(store=store, workflows=[Use()]) as runtime:
            await runtime.run("Use", run_id="a")
            await anyio.sleep(1)
    assert opened == ["open", "use", "close"] * 2


async def test_the_answer_for_a_nested_run_comes_after_a_restart(store: Store) -> None:
    class Outer(Workflow):
        bodies = 0

        @step
        async def work(self, ev: StartEvent, child: WaitsForApproval, other: Order) -> StopEvent:
            self.bodies += 1
            return StopEvent(result=(await other.run(item="pen"), await child.run()))

    def outer() -> Outer:
        made = Outer()
        made.add_workflows(child=WaitsForApproval(), other=order)
        return made

    order = Order()
    for _ in range(3):
        async with open_runtime(store=store, workflows=[outer()]) as runtime:
            await runtime.run("Outer", run_id="a")
            await anyio.sleep(5)
    async with open_runtime(store=store, workflows=[outer()]) as runtime:
        handler = runtime.handler("a")
        reader = handler.stream_events(from_start=True)
        assert await anext(reader) == Question("approve?")
        assert reader.origin is not None
        assert reader.origin.path == ("work",)
        handler.send_event(Approved("her"), to=reader.origin)
        assert await handler == ("pen for pen", "her")
        assert [one.run_id for one in await runtime.runs()] == ["a"]


async def test_plain_steps_and_their_contexts(store: Store) -> None:
    class Plain(Workflow):
        @step
        def fan(self, ctx: Context, ev: StartEvent) -> Charged | None:
            for n in range(3):
                ctx.send_event(Charged(str(n)))
                ctx.write_event_to_stream(Question(f"{n}?"))
            return None

        @step
        def join(self, ctx: Context, ev: Charged) -> StopEvent | None:
            found = ctx.collect_events(ev, [Charged] * 3)
            if found is None:
                return None
            anyio.from_thread.run(ctx.set, "found", len(found))
            return StopEvent(result=[one.item for one in found])

    async with open_runtime(store=store, workflows=[Plain()]) as runtime:
        handler = await runtime.run("Plain", run_id="a")
        assert sorted(await handler) == ["0", "1", "2"]
        assert await handler.ctx.get("found") == 3


async def test_a_stepwise_run_goes_on_after_a_restart() -> None:
    store, workflow = MemoryStore(), Order()
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        handler = await runtime.run(workflow, run_id="a", item="pen", stepwise=True)
        (charged,) = await handler.run_step()
        assert charged == Charged("pen")
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        handler = runtime.handler("a")
        await anyio.sleep(10)
        assert workflow.done == ["charge"]
        (charged,) = await handler.run_step()
        handler.send_event(charged)
        assert await handler == "pen for pen"
    assert workflow.done == ["charge", "ship"]


async def test_a_run_that_fails_after_a_restart_is_reported_though_nobody_holds_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    with the_logs_errors(caplog) as told:
        async with open_runtime(store=store, workflows=[Broken(10)]) as runtime:
            await runtime.run("Broken", run_id="a")
            await anyio.sleep(5)
        async with open_runtime(store=store, workflows=[Broken(10)]) as runtime:
            await runtime.join()
            assert [one.status for one in await runtime.runs()] == ["failed"]
    assert told == ["run a of Broken ended here with an error Error in step 'work': ValueError: no such customer"]
    async with open_runtime(store=store, workflows=[Broken(10)]) as runtime:
        with pytest.raises(StepFailed):
            await runtime.handler("a")


async def test_what_has_happened_at_once_is_stored_with_async_durability(store: Store) -> None:
    workflow = Legs()
    async with open_runtime(store=store, workflows=[workflow], durability="async") as runtime:
        await runtime.run(workflow, run_id="a")
        await anyio.sleep(15)
    async with open_runtime(store=store, workflows=[workflow], durability="async") as runtime:
        handler = await runtime.run(workflow, run_id="a")
        await runtime.run(workflow, run_id="b")
        assert await handler == await runtime.handler("b") == "012"
        assert {one.status for one in await runtime.runs()} == {"finished"}
    assert workflow.legs.count(0) == 2


async def test_a_write_to_the_state_waits_for_the_store() -> None:
    class Watched(MemoryStore):
        def commit(self, writes: Any, *, wait: bool = True) -> list[bool]:
            stored = super().commit(writes, wait=wait)
            order.append(f"commit of {sum(len(write.records) for write in writes)}")
            return stored

    class Write(Workflow):
        @step
        async def write(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await anyio.sleep(1)
            order.clear()
            await ctx.set("a", 1)
            order.append("set")
            async with ctx.store.edit_state() as state:
                state["b"] = state["c"] = 1
            order.append("edited")
            return StopEvent()

    order: list[str] = []
    async with open_runtime(store=Watched(), workflows=[Write()]) as runtime:
        await (await runtime.run("Write"))
    assert order[:4] == ["commit of 1", "set", "commit of 2", "edited"]


async def test_a_batch_is_stored_before_the_step_has_it() -> None:
    class Watched(MemoryStore):
        def commit(self, writes: Any, *, wait: bool = True) -> list[bool]:
            commits.append(sum(len(write.records) for write in writes))
            return super().commit(writes, wait=wait)

    class Batches(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Charged]:
            return [Charged(str(n)) for n in range(2)]

        @step(num_workers=1)
        async def join(self, ctx: Context, ev: Charged) -> StopEvent | None:
            before = len(commits)
            found = ctx.collect_events(ev, [Charged, Charged])
            assert (len(commits) > before) is (found is not None)
            return None if found is None else StopEvent()

    commits: list[int] = []
    async with open_runtime(store=Watched(), workflows=[Batches()]) as runtime:
        await (await runtime.run("Batches"))


# -------------------------------------------------------------------------------------------------------- leases


async def test_two_runtimes_on_one_store_never_drive_the_same_run(store: Store) -> None:
    one, two = Slow(), Slow()
    async with (
        open_runtime(store=store, workflows=[one]) as first,
        open_runtime(store=store, workflows=[two]) as second,
    ):
        handler = await first.run(one, run_id="a")
        await anyio.sleep(50)
        with pytest.raises(RunElsewhere, match=r"run 'a' is driven by .*: ask that process, or wait until it has end"):
            await second.run(two, run_id="a")
        with pytest.raises(RunElsewhere):
            await second.handler("a")
        assert await handler == "slept"
        assert await (await second.run(two, run_id="a")) == "slept"
    assert (one.began, two.began) == (1, 0)


async def test_what_one_runtime_leaves_another_takes_up() -> None:
    store, one, two = MemoryStore(), Slow(), Slow()
    async with open_runtime(store=store, workflows=[two], lease=30) as second:
        async with open_runtime(store=store, workflows=[one], lease=30) as first:
            await first.run(one, run_id="a")
            await anyio.sleep(50)
        await anyio.sleep(15)
        assert two.began == 1
        assert await second.handler("a") == "slept"


async def test_a_released_run_comes_back_where_its_event_comes() -> None:
    store = MemoryStore()
    async with (
        open_runtime(store=store, workflows=[Ask()], release_after=10) as first,
        open_runtime(store=store, workflows=[Ask()], release_after=10) as second,
    ):
        await first.run("Ask", run_id="a")
        with pytest.raises(RunElsewhere):
            await second.run("Ask", run_id="a")
        await anyio.sleep(30)
        await second.send_event("a", HumanResponseEvent(response=2))
        await second.join()
        assert await first.handler("a") == 2


async def test_a_timer_that_is_due_fires_in_one_of_two_runtimes() -> None:
    class Once(Workflow):
        @step
        async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(TimeoutError):
                await ctx.wait_for_event(Approved, timeout=DAY)
            fired.append(anyio.current_time())
            return StopEvent()

    store, fired = MemoryStore(), list[float]()
    async with open_runtime(store=store, workflows=[Once()], release_suspended=True, lease=DAY / 10) as first:
        async with open_runtime(store=store, workflows=[Once()], release_suspended=True, lease=DAY / 10) as second:
            for n in range(20):
                await (first, second)[n % 2].run("Once", run_id=str(n))
            await anyio.sleep(DAY + 100)
            assert fired == pytest.approx([DAY] * 20, abs=DAY / 30)
            await first.join()
            await second.join()
            assert len(await first.runs(status="finished")) == 20


async def test_a_runtime_that_gives_no_sign_of_life_loses_its_runs() -> None:
    """Its beats don't reach the store: the other takes over after the lease, and what the first writes is refused."""

    class Deaf(MemoryStore):
        deaf: str | None = None

        def beat(self, owner: str, until: float) -> None:
            if owner != self.deaf:
                super().beat(owner, until)

    class Two(Slow):
        pass

    store, one, two = Deaf(), Slow(), Slow()
    async with open_runtime(store=store, workflows=[one], lease=30) as first:
        handler = await first.run(one, run_id="a")
        store.deaf = store.owners()[0]
        async with open_runtime(store=store, workflows=[two], lease=30) as second:
            await anyio.sleep(25)
            assert two.began == 0
            await anyio.sleep(25)
            assert two.began == 1
            with pytest.raises(LeaseLost, match="run 'a' was taken over by another process, as this one was silent"):
                await handler
            assert await second.handler("a") == "slept"


async def test_suspended_is_said_with_what_it_waited_for() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Ask(), Slow()]) as runtime:
        ask = await runtime.run("Ask", run_id="a")
        slow = await runtime.run("Slow", run_id="b")
        await anyio.sleep(1)
    waiting: list[bool] = []
    for handler in (ask, slow):
        with pytest.raises(RunSuspended) as suspended:
            await handler
        waiting.append(suspended.value.waiting)
    assert waiting == [True, False]
