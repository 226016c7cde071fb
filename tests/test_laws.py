"""The laws of the machine, each on random plans in a simulated world: no event loop, no clock.

`machine_world` draws the plans and what happens, `machine_model` says where every event must be. How many examples:
``FLOWKIT_EXAMPLES``, for each test (60 by default).
"""

import gc
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from machine_model import reach
from machine_world import A1, A, B, Begin, C, End, Lens, World, make_plan, make_step, plans, told, walked, worlds

from flowkit import Event
from flowkit.facts import (
    CancelTimer,
    EventCollected,
    EventSent,
    Fact,
    Finish,
    RunCancelled,
    RunStarted,
    StartStep,
    StateWritten,
    StepRaised,
    StepReturned,
    TimerFired,
    WaitAbandoned,
    WaitOpened,
)
from flowkit.joins import ROOT
from flowkit.journal import Journal
from flowkit.machine import Machine
from flowkit.plan import Plan
from flowkit.state import State

laws = settings(max_examples=int(os.environ.get("FLOWKIT_EXAMPLES", "60")), deadline=None)
LENGTH = 40
"""Facts in a walk, at most."""


# ------------------------------------------------------------------------------------------- every event is somewhere


@given(world=worlds())
@laws
def test_every_event_goes_to_each_of_its_takers_once_and_is_never_lost(world: World) -> None:
    walked(world, LENGTH)  # the model compares after each fact


@given(world=worlds(stepwise=True))
@laws
def test_an_event_held_back_goes_on_once_when_it_is_chosen_and_never_when_not(world: World) -> None:
    walked(world, LENGTH)


@given(world=worlds(joins=True, stepwise=False))
@laws
def test_each_list_step_in_reach_runs_once_per_fan_out_on_what_reached_it_in_member_order(world: World) -> None:
    walked(world, LENGTH)


@given(plan=plans(joins=True))
@laws
def test_the_list_steps_in_reach_are_the_least_solution_of_the_wiring(plan: Plan) -> None:
    assert {spec.name: set(plan.reach_of(spec.name)) for spec in plan.steps} == reach(plan)


# ------------------------------------------------------------------------------------------------ replay and restore


@given(world=worlds())
@laws
def test_replaying_the_facts_gives_the_same_books_and_the_same_commands(world: World) -> None:
    walked(world, LENGTH)
    lens = Lens(world.plan)
    replayed = world.fresh_machine()
    for fact, commands in world.history:
        assert lens.commands(replayed.receive(fact)) == lens.commands(commands)
    assert lens.books(replayed) == lens.books(world.machine)


@given(world=worlds())
@laws
def test_a_machine_restored_from_json_at_any_point_goes_on_as_if_it_had_not_been(world: World) -> None:
    walked(world, LENGTH)
    lens = Lens(world.plan)
    cut = world.choose(len(world.history) + 1)
    machine = world.fresh_machine()
    for fact, _ in world.history[:cut]:
        machine.receive(fact)
    assume(machine.outcome is None and machine.started)  # otherwise there is only a state to keep
    with told(world):
        machine = lens.restored(machine)
        for fact, commands in world.history[cut:]:
            assert lens.commands(machine.receive(fact)) == lens.commands(commands)
        assert lens.books(machine) == lens.books(world.machine)


@given(world=worlds(stepwise=False))
@laws
def test_every_prefix_of_a_journal_gives_the_run_as_it_was(world: World) -> None:
    lens = Lens(world.plan)
    journal = Journal(lens.snapshots, lens.snapshots.dump_state(State()), world.patient)
    books: list[str] = []

    def watch(world: World) -> None:
        journal.append(world.history[-1][0])
        books.append(lens.books(world.machine))

    walked(world, LENGTH, watch)
    length = world.choose(len(books)) + 1
    assert lens.books(journal.machine_at(length)) == books[length - 1]


# -------------------------------------------------------------------------------------------------- slots and counts


@given(world=worlds())
@laws
def test_no_step_has_more_attempts_running_than_workers(world: World) -> None:
    def watch(world: World) -> None:
        # The one exception: an attempt whose own scope gave up waiting goes on at once, slot or no slot.
        taken = Counter(body.start.step for body in world.bodies.values() if body.slotted and not body.gave_up)
        for spec in world.plan.steps:
            assert taken[spec.index] <= spec.num_workers

    walked(world, LENGTH, watch)


@given(world=worlds())
@laws
def test_no_invocation_is_queued_while_its_step_has_a_free_slot(world: World) -> None:
    def watch(world: World) -> None:
        for lane in world.machine.lanes:
            assert lane.running >= lane.num_workers or not (lane.queue or lane.resuming)

    walked(world, LENGTH, watch)


@given(world=worlds())
@laws
def test_what_is_counted_equals_what_there_is(world: World) -> None:
    walked(world, LENGTH, _recount)


