"""``flowkit check``: wiring, then the properties that need no specification."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Folder, entered

from flowkit import testing

events = testing.events  # it needs Hypothesis

BACKENDS = ["asyncio", *(["trio", "both"] if find_spec("trio") is not None else [])]

MORE = """
import anyio
from flowkit import *

class A(Event):
    n: int

class B(Event):
    n: int

class Begin(StartEvent):
    n: int

class Racy(Workflow):
    @step
    async def begin(self, ev: Begin) -> list[A]:
        return [A(1), A(2)]

    @step
    async def add(self, ctx: Context, ev: A) -> B:
        sum = await ctx.get("sum", default=0)
        await anyio.lowlevel.checkpoint()
        await ctx.set("sum", sum + ev.n)
        return B(ev.n)

    @step
    async def end(self, ctx: Context, evs: list[B]) -> StopEvent:
        return StopEvent(result=await ctx.get("sum"))

class Network(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> StopEvent:
        await anyio.connect_tcp("localhost", 1)
        return StopEvent()

class Odd:
    pass

class OddStart(StartEvent):
    odd: Odd

class Undrawable(Workflow):
    @step
    async def only(self, ev: OddStart) -> StopEvent:
        return StopEvent()

class Picky(Workflow):
    @step
    async def only(self, ev: Begin) -> StopEvent:
        if not ev.n:
            raise ValueError("not this one")
        return StopEvent()

class Locked(Workflow):
    def __init__(self):
        super().__init__()
        self.taken = False

    @step
    async def take(self, ev: StartEvent) -> StopEvent:
        if self.taken:
            raise RuntimeError("never given back")
        self.taken = True
        await anyio.lowlevel.checkpoint()
        self.taken = False
        return StopEvent()

locked = Locked()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    with entered(tmp_path, monkeypatch) as folder:
        folder.write("more.py", MORE)
        yield folder


def test_faults_of_the_wiring(folder: Folder) -> None:
    told = folder.call("check", "flows:Faulty")
    assert (told.code, told.err) == (1, "")
    lines = told.out.splitlines()
    assert lines[0] == f"Faulty can't run, it has {len(lines) - 1} faults:"
    assert len(lines) > 2 and all(f"{folder.path}/flows.py:" in line for line in lines[1:])


def test_faults_of_the_wiring_as_json(folder: Folder) -> None:
    data = json.loads(folder.call("check", "flows:Faulty", "--json").out)
    assert data["workflow"] == "Faulty" and data["checks"] == []
    assert "no-stop" in {fault["kind"] for fault in data["wiring"]}
    assert all(fault.keys() == {"kind", "step", "where", "text"} for fault in data["wiring"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sound_workflow(folder: Folder, backend: str) -> None:
    told = folder.call("check", "flows:JokeFlow", "topic=x", "--runs", "30", "--backend", backend)
    assert (told.code, told.err) == (0, "")
    lines = told.out.splitlines()
    assert lines[0] == "wiring: ok (2 steps)"
    assert [line.partition(":")[0] for line in lines] == ["wiring", "schedule", "crash", "cancel"]
    assert lines[1].startswith("schedule: ok, the order of its steps makes no difference (exhausted: ")
    assert lines[2].startswith("crash: ok, a crash makes no difference (exhausted: 6 crash points")
    assert lines[3].startswith("cancel: ok, cancelling it leaves nothing behind (exhausted: ")


def test_start_events_are_drawn(folder: Folder) -> None:
    told = folder.call("check", "flows:Asking", "--runs", "30", "--only", "schedule")
    assert told.code == 0
    assert told.out.splitlines()[1].startswith("start:  Topic(topic='', limit=3) and Topic(")
    assert told.out.count("exhausted: ") == 3


@pytest.mark.parametrize(
    ("flow", "more"),
    [
        ("Asking", ["topic=x"]),
        # Not that a crash makes no difference: the question is written to the stream again, and answered twice.
        ("Shown", ["--only", "schedule", "--only", "cancel"]),
        ("Returned", []),
        ("Either", []),
        ("outer", []),
    ],
)
def test_questions_are_answered(folder: Folder, flow: str, more: list[str]) -> None:
    told = folder.call("check", f"{folder.write_flows()}:{flow}", *more, "--runs", "20")
    assert (told.code, told.err) == (0, ""), told


def test_an_answer_that_nobody_asks_for(folder: Folder) -> None:
    told = folder.call("check", "flows:Silent", "--runs", "20")
    assert told.code == 1
    assert "FAILED, a run doesn't end well (deadlock)" in told.out
    assert "It waits for an answer that isn't known here" in told.err


def test_a_race(folder: Folder) -> None:
    told = folder.call("check", "more:Racy", "n=1", "--runs", "60", "--only", "schedule")
    assert told.code == 1
    assert "schedule: FAILED, the order of its steps makes a difference (different-result)" in told.out
    assert "add #2" in told.out and "⇄" in told.out and "fk1:" in told.out


def test_a_race_as_json(folder: Folder) -> None:
    told = folder.call("check", "more:Racy", "n=1", "--runs", "60", "--json")
    assert told.code == 1
    data = json.loads(told.out)
    assert data["wiring"] == [] and data["starts"] == [{"n": 1}]
    by_name: dict[str, Any] = {one["name"]: one for one in data["checks"]}
    assert by_name["schedule"]["verdict"] == by_name["crash"]["verdict"] == "failed"
    assert by_name["schedule"]["kind"] == "different-result" and by_name["schedule"]["token"].startswith("fk1:")
    assert by_name["cancel"]["verdict"] == "passed" and len(by_name["cancel"]["looked_at"]) == 1


def test_what_a_cancelled_run_leaves(folder: Folder) -> None:
    told = folder.call("check", "more:locked", "--runs", "60", "--only", "cancel")
    assert told.code == 1
    assert "cancel: FAILED, cancelling it does harm (unusable)" in told.out


def test_a_run_that_fails_by_itself_is_told_once(folder: Folder) -> None:
    told = folder.call("check", "flows:JokeFlow", "--runs", "10")
    assert told.code == 1
    assert told.out.count("JokeFlow: step-failed:") == 1
    assert told.out.endswith("crash: FAILED, as above\ncancel: FAILED, as above\n")
    assert told.err == "(Give the fields that its steps read: flowkit check flows:JokeFlow key=value)\n"


def test_a_start_event_that_was_made_up_and_fails(folder: Folder) -> None:
    told = folder.call("check", "more:Picky", "--runs", "10")
    assert told.code == 1 and "step-failed" in told.out
    said = "(The start events were made up. Give one that it is for: flowkit check more:Picky key=value)\n"
    assert told.err == said
    assert folder.call("check", "more:Picky", "n=1", "--runs", "10").code == 0


def test_what_simulated_steps_print_is_lost(folder: Folder) -> None:
    folder.write(
        "loud.py",
        """
        from flowkit import *
        print("imported", flush=True)
        class Loud(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                print("hello")
                return StopEvent()
        """,
    )
    told = folder.call("check", "loud", "--runs", "5", "--json")
    assert told.code == 0 and json.loads(told.out)["workflow"] == "Loud" and told.err == "imported\n"
    assert "hello" not in folder.call("check", "loud", "--runs", "5").out


def test_a_workflow_that_reaches_for_the_outside(folder: Folder) -> None:
    told = folder.call("check", "more:Network", "--runs", "10")
    assert told.code == 2
    assert told.err.startswith("Error: a simulated run looked up a name in the network: give the workflow a fake")
    assert "Traceback" not in told.err


def test_start_events_that_can_not_be_drawn(folder: Folder) -> None:
    told = folder.call("check", "more:Undrawable", "--runs", "10")
    assert told.code == 2
    assert told.err.startswith("Error: no OddStart can be made up (")
    assert told.err.endswith("give its fields, odd: Odd: flowkit check more:Undrawable key=value\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--budget", "soon"], "--budget takes a time or a number of runs, but got 'soon'"),
        (["--budget", "1s", "--runs", "3"], "--budget and --runs say the same thing: give one of them"),
        (["--runs", "0"], "0 is not in the range x>=1"),
        (["--only", "crashes"], "'crashes' is not one of 'wiring', 'schedule', 'crash', 'cancel'"),
    ],
)
def test_options_that_can_not_be(folder: Folder, options: list[str], said: str) -> None:
    told = folder.call("check", "flows:JokeFlow", "topic=x", *options)
    assert told.code == 2
    assert said in told.err


def test_a_budget_in_seconds(folder: Folder) -> None:
    assert folder.call("check", "flows:JokeFlow", "topic=x", "--budget", "20ms", "--only", "schedule").code == 0


def test_without_hypothesis_only_the_wiring_is_checked(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "hypothesis" else real(name))
    told = folder.call("check", "flows:JokeFlow", "topic=x")
    assert (told.code, told.out) == (2, "wiring: ok (2 steps)\n")
    assert 'pip install "flowkit[testing]", or write --only wiring' in told.err
    assert folder.call("check", "flows:JokeFlow", "--only", "wiring").code == 0


def test_only_the_wiring(folder: Folder) -> None:
    told = folder.call("check", "flows:JokeFlow", "--only", "wiring", "--json")
    assert told.code == 0
    assert json.loads(told.out) == {"workflow": "JokeFlow", "wiring": [], "checks": []}
