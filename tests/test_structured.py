"""Structured concurrency at its edges: clean-ups that fail, Ctrl-C, context variables, what outlives what.

The main road is in test_runs.py. Here every test was a hang, a leak or a lost error once.
"""

import asyncio
import contextvars
import gc
import signal
import threading
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
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
    HumanResponseEvent,
    Resource,
    StartEvent,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowCancelled,
    WorkflowCancelledByUser,
    WorkflowTimeoutError,
    step,
)
from flowkit.errors import WaitTimedOut
from flowkit.testing.virtual_time import run_virtual


class Item(Event):
    n: int = 0


class Done(Event):
    n: int = 0


async def in_a_block(workflow: Workflow, **fields: Any) -> Any:
    async with workflow.run(**fields) as handler:
        return await handler


async def in_the_background(workflow: Workflow, **fields: Any) -> Any:
    handler = workflow.run(**fields)
    await anyio.lowlevel.checkpoint()
    return await handler


Own = Callable[..., Awaitable[Any]]
OWNERS: tuple[Own, ...] = (awaited, in_a_block, in_the_background)
each_owner = pytest.mark.parametrize("own", OWNERS)


# ------------------------------------------------------------------------------------------ failing while cancelled


async def fail_when_cancelled() -> None:
    try:
        await anyio.sleep(100)
    finally:
        raise ValueError("clean-up")


class Untidy(Workflow):
    """Fails while it is cancelled: alone, or beside a task that doesn't."""

    def __init__(self, *, beside: bool, **options: Any) -> None:
        super().__init__(**options)
        self.beside = beside

    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        if not self.beside:
            await fail_when_cancelled()
        async with anyio.create_task_group() as group:
            group.start_soon(fail_when_cancelled)
            await anyio.sleep(100)
        return StopEvent()


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in leaves(one)]
    return [error]


@pytest.mark.parametrize("beside", [False, True])
@each_owner
async def test_a_clean_up_that_fails_at_a_timeout_is_kept_beside_the_timeout(own: Own, beside: bool) -> None:
    with pytest.raises(WorkflowTimeoutError, match="active: work") as caught:
        await own(Untidy(beside=beside, timeout=1))
    (other,) = caught.value.others
    assert [str(leaf) for leaf in leaves(other)] == ["clean-up"]


@pytest.mark.parametrize("beside", [False, True])
@each_owner
async def test_a_clean_up_that_fails_when_the_owner_is_cancelled_replaces_no_cancellation(
    own: Own, beside: bool
) -> None:
    with anyio.move_on_after(1) as scope:
        await own(Untidy(beside=beside))
    assert scope.cancelled_caught


@pytest.mark.parametrize("beside", [False, True])
async def test_a_clean_up_that_fails_after_cancel_run_is_kept_beside_it(beside: bool) -> None:
    handler = Untidy(beside=beside).run()
    await anyio.sleep(1)
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser) as caught:
        await handler
    assert [str(leaf) for other in caught.value.others for leaf in leaves(other)] == ["clean-up"]


# ---------------------------------------------------------------------------------------------- Ctrl-C and exit


