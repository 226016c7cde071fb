"""A workflow with everything in it that an instrument can be told of, and what checks that it is told well."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import anyio

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Instrument,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from flowkit.instruments import ObservedAttempt, ObservedRun, ObservedWait
from flowkit.retry_policy import ConstantDelayRetryPolicy

__all__ = ["Approved", "Checked", "Item", "Made", "Question", "Recorder", "Shop", "Wrapping", "make_shop"]


class Item(Event):
    n: int


class Made(Event):
    n: int


class Question(InputRequiredEvent):
    n: int


class Approved(HumanResponseEvent):
    n: int


class Wrapping(Workflow):
    @step
    async def wrap(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(1)
        return StopEvent(result=ev.n)


class Shop(Workflow):
    """Three items by two workers: the first fails once, the second is wrapped by a nested run, the third is asked
    about."""

    @step
    async def plan(self, ev: StartEvent) -> list[Item]:
        return [Item(0), Item(1), Item(2)]

    @step(num_workers=2, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=2))
    async def work(self, ctx: Context, ev: Item, wrapping: Wrapping) -> Made:
        if ev.n == 0 and not ctx.retry_info().attempts:
            raise OSError("the first always fails")
        if ev.n == 1:
            return Made(await wrapping.run(n=1))
        if ev.n == 2:
            ctx.write_event_to_stream(Made(2))
            answer = await ctx.wait_for_event(Approved, Question(2), requirements={"n": 2}, timeout=60)
            return Made(answer.n)
        return Made(0)

    @step
    async def gather(self, evs: list[Made]) -> StopEvent:
        return StopEvent(result=[ev.n for ev in evs])


def make_shop(*instruments: Instrument) -> Shop:
    shop = Shop(instruments=instruments)
    shop.add_workflows(wrapping=Wrapping())
    return shop


class Recorder(Instrument):
    """Notes what it is told, in order, in words."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.runs: list[ObservedRun] = []
        self.attempts: list[ObservedAttempt] = []
        self.waits: list[ObservedWait] = []

    def run_called(self, run: ObservedRun) -> None:
        self.runs.append(run)
        self.calls.append(f"{run.workflow} called")

    def carry(self, run: ObservedRun) -> dict[str, str]:
        self.calls.append(f"{run.workflow} carries")
        return {}

    def run_started(self, run: ObservedRun) -> None:
        self.calls.append(f"{run.workflow} {'goes on' if run.resumed else 'starts'}")

    def run_ended(self, run: ObservedRun) -> None:
        self.calls.append(f"{run.workflow} {run.outcome}")

    def attempt_queued(self, attempt: ObservedAttempt, cause: ObservedAttempt | None) -> None:
        self.attempts.append(attempt)
        by = "" if cause is None else f" by {cause.step} {cause.number}"
        self.calls.append(f"{attempt.step} {attempt.number} queued{by}")

    def around_attempt(self, attempt: ObservedAttempt) -> None:
        self.calls.append(f"around {attempt.step} {attempt.number}")

    def attempt_started(self, attempt: ObservedAttempt) -> None:
        self.calls.append(f"{attempt.step} {attempt.number} begins")

    def attempt_ended(self, attempt: ObservedAttempt) -> None:
        self.calls.append(f"{attempt.step} {attempt.number} {attempt.outcome}")

    def wait_opened(self, wait: ObservedWait) -> None:
        self.waits.append(wait)
        self.calls.append(f"{wait.attempt.step} waits for {wait.event_type.__name__}")

    def wait_ended(self, wait: ObservedWait) -> None:
        self.calls.append(f"{wait.attempt.step}'s wait {wait.outcome}")

    def event_sent(self, run: ObservedRun, event: Event, sender: ObservedAttempt | None) -> None:
        self.calls.append(f"{event!r} sent by {_by(sender)}")

    def event_published(self, run: ObservedRun, event: Event, sender: ObservedAttempt | None) -> None:
        self.calls.append(f"{event!r} shown by {_by(sender)}")

    def event_collected(self, attempt: ObservedAttempt, event: Event, buffer: str | None, have: int, need: int) -> None:
        self.calls.append(f"{attempt.step} collects {event!r}: {have} of {need}")


def _by(sender: ObservedAttempt | None) -> str:
    return "somebody outside" if sender is None else sender.step


