"""``flowkit doctor``: what is installed, whether runs work on each backend, and how a store is."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import click

from flowkit.command_line.exits import DONE, FAILED, INTERNAL, INTERRUPTED, WRONG_USE
from flowkit.command_line.group import Verb
from flowkit.command_line.options import json_option, store_option, store_path
from flowkit.command_line.output import say, tell, tell_json

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from flowkit.store import Message

__all__ = ["doctor"]

PACKAGES = ("anyio", "attrs", "cattrs", "trio", "click", "rich", "hypothesis", "pytest", "opentelemetry-api")
READ = 10_000
"""Runs, the latest, whose records are read."""
PATIENCE = 1.0
"""Seconds to wait for somebody who writes to the store."""

State = Literal["ok", "absent", "wrong"]


@attrs.frozen
class Finding:
    """One thing that was looked at: ``text`` says what was found. ``facts`` are for JSON."""

    about: str
    state: State
    text: str
    facts: dict[str, Any] = attrs.field(factory=dict[str, Any])


@click.command(
    cls=Verb,
    codes={DONE: "all is well", FAILED: "something is wrong", WRONG_USE: None, INTERNAL: None, INTERRUPTED: None},
    short_help="Tell what is installed, what works, and how a store is.",
)
@store_option
@json_option
def doctor(store: str | None, as_json: bool) -> int:
    """Tell what is installed and whether it is recent enough, run a tiny workflow on each backend, and look a store
    over.

    Nothing in a store is changed. Packages that aren't installed are no fault where only an extra needs them.
    """
    path = store_path(store)
    findings = {"packages": _packages(), "backends": _backends(), "store": [] if path is None else _store(path)}
    wrong = [one for several in findings.values() for one in several if one.state == "wrong"]
    if as_json:
        told = {
            title: {one.about: {"state": one.state, "text": one.text, **one.facts} for one in several}
            for title, several in findings.items()
            if several
        }
        tell_json({"ok": not wrong, **told})
    else:
        marks = {"ok": "  ", "absent": "- ", "wrong": "! "}
        for title, several in findings.items():
            if several:
                tell(title if title != "store" else f"store {path}")
            width = max((len(one.about) for one in several), default=0)
            for one in several:
                tell(f"  {marks[one.state]}{one.about:<{width}}  {one.text}")
        say(_count(len(wrong)))
    return FAILED if wrong else DONE


def _count(wrong: int) -> str:
    if not wrong:
        return "all is well"
    return "1 thing is wrong (!)" if wrong == 1 else f"{wrong} things are wrong (!)"


# ------------------------------------------------------------------------------------------------------------ packages


def _packages() -> list[Finding]:
    from flowkit import __version__

    bounds = _bounds()
    found = [_compared("python", ".".join(map(str, sys.version_info[:3])), bounds.get("python", ("", ""))[0])]
    text = __version__ if bounds else f"{__version__} (not installed, run from its source)"
    found.append(Finding("flowkit", "ok", text, {"version": __version__}))
    return [*found, *(_package(name, *bounds.get(name, ("", ""))) for name in PACKAGES)]


def _package(name: str, bound: str, extra: str) -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version(name)
    except PackageNotFoundError:
        cure = f': pip install "flowkit[{extra}]"' if extra else ""
        needed = bool(bound) and not extra
        return Finding(name, "wrong" if needed else "absent", f"not installed{cure}", {"version": None})
    return _compared(name, installed, bound)


def _compared(name: str, installed: str, bound: str) -> Finding:
    facts = {"version": installed, "needs": bound or None}
    if bound and _number(installed) < _number(bound):
        return Finding(name, "wrong", f"{installed}, but flowkit needs {bound} or later", facts)
    return Finding(name, "ok", installed, facts)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _bounds() -> dict[str, tuple[str, str]]:
    """The least version of each package that flowkit says it needs, and the extra that it is for; of Python, too."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        told = metadata("flowkit")
    except PackageNotFoundError:
        return {}
    found: dict[str, tuple[str, str]] = {"python": (str(told["Requires-Python"] or "").removeprefix(">="), "")}
    for line in told.get_all("Requires-Dist") or []:
        matched = re.match(r"([\w.-]+)(?:\[[\w,]*\])?[^;]*?>=\s*([\w.]+)", line)
        if matched is None:
            continue
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", line)
        name = matched[1].lower()
        if name not in found or (extra is not None and extra[1] == name):
            found[name] = matched[2], "" if extra is None else extra[1]
    return found


