"""A step's signature: what is read from it, and what is said where that can't be."""

from collections.abc import Awaitable
from typing import Annotated, Any, Generic, List, Optional, TypeVar, Union  # noqa: UP035 - as users write them

import attrs
import pytest
from misuses import Case, Misuses

from flowkit import (
    Collect,
    Context,
    Event,
    InvalidWorkflow,
    Resource,
    StartEvent,
    StopEvent,
    Take,
    Workflow,
    step,
)


class Part(Event):
    n: int = 0


class Other(Event):
    name: str


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


# ------------------------------------------------------------------------------------------------------- what is read


async def test_parameters_in_any_order_and_by_keyword() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent, ctx: Context) -> Part:
            await ctx.set("seen", "one")
            return Part(1)

        @step
        async def two(
            self, db: Annotated[Connection, Resource(connect)], *, ctx: Context[Any], part: Part
        ) -> StopEvent:
            return StopEvent(result=(await ctx.get("seen"), part, type(db)))

    assert await Flow().run() == ("one", Part(1), Connection)


async def test_a_default_value_of_the_event_is_never_used() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent = StartEvent(n=1)) -> StopEvent:  # noqa: B008
            return StopEvent(result=ev.n)

    assert await Flow().run(n=2) == 2


@pytest.mark.parametrize(
    "accepted",
    [
        Part | Other,
        Union[Part, Other],  # noqa: UP007
        Annotated[Part | Other, "documented"],
        "Part | Other",
        Union["Part", "Other"],
    ],
)
async def test_a_union_takes_each(accepted: Any) -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Part | Other:
            return ev.event

        @step
        async def work(self, ev: accepted) -> StopEvent:
            return StopEvent(result=ev)

    assert await Flow().run(event=Part(1)) == Part(1)
    assert await Flow().run(event=Other(name="Ada")) == Other(name="Ada")


@pytest.mark.parametrize("listed", [list[Part], List[Part], list["Part"], "list[Part]", "list['Part']"])  # noqa: UP006
async def test_lists_in_both_directions(listed: Any) -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> listed:
            return [Part(1), Part(2)]

        @step
        async def join(self, evs: listed) -> StopEvent:
            return StopEvent(result=evs)

    assert await Flow().run() == [Part(1), Part(2)]


@pytest.mark.parametrize("returned", [Optional[StopEvent], StopEvent | None, "StopEvent | None"])  # noqa: UP045
async def test_nothing_or_an_event(returned: Any) -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> returned:
            return StopEvent(result=3)

    assert await Flow().run() == 3


async def test_a_generic_event() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Box[int]:
            return Box[int](item=3)

        @step
        async def work(self, ev: Box[int]) -> StopEvent:
            return StopEvent(result=ev.item)

    assert await Flow().run() == 3


async def test_typed_state_is_read_from_the_context() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: "Context[Totals]", ev: StartEvent) -> StopEvent:
            async with ctx.store.edit_state() as state:
                state.count += 1
            return StopEvent(result=await ctx.get("count"))

    assert await Flow().run() == 1


@pytest.mark.parametrize("kind", [Context, Context[Any], Context[dict[str, int]], "Context", "Context['dict']"])
async def test_a_context_of_a_dictionary(kind: Any) -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: kind, ev: StartEvent) -> StopEvent:
            await ctx.set("count", 1)
            return StopEvent(result=await ctx.store.get_state())

    assert await Flow().run() == {"count": 1}


# ---------------------------------------------------------------------------------------------------- inheritance


