"""Workflows that look dangerous and are right: no oracle of `flowkit.testing` may ever fail one (test_corpus.py).

They cancel, time out, retry, lock, clean up, ask people, die and go on, each in the way that is proof against it. Most
are what a planted bug (planted_bugs.py) is when it has been mended.
"""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import anyio
import attrs
from corpus_words import Approve, Decision, Done, Go, Job, effects, gives, hangs_up, one_of, trips

from flowkit import (
    Collect,
    Context,
    Event,
    Resource,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Take,
    WaitTimedOut,
    Workflow,
    catch_error,
    step,
    testing,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy

__all__ = ["CORRECT", "Correct"]


@attrs.frozen
class Correct:
    """A program, what may befall it, and what holds nevertheless.

    ``check`` must hold of each finished run, however it ended. ``oracles`` are those that need no property ("schedule",
    "checkpoint", "cancel"); one whose result depends on the schedule by rights doesn't name "schedule".
    """

    flow: type[Workflow]
    start: StartEvent
    check: Callable[[Any, Any], None]
    oracles: tuple[str, ...] = ("schedule", "cancel")
    faults: dict[str, Any] | None = None
    cancel: str | None = "every-step"
    crash: str | None = None
    answer: Callable[[Any], Event] | None = None

    @property
    def name(self) -> str:
        return self.flow.__name__


def if_it_ends(*checks: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """These hold of a run that ended with a result; one that was cancelled owes nothing."""

    def check(run: Any, start: Any) -> None:
        if run.has_result:
            for one in checks:
                one(run, start)

    return check


def both(*checks: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def check(run: Any, start: Any) -> None:
        for one in checks:
            one(run, start)

    return check


def known_apart(*what: Any, times: int = 1) -> Callable[[Any, Any], None]:
    """Effects that begin so may come again with the same key, never with another: at most so many keys."""

    def check(run: Any, start: Any) -> None:
        keys = set(effects(run, *what))
        assert len(keys) <= times
        assert len(keys) == times or not run.has_result

    return check


class Suppliers(Workflow):
    """Asks two; the first answer ends the run, and the other order is called off, which takes time."""

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job("near", away=2), Job("far", away=5)]

    @step
    async def order(self, ev: Job) -> StopEvent:
        testing.effect("open", ev.name)
        try:
            await anyio.sleep(ev.away)
            return StopEvent(result="ordered")
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
                testing.effect("close", ev.name)


class Replicas(Workflow):
    """Asks two replicas in one step, and cancels the slower."""

    @step
    async def read(self, ev: Go) -> StopEvent:
        found: list[str] = []

        async def ask(latency: float) -> None:
            await anyio.sleep(latency)
            found.append(ev.subject)
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(ask, 1)
            group.start_soon(ask, 2)
        return StopEvent(result=found[0])


class Paying(Workflow):
    """Charges again after a timeout, a fault or a crash, under the same key."""

    @step(timeout=10, retry_policy=ConstantDelayRetryPolicy(20, 1))
    async def charge(self, ctx: Context, ev: Go) -> Done:
        testing.effect("charge", ctx.idempotency_key)
        await anyio.sleep(0.2)
        return Done(ev.subject)

    @step
    async def end(self, ev: Done) -> StopEvent:
        return StopEvent(result="charged")


class OrderedLocks(Workflow):
    """Three transfers around a ring, each of which locks its accounts in the order of the alphabet."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.locks = {name: anyio.Lock() for name in "abc"}

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job(pair) for pair in ("ab", "bc", "ca")]

    @step
    async def transfer(self, ev: Job) -> Done:
        first, second = sorted(ev.name)
        async with self.locks[first]:
            async with self.locks[second]:
                await trips(1)
        return Done(ev.name)

    @step
    async def end(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=len(evs))


class Counting(Workflow):
    """Adds up what several steps find, one writer at a time, with an await in the middle."""

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job(name) for name in "abc"]

    @step
    async def count(self, ctx: Context, ev: Job) -> Done:
        async with ctx.store.edit_state() as state:
            before = state.get("count", 0)
            await trips(2)
            state["count"] = before + 1
        return Done(ev.name)

    @step
    async def end(self, ctx: Context, evs: list[Done]) -> StopEvent:
        return StopEvent(result=await ctx.get("count"))


class Stock(Workflow):
    """Takes one off the stock and says so, both at once, however often it begins anew."""

    @step
    async def begin(self, ctx: Context, ev: Go) -> Job:
        await ctx.set("stock", 5)
        return Job("book")

    @step(atomic=True, retry_policy=ConstantDelayRetryPolicy(20, 1))
    async def reserve(self, ctx: Context, ev: Job) -> Done:
        await ctx.set("stock", await ctx.get("stock") - 1)
        await trips(1)
        return Done(ev.name)

    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent:
        return StopEvent(result=await ctx.get("stock"))


class Approvals(Workflow):
    """Two questions at once, each of which knows its answer."""

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job("Berlin"), Job("Oslo", away=2)]

    @step
    async def ask(self, ctx: Context, ev: Job) -> Done:
        await trips(ev.away)
        decision = await ctx.wait_for_event(Decision, Approve(ev.name), requirements={"deal": ev.name})
        return Done(ev.name, decision.deal)

    @step
    async def end(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=[ev.value for ev in evs])


class Unanswered(Workflow):
    """Waits for somebody who doesn't come, and goes on without."""

    @step
    async def ask(self, ctx: Context, ev: Go) -> StopEvent:
        try:
            await ctx.wait_for_event(Decision, Approve("Berlin"), timeout=60)
        except WaitTimedOut:
            return StopEvent(result="put off")
        return StopEvent(result="decided")


class Page(Workflow):
    """A run for each page, inside `Site`'s."""

    @step
    async def fetch(self, ev: Go) -> Job:
        await anyio.sleep(len(ev.subject))
        return Job(ev.subject)

    @step
    async def read(self, ev: Job) -> StopEvent:
        return StopEvent(result=ev.name.upper())


class Site(Workflow):
    """Several nested runs at once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_workflows(page=Page())

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job(name) for name in ("a", "bbb", "cc")]

    @step
    async def visit(self, ev: Job, page: Page) -> Done:
        return Done(ev.name, await page.run(subject=ev.name))

    @step
    async def end(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=[ev.value for ev in evs])


class Progress(Event):
    name: str
    percent: int


class Downloads(Workflow):
    """Shows how far each of two downloads is: in order for each, in any order between them."""

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job("a"), Job("b")]

    @step
    async def download(self, ctx: Context, ev: Job) -> Done:
        for percent in (0, 50, 100):
            await trips(1)
            ctx.write_event_to_stream(Progress(ev.name, percent))
        return Done(ev.name)

    @step
    async def end(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=[ev.name for ev in evs])


def shows_progress_in_order(run: Any, start: Any) -> None:
    for name in "ab":
        shown = [ev.percent for ev in run.stream if isinstance(ev, Progress) and ev.name == name]
        assert shown == [0, 50, 100][: len(shown)]
        assert len(shown) == 3 or not run.has_result


async def connection() -> AsyncIterator[str]:
    await trips(1)
    testing.effect("open")
    try:
        yield "connection"
    finally:
        with anyio.CancelScope(shield=True):
            await trips(1)
            testing.effect("close")


class Query(Workflow):
    """A connection for each call of a step, and one for the run; whoever is cancelled closes his."""

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job("a"), Job("b")]

    @step
    async def query(self, ev: Job, one: Annotated[str, Resource(connection, cache=False)]) -> Done:
        await anyio.sleep(1)
        return Done(ev.name)

    @step
    async def end(self, evs: list[Done], one: Annotated[str, Resource(connection, scope="run")]) -> StopEvent:
        await anyio.sleep(1)
        return StopEvent(result=len(evs))


class SortedSummaries(Workflow):
    """Puts its summaries in order before it joins them: they come as they are ready."""

    @step
    async def split(self, ctx: Context, ev: Go) -> Job | None:
        for name in ev.subject.split():
            ctx.send_event(Job(name, away=5 - len(name)))

    @step(num_workers=2)
    async def summarise(self, ev: Job) -> Done:
        await trips(ev.away)
        return Done(ev.name)

    @step
    async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
        ready = ctx.collect_events(ev, [Done] * 4)
        return None if ready is None else StopEvent(result=sorted(one.name for one in ready))


class Parsing(Workflow):
    """Plain steps, in threads, that send and collect."""

    @step
    def begin(self, ctx: Context, ev: Go) -> Job | None:
        for name in "abc":
            ctx.send_event(Job(name))

    @step(num_workers=2)
    def parse(self, ev: Job) -> Done:
        return Done(ev.name, ev.name.upper())

    @step
    def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        parsed = ctx.collect_events(ev, [Done] * 3)
        return None if parsed is None else StopEvent(result=sorted(one.value for one in parsed))


class Searching(Workflow):
    """A search that fails, is tried again, and in the end given up, leaves its place in the list to a stand-in."""

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job("a"), Job("b")]

    @step(retry_policy=ConstantDelayRetryPolicy(1, 1))
    async def search(self, ev: Job) -> Done:
        await anyio.sleep(1)
        return Done(ev.name, "found")

    @catch_error(for_steps=["search"])
    async def give_up(self, ev: StepFailedEvent) -> Done:
        return Done(ev.input_event.name, "nothing")

    @step
    async def end(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=[ev.name for ev in evs])


class Waiting(Workflow):
    """Looks inside the condition whether there is something to wait for, and again after each call."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ready = anyio.Condition()

    @step
    async def load(self, ctx: Context, ev: Go) -> Done:
        await trips(2)
        async with self.ready:
            await ctx.set("loaded", True)
            self.ready.notify_all()
        return Done("load")

    @step
    async def use(self, ctx: Context, ev: Go) -> Done:
        async with self.ready:
            while not await ctx.get("loaded", False):
                await self.ready.wait()
        return Done("use")

    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        return StopEvent(result="used") if ctx.collect_events(ev, [Done, Done]) else None


class Slots(Workflow):
    """More calls than the service takes at once; a cancelled one gives its slot back."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.slots = anyio.Semaphore(2)
        self.taken = 0

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job(name) for name in "abcd"]

    @step
    async def call(self, ev: Job) -> Done:
        async with self.slots:
            self.taken += 1
            try:
                assert self.taken <= 2
                await anyio.sleep(1)
            finally:
                self.taken -= 1
        return Done(ev.name)

    @step
    async def end(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=len(evs))


class Quorum(Workflow):
    """The first two of three answers will do; the third comes when nobody needs it any more."""

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job("a", away=1), Job("b", away=2), Job("c", away=9)]

    @step
    async def ask(self, ev: Job) -> Done:
        await anyio.sleep(ev.away)
        return Done(ev.name)

    @step
    async def end(self, evs: Annotated[list[Done], Collect(Take(2))]) -> StopEvent:
        return StopEvent(result=len(evs))


class Editing(Workflow):
    """Writes only what is based on the newest edition, and otherwise begins anew: somebody else got on."""

    @step
    async def begin(self, ctx: Context, ev: Go) -> list[Job]:
        await ctx.set("edition", 0)
        await ctx.set("text", [])
        return [Job("a"), Job("b")]

    @step
    async def edit(self, ctx: Context, ev: Job) -> Done:
        while True:
            edition, text = await ctx.get("edition"), await ctx.get("text")
            await trips(2)
            if edition == await ctx.get("edition"):
                await ctx.set("edition", edition + 1)
                await ctx.set("text", [*text, ev.name])
                return Done(ev.name)

    @step
    async def end(self, ctx: Context, evs: list[Done]) -> StopEvent:
        return StopEvent(result=sorted(await ctx.get("text")))


class Telling(Workflow):
    """Tells the service that it was cancelled, and lets the cancellation go on."""

    @step
    async def begin(self, ev: Go) -> list[Job]:
        return [Job("a"), Job("b")]

    @step(timeout=5, retry_policy=ConstantDelayRetryPolicy(20, 1))
    async def work(self, ev: Job) -> Done:
        testing.effect("open", ev.name)
        try:
            await anyio.sleep(1)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await trips(1)
            raise
        finally:
            testing.effect("close", ev.name)
        return Done(ev.name)

    @step
    async def end(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=[ev.name for ev in evs])


class Deadline(Workflow):
    """Takes what the slow source has if it is there in time, and what it has itself if not."""

    @step
    async def ask(self, ev: Go) -> StopEvent:
        answer = "own"
        with anyio.move_on_after(3):
            try:
                await anyio.sleep(1)
                answer = "theirs"
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1)
        return StopEvent(result=answer)


ROUGH: dict[str, Any] = {"delays": True, "timeouts": True}

CORRECT: dict[str, Correct] = {
    row.name: row
    for row in [
        Correct(Suppliers, Go(), both(hangs_up, if_it_ends(gives("ordered"))), faults=ROUGH),
        Correct(Replicas, Go("row"), if_it_ends(gives("row")), faults=ROUGH),
        Correct(
            Paying,
            Go("42"),
            both(known_apart("charge"), if_it_ends(gives("charged"))),
            oracles=("schedule", "checkpoint", "cancel"),
            faults={**ROUGH, "raises": {"charge": ConnectionError}, "store": True},
            crash="every-write",
        ),
        Correct(OrderedLocks, Go(), if_it_ends(gives(3)), faults=ROUGH),
        Correct(Counting, Go(), if_it_ends(gives(3)), faults=ROUGH),
        Correct(
            Stock,
            Go(),
            if_it_ends(gives(4)),
            oracles=("schedule", "checkpoint", "cancel"),
            faults={**ROUGH, "raises": {"reserve": ConnectionError}, "store": True},
            crash="every-write",
        ),
        Correct(
            Approvals,
            Go(),
            if_it_ends(gives(["Berlin", "Oslo"])),
            oracles=("schedule", "checkpoint", "cancel"),
            faults=ROUGH,
            crash="every-write",
            answer=lambda asked: Decision(asked.deal),
        ),
        Correct(Unanswered, Go(), if_it_ends(gives("put off")), oracles=("schedule", "checkpoint", "cancel")),
        Correct(
            Site,
            Go(),
            if_it_ends(gives(["A", "BBB", "CC"])),
            oracles=("schedule", "checkpoint", "cancel"),
            faults=ROUGH,
            crash="every-write",
        ),
        Correct(Downloads, Go(), both(shows_progress_in_order, if_it_ends(gives(["a", "b"]))), faults=ROUGH),
        Correct(Query, Go(), both(hangs_up, if_it_ends(gives(2))), faults=ROUGH),
        Correct(SortedSummaries, Go("one two three four"), if_it_ends(gives(["four", "one", "three", "two"]))),
        Correct(Parsing, Go(), if_it_ends(gives(["A", "B", "C"])), oracles=("schedule", "checkpoint", "cancel")),
        Correct(
            Searching, Go(), if_it_ends(gives(["a", "b"])), faults={**ROUGH, "raises": {"search": ConnectionError}}
        ),
        Correct(Waiting, Go(), if_it_ends(gives("used")), faults=ROUGH),
        Correct(Slots, Go(), if_it_ends(gives(4)), faults=ROUGH),
        Correct(Quorum, Go(), if_it_ends(gives(2)), faults=ROUGH),
        Correct(Editing, Go(), if_it_ends(gives(["a", "b"])), oracles=("cancel",)),
        Correct(Telling, Go(), both(hangs_up, if_it_ends(gives(["a", "b"]))), faults=ROUGH),
        Correct(Deadline, Go(), if_it_ends(one_of("own", "theirs")), faults=ROUGH),
    ]
}
