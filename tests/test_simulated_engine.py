"""The engine under its own harness: what callers, steps, timers and clean-ups do to a run, in every order.

Each program is a small async function that drives runs, and asserts what must hold however its tasks interleave. It is
run under many schedules (schedules.py), where the laws are checked, too. What it returns says which way the race went:
``ways`` are all that it may go, and under ``-m crash`` all of them must have been seen, or it was no race.
"""

import contextlib
from collections import Counter
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from schedules import LONG, SHORT, Programs, moments, outcome, the_world

from flowkit import (
    Context,
    ContextInUse,
    Event,
    Handler,
    RunFinished,
    StartEvent,
    StopEvent,
    UnhandledEventWarning,
    WaitTimedOut,
    Workflow,
    WrongCall,
    step,
)
from flowkit.errors import CleanupFailedWarning
from flowkit.retry_policy import ConstantDelayRetryPolicy

PROGRAMS = Programs()
program = PROGRAMS.add


def told(handler: Handler) -> str:
    """How a run has ended, without awaiting it."""
    error = handler.exception()
    return "done" if error is None else type(error).__name__


class Item(Event):
    n: int


class Note(Event):
    n: int


class Turns(Workflow):
    """Three rounds of work, with an await in each."""

    @step
    async def begin(self, ev: StartEvent) -> Item:
        return Item(0)

    @step
    async def turn(self, ctx: Context, ev: Item) -> Item | StopEvent:
        ctx.write_event_to_stream(Note(ev.n))
        await anyio.lowlevel.checkpoint()
        return Item(ev.n + 1) if ev.n < 2 else StopEvent(result="done")


class Quick(Workflow):
    """Takes a second."""

    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        await anyio.sleep(1)
        return StopEvent(result="done")


# ---------------------------------------------------------------------------------------------------------- the end


@program("done", "WorkflowCancelledByUser")
async def cancel_run_races_the_end() -> Any:
    handler = Turns().run()
    heard: list[Any] = []

    async def listen() -> None:
        heard.append(await outcome(handler))

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(listen)
        await moments(2)
        await handler.cancel_run()
        assert handler.is_done()
    heard.append(await outcome(handler))
    assert len(set(heard)) == 1, heard
    shown = [event async for event in handler.stream_events(from_start=True)]
    notes = [event.n for event in shown if isinstance(event, Note)]
    assert notes == list(range(len(notes)))
    assert (bool(shown) and isinstance(shown[-1], StopEvent)) == (heard[0] == "done")
    return heard[0]


@program("done", "WorkflowCancelled")
async def one_of_two_awaiters_is_cancelled_as_the_run_ends() -> Any:
    handler = Turns().run()
    await moments(1)
    heard: list[Any] = []
    scope = anyio.CancelScope()

    async def listen(scope: anyio.CancelScope) -> None:
        with scope:
            heard.append(await outcome(handler))

    async def cut() -> None:
        await moments(1)
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(listen, anyio.CancelScope())
        group.start_soon(listen, scope)
        group.start_soon(cut)
    assert handler.is_done()
    heard.append(await outcome(handler))
    assert len(set(heard)) == 1, heard
    return heard[0]


@program("WorkflowTimeoutError")
async def a_stop_event_at_the_timeout_is_too_late() -> Any:
    handler = Quick(timeout=1).run()
    await anyio.sleep(1)
    handler.cancel_run()  # and so is this
    return await outcome(handler)


@program("WorkflowTimeoutError")
async def a_stop_event_of_a_shielded_step_after_the_timeout_is_too_late() -> Any:
    taken: list[int] = []

    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> Item:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)
            with contextlib.suppress(RunFinished):
                ctx.send_event(Item(0))
            return Item(1)

        @step
        async def end(self, ev: Item) -> StopEvent:
            taken.append(ev.n)
            return StopEvent(result="late")

    handler = Flow(timeout=1).run()
    heard = await outcome(handler)
    assert taken == []
    assert "active: work" in str(handler.exception())
    return heard


