"""Fan-out and fan-in: returned lists, steps that take lists, and `ctx.collect_events`."""

from collections.abc import Callable
from typing import Annotated, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit import (
    All,
    Collect,
    Context,
    Event,
    StartEvent,
    StepFailed,
    StopEvent,
    Take,
    Workflow,
    WorkflowRuntimeError,
    WorkflowStalled,
    step,
)
from flowkit.retry_policy import ConstantDelayRetryPolicy
from flowkit.testing.virtual_time import run_virtual


class Part(Event):
    n: int


class Piece(Event):
    n: int
    m: int


class Result(Event):
    n: int


class SpecialResult(Result):
    pass


class Row(Event):
    values: list[int]


class Fan(Workflow):
    """Sleeps ``delays[n]`` on the n-th part; a negative delay means no result."""

    @step
    async def fan(self, ev: StartEvent) -> list[Part]:
        return [Part(n) for n in range(len(ev.delays))]

    @step(num_workers=100)
    async def work(self, ev: Part) -> Result | None:
        delay = self.delays[ev.n]
        await anyio.sleep(abs(delay))
        return None if delay < 0 else Result(ev.n)

    @step
    async def join(self, evs: list[Result]) -> StopEvent:
        return StopEvent(result=[ev.n for ev in evs])

    def __init__(self, *delays: float) -> None:
        super().__init__()
        self.delays = delays

    async def result(self) -> Any:
        return await self.run(delays=self.delays)


async def test_a_list_step_gets_all_members_in_the_order_of_the_list() -> None:
    assert await Fan(3, 1, 2).result() == [0, 1, 2]
    assert anyio.current_time() == pytest.approx(3)


async def test_an_empty_list_is_joined_at_once() -> None:
    assert await Fan().result() == []


async def test_members_that_lead_to_nothing_are_left_out() -> None:
    assert await Fan(1, -2, 3, -4).result() == [0, 2]
    assert anyio.current_time() == pytest.approx(4)
    assert await Fan(-1, -2).result() == []


@given(st.lists(st.sampled_from([-2, -1, 0, 1, 2]), max_size=8), st.integers(1, 4))
def test_however_long_each_member_takes_the_join_gets_them_in_order(
    anyio_backend_name: str, delays: list[int], workers: int
) -> None:
    class Flow(Fan):
        @step(num_workers=workers)
        async def work(self, ev: Part) -> Result | None:
            return await super().work(ev)

    expected = [n for n, delay in enumerate(delays) if delay >= 0]
    assert run_virtual(Flow(*delays).result, backend=anyio_backend_name) == expected


async def test_the_join_takes_subclasses_and_unions() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(3)]

        @step
        async def work(self, ev: Part) -> Result | Row:
            return [Result(0), SpecialResult(1), Row([2])][ev.n]

        @step
        async def join(self, evs: list[Result | Row]) -> StopEvent:
            return StopEvent(result=evs)

    assert await Flow().run() == [Result(0), SpecialResult(1), Row([2])]


async def test_members_may_take_ways_of_different_length() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(6)]

        @step
        async def around(self, ev: Part) -> Part | Result:
            await anyio.sleep(1)
            return Part(ev.n - 2) if ev.n >= 2 else Result(ev.n)

        @step
        async def join(self, evs: list[Result]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in evs])

    assert await Flow().run() == [0, 1, 0, 1, 0, 1]


async def test_fan_outs_nest() -> None:
    class Flow(Workflow):
        @step
        async def rows(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(ev.rows)]

        @step
        async def columns(self, ev: Part) -> list[Piece]:
            return [Piece(ev.n, m) for m in range(ev.n)]

        @step(num_workers=10)
        async def cell(self, ev: Piece) -> Result:
            await anyio.sleep(10 - ev.n - ev.m)
            return Result(10 * ev.n + ev.m)

        @step
        async def row(self, evs: list[Result]) -> Row:
            return Row([ev.n for ev in evs])

        @step
        async def table(self, evs: list[Row]) -> StopEvent:
            return StopEvent(result=[ev.values for ev in evs])

    assert await Flow().run(rows=4) == [[], [10], [20, 21], [30, 31, 32]]
    assert await Flow().run(rows=0) == []


