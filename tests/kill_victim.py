"""The program that test_kill.py kills: workflows of every shape, in a store, with effects in the outside world.

It is started as ``python -c "import kill_victim; kill_victim.main()" OPTIONS``, so that its classes are those of a
module; ``OPTIONS`` is `Options` as JSON. It tells what it does in two files, by one system call each time, so that
nothing that was told is lost when it is killed:

- ``trace.N`` (of its ``life`` N) gets a letter whenever it begins or ends something (`PHASES`);
- ``ledger`` gets a line for each effect (`Effect`), and that is synced before the effect counts as done.
"""

import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from pathlib import Path
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
    Workflow,
    catch_error,
    step,
)
from flowkit.log import Durability
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.runtime import Runtime, open_runtime
from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import LeaseLost, RunElsewhere, UnknownRun

PHASES = {
    "i": "start-up",  # Python runs, nothing is imported yet
    "m": "opening",  # everything is imported
    "o": "working",  # the runtime is open
    "g": "leaving",
    "z": "over",
}
"""What the victim is at from this letter on. A capital ends what its small letter has begun."""
DOINGS = {"c": "commit", "s": "effect", "l": "resume", "r": "resume", "n": "opening", "b": "lease", "f": "keeper"}


@attrs.frozen
class Options:
    """What a victim is to do."""

    folder: str
    role: str = "work"
    backend: str = "asyncio"
    life: int = 0
    durability: Durability = "sync"
    lease: float = 30.0
    copies: int = 1
    pause: float = 0.003


@attrs.frozen
class Effect:
    """A line of the ledger: an effect was made in this life of the victim, by this attempt of a step, about ``what``.
    The effects whose keys are ``after`` led to it."""

    key: str
    attempt: int
    life: int
    what: str
    after: list[str]


OPTIONS = Options(".")
FILES: dict[str, int] = {}


