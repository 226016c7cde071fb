"""Runs as records: what is written is what comes back, from the head or from any books record on.

`machine_world` draws the runs. How many examples: ``FLOWKIT_EXAMPLES``, for each test (60 by default).
"""

import os
from collections.abc import Sequence
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_world import A1, A, B, Begin, C, End, Lens, World, make_plan, make_step, told, walked, worlds

from flowkit import Context, Event, SerializationError, StartEvent, StepFailedEvent, StopEvent, Workflow, facts, step
from flowkit.books import Held, Invocation, Timer, Waiting
from flowkit.collecting import Buffer
from flowkit.dispatch import Dispatch
from flowkit.errors import StepFailed, WorkflowTimeoutError
from flowkit.facts import (
    EventCollected,
    EventPublished,
    EventSent,
    Fact,
    RunCancelled,
    RunFailed,
    RunResumed,
    RunStarted,
    RunTimedOut,
    StateWritten,
    StepCommitted,
    Stepped,
    StepRaised,
    StepReturned,
    StepwiseEnded,
    TimerFired,
    WaitAbandoned,
    WaitOpened,
)
from flowkit.joins import FanOut, Joins
from flowkit.machine import Machine
from flowkit.plan import Plan
from flowkit.records import CHECKSUM, Head, Records, seal, unseal
from flowkit.snapshot import codec_for
from flowkit.state import State
from flowkit.storage_errors import RunDamaged, StoredError, WrongWorkflow
from flowkit.waits import Kept, Wait, Waits

laws = settings(max_examples=int(os.environ.get("FLOWKIT_EXAMPLES", "60")), deadline=None)
LENGTH = 40
"""Facts in a walk, at most."""


def records_of(plan: Plan) -> Records:
    return Records(plan, codec_for(plan, (Begin, End)))


def head_of(world: World) -> Head:
    return Head(run_id="run", workflow=world.plan.name, stepwise=world.began_stepwise, patient=world.patient)


def sealed(payloads: Sequence[bytes], start: int = 0) -> list[bytes]:
    return [seal("run", number, payload) for number, payload in enumerate(payloads, start)]


def journal_of(records: Records, world: World) -> list[bytes]:
    """The journal of a world's run, from its head on."""
    return sealed([records.head(head_of(world)), *(records.fact(fact) for fact, _ in world.history)])


def books(lens: Lens, machine: Machine) -> str:
    """Everything that matters of a machine: at the end, slots and queues don't."""
    if machine.outcome is None:
        return lens.books(machine)
    for lane in machine.lanes:
        lane.running = 0
        lane.queue = lane.resuming = None
    return lens.books(machine)


# ----------------------------------------------------------------------------------------------------- whole runs


@given(world=worlds())
@laws
def test_a_run_comes_back_from_its_records(world: World) -> None:
    walked(world, LENGTH)
    records, lens = records_of(world.plan), Lens(world.plan)
    journal = journal_of(records, world)
    with told(world):
        restored = records.restore("run", 0, journal, State(), patient=world.patient)
        assert books(lens, restored.machine) == books(lens, world.machine)
        assert restored.length == len(journal)
        assert restored.facts_since == len(world.history)
        assert not restored.changed


@given(world=worlds())
@laws
def test_what_a_run_commands_is_the_same_after_it_came_back(world: World) -> None:
    walked(world, LENGTH)
    records, lens = records_of(world.plan), Lens(world.plan)
    cut = world.choose(len(world.history)) + 1
    journal = journal_of(records, world)[: cut + 1]
    with told(world):
        machine = records.restore("run", 0, journal, State(), patient=world.patient).machine
        for fact, commands in world.history[cut:]:
            assert lens.commands(machine.receive(fact)) == lens.commands(commands)
        assert books(lens, machine) == books(lens, world.machine)


@given(world=worlds())
@laws
def test_reading_can_begin_at_books_written_at_any_point(world: World) -> None:
    records, lens = records_of(world.plan), Lens(world.plan)
    written: list[bytes] = []
    walked(world, LENGTH, lambda world: written.append(records.books(world.machine, head_of(world))))
    at = world.choose(len(written))
    suffix = [records.fact(fact) for fact, _ in world.history[at + 1 :]]
    with told(world):
        for start in (0, 7):
            journal = sealed([written[at], *suffix], start)
            restored = records.restore("run", start, journal, State(), patient=world.patient)
            assert books(lens, restored.machine) == books(lens, world.machine)
            assert restored.facts_since == len(suffix)
            assert restored.books_size == len(written[at])


