"""`testing.explore`: what it finds, what it asks, and what is no finding."""

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import strategies as st

from flowkit import Context, Event, InputRequiredEvent, StartEvent, StepFailed, StopEvent, Workflow, step, testing
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.testing import Counterexample, exploring, settings
from flowkit.testing.scenario import Backend, Cancel, Fault, Scenario

each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture(autouse=True)
def _nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploring, "_elsewhere", lambda *_: "")


class Order(StartEvent):
    amount: int = 3


class Part(Event):
    n: Any


class Done(Event):
    n: Any


class Refused(Exception): ...


class Racing(Workflow):
    """Loses an update in some schedules."""

    @step
    async def split(self, ev: Order) -> list[Part]:
        return [Part(ev.amount), Part(ev.amount)]

    @step
    async def charge(self, ctx: Context, ev: Part) -> Done:
        before = await ctx.get("sum", 0)
        await anyio.lowlevel.checkpoint()
        await ctx.set("sum", before + ev.n)
        return Done(ev.n)

    @step
    async def join(self, ctx: Context, evs: list[Done]) -> StopEvent:
        return StopEvent(result=await ctx.get("sum"))


class Paying(Workflow):
    @step(timeout=5, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=1))
    async def pay(self, ev: Order) -> Done:
        await anyio.sleep(1)
        testing.effect("paid")
        return Done(1)

    @step
    async def end(self, ev: Done) -> StopEvent:
        return StopEvent(result="paid")


class Seen:
    """A property that has nothing against any run, and keeps them."""

    def __init__(self) -> None:
        self.runs: list[testing.Run] = []

    def __call__(self, run: testing.Run) -> None:
        self.runs.append(run)


def once(run: testing.Run) -> None:
    assert len(run.effects) <= 1


def paid_or_not(run: testing.Run) -> None:
    assert run.effects.count("paid") == run.has_result


def found(test: Callable[[], Any]) -> Counterexample:
    with pytest.raises(Counterexample) as raised:
        test()
    return raised.value


# ------------------------------------------------------------------------------------------------------- what is asked


@each_backend
@pytest.mark.parametrize("budget", [1, 2, 3, 17])
def test_a_property_is_asked_about_each_run(budget: int, backend: Backend) -> None:
    seen = Seen()
    testing.explore(Racing, budget=budget, backend=backend)(seen)()
    assert len(seen.runs) == budget
    assert {run.backend for run in seen.runs} == {backend}
    assert all(run.has_result for run in seen.runs)


def test_both_backends_are_searched() -> None:
    seen = Seen()
    testing.explore(Racing, budget=5, backend="both")(seen)()
    assert [run.backend for run in seen.runs] == ["asyncio"] * 5 + ["trio"] * 5


def test_what_holds_on_one_backend_alone() -> None:
    def on_asyncio(run: testing.Run) -> None:
        assert run.backend == "asyncio"

    testing.explore(Racing, budget=5)(on_asyncio)()
    assert found(testing.explore(Racing, budget=5, backend="both")(on_asyncio)).run.backend == "trio"


def test_the_settings_of_a_test_run_come_first() -> None:
    seen = Seen()
    with settings.use(budget=4, bound=0, backend="trio"):
        testing.explore(Racing, budget=50, bound=2)(seen)()
    assert [(run.backend, run.scenario) for run in seen.runs] == [("trio", Scenario())] * 2
    with settings.use(backend="both", budget=2):
        testing.assert_schedule_independent(Paying, budget=50)
        assert settings.defaults.budget == 2


def test_a_property_may_have_the_start_event_and_more() -> None:
    asked: list[Any] = []

    def ask(start: Order, bank: str, *, run: testing.Run, rate: int = 3) -> None:
        asked.append((start, bank, rate, run.result))

    test = testing.explore(Racing, {"amount": 4}, budget=1)(ask)
    test(bank="b")
    test(rate=5, bank="c")
    assert asked == [(Order(4), "b", 3, 8), (Order(4), "c", 5, 8)]


def test_a_test_has_the_property_s_name_and_says_what_it_does() -> None:
    @testing.explore(Racing, budget=1)
    def test_it(run: testing.Run) -> None:
        """It holds."""

    assert (test_it.__name__, test_it.__doc__, test_it.__module__) == ("test_it", "It holds.", __name__)
    assert not hasattr(test_it, "__wrapped__")


@each_backend
def test_only_runs_with_a_result_are_asked_about_unless_all_are_wanted(backend: Backend) -> None:
    options: dict[str, Any] = {"budget": 40, "faults": testing.faults(raises={"end": Refused}), "backend": backend}
    results, everything = Seen(), Seen()
    testing.explore(Paying, **options)(results)()
    testing.explore(Paying, check="all", **options)(everything)()
    assert len(results.runs) < len(everything.runs) == 40
    assert all(run.has_result for run in results.runs)
    failed = [run for run in everything.runs if not run.has_result]
    assert failed and all(isinstance(run.error.__cause__, Refused) for run in failed if run.error)


