"""Code that changes under a stored run: it goes on with what fits, and what doesn't is refused by name."""

import os
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_world import A1, KINDS, A, B, Begin, C, End, Lens, Reply, World, make_plan, make_step, plans, told

from flowkit import (
    Context,
    Event,
    Workflow,
    step,
)
from flowkit.facts import (
    EventCollected,
    EventSent,
    Fact,
    RunResumed,
    RunStarted,
    StartStep,
    StateWritten,
    StepRaised,
    StepReturned,
    WaitOpened,
)
from flowkit.machine import Machine
from flowkit.plan import Plan
from flowkit.records import FORMAT, LOGIC, Head, Records, Restored, seal
from flowkit.serialization import Codec, stored_as
from flowkit.shape import fingerprint, plan_from, shape_of
from flowkit.snapshot import codec_for
from flowkit.state import State
from flowkit.steps import StepOptions
from flowkit.storage_errors import CodeChanged

laws = settings(max_examples=int(os.environ.get("FLOWKIT_EXAMPLES", "60")), deadline=None)


def records_of(plan: Plan) -> Records:
    return Records(plan, codec_for(plan, (Begin, End)))


def stored(plan: Plan, *history: Fact, stepwise: bool = False) -> list[bytes]:
    """The journal of a run of this plan."""
    records, machine = records_of(plan), Machine(plan, State(), stepwise=stepwise, patient=True)
    for fact in history:
        machine.receive(fact)
    head = Head(run_id="run", workflow=plan.name, patient=True, stepwise=stepwise)
    payloads = [records.head(head), *map(records.fact, history)]
    return [seal("run", number, payload) for number, payload in enumerate(payloads)]


def restored(plan: Plan, journal: Sequence[bytes], start: int = 0) -> Restored:
    return records_of(plan).restore("run", start, journal, State(), patient=True)


def renamed(plan: Plan, names: dict[str, str], *, aliases: bool = True) -> Plan:
    """The same plan with other names of steps."""

    def new(spec: Any) -> Any:
        options = spec.options
        if options.for_steps is not None:
            options = attrs.evolve(options, for_steps=tuple(names[name] for name in options.for_steps))
        if aliases:
            options = attrs.evolve(options, aliases=(spec.name,))
        return attrs.evolve(spec, name=names[spec.name], options=options)

    return Plan.of(plan.name, map(new, plan.steps))


def refusal(plan: Plan, journal: Sequence[bytes]) -> str:
    with pytest.raises(CodeChanged) as refused:
        restored(plan, journal)
    assert refused.value.run_id == "run"
    return str(refused.value)


def started(machine: Machine) -> list[tuple[str, Any]]:
    """What starts when the run goes on."""
    return [
        (machine.plan.steps[command.step].name, command.event)
        for command in machine.receive(RunResumed(99.0))
        if isinstance(command, StartStep)
    ]


BEGUN = RunStarted(1.0, "run", Begin(1))


# ---------------------------------------------------------------------------------------------------------- shapes


@given(plan=plans())
@laws
def test_a_plan_made_of_a_shape_has_that_shape(plan: Plan) -> None:
    codec = codec_for(plan)
    shape = shape_of(plan, codec)
    again = plan_from(shape, codec)
    assert shape_of(again, codec) == shape
    assert {kind: again.route(kind) for kind in KINDS} == {kind: plan.route(kind) for kind in KINDS}
    assert {spec.name: again.reach_of(spec.name) for spec in plan.steps} == {
        spec.name: plan.reach_of(spec.name) for spec in plan.steps
    }
    assert again.catchers == plan.catchers


def test_what_no_run_depends_on_is_not_in_the_shape() -> None:
    plan = make_plan(make_step("s0", [Begin], [End]))
    (spec,) = plan.steps
    other = Plan.of("Flow", [attrs.evolve(spec, options=StepOptions(timeout=3.0, atomic=True, aliases=("old",)))])
    assert fingerprint(shape_of(other, codec_for(other))) == fingerprint(shape_of(plan, codec_for(plan)))


