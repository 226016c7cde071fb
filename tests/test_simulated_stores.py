"""The journal and the runtime under their own harness: crashes, stores that fail, releases, leases, in every order.

As in test_simulated_engine.py, each program asserts what must hold however its tasks interleave. With ``crash`` it is
killed at every point at which it writes, and begun again; with ``faults`` one of its commits fails, or takes long.
Steps have their effects by `testing.effect`, with their idempotency keys: so the other side can tell what came again.
"""

import contextlib
import time
from collections import Counter
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel
import crash_flows
import pytest
from crash_flows import SCENARIOS, Ask, Reply, Scenario
from schedules import LONG, SHORT, Programs, Session, explored, moments, the_store, the_world

from flowkit import (
    Context,
    Event,
    RunFinished,
    RunSuspended,
    StartEvent,
    StepFailed,
    StopEvent,
    StoreError,
    UnhandledEventWarning,
    Workflow,
    WrongCall,
    open_runtime,
    step,
    testing,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.storage_errors import LeaseLost, RunElsewhere, UnexpectedEvent, WrongWorkflow
from flowkit.testing.scenario import STORE, Fault
from flowkit.testing.scenario import Scenario as Schedule
from flowkit.workflow import records_of

PROGRAMS = Programs()
program = PROGRAMS.add

HANG = 10_000.0
"""Virtual seconds that no program takes."""


class Item(Event):
    n: int


class Approved(Event):
    by: str = "Ada"


class Chain(Workflow):
    """Two steps with an effect each; the second takes a second."""

    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Item:
        testing.effect("first", ctx.idempotency_key)
        await ctx.set("n", 1)
        return Item(1)

    @step
    async def second(self, ctx: Context, ev: Item) -> StopEvent:
        await anyio.sleep(1)
        testing.effect("second", ctx.idempotency_key)
        return StopEvent(result=ev.n + await ctx.get("n"))


class Suspended(Workflow):
    """A step of it is suspended until somebody approves."""

    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=(await ctx.wait_for_event(Approved, waiter_event=Ask("ok?"))).by)


class Resting(Workflow):
    """It rests until somebody approves."""

    @step
    async def ask(self, ev: StartEvent) -> Ask:
        return Ask("ok?")

    @step
    async def approved(self, ctx: Context, ev: Approved) -> StopEvent:
        testing.effect("approved", ctx.idempotency_key)
        return StopEvent(result=ev.by)


class Top(Workflow):
    @step
    async def delegate(self, ev: StartEvent, child: Suspended) -> StopEvent:
        return StopEvent(result=await child.run())


# One of each serves all runs: what it takes to write them is built once.
CHAIN, SUSPENDED, TOP = Chain(), Suspended(), Top()
TOP.add_workflows(child=SUSPENDED)
RESTING = Resting(stalled="wait", disable_validation=True)


def each_came_once(*, at_most: int = 1) -> Counter[str]:
    """What effects there were; each so often at most, and told apart by its key."""
    effects = Counter(the_world().effects)
    assert all(times <= at_most for times in effects.values()), effects
    return Counter(what for what, _ in effects)


# --------------------------------------------------------------------------------------- suspended by whoever owns it


def facts_of(workflow: Workflow, run_id: str) -> list[str]:
    records = the_store().read(run_id)
    return [type(fact).__name__ for _, fact in records_of(workflow).facts(run_id, 0, records)]


async def cancelled_after(workflow: Workflow, count: int) -> None:
    """Run it in a scope that is cancelled some moments later."""
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:

            async def cut() -> None:
                await moments(count)
                scope.cancel()

            group.start_soon(cut)
            await workflow.run(store=the_store(), run_id="run")


async def approved(workflow: Workflow) -> Any:
    """Go on with it, and approve."""
    handler = workflow.run(store=the_store(), run_id="run")
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            handler.send_event(Approved())
    return await handler


@program("not there", "running", "waiting")
async def a_waiting_run_whose_owner_is_cancelled_still_waits() -> Any:
    await cancelled_after(SUSPENDED, 4)
    info = the_store().info("run")
    status = "not there" if info is None else info.status
    if info is not None:
        assert facts_of(SUSPENDED, "run") == ["RunStarted", *(["WaitOpened"] if status == "waiting" else [])]
    assert await approved(SUSPENDED) == "Ada"
    return status


@program("not there", "running", "waiting")
async def so_does_one_nested_in_it() -> Any:
    await cancelled_after(TOP, 8)
    nested = the_store().find(parent="run")
    status = "not there" if not nested else nested[0].status
    if nested:
        facts = facts_of(SUSPENDED, nested[0].run_id)
        assert facts == ["RunStarted", *(["WaitOpened"] if status == "waiting" else [])]
    assert await approved(TOP) == "Ada"
    return status


