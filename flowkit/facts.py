"""Facts and commands: the two vocabularies of a run.

A **fact** is something that happened to a run. It carries everything its consequences depend on: its time (seconds
since the epoch, by the run's one clock), what user code decided (a retry's delay), what was made up outside (a run
id). So the same facts give the same run, whenever and wherever they are replayed.

A **command** is something to do about a fact. Commands are performed in the order they are given.

All are values, never changed. Those a run makes for every event aren't ``frozen`` all the same: attrs' frozen
``__init__`` costs twice as much.

Invocations and timers are numbered within their run. An *invocation* is one event being worked on by one step, with
all its attempts.
"""

from typing import Any

import attrs

from flowkit.events import Event

__all__ = [
    "AnswerWait",
    "CancelTimer",
    "Command",
    "EventCollected",
    "EventPublished",
    "EventSent",
    "Fact",
    "Finish",
    "GiveBatch",
    "Publish",
    "Rest",
    "RunCancelled",
    "RunFailed",
    "RunResumed",
    "RunStarted",
    "RunTimedOut",
    "SetTimer",
    "StartStep",
    "StateWritten",
    "StepCommitted",
    "StepRaised",
    "StepReturned",
    "Stepped",
    "StepwiseEnded",
    "TimerFired",
    "WaitAbandoned",
    "WaitOpened",
]


@attrs.define
class RunStarted:
    """The run began with this start event."""

    time: float
    run_id: str
    event: Event


@attrs.frozen
class RunResumed:
    """A run restored from a snapshot goes on: what was running is started again, timers are set again."""

    time: float


@attrs.define
class EventSent:
    """``send_event`` was called: by the invocation ``sender``, or from outside (``None``)."""

    time: float
    sender: int | None
    event: Event
    step: str | None


@attrs.define
class StepReturned:
    """An attempt ended well, with an event, a list of events or nothing."""

    time: float
    invocation: int
    result: Any


@attrs.define
class StepCommitted:
    """An attempt of an atomic step ended well: what it did takes effect now, in this order, and then its ``result``."""

    time: float
    invocation: int
    effects: "tuple[EventSent | EventPublished | StateWritten, ...]"
    result: Any


@attrs.frozen
class StepRaised:
    """An attempt failed. ``delay`` is its retry policy's verdict: seconds until the next attempt, or ``None``."""

    time: float
    invocation: int
    error: BaseException
    delay: float | None


@attrs.define
class EventCollected:
    """``ctx.collect_events`` was called. ``expected`` is ``None`` where it is the same as last time for this buffer."""

    time: float
    invocation: int
    buffer: str | None
    event: Event
    expected: tuple[type, ...] | None


@attrs.frozen
class WaitOpened:
    """``ctx.wait_for_event`` was called. ``waiter`` names the wait within its invocation; ``timeout`` is in seconds."""

    time: float
    invocation: int
    waiter: str
    event_type: type[Event]
    requirements: dict[str, Any]
    timeout: float | None
    question: Event | None


@attrs.frozen
class WaitAbandoned:
    """A step stopped waiting by itself: a scope of its own was cancelled."""

    time: float
    invocation: int
    waiter: str


@attrs.define
class TimerFired:
    """A timer set by `SetTimer` is due."""

    time: float
    timer: int


@attrs.define
class EventPublished:
    """``ctx.write_event_to_stream`` was called."""

    time: float
    invocation: int | None
    event: Event


@attrs.frozen
class StateWritten:
    """A value of the run's state was set. An empty path replaces the whole state."""

    time: float
    path: tuple[str, ...]
    value: Any


@attrs.frozen
class Stepped:
    """``handler.run_step()`` was called: of the events held back, these go on (by number), the others are dropped."""

    time: float
    chosen: tuple[int, ...]


@attrs.frozen
class StepwiseEnded:
    """A stepwise run was awaited: from here on it runs freely. ``chosen`` as in `Stepped`."""

    time: float
    chosen: tuple[int, ...]


@attrs.frozen
class RunCancelled:
    """The run was cancelled, by ``cancel_run()`` (``by_user``) or because its owner went away."""

    time: float
    reason: str
    by_user: bool


@attrs.frozen
class RunTimedOut:
    """The run's ``timeout`` seconds are over."""

    time: float
    timeout: float


@attrs.frozen
class RunFailed:
    """Something outside any step failed: a resource, a retry policy."""

    time: float
    error: BaseException


Fact = (
    RunStarted
    | RunResumed
    | EventSent
    | StepReturned
    | StepCommitted
    | StepRaised
    | EventCollected
    | WaitOpened
    | WaitAbandoned
    | TimerFired
    | EventPublished
    | StateWritten
    | Stepped
    | StepwiseEnded
    | RunCancelled
    | RunTimedOut
    | RunFailed
)


@attrs.define
class StartStep:
    """Run the step numbered ``step`` on ``event``. ``attempt`` counts from 0; ``since`` is the time of the first
    failure."""

    step: int
    invocation: int
    event: Any
    attempt: int = 0
    since: float | None = None


@attrs.frozen
class AnswerWait:
    """Let a waiting step go on with this event; ``None``: its wait timed out."""

    invocation: int
    waiter: str
    event: Event | None


@attrs.frozen
class GiveBatch:
    """The answer to ``ctx.collect_events``: a complete batch."""

    events: list[Any]


@attrs.define
class Publish:
    """Append the event to the run's stream."""

    event: Event


@attrs.frozen
class SetTimer:
    """Report `TimerFired` at ``at`` (seconds since the epoch)."""

    timer: int
    at: float


@attrs.frozen
class CancelTimer:
    """The timer isn't needed any more. It may have fired already."""

    timer: int


@attrs.frozen
class Rest:
    """A stepwise run has done all it could without more events being released."""


@attrs.define
class Finish:
    """The run is over, with a result or an error. Always the last command of a run."""

    result: Any = None
    event: Event | None = None
    error: BaseException | None = None


Command = StartStep | AnswerWait | GiveBatch | Publish | SetTimer | CancelTimer | Rest | Finish
