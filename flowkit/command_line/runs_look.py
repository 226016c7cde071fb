"""``flowkit runs show``, ``history`` and ``watch``: what only reads. Nothing of a run is run or claimed."""

import time
from typing import TYPE_CHECKING, Any, Literal

import click

from flowkit.command_line.exits import (
    DONE,
    FAILED,
    INTERNAL,
    INTERRUPTED,
    STORE_UNUSABLE,
    WAITING,
    WRONG_USE,
)
from flowkit.command_line.group import Verb
from flowkit.command_line.options import flows_option, json_option, store_option
from flowkit.command_line.output import plain, say, tell, tell_json, tell_json_line
from flowkit.command_line.stored import run_argument

if TYPE_CHECKING:
    from flowkit.command_line.stored import Opened
    from flowkit.command_line.stored_books import Waits
    from flowkit.machine import Machine
    from flowkit.store import RunInfo
    from flowkit.workflow import Workflow

__all__ = ["history", "show", "watch"]

LOOK = 0.1
"""Seconds between two looks at a run that is watched."""

_LOOKS: dict[int, str | None] = {WRONG_USE: None, STORE_UNUSABLE: None, INTERNAL: None, INTERRUPTED: None}


@click.command(
    cls=Verb,
    codes={DONE: "it is shown, however it has ended", **_LOOKS},
    short_help="Show one run: what it waits for, its state, its result.",
)
@run_argument
@store_option
@flows_option
@json_option
def show(run_id: str, store: str | None, flows: tuple[str, ...], as_json: bool) -> int:
    """Show one run: how it began, where it is, what it waits for and who asks, the runs nested in it, its state, its
    result or error.

    Without its code (--flow) only what the store's index has is shown.
    """
    from flowkit.command_line.stored import Opened
    from flowkit.command_line.stored_books import workflow_for

    with Opened(store) as opened:
        info = opened.info(run_id)
        found = workflow_for(info, flows, needed=False)
        data = _index(opened, info)
        if found is not None:
            data |= _inside(opened, info, found[1])
    if as_json:
        tell_json(data)
        return DONE
    for line in _in_words(data):
        tell(line)
    if found is None:
        say(f"(its state, and what it waits for, need its code: add --flow module:{info.workflow})")
    return DONE


def _index(opened: "Opened", info: "RunInfo") -> dict[str, Any]:
    """What the store's index knows of a run."""
    from flowkit.command_line.stored import is_free, owner_text

    alive = info.owner is not None and not is_free(opened.store, info)
    nested = opened.store.find(parent=info.run_id)
    return {
        "run_id": info.run_id,
        "workflow": info.workflow,
        "status": info.status,
        "created": info.created,
        "updated": info.updated,
        "due": info.due,
        "nested_in": info.parent,
        "driven_by": None if info.owner is None else owner_text(info.owner, alive=alive),
        "records": info.length,
        "mail": len(opened.store.mail(info.run_id)),
        "nested": [{"run_id": one.run_id, "workflow": one.workflow, "status": one.status} for one in nested],
    }


def _inside(opened: "Opened", info: "RunInfo", workflow: Any) -> dict[str, Any]:
    """What its records tell."""
    from flowkit.command_line.exits import line_of
    from flowkit.command_line.fact_lines import event_data, value_data
    from flowkit.command_line.stored_books import read_machine
    from flowkit.errors import WorkflowCancelled
    from flowkit.workflow import records_of

    machine = read_machine(records_of(workflow), info, opened.store)
    data: dict[str, Any] = {
        "started_with": None if machine.start_event is None else event_data(machine.start_event),
        "steps": _steps(machine),
        "held_back": [event_data(one.event) for one in machine.held.values() if one.event is not machine.start_event],
        "waits_for": _waits(opened, info, workflow),
        "state": plain(machine.state.root),
    }
    outcome = machine.outcome
    if outcome is not None and outcome.event is not None:
        data["result"] = value_data(outcome.result)
    elif outcome is not None and outcome.error is not None and not isinstance(outcome.error, WorkflowCancelled):
        data["error"] = line_of(outcome.error, info.workflow)
    return data


def _steps(machine: "Machine") -> list[dict[str, Any]]:
    """The steps that have something in hand."""
    from flowkit.command_line.fact_lines import value_data

    found: list[dict[str, Any]] = []
    for one in machine.invocations.values():
        attempt = {"attempt": one.attempt + 1} if one.attempt else {}
        status = "running" if one.status == "resuming" else one.status
        found.append({"step": one.lane.spec.name, "status": status, **attempt, "event": value_data(one.event)})
    return found