@given(world=worlds())
@laws
def test_books_in_the_middle_of_a_journal_change_nothing(world: World) -> None:
    records, lens = records_of(world.plan), Lens(world.plan)
    payloads = [records.head(head_of(world))]

    def write(world: World) -> None:
        payloads.append(records.fact(world.history[-1][0]))
        if not world.choose(8):
            payloads.append(records.books(world.machine, head_of(world)))

    walked(world, LENGTH, write)
    journal = sealed(payloads)
    with told(world):
        restored = records.restore("run", 0, journal, State(), patient=world.patient)
        assert books(lens, restored.machine) == books(lens, world.machine)
        replayed = list(records.replay("run", journal))
        assert [type(fact) for _, fact, _ in replayed] == [type(fact) for fact, _ in world.history]
        assert [number for number, _, _ in replayed] == [number for number, _ in records.facts("run", 0, journal)]


@given(world=worlds())
@laws
def test_books_come_back_as_the_same_bytes(world: World) -> None:
    walked(world, LENGTH)
    records = records_of(world.plan)
    written = records.books(world.machine, head_of(world))
    with told(world):
        machine = records.restore("run", 0, sealed([written]), State(), patient=world.patient).machine
        assert records.books(machine, head_of(world)) == written


def test_a_replay_is_read_on_from_where_it_was() -> None:
    plan = make_plan(make_step("s0", [Begin], [A]), make_step("s1", [A], [End]))
    records = records_of(plan)
    history = [RunStarted(1.0, "run", Begin(1)), StepReturned(2.0, 1, A(2)), StepReturned(3.0, 2, End(3))]
    journal = sealed([records.head(Head(run_id="run", workflow="Flow")), *map(records.fact, history)])
    seen: list[Fact] = []
    going: Machine | None = None
    for length in range(2, len(journal) + 1):
        start = length - 1 if seen else 0
        for _, fact, machine in records.replay("run", journal[start:length], start=start, machine=going):
            seen.append(fact)
            going = machine
    assert seen == history
    assert going is not None and going.outcome is not None and going.outcome.event == End(3)


# ------------------------------------------------------------------------------------------------------- each fact


numbers = st.integers(0, 2**60)
texts = st.text(max_size=8)
times = st.floats(0, 4e9)
seconds = st.floats(0, allow_nan=False) | st.integers(0, 2**70)
events: st.SearchStrategy[Any] = st.builds(A, n=st.integers()) | st.builds(StopEvent, result=st.floats(allow_nan=False))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.binary(max_size=5) | events,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts | st.integers(), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=6,
)
sent = st.builds(EventSent, times, st.none() | numbers, events, st.none() | texts)
published = st.builds(EventPublished, times, st.none() | numbers, events)
written = st.builds(StateWritten, times, st.lists(texts, max_size=3).map(tuple), values)
chosen = st.lists(numbers, max_size=4).map(tuple)
every: dict[type, st.SearchStrategy[Any]] = {
    RunStarted: st.builds(RunStarted, times, texts, events),
    RunResumed: st.builds(RunResumed, times),
    EventSent: sent,
    StepReturned: st.builds(StepReturned, times, numbers, st.none() | events | st.lists(events, max_size=3)),
    StepCommitted: st.builds(
        StepCommitted, times, numbers, st.lists(sent | published | written, max_size=4).map(tuple), st.none() | events
    ),
    EventCollected: st.builds(
        EventCollected,
        times,
        numbers,
        st.none() | texts,
        events,
        st.none() | st.lists(st.sampled_from((A, B, Event)), max_size=3).map(tuple),
    ),
    WaitOpened: st.builds(
        WaitOpened,
        times,
        numbers,
        texts,
        st.sampled_from((A, A1, Event)),
        st.dictionaries(texts, values, max_size=2),
        st.none() | seconds,
        st.none() | events,
    ),
    WaitAbandoned: st.builds(WaitAbandoned, times, numbers, texts),
    TimerFired: st.builds(TimerFired, times, numbers),
    EventPublished: published,
    StateWritten: written,
    Stepped: st.builds(Stepped, times, chosen),
    StepwiseEnded: st.builds(StepwiseEnded, times, chosen),
    RunCancelled: st.builds(RunCancelled, times, texts, st.booleans()),
    RunTimedOut: st.builds(RunTimedOut, times, seconds),
}
failing = {StepRaised: StepRaised(1.5, 3, ValueError("x"), 2.0), RunFailed: RunFailed(1.5, ValueError("x"))}

