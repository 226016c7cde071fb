"""What runs hold, under their own harness: resources, nested runs, and the memory they take, in every order.

As in test_simulated_engine.py, each program asserts what must hold however its tasks interleave.
"""

import contextlib
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import anyio
import anyio.lowlevel
import pytest
from schedules import LONG, SHORT, Programs, moments, outcome

from flowkit import (
    Context,
    Event,
    Handler,
    HumanResponseEvent,
    InputRequiredEvent,
    Origin,
    Resource,
    RunFinished,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowRuntimeError,
    step,
)

PROGRAMS = Programs()
program = PROGRAMS.add

Scope = Literal["run", "workflow"]


class Item(Event):
    n: int


class Done(Event):
    n: int


# --------------------------------------------------------------------------------------------------------- resources


class Shop:
    """What its resources were built, and who uses them."""

    def __init__(self) -> None:
        self.built: Counter[str] = Counter()
        self.open: Counter[str] = Counter()
        self.users = 0

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[str]:
        self.built[name] += 1
        self.open[name] += 1
        try:
            yield name
        finally:
            self.open[name] -= 1

    def workflow(self, scope: Scope) -> Workflow:
        """Three steps at once need a connection, which is an async context manager, and a cursor, which needs it."""

        @asynccontextmanager
        async def connection() -> AsyncIterator[str]:
            with self.inside("connection"):
                await anyio.lowlevel.checkpoint()
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep, 0.1)
                    yield "connection"
                assert not self.users
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()

        async def token() -> str:
            await anyio.lowlevel.checkpoint()
            return "token"

        @contextlib.contextmanager
        def cursor(
            connection: Annotated[str, Resource(connection, scope=scope)],
            token: Annotated[str, Resource(token, scope=scope)],
        ) -> Iterator[str]:
            with self.inside("cursor"):
                yield "cursor"

        class Flow(Workflow):
            @step
            async def begin(self, ev: StartEvent) -> list[Item]:
                return [Item(n) for n in range(3)]

            @step(num_workers=3)
            async def use(
                flow,
                ev: Item,
                connection: Annotated[str, Resource(connection, scope=scope)],
                cursor: Annotated[str, Resource(cursor, scope=scope)],
            ) -> Done:
                self.users += 1
                try:
                    await anyio.lowlevel.checkpoint()
                finally:
                    self.users -= 1
                return Done(ev.n)

            @step
            async def join(flow, evs: list[Done]) -> StopEvent:
                return StopEvent(result="done")

        return Flow()

    def all_closed(self, *, built: int) -> None:
        """Everything was built so often at most, and is closed."""
        assert not +self.open, self.open
        assert all(count <= built for count in self.built.values()), self.built


async def everything_is_built_once(scope: Scope) -> Any:
    shop = Shop()
    async with shop.workflow(scope) as flow:
        assert await flow.run() == "done"
        assert shop.open.total() == (2 if scope == "workflow" else 0)
    shop.all_closed(built=1)


async def a_run_is_cancelled_while_it_builds(scope: Scope) -> Any:
    shop = Shop()
    async with shop.workflow(scope) as flow:
        handler = flow.run()
        await moments(3)
        await handler.cancel_run()
        heard = await outcome(handler)
    shop.all_closed(built=1)
    return heard


async def one_of_two_runs_is_cancelled_while_it_builds(scope: Scope) -> Any:
    shop = Shop()
    async with shop.workflow(scope) as flow:
        first, second = flow.run(), flow.run()
        await moments(3)
        first.cancel_run()
        assert await second == "done"
        heard = await outcome(first)
    shop.all_closed(built=1 if scope == "workflow" else 2)
    return heard


async def owners_give_up_while_it_builds(scope: Scope) -> Any:
    shop = Shop()
    async with shop.workflow(scope) as flow:
        for _ in range(2):
            async with anyio.create_task_group() as group:
                with anyio.CancelScope() as scope_around:

                    async def cut(scope_around: anyio.CancelScope = scope_around) -> None:
                        await moments(3)
                        scope_around.cancel()

                    group.start_soon(cut)
                    await flow.run()
        assert await flow.run() == "done"
    shop.all_closed(built=1 if scope == "workflow" else 3)


async def the_workflow_is_closed_while_a_run_builds(scope: Scope) -> Any:
    shop = Shop()
    flow = shop.workflow(scope)
    handler = flow.run()
    await moments(3)
    await flow.aclose()
    heard = await outcome(handler)
    await flow.aclose()
    shop.all_closed(built=2)
    return heard


def of_each_scope(main: Any, *ways: Any, **more: Any) -> None:
    for scope in ("run", "workflow"):

        async def one(scope: Scope = scope) -> Any:  # type: ignore[assignment]
            return await main(scope)

        one.__name__ = f"{main.__name__}_{scope}"
        ways_here = {*ways, *more.get(scope, ())} or {None}
        _ = program(*ways_here)(one)


of_each_scope(everything_is_built_once)
of_each_scope(a_run_is_cancelled_while_it_builds, "done", "WorkflowCancelledByUser")
of_each_scope(one_of_two_runs_is_cancelled_while_it_builds, "done", "WorkflowCancelledByUser")
of_each_scope(owners_give_up_while_it_builds)
of_each_scope(the_workflow_is_closed_while_a_run_builds, "done", workflow=["StepFailed"])


