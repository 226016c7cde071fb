"""The examples under the command line: a class that needs nothing given is enough to name."""

from pathlib import Path

import pytest
from cli_runs import runner

from flowkit.command_line.group import program

FLOWS = {
    "joke": ("topic=pirates", "Critique("),
    "approval": ("purpose=pencil amount=2.5", "Settled(objections=())"),
    "react_agent": ("question=Why?", "I am a script and know one question"),
    "text_to_sql": ("question=Why?", "I am a script and know one question"),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL", "FLOWKIT_STORE", "FLOWKIT_FLOWS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", FLOWS)
def test_it_runs(name: str, anyio_backend_name: str) -> None:
    fields, result = FLOWS[name]
    arguments = ["run", f"flowkit.examples.{name}", *fields.split(), "--quiet", "--backend", anyio_backend_name]
    told = runner().invoke(program, arguments)
    assert (told.exit_code, told.stderr) == (0, "")
    assert result in told.stdout


@pytest.mark.parametrize("name", FLOWS)
def test_it_is_drawn(name: str) -> None:
    told = runner().invoke(program, ["draw", f"flowkit.examples.{name}"])
    assert (told.exit_code, told.stderr) == (0, "")
    assert told.stdout.startswith("flowchart TD\n")


def test_what_is_asked_in_the_terminal() -> None:
    arguments = ["run", "flowkit.examples.approval", "purpose=train", "amount=180", "--quiet"]
    answers = '{"who": "manager", "topic": "yes or no", "response": "yes"}\n'
    told = runner().invoke(program, arguments, input=answers)
    assert (told.exit_code, told.stdout) == (0, "Settled(objections=())\n")
    assert Path("claims.ledger").read_text(encoding="utf-8").endswith("\t180.00\n")


def test_a_wrong_environment_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "nowhere")
    told = runner().invoke(program, ["run", "flowkit.examples.joke", "topic=pirates"])
    assert told.exit_code == 2
    assert "OPENAI_BASE_URL" in told.stderr and "Traceback" not in told.stderr
