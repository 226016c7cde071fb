"""Steps that go on when their run has been cancelled, in a thread or in a clean-up.

What they ask of it is no failure of theirs: it has just ended.
"""

import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from flowkit import Context, Event, RunFinished, StartEvent, StopEvent, Workflow, step, testing
from flowkit.testing.scenario import Backend

each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Go(StartEvent): ...


class Done(Event):
    n: int


class Other(Event):
    n: int


ASKED: dict[str, Callable[[Context], Any]] = {
    "send_event": lambda ctx: ctx.send_event(Done(2)),
    "write_event_to_stream": lambda ctx: ctx.write_event_to_stream(Other(1)),
    "idempotency_key": lambda ctx: ctx.idempotency_key,
    "retry_info": lambda ctx: ctx.retry_info(),
    "random": lambda ctx: ctx.random(),
    "uuid": lambda ctx: ctx.uuid(),
    "now": lambda ctx: ctx.now(),
}


def flows(ask: Callable[[Context], Any]) -> list[type[Workflow]]:
    class Plain(Workflow):
        @step
        def go(self, ctx: Context, ev: Go) -> Done:
            time.sleep(1)
            ask(ctx)
            return Done(1)

        @step
        async def end(self, ev: Done) -> StopEvent:
            return StopEvent()

    class CleansUp(Workflow):
        @step
        async def go(self, ctx: Context, ev: Go) -> Done:
            try:
                await anyio.sleep(1)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1)
                    ask(ctx)
            return Done(1)

        @step
        async def end(self, ev: Done) -> StopEvent:
            return StopEvent()

    return [Plain, CleansUp]


@each_backend
@pytest.mark.parametrize("what", ASKED)
def test_what_a_step_asks_after_the_end_fails_nothing(what: str, backend: Backend) -> None:
    for flow in flows(ASKED[what]):
        testing.assert_cancels_cleanly(flow, budget=60, bound=0, backend=backend)


@each_backend
@pytest.mark.parametrize("what", ["send_event", "idempotency_key", "retry_info", "uuid"])
def test_it_is_told_that_the_run_has_ended(what: str, backend: Backend) -> None:
    told: list[Exception] = []

    def ask(ctx: Context) -> None:
        try:
            ASKED[what](ctx)
        except Exception as error:
            told.append(error)
            raise

    for flow in flows(ask):
        testing.assert_cancels_cleanly(flow, budget=60, bound=0, backend=backend)
    call = {"send_event": "send_event(Done)", "uuid": "idempotency_key"}.get(what, what)
    assert {type(error) for error in told} == {RunFinished}
    assert {str(error).partition(":")[0] for error in told} == {call}