# ------------------------------------------------------------------------------------------------------- nested runs


class Ask(InputRequiredEvent):
    name: str


class Reply(HumanResponseEvent):
    name: str


class Child(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        reply = await ctx.wait_for_event(Reply, Ask(name=ev.name))
        await anyio.lowlevel.checkpoint()
        return StopEvent(result=f"{ev.name} got {reply.name}")


class Parent(Workflow):
    """Two children at once, each of which asks for its own name."""

    def __init__(self) -> None:
        super().__init__()
        self.add_workflows(child=Child())

    @step
    async def begin(self, ev: StartEvent) -> list[Item]:
        return [Item(0), Item(1)]

    @step(num_workers=2)
    async def delegate(self, ev: Item, child: Child) -> Done:
        assert await child.run(name=f"child {ev.n}") == f"child {ev.n} got child {ev.n}"
        return Done(ev.n)

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result="done")


async def answer_all(handler: Handler) -> None:
    """Answer each question where it came from, a moment later."""

    async def answer(origin: Origin | None, name: str) -> None:
        await anyio.lowlevel.checkpoint()
        with contextlib.suppress(RunFinished, WorkflowRuntimeError):
            handler.send_event(Reply(name=name), to=origin)

    async with anyio.create_task_group() as group:
        reader = handler.stream_events()
        async for event in reader:
            if isinstance(event, Ask):
                group.start_soon(answer, reader.origin, event.name)


@program("done")
async def a_reply_finds_its_child() -> Any:
    handler = Parent().run()
    await answer_all(handler)
    return await handler


@program("done", "WorkflowCancelledByUser")
async def a_run_is_cancelled_as_its_children_are_answered() -> Any:
    handler = Parent().run()
    async with anyio.create_task_group() as group:
        group.start_soon(answer_all, handler)
        await moments(5)
        await handler.cancel_run()
        assert not handler._run.children
    return await outcome(handler)


@program("done", "gave up")
async def a_step_gives_up_as_its_child_is_answered() -> Any:
    patience = anyio.CancelScope()

    class Top(Workflow):
        @step
        async def delegate(self, ev: StartEvent, child: Child) -> StopEvent:
            with patience:
                assert await child.run(name="child") == "child got child"
                return StopEvent(result="done")
            return StopEvent(result="gave up")

    flow = Top()
    flow.add_workflows(child=Child())
    handler = flow.run()

    async def lose_patience() -> None:
        await moments(3)
        patience.cancel()

    reader = handler.stream_events()
    async with anyio.create_task_group() as group:
        async for event in reader:
            if isinstance(event, Ask):
                group.start_soon(lose_patience)
                await anyio.lowlevel.checkpoint()
                with contextlib.suppress(RunFinished, WorkflowRuntimeError):
                    handler.send_event(Reply(name="child"), to=reader.origin)
    return await handler


@program("done", "WorkflowCancelledByUser", warns=(ResourceWarning,))
async def a_child_in_the_background_doesnt_outlive_its_parent() -> Any:
    inside: Counter[str] = Counter()

    class Slow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            inside["slow"] += 1
            try:
                await anyio.sleep(100)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
                inside["slow"] -= 1
            return StopEvent()

    class Top(Workflow):
        @step
        async def leave(self, ev: StartEvent, child: Slow) -> StopEvent:
            left.append(child.run())
            await moments(2)
            return StopEvent(result="done")

    left: list[Handler] = []
    flow = Top()
    flow.add_workflows(child=Slow())
    handler = flow.run()
    await moments(4)
    await handler.cancel_run()
    assert not +inside
    heard = await outcome(handler)
    assert all(one.is_done() or not one._run.begun for one in left)
    return heard


# ------------------------------------------------------------------------------------------------------------ memory


class Payload:
    pass


class Holding(Workflow):
    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Item:
        await ctx.set("payload", ev.payload)
        return Item(0)

    @step
    async def end(self, ev: Item) -> StopEvent:
        return StopEvent(result="done")


async def is_freed(own: str) -> Any:
    workflow, payload = Holding(), Payload()
    freed = weakref.ref(workflow), weakref.ref(payload)
    if own == "await":
        await workflow.run(payload=payload)
    elif own == "block":
        async with workflow.run(payload=payload) as handler:
            await handler
        del handler
    else:
        handler = workflow.run(payload=payload)
        await anyio.lowlevel.checkpoint()
        await handler
        del handler
    del workflow, payload
    await anyio.sleep(1)
    assert [one() for one in freed] == [None, None]


for own in ("await", "block", "background"):

    async def _is_freed(own: str = own) -> Any:
        return await is_freed(own)

    _is_freed.__name__ = f"a_run_is_freed_at_once_{own}"
    _ = program(is_watched=False)(_is_freed)


# ------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_holds_in_every_order(name: str, anyio_backend_name: str) -> None:
    PROGRAMS[name].search(anyio_backend_name, SHORT)


@pytest.mark.crash
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_holds_in_very_many_orders(name: str, anyio_backend_name: str) -> None:
    assert PROGRAMS[name].search(anyio_backend_name, LONG // 2) == PROGRAMS[name].ways
