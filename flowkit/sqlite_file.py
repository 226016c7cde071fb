"""The file of a `SQLiteStore`: recognised, made, brought up to date, checked; what SQLite's errors mean.

**Recognising.** A file is looked at before it is opened for writing, by a connection with ``immutable=1``: that takes
no lock and makes no file beside it, so what isn't ours stays as it is to the byte. (It isn't read by `open`: closing a
file drops every lock this process has on it, also those of a store that is using it,
https://sqlite.org/howtocorrupt.html, 2.2.) It is ours by its ``application_id``; its ``user_version`` is the format.
Both are written in the transaction that makes the tables, before the file is switched to WAL, so they are in the file
itself from the beginning.

**Checkpoints** bring what is in the write-ahead log into the file, so that the log can begin anew. SQLite makes one by
itself at a commit that finds the log long, while other processes go on committing; up to version 3.51.2 that can lose a
commit, very rarely (https://sqlite.org/wal.html#walresetbug). So that is turned off, and `Opened.tidy` makes them while
another connection of this store holds the write lock: nobody commits meanwhile. The last connection to be closed makes
one too, and there is nobody else then.

**Checking.** When it is opened, the index of runs is gone through by SQLite's ``integrity_check``: every row is in
every index and the other way round, in order. That takes 0.7 µs a run (a million runs: 0.7 s), and it is what makes a
lost or altered line of the index known: a checksum can't tell that a row isn't there. Journals aren't gone through:
they are checked as they are read.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from flowkit.storage_errors import Kind, StoreBusy, StoreError

__all__ = ["APPLICATION_ID", "FORMAT", "MIGRATIONS", "Opened", "explained", "open_file", "told", "transaction"]

APPLICATION_ID = int.from_bytes(b"flwk", "big")
"""At byte 68 of the file. https://sqlite.org/pragma.html#pragma_application_id"""
FORMAT = 2
"""Of the file: 2 since there is a table for mail."""

