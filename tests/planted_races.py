"""Workflows whose one bug is a matter of the order in which their tasks run (planted_bugs.py says of which kind)."""

import uuid
from typing import Any

import anyio
import anyio.from_thread
from corpus_words import Approve, Decision, Done, Go, Job, trips

from flowkit import Context, Event, StopEvent, Workflow, step, testing

__all__ = [
    "Approval",
    "Article",
    "AskTheManual",
    "Batches",
    "Deals",
    "Export",
    "Feed",
    "Gate",
    "LongTransfers",
    "ReadArticle",
    "Shipping",
    "Spending",
    "Summaries",
    "Tally",
    "Ticket",
    "Transfers",
]


class AskTheManual(Workflow):
    """Answers from an index that is usually loaded by the time the question is embedded."""

    @step
    async def load(self, ctx: Context, ev: Go) -> None:
        await trips(1)
        await ctx.set("index", {"fuse": "page 7"})

    @step
    async def embed(self, ev: Go) -> Job:
        await trips(5)
        return Job(ev.subject)

    @step
    async def answer(self, ctx: Context, ev: Job) -> StopEvent:
        index = await ctx.get("index")
        return StopEvent(result=index[ev.name])


class Summaries(Workflow):
    """Summarises the chapters side by side, and puts them together in the order in which they are ready."""

    @step
    async def split(self, ev: Go) -> list[Job]:
        return [Job(name, away=1 + 3 * n) for n, name in enumerate(ev.subject.split())]

    @step
    async def summarise(self, ev: Job) -> Done:
        await trips(ev.away)
        return Done(ev.name)

    @step
    async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
        ready = ctx.collect_events(ev, [Done] * 3)
        return None if ready is None else StopEvent(result=" ".join(one.name for one in ready))


class Export(Workflow):
    """Looks twenty times whether the export is ready, and then gives up; it is starved if it looks too fast."""

    @step
    async def write(self, ctx: Context, ev: Go) -> None:
        await trips(3)
        await ctx.set("exported", True)

    @step
    async def look(self, ctx: Context, ev: Go) -> StopEvent:
        for _ in range(20):
            await trips(1)
            if await ctx.get("exported", False):
                return StopEvent(result="exported")
        return StopEvent(result="gave up")


class Spending(Workflow):
    """Two tools add their cost to what the agent has spent: one reads before the other has written."""

    @step
    async def plan(self, ev: Go) -> list[Job]:
        return [Job("search"), Job("draft", away=6)]

    @step
    async def use(self, ctx: Context, ev: Job) -> Done:
        await trips(ev.away)
        spent = await ctx.get("spent", 0)
        await trips(1)  # asks for the price
        await ctx.set("spent", spent + 10)
        return Done(ev.name)

    @step
    async def end(self, ctx: Context, evs: list[Done]) -> StopEvent:
        return StopEvent(result=await ctx.get("spent"))


class Shipping(Workflow):
    """Told of the payment twice, by the bank's call and by asking the bank, it looks first whether it has shipped."""

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job("called"), Job("asked", away=8)]

    @step
    async def ship(self, ctx: Context, ev: Job) -> Done:
        await trips(ev.away)
        if not await ctx.get("shipped", False):
            await trips(2)  # the warehouse
            testing.effect("ship")
            await ctx.set("shipped", True)
        return Done(ev.name)

    @step
    async def end(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result="shipped")


class Transfers(Workflow):
    """Three transfers around a ring, each of which locks the account it takes from and then the one it gives to."""

    ring = "abc"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.locks = {name: anyio.Lock() for name in self.ring}

    @step
    async def begin(self, ev: Go) -> list[Job]:
        pairs = zip(self.ring, self.ring[1:] + self.ring[:1], strict=True)
        return [Job("".join(pair), away=7 * n) for n, pair in enumerate(pairs)]

    @step
    async def transfer(self, ev: Job) -> Done:
        await trips(ev.away)
        async with self.locks[ev.name[0]]:
            async with self.locks[ev.name[1]]:
                await trips(1)
        return Done(ev.name)

    @step
    async def end(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=len(evs))


class LongTransfers(Transfers):
    """The same around a larger ring."""

    ring = "abcd"


class Approval(Workflow):
    """ABA: the lawyer publishes a draft that has been a draft all the while, as far as can be seen."""

    @step
    async def begin(self, ctx: Context, ev: Go) -> list[Job]:
        await ctx.set("status", "draft")
        await ctx.set("text", "as read")
        return [Job("lawyer"), Job("author", away=7)]

    @step
    async def work(self, ctx: Context, ev: Job) -> Done:
        await trips(ev.away)
        status, text = await ctx.get("status"), await ctx.get("text")
        if ev.name == "lawyer":
            await trips(2)  # reads it
            if await ctx.get("status") == status:
                await ctx.set("status", "published")
                return Done(ev.name, text == await ctx.get("text"))
        elif status == "draft":
            await ctx.set("status", "changing")
            await trips(1)
            await ctx.set("text", "changed")
            await ctx.set("status", "draft")
        return Done(ev.name, True)

    @step
    async def end(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=all(ev.value for ev in evs))


