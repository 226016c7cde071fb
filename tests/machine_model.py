"""A second machine, as slow and simple as can be: what must be where after each fact.

It knows the rules of delivery by heart (routing, fan-out and fan-in, waits, collecting, holding back) and nothing of
queues, slots and counters. It keeps plain lists and searches them. `Model.after` predicts what a fact leads to and
compares with the machine's books; an event that is lost, doubled, or goes astray is an ``AssertionError``.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from flowkit import Event, HumanResponseEvent, InputRequiredEvent, StepFailedEvent, StopEvent
from flowkit.facts import (
    AnswerWait,
    CancelTimer,
    Command,
    EventCollected,
    EventPublished,
    EventSent,
    Fact,
    Finish,
    GiveBatch,
    Publish,
    RunCancelled,
    RunFailed,
    RunResumed,
    RunStarted,
    RunTimedOut,
    SetTimer,
    StateWritten,
    Stepped,
    StepRaised,
    StepReturned,
    StepwiseEnded,
    TimerFired,
    WaitAbandoned,
    WaitOpened,
)
from flowkit.machine import Machine
from flowkit.plan import Plan
from flowkit.steps import StepSpec

__all__ = ["Model", "key", "reach", "route"]


def key(event: Any) -> Any:
    """What tells an event (or the list of events a step runs on) from all others."""
    if isinstance(event, list):
        return tuple(key(one) for one in event)
    if isinstance(event, StepFailedEvent):
        return "failure", event.step_name, key(event.input_event)
    return event.n


def route(plan: Plan, kind: type) -> list[StepSpec]:
    """The steps that take an event of this type: exact type first, else the nearest accepted base."""
    takers = [spec for spec in plan.steps if not spec.options.catches]
    for base in kind.__mro__:
        found = [spec for spec in takers if base in spec.accepts]
        if found:
            return found
    return []


def reach(plan: Plan) -> dict[str, set[str]]:
    """For each step: the list steps that a member of its fan-out can come to, by following every event it may
    become."""
    found: dict[str, set[str]] = {}
    for opener in plan.steps:
        found[opener.name] = set()
        todo = [(kind, 1) for kind in opener.returns_lists]
        seen = set(todo)
        while todo:
            kind, depth = todo.pop()  # in how many fan-outs, from this one on, such an event is
            for taker in route(plan, kind):
                if taker.takes_list and depth == 1:
                    found[opener.name].add(taker.name)
                    continue
                outer = depth - taker.takes_list
                catcher = plan.catcher_of(taker.name)
                for maker in (taker, *(spec for spec in plan.steps if spec.name == catcher)):
                    made = {(one, outer) for one in maker.returns}
                    if outer <= len(plan.steps):  # going round a loop once more finds nothing new
                        made |= {(one, outer + 1) for one in maker.returns_lists}
                    todo += made - seen
                    seen |= made
    return found


@attrs.define(eq=False)
class Node:
    """A fan-out, or (without a parent) the run itself. ``number`` is the machine's name for it."""

    parent: "Node | None"
    place: int
    producer: str
    number: int = 0
    arrivals: dict[str, list[tuple[int, Event]]] = attrs.field(factory=dict)
    fired: set[str] = attrs.field(factory=set)


@attrs.define(eq=False)
class Work:
    """An invocation: a step, what it works on, and the fan-out that this belongs to."""

    step: str
    event: Any
    node: Node
    place: int
    sent: list[tuple[Event, str | None]] = attrs.field(factory=list)
    at_sent: int = 0
    batches: list[list[Event] | None] = attrs.field(factory=list)
    at_batch: int = 0
    answers: dict[str, Event | None] = attrs.field(factory=dict)

    def signature(self) -> tuple[Any, ...]:
        return self.step, key(self.event), self.node.number, self.place


@attrs.define(eq=False)
class Holding:
    """An event that a stepwise run holds back."""

    event: Event
    target: str | None
    node: Node
    place: int
    shown: bool


@attrs.define(eq=False)
class OpenWait:
    invocation: int
    waiter: str
    kind: type[Event]
    requirements: dict[str, Any]

    def accepts(self, event: Event) -> bool:
        return isinstance(event, self.kind) and all(event.get(name) == want for name, want in self.requirements.items())