PLAN = make_plan(make_step("s0", [Begin], [A, B, C]), make_step("s1", [A, A1, B, C], [End]))
RECORDS = records_of(PLAN)


def read(payload: bytes) -> Fact:
    ((_, fact),) = RECORDS.facts("run", 5, sealed([payload], 5))
    return fact


def test_every_fact_has_its_form() -> None:
    named = {getattr(facts, name) for name in facts.__all__}
    assert set(get_args(Fact)) <= named
    assert {*every, *failing} == set(get_args(Fact))


@pytest.mark.parametrize("kind", every, ids=lambda kind: kind.__name__)
@given(data=st.data())
@laws
def test_a_fact_comes_back_equal_and_of_the_same_types(kind: type, data: st.DataObject) -> None:
    fact = data.draw(every[kind])
    payload = RECORDS.fact(fact)
    again = read(payload)
    assert again == fact
    assert type(again) is kind
    assert RECORDS.fact(again) == payload


@pytest.mark.parametrize("fact", failing.values(), ids=lambda fact: type(fact).__name__)
def test_a_failure_comes_back(fact: StepRaised | RunFailed) -> None:
    again = read(RECORDS.fact(fact))
    assert isinstance(again, StepRaised | RunFailed)
    assert repr(again) == repr(fact)
    assert type(again.error) is ValueError and again.error.args == ("x",)


@pytest.mark.parametrize("timeout", [float("inf"), 3, True, 2.5])
def test_seconds_of_any_type_are_written(timeout: float) -> None:
    again = read(RECORDS.fact(WaitOpened(1.0, 1, "w", A, {}, timeout, None)))
    assert isinstance(again, WaitOpened) and again.timeout == timeout


@pytest.mark.parametrize("delay", [object(), "soon", float("nan"), 10**400])
def test_what_is_no_number_of_seconds_is_refused(delay: Any) -> None:
    with pytest.raises(SerializationError, match=r"^\$\.delay: a number of seconds can't be"):
        RECORDS.fact(StepRaised(1.0, 1, ValueError(), delay))


def test_a_value_that_can_not_come_back_is_refused_by_its_path() -> None:
    with pytest.raises(SerializationError, match=r"^\$\.value\.deep\[1\]: a function can't be stored"):
        RECORDS.fact(StateWritten(1.0, ("a",), {"deep": [1, lambda: None]}))
    effects = (EventSent(1.0, 1, A(1), None), StateWritten(1.0, ("a",), lambda: None))
    with pytest.raises(SerializationError, match=r"^\$\.effects\[1\]\.value: a function can't be stored"):
        RECORDS.fact(StepCommitted(1.0, 1, effects, None))


# ------------------------------------------------------------------------------------------------------ exceptions


class Unregistered(Exception):
    pass


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def with_something_live() -> ValueError:
    error = ValueError("broken")
    error.socket = lambda: None  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "name", "text"),
    [
        (Unregistered("no such user"), "test_records.Unregistered", "no such user"),
        (with_something_live(), "ValueError", "broken"),
        (Silent(), "test_records.Silent", "its text can't be told"),
        (KeyboardInterrupt(lambda: None), "KeyboardInterrupt", "<function"),
        (Unregistered("x" * 9999), "test_records.Unregistered", "x" * 2000),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, BaseException) else "",
)
def test_an_exception_that_can_not_come_back_has_a_stand_in(error: BaseException, name: str, text: str) -> None:
    again = read(RECORDS.fact(StepRaised(1.0, 3, error, None)))
    assert isinstance(again, StepRaised)
    assert isinstance(again.error, StoredError)
    assert again.error.type_name == name
    assert again.error.text.startswith(text) and len(again.error.text) <= 2000


def test_what_can_come_back_of_a_group_or_a_chain_does() -> None:
    group = ExceptionGroup("several", [ValueError("kept"), Unregistered("lost")])
    group.__cause__ = Unregistered("cause")
    again = read(RECORDS.fact(RunFailed(1.0, group)))
    assert isinstance(again, RunFailed) and isinstance(again.error, ExceptionGroup)
    kept, lost = again.error.exceptions
    assert (type(kept), type(lost), type(again.error.__cause__)) == (ValueError, StoredError, StoredError)
    assert str(lost) == "test_records.Unregistered: lost"


