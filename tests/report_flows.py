"""The workflows of the reports in golden/reports. Each line has a number of two digits: reports are aligned by them."""

import anyio
import anyio.lowlevel

from flowkit import Context, Event, StartEvent, StopEvent, Workflow, step, testing
from flowkit.retry_policy import ConstantDelayRetryPolicy


class Order(StartEvent):
    amount: int = 3


class Part(Event):
    n: int


class Done(Event):
    n: int


class Refused(Exception): ...


class Racing(Workflow):
    """Loses an update."""

    @step
    async def split(self, ev: Order) -> list[Part]:
        return [Part(ev.amount), Part(ev.amount)]

    @step
    async def charge(self, ctx: Context, ev: Part) -> Done:
        before = await ctx.get("sum", 0)
        await anyio.lowlevel.checkpoint()
        await ctx.set("sum", before + ev.n)
        return Done(ev.n)

    @step
    async def join(self, ctx: Context, evs: list[Done]) -> StopEvent:
        return StopEvent(result=await ctx.get("sum"))


class Paying(Workflow):
    """Pays twice where the answer is lost, or where it crashes in between."""

    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=1))
    async def pay(self, ev: Order) -> Done:
        await anyio.sleep(1)
        testing.effect("paid", ev.amount)
        return Done(ev.amount)

    @step
    async def end(self, ev: Done) -> StopEvent:
        return StopEvent(result="paid")


class Opening(Workflow):
    """Leaves a gate closed where it is cancelled."""

    def __init__(self) -> None:
        super().__init__(timeout=None)
        self.gate = anyio.Event()
        self.gate.set()

    @step
    async def pass_it(self, ev: Order) -> StopEvent:
        await self.gate.wait()
        self.gate = anyio.Event()
        await anyio.sleep(1)
        self.gate.set()
        return StopEvent()


class Locking(Workflow):
    """Takes two locks in either order."""

    def __init__(self) -> None:
        super().__init__(timeout=None)
        self.locks = [anyio.Lock(), anyio.Lock()]

    @step
    async def split(self, ev: Order) -> list[Part]:
        return [Part(0), Part(1)]

    @step
    async def lock(self, ev: Part) -> Done:
        async with self.locks[ev.n]:
            await anyio.lowlevel.checkpoint()
            async with self.locks[1 - ev.n]:
                return Done(ev.n)

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=len(evs))
