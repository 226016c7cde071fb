"""``flowkit draw`` and ``flowkit doctor``."""

import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from cli_runs import Folder, entered

from flowkit import __version__
from flowkit.sqlite_file import APPLICATION_ID, FORMAT

HAS_TRIO = find_spec("trio") is not None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    with entered(tmp_path, monkeypatch) as folder:
        yield folder


def stored(folder: Folder, *values: str) -> None:
    """A store with a run "one" that has ended."""
    call = ["run", "flows:JokeFlow", *(values or ["topic=x"]), "--store", "runs.db", "--run-id", "one", "-q"]
    assert folder.call(*call).code in (0, 1)


# ----------------------------------------------------------------------------------------------------------------- draw


def test_mermaid_on_standard_output(folder: Folder) -> None:
    for more in ([], ["-o", "-"]):
        told = folder.call("draw", "flows:JokeFlow", *more)
        assert (told.code, told.err) == (0, "")
        assert told.out.startswith("flowchart TD\n") and '["write"]' in told.out


@pytest.mark.parametrize(
    ("name", "begin"),
    [("a.html", "<!doctype html>"), ("a.HTM", "<!doctype"), ("a.svg", "<svg"), ("a.mmd", "flowchart")],
)
def test_a_file(folder: Folder, name: str, begin: str) -> None:
    told = folder.call("draw", "flows:JokeFlow", "--output", name)
    assert (told.code, told.out, told.err) == (0, "", f"{name} is written\n")
    assert (folder.path / name).read_text(encoding="utf-8").lower().startswith(begin)


def test_faulty_wiring_is_drawn(folder: Folder) -> None:
    assert folder.call("draw", "flows:Faulty").code == 0


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("a.pdf", "a.pdf has the suffix .pdf, which is no kind of drawing: write a.html, a.svg or a.mmd"),
        ("a", "a has no suffix, which is no kind of drawing: write a.html, a.svg or a.mmd"),
        ("nowhere/a.svg", "nowhere/a.svg can't be written: there is no folder nowhere"),
        ("folder.svg", "folder.svg can't be written: Is a directory"),
    ],
)
def test_a_file_that_can_not_be_written(folder: Folder, output: str, said: str) -> None:
    (folder.path / "folder.svg").mkdir()
    told = folder.call("draw", "flows:JokeFlow", "-o", output)
    assert (told.code, told.out, told.err) == (2, "", f"Error: {said}\n")


def test_a_stored_run_is_drawn(folder: Folder) -> None:
    stored(folder)
    told = folder.call("draw", "flows:JokeFlow", "--run", "one", "--store", "runs.db")
    assert told.code == 0
    assert told.out.startswith("gantt\n    title JokeFlow run one - done")
    assert folder.call("draw", "flows:JokeFlow", "--run", "one", "--store", "runs.db", "-o", "one.html").code == 0
    assert "judge" in (folder.path / "one.html").read_text(encoding="utf-8")


def test_runs_nested_in_a_stored_run_are_drawn_with_it(folder: Folder) -> None:
    module = folder.write_flows()
    stored = ["--store", "runs.db"]
    assert folder.call("run", f"{module}:outer", "-q", *stored, "--run-id", "one", input="yes\n").code == 0
    assert folder.call("draw", f"{module}:outer", "--run", "one", *stored, "-o", "one.svg").code == 0
    drawn = (folder.path / "one.svg").read_text(encoding="utf-8")
    assert "Outer" in drawn and "Asking" in drawn and ">ask<" in drawn
    shown = folder.call("runs", "show", "one", *stored, "--json")
    (inner,) = json.loads(shown.out)["nested"]
    told = folder.call("draw", f"{module}:outer", "--run", inner["run_id"], *stored)
    assert told.out.startswith("gantt\n    title Asking run one")


