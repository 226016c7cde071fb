"""What can be said of a workflow before it runs, as a graph: steps, the events between them, and who is outside.

Firm arrows are what the plan knows. What a step sends with ``ctx.send_event`` is decided while it runs, so no arrow is
made up for it: an event that some step takes and nothing returns is marked as coming from there, one that is returned
and no step takes as going to whoever waits for it. What it waits for with ``ctx.wait_for_event`` is guessed from its
code (mentions.py), and drawn dashed.
"""

from collections.abc import Iterator
from typing import Any, Literal

import attrs

from flowkit.drawing.mentions import awaited
from flowkit.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from flowkit.plan import Plan
from flowkit.resource import Factory, type_name
from flowkit.steps import StepSpec
from flowkit.workflow import Workflow, drawn_of, plan_of

__all__ = ["Edge", "Graph", "Kind", "Node", "fields_of", "graph_of"]

Kind = Literal["step", "catcher", "start", "stop", "event", "asks", "answers", "loose", "person"]
Waits = tuple[list[type[Event]], list[type[Event]]]
DEEPEST = 4
"""Nested workflows that are drawn in one another; what is nested deeper is named only."""


@attrs.frozen
class Node:
    """A box: its name, what it is, lines below the name, what is shown on hovering, the workflows drawn inside."""

    id: str
    kind: Kind
    name: str
    lines: tuple[str, ...] = ()
    detail: str = ""
    inner: "tuple[Graph, ...]" = ()


@attrs.frozen
class Edge:
    """An arrow between two boxes, by their ids. ``many``: a list of events; ``fails``: to a ``@catch_error`` step;
    ``may``: the annotation leaves it open, or only the code tells."""

    source: str
    target: str
    label: str = ""
    style: Literal["one", "many", "fails", "may"] = "one"


@attrs.frozen
class Graph:
    """A workflow's boxes and arrows, in an order that depends on its wiring only."""

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    where: str | None = None
    child: str = ""
    """The parameter that the step has it by, where it is nested."""


def graph_of(workflow: Workflow | type[Workflow]) -> Graph:
    """The graph of a workflow; of a class or, with what was added to it, of an instance."""
    return _graph(workflow, "", ())


def _graph(workflow: Workflow | type[Workflow], child: str, above: tuple[str, ...]) -> Graph:
    if isinstance(workflow, Workflow):
        plan, children = plan_of(workflow), drawn_of(workflow)[1]
    else:
        plan, children = plan_of(workflow.__new__(workflow)), {}
    owner = type(workflow) if isinstance(workflow, Workflow) else workflow
    waits = {spec.name: awaited(plan, spec, owner) for spec in plan.steps}
    nodes = [_step(plan, spec, children, waits[spec.name], (*above, plan.name)) for spec in plan.steps]
    events, edges = _events(plan, waits)
    asked = {event.id for event in events if event.kind == "asks"}
    answered = {event.id for event in events if event.kind == "answers"}
    if asked or answered:
        nodes.append(Node("person", "person", "somebody outside", (), "Reads the run's stream and answers."))
        edges += [Edge(one, "person") for one in sorted(asked)]
        edges += [Edge("person", one) for one in sorted(answered)]
    return Graph(plan.name, (*nodes, *events), tuple(edges), plan.where, child)


# ------------------------------------------------------------------------------------------------------------- steps


def _step(plan: Plan, spec: StepSpec, children: dict[str, Workflow], waits: Waits, above: tuple[str, ...]) -> Node:
    options = spec.options
    lines: list[str] = []
    if options.retry_policy is not None:
        lines.append("↻ retries")
    if options.timeout is not None:
        lines.append(f"◷ at most {options.timeout:g} s")
    if options.atomic:
        lines.append("atomic")
    lines += [f"◆ {name}: {type_name(kind)}" for name, (kind, _) in spec.resources.items()]
    inner: list[Graph] = []
    for name, kind in spec.children.items():
        fitting = [one for one in children.values() if isinstance(one, kind)]
        child = children.get(name) or (fitting[0] if len(fitting) == 1 else kind)
        if kind.__name__ in above or len(above) >= DEEPEST or kind is Workflow:
            lines.append(f"▣ {name}: {kind.__name__}")
        else:
            inner.append(_graph(child, name, above))
    if any(waits):
        lines.append("◌ waits")
    detail = "\n".join(_said(plan, spec, waits))
    return Node(
        f"step {spec.name}", "catcher" if options.catches else "step", spec.name, tuple(lines), detail, tuple(inner)
    )


