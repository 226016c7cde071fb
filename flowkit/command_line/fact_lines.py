"""What happened to a run, fact by fact: in words for people, and as data."""

from typing import Any

from flowkit.command_line.exits import line_of
from flowkit.command_line.output import plain
from flowkit.errors import WorkflowCancelled, shown
from flowkit.events import Event
from flowkit.facts import (
    AnswerWait,
    EventCollected,
    EventPublished,
    EventSent,
    Finish,
    GiveBatch,
    RunCancelled,
    RunFailed,
    RunResumed,
    RunStarted,
    RunTimedOut,
    StateWritten,
    StepCommitted,
    Stepped,
    StepRaised,
    StepReturned,
    StepwiseEnded,
    TimerFired,
    WaitAbandoned,
    WaitOpened,
)
from flowkit.history import HistoryEntry

__all__ = ["event_data", "fact_data", "fact_line", "value_data"]

LONG = 300
"""Characters shown of a value."""

_KINDS: dict[type, str] = {
    RunStarted: "started",
    RunResumed: "resumed",
    EventSent: "sent",
    StepReturned: "returned",
    StepCommitted: "committed",
    StepRaised: "raised",
    EventCollected: "collected",
    WaitOpened: "waits",
    WaitAbandoned: "wait abandoned",
    TimerFired: "timer",
    EventPublished: "shown",
    StateWritten: "state",
    Stepped: "stepped",
    StepwiseEnded: "stepwise ended",
    RunCancelled: "cancelled",
    RunTimedOut: "timed out",
    RunFailed: "failed",
}


def fact_line(entry: HistoryEntry, began: float) -> str:
    """``   3  +0.125 s  charge  returned Charged(item='book')``."""
    step = "" if entry.step is None else f"{entry.step}  "
    return f"{entry.number:>5}  {_offset(entry.time - began):>10}  {step}{_what(entry)}{_end(entry)}".replace("\n", " ")


def _offset(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"+{seconds:.3f}s"
    hours, rest = divmod(seconds, 3600)
    return f"+{int(hours)}:{int(rest // 60):02}:{rest % 60:04.1f}"


def _what(entry: HistoryEntry) -> str:
    match entry.fact:
        case RunStarted(event=event):
            return f"started with {_value(event)}"
        case RunResumed():
            return "went on"
        case EventSent(sender=sender, event=event, step=step):
            to = "" if step is None else f" to {step}"
            return f"sent {_value(event)}{to}" if sender is not None else f"got {_value(event)} from outside{to}"
        case StepReturned(result=result):
            return _returned(result)
        case StepCommitted(result=result, effects=effects):
            return f"{_returned(result)} (atomic, together with {len(effects)} more)"
        case StepRaised(error=error, delay=delay):
            again = "" if delay is None else f"; it is tried again in {delay:g} s"
            return f"raised {line_of(error)}{again}"
        case EventCollected(event=event):
            batch = next((one for one in entry.commands if isinstance(one, GiveBatch)), None)
            whole = "" if batch is None else f", and has all {len(batch.events)}"
            return f"collected {_value(event)}{whole}"
        case WaitOpened(event_type=kind, question=question, requirements=needs, timeout=timeout):
            with_ = "".join(f" {name}={_value(value)}" for name, value in needs.items())
            asks = "" if question is None else f", asking {_value(question)}"
            limit = "" if timeout is None else f", for {timeout:g} s at most"
            return f"waits for {kind.__name__}{with_}{asks}{limit}"
        case WaitAbandoned():
            return "gave a wait up"
        case TimerFired():
            waited = any(isinstance(one, AnswerWait) for one in entry.commands)
            return "has waited long enough" if waited else "its time has come"
        case EventPublished(event=event):
            return f"showed {_value(event)}"
        case StateWritten(path=path, value=value):
            return f"state{''.join(f'.{part}' for part in path)} = {_value(value)}"
        case Stepped(chosen=chosen):
            return f"stepped: {len(chosen)} events went on"
        case StepwiseEnded():
            return "goes on freely"
        case RunCancelled(reason=reason):
            return f"was cancelled: {reason}"
        case RunTimedOut(timeout=timeout):
            return f"took longer than {timeout:g} s"
        case RunFailed(error=error):
            return f"failed: {line_of(error)}"


def _returned(result: Any) -> str:
    if result is None:
        return "returned nothing"
    if isinstance(result, list):
        return f"returned {len(result)} events: {_value(result)}"  # pyright: ignore[reportUnknownArgumentType]
    return f"returned {_value(result)}"


def _end(entry: HistoryEntry) -> str:
    finish = next((one for one in entry.commands if isinstance(one, Finish)), None)
    if finish is None or isinstance(entry.fact, RunFailed | RunTimedOut | RunCancelled):
        return ""
    if finish.event is not None:
        return ": the run has finished"
    cancelled = isinstance(finish.error, WorkflowCancelled)
    return ": the run was cancelled" if cancelled else ": the run has failed"


def _value(value: Any) -> str:
    return shown(value, LONG)


# ------------------------------------------------------------------------------------------------------------- as data


def fact_data(entry: HistoryEntry, began: float) -> dict[str, Any]:
    """A fact for JSON: its number, its time and offset in seconds, its step, its kind, and what it says."""
    fact: Any = entry.fact
    data: dict[str, Any] = {
        "number": entry.number,
        "time": entry.time,
        "offset": round(entry.time - began, 6),
        "step": entry.step,
        "fact": _KINDS[type(fact)],
    }
    for name in ("event", "result", "error", "delay", "question", "timeout", "reason", "path", "value"):
        if hasattr(fact, name):
            data[name] = value_data(getattr(fact, name))
    if isinstance(fact, EventSent):
        data["from_outside"] = fact.sender is None
        data["to"] = fact.step
    if isinstance(fact, WaitOpened):
        data["waits_for"], data["requires"] = fact.event_type.__name__, plain(fact.requirements)
    if isinstance(fact, StepCommitted):
        data["effects"] = [
            value_data(getattr(one, "event", None) or getattr(one, "value", None)) for one in fact.effects
        ]
    if (finish := next((one for one in entry.commands if isinstance(one, Finish)), None)) is not None:
        data["ends"] = "finished" if finish.event is not None else "failed"
        if isinstance(finish.error, WorkflowCancelled):
            data["ends"] = "cancelled"
    return data


def value_data(value: Any) -> Any:
    """A value for JSON; events with their class."""
    if isinstance(value, Event):
        return event_data(value)
    if isinstance(value, list | tuple):
        return [value_data(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    return plain(value)


def event_data(event: Event) -> dict[str, Any]:
    return {"type": type(event).__name__, "fields": plain(event)}