@given(world_plan=plans(), data=st.data())
@laws
def test_a_run_whose_steps_were_all_renamed_goes_on_as_it_would_have(world_plan: Plan, data: st.DataObject) -> None:
    def choose(n: int) -> int:
        return data.draw(st.integers(0, n - 1)) if n > 1 else 0

    world = World(world_plan, choose, stepwise=not choose(4), patient=True)
    names = {spec.name: f"new_{spec.name}" for spec in world_plan.steps}
    new = renamed(world_plan, names)
    with told(world):
        world.walk(30)
        cut = choose(len(world.history)) + 1
        journal = stored(world_plan, *(fact for fact, _ in world.history[:cut]), stepwise=world.began_stepwise)
        back = restored(new, journal)
        assert back.changed
        machine = back.machine
        assert machine.plan.steps == new.steps
        lens = Lens(new)
        for fact, commands in world.history[cut:]:
            if isinstance(fact, EventSent) and fact.step is not None:
                fact = attrs.evolve(fact, step=names[fact.step])
            assert lens.commands(machine.receive(fact)).replace("new_", "") == lens.commands(commands).replace(
                "new_", ""
            )
        if machine.outcome is None:  # names in words, too: who sent something, what had failed
            assert lens.books(machine).replace("new_", "") == lens.books(world.machine).replace("new_", "")


# ------------------------------------------------------------------------------------------- steps come and go


OLD = make_plan(make_step("begin", [Begin], [A, B]), make_step("work", [A], [End]), make_step("spare", [B], [End]))


def aliased(function: Any, *aliases: str) -> Any:
    options = vars(function)["__flowkit_step__"]
    vars(function)["__flowkit_step__"] = attrs.evolve(options, aliases=aliases)
    return function


def test_a_step_is_found_by_the_name_it_had() -> None:
    new = make_plan(make_step("begin", [Begin], [A, B]), aliased(make_step("labour", [A], [End]), "work", "toil"))
    journal = stored(OLD, BEGUN, StepReturned(2.0, 1, A(2)))
    machine = restored(new, journal).machine
    assert started(machine) == [("labour", A(2))]


def test_a_renamed_step_without_an_alias_is_refused_with_the_cure() -> None:
    new = make_plan(make_step("begin", [Begin], [A, B]), make_step("labour", [A], [End]))
    assert refusal(new, stored(OLD, BEGUN, StepReturned(2.0, 1, A(2)))) == (
        "run 'run' of Flow can't go on with the code as it is now: it has a A for step 'work', which there isn't any "
        "more: write @step(aliases=(\"work\",)) above the step that goes on with it, or keep 'work' until such runs "
        "have ended."
    )


def test_a_step_that_is_gone_and_has_nothing_to_do_is_not_missed() -> None:
    new = make_plan(make_step("begin", [Begin], [A, B]), make_step("work", [A], [End]))
    machine = restored(new, stored(OLD, BEGUN, StepReturned(2.0, 1, A(2)))).machine
    assert started(machine) == [("work", A(2))]


def test_a_step_whose_event_class_is_gone_too_is_not_missed() -> None:
    gone = type("Gone", (Event,), {"__module__": "shop", "__qualname__": "Gone"})
    old = make_plan(make_step("begin", [Begin], [A]), make_step("work", [A], [End]), make_step("spare", [gone], [End]))
    journal = stored(old, BEGUN, StepReturned(2.0, 1, A(2)))
    gone.__qualname__ = "Forgotten"
    new = make_plan(make_step("begin", [Begin], [A]), make_step("work", [A], [End]))
    assert started(restored(new, journal).machine) == [("work", A(2))]


def test_a_step_that_has_ended_its_work_may_be_gone_while_its_history_is_read() -> None:
    """The facts mean what they meant: begin's return went to work, though begin is gone."""
    new = make_plan(make_step("start", [Begin], [B]), make_step("work", [A], [End]))
    machine = restored(new, stored(OLD, BEGUN, StepReturned(2.0, 1, A(2)))).machine
    assert started(machine) == [("work", A(2))]