async def test_a_step_may_fan_out_what_was_joined() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(3)]

        @step
        async def work(self, ev: Part) -> Result:
            return Result(ev.n)

        @step
        async def join(self, evs: list[Result]) -> list[Piece]:
            return [Piece(ev.n, len(evs)) for ev in evs]

        @step
        async def work_again(self, ev: Piece) -> Row:
            return Row([ev.n, ev.m])

        @step
        async def join_again(self, evs: list[Row]) -> StopEvent:
            return StopEvent(result=[ev.values for ev in evs])

    assert await Flow().run() == [[0, 3], [1, 3], [2, 3]]


async def test_what_a_member_sends_belongs_to_the_fan_out_too() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(3)]

        @step
        async def work(self, ctx: Context, ev: Part) -> Result | None:
            for n in range(ev.n):
                ctx.send_event(Result(10 * ev.n + n))
                await anyio.sleep(1)
            return None

        @step
        async def join(self, evs: list[Result]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in evs])

    assert await Flow().run() == [10, 20, 21]


async def test_a_member_that_is_retried_arrives_once() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(3)]

        @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=1))
        async def work(self, ctx: Context, ev: Part) -> Result:
            if ctx.retry_info().attempts < ev.n:
                raise OSError
            return Result(ev.n)

        @step
        async def join(self, evs: list[Result]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in evs])

    assert await Flow().run() == [0, 1, 2]


async def test_two_list_steps_each_get_their_own() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(5)]

        @step
        async def work(self, ev: Part) -> Result | Row:
            return Row([ev.n]) if ev.n % 2 else Result(ev.n)

        @step
        async def results(self, evs: list[Result]) -> Piece:
            return Piece(len(evs), 0)

        @step
        async def rows(self, evs: list[Row]) -> Piece:
            return Piece(len(evs), 1)

        @step
        async def end(self, ctx: Context, ev: Piece) -> StopEvent | None:
            both = ctx.collect_events(ev, [Piece, Piece])
            return None if both is None else StopEvent(result={piece.m: piece.n for piece in both})

    assert await Flow().run() == {0: 3, 1: 2}


async def test_outside_any_fan_out_a_list_step_gets_what_was_sent_when_the_run_comes_to_rest() -> None:
    class Flow(Workflow):
        @step
        async def send(self, ctx: Context, ev: StartEvent) -> Part | None:
            for n in range(3):
                ctx.send_event(Part(n))
                await anyio.sleep(1)

        @step
        async def work(self, ev: Part) -> Result:
            await anyio.sleep(5 - 2 * ev.n)
            return Result(ev.n)

        @step
        async def join(self, evs: list[Result]) -> StopEvent:
            return StopEvent(result=sorted(ev.n for ev in evs))

    assert await Flow().run() == [0, 1, 2]


async def test_a_member_of_a_type_that_is_not_declared_fails_the_run() -> None:
    class Flow(Fan):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(0), Result(1)]  # type: ignore[list-item]

    with pytest.raises(StepFailed, match=r"Flow\.fan returned a list of Part, Result, but its annotation allows"):
        await Flow().result()


async def test_a_member_that_fails_fails_the_run() -> None:
    class Flow(Fan):
        @step
        async def work(self, ev: Part) -> Result | None:
            raise ValueError(f"part {ev.n}")

    with pytest.raises(StepFailed, match="Error in step 'work': ValueError: part 0"):
        await Flow(1).result()


# ----------------------------------------------------------------------------------------------- Take and All


def taking(n: int) -> type[Fan]:
    class Flow(Fan):
        @step
        async def join(self, evs: Annotated[list[Result], Collect(Take(n))]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in evs])

    return Flow