class Exiting(Workflow):
    """``where``: what the program is ended from."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    @step
    async def end(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(1)
        if self.where == "a group":
            raise BaseExceptionGroup("", [ValueError("beside"), SystemExit(3)])
        if self.where == "a clean-up after a failure":
            raise ValueError("before")
        return StopEvent()

    @step
    async def other(self, ev: StartEvent) -> None:
        if self.where.startswith("a clean-up"):
            try:
                await anyio.sleep(100)
            finally:
                raise SystemExit(3)


@pytest.mark.parametrize("where", ["a group", "a clean-up after a failure", "a clean-up after the stop event"])
@each_owner
async def test_exit_reaches_the_caller_as_it_is(own: Own, where: str) -> None:
    with pytest.raises(SystemExit) as caught:
        await own(Exiting(where))
    assert caught.value.code == 3


@pytest.mark.parametrize("scope", ["workflow", "run"])
@each_owner
async def test_exit_in_a_resource_reaches_the_caller_as_it_is(own: Own, scope: Any) -> None:
    @asynccontextmanager
    async def keyless() -> AsyncIterator[int]:
        await anyio.lowlevel.checkpoint()
        raise SystemExit("no key")
        yield 1

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, key: Annotated[int, Resource(keyless, scope=scope)]) -> StopEvent:
            return StopEvent(result=key)

    async with Flow() as workflow:
        with pytest.raises(SystemExit, match="no key"):
            await own(workflow)


class Interrupted(Workflow):
    """Ctrl-C comes while a step computes."""

    @step
    async def compute(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(1)
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep(1)
        return StopEvent()


async def in_the_background_of_something_else(workflow: Workflow) -> None:
    handler = workflow.run()
    await anyio.sleep(100)
    raise AssertionError(f"Ctrl-C was swallowed by {handler!r}")


async def in_the_block_of_something_else(workflow: Workflow) -> None:
    async with workflow.run():
        await anyio.sleep(100)
        raise AssertionError("Ctrl-C was swallowed")


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
@pytest.mark.parametrize("own", [*OWNERS, in_the_background_of_something_else, in_the_block_of_something_else])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ctrl_c_ends_the_program_whatever_it_was_doing(own: Own, anyio_backend_name: str) -> None:
    async def main() -> None:
        await own(Interrupted())

    with pytest.raises(KeyboardInterrupt):
        loop(anyio_backend_name, main)
    gc.collect()


# ------------------------------------------------------------------------------------ what is kept before it happens


class Long(Workflow):
    """Every sort of fact."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item | Done:
        ctx.send_event(Done())
        await ctx.set("key", 1)
        return Item()

    @step
    async def wait(self, ctx: Context, ev: Done) -> None:
        try:
            await ctx.wait_for_event(HumanResponseEvent, timeout=3)
        except WaitTimedOut:
            ctx.write_event_to_stream(Done())

    @step
    async def end(self, ev: Item) -> StopEvent:
        await anyio.sleep(6)
        return StopEvent(result="end")


@pytest.mark.parametrize("at", range(9))  # of 9 facts
async def test_a_fact_that_can_not_be_kept_ends_the_run_with_that_error(at: int) -> None:
    count = 0

    def keep(*_: object) -> None:
        nonlocal count
        count += 1
        if count == at + 1:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"), anyio.fail_after(100):
        await Long().run_kept(keep, run_id="kept")


# ----------------------------------------------------------------------------------------------- context variables


request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")


@each_owner
async def test_a_step_sees_the_context_variables_of_the_run_not_those_of_other_steps(own: Own) -> None:
    seen: list[str] = []

    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> list[Item]:
            request.set("begin")
            return [Item(n) for n in range(3)]

        @step(num_workers=1)
        async def work(self, ev: Item) -> Done:
            seen.append(request.get())
            request.set(f"work {ev.n}")
            return Done()

        @step
        async def end(self, evs: list[Done]) -> StopEvent:
            seen.append(request.get())
            return StopEvent()

    token = request.set("the run's")
    await own(Flow())
    request.reset(token)
    assert seen == ["the run's"] * 4