class Article(Workflow):
    """Two windows: the second author sees that the text is of the newest edition and that nobody is at work, but looks
    at the one when the first author is at work, and at the other when he isn't any more."""

    readers = 0

    @step
    async def begin(self, ctx: Context, ev: Go) -> list[Job]:
        await ctx.store.set_state({"edition": 0, "busy": False, "text": ""})
        return [Job("rewrite"), Job("cite", away=7), *[Job("read", away=4)] * self.readers]

    @step(num_workers=8)
    async def edit(self, ctx: Context, ev: Job) -> Done:
        await trips(ev.away)
        if ev.name == "rewrite":
            await ctx.set("busy", True)
            await ctx.set("edition", await ctx.get("edition") + 1)
            await trips(1)
            await ctx.set("text", await ctx.get("text") + "rewritten")
            await ctx.set("busy", False)
        elif ev.name == "cite":
            edition, text = await ctx.get("edition"), await ctx.get("text")
            await trips(1)
            if edition == await ctx.get("edition") and not await ctx.get("busy"):
                await ctx.set("text", text + " cited")
        return Done(ev.name)

    @step
    async def end(self, ctx: Context, evs: list[Done]) -> StopEvent:
        return StopEvent(result=await ctx.get("text"))


class ReadArticle(Article):
    """The same in a crowd, in which most schedules are about others."""

    readers = 6


class Feed(Workflow):
    """Looks outside the condition whether there is something to wait for, and then waits for a call that has been."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.loaded = False
        self.ready = anyio.Condition()

    @step
    async def load(self, ev: Go) -> Done:
        await trips(7)
        self.loaded = True
        async with self.ready:
            self.ready.notify_all()
        return Done("load")

    @step
    async def use(self, ev: Go) -> Done:
        if not self.loaded:
            await trips(1)  # says that it waits
            async with self.ready:
                await self.ready.wait()
        return Done("use")

    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        return StopEvent(result="used") if ctx.collect_events(ev, [Done, Done]) else None


class Ready(Event):
    pass


class Gate(Workflow):
    """Waits for a message only where it isn't open yet: else nobody takes the message."""

    @step
    async def open(self, ctx: Context, ev: Go) -> Done:
        await trips(7)
        await ctx.set("open", True)
        ctx.send_event(Ready())
        return Done("open")

    @step
    async def enter(self, ctx: Context, ev: Go) -> Done:
        if not await ctx.get("open", False):
            await ctx.wait_for_event(Ready)
        return Done("enter")

    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        return StopEvent(result="in") if ctx.collect_events(ev, [Done, Done]) else None


class Tally(Workflow):
    """Two plain steps, in threads, that read, ask somebody and write."""

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job("Berlin"), Job("Oslo", away=7)]

    @step
    def count(self, ctx: Context, ev: Job) -> Done:
        anyio.from_thread.run(trips, ev.away)
        count = anyio.from_thread.run(ctx.get, "count", 0)
        anyio.from_thread.run(trips, 1)
        anyio.from_thread.run(ctx.set, "count", count + 1)
        return Done(ev.name)

    @step
    async def end(self, ctx: Context, evs: list[Done]) -> StopEvent:
        return StopEvent(result=await ctx.get("count"))


class Deals(Workflow):
    """Two questions at once, whose steps take the next answer that comes without looking what it answers."""

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job("Berlin"), Job("Oslo", away=7)]

    @step
    async def ask(self, ctx: Context, ev: Job) -> Done:
        await trips(ev.away)
        ctx.write_event_to_stream(Approve(ev.name))
        await trips(1)  # tells the customer that it is being looked at
        decision = await ctx.wait_for_event(Decision)
        return Done(ev.name, decision.deal)

    @step
    async def end(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=[ev.value for ev in evs])


class Rows(Event):
    rows: list[int]


class Batches(Workflow):
    """Sends the rows it has read, and reads the next ones into the same list."""

    @step
    async def read(self, ctx: Context, ev: Go) -> Rows | None:
        rows: list[int] = []
        for batch in ([1, 2], [3, 4]):
            rows[:] = batch
            ctx.send_event(Rows(rows))
            await trips(7)  # the next page

    @step
    async def load(self, ctx: Context, ev: Rows) -> Done:
        return Done("load", sum(ev.rows))

    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        loaded = ctx.collect_events(ev, [Done, Done])
        return None if loaded is None else StopEvent(result=len(loaded))


class Ticket(Workflow):
    """Draws its number where no replay can draw it again."""

    @step
    async def draw(self, ctx: Context, ev: Go) -> Job:
        return Job(uuid.uuid4().hex)

    @step
    async def end(self, ev: Job) -> StopEvent:
        return StopEvent(result=ev.name)
