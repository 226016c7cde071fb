"""`@step` and `@catch_error`: what they accept, and what they say of what they don't."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from misuses import Case, Misuses

from flowkit import (
    Collect,
    Event,
    InvalidWorkflow,
    StartEvent,
    StepFailedEvent,
    StopEvent,
    Take,
    Workflow,
    WorkflowValidationError,
    catch_error,
    step,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.steps import GENERAL


class Part(Event):
    n: int = 0


class Connection:
    pass


# ----------------------------------------------------------------------------------------------------- its options


def test_atomic_and_aliases_are_noted() -> None:
    class Flow(Workflow):
        @step(atomic=True, aliases=("begin", "first"))
        async def one(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

        @step
        async def other(self, ev: Part) -> None:
            return None

        @catch_error(aliases=["rescue"])
        async def caught(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent()

    one, other, caught = Flow(disable_validation=True)._plan().steps
    assert (one.options.atomic, one.options.aliases, one.shape) == (True, ("begin", "first"), GENERAL)
    assert (other.options.atomic, other.options.aliases) == (False, ())
    assert caught.options.aliases == ("rescue",)


# ----------------------------------------------------------------------------------------------- what can be a step


async def test_with_and_without_parentheses() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> Part:
            return Part(1)

        @step()
        async def two(self, ev: Part) -> StopEvent:
            return StopEvent(result=ev.n)

    assert await Flow().run() == 1


async def test_a_decorated_method_is_still_the_method() -> None:
    class Flow(Workflow):
        @step(num_workers=2)
        async def work(self, ev: StartEvent) -> StopEvent:
            """Says hello."""
            return StopEvent(result=ev.name)

    assert Flow.work.__doc__ == "Says hello."
    assert await Flow().work(StartEvent(name="Ada")) == StopEvent(result="Ada")


@pytest.mark.parametrize("decorate", [lambda f: step(staticmethod(f)), lambda f: staticmethod(step(f))])
async def test_a_static_method(decorate: Callable[..., Any]) -> None:
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent(result="static")

    flow = type("Flow", (Workflow,), {"work": decorate(work)})
    assert await flow().run() == "static"


async def test_a_free_function_for_an_instance() -> None:
    workflow = Workflow()

    @step(workflow=workflow)
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent(result="free")

    assert await workflow.run() == "free"
    assert Workflow().step_names() == ()


async def test_a_free_function_for_a_class_and_its_subclasses() -> None:
    class Flow(Workflow):
        pass

    class Sub(Flow):
        pass

    @step(workflow=Flow)
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent(result="free")

    assert [await Flow().run(), await Sub().run()] == ["free", "free"]


async def test_one_function_for_two_workflows() -> None:
    one, two = Workflow(), Workflow()

    @step(workflow=one)
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent(result="shared")

    step(workflow=two)(work)
    assert [await one.run(), await two.run()] == ["shared", "shared"]


async def test_what_can_be_called_can_be_added() -> None:
    class Greeter:
        async def greet(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=f"{self.words} {ev.name}")

        async def __call__(self, ev: StartEvent) -> StopEvent:
            return await self.greet(ev)

        words = "Hello"

    async def greet(words: str, ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"{words} {ev.name}")

    for function in (Greeter(), Greeter().greet, functools.partial(greet, "Hello")):
        workflow = Workflow()
        step(workflow=workflow)(function)
        assert await workflow.run(name="Ada") == "Hello Ada"


@pytest.mark.parametrize("order", ["step outside", "step inside"])
async def test_together_with_a_decorator_that_wraps(order: str) -> None:
    def twice(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def wrapper(*args: Any) -> Any:
            await function(*args)
            return await function(*args)

        return wrapper

    calls: list[str] = []

    async def work(self: Workflow, ev: StartEvent) -> StopEvent:
        calls.append("work")
        return StopEvent()

    body = step(twice(work)) if order == "step outside" else twice(step(work))
    await type("Flow", (Workflow,), {"work": body})().run()
    assert calls == ["work", "work"]


def test_a_step_of_another_name() -> None:
    class Flow(Workflow):
        @step(name="write a joke")
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    assert Flow().step_names() == ("write a joke",)


def test_defining_an_added_function_again_replaces_it() -> None:
    # As when a notebook's cell is run twice.
    workflow = Workflow()
    for _ in range(2):

        @step(workflow=workflow)
        async def work(ev: StartEvent) -> StopEvent:
            return StopEvent()

    assert workflow.step_names() == ("work",)


def test_functions_are_no_names() -> None:
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent()

    with pytest.raises(WorkflowValidationError, match=r"give a list of step names, for_steps=\['work'\]"):
        catch_error(for_steps=[work])(work)


def test_a_faulty_function_is_not_added() -> None:
    workflow = Workflow()
    with pytest.raises(InvalidWorkflow):

        @step(workflow=workflow)
        async def work(limit: int) -> StopEvent:
            return StopEvent()

    assert workflow.step_names() == ()


# ---------------------------------------------------------------------------------------------------------- misuses

misuse = Misuses()


@misuse(
    WorkflowValidationError,
    "@step was given 2: write @step above a function, and options by name, as in @step(num_workers=2). (HERE)",
)
def options_by_position() -> None:
    step(2)


@misuse(
    WorkflowValidationError,
    "@step was given the workflow Flow: decorate its methods, or write @step(workflow=Flow) above a function. (HERE)",
)
def above_a_workflow() -> None:
    @step
    class Flow(Workflow):
        pass


@misuse(
    WorkflowValidationError,
    "@step was given the class Connection: decorate the methods of a Workflow subclass. (HERE)",
)
def above_a_class() -> None:
    step(Connection)


@misuse(
    WorkflowValidationError,
    "@step was given a property: a step is a plain method: take the other decorator off. (HERE)",
)
def above_a_property() -> None:
    class Flow(Workflow):
        @step
        @property
        def work(self) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work is a property around a step: take that decorator off: a step is a plain method. (HERE)",
)
def under_a_property() -> None:
    class Flow(Workflow):
        @property
        @step
        def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    WorkflowValidationError,
    "@step was given a classmethod: a step is a plain method: take the other decorator off. (HERE)",
)
def above_a_classmethod() -> None:
    class Flow(Workflow):
        @step
        @classmethod
        async def work(cls, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.work is a classmethod around a step: take that decorator off: a step is a plain method. (HERE)",
)
def under_a_classmethod() -> None:
    class Flow(Workflow):
        @classmethod
        @step
        async def work(cls, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    WorkflowValidationError,
    "Flow.work is decorated as a step twice: keep one decorator, with all options. (HERE)",
)
def twice() -> None:
    class Flow(Workflow):
        @step
        @step(num_workers=1)
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    WorkflowValidationError,
    "work is a step already, with other options: define a function for each, or keep the options. (HERE)",
)
def shared_with_other_options() -> None:
    @step(workflow=Workflow())
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent()

    step(workflow=Workflow(), num_workers=1)(work)


@misuse(WorkflowValidationError, "Flow.work has num_workers=0: give a whole number, 1 or more. (HERE)")
def no_workers() -> None:
    class Flow(Workflow):
        @step(num_workers=0)
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(WorkflowValidationError, "Flow.work has timeout=0: give seconds, more than 0, or None. (HERE)")
def no_time() -> None:
    class Flow(Workflow):
        @step(timeout=0)
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    WorkflowValidationError,
    "Flow.work has retry_policy=ConstantDelayRetryPolicy, which is no policy: give an object with "
    "next(elapsed_time, attempts, error), such as ConstantDelayRetryPolicy(maximum_attempts=3, delay=5). "
    "(HERE)",
)
def a_policy_that_is_a_class() -> None:
    class Flow(Workflow):
        @step(retry_policy=ConstantDelayRetryPolicy)
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    WorkflowValidationError,
    "Flow.work has retry_policy=3, which is no policy: give an object with next(elapsed_time, attempts, "
    "error), such as ConstantDelayRetryPolicy(maximum_attempts=3, delay=5). (HERE)",
)
def a_policy_that_is_a_number() -> None:
    class Flow(Workflow):
        @step(retry_policy=3)
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    WorkflowValidationError,
    "Flow.work has name=3: give a string, or leave it out: the function's name is used. (HERE)",
)
def a_name_that_is_no_text() -> None:
    class Flow(Workflow):
        @step(name=3)
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(WorkflowValidationError, "work has workflow='Flow': give a Workflow class or instance. (HERE)")
def for_no_workflow() -> None:
    @step(workflow="Flow")
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent()


@misuse(
    WorkflowValidationError,
    "work was to be a step of Workflow itself, and so of every workflow: add it to a subclass, or to an "
    "instance, w = Workflow().",
)
def for_every_workflow() -> None:
    @step(workflow=Workflow)
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent()


@misuse(
    InvalidWorkflow,
    "Target.work has a parameter 'self' without annotation: leave workflow= out above a method, or take self "
    "out of a free function. (HERE)",
)
def a_method_for_another_workflow() -> None:
    class Target(Workflow):
        pass

    class Flow(Workflow):
        @step(workflow=Target)
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    WorkflowValidationError,
    "Workflow.add_step got add_step_without_decorator.<locals>.work, which is no step: write @step above it, "
    "or add it by @step(workflow=…). (HERE)",
)
def add_step_without_decorator() -> None:
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent()

    Workflow().add_step(work)


@misuse(
    InvalidWorkflow,
    "Flow.work has a parameter *args: Any: name and annotate each parameter, the wiring is read from them (if "
    "this is a decorator's wrapper: functools.wraps shows what it wraps). (HERE)\n"
    "Flow.work has a parameter **kwargs: Any: name and annotate each parameter, the wiring is read from them "
    "(if this is a decorator's wrapper: functools.wraps shows what it wraps). (HERE)\n"
    "Flow.work is annotated to return Any: return None, an event, or a list of events; put anything else into "
    "a field of an event, as in StopEvent(result=…). (HERE)",
)
def a_wrapper_that_hides_what_it_wraps() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    class Flow(Workflow):
        @step
        @logged
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent()


@misuse(
    WorkflowValidationError,
    "instead has for_steps='work': give a list of step names, for_steps=['work']. (HERE)",
)
def covering_one_name() -> None:
    @catch_error(for_steps="work")
    async def instead(ev: StepFailedEvent) -> StopEvent:
        return StopEvent()


@misuse(
    WorkflowValidationError,
    "instead has for_steps=[3]: give a list of step names, for_steps=['name']. (HERE)",
)
def covering_by_number() -> None:
    @catch_error(for_steps=[3])
    async def instead(ev: StepFailedEvent) -> StopEvent:
        return StopEvent()


@misuse(
    WorkflowValidationError,
    "instead has for_steps=[], so it covers no step: name some, or leave for_steps out to cover all. (HERE)",
)
def covering_nothing() -> None:
    @catch_error(for_steps=[])
    async def instead(ev: StepFailedEvent) -> StopEvent:
        return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.instead is a @catch_error step, but 'ev' is no StepFailedEvent: annotate it, ev: StepFailedEvent. (HERE)",
)
def catching_another_event() -> None:
    class Flow(Workflow):
        @catch_error
        async def instead(self, ev: Part) -> StopEvent:
            return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.instead takes a StepFailedEvent: decorate it with @catch_error instead of @step. (HERE)",
)
def catching_without_catch_error() -> None:
    class Flow(Workflow):
        @step
        async def instead(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent()


@misuse(WorkflowValidationError, "work has atomic='yes': give True or False. (HERE)")
def atomic_in_words() -> None:
    @step(atomic="yes")
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent()


@misuse(WorkflowValidationError, "work has aliases='old': give a list of step names, aliases=['old']. (HERE)")
def an_alias_without_a_list() -> None:
    @step(aliases="old")
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent()


@misuse(WorkflowValidationError, "instead has aliases=[3]: give a list of step names, aliases=['name']. (HERE)")
def an_alias_that_is_a_number() -> None:
    @catch_error(aliases=[3])
    async def instead(ev: StepFailedEvent) -> StopEvent:
        return StopEvent()


@misuse(WorkflowValidationError, "work has aliases=['']: leave the empty name out. (HERE)")
def an_empty_alias() -> None:
    @step(aliases=[""])
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent()


@misuse(
    InvalidWorkflow,
    "Flow.two has the alias 'one', which is a step's name, at HERE: leave it out: a step of that name goes on with its "
    "runs. (HERE)\n"
    "Flow.two has the alias 'was' twice: write it once. (HERE)\n"
    "Flow.caught has the alias 'was', as 'two' has: leave it out of one of them. (HERE)",
)
def aliases_that_mean_two_steps() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> Part:
            return Part(1)

        @step(aliases=["one", "was", "was"])
        async def two(self, ev: Part) -> StopEvent:
            return StopEvent()

        @catch_error(aliases=["was"])
        async def caught(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent()


@misuse(WorkflowValidationError, "Take(n) got n=0: give a whole number, 1 or more.")
def take_nothing() -> None:
    Take(0)


@misuse(WorkflowValidationError, "Collect got 3: give All() or Take(n), as in Collect(Take(3)).")
def collect_a_number() -> None:
    Collect(3)


@pytest.mark.parametrize("case", misuse.built, ids=str)
def test_a_misuse_is_told_at_its_line(case: Case) -> None:
    assert case.told() == case.text
