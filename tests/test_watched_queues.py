"""Instruments are told of what a step is given when it is given it, though it may have to wait for a worker."""

import anyio

from flowkit import Context, Event, Instrument, StartEvent, StopEvent, Workflow, step
from flowkit.instruments import ObservedAttempt
from flowkit.retry_policy import ConstantDelayRetryPolicy


class Item(Event):
    n: int


class Made(Event):
    n: int


class Told(Instrument):
    """Who was queued, when, and by whose doing: all as (step, event's number, attempt)."""

    def __init__(self) -> None:
        self.queued: dict[tuple[str, int, int], tuple[float, tuple[str, int, int] | None]] = {}
        self.began: list[tuple[str, int, int]] = []
        self.ended: list[tuple[str, int, int]] = []
        self.zero: float | None = None

    def key(self, attempt: ObservedAttempt) -> tuple[str, int, int]:
        return attempt.step, getattr(attempt.event, "n", -1), attempt.number

    def attempt_queued(self, attempt: ObservedAttempt, cause: ObservedAttempt | None) -> None:
        if self.zero is None:
            self.zero = attempt.queued
        assert self.key(attempt) not in self.queued
        at = round(attempt.queued - self.zero, 6)
        self.queued[self.key(attempt)] = at, None if cause is None else self.key(cause)

    def attempt_started(self, attempt: ObservedAttempt) -> None:
        self.began.append(self.key(attempt))

    def attempt_ended(self, attempt: ObservedAttempt) -> None:
        self.ended.append(self.key(attempt))


class Fan(Workflow):
    @step
    async def plan(self, ev: StartEvent) -> list[Item]:
        return [Item(n) for n in range(6)]

    @step(num_workers=2, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=1.5))
    async def work(self, ctx: Context, ev: Item) -> Made:
        await anyio.sleep(1)
        if ev.n == 0 and ctx.retry_info().attempts == 0:
            raise OSError
        return Made(ev.n)

    @step
    async def gather(self, evs: list[Made]) -> StopEvent:
        return StopEvent(result=len(evs))


async def test_what_waits_for_a_worker_is_told_at_once_with_what_made_it() -> None:
    told = Told()
    assert await Fan(instruments=[told]).run() == 6
    plan = ("plan", -1, 0)
    for n in range(6):
        assert told.queued["work", n, 0] == (0.0, plan)
    assert told.began[:3] == [plan, ("work", 0, 0), ("work", 1, 0)]
    # The retry is due after 2.5 seconds, while both workers are at work, and begins after 3.
    assert told.queued["work", 0, 1] == (2.5, ("work", 0, 0))
    assert sorted(told.began) == sorted(told.ended) == sorted(told.queued)


async def test_what_never_got_a_worker_has_ended_with_its_run() -> None:
    told = Told()
    handler = Fan(instruments=[told]).run()
    async with handler:
        await anyio.sleep(0.5)
        await handler.cancel_run()
    assert sorted(told.ended) == sorted(told.queued)
    assert told.began == [("plan", -1, 0), ("work", 0, 0), ("work", 1, 0)]


class Slow(Workflow):
    @step
    async def plan(self, ev: StartEvent) -> list[Item]:
        return [Item(n) for n in range(3)]

    @step(num_workers=1, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=9, delay=5))
    async def work(self, ctx: Context, ev: Item) -> Made:
        if ev.n == 0 and ctx.retry_info().attempts == 0:
            raise OSError
        await anyio.sleep(10)
        return Made(ev.n)

    @step
    async def gather(self, evs: list[Made]) -> StopEvent:
        return StopEvent(result=len(evs))


async def test_a_run_that_goes_on_tells_of_its_queues() -> None:
    workflow = Slow()
    handler = workflow.run()
    async with handler:
        await anyio.sleep(1)
        data = handler.ctx.to_dict()
        await handler.cancel_run()
    told = Told()
    resumed = Slow(instruments=[told])
    assert await resumed.run(ctx=Context.from_dict(resumed, data)) == 3
    at = {key: when for key, (when, _) in told.queued.items()}
    assert at["work", 1, 0] == at["work", 2, 0] == 0.0
    assert 0 < at["work", 0, 1] < 10  # when it was due: the worker is free after 20 seconds
    assert told.began == [("work", 1, 0), ("work", 2, 0), ("work", 0, 1), ("gather", -1, 0)]
    assert sorted(told.ended) == sorted(told.queued)
