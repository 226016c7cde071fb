"""What instruments give a run for the way: it is there again wherever the run goes on, and nowhere else."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import flowkit
from flowkit import (
    Context,
    Event,
    Instrument,
    MemoryStore,
    SerializationError,
    SQLiteStore,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCheckpointer,
    open_runtime,
    step,
)
from flowkit.instruments import ObservedRun
from flowkit.store import Store


class Middle(Event):
    n: int


class Sleepy(Workflow):
    """A step, then one that sleeps for long."""

    @step
    async def begin(self, ev: StartEvent) -> Middle:
        return Middle(1)

    @step
    async def sleep(self, ev: Middle) -> StopEvent:
        await anyio.sleep(100)
        return StopEvent(result=ev.n)


class Outer(Workflow):
    @step
    async def delegate(self, ev: StartEvent, inner: Sleepy) -> StopEvent:
        return StopEvent(result=await inner.run())


class Carrying(Instrument):
    """Gives each run its number."""

    def __init__(self, name: str = "number") -> None:
        self.name = name
        self.asked: list[str] = []
        self.runs: list[ObservedRun] = []

    def carry(self, run: ObservedRun) -> Mapping[str, str]:
        assert run.carried == {} and run.began is not None
        self.asked.append(run.run_id)
        return {self.name: f"{run.workflow} {len(self.asked)}"}

    def run_started(self, run: ObservedRun) -> None:
        self.runs.append(run)


@contextmanager
def added(one: Instrument) -> Iterator[None]:
    flowkit.add_instrument(one)
    try:
        yield
    finally:
        flowkit.remove_instrument(one)


@pytest.fixture(params=["memory", "sqlite"])
def reopened(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Gives the store; of SQLite one that has just been opened."""
    if request.param == "memory":
        store = MemoryStore()
        return lambda: store
    return lambda: SQLiteStore(tmp_path / "runs.db")


async def for_a_while(workflow: Workflow, seconds: float, **options: Any) -> None:
    """Run it for so long; then its owner goes away."""
    with anyio.move_on_after(seconds):
        await workflow.run(**options)
        raise AssertionError("it should have taken longer")


async def test_a_stored_run_brings_it_along(reopened: Any) -> None:
    store: Store = reopened()
    first, second = Carrying(), Carrying()
    await for_a_while(Sleepy(instruments=[first]), 5, store=store, run_id="r")
    store.close()
    store = reopened()
    assert await Sleepy(instruments=[second]).run(store=store, run_id="r") == 1
    store.close()
    assert (first.asked, second.asked) == (["r"], [])
    assert second.runs[0].carried == {"number": "Sleepy 1"} and second.runs[0].resumed


