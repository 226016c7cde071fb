"""Open waits and the events kept for them.

A wait is found by the type it waits for, a kept event by its own type, so that neither an event nor a wait looks
through all of the others.
"""

from collections.abc import Iterator
from typing import Any

import attrs

from flowkit.events import Event

__all__ = ["Kept", "Wait", "Waits"]

_ABSENT: Any = object()


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
    kept: dict[type[Event], dict[int, Kept]] = attrs.field(factory=dict[type[Event], dict[int, Kept]])

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

    def keep(self, number: int, event: Event, sender: str) -> None:
        """Nobody takes this event now; a wait may open for it."""
        self.kept.setdefault(type(event), {})[number] = Kept(event, sender)

    def claim(self, wait: Wait) -> Event | None:
        """Take out the kept event that came first of those that satisfy the wait."""
        first_of_each = (
            next(((number, kind) for number, entry in entries.items() if wait.accepts(entry.event)), None)
            for kind, entries in self.kept.items()
            if issubclass(kind, wait.event_type)
        )
        first = min((pair for pair in first_of_each if pair is not None), key=lambda pair: pair[0], default=None)
        if first is None:
            return None
        number, kind = first
        event = self.kept[kind].pop(number).event
        if not self.kept[kind]:
            del self.kept[kind]
        return event

    def unhandled(self) -> Iterator[Kept]:
        """The kept events in the order they came."""
        entries = [pair for of_kind in self.kept.values() for pair in of_kind.items()]
        return (entry for _, entry in sorted(entries, key=lambda pair: pair[0]))