def test_an_event_of_before_does_not_go_to_a_step_that_was_added() -> None:
    old = make_plan(make_step("begin", [Begin], [A]), make_step("work", [A], [B]))
    new = make_plan(
        make_step("begin", [Begin], [A]),
        make_step("audit", [A, B]),
        make_step("work", [A], [B]),
        make_step("end", [B], [End]),
    )
    journal = stored(old, BEGUN, StepReturned(2.0, 1, A(2)))
    machine = restored(new, journal).machine
    assert started(machine) == [("work", A(2))]
    commands = machine.receive(StepReturned(3.0, 2, B(3)))  # but one of now does
    assert [new.steps[one.step].name for one in commands if isinstance(one, StartStep)] == ["audit", "end"]


def test_an_event_that_nobody_took_is_not_given_to_a_step_that_was_added() -> None:
    old = make_plan(make_step("begin", [Begin], [A]), make_step("work", [A], [End]))
    new = make_plan(make_step("begin", [Begin], [A]), make_step("work", [A], [End]), make_step("late", [C]))
    machine = restored(new, stored(old, BEGUN, EventSent(2.0, None, C(5), None))).machine
    assert started(machine) == [("begin", Begin(1))]
    assert [kept.event for kept in machine.waits.unhandled()] == [C(5)]


def test_an_event_pending_for_a_step_that_takes_others_now_is_refused() -> None:
    new = make_plan(make_step("begin", [Begin], [A, B]), make_step("work", [C], [End]), make_step("spare", [B], [End]))
    assert refusal(new, stored(OLD, BEGUN, StepReturned(2.0, 1, A(2)))) == (
        "run 'run' of Flow can't go on with the code as it is now: it has a A for step 'work', which doesn't take that "
        "any more: let 'work' take it until such runs have ended."
    )


def test_a_step_that_takes_a_base_of_what_it_took_goes_on() -> None:
    old = make_plan(make_step("begin", [Begin], [A1]), make_step("work", [A1], [End]))
    new = make_plan(make_step("begin", [Begin], [A1]), make_step("work", [A], [End]))
    assert started(restored(new, stored(old, BEGUN, StepReturned(2.0, 1, A1(2)))).machine) == [("work", A1(2))]


def test_two_steps_that_became_one_share_its_queue() -> None:
    new = make_plan(
        make_step("begin", [Begin], [A, B]), aliased(make_step("both", [A, B], [End], workers=1), "work", "spare")
    )
    history = (BEGUN, EventSent(2.0, 1, B(2), None), EventSent(2.0, 1, A(3), None))
    machine = restored(new, stored(OLD, *history)).machine
    assert started(machine) == [("begin", Begin(1)), ("both", B(2))]
    assert [entry.event for entry in machine.lane_of("both").queue or ()] == [A(3)]


def test_what_was_sent_to_a_step_by_name_is_known_again_under_its_new_name() -> None:
    new = make_plan(make_step("begin", [Begin], [A, B]), aliased(make_step("labour", [A], [End]), "work"))
    machine = restored(new, stored(OLD, BEGUN, EventSent(2.0, 1, A(3), "work"))).machine
    machine.receive(RunResumed(3.0))
    assert machine.receive(EventSent(4.0, 1, A(3), "labour")) == ()  # sent before
    assert machine.receive(EventSent(4.0, 1, A(3), "labour")) != ()


def test_a_step_that_waits_goes_on_waiting_under_its_new_name() -> None:
    wait = WaitOpened(2.0, 1, "w", Reply, {}, None, None)
    machine = restored(
        renamed(OLD, {"begin": "first", "work": "work", "spare": "spare"}), stored(OLD, BEGUN, wait)
    ).machine
    (entry,) = machine.invocations.values()
    assert (entry.lane.spec.name, entry.status) == ("first", "waiting")
    assert "it has a Begin for step 'begin', which there isn't any more" in refusal(
        make_plan(make_step("other", [Begin], [End])), stored(OLD, BEGUN, wait)
    )


