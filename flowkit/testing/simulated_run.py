"""A run as a simulation has it made: it tells its world what happens in it, and lets that spoil its steps' calls."""

import functools
import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import anyio
import attrs

from flowkit import outside
from flowkit.events import Event
from flowkit.facts import Command, EventPublished, EventSent, Fact, RunCancelled, RunStarted, StartStep, StepReturned
from flowkit.launching import chained
from flowkit.runner import Run
from flowkit.stations import Station
from flowkit.stream import Origin
from flowkit.testing.world import World

__all__ = ["SimulatedRun"]


class SimulatedRun(Run):
    """A run in a `World`."""

    __slots__ = ("_world",)

    def __init__(self, *args: Any, **named: Any) -> None:
        world = outside.current()
        assert isinstance(world, World)
        self._world = world
        noted = functools.partial(_noted, world, named["run_id"])
        super().__init__(*args, **{**named, "keep": chained(noted, named.get("keep"))})
        world.runs.append(self)
        if self.parent is None and world.top is None:
            world.top, world.timeout = self, self.timeout

    def forget(self) -> None:
        """The simulation is over: what became of the run is nobody's concern, so its handle reports nothing."""
        if self.machine.outcome is None:
            self.machine.receive(RunCancelled(self._world.time(), "its simulation is over", by_user=True))
        outcome = self.machine.outcome
        assert outcome is not None
        self.machine.outcome = attrs.evolve(outcome, error=None)
        self.error = self.warnings = None

    def show(self, event: Event, origin: Origin | None) -> None:
        super().show(event, origin)
        if self is self._world.top:
            self._world.show(event)

    def _open(self, index: int) -> Station:
        station = super()._open(index)
        name = station.spec.name
        station.function = _spoiled(
            self._world, station, name if self is self._world.top else f"{self.workflow_name}.{name}"
        )
        return station

    def idempotency_key(self, invocation: int) -> str:
        key = super().idempotency_key(invocation)
        self._world.keys.add(key)
        return key

    def _settle(self) -> None:
        super()._settle()
        if self.warnings:
            warnings, self.warnings = self.warnings, None
            self._world.warnings += warnings


def _noted(world: World, run_id: str, fact: Fact, commands: Sequence[Command]) -> None:
    if world.dead:
        return
    world.happened("fact", (run_id, fact))
    match fact:
        case RunStarted() | EventSent() | EventPublished():
            world.sent.see(fact.event)
        case StepReturned(result=Event() as event):
            world.sent.see(event)
        case StepReturned(result=list()):
            for event in cast("list[Event]", fact.result):
                world.sent.see(event)
        case _:
            pass
    for command in commands:
        if type(command) is StartStep:
            world.attempts += 1


def _spoiled(world: World, station: Station, name: str) -> Callable[..., Any]:
    """A step's function, with what goes wrong in it; its calls are counted under this name."""
    function = station.function

    def call(*args: Any, **named: Any) -> Any:
        fault = world.call(name)
        if fault is None:
            return function(*args, **named)
        if fault.kind == "raise":
            raise world.error(fault)
        if station.spec.is_async:
            return spoiled(fault, *args, **named)
        if fault.kind == "delay":
            time.sleep(fault.seconds)
        result = function(*args, **named)
        if inspect.isawaitable(result):
            return result
        if fault.kind == "lose":
            raise world.error(fault)
        if fault.kind == "stall":
            time.sleep(fault.seconds)
        return result

    async def spoiled(fault: Any, *args: Any, **named: Any) -> Any:
        if fault.kind == "delay":
            await anyio.sleep(fault.seconds)
        result = await function(*args, **named)
        if fault.kind == "lose":
            raise world.error(fault)
        if fault.kind == "stall":
            await anyio.sleep(fault.seconds)
        return result

    return call
