"""A workflow, or a property, that is another one in each run is told so, with what differs and where."""

import re
import secrets
import time
import uuid
from collections.abc import Callable
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest

from flowkit import Context, Event, Resource, StartEvent, StopEvent, Workflow, step, testing
from flowkit.testing import Counterexample, exploring
from flowkit.testing.determinism import difference
from flowkit.testing.scenario import Scenario
from flowkit.testing.simulation import Simulation

each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])

CURE = (
    "Take the time from ctx.now(), ids from ctx.uuid() and random numbers from ctx.random(): "
    "the wall clock, uuid4() and secrets differ in each run. Choose nothing by id(), hash() or the order of a set, "
    "and keep nothing from one run for the next."
)


@pytest.fixture(autouse=True)
def _nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploring, "ELSEWHERE", 1)


class Go(StartEvent):
    n: int = 1


class Part(Event):
    n: Any = None


class Other(Event):
    n: Any = None


def flow_of(body: Callable[[Context], Any], *, plain: bool = False) -> type[Workflow]:
    class Flow(Workflow):
        if plain:

            @step
            def go(self, ctx: Context, ev: Go) -> Part | Other:
                return body(ctx)  # type: ignore[no-any-return]

        else:

            @step
            async def go(self, ctx: Context, ev: Go) -> Part | Other:
                return await body(ctx)  # type: ignore[no-any-return]

        @step
        async def end(self, ev: Part | Other) -> StopEvent:
            return StopEvent()

    return Flow


class Times:
    """Counts how often it was asked, over all runs: what no run should know."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


def report(call: Callable[[], Any]) -> str:
    """What is wrong, with the kind before; a line of this file is HERE."""
    with pytest.raises(Counterexample) as raised:
        call()
    assert raised.value.kind == "not-deterministic"
    assert raised.value.shrinking == 0
    text = str(raised.value)
    shown = re.findall(r"\n\n((?:  two runs|  the same run).*?)\n\n", text, re.DOTALL)[0]
    shown = re.sub(r"^  ", "", shown, flags=re.MULTILINE)
    return re.sub(r"test_determinism\.py:\d+", "HERE", shown)


def searches(flow: Any, backend: str) -> dict[str, Callable[[], Any]]:
    options: dict[str, Any] = {"budget": 10, "backend": backend}
    return {
        "explore": lambda: testing.explore(flow, **options)(lambda run: None)(),
        "explore drawn": lambda: testing.explore(flow, testing.events(Go), **options)(lambda run: None)(),
        "schedule": lambda: testing.assert_schedule_independent(flow, **options),
        "checkpoint": lambda: testing.assert_checkpoint_equivalence(flow, **options),
        "cancel": lambda: testing.assert_cancels_cleanly(flow, **options),
    }


@each_backend
@pytest.mark.parametrize("search", ["explore", "explore drawn", "schedule", "checkpoint", "cancel"])
def test_a_run_that_goes_by_uuids(search: str, backend: str) -> None:
    async def body(ctx: Context) -> Part | Other:
        await anyio.sleep(1)
        if uuid.uuid4().int in seen or len(seen) % 2:
            seen.append(0)
            return Other()
        seen.append(0)
        return Part()

    seen: list[int] = []
    lines = report(searches(flow_of(body), backend)[search]).splitlines()
    assert lines[0] == "two runs of the same schedule differ (HERE in test_a_run_that_goes_by_uuids.<locals>.body)"
    assert lines[1:3] == ["  first   1 s, go #1: returns Part(n=None)", "  then    1 s, go #1: returns Other(n=None)"]
    assert " ".join(lines[3:]) == CURE


WAYS: dict[str, Callable[[], Any]] = {
    "uuid4": uuid.uuid4,
    "the wall clock": time.time,
    "perf_counter": time.perf_counter_ns,
    "secrets": secrets.token_hex,
}


@each_backend
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_what_differs_in_each_run(way: str, plain: bool, backend: str) -> None:
    async def body(ctx: Context) -> Part:
        return Part(WAYS[way]())

    flow = flow_of((lambda ctx: Part(WAYS[way]())) if plain else body, plain=plain)
    lines = report(searches(flow, backend)["explore"]).splitlines()
    assert lines[0] == "two runs of the same schedule differ (HERE in Flow.go)"
    first, then = lines[1:3]
    assert first.startswith("  first   0 s, go #1: returns Part(n=")
    assert then.startswith("  then    0 s, go #1: returns Part(n=")
    assert first[10:] != then[10:]


@each_backend
def test_what_shows_in_nothing_but_the_schedule(backend: str) -> None:
    times = Times()

    async def body(ctx: Context) -> Part:
        for _ in range(times()):
            await anyio.lowlevel.checkpoint()
        return Part()

    lines = report(searches(flow_of(body), backend)["explore"]).splitlines()
    assert lines[0].endswith("(HERE in test_what_shows_in_nothing_but_the_schedule.<locals>.body)")
    assert re.fullmatch(r"  first   0 s, go #1: returns Part\(n=None\) \(task \d+, in task step \d+\)", lines[1])
    assert re.fullmatch(r"  then    0 s, go #1: returns Part\(n=None\) \(task \d+, in task step \d+\)", lines[2])
    assert lines[1][10:] != lines[2][10:]


@each_backend
def test_what_differs_far_inside_a_long_value(backend: str) -> None:
    times = Times()

    async def body(ctx: Context) -> Part:
        return Part(["x" * 200, f"<{times()}>"])

    lines = report(searches(flow_of(body), backend)["explore"]).splitlines()
    assert "xxx', '<1>'" in lines[1] and "xxx', '<2>'" in lines[2]
    assert max(map(len, lines)) < 200


@each_backend
def test_what_comes_later_or_not_at_all(backend: str) -> None:
    times = Times()

    async def later(ctx: Context) -> Part:
        await anyio.sleep(times())
        return Part()

    assert report(searches(flow_of(later), backend)["explore"]).splitlines()[1:3] == [
        "  first   1 s, go #1: returns Part(n=None)",
        "  then    2 s, go #1: returns Part(n=None)",
    ]
    once = Times()

    async def effect(ctx: Context) -> Part:
        if once() == 2:
            testing.effect("paid")
        return Part()

    assert report(searches(flow_of(effect), backend)["explore"]).splitlines()[1:3] == [
        "  first   0 s, go #1: returns Part(n=None)",
        "  then    0 s, go #1: effect: 'paid'",
    ]


@each_backend
def test_what_ends_in_another_way(backend: str) -> None:
    times = Times()

    async def body(ctx: Context) -> Part:
        if times() == 2:
            raise ValueError("no")
        return Part()

    assert report(searches(flow_of(body), backend)["explore"]).splitlines()[1:3] == [
        "  first   0 s, go #1: returns Part(n=None)",
        "  then    0 s, go #1: raises ValueError('no')",
    ]


@each_backend
def test_addresses_and_counters_mean_nothing(backend: str) -> None:
    kept: list[Any] = []

    async def body(ctx: Context) -> Part:
        thing = object()
        kept.append(thing)
        testing.effect(thing, anyio.get_current_task())
        await ctx.set("thing", [thing, lambda: None])
        return Part(thing)

    testing.explore(flow_of(body), budget=30, backend=backend)(lambda run: None)()


@each_backend
def test_what_the_run_gives_is_the_same(backend: str) -> None:
    async def body(ctx: Context) -> Part:
        await anyio.sleep(ctx.random().random())
        return Part([ctx.now(), ctx.uuid(), ctx.random().random()])

    testing.explore(flow_of(body), budget=30, backend=backend)(lambda run: None)()


async def open_pool() -> str:
    await anyio.sleep(3)
    return "pool"


class Pooled(Workflow):
    """Opens something in its first run: an author who shares it wouldn't have it otherwise."""

    @step
    async def go(self, ev: Go, pool: Annotated[str, Resource(open_pool, scope="workflow")]) -> StopEvent:
        return StopEvent(result=pool)


