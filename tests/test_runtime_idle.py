"""Runs that are at rest: they leave the runtime's memory and come back, and their timers are due whoever is there."""

from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from stored_flows import (
    BEGIN,
    DAY,
    Approved,
    Ask,
    Charged,
    Order,
    Patient,
    Question,
    Retrying,
    Slow,
    WaitsForApproval,
    the_logs_errors,
    wall_clock,
)

from flowkit import (
    Context,
    HumanResponseEvent,
    StartEvent,
    StopEvent,
    WaitTimedOut,
    Workflow,
    WorkflowTimeoutError,
    step,
)
from flowkit.facts import RunResumed
from flowkit.memory_store import MemoryStore
from flowkit.runtime import Runtime, open_runtime
from flowkit.sqlite_store import SQLiteStore
from flowkit.store import Store

__all__ = ["wall_clock"]


def opened(**options: Any) -> AbstractAsyncContextManager[Runtime]:
    """A runtime that looks about it rarely, so that a virtual day takes no time."""
    return open_runtime(**{"lease": DAY, **options})


async def in_memory(runtime: Runtime) -> set[str]:
    """The runs that this runtime, the only one, has in memory: those that have an owner."""
    return {one.run_id for one in await runtime.runs() if one.owner is not None}


async def resumed(runtime: Runtime, run_id: str) -> int:
    return sum(isinstance(one.fact, RunResumed) for one in await runtime.history(run_id))


# ------------------------------------------------------------------------------------------------------ release


async def test_an_idle_run_leaves_memory_and_comes_back_for_its_event() -> None:
    async with opened(store=MemoryStore(), workflows=[Ask()], release_after=60) as runtime:
        await runtime.run("Ask", run_id="a")
        await anyio.sleep(55)
        assert await in_memory(runtime) == {"a"}
        await anyio.sleep(10)
        assert await in_memory(runtime) == set()
        (info,) = await runtime.runs()
        assert (info.status, info.due) == ("waiting", None)
        await anyio.sleep(100 * DAY)
        await runtime.send_event("a", HumanResponseEvent(response=7))
        assert await runtime.handler("a") == 7
        assert await resumed(runtime, "a") == 1


async def test_a_released_run_comes_back_for_its_handler_and_asks_again() -> None:
    async with opened(store=MemoryStore(), workflows=[Ask()], release_after=10) as runtime:
        await runtime.run("Ask", run_id="a")
        await anyio.sleep(60)
        assert await in_memory(runtime) == set()
        handler = runtime.handler("a")
        async for event in handler.stream_events():
            assert event == Question("how many?")
            handler.send_event(HumanResponseEvent(response=3))
            break
        assert await handler == 3


async def test_a_released_run_can_be_cancelled_run_again_and_forked() -> None:
    async with opened(store=MemoryStore(), workflows=[Ask()], release_after=10) as runtime:
        for name in "abc":
            await runtime.run("Ask", run_id=name)
        await anyio.sleep(60)
        assert await in_memory(runtime) == set()
        await runtime.cancel("a")
        again = await runtime.run("Ask", run_id="b")
        fork = await runtime.fork("c", after="ask")
        for handler in (again, fork):
            await runtime.send_event(handler.run_id, HumanResponseEvent(response=3))
            assert await handler == 3
        assert {one.run_id: one.status for one in await runtime.runs()} == {
            "a": "cancelled",
            "b": "finished",
            "c": "waiting",
            fork.run_id: "finished",
        }


async def test_whoever_holds_a_handle_keeps_the_run_in_memory() -> None:
    async with opened(store=MemoryStore(), workflows=[Ask()], release_after=10) as runtime:
        handler = await runtime.run("Ask", run_id="a")
        reader = (await runtime.run("Ask", run_id="b")).stream_events()
        await anyio.sleep(1000)
        assert await in_memory(runtime) == {"a", "b"}
        del handler, reader
        await anyio.sleep(60)
        assert await in_memory(runtime) == set()


async def test_a_run_rests_anew_after_each_event() -> None:
    async with opened(store=MemoryStore(), workflows=[Patient()], release_after=60) as runtime:
        await runtime.run("Patient", run_id="a")
        for _ in range(10):
            await anyio.sleep(50)
            await runtime.send_event("a", Charged("pen"))
        assert await resumed(runtime, "a") == 0
        await anyio.sleep(70)
        assert await in_memory(runtime) == set()


async def test_without_release_after_a_run_stays() -> None:
    async with opened(store=MemoryStore(), workflows=[Ask()], release_after=None) as runtime:
        await runtime.run("Ask", run_id="a")
        await anyio.sleep(DAY)
        assert await in_memory(runtime) == {"a"}


