"""One workflow in several event loops, one after another, and what becomes of a run whose loop ends."""

import asyncio
import sys
import threading
import time
import types
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from loops import Sleeper, awaited, loop

from flowkit import (
    Context,
    Event,
    Handler,
    MemoryStore,
    Resource,
    StartEvent,
    StopEvent,
    WaitTimedOut,
    Workflow,
    WorkflowCancelled,
    step,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.testing.virtual_time import VirtualLoop, run_virtual, virtual_backend


class Item(Event):
    pass


class Payload:
    pass


# ------------------------------------------------------------------------------------------ one loop after another


LOOPS = ("asyncio", "asyncio", "trio", "trio", "asyncio")


@pytest.fixture
def loops() -> tuple[str, ...]:
    pytest.importorskip("trio")
    return LOOPS


def test_further_runs_wait_their_turn_in_whichever_loop(loops: tuple[str, ...]) -> None:
    workflow = Sleeper(num_concurrent_runs=1)

    async def main() -> float:
        async with anyio.create_task_group() as group:
            group.start_soon(awaited, workflow)
            group.start_soon(awaited, workflow)
        return anyio.current_time()

    for backend in loops:
        began, ended = (loop(backend, anyio_time), loop(backend, main))
        assert ended - began == pytest.approx(22)


async def anyio_time() -> float:
    return anyio.current_time()


def test_a_loop_that_was_closed_over_a_run_keeps_no_turn_of_another() -> None:
    workflow, kept = Sleeper(num_concurrent_runs=1), list[Handler]()

    async def main() -> None:
        kept.append(workflow.run())
        for _ in range(10):
            await asyncio.sleep(0)

    closed = VirtualLoop()
    closed.run_until_complete(main())
    tasks = asyncio.all_tasks(closed)
    assert run_virtual(lambda: awaited(workflow)) == "slept"
    for task in tasks:
        task.cancel()
    closed.run_until_complete(asyncio.wait(tasks))
    closed.close()
    with pytest.warns(ResourceWarning, match="event loop ended"):
        kept.clear()


def test_what_was_built_in_one_loop_is_found_in_the_next(loops: tuple[str, ...]) -> None:
    def plain() -> Payload:
        return Payload()

    async def coroutine() -> Payload:
        return Payload()

    class Flow(Workflow):
        @step
        async def use(
            self,
            ev: StartEvent,
            one: Annotated[Payload, Resource(plain)],
            two: Annotated[Payload, Resource(coroutine)],
        ) -> StopEvent:
            return StopEvent(result=(one, two))

    workflow = Flow()
    assert len({loop(backend, lambda: awaited(workflow)) for backend in loops}) == 1


def test_a_state_is_edited_in_one_loop_after_another(loops: tuple[str, ...]) -> None:
    class Flow(Workflow):
        @step
        async def left(self, ctx: Context, ev: StartEvent) -> Item:
            async with ctx.store.edit_state() as state:
                state["n"] = state.get("n", 0) + 1
                await anyio.sleep(1)
            return Item()

        @step
        async def right(self, ctx: Context, ev: StartEvent) -> Item:
            async with ctx.store.edit_state() as state:
                state["n"] = state.get("n", 0) + 1
            return Item()

        @step
        async def end(self, ctx: Context, ev: Item) -> StopEvent | None:
            if ctx.collect_events(ev, [Item, Item]) is None:
                return None
            return StopEvent(result=await ctx.get("n"))

    workflow = Flow()
    ctx = Context(workflow)

    async def main() -> Any:
        return await workflow.run(ctx=ctx)

    assert [loop(backend, main) for backend in loops] == [2, 4, 6, 8, 10]


# ------------------------------------------------------------------------------------------------ the end of a loop


def test_a_run_whose_loop_ends_before_it_begins_is_settled(anyio_backend_name: str) -> None:
    workflow, kept = Sleeper(), list[Handler]()

    async def main() -> None:
        kept.append(workflow.run())

    loop(anyio_backend_name, main)
    assert isinstance(kept[0].exception(), WorkflowCancelled)
    assert workflow.cleaned == 0
    with pytest.warns(ResourceWarning, match="event loop ended"):
        kept.clear()


@pytest.mark.parametrize("scope", ["workflow", "run"])
def test_resources_stay_open_while_steps_clean_up_at_the_end_of_the_loop(scope: Any, anyio_backend_name: str) -> None:
    order: list[str] = []
    kept: list[Handler] = []

    @asynccontextmanager
    async def connection() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            order.append("closed")

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, use: Annotated[int, Resource(connection, scope=scope)]) -> StopEvent:
            try:
                await anyio.sleep(100)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1)
                order.append("cleaned up")
            return StopEvent()

    async def main() -> None:
        kept.append(Flow().run())
        await anyio.sleep(1)

    loop(anyio_backend_name, main)
    assert order == ["cleaned up", "closed"]
    with pytest.warns(ResourceWarning, match="event loop ended"):
        kept.clear()


def test_a_plain_step_is_waited_for_at_the_end_of_the_loop(anyio_backend_name: str) -> None:
    kept: list[Handler] = []
    entered, ended = threading.Event(), threading.Event()

    class Flow(Workflow):
        @step
        def compute(self, ev: StartEvent) -> StopEvent:
            entered.set()
            time.sleep(0.05)  # no event: nobody is left to set it
            ended.set()
            return StopEvent()

    async def main() -> None:
        kept.append(Flow().run())
        while not entered.is_set():
            await anyio.lowlevel.checkpoint()

    loop(anyio_backend_name, main)
    assert ended.is_set()
    assert kept[0].is_done()
    with warnings.catch_warnings():  # trio lets the thread give its result first
        warnings.simplefilter("ignore", ResourceWarning)
        kept.clear()


async def test_runs_go_on_while_another_thread_imports_trio(
    anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("it has been imported")
    monkeypatch.setitem(sys.modules, "trio", types.ModuleType("trio"))  # as it is until the import is through
    assert await Sleeper().run() == "slept"


# -------------------------------------------------------------------------------------------------- asyncio by itself


class Answered(Event):
    pass


class Waiting(Workflow):
    """Sets timers, starts tasks and runs another workflow, all from what a commit lets go."""

    @step
    async def begin(self, ev: StartEvent) -> list[Item]:
        return [Item(), Item()]

    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=1, delay=1), num_workers=2)
    async def fail_once(self, ctx: Context, ev: Item, child: Sleeper) -> Answered:
        if not ctx.retry_info().attempts:
            raise OSError
        await child.run()
        with pytest.raises(WaitTimedOut):
            await ctx.wait_for_event(Payment, timeout=1)
        return Answered()

    @step
    async def end(self, evs: list[Answered]) -> StopEvent:
        return StopEvent(result=len(evs))


class Payment(Event):
    pass


@pytest.mark.parametrize("inline", [True, False])
def test_a_stored_run_needs_nothing_of_anyio_run(inline: bool) -> None:
    # `asyncio.run` doesn't tell AnyIO which loop runs, so in a callback of the loop, where no task does, it can't know.
    store = MemoryStore()
    store.inline = inline

    async def main() -> Any:
        flow = Waiting()
        flow.add_workflows(child=Sleeper())
        handler = flow.run(store=store, run_id="one")
        assert [type(event) async for event in handler.stream_events()] == [StopEvent] * 3
        return await handler

    _, options = virtual_backend("asyncio", wall=time.perf_counter)
    with asyncio.Runner(loop_factory=options["loop_factory"]) as runner:
        assert runner.run(main()) == 2
