"""What a performer works with: a station for each step, a cell for each suspended one, and what it needs of others."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import anyio
import attrs
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from flowkit.events import Event
from flowkit.facts import Command, EventPublished, EventSent, Fact, StartStep, StateWritten
from flowkit.machine import Machine
from flowkit.resource_pool import Pool
from flowkit.steps import CTX_EVENT, EVENT, StepSpec

__all__ = ["BURST", "Cell", "Committed", "Log", "Owner", "Station"]

BURST = 8
"""Events a worker takes from its own step's queue before it lets other tasks run. A step that awaits lets them
anyway."""


class Owner(Protocol):
    """What a run needs of the workflow it runs."""

    def bind(self, spec: StepSpec) -> Callable[..., Any]: ...

    def child_for(self, name: str, kind: type[Any], run: Any, start: StartStep) -> Any: ...

    def dump_run(self, machine: Machine) -> dict[str, Any]: ...

    @property
    def pool(self) -> Pool: ...


class Log(Protocol):
    """What a run needs of its journal in a store."""

    @property
    def is_written(self) -> bool:
        """Whether everything added is on disk."""
        ...

    def encode(self, fact: Fact) -> bytes: ...

    def add(self, payload: bytes, commands: Sequence[Command], *, alone: bool) -> None: ...

    def touch(self) -> None:
        """The run may have come to rest."""
        ...

    def stir(self) -> None:
        """A run nested in it goes on."""
        ...

    def stop(self) -> None:
        """Nothing more will happen here; what has is still written."""
        ...

    def drop(self) -> None:
        """Write nothing more."""
        ...

    def mark(self, event: Any) -> str:
        """What an idempotency key must say of the event."""
        ...

    @property
    def has_mail(self) -> bool:
        """Whether something was posted to the run that it hasn't taken yet."""
        ...

    @property
    def added(self) -> int:
        """How many records there are, on disk or on their way."""
        ...

    async def written(self, upto: int | None = None) -> None:
        """Wait until everything added so far is on disk (or the first ``upto`` records)."""
        ...


@attrs.frozen
class Committed:
    """What an attempt of an atomic step returned, and what it did."""

    result: Any
    effects: "tuple[EventSent | EventPublished | StateWritten, ...]"


@attrs.define(eq=False)
class Station:
    """A step at work: its channel, and how many workers read it. ``engaged`` counts what they have in hand or will
    get, ``first`` is what those begin with that have been started and haven't begun."""

    spec: StepSpec
    function: Callable[..., Any]
    shape: int
    send: MemoryObjectSendStream[StartStep]
    receive: MemoryObjectReceiveStream[StartStep]
    workers: int = 0
    engaged: int = 0
    first: list[StartStep] = attrs.field(factory=list[StartStep])

    def call(self, ctx: Any, start: StartStep) -> Any:
        """Call a step that takes its event, and perhaps a context, just as a worker does where nobody watches: a
        decorator may have replaced it by a function that has other names for them."""
        if self.spec.shape == EVENT:
            return self.function(start.event)
        return self.function(ctx, start.event) if self.spec.shape == CTX_EVENT else self.function(start.event, ctx)


@attrs.define(eq=False)
class Cell:
    """Where a suspended step waits for its event."""

    woken: anyio.Event
    answered: bool = False
    event: Event | None = None
