"""Workflows whose one bug shows when something befalls them: a delay, a fault, a cancellation, a crash (planted_bugs.py
says of which kind)."""

from typing import Any

import anyio
import anyio.from_thread
from corpus_words import Done, Go, Job, trips

from flowkit import Context, Event, StepFailedEvent, StopEvent, Workflow, catch_error, step, testing
from flowkit.retry_policy import ConstantDelayRetryPolicy

__all__ = [
    "Account",
    "Answers",
    "Charge",
    "Crawl",
    "Embed",
    "Invitation",
    "Opening",
    "Prices",
    "Printer",
    "Quote",
    "Reminder",
    "Research",
    "Reservation",
    "Session",
    "Transfer",
    "Votes",
]


# Time and faults


class Opening(Workflow):
    """Opens at two, and has its first customer at five."""

    @step
    async def unlock(self, ctx: Context, ev: Go) -> None:
        await anyio.sleep(2)
        await ctx.set("till", 100)

    @step
    async def come(self, ev: Go) -> Job:
        await anyio.sleep(5)
        return Job("a coffee")

    @step
    async def sell(self, ctx: Context, ev: Job) -> StopEvent:
        await ctx.set("till", await ctx.get("till") + 3)
        return StopEvent(result="sold")


class Session(Workflow):
    """Looks whether the token is still good, and uses it when it gets its turn."""

    @step
    async def log_in(self, ctx: Context, ev: Go) -> Job:
        await ctx.set("good until", anyio.current_time() + 20)
        return Job("call")

    @step
    async def call(self, ctx: Context, ev: Job) -> StopEvent:
        if anyio.current_time() >= await ctx.get("good until"):
            raise PermissionError("the token is too old")
        return StopEvent(result="called")


class Prices(Workflow):
    """Two prices for one thing, the second to replace the first, even where the first has to be sent again."""

    @step
    async def read(self, ctx: Context, ev: Go) -> Job | None:
        ctx.send_event(Job("old"))
        await anyio.sleep(0.1)
        ctx.send_event(Job("new"))

    @step(retry_policy=ConstantDelayRetryPolicy(2, 1))
    async def write(self, ctx: Context, ev: Job) -> Done:
        await ctx.set("price", ev.name)
        return Done(ev.name)

    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        return StopEvent(result=await ctx.get("price")) if ctx.collect_events(ev, [Done, Done]) else None


class Charge(Workflow):
    """Charges, and charges again when the receipt is late."""

    @step(timeout=10, retry_policy=ConstantDelayRetryPolicy(2, 1))
    async def charge(self, ev: Go) -> StopEvent:
        testing.effect("charge", ev.subject)
        await anyio.sleep(0.2)  # the receipt
        return StopEvent(result="charged")


class Transfer(Workflow):
    """Begins anew where it fails half-way."""

    @step(retry_policy=ConstantDelayRetryPolicy(2, 1))
    async def transfer(self, ev: Go) -> StopEvent:
        testing.effect("debit", ev.subject)
        await anyio.sleep(0.2)
        testing.effect("credit", ev.subject)
        return StopEvent(result="transferred")


class Votes(Workflow):
    """Excuses a vote that can't be had, and waits for all of them."""

    @step
    async def call(self, ctx: Context, ev: Go) -> Job | None:
        for name in "abc":
            ctx.send_event(Job(name))

    @step
    async def vote(self, ev: Job) -> Done:
        await trips(1)
        return Done(ev.name)

    @catch_error(for_steps=["vote"])
    async def excuse(self, ev: StepFailedEvent) -> Done | None:
        return None

    @step
    async def count(self, ctx: Context, ev: Done) -> StopEvent | None:
        votes = ctx.collect_events(ev, [Done] * 3)
        return None if votes is None else StopEvent(result="counted")


class Second(Event):
    pass


class Quote(Workflow):
    """Asks somebody else where the first supplier fails, and gives what it remembers where he fails, too."""

    @step
    async def first(self, ev: Go) -> Done:
        return Done("first", 10)

    @catch_error(for_steps=["first"])
    async def ask_again(self, ev: StepFailedEvent) -> Second:
        return Second()

    @step
    async def second(self, ev: Second) -> Done:
        return Done("second", 12)

    @catch_error(for_steps=["second"])
    async def remember(self, ctx: Context, ev: StepFailedEvent) -> Done:
        return Done("memory", await ctx.get("latest", None))

    @step
    async def end(self, ev: Done) -> StopEvent:
        return StopEvent(result=ev.value)


