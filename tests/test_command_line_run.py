"""``flowkit run``: results, failures, questions from a pipe, stored runs, stepwise runs; on both backends."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from cli_runs import FLOWS, Folder, entered
from terminals import plain_environment

BACKENDS = ["asyncio", *(["trio"] if find_spec("trio") is not None else [])]
LINE = FLOWS.splitlines().index('            raise ValueError("too loud")') + 1
both = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    with entered(tmp_path, monkeypatch) as folder:
        yield folder


# -------------------------------------------------------------------------------------------------------------- results


@both
def test_the_result_is_printed(folder: Folder, backend: str) -> None:
    told = folder.call("run", "flows:JokeFlow", "topic=pirate", "--backend", backend)
    assert (told.code, told.out) == (0, "Why did the pirate cross the road? (7/10)\n")
    assert "a draft" in told.err


def test_quietly(folder: Folder) -> None:
    told = folder.call("run", "flows:JokeFlow", "topic=pirate", "--quiet")
    assert (told.code, told.err) == (0, "")


@both
def test_json(folder: Folder, backend: str) -> None:
    told = folder.call("run", "flows:JokeFlow", "topic=x", "--json", "--run-id", "one", "-q", "--backend", backend)
    assert told.code == 0
    assert json.loads(told.out) == {
        "run_id": "one",
        "workflow": "JokeFlow",
        "status": "finished",
        "result": "Why did the x cross the road? (7/10)",
    }


def test_results_of_other_types(folder: Folder) -> None:
    folder.write(
        "made.py",
        """
        import datetime, decimal, enum, pathlib, uuid
        import attrs
        from flowkit import *
        class Color(enum.Enum):
            RED = 1
        @attrs.frozen
        class Item:
            name: str
            price: decimal.Decimal
        class Done(StopEvent):
            item: Item
            color: Color
            when: datetime.date
            sizes: dict[int, float]
            tags: frozenset[str]
            odd: object
        class Typed(Workflow):
            @step
            async def only(self, ev: StartEvent) -> Done:
                when = datetime.date(2026, 1, 31)
                sizes = {1: float("inf"), 2: 0.5}
                return Done(Item("a", decimal.Decimal("1.10")), Color.RED, when, sizes, frozenset("ab"), object)
        class Nothing(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                return StopEvent()
        """,
    )
    assert json.loads(folder.call("run", "made:Typed", "--json").out)["result"] == {
        "item": {"name": "a", "price": "1.10"},
        "color": "RED",
        "when": "2026-01-31",
        "sizes": {"1": "inf", "2": 0.5},
        "tags": ["a", "b"],
        "odd": "object",
    }
    assert folder.call("run", "made:Typed").out.startswith("Done(item=Item(name='a', price=Decimal('1.10')), color=")
    nothing = folder.call("run", "made:Nothing")
    assert (nothing.code, nothing.out) == (0, "")
    assert json.loads(folder.call("run", "made:Nothing", "--json").out)["result"] is None


def test_values_that_do_not_fit(folder: Folder) -> None:
    told = folder.call("run", "flows:Asking", "limit=x", "tpic=y")
    assert (told.code, told.out) == (2, "")
    assert told.err == (
        "Error: Topic can't be built, 3 values are wrong:\n"
        "  Topic.limit (int) takes a whole number, but got 'x'\n"
        "  Topic has no field 'tpic': did you mean 'topic'?\n"
        "  Topic needs topic: str: add topic=…\n"
    )


# ------------------------------------------------------------------------------------------------------------- failures


@both
def test_a_step_that_fails(folder: Folder, backend: str) -> None:
    told = folder.call("run", "flows:JokeFlow", "topic=x!", "-q", "--backend", backend)
    assert (told.code, told.out) == (1, "")
    assert told.err == f"failed: JokeFlow.judge raised ValueError: too loud (flows.py:{LINE})\n"


def test_the_traceback_of_a_step_that_fails(folder: Folder) -> None:
    told = folder.call("run", "flows:JokeFlow", "topic=x!", "-q", "--traceback")
    assert told.err.startswith("Traceback (most recent call last):\n  File ")
    assert f'flows.py", line {LINE}, in judge' in told.err
    assert "flowkit/" not in told.err
    assert told.err.endswith(f"failed: JokeFlow.judge raised ValueError: too loud (flows.py:{LINE})\n")


def test_a_failure_as_json(folder: Folder) -> None:
    told = folder.call("run", "flows:JokeFlow", "topic=x!", "-q", "--json")
    assert told.code == 1
    data = json.loads(told.out)
    assert data["status"] == "failed"
    assert data["error"] == {"type": "ValueError", "message": "too loud", "step": "judge", "where": f"flows.py:{LINE}"}


def test_a_failure_without_a_text_as_json(folder: Folder) -> None:
    folder.write(
        "mute.py",
        """
        from flowkit import *
        class Untold(Exception):
            def __str__(self):
                raise RuntimeError
        class Mute(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                if ev.get("raises"):
                    raise Untold
                return StopEvent(result=[Untold(), "\\ud800"])
        """,
    )
    told = folder.call("run", "mute:Mute", "raises=yes", "-q", "--json")
    text = "(its text raises RuntimeError)"
    assert json.loads(told.out)["error"] == {"type": "Untold", "message": text, "step": "only", "where": "mute.py:10"}
    told = folder.call("run", "mute:Mute", "-q", "--json")
    assert (told.code, json.loads(told.out)["result"]) == (0, [{"type": "Untold", "message": text}, "\ud800"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_result_that_cannot_be_written(folder: Folder) -> None:
    call = [sys.executable, "-m", "flowkit", "run", "flows:JokeFlow", "topic=x", "-q"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            call, check=False, stdout=full, stderr=subprocess.PIPE, text=True, cwd=folder.path, env=plain_environment()
        )
    assert (done.returncode, done.stderr) == (
        1,
        "Error: standard output can't be written: No space left on device\n",
    )


@both
def test_failures_of_other_kinds(folder: Folder, backend: str) -> None:
    folder.write(
        "bad.py",
        """
        import anyio
        from flowkit import *
        from flowkit.retry_policy import ConstantDelayRetryPolicy
        class Next(Event): ...
        class Slow(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                await anyio.sleep(600)
                return StopEvent()
        class Stalled(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent | None:
                return None
        class Again(Workflow):
            @step(retry_policy=ConstantDelayRetryPolicy(maximum_attempts=2, delay=0))
            async def only(self, ev: StartEvent) -> StopEvent:
                raise KeyError("x")
        class Wrong(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                return 3
        class Outer(Workflow):
            @step
            async def only(self, ev: StartEvent, inner: Again) -> StopEvent:
                await inner.run()
        class Leaving(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                raise SystemExit(7)
        class Closing(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                raise GeneratorExit
        class Untold(Exception):
            def __str__(self):
                raise RuntimeError
        class Mute(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                raise Untold
        class Grouped(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                async with anyio.create_task_group() as group:
                    group.start_soon(self.fail)
                return StopEvent()
            async def fail(self):
                raise ValueError("the reason")
        def outer():
            flow = Outer()
            flow.add_workflows(inner=Again())
            return flow
        """,
    )
    for name, arguments, code, said in [
        ("Slow", ["--timeout", "0.01"], 1, "failed: Slow timed out after 0.01 seconds; active: only.\n"),
        ("Stalled", [], 1, "failed: Stalled stalled: nothing is running, no StopEvent was returned"),
        ("Again", [], 1, "failed: Again.only raised KeyError: 'x' (after 3 attempts) (bad.py:18)\n"),
        ("Wrong", [], 1, "failed: Wrong.only failed: Wrong.only returned int, but its annotation allows StopEvent"),
        ("outer", [], 1, "failed: Outer.only: step 'only' raised KeyError: 'x' (after 3 attempts) (bad.py:18)\n"),
        ("Leaving", [], 7, ""),
        ("Closing", [], 1, "Error: GeneratorExit"),
        ("Mute", [], 1, "failed: Mute.only raised Untold: (its text raises RuntimeError) (bad.py:41)\n"),
        ("Grouped", [], 1, "failed: Grouped.only raised ExceptionGroup: "),
    ]:
        told = folder.call("run", f"bad:{name}", "-q", "--backend", backend, *arguments)
        assert (told.code, told.out) == (code, ""), told
        assert told.err.startswith(said) and "Traceback" not in told.err, told.err
    assert told.err.endswith(" (1 sub-exception): ValueError: the reason (bad.py:49)\n")


@pytest.mark.filterwarnings("always")
def test_warnings_are_lines(folder: Folder) -> None:
    folder.write(
        "odd.py",
        """
        from flowkit import *
        class Lost(Event): ...
        class Losing(Workflow):
            @step
            async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
                ctx.send_event(Lost())
                return StopEvent(result="done")
        """,
    )
    told = folder.call("run", "odd:Losing", "-q")
    assert (told.code, told.out) == (0, "done\n")
    assert told.err.startswith("Warning: ") and "Lost" in told.err and told.err.count("\n") == 1


def test_what_steps_print_is_no_json(folder: Folder) -> None:
    folder.write(
        "loud.py",
        """
        from flowkit import *
        class Loud(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                print("hello", flush=True)
                return StopEvent(result="done")
        """,
    )
    told = folder.call("run", "loud", "-q", "--json")
    assert json.loads(told.out)["result"] == "done" and told.err == "hello\n"
    assert folder.call("run", "loud", "-q").out == "hello\ndone\n"


# ------------------------------------------------------------------------------------------------------------ questions


@both
@pytest.mark.parametrize(
    ("flow", "typed", "result"),
    [
        ("Asking", "yes\n", "True GOOD"),
        ("Asking", '{"ok": false, "mood": "bad"}\n', "False BAD"),
        ("Shown", "5\n", "5"),
        ("Returned", "5\n", "5"),
        ("Silent", '{"who": "me", "ok": true}\n', "True"),
        ("Either", "yes\n{}\n", "paid, fine"),
        ("Either", "2\ntoo much\n", "declined, too much"),
        ("Twice", "yes\nyes\n", "True True"),
        ("outer", "no\n", "False GOOD"),
        ("Driven", "from outside\n", "from outside"),
        ("Impatient", "", "nobody said a word"),
    ],
)
def test_answers_from_a_pipe(folder: Folder, backend: str, flow: str, typed: str, result: str) -> None:
    values = ["topic=x"] if flow == "Asking" else []
    told = folder.call("run", f"flows:{flow}", *values, "-q", "--backend", backend, input=typed)
    assert (told.code, told.out) == (0, f"{result}\n"), told


@both
def test_an_answer_that_does_not_fit_is_asked_for_again(folder: Folder, backend: str) -> None:
    typed = 'perhaps\n{"ok": 1}\n{"okay": true}\n{"ok": true}\n'
    told = folder.call("run", "flows:Asking", "topic=x", "-q", "--backend", backend, input=typed)
    assert (told.code, told.out) == (0, "True GOOD\n")
    assert told.err.splitlines() == [
        "? Question",
        "    who: boss",
        "    text: Publish x?",
        "  Answer (who: str, ok: bool, mood: Mood = GOOD): perhaps",
        "  true or false is expected, not 'perhaps'",
        '  Answer (who: str, ok: bool, mood: Mood = GOOD): {"ok": 1}',
        "  ok: true or false is expected, not 1",
        '  Answer (who: str, ok: bool, mood: Mood = GOOD): {"okay": true}',
        "  the fields of Answer is expected, not 'okay': did you mean 'ok'?",
        '  Answer (who: str, ok: bool, mood: Mood = GOOD): {"ok": true}',
    ]


def test_a_name_among_several_that_is_none_of_them(folder: Folder) -> None:
    told = folder.call("run", "flows:Either", "-q", input="3\nyse\nYes\n\n")
    assert (told.code, told.out) == (0, "paid, \n")
    assert told.err.splitlines()[:6] == [
        "? Pay?",
        "  1. Yes (note: str = 'fine')",
        "  2. No (why: str)",
        "  answer by (name or number): 3",
        "  '3' is none of them: write Yes or No",
        "  answer by (name or number): yse",
    ]
    assert "  'yse' is none of them: write Yes or No" in told.err


@both
def test_nobody_answers(folder: Folder, backend: str) -> None:
    told = folder.call("run", "flows:Asking", "topic=x", "-q", "--backend", backend, input="")
    assert (told.code, told.out) == (4, "")
    assert told.err.endswith("nobody answers: the run was cancelled\nwith --store it would have been kept\n")
    data = json.loads(folder.call("run", "flows:Asking", "topic=x", "-q", "--json", input="").out)
    assert data["status"] == "waiting"
    assert data["waits_for"][0]["question"] == {"type": "Question", "fields": {"who": "boss", "text": "Publish x?"}}
    assert data["waits_for"][0]["answers"] == [
        {"type": "Answer", "fields": ["who: str", "ok: bool", "mood: Mood = GOOD"]}
    ]
    assert data["waits_for"][0]["requires"] == {"who": "boss"}


# ---------------------------------------------------------------------------------------------------------- stored runs


@both
def test_a_stored_run_is_left_waiting_and_gone_on_with(folder: Folder, backend: str) -> None:
    module = folder.write_flows()
    call = ["run", f"{module}:Asking", "--store", "my runs.db", "--run-id", "one", "--backend", backend]
    told = folder.call(*call, "topic=x", input="")
    assert (told.code, told.out) == (4, "")
    assert told.err.startswith("run one, in my runs.db\n")
    assert told.err.endswith(
        "run one waits for an answer\n"
        f"  flowkit runs send one Answer who=boss ok=… --store 'my runs.db' --flow {module}:Asking\n"
        f"  flowkit runs resume one --store 'my runs.db' --flow {module}:Asking\n"
    )
    told = folder.call(*call, input="yes\n")
    assert (told.code, told.out) == (0, "True GOOD\n")
    assert told.err.startswith("run one, in my runs.db: going on\n")
    told = folder.call(*call, input="")
    assert (told.code, told.out) == (0, "True GOOD\n")
    data = json.loads(folder.call(*call, "--json").out)
    assert (data["status"], data["store"], data["result"]) == ("finished", "my runs.db", "True GOOD")


@both
def test_a_question_of_a_nested_run_that_is_left(folder: Folder, backend: str) -> None:
    call = ["run", f"{folder.write_flows()}:outer", "--store", "runs.db", "--run-id", "one", "--backend", backend]
    assert folder.call(*call, input="").code == 4
    told = folder.call(*call, input="yes\n")
    assert (told.code, told.out) == (0, "True GOOD\n"), told


def test_a_run_gets_an_id_that_is_told(folder: Folder) -> None:
    told = folder.call("run", "flows:Returned", "--store", "runs.db", "-q", "--json", input="")
    assert told.code == 4
    run_id = json.loads(told.out)["run_id"]
    assert f"  flowkit runs resume {run_id} --store runs.db --flow flows:Returned\n" in told.err


def test_a_new_run_needs_its_fields(folder: Folder) -> None:
    told = folder.call("run", "flows:Asking", "--store", "runs.db", "--run-id", "one")
    assert (told.code, told.err) == (2, "Error: Topic needs topic: str: add topic=…\n")


@pytest.mark.filterwarnings("always")
def test_what_a_stored_run_was_to_start_with_is_ignored(folder: Folder) -> None:
    call = ["run", "flows:JokeFlow", "--store", "runs.db", "--run-id", "one", "-q"]
    first = folder.call(*call, "topic=x")
    again = folder.call(*call, "topic=y")
    assert (again.code, again.out) == (0, first.out)
    assert again.err.startswith("Warning: run 'one' of JokeFlow is in its store already, so what it was to start with")


def test_a_run_id_of_another_workflow(folder: Folder) -> None:
    call = ["--store", "runs.db", "--run-id", "one", "-q"]
    assert folder.call("run", "flows:Returned", *call, input="5\n").code == 0
    told = folder.call("run", "flows:JokeFlow", "topic=x", *call)
    assert told.code == 2
    assert told.err.startswith("Error: run 'one' belongs to Returned, not to JokeFlow")


def test_a_run_that_has_failed_is_told_where_it_is(folder: Folder) -> None:
    call = ["run", "flows:JokeFlow", "--store", "runs.db", "--run-id", "one", "-q"]
    for values in (["topic=x!"], []):
        told = folder.call(*call, *values)
        assert told.code == 1
        assert told.err.startswith("failed: JokeFlow.judge raised ValueError: too loud")
        assert told.err.endswith("\n(run one, in runs.db)\n")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("no database, but text that is long enough to be one" * 20), "isn't a SQLite "),
        (lambda path: path.mkdir(), ""),
    ],
)
def test_a_store_that_can_not_be_used(folder: Folder, make: object, said: str) -> None:
    make(folder.path / "runs.db")  # type: ignore[operator]
    told = folder.call("run", "flows:JokeFlow", "topic=x", "--store", "runs.db")
    assert told.code == 3
    assert told.err.startswith("Error: SQLiteStore('runs.db'): ")


def test_a_store_that_is_locked(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    call = ["run", "flows:JokeFlow", "topic=x", "--store", "runs.db", "-q"]
    assert folder.call(*call).code == 0
    monkeypatch.setattr("flowkit.command_line.options.PATIENCE", 0.01)
    connection = sqlite3.connect(folder.path / "runs.db", isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        told = folder.call(*call)
    finally:
        connection.close()
    assert (told.code, told.out) == (3, "")
    said = "Error: SQLiteStore('runs.db'): another process or thread is writing to it: try again.\n"
    assert told.err == said


def test_a_store_in_a_folder_that_is_not_there(folder: Folder) -> None:
    told = folder.call("run", "flows:JokeFlow", "topic=x", "--store", "nowhere/runs.db")
    assert told.code == 3
    assert told.err.startswith("Error: SQLiteStore('nowhere/runs.db'): ")


# ------------------------------------------------------------------------------------------------------------- stepwise


@both
@pytest.mark.parametrize(
    ("flow", "typed", "code", "out"),
    [
        ("JokeFlow", "\n\n", 0, "Why did the x cross the road? (7/10)\n"),
        ("JokeFlow", "1\nall\n", 0, "Why did the x cross the road? (7/10)\n"),
        ("JokeFlow", "7\nx\n1,\n1\n", 0, "Why did the x cross the road? (7/10)\n"),
        ("JokeFlow", "q\n", 1, ""),
        ("JokeFlow", "0\n", 1, ""),
        ("JokeFlow", "\n", 4, ""),
        ("Asking", "yes\n\n", 0, "True GOOD\n"),
        ("Returned", "\n5\n\n", 0, "5\n"),
        ("Either", "\nno\nlate\n\n", 0, "declined, late\n"),
    ],
)
def test_stepwise(folder: Folder, backend: str, flow: str, typed: str, code: int, out: str) -> None:
    call = ["run", f"flows:{flow}", "-q", "--stepwise", "--backend", backend]
    values = [] if flow in ("Returned", "Either") else ["topic=x"]
    told = folder.call(*call, *values, input=typed)
    assert (told.code, told.out) == (code, out), told


def test_stepwise_shows_what_was_produced(folder: Folder) -> None:
    told = folder.call("run", "flows:JokeFlow", "topic=x", "-q", "--stepwise", input="2\n\nq\n")
    assert told.code == 1
    asks = "  which go on? (Enter: all; numbers: those; 0: none; q: cancel) "
    assert told.err.splitlines() == [
        "1. produced",
        "  1. Joke(text='Why did the x cross the road?')",
        f"{asks}2",
        "  write numbers from 1 to 1, such as 1,2; or Enter, 0 or q",
        asks,
        "2. produced",
        "  1. StopEvent(result='Why did the x cross the road? (7/10)')",
        f"{asks}q",
        "cancelled",
    ]


@both
@pytest.mark.parametrize("verb", ["run", "resume"])
def test_a_stepwise_run_goes_on_stepwise_and_asks_for_what_was_held_back(
    folder: Folder, backend: str, verb: str
) -> None:
    flows = folder.write_flows()
    stored = ["--store", "runs.db", "--backend", backend, "-q"]
    told = folder.call("run", f"{flows}:JokeFlow", "topic=x", "--stepwise", "--run-id", "one", *stored, input="\n")
    assert told.code == 4 and told.err.splitlines()[-2:] == [
        "run one waits for an answer",
        f"  flowkit runs resume one --store runs.db --flow {flows}:JokeFlow",
    ]
    shown = folder.call("runs", "show", "one", "--store", "runs.db", "--flow", f"{flows}:JokeFlow").out
    assert "\n  held back   StopEvent(result='Why did the x cross the road? (7/10)')\n" in shown
    call = ["run", f"{flows}:JokeFlow", "--run-id", "one"] if verb == "run" else ["runs", "resume", "one"]
    flow = [] if verb == "run" else ["--flow", f"{flows}:JokeFlow"]
    asks = "  which go on? (Enter: all; numbers: those; 0: none; q: cancel) "
    told = folder.call(*call, *flow, *stored, input="\n")
    assert (told.code, told.out) == (0, "Why did the x cross the road? (7/10)\n"), told
    assert told.err.splitlines() == [
        "(it began with --stepwise, so each step asks which of its events go on)",
        "1. produced",
        "  1. StopEvent(result='Why did the x cross the road? (7/10)')",
        asks,
    ]


def test_stepwise_is_refused_where_a_stored_run_did_not_begin_so(folder: Folder) -> None:
    call = ["run", f"{folder.write_flows()}:Asking", "topic=x", "--store", "runs.db", "--run-id", "one", "-q"]
    assert folder.call(*call).code == 4
    told = folder.call(*call, "--stepwise")
    assert told.code == 2
    assert told.err == "Error: run 'one' didn't begin with --stepwise: leave it out to go on with it\n"
    assert folder.call(*call, input="yes\n\n").code == 0
    told = folder.call(*call, "--stepwise")
    assert (told.code, told.out) == (0, "True GOOD\n")


def test_what_a_nested_run_waits_for_is_shown_of_the_outer_one(folder: Folder) -> None:
    flows = folder.write_flows()
    stored = ["--store", "runs.db", "--flow", f"{flows}:outer"]
    assert folder.call("run", f"{flows}:outer", "-q", "--store", "runs.db", "--run-id", "one").code == 4
    (waits,) = json.loads(folder.call("runs", "show", "one", *stored, "--json").out)["waits_for"]
    assert waits["run_id"].startswith("one/") and waits["takes"][0]["type"] == "Answer"
    line = f"in ask of {waits['run_id']}, asked Question(who='boss', text='Publish nested?')\n"
    assert line in folder.call("runs", "show", "one", *stored).out
    assert folder.call("runs", "send", "one", "Answer", "who=boss", "ok=yes", *stored).code == 0