async def test_take_fires_at_the_nth_arrival_in_the_order_of_arrival() -> None:
    assert await taking(2)(3, 1, 2).result() == [1, 2]
    assert anyio.current_time() == pytest.approx(2)


async def test_take_gets_fewer_where_fewer_come() -> None:
    assert await taking(5)(3, 1, -2).result() == [0, 1]
    assert await taking(5)().result() == []


async def test_what_comes_after_take_never_reaches_the_step() -> None:
    class Flow(Workflow):
        @step
        async def fan(self, ev: StartEvent) -> list[Part]:
            return [Part(n) for n in range(5)]

        @step
        async def work(self, ev: Part) -> Result:
            await anyio.sleep(ev.n)
            return Result(ev.n)

        @step
        async def first(self, evs: Annotated[list[Result], Collect(Take(2))]) -> Row:
            calls.append([ev.n for ev in evs])
            return Row([])

        @step
        async def end(self, ev: Row) -> StopEvent:
            await anyio.sleep(100)
            return StopEvent()

    calls: list[list[int]] = []
    await Flow().run()
    assert calls == [[0, 1]]


async def test_all_is_what_a_bare_list_means() -> None:
    class Flow(Fan):
        @step
        async def join(self, evs: Annotated[list[Result], Collect(All())]) -> StopEvent:
            return StopEvent(result=[ev.n for ev in evs])

    assert await Flow(2, 1).result() == [0, 1]


@pytest.mark.parametrize("build", [lambda: Take(0), lambda: Take(True), lambda: Collect(2)])
def test_take_and_collect_check_their_arguments(build: Callable[[], object]) -> None:
    with pytest.raises((ValueError, TypeError), match="Take"):
        build()


# --------------------------------------------------------------------------------------------- collect_events


def collecting(
    events: list[Event], expected: list[type[Event]], buffer_of: Callable[[Event], str | None] = lambda ev: None
) -> Workflow:
    """A workflow that sends events and returns the batches they make."""

    class Flow(Workflow):
        @step
        async def send(self, ctx: Context, ev: StartEvent) -> Part | Result | Row | Piece | None:
            for event in events:
                ctx.send_event(event)
            ctx.send_event(Piece(0, 0))

        @step(num_workers=1)
        async def gather(self, ctx: Context, ev: Part | Result | Row) -> None:
            batch = ctx.collect_events(ev, expected, buffer_id=buffer_of(ev))
            if batch is not None:
                await ctx.set("batches", [*await ctx.get("batches", default=[]), batch])

        @step
        async def end(self, ctx: Context, ev: Piece) -> StopEvent:
            await anyio.sleep(1)
            return StopEvent(result=await ctx.get("batches", default=[]))

    return Flow()


async def test_a_batch_is_in_the_requested_order() -> None:
    events = [Row([1]), Part(1), Result(1), Part(2)]
    assert await collecting(events, [Part, Part, Result, Row]).run() == [[Part(1), Part(2), Result(1), Row([1])]]


async def test_the_surplus_stays_for_the_next_batch() -> None:
    events = [Part(1), Part(2), Part(3), Result(1), Result(2), Part(4)]
    assert await collecting(events, [Part, Result]).run() == [[Part(1), Result(1)], [Part(2), Result(2)]]


async def test_a_subclass_counts_for_its_nearest_expected_base() -> None:
    events = [SpecialResult(1), Result(2), SpecialResult(3)]
    assert await collecting(events, [Result, Result]).run() == [[SpecialResult(1), Result(2)]]
    assert await collecting(events, [Result, SpecialResult]).run() == [[Result(2), SpecialResult(1)]]


async def test_each_buffer_id_is_a_buffer_of_its_own() -> None:
    events = [Part(1), Part(2), Part(11), Part(3), Part(12)]
    workflow = collecting(events, [Part, Part], lambda ev: "high" if ev["n"] > 10 else "low")
    assert await workflow.run() == [[Part(1), Part(2)], [Part(11), Part(12)]]


