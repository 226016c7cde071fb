"""``handler.stored()``: what was sent is in the store then, or the caller is told why it isn't."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from stored_flows import Approved, Ask, Charged, Patient, wall_clock

from flowkit import HumanResponseEvent, MisdirectedEvent, SQLiteStore
from flowkit.memory_store import MemoryStore
from flowkit.storage_errors import StoreError
from flowkit.store import Write

__all__ = ["wall_clock"]


class Full(MemoryStore):
    """Stores nothing more once it ``is_full``."""

    is_full = False

    def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
        if self.is_full:
            raise StoreError("the store", "the disk is full", "make room", "full")
        return super().commit(writes, wait=wait)


async def test_what_was_sent_survives_whatever_comes_next() -> None:
    store = MemoryStore()
    async with Patient().run(store=store, run_id="a") as handler:
        await anyio.sleep(1)
        handler.send_event(Charged("pen"))
        await handler.stored()
        first = store.info("a")
        handler.send_event(Charged("ink"))
        await handler.stored()
        second = store.info("a")
        assert first is not None and second is not None and second.length > first.length
        handler.send_event(Approved())
        assert await handler == ["pen", "ink"]


async def test_it_is_in_the_file(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs.db")
    async with Ask().run(store=store, run_id="a") as handler:
        handler.send_event(HumanResponseEvent(response=3))  # before the run has begun
        await handler.stored()
        other = SQLiteStore(tmp_path / "runs.db")
        assert len(other.read("a")) >= 2  # its head and start, and the answer
        other.close()
        assert await handler == 3
    store.close()


async def test_without_a_store_there_is_nothing_to_wait_for() -> None:
    async with Ask().run() as handler:
        handler.send_event(HumanResponseEvent(response=3))
        await handler.stored()
        assert await handler == 3


async def test_the_caller_is_told_what_the_store_did_not_take() -> None:
    store = Full()
    handler = Patient().run(store=store, run_id="a")
    await anyio.sleep(1)
    store.is_full = True
    handler.send_event(Charged("pen"))
    await anyio.sleep(1)  # the store has failed, and the run has ended here
    with pytest.raises(StoreError, match="the disk is full"):
        await handler.stored()
    with pytest.raises(StoreError, match="the disk is full"):
        await handler


async def test_the_caller_is_told_where_the_run_never_began() -> None:
    store = Full()
    store.is_full = True
    handler = Patient().run(store=store, run_id="a")
    handler.send_event(Charged("pen"))
    with pytest.raises(StoreError, match="the disk is full"):
        await handler.stored()
    with pytest.raises(StoreError, match="the disk is full"):
        await handler


async def test_the_run_may_have_ended_meanwhile() -> None:
    handler = Ask().run(store=MemoryStore(), run_id="a")
    await anyio.sleep(1)
    handler.send_event(HumanResponseEvent(response=3))
    assert await handler == 3
    await handler.stored()


async def test_a_mistake_is_said_at_the_call() -> None:
    async with Ask().run() as handler:
        await anyio.sleep(1)
        with pytest.raises(MisdirectedEvent):
            handler.send_event(HumanResponseEvent(response=3), "nobody")
        handler.send_event(HumanResponseEvent(response=3))
