"""``flowkit runs list``, ``prune``, ``show``, ``history`` and ``watch``."""

import json
import re
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from runs_shop import Shop, shop
from terminals import Terminal

from flowkit.sqlite_store import SQLiteStore
from flowkit.store import NewRun, Write

__all__ = ["shop"]

VERBS = ["list", "show", "history", "watch", "send", "resume", "cancel", "fork", "prune"]


def altered(shop: Shop, *statements: str) -> None:
    with closing(sqlite3.connect(shop.store, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


# ------------------------------------------------------------------------------------------------------------ the group


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_states_its_exit_codes(shop: Shop, verb: str) -> None:
    told = shop.runs(verb, "--help")
    assert told.code == 0
    codes = told.out.partition("Exit codes:")[2]
    for code in (0, 2, 3, 5, 130):
        assert f"\n  {code} " in codes
    assert "--store" in told.out


def test_help_lists_the_verbs_without_importing_them(shop: Shop) -> None:
    told = shop.runs("--help")
    assert told.code == 0
    for verb in VERBS:
        assert re.search(rf"\n  {verb} +[A-Z]", told.out)
    told = shop.runs("lst")
    assert (told.code, "did you mean 'list'?" in told.err) == (2, True)


ARGUMENTS: dict[str, list[str]] = {
    "list": [], "show": ["a"], "history": ["a"], "watch": ["a"], "send": ["a", "Approved", "by=me"],
    "resume": ["a"], "cancel": ["a"], "fork": ["a", "--after", "charge"], "prune": ["--keep", "1"],
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_a_store_that_can_not_be_used(shop: Shop, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verb makes one, nor changes what isn't one."""

    def refused(code: int, text: str) -> None:
        told = shop.runs(verb, *ARGUMENTS[verb])
        assert (told.code, told.out) == (code, "")
        assert text in told.err and "Traceback" not in told.err and told.err.startswith("Error: ")

    refused(3, "there is no store runs.db: ")
    assert not shop.store.exists()
    shop.store.write_bytes(b"no database at all, but long enough to be one" * 100)
    before = shop.store.read_bytes()
    refused(3, "this file is no SQLite database, or its beginning is damaged")
    assert shop.store.read_bytes() == before
    shop.store.unlink()
    shop.store.mkdir()
    refused(3, "this is a folder")
    shop.store.rmdir()
    altered(shop, "CREATE TABLE others(x)")
    refused(3, "this database belongs to another program")
    shop.store.unlink()
    SQLiteStore(shop.store).open()
    altered(shop, "PRAGMA user_version=99")
    refused(3, "it was written by a newer flowkit")
    monkeypatch.setenv("FLOWKIT_STORE", "nowhere/runs.db")
    refused(3, "there is no store nowhere/runs.db: there is no folder nowhere")
    monkeypatch.delenv("FLOWKIT_STORE")
    refused(2, "which store? Write --store runs.db, or set FLOWKIT_STORE")


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("list", "prune")])
def test_a_run_that_is_not_there(shop: Shop, verb: str) -> None:
    shop.start("order-1")
    arguments = ["order-2", *ARGUMENTS[verb][1:]]
    told = shop.runs(verb, *arguments)
    assert (told.code, told.out) == (2, "")
    assert told.err == "Error: the store has no run 'order-2': did you mean 'order-1'?\n"
    told = shop.runs(verb, "quite-another", *ARGUMENTS[verb][1:])
    assert (told.code, told.err) == (
        2,
        "Error: the store has no run 'quite-another': `flowkit runs list` lists those it has.\n",
    )
    told = shop.runs(verb, "", *ARGUMENTS[verb][1:])
    assert told.code == 2 and "it is empty: `flowkit runs list` lists them" in told.err


@pytest.mark.parametrize("verb", ["history", "watch", "send", "resume", "cancel", "fork"])
def test_a_run_whose_code_is_not_given(shop: Shop, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.start("a")
    monkeypatch.setenv("FLOWKIT_FLOWS", f"{shop.module}:Quick")
    told = shop.runs(verb, *ARGUMENTS[verb])
    assert told.code == 2
    assert told.err == "Error: run 'a' is one of Order, and --flow names Quick: add --flow module:Order\n"
    monkeypatch.delenv("FLOWKIT_FLOWS")
    told = shop.runs(verb, *ARGUMENTS[verb])
    assert told.code == 2
    assert told.err.startswith("Error: which workflows? Write --flow module:Flow, or set FLOWKIT_FLOWS")
    told = shop.runs(verb, *ARGUMENTS[verb], "--flow", f"{shop.module}:Ordr")
    assert told.code == 2 and "did you mean 'Order'" in told.err


@pytest.mark.parametrize("verb", ["show", "history", "watch", "send", "resume", "cancel", "fork"])
def test_a_run_that_is_damaged(shop: Shop, verb: str) -> None:
    shop.start("a")
    altered(shop, "UPDATE records SET data = CAST(x'00' || data AS BLOB)")
    told = shop.runs(verb, *ARGUMENTS[verb])
    assert (told.code, told.out) == (3, "")
    assert "run 'a', record" in told.err and "can't be read" in told.err and "Traceback" not in told.err
    altered(shop, "UPDATE runs SET status = 'x'")
    told = shop.runs(verb, *ARGUMENTS[verb])
    assert (told.code, told.out) == (3, "")
    assert "its line in the index isn't as it was written" in told.err


# ---------------------------------------------------------------------------------------------------------------- list


def test_list(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the code of any run."""
    shop.finish("a")
    shop.start("b", flow="Waits")
    shop.finish("c", answer='{"by": "you", "ok": false}')
    monkeypatch.delenv("FLOWKIT_FLOWS")
    told = shop.runs("list")
    assert (told.code, told.err) == (0, "")
    lines = [re.split(r"  +", line) for line in told.out.splitlines()]
    assert lines[0] == ["RUN", "WORKFLOW", "STATUS", "AGE", "UPDATED", "DUE", "DRIVEN BY"]
    assert [line[:3] for line in lines[1:]] == [
        ["c", "Order", "failed"],
        ["b", "Waits", "waiting"],
        ["a", "Order", "finished"],
    ]
    assert [line[5] for line in lines[1:]] == ["-", "in 23h", "-"]
    assert [line[6] for line in lines[1:]] == ["-", "-", "-"]
    told = shop.runs("list", "--status", "failed", "--status", "finished", "--limit", "1")
    assert [line.split()[0] for line in told.out.splitlines()] == ["RUN", "c"]
    assert told.err == "(the latest 1; --limit N or --all shows more)\n"
    told = shop.runs("list", "--workflow", "Waits", "--json")
    (data,) = json.loads(told.out)
    assert (data["run_id"], data["status"], data["driven"]) == ("b", "waiting", False)
    assert len(json.loads(shop.runs("list", "--all", "--json").out)) == 3


def test_list_nothing(shop: Shop) -> None:
    SQLiteStore(shop.store).open()
    told = shop.runs("list")
    assert (told.code, told.out, told.err) == (0, "", "no runs in runs.db\n")
    assert shop.runs("list", "--json").out == "[]\n"
    shop.start("a")
    assert shop.runs("list", "--status", "failed").err == "no runs in runs.db that fit\n"
    told = shop.runs("list", "--workflow", "Ordre")
    assert (told.code, told.err) == (2, "Error: runs.db has no runs of Ordre: did you mean 'Order'?\n")
    told = shop.runs("list", "--status", "runing")
    assert told.code == 2 and "'running'" in told.err


def test_list_who_drives_them(shop: Shop) -> None:
    with shop.owner("a=Order", "b=Order") as process:
        told = shop.runs("list")
        assert told.out.count(f":{process.pid}\n") == 2
        process.kill()
        process.wait()
        assert shop.runs("list").out.count(f":{process.pid} (gone)") == 2
        assert [one["driven"] for one in json.loads(shop.runs("list", "--json").out)] == [False, False]
        process.returncode = 0


def test_list_a_run_that_can_not_be_read(shop: Shop) -> None:
    shop.start("a")
    shop.start("b")
    altered(shop, "UPDATE runs SET created = 5 WHERE run_id = 'a'")
    lines = [re.split(r"  +", line) for line in shop.runs("list").out.splitlines()]
    assert [line[:4] for line in lines[1:]] == [["b", "Order", "waiting", lines[1][3]], ["a", "-", "damaged", "-"]]


def test_names_that_would_steer_the_terminal(shop: Shop) -> None:
    name = "a\x1b[31m\nb"
    store = SQLiteStore(shop.store)
    store.commit([Write(name, 1, 0, (), 1.0, "finished", new=NewRun("Or\tder", "me"))])
    store.close()
    told = shop.runs("list")
    assert "\x1b" not in told.out and len(told.out.splitlines()) == 2
    assert json.loads(shop.runs("list", "--json").out)[0]["run_id"] == name


# --------------------------------------------------------------------------------------------------------------- prune


def test_prune(shop: Shop) -> None:
    for run_id in ("a", "b", "c"):
        shop.finish(run_id)
    shop.start("d")
    told = shop.runs("prune", "--keep", "2")
    assert (told.code, told.out) == (2, "")
    assert told.err == "Error: 1 of 3 ended runs in runs.db would be deleted, and nobody can be asked: write --yes\n"
    told = shop.runs("prune", "--keep", "2", "--yes")
    assert (told.code, told.out) == (0, "1 run deleted, 2 that ended kept\n")
    assert [one["run_id"] for one in json.loads(shop.runs("list", "--json").out)] == ["d", "c", "b"]
    told = shop.runs("prune", "--older-than", "1h", "--yes")
    assert (told.code, told.out) == (0, "0 runs deleted, 2 that ended kept\n")
    told = shop.runs("prune", "--older-than", "0", "--yes", "--json", "--workflow", "Order")
    assert json.loads(told.out) == {"deleted": 2, "run_ids": ["c", "b"]}
    assert [one["run_id"] for one in json.loads(shop.runs("list", "--json").out)] == ["d"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "say which: --keep N (the latest N stay), or --older-than 7d"),
        (["--keep", "1", "--older-than", "7d"], "say which: --keep N"),
        (["--keep", "-1"], "-1 is not in the range x>=0"),
        (["--older-than", "soon"], "'soon' is no duration: write 7d, 12h or 90"),
        (["--older-than", "-3d"], "-3d is before now: write 7d, 12h or 90"),
    ],
)
def test_prune_what(shop: Shop, arguments: list[str], text: str) -> None:
    shop.finish("a")
    told = shop.runs("prune", *arguments, "--yes")
    assert (told.code, told.out) == (2, "")
    assert text in told.err


def test_prune_asks_in_a_terminal(shop: Shop) -> None:
    pytest.importorskip("pty")
    shop.finish("a")
    shop.finish("b")
    for keys, code, text in (
        ("n\n", 0, "nothing was deleted"),
        ("\x04", 0, "nothing was deleted"),
        ("\x03", 130, "stopped"),
    ):
        with Terminal(["runs", "prune", "--keep", "1", "--store", "runs.db"], shop.path) as terminal:
            terminal.read_until("Delete 1 of 2 ended runs in runs.db, for good? [y/N] ")
            terminal.type(keys)
            ended, said = terminal.end()
            assert (ended, text in said) == (code, True), said
    assert len(json.loads(shop.runs("list", "--json").out)) == 2
    with Terminal(["runs", "prune", "--keep", "0", "--store", "runs.db"], shop.path) as terminal:
        terminal.read_until("Delete 2 of 2 ended runs in runs.db, for good? [y/N] ")
        terminal.type("y\n")
        assert terminal.end()[0] == 0
    assert json.loads(shop.runs("list", "--json").out) == []


# ---------------------------------------------------------------------------------------------------------------- show


def shown(shop: Shop, run_id: str) -> dict[str, list[str]]:
    told = shop.runs("show", run_id)
    assert told.code == 0
    first, *lines = told.out.splitlines()
    assert first == f"run {run_id}"
    found: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        head, _, text = line.strip().partition("  ")
        if not line.startswith("   ") and text:
            name = head
        else:
            text = line.strip()
        found.setdefault(name, []).append(text.strip())
    return found


def test_show_a_run_that_asks(shop: Shop) -> None:
    shop.start("a", "item=pen")
    found = shown(shop, "a")
    assert found["workflow"] == ["Order"] and found["status"] == ["waiting"] and found["driven by"] == ["nobody"]
    assert found["began with"] == ["Placed(item='pen')"]
    assert found["waits for"] == ["Approved (by: str, ok: bool = True), asked Approve(text='ship the pen?')"]
    assert found["state"] == ["charged = 'pen'"]
    data = json.loads(shop.runs("show", "a", "--json").out)
    assert data["started_with"] == {"type": "Placed", "fields": {"item": "pen"}}
    assert data["waits_for"] == [
        {
            "run_id": "a",
            "step": None,
            "takes": [{"type": "Approved", "fields": "by: str, ok: bool = True"}],
            "requires": {},
            "question": {"type": "Approve", "fields": {"text": "ship the pen?"}},
            "until": None,
        }
    ]


def test_show_a_run_that_is_suspended_in_a_wait(shop: Shop) -> None:
    shop.start("a", flow="Waits")
    found = shown(shop, "a")
    assert found["waits for"] == [
        "Approved (by: str, ok: bool = True), by='boss', in ask, asked Approve(text='go?'), for 23h more"
    ]
    assert found["step"] == ["ask: waiting, StartEvent()"]
    assert found["due"][0].endswith("(in 23h)")


def test_show_a_run_that_has_ended(shop: Shop) -> None:
    shop.finish("a", "item=pen")
    shop.finish("b", answer='{"by": "you", "ok": false}')
    found = shown(shop, "a")
    assert found["result"] == ["pen shipped"] and "waits for" not in found
    found = shown(shop, "b")
    assert found["error"][0].startswith("Order.ship raised ") and "you says no" in found["error"][0]


def test_show_nested_runs(shop: Shop) -> None:
    shop.start("a", flow="outer")
    found = shown(shop, "a")
    (nested,) = found["nested"]
    run_id = nested.split()[0]
    assert nested == f"{run_id} (Waits, waiting)" and run_id.startswith("a/")
    assert shown(shop, run_id)["nested in"] == ["a"]
    told = shop.runs("resume", run_id)
    assert (
        told.code,
        told.err.startswith(f"Error: run '{run_id}' is nested in 'a': write `flowkit runs resume a "),
    ) == (2, True)


def test_show_without_the_code(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.start("a")
    monkeypatch.delenv("FLOWKIT_FLOWS")
    told = shop.runs("show", "a")
    assert told.code == 0 and "  status     waiting\n" in told.out
    assert told.err == "(its state, and what it waits for, need its code: add --flow module:Order)\n"
    assert "state" not in json.loads(shop.runs("show", "a", "--json").out)


def test_show_mail_that_waits(shop: Shop) -> None:
    shop.start("a")
    assert shop.runs("send", "a", "Approved", "by=me").out == "Approved posted\n"
    assert shown(shop, "a")["mail"] == ["1 posted, and not taken yet"]


# ------------------------------------------------------------------------------------------------------------- history


def test_history(shop: Shop) -> None:
    shop.finish("a", "item=pen")
    told = shop.runs("history", "a")
    assert (told.code, told.err) == (0, "")
    assert [re.sub(r"^ +(\d+) +\+\d+\.\d{3}s  ", r"\1 ", line) for line in told.out.splitlines()] == [
        "1 started with Placed(item='pen')",
        "2 state.charged = 'pen'",
        "3 charge  returned Approve(text='ship the pen?')",
        "4 got Approved(by='me', ok=True) from outside",
        "5 ship  returned Shipped(item='pen')",
        "6 end  returned StopEvent(result='pen shipped'): the run has finished",
    ]
    lines = [json.loads(line) for line in shop.runs("history", "a", "--json").out.splitlines()]
    assert [line["fact"] for line in lines] == ["started", "state", "returned", "sent", "returned", "returned"]
    assert lines[3]["event"] == {"type": "Approved", "fields": {"by": "me", "ok": True}}
    assert (lines[3]["from_outside"], lines[4]["step"], lines[5]["ends"]) == (True, "ship", "finished")


def test_every_kind_of_fact_has_its_line() -> None:
    """In words and as data, for each that there is."""
    from typing import get_args

    from flowkit import Event, InputRequiredEvent, StartEvent, facts
    from flowkit.command_line.fact_lines import fact_data, fact_line
    from flowkit.history import HistoryEntry

    event = Event(n=1)
    made: list[Any] = [
        facts.RunStarted(1.0, "a", StartEvent()),
        facts.RunResumed(1.0),
        facts.EventSent(1.0, 3, event, "work"),
        facts.StepReturned(1.0, 3, [event, event]),
        facts.StepCommitted(1.0, 3, (facts.StateWritten(1.0, ("x",), 1),), None),
        facts.StepRaised(1.0, 3, ValueError("no\nway"), 2.5),
        facts.EventCollected(1.0, 3, None, event, None),
        facts.WaitOpened(1.0, 3, "w", Event, {"n": 1}, 5.0, InputRequiredEvent(prefix="?")),
        facts.WaitAbandoned(1.0, 3, "w"),
        facts.TimerFired(1.0, 1),
        facts.EventPublished(1.0, 3, event),
        facts.StateWritten(1.0, (), {"x": float("nan")}),
        facts.Stepped(1.0, (1, 2)),
        facts.StepwiseEnded(1.0, ()),
        facts.RunCancelled(1.0, "enough", by_user=True),
        facts.RunTimedOut(4000.0, 60.0),
        facts.RunFailed(1.0, ValueError("no")),
    ]
    assert {type(one) for one in made} == set(get_args(facts.Fact))
    lines = [fact_line(HistoryEntry(n, one.time, "work", one), 1.0) for n, one in enumerate(made)]
    assert [line[19:] for line in lines] == [
        "work  started with StartEvent()",
        "work  went on",
        "work  sent Event(n=1) to work",
        "work  returned 2 events: [Event(n=1), Event(n=1)]",
        "work  returned nothing (atomic, together with 1 more)",
        "work  raised ValueError: no way; it is tried again in 2.5 s",
        "work  collected Event(n=1)",
        "work  waits for Event n=1, asking InputRequiredEvent(prefix='?'), for 5 s at most",
        "work  gave a wait up",
        "work  its time has come",
        "work  showed Event(n=1)",
        "work  state = {'x': nan}",
        "work  stepped: 2 events went on",
        "work  goes on freely",
        "work  was cancelled: enough",
        "work  took longer than 60 s",
        "work  failed: ValueError: no",
    ]
    assert lines[15].startswith("   15  +1:06:39.0  ")
    for one in made:
        data = fact_data(HistoryEntry(1, one.time, "work", one), 1.0)
        assert json.loads(json.dumps(data)) == data


def test_a_pipe_that_is_closed(shop: Shop) -> None:
    """`flowkit runs history a | head -1` ends quietly."""
    import subprocess
    import sys

    from terminals import plain_environment

    shop.finish("a")
    program = f"{sys.executable} -m flowkit runs history a --store runs.db --flow {shop.module}:Order | head -1"
    done = subprocess.run(program, shell=True, capture_output=True, text=True, cwd=shop.path, env=plain_environment())
    assert done.stdout.count("\n") == 1 and done.stderr == ""


# --------------------------------------------------------------------------------------------------------------- watch


def test_watch_what_has_ended(shop: Shop) -> None:
    shop.finish("a")
    told = shop.runs("watch", "a", "--lines", "2")
    assert (told.code, told.err) == (0, "finished\n")
    assert len(told.out.splitlines()) == 2
    assert shop.runs("watch", "a").out == shop.runs("history", "a").out
    assert shop.runs("watch", "a", "-n", "0", "--json").out == ""
    shop.finish("b", answer='{"by": "you", "ok": false}')
    told = shop.runs("watch", "b", "--json")
    assert (told.code, told.err) == (1, "failed\n")
    assert json.loads(told.out.splitlines()[-1])["ends"] == "failed"


def test_watch_until_it_rests(shop: Shop) -> None:
    shop.start("a")
    told = shop.runs("watch", "a", "--until", "rest")
    assert (told.code, told.err) == (4, "it waits\n")


def test_watch_a_run_of_another_process(shop: Shop) -> None:
    with shop.owner("a=Order"):
        told: list[Any] = []
        watching = threading.Thread(target=lambda: told.append(shop.runs("watch", "a")))
        watching.start()
        try:
            _send_apart(shop, "a")
        finally:
            watching.join(60)
    assert (told[0].code, told[0].err) == (0, "finished\n")
    assert "got Approved(by='me', ok=True) from outside" in told[0].out
    assert told[0].out.endswith(": the run has finished\n")


def _send_apart(shop: Shop, run_id: str) -> None:
    """From a process of its own: one call at a time may print in this one."""
    import subprocess
    import sys

    from terminals import plain_environment

    subprocess.run(
        [sys.executable, "-m", "flowkit", "runs", "send", run_id, "Approved", "by=me", "--store", "runs.db",
         "--flow", f"{shop.module}:Order"],
        check=True, capture_output=True, cwd=shop.path, env=plain_environment(),
    )  # fmt: skip


def test_watch_is_left_by_ctrl_c(shop: Shop) -> None:
    pytest.importorskip("pty")
    shop.start("a")
    arguments = ["runs", "watch", "a", "--store", "runs.db", "--flow", f"{shop.module}:Order"]
    with Terminal(arguments, shop.path) as terminal:
        terminal.read_until("(nobody drives it now: `flowkit runs resume` goes on with it)")
        terminal.type("\x03")
        code, said = terminal.end()
    assert (code, said.endswith("watched no longer; nothing else has changed\n")) == (130, True)


def test_nothing_else_is_made_in_the_folder(shop: Shop, tmp_path: Path) -> None:
    shop.finish("a")
    before = sorted(one.name for one in tmp_path.iterdir())
    for verb in ("list", "show", "history", "watch"):
        assert shop.runs(verb, *ARGUMENTS[verb]).code == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == before


@pytest.mark.parametrize("verb", ["list", "prune"])
def test_what_needs_no_code_imports_little(shop: Shop, verb: str) -> None:
    """So it starts at once."""
    import subprocess
    import sys

    from terminals import plain_environment

    shop.start("a")
    program = (
        "import sys; from flowkit.command_line.group import program\n"
        "try: program.main(sys.argv[1:])\n"
        "except SystemExit as error: print(error.code)\n"
        "print(sorted({'flowkit.records', 'flowkit.workflow', 'cattrs', 'asyncio', 'rich'} & set(sys.modules)))\n"
    )
    arguments = [verb, *ARGUMENTS[verb], "--store", "runs.db"]
    done = subprocess.run(
        [sys.executable, "-c", program, "runs", *arguments],
        capture_output=True, text=True, check=True, cwd=shop.path, env=plain_environment(),
    )  # fmt: skip
    assert done.stdout.splitlines()[-2:] == ["0", "[]"]
