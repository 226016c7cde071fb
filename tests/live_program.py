"""A program with a live view, for terminals of the tests: `python live_program.py FOLDER [OPTION]…`.

It goes on when a file comes into the folder, and not when time has passed: "go", "prompt" and "end", in this order.
Options: ``fail`` (a step fails in the end), ``trio``.
"""

import logging
import sys
from pathlib import Path

import anyio

from flowkit import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from flowkit.live_view import LiveView

HERE = Path(sys.argv[1])
OPTIONS = sys.argv[2:]


async def come(name: str) -> None:
    while not (HERE / name).exists():  # noqa: ASYNC110 - it is told by a file
        await anyio.sleep(0.01)


class Item(Event):
    n: int


class Made(Event):
    n: int


class Program(Workflow):
    @step
    async def plan(self, ev: StartEvent) -> list[Item]:
        return [Item(n) for n in range(30)]

    @step(num_workers=3)
    async def work(self, ctx: Context, ev: Item) -> Made:
        if ev.n == 20:
            print("[red]printed[/red] by a step")  # noqa: T201
            logging.getLogger("program").warning("logged by a step")
            ctx.write_event_to_stream(Event(text="shown\n\x1b[2Jby a step"))
        if ev.n > 20:
            await come("go")
        return Made(ev.n)

    @step
    async def gather(self, ctx: Context, evs: list[Made]) -> StopEvent:
        await come("prompt")
        answer = await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(prefix="Publish?"))
        await come("end")
        if "fail" in OPTIONS:
            raise ValueError("no luck")
        return StopEvent(result=answer.response)


async def main() -> None:
    with LiveView() as view:
        async with Program(timeout=900).run(run_id="r1") as handler:
            async for event in handler.stream_events():
                if isinstance(event, InputRequiredEvent):
                    with view.paused():
                        answer = await anyio.to_thread.run_sync(input, f"{event.prefix} ", abandon_on_cancel=True)
                    handler.send_event(HumanResponseEvent(response=answer))
            print("result:", await handler)  # noqa: T201
    print("after")  # noqa: T201


logging.basicConfig(format="%(message)s")
anyio.run(main, backend="trio" if "trio" in OPTIONS else "asyncio")
