"""Drawings: all that a workflow can do, and what one run of it did.

    draw_all_possible_flows(JokeFlow, "joke.html")         the wiring; also .svg, .mmd (Mermaid)
    draw_most_recent_execution(workflow, "recent.html")    the run that this instance began last, in time
    to_html(x), to_svg(x), to_mermaid(x)                   the same as text; x is a workflow (class or instance: its
                                                           wiring), a handler, an `Execution`, or `await
                                                           runtime.history(run_id)` (the run)

An HTML file has everything in it and loads nothing; it can be panned, zoomed and hovered over. How it is made:
graph.py (what is known before a run) and execution.py (what is known after it), layers.py and lanes.py (where each
goes), picture.py, timeline.py and mermaid.py (still pictures), page.py and scripts.py (HTML).
"""

from collections.abc import Sequence
from pathlib import Path

from flowkit.drawing.execution import Execution
from flowkit.drawing.graph import Graph, graph_of
from flowkit.drawing.mermaid import execution_mermaid, graph_mermaid
from flowkit.drawing.page import execution_page, graph_page
from flowkit.drawing.picture import graph_svg
from flowkit.drawing.timeline import timeline_svg
from flowkit.errors import WrongCall, shown
from flowkit.handler import Handler
from flowkit.history import HistoryEntry
from flowkit.workflow import Workflow

__all__ = [
    "Drawable",
    "Execution",
    "draw_all_possible_flows",
    "draw_most_recent_execution",
    "to_fragment",
    "to_html",
    "to_mermaid",
    "to_svg",
]

Drawable = Workflow | type[Workflow] | Handler | Execution | Sequence[HistoryEntry]
"""What can be drawn: a workflow's wiring, or a run."""


def draw_all_possible_flows(
    workflow: Workflow | type[Workflow], filename: str | Path = "workflow_all_flows.html"
) -> None:
    """Draw every path that events can take through a workflow, as its annotations tell.

    Args:
        workflow: a class, or an instance with what was added to it (steps, nested workflows).
        filename: where to; its suffix says what: ``.html``, ``.svg`` or ``.mmd`` (Mermaid).

    Raises:
        WrongCall: it is no workflow, or there is no such kind of file.
        WorkflowValidationError: a step's signature makes no sense. (Faults of the wiring are drawn.)
        OSError: the file can't be written.
    """
    call = "draw_all_possible_flows()"
    if not _is_workflow(workflow):
        raise WrongCall(call, f"got {shown(workflow)}", "give a Workflow class or instance")
    _write(call, filename, graph_of(workflow))


def draw_most_recent_execution(workflow: Workflow, filename: str | Path = "workflow_recent_execution.html") -> None:
    """Draw the run that a workflow instance began last, as it went: time runs to the right.

    Every instance remembers its most recent run, and of that the last 1,000 facts and starts of steps (a run of about
    500 events); where older ones are gone the drawing says so. Runs nested in its steps are drawn with it, and share
    that bound. A run with a store can be drawn whole: ``to_html(await runtime.history(run_id))``.

    Args:
        workflow: the instance that ran.
        filename: as for `draw_all_possible_flows`.

    Raises:
        WrongCall: it has not run, or there is no such kind of file.
        OSError: the file can't be written.
    """
    call = "draw_most_recent_execution()"
    if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WrongCall(call, f"got {shown(workflow)}", "give the instance that ran: w = MyWorkflow(); await w.run()")
    _write(call, filename, Execution.of(workflow))


def to_mermaid(x: Drawable) -> str:
    """A flowchart of a workflow, a Gantt chart of a run (its first 500 attempts), in Mermaid's language.

    Raises:
        WrongCall: it can't be drawn.
    """
    found = _read("to_mermaid()", x)
    return graph_mermaid(found) if isinstance(found, Graph) else execution_mermaid(found)


def to_svg(x: Drawable) -> str:
    """A still picture. Of a long run what lies closer than a pixel is drawn as one, and too many arrows are left out.

    Raises:
        WrongCall: it can't be drawn.
    """
    found = _read("to_svg()", x)
    return graph_svg(found) if isinstance(found, Graph) else timeline_svg(found)


def to_html(x: Drawable) -> str:
    """A page of its own, to pan, zoom and hover over: some 15 KB, and of a run about 200 bytes for each attempt.

    Raises:
        WrongCall: it can't be drawn.
    """
    found = _read("to_html()", x)
    return graph_page(found) if isinstance(found, Graph) else execution_page(found)


def to_fragment(x: Drawable) -> str:
    """What a notebook shows: the still picture in a box that scrolls, without a script.

    Raises:
        WrongCall: it can't be drawn.
    """
    return f'<div style="overflow:auto;max-height:640px">{to_svg(x)}</div>'


def _is_workflow(x: object) -> bool:
    return isinstance(x, Workflow) or (isinstance(x, type) and issubclass(x, Workflow))


def _read(call: str, x: Drawable) -> Graph | Execution:
    if isinstance(x, Workflow) or (isinstance(x, type) and issubclass(x, Workflow)):  # pyright: ignore[reportUnnecessaryIsInstance]
        return graph_of(x)
    if isinstance(x, str | bytes) or not isinstance(x, Handler | Execution | Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        cure = "give a workflow, a handler, an Execution, or `await runtime.history(run_id)`"
        raise WrongCall(call, f"got {shown(x)}", cure)
    return Execution.of(x)


def _write(call: str, filename: str | Path, found: Graph | Execution) -> None:
    suffix = Path(filename).suffix.lower()
    if suffix in (".html", ".htm"):
        drawn = graph_page(found) if isinstance(found, Graph) else execution_page(found)
    elif suffix == ".svg":
        drawn = graph_svg(found) if isinstance(found, Graph) else timeline_svg(found)
    elif suffix in (".mmd", ".mermaid"):
        drawn = graph_mermaid(found) if isinstance(found, Graph) else execution_mermaid(found)
    else:
        raise WrongCall(call, f"got filename={shown(str(filename))}", "give it the suffix .html, .svg or .mmd")
    _ = Path(filename).write_text(drawn, encoding="utf-8")