class Order(Event):
    price: int


class Account(Workflow):
    """Gives the money back where an order fails: it reads, books and writes, and a payment comes in between."""

    @step
    async def begin(self, ctx: Context, ev: Go) -> Order | Job:
        await ctx.set("balance", 100)
        ctx.send_event(Order(30))
        return Job("payment", away=9)

    @step
    async def buy(self, ctx: Context, ev: Order) -> Done:
        await ctx.set("taken", ev.price)
        await ctx.set("balance", await ctx.get("balance") - ev.price)
        return Done("order")

    @catch_error(for_steps=["buy"])
    async def give_back(self, ctx: Context, ev: StepFailedEvent) -> Done:
        balance = await ctx.get("balance") + await ctx.get("taken", 0)
        await trips(1)
        await ctx.set("balance", balance)
        return Done("given back")

    @step
    async def receive(self, ctx: Context, ev: Job) -> Done:
        await trips(ev.away)
        await ctx.set("balance", await ctx.get("balance") + 1)
        return Done(ev.name)

    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        return StopEvent(result=await ctx.get("balance")) if ctx.collect_events(ev, [Done, Done]) else None


# Cancellation


class Crawl(Workflow):
    """Says goodbye before it hangs up: a cancelled one doesn't get that far."""

    @step
    async def fetch(self, ev: Go) -> StopEvent:
        testing.effect("open", ev.subject)
        try:
            await anyio.sleep(1)
            return StopEvent(result="fetched")
        finally:
            await trips(1)
            testing.effect("close", ev.subject)


class Embed(Workflow):
    """Warms the only GPU up between taking it and the block that gives it back."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gpu = anyio.Semaphore(1)

    @step
    async def embed(self, ev: Go) -> StopEvent:
        await self.gpu.acquire()
        await anyio.sleep(0.2)
        try:
            await anyio.sleep(1)
        finally:
            self.gpu.release()
        return StopEvent(result="embedded")


class Printer(Workflow):
    """Says that it is at work, and not that it isn't any more, where it is cancelled."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.busy = False

    @step
    async def print(self, ev: Go) -> StopEvent:
        if self.busy:
            raise RuntimeError("the printer is at work")
        self.busy = True
        await anyio.sleep(1)
        self.busy = False
        return StopEvent(result="printed")


class Answers(Workflow):
    """Asks each question once: who comes second waits for the answer of him who came first, and was cancelled."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: dict[str, anyio.Event] = {}

    @step
    async def ask(self, ev: Go) -> StopEvent:
        answered = self.asked.get(ev.subject)
        if answered is None:
            answered = self.asked[ev.subject] = anyio.Event()
            await anyio.sleep(1)
            answered.set()
        await answered.wait()
        return StopEvent(result="answered")


class Research(Workflow):
    """Takes its cancellation for a failed search, and writes to the customer that there is nothing to be found."""

    @step
    async def search(self, ev: Go) -> StopEvent:
        try:
            await anyio.sleep(1)
        except BaseException:  # noqa: BLE001 - the bug
            testing.effect("mail", "nothing found")
            return StopEvent(result="nothing")
        return StopEvent(result="found")


# Crashes


class Invitation(Workflow):
    """Sends a mail that can't be told from the one it sent before the process died."""

    @step
    async def write(self, ev: Go) -> Job:
        await trips(1)
        return Job(ev.subject)

    @step
    async def send(self, ev: Job) -> Done:
        testing.effect("mail", ev.name)
        await trips(1)
        return Done(ev.name)

    @step
    async def end(self, ev: Done) -> StopEvent:
        return StopEvent(result="sent")


class Reservation(Workflow):
    """Takes one off the stock, and only then says that it has."""

    @step
    async def begin(self, ctx: Context, ev: Go) -> Job:
        await ctx.set("stock", 5)
        return Job(ev.subject)

    @step
    async def reserve(self, ctx: Context, ev: Job) -> Done:
        await ctx.set("stock", await ctx.get("stock") - 1)
        await trips(1)
        return Done(ev.name)

    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent:
        return StopEvent(result=await ctx.get("stock"))


class Reminder(Workflow):
    """Gives up what it has begun twice before: it takes the deaths of its process for failures of the mail."""

    @step
    async def remind(self, ctx: Context, ev: Go) -> StopEvent:
        begun = await ctx.get("begun", 0)
        await ctx.set("begun", begun + 1)
        if begun == 2:
            return StopEvent(result="given up")
        testing.effect("mail", ctx.idempotency_key)
        return StopEvent(result="sent")
