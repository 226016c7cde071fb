"""Open waits and the events kept for them.

A wait is found by the type it waits for, a kept event by its own type, so that neither an event nor a wait looks
through all of the others.

An event's *place* says when it came, among the numbers that a run gives out: kept events are taken in this order, also
one that was an answer in between, to a wait that was given up before it was read.
"""

from collections.abc import Iterator
from typing import Any

import attrs

from flowkit.events import Event

__all__ = ["Kept", "Wait", "Waits"]

_ABSENT: Any = object()

STEP = 2**-20
"""Between the places of answers that come while no number is given out: a million fit."""


@attrs.define(eq=False)
class Wait:
    """An open ``wait_for_event``: ``order`` grows with each that opens, ``timer`` is the number of its timeout."""

    order: int
    invocation: int
    waiter: str
    event_type: type[Event]
    requirements: dict[str, Any]
    timer: int | None = None

    def accepts(self, event: Event) -> bool:
        """Whether the event is of the type and meets the requirements."""
        return isinstance(event, self.event_type) and all(
            event.__dict__.get(name, _ABSENT) == value for name, value in self.requirements.items()
        )


@attrs.frozen
class Kept:
    """An event that nobody took yet, and who sent it."""

    event: Event
    sender: str


@attrs.define
class Waits:
    """All open waits of a run, and all events kept in case one opens."""

    open: dict[type[Event], dict[int, Wait]] = attrs.field(factory=dict[type[Event], dict[int, Wait]])
    kept: dict[type[Event], dict[float, Kept]] = attrs.field(factory=dict[type[Event], dict[float, Kept]])
    """By type and place, in order."""
    latest: float = 0.0
    """The last place that was given to an answer."""

    def add(self, wait: Wait) -> None:
        """A wait opened."""
        self.open.setdefault(wait.event_type, {})[wait.order] = wait

    def remove(self, wait: Wait) -> None:
        """A wait was answered or given up."""
        same_type = self.open[wait.event_type]
        del same_type[wait.order]
        if not same_type:
            del self.open[wait.event_type]

    def oldest(self, event: Event) -> Wait | None:
        """The wait that has been open longest of those this event satisfies."""
        # Those of one type are in the order they opened: the first that accepts it is enough.
        first_of_each = (
            next((wait for wait in self.open[base].values() if wait.accepts(event)), None)
            for base in type(event).__mro__
            if base in self.open
        )
        return min((wait for wait in first_of_each if wait is not None), key=lambda wait: wait.order, default=None)

    def place(self, last: int) -> float:
        """The place of an event that comes now, after ``last``, the last number given out, and is given none."""
        self.latest = max(self.latest, last) + STEP
        return self.latest

    def keep(self, place: float, event: Event, sender: str) -> None:
        """Nobody takes this event now; a wait may open for it."""
        of_kind = self.kept.setdefault(type(event), {})
        is_last = not of_kind or place > next(reversed(of_kind))
        of_kind[place] = Kept(event, sender)
        if not is_last:
            self.kept[type(event)] = dict(sorted(of_kind.items(), key=lambda pair: pair[0]))

    def claim(self, wait: Wait) -> tuple[Event | None, float]:
        """Take out the kept event that came first of those that satisfy the wait; and its place."""
        first_of_each = (
            next(((place, kind) for place, entry in entries.items() if wait.accepts(entry.event)), None)
            for kind, entries in self.kept.items()
            if issubclass(kind, wait.event_type)
        )
        first = min((pair for pair in first_of_each if pair is not None), key=lambda pair: pair[0], default=None)
        if first is None:
            return None, 0.0
        place, kind = first
        event = self.kept[kind].pop(place).event
        if not self.kept[kind]:
            del self.kept[kind]
        return event, place

    def unhandled(self) -> Iterator[Kept]:
        """The kept events in the order they came."""
        entries = [pair for of_kind in self.kept.values() for pair in of_kind.items()]
        return (entry for _, entry in sorted(entries, key=lambda pair: pair[0]))
