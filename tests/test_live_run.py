"""A run that is driven by hand: paused between any two instants, told things, crashed, gone on with."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import anyio
import pytest

from flowkit import (
    Context,
    HumanResponseEvent,
    InputRequiredEvent,
    MisdirectedEvent,
    RunFinished,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WrongCall,
    step,
    testing,
)
from flowkit.testing.live import LiveRun
from flowkit.testing.simulation import Simulation

BACKENDS = ["asyncio", *(["trio"] if find_spec("trio") is not None else [])]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


class Go(StartEvent):
    n: int = 1


class Ask(InputRequiredEvent):
    n: int


class Approve(HumanResponseEvent):
    n: int


class Approval(Workflow):
    @step
    async def ask(self, ctx: Context, ev: Go) -> StopEvent:
        approved = await ctx.wait_for_event(Approve, Ask(ev.n), timeout=60)
        testing.effect("paid", approved.n)
        await ctx.set("paid", approved.n)
        await anyio.sleep(10)
        return StopEvent(result=approved.n)


def driven(flow: Any, backend: Any, drive: Callable[[LiveRun], None], *, stored: bool = True) -> Any:
    simulation = Simulation(flow, None, backend=backend, stored=stored)
    with simulation.opened():
        live = LiveRun(simulation)
        drive(live)
        return live.close()


@each_backend
@pytest.mark.parametrize("stored", [False, True])
def test_a_live_run_is_paused_and_moves_as_it_is_told(stored: bool, backend: Any) -> None:
    def drive(live: LiveRun) -> None:
        assert (live.now, live.is_done, live.lives, live.effects, live.state) == (0, False, 1, [], {})
        assert live.questions == live.stream == [Ask(1)]
        with pytest.raises(WrongCall):
            _ = live.result
        assert (live.error, live.failure) == (None, None)
        live.advance(59.5)
        live.advance(0)
        assert (live.now, live.is_done) == (59.5, False)
        live.send(Approve(7))
        assert live.effects == [("paid", 7)] and live.state == {"paid": 7}
        live.advance(9)
        assert not live.is_done
        live.advance(1)
        assert live.is_done and live.result == 7 and live.now == 69.5
        assert live.stream == [Ask(1), StopEvent(result=7)]
        with pytest.raises(RunFinished):
            live.send(Approve(8))
        live.advance(100)
        live.cancel()
        live.crash_and_resume() if stored else None
        assert (live.result, live.lives) == (7, 1)

    assert driven(Approval, backend, drive, stored=stored) is None


@each_backend
def test_several_lives(backend: Any) -> None:
    def drive(live: LiveRun) -> None:
        live.advance(10)
        live.crash_and_resume()
        assert (live.lives, live.now, live.questions) == (2, 11, [Ask(1)])
        live.crash_and_resume(downtime=30)
        assert (live.lives, live.now) == (3, 41)
        live.send(Approve(1))
        live.crash_and_resume(downtime=0)
        assert live.effects == [("paid", 1)] * 2
        live.advance(10)
        assert live.result == 1

    assert driven(Approval, backend, drive) is None


@each_backend
def test_cancelling_and_misdirected_events(backend: Any) -> None:
    def drive(live: LiveRun) -> None:
        with pytest.raises(MisdirectedEvent):
            live.send(Approve(1), "nobody")
        assert not live.is_done
        live.cancel()
        live.cancel()
        assert live.is_done and isinstance(live.error, WorkflowCancelledByUser) and live.failure is None
        with pytest.raises(WorkflowCancelledByUser):
            _ = live.result

    assert driven(Approval, backend, drive) is None


@each_backend
@pytest.mark.parametrize("seconds", [-1, "1", None, float("nan")])
def test_time_goes_forward(seconds: Any, backend: Any) -> None:
    def drive(live: LiveRun) -> None:
        with pytest.raises(WrongCall) as raised:
            live.advance(seconds)
        assert str(raised.value) == f"advance() got {seconds!r}: give virtual seconds, 0 or more."

    assert driven(Approval, backend, drive) is None


def test_without_a_store_nothing_survives() -> None:
    def drive(live: LiveRun) -> None:
        with pytest.raises(WrongCall) as raised:
            live.crash_and_resume()
        assert str(raised.value) == (
            "crash_and_resume() needs a run with a store: set stored = True in the machine's class."
        )

    assert driven(Approval, "asyncio", drive, stored=False) is None
