"""``flowkit runs send``, ``resume``, ``cancel`` and ``fork``: what changes a run. Only `resume` lets its steps run."""

import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowkit.command_line.exits import (
    DONE,
    FAILED,
    INTERNAL,
    INTERRUPTED,
    STORE_UNUSABLE,
    WAITING,
    WRONG_USE,
    Refused,
)
from flowkit.command_line.group import Verb
from flowkit.command_line.options import (
    backend_option,
    flows_option,
    json_option,
    store_option,
    traceback_option,
    values_argument,
    written,
)
from flowkit.command_line.output import say, tell, tell_json
from flowkit.command_line.stored import run_argument

if TYPE_CHECKING:
    from flowkit.command_line.stored import Opened
    from flowkit.events import Event
    from flowkit.store import RunInfo
    from flowkit.workflow import Workflow

__all__ = ["cancel", "fork", "resume", "send"]

F = TypeVar("F", bound=Callable[..., Any])
LOOK = 0.05
"""Seconds between two looks whether a message was taken."""


def wait_option(function: F) -> F:
    return click.option(
        "--wait",
        "patience",
        metavar="SECONDS",
        type=click.FloatRange(min=0),
        default=10.0,
        show_default=True,
        help="How long to wait until whoever drives the run has taken it. It is stored in any case.",
    )(function)


def _refuse_ended(info: "RunInfo", what: str) -> None:
    from flowkit.store import ENDED

    if info.status in ENDED:
        ended = {"finished": "has finished", "failed": "has failed", "cancelled": "was cancelled"}[info.status]
        raise Refused(f"run {info.run_id!r} {ended}: {what}")
    if info.status == "damaged":
        from flowkit.storage_errors import RunDamaged

        raise RunDamaged(info.run_id, None, "it was set aside as damaged")


# ---------------------------------------------------------------------------------------------------------------- send


@click.command(
    cls=Verb,
    codes={
        DONE: "the run has the event, or gets it as soon as it goes on",
        WRONG_USE: "wrong use: an unknown run, event, step or field, a value of the wrong type, a run that has ended "
        "or doesn't take this event",
        STORE_UNUSABLE: "the store can't be used: it is missing, locked, damaged or newer",
        INTERNAL: None,
        INTERRUPTED: "stopped by Ctrl-C; what was posted stays so",
    },
    short_help="Send an event to a run, whoever drives it.",
)
@run_argument
@click.argument("event", metavar="EVENT")
@values_argument
@store_option
@flows_option
@click.option("--step", metavar="STEP", help="Only to this step.")
@wait_option
@json_option
def send(
    run_id: str,
    event: str,
    values: tuple[str, ...],
    store: str | None,
    flows: tuple[str, ...],
    step: str | None,
    patience: float,
    as_json: bool,
) -> int:
    """Send an event to a run: EVENT is its class, KEY=VALUE are its fields (as for `flowkit run`).

    Where a process drives the run, that takes the event within a second: "delivered". Where nobody does, it is posted:
    the run has it as soon as somebody goes on with it.
    """
    from flowkit.command_line.stored import Opened
    from flowkit.command_line.stored_books import workflow_for
    from flowkit.command_line.values import event_named, event_of
    from flowkit.facts import EventSent
    from flowkit.posting import check_sendable
    from flowkit.workflow import records_of

    with Opened(store) as opened:
        info = opened.info(run_id)
        found = workflow_for(info, flows)
        assert found is not None
        named, workflow = found
        made = event_of(event_named(workflow, event), values, workflow=workflow)
        _refuse_ended(info, "it takes no events any more")
        check_sendable(workflow, run_id, made, step)
        records = records_of(workflow)
        letter = records.fact(EventSent(time.time(), None, made, step))
        if step is None:
            _check_taken(opened, info, workflow, made)
        number = _post(opened, info, letter)
        is_taken = _delivered(opened, info, number, patience, f"send_event({event})", made)
    _tell_posted(opened, info, named, is_taken, as_json, {"event": type(made).__name__}, f"{type(made).__name__} ")
    return DONE