def test_a_run_that_waits_is_drawn_and_left_alone(folder: Folder) -> None:
    module = folder.write_flows()
    call = ["run", f"{module}:Asking", "--store", "runs.db", "--run-id", "one", "-q"]
    assert folder.call(*call, "topic=x", input="").code == 4
    assert folder.call("draw", f"{module}:Asking", "--run", "one", "--store", "runs.db").code == 0
    assert folder.call(*call, input="yes\n").out == "True GOOD\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--run", "oen", "--store", "runs.db"], 2, "the store has no run 'oen': did you mean 'one'?"),
        (
            ["--run", "xyz", "--store", "runs.db"],
            2,
            "the store has no run 'xyz': `flowkit runs list` lists those it has.",
        ),
        (["--run", "one", "--store", "rns.db"], 3, "there is no store rns.db: did you mean 'runs.db'?"),
        (["--run", "one", "--store", "no/runs.db"], 3, "there is no store no/runs.db: there is no folder no"),
        (["--run", "one"], 2, "which store? Write --store runs.db, or set FLOWKIT_STORE, or write store = "),
    ],
)
def test_a_run_that_is_not_there(folder: Folder, arguments: list[str], code: int, said: str) -> None:
    stored(folder)
    told = folder.call("draw", "flows:JokeFlow", *arguments)
    assert (told.code, told.out) == (code, "")
    assert told.err.startswith(f"Error: {said}")


def test_a_run_of_another_workflow(folder: Folder) -> None:
    stored(folder)
    told = folder.call("draw", "flows:Asking", "--run", "one", "--store", "runs.db")
    assert (told.code, told.err) == (2, "Error: run 'one' is one of JokeFlow, not of Asking\n")


# --------------------------------------------------------------------------------------------------------------- doctor


def test_what_is_installed_and_works(folder: Folder) -> None:
    told = folder.call("doctor")
    assert (told.code, told.err) == (0, "all is well\n")
    lines = [line.split() for line in told.out.splitlines()]
    assert ["python", ".".join(map(str, sys.version_info[:3]))] in lines
    assert ["asyncio", "runs", "work"] in lines
    assert (["trio", "runs", "work"] in lines) == HAS_TRIO
    assert any(line[:2] == ["flowkit", __version__] for line in lines)


def test_doctor_as_json(folder: Folder) -> None:
    data = json.loads(folder.call("doctor", "--json").out)
    assert data["ok"] is True and data["packages"]["flowkit"]["version"] == __version__
    assert data["backends"]["asyncio"]["state"] == "ok"
    assert "store" not in data


def test_a_package_that_is_missing_or_too_old(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    real = metadata.version

    class Said(dict[str, str]):
        def get_all(self, name: str) -> list[str]:
            assert name == "Requires-Dist"
            return ["anyio>=99.1", "attrs>=21", "rich>=13.9; extra == 'cli'", "anyio[trio]; extra == 'trio'"]

    def version(name: str) -> str:
        if name == "rich":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "metadata", lambda name: Said({"Requires-Python": ">=3.11"}))
    monkeypatch.setattr(metadata, "version", version)
    told = folder.call("doctor")
    assert (told.code, told.err) == (1, "1 thing is wrong (!)\n")
    lines = [" ".join(line.split()) for line in told.out.splitlines()]
    assert f"! anyio {real('anyio')}, but flowkit needs 99.1 or later" in lines
    assert f"attrs {real('attrs')}" in lines
    assert '- rich not installed: pip install "flowkit[cli]"' in lines


