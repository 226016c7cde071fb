"""`Watch`: what tells a run's instruments of it.

It is handed each fact with the commands that follow, before they are performed (as a performer's ``keep``), so what an
attempt causes is told after its end and before anything of it begins. What no fact says it is told by the performer:
that an attempt begins in its worker (`Watch.around`), and that the run has settled (`Watch.end`), which ends what was
at work still.

Of what has to wait until a worker is free there is no command yet: the machine keeps it in its queues. So that it is
told when that happens, and by whose doing, a watch looks at the invocations that the machine has numbered since the
last fact.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal

from flowkit.books import QUEUED
from flowkit.errors import StepFailed, WorkflowCancelled, WrongReturn
from flowkit.events import Event
from flowkit.facts import (
    AnswerWait,
    Command,
    EventCollected,
    EventPublished,
    EventSent,
    Fact,
    Finish,
    GiveBatch,
    RunResumed,
    RunStarted,
    SetTimer,
    StartStep,
    StateWritten,
    StepCommitted,
    StepRaised,
    StepReturned,
    TimerFired,
    WaitAbandoned,
    WaitOpened,
)
from flowkit.instruments import Installed, ObservedAttempt, ObservedRun, ObservedWait, installed_for_all
from flowkit.machine import Machine
from flowkit.storage_errors import RunSuspended

__all__ = ["Watch", "watching_for"]


def watching_for(own: Iterable[Installed], above: "Watch | None") -> tuple[Installed, ...]:
    """The instruments of a run: of its workflow, of the run it is nested in, and those of all runs; each once."""
    several = {id(one.instrument): one for one in own}
    if above is not None:
        several = {id(one.instrument): one for one in above.instruments} | several
    return tuple(({id(one.instrument): one for one in installed_for_all()} | several).values())


class Watch:
    """Tells a run's instruments what happens in it."""

    __slots__ = (
        "_attempts",
        "_failed",
        "_has_begun",
        "_machine",
        "_retries",
        "_seen",
        "_waits",
        "instruments",
        "run",
    )

    def __init__(self, instruments: tuple[Installed, ...], run: ObservedRun) -> None:
        self.instruments = instruments
        self.run = run
        self._attempts: dict[int, ObservedAttempt] = {}  # that haven't ended, by invocation
        self._failed: dict[int, ObservedAttempt] = {}  # that will be made again
        self._retries: dict[int, int] = {}  # those: their invocations, by timer
        self._machine: Machine | None = None
        self._seen = 0  # the last number that the machine had given when it was looked at
        self._has_begun = False
        self._waits: dict[int, dict[str, ObservedWait]] = {}  # by invocation and waiter

    def _tell(self, method: str, *args: Any) -> None:
        for one in self.instruments:
            call = one.calls.get(method)
            if call is not None:
                try:
                    call(*args)
                except Exception as error:  # noqa: BLE001 - reported
                    one.drop(method, error)

    def attempt(self, invocation: int) -> ObservedAttempt | None:
        """The attempt that is under way at an invocation."""
        return self._attempts.get(invocation)

    def called(self) -> None:
        """`Workflow.run` was called, in this task."""
        self._tell("run_called", self.run)

    def carry(self, now: float, start: Event | None, machine: Machine) -> Mapping[str, str] | None:
        """The run begins, or goes on, with this machine: what it carries. Where that is nothing yet, instruments are
        asked, once."""
        run, self._machine = self.run, machine
        if run.began is not None:
            return run.carried or None
        run.began, run.start_event = now, start
        if machine.carried:
            run.carried = dict(machine.carried)
            return machine.carried
        for one in self.instruments:
            call = one.calls.get("carry")
            if call is not None:
                try:
                    given: Mapping[str, str] = call(run)
                    run.carried |= {_text(name): _text(text) for name, text in given.items()}
                except Exception as error:  # noqa: BLE001 - reported
                    one.drop("carry", error)
        return run.carried or None

    # ---------------------------------------------------------------------------------------------------------- facts

    def __call__(self, fact: Fact, commands: Sequence[Command]) -> None:
        """A fact has been entered."""
        cause: ObservedAttempt | None = None
        match fact:
            case StepReturned():
                cause = self._returned(fact, commands)
            case StepCommitted():
                cause = self._attempts.get(fact.invocation)
                for effect in fact.effects:
                    self._done(effect, cause)
                cause = self._returned(fact, commands)
            case StepRaised():
                cause = self._ended(fact, "raised", error=fact.error, delay=fact.delay)
                if fact.delay is not None:
                    timers = [command.timer for command in commands if type(command) is SetTimer]
                    self._retries |= dict.fromkeys(timers, fact.invocation)
            case EventSent() | EventPublished():
                number = fact.sender if isinstance(fact, EventSent) else fact.invocation
                cause = None if number is None else self._attempts.get(number)
                self._done(fact, cause)
            case EventCollected():
                self._collected(fact, commands)
            case WaitOpened():
                self._wait_opened(fact)
            case WaitAbandoned():
                self._wait_ended(fact.invocation, fact.waiter, fact.time, "abandoned", None)
            case RunStarted() | RunResumed():
                self._begun(fact.time)
            case _:
                pass
        for command in commands:
            if type(command) is StartStep:
                self._queued(command, fact.time, cause)
            elif type(command) is AnswerWait:
                outcome: Literal["timed out", "answered"] = "timed out" if command.event is None else "answered"
                self._wait_ended(command.invocation, command.waiter, fact.time, outcome, command.event)
        if self._machine is not None:
            self._look_at_queues(self._machine, fact, cause)

    def _begun(self, time: float) -> None:
        self._has_begun = True
        self.run.began = time
        self._tell("run_started", self.run)

    def _done(self, fact: EventSent | EventPublished | StateWritten, sender: ObservedAttempt | None) -> None:
        if isinstance(fact, EventSent):
            self._tell("event_sent", self.run, fact.event, sender)
        elif isinstance(fact, EventPublished):
            self._tell("event_published", self.run, fact.event, sender)

    def _collected(self, fact: EventCollected, commands: Sequence[Command]) -> None:
        attempt = self._attempts.get(fact.invocation)
        if attempt is None or self._machine is None:
            return
        buffer = self._machine.buffers[attempt.step, fact.buffer]
        need = len(buffer.expected)
        is_full = any(type(command) is GiveBatch for command in commands)
        have = need if is_full else need - sum(buffer.missing().values())
        self._tell("event_collected", attempt, fact.event, fact.buffer, have, need)

    # ------------------------------------------------------------------------------------------------ attempts, waits

    def attempt_started(self, attempt: ObservedAttempt) -> None:
        """Its step is about to be called."""
        self._tell("attempt_started", attempt)

    def _look_at_queues(self, machine: Machine, fact: Fact, cause: ObservedAttempt | None) -> None:
        """Tell of the invocations that the fact has put into a queue."""
        numbers: Iterable[int]
        if isinstance(fact, RunResumed):
            self._retries = {number: timer.invocation for number, timer in machine.timers.items() if not timer.waiter}
            numbers = list(machine.invocations)
        elif isinstance(fact, TimerFired):
            invocation = self._retries.pop(fact.timer, None)
            numbers = () if invocation is None else (invocation,)
        elif machine.last == self._seen:
            return
        else:
            numbers = range(self._seen + 1, machine.last + 1)
        self._seen = machine.last
        for number in numbers:
            entry = machine.invocations.get(number)
            if entry is not None and entry.status == QUEUED:
                self._queued(StartStep(entry.lane.index, number, entry.event, entry.attempt), fact.time, cause)

    def _queued(self, start: StartStep, time: float, cause: ObservedAttempt | None) -> None:
        if start.invocation in self._attempts:
            return  # it was told of when it was put into the queue
        spec = self.run.plan.steps[start.step]
        attempt = self._attempts[start.invocation] = ObservedAttempt(
            self.run, spec.name, spec.where, start.invocation, start.attempt, start.event, time
        )
        self._tell("attempt_queued", attempt, self._failed.pop(start.invocation, None) or cause)

    def around(self, start: StartStep, now: Callable[[], float]) -> "AbstractContextManager[Any]":
        """What an attempt is to run in."""
        attempt = self._attempts[start.invocation]
        attempt.began = now()
        return _Around(self, attempt, now)

    def _returned(self, fact: StepReturned | StepCommitted, commands: Sequence[Command]) -> ObservedAttempt | None:
        last = commands[-1] if commands else None
        failure = last.error.__cause__ if type(last) is Finish and isinstance(last.error, StepFailed) else None
        if isinstance(failure, WrongReturn):
            return self._ended(fact, "raised", error=failure)
        return self._ended(fact, "returned", result=fact.result)

    def _ended(
        self,
        fact: StepReturned | StepCommitted | StepRaised,
        outcome: Literal["returned", "raised"],
        *,
        result: Any = None,
        error: BaseException | None = None,
        delay: float | None = None,
    ) -> ObservedAttempt | None:
        attempt = self._attempts.pop(fact.invocation, None)
        if attempt is not None:
            for waiter in list(self._waits.get(fact.invocation, ())):
                self._wait_ended(fact.invocation, waiter, fact.time, "abandoned", None)
            self._waits.pop(fact.invocation, None)
            attempt.ended, attempt.outcome = fact.time, outcome
            attempt.result, attempt.error, attempt.delay = result, error, delay
            if delay is not None:
                self._failed[fact.invocation] = attempt
            self._tell("attempt_ended", attempt)
        return attempt

    def _wait_opened(self, fact: WaitOpened) -> None:
        attempt = self._attempts.get(fact.invocation)
        if attempt is None:
            return
        wait = ObservedWait(
            attempt, fact.waiter, fact.event_type, fact.requirements, fact.timeout, fact.question, fact.time
        )
        self._waits.setdefault(fact.invocation, {})[fact.waiter] = wait
        self._tell("wait_opened", wait)

    def _wait_ended(
        self,
        invocation: int,
        waiter: str,
        time: float,
        outcome: Literal["answered", "timed out", "abandoned", "cancelled"],
        answer: Event | None,
    ) -> None:
        waits = self._waits.get(invocation)
        wait = None if waits is None else waits.pop(waiter, None)
        if wait is not None:
            wait.ended, wait.outcome, wait.answer = time, outcome, answer
            self._tell("wait_ended", wait)

    # ---------------------------------------------------------------------------------------------------------- the end

    def end(self, now: float, result: Any, error: BaseException | None) -> BaseException | None:
        """The run has settled. What is to be raised where it is awaited: its error; exit and Ctrl-C, out of an
        instrument, come before that."""
        try:
            self._end(now, result, error)
        except BaseException as exit:  # noqa: BLE001 - see above
            return exit
        return error

    def _end(self, now: float, result: Any, error: BaseException | None) -> None:
        run = self.run
        if run.began is None:
            return  # it never came to it: it was cancelled first, or couldn't be found or stored
        if not self._has_begun:
            self._begun(run.began)  # what it carries is stored, but it came no further
        for wait in [wait for waits in self._waits.values() for wait in waits.values()]:
            self._wait_ended(wait.attempt.invocation, wait.waiter_id, wait.attempt.ended or now, "cancelled", None)
        for attempt in self._attempts.values():
            attempt.ended, attempt.outcome = attempt.ended or now, "cancelled"
            self._tell("attempt_ended", attempt)
        self._attempts.clear()
        run.ended, run.result, run.error = now, result, error
        if error is None:
            run.outcome = "finished"
        elif isinstance(error, RunSuspended):
            run.outcome = "suspended"
        else:
            run.outcome = "cancelled" if isinstance(error, WorkflowCancelled) else "failed"
        self._tell("run_ended", run)