# ----------------------------------------------------------------------------------------------------------- runtimes


@program((2, 2), crash=True)
async def a_runtime_runs_two() -> Any:
    with anyio.fail_after(HANG):
        async with open_runtime(store=the_store(), workflows=[CHAIN]) as runtime:
            handlers = [await runtime.run(CHAIN, run_id=run_id) for run_id in ("a", "b")]
            results = [await handler for handler in handlers]
    assert each_came_once(at_most=the_world().lives) == {"first": 2, "second": 2}
    return tuple(results)


@program(2)
async def a_runtime_is_left_and_another_goes_on() -> Any:
    with anyio.fail_after(HANG):
        for cut in (3, 6, 9):
            async with open_runtime(store=the_store(), workflows=[CHAIN]) as runtime:
                handler = await runtime.run(CHAIN, run_id="a")
                await moments(cut)
            del handler
        async with open_runtime(store=the_store(), workflows=[CHAIN]) as runtime:
            result = await runtime.handler("a")
            assert [info.status for info in await runtime.runs()] == ["finished"]
    assert each_came_once(at_most=4) == {"first": 1, "second": 1}
    return result


@program("a", "b")
async def two_runtimes_want_one_run() -> Any:
    drivers: list[str] = []
    results: dict[str, Any] = {}

    class Alone(Workflow):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            drivers.append(self.name)
            await anyio.sleep(1)
            return StopEvent(result=self.name)

    async def want(name: str) -> None:
        workflow = Alone(name)
        async with open_runtime(store=the_store(), workflows=[workflow]) as runtime:
            with contextlib.suppress(RunElsewhere, LeaseLost):
                results[name] = await (await runtime.run(workflow, run_id="run"))
            await anyio.sleep(5)

    with anyio.fail_after(HANG):
        async with anyio.create_task_group() as group:
            group.start_soon(want, "a")
            group.start_soon(want, "b")
    (driver,) = drivers
    assert results[driver] == driver
    assert set(results.values()) == {driver}
    return driver


@program(None)
async def an_id_is_run_three_times_at_once() -> Any:
    got: list[Any] = []
    with anyio.fail_after(HANG):
        async with open_runtime(store=the_store(), workflows=[CHAIN]) as runtime:

            async def one() -> None:
                got.append(await (await runtime.run(CHAIN, run_id="a")))

            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(one)
    assert got == [2, 2, 2]
    assert each_came_once() == {"first": 1, "second": 1}


@program(None)
async def each_who_wants_what_is_another_is_told() -> Any:
    """And nothing is logged, as somebody has heard of it."""
    told: list[str] = []
    with anyio.fail_after(HANG):
        await CHAIN.run(store=the_store(), run_id="run")
        async with open_runtime(store=the_store(), workflows=[RESTING]) as runtime:

            async def want() -> None:
                try:
                    await runtime.run(RESTING, run_id="run")
                except WrongWorkflow as error:
                    told.append(error.run_id)

            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(want)
    assert told == ["run"] * 3


async def an_answer_comes_as_its_run_is_released(workflow: Workflow) -> Any:
    options = {"release_after": 1.0, "release_suspended": True}
    with anyio.fail_after(HANG):
        async with open_runtime(store=the_store(), workflows=[workflow], **options) as runtime:
            handler = await runtime.run(workflow, run_id="run")
            del handler

            async def send() -> None:
                await anyio.sleep(1)
                with contextlib.suppress(RunFinished, UnexpectedEvent):
                    await runtime.send_event("run", Approved())

            async with anyio.create_task_group() as group:
                group.start_soon(send)
                group.start_soon(send)
            return await runtime.handler("run")


@program("Ada", warns=(UnhandledEventWarning,))
async def an_answer_comes_as_its_suspended_run_is_released() -> Any:
    return await an_answer_comes_as_its_run_is_released(SUSPENDED)


@program("Ada", warns=(UnhandledEventWarning,))
async def an_answer_comes_as_its_resting_run_is_released() -> Any:
    result = await an_answer_comes_as_its_run_is_released(RESTING)
    assert each_came_once() == {"approved": 1}
    return result


@program("finished", "cancelled")
async def a_run_is_cancelled_as_it_is_released_and_answered() -> Any:
    with anyio.fail_after(HANG):
        async with open_runtime(store=the_store(), workflows=[RESTING], release_after=1) as runtime:
            handler = await runtime.run(RESTING, run_id="run")
            del handler

            async def send() -> None:
                await anyio.sleep(1)
                with contextlib.suppress(RunFinished):
                    await runtime.send_event("run", Approved())

            async def cancel() -> None:
                await anyio.sleep(1)
                await moments(3)
                await runtime.cancel("run")

            async with anyio.create_task_group() as group:
                group.start_soon(send)
                group.start_soon(cancel)
            await runtime.join()
            (info,) = await runtime.runs()
    assert each_came_once()["approved"] >= (info.status == "finished")
    return info.status


