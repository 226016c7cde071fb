"""Checking a plan's wiring: every fault it has, each with its place and its cure."""

from collections.abc import Iterator

from flowkit.errors import WorkflowValidationError
from flowkit.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from flowkit.plan import Plan
from flowkit.steps import StepSpec

__all__ = ["faults"]


def faults(plan: Plan, *, driven_outside: bool = False) -> list[WorkflowValidationError]:
    """All faults of the wiring, in the order of the steps.

    ``driven_outside``: events may come from ``handler.send_event``, so one that no step makes is no fault.
    """
    return [
        *_ends(plan),
        *_events(plan, driven_outside),
        *_paths(plan, driven_outside),
        *_names(plan),
    ]


def _fault(plan: Plan, spec: StepSpec | None, problem: str, cure: str, kind: str) -> WorkflowValidationError:
    return WorkflowValidationError(
        problem,
        cure=cure,
        workflow=plan.name,
        step=spec.name if spec else None,
        where=spec.where if spec else None,
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
        names = ", ".join(kind.__name__ for kind in plan.start_types)
        yield _fault(plan, None, f"has several start events, {names}", "keep one: run() builds it", "several-starts")
    if not plan.stop_types:
        yield _fault(
            plan,
            None,
            "has no stop",
            "let one step return a StopEvent, and say so in its return annotation",
            "no-stop",
        )
    elif len(plan.stop_types) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in plan.stop_types))
        yield _fault(
            plan, None, f"has several stop events, {names}", "keep one: it is the result's type", "several-stops"
        )
    for spec in plan.steps:
        for kind in spec.accepts:
            if issubclass(kind, StopEvent):
                yield _fault(
                    plan,
                    spec,
                    f"takes {kind.__name__}, but a StopEvent ends the run and no step sees it",
                    "take another event, and return the StopEvent from here",
                    "takes-stop",
                )


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
                    f"return it from a step, name it in the return annotation of the step that sends it, or say "
                    f'Workflow(stalled="wait") if it comes from outside{_near(kind, produced)}',
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
    return f" (there is another class of that name in {same[0].__module__})" if same else ""


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
        # What is reported already isn't once more: a step whose events nobody makes, one whose events nobody takes.
        made_for = spec.options.catches or any(before[spec.name])
        if spec.name not in reached and plan.start_types and not driven_outside and made_for:
            yield _fault(
                plan,
                spec,
                "can't be reached from the start",
                "let a step that is reached return what it takes, or remove it",
                "unreachable",
            )
        taken = bool(_made(spec)) and all(plan.takers(kind) for kind in _made(spec))
        if spec.name not in ending and plan.stop_types and taken and not _asks(spec):
            yield _fault(
                plan,
                spec,
                "leads to no end: no StopEvent can be reached from it",
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


def _names(plan: Plan) -> Iterator[WorkflowValidationError]:
    names = {spec.name for spec in plan.steps}
    handlers = {spec.name for spec in plan.steps if spec.options.catches}
    owner: dict[str, str] = {}
    wildcards = [spec for spec in plan.steps if spec.options.catches and spec.options.for_steps is None]
    for spec in wildcards[1:]:
        yield _fault(
            plan,
            spec,
            f"catches every step's error, but {wildcards[0].name!r} does so already",
            "name the steps in for_steps=[…] in one of them",
            "catch-error",
        )
    for spec in plan.steps:
        for name in spec.options.for_steps or ():
            if name not in names:
                known = ", ".join(sorted(names - handlers))
                yield _fault(
                    plan, spec, f"names a step {name!r} that doesn't exist", f"the steps are {known}", "catch-error"
                )
            elif name in handlers:
                yield _fault(
                    plan,
                    spec,
                    f"covers {name!r}, itself a @catch_error step",
                    "take it out of for_steps",
                    "catch-error",
                )
            elif name in owner:
                yield _fault(
                    plan, spec, f"covers {name!r}, but {owner[name]!r} does so already", "keep one", "catch-error"
                )
            owner.setdefault(name, spec.name)
    kinds = {spec.state_type: spec for spec in plan.steps if spec.state_type is not None}
    if len(kinds) > 1:
        listed = ", ".join(f"{kind.__name__} in {spec.name}" for kind, spec in kinds.items())
        yield _fault(
            plan, None, f"has several types of state: {listed}", "annotate Context with one of them everywhere", "state"
        )