def test_what_a_step_collected_goes_to_its_new_name_or_is_refused() -> None:
    collected = EventCollected(2.0, 1, None, A(5), (A, B))
    names = {"begin": "first", "work": "work", "spare": "spare"}
    machine = restored(renamed(OLD, names), stored(OLD, BEGUN, collected, StepReturned(3.0, 1, A(2)))).machine
    assert machine.buffers[("first", None)].events() == [A(5)]
    told = refusal(renamed(OLD, names, aliases=False), stored(OLD, BEGUN, collected, StepReturned(3.0, 1, A(2))))
    assert "it has a list of A, collected, for step 'begin', which there isn't any more" in told


def test_a_retry_that_is_due_goes_to_the_new_name() -> None:
    journal = stored(OLD, BEGUN, StepRaised(2.0, 1, ValueError(), 60.0))
    machine = restored(renamed(OLD, {"begin": "first", "work": "work", "spare": "spare"}), journal).machine
    (timer,) = machine.timers.values()
    assert (timer.at, timer.invocation, machine.invocations[timer.invocation].lane.spec.name) == (62.0, 1, "first")


def test_held_events_go_to_the_new_name_or_are_refused() -> None:
    held = EventSent(2.0, None, A(3), "work")
    names = {"begin": "begin", "work": "labour", "spare": "spare"}
    machine = restored(renamed(OLD, names), stored(OLD, BEGUN, held, stepwise=True)).machine
    assert [one.target for one in machine.held.values()] == [None, "labour"]
    assert "it has a A for step 'work', which there isn't" in refusal(
        renamed(OLD, names, aliases=False), stored(OLD, BEGUN, held, stepwise=True)
    )


# ----------------------------------------------------------------------------------------------------------- fan-in


JOINING = make_plan(
    make_step("begin", [Begin], lists=[A]), make_step("work", [A], [B]), make_step("join", [B], [End], takes_list=True)
)
HALF = (BEGUN, StepReturned(2.0, 1, [A(2), A(3)]), StepReturned(3.0, 2, B(4)))


def test_a_fan_in_goes_on_under_its_new_name() -> None:
    new = renamed(JOINING, {"begin": "begin", "work": "work", "join": "gather"})
    machine = restored(new, stored(JOINING, *HALF)).machine
    machine.receive(RunResumed(3.5))
    commands = machine.receive(StepReturned(4.0, 3, B(5)))
    assert [(new.steps[one.step].name, one.event) for one in commands if isinstance(one, StartStep)] == [
        ("gather", [B(4), B(5)])
    ]


@pytest.mark.parametrize("history", [HALF[:2], HALF], ids=["nothing gathered", "half gathered"])
def test_a_fan_in_that_is_gone_or_takes_no_list_any_more_is_refused(history: tuple[Fact, ...]) -> None:
    gone = make_plan(make_step("begin", [Begin], lists=[A]), make_step("work", [A], [B]))
    single = make_plan(
        make_step("begin", [Begin], lists=[A]), make_step("work", [A], [B]), make_step("join", [B], [End])
    )
    assert "for step 'join', which there isn't any more" in refusal(gone, stored(JOINING, *history))
    assert "for step 'join', which doesn't take that any more: let 'join' take it" in refusal(
        single, stored(JOINING, *history)
    )


def test_a_fan_in_that_has_taken_what_it_wanted_is_not_missed() -> None:
    taking = make_plan(
        make_step("begin", [Begin], lists=[A]),
        make_step("work", [A], [B]),
        make_step("join", [B], [C], takes_list=True, take=1),
        make_step("end", [C], [End]),
    )
    journal = stored(taking, *HALF, StepReturned(4.0, 4, C(6)))
    gone = make_plan(make_step("begin", [Begin], lists=[A]), make_step("work", [A], [B]), make_step("end", [C], [End]))
    machine = restored(gone, journal).machine
    assert started(machine) == [("work", A(3)), ("end", C(6))]
    machine.receive(StepReturned(5.0, 3, B(7)))
    assert machine.receive(StepReturned(6.0, 5, End(8)))[-1] == machine.outcome


