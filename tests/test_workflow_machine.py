"""`testing.WorkflowMachine`: Hypothesis' state machines around a live run."""

import threading
import time
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from flowkit import (
    Context,
    Event,
    EventError,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailed,
    StopEvent,
    WaitTimedOut,
    Workflow,
    WrongCall,
    outside,
    step,
    testing,
)
from flowkit.testing import settings, threads

each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])
SETTINGS = given_settings(
    max_examples=25,
    stateful_step_count=6,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)


class Go(StartEvent):
    n: int = 1


class Ask(InputRequiredEvent):
    n: int


class Approve(HumanResponseEvent):
    n: int


class Approval(Workflow):
    """Pays what is approved; a crash after that makes it pay again."""

    safe = False

    @step
    async def ask(self, ctx: Context, ev: Go) -> StopEvent:
        approved = await ctx.wait_for_event(Approve, Ask(ev.n), timeout=60)
        testing.effect("paid", approved.n, ctx.idempotency_key if self.safe else None)
        await ctx.set("paid", approved.n)
        await anyio.sleep(10)
        return StopEvent(result=approved.n)


class Safe(Approval):
    safe = True


def check(machine: Any, **options: Any) -> None:
    run_state_machine_as_test(machine, settings=given_settings(SETTINGS, **options))


def failing(machine: Any, kind: type[BaseException] = AssertionError) -> tuple[str, list[str]]:
    """What fails, and the shortest way there: the rules that were called."""
    with pytest.raises(kind) as raised:
        check(machine)
    notes = [line for line in raised.value.__notes__ if line.startswith("state.")]
    quiet = ("state.begin(", "state.has_not_failed(", "state.teardown(")
    return str(raised.value), [line for line in notes if not line.startswith(quiet)]


class Rules(testing.WorkflowMachine):
    """Rules for `Approval`."""

    flow = Safe
    expected = (WaitTimedOut, StepFailed)

    @rule(answer=testing.events(Approve))
    def approve(self, answer: Approve) -> None:
        if not self.sim.is_done:
            self.sim.send(answer)

    @rule(seconds=st.floats(0, 3600))
    def wait(self, seconds: float) -> None:
        before = self.sim.now
        self.sim.advance(seconds)
        assert self.sim.now == before + seconds or self.sim.is_done

    @rule()
    def crash(self) -> None:
        self.sim.crash_and_resume()

    @invariant()
    def pays_once(self) -> None:
        assert len({*self.sim.effects}) <= 1


@each_backend
def test_what_holds(backend: Any) -> None:
    seen: set[Any] = set()

    class Holds(Rules):
        def teardown(self) -> None:
            seen.add((self.sim.lives, self.sim.is_done))
            super().teardown()

    Holds.backend = backend
    check(Holds)
    assert {lives == 1 for lives, _ in seen} == {True, False}  # how many there were is up to Hypothesis
    assert {done for _, done in seen} == {True, False}


@each_backend
def test_a_planted_bug_is_found_and_made_small(backend: Any) -> None:
    class PaysTwice(Rules):
        flow = Approval

        @invariant()
        def pays_once(self) -> None:
            assert len(self.sim.effects) <= 1, self.sim.effects

    PaysTwice.backend = backend
    text, rules = failing(PaysTwice)
    assert text.startswith("[('paid', 0, None), ('paid', 0, None)]")
    assert [line for line in rules if "pays_once" not in line] == [
        "state.approve(answer=Approve(n=0))",
        "state.crash()",
    ]


@each_backend
def test_a_run_that_fails_is_a_finding_unless_it_is_expected(backend: Any) -> None:
    class Late(Rules):
        expected = ()

    Late.backend = backend
    text, rules = failing(Late)
    assert text == (
        "the run has failed: Error in step 'ask': WaitTimedOut: step 'ask' waited 60 seconds for Approve in vain."
    )
    assert any(line.startswith("state.wait(seconds=") for line in rules)
    assert not any("approve" in line for line in rules)


