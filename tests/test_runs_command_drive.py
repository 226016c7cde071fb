"""``flowkit runs send``, ``resume``, ``cancel`` and ``fork``: with nobody else there, and beside another process."""

import json
import sqlite3
import time
from contextlib import closing

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from cli_runs import Told
from runs_shop import Shop, shop
from terminals import Terminal

from flowkit.command_line import options
from flowkit.sqlite_store import SQLiteStore

__all__ = ["shop"]


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "trio":
        pytest.importorskip("trio")
    name: str = request.param
    return name


def status(shop: Shop, run_id: str) -> str:
    found: str = json.loads(shop.runs("show", run_id, "--json").out)["status"]
    return found


def result(shop: Shop, run_id: str) -> object:
    return json.loads(shop.runs("show", run_id, "--json").out)["result"]


# ---------------------------------------------------------------------------------------------------------------- send


def test_send_to_a_run_of_another_process(shop: Shop, backend: str) -> None:
    with shop.owner("a=Order", "b=Waits", backend=backend):
        told = shop.runs("send", "a", "Approved", "by=me")
        assert (told.code, told.out, told.err) == (0, "Approved delivered\n", "")
        told = shop.runs("send", "b", "Approved", "by=boss", "ok=no", "--json")
        assert json.loads(told.out) == {"run_id": "b", "event": "Approved", "delivered": True}
        told = shop.runs("watch", "a", "--lines", "0")
        assert (told.code, told.err) == (0, "finished\n")
    assert result(shop, "a") == "book shipped"
    assert result(shop, "b") is False


def test_send_to_a_run_of_another_process_what_it_has_no_use_for(shop: Shop) -> None:
    with shop.owner("a=Order", "b=Waits"):
        told = shop.runs("send", "b", "Approved", "by=somebody")
        assert (told.code, told.out) == (2, "")
        assert told.err == "Error: run 'b' of Waits doesn't take Approved now: it takes Approved.\n"
        told = shop.runs("send", "a", "Shipped", "item=pen", "--step", "charge")
        assert told.code == 2 and "charge" in told.err and "Placed" in told.err
        told = shop.runs("send", "a", "Shipped", "item=pen", "--step", "chrge")
        assert told.code == 2 and "did you mean 'charge'" in told.err
        assert (status(shop, "a"), status(shop, "b")) == ("waiting", "waiting")
        store = SQLiteStore(shop.store)
        assert store.mail() == []
        store.close()


def test_send_to_a_run_that_is_busy_elsewhere(shop: Shop) -> None:
    with shop.owner("a=Slow", rests=False):
        told = shop.runs("send", "a", "Unrelated", "--wait", "0.3")
        assert (told.code, told.out) == (0, "Unrelated posted\n")
        assert "whoever drives it takes it" in told.err and "flowkit runs resume a --store runs.db" in told.err
        assert json.loads(shop.runs("send", "a", "Unrelated", "--wait", "0", "--json").out)["delivered"] is False


def test_ctrl_c_takes_nothing_back(shop: Shop) -> None:
    pytest.importorskip("pty")
    arguments = [
        "runs",
        "send",
        "a",
        "Unrelated",
        "--store",
        "runs.db",
        "--flow",
        f"{shop.module}:Slow",
        "--wait",
        "600",
    ]
    with shop.owner("a=Slow", rests=False):
        store = SQLiteStore(shop.store)
        with Terminal(arguments, shop.path) as terminal:
            deadline = time.monotonic() + 60
            while not store.mail("a"):
                assert time.monotonic() < deadline and terminal.process.poll() is None
            terminal.type("\x03")
            code, said = terminal.end()
            assert (code, said.endswith("waited no longer; it is stored, and stays so\n")) == (130, True), said
        assert len(store.mail("a")) == 1
        store.close()