async def test_a_step_is_overridden_by_a_step() -> None:
    class Base(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Part:
            return Part(1)

        @step
        async def work(self, ev: Part) -> StopEvent:
            return StopEvent(result="base")

    class Sub(Base):
        @step
        async def work(self, ev: Part) -> StopEvent:
            return StopEvent(result=("sub", (await super().work(ev)).result))

    assert await Sub().run() == ("sub", "base")
    assert await Base().run() == "base"


def test_a_step_is_taken_out_by_what_is_no_step() -> None:
    class Base(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

        @step
        async def other(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    class Sub(Base):
        other = None

    assert Sub().step_names() == ("work",)


async def test_steps_from_a_mixin_that_is_no_workflow() -> None:
    class Ending:
        @step
        async def work(self, ev: Part) -> StopEvent:
            return StopEvent(result=ev.n)

    class Flow(Ending, Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Part:
            return Part(1)

    assert await Flow().run() == 1


async def test_a_workflow_whose_init_does_not_call_super() -> None:
    class Flow(Workflow):
        def __init__(self, words: str) -> None:
            self.words = words

        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=self.words)

    assert await Flow("Hello").run() == "Hello"


async def test_an_attribute_of_an_instance_does_not_hide_a_step() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    workflow = Flow()
    workflow.work = None
    assert await workflow.run() == 1


# ---------------------------------------------------------------------------------------------------------- misuses

misuse = Misuses()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'ev' without annotation: annotate it: ev: MyEvent, ev: Context, or ev: "
    "Annotated[T, Resource(factory)]. (HERE)\n"
    "Flow.work has no return annotation: say what it returns: -> MyEvent, -> StopEvent, -> A | B | None, or ->"
    " list[A]. (HERE)",
)
def nothing_is_annotated() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev):
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work can't be wired, in parameter 'ev', annotated 'Strat', a name isn't defined (name 'Strat' is not"
    " defined): define it in the module or in the function that holds the workflow, or import it, and not only"
    " under TYPE_CHECKING. (HERE)",
)
def a_name_that_is_never_defined() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: "Strat") -> StopEvent:  # noqa: F821
            return StopEvent()

    Flow().validate()


@misuse(
    InvalidWorkflow,
    "Flow.work has in parameter 'ev' the annotation 'StartEvent |', which can't be evaluated (SyntaxError: "
    "invalid syntax (<string>, line 1)): write a type. (HERE)",
)
def an_annotation_with_a_slip() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: "StartEvent |") -> StopEvent:  # noqa: F722
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'ev' of type StartEvent | None, which flowkit can't fill: leave None out, it is"
    " always given: ev: StartEvent. (HERE)",
)
def an_optional_event() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: Optional[StartEvent]) -> StopEvent:  # noqa: UP045
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'limit' of type int, which flowkit can't fill: take it from the event or the "
    "context, or inject it: limit: Annotated[int, Resource(factory)]. (HERE)",
)
def something_else_than_an_event() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, limit: int) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'ev' of type Connection, which flowkit can't fill: derive Connection from Event"
    " if it is one, or inject it: ev: Annotated[Connection, Resource(factory)]. (HERE)",
)
def a_class_that_is_no_event() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: Connection) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'ev' of type Part(n=1), which flowkit can't fill: write the class, Part. (HERE)",
)
def an_event_instead_of_its_class() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: Part(1)) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'ev' of type type[Part], which flowkit can't fill: write Part. (HERE)",
)
def the_type_of_an_event_class() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: type[Part]) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'ev' of type T, which flowkit can't fill: name the event classes, A | B: the "
    "wiring is read before any event is there. (HERE)",
)
def any_type_at_all() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: T) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'evs' of type dict[str, Part], which flowkit can't fill: write list[Part]. (HERE)",
)
def a_dictionary_of_events() -> None:
    class Flow(Workflow):
        @step
        async def work(self, evs: dict[str, Part]) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'evs' of type tuple[Part, Other], which flowkit can't fill: write list[Part | "
    "Other]. (HERE)",
)
def a_tuple_of_events() -> None:
    class Flow(Workflow):
        @step
        async def work(self, evs: tuple[Part, Other]) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'evs' of type list, which flowkit can't fill: say of what, list[MyEvent]. (HERE)",
)
def a_list_of_anything() -> None:
    class Flow(Workflow):
        @step
        async def work(self, evs: list) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'evs' of type list[Part] | list[Other], which flowkit can't fill: write "
    "list[Part | Other]. (HERE)",
)
def one_list_or_another() -> None:
    class Flow(Workflow):
        @step
        async def work(self, evs: list[Part] | list[Other]) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has 2 event parameters, 'first' and 'second': take one: a union such as `ev: A | B` runs for "
    "each, and ctx.collect_events waits for several. (HERE)",
)
def several_events() -> None:
    class Flow(Workflow):
        @step
        async def work(self, first: Part, second: Other) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'limit' of type int, which flowkit can't fill: take it from the event or the context, "
    "or inject it: limit: Annotated[int, Resource(factory)]. (HERE)\n"
    "Flow.work has 2 event parameters, 'first' and 'second': take one: a union such as `ev: A | B` runs for each, and "
    "ctx.collect_events waits for several. (HERE)\n"
    "Flow.work has no return annotation: say what it returns: -> MyEvent, -> StopEvent, -> A | B | None, or -> "
    "list[A]. (HERE)\n"
    "Flow.play is a generator: return a list of events, or call ctx.send_event for each. (HERE)",
)
def everything_at_once() -> None:
    class Flow(Workflow):
        @step
        async def work(self, first: Part, limit: int, second: Other):
            return StopEvent()

        @step
        async def play(self, ev: StartEvent) -> StopEvent:
            yield StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work takes no event: give it one parameter annotated with the event class it is for. (HERE)",
)
def no_event() -> None:
    class Flow(Workflow):
        @step
        async def work(self) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has no self, its first parameter is 'ctx': give it self before that: a step in a class is a "
    "method. (HERE)",
)
def self_forgotten() -> None:
    class Flow(Workflow):
        @step
        async def work(ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has no self: give it self as its first parameter: a step in a class is a method. (HERE)",
)
def self_and_all_else_forgotten() -> None:
    class Flow(Workflow):
        @step
        async def work() -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter *args: int: name and annotate each parameter, the wiring is read from them (if "
    "this is a decorator's wrapper: functools.wraps shows what it wraps). (HERE)",
)
def any_arguments() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, *args: int) -> StopEvent:
            return StopEvent()