@each_backend
def test_a_cancelled_run_has_not_failed(backend: Any) -> None:
    class Cancels(Rules):
        expected = ()

        @rule(seconds=st.floats(0, 50))
        def wait(self, seconds: float) -> None:
            if self.sim.now + seconds < 60:
                self.sim.advance(seconds)

        @rule()
        def cancel(self) -> None:
            self.sim.cancel()
            assert self.sim.is_done

    Cancels.backend = backend
    check(Cancels)


class Deep(Workflow):
    @step
    async def go(self, ev: Go) -> StopEvent:
        if ev.n > 100:
            raise ValueError(f"{ev.n} is too many")
        return StopEvent(result=ev.n)


@each_backend
@pytest.mark.parametrize("start", [testing.events(Go), st.builds(dict, n=st.integers()), {"n": 101}, Go(101)])
def test_start_events(start: Any, backend: Any) -> None:
    class Starts(testing.WorkflowMachine):
        flow = Deep

        @rule()
        def look(self) -> None: ...

    Starts.start, Starts.backend = start, backend
    text, _ = failing(Starts)
    assert text == "the run has failed: Error in step 'go': ValueError: 101 is too many"


@each_backend
def test_schedules_are_drawn_too(backend: Any) -> None:
    class Part(Event):
        n: int

    class Racing(Workflow):
        @step
        async def split(self, ev: Go) -> list[Part]:
            return [Part(n) for n in range(3)]

        @step
        async def work(self, ctx: Context, ev: Part) -> Ask:
            await anyio.lowlevel.checkpoint()
            testing.effect(ev.n)
            return Ask(ev.n)

        @step
        async def join(self, evs: list[Ask]) -> StopEvent:
            return StopEvent()

    orders: set[Any] = set()

    class Orders(testing.WorkflowMachine):
        flow = Racing

        @rule()
        def look(self) -> None:
            orders.add(tuple(self.sim.effects))

    Orders.backend = backend
    check(Orders)
    assert len(orders) > 1


@each_backend
def test_the_option_of_a_test_run_comes_first(backend: Any) -> None:
    seen: set[str] = set()

    class Looks(testing.WorkflowMachine):
        flow = Deep

        @rule()
        def look(self) -> None:
            seen.add(self._simulation.backend)

    with settings.use(backend=backend):
        check(Looks, max_examples=2)
    with settings.use(backend="both"):
        check(Looks, max_examples=2)
    assert seen == {backend, "asyncio"}


# ---------------------------------------------------------------------------------------------- at the end, and after


@each_backend
def test_the_end_is_clean_however_it_comes(backend: Any) -> None:
    before = time.sleep, threading.Thread.start, anyio.to_thread.run_sync
    threads_before = set(threading.enumerate())  # those that others have left idle may end at any time

    class Forgets(Rules):
        def teardown(self) -> None:
            pass  # and doesn't call the one of the machine

    class FailsAtTheEnd(Rules):
        def teardown(self) -> None:
            raise OSError("at the end")

    Forgets.backend = FailsAtTheEnd.backend = backend
    check(Forgets, max_examples=5)
    with pytest.raises(OSError, match="at the end"):
        check(FailsAtTheEnd, max_examples=5)
    assert (time.sleep, threading.Thread.start, anyio.to_thread.run_sync) == before
    assert set(threading.enumerate()) <= threads_before
    assert not hasattr(threads._state, "pool")
    assert type(outside.current()) is outside.Outside


@each_backend
def test_what_a_run_leaves_behind_is_found_at_the_end(backend: Any) -> None:
    class Clings(Workflow):
        @step
        async def go(self, ctx: Context, ev: Go) -> StopEvent:
            try:
                await anyio.sleep(100)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.Event().wait()
            return StopEvent()

    class Leaves(testing.WorkflowMachine):
        flow = Clings

        @rule()
        def look(self) -> None: ...

    Leaves.backend = backend
    text, _ = failing(Leaves)
    head, line = text.splitlines()
    assert head == "left-behind: the run was cancelled, and left behind"
    assert line.startswith("  go #1 waits at test_workflow_machine.py:") and line.endswith("Clings.go")


