"""What both type checkers must accept of stores, runtimes and stored classes. See check.py."""

from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type

import attrs
import cattrs

from flowkit import (
    Checkpoint,
    Context,
    Event,
    Handler,
    MemoryStore,
    RunSuspended,
    Runtime,
    SQLiteStore,
    StartEvent,
    StopEvent,
    StoreError,
    Workflow,
    WorkflowCheckpointer,
    open_runtime,
    step,
    stored_as,
)
from flowkit.runtime import HistoryEntry
from flowkit.store import RunInfo, Store


class Order(StartEvent):
    item: str


def add_currency(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "currency": "EUR"}


@stored_as("shop.paid", version=2, aliases=("shop:Payed",), upgrades={1: add_currency})
class Paid(Event):
    price: int
    currency: str


@stored_as(aliases=["shop:Cart"])
@attrs.define
class Basket:
    items: list[str] = attrs.field(factory=list[str])


class Shop(Workflow):
    @step(aliases=("pay",), atomic=True)
    async def charge(self, ctx: Context[Basket], ev: Order) -> Paid:
        assert_type(ctx.idempotency_key, str)
        return Paid(price=3, currency="EUR")

    @step
    async def ship(self, ev: Paid) -> StopEvent:
        return StopEvent(result=ev.currency)


async def simple() -> None:
    workflow = Shop(types=[Basket], converter=cattrs.Converter())
    await workflow.run(item="book", store=SQLiteStore("runs.db"), run_id="order-42")
    await workflow.run(item="book", store=MemoryStore(), durability="async")
    try:
        async with workflow.run(item="book", store=SQLiteStore(Path("runs.db"), synchronous="NORMAL")) as handler:
            assert_type(handler.run_id, str)
    except RunSuspended as error:
        assert_type(error.waiting, bool)
    except StoreError as error:
        assert_type(error.store, str)


async def many(store: Store) -> None:
    async with open_runtime(
        store=store,
        workflows=[Shop()],
        durability="sync",
        release_after=None,
        release_suspended=True,
        keep_finished=timedelta(days=30),
        lease=10,
    ) as runtime:
        assert_type(runtime, Runtime)
        handler = await runtime.run(Shop(), run_id="order-42", item="book")
        assert_type(handler.is_done(), bool)
        keep(handler)
        by_name = await runtime.run("Shop", start_event=Order(item="pen"))
        assert_type(await by_name, Any)
        assert_type(await runtime.handler("order-41"), Any)
        await runtime.send_event("order-41", Paid(price=1, currency="EUR"), step="ship")
        await runtime.cancel("order-40")
        assert_type(await runtime.runs(status="waiting", workflow="Shop", limit=10), list[RunInfo])
        assert_type(await runtime.history("order-42"), list[HistoryEntry])
        fork = await runtime.fork("order-42", after="charge", new_id="copy")
        assert_type(fork.run_id, str)
        assert_type(await runtime.prune(keep=100), int)
        await runtime.join()


def keep(handler: Handler) -> None: ...


def checkpoints(workflow: Workflow, store: Store) -> None:
    checkpointer = WorkflowCheckpointer(workflow, store=store)
    assert_type(checkpointer.checkpoints["x"], list[Checkpoint])
