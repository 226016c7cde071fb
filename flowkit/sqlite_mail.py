"""The table of messages in a `SQLiteStore`'s file.

A message has a row until it is taken, or refused and withdrawn; mostly there is none, so nothing here has an index.
Numbers are never used again, as whoever posted a message knows by its being gone that it was taken: a row with the
number 0 has the last one that was given, in the place of its run. A row has a checksum over all of it and its run's id.

A week after it was posted a message that was refused is forgotten. So is one whose run isn't there: a flowkit that
knows no mail, and had the file open while it was brought up to date, deletes runs and leaves their mail. It is listed
as a damaged one of a run without a name, which nobody drives: it keeps nobody from their own.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any
from zlib import crc32

from flowkit.storage_errors import StoreError
from flowkit.store import ENDED, Message, Write

__all__ = ["enter_mail", "find_mail", "find_message", "forget_mail", "may_take", "post_message", "withdraw_message"]

FORGET = 7 * 24 * 3600.0
"""Seconds a refusal waits for who posted the message."""

_ALL = (
    "SELECT number, run, run_id, status, data, posted, refusal, mail.seal FROM mail LEFT JOIN runs ON key = run "
    "WHERE number > 0 {} ORDER BY number"
)


def post_message(cursor: sqlite3.Cursor, key: int, run_id: str, data: bytes, time: float, name: str) -> int:
    """Add a message for the run of this key and id; its number. ``name`` is the store's, for errors."""
    cursor.execute(
        "DELETE FROM mail WHERE number > 0 AND posted < ? "
        "AND (refusal IS NOT NULL OR NOT EXISTS (SELECT 1 FROM runs WHERE key = run))",
        (time - FORGET,),
    )
    last = cursor.execute("SELECT run, data, posted, refusal, seal FROM mail WHERE number = 0").fetchone()
    number: int = 1
    if last is not None:
        if last != _last(last[0]):
            raise _damaged(name)
        number = last[0] + 1
    columns = "number, run, data, posted, refusal, seal"
    cursor.execute(f"INSERT OR REPLACE INTO mail({columns}) VALUES (0, ?, ?, ?, ?, ?)", _last(number))
    seal = _seal(number, key, run_id, data, time, None)
    cursor.execute("INSERT INTO mail VALUES (?, ?, ?, ?, NULL, ?)", (number, key, time, data, seal))
    return number


def find_mail(cursor: sqlite3.Cursor, run_id: str | None) -> list[Message]:
    query = _ALL.format("" if run_id is None else "AND run_id = ?")
    rows = cursor.execute(query, () if run_id is None else (run_id,))
    found = [(_message(row), row[3]) for row in rows]
    return [one for one, status in found if one.refusal is None and status not in ENDED and status != "damaged"]


def find_message(cursor: sqlite3.Cursor, number: int, name: str) -> Message | None:
    row = cursor.execute(_ALL.format("AND number = ?"), (number,)).fetchone()
    if row is not None and row[2] is None:
        raise _damaged(name)  # of what was sent by whoever asks: nobody will take it
    return None if row is None else _message(row)


def withdraw_message(cursor: sqlite3.Cursor, number: int) -> bool:
    return number > 0 and cursor.execute("DELETE FROM mail WHERE number = ?", (number,)).rowcount == 1


def may_take(cursor: sqlite3.Cursor, numbers: Sequence[int]) -> bool:
    """Whether all of these are there and weren't refused."""
    query = "SELECT 1 FROM mail WHERE number = ? AND number > 0 AND refusal IS NULL"
    return all(cursor.execute(query, (number,)).fetchone() is not None for number in numbers)


def enter_mail(cursor: sqlite3.Cursor, write: Write) -> None:
    """What a write takes, and what it refuses."""
    cursor.executemany("DELETE FROM mail WHERE number = ?", [(number,) for number in write.taken])
    for number, why in write.refused:
        row = cursor.execute(_ALL.format("AND number = ?"), (number,)).fetchone()
        if row is None or row[2] is None:
            continue
        _, key, run_id, _, data, posted, *_ = row
        if not isinstance(data, bytes) or not isinstance(posted, float):
            data, posted = b"", 0.0
        cursor.execute(
            "UPDATE mail SET refusal = ?, posted = ?, data = ?, seal = ? WHERE number = ?",
            (why, posted, data, _seal(number, key, run_id, data, posted, why), number),
        )


def forget_mail(cursor: sqlite3.Cursor, key: int) -> None:
    """Remove all mail of a run."""
    cursor.execute("DELETE FROM mail WHERE run = ? AND number > 0", (key,))


def _message(row: tuple[Any, ...]) -> Message:
    number, key, run_id, _, data, posted, refusal, seal = row
    if run_id is None or not isinstance(data, bytes) or seal != _seal(number, key, run_id, data, posted, refusal):
        return Message(number, run_id or "", None, 0.0)
    return Message(number, run_id, data, posted, refusal)


def _last(number: Any) -> tuple[Any, ...]:
    """The row of the last number given."""
    return (number, b"", 0.0, None, _seal(0, number, "", b"", 0.0, None))


def _seal(number: int, key: int, run_id: str, data: bytes, posted: Any, refusal: Any) -> int:
    return crc32(data, crc32(repr((number, key, run_id, posted, refusal)).encode("utf-8", "surrogatepass")))


def _damaged(name: str) -> StoreError:
    cure = "restore it from a backup, or save what can be read: sqlite3 FILE .recover"
    return StoreError(name, "its mail isn't as it was written", cure, "damaged")
