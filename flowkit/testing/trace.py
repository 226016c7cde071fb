"""What happened in a run, told for a person: one line for each thing, and a timeline of its task steps.

The timeline is made by running a scenario once more with a `TracingScheduler`, which looks after each task step where
the task stands: too slow for a search, and the same run all the same.
"""

from collections.abc import Iterator
from typing import Any, cast

import attrs

from flowkit.errors import shown
from flowkit.events import Event
from flowkit.facts import (
    EventCollected,
    EventPublished,
    EventSent,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunTimedOut,
    StateWritten,
    StepCommitted,
    StepRaised,
    StepReturned,
    TimerFired,
    WaitAbandoned,
    WaitOpened,
)
from flowkit.testing.kernel import Kernel
from flowkit.testing.run import Happening
from flowkit.testing.scenario import STORE
from flowkit.testing.scheduling import Policy, Scheduler
from flowkit.testing.world import World

__all__ = ["Row", "TracingScheduler", "happenings", "plain_name", "rows_of", "told"]


@attrs.define
class Row:
    """A task step: its virtual second, its task, where that stands afterwards, and what it did. ``instead_of`` is the
    task that run-to-block would have run here."""

    time: float
    step: int
    task: int
    place: str = ""
    instead_of: int | None = None


class TracingScheduler(Scheduler):
    """A scheduler that notes where each task stands after its step."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.rows: list[Row] = []
        self.names: dict[int, str] = {}
        self.kernel: Kernel | None = None

    def pick(self, ready: list[int]) -> int:
        self.look()
        last = self.last
        default = ready.index(last) if last in ready else 0
        rather = ready[default]
        index = super().pick(ready)
        task = ready[index]
        now = 0.0 if self.kernel is None else self.kernel.now
        self.rows.append(Row(now, self.steps, task, instead_of=None if task == rather else rather))
        return index

    def look(self) -> None:
        """Note where the task stands that has just made its step."""
        if not self.rows or self.kernel is None:
            return
        row = self.rows[-1]
        for one in (*self.kernel.alive(), *self.kernel.main_alive()):
            self.names.setdefault(one.number, one.name)
            if one.number == row.task:
                row.place = one.place


def happenings(world: World) -> list[Happening]:
    """What happened in a run, in order."""
    return [
        Happening(time, step, task, text, detail)
        for time, step, task, kind, detail in world.record
        if (text := told(kind, detail))
    ]


def rows_of(world: World, scheduler: TracingScheduler) -> Iterator[tuple[Row, str, list[str]]]:
    """The steps worth showing, each with the name of its task and what it did."""
    happened: dict[int, list[str]] = {}
    calls: dict[int, str] = {}
    for _, step, _, kind, detail in world.record:
        if kind == "call" and detail[0] != STORE:
            calls[step] = f"{detail[0]} #{detail[1]}"
        if text := told(kind, detail):
            happened.setdefault(step, []).append(text)
    # A worker that has yet to take its first event is called by that.
    names = {row.task: calls[row.step] for row in reversed(scheduler.rows) if row.step in calls}
    names = {task: names.get(task) or plain_name(name) for task, name in scheduler.names.items()} | names
    switched: dict[int, int] = {}
    places: dict[int, str] = {}
    for row in scheduler.rows:
        if row.step in calls:
            names[row.task] = calls[row.step]
        if row.instead_of is not None:
            switched[row.task] = row.instead_of
        did = happened.get(row.step, [])
        if not _is_authors(row.place):
            row.place = ""
        if did or (row.place and places.get(row.task) != row.place):
            places[row.task] = row.place
            # A switch is shown at the first thing that the task does after it.
            row.instead_of = switched.pop(row.task, None)
            if row.instead_of is not None:
                did = [f"instead of {names.get(row.instead_of, 'another task')}", *did]
            yield row, names.get(row.task, f"task {row.task}"), did


def _is_authors(place: str) -> bool:
    return bool(place) and not place.startswith("(")


def plain_name(name: str) -> str:
    """What to call a task that works for no step."""
    for ending, plain in _NAMES.items():
        if name.endswith(ending):
            return plain
    return name.rpartition(".")[2]


_NAMES = {
    "_time": "a timer",
    "_work": "a worker",
    "_guard": "a worker",
    ".drive": "the run",
    "main": "the caller",
    "_hold_resources": "resources",
}


def told(kind: str, detail: Any) -> str:
    """Something that happened, in a few words; none where it is of no interest."""
    match kind:
        case "call":
            return "commit is called" if detail[0] == STORE else "begins"
        case "fault":
            return f"FAULT: {detail}"
        case "crash":
            return f"CRASH {detail}"
        case "cancel":
            return f"CANCELLED: {detail}"
        case "effect":
            return f"effect: {shown(detail)}"
        case "write":
            return f"{detail} record{' is' if detail == 1 else 's are'} in the journal"
        case _:
            return _fact(detail[1])


def _fact(fact: Any) -> str:
    match fact:
        case RunStarted():
            return f"the run starts with {_event(fact.event)}"
        case EventSent():
            where = "" if fact.step is None else f" to {fact.step}"
            return f"sends {_event(fact.event)}{where}"
        case StepReturned() | StepCommitted():
            return f"returns {_result(fact.result)}"
        case StepRaised():
            after = "" if fact.delay is None else f", is tried again after {fact.delay:g} s"
            return f"raises {shown(fact.error)}{after}"
        case EventCollected():
            return f"collects {_event(fact.event)}"
        case EventPublished():
            return f"shows {_event(fact.event)}"
        case StateWritten():
            return f"sets {'.'.join(fact.path) or 'the state'} = {shown(fact.value)}"
        case WaitOpened():
            return f"waits for {fact.event_type.__name__}"
        case WaitAbandoned():
            return "waits no longer"
        case TimerFired():
            return "its time has come"
        case RunCancelled():
            return f"the run is cancelled: {fact.reason}"
        case RunTimedOut():
            return f"the run's {fact.timeout:g} s are over"
        case RunFailed():
            return f"the run fails: {shown(fact.error)}"
        case _:
            return ""


def _result(result: Any) -> str:
    if isinstance(result, list):
        return f"[{', '.join(map(_event, cast('list[Event]', result)))}]"
    return _event(result)


def _event(event: Event | None) -> str:
    return shown(event, 60)
