"""Stored runs: found by id, and read without being claimed; times and owners in words."""

import datetime
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import attrs
import click

from flowkit import outside
from flowkit.command_line.exits import Refused
from flowkit.command_line.options import open_store, store_path, workflows_of
from flowkit.errors import did_you_mean
from flowkit.events import Event
from flowkit.facts import WaitOpened
from flowkit.history import HistoryEntry, history_of
from flowkit.machine import Machine
from flowkit.process import is_gone
from flowkit.records import Records
from flowkit.sqlite_store import SQLiteStore
from flowkit.state import State
from flowkit.storage_errors import UnknownRun
from flowkit.store import RunInfo, Store
from flowkit.workflow import Workflow, plan_of, records_of

__all__ = [
    "Opened",
    "Waits",
    "ago",
    "check_run_id",
    "free_runs",
    "is_free",
    "open_waits",
    "owner_text",
    "read_machine",
    "run_argument",
    "span",
    "when",
    "workflow_for",
]

GUESS_AMONG = 1000
"""Runs, the latest, whose ids are compared with one that isn't there."""


def run_argument(function: Any) -> Any:
    """``RUN_ID``: ``run_id``."""
    return click.argument("run_id", metavar="RUN_ID", callback=check_run_id)(function)


def check_run_id(ctx: click.Context, parameter: click.Parameter, run_id: str | None) -> str | None:
    if run_id == "":
        raise click.BadParameter("it is empty: `flowkit runs list` lists them", ctx, parameter)
    return run_id


class Opened:
    """A store that is there, open in a ``with`` block."""

    def __init__(self, given: str | None) -> None:
        self.store: SQLiteStore = open_store(given)
        path = store_path(given)
        assert path is not None  # else there were no store
        self.path: Path = path

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def info(self, run_id: str) -> RunInfo:
        """
        Raises:
            UnknownRun: there is no such run.
            RunDamaged: its line in the store can't be read.
        """
        info = self.store.info(run_id)
        if info is None:
            raise UnknownRun(run_id, [one.run_id for one in self.store.find(newest=True, limit=GUESS_AMONG)])
        return info


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
        if (child := _child(workflow, info.workflow)) is not None:
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


def _child(workflow: Workflow, name: str) -> Workflow | None:
    """The workflow of this name that was added to it, at any depth."""
    children: dict[str, Workflow] = getattr(vars(workflow).get("_flowkit_record"), "children", {})
    for child in children.values():
        if plan_of(child).name == name:
            return child
        if (found := _child(child, name)) is not None:
            return found
    return None


# ------------------------------------------------------------------------------------------------------------- reading


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
    from flowkit.events import HumanResponseEvent

    answers = tuple(kind for kind in machine.plan.accepted if issubclass(kind, HumanResponseEvent))
    found += [Waits(None, answers, {}, question, None) for question in questions if answers]
    return found


def read_history(workflow: Workflow, info: RunInfo, store: Store) -> list[HistoryEntry]:
    """All that is stored of a run."""
    return history_of(records_of(workflow), info.run_id, store.read(info.run_id))


# -------------------------------------------------------------------------------------------------------------- owners


def free_runs(store: Store, infos: Collection[RunInfo]) -> set[str]:
    """Those of these runs, none of them nested, that nobody alive drives."""
    free = {one.run_id for one in infos if one.owner is None or is_gone(one.owner)}
    if len(free) < len(infos):
        free |= {one.run_id for one in store.find(free_at=outside.current().time())}
    return free


def is_free(store: Store, info: RunInfo) -> bool:
    """Whether nobody alive drives a run."""
    if info.owner is None or is_gone(info.owner):
        return True
    now = outside.current().time()
    found = store.find(free_at=now, statuses=(info.status,), workflows=(info.workflow,), parent=info.parent)
    return any(one.run_id == info.run_id for one in found)


def owner_text(owner: str | None, *, alive: bool) -> str:
    """Who drives a run: its host and process."""
    if owner is None:
        return "-"
    host, _, rest = owner.partition(":")
    return f"{host}:{rest.partition(':')[0]}" + ("" if alive else " (gone)")


# --------------------------------------------------------------------------------------------------------------- times


def span(seconds: float) -> str:
    """A time span in a word: ``5s``, ``12m``, ``3h``, ``9d``."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size or (unit == "d" and seconds >= size):
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def ago(time: float, now: float) -> str:
    return span(now - time)


def when(time: float) -> str:
    """A time of day, here, to the second."""
    try:
        return datetime.datetime.fromtimestamp(time).astimezone().isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return f"{time:g} s since 1970"
