"""The plan: a workflow's wiring, checked and immutable.

Built once for a class (once more for an instance that has steps of its own) and shared by all its runs.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from flowkit.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from flowkit.resource import Factory
from flowkit.steps import StepSpec

__all__ = ["Plan", "Route"]


@attrs.frozen
class Route:
    """Where events of one type go: the indexes of the steps that take them, and what kind of event they are.

    ``plain``: neither a stop, a question nor an answer, and no step gathers it into a list.
    """

    steps: tuple[int, ...]
    stops: bool
    asks: bool
    answers: bool
    plain: bool


@attrs.define(eq=False)
class Plan:
    """Steps and routes of one workflow. Nothing changes after construction but what is kept once it has been found:
    routes, reach, and whether the wiring was checked and is sound, without or with events from outside."""

    name: str
    steps: tuple[StepSpec, ...]
    start_types: tuple[type[Event], ...]
    stop_types: tuple[type[Event], ...]
    state_type: type[Any] | None
    has_joins: bool
    takes_answers: bool
    hosts_resources: bool
    catchers: Mapping[str, str]
    accepting: Mapping[type[Event], tuple[StepSpec, ...]]
    routes: dict[type, Route]
    index: Mapping[str, int]
    reach: dict[str, tuple[str, ...]]
    where: str | None = None
    sound: set[bool] = attrs.field(factory=set[bool])

    @classmethod
    def of(cls, name: str, specs: Iterable[StepSpec], *, where: str | None = None) -> "Plan":
        """The plan of these steps, numbered in this order. ``where`` is ``file:line`` of the workflow."""
        steps = tuple(attrs.evolve(spec, index=index) for index, spec in enumerate(specs))
        accepting: dict[type[Event], tuple[StepSpec, ...]] = {}
        for spec in steps:
            if not spec.options.catches:
                for kind in spec.accepts:
                    accepting[kind] = (*accepting.get(kind, ()), spec)
        produced = [kind for spec in steps for kind in (*spec.returns, *spec.returns_lists)]
        return cls(
            name=name,
            steps=steps,
            start_types=tuple(kind for kind in accepting if issubclass(kind, StartEvent)),
            stop_types=tuple(dict.fromkeys(kind for kind in produced if issubclass(kind, StopEvent))),
            state_type=next((spec.state_type for spec in steps if spec.state_type is not None), None),
            has_joins=any(spec.takes_list for spec in steps),
            takes_answers=any(issubclass(kind, HumanResponseEvent) for kind in accepting),
            hosts_resources=any(_hosted(spec) for spec in steps),
            catchers=_catchers(steps),
            accepting=accepting,
            routes={},
            index={spec.name: spec.index for spec in steps},
            reach={},
            where=where,
        )

    @property
    def start_type(self) -> type[Event]:
        """The event class that ``run(**kwargs)`` builds."""
        return self.start_types[0] if self.start_types else StartEvent

    @property
    def accepted(self) -> tuple[type[Event], ...]:
        """The event classes that some step takes (``@catch_error`` steps aside)."""
        return tuple(self.accepting)

    def step(self, name: str) -> StepSpec | None:
        """The step of this name."""
        index = self.index.get(name)
        return None if index is None else self.steps[index]

    def catcher_of(self, step: str) -> str | None:
        """The ``@catch_error`` step that covers a step."""
        return self.catchers.get(step)

    def takers(self, kind: type) -> tuple[StepSpec, ...]:
        """The steps that take an event of this type: those that accept it exactly, else its nearest accepted base."""
        base = next((base for base in kind.__mro__ if base in self.accepting), None)
        return () if base is None else self.accepting[base]

    def route(self, kind: type) -> Route:
        """Where events of this type go; found once for each type (``routes`` holds those found so far)."""
        route = self.routes.get(kind)
        if route is None:
            takers = self.takers(kind)
            stops, asks, answers = (
                issubclass(kind, one) for one in (StopEvent, InputRequiredEvent, HumanResponseEvent)
            )
            plain = not (stops or asks or answers or any(spec.takes_list for spec in takers))
            route = self.routes[kind] = Route(tuple(spec.index for spec in takers), stops, asks, answers, plain)
        return route

    def reach_of(self, step: str) -> tuple[str, ...]:
        """The list steps that close a fan-out of this step: those its events can get to without leaving the fan-out."""
        if not self.reach:
            self.reach.update(_reach(self))
        return self.reach[step]


def _reach(plan: Plan) -> dict[str, tuple[str, ...]]:
    """`Plan.reach_of` for all steps: the least solution of what follows from what, by going round until nothing is
    new."""
    inside = {spec.name: set[str]() for spec in plan.steps}  # who works in a step's fan-out
    closing = {spec.name: set[str]() for spec in plan.steps}
    known = -1
    while known < (known := sum(map(len, (*inside.values(), *closing.values())))):
        for opener in plan.steps:
            makers, joins = inside[opener.name], closing[opener.name]
            returned = [plan.steps[plan.index[name]].returns for name in makers]
            for kind in opener.returns_lists.union(*returned):
                for spec in plan.steps if kind is Event else plan.takers(kind):
                    (joins if spec.takes_list else makers).add(spec.name)
            for name in tuple(makers):
                makers.update(filter(None, [plan.catcher_of(name)]))
                if plan.steps[plan.index[name]].returns_lists:
                    # A fan-out opened in here closes in here: its list steps work in this one.
                    makers |= closing[name]
    return {name: tuple(spec.name for spec in plan.steps if spec.name in joins) for name, joins in closing.items()}


def _hosted(spec: StepSpec) -> bool:
    """Whether the step needs an async context manager that the run's own task must enter (see resource_pool.py)."""
    todo: list[Factory] = [factory for _, factory in spec.resources.values()]
    while todo:
        factory = todo.pop()
        if factory.scope == "run" and factory.manager == "async":
            return True
        todo.extend(need for need in factory.parameters.values() if isinstance(need, Factory))
    return False


def _catchers(steps: tuple[StepSpec, ...]) -> dict[str, str]:
    handlers = [spec for spec in steps if spec.options.catches]
    found: dict[str, str] = {}
    for handler in handlers:
        for name in handler.options.for_steps or ():
            found.setdefault(name, handler.name)
    wildcard = next((handler for handler in handlers if handler.options.for_steps is None), None)
    if wildcard is not None:
        for spec in steps:
            if not spec.options.catches:
                found.setdefault(spec.name, wildcard.name)
    return found