# ------------------------------------------------------------------------------------------------------------ backends


def _backends() -> list[Finding]:
    from importlib.util import find_spec

    names = ["asyncio", "trio"]
    return [
        _backend(name) if find_spec(name) is not None else Finding(name, "absent", "not installed") for name in names
    ]


def _backend(name: str) -> Finding:
    """Whether a run works on it."""
    import anyio

    from flowkit import StartEvent, StopEvent, Workflow, step

    class Tiny(Workflow):
        @step
        async def double(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=2 * ev.n)

    async def main() -> int:
        result: int = await Tiny().run(n=21)
        return result

    try:
        result = anyio.run(main, backend=name)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
        return Finding(name, "wrong", f"a run fails: {type(error).__name__}: {error}")
    if result != 42:
        return Finding(name, "wrong", f"a run gives {result!r} instead of 42")
    return Finding(name, "ok", "runs work")


# --------------------------------------------------------------------------------------------------------------- store


def _store(path: Path) -> list[Finding]:
    """How a store is, without changing anything in it."""
    import sqlite3

    if not path.exists():
        return [Finding("file", "wrong", "there is none")]
    try:
        size = path.stat().st_size
        with path.open("rb") as opened:
            head = opened.read(72)
    except OSError as error:
        return [Finding("file", "wrong", f"it can't be read: {error.strerror}")]
    found = [Finding("file", "ok", f"{size:,} bytes{_log_size(path)}", {"bytes": size})]
    if head[:16] != b"SQLite format 3\x00":
        return [*found, Finding("kind", "wrong", "it is no SQLite database, so no store")]
    try:
        connection = _connected(path)
    except sqlite3.Error as error:
        return [*found, Finding("kind", "wrong", f"SQLite can't open it: {error}")]
    try:
        found += _database(connection)
    except sqlite3.Error as error:
        return [*found, Finding("contents", "wrong", f"SQLite can't read it: {error}")]
    finally:
        connection.close()  # before those that may write: the last to close puts the log away, which this one can't
    by_name = {one.about: one for one in found}
    if "SQLite" not in by_name:
        return found  # it is no store, or a newer one
    is_current = by_name["format"].facts["format"] == by_name["format"].facts["this_flowkit"]
    if is_current and by_name["SQLite"].state == "ok":
        found += _records(path)
    return [*found, _lock(path)]


def _log_size(path: Path) -> str:
    log = path.with_name(f"{path.name}-wal")
    return f", and {log.stat().st_size:,} in its log (-wal)" if log.exists() else ""


def _connected(path: Path) -> "sqlite3.Connection":
    """A connection that only reads; where even that needs to write beside the file and can't, one that takes the file
    as it is."""
    import sqlite3

    uri = path.absolute().as_uri()
    for options in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(f"{uri}?{options}", uri=True, timeout=PATIENCE, isolation_level=None)
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            if "unable to open" not in str(error):
                raise
        else:
            return connection
    raise sqlite3.OperationalError("unable to open it")


