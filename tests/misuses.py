"""A table of misuses: what is written, and the error it must get.

A case is a function that does what a user might do, under the type of the error and its whole text::

    @misuse(EventError, "Part needs 'n': write Part(n=…).")
    def a_field_missing() -> None:
        Part()

In the text HERE stands for a ``file:line`` in the case itself, THERE for one elsewhere in its file. For an
`InvalidWorkflow` the text is that of its faults, a line each.
"""

import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest

from flowkit import Context, Event, InvalidWorkflow, StartEvent, StepFailed, StopEvent, Workflow, step

__all__ = ["Case", "Misuses", "inside"]


@attrs.frozen
class Case:
    do: Callable[[], Any]
    kind: type[Exception]
    text: str

    def __str__(self) -> str:
        return self.do.__name__

    def told(self) -> str:
        """What the misuse is told."""
        with pytest.raises(self.kind) as raised:
            self.do()
        return self._text(raised.value)

    async def told_in_a_loop(self) -> str:
        """What the misuse is told, where it needs an event loop."""
        with pytest.raises(self.kind) as raised:
            await self.do()
        return self._text(raised.value)

    def _text(self, error: Exception) -> str:
        assert type(error) is self.kind
        text = "\n".join(map(str, error.exceptions)) if isinstance(error, InvalidWorkflow) else str(error)
        lines, first = inspect.getsourcelines(self.do)

        def place(found: re.Match[str]) -> str:
            return "HERE" if first <= int(found[1]) < first + len(lines) else "THERE"

        return re.sub(rf"{re.escape(self.do.__code__.co_filename)}:(\d+)", place, text)


class Misuses:
    """The decorator of a file's cases: ``built`` are the plain ones, ``run`` those that want an event loop."""

    def __init__(self) -> None:
        self.built: list[Case] = []
        self.run: list[Case] = []

    def __call__(self, kind: type[Exception], text: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
        def note(do: Callable[[], Any]) -> Callable[[], Any]:
            (self.run if inspect.iscoroutinefunction(do) else self.built).append(Case(do, kind, text))
            return do

        return note


class Sent(Event):
    """Taken by the step ``other`` of the workflow that `inside` runs."""


async def inside(body: Callable[[Context[Any]], Awaitable[Any]]) -> None:
    """Run a step with this body, and raise what it raises."""

    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await body(ctx))

        @step
        async def other(self, ev: Sent) -> None:
            return None

    with pytest.raises(StepFailed) as failed:
        await Flow(disable_validation=True).run()
    assert failed.value.__cause__ is not None
    raise failed.value.__cause__
