"""The wiring: what is right, and all that is wrong with it, told in one error before anything runs."""

from typing import Any, Generic, TypeVar

import attrs
import pytest
from misuses import Case, Misuses

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    InvalidWorkflow,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Workflow,
    WorkflowValidationError,
    catch_error,
    step,
    wiring,
)
from flowkit.plan import Plan


class Part(Event):
    n: int = 0


class Bolt(Part):
    pass


class Topic(StartEvent):
    topic: str


class Joke(Workflow):
    @step
    async def tell(self, ev: Topic) -> StopEvent:
        return StopEvent(result=ev.topic)


class Connection:
    pass


def connect() -> Connection:
    return Connection()


T = TypeVar("T")


class Box(Event, Generic[T]):
    item: T


@attrs.define
class Totals:
    count: int = 0


@attrs.define
class Needy:
    count: int


# ------------------------------------------------------------------------------------------------------- what is right


def test_a_base_class_is_returned_and_its_subclass_taken() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Part:
            return Bolt()

        @step
        async def work(self, ev: Bolt) -> StopEvent:
            return StopEvent()

    Flow().validate()


def test_a_subclass_is_returned_and_its_base_class_taken() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Bolt:
            return Bolt()

        @step
        async def work(self, ev: Part) -> StopEvent:
            return StopEvent()

    Flow().validate()


def test_a_start_event_may_go_to_several_steps() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> Part | None:
            return Part()

        @step
        async def two(self, ev: StartEvent) -> Part | None:
            return Part()

        @step
        async def work(self, ev: Part) -> StopEvent:
            return StopEvent()

    Flow().validate()


def test_a_loop_that_can_be_left() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Part:
            return Part()

        @step
        async def work(self, ev: Part) -> Part | StopEvent:
            return StopEvent()

    Flow().validate()


def test_a_question_needs_no_step_and_an_answer_no_sender() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent(prefix="?")

        @step
        async def work(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent(result=ev.response)

    Flow().validate()


def test_what_comes_from_outside_where_the_workflow_says_so() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> None:
            return None

        @step
        async def work(self, ev: Part) -> StopEvent:
            return StopEvent()

    Flow(stalled="wait").validate()
    with pytest.raises(InvalidWorkflow, match="no step returns it"):
        Flow().validate()


def test_what_a_catch_error_step_returns_leads_on() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> StopEvent:
            raise ValueError

        @catch_error
        async def instead(self, ev: StepFailedEvent) -> Part:
            return Part()

        @step
        async def work(self, ev: Part) -> StopEvent:
            return StopEvent()

    Flow().validate()


def test_a_generic_event_of_one_kind_or_of_any() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Box[int] | Box[str]:
            return Box[int](item=3)

        @step
        async def work(self, ev: Box) -> StopEvent:
            return StopEvent()

    Flow().validate()


def test_a_child_is_found_by_its_class_or_among_several_by_its_name() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, joke: Joke) -> StopEvent:
            return StopEvent()

    alone, among = Flow(), Flow()
    alone.add_workflows(whatever=Joke())
    alone.validate()
    among.add_workflows(joke=Joke(), other=Joke())
    among.validate()


# -------------------------------------------------------------------------------------------------- when it is checked


class Faulty(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="ran")

    @step
    async def work(self, ev: Part) -> StopEvent:
        return StopEvent()


async def test_before_a_run() -> None:
    with pytest.raises(InvalidWorkflow, match=r"Faulty\.work takes Part, but no step returns it"):
        Faulty().run()


async def test_not_where_it_is_disabled() -> None:
    assert await Faulty(disable_validation=True).run() == "ran"


async def test_again_when_a_step_was_added() -> None:
    workflow = Faulty()
    with pytest.raises(InvalidWorkflow):
        workflow.run()

    @step(workflow=workflow)
    async def more(ev: StartEvent) -> Part | None:
        return None

    assert await workflow.run() == "ran"
    with pytest.raises(InvalidWorkflow):
        Faulty().run()