def tell(name: str, text: str) -> None:
    """Append to a file, in one piece."""
    if name not in FILES:
        FILES[name] = os.open(Path(OPTIONS.folder, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(FILES[name], text.encode())


def mark(letter: str) -> None:
    tell(f"trace.{OPTIONS.life}", letter)


@contextmanager
def doing(letter: str) -> Any:
    mark(letter)
    try:
        yield
    finally:
        mark(letter.upper())


def effect(ctx: Context, what: str, *after: str) -> str:
    """Do something in the outside world that can't be taken back; its key."""
    key = ctx.idempotency_key
    made = Effect(key, ctx.retry_info().attempts, OPTIONS.life, what, [one for one in after if one])
    with doing("s"):
        tell("ledger", json.dumps(attrs.asdict(made)) + "\n")
        os.fsync(FILES["ledger"])
    return key


async def pause() -> None:
    await anyio.sleep(random.uniform(0, OPTIONS.pause))


class TracedStore(SQLiteStore):
    """Says when it is at work."""

    def open(self) -> None:
        with doing("n"):
            super().open()

    def commit(self, *args: Any, **options: Any) -> list[bool]:
        with doing("c"):
            return super().commit(*args, **options)

    def claim(self, *args: Any) -> Any:
        with doing("l"):
            return super().claim(*args)

    def read(self, *args: Any) -> list[bytes]:
        with doing("r"):
            return super().read(*args)

    def beat(self, *args: Any) -> None:
        with doing("b"):
            super().beat(*args)

    def find(self, **conditions: Any) -> Any:
        with doing("f"):
            return super().find(**conditions)


# ------------------------------------------------------------------------------------------------------------ workflows


class Boom(Exception):
    """A step failed on purpose."""


class Go(StartEvent):
    n: int


class Part(Event):
    n: int
    by: str = ""


class Product(Event):
    n: int
    by: str = ""


class Tick(Event):
    n: int


class Ask(InputRequiredEvent):
    who: str


class Reply(HumanResponseEvent):
    who: str
    text: str


class Chain(Workflow):
    """Three steps, one after another."""

    @step
    async def first(self, ctx: Context, ev: Go) -> Part:
        await pause()
        return Part(n=ev.n + 1, by=effect(ctx, "first"))

    @step
    async def second(self, ctx: Context, ev: Part) -> Product:
        key = effect(ctx, f"second {ev.n}", ev.by)
        await pause()
        return Product(n=ev.n * 2, by=key)

    @step
    async def third(self, ctx: Context, ev: Product) -> StopEvent:
        effect(ctx, f"third {ev.n}", ev.by)
        return StopEvent(result=ev.n)


class Loop(Workflow):
    """A step that hands on to itself, and counts in the state."""

    @step
    async def begin(self, ctx: Context, ev: Go) -> Part:
        return Part(n=ev.n + 8, by=effect(ctx, "begin"))

    @step
    async def turn(self, ctx: Context, ev: Part) -> Part | StopEvent:
        key = effect(ctx, f"turn {ev.n}", ev.by)
        await ctx.set(f"turn {ev.n}", ev.n)
        await pause()
        if ev.n:
            return Part(n=ev.n - 1, by=key)
        state = await ctx.store.get_state()
        return StopEvent(result=sum(state.values()))


class Fan(Workflow):
    """A fan-out, and a step that takes all of it."""

    @step
    async def split(self, ctx: Context, ev: Go) -> list[Part]:
        key = effect(ctx, "split")
        return [Part(n=ev.n + n, by=key) for n in range(6)]

    @step(num_workers=3)
    async def work(self, ctx: Context, ev: Part) -> Product:
        await pause()
        key = effect(ctx, f"work {ev.n}", ev.by)
        await pause()
        return Product(n=ev.n * ev.n, by=key)

    @step
    async def join(self, ctx: Context, evs: list[Product]) -> StopEvent:
        effect(ctx, f"join {[ev.n for ev in evs]}", *(ev.by for ev in evs))
        return StopEvent(result=[ev.n for ev in evs])


class Gather(Workflow):
    """Events sent one by one, by a step that may be killed between two of them, and collected."""

    @step
    async def split(self, ctx: Context, ev: Go) -> Part | None:
        for n in range(5):
            ctx.send_event(Part(n=ev.n + n))
            await pause()
        effect(ctx, "split")
        return None

    @step(num_workers=2)
    async def work(self, ctx: Context, ev: Part) -> Product:
        key = effect(ctx, f"work {ev.n}")
        await pause()
        return Product(n=ev.n, by=key)

    @step(num_workers=1)
    async def collect(self, ctx: Context, ev: Product) -> StopEvent | None:
        effect(ctx, f"collect {ev.n}", ev.by)
        found = ctx.collect_events(ev, [Product] * 5)
        return None if found is None else StopEvent(result=sorted(one.n for one in found))


class Interview(Workflow):
    """Two questions in one step; the answers come from outside."""

    @step
    async def ask(self, ctx: Context, ev: Go) -> Product:
        key = effect(ctx, "ask")
        texts: list[str] = []
        for question in ("a", "b"):
            who = f"{ctx.run_id}.{question}"
            reply = await ctx.wait_for_event(Reply, Ask(who=who), requirements={"who": who})
            effect(ctx, f"{question} {reply.text}")
            texts.append(reply.text)
        await pause()
        return Product(n=len(" ".join(texts)), by=key)

    @step
    async def note(self, ctx: Context, ev: Product) -> StopEvent:
        effect(ctx, f"note {ev.n}", ev.by)
        return StopEvent(result=ev.n)


class Nobody(Workflow):
    """A question that nobody answers in time."""

    @step
    async def ask(self, ctx: Context, ev: Go) -> Product:
        try:
            await ctx.wait_for_event(Reply, timeout=0.15)
        except TimeoutError:
            return Product(n=ev.n, by=effect(ctx, "timed out"))
        return Product(n=-1)  # somebody has

    @step
    async def end(self, ctx: Context, ev: Product) -> StopEvent:
        effect(ctx, "end", ev.by)
        return StopEvent(result=ev.n)


class Retry(Workflow):
    """Two failures, and a success."""

    @step
    async def begin(self, ctx: Context, ev: Go) -> Part:
        return Part(n=ev.n, by=effect(ctx, "begin"))

    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=0.03))
    async def work(self, ctx: Context, ev: Part) -> StopEvent:
        attempt = ctx.retry_info().attempts
        effect(ctx, f"work {attempt}", ev.by)
        await pause()
        if attempt < 2:
            raise Boom(str(attempt))
        return StopEvent(result=ev.n + attempt)