def test_a_plan_that_gets_its_first_fan_in_counts_what_is_under_way() -> None:
    old = make_plan(make_step("begin", [Begin], [A]), make_step("work", [A], [B]))
    new = make_plan(
        make_step("begin", [Begin], [A]), make_step("work", [A], [B]), make_step("join", [B], [End], takes_list=True)
    )
    journal = stored(old, BEGUN, EventSent(2.0, 1, A(2), None), StepReturned(3.0, 1, A(3)))
    machine = restored(new, journal).machine
    assert started(machine) == [("work", A(2)), ("work", A(3))]
    machine.receive(StepReturned(4.0, 2, B(4)))
    commands = machine.receive(StepReturned(5.0, 3, B(5)))
    assert [one.event for one in commands if isinstance(one, StartStep)] == [[B(4), B(5)]]


# ------------------------------------------------------------------------------------------- the journal goes on


def test_facts_of_after_the_change_are_read_under_the_new_plan() -> None:
    """What `Restored.changed` is for: books of the new shape, then facts that mean what they mean now."""
    journal = stored(OLD, BEGUN, StepReturned(2.0, 1, A(2)))
    new = make_plan(
        make_step("begin", [Begin], [A, B]),
        aliased(make_step("labour", [A], [B]), "work"),
        make_step("last", [B], [End]),
    )
    back = restored(new, journal)
    assert (back.changed, back.length) == (True, 3)
    records = records_of(new)
    later = [
        records.books(back.machine, back.head),
        records.fact(RunResumed(3.0)),
        records.fact(StepReturned(4.0, 2, B(5))),
    ]
    journal += [seal("run", number, payload) for number, payload in enumerate(later, back.length)]
    for start in (0, 3):
        again = restored(new, journal[start:], start)
        assert not again.changed
        assert [(one.lane.spec.name, one.event) for one in again.machine.invocations.values()] == [("last", B(5))]
    steps = [machine.plan.steps[0].returns_text for _, _, machine in records.replay("run", journal)]
    assert steps[:2] == ["what it allowed then"] * 2 and steps[2:] == [new.steps[0].returns_text] * 2


def test_a_run_that_has_ended_can_be_read_whatever_became_of_its_steps() -> None:
    journal = stored(OLD, BEGUN, StepReturned(2.0, 1, A(2)), StepReturned(3.0, 2, End(3)))
    new = make_plan(make_step("other", [Begin], [End]))
    outcome = restored(new, journal).machine.outcome
    assert outcome is not None and outcome.event == End(3)


def test_fewer_workers_only_mean_that_more_waits() -> None:
    old = make_plan(make_step("begin", [Begin], [A]), make_step("work", [A], [End], workers=3))
    new = make_plan(make_step("begin", [Begin], [A]), make_step("work", [A], [End], workers=1))
    history = (BEGUN, *(EventSent(2.0, 1, A(n), None) for n in range(3)), StepReturned(3.0, 1, None))
    assert started(restored(new, stored(old, *history)).machine) == [("work", A(0))]


# ---------------------------------------------------------------------------------------------- classes and formats


def class_named(name: str, tag: str, base: type = Event, **options: Any) -> type:
    body = {"__annotations__": options.pop("fields", {"n": int}), "__module__": "shop", "__qualname__": name}
    return stored_as(tag, **options)(type(name, (base,), body))


def run_with(kind: type, value: Any, codec: Codec) -> list[bytes]:
    plan = Plan.of("Flow", make_plan(make_step("s0", [Begin], [kind]), make_step("s1", [kind], [End])).steps)
    records = Records(plan, codec)
    payloads = [
        records.head(Head(run_id="run", workflow="Flow", patient=True)),
        records.fact(BEGUN),
        records.fact(StepReturned(2.0, 1, value)),
    ]
    return [seal("run", number, payload) for number, payload in enumerate(payloads)]


def read_with(kind: type, journal: Sequence[bytes]) -> Machine:
    plan = make_plan(make_step("s0", [Begin], [kind]), make_step("s1", [kind], [End]))
    records = Records(plan, Codec((Begin, End, kind)))
    return records.restore("run", 0, journal, State(), patient=True).machine


