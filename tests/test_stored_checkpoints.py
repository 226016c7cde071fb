"""`WorkflowCheckpointer` with a store: checkpoints that outlive the process."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowCheckpointer,
    WorkflowRuntimeError,
    step,
)
from flowkit.memory_store import MemoryStore
from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import RunDamaged
from flowkit.store import Store


class Part(Event):
    n: int


class Result(Event):
    n: int


class Jokes(Workflow):
    @step
    async def write(self, ctx: Context, ev: StartEvent) -> Part:
        await ctx.set("topic", ev.topic)
        return Part(len(ev.topic))

    @step(atomic=True)
    async def rate(self, ctx: Context, ev: Part) -> Result:
        rated.append(ev.n)
        return Result(ev.n * 2)

    @step
    async def end(self, ctx: Context, ev: Result) -> StopEvent:
        if broken:
            raise OSError
        return StopEvent(result=(await ctx.get("topic"), ev.n))


rated: list[int] = []
broken: list[bool] = []


@pytest.fixture(autouse=True)
def all_well() -> None:
    rated.clear()
    broken.clear()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    store: Store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "runs.db")
    yield store
    store.close()


async def test_checkpoints_are_found_by_another_checkpointer(store: Store) -> None:
    handler = WorkflowCheckpointer(Jokes(), store=store).run(topic="cats")
    assert await handler == ("cats", 8)
    later = WorkflowCheckpointer(Jokes(), store=store)
    assert list(later.checkpoints) == [handler.run_id]
    kept = later.checkpoints[handler.run_id]
    assert [(one.last_completed_step, one.input_event, one.output_event) for one in kept] == [
        ("write", StartEvent(topic="cats"), Part(4)),
        ("rate", Part(4), Result(8)),
        ("end", Result(8), StopEvent(result=("cats", 8))),
    ]
    assert len({one.id_ for one in kept}) == 3


async def test_a_run_goes_on_after_a_stored_checkpoint(store: Store) -> None:
    handler = WorkflowCheckpointer(Jokes(), store=store).run(topic="cats", run_id="first")
    await handler
    later = WorkflowCheckpointer(Jokes(), store=store)
    for checkpoint, again in zip(later.checkpoints["first"], ([4], [], []), strict=True):
        rated.clear()
        handler = later.run_from(checkpoint)
        assert await handler == ("cats", 8)
        assert rated == again
        assert handler.run_id in later.checkpoints
    assert len(later.checkpoints) == 4


async def test_a_run_that_failed_is_mended_and_goes_on(store: Store) -> None:
    broken.append(True)
    handler = WorkflowCheckpointer(Jokes(), store=store).run(topic="cats", run_id="first")
    with pytest.raises(StepFailed):
        await handler
    broken.clear()
    later = WorkflowCheckpointer(Jokes(), store=store)
    *_, last = later.checkpoints["first"]
    assert last.last_completed_step == "rate"
    assert await later.run_from(last) == ("cats", 8)


async def test_a_run_under_way_is_read_on_from_where_it_was_read_to(store: Store) -> None:
    class Asking(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> Part:
            return Part(1)

        @step
        async def wait(self, ctx: Context, ev: Part) -> StopEvent:
            answer = await ctx.wait_for_event(HumanResponseEvent)
            return StopEvent(result=answer.n)

    checkpointer = WorkflowCheckpointer(Asking(), store=store)
    async with checkpointer.run(run_id="one") as handler:
        await anyio.sleep(1)
        assert [one.last_completed_step for one in checkpointer.checkpoints["one"]] == ["ask"]
        handler.send_event(HumanResponseEvent(n=3))
        assert await handler == 3
    kept = checkpointer.checkpoints["one"]
    assert [one.last_completed_step for one in kept] == ["ask", "wait"]
    again = checkpointer.run_from(kept[0])
    async with again:
        again.send_event(HumanResponseEvent(n=5))
        assert await again == 5


async def test_steps_can_be_left_out_and_filtered(store: Store) -> None:
    checkpointer = WorkflowCheckpointer(Jokes(), ["rate"], store=store)
    await checkpointer.run(topic="cats", run_id="one")
    assert [one.last_completed_step for one in checkpointer.checkpoints["one"]] == ["write", "end"]
    checkpointer.enable_checkpoint("rate")
    (found,) = checkpointer.filter_checkpoints(run_id="one", output_event_type=Result)
    assert found.last_completed_step == "rate"
    with pytest.raises(WorkflowRuntimeError, match="no checkpoints of a run 'x'"):
        checkpointer.filter_checkpoints(run_id="x")


async def test_runs_of_other_workflows_are_not_ours(store: Store) -> None:
    class Other(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    await Other().run(run_id="other", store=store)
    checkpointer = WorkflowCheckpointer(Jokes(), store=store)
    assert dict(checkpointer.checkpoints) == {}
    assert "other" not in checkpointer.checkpoints


async def test_a_checkpointer_with_a_store_has_no_callback(store: Store) -> None:
    checkpointer = WorkflowCheckpointer(Jokes(), store=store)
    with pytest.raises(WorkflowRuntimeError, match="reads its checkpoints there, and has no callback"):
        checkpointer.new_checkpoint_callback_for_run()


async def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs.db")
    checkpointer = WorkflowCheckpointer(Jokes(), store=store)
    await checkpointer.run(topic="cats", run_id="one")
    records = store.read("one")

    class Damaging(MemoryStore):
        def read(self, run_id: str, start: int = 0) -> list[bytes]:
            return [*records[:2], records[3], *records[3:]][start:]

        def info(self, run_id: str) -> Any:
            return store.info(run_id)

    with pytest.raises(RunDamaged, match="run 'one', record 2 can't be read: its checksum is wrong"):
        WorkflowCheckpointer(Jokes(), store=Damaging()).checkpoints["one"]
    store.close()