@misuse(InvalidWorkflow, "Flow.work has a positional-only parameter 'ev': take the / out. (HERE)")
def by_position_only() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, /) -> StopEvent:
            return StopEvent()


@misuse(InvalidWorkflow, "Flow.work has two Context parameters, 'one' and 'two': keep one. (HERE)")
def two_contexts() -> None:
    class Flow(Workflow):
        @step
        async def work(self, one: Context, two: Context, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'ctx' of type Context | None, which flowkit can't fill: leave None out, it is "
    "always given: ctx: Context. (HERE)",
)
def a_context_perhaps() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, ctx: Context | None = None) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a Context[int], and int is no attrs class: decorate the state's class with @attrs.define, "
    "or write Context for a dictionary. (HERE)",
)
def state_that_is_a_number() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: Context[int], ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work is a generator: return a list of events, or call ctx.send_event for each. (HERE)",
)
def a_generator() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            yield StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work collects 'ev', which is no list: write Annotated[list[StartEvent], Collect(…)]. (HERE)",
)
def collecting_one_event() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: Annotated[StartEvent, Collect(Take(2))]) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has for 'evs' the annotation Annotated[list[Part], Take(n=2)]: write Annotated[list[E], "
    "Collect(Take(3))], or Collect(All()). (HERE)",
)
def take_without_collect() -> None:
    class Flow(Workflow):
        @step
        async def work(self, evs: Annotated[list[Part], Take(2)]) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work takes StopEvent, but a StopEvent ends the run and no step sees it: take another event, and "
    "return the StopEvent from here. (HERE)",
)
def taking_a_stop_event() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StopEvent) -> StopEvent:
            return ev


@misuse(
    InvalidWorkflow,
    "Flow.work is annotated to return int: return None, an event, or a list of events; put anything else into "
    "a field of an event, as in StopEvent(result=…). (HERE)",
)
def returning_a_number() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> int:
            return 3


@misuse(InvalidWorkflow, "Flow.work is annotated to return tuple[Part, Other]: write list[Part | Other]. (HERE)")
def returning_a_tuple() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> tuple[Part, Other]:
            return Part(), Other(name="")


@misuse(InvalidWorkflow, "Flow.work is annotated to return list[Part | None]: leave None out of the list. (HERE)")
def returning_holes_in_a_list() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> list[Part | None]:
            return [None]


@misuse(
    InvalidWorkflow,
    "Flow.work is annotated to return Awaitable[StopEvent]: write what awaiting it gives, StopEvent. (HERE)",
)
def returning_an_awaitable() -> None:
    class Flow(Workflow):
        @step
        def work(self, ev: StartEvent) -> Awaitable[StopEvent]:
            raise NotImplementedError


@misuse(
    InvalidWorkflow,
    "Flow.run hides Workflow.run: call the method something else (@step(name='run') keeps the step's name). (HERE)",
)
def a_step_called_run() -> None:
    class Flow(Workflow):
        @step
        async def run(self, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work is the name of two steps, here and at HERE: give one of them another with @step(name=…). (HERE)",
)
def two_steps_of_one_name() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

        @step(name="work")
        async def play(self, ev: StartEvent) -> StopEvent:
            return StopEvent()


@pytest.mark.parametrize("case", misuse.built, ids=str)
def test_a_misuse_is_told_at_its_line(case: Case) -> None:
    assert case.told() == case.text
