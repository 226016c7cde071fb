"""Mail between runtimes under the harness: in every order, with crashes, with stores that fail; each message once."""

import contextlib
from collections import Counter
from typing import Any

import anyio
import pytest
from schedules import LONG, SHORT, Programs, explored, moments, the_store, the_world

from flowkit import (
    Context,
    Event,
    RunFinished,
    StartEvent,
    StopEvent,
    StoreError,
    UnhandledEventWarning,
    Workflow,
    WorkflowCancelledByUser,
    open_runtime,
    step,
    testing,
)
from flowkit.facts import EventSent
from flowkit.runtime import Runtime
from flowkit.storage_errors import UnexpectedEvent
from flowkit.testing.scenario import STORE, Fault
from flowkit.workflow import records_of

PROGRAMS = Programs()
program = PROGRAMS.add

HANG = 10_000.0
"""Virtual seconds that no program takes."""


class Letter(Event):
    n: int


class Done(Event):
    pass


class Collecting(Workflow):
    """Notes each `Letter`, ends with `Done`."""

    @step
    async def begin(self, ev: StartEvent) -> None:
        return None

    @step(atomic=True, num_workers=1)
    async def note(self, ctx: Context, ev: Letter) -> None:
        await ctx.set("letters", [*await ctx.get("letters", []), ev.n])

    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent:
        return StopEvent(result=sorted(await ctx.get("letters", [])))


class Once(Workflow):
    """Ends with the first `Letter` that comes while it waits; busy for a second before."""

    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await anyio.sleep(1)
        return StopEvent(result=(await ctx.wait_for_event(Letter)).n)


class Top(Workflow):
    @step
    async def delegate(self, ev: StartEvent, child: Once) -> StopEvent:
        return StopEvent(result=await child.run())


COLLECTING, ONCE, TOP = Collecting(stalled="wait"), Once(), Top()
TOP.add_workflows(child=ONCE)


def entered(workflow: Workflow, run_id: str = "run") -> list[int]:
    """The letters in a run's journal."""
    facts = records_of(workflow).facts(run_id, 0, the_store().read(run_id))
    events = [fact.event for _, fact in facts if isinstance(fact, EventSent)]
    return [event.n for event in events if isinstance(event, Letter)]


def runtime_of(*workflows: Workflow, **options: Any) -> Any:
    return open_runtime(store=the_store(), workflows=workflows, **options)


async def sends(runtime: Runtime, *numbers: int, after: int = 0) -> None:
    await moments(after)
    for n in numbers:
        await runtime.send_event("run", Letter(n))


@program((0, 1, 2, 3))
async def two_senders_and_an_owner() -> Any:
    with anyio.fail_after(HANG):
        async with runtime_of(COLLECTING) as owner, runtime_of(COLLECTING) as one, runtime_of(COLLECTING) as two:
            handler = await owner.run(COLLECTING, run_id="run")
            async with anyio.create_task_group() as group:
                group.start_soon(sends, one, 0, 1)
                group.start_soon(sends, two, 2)
                group.start_soon(sends, owner, 3)
            await owner.join()
            await one.send_event("run", Done())
            letters = tuple(await handler)
    assert sorted(entered(COLLECTING)) == sorted(letters)
    assert the_store().mail() == []
    return letters


@program((0, 1))
async def an_owner_leaves_as_letters_come() -> Any:
    with anyio.fail_after(HANG):
        async with runtime_of(COLLECTING) as sender, anyio.create_task_group() as group:
            async with runtime_of(COLLECTING) as owner:
                await owner.run(COLLECTING, run_id="run")
                group.start_soon(sends, sender, 0, 1)
                await moments(6)
        async with runtime_of(COLLECTING) as last:
            handler = last.handler("run")
            await handler.come_up()
            await last.join()
            await last.send_event("run", Done())
            letters = tuple(await handler)
    assert sorted(entered(COLLECTING)) == sorted(letters)
    return letters


@program((0,))
async def a_run_is_released_as_a_letter_comes() -> Any:
    options = {"release_after": 1.0}
    with anyio.fail_after(HANG):
        async with runtime_of(COLLECTING, **options) as owner, runtime_of(COLLECTING, take_up=False) as sender:
            handler = await owner.run(COLLECTING, run_id="run")
            del handler
            await anyio.sleep(1)
            await sends(sender, 0)
            await sender.join()
            await owner.join()
            await sender.send_event("run", Done())
            await sender.join()
            await owner.join()
            letters = tuple(await sender.handler("run"))
    assert entered(COLLECTING) == [0]
    return letters


