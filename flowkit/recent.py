"""What is remembered of a workflow's most recent run, so that it can be drawn afterwards without having been asked for.

Each workflow instance remembers one run, the one it began last: its facts, and the commands that say when a step began
and when a wait was answered, in their order. They are the run's own objects, so remembering one costs an append. What
would keep more alive than that isn't kept: the state's values, and exceptions, whose tracebacks hold the run's frames
(a `NotedError` stands for them). A run stops remembering when a later one of its workflow begins.

A run nested in another has its share in that one's record (`Inner`), and within its bound.
"""

import functools
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from flowkit.events import StepFailedEvent
from flowkit.facts import AnswerWait, Fact, RunFailed, StartStep, StateWritten, StepRaised
from flowkit.plan import Plan

__all__ = ["CLEANED", "KEPT", "Ended", "Entry", "Inner", "NotedError", "Recent", "note_nested", "noted", "nothing"]

KEPT = 1_000
"""Entries: a run of some 500 events, in about 150 KB. That they are few keeps this cheap: what is noted next takes the
place, in the processor's caches too, of what was noted long ago. Measured in a loop whose steps do nothing, 2.4 µs per
event: 0.17 µs more with 1,000, 0.25 µs with 2,000, 0.35 µs with 20,000. A stored run has its whole journal."""


class NotedError(Exception):
    """Stands for an exception of a step: ``kind`` is its class's name, ``text`` its text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind, self.text = kind, text

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}" if self.text else self.kind

    @classmethod
    def of(cls, error: BaseException) -> "NotedError":
        if isinstance(error, NotedError):
            return error
        try:
            text = str(error)
        except Exception:  # noqa: BLE001 - its own text can't be made
            text = ""
        return cls(type(error).__name__, text[:1000])


@attrs.define
class Ended:
    """The run has ended with this error. (That it has a result is known from its `StopEvent`.)"""

    time: float
    error: NotedError


@attrs.define
class Inner:
    """Something that happened in a run nested in this one, started by this invocation."""

    invocation: int
    run_id: str
    plan: Plan
    entry: "Entry"


Entry = Fact | StartStep | AnswerWait | Ended | Inner


class Recent:
    """The last `KEPT` entries of one run (a `Performer`, which is built on this).

    The run refers to it, never the other way round."""

    __slots__ = ("_run", "entries", "plan", "run_id")

    def __init__(self, run: Any, run_id: str, plan: Plan) -> None:
        self.run_id = run_id
        self.plan = plan
        entries: deque[Entry] = deque(maxlen=KEPT)
        self.entries = entries
        self._run = weakref.ref(run)
        run.recent = self
        run.note = entries.append if not plan.catchers else _clean(plan, entries.append)

    def forget(self) -> None:
        """A later run has begun: this one remembers no more."""
        run = self._run()
        if run is not None:
            run.recent, run.note = None, nothing


def nothing(_: Any) -> None:
    """Note nothing."""


def note_nested(run: Any, parent: Any, invocation: int, run_id: str, plan: Plan) -> None:
    """Have a nested run's entries noted with those of the run that it is nested in."""

    def note(entry: Entry) -> None:
        parent.note(Inner(invocation, run_id, plan, entry))

    run.note = _clean(plan, note)


CLEANED = frozenset({RunFailed, StateWritten, StepRaised})
"""The facts that aren't remembered as they are."""


def noted(fact: Fact) -> Fact | None:
    """A fact as it is remembered; ``None`` where it isn't."""
    match fact:
        case StateWritten():
            return None
        case StepRaised() | RunFailed():
            return attrs.evolve(fact, error=NotedError.of(fact.error))
        case _:
            return fact


def _clean(plan: Plan, note: Callable[[Entry], None]) -> Callable[[Any], None]:
    return functools.partial(_note_start, note) if plan.catchers else note


def _note_start(note: Callable[[Entry], None], entry: Entry) -> None:
    if type(entry) is StartStep and type(entry.event) is StepFailedEvent:
        failed = entry.event
        entry = attrs.evolve(entry, event=failed.replace(exception=NotedError.of(failed.exception)))
    note(entry)
