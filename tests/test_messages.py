"""Every error says what, where and what to write instead, keeps its facts, and survives being copied and pickled.

Misuses of definitions are in test_decorators, test_signatures, test_factories and test_wiring, those of events in
test_fields, those of the state in test_state.
"""

import copy
import inspect
import pickle
import re
import threading
from typing import Any

import anyio
import attrs
import pytest
from misuses import Case, Misuses, inside

from flowkit import (
    Context,
    ContextInUse,
    Event,
    EventError,
    HumanResponseEvent,
    InvalidWorkflow,
    MisdirectedEvent,
    NoEventLoop,
    RunFinished,
    StartEvent,
    StepFailed,
    StopEvent,
    UnhandledEventWarning,
    WaitTimedOut,
    Workflow,
    WorkflowError,
    WorkflowValidationError,
    WrongCall,
    errors,
    step,
)
from flowkit.memory_store import MemoryStore


class Part(Event):
    n: int = 0


class Other(Event):
    name: str
    tags: tuple[str, ...] = ()


class Topic(StartEvent):
    topic: str


class Joke(Workflow):
    @step
    async def tell(self, ev: Topic) -> StopEvent:
        return StopEvent(result=ev.topic)


class Slow(Workflow):
    """While its step ``second`` still runs, ``first`` has returned; its context is ``kept``."""

    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Part:
        self.kept = ctx
        return Part()

    @step
    async def second(self, ev: Part) -> StopEvent:
        await anyio.sleep(10)
        return StopEvent()


@attrs.define
class Totals:
    count: int = 0


# ------------------------------------------------------------------------------------------------------------ the tree

CLASSES = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, Exception) and cls.__module__ == "flowkit.errors"
]

SPECIMENS: list[Exception] = [
    errors.WorkflowError("something", fact=3),
    errors.WorkflowValidationError(
        "has no steps", cure="write one", workflow="Flow", where="flow.py:3", kind="no-steps"
    ),
    errors.InvalidWorkflow("Flow", [errors.WorkflowValidationError("is wrong"), errors.WorkflowValidationError("too")]),
    errors.EventError("Part needs 'n'", cure="write Part(n=…)", event="Part", field="n"),
    errors.UnknownField("Part", "m", ["n"]),
    errors.FrozenEvent("Part is frozen", cure="replace it", event="Part", field="n"),
    errors.SerializationError("a lock can't be stored", path="$.lock", cure="leave it out"),
    errors.WorkflowRuntimeError("something"),
    errors.StepFailed("work", Part(1), 2, ValueError("no")),
    errors.WrongReturn("Flow", "work", Part, "StopEvent", "flow.py:3"),
    errors.WorkflowTimeoutError("Flow", 5.0, ["work"]),
    errors.WorkflowStalled("Flow", ["step 'join' waits"], [Part(1)], ["step 'work'"]),
    errors.WorkflowCancelled("Flow", "its owner was cancelled"),
    errors.WorkflowCancelledByUser("Flow", "cancel_run() was called"),
    errors.WaitTimedOut("ask", "Reply", 5.0),
    errors.WrongCall("send_event", "takes an event", "build one"),
    errors.RunFinished("Flow", "send_event(Part)"),
    errors.MisdirectedEvent("Flow", "wrok", Part(1), steps=["work"]),
    errors.ContextInUse("Flow"),
    errors.UnknownKey("naem", ["name"]),
    errors.StateError("a key is a string", "write str(…)"),
    errors.ResourceError("connect could not be built", resource="connect"),
    errors.NoEventLoop("Flow"),
    errors.ImpossibleFact("it returned twice"),
]


def test_there_is_a_specimen_of_each_error() -> None:
    warnings = {errors.UnhandledEventWarning, errors.CleanupFailedWarning}
    assert {type(error) for error in SPECIMENS} == {*CLASSES} - warnings


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: list[tuple[int, str, list[str]]] = [
        (len(found[1]), found[2], re.findall(r"\w+", found[3] or ""))
        for found in re.finditer(r"^    ([│├└─ ]*)(\w+)(?: \(([\w, ]+)\))?(?:  |$)", errors.__doc__ or "", re.MULTILINE)
    ]
    above: dict[int, str] = {}
    tree: dict[str, set[str]] = {}
    for depth, name, others in drawn:
        above[depth] = name
        tree[name] = {*others, *([above[depth - 4]] if depth else [])}
    assert tree.keys() == {cls.__name__ for cls in CLASSES}
    for cls in CLASSES:
        bases = {base.__name__ for base in cls.__bases__} - {"Exception", "RuntimeError", "ExceptionGroup"}
        assert tree[cls.__name__] == bases