@each_backend
def test_cancelled_runs_are_asked_about_where_all_are_wanted(backend: Backend) -> None:
    seen = Seen()
    testing.explore(Paying, budget=60, cancel="every-step", check="all", backend=backend)(seen)()
    cancelled = [run for run in seen.runs if run.cancelled]
    assert {run.scenario.cancel.how for run in cancelled if run.scenario.cancel} == {"scope", "run"}
    assert not any(run.has_result for run in cancelled)


# ------------------------------------------------------------------------------------------------- what is a finding


@each_backend
def test_a_schedule(backend: Backend) -> None:
    def holds(run: testing.Run) -> None:
        assert run.result == 6

    example = found(testing.explore(Racing, budget=100, backend=backend)(holds))
    assert (example.kind, example.scenario.size, len(example.scenario.deviations)) == ("property", 1, 1)
    assert example.run.result == 3 and example.run.scenario == example.scenario
    assert 1 < example.runs < 20 and example.shrinking > 0
    again = testing.simulate(Racing, replay=example.token)
    assert (again.result, list(map(str, again.trace))) == (3, list(map(str, example.run.trace)))


@each_backend
@pytest.mark.parametrize(
    ("faults", "fault"),
    [
        (testing.faults(raises={"pay": [Refused("at once"), OSError]}), Fault("pay", 1, "lose", 0)),
        (testing.faults(timeouts=True), Fault("pay", 1, "stall", seconds=6)),
    ],
)
def test_a_fault(faults: Any, fault: Fault, backend: Backend) -> None:
    example = found(testing.explore(Paying, budget=100, faults=faults, backend=backend)(once))
    assert example.scenario == Scenario(faults=(fault,))
    replayed = testing.simulate(Paying, replay=example.token, faults=faults)
    assert replayed.effects == ["paid", "paid"]


@each_backend
def test_faults_that_the_workflow_withstands(backend: Backend) -> None:
    faults = testing.faults(raises={"pay": Refused}, delays=[1, 100], timeouts=True, store=True)
    seen = Seen()
    testing.explore(Paying, budget=80, faults=faults, backend=backend)(seen)()
    assert len({run.scenario.faults for run in seen.runs}) > 10
    assert all(run.writes for run in seen.runs)


@each_backend
def test_a_crash(backend: Backend) -> None:
    example = found(testing.explore(Paying, budget=100, bound=0, crash="every-write", backend=backend)(once))
    assert example.scenario.size == len(example.scenario.crashes) == 1
    assert (example.run.lives, example.run.effects) == (2, ["paid", "paid"])
    assert testing.simulate(Paying, replay=example.token).effects == ["paid", "paid"]


@each_backend
def test_a_cancellation(backend: Backend) -> None:
    test = testing.explore(Paying, budget=100, cancel="every-step", check="all", bound=0, backend=backend)(paid_or_not)
    example = found(test)
    assert isinstance(example.scenario.cancel, Cancel) and example.scenario.size == 1
    assert example.run.cancelled and example.run.effects[:1] == ["paid"]
    assert testing.simulate(Paying, replay=example.token).cancelled


class Fails(Workflow):
    @step
    async def go(self, ev: Order) -> StopEvent:
        raise Refused("no")


class Waits(Workflow):
    @step
    async def go(self, ev: Order) -> StopEvent:
        await anyio.Event().wait()
        return StopEvent()


class Stalls(Workflow):
    @step
    async def go(self, ev: Order) -> StopEvent | None:
        return None


class Loses(Workflow):
    @step
    async def go(self, ctx: Context, ev: Order) -> StopEvent:
        ctx.send_event(Part(1))
        return StopEvent()


class Changes(Workflow):
    @step
    async def go(self, ev: Order) -> Part:
        return Part([1, 2])

    @step
    async def end(self, ev: Part) -> StopEvent:
        ev.n.append(3)
        return StopEvent()


TASKS: list[Any] = []


class Leaves(Workflow):
    @step
    async def go(self, ev: Order) -> StopEvent:
        TASKS.append(asyncio.create_task(anyio.sleep(1)))
        return StopEvent()


class Drops(Workflow):
    @step
    async def go(self, ev: Order) -> StopEvent:
        asyncio.get_running_loop().call_soon(int, "x")
        await anyio.sleep(1)
        return StopEvent()


FREE: list[tuple[type[Workflow], str, str]] = [
    (Fails, "step-failed", "Error in step 'go': Refused: no"),
    (Waits, "deadlock", "nothing can ever happen any more: all tasks are blocked after 0 s, and no timer is set"),
    (Stalls, "stalled", "Stalls"),
    (Loses, "lost-event", "Loses"),
    (Changes, "changed-event", "Part(n=[1, 2, 3]) isn't what it was when it was sent"),
    (Leaves, "left-behind", "the run has ended, and has left behind\n  "),
    (Drops, "unhandled", "ValueError: invalid literal for int()"),
]