@program("WorkflowTimeoutError")
async def what_fails_at_the_timeout_is_kept_beside_it() -> Any:
    class Flow(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(ev.seconds)
            raise ValueError("too late")

    for seconds in (1, 2):
        handler = Flow(timeout=1).run(seconds=seconds)
        heard = await outcome(handler)
        error = handler.exception()
        assert error is not None
        assert [str(other) for other in error.others] == ["too late"]  # type: ignore[attr-defined]
    return heard


@program(
    "done",
    "StepFailed",
    "WorkflowCancelledByUser",
    warns=(CleanupFailedWarning,),
    logs=("clean-up failed in a run of Flow",),
)
async def everything_happens_at_once() -> Any:
    class Flow(Workflow):
        @step
        async def stop(self, ev: StartEvent) -> StopEvent:
            await anyio.sleep(1)
            return StopEvent(result="done")

        @step
        async def fail(self, ev: StartEvent) -> None:
            await anyio.sleep(1)
            raise ValueError("fails")

        @step(timeout=1)
        async def slow(self, ev: StartEvent) -> None:
            await anyio.sleep(1)

    handler = Flow().run()
    await anyio.sleep(1)
    handler.cancel_run()
    heard = [await outcome(handler), await outcome(handler)]
    assert heard[0] == heard[1]
    return heard[0]


@program(True, False)
async def retries_race_a_cancellation() -> Any:
    tries: list[int] = []

    class Flow(Workflow):
        @step(retry_policy=ConstantDelayRetryPolicy(3, 1))
        async def flaky(self, ctx: Context, ev: StartEvent) -> StopEvent:
            tries.append(ctx.retry_info().attempts)
            await anyio.lowlevel.checkpoint()
            if len(tries) < 3:
                raise ValueError
            return StopEvent(result="done")

    handler = Flow().run()
    await anyio.sleep(1)
    await moments(1)
    await anyio.sleep(1)
    await handler.cancel_run()
    assert tries == list(range(len(tries)))
    return await outcome(handler) == "done"


# ------------------------------------------------------------------------------------------------ events from outside


class Taker(Workflow):
    """Takes items; ends with the second."""

    def __init__(self, **options: Any) -> None:
        super().__init__(stalled="wait", disable_validation=True, **options)
        self.taken: list[int] = []

    @step
    async def begin(self, ev: StartEvent) -> None: ...

    @step(num_workers=1)
    async def take(self, ev: Item) -> StopEvent | None:
        self.taken.append(ev.n)
        await anyio.lowlevel.checkpoint()
        return StopEvent(result=list(self.taken)) if len(self.taken) == 2 else None


class Waiter(Workflow):
    """Waits for two items, one after another."""

    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        got: list[int] = []
        for _ in range(2):
            got.append((await ctx.wait_for_event(Item)).n)
            await anyio.lowlevel.checkpoint()
        return StopEvent(result=got)


async def sent_by_two(handler: Handler) -> list[int]:
    """What two tasks could send before the run ended."""
    sent: list[int] = []

    async def send(n: int) -> None:
        for k in (0, 1):
            with contextlib.suppress(RunFinished):
                handler.send_event(Item(n + k))
                sent.append(n + k)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(send, 0)
        group.start_soon(send, 10)
    return sent


@program(2, 3, 4)
async def events_for_a_step_race_the_end() -> Any:
    handler = Taker().run()
    sent = await sent_by_two(handler)
    assert await handler == sent[:2]
    return len(sent)


@program(2, 3, 4, warns=(UnhandledEventWarning,))
async def events_for_a_wait_race_the_end() -> Any:
    handler = Waiter().run()
    sent = await sent_by_two(handler)
    assert await handler == sent[:2]
    assert len(the_world().warnings) == len(sent) - 2  # each that nobody took is reported
    return len(sent)


# ------------------------------------------------------------------------------------------------------------- waits


@program("answered", "timed out")
async def an_answer_comes_as_its_wait_times_out() -> Any:
    class Flow(Workflow):
        @step
        async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await ctx.wait_for_event(Item, timeout=1)
            except WaitTimedOut:
                await ctx.wait_for_event(Item)
                return StopEvent(result="timed out")
            return StopEvent(result="answered")

    handler = Flow().run()
    await anyio.sleep(1)
    handler.send_event(Item(1))
    return await handler


@program((1, 2, 3))
async def answers_come_as_a_scope_around_waits_ends() -> Any:
    """Whoever gives up a wait, no item is lost, and none overtakes another."""

    class Flow(Workflow):
        @step
        async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            got: list[int] = []

            async def one(name: str) -> None:
                item = await ctx.wait_for_event(Item, waiter_id=name)
                got.append(item.n)

            with anyio.move_on_after(1):
                await one("alone")
            with anyio.move_on_after(1):
                async with anyio.create_task_group() as group:
                    group.start_soon(one, "left")
                    group.start_soon(one, "right")
            got.sort()  # those two may be read in either order
            while len(got) < 3:
                await one("last")
            return StopEvent(result=tuple(got))

    handler = Flow().run()
    await anyio.sleep(1)
    handler.send_event(Item(1))
    await anyio.sleep(1)
    handler.send_event(Item(2))
    await moments(1)
    handler.send_event(Item(3))
    return await handler


@program((0, 1, 2))
async def waits_in_parallel_get_an_event_each() -> Any:
    class Flow(Workflow):
        @step
        async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
            got: list[int] = []

            async def one(name: str) -> None:
                got.append((await ctx.wait_for_event(Item, waiter_id=name)).n)

            async with anyio.create_task_group() as group:
                for name in "abc":
                    group.start_soon(one, name)
            return StopEvent(result=tuple(sorted(got)))

    handler = Flow().run()

    async def send(n: int) -> None:
        handler.send_event(Item(n))

    async with anyio.create_task_group() as group:
        for n in range(3):
            group.start_soon(send, n)
    return await handler


# ----------------------------------------------------------------------------------------------------------- streams


@program(None)
async def readers_see_the_same_in_the_same_order() -> Any:
    handler = Turns().run()
    seen: dict[str, list[Event]] = {}

    async def read_all(name: str, *, from_start: bool) -> None:
        seen[name] = [event async for event in handler.stream_events(from_start=from_start)]

    async def read_in_parts() -> None:
        seen["parts"] = got = []
        reader = handler.stream_events(from_start=True)
        while not got or not isinstance(got[-1], StopEvent):
            async for event in reader:
                got.append(event)
                break
            await anyio.lowlevel.checkpoint()

    async def read_anew() -> None:
        seen["anew"] = got = []
        while True:
            async for event in handler.stream_events():
                got.append(event)
                break
            else:
                return
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: read_all("start", from_start=True))
        group.start_soon(lambda: read_all("late", from_start=False))
        group.start_soon(read_in_parts)
        group.start_soon(read_anew)
    assert await handler == "done"
    places = {id(event): place async for place, event in numbered(handler)}
    assert list(places.values()) == [0, 1, 2, 3]
    where = {name: [places[id(event)] for event in events] for name, events in seen.items()}
    assert where["start"] == where["parts"] == [0, 1, 2, 3]
    assert where["late"] == [0, 1, 2, 3][4 - len(where["late"]) :]
    assert where["anew"] == sorted(set(where["anew"]))


