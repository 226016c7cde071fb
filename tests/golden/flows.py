"""The workflows that the golden journals are of. Don't change what one does: journals of it are kept. Add another."""

from collections.abc import Callable
from typing import Annotated, Any

import anyio
import attrs

from flowkit import (
    Collect,
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Instrument,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Take,
    WaitTimedOut,
    Workflow,
    catch_error,
    step,
)
from flowkit.instruments import ObservedRun
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.serialization import stored_as

__all__ = ["FLOWS", "Golden"]


class Part(Event):
    n: int


class Done(Event):
    n: int


class Ask(InputRequiredEvent):
    text: str


class Reply(HumanResponseEvent):
    n: int


class Chain(Workflow):
    @step
    async def first(self, ev: StartEvent) -> Part:
        return Part(len(ev.name))

    @step
    async def second(self, ctx: Context, ev: Part) -> Done:
        await ctx.set("seen", {"n": ev.n, "raw": b"\x00\xff", 7: (1, 2)})
        ctx.write_event_to_stream(Part(0))
        return Done(ev.n)

    @step
    async def third(self, ev: Done) -> StopEvent:
        return StopEvent(result=ev.n)


class Tracing(Instrument):
    def carry(self, run: ObservedRun) -> dict[str, str]:
        return {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


class Traced(Chain):
    """Its runs carry something."""

    def __init__(self) -> None:
        super().__init__(instruments=[Tracing()])


class Loop(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> Part:
        return Part(0)

    @step
    async def again(self, ev: Part) -> Part | StopEvent:
        return Part(ev.n + 1) if ev.n < 5 else StopEvent(result=ev.n)


class FanOut(Workflow):
    """Sends several events and collects what becomes of them."""

    @step
    async def send(self, ctx: Context, ev: StartEvent) -> Part | None:
        for n in range(3):
            ctx.send_event(Part(n))
        return None

    @step(num_workers=1)
    async def work(self, ev: Part) -> Done:
        return Done(10 * ev.n)

    @step
    async def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
        batch = ctx.collect_events(ev, [Done] * 3)
        return None if batch is None else StopEvent(result=[one.n for one in batch])


class FanIn(Workflow):
    """A list out, and a list in."""

    @step
    async def fan(self, ev: StartEvent) -> list[Part]:
        return [Part(n) for n in range(3)]

    @step(num_workers=2)
    async def work(self, ev: Part) -> Done:
        await anyio.sleep(0.01 * ev.n)
        return Done(10 * ev.n)

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=[ev.n for ev in evs])


class FirstTwo(Workflow):
    @step
    async def fan(self, ev: StartEvent) -> list[Part]:
        return [Part(n) for n in range(4)]

    @step(num_workers=1)
    async def work(self, ev: Part) -> Done:
        return Done(ev.n)

    @step
    async def join(self, evs: Annotated[list[Done], Collect(Take(2))]) -> StopEvent:
        return StopEvent(result=len(evs))


class Waiting(Workflow):
    """Waits twice: for an answer, and in vain."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        reply = await ctx.wait_for_event(Reply, waiter_event=Ask("number?"), requirements={"n": 3}, timeout=60)
        try:
            await ctx.wait_for_event(Done, timeout=0.01)
        except WaitTimedOut:
            return StopEvent(result=reply.n)
        raise AssertionError


class Question(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> Ask:
        return Ask("number?")

    @step
    async def answered(self, ev: Reply) -> StopEvent:
        return StopEvent(result=ev.n)


class Retrying(Workflow):
    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=0.01))
    async def fail(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.retry_info().attempts < 2:
            raise OSError(5, "broken")
        return StopEvent(result=ctx.retry_info().attempts)


class Declined(Exception):
    """Not registered anywhere: a `StoredError` stands for it."""


class Catching(Workflow):
    @step
    async def fail(self, ev: StartEvent) -> StopEvent:
        raise Declined("no funds")

    @catch_error
    async def instead(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(result=[ev.step_name, ev.attempts])


class Failing(Workflow):
    @step
    async def fail(self, ev: StartEvent) -> StopEvent:
        raise ValueError("broken")


class Atomic(Workflow):
    @step(atomic=True)
    async def count(self, ctx: Context, ev: StartEvent) -> Part | Done:
        await ctx.set("n", 1)
        ctx.send_event(Done(2))
        ctx.write_event_to_stream(Part(3))
        await ctx.set("n", 4)
        return Part(5)

    @step
    async def side(self, ev: Done) -> None:
        return None

    @step
    async def end(self, ctx: Context, ev: Part) -> StopEvent:
        return StopEvent(result=await ctx.get("n"))


class Inner(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        reply = await ctx.wait_for_event(Reply, waiter_event=Ask("inside?"))
        return StopEvent(result=reply.n)


class Outer(Workflow):
    @step
    async def delegate(self, ctx: Context, ev: StartEvent, inner: Inner) -> StopEvent:
        return StopEvent(result=1 + await inner.run())


@attrs.define
class Totals:
    n: int = 0
    names: list[str] = attrs.field(factory=list[str])


class Typed(Workflow):
    @step
    async def count(self, ctx: Context[Totals], ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as totals:
            totals.n += 1
            totals.names.append(ev.name)
        return StopEvent(result=totals.n)


class Stepwise(Chain):
    pass


def to_euros(fields: dict[str, Any]) -> dict[str, Any]:
    return {"amount": fields["amount"], "currency": "EUR"}


@stored_as("golden.paid", version=2, upgrades={1: to_euros})
class Paid(Event):
    """Its journal may hold version 1: ``{"amount": …}``."""

    amount: int
    currency: str


class Versions(Workflow):
    @step
    async def pay(self, ev: StartEvent) -> Paid:
        return Paid(amount=5, currency="USD")

    @step
    async def paid(self, ev: Paid) -> StopEvent:
        return StopEvent(result=f"{ev.amount} {ev.currency}")


@attrs.frozen
class Golden:
    """How a journal is made: ``fields`` for the start event, what is ``sent`` once it waits, whether it ``ends``,
    how many ``steps`` are taken one by one, and after how many facts a snapshot is."""

    workflow: Callable[[], Workflow]
    fields: dict[str, Any] = attrs.field(factory=dict[str, Any])
    sent: tuple[Event, ...] = ()
    ends: bool = True
    steps: int = 0
    snapshot_after: int = 1000


def outer() -> Workflow:
    flow = Outer()
    flow.add_workflows(inner=Inner())
    return flow


FLOWS: dict[str, Golden] = {
    "chain": Golden(Chain, {"name": "Ada"}),
    "chain_with_books": Golden(Chain, {"name": "Ada"}, snapshot_after=2),
    "traced": Golden(Traced, {"name": "Ada"}, snapshot_after=2),
    "loop": Golden(Loop),
    "loop_with_books": Golden(Loop, snapshot_after=3),
    "fan_out": Golden(FanOut),
    "fan_in": Golden(FanIn),
    "first_two": Golden(FirstTwo),
    "waiting": Golden(Waiting, sent=(Reply(3),)),
    "waiting_still": Golden(Waiting, ends=False),
    "question": Golden(Question, sent=(Reply(4),)),
    "retrying": Golden(Retrying),
    "catching": Golden(Catching),
    "failing": Golden(Failing),
    "atomic": Golden(Atomic),
    "nested": Golden(outer, sent=(Reply(7),)),
    "typed": Golden(Typed, {"name": "Ada"}),
    "stepwise": Golden(Stepwise, {"name": "Ada"}, steps=2),
    "versions": Golden(Versions),
}