@pytest.mark.parametrize("error", SPECIMENS, ids=lambda error: type(error).__name__)
def test_an_error_keeps_its_facts(error: Exception) -> None:
    declared = {name for cls in type(error).__mro__ for name in inspect.get_annotations(cls)}
    assert [name for name in declared if not hasattr(error, name)] == []
    assert str(error).strip()
    assert not str(error).endswith(("..", ":.", "?."))


@pytest.mark.parametrize("error", SPECIMENS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, *(lambda one, n=n: pickle.loads(pickle.dumps(one, n)) for n in (2, 5))],
    ids=["copy", "deepcopy", "pickle 2", "pickle 5"],
)
def test_an_error_survives_being_copied(error: Exception, again: Any) -> None:
    other = again(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert facts(other) == facts(error)
    assert repr(other.__cause__) == repr(error.__cause__)


def facts(error: BaseException) -> dict[str, Any]:
    if isinstance(error, InvalidWorkflow):
        return {"workflow": error.workflow, "faults": [facts(fault) for fault in error.exceptions]}
    return vars(error)


def test_notes_and_others_survive_too() -> None:
    error = StepFailed("work", Part(1), 1, ValueError("no"))
    error.others = (KeyError("k"),)
    error.add_note("on a Monday")
    other = pickle.loads(pickle.dumps(error))
    assert other.__notes__ == ["on a Monday"]
    assert str(other) == "Error in step 'work': ValueError: no (also failed: KeyError: 'k'; see .others)"


def test_many_others_are_counted() -> None:
    error = StepFailed("work", Part(1), 3, ValueError())
    error.others = tuple(ValueError(n) for n in range(5))
    assert str(error) == (
        "Error in step 'work': ValueError (after 3 attempts) "
        "(also failed: ValueError: 0; ValueError: 1; ValueError: 2 and 2 more; see .others)"
    )


class Untold(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (Untold(), "Untold: (its text raises RuntimeError)"),
        (
            ExceptionGroup("unhandled errors in a TaskGroup", [ValueError("no"), ExceptionGroup("x", [OSError()])]),
            "ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions): ValueError: no; "
            "ExceptionGroup: x (1 sub-exception): OSError",
        ),
        (
            ExceptionGroup("many", [KeyError(n) for n in range(5)]),
            "ExceptionGroup: many (5 sub-exceptions): KeyError: 0; KeyError: 1; KeyError: 2 and 2 more",
        ),
    ],
)
def test_a_step_s_failure_says_what_it_was(cause: Exception, told: str) -> None:
    assert str(StepFailed("work", Part(1), 1, cause)) == f"Error in step 'work': {told}"


@pytest.mark.parametrize("stored", [False, True])
async def test_an_error_without_a_text_fails_its_run_as_any_other(stored: bool) -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise Untold

    store = MemoryStore() if stored else None
    with pytest.raises(StepFailed) as failed:
        await Flow().run(store=store, run_id="a" if stored else None)
    assert type(failed.value.__cause__) is Untold
    if store is not None:
        assert [one.status for one in store.find()] == ["failed"]


def test_many_known_keys_are_counted() -> None:
    assert "'k19' and 80 more" in str(errors.UnknownKey("x", (f"k{n}" for n in range(100))))


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.WorkflowValidationError, ValueError),
        (errors.InvalidWorkflow, ExceptionGroup),
        (errors.EventError, TypeError),
        (errors.UnknownField, AttributeError),
        (errors.UnknownField, KeyError),
        (errors.FrozenEvent, AttributeError),
        (errors.WorkflowTimeoutError, TimeoutError),
        (errors.WaitTimedOut, TimeoutError),
        (errors.UnknownKey, KeyError),
        (errors.WorkflowRuntimeError, RuntimeError),
        (errors.UnhandledEventWarning, UserWarning),
        (errors.CleanupFailedWarning, RuntimeWarning),
    ],
)
def test_an_error_is_what_python_would_raise(kind: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)
    assert issubclass(kind, WorkflowError | Warning)


