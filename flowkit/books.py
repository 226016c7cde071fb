"""The machine's records: what it knows of each invocation, step, timer and held event."""

from collections import deque
from typing import Any

import attrs

from flowkit.events import Event
from flowkit.steps import StepSpec
from flowkit.waits import Wait

__all__ = ["QUEUED", "RESUMING", "RETRYING", "RUNNING", "WAITING", "Held", "Invocation", "Lane", "Record", "Timer"]

QUEUED, RUNNING, WAITING, RESUMING, RETRYING = "queued", "running", "waiting", "resuming", "retrying"


@attrs.define(eq=False)
class Record:
    """What the attempts of an invocation did, for the next one: kept only for those that did any of it.

    ``sent`` and ``batches`` go by position (``at_sent`` and ``at_batch`` count within the attempt), ``answers``, ``opened``
    (with the deadline) and the open ``waits`` by waiter. ``to_answer`` are the waits answered while the slot was away.
    """

    sent: list[tuple[Event, str | None]] = attrs.field(factory=list[tuple[Event, str | None]])
    at_sent: int = 0
    batches: list[list[Any] | None] = attrs.field(factory=list[list[Any] | None])
    at_batch: int = 0
    waits: dict[str, Wait] = attrs.field(factory=dict[str, Wait])
    opened: dict[str, float | None] = attrs.field(factory=dict[str, float | None])
    answers: dict[str, Event | None] = attrs.field(factory=dict[str, Event | None])
    to_answer: list[str] = attrs.field(factory=list[str])


@attrs.define(eq=False)
class Invocation:
    """One event in the hands of one step, with all its attempts.

    ``scope`` and ``place`` say which fan-out its event belongs to (joins.py), ``since`` is the time of the first failure.
    """

    number: int
    lane: "Lane"
    event: Any
    scope: int
    place: int
    status: str
    attempt: int = 0
    since: float | None = None
    record: Record | None = None

    def on_record(self) -> Record:
        """Its record, made when first asked for."""
        record = self.record
        if record is None:
            record = self.record = Record()
        return record

    def rewind(self) -> None:
        """The body starts again from its first line."""
        if self.record is not None:
            self.record.at_sent = self.record.at_batch = 0
            self.record.to_answer.clear()


@attrs.define(eq=False)
class Lane:
    """A step's slots and queues: ``running`` counts its taken slots, ``resuming`` are answered waits that want one back."""

    spec: StepSpec
    index: int
    num_workers: int
    running: int = 0
    queue: deque[Invocation] = attrs.field(factory=deque[Invocation])
    resuming: deque[Invocation] = attrs.field(factory=deque[Invocation])


@attrs.frozen
class Timer:
    """Due at ``at``: the next attempt of an invocation, or (with ``waiter``) the end of a wait."""

    at: float
    invocation: int
    waiter: str | None


@attrs.frozen
class Held:
    """An event a stepwise run holds back until it is released. ``published``: the stream has it already."""

    event: Event
    sender: str
    target: str | None
    scope: int
    place: int
    published: bool