class Model:
    """What a machine's books should say."""

    def __init__(self, plan: Plan, *, stepwise: bool, patient: bool) -> None:
        self.plan = plan
        self.stepwise, self.patient = stepwise, patient
        self.specs = {spec.name: spec for spec in plan.steps}
        self.reach = reach(plan)
        self.run = Node(None, 0, "the run")
        self.nodes = [self.run]
        self.work: dict[int, Work] = {}
        self.held: dict[int, Holding] = {}
        self.waits: list[OpenWait] = []
        self.kept: list[Event] = []
        self.came: dict[Any, int] = {}
        """In which order events came that no step took."""
        self.buffers: dict[tuple[str, str | None], list[Event]] = {}
        self.expected: dict[tuple[str, str | None], tuple[type, ...]] = {}
        self.timers: dict[int, tuple[int, str | None]] = {}
        self.questions: list[Event] = []
        self.over = False
        # What the fact at hand leads to:
        self.new_work: list[Work] = []
        self.new_holdings: list[Holding] = []
        self.shown: list[Event] = []
        self.given: list[list[Event]] = []
        self.due: dict[tuple[int, str], Event | None] = {}  # answers the machine has not given out yet

    def after(self, fact: Fact, commands: Sequence[Command], machine: Machine) -> None:
        """Predict what this fact led to, and compare."""
        self.shown, self.given = [], []
        self._rule(fact, machine)
        if not self.over:
            self._close_fan_outs()
            stalled = not (self.work or self.new_work or self.stepwise or self.patient)
            self.over = stalled and not (self.questions or self.plan.takes_answers)
        self._compare(fact, commands, machine)

    # ------------------------------------------------------------------------------------------------- predicting

    def _rule(self, fact: Fact, machine: Machine) -> None:
        match fact:
            case RunStarted():
                self._emit(fact.event, self.run, 0, None, from_step=False)
            case EventSent(sender=None):
                self._emit(fact.event, self.run, 0, fact.step, from_step=False)
            case EventSent(sender=int(number)):
                work = self.work[number]
                said = (fact.event, fact.step)
                before = work.sent[work.at_sent : work.at_sent + 1]
                work.sent[work.at_sent : work.at_sent + 1] = [said]
                work.at_sent += 1
                if before != [said]:
                    self._emit(fact.event, work.node, work.place, fact.step)
            case StepReturned():
                self._returned(fact, machine)
            case StepRaised(delay=None):
                self._failed(fact)
            case StepRaised():
                self._begin_again(fact.invocation)
            case RunResumed():
                self.shown += self.questions
                for number in {wait.invocation for wait in self.waits} | self._at_work(machine):
                    self._begin_again(number)
            case EventCollected():
                self._collect(fact)
            case EventPublished():
                self.shown.append(fact.event)
                if isinstance(fact.event, InputRequiredEvent):
                    self.questions.append(fact.event)
            case WaitOpened():
                self._open_wait(fact)
            case WaitAbandoned():
                self._abandon(fact)
            case TimerFired():
                invocation, waiter = self.timers.pop(fact.timer, (0, None))
                if waiter is not None:
                    self._answer(next(w for w in self.waits if (w.invocation, w.waiter) == (invocation, waiter)), None)
            case Stepped() | StepwiseEnded():
                self.stepwise = self.stepwise and isinstance(fact, Stepped)
                held, self.held = self.held, {}
                for number, one in held.items():
                    if number in fact.chosen:
                        self._deliver(one.event, one.node, one.place, one.target, shown=one.shown)
            case RunCancelled() | RunTimedOut() | RunFailed():
                self.over = True
            case StateWritten():
                pass

    def _returned(self, fact: StepReturned, machine: Machine) -> None:
        work = self.work[fact.invocation]
        spec = self.specs[work.step]
        returned = fact.result
        if isinstance(returned, list):
            node = Node(work.node, work.place, work.step, machine.joins.last) if machine.joins else work.node
            if machine.joins:
                self.nodes.append(node)
            for place, event in enumerate(returned):
                self._emit(event, node, place if machine.joins else work.place, None)
        elif returned is not None and not isinstance(returned, tuple(spec.returns)):
            self.over = True  # its annotation doesn't allow that
        elif returned is not None:
            self._emit(returned, work.node, work.place, None)
        self._end(fact.invocation)

    def _failed(self, fact: StepRaised) -> None:
        work = self.work[fact.invocation]
        catcher = self.plan.catcher_of(work.step)
        if catcher is None:
            self.over = True
            return
        failure = StepFailedEvent(
            step_name=work.step, input_event=work.event, exception=fact.error, attempts=1, elapsed_seconds=0.0
        )
        self.new_work.append(Work(catcher, failure, work.node, work.place))
        self._end(fact.invocation)

    def _end(self, number: int) -> None:
        self._begin_again(number)
        del self.work[number]

    def _begin_again(self, number: int) -> None:
        work = self.work[number]
        work.at_sent = work.at_batch = 0
        self.waits = [wait for wait in self.waits if wait.invocation != number]
        self.timers = {timer: one for timer, one in self.timers.items() if one[0] != number}
        self.due = {one: event for one, event in self.due.items() if one[0] != number}

    def _at_work(self, machine: Machine) -> set[int]:
        return {number for number in self.work if machine.invocations[number].status != "retrying"}

    def _emit(self, event: Event, node: Node, place: int, target: str | None, *, from_step: bool = True) -> None:
        if self.over:
            return
        if not self.stepwise:
            self._deliver(event, node, place, target)
            return
        shown = from_step and isinstance(event, InputRequiredEvent)
        if shown:
            self._show_question(event)
        self.new_holdings.append(Holding(event, target, node, place, shown))

    def _show_question(self, event: Event) -> None:
        self.shown.append(event)
        self.questions.append(event)

    def _deliver(self, event: Event, node: Node, place: int, target: str | None, *, shown: bool = False) -> None:
        if self.over:
            return
        if isinstance(event, StopEvent):
            self.over = True
            self.shown.append(event)
            return
        if isinstance(event, InputRequiredEvent) and not shown:
            self._show_question(event)
        takers = route(self.plan, type(event)) if target is None else [self.specs[target]]
        for spec in takers:
            if spec.takes_list:
                self._arrive(spec, event, node, place)
            else:
                self.new_work.append(Work(spec.name, event, node, place))
        wait = next((wait for wait in self.waits if wait.accepts(event)), None) if target is None else None
        self.came[key(event)] = len(self.came)
        if wait is not None:
            self._answer(wait, event)
        elif not takers and not isinstance(event, InputRequiredEvent):
            self.kept.append(event)
        elif isinstance(event, HumanResponseEvent) and self.questions:
            del self.questions[0]

    # ---------------------------------------------------------------------------------------- fan-out and fan-in

    def _arrive(self, spec: StepSpec, event: Event, node: Node, place: int) -> None:
        if spec.name in node.fired:
            return  # `Take` has taken what it wanted
        arrivals = node.arrivals.setdefault(spec.name, [])
        arrivals.append((place, event))
        if len(arrivals) == spec.take:
            taken = [event for _, event in node.arrivals.pop(spec.name)]
            if node.parent is None:
                self.new_work.append(Work(spec.name, taken, node, 0))
            else:
                node.fired.add(spec.name)
                self.new_work.append(Work(spec.name, taken, node.parent, node.place))

    def _close_fan_outs(self) -> None:
        while dead := next((node for node in reversed(self.nodes) if node.parent and not self._lives(node)), None):
            self.nodes.remove(dead)
            assert dead.parent is not None
            for name in ({*self.reach[dead.producer], *dead.arrivals}) - dead.fired:
                self.new_work.append(Work(name, _in_order(dead.arrivals.get(name, [])), dead.parent, dead.place))
        if not self._lives(self.run):
            for name, arrivals in self.run.arrivals.items():
                self.new_work.append(Work(name, _in_order(arrivals), self.run, 0))
            self.run.arrivals = {}

    def _lives(self, node: Node) -> bool:
        inside = [*self.work.values(), *self.new_work, *self.held.values(), *self.new_holdings]
        return any(one.node is node for one in inside) or any(inner.parent is node for inner in self.nodes)

    # ------------------------------------------------------------------------------------------ waits and batches

    def _open_wait(self, fact: WaitOpened) -> None:
        answers = self.work[fact.invocation].answers
        wait = OpenWait(fact.invocation, fact.waiter, fact.event_type, fact.requirements)
        if fact.waiter in answers:
            self.due[(wait.invocation, wait.waiter)] = answers[fact.waiter]
            return
        event = next((event for event in self.kept if wait.accepts(event)), None)
        self.waits.append(wait)
        if event is not None:
            self.kept.remove(event)
            self._answer(wait, event)

    def _answer(self, wait: OpenWait, event: Event | None) -> None:
        self.waits.remove(wait)
        self.work[wait.invocation].answers[wait.waiter] = event
        self.due[(wait.invocation, wait.waiter)] = event

    def _abandon(self, fact: WaitAbandoned) -> None:
        self.waits = [wait for wait in self.waits if (wait.invocation, wait.waiter) != (fact.invocation, fact.waiter)]
        unread = self.work[fact.invocation].answers.pop(fact.waiter, None)
        if unread is None:
            return
        wait = next((wait for wait in self.waits if wait.accepts(unread)), None)
        if wait is not None:
            self._answer(wait, unread)
        elif not route(self.plan, type(unread)) and not isinstance(unread, InputRequiredEvent):
            self.kept.append(unread)
            self.kept.sort(key=lambda event: self.came[key(event)])

    def _collect(self, fact: EventCollected) -> None:
        work = self.work[fact.invocation]
        name = (work.step, fact.buffer)
        if fact.expected is not None:
            self.expected[name] = fact.expected
        position, work.at_batch = work.at_batch, work.at_batch + 1
        if position == len(work.batches):
            buffer = self.buffers.setdefault(name, [])
            buffer.append(fact.event)
            batch = _batch(buffer, self.expected[name])
            self.buffers[name] = [event for event in buffer if batch is None or event not in batch]
            work.batches.append(batch)
        found = work.batches[position]
        if found is not None:
            self.given.append(found)

    # -------------------------------------------------------------------------------------------------- comparing

    def _compare(self, fact: Fact, commands: Sequence[Command], machine: Machine) -> None:
        ended = [command for command in commands if isinstance(command, Finish)]
        assert bool(ended) == self.over, f"the run should {'' if self.over else 'not '}have ended"
        for command in commands:
            if isinstance(command, AnswerWait):
                abandoned = isinstance(fact, WaitAbandoned) and fact.waiter == command.waiter
                place = (command.invocation, command.waiter)
                assert place in self.due or abandoned, "an answer nobody asked for"
                assert self.due.pop(place, command.event) == command.event
            elif isinstance(command, CancelTimer):
                self.timers.pop(command.timer, None)
            elif isinstance(command, SetTimer):
                timer = machine.timers.get(command.timer)
                if timer is not None:
                    self.timers[command.timer] = (timer.invocation, timer.waiter)
        if isinstance(fact, WaitAbandoned):
            self.due.pop((fact.invocation, fact.waiter), None)
        if not (self.over and isinstance(fact, StepReturned | Stepped | StepwiseEnded)):
            asked = [fact.question] if isinstance(fact, WaitOpened) and fact.question is not None else []
            shown = [key(command.event) for command in commands if isinstance(command, Publish)]
            assert shown in (_keys(self.shown), _keys([*asked, *self.shown])), "the stream got something else"
        assert [command.events for command in commands if isinstance(command, GiveBatch)] == self.given
        assert _keys(machine.waits.unhandled(), "event") == ([] if _stalled(ended) else _keys(self.kept)), "kept"
        if _stalled(ended):
            assert _keys(ended[0].error.unhandled) == _keys(self.kept), "reported"
        if not self.over:
            self._compare_work(machine)
            self._compare_places(machine)

    def _compare_work(self, machine: Machine) -> None:
        new = {number: entry for number, entry in machine.invocations.items() if number not in self.work}
        assert self.work.keys() <= machine.invocations.keys(), "an invocation is lost"
        for number, entry in new.items():
            place = (entry.lane.spec.name, key(entry.event), entry.scope, entry.place)
            match = next((one for one in self.new_work if one.signature() == place), None)
            assert match is not None, f"{place} runs, and shouldn't: expected {[w.signature() for w in self.new_work]}"
            self.new_work.remove(match)
            self.work[number] = match
        assert not self.new_work, f"{[one.signature() for one in self.new_work]} should run"

    def _compare_places(self, machine: Machine) -> None:
        new = [number for number in machine.held if number not in self.held]
        assert len(new) == len(self.new_holdings)
        self.held |= dict(zip(new, self.new_holdings, strict=True))
        self.new_holdings.clear()
        assert [(number, key(one.event)) for number, one in machine.held.items()] == [
            (number, key(one.event)) for number, one in self.held.items()
        ], "held"
        open_waits = [wait for of_kind in machine.waits.open.values() for wait in of_kind.values()]
        assert sorted((wait.invocation, wait.waiter) for wait in open_waits) == sorted(
            (wait.invocation, wait.waiter) for wait in self.waits
        ), "open waits"
        assert machine.questions == self.questions
        for name, buffer in self.buffers.items():
            assert _keys(machine.buffers[name].events()) == _keys(buffer), "collected"
        if machine.joins is not None:
            gathered = {
                (number, name): [(place, key(event)) for place, event in arrivals]
                for number, scope in machine.joins.scopes.items()
                for name, arrivals in scope.arrivals.items()
            }
            assert gathered == {
                (node.number, name): [(place, key(event)) for place, event in arrivals]
                for node in self.nodes
                for name, arrivals in node.arrivals.items()
            }, "gathered"


def _keys(events: Iterable[Any], field: str | None = None) -> list[Any]:
    return [key(getattr(event, field) if field else event) for event in events]


def _in_order(arrivals: list[tuple[int, Event]]) -> list[Event]:
    return [event for _, event in sorted(arrivals, key=lambda arrival: arrival[0])]


def _stalled(ended: list[Finish]) -> bool:
    return bool(ended) and hasattr(ended[0].error, "unhandled")


def _batch(buffer: list[Event], expected: tuple[type, ...]) -> list[Event] | None:
    """One event for each expected type, first in first out; ``None`` where one is lacking."""
    left = list(buffer)
    batch = []
    for kind in expected:
        found = next((event for event in left if _counts_for(type(event), expected) is kind), None)
        if found is None:
            return None
        left.remove(found)
        batch.append(found)
    return batch


def _counts_for(kind: type, expected: tuple[type, ...]) -> type | None:
    return next((base for base in kind.__mro__ if base in expected), None)
