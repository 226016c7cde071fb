"""``Workflow(verbose=True)``: what each step does, on standard output, in the words of the guide flowkit follows."""

from collections.abc import Sequence
from typing import Any

from flowkit.facts import Command, Fact, StartStep, StepRaised, StepReturned
from flowkit.plan import Plan

__all__ = ["Narrator"]


class Narrator:
    """Told of each fact and its commands, prints a line for each start and end of an attempt."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._steps: dict[int, str] = {}

    def __call__(self, fact: Fact, commands: Sequence[Command]) -> None:
        if isinstance(fact, StepReturned):
            print(f"Step {self._steps.pop(fact.invocation, '?')} produced {_made(fact.result)}")
        elif isinstance(fact, StepRaised):
            again = "" if fact.delay is None else f"; trying again in {fact.delay:g} s"
            print(f"Step {self._steps.get(fact.invocation, '?')} failed: {fact.error!r}{again}")
        for command in commands:
            if isinstance(command, StartStep):
                name = self._steps[command.invocation] = self._plan.steps[command.step].name
                print(f"Running step {name}")


def _made(result: Any) -> str:
    if result is None:
        return "no event"
    if isinstance(result, list):
        return "events " + ", ".join(type(event).__name__ for event in result)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return f"event {type(result).__name__}"