def test_a_backend_that_does_not_work(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise OSError("no event loop today")

    monkeypatch.setattr("anyio.run", broken)
    told = folder.call("doctor")
    assert told.code == 1
    assert "  ! asyncio  a run fails: OSError: no event loop today\n" in told.out


def facts(folder: Folder, path: str = "runs.db") -> tuple[int, dict[str, tuple[str, str]]]:
    told = folder.call("doctor", "--store", path, "--json")
    found = json.loads(told.out)["store"]
    return told.code, {name: (one["state"], one["text"]) for name, one in found.items()}


def test_a_sound_store(folder: Folder) -> None:
    stored(folder)
    before = {file.name for file in folder.path.iterdir()}
    code, found = facts(folder)
    assert code == 0
    size = (folder.path / "runs.db").stat().st_size
    assert found["file"] == ("ok", f"{size:,} bytes")
    assert found["format"] == ("ok", str(FORMAT))
    assert found["journal"] == ("ok", "WAL")
    assert found["runs"] == ("ok", "1 finished")
    assert found["records"] == ("ok", "those of 1 run are whole")
    assert found["drivers"] == ("ok", "nobody")
    assert found["mail"] == ("ok", "none waits")
    assert found["writing"] == ("ok", "it can be written")
    assert {file.name for file in folder.path.iterdir()} == before
    assert "store runs.db\n" in folder.call("doctor", "--store", "runs.db").out


def test_mail_that_waits(folder: Folder) -> None:
    flows = folder.write_flows()
    stored = ["--store", "runs.db"]
    send = ["Answer", "who=boss", "ok=yes", *stored, "--flow", f"{flows}:Asking"]
    for run_id, told in [("one", "1 message waits for run one, for "), ("two", "2 messages wait for runs one, two, ")]:
        assert folder.call("run", f"{flows}:Asking", "topic=x", "-q", *stored, "--run-id", run_id).code == 4
        assert folder.call("runs", "send", run_id, *send).code == 0
        state, text = facts(folder)[1]["mail"]
        assert state == "ok" and text.startswith(told)
    with closing(sqlite3.connect("runs.db")) as file, file:
        file.execute("UPDATE mail SET data = x'00' WHERE number = 1")
    code, found = facts(folder)
    assert code == 1 and found["mail"][0] == "wrong" and found["mail"][1].endswith("; 1 can't be read")


def test_a_store_that_is_not_there_is_not_made(folder: Folder) -> None:
    assert facts(folder) == (1, {"file": ("wrong", "there is none")})
    assert not (folder.path / "runs.db").exists()


def test_what_is_no_store(folder: Folder) -> None:
    folder.write("text.db", "no database")
    code, found = facts(folder, "text.db")
    assert code == 1 and found["kind"] == ("wrong", "it is no SQLite database, so no store")
    connection = sqlite3.connect(folder.path / "other.db")
    connection.execute("CREATE TABLE things(name)")
    connection.close()
    code, found = facts(folder, "other.db")
    assert code == 1 and found["kind"] == ("wrong", "it is the database of another program, no store")


def test_a_store_of_a_newer_flowkit(folder: Folder) -> None:
    stored(folder)
    connection = sqlite3.connect(folder.path / "runs.db")
    connection.execute(f"PRAGMA user_version={FORMAT + 1}")
    connection.close()
    code, found = facts(folder)
    assert code == 1
    assert found["format"] == ("wrong", f"{FORMAT + 1}; this flowkit knows {FORMAT}: use a newer one")


def test_a_store_that_is_locked(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowkit.command_line.doctor.PATIENCE", 0.01)
    stored(folder)
    connection = sqlite3.connect(folder.path / "runs.db", isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        code, found = facts(folder)
    finally:
        connection.close()
    assert code == 1
    assert found["writing"] == ("wrong", "another process holds it locked, and doesn't let go")
    assert found["runs"] == ("ok", "1 finished")


def test_a_run_that_is_damaged(folder: Folder) -> None:
    stored(folder)
    connection = sqlite3.connect(folder.path / "runs.db")
    connection.execute("UPDATE records SET data = x'00' WHERE id = (SELECT max(id) FROM records)")
    connection.commit()
    connection.close()
    code, found = facts(folder)
    assert code == 1
    assert found["records"][0] == "wrong" and "run 'one'" in found["records"][1]


def test_a_file_that_is_damaged(folder: Folder) -> None:
    stored(folder)
    file = folder.path / "runs.db"
    data = bytearray(file.read_bytes())
    assert int.from_bytes(data[68:72], "big") == APPLICATION_ID
    data[4096:] = os.urandom(len(data) - 4096)
    file.write_bytes(data)
    code, found = facts(folder)
    assert code == 1
    assert "wrong" in {state for state, _ in found.values()}