def _recount(world: World) -> None:
    machine = world.machine
    entries = list(machine.invocations.values())
    status = Counter(entry.status for entry in entries)
    assert machine.busy == status["running"]
    assert machine.retrying == status["retrying"]
    assert sum(status.values()) == status["running"] + sum(
        status[one] for one in ("queued", "waiting", "resuming", "retrying")
    )
    if machine.outcome is not None:
        return
    for lane in machine.lanes:
        mine = [entry for entry in entries if entry.lane is lane]
        assert lane.running == sum(entry.status == "running" for entry in mine)
        assert {entry.number for entry in lane.queue or ()} == {e.number for e in mine if e.status == "queued"}
        assert {entry.number for entry in lane.resuming or ()} == {e.number for e in mine if e.status == "resuming"}
    open_waits = [wait for entry in entries if entry.waiting for wait in entry.waiting.open.values()]
    assert {wait.order for wait in open_waits} == {n for waits in machine.waits.open.values() for n in waits}
    timed = {wait.timer for wait in open_waits if wait.timer is not None}
    assert timed == {number for number, timer in machine.timers.items() if timer.waiter is not None}
    retrying = {entry.number for entry in entries if entry.status == "retrying"}
    assert retrying == {timer.invocation for timer in machine.timers.values() if timer.waiter is None}
    assert world.timers == {number: timer.at for number, timer in machine.timers.items()}
    if machine.joins is not None:
        inside = Counter(one.scope for one in (*entries, *machine.held.values()))
        inside.update(scope.parent for number, scope in machine.joins.scopes.items() if number != ROOT)
        assert {number: scope.live for number, scope in machine.joins.scopes.items()} == {
            number: inside[number] for number in machine.joins.scopes
        }


# ------------------------------------------------------------------------------------------------------------ the end


@given(world=worlds())
@laws
def test_a_run_finishes_at_most_once_as_its_last_command_and_nothing_survives(world: World) -> None:
    walked(world, LENGTH)
    if not world.over:
        world.enter(RunCancelled(world.now, "the walk is over", by_user=False))
    commands = [command for _, given in world.history for command in given]
    assert [isinstance(command, Finish) for command in commands] == [False] * (len(commands) - 1) + [True]
    machine = world.machine
    assert not (machine.invocations or machine.waits.open or machine.timers or machine.held)
    assert (machine.busy, machine.retrying) == (0, 0)
    lens = Lens(world.plan)
    before = lens.books(machine)
    late: list[Fact] = [fact for fact, _ in world.history]
    for fact in late:
        assert machine.receive(fact) == ()
    assert lens.books(machine) == before


@given(world=worlds())
@laws
def test_an_impossible_fact_is_refused_and_changes_nothing(world: World) -> None:
    walked(world, world.choose(LENGTH))
    assume(not world.over)
    lens = Lens(world.plan)
    before = lens.books(world.machine)
    with told(world):
        for fact in world.impossible():
            assert world.refused(fact), fact
            assert lens.books(world.machine) == before, fact


@given(world=worlds())
@laws
def test_a_stale_timer_changes_nothing(world: World) -> None:
    lens = Lens(world.plan)
    cancelled: set[int] = set()

    def watch(world: World) -> None:
        cancelled.update(one.timer for one in world.history[-1][1] if isinstance(one, CancelTimer))
        if cancelled:
            before = lens.books(world.machine)
            assert all(world.machine.receive(TimerFired(world.now, timer)) == () for timer in cancelled)
            assert lens.books(world.machine) == before

    walked(world, LENGTH, watch)


# ---------------------------------------------------------------------------------------------------- constant cost


PLAN = make_plan(
    make_step("work", [Begin, A], [C, End], [A, B], workers=1),
    make_step("many", [C], [A], workers=100_000),
    make_step("gather", [B], [End], takes_list=True),
)


class _Crowd:
    """A machine, and how to fill it. ``next`` is the fact whose cost is measured."""

    def __init__(self) -> None:
        self.machine = Machine(PLAN, State(), patient=True)
        self.first = self.start(RunStarted(0.0, "run", Begin(n=0)))
        self.next: Fact = StateWritten(0.0, ("k",), 1)

    def start(self, fact: Fact) -> int:
        """The number of the invocation that the fact starts, 0 where it starts none."""
        commands = self.machine.receive(fact)
        return next((one.invocation for one in commands if isinstance(one, StartStep)), 0)

    def send(self, kind: type[Any], n: int) -> list[int]:
        """Send n events from outside; the invocations they start."""
        return [self.start(EventSent(0.0, None, kind(n=one), None)) for one in range(n)]

    def open_waits(self, n: int, kind: type[Event] = A1, timeout: float | None = None) -> list[int]:
        """Open a wait in each of n invocations."""
        numbers = self.send(C, n)
        for number in numbers:
            self.machine.receive(WaitOpened(0.0, number, "#1", kind, {}, timeout, None))
        return numbers


def _from_a_long_queue(crowd: _Crowd, n: int) -> None:
    crowd.send(A, n)
    crowd.next = StepReturned(0.0, crowd.first, None)


def _into_a_long_queue(crowd: _Crowd, n: int) -> None:
    crowd.send(A, n)
    crowd.next = EventSent(0.0, crowd.first, A(n=n), None)