def _said(plan: Plan, spec: StepSpec, waits: Waits) -> Iterator[str]:
    options = spec.options
    takes = " | ".join(kind.__name__ for kind in spec.accepts)
    yield f"{'@catch_error' if options.catches else '@step'} {spec.name}"
    yield f"takes {_gathered(spec, takes)}" if spec.takes_list else f"takes {takes}"
    yield f"returns {spec.returns_text}"
    yield f"num_workers = {spec.num_workers}"
    if options.retry_policy is not None:
        yield f"retry_policy = {_brief(options.retry_policy)}"
    if options.timeout is not None:
        yield f"timeout = {options.timeout:g} s"
    if options.atomic:
        yield "atomic"
    if options.catches and options.for_steps is not None:
        yield f"for_steps = {', '.join(options.for_steps)}"
    elif (catcher := plan.catcher_of(spec.name)) is not None:
        yield f"its failure goes to {catcher}"
    if spec.state_type is not None:
        yield f"state: {type_name(spec.state_type)}"
    if spec.context_parameter is not None:
        yield "has the context: what it sends by itself can't be known before a run"
    for what, kinds in zip(("asks", "waits for"), waits, strict=True):
        if kinds:
            yield f"{what} {', '.join(kind.__name__ for kind in kinds)}, by its code"
    for name, (kind, factory) in spec.resources.items():
        yield f"resource {name}: {type_name(kind)}, from {_made_by(factory)}"
    for name, kind in spec.children.items():
        yield f"workflow {name}: {kind.__name__}"
    if not spec.is_async:
        yield "runs in a thread"
    yield spec.where


def _gathered(spec: StepSpec, takes: str) -> str:
    return f"a list of {takes}: " + ("all of a fan-out" if spec.take is None else f"the first {spec.take} of a fan-out")


def _made_by(factory: Factory) -> str:
    needs = [need.resource.name for need in factory.parameters.values() if isinstance(need, Factory)]
    return f"{factory.resource.name} (scope {factory.scope}{', needs ' + ', '.join(needs) if needs else ''})"


def _brief(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - whatever a user's __repr__ does
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 300 else text[:299] + "…"


# ------------------------------------------------------------------------------------------------------------ events


def _events(plan: Plan, waits: dict[str, Waits]) -> tuple[list[Node], list[Edge]]:
    makers: dict[type[Event], list[tuple[StepSpec, bool]]] = {}
    for spec in plan.steps:
        for listed, kinds in ((False, spec.returns), (True, spec.returns_lists)):
            for kind in sorted(kinds, key=_order):
                makers.setdefault(kind, []).append((spec, listed))
    by_code = [kind for several in waits.values() for kinds in several for kind in kinds]
    all_kinds = list(dict.fromkeys([*plan.accepting, *makers, *by_code]))
    names = {kind: f"event {number} {kind.__name__}" for number, kind in enumerate(all_kinds)}
    edges: list[Edge] = []
    for kind in all_kinds:
        for spec, listed in makers.get(kind, ()):
            edges.append(Edge(f"step {spec.name}", names[kind], "list" if listed else "", "many" if listed else "one"))
    for kind in all_kinds:
        if issubclass(kind, StopEvent):
            continue
        for spec in plan.takers(kind):
            label = "" if not spec.takes_list else "all" if spec.take is None else f"first {spec.take}"
            edges.append(Edge(names[kind], f"step {spec.name}", label, "many" if spec.takes_list else "one"))
        if kind in makers:  # a base class that is returned stands for what some step takes
            edges += [
                Edge(names[kind], names[taken], "may be", "may")
                for taken in plan.accepting
                if taken is not kind and issubclass(taken, kind) and not issubclass(taken, StartEvent)
            ]
    for name, (asked, expected) in waits.items():
        edges += [Edge(f"step {name}", names[kind], "asks", "may") for kind in asked]
        edges += [Edge(names[kind], f"step {name}", "waits", "may") for kind in expected]
    awaited_kinds = {kind for _, expected in waits.values() for kind in expected}
    for spec in plan.steps:
        catcher = plan.catcher_of(spec.name)
        if catcher is not None and catcher != spec.name:
            edges.append(Edge(f"step {spec.name}", f"step {catcher}", "fails", "fails"))
    reached = {edge.target for edge in edges}
    nodes = [
        _event(names[kind], kind, made=names[kind] in reached, taken=bool(plan.takers(kind)) or kind in awaited_kinds)
        for kind in all_kinds
    ]
    return nodes, edges


def _event(id: str, kind: type[Event], *, made: bool, taken: bool) -> Node:
    lines: tuple[str, ...] = ()
    what: Kind = "event"
    if issubclass(kind, StartEvent):
        what = "start"
    elif issubclass(kind, StopEvent):
        what = "stop"
    elif issubclass(kind, InputRequiredEvent):
        what = "asks"
    elif issubclass(kind, HumanResponseEvent):
        what = "answers"
    elif not made:
        what, lines = "loose", ("by send_event",)
    elif not taken:
        what, lines = "loose", ("for who waits",)
    said = [f"class {kind.__name__}({', '.join(base.__name__ for base in kind.__bases__)})", *fields_of(kind)]
    if what == "loose":
        said.append(
            "no step takes it: a wait may" if made else "no step returns it: it is sent by a step, or from outside"
        )
    return Node(id, what, kind.__name__, lines, "\n".join(said))


def fields_of(kind: type[Event]) -> list[str]:
    """An event's fields with their types, a line each."""
    own: tuple[attrs.Attribute[Any], ...] = getattr(kind, "__attrs_attrs__", ())
    lines = [f"    {field.name}: {type_name(field.type)}" for field in own]
    if kind.__dict__.get("__flowkit_open__"):
        lines.append("    … and any other")
    return lines or ["    (no fields)"]


def _order(kind: type[Event]) -> tuple[str, str]:
    return kind.__name__, kind.__module__
