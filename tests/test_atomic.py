"""`@step(atomic=True)`: all that a step did, or nothing; and `ctx.idempotency_key`."""

import itertools
from typing import Any

import anyio
import pytest
from stored_flows import Approved, Charged, Form, Order, Placed, Question, Unstorable, wall_clock

from flowkit import (
    Context,
    Event,
    MisdirectedEvent,
    RunFinished,
    SerializationError,
    StartEvent,
    StateError,
    StepFailed,
    StopEvent,
    Workflow,
    WorkflowValidationError,
    WrongCall,
    step,
)
from flowkit.memory_store import MemoryStore
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.runtime import open_runtime
from flowkit.store import Store

__all__ = ["wall_clock"]

RETRY = ConstantDelayRetryPolicy(maximum_attempts=5, delay=1)


@pytest.fixture(params=["without a store", "with a store"])
def kept(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {} if request.param == "without a store" else {"store": MemoryStore(), "run_id": "a"}


class Part(Event):
    n: int


def flow(atomic: bool, failures: int = 0) -> Workflow:
    """Counts, sends and shows, and then fails so many times."""

    class Flow(Workflow):
        attempts = 0

        @step(atomic=atomic, retry_policy=RETRY)
        async def work(self, ctx: Context, ev: StartEvent) -> Part | None:
            self.attempts += 1
            await ctx.set("count", await ctx.get("count", 0) + 1)
            ctx.send_event(Part(self.attempts))
            ctx.write_event_to_stream(Question(f"attempt {self.attempts}"))
            await anyio.sleep(1)
            if self.attempts <= failures:
                raise OSError("torn")
            return None

        @step
        async def end(self, ctx: Context, ev: Part) -> StopEvent | None:
            got.append(ev.n)
            await anyio.sleep(10)
            return StopEvent(result=(await ctx.get("count"), ev.n))

    got: list[int] = []
    made = Flow()
    made.got = got  # type: ignore[attr-defined]
    return made


async def shown(handler: Any) -> list[str]:
    return [event.text async for event in handler.stream_events(from_start=True) if isinstance(event, Question)]


async def test_attempts_that_failed_leave_nothing(kept: dict[str, Any]) -> None:
    workflow: Any = flow(atomic=True, failures=2)
    async with workflow.run(**kept) as handler:
        assert await handler == (1, 3)
        assert await shown(handler) == ["attempt 3"]
    assert workflow.got == [3]


async def test_without_atomic_they_leave_what_they_did(kept: dict[str, Any]) -> None:
    workflow: Any = flow(atomic=False, failures=2)
    async with workflow.run(**kept) as handler:
        count, _ = await handler
        assert count == 3
        assert await shown(handler) == ["attempt 1", "attempt 2", "attempt 3"]
    assert workflow.got == [1, 2, 3]


async def test_nothing_is_seen_before_the_step_returns(kept: dict[str, Any]) -> None:
    async with flow(atomic=True).run(**kept) as handler:
        await anyio.sleep(0.5)
        assert await handler.ctx.get("count", None) is None
        await anyio.sleep(1)
        assert await handler.ctx.get("count") == 1
        await handler


async def test_the_step_itself_sees_what_it_wrote(kept: dict[str, Any]) -> None:
    class Flow(Workflow):
        @step(atomic=True)
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.set("a", 1)
            assert await ctx.get("a") == 1
            await ctx.store.set("b.c", 2)
            assert await ctx.store.get("b.c") == 2
            async with ctx.store.edit_state() as state:
                assert state == {"a": 1, "b": {"c": 2}}
                state["a"] = 3
                state["b"]["d"] = 4
            assert await ctx.get("a") == 3
            whole = await ctx.store.get_state()
            assert whole == {"a": 3, "b": {"c": 2, "d": 4}}
            await ctx.store.clear()
            assert await ctx.get("a", None) is None
            await ctx.store.set_state(whole)
            await ctx.set("e", [1, 2])
            return StopEvent()

    handler = Flow().run(**kept)
    await handler
    assert await handler.ctx.store.get_state() == {"a": 3, "b": {"c": 2, "d": 4}, "e": [1, 2]}


async def test_a_typed_state(kept: dict[str, Any]) -> None:
    class Flow(Workflow):
        attempts = 0

        @step(atomic=True, retry_policy=RETRY)
        async def work(self, ctx: Context[Form], ev: StartEvent) -> StopEvent:
            self.attempts += 1
            with pytest.raises(StateError):
                await ctx.set("nmae", "x")
            async with ctx.store.edit_state() as form:
                form.pages.append(self.attempts)
            await ctx.store.set("name", f"attempt {self.attempts}")
            assert (await ctx.store.get_state()).pages == [self.attempts]
            if self.attempts < 3:
                raise OSError
            return StopEvent()

    handler = Flow().run(**kept)
    await handler
    assert await handler.ctx.store.get_state() == Form("attempt 3", [3])


async def test_edit_state_that_fails_inside_leaves_no_trace(kept: dict[str, Any]) -> None:
    class Flow(Workflow):
        @step(atomic=True)
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.set("a", 1)
            with pytest.raises(ValueError, match="mine"):
                async with ctx.store.edit_state() as state:
                    state["a"] = 2
                    raise ValueError("mine")
            return StopEvent(result=await ctx.get("a"))

    assert await Flow().run(**kept) == 1


async def test_a_plain_step(kept: dict[str, Any]) -> None:
    class Flow(Workflow):
        attempts = 0

        @step(atomic=True, retry_policy=RETRY)
        def work(self, ctx: Context, ev: StartEvent) -> Part | None:
            self.attempts += 1
            anyio.from_thread.run(ctx.set, "count", anyio.from_thread.run(ctx.get, "count", 0) + 1)
            ctx.send_event(Part(self.attempts))
            if self.attempts < 3:
                raise OSError
            return None

        @step
        async def end(self, ctx: Context, ev: Part) -> StopEvent:
            return StopEvent(result=(await ctx.get("count"), ev.n))

    assert await Flow().run(**kept) == (1, 3)


async def test_what_it_did_comes_in_its_order_and_before_what_it_returned(kept: dict[str, Any]) -> None:
    class Flow(Workflow):
        @step(atomic=True)
        async def work(self, ctx: Context, ev: StartEvent) -> Part:
            for n in range(5):
                ctx.send_event(Part(n))
                await anyio.sleep(1)
            return Part(5)

        @step(num_workers=1)
        async def take(self, ev: Part) -> StopEvent | None:
            got.append(ev.n)
            return StopEvent() if ev.n == 5 else None

    got: list[int] = []
    await Flow().run(**kept)
    assert got == list(range(6))


async def test_a_stop_event_that_it_sent_ends_the_run_with_what_came_before(kept: dict[str, Any]) -> None:
    class Flow(Workflow):
        @step(atomic=True)
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            await ctx.set("a", 1)
            ctx.send_event(StopEvent(result="sent"))
            await ctx.set("a", 2)
            return None

    handler = Flow().run(**kept)
    assert await handler == "sent"
    assert await handler.ctx.get("a") == 1


async def test_side_by_side_the_last_to_return_wins(kept: dict[str, Any]) -> None:
    """They are no transactions: what an atomic step read may have changed when it returns."""

    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(1), Part(2)]

        @step(atomic=True)
        async def add(self, ctx: Context, ev: Part) -> Approved:
            count = await ctx.get("count", 0)
            await anyio.sleep(ev.n)
            await ctx.set("count", count + ev.n)
            return Approved()

        @step
        async def end(self, ctx: Context, evs: list[Approved]) -> StopEvent:
            return StopEvent(result=await ctx.get("count"))

    assert await Flow().run(**kept) == 2


