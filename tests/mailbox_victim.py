"""The programs that test_mailbox_kill.py kills: one drives a run, the other sends to it.

Started as ``python -c "import mailbox_victim; mailbox_victim.main()" FOLDER ROLE LIFE BACKEND COUNT``. What they do
goes into files in the folder, one system call each: ``trace.ROLE.LIFE`` gets a letter for each thing begun or ended
(`c` and `C` a commit, `p` and `P` a post); ``tried`` a number before it is sent, ``sent`` the same afterwards.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import anyio

from flowkit import Context, Event, StartEvent, StopEvent, Workflow, step
from flowkit.runtime import open_runtime
from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import RunElsewhere

RUN_ID = "box"
AT_ONCE = 5

FOLDER = Path()
TRACE = ""
FILES: dict[str, int] = {}


def tell(name: str, text: str) -> None:
    if name not in FILES:
        FILES[name] = os.open(FOLDER / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(FILES[name], text.encode())


class Letter(Event):
    n: int


class Done(Event):
    pass


class Collecting(Workflow):
    """Notes each `Letter`, ends with `Done`."""

    @step
    async def begin(self, ev: StartEvent) -> None:
        return None

    @step(atomic=True, num_workers=1)
    async def note(self, ctx: Context, ev: Letter) -> None:
        await ctx.set("letters", [*await ctx.get("letters", []), ev.n])

    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent:
        return StopEvent(result=await ctx.get("letters", []))


class TracedStore(SQLiteStore):
    def commit(self, *args: Any, **options: Any) -> list[bool]:
        tell(TRACE, "c")
        stored = super().commit(*args, **options)
        tell(TRACE, "C")
        return stored

    def post(self, *args: Any) -> int | None:
        tell(TRACE, "p")
        number = super().post(*args)
        tell(TRACE, "P")
        return number


async def own() -> None:
    """Drive the run for as long as there is somebody to kill it."""
    flow = Collecting(stalled="wait")
    async with open_runtime(store=TracedStore(FOLDER / "runs.db"), workflows=[flow]) as runtime:
        with contextlib.suppress(RunElsewhere):  # the sender has taken it over
            await runtime.run(flow, run_id=RUN_ID)
        tell(TRACE, "o")
        await anyio.sleep_forever()


async def send(count: int) -> None:
    """Send what has never been tried."""
    flow = Collecting(stalled="wait")
    tried = (FOLDER / "tried").read_text().split() if (FOLDER / "tried").exists() else []
    left = [n for n in range(count) if str(n) not in tried]
    async with open_runtime(store=TracedStore(FOLDER / "runs.db"), workflows=[flow], take_up=False) as runtime:
        tell(TRACE, "o")

        async def one(n: int) -> None:
            tell("tried", f"{n}\n")
            await runtime.send_event(RUN_ID, Letter(n=n))
            tell("sent", f"{n}\n")
            tell(TRACE, "s")

        for first in range(0, len(left), AT_ONCE):
            async with anyio.create_task_group() as group:
                for n in left[first : first + AT_ONCE]:
                    group.start_soon(one, n)


def main() -> None:
    global FOLDER, TRACE
    folder, role, life, backend, count = sys.argv[1:]
    FOLDER, TRACE = Path(folder), f"trace.{role}.{life}"
    tell(TRACE, "m")
    if role == "own":
        anyio.run(own, backend=backend)
    else:
        anyio.run(send, int(count), backend=backend)
