"""The errors of runs that are kept, as their user meets them: what happened, where, and what to do about it."""

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from misuses import Case, Misuses
from stored_flows import Approved, Ask, Order, Slow, WaitsForApproval, wall_clock

from flowkit import (
    HumanResponseEvent,
    SerializationError,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowError,
    WorkflowRuntimeError,
    step,
    storage_errors,
)
from flowkit.memory_store import MemoryStore
from flowkit.runtime import open_runtime
from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import (
    CodeChanged,
    LeaseLost,
    NewerData,
    RunDamaged,
    RunElsewhere,
    RunSuspended,
    StoreBusy,
    StoredError,
    StoreError,
    TypeChanged,
    UnexpectedEvent,
    UnknownRun,
    WrongWorkflow,
)

__all__ = ["wall_clock"]

misuse = Misuses()


async def waiting(run_id: str = "order-42") -> MemoryStore:
    """A store with a run that waits."""
    store = MemoryStore()
    async with open_runtime(store=store, workflows=[Ask()]) as runtime:
        await runtime.run("Ask", run_id=run_id)
        await runtime.join()
    return store


@misuse(UnknownRun, "the store has no run 'order-43': did you mean 'order-42'?")
async def a_slip_in_the_id() -> None:
    async with open_runtime(store=await waiting(), workflows=[Ask()]) as runtime:
        await runtime.send_event("order-43", HumanResponseEvent(response=1))


@misuse(UnknownRun, "the store has no run 'x': await runtime.runs() lists those it has.")
async def an_id_like_no_other() -> None:
    async with open_runtime(store=await waiting(), workflows=[Ask()]) as runtime:
        await runtime.cancel("x")


@misuse(
    WrongWorkflow,
    "run 'order-42' belongs to Ask, not to Order: give this run another run_id, or run it with Ask.",
)
async def an_id_of_another_workflow() -> None:
    await Order().run(store=await waiting(), run_id="order-42")


@misuse(
    UnexpectedEvent,
    "run 'order-42' of Ask doesn't take Approved now: it takes HumanResponseEvent.",
)
async def an_event_nobody_waits_for() -> None:
    async with open_runtime(store=await waiting(), workflows=[Ask()]) as runtime:
        await runtime.send_event("order-42", Approved())


@misuse(
    RunElsewhere,
    "run 'order-42' is driven by another handle in this process: ask that process, or wait until it has ended or its "
    "lease is over.",
)
async def two_handles_of_one_run() -> None:
    store = MemoryStore()
    handler = Slow().run(store=store, run_id="order-42")
    await anyio.sleep(1)
    try:
        await Slow().run(store=store, run_id="order-42")
    finally:
        await handler


@misuse(
    RunSuspended,
    "run 'order-42' of Slow was suspended, as its runtime was closed: it goes on from its store when the same run_id "
    "is run again.",
)
async def a_runtime_that_was_closed() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Slow()]) as runtime:
        handler = await runtime.run("Slow", run_id="order-42")
    await handler


@misuse(
    RunSuspended,
    "run 'order-42' of Ask was suspended, as its block was left while it waited for somebody outside; answer inside "
    "the block, or keep the handle: it goes on from its store when the same run_id is run again.",
)
async def a_block_that_was_left() -> None:
    async with Ask().run(store=MemoryStore(), run_id="order-42"):
        pass


def again(name: str, *bases: type[Workflow]) -> Any:
    """A later version of a workflow."""
    return type(name, bases, {})()


@misuse(
    CodeChanged,
    "run 'order-42' of WaitsForApproval can't go on with the code as it is now: it has a StartEvent for step 'wait', "
    "which there isn't any more: write @step(aliases=(\"wait\",)) above the step that goes on with it, or keep 'wait' "
    "until such runs have ended.",
)
async def a_step_that_is_gone() -> None:
    store = MemoryStore()
    with anyio.move_on_after(1):
        await WaitsForApproval().run(store=store, run_id="order-42")
    await again("WaitsForApproval", Ask).run(store=store, run_id="order-42")


