"""The examples as programs: what they print and return, offline, with an endpoint on this machine, and in bad cases.

What talks to an endpoint runs on the real clock: a socket doesn't hold virtual time.
"""

import importlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest
from chat_server import HANG, HEAD, ChatServer, calls, delta, event, refuses, says, serving

from flowkit.examples import _chat, _shop, joke, react_agent, text_to_sql
from flowkit.examples._model import Message, Remote, Reply, Scripted, ToolCall
from flowkit.testing.virtual_time import run_virtual

NAMES = ["joke", "approval", "react_agent", "text_to_sql"]


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)


Program = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(anyio_backend_name: str, capsys: pytest.CaptureFixture[str]) -> Program:
    """Run an example in this process; its exit code and what it wrote."""

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        main = importlib.import_module(f"flowkit.examples.{name}").main
        code = main([*arguments, "--backend", anyio_backend_name])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    """An endpoint that the environment names; what fails is tried again at once."""
    monkeypatch.setattr(_chat, "FIRST_DELAY", 0.0)
    with serving() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.endpoint.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        yield server


# -------------------------------------------------------------------------------------------------------------- offline


def test_a_joke(run: Program) -> None:
    code, out, err = run("joke", "cats")
    assert (code, err) == (0, "")
    assert out == (
        "\njoke: Why don't cats ever finish a workflow? They wait for an event that nobody sends."
        "\ncritique: Setup and punchline are in order. It needs a listener who has waited, too. 7/10.\n"
    )


def test_an_agent(run: Program) -> None:
    code, out, err = run("react_agent")
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if line]
    assert lines[0] == "I need both lengths."
    assert sorted(lines[1:3]) == [
        '  river_length({"river": "Nile"}): 6650 km',
        '  river_length({"river": "Rhine"}): 1233 km',
    ]
    assert lines[3:] == [
        "Now the difference.",
        '  calculate({"expression": "(6650 / 1233 - 1) * 100"}): 439.334955',
        "The Nile is 439 percent longer than the Rhine.",
    ]


def test_an_agent_that_is_asked_something_else(run: Program) -> None:
    code, out, _ = run("react_agent", "Why?")
    assert (code, out) == (0, f"I am a script and know one question: {react_agent.QUESTION}\n")


def test_an_agent_that_runs_out_of_turns(run: Program) -> None:
    code, out, _ = run("react_agent", "--turns", "2")
    assert code == 1
    assert out.endswith("\ngave up after 2 turns\n")


def test_sql(run: Program) -> None:
    code, out, err = run("text_to_sql")
    assert (code, err) == (0, "")
    assert "  flawed: no such column: amount\n" in out
    assert out.endswith("LIMIT 1\n\nname | spent\nAda | 119.5\n(1 rows)\n")


def test_sql_out_of_tries(run: Program) -> None:
    code, out, _ = run("text_to_sql", "--tries", "1")
    assert code == 1
    assert out.endswith("no query worked; the last error: no such column: amount\n")


# ---------------------------------------------------------------------------------------------------------- wrong usage


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(f"flowkit.examples.{name}").main(["--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m flowkit.examples.{name} ")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        *((name, ["x", "--backend", "curio"], "invalid choice: 'curio'") for name in NAMES),
        ("joke", [" "], "the topic is empty"),
        ("joke", ["a", "b"], "unrecognized arguments: b"),
        ("react_agent", [""], "the question is empty"),
        ("react_agent", ["--turns", "0"], "--turns takes a number from 1, but got 0"),
        ("text_to_sql", [" "], "the question is empty"),
        ("text_to_sql", ["--tries", "-1"], "--tries takes a number from 1, but got -1"),
        ("text_to_sql", ["--database", "/nowhere/shop.db"], "/nowhere/shop.db is no file"),
        ("approval", [], "the following arguments are required: claim"),
        ("approval", ["ana-7", "train"], "a claim has a purpose and an amount"),
        ("approval", ["ana-7", "train", "nan"], "nan is no amount to claim"),
        ("approval", ["ana-7", "train", "much"], "invalid euros value: 'much'"),
    ],
)
def test_wrong_usage(name: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(f"flowkit.examples.{name}").main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["joke", "react_agent", "text_to_sql"])
def test_a_wrong_environment(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost")
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(f"flowkit.examples.{name}").main([])
    assert caught.value.code == 2
    assert "OPENAI_BASE_URL should look like https://api.openai.com/v1" in capsys.readouterr().err


def test_a_backend_that_is_not_installed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "trio" else find_spec(name, *more)
    )
    with pytest.raises(SystemExit) as caught:
        joke.main(["--backend", "trio"])
    assert caught.value.code == 2
    assert "trio is not installed: pip install trio" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- with an endpoint


