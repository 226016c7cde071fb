"""Workflows for test_scenarios.py, and the `Book` in which their steps write what they do.

Every step says what it takes, enters a place and leaves it again: so a test sees what was delivered, how often, and
whether anything was left behind. What an attempt does is an `Act`.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import anyio
import attrs

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Resource,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    catch_error,
    step,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy

DELAY = 1.5
"""Seconds between attempts."""


class Boom(Exception):
    """A step failed on purpose."""


class Untidy(Exception):
    """A clean-up failed on purpose."""


@attrs.frozen
class Act:
    """What an attempt does: sleep ``lasts`` seconds (``shielded`` or not), fail if it is one of the first ``fails``.

    Then clean up for ``tidies`` seconds, shielded, and perhaps fail in that.
    """

    lasts: float = 0.0
    tidies: float = 0.0
    fails: int = 0
    shielded: bool = False
    untidy: bool = False


class Book:
    """What the steps of one run did. It is in the run's start event, and no part of its value."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()
        self.taken: Counter[tuple[Any, ...]] = Counter()
        self.asked: list[int] = []
        self.faults: list[str] = []

    @contextlib.contextmanager
    def inside(self, place: str) -> Iterator[None]:
        self.open[place] += 1
        try:
            yield
        finally:
            self.open[place] -= 1
            self.open += Counter()  # drops what is zero

    def take(self, *what: Any) -> None:
        """A step takes an event: each attempt once."""
        self.taken[what] += 1
        if self.taken[what] > 1:
            self.faults.append(f"{what} was delivered twice")

    def check(self, right: bool, problem: str) -> None:
        if not right:
            self.faults.append(problem)


class Go(StartEvent):
    book: Any


class Item(Event):
    n: int


class Product(Event):
    n: int


class Note(Event):
    n: int


class Ask(InputRequiredEvent):
    n: int


class Reply(HumanResponseEvent):
    n: int


class Extra(Event):
    """Sent by the scenario; no step takes it."""

    n: int


class Done(StopEvent):
    got: Any = None


class Shape(Workflow):
    """A workflow whose steps do what ``acts`` say, and note it in ``book``."""

    def __init__(self, book: Book, acts: list[Act], **options: Any) -> None:
        super().__init__(**options)
        self.book = book
        self.acts = acts

    async def act(self, ctx: Context, place: str, n: int) -> None:
        attempt = ctx.retry_info().attempts
        self.book.take(type(self).__name__, place, n, attempt)
        what = self.acts[n % len(self.acts)]
        with self.book.inside(f"{place} {n}"):
            try:
                with anyio.CancelScope(shield=what.shielded):
                    await anyio.sleep(what.lasts)
                if attempt < what.fails:
                    raise Boom(f"{place} {n}")
            finally:
                if what.tidies:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(what.tidies)
                if what.untidy:
                    raise Untidy(f"{place} {n}")
        ctx.write_event_to_stream(Note(n=n))


class Chain(Shape):
    """A loop of two steps, once for each act."""

    @step
    async def begin(self, ctx: Context, ev: Go) -> Item:
        return Item(n=0)

    @step(num_workers=1)
    async def there(self, ctx: Context, ev: Item) -> Product:
        await self.act(ctx, "there", ev.n)
        return Product(n=ev.n)

    @step
    async def back(self, ctx: Context, ev: Product) -> Item | Done:
        self.book.take("back", ev.n)
        return Item(n=ev.n + 1) if ev.n + 1 < len(self.acts) else Done(got=ev.n)


class Fan(Shape):
    """A fan-out over the acts, retried, and joined by a list step."""

    @step
    async def split(self, ev: Go) -> list[Item]:
        return [Item(n=n) for n in range(len(self.acts))]

    @step(num_workers=2, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=DELAY))
    async def work(self, ctx: Context, ev: Item) -> Product:
        await self.act(ctx, "work", ev.n)
        return Product(n=ev.n)

    @step
    async def join(self, evs: list[Product]) -> Done:
        self.book.take("join")
        self.book.check([ev.n for ev in evs] == list(range(len(self.acts))), f"joined {evs}")
        return Done(got=len(evs))


class CaughtFan(Fan):
    """A fan-out whose failures are caught."""

    @catch_error(for_steps=["work"])
    async def caught(self, ev: StepFailedEvent) -> Product:
        self.book.take("caught", ev.input_event.n)
        return Product(n=ev.input_event.n)


