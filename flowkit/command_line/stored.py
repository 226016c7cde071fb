"""Stored runs in the store's index: found by id; who drives them; times and owners in words.

It imports little, so that `flowkit runs list` starts at once.
"""

import datetime
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowkit import outside
from flowkit.command_line.options import open_store, store_path
from flowkit.process import is_gone
from flowkit.storage_errors import UnknownRun
from flowkit.store import RunInfo, Status, Store

if TYPE_CHECKING:
    from flowkit.sqlite_store import SQLiteStore

__all__ = ["Opened", "ago", "free_runs", "is_free", "owner_text", "run_argument", "span", "when"]

GUESS_AMONG = 1000
"""Runs, the latest, whose ids are compared with one that isn't there."""


def run_argument(function: Any) -> Any:
    """``RUN_ID``: ``run_id``."""
    return click.argument("run_id", metavar="RUN_ID", callback=_check_run_id)(function)


def _check_run_id(ctx: click.Context, parameter: click.Parameter, run_id: str | None) -> str | None:
    if run_id == "":
        raise click.BadParameter("it is empty: `flowkit runs list` lists them", ctx, parameter)
    return run_id


class Opened:
    """A store that is there, open in a ``with`` block."""

    def __init__(self, given: str | None) -> None:
        self.store: SQLiteStore = open_store(given)
        path = store_path(given)
        assert path is not None  # else there were no store
        self.path: Path = path

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def info(self, run_id: str) -> RunInfo:
        """
        Raises:
            UnknownRun: there is no such run.
            RunDamaged: its line in the store can't be read.
        """
        info = self.store.info(run_id)
        if info is None:
            raise UnknownRun(run_id, [one.run_id for one in self.store.find(newest=True, limit=GUESS_AMONG)])
        return info


# -------------------------------------------------------------------------------------------------------------- owners


def free_runs(store: Store, infos: Collection[RunInfo]) -> set[str]:
    """Those of these runs, none of them nested, that nobody alive drives."""
    free = {one.run_id for one in infos if one.owner is None or is_gone(one.owner)}
    owned = [one for one in infos if one.run_id not in free]
    if owned:  # whose lease may be over: a process of another machine
        statuses: set[Status] = {one.status for one in owned}
        workflows = {one.workflow for one in owned}
        found = store.find(free_at=outside.current().time(), statuses=statuses, workflows=workflows)
        free |= {one.run_id for one in found}
    return free


def is_free(store: Store, info: RunInfo) -> bool:
    """Whether nobody alive drives a run."""
    if info.owner is None or is_gone(info.owner):
        return True
    now = outside.current().time()
    found = store.find(free_at=now, statuses=(info.status,), workflows=(info.workflow,), parent=info.parent)
    return any(one.run_id == info.run_id for one in found)


def owner_text(owner: str | None, *, alive: bool) -> str:
    """Who drives a run: its host and process."""
    if owner is None:
        return "-"
    host, _, rest = owner.partition(":")
    return f"{host}:{rest.partition(':')[0]}" + ("" if alive else " (gone)")


# --------------------------------------------------------------------------------------------------------------- times


def span(seconds: float) -> str:
    """A time span in a word: ``5s``, ``12m``, ``3h``, ``9d``."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size or (unit == "d" and seconds >= size):
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def ago(time: float, now: float) -> str:
    return span(now - time)


def when(time: float) -> str:
    """A time of day, here, to the second."""
    try:
        return datetime.datetime.fromtimestamp(time).astimezone().isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return f"{time:g} s since 1970"