@program(None)
async def a_timer_comes_as_its_run_is_released() -> Any:
    tries: list[int] = []

    class Flaky(Workflow):
        @step(retry_policy=ConstantDelayRetryPolicy(3, 2))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            tries.append(ctx.retry_info().attempts)
            if len(tries) < 3:
                raise OSError
            return StopEvent(result="at last")

    flaky = Flaky()
    with anyio.fail_after(HANG):
        async with open_runtime(store=the_store(), workflows=[flaky], release_after=1) as runtime:
            handler = await runtime.run(flaky, run_id="run")
            del handler
            await anyio.sleep(10)
            assert await runtime.handler("run") == "at last"
    assert tries == [0, 1, 2]


@program(None)
async def pruning_races_the_end() -> Any:
    with anyio.fail_after(HANG):
        async with open_runtime(store=the_store(), workflows=[CHAIN], keep_finished=0) as runtime:
            handlers = [await runtime.run(CHAIN, run_id=f"run {n}") for n in range(3)]

            async def prune() -> None:
                await anyio.sleep(1)
                for _ in range(3):
                    await runtime.prune(keep=0)

            async with anyio.create_task_group() as group:
                group.start_soon(prune)
                for handler in handlers:
                    assert await handler == 2
            await runtime.prune(keep=0)
            assert await runtime.runs() == []


@program("forked", "too early")
async def a_run_is_forked_as_it_goes_on() -> Any:
    with anyio.fail_after(HANG):
        async with open_runtime(store=the_store(), workflows=[CHAIN]) as runtime:
            handler = await runtime.run(CHAIN, run_id="a")
            await moments(3)
            fork = None
            with contextlib.suppress(WrongCall):  # its first step has not returned yet
                fork = await runtime.fork("a", after="first", new_id="fork")
            assert await handler == 2
            assert fork is None or await fork == 2
    assert each_came_once() == {"first": 1, "second": 1 if fork is None else 2}
    return "too early" if fork is None else "forked"


@program("sent", "refused")
async def an_event_is_sent_as_the_runtime_closes() -> Any:
    said: list[str] = []
    with anyio.fail_after(HANG):
        async with anyio.create_task_group() as group:
            async with open_runtime(store=the_store(), workflows=[RESTING]) as runtime:
                handler = await runtime.run(RESTING, run_id="run")
                del handler

                async def send() -> None:
                    await moments(2)
                    try:
                        await runtime.send_event("run", Approved())
                    except (RunSuspended, StoreError, WrongCall):
                        said.append("refused")
                    else:
                        said.append("sent")

                group.start_soon(send)
                await moments(2)
        async with open_runtime(store=the_store(), workflows=[RESTING]) as runtime:
            if said == ["refused"]:
                with contextlib.suppress(RunFinished):  # it was sent all the same
                    await runtime.send_event("run", Approved())
            assert await runtime.handler("run") == "Ada"
    assert each_came_once(at_most=2) == {"approved": 1}
    return said[0]


# ------------------------------------------------------------------------------------------------------------ journals


class Ledger(crash_flows.Ledger):
    """The effects of crash_flows.py are the simulation's."""

    def note(self, ctx: Context[Any], *what: Any) -> None:
        testing.effect(ctx.idempotency_key, what)


JOURNALS = {name: scenario for name, scenario in SCENARIOS.items() if scenario.runs == 1}
FAULTS = [
    *(Fault(STORE, number, "full") for number in range(1, 9)),
    *(Fault(STORE, number, "slow", seconds=10.0) for number in range(1, 9)),
]
TRIES = 3
"""How often its caller runs it again where the store has failed."""

flows: dict[str, Workflow] = {}


def flow_of(scenario: Scenario) -> Workflow:
    """One instance serves all runs: what it takes to write them is built once."""
    if scenario.name not in flows:
        flows[scenario.name] = scenario.workflow(Ledger(), **scenario.options)
    return flows[scenario.name]


async def driven(workflow: Workflow, durability: Any) -> Any:
    """Its result, answered and run again as often as need be."""
    for _ in range(TRIES):
        handler = workflow.run(store=the_store(), run_id="run", durability=durability)
        try:
            async with handler:
                reader = handler.stream_events()
                async for event in reader:
                    if isinstance(event, Ask):
                        with contextlib.suppress(RunFinished, RunSuspended, WrongCall):  # it came too late
                            handler.send_event(Reply(event.text, event.text + "!"), to=reader.origin)
                return await handler
        except (StepFailed, TimeoutError) as error:
            return type(error).__name__
        except StoreError:
            continue
    raise AssertionError("it ends in no try")


