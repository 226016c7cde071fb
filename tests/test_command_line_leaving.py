"""``flowkit run`` is left in a terminal: by Ctrl-C and Ctrl-D at every prompt, and by closing it.

What each backend does in its own way (Ctrl-C) is tried on both, at every prompt; what follows from it on one of them.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from cli_runs import Folder, entered
from terminals import Terminal

if os.name != "posix":
    pytest.skip("needs pseudo-terminals", allow_module_level=True)

BACKENDS = ["asyncio", *(["trio"] if find_spec("trio") is not None else [])]
both = pytest.mark.parametrize("backend", BACKENDS)
CTRL_C, CTRL_D = "\x03", "\x04"
WHICH = "q: cancel) "


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    with entered(tmp_path, monkeypatch) as folder:
        yield folder


def run(folder: Folder, flow: str, *more: str) -> Terminal:
    return Terminal(["run", f"flows:{flow}", "-q", *more], folder.path)


PROMPTS = [
    pytest.param(["Asking", "topic=x"], [], "  ok (bool): ", id="a field"),
    pytest.param(["Asking", "topic=x"], [("  ok (bool): ", "yes\n")], "[GOOD]: ", id="the next field"),
    pytest.param(["Shown"], [], "  response: ", id="an open answer"),
    pytest.param(["Either"], [], "answer by (name or number): ", id="a choice"),
    pytest.param(["JokeFlow", "topic=x", "--stepwise"], [], WHICH, id="a step"),
    pytest.param(["Driven"], [], "  text (str): ", id="what is asked by nobody"),
]


@both
@pytest.mark.parametrize(("arguments", "typed", "prompt"), PROMPTS)
def test_ctrl_c_at_every_prompt(
    folder: Folder, backend: str, arguments: list[str], typed: list[tuple[str, str]], prompt: str
) -> None:
    with run(folder, *arguments, "--backend", backend) as terminal:
        for before, keys in typed:
            terminal.read_until(before)
            terminal.type(keys)
        terminal.read_until(prompt)
        terminal.type(CTRL_C)
        assert terminal.end() == (130, "^C\nstopped: the run was cancelled\n")
        assert terminal.is_as_before()


@pytest.mark.parametrize(("arguments", "typed", "prompt"), PROMPTS)
def test_ctrl_c_at_every_prompt_of_a_stored_run(
    folder: Folder, arguments: list[str], typed: list[tuple[str, str]], prompt: str
) -> None:
    backend = BACKENDS[0]
    stored = ["--store", "runs.db", "--run-id", "one"]
    with run(folder, *arguments, *stored, "--backend", backend) as terminal:
        for before, keys in typed:
            terminal.read_until(before)
            terminal.type(keys)
        terminal.read_until(prompt)
        terminal.type(CTRL_C)
        code, told = terminal.end()
        assert code == 130
        assert told == (
            "^C\nstopped: run one is suspended, nothing is lost\n"
            f"  flowkit runs resume one --store runs.db --flow flows:{arguments[0]}\n"
        )
        assert terminal.is_as_before()
    with run(folder, arguments[0], *arguments[2:], *stored, "--backend", backend) as terminal:
        for before, keys in typed:
            terminal.read_until(before)
            terminal.type(keys)
        terminal.read_until(prompt)  # it asks again


@pytest.mark.parametrize(("arguments", "typed", "prompt"), PROMPTS)
def test_ctrl_d_at_every_prompt(
    folder: Folder, arguments: list[str], typed: list[tuple[str, str]], prompt: str
) -> None:
    backend = BACKENDS[-1]
    stored = ["--store", "runs.db", "--run-id", "one"]
    for more, last in [([], "with --store it would have been kept\n"), (stored, f"--flow flows:{arguments[0]}\n")]:
        with run(folder, *arguments, *more, "--backend", backend) as terminal:
            for before, keys in typed:
                terminal.read_until(before)
                terminal.type(keys)
            terminal.read_until(prompt)
            terminal.type(CTRL_D)
            code, told = terminal.end()
            assert code == 4 and told.endswith(last) and "Traceback" not in told
            assert terminal.is_as_before()


def test_resuming_all_asks_for_what_stepwise_runs_hold_back(folder: Folder) -> None:
    stored = ["--store", "runs.db"]
    with run(folder, "JokeFlow", "topic=x", "--stepwise", *stored, "--run-id", "one") as terminal:
        terminal.read_until(WHICH)
        terminal.type(CTRL_C)
        assert terminal.end()[0] == 130
    with Terminal(["runs", "resume", "--all", "-q", *stored, "--flow", "flows:JokeFlow"], folder.path) as terminal:
        for produced in ("1. Joke(", "1. StopEvent("):
            terminal.read_until(produced)
            terminal.read_until(WHICH)
            terminal.type("\n")
        code, told = terminal.end()
        assert code == 0 and told.endswith("(7/10)\n"), told


@both
def test_ctrl_c_while_a_step_runs(folder: Folder, backend: str) -> None:
    with run(folder, "Sleepy", "--backend", backend) as terminal:
        terminal.read_until("it sleeps\n")
        terminal.type(CTRL_C)
        assert terminal.end() == (130, "^Cit cleans up\n\nstopped: the run was cancelled\n")


@both
def test_ctrl_c_under_the_live_view(folder: Folder, backend: str) -> None:
    with Terminal(["run", "flows:Asking", "topic=x", "--backend", backend], folder.path) as terminal:
        terminal.read_until("  ok (bool): ")
        terminal.type(CTRL_C)
        code, told = terminal.end()
        assert code == 130 and "stopped: the run was cancelled" in told and "Traceback" not in told
        assert told.startswith("^C\n")  # so that the summary doesn't begin behind the prompt
        hidden, shown = told.rfind("\x1b[?25l"), told.rfind("\x1b[?25h")
        assert hidden <= shown  # the cursor is there
        assert terminal.is_as_before()


def test_a_terminal_that_is_closed(folder: Folder) -> None:
    """Nothing is lost: the run is in its store, and asks again."""
    stored = ["--store", "runs.db", "--run-id", "one"]
    with run(folder, "Asking", "topic=x", *stored) as terminal:
        terminal.read_until("  ok (bool): ")
        terminal.hang_up()
        terminal.process.wait(60)
    with run(folder, "Asking", *stored) as terminal:
        terminal.read_until("  ok (bool): ")
        terminal.type("yes\n\n")
        code, told = terminal.end()
        assert code == 0 and told.endswith("True GOOD\n")
