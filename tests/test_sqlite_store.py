"""What is special to SQLiteStore: its file, other processes, a crash, a full disk."""

import itertools
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import flowkit
from flowkit import sqlite_file
from flowkit.errors import WrongCall
from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import RunElsewhere, StoreBusy, StoreError, UnknownRun
from flowkit.store import NewRun, Write

ROOT = Path(flowkit.__file__).parents[1]
PROLOGUE = """
import os, sys, time
from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import *
from flowkit.store import NewRun, Write
path = sys.argv[1]
"""


def started(program: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def told_by(process: "subprocess.Popen[str]") -> str:
    """All it has said, once it has ended well."""
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return said


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "runs.db", busy_timeout=20)
    yield store
    store.close()


def new(run_id: str, *records: bytes, owner: str = "me") -> Write:
    return Write(run_id, 1, 0, records, 1.0, new=NewRun("W", owner))


def kept(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir() if file.is_file()}


# What it is given


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_no_file_is_named(path: str) -> None:
    with pytest.raises(StoreError) as caught:
        SQLiteStore(path)
    assert str(caught.value) == f"SQLiteStore({path!r}): this names no file: use MemoryStore() for that."
    assert caught.value.kind == "no-store"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"path": 3}, "SQLiteStore() takes the path of a file, but got 3."),
        ({"path": b"runs.db"}, "SQLiteStore() takes the path of a file, but got b'runs.db'."),
        ({"synchronous": "OFF"}, 'SQLiteStore() got synchronous=\'OFF\': write "FULL" or "NORMAL".'),
        ({"busy_timeout": -1}, "SQLiteStore() got busy_timeout=-1: write seconds, 0 or more."),
        ({"busy_timeout": "1"}, "SQLiteStore() got busy_timeout='1': write seconds, 0 or more."),
        ({"busy_timeout": float("nan")}, "SQLiteStore() got busy_timeout=nan: write seconds, 0 or more."),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(WrongCall) as caught:
        SQLiteStore(**{"path": "runs.db", **arguments})
    assert str(caught.value) == problem


def test_odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ä ö.db", "a?mode=ro#x%20.db", "file:x.db", "runs.db-wal"):
        store = SQLiteStore(name)
        assert repr(store) == f"SQLiteStore({name!r})"
        store.commit([new("r")])
        store.close()
        assert Path(name).exists()
        os.remove(name)
    assert os.listdir() == []


def test_a_relative_path_is_of_the_folder_it_was_made_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("runs.db")
    monkeypatch.chdir("/")
    store.open()
    store.close()
    assert os.listdir(tmp_path) == ["runs.db"]


