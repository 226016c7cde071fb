"""Runs in one SQLite file, with Python's own ``sqlite3``: a path, nothing to install or to start.

**Tables** (sqlite_file.py). ``runs`` has a row for each run, ``leases`` one for each owner, ``mail`` one for each
message that waits (sqlite_mail.py), and ``records`` one for each record. A record's ``id`` is its run's key and its own
number in one integer, 32 bits each: a journal lies together, and needs no index. A record of 130 bytes takes 165 to 175
bytes of the file, a run some 250.

**A commit** of one record is two statements: the run's row is replaced where it is still as this store knows it, and
the record is added. What it knows of a row it remembers from its last write. Where that isn't the row any more (another
process had it meanwhile), the row is read, and the write refused where its fence or position is wrong. Measured on two
slow cores: 22 µs and the disk's sync (90 µs there) for one record, and 10 to 13 µs for each further run in the same
commit; half of that is pages being copied.

**Several processes, threads.** There is one connection for writing, under a lock, and one for reading, under another;
so reading doesn't wait for a sync. Between processes SQLite's write-ahead log does the same: one writes at a time,
readers see the last commit before they began (https://sqlite.org/wal.html). All must be on one machine, and the file on
a local disk: the log's index is shared memory.

**A process that dies** leaves a log beside the file (``-wal``). Each entry of it has a checksum that goes on from the
one before, so whoever opens the file next takes everything up to the last whole commit
(https://sqlite.org/walformat.html). A torn or altered end of the log therefore is as if the last commits hadn't been
made; whole commits, in their order. The log belongs to the file: a copy of a store in use needs both, or ``VACUUM
INTO``. With ``synchronous="FULL"`` each commit is synced (``fsync``), so it also survives the machine's going down, as
far as the disk keeps what it says it has; on macOS ``fsync`` doesn't ask that of it.

**Damage.** SQLite itself has no checksums in the file. A row of ``runs`` has one over all its columns, with the
journal's length among them; a record has one, over its run's id and its number too; a lease has one. And `open` has
SQLite go through the index of runs. So a flipped bit is told (`RunDamaged` where it is one run's), and never a wrong
answer. A run whose row can't be read is listed by `SQLiteStore.find` as damaged, with nothing of it known but its id,
whatever workflows are asked for; writes to it are refused; `SQLiteStore.delete` removes it.
"""

import atexit
import os
import sqlite3
import threading
import weakref
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args
from zlib import crc32

import attrs

from flowkit.errors import WrongCall, shown
from flowkit.sqlite_file import Opened, explained, open_file, told, transaction
from flowkit.sqlite_mail import (
    enter_mail,
    find_mail,
    find_message,
    forget_mail,
    may_take,
    post_message,
    withdraw_message,
)
from flowkit.sqlite_rows import COLUMNS, Row, as_stored, row_of, unreadable
from flowkit.storage_errors import RunDamaged, RunElsewhere, StoreBusy, StoreError, UnknownRun
from flowkit.store import ENDED, Message, RunInfo, Status, Store, Write

__all__ = ["SQLiteStore"]

Synchronous = Literal["FULL", "NORMAL"]
FORGET = 7 * 24 * 3600.0
"""Seconds after which a lease that is over is forgotten: nobody asks whether its owner was alive a week ago."""

# A connection can't be used, nor even closed, on the other side of a fork, and SQLite's own books about a file's locks
# would be wrong there for a new one too (https://sqlite.org/howtocorrupt.html, 2.6). So nothing is open while a process
# forks: both sides open anew at their next call.
AT_EXIT = 1.0
"""Seconds to wait at the end of the program for a thread that is at a store."""

_STORES: "weakref.WeakSet[SQLiteStore]" = weakref.WeakSet()
_HELD: "list[SQLiteStore]" = []


