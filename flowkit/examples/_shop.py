"""A database for `flowkit.examples.text_to_sql` that can only be read, and the script that plays its model offline."""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from flowkit.examples._model import Message, Reply

MOST_ROWS, MOST_INSTRUCTIONS = 50, 20_000_000
"""Of one query. SQLite does some 50 million instructions a second."""

SHOP = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT NOT NULL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customer, day TEXT, euros REAL);
INSERT INTO customer VALUES (1, 'Ada', 'Ghent'), (2, 'Bob', 'Turin'), (3, 'Cleo', 'Ghent');
INSERT INTO orders VALUES (1, 1, '2026-01-03', 20.5), (2, 1, '2026-02-10', 99), (3, 2, '2026-02-11', 15);
INSERT INTO orders VALUES (4, 3, '2026-03-01', 8);
"""


@contextmanager
def open_database(path: Path | None) -> Generator[sqlite3.Connection]:
    """The database, to be read and nothing else; from any thread, one at a time."""
    uri = ":memory:" if path is None else f"{path.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as database:
        if path is None:
            database.executescript(SHOP)
        database.set_authorizer(only_reading)
        database.set_progress_handler(lambda: 1, MOST_INSTRUCTIONS)
        yield database


def only_reading(action: int, first: str | None, second: str | None, *_: object) -> int:
    reads = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in reads and second != "load_extension" else sqlite3.SQLITE_DENY


QUESTION = "Which customer spent the most?"


def script(messages: Sequence[Message]) -> Reply:
    """What is said offline: a wrong column at first."""
    if messages[1]["content"] != QUESTION:
        return Reply(f"```sql\nSELECT 'I am a script and know one question: {QUESTION}' AS answer\n```")
    if messages[-1]["content"].startswith("SQLite says"):
        return Reply("The column is called euros.")
    amount = "amount" if len(messages) == 2 else "euros"
    return Reply(
        f"```sql\nSELECT name, sum({amount}) AS spent FROM orders JOIN customer ON customer.id = customer_id\n"
        "GROUP BY customer_id ORDER BY spent DESC LIMIT 1\n```"
    )
