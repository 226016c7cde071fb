"""Checking a plan's wiring: every fault it has, each with its place and its cure."""

from collections.abc import Iterable, Iterator

from flowkit.errors import WorkflowValidationError, did_you_mean
from flowkit.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from flowkit.plan import Plan
from flowkit.resource import Factory
from flowkit.steps import StepSpec

__all__ = ["faults"]


def faults(plan: Plan, *, driven_outside: bool = False) -> list[WorkflowValidationError]:
    """All faults of the wiring, in the order of the steps.

    ``driven_outside``: events may come from ``handler.send_event``, so one that no step makes is no fault.

    A sound plan is looked at once, for all instances of its class: many programs make one for each run.
    """
    if driven_outside in plan.sound:
        return []
    found = [
        *_ends(plan),
        *_events(plan, driven_outside),
        *_erased(plan),
        *_paths(plan, driven_outside),
        *_catchers(plan),
        *_state(plan),
        *_starts_of_resources(plan),
    ]
    if not found:
        plan.sound.add(driven_outside)
    return found


def _fault(plan: Plan, spec: StepSpec | None, problem: str, cure: str, kind: str) -> WorkflowValidationError:
    return WorkflowValidationError(
        problem,
        cure=cure,
        workflow=plan.name,
        step=spec.name if spec else None,
        where=spec.where if spec else plan.where,
        kind=kind,
    )


def _made(spec: StepSpec) -> tuple[type[Event], ...]:
    return tuple(sorted({*spec.returns, *spec.returns_lists}, key=lambda kind: kind.__name__))


def _ends(plan: Plan) -> Iterator[WorkflowValidationError]:
    if not plan.steps:
        yield _fault(plan, None, "has no steps", "decorate its methods with @step", "no-steps")
        return
    if not plan.start_types:
        yield _fault(plan, None, "has no start", "let one step take a StartEvent (or a subclass of it)", "no-start")
    elif len(plan.start_types) > 1:
        problem = f"has several start events, {_with_places(plan, plan.start_types, taken=True)}"
        yield _fault(plan, None, problem, "keep one, for run() can build only one", "several-starts")
    if not plan.stop_types:
        yield _fault(
            plan,
            None,
            "has no stop",
            "let one step return a StopEvent, and say so in its return annotation",
            "no-stop",
        )
    elif len(plan.stop_types) > 1:
        problem = f"has several stop events, {_with_places(plan, plan.stop_types, taken=False)}"
        yield _fault(plan, None, problem, "keep one, for it is the result's type", "several-stops")


def _with_places(plan: Plan, kinds: Iterable[type[Event]], *, taken: bool) -> str:
    found: list[str] = []
    for kind in kinds:
        steps = [spec.name for spec in plan.steps if kind in (spec.accepts if taken else _made(spec))]
        found.append(f"{kind.__name__} ({'taken' if taken else 'returned'} by {', '.join(steps)})")
    return " and ".join(found)


def _events(plan: Plan, driven_outside: bool) -> Iterator[WorkflowValidationError]:
    produced = {kind for spec in plan.steps for kind in _made(spec)}
    accepted = set(plan.accepted)
    for spec in plan.steps:
        if spec.options.catches or driven_outside:
            continue
        for kind in spec.accepts:
            if issubclass(kind, StartEvent | StopEvent | HumanResponseEvent):
                continue
            if not any(issubclass(made, kind) or issubclass(kind, made) for made in produced):
                yield _fault(
                    plan,
                    spec,
                    f"takes {kind.__name__}, but no step returns it",
                    "return it from a step, or name it in the return annotation of the step that sends it; if it comes "
                    f'from outside, say Workflow(stalled="wait"){_near(kind, produced)}',
                    "never-produced",
                )
    for spec in plan.steps:
        for kind in _made(spec):
            if issubclass(kind, StopEvent | InputRequiredEvent):
                continue
            taken = plan.takers(kind) or any(issubclass(one, kind) for one in accepted)
            if not taken:
                yield _fault(
                    plan,
                    spec,
                    f"returns {kind.__name__}, but no step takes it",
                    f"accept it in a step, or return a StopEvent{_near(kind, accepted)}; what only a wait_for_event "
                    "takes is sent with ctx.send_event and left out of the annotation",
                    "never-consumed",
                )


def _near(kind: type, others: set[type[Event]]) -> str:
    same = [other for other in others if other is not kind and other.__name__ == kind.__name__]
    return f" (another class is called {kind.__name__}, in {same[0].__module__})" if same else ""


def _erased(plan: Plan) -> Iterator[WorkflowValidationError]:
    """A generic event class taken with different arguments: at run time an event doesn't know its own."""
    said: dict[type[Event], StepSpec] = {}
    for spec in plan.steps:
        for kind, text in spec.erased.items():
            first = said.setdefault(kind, spec)
            if first.erased[kind] != text:
                yield _fault(
                    plan,
                    spec,
                    f"takes {text}, and {first.name!r} takes {first.erased[kind]}, but an event knows only that it is "
                    f"a {kind.__name__}, so both would get each one",
                    f"make classes of them, `class Mine({text}): ...`, and take these",
                    "erased",
                )


