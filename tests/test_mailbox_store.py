"""Messages in a `SQLiteStore`: what `check_store` can't know of its file."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from zlib import crc32

import pytest

from flowkit.posting import is_delivered
from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import StoreError, UnknownRun
from flowkit.store import Message, NewRun, Write


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    made = SQLiteStore(tmp_path / "runs.db", synchronous="NORMAL")
    yield made
    made.close()


def new(run_id: str, *records: bytes, owner: str = "me") -> Write:
    return Write(run_id, 1, 0, records, 1.0, new=NewRun("W", owner))


def database(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_a_file_without_mail_gets_it(store: SQLiteStore) -> None:
    """As flowkit made them before runs could be posted to: the file is changed in one transaction, and runs stay."""
    store.commit([new("r", b"one")])
    store.close()
    database(store.path, "DROP TABLE mail", "PRAGMA user_version=1")
    number = store.post("r", b"hello", 2.0)
    assert number is not None
    assert store.mail() == [Message(number, "r", b"hello", 2.0)]
    assert store.read("r") == [b"one"]
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_message_that_was_altered(store: SQLiteStore) -> None:
    store.commit([new("r")])
    numbers = [store.post("r", text, 2.0) for text in (b"one", b"two")]
    for change in ("data = x'00'", "posted = 'x'", "seal = 0"):
        database(store.path, f"UPDATE mail SET {change} WHERE number = {numbers[0]}")
        damaged, whole = store.mail("r")
        assert (damaged.number, damaged.data) == (numbers[0], None)
        assert (whole.number, whole.data) == (numbers[1], b"two")
    store.commit([Write("r", 1, 0, (), 3.0, refused=[(damaged.number, "it can't be read")])])
    told = store.message(damaged.number)
    assert told is not None and told.refusal == "it can't be read"


def test_numbers_that_may_have_been_given_before_are_not_given_again(store: SQLiteStore) -> None:
    """Whoever posted the first would take the other's being gone for its own."""
    store.commit([new("r")])
    assert store.post("r", b"one", 2.0) == 1
    assert not store.withdraw(0)
    assert store.withdraw(1) and store.post("r", b"two", 2.0) == 2
    for change in ("run = 0", "seal = 1", "refusal = ''", "posted = 1.0", "data = x'00'"):
        database(store.path, f"UPDATE mail SET {change} WHERE number = 0")
        with pytest.raises(StoreError, match="its mail isn't as it was written"):
            store.post("r", b"three", 3.0)
        assert [one.data for one in store.mail()] == [b"two"]
        database(store.path, "DELETE FROM mail WHERE number = 0", "DELETE FROM mail WHERE number > 2")
        database(
            store.path, f"INSERT INTO mail SELECT 0, 2, 0.0, x'', NULL, {crc32(repr((0, 2, '', 0.0, None)).encode())}"
        )


def test_what_nobody_asks_for_is_forgotten(store: SQLiteStore) -> None:
    store.commit([new("r")])
    first, second = store.post("r", b"one", 2.0), store.post("r", b"two", 2.0)
    assert first is not None and second is not None
    store.commit([Write("r", 1, 0, (), 3.0, refused=[(first, "no")])])
    week = 7 * 24 * 3600.0
    store.post("r", b"three", week + 1.9)
    assert store.message(first) is not None
    store.post("r", b"four", week + 2.1)
    assert store.message(first) is None
    assert [one.data for one in store.mail("r")] == [b"two", b"three", b"four"]


def test_mail_whose_run_is_gone_keeps_nobody_from_their_own(store: SQLiteStore) -> None:
    """A flowkit that knows no mail has deleted it: it had the file open when that was brought up to date."""
    store.commit([new("gone"), new("r")])
    week = 7 * 24 * 3600.0
    first, second = store.post("gone", b"one", 2.0), store.post("r", b"two", 2.0)
    assert first is not None and second is not None
    database(store.path, "DELETE FROM runs WHERE run_id = 'gone'")
    assert store.mail() == [Message(first, "", None, 0.0), Message(second, "r", b"two", 2.0)]
    assert store.mail("r") == [Message(second, "r", b"two", 2.0)]
    assert store.info("") is None
    with pytest.raises(UnknownRun):
        is_delivered(store, first, "gone", "send_event()")
    store.post("r", b"three", week + 1.9)
    assert len(store.mail()) == 3
    store.post("r", b"four", week + 2.1)
    assert [one.data for one in store.mail()] == [b"two", b"three", b"four"]
    assert store.message(first) is None


def test_a_message_that_has_become_nobodys_is_told_to_who_sent_it(store: SQLiteStore) -> None:
    store.commit([new("r")])
    number = store.post("r", b"one", 2.0)
    assert number is not None
    database(store.path, f"UPDATE mail SET run = 77 WHERE number = {number}")
    with pytest.raises(StoreError, match="its mail isn't as it was written"):
        is_delivered(store, number, "r", "send_event()")


def test_whether_anything_has_changed(store: SQLiteStore) -> None:
    """Quick enough to ask several times a second: microseconds."""
    store.commit([new("r")])
    other = SQLiteStore(store.path)
    before = store.changes()
    store.close()
    assert store.changes() != before  # nobody knows what has happened while it was closed
    before = store.changes()
    assert store.changes() == before
    other.post("r", b"one", 2.0)
    after = store.changes()
    assert after != before and store.changes() == after
    store.close()
    assert store.changes() != after
    other.close()
