"""Runs workflows as they are run in production: no schedule is chosen, no fault is injected. Only the clock jumps
(flowkit.testing.virtual_time). It says how often the planted bugs show up by themselves."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any
from unittest.mock import patch

import attrs

from flowkit import Event, InputRequiredEvent, StartEvent, Workflow, testing
from flowkit.testing.virtual_time import run_virtual

__all__ = ["PlainRun", "plain_run", "recording", "run_plainly"]


@attrs.define
class PlainRun:
    """A finished run, as far as properties look at it."""

    effects: list[tuple[Any, ...]]
    stream: list[Event] = attrs.field(factory=list[Event])
    state: Any = None
    error: BaseException | None = None
    _result: Any = None

    @property
    def has_result(self) -> bool:
        return self.error is None

    @property
    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self._result


_effects: ContextVar[list[tuple[Any, ...]]] = ContextVar("the effects of this plain run")


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Have plain runs record what their steps do by `testing.effect`, which otherwise works only in a simulation."""
    with patch.object(testing, "effect", lambda *what: _effects.get().append(what)):
        yield


async def plain_run(
    flow: Callable[[], Workflow], start: StartEvent, answer: Callable[[Any], Event] | None = None
) -> PlainRun:
    """Run it here, and answer its questions at once. Only inside `recording`."""
    run = PlainRun([])
    _effects.set(run.effects)
    async with flow().run(start_event=start) as handler:
        async for event in handler.stream_events():
            run.stream.append(event)
            if answer is not None and isinstance(event, InputRequiredEvent):
                handler.ctx.send_event(answer(event))
        try:
            run._result = await handler
        except Exception as error:  # noqa: BLE001 - the property judges it
            run.error = error
        run.state = await handler.ctx.store.get_state()
    return run


def run_plainly(
    flow: Callable[[], Workflow],
    start: StartEvent,
    check: Callable[[Any, Any], None],
    answer: Callable[[Any], Event] | None = None,
    *,
    backend: str,
) -> str | None:
    """What is wrong with one plain run, if something is."""
    try:
        with recording():
            run = run_virtual(plain_run, flow, start, answer, backend=backend)
        check(run, start)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run failed
        return f"{type(error).__name__}: {error}"
    return None