def test_a_faults_facts_say_where_it_is() -> None:
    with pytest.raises(InvalidWorkflow) as invalid:

        class Flow(Workflow):
            @step
            async def work(self, ev: StartEvent, limit: int) -> StopEvent:
                return StopEvent()

    (fault,) = invalid.value.exceptions
    assert isinstance(fault, WorkflowValidationError)
    assert (fault.workflow, fault.step, fault.kind) == ("Flow", "work", "parameter")
    assert fault.where == f"{__file__}:{inspect.getsourcelines(test_a_faults_facts_say_where_it_is)[1] + 4}"
    assert str(fault) == f"Flow.work {fault.problem}: {fault.cure}. ({fault.where})"


# ------------------------------------------------------------------------------------------------------------- run

misuse = Misuses()


@misuse(
    NoEventLoop,
    "Joke.run() needs a running event loop: call it in an async function and start that with "
    "asyncio.run(main()), trio.run(main) or anyio.run(main).",
)
def outside_a_loop() -> None:
    Joke().run(topic="pirates")


@misuse(EventError, "Joke.run(): Topic needs 'topic': write run(topic=…).")
async def without_the_topic() -> None:
    await Joke().run()


@misuse(
    EventError,
    "Joke.run(): Topic has no field 'topci' (given 'pirates') and needs 'topic': it takes topic; did you mean 'topic'?",
)
async def with_a_misspelt_topic() -> None:
    await Joke().run(topci="pirates")


@misuse(
    WrongCall,
    "Joke.run() got start_event and the fields topic: put them into the event, start_event=Topic(…).",
)
async def with_event_and_fields() -> None:
    await Joke().run(start_event=Topic("pirates"), topic="pirates")


@misuse(
    WrongCall,
    "Joke.run() takes a Topic as start_event, but got Part(n=0): build one, Topic(…), or give its fields to run().",
)
async def with_another_event() -> None:
    await Joke().run(start_event=Part())


@misuse(
    WrongCall,
    "Joke.run() takes a Context as ctx, but got Topic(topic='pirates'): give the event by name, run(start_event=…).",
)
async def with_the_event_by_position() -> None:
    await Joke().run(Topic("pirates"))


@misuse(WrongCall, "Joke.run() takes a string as run_id, but got 3: write str(…).")
async def with_a_run_id_that_is_no_text() -> None:
    await Joke().run(topic="pirates", run_id=3)


@misuse(
    WrongCall,
    "Joke.run() got a context whose state is a Totals, but its steps take a dictionary: make one of its own.",
)
async def with_the_state_of_another_workflow() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: Context[Totals], ev: StartEvent) -> StopEvent:
            return StopEvent()

    await Joke().run(ctx=Context(Flow()), topic="pirates")


@misuse(
    ContextInUse,
    "this context still drives a run of Slow: await that run first, or give the new one its own context.",
)
async def with_a_context_in_use() -> None:
    workflow = Slow()
    ctx: Context[Any] = Context(workflow)
    async with workflow.run(ctx=ctx):
        workflow.run(ctx=ctx)


@misuse(
    StepFailed,
    "Error in step 'work': WrongReturn: Flow.work returned Part, but its annotation allows StopEvent: return "
    "one of these, or widen the annotation. (HERE)",
)
async def returning_what_was_not_announced() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            return Part()

    await Flow().run()


@misuse(
    StepFailed,
    "Error in step 'work': WrongReturn: Flow.work returned None, but its annotation allows StopEvent: return "
    "one of these, or widen the annotation. (HERE)",
)
async def returning_nothing() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            StopEvent()

    await Flow().run()


@misuse(
    StepFailed,
    "Error in step 'work': WrongReturn: Flow.work returned the class StopEvent, but its annotation allows "
    "StopEvent: return an event, StopEvent(…). (HERE)",
)
async def returning_a_class() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent

    await Flow().run()


@misuse(
    StepFailed,
    "Error in step 'begin': WrongReturn: Flow.begin returned tuple, but its annotation allows list[Part]: "
    "return a list for a fan-out. (HERE)",
)
async def returning_a_tuple_for_a_list() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> list[Part]:
            return (Part(), Part())

        @step
        async def join(self, evs: list[Part]) -> StopEvent:
            return StopEvent()

    await Flow().run()


@misuse(
    StepFailed,
    "Error in step 'begin': WrongReturn: Flow.begin returned a list of None, Part, int, but its annotation "
    "allows list[Part]: return one of these, or widen the annotation. (HERE)",
)
async def returning_a_list_of_other_things() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> list[Part]:
            return [Part(), None, 3]

        @step
        async def join(self, evs: list[Part]) -> StopEvent:
            return StopEvent()

    await Flow().run()


