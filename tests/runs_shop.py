"""A folder with a store of runs, for the tests of ``flowkit runs``; and a process that drives some of them."""

import itertools
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_runs import Folder, Told, entered
from terminals import plain_environment

__all__ = ["Shop", "shop"]

SHOP = '''
import anyio

from flowkit import *


class Placed(StartEvent):
    item: str = "book"


class Approve(InputRequiredEvent):
    text: str


class Approved(HumanResponseEvent):
    by: str
    ok: bool = True


class Shipped(Event):
    item: str


class Unrelated(Event):
    pass


class Order(Workflow):
    @step
    async def charge(self, ctx: Context, ev: Placed) -> Approve:
        await ctx.set("charged", ev.item)
        return Approve(text=f"ship the {ev.item}?")

    @step
    async def ship(self, ctx: Context, ev: Approved) -> Shipped:
        if not ev.ok:
            raise ValueError(f"{ev.by} says no")
        return Shipped(item=await ctx.get("charged"))

    @step
    async def end(self, ev: Shipped) -> StopEvent:
        return StopEvent(result=f"{ev.item} shipped")


class Waits(Workflow):
    """Suspended in a wait, with a requirement."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        got = await ctx.wait_for_event(Approved, Approve(text="go?"), requirements={"by": "boss"}, timeout=86400)
        return StopEvent(result=got.ok)


class Quick(Workflow):
    """No step of it could wait for anything."""

    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(600)
        return StopEvent()


class Slow(Workflow):
    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await anyio.sleep(600)
        return StopEvent()


class Outer(Workflow):
    @step
    async def delegate(self, ev: StartEvent, inner: Waits) -> StopEvent:
        return StopEvent(result=await inner.run())


def outer() -> Outer:
    made = Outer()
    made.add_workflows(inner=Waits())
    return made
'''

OWNER = """
import sys

import anyio
import {module} as shop

from flowkit import SQLiteStore, open_runtime

async def main():
    store = SQLiteStore("runs.db")
    flows = [shop.Order(), shop.Waits(), shop.Quick(), shop.Slow(), shop.outer()]
    async with open_runtime(store=store, workflows=flows, take_up={takes_up}) as runtime:
        for start in sys.argv[2:]:
            run_id, _, flow = start.partition("=")
            await runtime.run(flow, run_id=run_id)
        await runtime.join() if {rests} else await anyio.sleep(0.2)
        print("up", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
    store.close()

anyio.run(main, backend=sys.argv[1])
"""

_NUMBERS = itertools.count(1)


class Shop:
    """The command line in a folder with a store, ``runs.db``, and a module of workflows."""

    def __init__(self, folder: Folder, module: str) -> None:
        self.folder = folder
        self.module = module

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def store(self) -> Path:
        return self.path / "runs.db"

    def call(self, *arguments: str, input: str | None = None) -> Told:
        return self.folder.call(*arguments, input=input)

    def runs(self, *arguments: str, input: str | None = None) -> Told:
        return self.folder.call("runs", *arguments, input=input)

    def start(self, run_id: str, *values: str, flow: str = "Order") -> None:
        """A run that is left waiting, with nobody to drive it."""
        told = self.call("run", f"{self.module}:{flow}", *values, "--run-id", run_id, "--quiet", input="")
        assert told.code == 4, told

    def finish(self, run_id: str, *values: str, answer: str = "me") -> None:
        told = self.call("run", f"{self.module}:Order", *values, "--run-id", run_id, "--quiet", input=f"{answer}\n")
        assert told.code in (0, 1), told

    @contextmanager
    def owner(
        self, *starts: str, backend: str = "asyncio", rests: bool = True, takes_up: bool = False
    ) -> Generator["subprocess.Popen[str]"]:
        """A process that drives new runs: ``("a=Order",)``."""
        program = OWNER.format(module=self.module, rests=rests, takes_up=takes_up)
        process = subprocess.Popen(
            [sys.executable, "-c", program, backend, *starts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.path,
            env=plain_environment(),
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == "up\n"
            yield process
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(60)
            process.stdin.close()
            process.stdout.close()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with entered(tmp_path, monkeypatch) as folder:
        module = f"shop{next(_NUMBERS)}"
        folder.write(f"{module}.py", SHOP)
        flows = ",".join(f"{module}:{name}" for name in ("Order", "Waits", "Quick", "Slow", "outer"))
        monkeypatch.setenv("FLOWKIT_FLOWS", flows)
        monkeypatch.setenv("FLOWKIT_STORE", "runs.db")
        yield Shop(folder, module)