@each_backend
@pytest.mark.parametrize(("flow", "kind", "text"), FREE)
def test_what_no_run_may_do(flow: Any, kind: str, text: str, backend: Backend) -> None:
    if flow in (Leaves, Drops) and backend == "trio":
        pytest.skip("asyncio's own")
    flow = flow(timeout=None)
    example = found(testing.explore(flow, budget=10, backend=backend)(Seen()))
    assert example.kind == kind
    assert text in "\n".join(line.removeprefix("  ") for line in str(example).splitlines())
    TASKS.clear()


@each_backend
def test_an_error_is_a_finding_unless_it_was_given(backend: Backend) -> None:
    class Own(Workflow):
        @step
        async def go(self, ev: Order) -> StopEvent:
            try:
                await self.ask()
            except Refused:
                raise OSError("of its own") from None
            return StopEvent()

        async def ask(self) -> None:
            testing.effect("asked")

    testing.explore(Own, budget=20, faults=testing.faults(raises={"go": Refused}), backend=backend)(Seen())()
    assert found(testing.explore(Fails, budget=20, backend=backend, check="all")(Seen())).kind == "step-failed"
    assert isinstance(testing.simulate(Fails, backend=backend).error, StepFailed)


# ----------------------------------------------------------------------------------------------------- start events


@each_backend
def test_the_smallest_start_event_is_found(backend: Backend) -> None:
    def holds(run: testing.Run, start: Order) -> None:
        assert run.result == 2 * start.amount or start.amount < 5

    example = found(testing.explore(Racing, testing.events(Order), budget=60, backend=backend)(holds))
    assert example.run.result == 5 and example.scenario.size == 1
    assert "  start     Order(amount=5)\n" in str(example)
    again = testing.simulate(Racing, replay=example.token)
    assert again.result == 5


def test_what_was_found_with_one_start_event_is_tried_first_with_the_next() -> None:
    runs: list[tuple[int, Scenario]] = []

    def holds(run: testing.Run, start: Order) -> None:
        runs.append((start.amount, run.scenario))
        assert run.result == 2 * start.amount or start.amount < 5

    example = found(testing.explore(Racing, testing.events(Order), budget=60)(holds))
    firsts = dict(reversed(runs))
    later = list(dict.fromkeys(amount for amount, _ in runs))
    failed = later.index(next(amount for amount, scenario in runs if amount >= 5))
    assert all(firsts[amount] == example.scenario for amount in later[failed + 1 :])
    assert example.runs == 1


@pytest.mark.parametrize("examples", [1, 7])
def test_so_many_start_events_are_drawn_and_each_has_its_budget(examples: int) -> None:
    seen: list[Any] = []

    def holds(run: testing.Run, start: Order) -> None:
        seen.append(start.amount)

    testing.explore(Racing, testing.events(Order), budget=3, examples=examples)(holds)()
    assert len(seen) == 3 * examples
    assert len(set(seen)) == examples


def test_start_events_may_be_drawn_as_dicts() -> None:
    seen = Seen()
    testing.explore(Racing, st.builds(dict, amount=st.just(4)), budget=2, examples=3)(seen)()
    assert {run.result for run in seen.runs} == {8}


def test_the_same_events_are_drawn_each_time() -> None:
    drawn: list[list[Any]] = []
    for _ in range(2):
        seen: list[Any] = []
        testing.explore(Racing, testing.events(Order), budget=1)(lambda run, start, seen=seen: seen.append(start))()
        drawn.append(seen)
    assert drawn[0] == drawn[1]


# ------------------------------------------------------------------------------------------------------------ answers


class Ask(InputRequiredEvent):
    n: int


class Asking(Workflow):
    @step
    async def ask(self, ctx: Context, ev: Order) -> StopEvent:
        total = 0
        for n in range(2):
            total += (await ctx.wait_for_event(Done, Ask(n), timeout=60)).n
        return StopEvent(result=total)


@each_backend
def test_questions_are_answered_in_each_run(backend: Backend) -> None:
    seen = Seen()
    options: dict[str, Any] = {"budget": 60, "answer": lambda ask: Done(ask.n + 1), "backend": backend}
    testing.explore(Asking, crash="every-write", **options)(seen)()
    assert {run.result for run in seen.runs} == {3}
    assert {run.lives for run in seen.runs} == {1, 2, 3}


# -------------------------------------------------------------------------------------------------------- other backend


@pytest.mark.parametrize(
    ("fails", "told"),
    [
        (lambda run: True, "; on trio, too, after 1 run\n"),
        (lambda run: run.backend == "asyncio", "; not found on trio in 200 runs\n"),
    ],
)
def test_a_finding_is_tried_on_the_other_backend(fails: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def holds(run: testing.Run) -> None:
        assert not fails(run)

    assert told in str(found(testing.explore(Racing, budget=5)(holds)))


def test_a_finding_that_is_another_one_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    class Locks(Workflow):
        @step
        async def go(self, ev: Order) -> StopEvent:
            if asyncio.get_running_loop():
                await anyio.Event().wait()
            return StopEvent()

    assert "; on trio step-failed after 1 run\n" in str(found(testing.explore(Locks(timeout=None), budget=5)(Seen())))
