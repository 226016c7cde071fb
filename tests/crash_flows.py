"""Workflows for test_crashes.py, and the external `Ledger` in which their steps note what they do in the world.

Every effect is one that the world would see: a payment, a mail. A step notes it with its idempotency key and the
attempt it is in, so that a test can tell an effect that came again (the step was under way when the process died) from
one that came twice (it had completed).
"""

from collections.abc import Callable
from typing import Any

import anyio
import attrs

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    WaitTimedOut,
    Workflow,
    catch_error,
    step,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy, retry, stop_after, wait_fixed

__all__ = ["NESTED", "SCENARIOS", "Entry", "Ledger", "Scenario"]

DAY = 86400.0


@attrs.frozen
class Entry:
    """An effect: by which invocation (``key``), in which of its attempts, and what."""

    key: str
    attempt: int
    what: tuple[Any, ...]


class Ledger:
    """The world outside. ``point`` is called before and after each effect; it may crash, and after a crash there are
    no effects."""

    def __init__(self, point: Callable[[str], bool] = lambda _: True) -> None:
        self.entries: list[Entry] = []
        self._point = point

    def note(self, ctx: Context[Any], *what: Any) -> None:
        entry = Entry(ctx.idempotency_key, ctx.retry_info().attempts, what)
        if self._point(f"before the effect {what}"):
            self.entries.append(entry)
            self._point(f"after the effect {what}")


class Item(Event):
    n: int


class Product(Event):
    n: int


class Total(Event):
    n: int


class Note(Event):
    text: str


class Ask(InputRequiredEvent):
    text: str


class Reply(HumanResponseEvent):
    text: str
    answer: str


class Noting(Workflow):
    """A workflow with a ledger."""

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        super().__init__(**options)
        self.ledger = ledger


class Chain(Noting):
    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Item:
        self.ledger.note(ctx, "first")
        await ctx.store.set("seen.first", True)
        ctx.write_event_to_stream(Note("first"))
        return Item(1)

    @step
    async def second(self, ctx: Context, ev: Item) -> Product:
        await anyio.sleep(1)
        self.ledger.note(ctx, "second", ev.n)
        await ctx.store.set("seen.second", ev.n)
        return Product(ev.n + 1)

    @step
    async def third(self, ctx: Context, ev: Product) -> StopEvent:
        self.ledger.note(ctx, "third", ev.n)
        return StopEvent(result=[ev.n, await ctx.get("seen")])


class Loop(Noting):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item:
        return Item(0)

    @step
    async def turn(self, ctx: Context, ev: Item) -> Item | StopEvent:
        self.ledger.note(ctx, "turn", ev.n)
        await ctx.store.set(f"turns.t{ev.n}", ev.n)
        if ev.n == 4:
            return StopEvent(result=sorted((await ctx.get("turns")).values()))
        return Item(ev.n + 1)