def test_an_error_lists_all_faults_and_is_a_group_of_them() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Part:
            return Part()

    with pytest.raises(InvalidWorkflow) as invalid:
        Flow().validate()
    first, second = invalid.value.exceptions
    assert str(invalid.value) == f"Flow can't run, it has 2 faults:\n  1. {first}\n  2. {second}"
    assert [(fault.kind, fault.workflow, fault.step) for fault in (first, second)] == [
        ("no-stop", "Flow", None),
        ("never-consumed", "Flow", "begin"),
    ]
    assert all(fault.where.startswith(__file__) for fault in (first, second))
    kinds: list[str] = []
    try:
        raise invalid.value
    except* WorkflowValidationError as group:
        kinds += [fault.kind for fault in group.exceptions]
    assert kinds == ["no-stop", "never-consumed"]
    only = invalid.value.subgroup(lambda fault: getattr(fault, "kind", "") == "no-stop")
    assert isinstance(only, InvalidWorkflow)
    assert str(only) == f"Flow can't run, it has 1 fault:\n  1. {first}"


# ---------------------------------------------------------------------------------------------------------- misuses

misuse = Misuses()


@misuse(InvalidWorkflow, "Flow has no steps: decorate its methods with @step. (HERE)")
def no_steps() -> None:
    class Flow(Workflow):
        pass

    Flow().validate()


@misuse(
    InvalidWorkflow,
    "Flow.begin returns Part, but no step takes it: accept it in a step, or return a StopEvent; what only a "
    "wait_for_event takes is sent with ctx.send_event and left out of the annotation. (HERE)\n"
    "Flow.work takes Part like a step, but isn't one: if it should be, write @step above it. (HERE)",
)
def the_decorator_forgotten() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Part | StopEvent:
            return Part()

        async def work(self, ev: Part) -> StopEvent:
            return StopEvent()

    Flow().validate()


@misuse(
    InvalidWorkflow,
    "Flow has no start: let one step take a StartEvent (or a subclass of it). (HERE)\n"
    "Flow has no stop: let one step return a StopEvent, and say so in its return annotation. (HERE)",
)
def neither_start_nor_stop() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: Part) -> Part:
            return ev

    Flow().validate()


@misuse(
    InvalidWorkflow,
    "Flow has several start events, StartEvent (taken by one) and Topic (taken by two): keep one, for run() "
    "can build only one. (HERE)\n"
    "Flow has several stop events, StopEvent (returned by one) and End (returned by two): keep one, for it is "
    "the result's type. (HERE)",
)
def several_starts_and_stops() -> None:
    class End(StopEvent):
        pass

    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

        @step
        async def two(self, ev: Topic) -> End:
            return End()

    Flow().validate()


@misuse(
    InvalidWorkflow,
    "Flow.work takes Part, but no step returns it: return it from a step, or name it in the return annotation "
    'of the step that sends it; if it comes from outside, say Workflow(stalled="wait"). (HERE)',
)
def taken_but_never_made() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

        @step
        async def work(self, ev: Part) -> StopEvent:
            return StopEvent()

    Flow().validate()


@misuse(
    InvalidWorkflow,
    "Flow.begin returns Part, but no step takes it: accept it in a step, or return a StopEvent; what only a "
    "wait_for_event takes is sent with ctx.send_event and left out of the annotation. (HERE)",
)
def made_but_never_taken() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Part | StopEvent:
            return StopEvent()

    Flow().validate()


@misuse(
    InvalidWorkflow,
    "Flow.work can't be reached from the start: let a step that is reached return what it takes, or remove it. (HERE)",
)
def out_of_reach() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

        @step
        async def work(self, ev: Part) -> Part | StopEvent:
            return StopEvent()

    Flow().validate()


@misuse(InvalidWorkflow, "Flow.work leads to no end: return a StopEvent on some path from here. (HERE)")
def round_and_round() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Part | StopEvent:
            return StopEvent()

        @step
        async def work(self, ev: Part) -> Part:
            return ev

    Flow().validate()


@misuse(
    InvalidWorkflow,
    "Flow.texts takes Box[str], and 'numbers' takes Box[int], but an event knows only that it is a Box, so "
    "both would get each one: make classes of them, `class Mine(Box[str]): ...`, and take these. (HERE)",
)
def a_generic_event_told_apart_by_its_argument() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Box[int] | Box[str]:
            return Box[int](item=3)

        @step
        async def numbers(self, ev: Box[int]) -> StopEvent:
            return StopEvent()

        @step
        async def texts(self, ev: Box[str]) -> StopEvent:
            return StopEvent()

    Flow().validate()


