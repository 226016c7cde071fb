"""A machine as plain data and back: ``ctx.to_dict()``, and the bounded start of a long journal.

`freeze` writes down the books (books.py, waits.py, joins.py, collecting.py) as a tree of dicts and lists around the
user's values; `thaw` builds a machine from such a tree. `Snapshots` puts a codec around both, with the types that the
plan mentions. What is derived (busy counts, routes, indexes) is not written but counted again.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import cattrs

from flowkit.books import QUEUED, RESUMING, RETRYING, RUNNING, Held, Invocation, Lane, Timer, Waiting
from flowkit.collecting import Buffer
from flowkit.dispatch import finish_with
from flowkit.errors import SerializationError
from flowkit.facts import Finish
from flowkit.joins import ROOT, FanOut, Joins
from flowkit.machine import Machine
from flowkit.plan import Plan
from flowkit.serialization import Codec
from flowkit.state import State
from flowkit.waits import Wait

__all__ = ["Snapshots", "codec_for", "freeze", "thaw"]

FORMAT = 1


def codec_for(plan: Plan, types: Iterable[type] = (), converter: cattrs.Converter | None = None) -> Codec:
    """A codec that knows every type the plan mentions, these types, and every event class that this process has
    defined. Types with hooks of their own on ``converter`` go through those."""
    return Codec((*_types(plan), *types), converter, any_event=True, register="Workflow(types=[{}])")


def _types(plan: Plan) -> Iterator[type]:
    for spec in plan.steps:
        yield from spec.accepts
        yield from spec.returns
        yield from spec.returns_lists
    if plan.state_type is not None:
        yield plan.state_type


class Snapshots:
    """Snapshots of one plan's runs."""

    def __init__(self, plan: Plan, types: Iterable[type] = (), converter: cattrs.Converter | None = None) -> None:
        self.plan = plan
        self.codec = codec_for(plan, types, converter)

    def dump_state(self, state: State) -> dict[str, Any]:
        """A state without a run."""
        return {"flowkit": FORMAT, "workflow": self.plan.name, "state": self.codec.encode(state.root), "run": None}

    def dump(self, machine: Machine, *, ended: bool = False) -> dict[str, Any]:
        """State and run; of a run that has its result only the state, or (``ended``) the result too.

        Raises:
            SerializationError: a value can't be brought back exactly.
        """
        if machine.outcome is not None and not (ended and machine.outcome.event is not None):
            return self.dump_state(machine.state)
        return self.dump_state(machine.state) | {"run": self.codec.encode(freeze(machine))}

    def load(self, data: dict[str, Any], *, patient: bool) -> tuple[State, Machine | None]:
        """What `dump` wrote.

        Raises:
            SerializationError: it is damaged, of a newer flowkit, or of another workflow.
        """
        if not isinstance(data, dict) or data.get("flowkit") is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SerializationError("this is no context", cure="pass what ctx.to_dict() gave")
        if data["flowkit"] != FORMAT:
            raise SerializationError(
                f"it was written in format {data['flowkit']!r}, and this flowkit reads {FORMAT}", cure="update flowkit"
            )
        if data.get("workflow") != self.plan.name:
            raise SerializationError(
                f"it belongs to a {data.get('workflow')!r}, not to a {self.plan.name}",
                cure="pass it to the workflow it came from",
            )
        state = State(self.plan.state_type, self.codec.decode(data.get("state")))
        expected = self.plan.state_type or dict
        if not isinstance(state.root, expected):
            raise SerializationError(
                f"the state is a {type(state.root).__name__}, and this workflow's is a {expected.__name__}",
                path="$.state",
            )
        if data.get("run") is None:
            return state, None
        tree = self.codec.decode(data["run"])
        try:
            return state, thaw(self.plan, state, tree, patient=patient)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise SerializationError(
                f"the run's books don't fit this workflow ({type(error).__name__}: {error})",
                path="$.run",
                cure="run it with the code that wrote it",
            ) from error


# ------------------------------------------------------------------------------------------------- machine to a tree


def freeze(machine: Machine) -> dict[str, Any]:
    """The books of a machine, without its state."""
    kept: list[list[Any]] = [
        [number, entry.event, entry.sender]
        for of_kind in machine.waits.kept.values()
        for number, entry in of_kind.items()
    ]
    return {
        "run_id": machine.run_id,
        "stop_event": machine.outcome.event if machine.outcome is not None else None,
        "error": machine.outcome.error if machine.outcome is not None else None,
        "started": machine.started,
        "start_event": machine.start_event,
        "stepwise": machine.stepwise,
        "questions": list(machine.questions),
        "last": machine.last,
        "invocations": [_invocation(entry) for entry in machine.invocations.values()],
        "lanes": {
            lane.spec.name: [
                [entry.number for entry in lane.queue or () if entry.number in machine.invocations],
                [entry.number for entry in lane.resuming or () if entry.number in machine.invocations],
            ]
            for lane in machine.lanes
        },
        "kept": sorted(kept, key=lambda one: one[0]),
        "held": [
            [number, one.event, one.sender, one.target, one.scope, one.place, one.published]
            for number, one in machine.held.items()
        ],
        "timers": [[number, timer.at, timer.invocation, timer.waiter] for number, timer in machine.timers.items()],
        "buffers": [
            [step, name, list(buffer.expected), buffer.events()] for (step, name), buffer in machine.buffers.items()
        ],
        "joins": None
        if machine.joins is None
        else [
            machine.joins.last,
            [
                [
                    number,
                    scope.parent,
                    scope.place,
                    scope.producer,
                    list(scope.reach),
                    scope.size,
                    [[step, [list(arrival) for arrival in arrivals]] for step, arrivals in scope.arrivals.items()],
                    sorted(scope.fired),
                ]
                for number, scope in machine.joins.scopes.items()
            ],
        ],
    }