class SendFan(Noting):
    """``send_event`` fan-out, ``collect_events`` fan-in."""

    @step
    async def scatter(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(4):
            ctx.send_event(Item(n))
            if n == 1:
                await anyio.sleep(0.5)  # some are at work while it is still sending
        self.ledger.note(ctx, "scattered")
        return None

    @step(num_workers=2)
    async def work(self, ctx: Context, ev: Item) -> Product:
        await anyio.sleep(1 + ev.n % 2)
        self.ledger.note(ctx, "work", ev.n)
        return Product(ev.n * 10)

    @step
    async def gather(self, ctx: Context, ev: Product) -> StopEvent | None:
        got = ctx.collect_events(ev, [Product] * 4)
        if got is None:
            return None
        self.ledger.note(ctx, "gather")
        return StopEvent(result=sorted(one.n for one in got))


class ListFan(Noting):
    """List fan-out, list fan-in; one of the branches gives nothing."""

    @step
    async def scatter(self, ctx: Context, ev: StartEvent) -> list[Item]:
        self.ledger.note(ctx, "scatter")
        return [Item(n) for n in range(4)]

    @step(num_workers=3)
    async def work(self, ctx: Context, ev: Item) -> Product | None:
        await anyio.sleep(3 - ev.n)
        self.ledger.note(ctx, "work", ev.n)
        return None if ev.n == 2 else Product(ev.n)

    @step
    async def gather(self, ctx: Context, ev: list[Product]) -> StopEvent:
        self.ledger.note(ctx, "gather")
        return StopEvent(result=[one.n for one in ev])


class Asking(Noting):
    """Two waits, one after another, with what lies between noted."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        self.ledger.note(ctx, "begin")
        first = await ctx.wait_for_event(Reply, Ask("name"), requirements={"text": "name"})
        self.ledger.note(ctx, "named", first.answer)
        await ctx.set("name", first.answer)
        second = await ctx.wait_for_event(Reply, Ask("age"), requirements={"text": "age"})
        self.ledger.note(ctx, "aged", second.answer)
        return StopEvent(result=[await ctx.get("name"), first.answer, second.answer])


class ParallelWaits(Noting):
    """Two waits at once in one step, and one in another."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> list[Item]:
        return [Item(0), Item(1)]

    @step(num_workers=2)
    async def ask(self, ctx: Context, ev: Item) -> Product:
        got: dict[str, str] = {}

        async def one(text: str) -> None:
            reply = await ctx.wait_for_event(Reply, Ask(text), waiter_id=text, requirements={"text": text})
            got[text] = reply.answer

        if ev.n:
            await one("third")
        else:
            async with anyio.create_task_group() as group:
                group.start_soon(one, "first")
                group.start_soon(one, "second")
        self.ledger.note(ctx, "answered", *sorted(got.items()))
        await ctx.store.set(f"got.g{ev.n}", sorted(got.items()))
        return Product(ev.n)

    @step
    async def end(self, ctx: Context, ev: list[Product]) -> StopEvent:
        return StopEvent(result=[[one.n for one in ev], sorted((await ctx.get("got")).items())])


class Retrying(Noting):
    """Fails twice, after it has sent something."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item:
        return Item(7)

    @step(retry_policy=ConstantDelayRetryPolicy(3, 10))
    async def try_it(self, ctx: Context, ev: Item) -> Product | None:
        attempt = ctx.retry_info().attempts
        self.ledger.note(ctx, "try", attempt)
        ctx.send_event(Product(ev.n))
        await ctx.set("tries", attempt + 1)
        if attempt < 2:
            raise ValueError(f"attempt {attempt}")
        ctx.send_event(Product(8))

    @step
    async def end(self, ctx: Context, ev: Product) -> StopEvent | None:
        self.ledger.note(ctx, "product", ev.n)
        got = ctx.collect_events(ev, [Product, Product])
        return None if got is None else StopEvent(result=[[one.n for one in got], await ctx.get("tries")])


class FarTimer(Noting):
    """A retry in three days, and a wait that is over after two."""

    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> Item:
        try:
            await ctx.wait_for_event(Reply, timeout=2 * DAY)
        except WaitTimedOut:
            self.ledger.note(ctx, "nobody came")
        return Item(0)

    @step(retry_policy=retry(stop=stop_after(2), wait=wait_fixed(3 * DAY)))
    async def again(self, ctx: Context, ev: Item) -> StopEvent:
        info = ctx.retry_info()
        self.ledger.note(ctx, "again", info.attempts)
        if info.attempts < 1:
            raise ConnectionError("come back in three days")
        return StopEvent(result=[info.attempts, info.elapsed_time >= 3 * DAY])


class Child(Noting):
    @step
    async def look(self, ctx: Context, ev: StartEvent) -> Item:
        self.ledger.note(ctx, "child looks", ev.name)
        await ctx.set("name", ev.name)
        return Item(0)

    @step
    async def ask(self, ctx: Context, ev: Item) -> StopEvent:
        name = await ctx.get("name")
        reply = await ctx.wait_for_event(Reply, Ask(name), requirements={"text": name})
        self.ledger.note(ctx, "child asked", name)
        await anyio.sleep(1)
        return StopEvent(result=reply.answer)


class Nested(Noting):
    """A nested workflow with a question, then one more."""

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        super().__init__(ledger, **options)
        self.add_workflows(child=Child(ledger))

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item:
        self.ledger.note(ctx, "begin")
        return Item(0)

    @step
    async def delegate(self, ctx: Context, ev: Item, child: Child) -> StopEvent:
        first = await child.run(name="left")
        self.ledger.note(ctx, "between", first)
        second = await child.run(name="right")
        self.ledger.note(ctx, "after", second)
        return StopEvent(result=[first, second])


class Sleeper(Noting):
    """Nested: its retry is an hour away."""

    @step(retry_policy=ConstantDelayRetryPolicy(1, 3600))
    async def sleep(self, ctx: Context, ev: StartEvent) -> StopEvent:
        self.ledger.note(ctx, "child tries", ctx.retry_info().attempts)
        if ctx.retry_info().attempts == 0:
            raise ValueError("later")
        return StopEvent(result="rested")


class NestedTimer(Noting):
    """A nested run that waits for its time."""

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        super().__init__(ledger, **options)
        self.add_workflows(sleeper=Sleeper(ledger))

    @step
    async def delegate(self, ctx: Context, ev: StartEvent, sleeper: Sleeper) -> StopEvent:
        got = await sleeper.run()
        self.ledger.note(ctx, "child said", got)
        return StopEvent(result=got)


class NestedFan(Noting):
    """Several nested runs at once, in a step's workers."""

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        super().__init__(ledger, **options)
        self.add_workflows(child=Child(ledger))

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> list[Item]:
        return [Item(0), Item(1)]

    @step(num_workers=2)
    async def delegate(self, ctx: Context, ev: Item, child: Child) -> Product:
        answer = await child.run(name=f"child {ev.n}")
        self.ledger.note(ctx, "child said", ev.n, answer)
        await ctx.store.set(f"said.c{ev.n}", answer)
        return Product(ev.n)

    @step
    async def end(self, ctx: Context, ev: list[Product]) -> StopEvent:
        return StopEvent(result=sorted((await ctx.get("said")).items()))


class Catching(Noting):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item | Product:
        ctx.send_event(Product(5))
        return Item(1)

    @step(retry_policy=ConstantDelayRetryPolicy(1, 2))
    async def fail(self, ctx: Context, ev: Item) -> Total:
        self.ledger.note(ctx, "fails", ctx.retry_info().attempts)
        raise ValueError("on purpose")

    @catch_error(for_steps=["fail"])
    async def caught(self, ctx: Context, ev: StepFailedEvent) -> Total:
        self.ledger.note(ctx, "caught", ev.step_name, ev.attempts, type(ev.exception).__name__)
        return Total(ev.input_event.n)

    @step
    async def other(self, ctx: Context, ev: Product) -> Total:
        await anyio.sleep(1)
        return Total(ev.n)

    @step
    async def end(self, ctx: Context, ev: Total) -> StopEvent | None:
        got = ctx.collect_events(ev, [Total, Total])
        return None if got is None else StopEvent(result=sorted(one.n for one in got))


class Atomic(Noting):
    """Writes, sends and shows together; the first attempt fails after all that."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> list[Item]:
        await ctx.set("count", 0)
        return [Item(0), Item(1)]

    @step(atomic=True, num_workers=1, retry_policy=ConstantDelayRetryPolicy(2, 3))
    async def count(self, ctx: Context, ev: Item) -> Product | Total:
        await ctx.set("count", await ctx.get("count") + 1)
        ctx.send_event(Total(ev.n))
        ctx.write_event_to_stream(Note(f"counted {ev.n}"))
        await anyio.sleep(1)
        self.ledger.note(ctx, "count", ev.n, ctx.retry_info().attempts)
        if ctx.retry_info().attempts == 0:
            raise ValueError("not yet")
        return Product(ev.n)

    @step
    async def total(self, ctx: Context, ev: Total) -> None:
        self.ledger.note(ctx, "total", ev.n)
        await ctx.store.set(f"totals.t{ev.n}", True)

    @step
    async def end(self, ctx: Context, ev: list[Product]) -> StopEvent:
        return StopEvent(result=[await ctx.get("count"), sorted(await ctx.get("totals")), [one.n for one in ev]])


@attrs.define
class Basket:
    """A typed state."""

    items: list[int] = attrs.field(factory=list[int])
    total: int = 0
    owner: str | None = None


class Typed(Noting):
    @step
    async def begin(self, ctx: Context[Basket], ev: StartEvent) -> list[Item]:
        async with ctx.store.edit_state() as basket:
            basket.owner = "Ada"
            basket.total = 100
        return [Item(1), Item(2), Item(3)]

    @step(num_workers=3)
    async def add(self, ctx: Context[Basket], ev: Item) -> Product:
        async with ctx.store.edit_state() as basket:
            await anyio.sleep(1)
            if ev.n not in basket.items:
                basket.items = [*basket.items, ev.n]
                basket.total += ev.n
        self.ledger.note(ctx, "added", ev.n)
        return Product(ev.n)

    @step
    async def end(self, ctx: Context[Basket], ev: list[Product]) -> StopEvent:
        basket = await ctx.store.get_state()
        return StopEvent(result=[basket.owner, sorted(basket.items), basket.total, [one.n for one in ev]])


class Form(Noting):
    """A returned question, answered by a step; three times. The step is atomic, as it adds to what it has read."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Ask:
        self.ledger.note(ctx, "begin")
        return Ask("page 0")

    @step(atomic=True)
    async def page(self, ctx: Context, ev: Reply) -> Ask | StopEvent:
        self.ledger.note(ctx, "page", ev.text)
        done = [*await ctx.get("done", []), ev.answer]
        await ctx.set("done", done)
        return StopEvent(result=done) if ev.text == "page 2" else Ask(f"page {int(ev.text[-1]) + 1}")


class Writers(Noting):
    """Several steps write at the same time."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item | Product | Note:
        ctx.send_event(Item(1))
        ctx.send_event(Product(2))
        return Note("go")

    @step
    async def a(self, ctx: Context, ev: Item) -> Total:
        for n in range(3):
            await ctx.store.set(f"a.n{n}", n)
            await anyio.sleep(1)
        self.ledger.note(ctx, "a")
        return Total(1)

    @step
    async def b(self, ctx: Context, ev: Product) -> Total:
        for n in range(3):
            await ctx.store.set(f"b.n{n}", n)
            await anyio.sleep(0.7)
        self.ledger.note(ctx, "b")
        return Total(2)

    @step
    async def c(self, ctx: Context, ev: Note) -> Total:
        self.ledger.note(ctx, "c")
        return Total(3)

    @step
    async def end(self, ctx: Context, ev: Total) -> StopEvent | None:
        got = ctx.collect_events(ev, [Total] * 3)
        if got is None:
            return None
        return StopEvent(result=[sorted(one.n for one in got), await ctx.get("a"), await ctx.get("b")])


class Kept(Noting):
    """An event that is sent before anybody waits for it, and one that a plain step sends from its thread."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item | Product:
        ctx.send_event(Note("early"))
        ctx.send_event(Product(1))
        return Item(1)

    @step
    async def late(self, ctx: Context, ev: Item) -> Total:
        await anyio.sleep(2)
        note = await ctx.wait_for_event(Note)
        self.ledger.note(ctx, "found", note.text)
        later = await ctx.wait_for_event(Note)
        self.ledger.note(ctx, "found", later.text)
        return Total(1)

    @step
    def plain(self, ctx: Context, ev: Product) -> Total:
        ctx.send_event(Note("from a thread"))
        return Total(2)

    @step
    async def end(self, ctx: Context, ev: Total) -> StopEvent | None:
        got = ctx.collect_events(ev, [Total] * 2)
        return None if got is None else StopEvent(result=sorted(one.n for one in got))


class CollectAgain(Noting):
    """A step that collects, and fails with the batch in its hands."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item | None:
        for n in range(6):
            ctx.send_event(Item(n))
        return None

    @step(num_workers=3, retry_policy=ConstantDelayRetryPolicy(1, 1))
    async def pair(self, ctx: Context, ev: Item) -> Product | None:
        got = ctx.collect_events(ev, [Item, Item])
        if got is None:
            return None
        await anyio.sleep(1)
        self.ledger.note(ctx, "pair", tuple(one.n for one in got), ctx.retry_info().attempts)
        if ctx.retry_info().attempts == 0:
            raise ValueError("with a batch in hand")
        return Product(sum(one.n for one in got))

    @step
    async def end(self, ctx: Context, ev: Product) -> StopEvent | None:
        got = ctx.collect_events(ev, [Product] * 3)
        return None if got is None else StopEvent(result=sum(one.n for one in got))


class Late(Noting):
    """Waits for an answer that nobody gives, until the run's timeout is over."""

    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        self.ledger.note(ctx, "begin")
        await ctx.wait_for_event(Reply)
        return StopEvent()


class Failing(Noting):
    """Fails for good while something else is under way."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item | Product:
        ctx.send_event(Item(1))
        return Product(1)

    @step(retry_policy=ConstantDelayRetryPolicy(1, 2))
    async def fail(self, ctx: Context, ev: Item) -> StopEvent:
        self.ledger.note(ctx, "fails", ctx.retry_info().attempts)
        raise ValueError("for good")

    @step
    async def slow(self, ctx: Context, ev: Product) -> StopEvent:
        await anyio.sleep(60)
        return StopEvent(result="too late")


NESTED: tuple[type[Noting], ...] = (Child, Sleeper)


@attrs.frozen
class Scenario:
    """A workflow and how it is driven: ``runs`` of it at once, each answered ``answers`` times.

    ``loose``: what its steps note depends on the order in which they are scheduled, or on how long the processes were
    down, so it isn't compared.
    """

    workflow: type[Noting]
    answers: int = 0
    runs: int = 1
    options: dict[str, Any] = attrs.field(factory=dict[str, Any])
    lease: float = 30.0
    loose: bool = False

    @property
    def name(self) -> str:
        return self.workflow.__name__ + ("s" if self.runs > 1 else "")


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in [
        Scenario(Chain),
        Scenario(Chain, runs=3),
        Scenario(Loop),
        Scenario(SendFan),
        Scenario(ListFan),
        Scenario(Asking, answers=2),
        Scenario(Asking, answers=2, runs=2),
        Scenario(ParallelWaits, answers=3),
        Scenario(Retrying),
        Scenario(FarTimer, lease=2 * DAY),
        Scenario(Nested, answers=2),
        Scenario(NestedFan, answers=2),
        Scenario(NestedTimer, lease=600),
        Scenario(Catching),
        Scenario(Atomic),
        Scenario(Typed),
        Scenario(Form, answers=3),
        Scenario(Writers),
        Scenario(Kept),
        Scenario(CollectAgain, loose=True),
        Scenario(Late, options={"timeout": 100.0}, loose=True),
        Scenario(Failing),
    ]
}
