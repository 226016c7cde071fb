"""A run as it went: its attempts, waits and questions in time, and which event led from one to the next.

Made from what a run is remembered by (recent.py) or from a stored run's history: the facts in order, and between them
the commands that say when a step began on which event and when a wait was answered. Nothing is guessed: an attempt's
time runs from the fact that let it begin to the fact that ended it.

An event is followed by its identity, from where it was made to what began on it. Where the oldest facts are gone the
drawing begins with what is left, and says so.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import attrs

from flowkit.errors import WrongCall, shown
from flowkit.events import Event, StepFailedEvent, StopEvent
from flowkit.facts import (
    AnswerWait,
    EventCollected,
    EventPublished,
    EventSent,
    Finish,
    RunCancelled,
    RunFailed,
    RunResumed,
    RunStarted,
    RunTimedOut,
    StartStep,
    StepCommitted,
    StepRaised,
    StepReturned,
    WaitAbandoned,
    WaitOpened,
)
from flowkit.handler import Handler
from flowkit.history import HistoryEntry
from flowkit.plan import Plan
from flowkit.recent import KEPT, Ended, Inner, NotedError, Recent
from flowkit.workflow import Workflow, drawn_of

__all__ = ["Attempt", "Cause", "Execution", "Mark", "Wait"]


@attrs.define
class Attempt:
    """One call of a step. ``ended`` is ``None`` while it is under way; ``retry_at`` is when it was to be made again.
    ``since_before``: it had begun before what is remembered."""

    step: str
    invocation: int
    number: int
    began: float
    event: str
    text: str
    ended: float | None = None
    outcome: Literal["running", "returned", "failed", "retried", "cut off"] = "running"
    made: str = ""
    error: str = ""
    retry_at: float | None = None
    since_before: bool = False


@attrs.define
class Wait:
    """A ``ctx.wait_for_event``. ``outcome`` says how it ended."""

    step: str
    invocation: int
    waiter: str
    event: str
    opened: float
    question: str = ""
    closed: float | None = None
    outcome: Literal["open", "answered", "timed out", "given up", "cut off"] = "open"


@attrs.frozen
class Mark:
    """Something that happened at one moment, in an invocation or (``None``) outside any."""

    time: float
    kind: Literal["start", "sent", "shown", "asked", "answered", "collected", "resumed", "result", "error"]
    text: str
    invocation: int | None = None


@attrs.frozen
class Cause:
    """An event led to an invocation: made by ``source`` (``None``: from outside) at ``made``, worked on from ``began``
    on."""

    source: int | None
    target: int
    event: str
    made: float
    began: float


@attrs.frozen(slots=False)
class Execution:
    """A run, or as much of it as is remembered, ready to be drawn. ``nested`` are the runs started in its steps, by
    the invocation that did."""

    workflow: str
    run_id: str
    steps: tuple[str, ...]
    began: float
    ended: float
    outcome: str
    failed: bool
    attempts: tuple[Attempt, ...]
    waits: tuple[Wait, ...]
    marks: tuple[Mark, ...]
    causes: tuple[Cause, ...]
    nested: "tuple[tuple[int, Execution], ...]" = ()
    dropped: bool = False

    @cached_property
    def _names(self) -> dict[int, str]:
        return {attempt.invocation: attempt.step for attempt in self.attempts}

    def step_of(self, invocation: int) -> str | None:
        """The step that an invocation is of."""
        return self._names.get(invocation)

    @classmethod
    def of(cls, run: "Handler | Workflow | Execution | Sequence[HistoryEntry]") -> "Execution":
        """The execution of a run: of a handle, of a workflow's most recent run, or of a stored run's ``await
        runtime.history(…)``.

        A workflow instance remembers the run that it began last, and of that the last 1,000 facts and starts of
        steps (`flowkit.recent.KEPT`). What there is of a nested run in a history is the step that it ran in.

        Raises:
            WrongCall: it is none of these, or nothing is remembered of the run.
        """
        call = "Execution.of()"
        if isinstance(run, Execution):
            return run
        if isinstance(run, Handler | Workflow):
            found = run.recent if isinstance(run, Handler) else drawn_of(run)[0]
            if found is None or not found.entries:
                what = "this run" if isinstance(run, Handler) else f"{type(run).__name__}"
                cure = (
                    "await a run of this instance first"
                    if isinstance(run, Workflow)
                    else ("draw a run before its workflow begins the next, or keep it in a store and draw its history")
                )
                raise WrongCall(call, f"has nothing to draw: no execution of {what} is remembered", cure)
            return _remembered(found)
        if isinstance(run, Sequence) and run and all(isinstance(one, HistoryEntry) for one in run):  # pyright: ignore[reportUnnecessaryIsInstance]
            return _recorded(run)
        cure = "give a handler, a workflow that has run, or `await runtime.history(run_id)`"
        raise WrongCall(call, f"got {shown(run)}", cure)

    @classmethod
    def from_facts(
        cls, entries: Iterable[tuple[float, Any]], plan: Plan, *, run_id: str = "", dropped: bool = False
    ) -> "Execution":
        """The execution that these facts tell of, with the commands `StartStep` and `AnswerWait` between them, each
        with its time (seconds since the epoch)."""
        reader = _Reader(plan, run_id, dropped=dropped)
        for time, entry in entries:
            reader.read(time, entry)
        return reader.execution()


def _remembered(recent: Recent) -> Execution:
    entries = list(recent.entries)
    first = entries[0]
    dropped = len(entries) >= KEPT and not isinstance(first, RunStarted)
    return Execution.from_facts(_timed(entries), recent.plan, run_id=recent.run_id, dropped=dropped)


def _timed(entries: Sequence[Any]) -> Iterable[tuple[float, Any]]:
    """A command has the time of the fact before it (of the first fact, where that is gone)."""
    time = next((found for one in entries if (found := _time_of(one)) is not None), 0.0)
    for entry in entries:
        found = _time_of(entry)
        time = time if found is None else found
        yield time, entry


def _time_of(entry: Any) -> float | None:
    while isinstance(entry, Inner):
        entry = entry.entry
    return None if isinstance(entry, StartStep | AnswerWait | Finish) else entry.time


def _recorded(history: Sequence[HistoryEntry]) -> Execution:
    plan = history[-1].plan
    if plan is None:
        raise WrongCall("Execution.of()", "got entries without their wiring", "give what runtime.history() returned")
    run_id = next((one.fact.run_id for one in history if isinstance(one.fact, RunStarted)), "")
    reader = _Reader(plan, run_id, dropped=False)
    for one in history:
        reader.plan = one.plan or plan
        reader.read(one.time, one.fact)
        for command in one.commands:
            reader.read(one.time, command)
    return reader.execution()


@attrs.define
class _Made:
    """Where an event was made last."""

    event: Any  # kept, so that no other can have its identity
    time: float
    source: int | None


@attrs.define(eq=False)
class _Reader:
    plan: Plan
    run_id: str
    dropped: bool = attrs.field(kw_only=True)
    began: float | None = None
    last: float = 0.0
    outcome: str = ""
    failed: bool = False
    over: bool = False
    attempts: list[Attempt] = attrs.field(factory=list[Attempt])
    waits: list[Wait] = attrs.field(factory=list[Wait])
    marks: list[Mark] = attrs.field(factory=list[Mark])
    causes: list[Cause] = attrs.field(factory=list[Cause])
    running: dict[int, Attempt] = attrs.field(factory=dict[int, Attempt])
    waiting: dict[tuple[int, str], Wait] = attrs.field(factory=dict[tuple[int, str], Wait])
    steps: dict[int, str] = attrs.field(factory=dict[int, str])
    made: dict[int, _Made] = attrs.field(factory=dict[int, _Made])
    inputs: dict[int, int] = attrs.field(factory=dict[int, int])  # identities of what invocations work on
    failing: dict[int, _Made] = attrs.field(factory=dict[int, _Made])  # by those, the failures that were caught
    inner: "dict[tuple[int, str], _Reader]" = attrs.field(factory=lambda: dict[tuple[int, str], "_Reader"]())

    def read(self, time: float, entry: Any) -> None:
        """One more fact or command."""
        if self.began is None:
            self.began = time
        self.last = max(self.last, time)
        match entry:
            case Inner():
                key = entry.invocation, entry.run_id
                if key not in self.inner:
                    self.inner[key] = _Reader(entry.plan, entry.run_id, dropped=self.dropped)
                self.inner[key].read(time, entry.entry)
            case StartStep():
                self._start(time, entry)
            case StepReturned() | StepCommitted():
                for effect in entry.effects if isinstance(entry, StepCommitted) else ():
                    self.read(time, effect)
                self._returned(time, entry.invocation, entry.result)
            case StepRaised():
                self._raised(time, entry)
            case WaitOpened():
                self._waits(time, entry)
            case AnswerWait():
                outcome = "timed out" if entry.event is None else "answered"
                text = "timed out" if entry.event is None else brief(entry.event)
                self._close(time, entry.invocation, entry.waiter, outcome)
                self.marks.append(Mark(time, "answered", f"{self._name(entry.invocation)}: {text}", entry.invocation))
            case WaitAbandoned():
                self._close(time, entry.invocation, entry.waiter, "given up")
            case _:
                self._other(time, entry)

    def _other(self, time: float, entry: Any) -> None:
        match entry:
            case RunStarted():
                self.run_id = entry.run_id
                self._makes(time, None, entry.event)
                self.marks.append(Mark(time, "start", brief(entry.event)))
            case RunResumed():
                for attempt in self.running.values():
                    attempt.outcome, attempt.ended = "cut off", time
                for wait in self.waiting.values():
                    wait.outcome, wait.closed = "cut off", time
                self.running.clear()
                self.waiting.clear()
                self.marks.append(Mark(time, "resumed", "the run was resumed"))
            case EventSent():
                self._makes(time, entry.sender, entry.event)
                to = "" if entry.step is None else f" to {entry.step}"
                self.marks.append(Mark(time, "sent", f"{brief(entry.event)}{to}", entry.sender))
            case EventPublished():
                self.marks.append(Mark(time, "shown", brief(entry.event), entry.invocation))
            case EventCollected():
                self.marks.append(Mark(time, "collected", brief(entry.event), entry.invocation))
            case RunCancelled():
                self._over(time, f"cancelled: {entry.reason}")
            case RunTimedOut():
                self._over(time, f"timed out after {entry.timeout:g} s")
            case RunFailed():
                self._over(time, f"failed: {NotedError.of(entry.error)}")
            case Ended():
                self._over(time, f"failed: {entry.error}")
                if self.outcome.startswith("failed: "):
                    self.outcome = f"failed: {entry.error}"  # it says more than what it came from
            case Finish() if entry.error is not None and not self.over:
                self._over(time, f"failed: {NotedError.of(entry.error)}")
            case _:
                pass

    def execution(self) -> Execution:
        """All that was read."""
        for attempt in self.running.values():
            if self.over:
                attempt.outcome, attempt.ended = "cut off", self.last
        for wait in self.waiting.values():
            if self.over:
                wait.outcome, wait.closed = "cut off", self.last
        return Execution(
            workflow=self.plan.name,
            run_id=self.run_id,
            steps=tuple(spec.name for spec in self.plan.steps),
            began=self.last if self.began is None else self.began,
            ended=self.last,
            outcome=self.outcome if self.over else "under way",
            failed=self.failed,
            attempts=tuple(self.attempts),
            waits=tuple(self.waits),
            marks=tuple(self.marks),
            causes=tuple(self.causes),
            nested=tuple((invocation, reader.execution()) for (invocation, _), reader in self.inner.items()),
            dropped=self.dropped,
        )

    # ---------------------------------------------------------------------------------------------------- the pieces

    def _name(self, invocation: int | None) -> str:
        return "outside" if invocation is None else self.steps.get(invocation, f"invocation {invocation}")

    def _makes(self, time: float, source: int | None, event: Any) -> None:
        for one in members_of(event):
            self.made[id(one)] = _Made(one, time, source)

    def _start(self, time: float, start: StartStep) -> None:
        name = self.steps[start.invocation] = self.plan.steps[start.step].name
        attempt = Attempt(name, start.invocation, start.attempt + 1, time, kind_of(start.event), brief(start.event))
        self.attempts.append(attempt)
        self.running[start.invocation] = attempt
        self.inputs[start.invocation] = id(start.event)
        if start.attempt:
            return
        for event in members_of(start.event):
            made = self.made.get(id(event))
            if made is None and isinstance(event, StepFailedEvent):
                made = self.failing.get(id(event.input_event))
            if made is not None:
                self.causes.append(Cause(made.source, start.invocation, kind_of(event), made.time, time))

    def _ends(self, time: float, invocation: int) -> Attempt:
        attempt = self.running.pop(invocation, None)
        if attempt is None:  # it began before what is remembered
            began = self.last if self.began is None else self.began
            name = self._name(invocation)
            attempt = Attempt(name, invocation, 1, began, "", "began before what is remembered", since_before=True)
            self.attempts.append(attempt)
        attempt.ended = time
        for key in [key for key in self.waiting if key[0] == invocation]:
            self._close(time, *key, "cut off")
        return attempt

    def _returned(self, time: float, invocation: int, result: Any) -> None:
        attempt = self._ends(time, invocation)
        attempt.outcome, attempt.made = "returned", brief(result)
        self._makes(time, invocation, result)
        for event in members_of(result):
            if isinstance(event, StopEvent) and not self.over:
                self.marks.append(Mark(time, "result", brief(event), invocation))
                self.over, self.outcome = True, f"done: {brief(event)}"

    def _raised(self, time: float, fact: StepRaised) -> None:
        attempt = self._ends(time, fact.invocation)
        attempt.error = str(NotedError.of(fact.error))
        self.marks.append(Mark(time, "error", f"{attempt.step}: {attempt.error}", fact.invocation))
        if fact.delay is not None:
            attempt.outcome, attempt.retry_at = "retried", time + fact.delay
            return
        attempt.outcome = "failed"
        if self.plan.catcher_of(attempt.step) is None:
            self._over(time, f"failed: step {attempt.step}: {attempt.error}")
        else:
            self.failing[self.inputs.get(fact.invocation, 0)] = _Made(None, time, fact.invocation)

    def _waits(self, time: float, fact: WaitOpened) -> None:
        question = "" if fact.question is None else brief(fact.question)
        name = self._name(fact.invocation)
        wait = Wait(name, fact.invocation, fact.waiter, fact.event_type.__name__, time, question)
        self.waits.append(wait)
        self.waiting[fact.invocation, fact.waiter] = wait
        if question:
            self.marks.append(Mark(time, "asked", f"{name}: {question}", fact.invocation))

    def _close(self, time: float, invocation: int, waiter: str, outcome: Any) -> None:
        wait = self.waiting.pop((invocation, waiter), None)
        if wait is not None:
            wait.closed, wait.outcome = time, outcome

    def _over(self, time: float, outcome: str) -> None:
        if not self.over:
            self.over, self.outcome, self.failed = True, outcome, True
            if not outcome.startswith("failed: step"):
                self.marks.append(Mark(time, "error", outcome))


def members_of(value: Any) -> list[Any]:
    """The events of a list, or the one there is."""
    found: list[Any] = value if issubclass(type(value), list) else [value]
    return found


def kind_of(event: Any) -> str:
    """What an invocation works on: an event's class, or how many of which."""
    if isinstance(event, list):
        names = [type(one).__name__ for one in members_of(event)]
        kinds = ", ".join(dict.fromkeys(names))
        return f"{len(names)} \N{MULTIPLICATION SIGN} {kinds}" if names else "no events"
    return type(event).__name__


def brief(value: Any, limit: int = 200) -> str:
    """An event, or several, as text to be shown on hovering."""
    if value is None:
        return "nothing"
    if isinstance(value, list):
        several = members_of(value)
        first = ", ".join(brief(one, 60) for one in several[:3])
        return f"{kind_of(several)}: {first}" + (", …" if len(several) > 3 else "")
    if isinstance(value, Event):
        fields = ", ".join(f"{name}={shown(value[name], 60)}" for name in value)
        text = f"{type(value).__name__}({fields})"
    else:
        text = shown(value, limit)
    return text if len(text) <= limit else text[: limit - 1] + "…"