async def test_waits_and_batches_take_effect_at_once(kept: dict[str, Any]) -> None:
    class Flow(Workflow):
        attempts = 0

        @step(atomic=True, retry_policy=RETRY)
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            self.attempts += 1
            got = await ctx.wait_for_event(Approved, waiter_event=Question("who?"))
            await ctx.set("by", got.by)
            if self.attempts < 3:
                raise OSError
            return StopEvent(result=(self.attempts, await ctx.get("by")))

    async with Flow().run(**kept) as handler:
        async for event in handler.stream_events():
            assert event == Question("who?")
            handler.send_event(Approved("her"))
            break
        assert await handler == (3, "her")


async def test_a_wrong_send_is_refused_at_once(kept: dict[str, Any]) -> None:
    class Flow(Workflow):
        @step(atomic=True)
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(MisdirectedEvent):
                ctx.send_event(Part(1), step="nowhere")
            with pytest.raises(WrongCall):
                ctx.send_event("text")  # type: ignore[arg-type]
            with pytest.raises(WrongCall):
                ctx.write_event_to_stream(Part)  # type: ignore[arg-type]
            return StopEvent()

    await Flow().run(**kept)


async def test_what_can_not_be_stored_is_said_at_the_line() -> None:
    class Flow(Workflow):
        @step(atomic=True)
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.set("good", 1)
            with pytest.raises(SerializationError, match="Unstorable"):
                await ctx.set("bad", Unstorable())
            with pytest.raises(SerializationError, match="Unstorable"):
                async with ctx.store.edit_state() as state:
                    state["bad"] = Unstorable()
            return StopEvent(result=await ctx.store.get_state())

    assert await Flow().run(store=MemoryStore()) == {"good": 1}