def _check_taken(opened: "Opened", info: "RunInfo", workflow: "Workflow", event: "Event") -> None:
    """Where a run rests, and nobody drives it, refuse at once what it has no use for.

    Raises:
        UnexpectedEvent: it is so.
        RunDamaged, CodeChanged: it can't be read.
    """
    from flowkit.command_line.stored import is_free
    from flowkit.command_line.stored_books import read_machine
    from flowkit.events import StartEvent
    from flowkit.storage_errors import UnexpectedEvent
    from flowkit.workflow import records_of

    if info.status != "waiting" or not is_free(opened.store, info) or opened.store.find(parent=info.run_id):
        return  # a run nested in it may take it
    machine = read_machine(records_of(workflow), info, opened.store)
    if machine.expects(event) or machine.plan.route(type(event)).stops or machine.patient:
        return
    kinds = [kind for kind in machine.plan.accepted if not issubclass(kind, StartEvent)]
    names = {kind.__name__ for kind in (*kinds, *machine.waits.open)}
    raise UnexpectedEvent(info.run_id, info.workflow, event, sorted(names))


def _post(opened: "Opened", info: "RunInfo", letter: bytes) -> int:
    number = opened.store.post(info.run_id, letter, time.time())
    if number is None:  # it has ended just now
        _refuse_ended(opened.info(info.run_id), "it takes nothing any more")
        raise Refused(f"run {info.run_id!r} takes nothing now: try again")
    return number


def _delivered(
    opened: "Opened", info: "RunInfo", number: int, patience: float, what: str, event: "Event | None" = None
) -> bool:
    """Wait until it was taken, for as long as somebody might take it; whether it was.

    Raises:
        WorkflowError: it can't be taken (see `flowkit.posting.is_delivered`).
    """
    from flowkit.posting import is_delivered

    until = time.monotonic() + patience
    try:
        while not is_delivered(opened.store, number, info.run_id, what, event):
            if time.monotonic() >= until or not _anybody(opened):
                return False
            time.sleep(LOOK)
    except KeyboardInterrupt:
        say("\nwaited no longer; it is stored, and stays so")
        raise click.exceptions.Exit(INTERRUPTED) from None
    return True


def _anybody(opened: "Opened") -> bool:
    """Whether there is a process that uses the store. (It may be one that takes up what was posted to.)"""
    from flowkit.process import is_gone

    return any(not is_gone(owner) for owner in opened.store.owners())


def _tell_posted(
    opened: "Opened", info: "RunInfo", named: str, is_taken: bool, as_json: bool, about: dict[str, Any], what: str
) -> None:
    if as_json:
        tell_json({"run_id": info.run_id, **about, "delivered": is_taken})
        return
    tell(f"{what}delivered" if is_taken else f"{what}posted")
    if is_taken:
        return
    say("it is stored; the run has it as soon as it goes on: whoever drives it takes it, or")
    say(f"  flowkit runs resume {shlex.quote(info.run_id)} {written(opened.path, named)}")


# -------------------------------------------------------------------------------------------------------------- cancel


