"""What is counted and measured of runs, and that whatever goes up comes down again."""

from typing import Any

import anyio
import pytest
from opentelemetry.metrics import NoOpMeterProvider
from spans import Telemetry
from watched_flows import Approved, Item, Made, Question, make_shop

from flowkit import Event, MemoryStore, StartEvent, StepFailed, StopEvent, Workflow, WorkflowCancelledByUser, step
from flowkit.opentelemetry import SECONDS, OpenTelemetry
from flowkit.retry_policy import ConstantDelayRetryPolicy


class Fan(Workflow):
    """Six items, one worker, a second each."""

    @step
    async def plan(self, ev: StartEvent) -> list[Item]:
        return [Item(n) for n in range(6)]

    @step(num_workers=1)
    async def work(self, ev: Item) -> Made:
        await anyio.sleep(1)
        return Made(ev.n)

    @step
    async def end(self, evs: list[Made]) -> StopEvent:
        return StopEvent(result=len(evs))


class Failing(Workflow):
    @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=3))
    async def work(self, ev: StartEvent) -> StopEvent:
        raise ValueError("no luck")


async def test_runs_are_counted_by_outcome() -> None:
    told = Telemetry()
    await Fan(instruments=[told.instrument]).run()
    with pytest.raises(StepFailed):
        await Failing(instruments=[told.instrument]).run()
    async with Fan(instruments=[told.instrument]).run() as handler:
        await anyio.sleep(2.5)
        assert told.values("flowkit.run.active") == {("Fan",): 1, ("Failing",): 0}
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
    store = MemoryStore()
    with anyio.move_on_after(2.5):
        await Fan(instruments=[told.instrument]).run(store=store, run_id="r")
    assert told.values("flowkit.run.ended") == {
        ("Fan", "finished"): 1,
        ("Failing", "failed", "flowkit.errors.StepFailed"): 1,
        ("Fan", "cancelled"): 1,
        ("Fan", "suspended"): 1,
    }
    await Fan(instruments=[told.instrument]).run(store=store, run_id="r")
    assert told.values("flowkit.run.started") == {("Fan", False): 3, ("Failing", False): 1, ("Fan", True): 1}
    assert told.values("flowkit.run.active") == {("Fan",): 0, ("Failing",): 0}
    assert told.amiss() == []


async def test_attempts_and_retries() -> None:
    told = Telemetry()
    with pytest.raises(StepFailed):
        await Failing(instruments=[told.instrument]).run()
    assert told.values("flowkit.step.attempts") == {("Failing", "work", "raised", "ValueError"): 3}
    assert told.values("flowkit.step.retries") == {("Failing", "work"): 2}


async def test_the_queue_of_a_step() -> None:
    told = Telemetry()
    lengths: list[int] = []
    async with Fan(instruments=[told.instrument]).run() as handler:
        await anyio.sleep(0.5)
        for _ in range(6):
            lengths.append(told.values("flowkit.step.queued")["Fan", "work"])
            await anyio.sleep(1)
        assert await handler == 6
    assert lengths == [5, 4, 3, 2, 1, 0]
    waited = told.metrics()["flowkit.step.queue_time"]["Fan", "work"]
    assert waited.count == 6 and waited.sum == pytest.approx(15, abs=0.01) and waited.max == pytest.approx(5, abs=0.01)
    assert told.amiss() == []


async def test_a_queue_is_empty_again_however_the_run_ends() -> None:
    told = Telemetry()
    async with Fan(instruments=[told.instrument]).run() as handler:
        await anyio.sleep(2.5)
        assert told.values("flowkit.step.queued")["Fan", "work"] == 3
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
    assert told.values("flowkit.step.queued") == {("Fan", "plan"): 0, ("Fan", "work"): 0}
    # What never began is no attempt.
    assert told.values("flowkit.step.attempts") == {
        ("Fan", "plan", "returned"): 1,
        ("Fan", "work", "returned"): 2,
        ("Fan", "work", "cancelled"): 1,
    }


async def test_durations() -> None:
    told = Telemetry()
    await Fan(instruments=[told.instrument]).run()
    run = told.metrics()["flowkit.run.duration"]["Fan", "finished"]
    assert run.sum == pytest.approx(6, abs=0.01) and tuple(run.explicit_bounds) == SECONDS
    work = told.metrics()["flowkit.step.duration"]["Fan", "work", "returned"]
    assert (work.count, work.sum) == (6, pytest.approx(6, abs=0.01)) and tuple(work.explicit_bounds) == SECONDS


async def test_units_and_descriptions() -> None:
    told = Telemetry()
    with pytest.raises(StepFailed):
        await Failing(instruments=[told.instrument]).run()
    data = told.reader.get_metrics_data()
    assert data is not None
    metrics = [one for of in data.resource_metrics for scope in of.scope_metrics for one in scope.metrics]
    assert {one.name: one.unit for one in metrics} == {
        "flowkit.run.started": "{run}",
        "flowkit.run.ended": "{run}",
        "flowkit.run.active": "{run}",
        "flowkit.run.duration": "s",
        "flowkit.step.attempts": "{attempt}",
        "flowkit.step.retries": "{attempt}",
        "flowkit.step.queued": "{attempt}",
        "flowkit.step.queue_time": "s",
        "flowkit.step.duration": "s",
    }
    assert all(one.description for one in metrics)


async def test_there_are_never_more_series() -> None:
    """However many runs there are, and whatever is in their events."""
    told = Telemetry()

    async def some(times: int) -> dict[str, int]:
        for n in range(times):
            async with make_shop(told.instrument).run(topic=str(n)) as handler:
                async for event in handler.stream_events():
                    if isinstance(event, Question):
                        handler.send_event(Approved(event.n))
                await handler
        return {name: len(points) for name, points in told.metrics().items()}

    assert await some(1) == await some(5)


async def test_metrics_come_without_traces() -> None:
    told = Telemetry()
    from opentelemetry.trace import NoOpTracerProvider

    only = OpenTelemetry(NoOpTracerProvider(), told.meter_provider)
    await Fan(instruments=[only]).run()
    assert told.values("flowkit.run.ended") == {("Fan", "finished"): 1}
    assert told.spans == ()


async def test_traces_come_without_metrics() -> None:
    told = Telemetry()
    only = OpenTelemetry(told.provider, NoOpMeterProvider())
    await Fan(instruments=[only]).run()
    assert told.tree()[0] == "Fan" and told.metrics() == {}


async def test_the_class_of_an_error_of_ones_own() -> None:
    class Mine(Exception):
        pass

    class Raising(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            raise Mine

    told = Telemetry()
    with pytest.raises(StepFailed):
        await Raising(instruments=[told.instrument]).run()
    [key] = told.values("flowkit.step.attempts")
    named: Any = key[-1]
    assert named.startswith(f"{__name__}.") and named.endswith(".Mine")
    assert issubclass(Item, Event)