def _database(connection: "sqlite3.Connection") -> list[Finding]:
    from flowkit.sqlite_file import APPLICATION_ID, FORMAT

    def ask(question: str) -> Any:
        return connection.execute(question).fetchone()[0]

    if ask("PRAGMA application_id") != APPLICATION_ID:
        return [Finding("kind", "wrong", "it is the database of another program, no store")]
    version = ask("PRAGMA user_version")
    facts = {"format": version, "this_flowkit": FORMAT}
    if version > FORMAT:
        return [Finding("format", "wrong", f"{version}; this flowkit knows {FORMAT}: use a newer one", facts)]
    older = "" if version == FORMAT else f"; this flowkit makes it {FORMAT} when it opens it"
    found = [Finding("format", "ok", f"{version}{older}", facts)]
    mode = ask("PRAGMA journal_mode")
    found.append(Finding("journal", "ok" if mode == "wal" else "wrong", str(mode).upper()))
    faults = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(10)")]
    is_whole = faults == ["ok"]
    found.append(
        Finding("SQLite", "ok" if is_whole else "wrong", "its check finds no fault" if is_whole else "; ".join(faults))
    )
    statuses = connection.execute(
        "SELECT status, count(*) FROM runs WHERE parent IS NULL GROUP BY status ORDER BY status"
    )
    counts = {str(status): int(count) for status, count in statuses}
    listed = ", ".join(f"{count:,} {status}" for status, count in counts.items()) or "none"
    found.append(Finding("runs", "wrong" if counts.get("damaged") else "ok", listed, {"by_status": counts}))
    return found


def _records(path: Path) -> list[Finding]:
    """Whether the records of runs can be read."""
    from flowkit.sqlite_store import SQLiteStore
    from flowkit.storage_errors import RunDamaged, StoreError

    store = SQLiteStore(path, busy_timeout=PATIENCE)
    damaged: list[str] = []
    try:
        runs = store.find(newest=True, limit=READ)
        owners = store.owners()
        mail = store.mail()
        for run in runs:
            try:
                store.read(run.run_id)
            except RunDamaged as error:
                damaged.append(str(error))
    except StoreError as error:
        return [
            Finding(
                "records", "absent" if error.kind in ("read-only", "busy") else "wrong", f"not read: {error.problem}"
            )
        ]
    finally:
        store.close()
    text = f"those of {len(runs):,} {'run' if len(runs) == 1 else 'runs'} are whole"
    if damaged:
        more = f" (and {len(damaged) - 5} more)" if len(damaged) > 5 else ""
        text = " ".join(damaged[:5]) + more
    driven = ", ".join(owners) if owners else "nobody"
    return [
        Finding("records", "wrong" if damaged else "ok", text, {"damaged": len(damaged), "read": len(runs)}),
        Finding("drivers", "ok", driven, {"owners": owners}),
        _mail(mail),
    ]


def _mail(mail: "Sequence[Message]") -> Finding:
    """What was posted to runs, and nobody has taken yet."""
    from flowkit import outside
    from flowkit.command_line.stored import ago

    unreadable = sum(one.data is None for one in mail)
    runs = sorted({one.run_id for one in mail if one.run_id})
    facts = {"waiting": len(mail), "runs": runs}
    if not mail:
        return Finding("mail", "ok", "none waits", facts)
    text = f"{len(mail):,} {'message waits' if len(mail) == 1 else 'messages wait'}"
    if runs:
        more = f" and {len(runs) - 5:,} more" if len(runs) > 5 else ""
        text += f" for run{'' if len(runs) == 1 else 's'} {', '.join(runs[:5])}{more}"
    text += f", for {ago(min(one.time for one in mail), outside.current().time())}"
    if unreadable:
        return Finding("mail", "wrong", f"{text}; {unreadable:,} can't be read", facts)
    return Finding("mail", "ok", text, facts)


def _lock(path: Path) -> Finding:
    """Whether it can be written just now."""
    import sqlite3

    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=PATIENCE, isolation_level=None
        )
    except sqlite3.Error as error:
        return Finding("writing", "wrong", f"it can't be opened for writing: {error}")
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Finding("writing", "wrong", "another process holds it locked, and doesn't let go")
        return Finding("writing", "wrong", f"it can't be written: {error}")
    finally:
        connection.close()
    return Finding("writing", "ok", "it can be written")
