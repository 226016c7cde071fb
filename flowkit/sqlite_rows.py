"""A run's row in the file of a `SQLiteStore`, with its checksums: what each commit changes of it, and what it tells."""

import struct
from typing import Any
from zlib import crc32

import attrs

from flowkit.storage_errors import RunDamaged
from flowkit.store import RunInfo, Status

__all__ = ["COLUMNS", "Row", "as_stored", "row_of", "unreadable"]

TAIL = struct.Struct("<qd")
COLUMNS = "key, run_id, workflow, status, created, updated, due, parent, owner, fence, length, base, seal"


@attrs.define(eq=False)
class Row:
    """A run's row. ``name`` and ``rest`` are checksums of its id, and of that and all the rest but the tail: what each
    commit changes. ``seal`` goes over everything."""

    key: int
    run_id: str
    workflow: str
    status: Status
    created: float
    updated: float
    due: float | None
    parent: str | None
    owner: str | None
    fence: int
    length: int
    base: int
    name: int = 0
    rest: int = 0
    seal: int = 0

    def sealed(self) -> "Row":
        """Compute its checksums."""
        self.name = crc32(self.run_id.encode())
        facts = (self.workflow, self.status, self.created, self.due, self.parent, self.owner, self.fence, self.base)
        self.rest = crc32(repr(facts).encode(), self.name)
        self.seal = crc32(TAIL.pack(self.length, self.updated), self.rest)
        return self

    def extended(self, records: int, time: float) -> "Row":
        """After a commit of so many records (each commit takes this: `attrs.evolve` costs six times as much)."""
        length = self.length + records
        return Row(
            self.key, self.run_id, self.workflow, self.status, self.created, time, self.due, self.parent, self.owner,
            self.fence, length, self.base, self.name, self.rest, crc32(TAIL.pack(length, time), self.rest),
        )  # fmt: skip

    def info(self) -> RunInfo:
        return RunInfo(
            run_id=self.run_id,
            workflow=self.workflow,
            status=self.status,
            created=self.created,
            updated=self.updated,
            due=self.due,
            parent=self.parent,
            owner=self.owner,
            fence=self.fence,
            length=self.length,
            base=self.base,
        )


def row_of(columns: tuple[Any, ...]) -> Row:
    """Read a row.

    Raises:
        RunDamaged: it isn't as it was written.
    """
    try:
        row = Row(*columns[:-1]).sealed()
        if row.seal == columns[-1]:
            return row
    except (TypeError, AttributeError, struct.error):  # a value of another type
        pass
    raise RunDamaged(str(columns[1]), None, "its line in the index isn't as it was written")


def as_stored(value: float) -> float:
    """As it comes back: a float, and zero without a sign."""
    return float(value) + 0.0


def unreadable(columns: tuple[Any, ...]) -> RunInfo:
    """Stands in a list for a run whose line isn't as it was written: its id is right (two trees of the file have it),
    and so are the columns that were looked for in an index; of the others nobody knows."""
    return RunInfo(
        run_id=str(columns[1]), workflow="", status="damaged", created=0.0, updated=0.0, due=None, parent=None,
        owner=None, fence=0, length=0, base=0,
    )  # fmt: skip