async def test_what_it_wrote_and_changed_afterwards_fails_the_step() -> None:
    class Flow(Workflow):
        @step(atomic=True)
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            things: list[Any] = [1]
            await ctx.set("things", things)
            things.append(Unstorable())
            return StopEvent()

    store = MemoryStore()
    with pytest.raises(StepFailed, match=r"SerializationError: .*Unstorable"):
        await Flow().run(store=store, run_id="a")
    info = store.info("a")
    assert info is not None
    assert info.status == "failed"


# ---------------------------------------------------------------------------------------------------- restarts


class Transfer(Workflow):
    """Takes 10 seconds to move money from one account to the other."""

    @step
    async def open(self, ctx: Context, ev: StartEvent) -> Charged:
        await ctx.set("from", 100)
        await ctx.set("to", 0)
        return Charged("10")


async def move(ctx: Context) -> StopEvent:
    await ctx.set("from", await ctx.get("from") - 10)
    await anyio.sleep(5)
    await ctx.set("to", await ctx.get("to") + 10)
    await anyio.sleep(5)
    return StopEvent(result=(await ctx.get("from"), await ctx.get("to")))


class Atomic(Transfer):
    @step(atomic=True)
    async def move(self, ctx: Context, ev: Charged) -> StopEvent:
        return await move(ctx)


class NotAtomic(Transfer):
    @step
    async def move(self, ctx: Context, ev: Charged) -> StopEvent:
        return await move(ctx)


@pytest.mark.parametrize("at", [(0.0,), (1.0,), (5.0,), (7.0,), (9.999,), (3.0, 3.0, 8.0)])
async def test_a_restart_neither_counts_double_nor_half(at: tuple[float, ...]) -> None:
    store = MemoryStore()
    for pause in at:
        with anyio.move_on_after(pause):
            await Atomic().run(store=store, run_id="a")
    assert await Atomic().run(store=store, run_id="a") == (90, 10)


async def test_without_atomic_a_restart_counts_again() -> None:
    store = MemoryStore()
    with anyio.move_on_after(7):
        await NotAtomic().run(store=store, run_id="a")
    assert await NotAtomic().run(store=store, run_id="a") == (80, 20)