def database(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def refused(path: Path) -> StoreError:
    """What every method says; nothing is changed by it."""
    before = kept(path.parent) if path.parent.is_dir() else {}
    store = SQLiteStore(path)
    errors: list[StoreError] = []
    for ask in (store.open, store.find, lambda: store.commit([new("r")]), lambda: store.beat("me", 1.0)):
        with pytest.raises(StoreError) as caught:
            ask()
        errors.append(caught.value)
    store.close()
    assert (kept(path.parent) if path.parent.is_dir() else {}) == before
    texts = {str(error) for error in errors}
    assert len(texts) == 1
    assert all(text.startswith(f"SQLiteStore({str(path)!r}): ") and text.endswith(".") for text in texts)
    return errors[0]


def test_no_folder(tmp_path: Path) -> None:
    error = refused(tmp_path / "here" / "runs.db")
    folder = str(tmp_path / "here")
    assert error.kind == "no-store"
    assert error.problem == f"there is no folder {folder!r}"
    assert error.cure == f"create it first, pathlib.Path({folder!r}).mkdir(parents=True)"


def test_a_folder(tmp_path: Path) -> None:
    error = refused(tmp_path)
    assert (error.kind, error.problem) == ("no-store", "this is a folder")
    assert error.cure == f"name a file in it, {str(tmp_path / 'runs.db')!r}"


def test_no_ordinary_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    error = refused(tmp_path / "pipe")
    assert (error.kind, error.problem) == ("no-store", "this is no ordinary file")


@pytest.mark.parametrize("content", [b"x", b"name,price\n" * 3, b"\0" * 4096, b"PK\3\4" * 5000])
def test_no_database(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "it").write_bytes(content)
    error = refused(tmp_path / "it")
    assert (error.kind, error.problem) == ("no-store", "this file is no SQLite database, or its beginning is damaged")
    assert error.cure == "name another path: this file was left as it is"


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("tables", [["CREATE TABLE runs(x)", "INSERT INTO runs VALUES (1)"], ["PRAGMA user_version=1"]])
def test_a_database_of_another_program(tmp_path: Path, mode: str, tables: list[str]) -> None:
    database(tmp_path / "it", f"PRAGMA journal_mode={mode}", *tables)
    error = refused(tmp_path / "it")
    assert (error.kind, error.problem) == ("no-store", "this database belongs to another program")


def test_a_database_that_another_program_is_using(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "it", isolation_level=None)
    for statement in ("PRAGMA journal_mode=WAL", "CREATE TABLE runs(x)", "BEGIN IMMEDIATE"):
        connection.execute(statement)
    assert refused(tmp_path / "it").kind == "no-store"
    connection.close()


def test_a_newer_format(store: SQLiteStore) -> None:
    store.commit([new("r")])
    store.close()
    database(store.path, "PRAGMA user_version=7")
    error = refused(store.path)
    assert error.kind == "newer"
    assert error.problem == "it was written by a newer flowkit (format 7; this one knows formats up to 2)"
    assert error.cure == "upgrade flowkit here, or name another path"


@contextmanager
def nobody() -> Iterator[None]:
    """As a user whom a file's mode is binding for."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that `nobody` can come to, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)
        os.chmod(folder, 0o777)


@pytest.mark.parametrize(("what", "mode"), [("the file", 0o444), ("its folder", 0o555)])
def test_read_only(open_to_all: Path, what: str, mode: int) -> None:
    store = SQLiteStore(open_to_all / "runs.db")
    store.commit([new("r", b"one")])
    store.close()
    store.path.chmod(0o666)
    (store.path if what == "the file" else open_to_all).chmod(mode)
    with nobody():
        error = refused(store.path)
    assert (error.kind, error.problem) == ("read-only", f"{what} can't be written")
    assert error.cure == (
        "let this user write there (SQLite keeps two more files beside the store's), or name another path"
    )
    open_to_all.chmod(0o777)
    assert store.read("r") == [b"one"]
    store.close()


def test_a_folder_that_is_closed(open_to_all: Path) -> None:
    (open_to_all / "mine").mkdir()
    (open_to_all / "mine").chmod(0o600)
    with nobody():
        with pytest.raises(StoreError, match=r"its folder can't be entered \(Permission denied\)") as caught:
            SQLiteStore(open_to_all / "mine" / "runs.db").open()
    assert caught.value.kind == "read-only"


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "runs.db").touch()
    store = SQLiteStore(tmp_path / "runs.db")
    assert store.commit([new("r", b"one")]) == [True]
    store.close()
    assert SQLiteStore(tmp_path / "runs.db").path.stat().st_size > 0


# The file


def test_a_closed_store_is_one_file(store: SQLiteStore) -> None:
    store.commit([new("r", b"one")])
    assert sorted(os.listdir(store.path.parent)) == ["runs.db", "runs.db-shm", "runs.db-wal"]
    store.close()
    store.close()
    assert os.listdir(store.path.parent) == ["runs.db"]
    assert store.read("r") == [b"one"]  # it opens by itself


def test_settings(tmp_path: Path) -> None:
    for level, number in (("FULL", 2), ("NORMAL", 1)):
        store = SQLiteStore(tmp_path / f"{level}.db", synchronous=level)  # type: ignore[arg-type]
        store.open()
        assert store._opened is not None
        for connection in (store._opened.writer, store._opened.reader):
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._opened.writer.execute("PRAGMA synchronous").fetchone() == (number,)
        store.close()


def test_how_large_it_gets(tmp_path: Path) -> None:
    """At most 500 bytes for a record of 130, and a log that begins anew."""
    store = SQLiteStore(tmp_path / "runs.db", synchronous="NORMAL")
    store.commit([new(f"r{number}") for number in range(20)])
    for position in range(150):
        store.commit([Write(f"r{number}", 1, position, [b"x" * 130], 1.0) for number in range(20)])
    largest = store.path.with_name("runs.db-wal").stat().st_size
    store.close()
    assert store.path.stat().st_size < 250 * 20 * 150
    assert largest < 6_000_000


def test_it_is_brought_up_to_date(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit([new("r", b"one")])
    store.close()
    monkeypatch.setattr(sqlite_file, "FORMAT", 4)
    monkeypatch.setitem(sqlite_file.MIGRATIONS, 2, lambda connection: connection.execute("CREATE TABLE added(x)"))

    def fails(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO added VALUES (1)")
        raise sqlite3.OperationalError("no")

    monkeypatch.setitem(sqlite_file.MIGRATIONS, 3, fails)
    with pytest.raises(StoreError):
        store.open()
    with closing(sqlite3.connect(store.path)) as connection:
        assert dict(connection.execute("SELECT name, 1 FROM sqlite_master")).get("added") is None
    monkeypatch.setitem(sqlite_file.MIGRATIONS, 3, lambda connection: connection.execute("CREATE TABLE more(x)"))
    assert store.read("r") == [b"one"]
    store.close()
    monkeypatch.setattr(sqlite_file, "FORMAT", 3)
    assert refused(store.path).kind == "newer"


def test_a_file_that_was_taken_away(store: SQLiteStore) -> None:
    store.commit([new("r", b"one")])
    away = store.path.with_name("away.db")
    store.path.rename(away)
    with pytest.raises(StoreError, match=r"the file was moved, deleted or replaced while it was open") as caught:
        store.commit([new("s")])
    assert caught.value.kind == "no-store"
    away.rename(store.path)
    assert store.commit([new("s")]) == [True]


# What fails


def test_a_commit_that_fails_leaves_nothing(store: SQLiteStore) -> None:
    store.commit([new("r", b"one")])
    writes: list[Write] = [Write("r", 1, 1, [b"two"], 1.0, "waiting"), new("s"), Write("r", 1, 2, ["three"], 1.0)]  # type: ignore[list-item]
    with pytest.raises(TypeError):
        store.commit(writes)
    info = store.info("r")
    assert info is not None and (info.length, info.status) == (1, "running")
    assert (store.read("r"), store.info("s")) == ([b"one"], None)
    assert store.commit([Write("r", 1, 1, [b"two"], 1.0)]) == [True]


def test_the_disk_is_full(store: SQLiteStore) -> None:
    store.commit([new("r", b"one")])
    assert store._opened is not None
    pages = store._opened.writer.execute("PRAGMA page_count").fetchone()[0]
    store._opened.writer.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(StoreError) as caught:
        store.commit([Write("r", 1, 1, [b"two"], 1.0), new("s", b"x" * 50_000)])
    assert caught.value.kind == "full"
    assert caught.value.problem == "the disk is full (SQLITE_FULL: database or disk is full)"
    assert caught.value.cure == "make room and try again: what was committed before is safe"
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert (store.read("r"), store.info("s")) == ([b"one"], None)
    assert store.commit([Write("r", 1, 1, [b"two"], 1.0)]) == [True]
    store._opened.writer.execute("PRAGMA max_page_count=1000000")
    assert store.commit([new("s", b"x" * 50_000)]) == [True]


def test_the_system_lets_nothing_more_be_written(store: SQLiteStore) -> None:
    """A limit on the size of files: nothing of what fails is stored, and what was stored stays."""
    program = """
import resource
store = SQLiteStore(path)
store.commit([Write("r", 1, 0, [], 1.0, new=NewRun("W", "me"))])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
position, kind = 0, None
while kind is None:
    try:
        store.commit([Write("r", 1, position, [b"%d" % position * 500], 1.0)])
        position += 1
    except StoreError as error:
        kind = error.kind
length = store.info("r").length
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
stored = store.commit([Write("r", 1, position, [b"%d" % position * 500], 1.0)])
store.close()
print(position, kind, length, stored)
"""
    position, kind, length, stored = told_by(started(program, store.path)).split()
    assert kind in ("failed", "full")
    assert position == length and stored == "[True]"
    assert store.read("r") == [b"%d" % number * 500 for number in range(int(position) + 1)]


def test_another_holds_it(store: SQLiteStore) -> None:
    store.commit([new("r", b"one")])
    other = sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StoreBusy) as caught:
        store.commit([Write("r", 1, 1, [b"two"], 1.0)], wait=False)
    assert time.monotonic() - began < 1
    assert caught.value.kind == "busy"
    assert caught.value.problem == "another process or thread is writing to it"
    impatient = SQLiteStore(store.path, busy_timeout=0.05)
    with pytest.raises(StoreBusy):
        impatient.commit([Write("r", 1, 1, [b"two"], 1.0)])
    impatient.close()
    assert store.read("r") == [b"one"]  # reading needn't wait
    later = threading.Timer(0.05, other.rollback)
    later.start()
    assert store.commit([Write("r", 1, 1, [b"two"], 1.0)]) == [True]
    later.join()
    other.close()
    assert store.commit([Write("r", 1, 2, [b"three"], 1.0)], wait=False) == [True]


def test_another_thread_holds_it(store: SQLiteStore) -> None:
    store.open()
    with store._writing:
        with pytest.raises(StoreBusy, match=r"another thread is writing to it"):
            store.commit([new("r")], wait=False)
    assert store.commit([new("r")], wait=False) == [True]


def test_a_similar_run_is_named(store: SQLiteStore) -> None:
    store.commit([new("order-42")])
    with pytest.raises(UnknownRun, match=r"did you mean 'order-42'\?"):
        store.claim("order-43", "me", 1.0)


def test_leases_long_over_are_forgotten(store: SQLiteStore) -> None:
    for number in range(20):
        store.beat(f"host-{number}", number * 24 * 3600.0)
    connection = sqlite3.connect(store.path)
    assert connection.execute("SELECT count(*) FROM leases").fetchone() == (8,)
    connection.close()


# Several processes


def test_two_processes_commit_side_by_side(store: SQLiteStore) -> None:
    program = """
store, me = SQLiteStore(path), sys.argv[2]
input()
store.commit([Write(me, 1, 0, [], 1.0, new=NewRun("W", me))])
won = 0
for position in range(150):
    own = Write(me, 1, position, [me.encode()], 1.0)
    stored = store.commit([own, Write("shared", 1, store.info("shared").length, [me.encode()], 1.0)])
    assert stored[0]
    won += stored[1]
print(won)
store.close()
"""
    store.commit([new("shared")])
    processes = [started(program, store.path, name) for name in ("a", "b")]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    won = [int(told_by(process)) for process in processes]
    shared = store.read("shared")
    assert [shared.count(b"a"), shared.count(b"b")] == won and len(shared) == sum(won)
    assert all(store.read(name) == [name.encode()] * 150 for name in ("a", "b"))


def test_one_of_two_processes_gets_a_run(store: SQLiteStore) -> None:
    program = """
store, me = SQLiteStore(path), sys.argv[2]
store.beat(me, 1e12)
input()
for number in range(60):
    try:
        fence = store.claim(f"r{number}", me, 1.0).fence
        assert store.commit([Write(f"r{number}", fence, 0, [me.encode()], 1.0)]) == [True]
        print(number)
    except RunElsewhere:
        pass
store.close()
"""
    store.commit([new(f"r{number}", owner="gone") for number in range(60)])
    processes = [started(program, store.path, name) for name in ("a", "b")]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    got = [told_by(process).split() for process in processes]
    assert sorted(got[0] + got[1], key=int) == [str(number) for number in range(60)]
    assert {(info.owner, info.fence, info.length) for info in store.find()} <= {("a", 2, 1), ("b", 2, 1)}


def test_whoever_lost_a_run_writes_no_more(store: SQLiteStore) -> None:
    other = SQLiteStore(store.path)
    store.beat("me", 100.0)
    store.commit([new("r", b"one")])
    with pytest.raises(RunElsewhere):
        other.claim("r", "other", 50.0)
    assert other.claim("r", "other", 101.0).fence == 2
    assert store.commit([Write("r", 1, 1, [b"two"], 1.0)]) == [False]
    assert other.commit([Write("r", 2, 1, [b"two"], 1.0)]) == [True]
    assert store.release("r", 1) is False
    other.delete(["r"])
    other.commit([new("s"), new("r")])
    assert store.commit([Write("r", 2, 2, [b"x"], 1.0), Write("r", 1, 0, [b"y"], 1.0)]) == [False, True]
    other.close()


def test_many_processes_make_the_file_at_once(store: SQLiteStore) -> None:
    program = """
store = SQLiteStore(path)
print("ready", flush=True)
input()
print(store.commit([Write(sys.argv[2], 1, 0, [b"x"], 1.0, new=NewRun("W", "me"))]))
store.close()
"""
    processes = [started(program, store.path, number) for number in range(6)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [told_by(process) for process in processes] == ["[True]\n"] * 6
    assert sorted(info.run_id for info in store.find()) == list("012345")


def test_a_reader_sees_whole_commits_in_order(store: SQLiteStore) -> None:
    program = """
store, seen = SQLiteStore(path), set()
print("ready", flush=True)
while True:
    a, b = store.find(statuses=["running"])
    assert a.length == b.length, (a, b)
    records = store.read("a")
    assert records == [b"%d" % number for number in range(len(records))] and len(records) >= a.length
    assert not seen or a.length >= max(seen)
    seen.add(a.length)
    if a.length == 400:
        break
print(len(seen))
store.close()
"""
    store.commit([new("a"), new("b")])
    reader = started(program, store.path)
    assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
    for position in range(400):
        record = [b"%d" % position]
        assert store.commit([Write("a", 1, position, record, 1.0), Write("b", 1, position, record, 1.0)]) == [
            True,
            True,
        ]
    assert int(told_by(reader)) > 5


def test_a_killed_process_has_lost_nothing(store: SQLiteStore) -> None:
    """It says what it has committed, and is killed: all of that is there, and of the next commit all or nothing."""
    program = """
store, numbers = SQLiteStore(path), range(1_000_000)
for run_id in ("a", "b"):
    try:
        store.commit([Write(run_id, 1, 0, [], 1.0, new=NewRun("W", "me"))])
    except StoreError:
        raise SystemExit(1)
a, b = (store.claim(run_id, "me", 1e12) for run_id in ("a", "b"))
for position in range(a.length, 1_000_000):
    writes = [Write(run.run_id, run.fence, position, [b"%d" % position], 1.0) for run in (a, b)]
    assert store.commit(writes) == [True, True]
    os.write(1, b"%d\\n" % position)
"""
    chance = random.Random(6)
    length = 0
    for _ in range(5):
        process = started(program, store.path)
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 150)):
            process.stdout.readline()
        process.kill()
        said = process.communicate()[0].split()
        records = store.read("a")
        assert store.read("b") == records == [b"%d" % number for number in range(len(records))]
        if said and said[-1].isdigit():
            assert int(said[-1]) + 1 <= len(records) <= int(said[-1]) + 2
        assert len(records) > length
        length = len(records)
        store.close()
        assert [file for file in os.listdir(store.path.parent) if file != "runs.db"] == []


def test_forking(store: SQLiteStore) -> None:
    """Both sides go on, and neither disturbs the other."""
    program = """
import threading
store = SQLiteStore(path)
store.commit([Write("r", 1, 0, [b"parent"], 1.0, new=NewRun("W", "me"))])
child = os.fork()
if not child:
    assert store.read("r") == [b"parent"]
    assert store.commit([Write("r", 1, 1, [b"child"], 1.0)]) == [True]
    store.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert store.commit([Write("r", 1, 1, [b"parent"], 1.0)]) == [False]
assert store.commit([Write("r", 1, 2, [b"parent"], 1.0)]) == [True]
children = []
for number in range(4):
    child = os.fork()
    if not child:
        for position in range(20):
            new = NewRun("W", "me") if position == 0 else None
            assert store.commit([Write(f"r{number}", 1, position, [b"x"], 1.0, new=new)]) == [True]
        os._exit(0)
    children.append(child)
    store.beat("me", 1.0)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
print(sum(info.length for info in store.find()))
store.close()
"""
    assert told_by(started(program, store.path)) == "83\n"
    assert store.read("r") == [b"parent", b"child", b"parent"]


def test_closing_while_others_have_it_open(store: SQLiteStore) -> None:
    other = SQLiteStore(store.path)
    for position, one in zip(range(20), itertools.cycle([store, other]), strict=False):
        write = new("r", b"0") if position == 0 else Write("r", 1, position, [b"%d" % position], 1.0)
        assert one.commit([write]) == [True]
        one.close()
        assert len((other if one is store else store).read("r")) == position + 1
    other.close()


GARBAGE = """
import anyio, gc, sys
from flowkit import SQLiteStore, StartEvent, StopEvent, Workflow, step

class Flow(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=1)

async def main():
    await Flow().run(store=SQLiteStore(sys.argv[1]), run_id="a")

anyio.run(main)
gc.collect()
"""


def test_a_store_that_nobody_closes_is_closed_when_it_is_garbage(tmp_path: Path) -> None:
    """Also in a cycle, where Python 3.13 complains of each connection that goes with it."""
    call = [sys.executable, "-W", "always::ResourceWarning", "-c", GARBAGE, str(tmp_path / "runs.db")]
    env = {**os.environ, "PYTHONPATH": str(Path(flowkit.__file__).parents[1])}
    done = subprocess.run(call, check=True, capture_output=True, text=True, env=env)
    assert done.stderr == ""
    assert [file.name for file in tmp_path.iterdir()] == ["runs.db"]  # its log was put away
