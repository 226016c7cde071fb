"""Workflows whose runs are kept in a store, for the tests of the runtime; and the clock those tests need."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import attrs
import pytest

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
from flowkit.retry_policy import ConstantDelayRetryPolicy

__all__ = [
    "BEGIN",
    "DAY",
    "Approved",
    "Ask",
    "Broken",
    "Charged",
    "Form",
    "Order",
    "Patient",
    "Placed",
    "Question",
    "Retrying",
    "Slow",
    "Unstorable",
    "WaitsForApproval",
    "the_logs_errors",
    "wall_clock",
]

DAY = 86_400.0
BEGIN = 1_000_000_000.0
"""Seconds since the epoch at which virtual time begins."""


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the wall clock, by which a runtime that goes on with runs learns what time it is, go as virtual time does."""
    real = time.time

    def virtual() -> float:
        try:
            return BEGIN + anyio.current_time()
        except RuntimeError:  # no event loop runs in this thread
            return real()

    monkeypatch.setattr(time, "time", virtual)


@contextmanager
def the_logs_errors(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What flowkit logs as a warning or an error meanwhile."""
    caplog.clear()
    told: list[str] = []
    with caplog.at_level("WARNING", logger="flowkit"):
        yield told
    told += [f"{one.getMessage()} {one.exc_info[1] if one.exc_info else ''}".strip() for one in caplog.records]


class Placed(StartEvent):
    item: str = "book"


class Charged(Event):
    item: str


class Order(Workflow):
    """Charges, then ships; ``done`` has each step's name as often as its body ran."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.done: list[str] = []

    @step
    async def charge(self, ctx: Context, ev: Placed) -> Charged:
        self.done.append("charge")
        await ctx.set("charged", ev.item)
        await anyio.sleep(1)
        return Charged(ev.item)

    @step
    async def ship(self, ctx: Context, ev: Charged) -> StopEvent:
        self.done.append("ship")
        await anyio.sleep(1)
        return StopEvent(result=f"{ev.item} for {await ctx.get('charged')}")


class Question(InputRequiredEvent):
    text: str


class Ask(Workflow):
    """Asks, and ends with the answer to it. At rest meanwhile: no step is suspended."""

    @step
    async def ask(self, ev: StartEvent) -> Question:
        return Question("how many?")

    @step
    async def answer(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)


class Approved(Event):
    by: str = "me"


class WaitsForApproval(Workflow):
    """Suspended in `wait_for_event`; ``bodies`` counts how often its step began."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.bodies = 0

    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        self.bodies += 1
        approved = await ctx.wait_for_event(Approved, waiter_event=Question("approve?"))
        return StopEvent(result=approved.by)


class Slow(Workflow):
    """One step, which takes 100 seconds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.began = self.ended = 0

    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        self.began += 1
        try:
            await anyio.sleep(100)
        finally:
            self.ended += 1
        return StopEvent(result="slept")


class Retrying(Workflow):
    """Fails at once, and works when it is tried again 10 days later."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.attempts: list[int] = []

    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=10 * DAY))
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        attempt = ctx.retry_info().attempts
        self.attempts.append(attempt)
        if attempt == 0:
            raise OSError("the network is down")
        return StopEvent(result=ctx.retry_info().elapsed_time)


class Broken(Workflow):
    """Its step fails, after ``after`` seconds."""

    def __init__(self, after: float = 0, **options: Any) -> None:
        super().__init__(**options)
        self.after = after

    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(self.after)
        raise ValueError("no such customer")


class Patient(Workflow):
    """Driven from outside: each `Charged` is noted, `Approved` ends it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(stalled="wait", **options)

    @step
    async def begin(self, ev: StartEvent) -> None:
        return None

    @step
    async def note(self, ctx: Context, ev: Charged) -> None:
        await ctx.set("items", [*await ctx.get("items", []), ev.item])

    @step
    async def end(self, ctx: Context, ev: Approved) -> StopEvent:
        return StopEvent(result=await ctx.get("items", []))


@attrs.define
class Form:
    name: str = ""
    pages: list[int] = attrs.field(factory=list[int])


class Unstorable:
    """Of a class that no store takes."""