@given(
    st.lists(st.sampled_from([Part, Result, SpecialResult]), max_size=20),
    st.lists(st.sampled_from([Part, Result, SpecialResult]), min_size=1, max_size=4),
)
def test_batches_are_first_in_first_out_and_complete(
    anyio_backend_name: str, kinds: list[Any], expected: list[type[Event]]
) -> None:
    events: list[Event] = [kind(n) for n, kind in enumerate(kinds)]
    batches: list[list[Event]] = run_virtual(collecting(events, expected).run, backend=anyio_backend_name)
    rest = list(events)
    for batch in batches:
        assert [isinstance(event, kind) for event, kind in zip(batch, expected, strict=True)] == [True] * len(expected)
        for event in batch:
            rest.remove(event)  # given once
    for kind in set(kinds):
        given_out = [event for batch in batches for event in batch if type(event) is kind]
        assert given_out == [event for event in events if type(event) is kind][: len(given_out)]
    slots = [kind if kind in expected else Result if issubclass(kind, Result) else kind for kind in kinds]
    assert len(batches) == min(slots.count(kind) // expected.count(kind) for kind in expected)


async def test_an_attempt_that_fails_after_collecting_collects_the_same_again() -> None:
    class Flow(Workflow):
        attempts = 0

        @step
        async def send(self, ctx: Context, ev: StartEvent) -> Part | None:
            for n in range(3):
                ctx.send_event(Part(n))

        @step(num_workers=1, retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=1))
        async def gather(self, ctx: Context, ev: Part) -> StopEvent | None:
            batch = ctx.collect_events(ev, [Part] * 3)
            self.attempts += 1
            if ctx.retry_info().attempts < ev.n:
                raise OSError
            return None if batch is None else StopEvent(result=[part.n for part in batch])

    workflow = Flow()
    assert await workflow.run() == [0, 1, 2]
    assert workflow.attempts == 1 + 2 + 3


async def test_what_is_expected_may_change_between_batches() -> None:
    class Flow(Workflow):
        @step
        async def send(self, ctx: Context, ev: StartEvent) -> Part | None:
            for n in range(6):
                ctx.send_event(Part(n))

        @step(num_workers=1)
        async def gather(self, ctx: Context, ev: Part) -> StopEvent | None:
            sizes = await ctx.get("sizes", default=[1, 2, 3])
            batch = ctx.collect_events(ev, [Part] * sizes[0])
            if batch is None:
                return None
            await ctx.set("sizes", sizes[1:])
            got = [*await ctx.get("got", default=[]), [part.n for part in batch]]
            await ctx.set("got", got)
            return None if sizes[1:] else StopEvent(result=got)

    assert await Flow().run() == [[0], [1, 2], [3, 4, 5]]


async def test_an_incomplete_batch_stalls_the_run_and_says_what_is_missing() -> None:
    class Flow(Workflow):
        @step
        async def gather(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            ctx.collect_events(ev, [StartEvent, Part, Part, Row])
            return None

    with pytest.raises(WorkflowStalled, match="has collected 1 StartEvent and still needs 2 Part, 1 Row"):
        await Flow().run()


@pytest.mark.parametrize("expected", [[], [int], None, "Part"])
async def test_what_is_expected_is_checked(expected: Any) -> None:
    class Flow(Workflow):
        @step
        async def gather(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.collect_events(ev, expected)
            return StopEvent()

    with pytest.raises(StepFailed) as failed:
        await Flow().run()
    assert isinstance(failed.value.__cause__, WorkflowRuntimeError)
    assert "collect_events takes a list of event classes" in str(failed.value)


async def test_collecting_is_for_steps() -> None:
    async with Fan(1).run(delays=(1,)) as handler:
        with pytest.raises(WorkflowRuntimeError, match="works only inside a step"):
            handler.ctx.collect_events(Part(1), [Part])
