"""The machine's records: what it knows of each invocation, step, timer and held event."""

from collections import deque
from typing import Any

import attrs

from flowkit.events import Event
from flowkit.steps import StepSpec
from flowkit.waits import Wait

__all__ = ["QUEUED", "RESUMING", "RETRYING", "RUNNING", "WAITING", "Held", "Invocation", "Lane", "Timer", "Waiting"]

QUEUED, RUNNING, WAITING, RESUMING, RETRYING = "queued", "running", "waiting", "resuming", "retrying"


@attrs.define(eq=False)
class Waiting:
    """The waits of an invocation, by waiter: those ever ``opened`` (with their deadlines), the ``open`` ones, and the
    answers.

    ``places`` says of answers when they came (waits.py). ``to_answer`` are those that were answered while the
    invocation's slot was away, ``unseen`` those whose question was asked, and not answered, before the run was resumed:
    where it is asked again it is shown again.
    """

    opened: dict[str, float | None] = attrs.field(factory=dict[str, float | None])
    open: dict[str, Wait] = attrs.field(factory=dict[str, Wait])
    answers: dict[str, Event | None] = attrs.field(factory=dict[str, Event | None])
    to_answer: list[str] = attrs.field(factory=list[str])
    unseen: list[str] = attrs.field(factory=list[str])
    places: dict[str, float] = attrs.field(factory=dict[str, float])


@attrs.define(eq=False)
class Invocation:
    """One event in the hands of one step, with all its attempts.

    ``scope`` and ``place`` say which fan-out its event belongs to (joins.py), ``since`` is the time of the first
    failure. What an attempt did is on record for the next one: what it ``sent`` and which ``batches`` it collected by
    position (``at_sent`` and ``at_batch`` count within the attempt), and its waits.
    """

    number: int
    lane: "Lane"
    event: Any
    scope: int
    place: int
    status: str
    attempt: int = 0
    since: float | None = None
    sent: list[tuple[Event, str | None]] | None = None
    at_sent: int = 0
    batches: list[list[Any] | None] | None = None
    at_batch: int = 0
    waiting: Waiting | None = None

    def waits(self) -> Waiting:
        """Its waits, on record from the first on."""
        waiting = self.waiting
        if waiting is None:
            waiting = self.waiting = Waiting()
        return waiting

    def rewind(self) -> None:
        """The body starts again from its first line."""
        self.at_sent = self.at_batch = 0
        if self.waiting is not None:
            self.waiting.to_answer.clear()


class Lane:
    """A step's slots and queues: ``running`` counts its taken slots, ``resuming`` are answered waits that want one
    back.

    The queues are made when they are first needed: most steps of most runs never have one, and an empty deque is 600
    bytes.
    """

    __slots__ = ("index", "num_workers", "queue", "resuming", "running", "spec")

    def __init__(self, spec: StepSpec) -> None:
        self.spec = spec
        self.index = spec.index
        self.num_workers = spec.options.num_workers
        self.running = 0
        self.queue: deque[Invocation] | None = None
        self.resuming: deque[Invocation] | None = None


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