async def test_a_run_that_works_stays() -> None:
    workflow = Slow()
    async with opened(store=MemoryStore(), workflows=[workflow], release_after=10) as runtime:
        await runtime.run(workflow, run_id="a")
        await anyio.sleep(90)
        assert await in_memory(runtime) == {"a"}
        assert await runtime.handler("a") == "slept"
    assert workflow.began == 1


async def test_a_run_suspended_in_a_wait_stays_and_its_body_runs_once() -> None:
    workflow = WaitsForApproval()
    async with opened(store=MemoryStore(), workflows=[workflow], release_after=10) as runtime:
        await runtime.run(workflow, run_id="a")
        await anyio.sleep(1000)
        assert await in_memory(runtime) == {"a"}
        await runtime.send_event("a", Approved("her"))
        assert await runtime.handler("a") == "her"
    assert workflow.bodies == 1


async def test_with_release_suspended_it_leaves_and_its_body_starts_again() -> None:
    workflow = WaitsForApproval()
    async with opened(store=MemoryStore(), workflows=[workflow], release_after=10, release_suspended=True) as runtime:
        await runtime.run(workflow, run_id="a")
        await anyio.sleep(1000)
        assert await in_memory(runtime) == set()
        await runtime.send_event("a", Approved("her"))
        assert await runtime.handler("a") == "her"
    assert workflow.bodies == 2


async def test_with_release_suspended_a_run_with_a_nested_run_leaves_too() -> None:
    class Inner(Workflow):
        @step
        async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            bodies.append(1)
            return StopEvent(result=(await ctx.wait_for_event(Approved)).by)

    class Outer(Workflow):
        @step
        async def work(self, ev: StartEvent, child: Inner) -> StopEvent:
            return StopEvent(result=("child", await child.run()))

    bodies: list[int] = []
    outer = Outer()
    outer.add_workflows(child=Inner())
    async with opened(store=MemoryStore(), workflows=[outer], release_after=10, release_suspended=True) as runtime:
        await runtime.run(outer, run_id="a")
        await anyio.sleep(1000)
        assert await in_memory(runtime) == set()
        await runtime.send_event("a", Approved("her"))
        assert await runtime.handler("a") == ("child", "her")
    assert bodies == [1, 1]


async def test_events_that_come_while_a_run_is_being_released_are_not_lost() -> None:
    """Whatever the moment: the run has each event exactly once."""
    async with opened(store=MemoryStore(), workflows=[Patient()], release_after=10) as runtime:
        await runtime.run("Patient", run_id="a")

        async def send(n: int) -> None:
            await anyio.sleep(9.9 + 0.01 * n)
            await runtime.send_event("a", Charged(str(n)))

        async with anyio.create_task_group() as tasks:
            for n in range(40):
                tasks.start_soon(send, n)
        await anyio.sleep(100)
        assert await in_memory(runtime) == set()
        await runtime.send_event("a", Approved())
        assert sorted(await runtime.handler("a"), key=int) == [str(n) for n in range(40)]


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_an_id_that_is_run_again_while_its_run_is_being_released_goes_on(turns: int) -> None:
    """At each of the moments that releasing takes."""
    async with opened(store=MemoryStore(), workflows=[Ask()], release_after=10) as runtime:
        await runtime.run("Ask", run_id="a")
        await anyio.sleep(10)
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        handlers = [runtime.handler("a"), await runtime.run("Ask", run_id="a"), runtime.handler("a")]
        await runtime.send_event("a", HumanResponseEvent(response=3))
        assert [await handler for handler in handlers] == [3, 3, 3]


# ------------------------------------------------------------------------------------------------------- timers


async def test_a_retry_in_10_days_leaves_memory_and_comes_back_in_time() -> None:
    workflow = Retrying()
    async with opened(store=MemoryStore(), workflows=[workflow]) as runtime:
        await runtime.run(workflow, run_id="a")
        await anyio.sleep(DAY)
        assert await in_memory(runtime) == set()
        (info,) = await runtime.runs()
        assert (info.status, info.due) == ("waiting", pytest.approx(BEGIN + 10 * DAY))
        await anyio.sleep(9 * DAY + 1)
        assert await runtime.handler("a") == pytest.approx(10 * DAY, abs=1)
    assert workflow.attempts == [0, 1]


