"""``flowkit runs list`` and ``flowkit runs prune``: what needs no code, only the store's index."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from flowkit.command_line.exits import DONE, INTERNAL, INTERRUPTED, STORE_UNUSABLE, WRONG_USE, Refused
from flowkit.command_line.group import Verb
from flowkit.command_line.options import json_option, store_option
from flowkit.command_line.output import is_terminal, say, tell, tell_json

__all__ = ["list_runs", "prune"]

STATUSES = ("running", "waiting", "finished", "failed", "cancelled", "damaged")


@click.command(
    "list",
    cls=Verb,
    codes={DONE: "they are listed", WRONG_USE: None, STORE_UNUSABLE: None, INTERNAL: None, INTERRUPTED: None},
    short_help="List the runs of a store.",
)
@store_option
@click.option("--status", type=click.Choice(STATUSES), multiple=True, help="Only these; may be given several times.")
@click.option("--workflow", "workflows", metavar="NAME", multiple=True, help="Only runs of this workflow.")
@click.option("--limit", "-n", metavar="N", type=click.IntRange(min=1), default=50, help="At most N (50).")
@click.option("--all", "everything", is_flag=True, help="All of them, however many.")
@json_option
def list_runs(
    store: str | None,
    status: tuple[str, ...],
    workflows: tuple[str, ...],
    limit: int,
    everything: bool,
    as_json: bool,
) -> int:
    """List the runs of a store, the latest first. Nested runs aside.

    AGE is since it was started, UPDATED since something last happened to it, DUE until its next timer. DRIVEN BY is
    the process that has it in memory, as host:pid.
    """
    from flowkit import outside
    from flowkit.command_line.stored import Opened, ago, free_runs, owner_text, span

    with Opened(store) as opened:
        most = None if everything else limit + 1
        found: list[Any] = opened.store.find(
            statuses=status or None,  # type: ignore[arg-type]
            workflows=workflows or None,
            newest=True,
            limit=most,
        )
        free = free_runs(opened.store, found)
        known = _names_in(opened.store) if workflows and not found else ()
    are_more = not everything and len(found) > limit
    found = found if everything else found[:limit]
    if workflows and not found and not set(workflows) <= set(known):
        _check_known(workflows, known, str(opened.path))
    if as_json:
        tell_json([_run_data(one, one.run_id not in free) for one in found])
        return DONE
    now = outside.current().time()
    rows: list[tuple[str, ...]] = [("RUN", "WORKFLOW", "STATUS", "AGE", "UPDATED", "DUE", "DRIVEN BY")]
    for one in found:
        unread = one.status == "damaged" and not one.workflow
        due = "-" if one.due is None else f"in {span(one.due - now)}" if one.due > now else "now"
        times = ("-", "-") if unread else (ago(one.created, now), ago(one.updated, now))
        owner = owner_text(one.owner, alive=one.run_id not in free)
        rows.append((one.run_id, one.workflow or "-", one.status, *times, due, owner))
    if found:
        for line in _table(rows):
            tell(line)
    else:
        say(f"no runs in {opened.path}" + (" that fit" if status or workflows else ""))
    if are_more:
        say(f"(the latest {limit}; --limit N or --all shows more)")
    return DONE


def _names_in(store: Any) -> list[str]:
    return sorted({one.workflow for one in store.find() if one.workflow})


def _check_known(wanted: tuple[str, ...], known: Any, path: str) -> None:
    from flowkit.errors import did_you_mean

    unknown = next(one for one in wanted if one not in known)
    has = f"it has {', '.join(known)}" if known else "it has none"
    raise Refused(f"{path} has no runs of {unknown}: {did_you_mean(unknown, known) or has}")


def _run_data(info: Any, is_driven: bool) -> dict[str, Any]:
    import attrs

    return {**attrs.asdict(info), "driven": info.owner is not None and is_driven}


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    from flowkit.command_line.output import printable

    shown = [[printable(cell).replace("\n", " ").replace("\t", " ") for cell in row] for row in rows]
    widths = [min(max(len(row[column]) for row in shown), 60) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


# --------------------------------------------------------------------------------------------------------------- prune


@click.command(
    cls=Verb,
    codes={
        DONE: "they are deleted, or there were none",
        WRONG_USE: None,
        STORE_UNUSABLE: None,
        INTERNAL: None,
        INTERRUPTED: "stopped by Ctrl-C; nothing was deleted",
    },
    short_help="Delete runs that have ended.",
)
@store_option
@click.option("--keep", metavar="N", type=click.IntRange(min=0), help="Keep the latest N of those that have ended.")
@click.option("--older-than", metavar="AGE", help="Delete those that ended longer ago: 7d, 12h, 1h30m, 90 (seconds).")
@click.option("--workflow", "workflows", metavar="NAME", multiple=True, help="Only runs of this workflow.")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@json_option
def prune(
    store: str | None,
    keep: int | None,
    older_than: str | None,
    workflows: tuple[str, ...],
    yes: bool,
    as_json: bool,
) -> int:
    """Delete runs that have finished, failed or were cancelled, and those nested in them. Runs that haven't ended are
    never deleted, nor are damaged ones."""
    from flowkit import outside
    from flowkit.command_line.stored import Opened
    from flowkit.store import ENDED

    if (keep is None) is (older_than is None):
        raise click.UsageError("say which: --keep N (the latest N stay), or --older-than 7d")
    seconds = None if older_than is None else _seconds(older_than)
    with Opened(store) as opened:
        found = opened.store.find(statuses=ENDED, workflows=workflows or None, newest=True)
        ended = [one for one in found if one.status in ENDED]
        if seconds is None:
            old = ended[keep:]
        else:
            before = outside.current().time() - seconds
            old = [one for one in ended if one.updated < before]
        if old and not yes and not _confirmed(len(old), len(ended), str(opened.path)):
            say("nothing was deleted")
            return DONE
        count = opened.store.delete([one.run_id for one in old]) if old else 0
    if as_json:
        tell_json({"deleted": count, "run_ids": [one.run_id for one in old]})
    else:
        tell(f"{count} run{'' if count == 1 else 's'} deleted, {len(ended) - count} that ended kept")
    return DONE


def _seconds(text: str) -> float:
    from datetime import timedelta

    from flowkit.command_line.typed import Wrong, from_text

    try:
        found: timedelta = from_text(text, timedelta, None)
    except Wrong as error:
        raise click.BadParameter(
            f"{error.given} is no duration: write 7d, 12h or 90", param_hint="--older-than"
        ) from None
    if found < timedelta(0):
        raise click.BadParameter(f"{text} is before now: write 7d, 12h or 90", param_hint="--older-than")
    return found.total_seconds()


def _confirmed(count: int, of: int, path: str) -> bool:
    if not is_terminal(sys.stdin):
        raise Refused(f"{count} of {of} ended runs in {path} would be deleted, and nobody can be asked: write --yes")
    runs = f"{count} of {of} ended runs" if of > 1 else "the one run that has ended"
    click.echo(f"Delete {runs} in {path}, for good? [y/N] ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        say()
    return answer.strip().lower() in ("y", "yes")