@misuse(
    InvalidWorkflow,
    "Flow.four catches every step's error, but 'three' does so already: name the steps in for_steps=[…] in one"
    " of them. (HERE)\n"
    "Flow.one covers 'wrok', but Flow has no such step: did you mean 'work'? (HERE)\n"
    "Flow.one covers 'two', itself a @catch_error step: take it out of for_steps. (HERE)\n"
    "Flow.two covers 'work', but 'one' does so already: keep one. (HERE)",
)
def catchers_in_each_others_way() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

        @catch_error(for_steps=["work", "wrok", "two"])
        async def one(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent()

        @catch_error(for_steps=["work"])
        async def two(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent()

        @catch_error
        async def three(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent()

        @catch_error
        async def four(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent()

    Flow().validate()


@misuse(
    InvalidWorkflow,
    "Flow has several types of state: Totals in one, Needy in two: annotate Context with one of them "
    "everywhere. (HERE)",
)
def several_kinds_of_state() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ctx: Context[Totals], ev: StartEvent) -> StopEvent:
            return StopEvent()

        @step
        async def two(self, ctx: Context[Needy], ev: StartEvent) -> StopEvent:
            return StopEvent()

    Flow().validate()


@misuse(
    InvalidWorkflow,
    "Flow.work takes 'joke', a Joke, but none was added: call workflow.add_workflows(joke=Joke(…)) before the "
    "run. (HERE)",
)
def a_child_that_was_not_added() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, joke: Joke) -> StopEvent:
            return StopEvent()

    Flow().validate()


@misuse(
    InvalidWorkflow,
    "Flow.work takes 'joke', a Joke, but several were added and none is called 'joke': call "
    "workflow.add_workflows(joke=Joke(…)) before the run. (HERE)",
)
def a_child_among_several() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, joke: Joke) -> StopEvent:
            return StopEvent()

    workflow = Flow()
    workflow.add_workflows(one=Joke(), two=Joke())
    workflow.validate()


def test_a_sound_class_is_looked_at_once_and_a_faulty_one_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Outside(Workflow):
        """Sound only where events come from outside."""

        @step
        async def begin(self, ev: StartEvent) -> None: ...

        @step
        async def end(self, ev: Part) -> StopEvent:
            return StopEvent()

    class Sound(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    looks: list[str] = []
    look = wiring._ends

    def counted(plan: Plan) -> Any:
        looks.append(plan.name)
        return look(plan)

    monkeypatch.setattr(wiring, "_ends", counted)
    for _ in range(3):
        Sound().validate()
        Outside(stalled="wait").validate()
        with pytest.raises(InvalidWorkflow):
            Outside().validate()
    assert looks == ["Sound", "Outside", "Outside", "Outside", "Outside"]

    @step(workflow=Sound)
    async def late(ev: Part) -> StopEvent:
        return StopEvent()

    with pytest.raises(InvalidWorkflow, match=r"Sound\.late"):
        Sound().validate()


@misuse(WorkflowValidationError, "Workflow has joke=Joke in add_workflows: give a workflow instance.")
def a_child_that_is_a_class() -> None:
    Workflow().add_workflows(joke=Joke)


@misuse(WorkflowValidationError, "Joke has timeout=0: give seconds, more than 0, or None for no limit.")
def a_timeout_of_nothing() -> None:
    Joke(timeout=0)


@misuse(WorkflowValidationError, "Joke has num_concurrent_runs=0: give a whole number, 1 or more, or None.")
def no_runs_at_once() -> None:
    Joke(num_concurrent_runs=0)


@misuse(WorkflowValidationError, 'Joke has stalled=\'never\': give "fail" or "wait".')
def stalling_otherwise() -> None:
    Joke(stalled="never")


@pytest.mark.parametrize("case", misuse.built, ids=str)
def test_a_misuse_is_told_at_its_line(case: Case) -> None:
    assert case.told() == case.text