def test_send_to_a_run_that_nobody_drives(shop: Shop, backend: str) -> None:
    """No step of it runs until somebody goes on with it."""
    shop.start("a", "item=pen")
    told = shop.runs("send", "a", "Approved", "by=me")
    assert (told.code, told.out) == (0, "Approved posted\n")
    assert f"flowkit runs resume a --store runs.db --flow {shop.module}:Order\n" in told.err
    assert status(shop, "a") == "waiting"
    told = shop.runs("resume", "a", "--quiet", "--backend", backend)
    assert (told.code, told.out) == (0, "pen shipped\n")


def test_send_what_a_resting_run_has_no_use_for(shop: Shop) -> None:
    shop.start("a")
    shop.start("b", flow="Waits")
    told = shop.runs("send", "a", "Unrelated")
    assert (told.code, told.err) == (
        2,
        "Error: run 'a' of Order doesn't take Unrelated now: it takes Approved, Shipped.\n",
    )
    told = shop.runs("send", "b", "Approved", "by=you")
    assert told.code == 2 and "doesn't take Approved now" in told.err
    store = SQLiteStore(shop.store)
    assert store.mail() == []
    store.close()


def test_send_an_answer_to_a_nested_run(shop: Shop) -> None:
    shop.start("a", flow="outer")
    assert shop.runs("send", "a", "Approved", "by=boss").code == 0
    told = shop.runs("resume", "a", "--quiet")
    assert (told.code, told.out) == (0, "True\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["Aproved", "by=me"], "Order has no event 'Aproved' in sight: did you mean 'Approved'?"),
        (["Approved"], "Approved needs by: str: add by=…"),
        (["Approved", "by=me", "ok=maybe"], "Approved.ok (bool) takes true or false, but got 'maybe'"),
        (["Approved", "by=me", "on=yes"], "Approved has no field 'on': it takes by: str, ok: bool = True"),
        (["Approved", "by"], "'by' is no value for a field"),
        (["Approved", "by=me", "--wait", "-1"], "-1"),
        (["Approved", "by=me", "--step", "shp"], "did you mean 'ship'"),
        (["Unrelated"], "run 'a' of Order doesn't take Unrelated now: it takes Approved, Shipped."),
    ],
)
def test_send_what_is_wrong(shop: Shop, arguments: list[str], text: str) -> None:
    shop.start("a")
    told = shop.runs("send", "a", *arguments)
    assert (told.code, told.out) == (2, "")
    assert text in told.err


def test_send_to_a_run_that_has_ended(shop: Shop) -> None:
    shop.finish("a")
    told = shop.runs("send", "a", "Approved", "by=me")
    assert (told.code, told.err) == (2, "Error: run 'a' has finished: it takes no events any more\n")


def test_what_is_posted_is_taken_by_whoever_takes_the_run_up(shop: Shop) -> None:
    """A runtime of another process sees that there is mail for a run that rests, and brings it back. (One that takes
    up only what it is asked for doesn't.)"""
    shop.start("a")
    with shop.owner("b=Order"):
        assert shop.runs("send", "a", "Approved", "by=me", "--wait", "0.3").out == "Approved posted\n"
    assert status(shop, "a") == "waiting"
    shop.start("c")
    with shop.owner(takes_up=True):
        assert shop.runs("watch", "a", "-n", "0").err == "finished\n"
        assert shop.runs("send", "c", "Approved", "by=me").out == "Approved delivered\n"
    assert (result(shop, "a"), status(shop, "b")) == ("book shipped", "waiting")