async def numbered(handler: Handler) -> Any:
    """A run's whole stream."""
    place = 0
    async for event in handler.stream_events(from_start=True):
        yield place, event
        place += 1


@program(0, 1, 2, 3)
async def a_reader_that_is_cancelled_loses_nothing() -> Any:
    handler = Turns().run()
    reader = handler.stream_events(from_start=True)
    got: list[Event] = []
    scopes: list[anyio.CancelScope] = []
    cuts = 0

    async def read() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            async for event in reader:
                got.append(event)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        for _ in range(3):
            await moments(1)
            if scopes:
                scopes.pop().cancel()
                cuts += 1
                group.start_soon(read)
    await handler
    got += [event async for event in reader]
    assert [id(event) for event in got] == [id(event) async for event in handler.stream_events(from_start=True)]
    return cuts


# --------------------------------------------------------------------------------------------------- who owns the run


class Left(Exception):
    """The block was left on purpose."""


@program("done", "WorkflowCancelled")
async def a_block_is_left_as_the_run_ends() -> Any:
    block = Turns().run()
    with pytest.raises(Left):
        async with block:
            await moments(2)
            raise Left
    assert block.is_done()
    return told(block)


@program("done", "WorkflowCancelled")
async def a_scope_around_a_block_is_cancelled_as_the_run_ends() -> Any:
    block = Turns().run()
    scope = anyio.CancelScope()

    async def cut() -> None:
        await moments(2)
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cut)
        with scope:
            async with block as handler:
                await handler
    return told(block) if block.is_done() else "WorkflowCancelled"


@program("done", "WorkflowCancelled", warns=(ResourceWarning,))
async def a_handle_is_dropped_as_the_run_ends() -> Any:
    open_steps: Counter[str] = Counter()

    class Flow(Turns):
        @step
        async def other(self, ev: StartEvent) -> None:
            open_steps["other"] += 1
            try:
                await anyio.sleep(100)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
                open_steps["other"] -= 1

    handlers = [Flow().run()]
    run = handlers[0]._run
    await moments(2)
    handlers.clear()
    await run.join()
    assert not +open_steps
    return "done" if run.error is None else type(run.error).__name__


@program(("1", "2", "3"), ("1", "2", "ContextInUse"))
async def a_context_never_drives_two_runs() -> Any:
    class Count(Workflow):
        @step
        async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
            n = await ctx.get("n", 0) + 1
            await anyio.lowlevel.checkpoint()
            await ctx.set("n", n)
            return StopEvent(result=n)

    flow = Count()
    first = flow.run()
    got: list[Any] = [await first]

    async def again() -> None:
        try:
            got.append(await flow.run(ctx=first.ctx))
        except ContextInUse as refused:
            got.append(type(refused).__name__)

    async with anyio.create_task_group() as group:
        group.start_soon(again)
        group.start_soon(again)
    assert await flow.run(ctx=first.ctx) == len(got) + 1 - got.count("ContextInUse")
    return tuple(sorted(map(str, got)))