def _waits(opened: "Opened", info: "RunInfo", workflow: "Workflow") -> list[dict[str, Any]]:
    """What it waits for, and those nested in it: an answer that is sent to it finds them."""
    from flowkit.command_line.stored_books import child_of, open_waits, read_history, read_machine
    from flowkit.store import ENDED
    from flowkit.workflow import records_of

    machine = read_machine(records_of(workflow), info, opened.store)
    entries = read_history(workflow, info, opened.store)
    found = [_wait_data(one, info.run_id) for one in open_waits(machine, entries)]
    for inner in opened.store.find(parent=info.run_id):
        child = child_of(workflow, inner.workflow)
        if child is not None and inner.length and inner.status not in (*ENDED, "damaged"):
            found += _waits(opened, inner, child)
    return found


def _wait_data(wait: "Waits", run_id: str) -> dict[str, Any]:
    from flowkit.command_line.fact_lines import event_data
    from flowkit.command_line.values import fields_text

    return {
        "run_id": run_id,
        "step": wait.step,
        "takes": [{"type": kind.__name__, "fields": fields_text(kind)} for kind in wait.kinds],
        "requires": plain(wait.requires),
        "question": None if wait.question is None else event_data(wait.question),
        "until": wait.until,
    }


def _in_words(data: dict[str, Any]) -> list[str]:
    from flowkit import outside
    from flowkit.command_line.stored import ago, span, when
    from flowkit.errors import shown

    now = outside.current().time()
    rows: list[tuple[str, str]] = [("workflow", data["workflow"] or "-"), ("status", data["status"])]
    rows.append(("started", f"{when(data['created'])} ({ago(data['created'], now)} ago)"))
    rows.append(("updated", f"{when(data['updated'])} ({ago(data['updated'], now)} ago)"))
    if data["due"] is not None:
        rows.append(("due", f"{when(data['due'])} ({'in ' + span(data['due'] - now) if data['due'] > now else 'now'})"))
    if data["nested_in"] is not None:
        rows.append(("nested in", data["nested_in"]))
    rows.append(("driven by", data["driven_by"] or "nobody"))
    if data["mail"]:
        rows.append(("mail", f"{data['mail']} posted, and not taken yet"))
    if data.get("started_with") is not None:
        rows.append(("began with", _event_text(data["started_with"])))
    for one in data.get("steps", ()):
        attempt = f", attempt {one['attempt']}" if "attempt" in one else ""
        rows.append(("step", f"{one['step']}: {one['status']}{attempt}, {_any_text(one['event'])}"))
    rows += [("held back", _event_text(one)) for one in data.get("held_back", ())]
    for one in data.get("waits_for", ()):
        rows.append(("waits for", _wait_text(one, data["run_id"], now)))
    rows += [("nested", f"{one['run_id']} ({one['workflow']}, {one['status']})") for one in data["nested"]]
    if data.get("state"):
        state = data["state"]
        parts = state.items() if isinstance(state, dict) else [("", state)]  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        rows += [("state", f"{name} = {shown(value, 500)}" if name else shown(value, 500)) for name, value in parts]  # pyright: ignore[reportUnknownVariableType]
    if "result" in data:
        rows.append(("result", _any_text(data["result"])))
    if "error" in data:
        rows.append(("error", data["error"]))
    rows.append(("records", str(data["records"])))
    width = max(len(name) for name, _ in rows)
    lines = [f"run {data['run_id']}"]
    last = ""
    for name, text in rows:
        lines.append(f"  {'' if name == last else name:<{width}}  {text}")
        last = name
    return lines


def _wait_text(one: dict[str, Any], run_id: str, now: float) -> str:
    from flowkit.command_line.stored import span
    from flowkit.errors import shown

    takes = " or ".join(f"{kind['type']} ({kind['fields']})" for kind in one["takes"])
    needs = "".join(f", {name}={shown(value)}" for name, value in one["requires"].items())
    who = f", in {one['step']}" if one["step"] else ""
    if one["run_id"] != run_id:
        who += f" of {one['run_id']}"
    asks = "" if one["question"] is None else f", asked {_event_text(one['question'])}"
    until = "" if one["until"] is None else f", for {span(one['until'] - now)} more"
    return f"{takes}{needs}{who}{asks}{until}"


def _event_text(event: dict[str, Any]) -> str:
    from flowkit.errors import shown

    return f"{event['type']}({', '.join(f'{name}={shown(value, 200)}' for name, value in event['fields'].items())})"


