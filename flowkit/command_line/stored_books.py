"""What a stored run's records tell: its history, its books, what it waits for. Read, and never claimed."""

from collections.abc import Sequence
from typing import Any

import attrs

from flowkit.command_line.exits import Refused
from flowkit.command_line.options import workflows_of
from flowkit.errors import did_you_mean
from flowkit.events import Event, HumanResponseEvent
from flowkit.facts import WaitOpened
from flowkit.history import HistoryEntry, history_of
from flowkit.machine import Machine
from flowkit.records import Records
from flowkit.state import State
from flowkit.store import RunInfo, Store
from flowkit.workflow import Workflow, plan_of, records_of

__all__ = ["Waits", "child_of", "open_waits", "read_history", "read_machine", "workflow_for"]


def workflow_for(info: RunInfo, flows: Sequence[str], *, needed: bool = True) -> tuple[str, Workflow] | None:
    """The workflow of a run, and what it, or the one it is nested in, was named by; ``None`` where it isn't ``needed``
    and isn't there.

    Raises:
        Refused: it isn't among those given.
    """
    given = workflows_of(flows, needed=needed)
    if info.workflow in given:
        return given[info.workflow]
    for named, workflow in given.values():
        if (child := child_of(workflow, info.workflow)) is not None:
            return named, child
    if not needed:
        return None
    names = " and ".join(given)
    guess = did_you_mean(info.workflow, given)
    hint = f"; {guess}" if guess else ""
    raise Refused(
        f"run {info.run_id!r} is one of {info.workflow}, and --flow names {names}{hint}: add "
        f"--flow module:{info.workflow}"
    )


def child_of(workflow: Workflow, name: str) -> Workflow | None:
    """The workflow of this name that was added to it, at any depth."""
    children: dict[str, Workflow] = getattr(vars(workflow).get("_flowkit_record"), "children", {})
    for child in children.values():
        if plan_of(child).name == name:
            return child
        if (found := child_of(child, name)) is not None:
            return found
    return None


def read_machine(records: Records, info: RunInfo, store: Store) -> Machine:
    """A run's books, as they are now.

    Raises:
        RunDamaged, CodeChanged: they can't be read, or don't fit the workflow as it is now.
    """
    journal = store.read(info.run_id, info.base)
    return records.restore(info.run_id, info.base, journal, State(records.plan.state_type), patient=False).machine


@attrs.frozen
class Waits:
    """Something that a run waits for: the step that does (``None``: any that takes the event), the classes that it
    takes, and the event that asks."""

    step: str | None
    kinds: tuple[type[Event], ...]
    requires: dict[str, Any]
    question: Event | None
    until: float | None


def open_waits(machine: Machine, entries: Sequence[HistoryEntry]) -> list[Waits]:
    """What a run waits for from outside, the oldest first."""
    asked = {(one.fact.invocation, one.fact.waiter): one.fact for one in entries if isinstance(one.fact, WaitOpened)}
    questions = list(machine.questions)
    found: list[Waits] = []
    waits = sorted((wait for some in machine.waits.open.values() for wait in some.values()), key=lambda one: one.order)
    for wait in waits:
        fact = asked.get((wait.invocation, wait.waiter))
        question = None if fact is None else fact.question
        if question is None and questions:
            question = questions.pop(0)
        timer = None if wait.timer is None else machine.timers.get(wait.timer)
        step = machine.invocations[wait.invocation].lane.spec.name
        until = None if timer is None else timer.at
        found.append(Waits(step, (wait.event_type,), dict(wait.requirements), question, until))
    answers = tuple(kind for kind in machine.plan.accepted if issubclass(kind, HumanResponseEvent))
    found += [Waits(None, answers, {}, question, None) for question in questions if answers]
    return found


def read_history(workflow: Workflow, info: RunInfo, store: Store) -> list[HistoryEntry]:
    """All that is stored of a run."""
    return history_of(records_of(workflow), info.run_id, store.read(info.run_id))