def test_a_joke_over_http(server: ChatServer, run: Program) -> None:
    server.replies = [says("A", " joke"), says("Meh\x1b[2J")]
    code, out, _ = run("joke")
    assert (code, out) == (0, "\njoke: A joke\ncritique: Meh\N{REPLACEMENT CHARACTER}[2J\n")
    assert [request["messages"][0]["content"].partition(" joke")[0] for _, request in server.requests] == [
        "Write your best",
        "Give a thorough analysis and critique of the following",
    ]


def test_what_may_pass_is_tried_again(server: ChatServer, run: Program) -> None:
    server.replies = [
        refuses(429, Retry_After="0"),
        refuses(500),
        says("A joke"),
        (HEAD + b"\r\n", delta(content="Half a cri")),
        says("Meh"),
    ]
    code, out, _ = run("joke")
    assert (code, out) == (0, "\njoke: \njoke: \njoke: A joke\ncritique: Half a cri\ncritique: Meh\n")
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("name", "reply", "requests", "reason"),
    [
        ("joke", refuses(500, {"error": "out of memory"}), 3, "replied 500 out of memory"),
        ("joke", refuses(429, {"error": "quota used up"}, Retry_After="3600"), 1, "replied 429 quota used up"),
        ("joke", says(""), 1, "gave an empty answer"),
        ("react_agent", refuses(401, {"error": "wrong key secret"}), 1, "replied 401 wrong key (the key)"),
        ("react_agent", (HEAD + b"\r\n", event(b"{")), 1, "something that is no chat stream"),
        ("react_agent", (HEAD + b"\r\n", delta(content="I")), 3, "broke off its reply"),
        ("text_to_sql", (), 3, "broke off its reply"),
    ],
)
def test_what_does_not_pass_is_told(
    server: ChatServer, run: Program, name: str, reply: Any, requests: int, reason: str
) -> None:
    server.replies = [reply]
    code, _, err = run(name)
    assert code == 1
    assert err.startswith("\nfailed: 127.0.0.1:")
    assert reason in err
    assert len(err.splitlines()) == 2
    assert "secret" not in err
    assert len(server.requests) == requests


def test_a_slow_stream_is_asked_for_again(
    server: ChatServer, anyio_backend_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.replies = [(*says("Let me")[:-3], HANG), says("42")]
    agent = react_agent.ReActAgent(Remote(server.endpoint, patience=0.05), [])
    assert anyio.run(react_agent.answer, agent, "What is it?", backend=anyio_backend_name) == 0
    assert capsys.readouterr().out == "Let me42\n"


def test_an_agent_over_http(server: ChatServer, run: Program) -> None:
    wanted = '{"expression": "6 * (8 - 1)"}'
    server.replies = [calls(("calculate", wanted), ("river_length", '{"river": "Rhine"}')), says("It is 42.")]
    code, out, _ = run("react_agent", "How much is 6 times 7?")
    assert code == 0
    assert f"calculate({wanted}): 42.0\n" in out
    assert out.endswith("It is 42.\n")
    assert [tool["function"]["name"] for tool in server.requests[0][1]["tools"]] == ["river_length", "calculate"]
    messages = server.requests[1][1]["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "tool"]
    assert messages[3:] == [
        {"role": "tool", "tool_call_id": "call-0", "content": "42.0"},
        {"role": "tool", "tool_call_id": "call-1", "content": "1233 km"},
    ]


def test_an_agent_whose_model_never_stops(server: ChatServer, run: Program) -> None:
    server.replies = [calls(("calculate", '{"expression": "1 + 1"}'))]
    code, out, _ = run("react_agent", "Why?", "--turns", "3")
    assert code == 1
    assert out.endswith("gave up after 3 turns\n")
    assert len(server.requests) == 3


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
@pytest.mark.parametrize("reply", [(*says("Let me see")[:-3], HANG), refuses(429, Retry_After="60")])
def test_ctrl_c_leaves_nothing_behind(server: ChatServer, anyio_backend_name: str, reply: Any) -> None:
    server.replies = [says("I"), reply]
    process = subprocess.Popen(
        [sys.executable, "-m", "flowkit.examples.joke", "--backend", anyio_backend_name],
        env={**os.environ, "OPENAI_BASE_URL": server.endpoint.base_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        shown = ""
        while not shown.endswith("critique: Let me see" if HANG in reply else "critique: "):
            piece = process.stdout.read(1)
            assert piece, shown
            shown += piece
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "\nstopped\n")


# ------------------------------------------------------------------------------------------------------------ the agent


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("calculate", '{"expression": "-(1 + 2) * 3 / 4"}', "-2.25"),
        ("calculate", '{"expression": "1 / 0"}', "error: ZeroDivisionError: "),
        ("calculate", '{"expression": "9 ** 9 ** 9"}', "error: ValueError: 9 ** 9 ** 9 is none"),
        ("calculate", '{"expression": "__import__(\'os\')"}', "error: ValueError: __import__('os') is none"),
        ("calculate", '{"expression": "1 +"}', "error: SyntaxError: "),
        ("calculate", "{", "error: JSONDecodeError: "),
        ("calculate", "[1]", "error: TypeError: "),
        ("calculate", '{"sum": 1}', "error: TypeError: "),
        ("calculate", "", "error: TypeError: "),
        ("river_length", '{"river": "Styx"}', "error: KeyError: 'styx'"),
        ("river_length", '{"river": 5}', "error: AttributeError: "),
        ("shell", "{}", "error: there is no tool shell, only river_length, calculate"),
    ],
)
async def test_a_tool_that_fails_is_told_to_the_model(name: str, arguments: str, told: str) -> None:
    def script(messages: Sequence[Message]) -> Reply:
        if messages[-1]["role"] == "tool":
            return Reply(messages[-1]["content"])
        return Reply("", (ToolCall("1", name, arguments),))

    agent = react_agent.ReActAgent(Scripted(script), [react_agent.river_length, react_agent.calculate])
    result = await agent.run(question="?")
    assert result.text.startswith(told)
    assert result.turns == 2


# --------------------------------------------------------------------------------------------------------- the database


async def queried(sql: str, database: Path | None = None) -> text_to_sql.Rows:
    def script(messages: Sequence[Message]) -> Reply:
        return Reply(sql)

    start = text_to_sql.Ask("?", database)
    result: text_to_sql.Rows = await text_to_sql.TextToSql(Scripted(script), tries=1).run(start_event=start)
    return result


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "my shop?.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE item (name TEXT)")
        database.executemany("INSERT INTO item VALUES (?)", [(f"item {n}",) for n in range(60)])
    database.close()
    return path