def _any_text(value: Any) -> str:
    from flowkit.errors import shown

    if isinstance(value, dict) and set(value) == {"type", "fields"}:  # pyright: ignore[reportUnknownArgumentType]
        return _event_text(value)  # pyright: ignore[reportUnknownArgumentType]
    return value if isinstance(value, str) else shown(value, 2000)


# ------------------------------------------------------------------------------------------------------------- history


@click.command(
    cls=Verb,
    codes={DONE: "it is printed", **_LOOKS},
    short_help="Print all that has happened to a run.",
)
@run_argument
@store_option
@flows_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines: one object for each fact.")
def history(run_id: str, store: str | None, flows: tuple[str, ...], as_json: bool) -> int:
    """Print all that has happened to a run, in order, a line for each: its number in the journal (which `fork --after`
    takes), the time since the run began, the step, and what it was.
    """
    from flowkit.command_line.stored import Opened
    from flowkit.command_line.stored_books import read_history, workflow_for

    with Opened(store) as opened:
        info = opened.info(run_id)
        found = workflow_for(info, flows)
        assert found is not None
        entries = read_history(found[1], info, opened.store)
    _print(entries, info.created, as_json)
    if not entries:
        say(f"nothing has happened to run {run_id} yet")
    return DONE


def _print(entries: Any, began: float, as_json: bool) -> None:
    from flowkit.command_line.fact_lines import fact_data, fact_line

    for entry in entries:
        if as_json:
            tell_json_line(fact_data(entry, began))
        else:
            tell(fact_line(entry, began))


# --------------------------------------------------------------------------------------------------------------- watch


@click.command(
    cls=Verb,
    codes={
        DONE: "the run has finished",
        FAILED: "the run has failed, or was cancelled",
        WRONG_USE: None,
        STORE_UNUSABLE: None,
        WAITING: "--until rest: the run waits",
        INTERNAL: None,
        INTERRUPTED: "stopped by Ctrl-C; the run goes on",
    },
    short_help="Follow a run, whoever drives it.",
)
@run_argument
@store_option
@flows_option
@click.option(
    "--lines", "-n", metavar="N", type=click.IntRange(min=0), help="Begin with the last N lines, not with all."
)
@click.option(
    "--until",
    type=click.Choice(["end", "rest"]),
    default="end",
    show_default=True,
    help="Follow it until it has ended, or until it only waits, too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines: one object for each fact.")
def watch(
    run_id: str,
    store: str | None,
    flows: tuple[str, ...],
    lines: int | None,
    until: Literal["end", "rest"],
    as_json: bool,
) -> int:
    """Follow a run: print what happens to it, as `history` does, when it happens. It needn't be this process that
    drives it, and isn't: Ctrl-C ends the watching, and nothing else.
    """
    from flowkit.command_line.stored import Opened

    with Opened(store) as opened:
        try:
            return _watch(opened, run_id, flows, lines, until, as_json)
        except KeyboardInterrupt:
            say("\nwatched no longer; nothing else has changed")
            return INTERRUPTED


def _watch(
    opened: "Opened",
    run_id: str,
    flows: tuple[str, ...],
    lines: int | None,
    until: Literal["end", "rest"],
    as_json: bool,
) -> int:
    from flowkit.command_line.stored import is_free
    from flowkit.command_line.stored_books import workflow_for
    from flowkit.history import history_from
    from flowkit.storage_errors import RunDamaged
    from flowkit.store import ENDED
    from flowkit.workflow import records_of

    info = opened.info(run_id)
    found = workflow_for(info, flows)
    assert found is not None
    records = records_of(found[1])
    at, machine, is_first, has_warned = 0, None, True, False
    while True:
        changes = opened.store.changes()  # first: what changes from here on is seen at the next look
        info = opened.info(run_id)  # before its records: what has ended is all there then
        if info.length < at:  # a nested run was begun anew
            at, machine = 0, None
        entries, machine = history_from(records, run_id, opened.store.read(run_id, at), at, machine)
        if entries:
            at = entries[-1].number + 1
        if is_first and lines is not None:
            entries = entries[max(0, len(entries) - lines) :]
        is_first = False
        _print(entries, info.created, as_json)
        if info.status in ENDED:
            say(info.status)
            return DONE if info.status == "finished" else FAILED
        if info.status == "damaged":
            raise RunDamaged(run_id, None, "it was set aside as damaged")
        if until == "rest" and info.status == "waiting":
            say("it waits")
            return WAITING
        if not has_warned and is_free(opened.store, info):
            has_warned = True
            say("(nobody drives it now: `flowkit runs resume` goes on with it)")
        while opened.store.changes() == changes:
            time.sleep(LOOK)
