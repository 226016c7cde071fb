"""The workloads as flowkit workflows, written as its documentation would have a user write them.

No private call and no option a user wouldn't set. A workflow is made once and run many times, as in a server;
what `run()` does is all inside the measured time. The step that gathers has one worker, like the floor's;
everything else is a default. `fan` is there in both forms that flowkit offers: `ctx.send_event` with
`ctx.collect_events` (its list of expected events built once), and a returned list with a `list[...]`
parameter.
"""

from collections.abc import Callable

from anyio import create_task_group
from anyio.lowlevel import checkpoint

from benchmarks.measure import Sample
from benchmarks.workloads import STREAM_BATCH, settle
from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)


class Go(StartEvent):
    n: int


class Ping(Event):
    n: int


class Pong(Event):
    n: int


class Item(Event):
    n: int


class Done(Event):
    n: int


class Tick(Event):
    n: int


class Loop(Workflow):
    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    @step
    async def ping(self, ev: Go | Ping) -> Pong | StopEvent:
        if ev.n >= self.last:
            return StopEvent(result=ev.n)
        return Pong(n=ev.n + 1)

    @step
    async def pong(self, ev: Pong) -> Ping:
        return Ping(n=ev.n + 1)


class Hello(Workflow):
    @step
    async def greet(self, ev: Go) -> StopEvent:
        return StopEvent(result=ev.n)


class Fan(Workflow):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.expected: list[type[Event]] = [Done] * n

    @step
    async def send(self, ctx: Context, ev: Go) -> Item | None:
        for i in range(ev.n):
            ctx.send_event(Item(n=i))
        return None

    @step(num_workers=4)
    async def work(self, ev: Item) -> Done:
        return Done(n=2 * ev.n)

    @step(num_workers=1)
    async def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
        done = ctx.collect_events(ev, self.expected)
        if done is None:
            return None
        return StopEvent(result=sum(event.n for event in done))


class ListFan(Workflow):
    @step
    async def send(self, ev: Go) -> list[Item]:
        return [Item(n=i) for i in range(ev.n)]

    @step(num_workers=4)
    async def work(self, ev: Item) -> Done:
        return Done(n=2 * ev.n)

    @step
    async def gather(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=sum(event.n for event in evs))


class Ticker(Workflow):
    @step
    async def write(self, ctx: Context, ev: Go) -> StopEvent:
        for i in range(ev.n):
            ctx.write_event_to_stream(Tick(n=i))
            if i % STREAM_BATCH == STREAM_BATCH - 1:
                await checkpoint()
        return StopEvent(result=ev.n)


class Ask(Workflow):
    asked = 0

    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        self.asked += 1
        return InputRequiredEvent(prefix="Go on?")

    @step
    async def answer(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)


def run(flow: Workflow, n: int) -> Sample:
    async def sample() -> int:
        return await flow.run(n=n)

    return sample


def chain(iterations: int) -> Sample:
    return run(Loop(2 * iterations), 0)


def hello(n: int) -> Sample:
    return run(Hello(), n)


def fan(n: int) -> Sample:
    return run(Fan(n), n)


def list_fan(n: int) -> Sample:
    return run(ListFan(), n)


def many(runs: int) -> Sample:
    flow = Loop(6)

    async def sample() -> int:
        results: list[int] = []

        async def one() -> None:
            results.append(await flow.run(n=0))

        async with create_task_group() as tasks:
            for _ in range(runs):
                tasks.start_soon(one)
        return sum(results)

    return sample


def stream(n: int) -> Sample:
    flow = Ticker()

    async def sample() -> int:
        total = 0
        async with flow.run(n=n) as handler:
            async for event in handler.stream_events():
                if isinstance(event, Tick):
                    total += event.n
            await handler
        return total

    return sample


async def idle(runs: int, waiting: Callable[[], None]) -> int:
    """Bare handles: a waiting run costs its handle, its stream with the question in it, and its task
    group."""
    flow = Ask()
    handlers = [flow.run() for _ in range(runs)]
    await settle(lambda: flow.asked == runs)
    waiting()
    for handler in handlers:
        handler.send_event(HumanResponseEvent(response=1))
    return sum([await handler for handler in handlers])


ROWS = {"chain": chain, "hello": hello, "fan": fan, "many": many, "stream": stream}
LIST_ROWS = {"fan": list_fan}