def test_an_exception_inside_an_event_has_a_stand_in_too() -> None:
    failed = StepFailedEvent(
        step_name="s1", input_event=A(1), exception=Unregistered("lost"), attempts=1, elapsed_seconds=0.0
    )
    again = read(RECORDS.fact(StepReturned(1.0, 1, failed)))
    assert isinstance(again, StepReturned)
    assert again.result.input_event == A(1)
    assert isinstance(again.result.exception, StoredError)
    with pytest.raises(SerializationError):
        RECORDS.fact(StepReturned(1.0, 1, failed.replace(input_event=lambda: None)))


@pytest.mark.parametrize("wrap", ["cause", "group"])
def test_exceptions_nested_without_end_are_written(wrap: str) -> None:
    error: Any = Unregistered("inmost")
    for _ in range(500):
        if wrap == "group":
            error = ExceptionGroup("outer", [error])
        else:
            outer = ValueError("outer")
            outer.__cause__, error = error, outer
    again = read(RECORDS.fact(RunFailed(1.0, error)))
    assert isinstance(again, RunFailed) and type(again.error) is type(error)
    error.__cause__ = error
    assert isinstance(read(RECORDS.fact(RunFailed(1.0, error))), RunFailed)


def test_books_hold_what_a_failure_left() -> None:
    plan = make_plan(make_step("s0", [Begin], [A]), make_step("caught", [StepFailedEvent], [End], covers=()))
    records = records_of(plan)
    machine = Machine(plan, State())
    machine.receive(RunStarted(1.0, "run", Begin(1)))
    machine.receive(StepRaised(2.0, 1, Unregistered("lost"), None))
    written = records.books(machine, Head(run_id="run", workflow="Flow"))
    (entry,) = records.restore("run", 0, sealed([written]), State(), patient=False).machine.invocations.values()
    assert isinstance(entry.event.exception, StoredError)


def test_books_of_a_run_that_failed_hold_its_error() -> None:
    for last, kind in (
        (StepRaised(2.0, 1, ValueError("x"), None), StepFailed),
        (RunTimedOut(2.0, 9.0), WorkflowTimeoutError),
    ):
        machine = Machine(PLAN, State())
        machine.receive(RunStarted(1.0, "run", Begin(1)))
        machine.receive(last)
        written = RECORDS.books(machine, Head(run_id="run", workflow="Flow"))
        outcome = RECORDS.restore("run", 0, sealed([written]), State(), patient=False).machine.outcome
        assert outcome is not None and machine.outcome is not None
        assert type(outcome.error) is kind
        assert str(outcome.error) == str(machine.outcome.error)


# ------------------------------------------------------------------------------------------------- state and heads


@attrs.define
class Totals:
    n: int = 0
    names: list[str] = attrs.field(factory=list[str])


def typed_plan() -> Plan:
    class Flow(Workflow):
        @step
        async def count(self, ctx: Context[Totals], ev: StartEvent) -> StopEvent:
            return StopEvent()

    return Flow()._plan()


def test_whoever_holds_the_state_sees_the_restored_one() -> None:
    state = State()
    journal = sealed(
        [RECORDS.head(Head(run_id="run", workflow="Flow")), RECORDS.fact(StateWritten(1.0, ("a", "b"), 3))]
    )
    restored = RECORDS.restore("run", 0, journal, state, patient=False)
    assert restored.machine.state is state
    assert state.root == {"a": {"b": 3}}


def test_a_typed_state_comes_back_as_its_class() -> None:
    plan = typed_plan()
    records = records_of(plan)
    machine = Machine(plan, State(Totals, Totals(3, ["a"])))
    state = State(Totals)
    written = records.books(machine, Head(run_id="run", workflow="Flow"))
    records.restore("run", 0, sealed([written, records.fact(StateWritten(1.0, ("n",), 4))]), state, patient=False)
    assert state.root == Totals(4, ["a"])


def test_a_refused_run_leaves_the_state_alone() -> None:
    state = State(None, {"mine": 1})
    journal = sealed([RECORDS.head(Head(run_id="run", workflow="Flow")), RECORDS.fact(StateWritten(1.0, ("a",), 3))])
    with pytest.raises(RunDamaged):
        RECORDS.restore("run", 0, [*journal, b"torn"], state, patient=False)
    assert state.root == {"mine": 1}