async def test_it_survives_a_process_without_instruments(reopened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowkit.log.SNAPSHOT_AFTER", 1)  # so that the process writes books
    store: Store = reopened()
    first, third = Carrying(), Carrying()
    await for_a_while(Sleepy(instruments=[first]), 5, store=store, run_id="r")
    await for_a_while(Sleepy(), 5, store=store, run_id="r")
    assert await Sleepy(instruments=[third]).run(store=store, run_id="r") == 1
    store.close()
    assert third.asked == [] and third.runs[0].carried == {"number": "Sleepy 1"}


async def test_a_run_that_carries_nothing_is_asked_where_it_goes_on_and_keeps_that(reopened: Any) -> None:
    store: Store = reopened()
    second, third = Carrying(), Carrying()
    await for_a_while(Sleepy(), 5, store=store, run_id="r")
    await for_a_while(Sleepy(instruments=[second]), 5, store=store, run_id="r")
    assert await Sleepy(instruments=[third]).run(store=store, run_id="r") == 1
    store.close()
    assert second.asked == ["r"] and second.runs[0].resumed
    assert third.asked == [] and third.runs[0].carried == {"number": "Sleepy 1"}


async def test_nothing_is_written_where_nothing_is_carried() -> None:
    plain, watched, carried = MemoryStore(), MemoryStore(), MemoryStore()
    await for_a_while(Sleepy(), 5, store=plain, run_id="r")
    await for_a_while(Sleepy(instruments=[Instrument()]), 5, store=watched, run_id="r")
    await for_a_while(Sleepy(instruments=[Carrying()]), 5, store=carried, run_id="r")
    [head, *_], [seen, *_], [fuller, *_] = (store.read("r") for store in (plain, watched, carried))
    assert head == seen and b'"carried"' not in head
    assert json.loads(fuller[8:])[3].pop("carried") == {"number": "Sleepy 1"}


async def test_a_run_that_has_ended_is_asked_nothing() -> None:
    store = MemoryStore()
    await Sleepy().run(store=store, run_id="r")
    told = Carrying()
    length = len(store.read("r"))
    assert await Sleepy(instruments=[told]).run(store=store, run_id="r") == 1
    assert (told.asked, told.runs, len(store.read("r"))) == ([], [], length)


async def test_a_nested_run_has_its_own() -> None:
    def made(told: Carrying) -> Outer:
        outer = Outer(instruments=[told])
        outer.add_workflows(inner=Sleepy())
        return outer

    store = MemoryStore()
    first, second = Carrying(), Carrying()
    await for_a_while(made(first), 5, store=store, run_id="r")
    assert await made(second).run(store=store, run_id="r") == 1
    assert len(first.asked) == 2 and second.asked == []
    assert [run.carried for run in second.runs] == [{"number": "Outer 1"}, {"number": "Sleepy 2"}]


async def saved(told: Carrying, **options: Any) -> dict[str, Any]:
    """A context, as data, of a run that has been going for a while."""
    handler = Sleepy(instruments=[told], **options).run()
    async with handler:
        await anyio.sleep(5)
        data = handler.ctx.to_dict()
        await handler.cancel_run()
    handler.exception()
    return json.loads(json.dumps(data))  # type: ignore[no-any-return]


async def test_a_context_as_data_brings_it_along(reopened: Any) -> None:
    first, second, third = Carrying(), Carrying(), Carrying()
    data = await saved(first)
    assert data["carried"] == {"number": "Sleepy 1"}
    workflow = Sleepy(instruments=[second])
    assert await workflow.run(ctx=Context.from_dict(workflow, data)) == 1
    assert second.asked == [] and second.runs[0].carried == data["carried"] and second.runs[0].resumed
    store: Store = reopened()  # and on into a store
    workflow = Sleepy(instruments=[second])
    await for_a_while(workflow, 5, ctx=Context.from_dict(workflow, data), store=store, run_id="r")
    assert await Sleepy(instruments=[third]).run(store=store, run_id="r") == 1
    store.close()
    assert third.asked == [] and third.runs[0].carried == data["carried"]


async def test_a_context_that_carries_nothing_is_written_as_before() -> None:
    handler = Sleepy().run()
    async with handler:
        await anyio.sleep(5)
        data = handler.ctx.to_dict()
        await handler.cancel_run()
    handler.exception()
    assert data.keys() == {"flowkit", "workflow", "state", "run"}


@pytest.mark.parametrize("carried", ["text", [], {"a": 1}, {"a": None}, 7])
async def test_what_no_flowkit_carries_is_refused(carried: Any) -> None:
    data = await saved(Carrying())
    data["carried"] = carried
    with pytest.raises(SerializationError, match=r"^\$\.carried: text by name is expected: pass what ctx\.to_dict\(\)"):
        Context.from_dict(Sleepy(), data)


@pytest.mark.parametrize("stored", [False, True])
async def test_a_checkpoint_brings_it_along(stored: bool) -> None:
    told, again = Carrying(), Carrying()
    workflow = Sleepy(instruments=[told])
    checkpointer = WorkflowCheckpointer(workflow, store=MemoryStore() if stored else None)
    assert await checkpointer.run(run_id="r") == 1
    [begun, _] = checkpointer.checkpoints["r"]
    assert begun.ctx_state["carried"] == {"number": "Sleepy 1"}
    with added(again):
        assert await checkpointer.run_from(begun) == 1
    assert again.asked == [] and again.runs[0].carried == {"number": "Sleepy 1"}


async def test_a_checkpoint_of_a_run_that_went_on_from_one_brings_it_along() -> None:
    first = Carrying()
    checkpointer = WorkflowCheckpointer(Sleepy(instruments=[first]))
    await checkpointer.run(run_id="r")
    handler = checkpointer.run_from(checkpointer.checkpoints["r"][0])
    await handler
    assert checkpointer.checkpoints[handler.run_id][-1].ctx_state["carried"] == {"number": "Sleepy 1"}


async def test_a_fork_has_its_own_and_knows_what_the_other_carried(reopened: Any) -> None:
    store: Store = reopened()
    told, again = Carrying(), Carrying()
    with added(told):
        async with open_runtime(store=store, workflows=[Sleepy()]) as runtime:
            await runtime.run(Sleepy(), run_id="r")
            await anyio.sleep(5)
            await runtime.fork("r", after="begin", new_id="f")
            await anyio.sleep(5)
    assert sorted(told.asked) == ["f", "r"]
    forked = told.runs[1]
    assert (forked.forked_from, forked.inherited, forked.carried) == (
        "r",
        {"number": "Sleepy 1"},
        {"number": "Sleepy 2"},
    )
    with added(again):
        async with open_runtime(store=store, workflows=[Sleepy()]) as runtime:
            handler = await runtime.run(Sleepy(), run_id="f")
            assert await handler == 1
    store.close()
    assert again.asked == []
    of_fork = next(run for run in again.runs if run.run_id == "f")
    assert (of_fork.carried, of_fork.inherited) == ({"number": "Sleepy 2"}, {"number": "Sleepy 1"})
