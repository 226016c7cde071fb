"""`testing.simulate`: one run in virtual time, the same for the same call, and nothing of it left behind."""

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import attrs
import pytest

from flowkit import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Resource,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WrongCall,
    step,
    testing,
)
from flowkit.testing import Counterexample
from flowkit.testing.exploring import finished
from flowkit.testing.scenario import Backend, Scenario
from flowkit.testing.simulation import Simulation

BACKENDS: list[Backend] = ["asyncio", "trio"]
SEEDS = 1_000

each_backend = pytest.mark.parametrize("backend", BACKENDS)


class Go(StartEvent):
    n: int = 1


class Part(Event):
    n: int


class Done(Event):
    n: int


class Again(Event):
    n: int


class Ask(InputRequiredEvent):
    n: int


class Tiny(Workflow):
    """Three steps at once on one thing, a lost update in many schedules; random numbers and ids in each."""

    @step
    async def split(self, ev: Go) -> list[Part]:
        return [Part(1), Part(2), Part(4)]

    @step
    async def work(self, ctx: Context, ev: Part) -> Done:
        before = await ctx.get("sum", 0)
        await anyio.lowlevel.checkpoint()
        await ctx.set("sum", before + ev.n)
        ctx.write_event_to_stream(Part(ev.n))
        return Done(ctx.random().randrange(10))

    @step
    async def join(self, ctx: Context, evs: list[Done]) -> StopEvent:
        await anyio.sleep(random.random())
        return StopEvent(result=(await ctx.get("sum"), [ev.n for ev in evs], str(ctx.uuid()), ctx.now()))


def look(run: testing.Run) -> tuple[Any, ...]:
    """Everything about a run."""
    return [str(one) for one in run.trace], run.stream, run.state, run.result, run.duration, run.token


@each_backend
def test_the_same_seed_is_the_same_run(backend: Backend) -> None:
    simulation = Simulation(Tiny, None, backend=backend)
    first: list[Any] = []
    shift: list[Any] = []
    with simulation.opened():
        for seed in range(SEEDS):
            first.append(look(finished(simulation, simulation.run(Scenario("walk", seed)))))
        for seed in reversed(range(SEEDS)):
            assert look(finished(simulation, simulation.run(Scenario("walk", seed)))) == first[seed], seed
            shift.append(bytearray(seed))  # other addresses
    assert {one[3][0] for one in first} == {1, 2, 3, 4, 5, 6, 7}
    assert len({str(one[0]) for one in first}) > SEEDS / 20


@each_backend
def test_the_same_call_is_the_same_run(backend: Backend) -> None:
    first = [look(testing.simulate(Tiny, backend=backend, seed=seed)) for seed in range(30)]
    assert [look(testing.simulate(Tiny, backend=backend, seed=seed)) for seed in range(30)] == first


class Router(Workflow):
    """Its steps may return several things: as sets of classes these have another order in each process."""

    @step
    async def route(self, ev: Go) -> Part | Done | Ask | Again:
        return Again(1)

    @step
    async def end(self, ev: Part | Done | Ask | Again) -> StopEvent:
        return StopEvent()


def digest() -> str:
    routed = testing.simulate(Router).token
    runs = [look(testing.simulate(Tiny, backend=backend, seed=seed)) for backend in BACKENDS for seed in range(30)]
    return hashlib.sha256(repr([runs, routed]).encode()).hexdigest()