def _invocation(entry: Invocation) -> dict[str, Any]:
    return {
        "number": entry.number,
        "step": entry.lane.spec.name,
        "event": entry.event,
        "scope": entry.scope,
        "place": entry.place,
        "status": entry.status,
        "attempt": entry.attempt,
        "since": entry.since,
        "sent": None if entry.sent is None else [list(one) for one in entry.sent],
        "at_sent": entry.at_sent,
        "batches": entry.batches,
        "at_batch": entry.at_batch,
        "waiting": _waiting(entry.waiting),
    }


def _waiting(waiting: Waiting | None) -> dict[str, Any] | None:
    if waiting is None:
        return None
    return {
        "opened": waiting.opened,
        "answers": waiting.answers,
        "to_answer": waiting.to_answer,
        "unseen": waiting.unseen,
        "open": [
            [wait.order, wait.waiter, wait.event_type, wait.requirements, wait.timer] for wait in waiting.open.values()
        ],
    }


# ------------------------------------------------------------------------------------------------- a tree to a machine


def thaw(plan: Plan, state: State, tree: dict[str, Any], *, patient: bool = False) -> Machine:
    """A machine with these books.

    Raises:
        SerializationError: a step they mention doesn't exist in the plan.
    """
    machine = Machine(plan, state, stepwise=tree["stepwise"], patient=patient)
    machine.run_id = tree["run_id"]
    machine.started = tree["started"]
    if tree["stop_event"] is not None:
        machine.outcome = finish_with(tree["stop_event"])
    elif tree["error"] is not None:
        machine.outcome = Finish(error=tree["error"])
    machine.start_event = tree["start_event"]
    machine.questions = tree["questions"]
    machine.last = tree["last"]
    for written in tree["invocations"]:
        _add_invocation(machine, written)
    waiting = [entry.waiting for entry in machine.invocations.values() if entry.waiting is not None]
    open_waits = [wait for waits in waiting for wait in waits.open.values()]
    for wait in sorted(open_waits, key=lambda wait: wait.order):
        machine.waits.add(wait)
    for name, (queue, resuming) in tree["lanes"].items():
        lane = _lane(machine, name)
        lane.queue = deque(machine.invocations[number] for number in queue) or None
        lane.resuming = deque(machine.invocations[number] for number in resuming) or None
    for number, event, sender in sorted(tree["kept"], key=lambda one: one[0]):
        machine.waits.keep(number, event, sender)
    for number, *rest in tree["held"]:
        machine.held[number] = Held(*rest)
    for number, *rest in tree["timers"]:
        machine.timers[number] = Timer(*rest)
    for step, name, expected, collected in tree["buffers"]:
        buffer = machine.buffers[(step, name)] = Buffer(step)
        buffer.expect(tuple(expected))
        for event in collected:
            buffer.add(event)
    if machine.joins is not None and tree["joins"] is not None:
        machine.joins.last, scopes = tree["joins"]
        machine.joins.scopes = {number: _scope(rest) for number, *rest in scopes}
    if machine.joins is not None:
        _count_live(machine, machine.joins)
    return machine


def _count_live(machine: Machine, joins: Joins) -> None:
    members: list[Invocation | Held] = [*machine.invocations.values(), *machine.held.values()]
    for one in members:
        joins.scopes[one.scope].live += 1
    for number, scope in joins.scopes.items():
        if number != ROOT:
            joins.scopes[scope.parent].live += 1


def _lane(machine: Machine, name: str) -> Lane:
    if name not in machine.plan.index:
        known = ", ".join(machine.plan.index)
        raise SerializationError(
            f"it has work for a step {name!r}, and {machine.plan.name} has only {known}",
            path="$.run",
            cure="run it with the code that wrote it, or give the step its old name by @step(name=…)",
        )
    return machine.lane_of(name)


def _add_invocation(machine: Machine, written: dict[str, Any]) -> None:
    lane = _lane(machine, written["step"])
    entry = Invocation(
        number=written["number"],
        lane=lane,
        event=written["event"],
        scope=written["scope"],
        place=written["place"],
        status=written["status"],
        attempt=written["attempt"],
        since=written["since"],
    )
    machine.invocations[entry.number] = entry
    sent = written["sent"]
    entry.sent = None if sent is None else [(event, target) for event, target in sent]
    entry.at_sent = written["at_sent"]
    entry.batches = written["batches"]
    entry.at_batch = written["at_batch"]
    if written["waiting"] is not None:
        entry.waiting = _add_waits(entry, written["waiting"])
    if entry.status == RUNNING:
        lane.running += 1
        machine.busy += 1
    elif entry.status == RETRYING:
        machine.retrying += 1
    elif entry.status not in (QUEUED, RESUMING, "waiting"):
        raise ValueError(f"unknown status {entry.status!r}")


def _add_waits(entry: Invocation, written: dict[str, Any]) -> Waiting:
    waiting = Waiting(
        opened=written["opened"], answers=written["answers"], to_answer=written["to_answer"], unseen=written["unseen"]
    )
    for order, waiter, event_type, requirements, timer in written["open"]:
        waiting.open[waiter] = Wait(order, entry.number, waiter, event_type, requirements, timer)
    return waiting


def _scope(written: list[Any]) -> FanOut:
    parent, place, producer, reach, size, arrivals, fired = written
    return FanOut(
        parent,
        place,
        producer,
        tuple(reach),
        size,
        0,
        {step: [(place, event) for place, event in gathered] for step, gathered in arrivals},
        set(fired),
    )