# -------------------------------------------------------------------------------------------------------- handlers


@misuse(WrongCall, "result(): the run has not ended: await the handler instead.")
async def a_result_too_early() -> None:
    async with Slow().run() as handler:
        handler.result()


@misuse(WrongCall, "run_step() needs a stepwise run: start it with run(stepwise=True).")
async def run_step_of_a_run_that_is_not_stepwise() -> None:
    async with Joke().run(topic="pirates") as handler:
        await handler.run_step()


@misuse(
    WrongCall,
    "async with handler: this run has begun already: write `async with workflow.run(…) as handler:` in one go.",
)
async def a_block_for_a_run_that_has_begun() -> None:
    handler = Joke().run(topic="pirates")
    await handler
    async with handler:
        pass


@misuse(
    RunFinished,
    "send_event(Part): this run of Joke has ended. Start another with run(ctx=handler.ctx) to go on from its state.",
)
async def sending_to_a_run_that_has_ended() -> None:
    handler = Joke().run(topic="pirates")
    await handler
    handler.send_event(Part())


@misuse(
    MisdirectedEvent,
    "Slow has no step 'secnod' to send Part to; it has 'first', 'second': did you mean 'second'?",
)
async def sending_to_a_step_that_does_not_exist() -> None:
    async with Slow().run() as handler:
        handler.send_event(Part(), step="secnod")


@misuse(
    MisdirectedEvent,
    "Slow.second takes Part, not Other. Leave step= out to send it to whichever step takes it. (THERE)",
)
async def sending_to_a_step_that_does_not_take_it() -> None:
    async with Slow().run() as handler:
        handler.send_event(Other(name="Ada"), step="second")


@misuse(
    WrongCall,
    "send_event takes an Origin as to, but got 'child': give the reader's `origin`, read when the question came.",
)
async def sending_to_a_nested_run_by_its_name() -> None:
    async with Slow().run() as handler:
        handler.send_event(Part(), to="child")


# --------------------------------------------------------------------------------------------------------- context


@misuse(WrongCall, "Context() takes a workflow, but got Joke: make an instance, Joke(…).")
def a_context_for_a_class() -> None:
    Context(Joke)


@misuse(WrongCall, "Context.from_dict() takes a workflow, but got {}: give the workflow first.")
def a_context_from_the_wrong_end() -> None:
    Context.from_dict({}, Joke())


@misuse(WrongCall, "send_event takes an event, but got {'n': 3}: put it into a field of an event.")
async def sending_what_is_no_event() -> None:
    async def body(ctx: Context[Any]) -> None:
        ctx.send_event({"n": 3})

    await inside(body)


@misuse(WrongCall, "send_event takes an event, but got Part: build one, Part(…).")
async def sending_a_class() -> None:
    async def body(ctx: Context[Any]) -> None:
        ctx.send_event(Part)

    await inside(body)


@misuse(WrongCall, "write_event_to_stream takes an event, but got 'half way': put it into a field of an event.")
async def streaming_a_text() -> None:
    async def body(ctx: Context[Any]) -> None:
        ctx.write_event_to_stream("half way")

    await inside(body)


@misuse(
    WrongCall,
    "collect_events takes a list of event classes, but got Part: write collect_events(ev, [A, B]).",
)
async def collecting_one_class() -> None:
    async def body(ctx: Context[Any]) -> None:
        ctx.collect_events(Part(), Part)

    await inside(body)


@misuse(WrongCall, "collect_events takes an event, but got [Part(n=0)]: call it for each.")
async def collecting_what_is_no_event() -> None:
    async def body(ctx: Context[Any]) -> None:
        ctx.collect_events([Part()], [Part])

    await inside(body)


@misuse(WrongCall, "collect_events works only inside a step: there, its ctx knows whose buffer is meant.")
async def collecting_outside_a_step() -> None:
    async with Slow().run() as handler:
        handler.ctx.collect_events(Part(), [Part])


@misuse(WrongCall, "wait_for_event works only inside a step: outside, read handler.stream_events().")
async def waiting_outside_a_step() -> None:
    async with Slow().run() as handler:
        await handler.ctx.wait_for_event(Part)