def test_no_run_depends_on_hashes() -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])])

    def digest_with(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        program = "import test_simulate; print(test_simulate.digest())"
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert digest_with("1") == digest_with("2") != ""


@each_backend
def test_the_plainest_schedule_is_the_default(backend: Backend) -> None:
    first = testing.simulate(Tiny, backend=backend)
    assert look(testing.simulate(Tiny, backend=backend)) == look(first)
    assert (first.scenario.policy, first.scenario.size, first.backend) == ("block", 0, backend)
    assert testing.simulate(Tiny, backend=backend, seed=0).scenario.policy == "walk"


@pytest.mark.parametrize("start", [{"n": 7}, Go(7)])
@pytest.mark.parametrize("make", ["class", "function", "instance"])
@each_backend
def test_what_may_be_given(start: Any, make: str, backend: Backend) -> None:
    class Echo(Workflow):
        @step
        async def echo(self, ev: Go) -> StopEvent:
            return StopEvent(result=ev.n)

    flow: Any = {"class": Echo, "function": lambda: Echo(), "instance": Echo()}[make]
    for _ in range(2):
        run = testing.simulate(flow, start, backend=backend)
        assert (run.result, run.error, run.has_result, run.cancelled, run.lives) == (7, None, True, False, 1)
    assert testing.simulate(flow, backend=backend).result == 1


# ---------------------------------------------------------------------------------------- what a run may depend on


@each_backend
def test_a_day_takes_no_time(backend: Backend) -> None:
    class Slow(Workflow):
        @step
        async def wait(self, ctx: Context, ev: Go) -> Done:
            before = ctx.now()
            await anyio.sleep(86_400)
            return Done(int((ctx.now() - before).total_seconds()))

        @step
        def plainly(self, ctx: Context, ev: Done) -> StopEvent:
            time.sleep(3_600)
            return StopEvent(result=(ev.n, ctx.now().isoformat()))

    run = testing.simulate(Slow(timeout=None), backend=backend)
    assert run.result == (86_400, "2023-11-15T23:13:20+00:00")
    assert run.duration == 90_000


@each_backend
def test_random_numbers_are_the_same_and_outside_nothing_is_drawn(backend: Backend) -> None:
    class Dice(Workflow):
        @step
        async def roll(self, ctx: Context, ev: Go) -> Done:
            await ctx.set("async", [random.random(), ctx.random().random(), str(ctx.uuid())])
            return Done(1)

        @step
        def plain(self, ctx: Context, ev: Done) -> StopEvent:
            return StopEvent(result=[random.random(), ctx.random().random(), str(ctx.uuid())])

    random.seed("outside")
    before = random.getstate()
    first = testing.simulate(Dice, backend=backend)
    assert random.getstate() == before
    random.seed("elsewhere")
    second = testing.simulate(Dice, backend=backend)
    assert (first.result, first.state) == (second.result, second.state)
    assert first.result[1:] != first.state["async"][1:]


@each_backend
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failing_run_leaves_random_as_it_was(error: BaseException, backend: Backend) -> None:
    class Fails(Workflow):
        @step
        async def fail(self, ev: Go) -> StopEvent:
            random.random()
            raise error

    before = random.getstate()
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            testing.simulate(Fails, backend=backend)
    else:
        run = testing.simulate(Fails, backend=backend)
        assert isinstance(run.error, StepFailed) and run.error.__cause__ is error
        assert not run.has_result
        with pytest.raises(StepFailed):
            run.result
    assert random.getstate() == before


# ------------------------------------------------------------------------------------------------- effects, answers


def test_an_effect_is_had_in_simulations_only() -> None:
    with pytest.raises(WrongCall) as raised:
        testing.effect("paid")
    assert str(raised.value) == (
        "effect() was called where nothing is being simulated: "
        "it is for fakes, in what simulate(), explore() and the like run."
    )


@each_backend
def test_effects_are_in_their_order(backend: Backend) -> None:
    class Pays(Workflow):
        @step
        async def pay(self, ev: Go) -> Done:
            testing.effect("paid")
            testing.effect("paid", ev.n, to="x") if False else testing.effect("paid", ev.n)
            return Done(2)

        @step
        def mail(self, ev: Done) -> StopEvent:
            testing.effect(["a", "list"])
            testing.effect()
            return StopEvent()

    run = testing.simulate(Pays, backend=backend)
    assert run.effects == ["paid", ("paid", 1), ["a", "list"], ()]


class Reply(HumanResponseEvent):
    n: int


class Asks(Workflow):
    """Asks two questions, one after the other."""

    @step
    async def ask(self, ctx: Context, ev: Go) -> StopEvent:
        first = await ctx.wait_for_event(Reply, Ask(1), requirements={"n": 1}, timeout=60)
        second = await ctx.wait_for_event(Reply, Ask(2), requirements={"n": 2}, timeout=60)
        return StopEvent(result=[first.n, second.n])


@each_backend
@pytest.mark.parametrize("stored", [False, True])
def test_questions_are_answered(backend: Backend, stored: bool) -> None:
    asked: list[int] = []

    def answer(question: Ask) -> Reply:
        asked.append(question.n)
        return Reply(question.n)

    run = testing.simulate(Asks, answer=answer, backend=backend, stored=stored)
    assert (run.result, asked, run.duration) == ([1, 2], [1, 2], 0)
    assert run.stream[:2] == [Ask(1), Ask(2)]


@each_backend
def test_no_answer_is_one_too(backend: Backend) -> None:
    run = testing.simulate(Asks, answer=lambda question: None, backend=backend)
    assert "WaitTimedOut" in str(run.error)
    assert run.duration == 60


# ------------------------------------------------------------------------------------------- all that a workflow has


@attrs.define
class Total:
    sum: int = 0


class Inner(Workflow):
    @step
    async def double(self, ctx: Context, ev: Go) -> StopEvent:
        await anyio.sleep(5)
        testing.effect("inner", ev.n)
        return StopEvent(result=ev.n * 2)


class Outer(Workflow):
    @step
    async def call(self, ctx: Context[Total], ev: Go, inner: Inner) -> StopEvent:
        async with ctx.store.edit_state() as state:
            state.sum = await inner.run(n=ev.n)
        return StopEvent(result="outer")


@each_backend
@pytest.mark.parametrize("stored", [False, True])
def test_nested_workflows(backend: Backend, stored: bool) -> None:
    def make() -> Workflow:
        outer = Outer()
        outer.add_workflows(inner=Inner())
        return outer

    run = testing.simulate(make, {"n": 3}, backend=backend, stored=stored)
    assert (run.result, run.state, run.effects, run.duration) == ("outer", Total(6), [("inner", 3)], 5)


OPENED: list[str] = []


def opens(name: str) -> Callable[[], Any]:
    @asynccontextmanager
    async def made() -> AsyncIterator[str]:
        await anyio.sleep(1)
        OPENED.append(f"open {name}")
        try:
            yield name
        finally:
            OPENED.append(f"close {name}")

    return made


class Holds(Workflow):
    @step
    async def first(
        self,
        ev: Go,
        one: Annotated[str, Resource(opens("for the workflow"), scope="workflow")],
        two: Annotated[str, Resource(opens("for the run"), scope="run")],
        three: Annotated[str, Resource(opens("for the step"), scope="step")],
    ) -> StopEvent:
        await anyio.sleep(1)
        return StopEvent(result=f"{one}, {two}, {three}")


@each_backend
def test_resources_are_opened_and_closed(backend: Backend) -> None:
    OPENED.clear()
    run = testing.simulate(Holds, backend=backend)
    assert run.result == "for the workflow, for the run, for the step"
    assert sorted(OPENED[:3]) == ["open for the run", "open for the step", "open for the workflow"]
    assert OPENED[3:] == ["close for the step", "close for the run", "close for the workflow"]


class Plain(Workflow):
    """Plain steps, several at once, that ask the loop for all there is."""

    @step
    async def split(self, ev: Go) -> list[Part]:
        return [Part(n) for n in range(3)]

    @step(num_workers=3)
    def work(self, ctx: Context, ev: Part) -> Done:
        time.sleep(3 - ev.n)
        anyio.from_thread.run(anyio.sleep, 0.5)
        now = anyio.from_thread.run_sync(anyio.current_time)
        ctx.send_event(Part(10 + ev.n), "note")
        ctx.write_event_to_stream(Part(round(now * 10)))
        testing.effect(threading.current_thread() is not threading.main_thread(), ev.n)
        anyio.from_thread.check_cancelled()
        return Done(ev.n)

    @step
    async def note(self, ctx: Context, ev: Part) -> None:
        if ev.n >= 10:
            await ctx.set(f"note {ev.n}", await anyio.to_thread.run_sync(lambda: ev.n * 2))

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=[ev.n for ev in evs])