def test_a_head_comes_back() -> None:
    head = Head(
        run_id="run",
        workflow="Flow",
        timeout=2.5,
        stepwise=True,
        patient=True,
        forked_from=("other", 7),
        flowkit="0.9",
    )
    assert RECORDS.restore("run", 0, sealed([RECORDS.head(head)]), State(), patient=True).head == head
    assert RECORDS.restore("run", 0, sealed([RECORDS.head(head)]), State(), patient=False).changed


def test_a_run_is_replayed_as_patient_as_it_was() -> None:
    """A run that waited where today's would give up has waited."""
    head = Head(run_id="run", workflow="Flow", patient=True)
    history = [RunStarted(1.0, "run", Begin(1)), StepReturned(2.0, 1, None), EventSent(3.0, None, A(2), None)]
    journal = sealed([RECORDS.head(head), *map(RECORDS.fact, history)])
    machine = RECORDS.restore("run", 0, journal, State(), patient=False).machine
    assert machine.outcome is None and len(machine.invocations) == 1
    assert not machine.patient


def test_a_run_is_replayed_as_impatient_as_it_was() -> None:
    """A run that gave up where today's would wait has given up."""
    head = Head(run_id="run", workflow="Flow", patient=False)
    journal = sealed(
        [RECORDS.head(head), *map(RECORDS.fact, [RunStarted(1.0, "run", Begin(1)), StepReturned(2.0, 1, None)])]
    )
    restored = RECORDS.restore("run", 0, journal, State(), patient=True)
    assert restored.machine.outcome is not None and restored.head == head
    assert restored.changed


def test_a_run_of_another_workflow_is_refused() -> None:
    other = records_of(make_plan(make_step("s0", [Begin], [End]), name="Other"))
    with pytest.raises(WrongWorkflow, match="run 'run' belongs to Flow, not to Other"):
        other.restore("run", 0, sealed([RECORDS.head(Head(run_id="run", workflow="Flow"))]), State(), patient=False)


# ------------------------------------------------------------------------------------------------------ checksums


def test_a_record_is_sealed_for_its_run_and_its_place() -> None:
    record = seal("run", 3, b"payload")
    assert unseal("run", 3, record) == b"payload"
    assert len(record) == CHECKSUM + len(b"payload")
    for run_id, position in (("run", 4), ("ru", 3), ("other", 3)):
        with pytest.raises(RunDamaged, match="its checksum is wrong"):
            unseal(run_id, position, record)


@given(first=texts, second=texts, positions=st.tuples(numbers, numbers))
@laws
def test_no_two_places_have_the_same_seal(first: str, second: str, positions: tuple[int, int]) -> None:
    if (first, positions[0]) != (second, positions[1]):
        assert seal(first, positions[0], b"x") != seal(second, positions[1], b"x")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Invocation, "number lane event scope place status attempt since sent at_sent batches at_batch waiting"),
        (Waiting, "opened open answers to_answer unseen places"),
        (Timer, "at invocation waiter"),
        (Held, "event sender target scope place published"),
        (Wait, "order invocation waiter event_type requirements timer"),
        (Waits, "open kept latest"),
        (Kept, "event sender"),
        (Buffer, "step expected need queues lacking added"),
        (Joins, "scopes last"),
        (FanOut, "parent place producer reach size live arrivals fired"),
    ],
)
def test_nothing_was_added_to_the_books_that_snapshot_py_does_not_know(kind: type, fields: str) -> None:
    """What is added here must be frozen, thawed and checked there, and FORMAT or LOGIC raised."""
    assert " ".join(field.name for field in attrs.fields(kind)) == fields


def test_nothing_was_added_to_the_machine_that_snapshot_py_does_not_know() -> None:
    written = (
        "buffers held invocations joins lanes last outcome questions run_id start_event started stepwise timers waits"
    )
    others = "carried patient plan state"
    counted = "busy retrying"
    assert sorted(Dispatch.__slots__) == sorted(f"{written} {others} {counted}".split())


def test_what_a_step_writes_is_small() -> None:
    payload = RECORDS.fact(StepReturned(1700000000.123456, 12, A(n=3)))
    assert len(seal("run", 3, payload)) <= 120