def _one_of_many_at_work(crowd: _Crowd, n: int) -> None:
    crowd.next = StepReturned(0.0, crowd.send(C, n)[n // 2], A(n=n))


def _one_of_many_fails(crowd: _Crowd, n: int) -> None:
    numbers = crowd.send(C, n)
    for number in numbers[1:]:
        crowd.machine.receive(StepRaised(0.0, number, ValueError(), 9.0))
    crowd.next = StepRaised(0.0, numbers[0], ValueError(), 9.0)


def _one_of_many_timers(crowd: _Crowd, n: int) -> None:
    for number in crowd.send(C, n):
        crowd.machine.receive(StepRaised(0.0, number, ValueError(), 9.0))
    crowd.next = TimerFired(9.0, next(iter(crowd.machine.timers)))


def _a_wait_beside_many(crowd: _Crowd, n: int) -> None:
    crowd.open_waits(n)
    crowd.next = WaitOpened(0.0, crowd.first, "#1", A1, {}, 5.0, None)


def _an_answer_to_the_oldest_of_many(crowd: _Crowd, n: int) -> None:
    crowd.open_waits(n, kind=Kept)
    crowd.next = EventSent(0.0, None, Kept(n=0), None)


def _a_time_out_among_many(crowd: _Crowd, n: int) -> None:
    crowd.open_waits(n, timeout=9.0)
    crowd.next = TimerFired(9.0, next(iter(crowd.machine.timers)))


def _one_of_many_waits_is_given_up(crowd: _Crowd, n: int) -> None:
    crowd.next = WaitAbandoned(0.0, crowd.open_waits(n)[n // 2], "#1")


def _one_more_that_nobody_takes(crowd: _Crowd, n: int) -> None:
    crowd.send(Kept, n)
    crowd.next = EventSent(0.0, None, Kept(n=n), None)


def _a_wait_for_one_of_many_kept(crowd: _Crowd, n: int) -> None:
    crowd.send(Kept, n)
    crowd.next = WaitOpened(0.0, crowd.first, "#1", Kept, {}, None, None)


def _one_more_of_a_long_batch(crowd: _Crowd, n: int) -> None:
    for one in range(n):
        crowd.machine.receive(EventCollected(0.0, crowd.first, None, B(n=one), None if one else (B,) * (n + 2)))
    crowd.next = EventCollected(0.0, crowd.first, None, B(n=n), None)


def _one_more_gathered(crowd: _Crowd, n: int) -> None:
    for one in range(n):
        crowd.machine.receive(EventSent(0.0, crowd.first, B(n=one), None))
    crowd.next = EventSent(0.0, crowd.first, B(n=n), None)


def _a_member_of_a_big_fan_out(crowd: _Crowd, n: int) -> None:
    crowd.machine.receive(StepReturned(0.0, crowd.first, [A(n=one) for one in range(n)]))
    crowd.next = StepReturned(0.0, crowd.first + 1, C(n=n))


def _a_fan_out_inside_many(crowd: _Crowd, n: int) -> None:
    number = crowd.first
    for _ in range(n):
        commands = crowd.machine.receive(StepReturned(0.0, number, [A(n=1)]))
        number = next(one.invocation for one in commands if isinstance(one, StartStep))
    crowd.next = StepReturned(0.0, number, [A(n=1), A(n=2)])


class Kept(Event):
    n: int


@pytest.mark.parametrize(
    "fill",
    [
        _from_a_long_queue,
        _into_a_long_queue,
        _one_of_many_at_work,
        _one_of_many_fails,
        _one_of_many_timers,
        _a_wait_beside_many,
        _an_answer_to_the_oldest_of_many,
        _a_time_out_among_many,
        _one_of_many_waits_is_given_up,
        _one_more_that_nobody_takes,
        _a_wait_for_one_of_many_kept,
        _one_more_of_a_long_batch,
        _one_more_gathered,
        _a_member_of_a_big_fan_out,
        _a_fan_out_inside_many,
    ],
    ids=lambda fill: fill.__name__.strip("_"),
)
def test_a_fact_costs_the_same_however_much_there_is(fill: Callable[[_Crowd, int], None]) -> None:
    def cost(n: int) -> int:
        crowd = _Crowd()
        fill(crowd, n)
        return _calls(lambda: crowd.machine.receive(crowd.next))

    cost(3)  # what is found once for each type is found now
    assert cost(1000) == cost(50)


def test_fan_outs_nested_deeper_than_the_stack_close_at_once() -> None:
    loop = make_step("loop", [Begin, A], [End], [A])
    machine = Machine(make_plan(loop, make_step("gather", [B], [End], takes_list=True)), State(), patient=True)
    machine.receive(RunStarted(0.0, "run", Begin(n=0)))
    for number in range(1, 3000):
        machine.receive(StepReturned(0.0, number, [A(n=number)]))
    machine.receive(StepReturned(0.0, 3000, None))
    assert machine.joins is not None
    assert list(machine.joins.scopes) == [ROOT]


def _calls(act: Callable[[], object]) -> int:
    """How many functions are called, in Python or in C."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    gc.disable()  # Hypothesis has a callback on collections, which would be counted
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count
