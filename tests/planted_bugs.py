"""Workflows with one planted bug each, and what finds it: what `flowkit.testing` is measured against (test_corpus.py).

Each passes when it is simply run: none failed in any of 300 runs on plain asyncio and 300 on plain trio
(plain_runs.py). Its bug needs a schedule, a fault, a cancellation, a crash or a delay that a plain run doesn't give.
That is why the steps take so unequally long: asyncio runs tasks in turn, trio a batch of them in either order, so that
on both of them who has six round trips to make is never before who has one. A real network keeps no such order.

`trips(n)` stands for n round trips to somewhere: each lets other tasks run. `anyio.sleep` stands for the same with a
known duration; only ``faults(delays=True)`` makes it longer than it says.
"""

from collections.abc import Callable, Iterable
from typing import Any

import anyio
import anyio.lowlevel
import attrs

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
    testing,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy

__all__ = ["PLANTED", "Planted", "effects", "trips"]


@attrs.frozen
class Planted:
    """A bug, what finds it, and how small the counterexample is to be.

    ``check`` is a property of one finished run; ``oracle`` says whether it finds the bug ("property") or an oracle that
    needs none: "schedule" (`assert_schedule_independent`), "checkpoint" (`assert_checkpoint_equivalence`) or "cancel"
    (`assert_cancels_cleanly`). ``depth`` is the number of ordering constraints, or of faults, that show it. ``kind`` is
    the counterexample's; ``most`` bounds the deviations, faults, cancellations and crashes left in it together.
    """

    bug: str
    flow: type[Workflow]
    start: StartEvent
    check: Callable[[Any, Any], None]
    depth: int
    most: int
    kind: str = "property"
    oracle: str = "property"
    faults: dict[str, Any] | None = None
    cancel: str | None = None
    crash: str | None = None
    answer: Callable[[Any], Event] | None = None

    @property
    def name(self) -> str:
        return self.flow.__name__


async def trips(n: int) -> None:
    for _ in range(n):
        await anyio.lowlevel.checkpoint()


def effects(run: Any, *what: Any) -> list[tuple[Any, ...]]:
    """The effects of a run that begin so."""
    return [tuple(one) for one in run.effects if tuple(one)[: len(what)] == what]


def gives(wanted: Any) -> Callable[[Any, Any], None]:
    """The run ends with this result."""

    def check(run: Any, start: Any) -> None:
        assert run.result == wanted

    return check


def happens(times: int, *what: Any) -> Callable[[Any, Any], None]:
    """The effects that begin so are that many, however the run ended."""

    def check(run: Any, start: Any) -> None:
        assert len(effects(run, *what)) == times

    return check


def happens_once(*what: Any) -> Callable[[Any, Any], None]:
    return happens(1, *what)


class Go(StartEvent):
    subject: str = ""


class Job(Event):
    """Work for ``name``, who is ``away`` round trips away."""

    name: str
    away: int = 0


class Done(Event):
    name: str
    value: Any = None


# Order of tasks


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

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.locks = {name: anyio.Lock() for name in "abc"}

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job(pair, away=7 * n) for n, pair in enumerate(["ab", "bc", "ca"])]

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

    @step
    async def begin(self, ctx: Context, ev: Go) -> list[Job]:
        await ctx.store.set_state({"edition": 0, "busy": False, "text": ""})
        return [Job("rewrite"), Job("cite", away=7)]

    @step
    async def edit(self, ctx: Context, ev: Job) -> Done:
        await trips(ev.away)
        if ev.name == "rewrite":
            await ctx.set("busy", True)
            await ctx.set("edition", await ctx.get("edition") + 1)
            await trips(1)
            await ctx.set("text", await ctx.get("text") + "rewritten")
            await ctx.set("busy", False)
        else:
            edition, text = await ctx.get("edition"), await ctx.get("text")
            await trips(1)
            if edition == await ctx.get("edition") and not await ctx.get("busy"):
                await ctx.set("text", text + " cited")
        return Done(ev.name)

    @step
    async def end(self, ctx: Context, evs: list[Done]) -> StopEvent:
        return StopEvent(result=await ctx.get("text"))


def keeps_what_was_rewritten(run: Any, start: Any) -> None:
    assert "rewritten" in run.result


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


class Approve(InputRequiredEvent):
    deal: str


class Decision(HumanResponseEvent):
    deal: str


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


# Time and faults


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


def hangs_up(run: Any, start: Any) -> None:
    assert len(effects(run, "open")) == len(effects(run, "close"))


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


def _rows(*rows: Planted) -> Iterable[tuple[str, Planted]]:
    return [(row.name, row) for row in rows]


PLANTED: dict[str, Planted] = dict(
    _rows(
        Planted("use before init", AskTheManual, Go("fuse"), gives("page 7"), 1, 2, kind="step-failed"),
        Planted(
            "fan-in order",
            Summaries,
            Go("one two three"),
            gives("one two three"),
            1,
            1,
            oracle="schedule",
            kind="different-result",
        ),
        Planted("starvation", Export, Go(), gives("exported"), 1, 1),
        Planted("lost update over await", Spending, Go(), gives(20), 2, 1),
        Planted("double fire", Shipping, Go(), happens_once("ship"), 2, 1),
        Planted("three-lock deadlock", Transfers, Go(), gives(3), 3, 2, kind="deadlock"),
        Planted("ABA", Approval, Go(), gives(True), 2, 1),
        Planted("two windows", Article, Go(), keeps_what_was_rewritten, 3, 2),
        Planted("lost event", Feed, Go(), gives("used"), 2, 2, kind="deadlock"),
        Planted(
            "question answered in the window",
            Deals,
            Go(),
            gives(["Berlin", "Oslo"]),
            2,
            1,
            answer=lambda asked: Decision(asked.deal),
        ),
        Planted("event changed after it was sent", Batches, Go(), gives(2), 1, 0, kind="changed-event"),
        Planted("stale check", Session, Go(), gives("called"), 1, 1, kind="step-failed", faults={"delays": True}),
        Planted("timeout after the effect", Charge, Go("42"), happens_once("charge"), 1, 1, faults={"timeouts": True}),
        Planted(
            "wrong retry",
            Transfer,
            Go("42"),
            happens_once("debit"),
            1,
            1,
            faults={"raises": {"transfer": ConnectionError}},
        ),
        Planted("retry overtaken", Prices, Go(), gives("new"), 1, 1, faults={"raises": {"write": ConnectionError}}),
        Planted("clean-up not shielded", Crawl, Go("a page"), hangs_up, 1, 1, cancel="every-step"),
        Planted(
            "await between acquire and try",
            Embed,
            Go(),
            gives("embedded"),
            1,
            1,
            oracle="cancel",
            kind="left-behind",
        ),
        Planted("swallowed cancellation", Research, Go(), happens(0, "mail"), 1, 1, cancel="every-step"),
        Planted("missing idempotency key", Invitation, Go("Ann"), happens_once("mail"), 1, 1, crash="every-write"),
        Planted(
            "state written apart from its event",
            Reservation,
            Go("book"),
            gives(4),
            1,
            1,
            oracle="checkpoint",
            kind="different-result",
        ),
    )
)