@each_backend
def test_an_event_that_is_changed_is_found_at_the_end(backend: Any) -> None:
    class Sent(Event):
        items: list[int]

    class Changes(Workflow):
        @step
        async def go(self, ev: Go) -> Sent:
            return Sent([1])

        @step
        async def end(self, ev: Sent) -> StopEvent:
            ev.items.append(2)
            return StopEvent()

    class Looks(testing.WorkflowMachine):
        flow = Changes
        stored = False

        @rule()
        def look(self) -> None: ...

    Looks.backend = backend
    assert failing(Looks)[0] == "changed-event: Sent(items=[1, 2]) isn't what it was when it was sent"


@each_backend
def test_an_author_s_own_initialize_precondition_and_attributes(backend: Any) -> None:
    class Own(Rules):
        def __init__(self) -> None:
            super().__init__()
            self.answered = 0

        @initialize(n=st.integers(1, 3))
        def note(self, n: int) -> None:
            self.first = n
            assert self.sim.questions == [Ask(1)]

        @precondition(lambda self: self.answered < self.first and not self.sim.is_done)
        @rule(answer=testing.events(Approve))
        def approve(self, answer: Approve) -> None:
            self.answered += 1
            self.sim.send(answer)

    Own.backend = backend
    check(Own)


# -------------------------------------------------------------------------------------------------------------- misuse


def machine(**attributes: Any) -> Any:
    @rule()
    def look(self: Any) -> None:
        _ = self.sim.now

    return type("Misused", (testing.WorkflowMachine,), {"look": look, **attributes})


@pytest.mark.parametrize(
    ("attributes", "kind", "text"),
    [
        ({}, WrongCall, "Misused has no workflow: write flow = YourFlow in the class."),
        (
            {"flow": 3},
            WrongCall,
            "Misused takes a workflow as flow, but got 3: give a workflow's class, an instance, or",
        ),
        ({"flow": Deep, "start": 3}, WrongCall, "Misused takes a Go as start, or a dict of its fields, but got 3"),
        ({"flow": Deep, "start": {"m": 1}}, EventError, "Go has no field 'm'"),
        (
            {"flow": Deep, "start": st.integers()},
            WrongCall,
            "Misused takes a Go as start, or a dict of its fields, but ",
        ),
        ({"flow": Deep, "backend": "curio"}, WrongCall, "Misused got backend='curio': give 'asyncio' or 'trio'."),
    ],
)
def test_misuses(attributes: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as raised:
        check(machine(**attributes))
    assert str(raised.value).startswith(text)


@each_backend
def test_a_drawn_start_event_is_not_there_before_it_is_drawn(backend: Any) -> None:
    class Early(testing.WorkflowMachine):
        flow = Approval
        start = testing.events(Go)

        @initialize()
        def look(self) -> None:
            _ = self.sim

        @rule()
        def nothing(self) -> None: ...

    Early.backend = backend
    text, _ = failing(Early, WrongCall)
    assert text == (
        "Early.sim was asked for before its start event was drawn, in a rule under @initialize: "
        "use it in rules and invariants, or give a start event that isn't drawn."
    )


@each_backend
def test_the_real_world_is_not_there(backend: Any) -> None:
    class Reaches(Workflow):
        @step
        async def go(self, ev: Go) -> StopEvent:
            await anyio.sleep(5)
            await anyio.run_process(["true"])
            return StopEvent()

    class Waits(testing.WorkflowMachine):
        flow = Reaches

        @rule(seconds=st.integers(0, 9))
        def wait(self, seconds: int) -> None:
            self.sim.advance(seconds)

    Waits.backend = backend
    text, rules = failing(Waits, testing.OutsideWorld)
    assert text.startswith("a simulated run started a process: give the workflow a fake")
    assert rules == ["state.wait(seconds=5)"]


async def test_no_machine_in_an_event_loop() -> None:
    with pytest.raises(WrongCall, match="Misused was called where an event loop runs, and has its own"):
        machine(flow=Deep)()
