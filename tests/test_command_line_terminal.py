"""``flowkit run`` in a terminal: questions, and the answers typed."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from cli_runs import FLOWS, Folder, entered
from terminals import Terminal, plain_environment

if os.name != "posix":
    pytest.skip("needs pseudo-terminals", allow_module_level=True)

BACKENDS = ["asyncio", *(["trio"] if find_spec("trio") is not None else [])]
both = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    with entered(tmp_path, monkeypatch) as folder:
        yield folder


def run(folder: Folder, flow: str, *more: str) -> Terminal:
    return Terminal(["run", f"flows:{flow}", "-q", *more], folder.path)


# -------------------------------------------------------------------------------------------------------------- answers


@both
def test_an_answer_is_typed_field_by_field(folder: Folder, backend: str) -> None:
    with run(folder, "Asking", "topic=x", "--backend", backend) as terminal:
        assert terminal.read_until("  ok (bool): ") == "? Question\n    who: boss\n    text: Publish x?\n  ok (bool): "
        terminal.type("perhaps\n")
        told = terminal.read_until("  ok (bool): ")
        assert told == "perhaps\n  true or false is expected, not 'perhaps'\n  ok (bool): "
        terminal.type("yes\n")
        terminal.read_until("  mood (Mood) [GOOD]: ")
        terminal.type("\n")
        assert terminal.end() == (0, "\nTrue GOOD\n")
        assert terminal.is_as_before()


@both
def test_a_choice_of_answers(folder: Folder, backend: str) -> None:
    with run(folder, "Either", "--backend", backend) as terminal:
        told = terminal.read_until("answer by (name or number): ")
        assert told.startswith("? Pay?\n  1. Yes (note: str = 'fine')\n  2. No (why: str)\n")
        terminal.type("2\n")
        terminal.read_until("  why (str): ")
        terminal.type("too much\n")
        assert terminal.end() == (0, "too much\ndeclined, too much\n")


@both
def test_an_open_answer(folder: Folder, backend: str) -> None:
    with run(folder, "Shown", "--backend", backend) as terminal:
        terminal.read_until("? A number: \n  response: ")
        terminal.type("7\n")
        assert terminal.end() == (0, "7\n7\n")


@both
def test_a_question_that_needs_no_answer_any_more_is_taken_back(folder: Folder, backend: str) -> None:
    with run(folder, "Withdrawn", "--backend", backend) as terminal:
        terminal.read_until("  who (str): ")
        folder.write("go", "")
        code, told = terminal.end()
        assert (code, told) == (0, "\n  (it needs no answer any more)\nnobody said a word\n")
        assert terminal.is_as_before()


@both
def test_a_question_that_somebody_else_answers(folder: Folder, backend: str) -> None:
    stored = ["--store", "runs.db", "--run-id", "one"]
    with run(folder, "Asking", "topic=x", *stored, "--backend", backend) as terminal:
        terminal.read_until("  ok (bool): ")
        send = [sys.executable, "-m", "flowkit", "runs", "send", "one", "Answer", "who=boss", "ok=no"]
        where = ["--store", "runs.db", "--flow", "flows:Asking"]
        sent = subprocess.run([*send, *where], check=False, cwd=folder.path, env=plain_environment())
        assert sent.returncode == 0
        assert terminal.end() == (0, "\n  (it needs no answer any more)\nFalse GOOD\n")
        assert terminal.is_as_before()


def test_a_run_that_is_driven_elsewhere(folder: Folder) -> None:
    stored = ["--store", "runs.db", "--run-id", "one"]
    with run(folder, "Asking", "topic=x", *stored) as terminal:
        terminal.read_until("  ok (bool): ")
        with run(folder, "Asking", *stored) as other:
            code, told = other.end()
            assert code == 3
            assert told.startswith("Error: run 'one' is driven by ") and "ask that process" in told
        terminal.type("yes\n\n")
        assert terminal.end()[0] == 0


def test_a_question_of_a_nested_run(folder: Folder) -> None:
    with run(folder, "outer") as terminal:
        assert terminal.read_until("\n").startswith("? Question (Asking)")
        terminal.read_until("  ok (bool): ")
        terminal.type("no\n")
        terminal.read_until("[GOOD]: ")
        terminal.type("bad\n")
        assert terminal.end() == (0, "bad\nFalse BAD\n")


def test_what_is_typed_ahead_is_for_the_next_prompt(folder: Folder) -> None:
    with run(folder, "Asking", "topic=x") as terminal:
        terminal.read_until("  ok (bool): ")
        terminal.type("yes\nbad\n")
        code, told = terminal.end()
        assert code == 0 and told.endswith("True BAD\n")


@both
def test_answers_under_the_live_view(folder: Folder, backend: str) -> None:
    with Terminal(["run", "flows:Asking", "topic=x", "--backend", backend], folder.path) as terminal:
        terminal.read_until("  ok (bool): ")
        terminal.type("yes\n")
        terminal.read_until("[GOOD]: ")
        terminal.type("bad\n")
        code, told = terminal.end()
        assert code == 0 and "True BAD" in told


def test_json_under_the_live_view(folder: Folder) -> None:
    """The display goes to standard error, so that standard output has nothing but JSON."""
    told = Terminal(["run", "flows:JokeFlow", "topic=x", "--json"], folder.path, out=folder.path / "out.json")
    with told as terminal:
        code, shown = terminal.end()
    assert code == 0 and "JokeFlow" in shown
    assert json.loads((folder.path / "out.json").read_text(encoding="utf-8"))["status"] == "finished"


# ----------------------------------------------------------------------------------------------------------------- tmux


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_in_tmux(tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text(FLOWS, encoding="utf-8")
    tmux = ["tmux", "-S", str(tmp_path / "socket"), "-f", "/dev/null"]
    env = {**plain_environment(), "TERM": "xterm-256color"}

    def call(*arguments: str) -> str:
        return subprocess.run([*tmux, *arguments], check=True, capture_output=True, text=True, env=env).stdout

    def seen(text: str) -> str:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            screen = call("capture-pane", "-p", "-t", "main")
            if re.search(text, screen, re.MULTILINE):
                return screen
            time.sleep(0.05)
        raise AssertionError(f"{text!r} never came; there is\n{screen}")

    program = f"{sys.executable} -m flowkit run flows:Asking topic=x"
    call("new-session", "-d", "-s", "main", "-x", "100", "-y", "30", "-c", str(tmp_path), "sh")
    try:
        call("send-keys", "-t", "main", f"{program}; echo the code is $?", "Enter")
        screen = seen(r"^  ok \(bool\): *$")
        assert "? Question" in screen and "text: Publish x?" in screen
        call("send-keys", "-t", "main", "yes", "Enter")
        seen(r"\[GOOD\]: *$")
        call("send-keys", "-t", "main", "Enter")
        assert re.search(r"^True GOOD$", seen("^the code is 0$"), re.MULTILINE)
        call("send-keys", "-t", "main", "clear", "Enter")
        call("send-keys", "-t", "main", f"{program}; echo the code was $?", "Enter")
        seen(r"^  ok \(bool\): *$")
        call("send-keys", "-t", "main", "C-c")
        assert "stopped: the run was cancelled" in seen("^the code was 130$")
        call("send-keys", "-t", "main", "echo typed and seen", "Enter")
        seen("^typed and seen$")
    finally:
        call("kill-server")
