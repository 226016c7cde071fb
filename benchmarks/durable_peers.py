"""Other engines that keep every step of a run in SQLite, on asyncio: each is imported only if it is installed.

- langgraph with its `AsyncSqliteSaver`, ``durability="sync"``: the same graph as in peers.py.
- dbos on SQLite: a workflow that calls a step in a loop (it has no events), without its admin server.

Both use WAL or a rollback journal with ``synchronous=FULL``, as their defaults are. (llama-agents-dbos 0.7 doesn't run
with dbos 3.4, the version that installs beside it.)
"""

# No postponed annotations here: the classes below are local, so their names can't be looked up later.

import uuid
from asyncio import gather as wait_all
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from benchmarks.durable_rows import Contender, Go


def installed() -> list[Contender]:
    """The peers that can be imported here."""
    makers: list[tuple[tuple[str, ...], Callable[[], Contender]]] = [
        (("langgraph", "aiosqlite"), langgraph),
        (("dbos",), dbos),
    ]
    return [make() for modules, make in makers if all(map(find_spec, modules))]


def langgraph() -> Contender:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Command

    class Counter(TypedDict):
        n: int
        last: int

    async def ping(state: Counter) -> Command[str]:
        if state["n"] >= state["last"]:
            return Command(goto=END)
        return Command(goto="pong", update={"n": state["n"] + 1})

    async def pong(state: Counter) -> Command[str]:
        return Command(goto="ping", update={"n": state["n"] + 1})

    loops = StateGraph(Counter)
    loops.add_node("ping", ping, destinations=("pong", END))
    loops.add_node("pong", pong, destinations=("ping",))
    loops.add_edge(START, "ping")

    @asynccontextmanager
    async def opened(folder: Path) -> AsyncGenerator[Go]:
        async with AsyncSqliteSaver.from_conn_string(str(folder / "langgraph.db")) as saver:
            loop = loops.compile(checkpointer=saver)

            async def one(last: int) -> int:
                options = {"recursion_limit": last + 10, "configurable": {"thread_id": uuid.uuid4().hex}}
                return int((await loop.ainvoke({"n": 0, "last": last}, options, durability="sync"))["n"])

            async def go(runs: int, steps: int) -> int:
                return sum(await wait_all(*(one(steps - 1) for _ in range(runs))))

            yield go

    return Contender("langgraph", opened, "langgraph.db", peer=True)


def dbos() -> Contender:
    from dbos import DBOS

    @asynccontextmanager
    async def opened(folder: Path) -> AsyncGenerator[Go]:
        url = f"sqlite:///{folder / 'dbos.db'}"
        DBOS(config={"name": "bench", "system_database_url": url, "run_admin_server": False, "log_level": "ERROR"})

        @DBOS.step()
        async def count(n: int) -> int:
            return n + 1

        @DBOS.workflow()
        async def chain(steps: int) -> int:
            n = -1
            while n + 1 < steps:
                n = await count(n)
            return n

        async def go(runs: int, steps: int) -> int:
            return sum(await wait_all(*(chain(steps) for _ in range(runs))))

        DBOS.launch()
        try:
            yield go
        finally:
            DBOS.destroy(destroy_registry=True)

    return Contender("dbos", opened, "dbos.db", peer=True)
