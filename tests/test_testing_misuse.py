"""How `flowkit.testing` can be called wrongly, and what it says then."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import hypothesis
import pytest
from hypothesis import strategies as st

from flowkit import (
    Context,
    Event,
    EventError,
    HumanResponseEvent,
    InputRequiredEvent,
    InvalidWorkflow,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WrongCall,
    step,
    testing,
)
from flowkit.testing import TestingError, exploring

each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture(autouse=True)
def _nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploring, "ELSEWHERE", 1)


class Go(StartEvent):
    n: int = 1


class Needs(StartEvent):
    n: int


class Part(Event):
    n: int


class Right(Workflow):
    @step
    async def go(self, ev: Go) -> StopEvent:
        return StopEvent(result=ev.n)


class Needing(Workflow):
    @step
    async def go(self, ev: Needs) -> StopEvent:
        return StopEvent(result=ev.n)


def explored(flow: Any, start: Any = None, **options: Any) -> None:
    testing.explore(flow, start, **{"budget": 3, **options})(lambda run: None)()


def told(kind: type[Exception], call: Callable[..., Any], *args: Any, **named: Any) -> str:
    with pytest.raises(kind) as raised:
        call(*args, **named)
    assert type(raised.value) is kind
    return re.sub(r"test_testing_misuse\.py:\d+", "HERE", str(raised.value))


# ---------------------------------------------------------------------------------------------------- the workflow


class Banking(Workflow):
    def __init__(self, bank: str, *, rate: int) -> None:
        super().__init__()

    @step
    async def go(self, ev: Go) -> StopEvent:
        return StopEvent()


class Badly(Workflow):
    @step
    async def go(self, ev: Go) -> Part: ...


def needing(bank: str) -> Workflow:
    return Right()


async def making() -> Workflow:
    return Right()


FLOWS: list[tuple[Any, str]] = [
    (3, "takes a workflow as flow, but got 3: give a workflow's class, an instance, or a function that makes one."),
    (
        None,
        "takes a workflow as flow, but got None: give a workflow's class, an instance, or a function that makes one.",
    ),
    (
        Part,
        "takes a workflow as flow, but got Part: give a workflow's class, an instance, or a function that makes one.",
    ),
    (
        "Right",
        "takes a workflow as flow, but got 'Right': give a workflow's class, an instance, or a function that makes ",
    ),
    (lambda: None, "was given a flow that makes None: let it return a workflow."),
    (lambda: Right, "was given a flow that makes Right: let it return a workflow."),
    (making, "was given a flow that makes <coroutine object making at "),
    (
        Banking,
        "makes the workflow anew for each run, and Banking needs 'bank', 'rate': "
        "give a function that makes one, `lambda: Banking(bank=…, rate=…)`.",
    ),
    (
        needing,
        "makes the workflow anew for each run, and needing needs 'bank': "
        "give a function that makes one, `lambda: needing(bank=…)`.",
    ),
]
CALLS: dict[str, Callable[..., Any]] = {
    "simulate()": testing.simulate,
    "explore()": explored,
    "assert_schedule_independent()": testing.assert_schedule_independent,
    "assert_checkpoint_equivalence()": testing.assert_checkpoint_equivalence,
    "assert_cancels_cleanly()": testing.assert_cancels_cleanly,
}
each_call = pytest.mark.parametrize("call", CALLS)


@each_call
@pytest.mark.parametrize(("flow", "text"), FLOWS)
def test_what_is_no_workflow(call: str, flow: Any, text: str) -> None:
    assert told(WrongCall, CALLS[call], flow).startswith(f"{call} {text}")


@each_call
def test_a_function_that_fails_has_its_own_error(call: str) -> None:
    def fails() -> Workflow:
        raise OSError("no bank")

    assert told(OSError, CALLS[call], fails) == "no bank"


@each_call
def test_a_function_that_fails_later(call: str) -> None:
    made: list[Workflow] = []

    def fails() -> Workflow:
        made.append(Right())
        if len(made) > 1:
            raise OSError("no bank")
        return made[0]

    assert told(TestingError, CALLS[call], fails) == (
        "what makes the workflow raised OSError('no bank'), after it had made one: let it make one for each run."
    )


@each_call
def test_a_workflow_with_faults_in_its_wiring(call: str) -> None:
    with pytest.raises(InvalidWorkflow, match="Badly can't run, it has 2 faults"):
        CALLS[call](Badly)


# --------------------------------------------------------------------------------------------------- the start event


@each_call
@pytest.mark.parametrize("given", [Part(1), StopEvent(), [1], Go, "n=1", 3])
def test_a_start_of_the_wrong_type(call: str, given: Any) -> None:
    text = told(WrongCall, CALLS[call], Right, given)
    assert text.startswith(f"{call} takes a Go as start, or a dict of its fields, but got ")
    assert text.endswith(": build one, Go(…).")


@each_call
def test_a_start_with_the_wrong_fields(call: str) -> None:
    run = CALLS[call]
    assert told(EventError, run, Needing) == "Needs needs 'n': write Needs(n=…)."
    assert told(EventError, run, Right, {"n": "1"}) == (
        "Go.n takes int, but got '1' (str): convert it, or widen the annotation."
    )
    assert told(EventError, run, Right, {"m": 1}) == (
        "Go has no field 'm' (given 1): it takes n; declare 'm' in the class, or leave it out."
    )


def test_a_strategy_is_for_explore() -> None:
    assert told(WrongCall, testing.simulate, Right, testing.events(Go)).startswith(
        "simulate() takes a Go as start, or a dict of its fields, but got "
    )


@pytest.mark.parametrize(
    ("strategy", "kind", "text"),
    [
        (st.integers(), WrongCall, "explore() takes a Needs as start, or a dict of its fields, but got 0: build one, "),
        (
            testing.events(Part),
            WrongCall,
            "explore() takes a Needs as start, or a dict of its fields, but got Part(n=0)",
        ),
        (st.just({"m": 1}), EventError, "Needs has no field 'm' (given 1) and needs 'n': it takes n; declare 'm' in"),
    ],
)
def test_a_strategy_of_something_else(strategy: Any, kind: Any, text: str) -> None:
    assert told(kind, explored, Needing, strategy).startswith(text)


def test_a_strategy_of_nothing() -> None:
    with pytest.raises(hypothesis.errors.Unsatisfiable):
        explored(Needing, st.nothing())


# ------------------------------------------------------------------------------------------------------- the options

BOUND = "write 1 or 2: each one more takes some ten times as long; 0 searches no schedules."
SEARCHES = [call for call in CALLS if call != "simulate()"]


@pytest.mark.parametrize("call", SEARCHES)
@pytest.mark.parametrize("given", [-1, 1.5, "2", True, None])
def test_a_wrong_bound(call: str, given: Any) -> None:
    assert told(WrongCall, CALLS[call], Right, bound=given) == (
        f"{call} takes a number of deviations from the plainest schedule as bound, but got {given!r}: {BOUND}"
    )


@pytest.mark.parametrize("call", SEARCHES)
@pytest.mark.parametrize(
    ("given", "text"),
    [
        (0, "takes one run or more, but got 0: leave the test out to run nothing."),
        (-3, "takes one run or more, but got -3: leave the test out to run nothing."),
        ("soon", 'takes a time or a number of runs, but got \'soon\': write "2s", "500ms", or 500 for so many runs.'),
        (2.0, 'takes a time or a number of runs, but got 2.0: write "2s" for seconds.'),
        (None, 'takes a time or a number of runs, but got None: write "2s", "500ms", or 500 for so many runs.'),
    ],
)
def test_a_wrong_budget(call: str, given: Any, text: str) -> None:
    assert told(WrongCall, CALLS[call], Right, budget=given) == f"{call} budget {text}"


@each_call
def test_a_wrong_backend(call: str) -> None:
    choices = "'asyncio' or 'trio'." if call == "simulate()" else "'asyncio', 'trio' or 'both'."
    for given in ("curio", None, 3):
        assert told(WrongCall, CALLS[call], Right, backend=given) == f"{call} got backend={given!r}: give {choices}"


@each_call
def test_a_wrong_answer(call: str) -> None:
    for given in (3, asyncio.sleep):
        text = told(WrongCall, CALLS[call], Right, answer=given)
        assert text.startswith(f"{call} takes a plain function of a question as answer, but got ")
        assert text.endswith(": write `lambda question: Answer(…)`.")


def test_other_wrong_options() -> None:
    assert told(WrongCall, explored, Right, cancel=True) == "explore() got cancel=True: give 'every-step'."
    assert (
        told(WrongCall, explored, Right, crash="every-step") == "explore() got crash='every-step': give 'every-write'."
    )
    assert told(WrongCall, explored, Right, check="some") == "explore() got check='some': give 'results' or 'all'."
    assert told(WrongCall, explored, Right, examples=0) == (
        "explore() takes a number of start events as examples, but got 0: give 1 or more."
    )
    assert told(WrongCall, testing.simulate, Right, seed="x") == (
        "simulate() takes a number as seed, but got 'x': give a whole number, or none."
    )


@pytest.mark.parametrize("call", ["simulate()", "explore()"])
def test_wrong_faults(call: str) -> None:
    given = {"go": ValueError}
    assert told(WrongCall, CALLS[call], Right, faults=given) == (
        f"{call} takes faults(…) as faults, but got {{'go': <class 'ValueError'>}}: write testing.faults(…)."
    )
    assert told(WrongCall, CALLS[call], Right, faults=testing.faults(raises={"come": ValueError})) == (
        "faults() names 'come', which is no step of Right: it has go."
    )


@pytest.mark.parametrize(
    ("raises", "text"),
    [
        (ValueError, 'takes a dict as raises, but got ValueError: write {"charge": PaymentError}.'),
        ({"go": 3}, "takes exceptions for step 'go', but got 3: give a subclass of Exception, or an instance."),
        ({"go": "no"}, "takes exceptions for step 'go', but got 'no': give a subclass of Exception, or an instance."),
        ({"go": [OSError, Part]}, "takes exceptions for step 'go', but got Part: give a subclass of Exception, or an "),
        ({"go": KeyboardInterrupt}, "takes exceptions for step 'go', but got KeyboardInterrupt: give a subclass of "),
        ({"go": []}, "got no errors for step 'go': name some, or leave the step out."),
    ],
)
def test_faults_that_are_none(raises: Any, text: str) -> None:
    assert told(WrongCall, testing.faults, raises=raises).startswith(f"faults() {text}")


# ------------------------------------------------------------------------------------------------------ the property


async def is_async(run: testing.Run) -> None: ...


def yields(run: testing.Run) -> Iterator[None]:
    yield


def of_nothing() -> None: ...


def of_start_alone(start: Any) -> None: ...


def positional(run: testing.Run, /) -> None: ...


def of_anything(*args: Any) -> None: ...


PROPERTIES: list[tuple[Any, str]] = [
    (
        is_async,
        "is_async, which is async: a property is asked about a run that is over: "
        "write a plain function, def is_async(run): ….",
    ),
    (yields, "yields, which yields: nothing in it would be run: write a plain function, def yields(run): …."),
    *(
        (one, f"{one.__name__}, which has no parameter run: write def {one.__name__}(run): …, or (run, start).")
        for one in (of_nothing, of_start_alone, positional, of_anything)
    ),
    (3, "3, which is no function: put it above a plain function of a run: def test_it(run): …."),
    (Part, "Part, which is no function: put it above a plain function of a run: def test_it(run): …."),
]


@pytest.mark.parametrize(("function", "text"), PROPERTIES)
def test_what_is_no_property(function: Any, text: str) -> None:
    assert told(WrongCall, testing.explore(Right), function) == f"explore() was put above {text}"


def test_explore_without_a_workflow() -> None:
    def test_it(run: testing.Run) -> None: ...

    assert told(WrongCall, testing.explore, test_it) == (
        "explore() was put above test_it without a workflow: write @testing.explore(YourFlow, start=…)."
    )


def test_a_property_that_returns_something() -> None:
    is_right = testing.explore(Right, budget=3)(lambda run: run.result == 1)
    text = "a property returned True, and only what it raises counts: write `assert` before what has to hold."
    assert told(TestingError, is_right) == text
    hidden = testing.explore(Right, budget=3)(lambda run: is_async(run))
    assert "a property returned <coroutine object is_async at" in told(TestingError, hidden)


def test_a_property_that_misses_its_fixtures() -> None:
    def holds(run: testing.Run, bank: str) -> None: ...

    with pytest.raises(TypeError, match="missing a required argument: 'bank'"):
        testing.explore(Right, budget=3)(holds)()


def test_a_property_may_assume_something() -> None:
    asked: list[int] = []

    def holds(run: testing.Run, start: Go) -> None:
        hypothesis.assume(start.n > 3)
        asked.append(start.n)

    testing.explore(Right, testing.events(Go), budget=3)(holds)()
    assert asked and min(asked) > 3


@each_backend
def test_a_property_that_changes_the_run_changes_nothing(backend: Any) -> None:
    def spoils(run: testing.Run) -> None:
        assert (run.result, run.effects, run.state, len(run.stream)) == (1, [], {}, 1)
        run.stream.clear()
        run.effects.append("mine")
        run.state["mine"] = 1

    testing.explore(Right, budget=20, backend=backend)(spoils)()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, pytest.skip.Exception])
def test_what_ends_a_test_ends_it(error: type[BaseException]) -> None:
    def ends(run: testing.Run) -> None:
        raise error

    for start in (None, testing.events(Go)):
        with pytest.raises(error):
            testing.explore(Right, start, budget=3)(ends)()


# ---------------------------------------------------------------------------------------------------------- answers


class Ask(InputRequiredEvent): ...


class Reply(HumanResponseEvent): ...


class Asks(Workflow):
    @step
    async def ask(self, ctx: Context, ev: Go) -> StopEvent:
        await ctx.wait_for_event(Reply, Ask(), timeout=1)
        return StopEvent()


@each_call
@each_backend
def test_an_answer_that_raises(call: str, backend: Any) -> None:
    def fails(question: Ask) -> Reply:
        raise OSError("no idea")

    text = told(TestingError, CALLS[call], Asks, answer=fails, backend=backend)
    assert text == (
        "answer raised OSError('no idea') when it was asked Ask(): let it return the event to send back, or None. "
        "(HERE in Asks.ask)"
    )


@each_call
@each_backend
def test_an_answer_that_is_no_event(call: str, backend: Any) -> None:
    text = told(TestingError, CALLS[call], Asks, answer=lambda question: "yes", backend=backend)
    assert text == (
        "answer returned 'yes' when it was asked Ask(): let it return the event to send back, or None. "
        "(HERE in Asks.ask)"
    )


# ------------------------------------------------------------------------------------------------------ nested loops


@each_call
@each_backend
def test_no_simulation_in_an_event_loop(call: str, backend: Any) -> None:
    async def nested() -> None:
        CALLS[call](Right)

    with pytest.raises(WrongCall) as raised:
        anyio.run(nested, backend=backend)
    assert str(raised.value) == (
        f"{call} was called where an event loop runs, and has its own: call it from a plain function, `def test_…`."
    )


@each_call
async def test_no_simulation_in_virtual_time(call: str) -> None:
    with pytest.raises(WrongCall, match="call it from a plain function"):
        CALLS[call](Right)


@each_call
@each_backend
def test_no_simulation_in_a_simulation(call: str, backend: Any) -> None:
    class Async(Workflow):
        @step
        async def go(self, ev: Go) -> StopEvent:
            CALLS[call](Right)
            return StopEvent()

    class Plain(Workflow):
        @step
        def go(self, ev: Go) -> StopEvent:
            CALLS[call](Right)
            return StopEvent()

    for flow in (Async, Plain):
        run = testing.simulate(flow, backend=backend)
        assert isinstance(run.error, StepFailed)
        assert str(run.error.__cause__) == f"{call} was called inside a simulated run: call it from the test."
