"""What has happened to a stored run, as its records tell."""

from collections.abc import Sequence

import attrs

from flowkit.errors import WrongCall
from flowkit.facts import Fact, StepCommitted, StepReturned, TimerFired
from flowkit.machine import Machine
from flowkit.records import Records

__all__ = ["HistoryEntry", "history_of", "last_return"]


@attrs.frozen
class HistoryEntry:
    """One thing that happened to a run: its number in the journal, its time (seconds since the epoch), the step it is
    about (``None`` where it is about none), and the fact (facts.py)."""

    number: int
    time: float
    step: str | None
    fact: Fact


def history_of(records: Records, run_id: str, journal: Sequence[bytes]) -> list[HistoryEntry]:
    return [
        HistoryEntry(number, fact.time, _step_of(fact, machine), fact)
        for number, fact, machine in records.replay(run_id, journal)
    ]


def _step_of(fact: Fact, machine: Machine) -> str | None:
    number = getattr(fact, "invocation", getattr(fact, "sender", None))
    if isinstance(fact, TimerFired):
        timer = machine.timers.get(fact.timer)
        number = None if timer is None else timer.invocation
    entry = machine.invocations.get(number) if number is not None else None
    return None if entry is None else entry.lane.spec.name


def last_return(history: Sequence[HistoryEntry], step: str, run_id: str) -> int:
    """The number of the record in which a step returned last."""
    returns = {one.step: one.number for one in history if isinstance(one.fact, StepReturned | StepCommitted)}
    if step not in returns:
        have = ", ".join(sorted(str(name) for name in returns))
        cure = f"give one of {have}" if have else "wait until a step has"
        raise WrongCall("fork()", f"got after={step!r}, which hasn't returned in run {run_id!r}", cure)
    return returns[step]