@click.command(
    cls=Verb,
    codes={
        DONE: "it is cancelled, or will be as soon as whoever drives it looks; or it was before",
        WRONG_USE: "wrong use: an unknown run or workflow, a run that has finished or failed",
        STORE_UNUSABLE: "the store can't be used: it is missing, locked, damaged or newer",
        INTERNAL: None,
        INTERRUPTED: "stopped by Ctrl-C; what was posted stays so",
    },
    short_help="Cancel a run for good.",
)
@run_argument
@store_option
@flows_option
@backend_option
@wait_option
@json_option
def cancel(run_id: str, store: str | None, flows: tuple[str, ...], backend: str, patience: float, as_json: bool) -> int:
    """Cancel a run for good. Where a process drives it, that is told to, and its steps clean up there; where nobody
    does, it is cancelled here, and no step of it runs.
    """
    from flowkit.command_line.stored import Opened, is_free
    from flowkit.command_line.stored_books import workflow_for
    from flowkit.facts import RunCancelled
    from flowkit.storage_errors import RunElsewhere
    from flowkit.workflow import records_of

    with Opened(store) as opened:
        info = opened.info(run_id)
        found = workflow_for(info, flows)
        assert found is not None
        named, workflow = found
        is_taken = True
        if info.status != "cancelled":
            _refuse_ended(info, "there is nothing to cancel")
            _refuse_nested(info, "cancel", opened, named)
            is_here = is_free(opened.store, info)
            if is_here:
                try:
                    _cancel_here(opened, workflow, run_id, backend)
                except RunElsewhere:  # somebody has taken it up just now
                    is_here = False
            if not is_here:
                letter = records_of(workflow).fact(RunCancelled(time.time(), "cancel_run() was called", by_user=True))
                number = _post(opened, info, letter)
                is_taken = _delivered(opened, info, number, patience, "cancel()")
    if is_taken and not as_json:
        tell("cancelled")
    elif as_json:
        tell_json({"run_id": run_id, "cancelled": is_taken})
    else:
        tell("posted")
        say("it is stored; whoever drives the run cancels it")
    return DONE


def _cancel_here(opened: "Opened", workflow: "Workflow", run_id: str, backend: str) -> None:
    from flowkit.command_line.exits import one_of
    from flowkit.errors import WorkflowCancelled
    from flowkit.keyboard import run_interruptible
    from flowkit.runtime import open_runtime

    async def main() -> None:
        async with open_runtime(store=opened.store, workflows=[workflow], take_up=False) as runtime:
            handler = runtime.handler(run_id)
            await handler.cancel_run()  # before it goes on
            error = handler.exception()
            if error is not None and not isinstance(error, WorkflowCancelled):
                raise error

    try:
        run_interruptible(main, backend=backend)
    except BaseExceptionGroup as several:
        raise one_of(several) from None


def _refuse_nested(info: "RunInfo", verb: str, opened: "Opened", named: str) -> None:
    if info.parent is not None:
        rest = f"flowkit runs {verb} {shlex.quote(info.parent)} {written(opened.path, named)}"
        raise Refused(f"run {info.run_id!r} is nested in {info.parent!r}: write `{rest}`")


# ---------------------------------------------------------------------------------------------------------------- fork


@click.command(
    cls=Verb,
    codes={DONE: "the new run is stored", WRONG_USE: None, STORE_UNUSABLE: None, INTERNAL: None, INTERRUPTED: None},
    short_help="Make a new run that goes on from where another was.",
)
@run_argument
@click.option(
    "--after",
    required=True,
    metavar="STEP|N",
    help="After this step has returned last, or after the fact of this number (see `history`).",
)
@click.option("--new-id", metavar="ID", help="The new run's id; made up by default.")
@store_option
@flows_option
@json_option
def fork(run_id: str, after: str, new_id: str | None, store: str | None, flows: tuple[str, ...], as_json: bool) -> int:
    """Make a new run that goes on from where another was. The other isn't changed, and may have ended. The new one is
    only stored: a process that has its workflow takes it up, or `flowkit runs resume`. Its id is printed.
    """
    from flowkit import outside
    from flowkit.command_line.stored import Opened
    from flowkit.command_line.stored_books import workflow_for
    from flowkit.history import fork_of
    from flowkit.process import owner_name
    from flowkit.store import NewRun, Write
    from flowkit.workflow import records_of

    if new_id == "":
        raise click.BadParameter("it is empty: give a name, or leave it out", param_hint="--new-id")
    with Opened(store) as opened:
        info = opened.info(run_id)
        found = workflow_for(info, flows)
        assert found is not None
        named, workflow = found
        _refuse_nested(info, "fork", opened, named)
        place = _place(after, workflow)
        made = new_id or outside.current().new_id()
        forked = fork_of(records_of(workflow), run_id, opened.store.read(run_id), place, made)
        new = NewRun(info.workflow, owner_name())
        if not opened.store.commit([Write(made, 1, 0, [forked], time.time(), status="running", new=new)])[0]:
            raise Refused(f"there is a run {made!r} already: give another --new-id, or leave it out")
        opened.store.release(made, 1)
    if as_json:
        tell_json({"run_id": made, "forked_from": run_id, "after": place})
    else:
        tell(made)
        say(f"stored; to go on with it: flowkit runs resume {shlex.quote(made)} {written(opened.path, named)}")
    return DONE


