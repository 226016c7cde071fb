"""What has happened to a stored run, as its records tell, and a new run that goes on from there."""

from collections.abc import Sequence

import attrs

from flowkit.errors import WrongCall
from flowkit.facts import Command, Fact, StepCommitted, StepReturned, TimerFired
from flowkit.machine import Machine
from flowkit.plan import Plan
from flowkit.records import Records, seal
from flowkit.state import State

__all__ = ["HistoryEntry", "fork_of", "history_from", "history_of"]


@attrs.frozen
class HistoryEntry:
    """One thing that happened to a run: its number in the journal, its time (seconds since the epoch), the step it is
    about (``None`` where it is about none), and the fact (facts.py). ``commands`` are what followed from it under
    ``plan``, the wiring that the run had then."""

    number: int
    time: float
    step: str | None
    fact: Fact
    commands: Sequence[Command] = attrs.field(default=(), eq=False, repr=False)
    plan: Plan | None = attrs.field(default=None, eq=False, repr=False)


def history_of(records: Records, run_id: str, journal: Sequence[bytes]) -> list[HistoryEntry]:
    return history_from(records, run_id, journal, 0, None)[0]


def history_from(
    records: Records, run_id: str, journal: Sequence[bytes], start: int, machine: Machine | None
) -> tuple[list[HistoryEntry], Machine | None]:
    """The history in a part of a journal, and the machine to read the rest with: from the record after the last entry's
    on. ``start`` is the number of the part's first record, ``machine`` what the part before it gave."""
    followed: list[Sequence[Command]] = []
    told: list[tuple[int, Fact, str | None, Plan]] = []
    replayed = records.replay(run_id, journal, start=start, machine=machine, told=followed.append)
    for number, fact, machine in replayed:
        told.append((number, fact, _step_of(fact, machine), machine.plan))
    entries = [
        HistoryEntry(number, fact.time, step, fact, commands, plan)
        for (number, fact, step, plan), commands in zip(told, followed, strict=True)
    ]
    return entries, machine


def fork_of(records: Records, run_id: str, journal: Sequence[bytes], after: str | int, new_id: str) -> bytes:
    """The first record of a run ``new_id`` that goes on from where this run was after a step (or a record).

    Raises:
        WrongCall: that step has never returned in it, there is no such record, or the run had ended there.
        RunDamaged, CodeChanged: its records can't be read, or don't fit the workflow any more.
    """
    call = "fork()"
    number = after if isinstance(after, int) else _last_return(history_of(records, run_id, journal), after, run_id)
    if not 0 < number < len(journal):
        raise WrongCall(call, f"got after={number}, but run {run_id!r} has records 1 to {len(journal) - 1}", "give one")
    state = State(records.plan.state_type)
    restored = records.restore(run_id, 0, journal[: number + 1], state, patient=False)
    machine = restored.machine
    if machine.outcome is not None:
        raise WrongCall(call, f"got after={after!r}, where run {run_id!r} had ended", "give an earlier one")
    machine.run_id = new_id
    old = restored.head
    head = attrs.evolve(old, run_id=new_id, forked_from=(run_id, number), carried=None, inherited=old.carried)
    return seal(new_id, 0, records.books(machine, head))


def _step_of(fact: Fact, machine: Machine) -> str | None:
    number = getattr(fact, "invocation", getattr(fact, "sender", None))
    if isinstance(fact, TimerFired):
        timer = machine.timers.get(fact.timer)
        number = None if timer is None else timer.invocation
    entry = machine.invocations.get(number) if number is not None else None
    return None if entry is None else entry.lane.spec.name


def _last_return(history: Sequence[HistoryEntry], step: str, run_id: str) -> int:
    """The number of the record in which a step returned last."""
    returns = {one.step: one.number for one in history if isinstance(one.fact, StepReturned | StepCommitted)}
    if step not in returns:
        have = ", ".join(sorted(str(name) for name in returns))
        cure = f"give one of {have}" if have else "wait until a step has"
        raise WrongCall("fork()", f"got after={step!r}, which hasn't returned in run {run_id!r}", cure)
    return returns[step]
