"""`Resource`, and the signature of its factory: what is said of a misuse when the class is built."""

from typing import Annotated, Any

import attrs
import pytest
from misuses import Case, Misuses

from flowkit import (
    Context,
    InvalidWorkflow,
    Resource,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowValidationError,
    step,
)


class Topic(StartEvent):
    topic: str


class Connection:
    pass


def connect() -> Connection:
    return Connection()


@attrs.define
class Totals:
    count: int = 0


# ---------------------------------------------------------------------------------------------------- what fits


@pytest.mark.parametrize("wanted", [Connection, object, Connection | None, "Connection | str", Any])
async def test_what_a_factory_makes_may_fit_in_several_ways(wanted: Any) -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, db: Annotated[wanted, Resource(connect)]) -> StopEvent:
            return StopEvent(result=type(db))

    assert await Flow().run() is Connection


async def test_a_factory_that_does_not_say_what_it_makes() -> None:
    def anything():
        return Connection()

    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, db: Annotated[Connection, Resource(anything)]) -> StopEvent:
            return StopEvent(result=type(db))

    assert await Flow().run() is Connection


async def test_parameters_with_defaults_are_left_alone() -> None:
    def dial(host: str = "here", *hosts: str, **options: str) -> str:
        return host

    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, host: Annotated[str, Resource(dial)]) -> StopEvent:
            return StopEvent(result=host)

    assert await Flow().run() == "here"


async def test_a_factory_takes_the_start_event_by_its_type_or_a_base_of_it() -> None:
    def title(ev: Topic) -> str:
        return ev.topic.title()

    def fields(ev: StartEvent) -> list[str]:
        return ev.keys()

    class Flow(Workflow):
        @step
        async def work(
            self, ev: Topic, name: Annotated[str, Resource(title)], names: Annotated[list[str], Resource(fields)]
        ) -> StopEvent:
            return StopEvent(result=(name, names))

    assert await Flow().run(topic="pirates") == ("Pirates", ["topic"])


# ---------------------------------------------------------------------------------------------------------- misuses

misuse = Misuses()


@misuse(
    WorkflowValidationError,
    "Resource(3) has no factory: pass a function that makes the value, without calling it.",
)
def a_resource_that_was_called() -> None:
    Resource(3)


@misuse(WorkflowValidationError, 'Resource(connect) has scope=\'global\': write "workflow", "run" or "step".')
def a_scope_that_does_not_exist() -> None:
    Resource(connect, scope="global")


@misuse(
    WorkflowValidationError,
    "Resource(connect) has cache='run': write True or False; how long it is kept says scope=\"run\".",
)
def a_scope_by_position() -> None:
    Resource(connect, "run")


@misuse(
    WorkflowValidationError,
    "Resource(connect) has cache=False and scope='run': leave one of them out: cache=False means scope=\"step\".",
)
def a_scope_without_cache() -> None:
    Resource(connect, cache=False, scope="run")


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'db' of type Annotated[Connection, connect], which flowkit can't fill: derive "
    "Connection from Event if it is one, or inject it: db: Annotated[Connection, Resource(factory)]. (HERE)",
)
def a_factory_without_resource() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, db: Annotated[Connection, connect]) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter 'db' of type Resource(connect), which flowkit can't fill: write db: "
    "Annotated[T, Resource(factory)]. (HERE)",
)
def a_resource_without_annotated() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, db: Resource(connect)) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work wants 'db' to be str, but connect makes Connection: make the annotation and the factory's "
    "return type agree. (HERE)",
)
def a_resource_of_another_type() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, db: Annotated[str, Resource(connect)]) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work takes 'shop', but resource factory a_resource_that_needs_another_type.<locals>.open_shop (HERE)"
    " wants 'db' to be str, but connect makes Connection: make the annotation and the factory's return type "
    "agree. (HERE)",
)
def a_resource_that_needs_another_type() -> None:
    def open_shop(db: Annotated[str, Resource(connect)]) -> Totals:
        return Totals()

    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, shop: Annotated[Totals, Resource(open_shop)]) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work takes 'db', but resource factory a_factory_with_unknown_parameters.<locals>.dial (HERE) has a "
    "parameter 'host' that nobody can fill: annotate it with Context, the start event's type or Annotated[T, "
    "Resource(…)], or give it a default; resources are given by name. (HERE)",
)
def a_factory_with_unknown_parameters() -> None:
    def dial(host: str, port: int = 80) -> Connection:
        return Connection()

    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, db: Annotated[Connection, Resource(dial)]) -> StopEvent:
            return StopEvent()


def hen(egg: "Annotated[str, Resource(egg)]") -> str:
    return egg


def egg(hen: "Annotated[str, Resource(hen)]") -> str:
    return hen


@misuse(
    InvalidWorkflow,
    "Flow.work takes 'bird', but resource factory hen (THERE) depends on itself"
    " (hen -> egg -> hen): break the circle. (HERE)",
)
def a_circle() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, bird: Annotated[str, Resource(hen)]) -> StopEvent:
            return StopEvent()


def of_this_run(ctx: Context) -> Connection:
    return Connection()


@misuse(
    InvalidWorkflow,
    "Flow.work takes 'db', but resource factory of_this_run (THERE) has "
    'scope="workflow", but what it takes lives only for a run: write scope="run". (HERE)',
)
def a_scope_that_is_too_wide() -> None:
    class Flow(Workflow):
        @step
        async def work(
            self, ev: StartEvent, db: Annotated[Connection, Resource(of_this_run, scope="workflow")]
        ) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work takes a resource whose factory a_factory_for_another_start_event.<locals>.about needs a Topic: "
    "Flow starts with a StartEvent: let the factory take that. (HERE)",
)
def a_factory_for_another_start_event() -> None:
    def about(ev: Topic) -> Connection:
        return Connection()

    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, db: Annotated[Connection, Resource(about)]) -> StopEvent:
            return StopEvent()

    Flow().validate()


@misuse(
    StepFailed,
    "Error in step 'work': ResourceError: step 'work' wants 'db' to be Connection, but "
    "a_factory_that_lies.<locals>.lie made 'none' (str): let it make one, or change the annotation.",
)
async def a_factory_that_lies() -> None:
    def lie() -> Connection:
        return "none"

    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent, db: Annotated[Connection, Resource(lie)]) -> StopEvent:
            return StopEvent()

    await Flow().run()


@pytest.mark.parametrize("case", misuse.built, ids=str)
def test_a_misuse_is_told_when_the_class_is_built(case: Case) -> None:
    assert case.told() == case.text


@pytest.mark.parametrize("case", misuse.run, ids=str)
async def test_a_misuse_is_told_at_the_first_use(case: Case) -> None:
    assert await case.told_in_a_loop() == case.text


async def test_a_static_method_is_named_in_the_body_of_its_class() -> None:
    class Connected(Workflow):
        @staticmethod
        async def connect() -> Connection:
            return Connection()

        @step
        async def use(self, ev: StartEvent, connection: Annotated[Connection, Resource(connect)]) -> StopEvent:
            return StopEvent(result=connection)

    assert isinstance(await Connected().run(), Connection)
