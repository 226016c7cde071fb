"""Random plans, and a simulated world that tells a machine what a real one could: no event loop, no clock.

`plans()` draws workflows through the public decorators. A `World` owns one machine, carries out its commands the way
the runner would (bodies that were started, waits they are suspended in, timers that are set), and draws what happens
next among what *could* happen next. Everything it told the machine, and what came of it, is in ``history``.
"""

import contextlib
import functools
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import attrs
import hypothesis
from hypothesis import strategies as st
from machine_model import Model

from flowkit import (
    Collect,
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Take,
    Workflow,
    catch_error,
    facts,
    step,
)
from flowkit.errors import ImpossibleFact
from flowkit.facts import (
    AnswerWait,
    CancelTimer,
    Command,
    EventCollected,
    EventPublished,
    EventSent,
    Fact,
    Finish,
    RunCancelled,
    RunFailed,
    RunResumed,
    RunStarted,
    RunTimedOut,
    SetTimer,
    StartStep,
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
from flowkit.snapshot import Snapshots, freeze
from flowkit.state import State

T = TypeVar("T")
Chooser = Callable[[int], int]
"""Given n, a whole number from 0 to n - 1. 0 is the simplest."""


class Begin(StartEvent):
    n: int


class A(Event):
    n: int


class A1(A):
    pass


class A2(A1):
    pass


class B(Event):
    n: int


class C(Event):
    n: int


class Ask(InputRequiredEvent):
    n: int


class Reply(HumanResponseEvent):
    n: int


class End(StopEvent):
    n: int


KINDS: tuple[type[Event], ...] = (A, A1, A2, B, C, Ask, Reply)
BUFFERS: tuple[tuple[type[Event], ...], ...] = ((A,), (A, B), (A1, A), (B, A2, B), (C,))


# ----------------------------------------------------------------------------------------------------------- plans


def make_plan(*steps: Any, name: str = "Flow") -> Plan:
    """The plan of a workflow class with these step functions as its methods."""
    body = {function.__name__: function for function in steps}
    flow = type(name, (Workflow,), body)(disable_validation=True)
    return flow._plan()  # the one thing a machine needs of a workflow, and no part of the public API


def make_step(
    name: str,
    accepts: Sequence[type[Event]],
    returns: Sequence[type[Event]] = (),
    lists: Sequence[type[Event]] = (),
    *,
    takes_list: bool = False,
    take: int | None = None,
    workers: int = 4,
    covers: Sequence[str] | None = None,
) -> Any:
    """A step as ``@step`` (or ``@catch_error``, where ``covers`` names steps) makes it. Its body is never called."""

    async def body(self: Any, ctx: Any, ev: Any) -> Any:
        raise AssertionError("a simulated world has no bodies")

    event: Any = functools.reduce(operator.or_, accepts)
    if takes_list:
        event = list[event] if take is None else Annotated[list[event], Collect(Take(take))]
    returned: Any = None
    for kind in returns:
        returned = kind if returned is None else returned | kind
    if lists:
        members = functools.reduce(operator.or_, lists)
        returned = list[members] if returned is None else returned | list[members]
    body.__name__ = name
    body.__annotations__ = {"ctx": Context, "ev": event, "return": None if returned is None else returned | None}
    if covers is not None:
        return catch_error(for_steps=covers or None, num_workers=workers)(body)
    return step(num_workers=workers)(body)


def _some(kinds: Sequence[type[Event]], least: int, most: int) -> st.SearchStrategy[list[type[Event]]]:
    return st.lists(st.sampled_from(kinds), min_size=least, max_size=most, unique=True)


@st.composite
def plans(draw: st.DrawFn, joins: bool = False) -> Plan:
    """Two to six steps that may accept and return anything; with ``joins``, some take lists for certain."""
    steps = []
    count = draw(st.integers(2, 5))
    for number in range(count):
        takes_list = number == 1 if joins and number < 2 else draw(st.integers(0, 3)) == 3
        accepts = draw(_some(KINDS, 1, 3)) + ([Begin] if number == 0 else [])
        steps.append(
            make_step(
                f"s{number}",
                accepts,
                draw(_some((*KINDS, End), 1, 3)),
                draw(_some((*KINDS, End), 1 if joins or number == 0 else 0, 2)),
                takes_list=takes_list,
                take=draw(st.sampled_from((None, None, 1, 2, 3))) if takes_list else None,
                workers=draw(st.integers(1, 3)),
            )
        )
    if draw(st.booleans()):
        covers = draw(st.sampled_from(([], ["s0"], ["s0", "s1"])))
        returns = draw(_some((*KINDS, End), 0, 2))
        steps.append(make_step("caught", [StepFailedEvent], returns, draw(_some(KINDS, 0, 1)), covers=covers))
    return make_plan(*steps)


def described(plan: Plan) -> str:
    """A plan in a few lines."""

    def names(kinds: Any) -> str:
        return "|".join(sorted(kind.__name__ for kind in kinds)) or "-"

    return "\n".join(
        f"{spec.name}({'list of ' if spec.takes_list else ''}{names(spec.accepts)}"
        f"{f', take {spec.take}' if spec.take else ''}) -> {names(spec.returns)}, list of {names(spec.returns_lists)}"
        f"; workers {spec.num_workers}{', catches' if spec.options.catches else ''}"
        for spec in plan.steps
    )


# ------------------------------------------------------------------------------------------------ looking at machines


class Lens:
    """Machines and commands of one plan as text, so that they can be compared when exceptions and copies are in
    them."""

    def __init__(self, plan: Plan) -> None:
        self.snapshots = Snapshots(plan)
        for kind in (Begin, *KINDS, End):
            self.snapshots.codec.register(kind)
        for name in facts.__all__:
            if isinstance(getattr(facts, name), type):
                self.snapshots.codec.register(getattr(facts, name))

    def books(self, machine: Machine) -> str:
        """Everything a machine knows: its snapshot, what is counted and not written, its state and its end."""
        counted = [machine.busy, machine.retrying, [lane.running for lane in machine.lanes]]
        tree = self.snapshots.codec.encode([freeze(machine), counted, machine.state.root])
        return json.dumps([tree, self._ending(machine.outcome)], indent=1)

    def commands(self, commands: Sequence[Command]) -> str:
        """Commands, one to a line."""
        return "\n".join(
            str(self._ending(one)) if isinstance(one, Finish) else self.snapshots.codec.dumps(one).decode()
            for one in commands
        )

    def _ending(self, finish: Finish | None) -> Any:
        if finish is None:
            return None
        event = self.snapshots.codec.encode(finish.event)
        return [event, f"{type(finish.error).__name__}: {finish.error}" if finish.error else "a result"]

    def restored(self, machine: Machine) -> Machine:
        """The machine after a way through JSON text."""
        text = json.dumps(self.snapshots.dump(machine))
        _, restored = self.snapshots.load(json.loads(text), patient=machine.patient)
        assert restored is not None
        return restored


# ------------------------------------------------------------------------------------------------------------ worlds


@attrs.define(eq=False)
class Body:
    """An attempt under way, as the runner would have it.

    ``open`` are the waits it is suspended in, ``unread`` those answered whose task has not gone on yet. ``slotted``: it
    has a worker's slot. ``gave_up``: it has one beyond ``num_workers``, having abandoned a wait.
    """

    start: StartStep
    open: list[str] = attrs.field(factory=list)
    unread: list[str] = attrs.field(factory=list)
    waited: int = 0
    sent: int = 0
    slotted: bool = True
    gave_up: bool = False


class World:
    """Draws what happens next to one machine; carries out what the machine commands."""

    def __init__(self, plan: Plan, choose: Chooser, *, stepwise: bool = False, patient: bool = False) -> None:
        self.plan = plan
        self.choose = choose
        self.stepwise = self.began_stepwise = stepwise
        self.patient = patient
        self.machine = self.fresh_machine()
        self.model = Model(plan, stepwise=stepwise, patient=patient)
        self.history: list[tuple[Fact, Sequence[Command]]] = []
        self.now = 100.0
        self.n = 0
        self.bodies: dict[int, Body] = {}
        self.sent: dict[int, list[tuple[Event, str | None]]] = {}
        self.timers: dict[int, float] = {}
        self.stale: list[int] = []
        self.watchers: list[Callable[[World], None]] = []

    def fresh_machine(self) -> Machine:
        """A machine as this world's was in the beginning."""
        return Machine(self.plan, State(), stepwise=self.began_stepwise, patient=self.patient)

    @property
    def over(self) -> bool:
        return self.machine.outcome is not None

    def story(self) -> str:
        """What happened, for a failing example."""
        lines = [described(self.plan), f"stepwise={self.began_stepwise} patient={self.patient}"]
        for fact, commands in self.history:
            lines.append(f"* {fact}")
            lines += [f"      {command}" for command in commands]
        return "\n".join(lines)

    # ------------------------------------------------------------------------------------------ telling the machine

    def enter(self, fact: Fact) -> Sequence[Command]:
        """Tell the machine, do what it says, and have everybody who watches look."""
        self.history.append((fact, ()))
        commands = self.machine.receive(fact)
        self.history[-1] = (fact, commands)
        self._happened(fact)
        for command in commands:
            self._perform(command, fact)
        if isinstance(fact, WaitOpened) and not self.over:
            body = self.bodies[fact.invocation]
            if body.open == [fact.waiter]:
                body.slotted = body.gave_up = False  # suspended: its slot goes to another
        self.model.after(fact, commands, self.machine)
        for watch in self.watchers:
            watch(self)
        return commands

    def _happened(self, fact: Fact) -> None:
        match fact:
            case StepReturned() | StepRaised():
                del self.bodies[fact.invocation]
            case WaitOpened():
                self.bodies[fact.invocation].open.append(fact.waiter)
            case WaitAbandoned():
                body = self.bodies[fact.invocation]
                (body.open if fact.waiter in body.open else body.unread).remove(fact.waiter)
                body.gave_up = body.gave_up or not body.slotted
                body.slotted = True
            case TimerFired() if fact.timer in self.timers:
                del self.timers[fact.timer]
            case RunResumed():
                self.bodies.clear()
                self.stale += self.timers
                self.timers.clear()
            case Stepped() | StepwiseEnded():
                self.stepwise = self.stepwise and isinstance(fact, Stepped)
            case _:
                pass

    def _perform(self, command: Command, fact: Fact) -> None:
        match command:
            case StartStep():
                assert command.invocation not in self.bodies, "an invocation was started twice"
                self.bodies[command.invocation] = Body(command)
            case AnswerWait():
                body = self.bodies[command.invocation]
                if command.waiter in body.open:  # or its scope gave up at the same moment
                    body.open.remove(command.waiter)
                    body.unread.append(command.waiter)
                    asked = (fact.invocation, fact.waiter) if isinstance(fact, WaitOpened) else None
                    at_once = asked == (command.invocation, command.waiter)
                    body.slotted = body.slotted or not at_once
            case SetTimer():
                assert command.timer not in self.timers, "a timer was set twice"
                self.timers[command.timer] = command.at
                if command.timer in self.stale:
                    self.stale.remove(command.timer)
            case CancelTimer():
                del self.timers[command.timer]
                self.stale.append(command.timer)
            case Finish():
                self.bodies.clear()
            case _:
                pass

    # --------------------------------------------------------------------------------------------- what may happen

    def begin(self) -> None:
        """The run starts."""
        self.enter(RunStarted(self.now, "run", self.event(Begin)))

    def walk(self, length: int) -> None:
        """Let ``length`` things happen, or fewer if the run ends."""
        if not self.machine.started:
            self.begin()
        for _ in range(length):
            if self.over:
                return
            self.now += self.choose(3)
            self.one_of([move for weight, move in self.moves() for _ in range(weight)])()

    def moves(self) -> Iterator[tuple[int, Callable[[], Any]]]:
        """What may happen now, each with how often it should be drawn."""
        for number, body in self.bodies.items():
            if not body.open:
                yield 5, functools.partial(self.return_something, number, body)
                yield 1, functools.partial(self.fail, number)
            yield 2, functools.partial(self.send, number, body)
            yield 1, functools.partial(self.collect, number)
            yield 1, functools.partial(self.publish, number)
            if len(body.open) < 2:
                yield 2, functools.partial(self.wait, number, body)
            if body.open or body.unread:
                yield 1, functools.partial(self.abandon, number, body)
        if self.timers:
            yield 2, self.fire
        if self.stale:
            yield 1, lambda: self.enter(TimerFired(self.now, self.one_of(self.stale)))
        if self.stepwise:
            yield 3, self.step_on
        yield 2, lambda: self.enter(EventSent(self.now, None, *self.addressed()))
        yield 1, lambda: self.enter(StateWritten(self.now, ("k", "abc"[self.choose(3)]), self.choose(9)))
        yield 1, self.rarely

    def rarely(self) -> None:
        """What ends a run, or is unusual for another reason."""
        match self.choose(24):
            case 6 | 7:
                self.enter(RunResumed(self.now))
            case 8:
                self.enter(RunCancelled(self.now, "the test said so", by_user=bool(self.choose(2))))
            case 9:
                self.enter(RunTimedOut(self.now, 60.0))
            case 10:
                self.enter(RunFailed(self.now, ValueError("resource")))
            case 11 if self.stepwise:
                self.enter(StepwiseEnded(self.now, self.some_held()))
            case _:
                self.enter(EventPublished(self.now, None, self.event(A)))

    def return_something(self, number: int, body: Body) -> None:
        spec = self.plan.steps[body.start.step]
        alone, listed = self.allowed(spec.returns), self.allowed(spec.returns_lists)
        body.unread.clear()
        match self.choose(8):
            case 1 | 2 | 3 if alone:
                result: Any = self.event(self.one_of(alone))
            case 4 | 5 | 6 if listed:
                result = [self.event(self.one_of(listed)) for _ in range(self.choose(4))]
            case 7 if self.choose(8) == 7:
                result = self.event(self.one_of([*KINDS, End]))  # perhaps not allowed by the annotation
            case _:
                result = None
        self.enter(StepReturned(self.now, number, result))

    def allowed(self, kinds: Iterable[type[Event]]) -> list[type[Event]]:
        """These types in a steady order; most of the time without the one that ends the run."""
        last = self.choose(6) == 5
        return sorted((kind for kind in kinds if last or kind is not End), key=lambda kind: kind.__name__)

    def fail(self, number: int) -> None:
        self.bodies[number].unread.clear()
        covered = self.plan.catcher_of(self.plan.steps[self.bodies[number].start.step].name)
        delay = (0.0, 1.5, 4.0, None)[self.choose(4)] if covered or self.choose(6) == 5 else 1.0
        self.enter(StepRaised(self.now, number, ValueError(f"failure {self.n}"), delay))

    def send(self, number: int, body: Body) -> None:
        record = self.sent.setdefault(number, [])
        if body.sent < len(record) and self.choose(3):
            event, target = record[body.sent]  # a later attempt does what the one before did
        else:
            event, target = self.addressed()
            record[body.sent : body.sent + 1] = [(event, target)]
        body.sent += 1
        self.enter(EventSent(self.now, number, event, target))

    def collect(self, number: int) -> None:
        expected = self.one_of(BUFFERS)
        buffer = self.one_of((None, "other"))
        event = self.event(self.one_of(KINDS))
        known = self.model.expected.get((self.plan.steps[self.bodies[number].start.step].name, buffer))
        self.enter(EventCollected(self.now, number, buffer, event, None if known == expected else expected))

    def publish(self, number: int) -> None:
        self.enter(EventPublished(self.now, number, self.event(self.one_of((A, Ask)))))

    def wait(self, number: int, body: Body) -> None:
        body.waited += 1
        kind = self.one_of((A, Reply, A1, Event, B))
        requirements = {"n": self.n + self.choose(3)} if self.choose(4) == 3 else {}
        timeout = (None, None, 3.0, 0.0)[self.choose(4)]
        question = self.event(Ask) if self.choose(3) == 2 else None
        self.enter(WaitOpened(self.now, number, f"#{body.waited}", kind, requirements, timeout, question))

    def abandon(self, number: int, body: Body) -> None:
        self.enter(WaitAbandoned(self.now, number, self.one_of([*body.open, *body.unread])))

    def fire(self) -> None:
        timer = min(self.timers, key=lambda one: (self.timers[one], one))
        self.now = max(self.now, self.timers[timer])
        self.enter(TimerFired(self.now, timer))

    def step_on(self) -> None:
        self.enter(Stepped(self.now, self.some_held()))

    def some_held(self) -> tuple[int, ...]:
        return tuple(number for number in self.machine.held if self.choose(4) < 3)

    def addressed(self) -> tuple[Event, str | None]:
        """An event, and perhaps a step that takes it."""
        event = self.event(self.one_of((*KINDS, End if self.choose(8) == 7 else A)))
        able = [spec.name for spec in self.plan.steps if isinstance(event, spec.accepts)]
        return event, self.one_of(able) if able and self.choose(4) == 3 else None

    def event(self, kind: type[Event]) -> Any:
        """A new event; no other has its number."""
        self.n += 1
        return kind(n=self.n)

    def one_of(self, options: Sequence[T]) -> T:
        return options[self.choose(len(options))]

    # ------------------------------------------------------------------------------------------- what may not happen

    def impossible(self) -> Iterator[Fact]:
        """Facts that can't be true now."""
        yield RunStarted(self.now, "again", self.event(Begin))
        yield Stepped(self.now, (self.machine.last + 1,))
        yield StepwiseEnded(self.now, (*self.machine.held, self.machine.last + 1))
        yield EventSent(self.now, None, self.event(A), "nowhere")
        absent = [self.machine.last + 1]
        absent += [number for number in self.machine.invocations if number not in self.bodies]
        for number in absent:
            yield WaitOpened(self.now, number, "#1", A, {}, None, None)
            yield WaitAbandoned(self.now, number, "#1")
            yield EventCollected(self.now, number, None, self.event(A), (A,))
        for number in (*absent, *(number for number, body in self.bodies.items() if not body.slotted)):
            yield StepReturned(self.now, number, None)
            yield StepRaised(self.now, number, ValueError("late"), None)
        yield EventSent(self.now, self.machine.last + 1, self.event(A), None)
        for number, body in self.bodies.items():
            yield EventSent(self.now, number, self.event(A), "nowhere")
            yield WaitAbandoned(self.now, number, "never opened")
            for waiter in body.open:
                yield WaitOpened(self.now, number, waiter, A, {}, None, None)

    def refused(self, fact: Fact) -> bool:
        """Whether the machine calls a fact impossible."""
        try:
            self.machine.receive(fact)
        except ImpossibleFact:
            return True
        return False


@st.composite
def worlds(draw: st.DrawFn, joins: bool = False, stepwise: bool | None = None) -> World:
    """A world that hasn't begun."""
    plan = draw(plans(joins=joins))
    data = draw(st.data())

    def choose(n: int) -> int:
        return data.draw(st.integers(0, n - 1)) if n > 1 else 0

    by_steps = draw(st.integers(0, 3)) == 3 if stepwise is None else stepwise
    return World(plan, choose, stepwise=by_steps, patient=draw(st.sampled_from((False, True, True))))


@contextlib.contextmanager
def told(world: World) -> Iterator[None]:
    """Where something fails inside, the world's story is told."""
    try:
        yield
    except BaseException:
        hypothesis.note(world.story())
        raise


def walked(world: World, length: int, watch: Callable[[World], None] | None = None) -> World:
    """The world after a walk; ``watch`` looks at it after each fact."""
    if watch is not None:
        world.watchers.append(watch)
    with told(world):
        world.walk(length)
    return world