class Caught(Workflow):
    """A step that always fails, and one that makes up for it."""

    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=0.02))
    async def work(self, ctx: Context, ev: Go) -> StopEvent:
        effect(ctx, f"work {ctx.retry_info().attempts}")
        await pause()
        raise Boom("always")

    @catch_error(for_steps=["work"])
    async def caught(self, ctx: Context, ev: StepFailedEvent) -> StopEvent:
        effect(ctx, f"caught after {ev.attempts}")
        await pause()
        return StopEvent(result=f"{ev.step_name} failed")


class Nested(Workflow):
    """Interviews in steps."""

    @step
    async def split(self, ctx: Context, ev: Go) -> list[Part]:
        key = effect(ctx, "split")
        return [Part(n=ev.n + n, by=key) for n in range(2)]

    @step(num_workers=2)
    async def delegate(self, ctx: Context, ev: Part, interview: Interview) -> Product:
        length = await interview.run(n=ev.n)
        return Product(n=ev.n + length, by=effect(ctx, f"delegate {ev.n}", ev.by))

    @step
    async def join(self, ctx: Context, evs: list[Product]) -> StopEvent:
        effect(ctx, "join", *(ev.by for ev in evs))
        return StopEvent(result=len(evs))


class Counter(Workflow):
    """Atomic steps that count, and fail now and then after they have."""

    @step
    async def split(self, ctx: Context, ev: Go) -> list[Part]:
        key = effect(ctx, "split")
        return [Part(n=n, by=key) for n in range(6)]

    @step(atomic=True, num_workers=1, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=0.005))
    async def add(self, ctx: Context, ev: Part) -> Tick | None:
        await ctx.set("count", await ctx.get("count", 0) + 1)
        ctx.send_event(Tick(n=ev.n))
        effect(ctx, f"add {ev.n}", ev.by)
        await pause()
        if ev.n % 2 and not ctx.retry_info().attempts:
            raise Boom("after it has counted")
        return None

    @step(num_workers=1)
    async def total(self, ctx: Context, ev: Tick) -> StopEvent | None:
        effect(ctx, f"total {ev.n}")
        found = ctx.collect_events(ev, [Tick] * 6)
        if found is None:
            return None
        return StopEvent(result=[await ctx.get("count"), sorted(one.n for one in found)])


class Plain(Workflow):
    """Plain steps, in threads."""

    @step
    def split(self, ctx: Context, ev: Go) -> Part | None:
        for n in range(3):
            ctx.send_event(Part(n=ev.n + n))
        effect(ctx, "split")
        return None

    @step(num_workers=2)
    def work(self, ctx: Context, ev: Part) -> Product:
        key = effect(ctx, f"work {ev.n}")
        time.sleep(OPTIONS.pause / 2)
        return Product(n=ev.n, by=key)

    @step(num_workers=1)
    def collect(self, ctx: Context, ev: Product) -> StopEvent | None:
        effect(ctx, f"collect {ev.n}", ev.by)
        found = ctx.collect_events(ev, [Product] * 3)
        return None if found is None else StopEvent(result=sorted(one.n for one in found))


def gate_is_open() -> bool:
    return Path(OPTIONS.folder, "gate").exists()


class Gated(Workflow):
    """Turns; turn 2 ends when the file ``gate`` is there."""

    @step
    async def begin(self, ctx: Context, ev: Go) -> Part:
        return Part(n=ev.n)

    @step
    async def turn(self, ctx: Context, ev: Part) -> Part | StopEvent:
        key = effect(ctx, f"turn {ev.n}", ev.by)
        while ev.n == 2 and not gate_is_open():  # noqa: ASYNC110 - another process opens it
            await anyio.sleep(0.005)
        return Part(n=ev.n - 1, by=key) if ev.n else StopEvent(result="through")


def workflows() -> list[Workflow]:
    nested = Nested()
    nested.add_workflows(interview=Interview())
    return [
        Chain(), Loop(), Fan(), Gather(), Interview(), Nobody(), Retry(), Caught(), nested, Counter(), Plain(), Gated(),
    ]  # fmt: skip


def result_of(kind: str, n: int, run_id: str) -> Any:
    """What a run must come to."""
    interview = 2 * len(f"{run_id}.a said yes") + 1
    return {
        "Chain": (n + 1) * 2,
        "Loop": sum(range(n + 9)),
        "Fan": [(n + one) ** 2 for one in range(6)],
        "Gather": [n + one for one in range(5)],
        "Interview": interview,
        "Nobody": n,
        "Retry": n + 2,
        "Caught": "work failed",
        "Nested": 2,
        "Counter": [6, list(range(6))],
        "Plain": [n, n + 1, n + 2],
    }[kind]


