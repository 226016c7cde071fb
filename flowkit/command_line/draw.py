"""``flowkit draw``: a workflow, or a stored run, as a file or as Mermaid on standard output."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowkit.command_line.exits import DONE, INTERNAL, INTERRUPTED, STORE_UNUSABLE, WRONG_USE, Refused
from flowkit.command_line.flow_verb import FlowVerb
from flowkit.command_line.options import flow_argument, store_option, traceback_option
from flowkit.command_line.output import prints_aside, say, tell

if TYPE_CHECKING:
    from flowkit.drawing import Drawable, Execution
    from flowkit.store import RunInfo, Store
    from flowkit.workflow import Workflow

__all__ = ["draw", "execution"]

SUFFIXES = {".html": "html", ".htm": "html", ".svg": "svg", ".mmd": "mermaid", ".mermaid": "mermaid"}


@click.command(
    cls=FlowVerb,
    codes={
        DONE: "it is drawn",
        WRONG_USE: "wrong use, or a file that can't be written",
        STORE_UNUSABLE: None,
        INTERNAL: None,
        INTERRUPTED: None,
    },
    short_help="Draw a workflow, or a stored run.",
)
@flow_argument
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    help="Where to: .html (to pan, zoom and hover over), .svg or .mmd (Mermaid). By default Mermaid on standard "
    "output.",
)
@click.option("--run", "run_id", metavar="ID", help="Draw this stored run, as it went, and not the wiring.")
@store_option
@traceback_option
def draw(flow: str, output: str | None, run_id: str | None, store: str | None) -> int:
    """Draw every path that events can take through a workflow, or (--run) what a stored run of it did."""
    from flowkit.command_line.loading import load

    kind = _kind(output)
    with prints_aside():
        workflow = load(flow)
    drawn = _drawn(workflow if run_id is None else execution(workflow, store, run_id), kind)
    if output is None or output == "-":
        tell(drawn.rstrip("\n"))
        return DONE
    try:
        Path(output).write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise Refused(f"{output} can't be written: {error.strerror or error}") from error
    say(f"{output} is written")
    return DONE


def _kind(output: str | None) -> str:
    if output is None or output == "-":
        return "mermaid"
    suffix = Path(output).suffix.lower()
    if suffix not in SUFFIXES:
        what = f"has the suffix {suffix}" if suffix else "has no suffix"
        stem = output.removesuffix(Path(output).suffix)
        raise Refused(f"{output} {what}, which is no kind of drawing: write {stem}.html, {stem}.svg or {stem}.mmd")
    if not Path(output).parent.is_dir():
        raise Refused(f"{output} can't be written: there is no folder {Path(output).parent}")
    return SUFFIXES[suffix]


def _drawn(what: "Drawable", kind: str) -> str:
    from flowkit.drawing import to_html, to_mermaid, to_svg

    return {"html": to_html, "svg": to_svg, "mermaid": to_mermaid}[kind](what)


def execution(workflow: "Workflow", store: str | None, run_id: str) -> "Execution":
    """A stored run, with those nested in it; nothing of it is run or claimed.

    Raises:
        Refused: no store was named, it isn't there, or the run is one of another workflow.
        UnknownRun, RunDamaged, CodeChanged, StoreError: as `Runtime.history`.
    """
    from flowkit.command_line.stored import Opened
    from flowkit.command_line.stored_books import child_of
    from flowkit.workflow import plan_of

    with Opened(store) as opened:
        info = opened.info(run_id)
        name = plan_of(workflow).name
        found = workflow if info.workflow == name else child_of(workflow, info.workflow)
        if found is None:
            raise Refused(f"run {run_id!r} is one of {info.workflow}, not of {name}")
        return _with_nested(found, opened.store, info)


def _with_nested(workflow: "Workflow", store: "Store", info: "RunInfo") -> "Execution":
    import attrs

    from flowkit.command_line.stored_books import child_of, read_history
    from flowkit.drawing import Execution

    nested: list[tuple[int, Execution]] = []
    for inner in store.find(parent=info.run_id):
        # Its id says which invocation has started it, unless the step gave it one of its own.
        invocation = inner.run_id.removeprefix(f"{info.run_id}/").partition(".")[0]
        child = child_of(workflow, inner.workflow)
        if child is not None and invocation.isdecimal() and inner.length:
            nested.append((int(invocation), _with_nested(child, store, inner)))
    return attrs.evolve(Execution.of(read_history(workflow, info, store)), nested=tuple(nested))