@pytest.mark.parametrize("delay", [1.5, 3, 8, 25, 100])
async def test_a_released_run_comes_back_when_its_time_comes_however_soon(delay: float) -> None:
    class Pause(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Charged:
            return Charged("pen")

        @step(retry_policy=Once(delay))
        async def work(self, ctx: Context, ev: Charged) -> StopEvent:
            if not ctx.retry_info().attempts:
                raise OSError
            return StopEvent(result=anyio.current_time())

    async with opened(store=MemoryStore(), workflows=[Pause()], release_after=1) as runtime:
        await runtime.run("Pause", run_id="a")
        await anyio.sleep(delay + 0.5)
        assert await runtime.handler("a") == pytest.approx(delay, abs=0.1)


class Once:
    """Retry once, after so many seconds."""

    def __init__(self, delay: float) -> None:
        self.delay = delay

    def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
        return None if attempts else self.delay


async def test_a_far_timer_is_due_in_a_later_runtime(tmp_path: Path) -> None:
    workflow, store = Retrying(), SQLiteStore(tmp_path / "runs.db")
    for _ in range(5):  # each of them leaves long before it is due
        async with opened(store=store, workflows=[workflow]) as runtime:
            await runtime.run(workflow, run_id="a")
            await anyio.sleep(DAY)
    async with opened(store=store, workflows=[workflow]) as runtime:
        await anyio.sleep(4.9 * DAY)
        assert workflow.attempts == [0]
        await anyio.sleep(DAY)
        assert workflow.attempts == [0, 1]
        assert await runtime.handler("a") == pytest.approx(10 * DAY, abs=1)
    store.close()


async def test_a_timer_that_was_due_while_nobody_was_there_is_made_up_for() -> None:
    workflow, store = Retrying(), MemoryStore()
    async with opened(store=store, workflows=[workflow]) as runtime:
        await runtime.run(workflow, run_id="a")
        await anyio.sleep(DAY)
    await anyio.sleep(100 * DAY)
    async with opened(store=store, workflows=[workflow]) as runtime:
        await runtime.join()
        assert await runtime.handler("a") == pytest.approx(101 * DAY)
    assert workflow.attempts == [0, 1]


class WaitsAWhile(Workflow):
    """Waits 30 days for approval."""

    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            return StopEvent(result=(await ctx.wait_for_event(Approved, timeout=30 * DAY)).by)
        except WaitTimedOut as late:
            return StopEvent(result=str(late))


@pytest.mark.parametrize("release_suspended", [False, True])
@pytest.mark.parametrize("approved_on", [None, 1, 29])
async def test_a_wait_that_times_out_far_away(release_suspended: bool, approved_on: int | None) -> None:
    store = MemoryStore()

    def runtime_of(store: Store) -> Any:
        return opened(store=store, workflows=[WaitsAWhile()], release_suspended=release_suspended)

    async with runtime_of(store) as runtime:
        await runtime.run("WaitsAWhile", run_id="a")
        await anyio.sleep(DAY / 2)
    days = 0.5
    for _ in range(40):
        async with runtime_of(store) as runtime:
            await anyio.sleep(DAY / 2)
            if days == (approved_on or 99) - 0.5:
                await runtime.send_event("a", Approved("her"))
            await anyio.sleep(DAY / 2)
            days += 1
            if (await runtime.runs())[0].status == "finished":
                break
            assert days < 31
    async with runtime_of(store) as runtime:
        result = await runtime.handler("a")
    assert result == ("her" if approved_on else "step 'wait' waited 2.592e+06 seconds for Approved in vain.")


async def test_the_timeout_of_a_run_counts_from_its_beginning_also_across_restarts() -> None:
    text = "Ask timed out after 259200 seconds"
    for wait in ([1.0, 1.0, 0.9, 0.2], [1.0, 5.0], [4.0]):
        store = MemoryStore()
        began = anyio.current_time()
        for days in wait:
            async with opened(store=store, workflows=[Ask(timeout=3 * DAY)]) as runtime:
                await runtime.run("Ask", run_id="a")
                await anyio.sleep(days * DAY)
        async with opened(store=store, workflows=[Ask()]) as runtime:
            with pytest.raises(WorkflowTimeoutError, match=text):
                await runtime.handler("a")
            (info,) = await runtime.runs()
            assert info.status == "failed"
            assert info.updated - BEGIN - began == pytest.approx(3 * DAY, abs=11)


async def test_a_released_run_times_out_in_time() -> None:
    async with opened(store=MemoryStore(), workflows=[Ask(timeout=3 * DAY)]) as runtime:
        await runtime.run("Ask", run_id="a")
        await anyio.sleep(DAY)
        assert await in_memory(runtime) == set()
        (info,) = await runtime.runs()
        assert info.due == pytest.approx(BEGIN + 3 * DAY)
        await anyio.sleep(2 * DAY + 1)
        (info,) = await runtime.runs()
        assert info.status == "failed"
        assert info.updated == pytest.approx(BEGIN + 3 * DAY, abs=1)


async def test_an_answer_in_time_ends_a_released_run_with_a_timeout() -> None:
    async with opened(store=MemoryStore(), workflows=[Ask(timeout=3 * DAY)]) as runtime:
        await runtime.run("Ask", run_id="a")
        await anyio.sleep(2.9 * DAY)
        await runtime.send_event("a", HumanResponseEvent(response=3))
        assert await runtime.handler("a") == 3


async def test_a_run_that_is_due_and_can_not_go_on_does_not_keep_the_runtime_busy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    async with opened(store=store, workflows=[Retrying()]) as runtime:
        await runtime.run("Retrying", run_id="a")
        await anyio.sleep(DAY)
    changed = type("Retrying", (Ask,), {})
    with the_logs_errors(caplog) as told:
        async with opened(store=store, workflows=[changed()]) as runtime:
            await anyio.sleep(20 * DAY)
            await anyio.sleep(20 * DAY)
    (line,) = told
    assert line.startswith("run a of Retrying ended here with an error run 'a' of Retrying can't go on with the code")


async def test_hundreds_of_idle_runs_cost_no_memory_and_none_is_lost() -> None:
    async with opened(store=MemoryStore(), workflows=[Ask()], release_after=10) as runtime:
        for n in range(200):
            await runtime.run("Ask", run_id=str(n))
        await anyio.sleep(60)
        assert await in_memory(runtime) == set()
        for n in range(200):
            await runtime.send_event(str(n), HumanResponseEvent(response=n))
        await runtime.join()
        assert len(await runtime.runs(status="finished")) == 200


# ------------------------------------------------------------------------------------------------- what is kept


async def finish(runtime: Runtime, number: int, every: float) -> None:
    for n in range(number):
        await (await runtime.run("Order", run_id=f"order-{n}"))
        await anyio.sleep(every - 2)


async def ids(runtime: Runtime) -> list[str]:
    return [one.run_id for one in await runtime.runs()]


@pytest.mark.parametrize("keep", [2, 2.5 * DAY, timedelta(days=2.5)])
async def test_ended_runs_are_kept_by_number_or_by_age(keep: Any) -> None:
    async with opened(store=MemoryStore(), workflows=[Order(), Ask()], keep_finished=keep) as runtime:
        await runtime.run("Ask", run_id="waits")
        await finish(runtime, 5, DAY)
        await anyio.sleep(100)
        assert await ids(runtime) == ["order-4", "order-3", "waits"]
        await anyio.sleep(10 * DAY)
        assert await ids(runtime) == (["order-4", "order-3", "waits"] if keep == 2 else ["waits"])


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (0, []),
        (2, ["order-4", "order-3"]),
        (99, ["order-4", "order-3", "order-2", "order-1", "order-0"]),
        (2.5 * DAY, ["order-4", "order-3"]),
        (timedelta(days=3.5), ["order-4", "order-3", "order-2"]),
        (timedelta(0), []),
    ],
)
async def test_prune(keep: Any, left: list[str]) -> None:
    async with opened(store=MemoryStore(), workflows=[Order(), Ask()]) as runtime:
        await runtime.run("Ask", run_id="waits")
        await finish(runtime, 5, DAY)
        assert await runtime.prune(keep=keep) == 5 - len(left)
        assert await ids(runtime) == [*left, "waits"]
        assert await runtime.prune(keep=keep) == 0