def _place(after: str, workflow: "Workflow") -> str | int:
    """A step's name, or a fact's number.

    Raises:
        Refused: it is neither.
    """
    from flowkit.errors import did_you_mean
    from flowkit.workflow import plan_of

    if after.isascii() and after.isdecimal():
        return int(after)
    plan = plan_of(workflow)
    names = [spec.name for spec in plan.steps]
    if after not in names:
        has = f"it has {', '.join(names)}"
        raise Refused(f"--after {after}: {plan.name} has no such step: {did_you_mean(after, names) or has}")
    return after


# -------------------------------------------------------------------------------------------------------------- resume


@click.command(
    cls=Verb,
    codes={
        DONE: "it has finished; its result is on standard output. With --all: all have",
        FAILED: "it failed, or was cancelled. With --all: one has",
        WRONG_USE: None,
        STORE_UNUSABLE: None,
        WAITING: "it waits for an answer, and nobody gives one. With --all: one does",
        INTERNAL: None,
        INTERRUPTED: "stopped by Ctrl-C: the run is suspended, nothing is lost",
    },
    short_help="Go on with a run, or with all of them.",
)
@click.argument("run_id", metavar="[RUN_ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="All unfinished runs of the given workflows, at once.")
@store_option
@flows_option
@backend_option
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@json_option
@traceback_option
def resume(
    run_id: str | None,
    everything: bool,
    store: str | None,
    flows: tuple[str, ...],
    backend: str,
    quiet: bool,
    as_json: bool,
) -> int:
    """Go on with a run until it ends, or waits: its progress is shown, and its questions are asked, as `flowkit run`
    does.

    With --all, every unfinished run of the given workflows that nobody drives goes on at the same time, until each has
    ended or waits. In a terminal, those that wait for an answer are asked for it then, one after the other.
    """
    if everything is (run_id is not None):
        raise click.UsageError("name a run, or write --all")
    if run_id is None:
        from flowkit.command_line.runs_all import resume_all

        return resume_all(store, flows, backend, quiet=quiet, as_json=as_json)
    if not run_id:
        raise click.BadParameter("it is empty: `flowkit runs list` lists them", param_hint="RUN_ID")
    return _resume_one(run_id, store, flows, backend, quiet=quiet, as_json=as_json)


def _resume_one(
    run_id: str, store: str | None, flows: tuple[str, ...], backend: str, *, quiet: bool, as_json: bool
) -> int:
    from flowkit.command_line.driving import Place, drive, told
    from flowkit.command_line.stored import Opened
    from flowkit.command_line.stored_books import workflow_for
    from flowkit.workflow import check_wiring

    with Opened(store) as opened:
        info = opened.info(run_id)
        found = workflow_for(info, flows)
        assert found is not None
        named, workflow = found
        _refuse_nested(info, "resume", opened, named)
        check_wiring(workflow)
        ending = drive(workflow, lambda: workflow.run(store=opened.store, run_id=run_id), backend=backend, quiet=quiet)
    show_traceback = bool(click.get_current_context().meta.get("flowkit.traceback"))
    return told(ending, Place(named, opened.path), as_json=as_json, show_traceback=show_traceback)
