"""Mermaid: a workflow as a flowchart, an execution as a Gantt chart, for Markdown pages that render it."""

from flowkit.drawing.execution import Execution
from flowkit.drawing.graph import Graph
from flowkit.drawing.picture import shortened

__all__ = ["MOST", "execution_mermaid", "graph_mermaid"]

MOST = 500
"""Attempts in a Gantt chart: Mermaid refuses texts over 50,000 characters."""
_SHAPES = {
    "step": ("[", "]"),
    "catcher": ("[", "]"),
    "start": ("([", "])"),
    "stop": ("([", "])"),
    "asks": ("[/", "/]"),
    "answers": ("[\\", "\\]"),
    "person": ("((", "))"),
}
_STYLES = (
    "classDef step fill:#dbeafe,stroke:#3b82f6,color:#111",
    "classDef catcher fill:#dbeafe,stroke:#dc2626,stroke-dasharray:5,color:#111",
    "classDef event fill:#fef9c3,stroke:#ca8a04,color:#111",
    "classDef loose fill:#fef9c3,stroke:#ca8a04,stroke-dasharray:4,color:#111",
    "classDef start fill:#dcfce7,stroke:#16a34a,color:#111",
    "classDef stop fill:#fee2e2,stroke:#dc2626,color:#111",
    "classDef human fill:#f3e8ff,stroke:#9333ea,color:#111",
)
_CLASSES = {"asks": "human", "answers": "human", "person": "human"}
_SAFE = frozenset(" _-.:/+\N{MULTIPLICATION SIGN}↻◷◆▣,…()")


def graph_mermaid(graph: Graph) -> str:
    """A flowchart."""
    lines = ["flowchart TD"]
    _flow(graph, "", lines, "    ")
    return "\n".join([*lines, *(f"    {style}" for style in _STYLES)]) + "\n"


def _flow(graph: Graph, prefix: str, lines: list[str], indent: str) -> None:
    ids = {node.id: f"{prefix}n{number}" for number, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        opening, closing = _SHAPES.get(node.kind, ("(", ")"))
        label = "<br/>".join(_text(shortened(line)) for line in (node.name, *node.lines))
        lines.append(f'{indent}{ids[node.id]}{opening}"{label}"{closing}:::{_CLASSES.get(node.kind, node.kind)}')
        for number, inner in enumerate(node.inner):
            below = f"{ids[node.id]}_{number}"
            name = f"{inner.child}: {inner.name}" if inner.child else inner.name
            lines.append(f'{indent}subgraph {below}["{_text(shortened(name))}"]')
            _flow(inner, f"{below}_", lines, indent + "    ")
            lines.append(f"{indent}end")
            lines.append(f"{indent}{ids[node.id]} -.-> {below}")
    arrows = {"one": "-->", "many": "==>", "may": "-.->", "fails": "-.->"}
    for edge in graph.edges:
        label = f'|"{_text(edge.label)}"|' if edge.label else ""
        lines.append(f"{indent}{ids[edge.source]} {arrows[edge.style]}{label} {ids[edge.target]}")


def execution_mermaid(execution: Execution) -> str:
    """A Gantt chart: a section for each step, times in milliseconds since the run began."""
    title = f"{_plain(execution.workflow)} run {_plain(execution.run_id)} - {_plain(shortened(execution.outcome))}"
    lines = [
        "gantt",
        f"    title {title}",
        "    dateFormat x",
        "    axisFormat %M:%S.%L",
    ]
    attempts = execution.attempts[:MOST]
    if len(attempts) < len(execution.attempts):
        lines.append(f"    %% the first {MOST} of {len(execution.attempts)} attempts")
    if execution.dropped:
        lines.append("    %% what happened first is not remembered")
    for step in dict.fromkeys(attempt.step for attempt in attempts):
        lines.append(f"    section {_plain(step)}")
        for number, attempt in enumerate(attempts):
            if attempt.step == step:
                begun = round(1000 * (attempt.began - execution.began))
                ended = execution.ended if attempt.ended is None else attempt.ended
                end = max(begun + 1, round(1000 * (ended - execution.began)))
                state = {"failed": "crit, ", "retried": "crit, ", "running": "active, "}.get(attempt.outcome, "done, ")
                again = f" attempt {attempt.number}" if attempt.number > 1 else ""
                lines.append(f"    {_plain(attempt.event)}{again} :{state}a{number}, {begun}, {end}")
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """In quotes Mermaid reads HTML: what isn't plain is given by number."""
    return "".join(one if one.isalnum() or one in _SAFE else f"#{ord(one)};" for one in value)


def _plain(value: str) -> str:
    """Where there are no quotes, nothing that means something to Mermaid may stand."""
    return (
        "".join(one if one.isalnum() or one in " _-.\N{MULTIPLICATION SIGN}" else " " for one in value).strip() or "-"
    )