@each_backend
def test_a_shared_workflow_may_warm_up(backend: str) -> None:
    testing.explore(Pooled(), budget=30, backend=backend)(lambda run: None)()
    testing.explore(Pooled, budget=30, backend=backend)(lambda run: None)()


# ------------------------------------------------------------------------------------------------- what doesn't recur


class Racing(Workflow):
    @step
    async def split(self, ev: Go) -> list[Part]:
        return [Part(1), Part(2)]

    @step
    async def work(self, ctx: Context, ev: Part) -> Other:
        before = await ctx.get("sum", 0)
        await anyio.lowlevel.checkpoint()
        await ctx.set("sum", before + ev.n)
        return Other(ev.n)

    @step
    async def join(self, ctx: Context, evs: list[Other]) -> StopEvent:
        return StopEvent(result=await ctx.get("sum"))


@each_backend
def test_a_property_that_depends_on_more_than_the_run(backend: str) -> None:
    times = Times()

    def holds(run: testing.Run) -> None:
        assert times() != 7, "the seventh"

    lines = report(lambda: testing.explore(Racing, budget=30, backend=backend)(holds)()).splitlines()
    assert lines == [
        "the same run passed when it was looked at again: the property depends on more than the run",
        "  first   AssertionError: the seventh",
        "  then    nothing was wrong",
        "Have it look at nothing but `run` and `start`, and keep nothing from one run for the next.",
    ]


@each_backend
def test_a_finding_that_is_another_run_when_it_is_made_again(backend: str) -> None:
    times = Times()

    class Late(Racing):
        """Is another one from the sixth call on, and fails then."""

        @step
        async def join(self, ctx: Context, evs: list[Other]) -> StopEvent:
            if times() > 5:
                await anyio.sleep(times())
                raise ValueError("late")
            return StopEvent()

    text = report(lambda: testing.explore(Late, budget=30, backend=backend)(lambda run: None)())
    assert text.startswith("two runs of the same schedule differ (HERE in ")
    assert re.search(r"\n  first   7 s, join #1: raises ValueError\('late'\)\n  then    9 s, join #1: raises Val", text)


def test_runs_are_compared_to_the_end() -> None:
    simulation = Simulation(Racing, None)
    with simulation.opened():
        plain, again = simulation.run(Scenario()), simulation.run(Scenario())
        assert difference(simulation, plain, again) is None
        other = simulation.run(Scenario(deviations=((2, 1),)))
        found = difference(simulation, plain, other)
        assert found is not None and found.kind == "not-deterministic"
        again.world.record.pop()
        shorter = difference(simulation, plain, again)
        assert shorter is not None and "  then    nothing more\n" in shorter.text
        again.world.record[:] = plain.world.record
        again.world.scheduler.order.append(3)
        steps = len(plain.world.scheduler.order)
        longer = difference(simulation, plain, again)
        assert longer is not None
        assert f"  first   there are {steps} task steps\n  then    task step {steps + 1} is of task 3\n" in longer.text