class _Around:
    """The context managers of all instruments around one attempt. None can fail it, or swallow its exception."""

    __slots__ = ("_attempt", "_entered", "_now", "_watch")

    def __init__(self, watch: Watch, attempt: ObservedAttempt, now: Callable[[], float]) -> None:
        self._watch = watch
        self._attempt = attempt
        self._now = now
        self._entered: list[tuple[Installed, AbstractContextManager[Any]]] = []

    def __enter__(self) -> None:
        for one in self._watch.instruments:
            call = one.calls.get("around_attempt")
            if call is not None:
                try:
                    manager: AbstractContextManager[Any] | None = call(self._attempt)
                    if manager is not None:
                        manager.__enter__()
                        self._entered.append((one, manager))
                except Exception as error:  # noqa: BLE001 - reported
                    one.drop("around_attempt", error)
        self._watch.attempt_started(self._attempt)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._attempt.ended = self._now()  # if the run's end did it; else the fact that follows says
        for one, manager in reversed(self._entered):
            try:
                manager.__exit__(kind, error, traceback)
            except Exception as broken:  # noqa: BLE001 - reported, where it isn't what the step has raised itself
                if broken is not error:
                    one.drop("around_attempt", broken)


def _text(given: str) -> str:
    text = str(given)
    _ = text.encode()  # what can't be stored must not fail the run
    return text