class Gather(Shape):
    """Events sent one by one, worked on by one worker, and collected."""

    @step
    async def split(self, ctx: Context, ev: Go) -> Item | None:
        for n in range(len(self.acts)):
            ctx.send_event(Item(n=n))

    @step(num_workers=1, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=0))
    async def work(self, ctx: Context, ev: Item) -> Product:
        await self.act(ctx, "work", ev.n)
        return Product(n=ev.n)

    @step
    async def collect(self, ctx: Context, ev: Product) -> Done | None:
        self.book.take("collect", ev.n)
        found = ctx.collect_events(ev, [Product] * len(self.acts))
        if found is None:
            return None
        self.book.check(sorted(one.n for one in found) == list(range(len(self.acts))), f"collected {found}")
        return Done(got=len(found))


class Waits(Shape):
    """Waits for an answer to each of its questions, one after another; an act's duration bounds a wait."""

    @step(num_workers=1)
    async def ask(self, ctx: Context, ev: Go) -> Done:
        with self.book.inside("ask"):
            return Done(got=[await self.answer(ctx, n) for n in range(len(self.acts))])

    async def answer(self, ctx: Context, n: int) -> int | None:
        self.book.asked.append(n)
        patience = self.acts[n].lasts or None
        try:
            with anyio.move_on_after(patience and patience * 3):
                reply = await ctx.wait_for_event(
                    Reply, Ask(n=n), requirements={"n": n}, timeout=patience if self.acts[n].tidies else None
                )
                self.book.take("answer", reply.n)
                self.book.check(reply.n == n, f"question {n} got answer {reply.n}")
                return n
        except TimeoutError:
            pass
        return None


class WaitsTogether(Waits):
    """Waits for all of its answers at once."""

    @step(num_workers=1)
    async def ask(self, ctx: Context, ev: Go) -> Done:
        got: list[int | None] = []

        async def one(n: int) -> None:
            got.append(await self.answer(ctx, n))

        with self.book.inside("ask"):
            async with anyio.create_task_group() as group:
                for n in range(len(self.acts)):
                    group.start_soon(one, n)
        return Done(got=len(got))


class Human(Shape):
    """A question returned to the stream; the answer goes to a step."""

    @step
    async def ask(self, ctx: Context, ev: Go) -> Ask:
        await self.act(ctx, "ask", 0)
        self.book.asked.append(0)
        return Ask(n=0)

    @step
    async def answered(self, ctx: Context, ev: Reply) -> Done:
        self.book.take("answered", ev.n, len(self.book.taken))
        return Done(got=ev.n)


class Stall(Shape):
    """Comes to rest without an end."""

    @step
    async def work(self, ctx: Context, ev: Go) -> Item | Done | None:
        await self.act(ctx, "work", 0)
        return None

    @step
    async def join(self, ev: Item) -> Done:
        return Done()


class Thread(Shape):
    """A plain step, in a thread."""

    @step
    def work(self, ctx: Context, ev: Go) -> Item | None:
        with self.book.inside("work"):
            for n in range(len(self.acts)):
                ctx.send_event(Item(n=n))
                ctx.write_event_to_stream(Note(n=n))

    @step(num_workers=2)
    async def after(self, ctx: Context, ev: Item) -> Product:
        await self.act(ctx, "after", ev.n)
        return Product(n=ev.n)

    @step
    def collect(self, ctx: Context, ev: Product) -> Done | None:
        self.book.take("collect", ev.n)
        return Done() if ctx.collect_events(ev, [Product] * len(self.acts)) else None


def shared(ev: StartEvent) -> Book:
    found = ev["book"]
    assert isinstance(found, Book)
    return found


@contextlib.asynccontextmanager
async def connection(book: Annotated[Book, Resource(shared)]) -> AsyncIterator[str]:
    with book.inside("connection"):
        try:
            async with anyio.create_task_group() as group:  # must be left by the task that entered it
                group.start_soon(anyio.sleep, 0.5)
                yield "connection"
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.5)


@contextlib.contextmanager
def once(book: Annotated[Book, Resource(shared)]) -> Iterator[str]:
    with book.inside("once"):
        yield "once"


class Resourced(Chain):
    """A chain whose steps hold resources of every scope."""

    @step
    async def begin(
        self,
        ctx: Context,
        ev: Go,
        shared: Annotated[Book, Resource(shared)],
        connection: Annotated[str, Resource(connection)],
        once: Annotated[str, Resource(once, cache=False)],
    ) -> Item:
        self.book.check(shared.open["connection"] == 1, "the connection is closed")
        return Item(n=0)

    @step(num_workers=1)
    async def there(self, ctx: Context, ev: Item, connection: Annotated[str, Resource(connection)]) -> Product:
        await self.act(ctx, "there", ev.n)
        self.book.check(self.book.open["connection"] == 1, "the connection is closed")
        return Product(n=ev.n)


class Nested(Shape):
    """A workflow in a step."""

    @step
    async def delegate(self, ctx: Context, ev: Go, child: Shape) -> Done:
        self.book.take("delegate", ctx.retry_info().attempts)
        with self.book.inside("delegate"):
            return Done(got=await child.run(book=ev.book))