@pytest.mark.parametrize("verb", ["send", "cancel", "fork", "resume", "prune"])
def test_a_store_that_another_process_holds(shop: Shop, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes something waits for it, and then says so; what only reads doesn't wait."""
    shop.start("a")
    shop.finish("b")
    monkeypatch.setattr(options, "PATIENCE", 0.1)
    arguments = {
        "send": ["a", "Approved", "by=me"],
        "fork": ["a", "--after", "charge"],
        "prune": ["--keep", "0", "--yes"],
    }
    with closing(sqlite3.connect(shop.store, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        told = shop.runs(verb, *arguments.get(verb, ["a"]))
        assert (told.code, told.out) == (3, "")
        assert told.err == "Error: SQLiteStore('runs.db'): another process or thread is writing to it: try again.\n"
        for reads in ("list", "show a", "history a"):
            assert shop.runs(*reads.split()).code == 0
    assert {one["run_id"] for one in json.loads(shop.runs("list", "--json").out)} == {"a", "b"}


# -------------------------------------------------------------------------------------------------------------- resume


def test_resume_asks_what_the_run_asks(shop: Shop, backend: str) -> None:
    shop.start("a", "item=pen")
    told = shop.runs("resume", "a", "--backend", backend, input="me\n")
    assert (told.code, told.out) == (0, "pen shipped\n")
    assert "? ship the pen?" in told.err
    told = shop.runs("resume", "a", "--json")
    assert json.loads(told.out)["result"] == "pen shipped"


def test_resume_what_fails_or_goes_on_waiting(shop: Shop) -> None:
    shop.start("a")
    told = shop.runs("resume", "a", "--quiet", input="")
    assert (told.code, told.out) == (4, "")
    assert "run a waits for an answer" in told.err
    told = shop.runs("resume", "a", "--quiet", input='{"by": "you", "ok": false}\n')
    assert (told.code, told.out) == (1, "")
    assert "failed: Order.ship raised ValueError: you says no" in told.err


def test_resume_a_run_of_another_process(shop: Shop) -> None:
    with shop.owner("a=Order") as process:
        told = shop.runs("resume", "a", "--quiet", input="me\n")
        assert (told.code, told.out) == (3, "")
        assert told.err.startswith("Error: run 'a' is driven by ") and f":{process.pid}:" in told.err
        process.kill()
        process.wait()
        process.returncode = 0
    told = shop.runs("resume", "a", "--quiet", input="me\n")
    assert (told.code, told.out) == (0, "book shipped\n")


def test_resume_all(shop: Shop, backend: str) -> None:
    for run_id in ("a", "b", "c", "d"):
        shop.start(run_id, f"item={run_id}")
    shop.runs("send", "a", "Approved", "by=me")
    shop.runs("send", "b", "Approved", "by=me", "ok=no")
    shop.runs("cancel", "d")
    told = shop.runs("resume", "--all", "--quiet", "--backend", backend)
    assert told.code == 1
    lines = told.out.splitlines()
    assert lines[0] == "a (Order): finished: a shipped"
    assert lines[1].startswith("b (Order): Order.ship raised ValueError: me says no")
    assert lines[2:] == ["c (Order): waits"]
    assert told.err == ""
    told = shop.runs("resume", "--all", "--quiet", "--json")
    assert told.code == 4
    assert json.loads(told.out) == [{"run_id": "c", "workflow": "Order", "status": "waiting"}]
    shop.runs("send", "c", "Approved", "by=me")
    assert shop.runs("resume", "--all", "--quiet").code == 0
    told = shop.runs("resume", "--all")
    assert (told.code, told.out, told.err) == (0, "", "nothing to go on with in runs.db\n")


def test_resume_all_but_those_of_another_process(shop: Shop) -> None:
    shop.start("b")
    with shop.owner("a=Order"):
        told = shop.runs("resume", "--all", "--quiet")
        assert (told.code, told.out) == (4, "b (Order): waits\n")
        assert told.err == "run a is driven by another process\n"


def test_resume_all_tells_which_can_not_be_read(shop: Shop) -> None:
    shop.start("a")
    with closing(sqlite3.connect(shop.store, isolation_level=None)) as connection:
        connection.execute("UPDATE records SET data = CAST(x'00' || data AS BLOB)")
    shop.start("b")
    told = shop.runs("resume", "--all", "--quiet")
    assert told.code == 3
    assert told.out.splitlines()[0].startswith("a (Order): run 'a', record 0 can't be read")
    assert told.out.splitlines()[1] == "b (Order): waits"


@pytest.mark.parametrize("arguments", [[], ["a", "--all"]])
def test_resume_which(shop: Shop, arguments: list[str]) -> None:
    shop.start("a")
    told = shop.runs("resume", *arguments)
    assert told.code == 2 and "name a run, or write --all" in told.err


def test_resume_in_a_terminal(shop: Shop) -> None:
    """The question is asked; Ctrl-C leaves the run as it was; another terminal's answer takes the prompt away."""
    pytest.importorskip("pty")
    shop.start("a")
    arguments = ["runs", "resume", "a", "--store", "runs.db", "--flow", f"{shop.module}:Order"]
    with Terminal(arguments, shop.path) as terminal:
        terminal.read_until("by (str): ")
        terminal.type("\x03")
        code, said = terminal.end()
        assert (code, "run a is suspended, nothing is lost" in said) == (130, True)
    assert status(shop, "a") == "waiting"
    with Terminal(arguments, shop.path) as terminal:
        terminal.read_until("by (str): ")
        assert shop.runs("send", "a", "Approved", "by=me").out == "Approved delivered\n"
        terminal.read_until("(it needs no answer any more)")
        code, said = terminal.end()
        assert (code, "book shipped" in said) == (0, True)


def test_resume_all_asks_in_a_terminal(shop: Shop) -> None:
    """One after the other, those that wait for an answer; Ctrl-D leaves one as it is, Ctrl-C the rest."""
    pytest.importorskip("pty")
    for run_id in ("a", "b", "c"):
        shop.start(run_id, f"item={run_id}")
    shop.start("d", flow="outer")
    flows = [part for name in ("Order", "outer") for part in ("--flow", f"{shop.module}:{name}")]
    arguments = ["runs", "resume", "--all", "--store", "runs.db", "--quiet", *flows]
    with Terminal(arguments, shop.path) as terminal:
        assert "a (Order): waits\nb (Order): waits\nc (Order): waits\nd (Outer): waits\n" in terminal.read_until(
            "run a\n"
        )
        terminal.read_until("by (str): ")
        terminal.type("me\n")
        terminal.read_until("ok (bool) [True]: ")
        terminal.type("\n")
        terminal.read_until("a shipped")
        terminal.read_until("? ship the b?")
        terminal.read_until("by (str): ")
        terminal.type("\x04")
        terminal.read_until("run b waits for an answer")
        terminal.read_until("? ship the c?")
        terminal.read_until("by (str): ")
        terminal.type("\x03")
        code, said = terminal.end()
        assert (code, "run c is suspended, nothing is lost" in said, "go?" in said) == (130, True, False), said
    assert [status(shop, run_id) for run_id in "abcd"] == ["finished", "waiting", "waiting", "waiting"]


def test_resume_all_is_left_by_ctrl_c(shop: Shop, backend: str) -> None:
    pytest.importorskip("pty")
    with shop.owner("a=Slow", rests=False):
        pass
    arguments = ["runs", "resume", "--all", "--store", "runs.db", "--flow", f"{shop.module}:Slow", "--backend", backend]
    with Terminal(arguments, shop.path) as terminal:
        terminal.read_until("work")
        terminal.type("\x03")
        code, said = terminal.end()
        told = (
            "stopped: what had not ended is suspended, nothing is lost\n"
            f"  flowkit runs resume --all --store runs.db --flow {shop.module}:Slow\n"
        )
        assert code == 130 and said.endswith(told), said
    assert status(shop, "a") == "running"
    assert json.loads(shop.runs("show", "a", "--json").out)["driven_by"] is None


# -------------------------------------------------------------------------------------------------------------- cancel


def test_cancel_a_run_of_another_process(shop: Shop, backend: str) -> None:
    with shop.owner("a=Slow", "b=Order", backend=backend, rests=False):
        told = shop.runs("cancel", "a")
        assert (told.code, told.out, told.err) == (0, "cancelled\n", "")
        assert json.loads(shop.runs("cancel", "b", "--json").out) == {"run_id": "b", "cancelled": True}
    assert (status(shop, "a"), status(shop, "b")) == ("cancelled", "cancelled")


def test_cancel_a_run_that_nobody_drives(shop: Shop, backend: str) -> None:
    """None of its steps runs."""
    with shop.owner("a=Slow", rests=False):
        pass
    before = shop.runs("history", "a").out.splitlines()
    told = shop.runs("cancel", "a", "--backend", backend)
    assert (told.code, told.out, told.err) == (0, "cancelled\n", "")
    *same, last = shop.runs("history", "a").out.splitlines()
    assert same == before and "was cancelled" in last
    told = shop.runs("cancel", "a")
    assert (told.code, told.out) == (0, "cancelled\n")


def test_cancel_what_has_ended(shop: Shop) -> None:
    shop.finish("a")
    told = shop.runs("cancel", "a")
    assert (told.code, told.err) == (2, "Error: run 'a' has finished: there is nothing to cancel\n")


def test_cancel_a_process_that_does_not_answer(shop: Shop) -> None:
    """It is posted, and stays so."""
    import os
    import signal

    if os.name != "posix":
        pytest.skip("the signals are POSIX's")
    with shop.owner("a=Slow", rests=False) as process:
        os.kill(process.pid, signal.SIGSTOP)
        told: Told = shop.runs("cancel", "a", "--wait", "0.1")
        os.kill(process.pid, signal.SIGCONT)
        assert (told.code, told.out) == (0, "posted\n")
        assert told.err == "it is stored; whoever drives the run cancels it\n"
        assert shop.runs("watch", "a", "-n", "0").err == "cancelled\n"


# ---------------------------------------------------------------------------------------------------------------- fork


def test_fork(shop: Shop) -> None:
    shop.finish("a", "item=pen")
    told = shop.runs("fork", "a", "--after", "charge", "--new-id", "b")
    assert (told.code, told.out) == (0, "b\n")
    assert told.err.endswith(f"flowkit runs resume b --store runs.db --flow {shop.module}:Order\n")
    assert status(shop, "b") == "running"
    told = shop.runs("resume", "b", "--quiet", input="you\n")
    assert (told.code, told.out) == (0, "pen shipped\n")
    told = shop.runs("fork", "a", "--after", "5", "--json")
    data = json.loads(told.out)
    assert (data["forked_from"], data["after"]) == ("a", 5)
    told = shop.runs("resume", data["run_id"], "--quiet")
    assert (told.code, told.out) == (0, "pen shipped\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "Missing option '--after'"),
        (["--after", "chrge"], "--after chrge: Order has no such step: did you mean 'charge'?"),
        (["--after", "end"], "which hasn't returned in run 'a': give one of charge"),
        (["--after", "99"], "got after=99, but run 'a' has records 1 to 3: give one"),
        (["--after", "charge", "--new-id", "a"], "there is a run 'a' already: give another --new-id, or leave it out"),
        (["--after", "charge", "--new-id", ""], "it is empty: give a name, or leave it out"),
    ],
)
def test_fork_what_is_wrong(shop: Shop, arguments: list[str], text: str) -> None:
    shop.start("a")
    told = shop.runs("fork", "a", *arguments)
    assert (told.code, told.out) == (2, "")
    assert text in told.err
    assert len(json.loads(shop.runs("list", "--json").out)) == 1


def test_fork_where_it_had_ended(shop: Shop) -> None:
    shop.finish("a")
    told = shop.runs("fork", "a", "--after", "end")
    assert told.code == 2 and "where run 'a' had ended: give an earlier one" in told.err
