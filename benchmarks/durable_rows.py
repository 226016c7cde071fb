"""What `durable.py` measures: flowkit with its stores, and SQLite without any engine.

A contender is opened in a folder of its own, as a program would open it when it starts (outside the measured time),
and is then told how many runs to drive at once, and through how many steps each. Every contender does the same: two
steps send each other a counter until it has reached the last number.

`commits` is the floor: as many bytes as a flowkit record has, inserted and committed, one transaction after another or
one for every 50 (as if every run had a record ready all the time).
"""

import os
import sqlite3
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
from anyio import create_task_group

from benchmarks.flowkit_rows import Loop
from flowkit.log import Durability
from flowkit.memory_store import MemoryStore
from flowkit.runtime import open_runtime
from flowkit.sqlite_store import SQLiteStore
from flowkit.store import Store, Write

MILLISECOND = 0.001
RECORD = b"x" * 75
"""As long as a record of this chain, with its checksums."""

Go = Callable[[int, int], Awaitable[int]]
"""Drives so many runs at once, through so many steps each; returns the sum of what they counted to."""


@attrs.frozen
class Contender:
    name: str
    opened: Callable[[Path], AbstractAsyncContextManager[Go]]
    file: str = ""
    """What it writes to, in its folder; "" for memory."""
    peer: bool = False


def commits(group: int, wait: float = 0.0) -> Contender:
    """Nothing but SQLite: an insert each, a commit for each ``group``."""
    name = f"raw commits{f' of {group}' if group > 1 else ''}"
    return Contender(name, partial(_commits, group, wait), "raw.db")


@asynccontextmanager
async def _commits(group: int, wait: float, folder: Path) -> AsyncGenerator[Go]:
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE records(id INTEGER PRIMARY KEY, data BLOB NOT NULL)")

    async def go(runs: int, steps: int) -> int:
        done = 0
        while done < runs * steps:
            connection.execute("BEGIN IMMEDIATE")
            for _ in range(group):
                connection.execute("INSERT INTO records(data) VALUES (?)", (RECORD,))
            connection.execute("COMMIT")
            time.sleep(wait)  # noqa: ASYNC251 - it is the disk's
            done += group
        return runs * (steps - 1)

    try:
        yield go
    finally:
        connection.close()


class SlowStore(SQLiteStore):
    """On a disk that takes a millisecond longer for each commit. Which thread that keeps busy is flowkit's decision."""

    def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
        stored = super().commit(writes, wait=wait)
        time.sleep(MILLISECOND)
        return stored


def _memory(path: Path) -> Store:
    return MemoryStore()


def flowkit(
    name: str, store: Callable[[Path], Store] = SQLiteStore, durability: Durability = "sync", *, in_memory: bool = False
) -> Contender:
    return Contender(name, partial(_flowkit, store, durability), "" if in_memory else "runs.db")


@asynccontextmanager
async def _flowkit(make: Callable[[Path], Store], durability: Durability, folder: Path) -> AsyncGenerator[Go]:
    flow = Loop(0)
    store = make(folder / "runs.db")
    async with open_runtime(store=store, workflows=[flow], durability=durability) as runtime:

        async def go(runs: int, steps: int) -> int:
            flow.last = steps - 1
            results: list[int] = []

            async def one() -> None:
                handler = await runtime.run(flow, run_id=uuid.uuid4().hex, n=0)
                results.append(await handler)

            async with create_task_group() as tasks:
                for _ in range(runs):
                    tasks.start_soon(one)
            return sum(results)

        yield go
    store.close()


RAW = [commits(1), commits(50)]
SLOW_RAW = [commits(1, MILLISECOND), commits(50, MILLISECOND)]
STORES = [
    flowkit("flowkit sync"),
    flowkit("flowkit async", durability="async"),
    flowkit("flowkit in memory", _memory, in_memory=True),
]
SLOW_STORES = [flowkit("flowkit sync", SlowStore), flowkit("flowkit async", SlowStore, "async")]


def size(contender: Contender, folder: Path) -> int:
    """Bytes that it has left on disk."""
    return os.stat(folder / contender.file).st_size if contender.file else 0