def _paths(plan: Plan, driven_outside: bool) -> Iterator[WorkflowValidationError]:
    after = {spec.name: _successors(plan, spec) for spec in plan.steps}
    entries = [
        spec.name
        for spec in plan.steps
        if any(issubclass(kind, StartEvent | HumanResponseEvent) for kind in spec.accepts)
    ]
    reached = _closure(entries, after)
    before: dict[str, set[str]] = {spec.name: set() for spec in plan.steps}
    for name, followers in after.items():
        for follower in followers:
            before[follower].add(name)
    enders = [spec.name for spec in plan.steps if any(issubclass(kind, StopEvent) for kind in _made(spec))]
    ending = _closure(enders, before)
    for spec in plan.steps:
        # A step that takes what nobody makes has been reported for that, and a @catch_error step stands or falls with
        # those it covers.
        if (
            plan.start_types
            and not driven_outside
            and spec.name not in reached
            and before[spec.name]
            and not spec.options.catches
        ):
            yield _fault(
                plan,
                spec,
                "can't be reached from the start",
                "let a step that is reached return what it takes, or remove it",
                "unreachable",
            )
        made = _made(spec)
        if plan.stop_types and spec.name not in ending and made and not _asks(spec) and all(map(plan.takers, made)):
            yield _fault(
                plan,
                spec,
                "leads to no end",
                "return a StopEvent on some path from here",
                "no-end",
            )


def _asks(spec: StepSpec) -> bool:
    return any(issubclass(kind, InputRequiredEvent) for kind in _made(spec))


def _successors(plan: Plan, spec: StepSpec) -> set[str]:
    found: set[str] = set()
    for kind in _made(spec):
        found.update(taker.name for taker in plan.takers(kind))
        # A declared base class stands for its subclasses too: any step that takes one may be next.
        found.update(
            taker.name for taker in plan.steps if any(issubclass(accepted, kind) for accepted in taker.accepts)
        )
    catcher = plan.catcher_of(spec.name)
    if catcher is not None:
        found.add(catcher)
    return found


def _closure(start: list[str], edges: dict[str, set[str]]) -> set[str]:
    seen = set(start)
    todo = list(start)
    while todo:
        fresh = edges[todo.pop()] - seen
        seen |= fresh
        todo.extend(fresh)
    return seen


def _catchers(plan: Plan) -> Iterator[WorkflowValidationError]:
    """``@catch_error`` steps whose ``for_steps`` don't fit the workflow, or each other."""
    handlers = {spec.name for spec in plan.steps if spec.options.catches}
    others = [spec.name for spec in plan.steps if not spec.options.catches]
    owner: dict[str, str] = {}
    wildcards = [spec for spec in plan.steps if spec.options.catches and spec.options.for_steps is None]
    for spec in wildcards[1:]:
        problem = f"catches every step's error, but {wildcards[0].name!r} does so already"
        yield _fault(plan, spec, problem, "name the steps in for_steps=[…] in one of them", "catch-error")
    for spec in plan.steps:
        for name in spec.options.for_steps or ():
            known = did_you_mean(name, others) or f"it has {', '.join(others)}"
            if name in handlers:
                problem, cure = f"covers {name!r}, itself a @catch_error step", "take it out of for_steps"
            elif name not in others:
                problem, cure = f"covers {name!r}, but {plan.name} has no such step", known
            elif owner.setdefault(name, spec.name) != spec.name:
                problem, cure = f"covers {name!r}, but {owner[name]!r} does so already", "keep one"
            else:
                continue
            yield _fault(plan, spec, problem, cure, "catch-error")


def _state(plan: Plan) -> Iterator[WorkflowValidationError]:
    kinds = {spec.state_type: spec for spec in plan.steps if spec.state_type is not None}
    if len(kinds) > 1:
        listed = ", ".join(f"{kind.__name__} in {spec.name}" for kind, spec in kinds.items())
        cure = "annotate Context with one of them everywhere"
        yield _fault(plan, None, f"has several types of state: {listed}", cure, "state")


def _starts_of_resources(plan: Plan) -> Iterator[WorkflowValidationError]:
    """Resource factories that ask for another start event than the one the workflow starts with."""
    for spec in plan.steps:
        todo = [factory for _, factory in spec.resources.values()]
        while todo:
            factory = todo.pop()
            for need in factory.parameters.values():
                if isinstance(need, Factory):
                    todo.append(need)
                elif isinstance(need, type) and plan.start_types and not issubclass(plan.start_type, need):
                    problem = f"takes a resource whose factory {factory.resource.name} needs a {need.__name__}"
                    cure = f"{plan.name} starts with a {plan.start_type.__name__}: let the factory take that"
                    yield _fault(plan, spec, problem, cure, "resource-start")