async def test_a_step_does_not_see_the_context_variables_of_whoever_sent_its_event() -> None:
    seen: list[str] = []

    class Flow(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(HumanResponseEvent)
            return StopEvent()

        @step
        async def work(self, ev: Item) -> None:
            seen.append(request.get())

    async with Flow(stalled="wait", disable_validation=True).run() as handler:
        await anyio.sleep(1)
        token = request.set("another request")
        handler.send_event(Item())
        request.reset(token)
        await anyio.sleep(1)
        handler.send_event(HumanResponseEvent())
    assert seen == ["none"]


# ----------------------------------------------------------------------------------------------------- the end


async def test_no_step_begins_after_the_stop_event() -> None:
    begun: list[int] = []

    class Flow(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> list[Item | StopEvent]:
            ctx.send_event(Item(0))
            await anyio.sleep(1)
            return [Item(1), StopEvent()]

        @step
        async def work(self, ev: Item) -> None:
            begun.append(ev.n)

    await Flow().run()
    assert begun == [0]


class Asking(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(HumanResponseEvent)
        return StopEvent()


async def test_a_block_is_left_when_only_a_nested_run_still_waits_for_somebody() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ev: StartEvent, child: Asking) -> StopEvent:
            await child.run()
            return StopEvent()

        @step
        async def work(self, ev: StartEvent) -> None:
            await anyio.sleep(3)  # the child waits before this has ended

    workflow = Flow()
    workflow.add_workflows(child=Asking())
    with pytest.raises(WorkflowCancelled, match="block was left"):
        async with workflow.run():
            pass
    assert anyio.current_time() == pytest.approx(3)


@each_owner
async def test_a_nested_run_that_is_left_behind_ends_before_the_resources_of_its_parent_close(own: Own) -> None:
    order: list[str] = []
    left: list[Handler] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[int]:
        yield 1
        order.append("resource")

    class Child(Sleeper):
        @step
        async def note(self, ev: StartEvent) -> None:
            try:
                await anyio.sleep(100)
            finally:
                order.append("child")

    class Flow(Workflow):
        @step
        async def leave(
            self, ev: StartEvent, child: Child, use: Annotated[int, Resource(resource, scope="run")]
        ) -> StopEvent:
            left.append(child.run())
            await anyio.sleep(1)
            return StopEvent()

    workflow = Flow()
    workflow.add_workflows(child=Child())
    await own(workflow)
    assert order == ["child", "resource"]
    assert left.pop().is_done()


def test_a_handle_that_is_dropped_cancels_its_run_even_where_warnings_are_errors(
    anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow, raised = Sleeper(), list[Any]()
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: raised.append(unraisable.exc_value))

    async def main() -> None:
        handlers = [workflow.run()]
        await anyio.sleep(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            handlers.clear()
        await anyio.sleep(2)
        assert workflow.cleaned == 1

    run_virtual(main, backend=anyio_backend_name)
    assert [type(error) for error in raised] == [ResourceWarning]


async def test_an_error_is_never_its_own_cause() -> None:
    def inner() -> int:
        raise ValueError("first")

    def outer(needed: Annotated[int, Resource(inner)]) -> int:
        return needed

    class Flow(Workflow):
        @step
        async def use(self, ev: StartEvent, value: Annotated[int, Resource(outer)]) -> StopEvent:
            return StopEvent(result=value)

    with pytest.raises(StepFailed) as caught:
        await Flow().run()
    causes: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__
    assert error is None
    assert str(causes[-1]) == "first"


class Payload:
    pass


@each_owner
async def test_a_finished_run_and_its_workflow_are_freed_without_the_garbage_collector(own: Own) -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Item:
            await ctx.set("payload", ev.payload)
            return Item()

        @step
        async def end(self, ev: Item) -> StopEvent:
            return StopEvent(result=1)

    gc.disable()
    try:
        workflow, payload = Flow(), Payload()
        freed = weakref.ref(workflow), weakref.ref(payload)
        await own(workflow, payload=payload)
        del workflow, payload
        await anyio.sleep(1)
        assert [one() for one in freed] == [None, None]
    finally:
        gc.enable()


# --------------------------------------------------------------------------------------- asyncio's own Task.cancel()


@pytest.fixture
def only_asyncio(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no Task.cancel()")


@each_owner
async def test_being_cancelled_again_cuts_no_clean_up_short(own: Own, only_asyncio: None) -> None:
    workflow = Sleeper()
    task = asyncio.ensure_future(own(workflow))
    await anyio.sleep(5)
    for _ in range(3):
        task.cancel()
        await anyio.sleep(0.1)
        assert not task.done()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert workflow.cleaned == 1
    assert anyio.current_time() == pytest.approx(6)


async def test_nested_deadlines_of_asyncio_leave_nothing_running(only_asyncio: None) -> None:
    workflow = Sleeper()
    handler = workflow.run()
    await anyio.lowlevel.checkpoint()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5.5):
            async with asyncio.timeout(5):
                await handler
    assert handler.is_done()
    current = asyncio.current_task()
    assert current is not None and current.cancelling() == 0


async def test_a_run_that_is_cancelled_while_it_waits_for_a_nested_one_settles(only_asyncio: None) -> None:
    left: list[Handler] = []

    class Flow(Workflow):
        @step
        async def leave(self, ev: StartEvent, child: Sleeper) -> StopEvent:
            left.append(child.run())
            await anyio.sleep(1)
            return StopEvent(result="done")

    workflow = Flow()
    workflow.add_workflows(child=Sleeper())

    async def drive() -> Any:
        left.append(workflow.run())
        return await left[0]

    task = asyncio.ensure_future(drive())
    await anyio.sleep(1.5)  # the run has ended, its child is cleaning up
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [handler.is_done() for handler in left] == [True, True]
    assert await left[0] == "done"
    left.clear()