async def test_a_file_is_asked(shop: Path) -> None:
    assert (await queried("```SQL\nSELECT count(*) FROM item\n```\nThat counts.", shop)).rows == ((60,),)
    assert (await queried("SELECT name FROM item WHERE name = 'none'", shop)) == text_to_sql.Rows(("name",))
    assert len((await queried("SELECT * FROM item", shop)).rows) == text_to_sql.MOST_ROWS


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM item",
        "DROP TABLE item",
        "INSERT INTO item VALUES ('x')",
        "CREATE TEMP TABLE mine (x)",
        "PRAGMA writable_schema = 1",
        "ATTACH ':memory:' AS other",
        "VACUUM INTO 'copy.db'",
        "SELECT load_extension('x')",
        "BEGIN",
    ],
)
def test_nothing_but_reading_is_let_through(shop: Path, in_file: bool, sql: str, anyio_backend_name: str) -> None:
    before = shop.read_bytes()
    if not in_file:
        sql = sql.replace("item", "customer")
    answer = run_virtual(queried, sql, shop if in_file else None, backend=anyio_backend_name)
    assert "authoriz" in answer.failure
    assert shop.read_bytes() == before
    assert [path.name for path in shop.parent.iterdir()] == [shop.name]


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("", "it is no query"),
        ("```sql\n```", "it is no query"),
        ("I don't know.", "syntax error"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT '\0'", "null character"),
        ("SELECT ?", "binding"),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n", "interrupted"),
    ],
)
async def test_what_is_no_query_ends_in_a_line(sql: str, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shop, "MOST_INSTRUCTIONS", 100_000)
    assert error in (await queried(sql)).failure.removeprefix("no query worked; the last error: ")


def test_a_file_that_is_no_database(run: Program, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Not a database, but long enough to be looked at. " * 100)
    code, _, err = run("text_to_sql", "--database", str(tmp_path / "notes.txt"))
    assert (code, err) == (1, "\nfailed: file is not a database\n")


async def test_the_model_is_told_what_was_wrong() -> None:
    heard: list[Sequence[Message]] = []

    def script(messages: Sequence[Message]) -> Reply:
        heard.append(messages)
        return text_to_sql.script(messages)

    result = await text_to_sql.TextToSql(Scripted(script)).run(question=text_to_sql.QUESTION)
    assert result.rows == (("Ada", 119.5),)
    assert [len(messages) for messages in heard] == [2, 4, 6]
    assert "CREATE TABLE customer" in heard[0][0]["content"]
    assert "SQLite says: no such column: amount." in heard[1][-1]["content"]
    assert heard[2][-2] == {"role": "assistant", "content": "The column is called euros."}


async def test_wrong_sql_for_ever_ends() -> None:
    asked: list[int] = []

    def script(messages: Sequence[Message]) -> Reply:
        asked.append(len(messages))
        return Reply("SELECT missing")

    result = await text_to_sql.TextToSql(Scripted(script), tries=3).run(question="?")
    assert result.failure == "no query worked; the last error: no such column: missing"
    assert len(asked) == 5  # three queries, and what was wrong with two of them