class Checked(Instrument):
    """Checks what it is told, as it is told: each thing once, in an order that makes sense, nothing after its end."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.told: Counter[tuple[str, int]] = Counter()
        self.kept: dict[int, Any] = {}  # so that no two have the same id
        self.open_runs: list[ObservedRun] = []
        self.open_attempts: list[ObservedAttempt] = []
        self.open_waits: list[ObservedWait] = []

    def _once(self, what: str, thing: Any) -> None:
        self.kept[id(thing)] = thing
        self.told[what, id(thing)] += 1
        self._check(self.told[what, id(thing)] == 1, f"{what} twice: {thing}")

    def _check(self, fits: bool, what: str) -> None:
        if not fits:
            self.wrong.append(what)

    def _lies_in(self, thing: Any, around: Iterable[Any], what: str) -> None:
        self._check(any(one is thing for one in around), f"{what}: {thing}")

    def run_called(self, run: ObservedRun) -> None:
        self._once("called", run)

    def carry(self, run: ObservedRun) -> dict[str, str]:
        self._once("carry", run)
        self._check(not self.told["started", id(run)], "asked what to carry after it had started")
        return {"who": "me"}

    def run_started(self, run: ObservedRun) -> None:
        self._once("started", run)
        self._check(self.told["called", id(run)] == 1 and run.began is not None, "started without a call")
        self._check(run.carried == {"who": "me"}, f"carries {run.carried}")
        if run.parent is not None:
            self._lies_in(run.parent, self.open_attempts, "nested in an attempt that isn't under way")
        self.open_runs.append(run)

    def run_ended(self, run: ObservedRun) -> None:
        self._once("ended", run)
        self._lies_in(run, self.open_runs, "ended, but not under way")
        self._check(run.outcome is not None and run.ended is not None and run.ended >= (run.began or 0), "its end")
        self._check((run.error is None) is (run.outcome == "finished"), f"{run.outcome} with {run.error!r}")
        self._check(all(one.run is not run for one in self.open_attempts), "ended before an attempt")
        self.open_runs = [one for one in self.open_runs if one is not run]

    def attempt_queued(self, attempt: ObservedAttempt, cause: ObservedAttempt | None) -> None:
        self._once("queued", attempt)
        self._lies_in(attempt.run, self.open_runs, "queued in a run that isn't under way")
        self._check(cause is None or cause.run is attempt.run, "caused by another run")
        if attempt.number and not attempt.run.resumed:
            again = cause is not None and cause.invocation == attempt.invocation and cause.delay is not None
            self._check(again, "a retry of nothing")
        twice = [one for one in self.open_attempts if one.run is attempt.run and one.invocation == attempt.invocation]
        self._check(not twice, "two attempts at once of one invocation")
        self.open_attempts.append(attempt)

    def around_attempt(self, attempt: ObservedAttempt) -> None:
        self._once("around", attempt)
        self._lies_in(attempt, self.open_attempts, "around one that isn't under way")
        self._check(attempt.began is not None and attempt.began >= attempt.queued, "began before it was queued")

    def attempt_started(self, attempt: ObservedAttempt) -> None:
        self._once("began", attempt)
        self._check(self.told["around", id(attempt)] == 1, "began without what is around it")

    def attempt_ended(self, attempt: ObservedAttempt) -> None:
        self._once("over", attempt)
        self._lies_in(attempt, self.open_attempts, "over, but not under way")
        self._check(attempt.ended is not None and attempt.ended >= (attempt.began or attempt.queued), "its end")
        self._check(attempt.outcome == "cancelled" or attempt.began is not None, "over before it began")
        self._check((attempt.error is not None) is (attempt.outcome == "raised"), f"{attempt.outcome}, {attempt.error}")
        self._check(all(one.attempt is not attempt for one in self.open_waits), "over before a wait of it")
        self.open_attempts = [one for one in self.open_attempts if one is not attempt]

    def wait_opened(self, wait: ObservedWait) -> None:
        self._once("opened", wait)
        self._lies_in(wait.attempt, self.open_attempts, "waits in one that isn't under way")
        self.open_waits.append(wait)

    def wait_ended(self, wait: ObservedWait) -> None:
        self._once("closed", wait)
        self._lies_in(wait, self.open_waits, "closed, but not open")
        self._check(wait.outcome is not None and (wait.ended or 0) >= wait.opened, "its end")
        self._check((wait.answer is not None) is (wait.outcome == "answered"), f"{wait.outcome} by {wait.answer!r}")
        self.open_waits = [one for one in self.open_waits if one is not wait]

    def amiss(self) -> list[str]:
        """What was wrong. Not to be asked while a run is under way."""
        still = [*self.open_runs, *self.open_attempts, *self.open_waits]
        return [*self.wrong, *(f"never ended: {one}" for one in still)]