def tasks(copies: int) -> list[tuple[str, int, str]]:
    """What there is to do: kind, n, run id."""
    kinds = [type(one).__name__ for one in workflows() if not isinstance(one, Gated)]
    return [(kind, n, f"{kind}-{n}") for n in range(copies) for kind in kinds]


# ---------------------------------------------------------------------------------------------------------------- roles


async def carry_out(runtime: Runtime, kind: str, n: int, run_id: str) -> None:
    """See a run to its end, and answer what it asks."""
    try:
        handler = runtime.handler(run_id)
    except UnknownRun:
        handler = await runtime.run(kind, run_id=run_id, n=n)
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            await pause()
            await runtime.send_event(run_id, Reply(who=event.who, text=f"{event.who} said yes"))
    await handler


async def work() -> None:
    """Everything there is to do, from wherever it is."""
    store = TracedStore(Path(OPTIONS.folder, "runs.db"))
    things = tasks(OPTIONS.copies)
    random.shuffle(things)
    async with open_runtime(
        store=store, workflows=workflows(), durability=OPTIONS.durability, lease=OPTIONS.lease
    ) as runtime:
        mark("o")
        async with anyio.create_task_group() as group:
            for thing in things:
                group.start_soon(carry_out, runtime, *thing)
        mark("g")
    store.close()


async def compete() -> None:
    """Take what runs there are to take, beside another process that does the same."""
    store = SQLiteStore(Path(OPTIONS.folder, "runs.db"))
    async with open_runtime(store=store, workflows=workflows(), lease=OPTIONS.lease) as runtime:
        mark("o")
        for n in range(OPTIONS.copies):
            try:
                result = await (await runtime.run("Chain", run_id=f"Chain-{n}", n=n))
            except RunElsewhere:
                mark("e")
            else:
                assert result == (n + 1) * 2, result
                mark("w")
    store.close()


async def be_slow() -> None:
    """Drive the gated run; where it is lost to another process, go on with one that is new."""
    store = SQLiteStore(Path(OPTIONS.folder, "runs.db"))
    async with open_runtime(store=store, workflows=workflows(), lease=OPTIONS.lease) as runtime:
        mark("o")
        handler = await runtime.run("Gated", run_id="gated", n=5)
        try:
            result = await handler
        except LeaseLost as error:
            tell("said", f"lost {error.run_id}\n")
        else:
            tell("said", f"{result}\n")
        tell("said", f"{await (await runtime.run('Chain', run_id='after', n=1))}\n")
    store.close()


async def take_over() -> None:
    """Wait until the gated run has been taken up here by itself, and has ended."""
    store = SQLiteStore(Path(OPTIONS.folder, "runs.db"))
    async with open_runtime(store=store, workflows=workflows(), lease=OPTIONS.lease) as runtime:
        mark("o")
        while True:
            (info,) = await runtime.runs(workflow="Gated")
            if info.status == "finished":
                break
            await anyio.sleep(0.01)
        tell("said", f"took over: {await runtime.handler('gated')}\n")
    store.close()


async def run_alone() -> None:
    """One run, in the simplest way."""
    store = TracedStore(Path(OPTIONS.folder, "runs.db"))
    mark("o")
    tell("said", f"{await Loop().run(store=store, run_id='alone', n=12)}\n")


async def run_in_runtime() -> None:
    """One run, in a runtime."""
    store = TracedStore(Path(OPTIONS.folder, "runs.db"))
    async with open_runtime(store=store, workflows=workflows(), lease=OPTIONS.lease) as runtime:
        mark("o")
        tell("said", f"{await (await runtime.run('Loop', run_id='alone', n=12))}\n")


ROLES: dict[str, Callable[[], Awaitable[None]]] = {
    "work": work,
    "compete": compete,
    "be slow": be_slow,
    "take over": take_over,
    "run alone": run_alone,
    "run in a runtime": run_in_runtime,
}


def main() -> None:
    global OPTIONS
    OPTIONS = Options(**json.loads(sys.argv[1]))
    mark("m")
    anyio.run(ROLES[OPTIONS.role], backend=OPTIONS.backend)
    mark("z")
