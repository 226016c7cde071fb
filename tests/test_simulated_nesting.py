"""Workflows in workflows, simulated: what is the run's own, and what is another's."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from flowkit import Context, Event, StartEvent, StopEvent, Workflow, step, testing
from flowkit.testing.scenario import Backend, Fault

each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Go(StartEvent):
    n: int = 1


class Shown(Event):
    n: int


class Refused(Exception): ...


class Inner(Workflow):
    """Its step has the name of the outer one's."""

    @step
    async def go(self, ctx: Context, ev: Go) -> StopEvent:
        await ctx.set("inner", ev.n)
        ctx.write_event_to_stream(Shown(ev.n))
        await anyio.sleep(1)
        testing.effect("inner", ctx.idempotency_key)
        return StopEvent(result=ev.n * 2)


class Starts(Workflow):
    """Starts a run of its own in a step."""

    @step
    async def go(self, ctx: Context, ev: Go) -> StopEvent:
        await ctx.set("outer", ev.n)
        result = await Inner().run(n=5)
        ctx.write_event_to_stream(Shown(0))
        return StopEvent(result=result)


class Nests(Workflow):
    @step
    async def go(self, ctx: Context, ev: Go, inner: Inner) -> StopEvent:
        await ctx.set("outer", ev.n)
        result = await inner.run(n=5)
        ctx.write_event_to_stream(Shown(0))
        return StopEvent(result=result)


def nesting() -> Workflow:
    made = Nests()
    made.add_workflows(inner=Inner())
    return made


FLOWS: list[tuple[Callable[[], Workflow], list[Event]]] = [
    (Starts, [Shown(0), StopEvent(result=10)]),
    (nesting, [Shown(5), StopEvent(result=10), Shown(0), StopEvent(result=10)]),
]


@each_backend
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(("flow", "stream"), FLOWS)
def test_state_stream_and_result_are_the_outer_run_s(flow: Any, stream: Any, stored: bool, backend: Backend) -> None:
    run = testing.simulate(flow, {"n": 3}, backend=backend, stored=stored)
    assert (run.result, run.state, run.stream, run.duration) == (10, {"outer": 3}, stream, 1)
    assert [effect[0] for effect in run.effects] == ["inner"]
    begun = [one.detail for one in run.trace if one.what == "begins"]
    assert begun == [("go", 1), ("Inner.go", 1)]


@each_backend
@pytest.mark.parametrize("flow", [Starts, nesting])
def test_faults_are_of_the_outer_run_s_steps(flow: Any, backend: Backend) -> None:
    seen: list[testing.Run] = []
    faults = testing.faults(raises={"go": Refused})
    explored = testing.explore(flow, budget=60, bound=0, faults=faults, check="all", backend=backend)
    explored(lambda run: seen.append(run))()
    assert {run.scenario.faults for run in seen} == {
        (),
        (Fault("go", 1, "raise", 0),),
        (Fault("go", 1, "lose", 0),),
    }
    for run in seen:
        kinds = [fault.kind for fault in run.scenario.faults]
        assert len(run.effects) == (kinds != ["raise"])


@each_backend
def test_a_nested_run_survives_with_the_outer_one(backend: Backend) -> None:
    testing.assert_checkpoint_equivalence(nesting, budget=60, backend=backend)


@each_backend
@pytest.mark.parametrize("flow", [Starts, nesting])
def test_nested_runs_are_cancelled_with_the_outer_one(flow: Any, backend: Backend) -> None:
    testing.assert_cancels_cleanly(flow, budget=80, backend=backend)
    testing.assert_schedule_independent(flow, budget=40, backend=backend)