@each_backend
def test_plain_steps_at_once(backend: Backend) -> None:
    run = testing.simulate(Plain, backend=backend)
    assert run.result == [0, 1, 2]
    assert run.effects == [(True, 2), (True, 1), (True, 0)]
    assert [ev for ev in run.stream if isinstance(ev, Part)] == [Part(15), Part(25), Part(35)]
    assert run.state == {"note 12": 24, "note 11": 22, "note 10": 20}
    assert run.duration == 3.5


@each_backend
def test_a_deadlock_is_shown_at_once(backend: Backend) -> None:
    class Stuck(Workflow):
        @step
        async def wait(self, ev: Go) -> StopEvent:
            await anyio.Event().wait()
            return StopEvent()

    with pytest.raises(Counterexample) as raised:
        testing.simulate(Stuck(timeout=None), backend=backend)
    assert raised.value.kind == "deadlock"
    assert "wait #1 waits at test_simulate.py:" in str(raised.value)


# ------------------------------------------------------------------------------------------------ nothing is left


def patched() -> list[Any]:
    return [
        *(anyio.to_thread.run_sync, anyio.from_thread.run, anyio.from_thread.run_sync),
        *(anyio.from_thread.check_cancelled, time.sleep, threading.Thread.start),
    ]


@each_backend
def test_nothing_is_left_patched_and_no_thread(backend: Backend) -> None:
    before, threads = patched(), set(threading.enumerate())
    testing.simulate(Plain, backend=backend)
    assert patched() == before
    assert set(threading.enumerate()) <= threads
    with pytest.raises(testing.OutsideWorld):
        testing.simulate(Reaches, backend=backend)
    assert patched() == before
    assert set(threading.enumerate()) <= threads