@program(0, 1, warns=(UnhandledEventWarning,))
async def two_letters_for_one_wait() -> Any:
    refused: list[str] = []

    async def send(runtime: Runtime, n: int) -> None:
        try:
            await sends(runtime, n)
        except (RunFinished, UnexpectedEvent) as error:
            refused.append(type(error).__name__)

    with anyio.fail_after(HANG):
        async with runtime_of(ONCE) as owner, runtime_of(ONCE) as one, runtime_of(ONCE) as two:
            handler = await owner.run(ONCE, run_id="run")
            async with anyio.create_task_group() as group:
                group.start_soon(send, one, 0)
                group.start_soon(send, two, 1)
            result = await handler
    assert len(entered(ONCE)) + len(refused) == 2
    return result


@program(5)
async def a_letter_for_a_nested_run() -> Any:
    with anyio.fail_after(HANG):
        async with runtime_of(TOP) as owner, runtime_of(TOP) as sender:
            handler = await owner.run(TOP, run_id="run")
            await sends(sender, 5)
            result = await handler
    (child,) = the_store().find(parent="run")
    assert (entered(TOP), entered(ONCE, child.run_id)) == ([], [5])
    return result


@program("finished", "cancelled")
async def a_cancellation_races_an_answer() -> Any:
    with anyio.fail_after(HANG):
        async with runtime_of(ONCE) as owner, runtime_of(ONCE) as one, runtime_of(ONCE) as two:
            handler = await owner.run(ONCE, run_id="run")

            async def send() -> None:
                await anyio.sleep(1)
                with contextlib.suppress(RunFinished):
                    await sends(one, 1)

            async def cancel() -> None:
                await anyio.sleep(1)
                await moments(4)
                await two.cancel("run")

            async with anyio.create_task_group() as group:
                group.start_soon(send)
                group.start_soon(cancel)
            with contextlib.suppress(WorkflowCancelledByUser):
                await handler
        info = the_store().info("run")
    assert info is not None and the_store().mail() == []
    return info.status


async def in_spite_of_crashes() -> None:
    """Each life sends what has never been tried. What was sent is there once, what was only tried at most once."""
    effects = the_world().effects
    with anyio.fail_after(HANG):
        async with runtime_of(COLLECTING) as owner, runtime_of(COLLECTING, take_up=False) as sender:
            handler = await owner.run(COLLECTING, run_id="run")
            for n in range(2):
                if ("tries", n) not in effects:
                    testing.effect("tries", n)
                    await sends(sender, n)
                    testing.effect("sent", n)
            await owner.join()
            with contextlib.suppress(RunFinished):
                await sender.send_event("run", Done())
            letters = await handler
    count = Counter(entered(COLLECTING))
    assert sorted(count.elements()) == letters
    assert all(times == 1 for times in count.values()), count
    assert {n for what, n in effects if what == "sent"} <= set(count)


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_holds_in_many_orders(name: str, anyio_backend_name: str) -> None:
    assert PROGRAMS[name].search(anyio_backend_name, SHORT) <= PROGRAMS[name].ways


def test_it_holds_wherever_the_process_crashes(anyio_backend_name: str) -> None:
    found = explored(in_spite_of_crashes, anyio_backend_name, budget=120, crash=True)
    assert found.runs > 30


@pytest.mark.parametrize("kind", ["full", "slow"])
def test_it_holds_where_a_commit_fails_or_takes_long(kind: Any, anyio_backend_name: str) -> None:
    async def main() -> None:
        with anyio.fail_after(HANG):
            async with runtime_of(COLLECTING) as owner, runtime_of(COLLECTING) as sender:
                with contextlib.suppress(StoreError):
                    await owner.run(COLLECTING, run_id="run")
                if the_store().info("run") is None:
                    return  # it has never begun
                await sends(sender, 0, 1)
                for runtime in (owner, sender):
                    await runtime.join()
        assert sorted(entered(COLLECTING)) == [0, 1]

    faults = [Fault(STORE, number, kind, **({"seconds": 10.0} if kind == "slow" else {})) for number in range(1, 7)]
    explored(main, anyio_backend_name, budget=60, faults=faults, logs=lambda text: True)


@pytest.mark.crash
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_holds_in_very_many_orders(name: str, anyio_backend_name: str) -> None:
    assert PROGRAMS[name].search(anyio_backend_name, LONG) == PROGRAMS[name].ways


@pytest.mark.crash
def test_it_holds_wherever_the_process_crashes_in_many_orders(anyio_backend_name: str) -> None:
    explored(in_spite_of_crashes, anyio_backend_name, budget=LONG, crash=True)