def try_journal(name: str, durability: str, backend: str, budget: int, **done: Any) -> None:
    """However it is scheduled, whatever is ``done`` to it, it ends as it would have, with the effects it would have
    had; each of them again only where its receiver can tell."""
    scenario = JOURNALS[name]
    usual: list[Counter[Any]] = []

    async def main() -> Any:
        result = await driven(flow_of(scenario), durability)
        world = the_world()
        had = Counter(what for _, what in set(world.effects))
        if not usual:
            usual.append(had)
        if not scenario.loose:
            # What was lost of what `async` had done already may have another number when it is done again.
            assert had == usual[0] if durability == "sync" else set(had) == set(usual[0])
            assert Counter(world.effects).most_common(1)[0][1] <= world.lives + TRIES - 1
        return result

    found = explored(
        main, backend, budget=budget, logs=lambda text: "could not be stored; it will be done again" in text, **done
    )
    assert len(found.results) == 1, found.results


# ------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_holds_in_every_order(name: str, anyio_backend_name: str) -> None:
    PROGRAMS[name].search(anyio_backend_name, SHORT // 2)


@pytest.mark.parametrize("name", JOURNALS)
def test_a_crash_in_some_order_makes_no_difference(name: str, anyio_backend_name: str) -> None:
    durability = ("sync", "async")[(sorted(JOURNALS).index(name) + (anyio_backend_name == "trio")) % 2]
    try_journal(name, durability, anyio_backend_name, SHORT, crash=True)


@pytest.mark.parametrize("name", JOURNALS)
def test_a_store_that_fails_or_is_slow_makes_no_difference(name: str, anyio_backend_name: str) -> None:
    durability = ("sync", "async")[(sorted(JOURNALS).index(name) + (anyio_backend_name == "trio")) % 2]
    try_journal(name, durability, anyio_backend_name, SHORT // 2, faults=FAULTS)


def test_a_slow_store_takes_virtual_time(anyio_backend_name: Any) -> None:
    async def main() -> float:
        assert await CHAIN.run(store=the_store(), run_id="run") == 2
        return anyio.current_time()

    session = Session(main, anyio_backend_name)
    with session.opened():
        for kind, seconds in (("slow", 11.0), ("full", 0.0)):
            fault = Fault(STORE, 2, kind, seconds=10.0)  # type: ignore[arg-type]
            with contextlib.suppress(StoreError):
                session.look(Schedule(faults=(fault,)))
            assert session.world.time() - testing.world.EPOCH == seconds  # type: ignore[attr-defined]


def test_no_thread_of_a_store_outlives_its_last_run(anyio_backend_name: Any) -> None:
    """Not even one that is on its way to a commit which was made without it."""

    class Collecting(Workflow):
        @step
        async def collect(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.set("n", 1)
            ctx.write_event_to_stream(Item(1))
            await moments(ev.n)
            assert ctx.collect_events(ev, [StartEvent]) is not None  # on disk when this returns
            return StopEvent(result="done")

    collecting = Collecting()

    async def one(n: int) -> None:
        assert await collecting.run(store=the_store(), run_id=f"run {n}", n=n) == "done"

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(one, 0)
            group.start_soon(one, 1)

    in_threads = Fault(STORE, 99, "slow", seconds=1.0)
    found = explored(main, anyio_backend_name, budget=150, faults=[in_threads])
    assert "1 sites under bound 1" in found.exhausted


def test_how_long_commits_really_take_changes_no_schedule(
    anyio_backend_name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loop(Workflow):
        @step
        async def turn(self, ev: StartEvent | Item) -> Item | StopEvent:
            n = ev.get("n", 0)
            return Item(n + 1) if n < 10 else StopEvent()

    loop = Loop()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(moments, 20)  # somebody else who wants a turn
            await loop.run(store=the_store(), run_id="run")

    session = Session(main, anyio_backend_name)
    with session.opened():
        session.look(Schedule())
        usual = session.world.scheduler.order
        ticks = count()
        monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
        session.look(Schedule())
    assert session.world.scheduler.order == usual


@pytest.mark.crash
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_holds_in_very_many_orders(name: str, anyio_backend_name: str) -> None:
    assert PROGRAMS[name].search(anyio_backend_name, LONG) == PROGRAMS[name].ways


@pytest.mark.crash
@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("name", JOURNALS)
def test_crashes_in_very_many_orders(name: str, durability: str, anyio_backend_name: str) -> None:
    try_journal(name, durability, anyio_backend_name, LONG // 2, crash=True)
    try_journal(name, durability, anyio_backend_name, LONG // 2, faults=FAULTS)