class SQLiteStore(Store):
    """Keeps runs in the SQLite file ``path``, which is made where there is none.

    Args:
        synchronous: ``"FULL"`` waits for the disk at each commit; ``"NORMAL"`` doesn't: what was committed last is lost
            if the machine (not just the process) goes down.
        busy_timeout: seconds to wait for another process or thread that is writing.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, synchronous: Synchronous = "FULL", busy_timeout: float = 30.0
    ) -> None:
        given: Any = os.fspath(path) if isinstance(path, os.PathLike) else path
        if not isinstance(given, str):
            raise WrongCall("SQLiteStore()", f"takes the path of a file, but got {shown(path)}")
        if given in ("", ":memory:"):
            raise StoreError(f"SQLiteStore({given!r})", "this names no file", "use MemoryStore() for that", "no-store")
        if synchronous not in get_args(Synchronous):
            raise WrongCall("SQLiteStore()", f"got synchronous={shown(synchronous)}", 'write "FULL" or "NORMAL"')
        if not isinstance(busy_timeout, int | float) or not 0 <= busy_timeout < 1e6:
            raise WrongCall("SQLiteStore()", f"got busy_timeout={shown(busy_timeout)}", "write seconds, 0 or more")
        self.path = Path(given).absolute()
        self.synchronous: Synchronous = synchronous
        self.busy_timeout = float(busy_timeout)
        self._name = f"SQLiteStore({given!r})"
        self._writing = threading.Lock()  # in this order where several are held
        self._reading = threading.Lock()
        self._opening = threading.Lock()
        self._opened: Opened | None = None
        self._times_opened = 0
        self._rows: dict[str, Row] = {}  # as this store last wrote them; others may have changed them since

    def __repr__(self) -> str:
        return self._name

    # Opening and closing

    def open(self) -> None:
        with self._opening:
            self._open()

    def _open(self) -> Opened:
        if self._opened is None:
            self._opened = open_file(self.path, self._name, self.synchronous, self.busy_timeout)
            self._times_opened += 1
            # What it holds is not garbage when the store is: a connection that is collected in a cycle complains.
            self._left_open = weakref.finalize(self, _close_quietly, self._opened)
            self._left_open.atexit = False
            _STORES.add(self)
        return self._opened

    def close(self) -> None:
        with self._writing, self._reading, self._opening:
            self._close()

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        self._rows.clear()
        if opened is not None:
            self._left_open.detach()
            with explained(self._name):
                opened.close()

    @contextmanager
    def _change(self, wait: bool = True) -> Generator[sqlite3.Cursor]:
        """A transaction that writes."""
        if not self._writing.acquire(blocking=wait, timeout=self.busy_timeout if wait else -1):
            raise StoreBusy(self._name, "another thread is writing to it", "try again")
        try:
            with explained(self._name):
                opened = self._opened
                if opened is None:
                    with self._opening:
                        opened = self._open()
                self._refuse_moved(opened)
                if opened.waits is not wait:
                    milliseconds = int(self.busy_timeout * 1000) if wait else 0
                    opened.writer.execute(f"PRAGMA busy_timeout={milliseconds}")
                    opened.waits = wait
                with transaction(opened.writer):
                    yield opened.writer.cursor()
                opened.tidy()
        finally:
            self._writing.release()

    def _refuse_moved(self, opened: Opened) -> None:
        """What is written to a file that has no name any more is lost when it is closed."""
        try:
            inode = os.stat(self.path).st_ino
        except OSError:
            inode = None
        if inode != opened.inode:
            problem = "the file was moved, deleted or replaced while it was open"
            raise StoreError(self._name, problem, "put it back, or close this store and open it again", "no-store")

    @contextmanager
    def _read(self) -> Generator[sqlite3.Connection]:
        """The connection that reads."""
        with self._reading, explained(self._name):
            opened = self._opened
            if opened is None:
                with self._opening:
                    opened = self._open()
            if opened.reader.in_transaction:
                opened.reader.rollback()
            yield opened.reader

    @contextmanager
    def _look(self) -> Generator[sqlite3.Cursor]:
        """A transaction that reads: everything in it is of one moment."""
        with self._read() as reader:
            cursor = reader.cursor()
            cursor.execute("BEGIN")
            try:
                yield cursor
            finally:
                cursor.close()
                reader.rollback()

    # Writing

    def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
        changed: dict[str, Row] = {}
        with self._change(wait) as cursor:
            stored = [self._write(cursor, write, changed) for write in writes]
        if len(self._rows) > 10_000:
            self._rows.clear()
        for run_id, row in changed.items():
            if row.owner is None:
                self._rows.pop(run_id, None)
            else:
                self._rows[run_id] = row
        return stored

    def _write(self, cursor: sqlite3.Cursor, write: Write, changed: dict[str, Row]) -> bool:
        if write.taken and not may_take(cursor, write.taken):
            return False
        if write.new is not None:
            row = self._create(cursor, write)
        else:
            known = changed.get(write.run_id) or self._rows.get(write.run_id)
            row = None if known is None else self._extend(cursor, known, write)
            if row is None:  # not known here, or changed by another: see what is stored
                try:
                    known = self._load(cursor, write.run_id)
                except RunDamaged:
                    return False
                row = None if known is None else self._extend(cursor, known, write)
        if row is None:
            return False
        changed[write.run_id] = row
        first = (row.key << 32) + write.position
        rows = [
            (first + index, data + _seal(data, row.name, write.position + index))
            for index, data in enumerate(write.records)
        ]
        if len(rows) == 1:
            cursor.execute("INSERT INTO records VALUES (?, ?)", rows[0])
        elif rows:
            cursor.executemany("INSERT INTO records VALUES (?, ?)", rows)
        if self._opened is not None:
            self._opened.large += sum(len(data) >> 12 for _, data in rows)
        if write.taken or write.refused:
            enter_mail(cursor, write)
        return True

    def _create(self, cursor: sqlite3.Cursor, write: Write) -> Row | None:
        assert write.new is not None
        if write.fence != 1 or write.position != 0:
            return None
        new, status, time = write.new, write.status or "running", as_stored(write.time)
        due = None if write.status is None or write.due is None else as_stored(write.due)
        owner = None if _ends(status) else new.owner
        row = Row(
            0, write.run_id, new.workflow, status, time, time, due, new.parent, owner, 1, len(write.records),
            write.base or 0,
        ).sealed()  # fmt: skip
        cursor.execute(
            f"INSERT INTO runs({COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT(run_id) DO NOTHING",
            (
                row.run_id, row.workflow, row.status, time, time, due, row.parent, owner, 1, row.length, row.base,
                row.seal,
            ),
        )  # fmt: skip
        if cursor.rowcount != 1 or cursor.lastrowid is None:
            return None
        row.key = cursor.lastrowid
        return row

    def _extend(self, cursor: sqlite3.Cursor, known: Row, write: Write) -> Row | None:
        """Replace the row where it is as known, and this write's."""
        if known.fence != write.fence or known.length != write.position:
            return None
        row = known.extended(len(write.records), as_stored(write.time))
        if write.status is None and write.base is None:
            cursor.execute(
                "UPDATE runs SET length=?, updated=?, seal=? WHERE key=? AND seal=? AND length=? AND fence=?",
                (row.length, row.updated, row.seal, known.key, known.seal, known.length, known.fence),
            )
            return row if cursor.rowcount == 1 else None
        if write.status is not None:
            row.status = write.status
            row.due = None if write.due is None else as_stored(write.due)
            if _ends(row.status):
                row.owner = None
        if write.base is not None:
            row.base = write.base
        return row if self._replace(cursor, known, row.sealed()) else None

    def _replace(self, cursor: sqlite3.Cursor, known: Row, row: Row) -> bool:
        cursor.execute(
            "UPDATE runs SET status=?, updated=?, due=?, owner=?, fence=?, length=?, base=?, seal=? "
            "WHERE key=? AND seal=? AND length=? AND fence=?",
            (
                row.status, row.updated, row.due, row.owner, row.fence, row.length, row.base, row.seal,
                known.key, known.seal, known.length, known.fence,
            ),
        )  # fmt: skip
        return cursor.rowcount == 1

    def _load(self, cursor: sqlite3.Cursor, run_id: str) -> Row | None:
        found = cursor.execute(f"SELECT {COLUMNS} FROM runs WHERE run_id=?", (run_id,)).fetchone()
        return None if found is None else row_of(found)

    # Owners

    def claim(self, run_id: str, owner: str, now: float) -> RunInfo:
        with self._change() as cursor:
            row = self._load(cursor, run_id)
            if row is None:
                near = cursor.execute("SELECT run_id FROM runs ORDER BY key DESC LIMIT 100")
                raise UnknownRun(run_id, [str(known) for (known,) in near])
            if row.owner is not None and row.owner != owner and row.owner in self._alive(cursor, now):
                raise RunElsewhere(run_id, row.owner)
            claimed = attrs.evolve(row, owner=owner, fence=row.fence + 1).sealed()
            self._replace(cursor, row, claimed)
        return claimed.info()

    def _alive(self, cursor: sqlite3.Cursor, at: float) -> list[str]:
        """The owners that have a lease then."""
        return [owner for owner, until in self._leases(cursor) if until > at]

    def _leases(self, cursor: sqlite3.Cursor) -> list[tuple[str, float]]:
        leases = cursor.execute("SELECT owner, until, seal FROM leases").fetchall()
        if any(seal != _lease_seal(owner, until) for owner, until, seal in leases):
            cure = "it heals by itself when its owner beats again; else restore the file from a backup"
            raise StoreError(self._name, "a lease in it isn't as it was written", cure, "damaged")
        return [(owner, until) for owner, until, _ in leases]

    def release(self, run_id: str, fence: int) -> bool:
        with self._change() as cursor:
            row = self._load(cursor, run_id)
            if row is None or row.fence != fence:
                return False
            return self._replace(cursor, row, attrs.evolve(row, owner=None).sealed())

    def beat(self, owner: str, until: float) -> None:
        until = as_stored(until)
        with self._change() as cursor:
            cursor.execute(
                "INSERT INTO leases VALUES (?, ?, ?) "
                "ON CONFLICT(owner) DO UPDATE SET until=excluded.until, seal=excluded.seal",
                (owner, until, _lease_seal(owner, until)),
            )
            cursor.execute("DELETE FROM leases WHERE until < ?", (until - FORGET,))

    def leave(self, owner: str) -> None:
        with self._change() as cursor:
            cursor.execute("DELETE FROM leases WHERE owner=?", (owner,))
            for found in cursor.execute(f"SELECT {COLUMNS} FROM runs WHERE owner=?", (owner,)).fetchall():
                try:
                    row = row_of(found)
                except RunDamaged:  # it is free all the same: its owner has no lease now
                    continue
                self._replace(cursor, row, attrs.evolve(row, owner=None).sealed())

    # Reading

    def owners(self) -> list[str]:
        with self._look() as cursor:
            return [owner for owner, _ in self._leases(cursor)]

    def info(self, run_id: str) -> RunInfo | None:
        with self._look() as cursor:
            row = self._load(cursor, run_id)
        return None if row is None else row.info()

    def find(
        self,
        *,
        statuses: Collection[Status] | None = None,
        workflows: Collection[str] | None = None,
        free_at: float | None = None,
        due_by: float | None = None,
        parent: str | None = None,
        newest: bool = False,
        limit: int | None = None,
    ) -> list[RunInfo]:
        where = ["parent IS NULL" if parent is None else "parent = ?"]
        plus = "" if due_by is None else "+"  # by due time, SQLite: many wait, and few of them are due
        values: list[Any] = [] if parent is None else [parent]
        if statuses is not None:
            where.append(f"{plus}status IN ({_marks(statuses)})")
            values += statuses
        if due_by is not None:
            where.append("due <= ?")
            values.append(due_by)
        found: list[RunInfo] = []
        with self._look() as cursor:
            if free_at is not None:
                alive = self._alive(cursor, free_at)
                where.append(f"(owner IS NULL OR owner NOT IN ({_marks(alive)}))")
                values += alive
            order = "DESC" if newest else "ASC"
            query = f"SELECT {COLUMNS} FROM runs WHERE {' AND '.join(where)} ORDER BY {plus}key {order}"
            for columns in cursor.execute(query, values):
                if limit is not None and len(found) >= limit:
                    break
                try:
                    row = row_of(columns)
                except RunDamaged:
                    found.append(unreadable(columns))
                else:
                    if workflows is None or row.workflow in workflows:
                        found.append(row.info())
        return found

    def next_due(self, workflows: Collection[str]) -> float | None:
        with self._look() as cursor:
            query = (
                f"SELECT {COLUMNS} FROM runs WHERE due IS NOT NULL AND owner IS NULL AND parent IS NULL ORDER BY due"
            )
            for columns in cursor.execute(query):
                try:
                    row = row_of(columns)
                except RunDamaged:
                    continue
                if row.workflow in workflows:
                    return row.due
        return None

    def read(self, run_id: str, start: int = 0) -> list[bytes]:
        with self._look() as cursor:
            row = self._load(cursor, run_id)
            if row is None:
                return []
            first = row.key << 32
            try:
                found = cursor.execute(
                    "SELECT id, data FROM records WHERE id BETWEEN ? AND ? ORDER BY id",
                    (first + start, first + row.length - 1),
                ).fetchall()
            except sqlite3.Error as error:
                if told(error) != "damaged":
                    raise
                raise RunDamaged(run_id, None, f"its pages in the file are damaged ({error})") from error
        return _checked(row, start, found)

    def delete(self, run_ids: Collection[str]) -> int:
        named = set(run_ids)
        gone: dict[int, str] = {}
        with self._change() as cursor:
            for run_id in named:
                gone.update(cursor.execute("SELECT key, run_id FROM runs WHERE run_id=? OR parent=?", (run_id, run_id)))
            for key in gone:
                first = key << 32
                cursor.execute("DELETE FROM records WHERE id BETWEEN ? AND ?", (first, first + 0xFFFFFFFF))
                cursor.execute("DELETE FROM runs WHERE key=?", (key,))
                forget_mail(cursor, key)
        return len(named.intersection(gone.values()))

    # Mail

    def post(self, run_id: str, data: bytes, time: float) -> int | None:
        with self._change() as cursor:
            row = self._load(cursor, run_id)
            if row is None or _ends(row.status):
                return None
            return post_message(cursor, row.key, run_id, data, as_stored(time), self._name)

    def mail(self, run_id: str | None = None) -> list[Message]:
        with self._look() as cursor:
            return find_mail(cursor, run_id)

    def message(self, number: int) -> Message | None:
        with self._look() as cursor:
            return find_message(cursor, number, self._name)

    def withdraw(self, number: int) -> bool:
        with self._change() as cursor:
            return withdraw_message(cursor, number)

    def changes(self) -> int | None:
        """https://sqlite.org/pragma.html#pragma_data_version: of the connection that reads, so each commit of the one
        that writes changes it, too. A file that is opened anew counts as changed."""
        with self._read() as reader:
            version: int = reader.execute("PRAGMA data_version").fetchone()[0]
            return (self._times_opened << 32) + version

    # Forking

    @staticmethod
    def _before_fork() -> None:
        for store in sorted(_STORES, key=id):
            store._writing.acquire()
            store._reading.acquire()
            store._opening.acquire()
            _HELD.append(store)
            with suppress(StoreError):
                store._close()

    @staticmethod
    def _after_fork() -> None:
        while _HELD:
            store = _HELD.pop()
            store._opening.release()
            store._reading.release()
            store._writing.release()

    @staticmethod
    @atexit.register
    def _at_exit() -> None:
        """Close what the program has left open: a thread that is still at it is waited for, but not for ever."""
        for store in list(_STORES):
            if store._writing.acquire(timeout=AT_EXIT):
                if store._reading.acquire(timeout=AT_EXIT):
                    with suppress(StoreError):
                        store._close()
                    store._reading.release()
                store._writing.release()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _close_quietly(opened: Opened) -> None:
    with suppress(sqlite3.Error):  # nobody has the store any more, to be told
        opened.close()


def _ends(status: Status) -> bool:
    return status in ENDED or status == "damaged"


def _marks(values: Collection[Any]) -> str:
    return ", ".join("?" * len(values))


def _seal(data: bytes, name: int, position: int) -> bytes:
    """A record's checksum: its own, its run's and its place's, so that one in another's place is known too."""
    return crc32(data, (name + position) & 0xFFFFFFFF).to_bytes(4, "little")


def _lease_seal(owner: Any, until: Any) -> int:
    return crc32(repr((owner, until)).encode())


def _checked(row: Row, start: int, found: list[tuple[Any, Any]]) -> list[bytes]:
    records: list[bytes] = []
    for position, (number, data) in enumerate(found, start):
        if number != (row.key << 32) + position:
            raise RunDamaged(row.run_id, position, "it is missing")
        if not isinstance(data, bytes) or data[-4:] != _seal(data[:-4], row.name, position):
            raise RunDamaged(row.run_id, position, "it isn't as it was written")
        records.append(data[:-4])
    if start + len(records) < row.length:
        raise RunDamaged(row.run_id, start + len(records), "it is missing")
    return records
