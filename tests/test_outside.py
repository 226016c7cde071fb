"""What a step takes from outside through its context: time, ids, random numbers."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import anyio
import anyio.from_thread
import pytest

from flowkit import Context, Event, MemoryStore, RunSuspended, StartEvent, StopEvent, Workflow, outside, step
from flowkit.retry_policy import ConstantDelayRetryPolicy


class Draw(Event):
    number: int


class Drawn(Event): ...


class Drawing(Workflow):
    def __init__(self, fails: int = 0, *, hangs: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.hangs = hangs
        self.drawn: list[tuple[str, UUID, float]] = []

    @step
    async def begin(self, ev: StartEvent) -> list[Draw]:
        return [Draw(number=number) for number in range(2)]

    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=3, delay=5))
    async def draw(self, ctx: Context, ev: Draw) -> Drawn:
        self.drawn.append((f"{ctx.run_id} {ev.number}", ctx.uuid(), ctx.random().random()))
        if ctx.retry_info().attempts < self.fails:
            raise OSError
        if self.hangs:
            await anyio.sleep_forever()
        return Drawn()

    @step
    async def end(self, ctx: Context, evs: list[Drawn]) -> StopEvent:
        return StopEvent(result=ctx.now())


async def test_random_numbers_and_ids_are_the_same_in_every_attempt() -> None:
    flow = Drawing(fails=2)
    await flow.run(run_id="one")
    await flow.run(run_id="two")
    by_event: dict[str, set[tuple[UUID, float]]] = {}
    for key, made, number in flow.drawn:
        by_event.setdefault(key, set()).add((made, number))
    assert len(by_event) == 4
    assert all(len(found) == 1 for found in by_event.values())
    assert len(set.union(*by_event.values())) == 4  # and others for each event, and in each run


async def test_they_are_the_same_after_a_restart() -> None:
    store = MemoryStore()
    first = Drawing(hangs=True)
    with anyio.move_on_after(1), pytest.raises(RunSuspended):
        await first.run(store=store, run_id="kept")
    second = Drawing()
    await second.run(store=store, run_id="kept")
    assert len(first.drawn) == 2
    assert sorted(first.drawn) == sorted(second.drawn)


async def test_ids_are_version_4() -> None:
    flow = Drawing()
    await flow.run()
    assert {made.version for _, made, _ in flow.drawn} == {4}


async def test_the_clock_is_the_runs() -> None:
    before = datetime.now(UTC)
    told = await Drawing().run()
    assert told.tzinfo is UTC
    assert before - timedelta(seconds=1) <= told <= datetime.now(UTC) + timedelta(days=1)


async def test_outside_a_run() -> None:
    ctx: Context = Context(Drawing())
    assert ctx.now().tzinfo is UTC
    assert ctx.uuid() != ctx.uuid()
    assert ctx.random() is ctx.random()
    assert ctx.uuid() != Context(Drawing()).uuid()


async def test_a_plain_step_may_draw() -> None:
    class Plain(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(ctx.now(), ctx.uuid(), ctx.random().random()))

    at, made, number = await Plain().run(run_id="one")
    assert (await Plain().run(run_id="one"))[1:] == (made, number)
    assert at.tzinfo is UTC


async def test_the_world_can_be_another() -> None:
    class Elsewhere(outside.Outside):
        def time(self) -> float:
            return 0.0

        def new_id(self) -> str:
            return "an id"

    token = outside.around.set(Elsewhere())
    try:
        handler = Drawing().run()
        assert handler.run_id == "an id"
        assert (await handler).year == 1970
    finally:
        outside.around.reset(token)


@pytest.mark.parametrize("name", ["now", "random", "uuid"])
def test_each_says_what_it_is_not_for(name: str) -> None:
    text = getattr(Context, name).__doc__
    assert "simulation" in text or "secrets" in text
