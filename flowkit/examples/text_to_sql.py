"""Ask a database in words: a model writes SQL, SQLite says what is wrong with it, the model reflects and tries again::

    python -m flowkit.examples.text_to_sql ["question"] [--database FILE] [--tries N] [--backend trio]

Without a file it asks a small shop that is made in memory. Offline a script plays the model, and knows one question; a
model answers where ``OPENAI_BASE_URL`` or ``OPENAI_API_KEY`` is set (and ``OPENAI_MODEL``). Exit code 0: answered;
1: no query worked, or the model failed; 2: wrong usage; 130: stopped by Ctrl-C.

How it works::

    Ask ── describe ── Try ── write ── Query ── execute ─┬─ Rows
                        └──────── reflect ──── Flawed ───┘

- `write` asks the model for a query, `reflect` what was wrong with it; after enough tries it ends the run.
- Whatever the model writes can only read: the file is opened read-only, an authorizer lets nothing else through, and a
  query stops after so many instructions and rows.
- The connection is a resource of the run: opened when it is first needed, closed when the run ends, however it ends.
"""

import re
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

from flowkit import Context, Event, Resource, StartEvent, StopEvent, Workflow, step
from flowkit.examples._chat import RetryWhenAsked
from flowkit.examples._model import Message, Model, model_of_environment
from flowkit.examples._shop import MOST_ROWS, QUESTION, open_database, script
from flowkit.examples._terminal import parser_of, read_options, run_program, say


class Ask(StartEvent):
    """Starts a run. Without a ``database`` it is the shop's."""

    question: str
    database: Path | None = None


class Try(Event):
    """The model is to write a query, for the ``number``-th time, from 1."""

    messages: tuple[Message, ...]
    number: int = 1


class Query(Event):
    """The query is to be run. Shown, too."""

    sql: str
    attempt: Try


class Flawed(Event):
    """It couldn't be. Shown, too."""

    sql: str
    error: str
    attempt: Try


class Rows(StopEvent):
    """Ends a run. ``failure`` says why there are no columns."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    failure: str = ""


def database_of(ev: Ask) -> AbstractContextManager[sqlite3.Connection]:
    return open_database(ev.database)


Database = Annotated[sqlite3.Connection, Resource(database_of)]


class TextToSql(Workflow):
    """Answers a question from a database, with at most ``tries`` queries."""

    def __init__(self, model: Model | None = None, *, tries: int = 4) -> None:
        super().__init__()
        self.model = model or model_of_environment(script)
        self.tries = tries

    @step
    def describe(self, ev: Ask, database: Database) -> Try:
        """Tell the model what there is."""
        tables = "\n".join(sql for (sql,) in database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))
        instructions = f"Answer with one SQLite query that only reads, in a ```sql block. The tables:\n{tables}"
        return Try(({"role": "system", "content": instructions}, {"role": "user", "content": ev.question}))

    @step(retry_policy=RetryWhenAsked())
    async def write(self, ctx: Context, ev: Try) -> Query:
        reply = await self.model.reply(ev.messages, lambda piece: None)
        found = re.search(r"```(?:sql)?\s(.*?)(?:```|$)", reply.text, re.DOTALL | re.IGNORECASE)
        query = Query((found[1] if found else reply.text).strip(), ev)
        ctx.write_event_to_stream(query)
        return query

    @step
    def execute(self, ctx: Context, ev: Query, database: Database) -> Rows | Flawed:
        """Run the query, in a thread."""
        try:
            cursor = database.execute(ev.sql)
            if cursor.description is not None:
                columns = tuple(column[0] for column in cursor.description)
                return Rows(columns, tuple(cursor.fetchmany(MOST_ROWS)))
            error = "it is no query"
        except (sqlite3.Error, sqlite3.Warning, ValueError) as refused:
            error = str(refused)
        flawed = Flawed(ev.sql, error, ev.attempt)
        ctx.write_event_to_stream(flawed)
        return flawed

    @step(retry_policy=RetryWhenAsked())
    async def reflect(self, ev: Flawed) -> Try | Rows:
        """Have the model say what was wrong, and try again with that."""
        if ev.attempt.number == self.tries:
            return Rows(failure=f"no query worked; the last error: {ev.error}")
        request = f"SQLite says: {ev.error}. What is wrong with the query? Answer in a sentence, without a query."
        messages = (
            *ev.attempt.messages,
            {"role": "assistant", "content": f"```sql\n{ev.sql}\n```"},
            {"role": "user", "content": request},
        )
        critique = await self.model.reply(messages, lambda piece: None)
        again: Message = {"role": "user", "content": "Write it anew."}
        return Try((*messages, critique.as_message(), again), ev.attempt.number + 1)


async def answer(flow: TextToSql, start: Ask) -> int:
    """Run it, and show its tries."""
    async with flow.run(start_event=start) as handler:
        async for event in handler.stream_events():
            match event:
                case Query(sql=sql):
                    say(sql)
                case Flawed(error=error):
                    say(f"  flawed: {error}\n")
                case _:
                    pass
        found: Rows = await handler
    if found.failure:
        say(found.failure)
        return 1
    say("\n" + " | ".join(found.columns))
    for row in found.rows:
        say(" | ".join(str(value) for value in row))
    say(f"({len(found.rows)} rows{', and maybe more' if len(found.rows) == MOST_ROWS else ''})")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = parser_of("text_to_sql", "Ask a database in words.")
    parser.add_argument("question", nargs="?", default=QUESTION, help=f"(default: {QUESTION})")
    parser.add_argument("--database", metavar="FILE", type=Path, help="an SQLite file, which is only read")
    parser.add_argument("--tries", metavar="N", type=int, default=4, help="give up after N queries (default: 4)")
    options = read_options(parser, argv)
    if not options.question.strip():
        parser.error("the question is empty")
    if options.tries < 1:
        parser.error(f"--tries takes a number from 1, but got {options.tries}")
    if options.database is not None and not options.database.is_file():
        parser.error(f"{options.database} is no file")
    flow = TextToSql(model_of_environment(script, parser.error), tries=options.tries)
    return run_program(answer, flow, Ask(options.question, options.database), backend=options.backend)


if __name__ == "__main__":
    sys.exit(main())
