"""A machine as plain data and back: ``ctx.to_dict()``, and the bounded start of a long journal.

`freeze` writes down the books (books.py, waits.py, joins.py, collecting.py) as a tree of dicts and lists around the
user's values; `thaw` builds a machine from such a tree. `Snapshots` puts a codec around both, with the types that the
plan mentions. What is derived (busy counts, routes, indexes) is not written but counted again.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import cattrs

from flowkit.books import QUEUED, RESUMING, RETRYING, RUNNING, WAITING, Held, Invocation, Lane, Timer, Waiting
from flowkit.collecting import Buffer
from flowkit.dispatch import finish_with
from flowkit.errors import SerializationError
from flowkit.events import Event
from flowkit.facts import Finish
from flowkit.joins import ROOT, FanOut
from flowkit.leaves import is_exactly, is_text_by_name
from flowkit.machine import Machine
from flowkit.plan import Plan
from flowkit.serialization import Codec
from flowkit.state import State
from flowkit.waits import Wait

__all__ = ["Snapshots", "Unbalanced", "codec_for", "freeze", "thaw"]

FORMAT = 1


def codec_for(plan: Plan, types: Iterable[type] = (), converter: cattrs.Converter | None = None) -> Codec:
    """A codec that knows every type the plan mentions, these types, and every event class that this process has
    defined. Types with hooks of their own on ``converter`` go through those."""
    return Codec(
        (*_types(plan), *types),
        converter,
        any_event=True,
        register="Workflow(types=[{}])",
        with_hooks="Workflow(types=[{}], converter=…) with a cattrs converter that has hooks for it",
    )


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
        dumped = self.dump_state(machine.state) | {"run": self.codec.encode(freeze(machine))}
        return dumped if machine.carried is None else dumped | {"carried": dict(machine.carried)}

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
        carried = data.get("carried")
        if carried is not None and not is_text_by_name(carried):
            raise SerializationError("text by name is expected", path="$.carried", cure="pass what ctx.to_dict() gave")
        try:
            machine = thaw(self.plan, state, tree, patient=patient)
        except Unbalanced as error:
            raise SerializationError(
                f"the run's books don't fit this workflow, {error.problem}",
                path=f"$.run{error.path.removeprefix('$')}",
                cure="run it with the code that wrote it; a step that was renamed keeps its name by @step(name=…)",
            ) from error
        machine.carried = carried
        return state, machine


# ------------------------------------------------------------------------------------------------- machine to a tree


def freeze(machine: Machine) -> dict[str, Any]:
    """The books of a machine, without its state."""
    kept: list[list[Any]] = [
        [number, entry.event, entry.sender]
        for of_kind in machine.waits.kept.values()
        for number, entry in of_kind.items()
    ]
    lanes = machine.lanes if machine.outcome is None else ()  # at the end there are no invocations to queue
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
        "lanes": {name: queues for name, queues in map(_queues, lanes) if queues != [[], []]},
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


def _queues(lane: Lane) -> tuple[str, list[list[int]]]:
    return lane.spec.name, [
        [entry.number for entry in queue or () if entry.status == status]
        for status, queue in ((QUEUED, lane.queue), (RESUMING, lane.resuming))
    ]


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
        "places": waiting.places,
        "to_answer": waiting.to_answer,
        "unseen": waiting.unseen,
        "open": [
            [wait.order, wait.waiter, wait.event_type, wait.requirements, wait.timer] for wait in waiting.open.values()
        ],
    }


# ------------------------------------------------------------------------------------------------- a tree to a machine


class Unbalanced(ValueError):
    """These can't be a machine's books. ``path`` says where."""

    def __init__(self, problem: str, path: str) -> None:
        super().__init__(problem)
        self.problem, self.path = problem, path


def thaw(plan: Plan, state: State, tree: Any, *, patient: bool = False) -> Machine:
    """A machine with these books. What would trip it later is found now.

    Raises:
        Unbalanced: no machine with this plan has such books.
    """
    books = _fields(tree, _BOOKS, "$")
    machine = Machine(plan, state, stepwise=books["stepwise"], patient=patient)
    machine.run_id = books["run_id"]
    machine.started = books["started"]
    machine.start_event = books["start_event"]
    machine.questions = _each(books["questions"], Event, "$.questions")
    machine.last = books["last"]
    if books["stop_event"] is not None:
        machine.outcome = finish_with(books["stop_event"])
    elif books["error"] is not None:
        machine.outcome = Finish(error=books["error"])
    for path, row in _rows(books["timers"], (int, _NUMBER, int, (str, None)), "$.timers"):
        number, at, invocation, waiter = row
        machine.timers[_new(machine, number, path)] = Timer(at, invocation, waiter)
    _add_joins(machine, books["joins"])
    _add_invocations(machine, books["invocations"])
    _add_queues(machine, books["lanes"])
    for path, row in _rows(books["kept"], (_NUMBER, Event, str), "$.kept"):
        machine.waits.keep(_new(machine, row[0], path), *row[1:])
        machine.waits.latest = max(machine.waits.latest, row[0])
    for path, row in _rows(books["held"], (int, Event, str, (str, None), int, int, bool), "$.held"):
        number, event, sender, target, scope, place, published = row
        _check(target is None or target in plan.index, "there is no such step", f"{path}[3]")
        machine.held[_new(machine, number, path)] = Held(event, sender, target, scope, place, published)
    for path, row in _rows(books["buffers"], (str, (str, None), list, list), "$.buffers"):
        step, name, expected, collected = row
        _check((step, name) not in machine.buffers, "it is there twice", path)
        buffer = machine.buffers[(step, name)] = Buffer(step)
        buffer.expect(tuple(_each(expected, type, f"{path}[2]")))
        for event in _each(collected, Event, f"{path}[3]"):
            buffer.add(event)
    _count_live(machine)
    has_work = bool(machine.invocations or machine.held or machine.timers)
    _check(machine.started or not has_work, "it hasn't begun, and has work", "$.started")
    _check(machine.outcome is None or not has_work, "it has ended, and has work", "$.stop_event")
    return machine


def _add_joins(machine: Machine, written: Any) -> None:
    joins = machine.joins
    if joins is None or written is None:
        return
    _is(written, list, "$.joins")
    _check(len(written) == 2, "two items are expected", "$.joins")
    last, scopes = written
    joins.last = _is(last, int, "$.joins[0]")
    joins.scopes = {}
    for path, row in _rows(scopes, (int, int, int, str, list, int, list, list), "$.joins[1]"):
        number, parent, place, producer, reach, size, gathered, fired = row
        _check(number not in joins.scopes and number <= joins.last, "its number can't be", path)
        _check(parent in joins.scopes if number else parent == ROOT, "it isn't inside any other", f"{path}[1]")
        arrivals: dict[str, list[tuple[int, Any]]] = {}
        for at, (step, arrived) in _rows(gathered, (str, list), f"{path}[6]"):
            _is_list_step(machine, step, f"{at}[0]")
            _check(step not in arrivals, "it is there twice", at)
            arrivals[step] = [(one, event) for _, (one, event) in _rows(arrived, (int, Event), f"{at}[1]")]
        for step in _each(reach, str, f"{path}[4]"):
            _is_list_step(machine, step, f"{path}[4]")
        done = set(_each(fired, str, f"{path}[7]"))
        joins.scopes[number] = FanOut(parent, place, producer, tuple(reach), size, 0, arrivals, done)
    _check(ROOT in joins.scopes, "the run itself is missing", "$.joins[1]")


def _is_list_step(machine: Machine, step: str, path: str) -> None:
    index = machine.plan.index.get(step)
    _check(index is not None and machine.plan.steps[index].takes_list, "no step of this name takes a list", path)


def _add_invocations(machine: Machine, written: list[Any]) -> None:
    for position, one in enumerate(written):
        path = f"$.invocations[{position}]"
        fields = _fields(one, _INVOCATION, path)
        waiting, step = fields.pop("waiting"), fields.pop("step")
        _check(step in machine.plan.index, _no_step(machine.plan, step), f"{path}.step")
        lane = machine.lane_of(step)
        event, status = fields["event"], fields["status"]
        if lane.spec.takes_list:
            _each(_is(event, list, f"{path}.event"), Event, f"{path}.event")
        else:
            _is(event, Event, f"{path}.event")
        if fields["sent"] is not None:
            fields["sent"] = [tuple(row) for _, row in _rows(fields["sent"], (Event, (str, None)), f"{path}.sent")]
        for batch in fields["batches"] or ():
            _is(batch, (list, None), f"{path}.batches")
        for at, done in (("at_sent", fields["sent"]), ("at_batch", fields["batches"])):
            _check(0 <= fields[at] <= len(done or ()), "it is past the end", f"{path}.{at}")
        entry = Invocation(lane=lane, **fields)
        machine.invocations[_new(machine, entry.number, path)] = entry
        if waiting is not None:
            entry.waiting = _waits(machine, entry, waiting, f"{path}.waiting")
        is_open = entry.waiting is not None and bool(entry.waiting.open)
        _check(status != WAITING or is_open, "it waits for nothing", f"{path}.status")
        _check(status not in (QUEUED, RETRYING) or not is_open, "it can't wait now", f"{path}.status")
        if status == RUNNING:
            lane.running += 1
            machine.busy += 1
        elif status == RETRYING:
            machine.retrying += 1
    retrying: list[int] = []
    for number, timer in machine.timers.items():
        path = f"$.timers: {number}"
        known = machine.invocations.get(timer.invocation)
        _check(known is not None, "there is no such invocation", path)
        assert known is not None
        if timer.waiter is None:
            retrying.append(known.number)
        else:
            wait = known.waiting.open.get(timer.waiter) if known.waiting is not None else None
            _check(wait is not None and wait.timer == number, "there is no such wait", path)
    expected = sorted(entry.number for entry in machine.invocations.values() if entry.status == RETRYING)
    _check(sorted(retrying) == expected, "retries and their timers don't match", "$.timers")
    entries = [entry.waiting for entry in machine.invocations.values() if entry.waiting is not None]
    open_waits = [wait for waiting in entries for wait in waiting.open.values()]
    for wait in sorted(open_waits, key=lambda wait: wait.order):
        machine.waits.add(wait)


def _no_step(plan: Plan, step: Any) -> str:
    return f"it has work for a step {step!r}, and {plan.name} has only {', '.join(plan.index)}"


def _waits(machine: Machine, entry: Invocation, written: Any, path: str) -> Waiting:
    fields = _fields({"places": {}, **_is(written, dict, path)}, _WAITING, path)  # early books have no places
    opened, answers, places = fields["opened"], fields["answers"], fields["places"]
    for name, deadline in opened.items():
        _is(name, str, f"{path}.opened")
        _is(deadline, (*_NUMBER, None), f"{path}.opened")
    for name, event in answers.items():
        _check(name in opened, "it was never opened", f"{path}.answers")
        _is(event, (Event, None), f"{path}.answers")
    for name, place in places.items():
        _check(name in answers, "it has no answer", f"{path}.places")
        machine.waits.latest = max(machine.waits.latest, _is(place, _NUMBER, f"{path}.places"))
    for name in _each(fields["to_answer"], str, f"{path}.to_answer"):
        _check(name in answers, "it has no answer", f"{path}.to_answer")
    _check(bool(fields["to_answer"]) == (entry.status == RESUMING), "answers and status don't match", path)
    waiting = Waiting(opened, {}, answers, fields["to_answer"], _each(fields["unseen"], str, f"{path}.unseen"), places)
    for at, row in _rows(fields["open"], (int, str, type, dict, (int, None)), f"{path}.open"):
        order, waiter, event_type, requirements, timer = row
        _check(waiter in opened and waiter not in waiting.open and waiter not in answers, "it can't be open", at)
        _check(issubclass(event_type, Event), "an event class is expected", f"{at}[2]")
        _check(timer is None or timer in machine.timers, "there is no such timer", f"{at}[4]")
        waiting.open[waiter] = Wait(_new(machine, order, at), entry.number, waiter, event_type, requirements, timer)
    return waiting


def _add_queues(machine: Machine, written: dict[str, Any]) -> None:
    found: dict[str, list[int]] = {QUEUED: [], RESUMING: []}
    for name, row in written.items():
        path = f"$.lanes.{name}"
        _check(name in machine.plan.index, _no_step(machine.plan, name), path)
        lane = machine.lane_of(name)
        _check(is_exactly(row, list) and len(row) == 2, "two queues are expected", path)
        for status, numbers in zip((QUEUED, RESUMING), row, strict=True):
            entries = [machine.invocations.get(number) for number in _each(_is(numbers, list, path), int, path)]
            for entry in entries:
                fits = entry is not None and entry.lane is lane and entry.status == status
                _check(fits, f"it isn't {status}", path)
            found[status] += numbers
            queue = deque(entry for entry in entries if entry is not None) or None
            if status == QUEUED:
                lane.queue = queue
            else:
                lane.resuming = queue
    for status, numbers in found.items():
        expected = sorted(entry.number for entry in machine.invocations.values() if entry.status == status)
        _check(sorted(numbers) == expected, f"the queues aren't of what is {status}", "$.lanes")


def _count_live(machine: Machine) -> None:
    joins = machine.joins
    if joins is None:
        return
    members: list[Invocation | Held] = [*machine.invocations.values(), *machine.held.values()]
    for one in members:
        _check(one.scope in joins.scopes, "there is no such fan-out", "$.joins[1]")
        joins.scopes[one.scope].live += 1
    for number, scope in joins.scopes.items():
        if number != ROOT:
            joins.scopes[scope.parent].live += 1
    for number, scope in joins.scopes.items():
        is_over = machine.outcome is not None  # nothing is live then
        _check(is_over or number == ROOT or scope.live > 0, "a fan-out with nothing in it is closed", "$.joins[1]")


# ---- what a tree may consist of: a type, exactly (of events and errors: or one derived from it), or several of them

_NUMBER = (int, float)
_BASES = (Event, BaseException, type)
_BOOKS: dict[str, Any] = {
    "run_id": str,
    "stop_event": (Event, None),
    "error": (BaseException, None),
    "started": bool,
    "start_event": (Event, None),
    "stepwise": bool,
    "questions": list,
    "last": int,
    "invocations": list,
    "lanes": dict,
    "kept": list,
    "held": list,
    "timers": list,
    "buffers": list,
    "joins": (list, None),
}
_INVOCATION: dict[str, Any] = {
    "number": int,
    "step": str,
    "event": (Event, list),
    "scope": int,
    "place": int,
    "status": str,
    "attempt": int,
    "since": (*_NUMBER, None),
    "sent": (list, None),
    "at_sent": int,
    "batches": (list, None),
    "at_batch": int,
    "waiting": (dict, None),
}
_WAITING: dict[str, Any] = {
    "opened": dict,
    "answers": dict,
    "places": dict,
    "to_answer": list,
    "unseen": list,
    "open": list,
}


def _check(fits: bool, problem: str, path: str) -> None:
    if not fits:
        raise Unbalanced(problem, path)


def _is(value: Any, kind: Any, path: str) -> Any:
    kinds: tuple[Any, ...] = kind if is_exactly(kind, tuple) else (kind,)
    for one in kinds:
        if value is None if one is None else (type(value) is one or (one in _BASES and isinstance(value, one))):
            return value
    names = " or ".join("null" if one is None else one.__name__ for one in kinds)
    raise Unbalanced(f"{names} is expected, and it is a {type(value).__name__}", path)


def _each(values: list[Any], kind: Any, path: str) -> list[Any]:
    for value in values:
        _is(value, kind, path)
    return values


def _fields(tree: Any, kinds: dict[str, Any], path: str) -> dict[str, Any]:
    found: dict[str, Any] = _is(tree, dict, path)
    _check(found.keys() == kinds.keys(), f"{', '.join(kinds)} are expected", path)
    return {name: _is(found[name], kind, f"{path}.{name}") for name, kind in kinds.items()}


def _rows(rows: Any, kinds: tuple[Any, ...], path: str) -> Iterator[tuple[str, list[Any]]]:
    for position, row in enumerate(_is(rows, list, path)):
        at = f"{path}[{position}]"
        _check(is_exactly(row, list) and len(row) == len(kinds), f"a list of {len(kinds)} is expected", at)
        yield (
            at,
            [_is(item, kind, f"{at}[{column}]") for column, (item, kind) in enumerate(zip(row, kinds, strict=True))],
        )


def _new(machine: Machine, number: Any, path: str) -> Any:
    """A number that nothing else has: invocations, waits, timers, and events held and kept share them."""
    _check(0 < number <= machine.last, "its number was never given out", path)
    return number