# -------------------------------------------------------------------------------------------------- taking turns


class OneByOne(Workflow):
    """One run at a time, in the ``order`` in which they came."""

    def __init__(self) -> None:
        super().__init__(num_concurrent_runs=1)
        self.order: list[int] = []
        self.at_work = 0

    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        self.at_work += 1
        assert self.at_work == 1
        self.order.append(ev.n)
        try:
            await anyio.lowlevel.checkpoint()
        finally:
            self.at_work -= 1
        return StopEvent(result="done")


@program(None)
async def runs_have_their_turn_first_come_first_served() -> Any:
    flow = OneByOne()
    handlers = [flow.run(n=n) for n in range(4)]
    async with anyio.create_task_group() as group:
        for handler in reversed(handlers):
            group.start_soon(outcome, handler)
    assert flow.order == [0, 1, 2, 3]


@program("done", "WorkflowCancelled", warns=(ResourceWarning,))
async def a_turn_is_given_on_whoever_goes() -> Any:
    flow = OneByOne()
    handlers = [flow.run(n=n) for n in range(5)]
    scope = anyio.CancelScope()

    async def listen_for_a_while() -> None:
        with scope:
            await handlers[2]

    async with anyio.create_task_group() as group:
        for handler in (handlers[0], handlers[1], handlers[4]):
            group.start_soon(outcome, handler)
        group.start_soon(listen_for_a_while)
        await moments(1)
        handlers[1].cancel_run()
        del handlers[3]
        await moments(1)
        scope.cancel()
    assert all(handler.is_done() for handler in handlers)
    assert handlers[0].result() == handlers[3].result() == await flow.run(n=9) == "done"
    assert flow.order == sorted(flow.order)
    return told(handlers[2])


# ---------------------------------------------------------------------------------------------------------- stepwise


@program(None)
async def stepping_gives_each_event_once() -> Any:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> list[Item]:
            return [Item(0), Item(1)]

        @step
        async def work(self, ev: Item) -> Note:
            await anyio.lowlevel.checkpoint()
            return Note(ev.n)

        @step
        async def join(self, evs: list[Note]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in evs])

    handler = Flow().run(stepwise=True)
    names: list[list[str]] = []
    while produced := await handler.run_step():
        names.append([type(event).__name__ for event in produced])
        for event in produced:
            handler.ctx.send_event(event)
    assert names == [["Item", "Item"], ["Note", "Note"], ["StopEvent"]]
    assert await handler == [0, 1]


@program("done", "WorkflowCancelledByUser")
async def stepping_races_awaiting_and_cancelling() -> Any:
    handler = Turns().run(stepwise=True)
    heard: list[Any] = []

    async def steps() -> None:
        with contextlib.suppress(WrongCall):  # somebody has awaited it meanwhile
            while produced := await handler.run_step():
                for event in produced:
                    with contextlib.suppress(RunFinished):
                        handler.ctx.send_event(event)

    async def awaits() -> None:
        await moments(3)
        heard.append(await outcome(handler))

    async with anyio.create_task_group() as group:
        group.start_soon(steps)
        group.start_soon(awaits)
        await moments(6)
        await handler.cancel_run()
        assert handler.is_done()
    return heard[0]


# ----------------------------------------------------------------------------------------------------------- threads


@program(0, 1, 2, 3, 4, warns=(UnhandledEventWarning,))
async def a_thread_sends_as_the_run_ends() -> Any:
    counts: Counter[str] = Counter()

    class Flow(Workflow):
        @step
        def talk(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(4):
                try:
                    ctx.send_event(Item(n))
                except RunFinished:
                    return
                counts["sent"] += 1

        @step
        async def take(self, ev: Item) -> None:
            counts["taken"] += 1

        @step
        async def end(self, ev: StartEvent) -> StopEvent:
            await moments(2)
            return StopEvent()

    await Flow(disable_validation=True).run()
    assert counts["taken"] <= counts["sent"]
    return counts["sent"]


# ------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_holds_in_every_order(name: str, anyio_backend_name: str) -> None:
    PROGRAMS[name].search(anyio_backend_name, SHORT)


@pytest.mark.crash
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_holds_in_very_many_orders(name: str, anyio_backend_name: str) -> None:
    assert PROGRAMS[name].search(anyio_backend_name, LONG) == PROGRAMS[name].ways
