"""List fan-out and fan-in: which events belong together, and when all of them have come.

A step that returns a list opens a *fan-out* inside the scope its own event belonged to. Every event made from a member,
however many steps later, belongs to the fan-out and carries its member's place. A fan-out counts what is *live* in it:
queued, running, waiting or retrying invocations, events held back, and fan-outs opened inside. A step with a
``list[E]`` parameter doesn't run on each ``E``; they gather, and stop being live.

When nothing is live any more the fan-out closes: every list step that can be reached from it runs once, with the
gathered events in the order of the members they came from (and of arrival, where one member led to several), possibly
none. What it makes belongs to the outer scope again, so fan-outs nest. ``Take(n)`` fires at the n-th arrival instead;
what comes later never reaches the step.

The run itself is scope 0: events that reach a list step outside any fan-out gather until the run comes to rest. This is
structured reference counting: a constant amount of work per event, and no look at any other event.
"""

from typing import Any

import attrs

from flowkit.errors import ImpossibleFact

__all__ = ["ROOT", "Batch", "FanOut", "Joins"]

ROOT = 0


@attrs.define
class FanOut:
    """One open scope. ``reach`` names the list steps that run when it closes, even with nothing gathered."""

    parent: int
    place: int
    producer: str
    reach: tuple[str, ...]
    size: int
    live: int = 0
    arrivals: dict[str, list[tuple[int, Any]]] = attrs.field(factory=dict[str, list[tuple[int, Any]]])
    fired: set[str] = attrs.field(factory=set[str])


@attrs.frozen
class Batch:
    """A list step is to run on these events, in this scope and place."""

    step: str
    events: list[Any]
    scope: int
    place: int


@attrs.define
class Joins:
    """All open fan-outs of a run."""

    scopes: dict[int, FanOut] = attrs.field(factory=lambda: {ROOT: FanOut(ROOT, 0, "the run", (), 0)})
    last: int = ROOT

    def open(self, parent: int, place: int, producer: str, reach: tuple[str, ...], size: int) -> int:
        """Open a fan-out inside ``parent``; its number."""
        self.scopes[parent].live += 1
        self.last += 1
        # The producer itself counts as live until all members are out: an empty list must close, but only then.
        self.scopes[self.last] = FanOut(parent, place, producer, reach, size, live=1)
        return self.last

    def enter(self, scope: int) -> None:
        """Something more is live in ``scope``."""
        self.scopes[scope].live += 1

    def leave(self, scope: int) -> list[Batch]:
        """Something is live in ``scope`` no more; the batches that are complete by that."""
        batches: list[Batch] = []
        # A fan-out that closes is live in its parent no more. A loop, for a chain of them is as long as a run likes.
        while True:
            fan_out = self.scopes[scope]
            if fan_out.live <= 0:
                raise ImpossibleFact(f"nothing is live in the fan-out of {fan_out.producer}")
            fan_out.live -= 1
            if fan_out.live:
                return batches
            if scope == ROOT:
                return batches + self._settle()
            batches += self._close(scope)
            scope = fan_out.parent

    def arrive(self, step: str, take: int | None, scope: int, place: int, event: Any) -> Batch | None:
        """An event reached a list step; the batch where that was the last ``Take(n)`` asked for."""
        fan_out = self.scopes[scope]
        if step in fan_out.fired:
            return None
        gathered = fan_out.arrivals.setdefault(step, [])
        gathered.append((place, event))
        if take is None or len(gathered) < take:
            return None
        del fan_out.arrivals[step]
        if scope == ROOT:
            fan_out.live += 1
            return Batch(step, [event for _, event in gathered], ROOT, 0)
        fan_out.fired.add(step)
        self.scopes[fan_out.parent].live += 1
        return Batch(step, [event for _, event in gathered], fan_out.parent, fan_out.place)

    def gathered(self) -> list[str]:
        """For each list step that has something but didn't run: what it has, in words."""
        return [
            f"step {step!r} has gathered {len(events)} of {fan_out.producer}'s events and "
            f"{fan_out.live} are still on their way"
            for fan_out in self.scopes.values()
            for step, events in fan_out.arrivals.items()
        ]

    def _settle(self) -> list[Batch]:
        root = self.scopes[ROOT]
        batches = [Batch(step, _in_order(events), ROOT, 0) for step, events in root.arrivals.items()]
        root.arrivals = {}
        root.live += len(batches)
        return batches

    def _close(self, scope: int) -> list[Batch]:
        fan_out = self.scopes.pop(scope)
        steps = dict.fromkeys((*fan_out.reach, *fan_out.arrivals))
        batches = [
            Batch(step, _in_order(fan_out.arrivals.get(step, [])), fan_out.parent, fan_out.place)
            for step in steps
            if step not in fan_out.fired
        ]
        # The fan-out was live in its parent; its batches are now. `leave` goes on there, so it can't close between.
        self.scopes[fan_out.parent].live += len(batches)
        return batches


def _in_order(arrivals: list[tuple[int, Any]]) -> list[Any]:
    return [event for _, event in sorted(arrivals, key=lambda arrival: arrival[0])]