@misuse(RunDamaged, "run 'order-42', record 0 can't be read: its checksum is wrong.")
async def a_flipped_bit() -> None:
    store = await waiting()
    run = store._runs["order-42"]
    run.records[0] = run.records[0][:-1] + b"x"
    await Ask().run(store=store, run_id="order-42")


@misuse(
    SerializationError,
    "$.event.response: a function can't be stored: keep live objects out of events and state, let a Resource hold "
    "them.",
)
async def a_callback_in_an_event() -> None:
    async with open_runtime(store=await waiting(), workflows=[Ask()]) as runtime:
        await runtime.send_event("order-42", HumanResponseEvent(response=lambda: None))


@pytest.mark.parametrize("case", misuse.run, ids=str)
async def test_it_says_what_where_and_what_to_write(case: Case) -> None:
    assert await case.told_in_a_loop() == case.text


# ------------------------------------------------------------------------------------------------------ the store


async def test_a_damaged_run_is_set_aside_said_again_and_goes_on_once_it_is_whole() -> None:
    store = await waiting()
    run = store._runs["order-42"]
    whole = run.records[1]
    run.records[1] = whole[:-2] + b"x]"
    async with open_runtime(store=store, workflows=[Ask(), Order()]) as runtime:
        for call in (runtime.history, runtime.cancel, lambda run_id: runtime.send_event(run_id, Approved())):
            with pytest.raises(RunDamaged, match="run 'order-42', record 1 can't be read: its checksum is wrong"):
                await call("order-42")
        with pytest.raises(RunDamaged, match="record 1"):
            await runtime.handler("order-42")
        assert [one.run_id for one in await runtime.runs(status="damaged")] == ["order-42"]
        assert await (await runtime.run("Order", run_id="b")) == "book for book"
        run.records[1] = whole
        await runtime.send_event("order-42", HumanResponseEvent(response=1))
        assert await runtime.handler("order-42") == 1
        assert [one.run_id for one in await runtime.runs(status="damaged")] == []


async def test_a_store_that_fails_ends_the_run_in_memory_and_the_next_goes_on() -> None:
    class Full(MemoryStore):
        full = False

        def commit(self, writes: Any, *, wait: bool = True) -> list[bool]:
            if self.full:
                raise StoreError("Full()", "the disk is full", "make room", "full")
            return super().commit(writes, wait=wait)

    store, workflow = Full(), Order()
    handler = workflow.run(store=store, run_id="a", item="pen")
    await anyio.sleep(1.5)
    store.full = True
    with pytest.raises(StoreError, match=r"Full\(\): the disk is full: make room\.") as failed:
        await handler
    assert failed.value.kind == "full"
    store.full = False
    assert await workflow.run(store=store, run_id="a", item="pen") == "pen for pen"
    assert workflow.done == ["charge", "ship", "ship"]


async def test_a_store_that_fails_in_a_runtime_is_tried_again() -> None:
    class Full(MemoryStore):
        full = False

        def commit(self, writes: Any, *, wait: bool = True) -> list[bool]:
            if self.full:
                raise StoreError("Full()", "the disk is full", "make room", "full")
            return super().commit(writes, wait=wait)

    store, workflow = Full(), Order()
    async with open_runtime(store=store, workflows=[workflow]) as runtime:
        handler = await runtime.run(workflow, run_id="a", item="pen")
        await anyio.sleep(0.5)
        store.full = True
        with pytest.raises(StoreError, match="the disk is full"):
            await handler
        with pytest.raises(StoreError, match="the disk is full"):
            await runtime.run(workflow, run_id="b")
        assert store.info("b") is None
        store.full = False
        await anyio.sleep(30)
        assert await runtime.handler("a") == "pen for pen"
        assert await (await runtime.run(workflow, run_id="b")) == "book for book"