async def test_it_is_one_record() -> None:
    async with open_runtime(store=MemoryStore(), workflows=[Atomic()]) as runtime:
        await (await runtime.run("Atomic", run_id="a"))
        kinds = [type(one.fact).__name__ for one in await runtime.history("a")]
        assert kinds == ["RunStarted", "StateWritten", "StateWritten", "StepReturned", "StepCommitted"]
        assert [one.step for one in await runtime.history("a")][-1] == "move"


@pytest.mark.parametrize("atomic", ["yes", None, 1])
def test_the_option_is_a_bool(atomic: Any) -> None:
    with pytest.raises(WorkflowValidationError, match=rf"has atomic={atomic!r}: give True or False"):

        class Flow(Workflow):
            @step(atomic=atomic)
            async def work(self, ev: StartEvent) -> StopEvent:
                return StopEvent()


# -------------------------------------------------------------------------------------------- the idempotency key


class Keys(Workflow):
    """Notes the key of each attempt of each invocation."""

    def __init__(self, keys: list[tuple[int, str]]) -> None:
        super().__init__()
        self.keys = keys

    @step
    async def fan(self, ctx: Context, ev: StartEvent) -> list[Part]:
        self.keys.append((-1, ctx.idempotency_key))
        return [Part(n) for n in range(3)]

    @step(retry_policy=RETRY)
    def pay(self, ctx: Context, ev: Part) -> Approved:
        self.keys.append((ev.n, ctx.idempotency_key))
        if ctx.retry_info().attempts < 2:
            raise OSError
        return Approved()

    @step
    async def join(self, evs: list[Approved]) -> StopEvent:
        await anyio.sleep(10)
        return StopEvent()


async def test_a_key_is_the_same_in_every_attempt_and_no_others(kept: dict[str, Any]) -> None:
    keys: list[tuple[int, str]] = []
    handler = Keys(keys).run(**kept)
    await handler
    assert len(keys) == 10
    assert len(set(keys)) == len({key for _, key in keys}) == 4
    assert all(key.startswith(f"{handler.run_id}/") for _, key in keys)


@pytest.mark.parametrize("pause", [0.0, 0.5, 1.0, 1.5, 2.0])
async def test_a_key_is_the_same_after_a_restart(pause: float) -> None:
    store: Store = MemoryStore()
    keys: list[tuple[int, str]] = []
    for _ in range(4):
        with anyio.move_on_after(pause):
            await Keys(keys).run(store=store, run_id="a")
    await Keys(keys).run(store=store, run_id="a")
    by_event = {n: {key for number, key in keys if number == n} for n in range(3)}
    assert [len(found) for found in by_event.values()] == [1, 1, 1]
    assert len(set(itertools.chain(*by_event.values()))) == 3


async def test_runs_and_nested_runs_have_keys_of_their_own() -> None:
    class Inner(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            keys.append(ctx.idempotency_key)
            await anyio.sleep(1)
            return StopEvent()

    class Outer(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent, child: Inner) -> StopEvent:
            keys.append(ctx.idempotency_key)
            await child.run()
            await child.run()
            return StopEvent()

    keys: list[str] = []
    outer, store = Outer(), MemoryStore()
    outer.add_workflows(child=Inner())
    for run_id in "ab":
        await outer.run(store=store, run_id=run_id)
    assert len(set(keys)) == len(keys) == 6
    with anyio.move_on_after(1.5):
        await outer.run(store=store, run_id="c")
    await outer.run(store=store, run_id="c")
    assert len(set(keys)) == 9
    assert len(keys) == 6 + 3 + 2


async def test_a_key_is_for_steps() -> None:
    handler = Order().run(start_event=Placed())
    await anyio.sleep(0.5)
    with pytest.raises(WrongCall, match="idempotency_key is there only inside a step: there, its ctx knows whose key"):
        handler.ctx.idempotency_key
    await handler
    with pytest.raises((WrongCall, RunFinished)):
        handler.ctx.idempotency_key