SCHEMA = {
    "runs": """CREATE TABLE runs(
        key INTEGER PRIMARY KEY, run_id TEXT NOT NULL, workflow TEXT NOT NULL, status TEXT NOT NULL,
        created REAL NOT NULL, updated REAL NOT NULL, due REAL, parent TEXT, owner TEXT, fence INTEGER NOT NULL,
        length INTEGER NOT NULL, base INTEGER NOT NULL, seal INTEGER NOT NULL)""",
    "run_ids": "CREATE UNIQUE INDEX run_ids ON runs(run_id)",
    "run_statuses": "CREATE INDEX run_statuses ON runs(status)",
    "run_dues": "CREATE INDEX run_dues ON runs(due) WHERE due IS NOT NULL",
    "run_parents": "CREATE INDEX run_parents ON runs(parent) WHERE parent IS NOT NULL",
    "run_owners": "CREATE INDEX run_owners ON runs(owner) WHERE owner IS NOT NULL",
    "records": "CREATE TABLE records(id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "leases": """CREATE TABLE leases(
        owner TEXT PRIMARY KEY NOT NULL, until REAL NOT NULL, seal INTEGER NOT NULL) WITHOUT ROWID""",
    "mail": """CREATE TABLE mail(
        number INTEGER PRIMARY KEY, run INTEGER NOT NULL, posted REAL NOT NULL, data BLOB NOT NULL,
        refusal TEXT, seal INTEGER NOT NULL)""",
}
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], object]] = {
    1: lambda connection: connection.execute(SCHEMA["mail"]),
}
"""What brings a file of this format to the next one. Runs within a transaction."""
SMALLEST = 512
"""Bytes of a page: SQLite takes what is shorter for an empty database."""
LOG_PAGES = 1000
"""Pages that a process writes between two checkpoints: SQLite's own number, about 4 MB."""
LOG_LIMIT = 8 * 1024 * 1024
"""Bytes that the log's file keeps when it begins anew."""


@attrs.define(eq=False)
class Opened:
    """An open file: a connection that writes, one that reads, and one that holds the write lock during checkpoints.

    ``waits``: whether the writing one waits for locks. ``large``: pages filled by large records.
    """

    writer: sqlite3.Connection
    reader: sqlite3.Connection
    holder: sqlite3.Connection
    inode: int
    waits: bool = True
    large: int = 0
    _tidied: int = 0

    def tidy(self) -> None:
        """Make a checkpoint where it is time; called after each commit. If it fails, a later one does it."""
        written = self.writer.total_changes + self.large  # a page for each changed row, at most
        if written - self._tidied < LOG_PAGES:
            return
        self._tidied += LOG_PAGES // 20  # when to try again if this fails
        with suppress(sqlite3.Error):
            try:
                self.holder.execute("BEGIN IMMEDIATE")  # doesn't wait for others
                self.writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._tidied = written
            finally:
                self.holder.rollback()

    def close(self) -> None:
        """The last connection to close puts the log into the file and removes it."""
        self.reader.close()
        self.holder.close()
        if self.writer.in_transaction:
            self.writer.rollback()
        self.writer.close()


def open_file(path: Path, name: str, synchronous: str, patience: float) -> Opened:
    """Open a store's file, making it where there is none.

    Args:
        name: the store's, for errors.
        patience: seconds to wait for other processes.

    Raises:
        StoreError: it can't be used.
    """
    with explained(name):
        fresh = _recognise(path, name)
        made: list[sqlite3.Connection] = []
        try:
            for mode, patient in (("rwc" if fresh else "rw", patience), ("rw", patience), ("rw", 0)):
                made.append(_connect(path, mode, patient))
                if len(made) == 1:
                    _prepare(made[0], name, patience)
                made[-1].execute("PRAGMA wal_autocheckpoint=0")
            writer, reader, holder = made
            writer.execute(f"PRAGMA synchronous={synchronous}")
            writer.execute(f"PRAGMA journal_size_limit={LOG_LIMIT}")
            reader.execute("PRAGMA query_only=ON")
            return Opened(writer, reader, holder, path.stat().st_ino)
        except BaseException:
            for connection in made:
                connection.close()
            raise


def _connect(path: Path, options: str, patience: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={options}", uri=True, timeout=patience, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    return connection


def _recognise(path: Path, name: str) -> bool:
    """Look at what is there, touching nothing; whether a file is still to be made."""
    try:
        size = _size(path, name)
    except OSError as error:
        cure = "let this user go there, or name another path"
        raise StoreError(name, f"its folder can't be entered ({error.strerror})", cure, "read-only") from error
    if not size:
        return True
    cure = "name another path: this file was left as it is"
    problem = "this file is no SQLite database, or its beginning is damaged"
    if size < SMALLEST:
        raise StoreError(name, problem, cure, "no-store")
    looker = _connect(path, "ro&immutable=1", 0)
    try:
        application, version = _version(looker)
    except sqlite3.DatabaseError as error:
        if told(error) != "damaged":
            raise
        raise StoreError(name, problem, cure, "no-store") from error
    finally:
        looker.close()
    if application != APPLICATION_ID:
        raise StoreError(name, "this database belongs to another program", cure, "no-store")
    _refuse_newer(version, name)
    return False


def _size(path: Path, name: str) -> int:
    """The file's, 0 where there is none, if a store may be there and may be written."""
    folder = path.parent
    if not folder.is_dir():
        cure = f"create it first, pathlib.Path({str(folder)!r}).mkdir(parents=True)"
        raise StoreError(name, f"there is no folder {str(folder)!r}", cure, "no-store")
    exists = path.exists()
    if path.is_dir():
        raise StoreError(name, "this is a folder", f"name a file in it, {str(path / 'runs.db')!r}", "no-store")
    if exists and not path.is_file():
        raise StoreError(name, "this is no ordinary file", "name another path", "no-store")
    for place, what in ((path, "the file"), (folder, "its folder")):
        if place.exists() and not _may_write(place):
            cure = "let this user write there (SQLite keeps two more files beside the store's), or name another path"
            raise StoreError(name, f"{what} can't be written", cure, "read-only")
    return path.stat().st_size if exists else 0


def _may_write(place: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(place, os.R_OK | os.W_OK | (os.X_OK if place.is_dir() else 0), effective_ids=effective)


def _refuse_newer(version: int, name: str) -> None:
    if version > FORMAT:
        problem = f"it was written by a newer flowkit (format {version}; this one knows formats up to {FORMAT})"
        raise StoreError(name, problem, "upgrade flowkit here, or name another path", "newer")


def _prepare(connection: sqlite3.Connection, name: str, patience: float) -> None:
    """Make the tables or bring them up to date, and check them."""
    version = _version(connection)
    if version == (0, 0):
        with transaction(connection):
            if _version(connection) == (0, 0):  # else another process was faster
                for statement in SCHEMA.values():
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version={FORMAT}")
    _switch_to_wal(connection, name, patience)
    if _version(connection)[1] < FORMAT:
        with transaction(connection):
            _migrate(connection, name)
    application, version_now = _version(connection)
    _refuse_newer(version_now, name)
    cure = "restore the file from a backup, or save what can be read: sqlite3 FILE .recover"
    found: dict[str, str] = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    if application != APPLICATION_ID or any(found.get(item) != sql for item, sql in SCHEMA.items()):
        raise StoreError(name, "its tables aren't as flowkit made them", cure, "damaged")
    for table in ("runs", "leases", "mail"):
        report: list[tuple[str]] = connection.execute(f"PRAGMA integrity_check('{table}')").fetchall()
        if report != [("ok",)]:
            raise StoreError(name, f"its index of runs is damaged ({report[0][0]})", cure, "damaged")


def _version(connection: sqlite3.Connection) -> tuple[int, int]:
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return application, version


def _switch_to_wal(connection: sqlite3.Connection, name: str, patience: float) -> None:
    """Kept in the file, so done once. SQLite doesn't wait for others here, so this does."""
    until = time.monotonic() + patience
    mode = ""
    while not mode:
        try:
            mode = str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if told(error) != "busy" or time.monotonic() >= until:
                raise
            time.sleep(0.005)
    if mode != "wal":
        problem = "this file system can't hold it (SQLite needs shared memory for its write-ahead log)"
        raise StoreError(name, problem, "name a path on a local disk", "failed")


def _migrate(connection: sqlite3.Connection, name: str) -> None:
    while (version := _version(connection)[1]) < FORMAT:
        if version not in MIGRATIONS:
            problem = f"no flowkit has ever written format {version}"
            raise StoreError(name, problem, "restore the file from a backup", "damaged")
        MIGRATIONS[version](connection)
        connection.execute(f"PRAGMA user_version={version + 1}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """All that is in the block, or nothing."""
    if connection.in_transaction:  # left by an exception that came at the wrong moment (Ctrl-C)
        connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has ended it by itself after some errors
            connection.execute("ROLLBACK")
        raise


_KINDS: dict[int, Kind] = {
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_PERM: "read-only",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_CONSTRAINT: "damaged",  # no statement here runs into one of an undamaged file
    sqlite3.SQLITE_MISMATCH: "damaged",
}
_CURES: dict[Kind, tuple[str, str]] = {
    "busy": ("another process or thread is writing to it", "try again"),
    "read-only": ("it can't be written", "let this user write to the file and its folder"),
    "full": ("the disk is full", "make room and try again: what was committed before is safe"),
    "damaged": ("the file is damaged", "restore it from a backup, or save what can be read: sqlite3 FILE .recover"),
    "failed": ("SQLite failed", "see the cause; what was committed before is safe"),
}


def told(error: sqlite3.Error) -> Kind:
    """What an error of SQLite is."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by Python's module: where it can't decode a text, that isn't what was written
        return "damaged" if isinstance(error, sqlite3.OperationalError) else "failed"
    return _KINDS.get(code & 0xFF, "failed")


@contextmanager
def explained(name: str) -> Generator[None]:
    """Turns errors of SQLite into a `StoreError`."""
    try:
        yield
    except sqlite3.Error as error:
        kind = told(error)
        problem, cure = _CURES[kind]
        if kind == "busy":
            raise StoreBusy(name, problem, cure) from error
        code: str = getattr(error, "sqlite_errorname", type(error).__name__)
        raise StoreError(name, f"{problem} ({code}: {error})", cure, kind) from error
    except UnicodeDecodeError as error:  # an error of SQLite's that quotes damaged text
        raise StoreError(name, *_CURES["damaged"], "damaged") from error