@misuse(
    WrongCall,
    "wait_for_event takes an event class, but got HumanResponseEvent(): wait for one class; those derived from"
    " it are taken too.",
)
async def waiting_for_an_event_instead_of_its_class() -> None:
    await inside(lambda ctx: ctx.wait_for_event(HumanResponseEvent()))


@misuse(WrongCall, "wait_for_event got StopEvent, but a StopEvent ends the run: wait for another event.")
async def waiting_for_the_end() -> None:
    await inside(lambda ctx: ctx.wait_for_event(StopEvent))


@misuse(
    WrongCall,
    "wait_for_event takes an event as waiter_event, but got 'Really?': ask with an event, "
    'InputRequiredEvent(prefix="…").',
)
async def asking_with_a_text() -> None:
    await inside(lambda ctx: ctx.wait_for_event(HumanResponseEvent, "Really?"))


@misuse(WrongCall, "wait_for_event requires 'nmae' of Other, which has no such field: it has name, tags.")
async def requiring_a_field_that_is_not_there() -> None:
    await inside(lambda ctx: ctx.wait_for_event(Other, requirements={"nmae": "Ada"}))


@misuse(
    WrongCall,
    "wait_for_event takes a dict as requirements, but got ['name']: give fields with their values, "
    "requirements={'name': …}.",
)
async def requiring_a_list() -> None:
    await inside(lambda ctx: ctx.wait_for_event(Other, requirements=["name"]))


@misuse(WrongCall, "wait_for_event takes timeout in seconds, but got -1: give 0 or more, or None for no limit.")
async def waiting_less_than_nothing() -> None:
    await inside(lambda ctx: ctx.wait_for_event(Other, timeout=-1))


@misuse(WaitTimedOut, "step 'work' waited 3 seconds for Other in vain.")
async def waiting_in_vain() -> None:
    await inside(lambda ctx: ctx.wait_for_event(Other, timeout=3))


@misuse(
    WrongCall,
    "a run can be reached from its event loop's thread and from the threads of its plain steps: from a thread of your "
    "own, use anyio.from_thread.run_sync with a BlockingPortal or token of that loop.",
)
async def sending_from_a_thread_of_ones_own() -> None:
    async with Slow().run() as handler:
        heard: list[Exception] = []

        def send() -> None:
            try:
                handler.send_event(Part())
            except WrongCall as error:
                heard.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        thread.join()
        raise heard[0]


@misuse(WrongCall, "send_event was called on a context that has no run yet: start one with workflow.run(ctx=ctx).")
async def a_context_without_a_run() -> None:
    Context(Joke()).send_event(Part())


@misuse(
    WrongCall,
    "collect_events was called on the context of a step that has returned: call it while the step runs.",
)
async def collecting_after_the_step_has_returned() -> None:
    workflow = Slow()
    async with workflow.run():
        await anyio.sleep(1)
        workflow.kept.collect_events(Part(), [Part])


@misuse(
    WrongCall,
    "retry_info was called on the context of a step that has returned: call it while the step runs.",
)
async def asking_for_attempts_after_the_step_has_returned() -> None:
    workflow = Slow()
    async with workflow.run():
        await anyio.sleep(1)
        workflow.kept.retry_info()


@misuse(
    RunFinished,
    "wait_for_event: this run of Slow has ended. Start another with run(ctx=handler.ctx) to go on from its state.",
)
async def waiting_after_the_run_has_ended() -> None:
    workflow = Slow()
    await workflow.run()
    await workflow.kept.wait_for_event(Part)


@misuse(
    WrongCall,
    "to_dict was called on the context of a step of a run that has ended: use handler.ctx.to_dict().",
)
async def saving_by_the_context_of_a_step() -> None:
    workflow = Slow()
    await workflow.run()
    workflow.kept.to_dict()


@pytest.mark.parametrize("case", misuse.built, ids=str)
def test_a_misuse_is_told_at_its_line(case: Case) -> None:
    assert case.told() == case.text


@pytest.mark.parametrize("case", misuse.run, ids=str)
async def test_a_misuse_is_told_at_its_call(case: Case) -> None:
    assert await case.told_in_a_loop() == case.text


async def test_the_context_of_a_step_that_has_returned_still_sends_as_its_handler_does() -> None:
    workflow = Slow()
    handler = workflow.run()
    await anyio.sleep(1)
    workflow.kept.send_event(Other(name="Ada"))
    with pytest.warns(UnhandledEventWarning, match=r"Other sent by send_event\(\) from outside"):
        await handler