async def test_a_pruned_id_can_be_run_anew_and_nested_runs_go_along() -> None:
    class Outer(Workflow):
        @step
        async def work(self, ev: StartEvent, child: Order) -> StopEvent:
            return StopEvent(result=await child.run(item="pen"))

    outer, store = Outer(), MemoryStore()
    outer.add_workflows(child=Order())
    async with opened(store=store, workflows=[outer]) as runtime:
        assert await (await runtime.run(outer, run_id="a")) == "pen for pen"
        assert len(store.find(parent="a")) == 1
        assert await runtime.prune(keep=0) == 1
        assert (store.find(parent="a"), await runtime.runs()) == ([], [])
        assert await (await runtime.run(outer, run_id="a")) == "pen for pen"


async def test_a_bad_store_does_not_end_the_keeper(caplog: pytest.LogCaptureFixture) -> None:
    class Shaky(MemoryStore):
        fails = False

        def find(self, **conditions: Any) -> Any:
            if self.fails:
                raise OSError("the disk is away")
            return super().find(**conditions)

    store, workflow = Shaky(), Retrying()
    with the_logs_errors(caplog) as told:
        async with opened(store=store, workflows=[workflow]) as runtime:
            await runtime.run(workflow, run_id="a")
            await anyio.sleep(DAY)
            store.fails = True
            await anyio.sleep(100)
            store.fails = False
            await anyio.sleep(10 * DAY)
            assert await runtime.handler("a") == pytest.approx(10 * DAY)
    assert {line.partition("the disk")[0] for line in told} == {"the runtime could not look into MemoryStore(1 runs) "}
