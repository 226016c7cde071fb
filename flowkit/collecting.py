"""``ctx.collect_events``: a buffer that gives out a batch when it holds one of each expected event.

Constant work per event however large the batch: events wait in one queue per expected type, and ``lacking`` counts the
expected types that aren't covered yet. First in, first out within a type; surplus stays for the next batch.
"""

from collections import Counter, deque
from typing import Any

import attrs

__all__ = ["Buffer"]


@attrs.define
class Buffer:
    """What one step has collected under one ``buffer_id``."""

    step: str
    expected: tuple[type, ...] = ()
    need: dict[type, int] = attrs.field(factory=dict[type, int])
    queues: dict[type, deque[tuple[int, Any]]] = attrs.field(factory=dict[type, deque[tuple[int, Any]]])
    lacking: int = 0
    added: int = 0

    def expect(self, expected: tuple[type, ...]) -> None:
        """Wait for these types from now on; what was collected before stays."""
        self.expected = expected
        self.need = dict(Counter(expected))
        waiting = self.events()
        self.queues = {}
        self._recount()
        for event in waiting:
            self.add(event)

    def events(self) -> list[Any]:
        """What is here, in the order it came."""
        numbered = [pair for queue in self.queues.values() for pair in queue]
        return [event for _, event in sorted(numbered, key=lambda pair: pair[0])]

    def slot(self, kind: type) -> type:
        """The expected type that an event of this type counts for: its own, else its nearest expected base."""
        if kind in self.need:
            return kind
        return next((base for base in kind.__mro__ if base in self.need), kind)

    def add(self, event: Any) -> None:
        """Take in an event. One of a type that isn't expected is kept, in case a later call expects it."""
        kind: type[Any] = event.__class__
        if kind not in self.need:
            kind = self.slot(kind)
        queue = self.queues.get(kind)
        if queue is None:
            queue = self.queues[kind] = deque()
        self.added += 1
        queue.append((self.added, event))
        if len(queue) == self.need.get(kind):
            self.lacking -= 1

    def take(self) -> list[Any] | None:
        """A batch in the requested order, or ``None`` while something is lacking."""
        if self.lacking or not self.expected:
            return None
        batch = [self.queues[kind].popleft()[1] for kind in self.expected]
        self._recount()
        return batch

    def missing(self) -> dict[str, int]:
        """How many of each expected type are still needed, by name."""
        short = {kind: count - len(self.queues.get(kind, ())) for kind, count in self.need.items()}
        return {kind.__name__: count for kind, count in short.items() if count > 0}

    def has(self) -> dict[str, int]:
        """How many of each type are here, by name."""
        return {kind.__name__: len(queue) for kind, queue in self.queues.items() if queue}

    def _recount(self) -> None:
        self.lacking = sum(len(self.queues.get(kind, ())) < count for kind, count in self.need.items())