class Reaches(Workflow):
    @step
    def reach(self, ev: Go) -> StopEvent:
        subprocess.run(["true"], check=True)
        return StopEvent()


@each_backend
def test_it_works_in_any_thread_and_in_several_at_once(backend: Backend) -> None:
    expected = look(testing.simulate(Plain, backend=backend))
    found: list[Any] = []

    def simulate_often() -> None:
        found.extend(look(testing.simulate(Plain, backend=backend)) for _ in range(10))

    threads = [threading.Thread(target=simulate_often) for _ in range(3)]
    for thread in threads:
        thread.start()
    simulate_often()
    for thread in threads:
        thread.join()
    assert found == [expected] * 40
    assert time.sleep is patched()[4] and threading.Thread.start.__module__ == "threading"


def test_other_threads_have_the_real_thing_meanwhile() -> None:
    inside, may_end = threading.Event(), threading.Event()
    ran: list[str] = []

    class Waits(Workflow):
        @step
        async def wait(self, ev: Go) -> StopEvent:
            inside.set()
            may_end.wait(5)
            return StopEvent()

    def outside() -> None:
        inside.wait(5)
        time.sleep(0.001)
        another = threading.Thread(target=lambda: ran.append("a thread"))
        another.start()
        another.join()
        ran.append(str(anyio.run(anyio.to_thread.run_sync, lambda: 3)))
        may_end.set()

    thread = threading.Thread(target=outside)
    thread.start()
    testing.simulate(Waits)
    thread.join()
    assert ran == ["a thread", "3"]
