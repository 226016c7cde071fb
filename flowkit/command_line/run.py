"""``flowkit run``: run a workflow."""

import contextlib
from typing import Any

import click

from flowkit.command_line.exits import DONE, FAILED, INTERNAL, INTERRUPTED, STORE_UNUSABLE, WAITING, WRONG_USE
from flowkit.command_line.flow_verb import FlowVerb
from flowkit.command_line.options import (
    backend_option,
    flow_argument,
    json_option,
    open_store,
    seconds,
    store_option,
    store_path,
    traceback_option,
    values_argument,
)

__all__ = ["run"]

CODES = {
    DONE: "the run has a result; it is on standard output",
    FAILED: "the run failed, or was cancelled",
    WRONG_USE: None,
    STORE_UNUSABLE: None,
    WAITING: "it waits for an answer, and nobody gives one; with a store nothing is lost",
    INTERNAL: None,
    INTERRUPTED: "stopped by Ctrl-C: with a store the run is suspended, else cancelled",
}


@click.command(
    cls=FlowVerb,
    codes=CODES,
    short_help="Run a workflow: its progress, its questions, its result.",
    epilog="`flowkit run MODULE:FLOW --help` shows the fields of that workflow, too.",
)
@flow_argument
@values_argument
@backend_option
@store_option
@click.option("--run-id", metavar="ID", help="The run's id. Of a run in the store: go on with it.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    callback=seconds,
    help="How long the run may take (90, 1h30m); by default the workflow's own limit.",
)
@click.option("--stepwise", is_flag=True, help="After each step, ask which of its events go on.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@json_option
@traceback_option
def run(
    flow: str,
    values: tuple[str, ...],
    backend: str,
    store: str | None,
    run_id: str | None,
    timeout: float | None,
    stepwise: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run a workflow.

    MODULE:FLOW names a Workflow class, an instance, or a function that returns one: joke:JokeFlow, shop.orders:Order,
    path/to/flow.py:Flow; without :Flow where there is only one.

    KEY=VALUE are the fields of its start event, read by their types: topic=pirates limit=5 ok=yes due=2026-01-31.
    key=@file reads a file, key:=JSON takes JSON.

    Questions of the run are asked in the terminal; answers can be piped, too, one on each line: a value, or a JSON
    object of the answer's fields.
    """
    from flowkit import outside
    from flowkit.command_line.driving import Place, drive, told
    from flowkit.command_line.loading import load
    from flowkit.command_line.output import prints_aside, say
    from flowkit.command_line.values import event_of
    from flowkit.workflow import check_wiring, plan_of

    with prints_aside(as_json):
        workflow = load(flow)
    check_wiring(workflow)
    if run_id is not None and not run_id:
        raise click.BadParameter("it is empty: give a name, or leave it out", param_hint="--run-id")
    path = store_path(store)
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        known = False
        if path is not None:
            kept = open_store(store, new=True)
            stack.callback(kept.close)
            known = run_id is not None and kept.info(run_id) is not None
            run_id = run_id or outside.current().new_id()
            options["store"] = kept
        start = None if known and not values else event_of(plan_of(workflow).start_type, values, workflow=workflow)
        if path is not None and not quiet:
            say(f"run {run_id}, in {path}" + (": going on" if known else ""))
        stack.enter_context(prints_aside(as_json))
        ending = drive(
            workflow,
            lambda: workflow.run(start_event=start, run_id=run_id, stepwise=stepwise, **options),
            backend=backend,
            stepwise=stepwise,
            quiet=quiet,
        )
    show_traceback = bool(click.get_current_context().meta.get("flowkit.traceback"))
    return told(ending, Place(flow, path), as_json=as_json, show_traceback=show_traceback)