@pytest.mark.parametrize(
    ("path", "content", "kind", "text"),
    [
        ("runs.db", b"not a database " * 100, "no-store", r"runs\.db'\): .*"),
        ("nowhere/runs.db", None, "failed", r"nowhere/runs\.db'\): .*"),
        (".", None, "failed", r"'\): .*"),
    ],
)
async def test_a_path_that_is_no_store(tmp_path: Path, path: str, content: bytes | None, kind: str, text: str) -> None:
    if content is not None:
        (tmp_path / path).write_bytes(content)
    store = SQLiteStore(tmp_path / path)
    for open_it in (
        lambda: Order().run(store=store, run_id="a")._outcome(),
        lambda: open_runtime(store=store, workflows=[Order()]).__aenter__(),
    ):
        with pytest.raises(StoreError, match=text) as failed:
            await open_it()
        error = failed.value
        assert str(error) == f"{error.store}: {error.problem}: {error.cure}."
        assert error.kind in (kind, "no-store")
        assert error.cure
    if content is not None:
        assert (tmp_path / path).read_bytes() == content


# ---------------------------------------------------------------------------------------------------- what is kept


class Silly(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__("silly")


@pytest.mark.parametrize("error", [ValueError("no such customer"), KeyError("k"), OSError(2, "gone", "f"), Silly(1, 2)])
async def test_what_a_run_failed_with_comes_back_or_is_stood_for(error: Exception) -> None:
    class Fails(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            raise error

    store, said = MemoryStore(), []
    for _ in range(2):
        with pytest.raises(StepFailed) as failed:
            await Fails().run(store=store, run_id="a")
        said.append((str(failed.value), failed.value.__cause__))
    assert said[0][1] is error
    again = said[1][1]
    if isinstance(error, Silly):
        assert isinstance(again, StoredError)
        assert again.type_name.endswith("Silly")
        assert again.text == "silly"
        assert str(again).endswith("Silly: silly")
    else:
        assert (type(again), again.args) == (type(error), error.args)
        assert said[0][0] == said[1][0]


# --------------------------------------------------------------------------------------------------- as classes

EXAMPLES: list[WorkflowError] = [
    TypeChanged("a problem", path="$.a", cure="a cure"),
    NewerData("shop:Paid", 3, 2, path="$.event"),
    StoredError("shop.Odd", "text"),
    StoredError("shop.Odd", ""),
    StoreError("SQLiteStore('runs.db')", "the disk is full", "make room", "full"),
    StoreBusy("SQLiteStore('runs.db')", "another process is writing", "try again"),
    RunDamaged("a", 3, "its checksum is wrong", path="$.event"),
    RunDamaged("a", None, "its line in the index isn't as it was written"),
    CodeChanged("a", "Order", "step 'ship' is gone", "give it back", step="ship"),
    UnknownRun("a", ["b"]),
    WrongWorkflow("a", "Order", "Refund"),
    RunElsewhere("a", "host:1:2"),
    LeaseLost("a"),
    UnexpectedEvent("a", "Order", Approved("me"), ["Paid", "Sent"]),
    UnexpectedEvent("a", "Order", Approved("me"), []),
    RunSuspended("a", "Order", "its runtime was closed", waiting=True),
]


def test_every_class_has_an_example() -> None:
    assert {type(error).__name__ for error in EXAMPLES} == set(storage_errors.__all__)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_copying_and_pickling_with_its_facts(error: WorkflowError) -> None:
    for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error)
        assert str(other) == str(error)
        facts = vars(error).keys() - {"others"}
        assert {name: getattr(other, name) for name in facts} == {name: getattr(error, name) for name in facts}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_a_text_is_a_sentence_that_names_its_facts(error: WorkflowError) -> None:
    text = str(error)
    assert text == error.message
    if isinstance(error, StoredError):
        return  # it says what the other said
    assert re.search(r"[.?!]$", text), text
    assert "None" not in text
    assert "  " not in text
    for name in ("run_id", "workflow", "stored", "owner", "store", "problem", "cure", "reason"):
        value = getattr(error, name, None)
        if value:
            assert str(value) in text, (name, text)


def test_what_can_be_caught_by_what() -> None:
    for error in EXAMPLES:
        assert isinstance(error, SerializationError if isinstance(error, TypeChanged) else WorkflowRuntimeError)
    assert issubclass(UnknownRun, KeyError)
    assert issubclass(StoreBusy, StoreError)