def test_an_event_is_renamed() -> None:
    old, new = class_named("Payed", "shop.payed"), class_named("Paid", "shop.paid", aliases=("shop.payed",))
    journal = run_with(old, old(n=3), Codec((Begin, End, old)))
    assert started(read_with(new, journal)) == [("s1", new(n=3))]
    unknown = class_named("Paid", "shop.bought")
    with pytest.raises(CodeChanged) as refused:
        read_with(unknown, journal)
    assert str(refused.value) == (
        "run 'run' of Flow can't go on with the code as it is now: in record 2 at $.result, no registered class has "
        "the tag 'shop.payed': write codec.register for it, with aliases=… if it was renamed."
    )


def test_an_event_has_a_new_version() -> None:
    old = class_named("Paid", "shop.paid")
    new = class_named(
        "Paid", "shop.paid", version=2, fields={"n": int, "currency": str},
        upgrades={1: lambda fields: {**fields, "currency": "EUR"}},
    )  # fmt: skip
    journal = run_with(old, old(n=3), Codec((Begin, End, old)))
    assert started(read_with(new, journal)) == [("s1", new(n=3, currency="EUR"))]
    forgotten = class_named("Paid", "shop.paid", fields={"n": int, "currency": str})
    with pytest.raises(
        CodeChanged, match=r"in record 2 at \$.result, the fields of shop.Paid aren't those that were written"
    ):
        read_with(forgotten, journal)


def test_an_event_of_a_version_to_come_is_refused_by_name() -> None:
    old = class_named("Paid", "shop.paid")
    new = class_named("Paid", "shop.paid", version=2)
    journal = run_with(new, new(n=3), Codec((Begin, End, new)))
    with pytest.raises(
        CodeChanged, match=r"in record 2 at \$.result, it is version 2 of shop.paid, and the class here is"
    ):
        read_with(old, journal)


def test_an_event_whose_bases_changed_is_refused() -> None:
    """Its events went to another step then: nothing replayed with it would be what was."""
    base = class_named("Base", "shop.base")
    old, new = class_named("Paid", "shop.paid", base), class_named("Paid", "shop.paid")

    def plan(kind: type) -> Plan:
        return make_plan(make_step("s0", [Begin], [kind]), make_step("s1", [base], [End]))

    records = Records(plan(old), Codec((Begin, End, base, old)))
    journal = [seal("run", 0, records.head(Head(run_id="run", workflow="Flow")))]
    with pytest.raises(CodeChanged, match=r"the bases of shop\.paid aren't those that it had"):
        Records(plan(new), Codec((Begin, End, base, new))).restore("run", 0, journal, State(), patient=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ((b"[1,1", b"[1,1"), None),
        (
            (f'"head",{FORMAT},'.encode(), f'"head",{FORMAT + 1},'.encode()),
            "record 0 is of format 2, and this flowkit knows 1",
        ),
        (
            (f'"head",{FORMAT},{LOGIC},'.encode(), f'"head",{FORMAT},{LOGIC + 1},'.encode()),
            "record 0 is of rules 2, and this flowkit knows 1",
        ),
    ],
)
def test_a_record_of_a_newer_flowkit_is_refused(change: tuple[bytes, bytes], told: str | None) -> None:
    payload = stored(OLD, BEGUN)[0][8:].replace(*change)
    journal = [seal("run", 0, payload)]
    if told is None:
        restored(OLD, journal)
        return
    assert told in refusal(OLD, journal)
    assert refusal(OLD, journal).endswith("update flowkit.")


def test_a_state_of_another_kind_is_refused() -> None:
    @attrs.define
    class Totals:
        n: int = 0

    class Flow(Workflow):
        @step
        async def begin(self, ctx: Context[Totals], ev: Begin) -> End:
            return End(1)

    journal = stored(make_plan(make_step("begin", [Begin], [End])), BEGUN, StateWritten(2.0, ("n",), 1))
    plan = Flow()._plan()
    with pytest.raises(CodeChanged, match="its state is a dict, and its steps take a Totals"):
        records_of(plan).restore("run", 0, journal, State(Totals), patient=True)
