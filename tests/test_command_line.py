"""The program itself: its verbs, its help, its exit codes, and what it imports."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from cli_runs import Folder, entered
from terminals import plain_environment

from flowkit import __version__
from flowkit.command_line.group import program

VERBS = ["run", "check", "draw", "doctor"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    with entered(tmp_path, monkeypatch) as folder:
        yield folder


def python(*arguments: str, folder: Path | None = None, input: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=plain_environment(),
        input=input,
    )


# ---------------------------------------------------------------------------------------------------------------- help


def test_help_lists_the_verbs(folder: Folder) -> None:
    told = folder.call("--help")
    assert told.code == 0
    for verb in [*VERBS, "runs"]:
        assert f"\n  {verb} " in told.out


def test_every_verb_has_a_line_of_help_and_is_where_it_is_said_to_be() -> None:
    context = click.Context(program)
    for verb in VERBS:
        command = program.get_command(context, verb)
        assert command is not None and command.name == verb
        assert program.verbs[verb][0] == command.get_short_help_str(limit=200)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_of_a_verb_states_its_exit_codes(folder: Folder, verb: str, option: str) -> None:
    told = folder.call(verb, option)
    assert told.code == 0
    codes = told.out.partition("Exit codes:")[2]
    for code in (0, 2, 5, 130):
        assert f"\n  {code} " in codes


def test_help_of_a_workflow_shows_its_fields(folder: Folder) -> None:
    told = folder.call("run", "flows:Asking", "--help")
    assert told.code == 0
    assert "Fields of Topic, which starts Asking:\n  topic: str\n  limit: int = 3\n" in told.out


@pytest.mark.parametrize("arguments", [["flows.py:Asking", "--help"], ["--store", "a:b", "flows:Asking", "-h"]])
def test_help_of_a_workflow_beside_options(folder: Folder, arguments: list[str]) -> None:
    assert "Fields of Topic, which starts Asking:\n" in folder.call("run", *arguments).out


def test_help_of_the_only_workflow_of_a_module(folder: Folder) -> None:
    folder.write("only.py", "from flows import Asking as Base\nflow = Base()\n")
    assert "Fields of Topic, which starts Asking:\n" in folder.call("run", "only", "--help").out


def test_help_of_a_workflow_without_declared_fields(folder: Folder) -> None:
    assert "Fields of StartEvent, which starts JokeFlow:\n  any\n" in folder.call("run", "flows:JokeFlow", "--help").out


def test_help_of_a_workflow_that_is_not_there(folder: Folder) -> None:
    told = folder.call("run", "flows:Jokeflow", "--help")
    assert told.code == 0
    assert "The fields of flows:Jokeflow can't be shown: flows has no 'Jokeflow': did you mean 'JokeFlow'?" in " ".join(
        told.out.split()
    )


def test_the_version(folder: Folder) -> None:
    assert folder.call("--version").out == f"flowkit {__version__}\n"


# ------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "Error: there is no command 'rnu': did you mean 'run'?"),
        (["xyz"], "Error: there is no command 'xyz': there are run, check, draw, runs, doctor"),
        (["flows:Asking"], "Error: there is no command 'flows:Asking': write `flowkit run flows:Asking`"),
        (["flows.py"], "Error: there is no command 'flows.py': write `flowkit run flows.py`"),
        (["run"], "Error: Missing argument 'MODULE:FLOW'."),
        (["run", "flows:JokeFlow", "--timeout", "soon"], "'soon' is no time: write seconds, more than 0, or 500ms, 1h"),
        (["run", "flows:JokeFlow", "--timeout", "0"], "'0' is no time: write seconds, more than 0"),
        (["run", "flows:JokeFlow", "--topic", "x"], "; fields of the workflow are written topic=…"),
        (["run", "flows:JokeFlow", "--backend", "curio"], "'curio' is not one of 'asyncio', 'trio'"),
        (["run", "flows:JokeFlow", "--run-id", ""], "it is empty: give a name, or leave it out"),
    ],
)
def test_a_mistake_in_the_command_line(folder: Folder, arguments: list[str], said: str) -> None:
    told = folder.call(*arguments)
    assert told.code == 2
    assert said in told.err
    assert "--help` shows how it is used." in told.err
    assert told.out == ""


def test_a_bug_of_ours_is_said_to_be_one(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("oh no")

    monkeypatch.setattr("flowkit.command_line.driving.drive", broken)
    told = folder.call("run", "flows:JokeFlow", "topic=x")
    assert told.code == 5
    assert "Traceback" in told.err and "RuntimeError: oh no" in told.err
    assert "Error: this is a bug of flowkit" in told.err


@pytest.mark.parametrize("arguments", [[], ["runs"]])
def test_a_group_without_a_verb_shows_its_help(folder: Folder, arguments: list[str]) -> None:
    told = folder.call(*arguments)
    assert (told.out + told.err).startswith("Usage: flowkit")
    assert "Error" not in told.err


# ------------------------------------------------------------------------------------------------------------- settings


def test_a_setting_that_is_unknown(folder: Folder) -> None:
    folder.write("pyproject.toml", '[tool.flowkit]\nstores = "runs.db"\n')
    told = folder.call("run", "flows:JokeFlow", "topic=x")
    assert told.code == 2
    assert "has 'stores' in [tool.flowkit], which flowkit doesn't know: did you mean 'store'?" in told.err


def test_a_setting_of_the_wrong_type(folder: Folder) -> None:
    folder.write("pyproject.toml", "[tool.flowkit]\nstore = 3\n")
    told = folder.call("doctor")
    assert told.code == 2
    assert 'has store = 3 in [tool.flowkit]: give a path, such as store = "runs.db"' in told.err


def test_a_settings_file_that_is_no_toml(folder: Folder) -> None:
    folder.write("pyproject.toml", "[tool.flowkit\n")
    told = folder.call("doctor")
    assert told.code == 2
    assert "pyproject.toml can't be read:" in told.err


def test_the_store_of_the_nearest_settings_file_is_beside_it(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("pyproject.toml", '[tool.flowkit]\nstore = "kept.db"\n')
    folder.write("deep/er/note.txt", "")
    monkeypatch.chdir(folder.path / "deep" / "er")
    told = folder.call("run", str(folder.path / "flows.py:JokeFlow"), "topic=x", "--run-id", "one")
    assert told.code == 0
    assert (folder.path / "kept.db").exists()


def test_the_line_to_go_on_with_works_where_it_is_printed(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the settings name the file of the workflows, from another folder, with a space in its name."""
    module = folder.write_flows()
    root = folder.path / "my shop"
    (root / "deep").mkdir(parents=True)
    (folder.path / f"{module}.py").rename(root / f"{module}.py")
    (root / "pyproject.toml").write_text(f'[tool.flowkit]\nstore = "kept.db"\nflows = ["{module}.py:Asking"]\n')
    monkeypatch.chdir(root / "deep")
    told = folder.call("run", f"../{module}.py:Asking", "topic=x", "--run-id", "the first", "-q")
    assert told.code == 4
    for _ in range(2):
        line = told.err.splitlines()[-1]
        assert line.startswith("  flowkit runs resume 'the first' --store '")
        told = folder.call(*shlex.split(line)[1:], "-q")
        assert told.code == 4, told
        told = folder.call("runs", "resume", "the first", "-q")  # its workflow is named by the settings
        assert told.code == 4 and "--flow" not in told.err


def test_the_environment_goes_before_the_settings(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("pyproject.toml", '[tool.flowkit]\nstore = "kept.db"\n')
    monkeypatch.setenv("FLOWKIT_STORE", "other.db")
    assert folder.call("run", "flows:JokeFlow", "topic=x").code == 0
    assert (folder.path / "other.db").exists() and not (folder.path / "kept.db").exists()


def test_an_empty_store_is_none(folder: Folder) -> None:
    folder.write("pyproject.toml", '[tool.flowkit]\nstore = "kept.db"\n')
    assert folder.call("run", "flows:JokeFlow", "topic=x", "--store", "").code == 0
    assert not (folder.path / "kept.db").exists()


# -------------------------------------------------------------------------------------------------------------- process


def imported(*arguments: str) -> set[str]:
    """What the program has imported when it has done this."""
    code = f"""
import atexit, sys
atexit.register(lambda: print("\\n" + " ".join(sys.modules)))
sys.argv[1:] = {list(arguments)!r}
from flowkit.command_line import main
main()
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_no_verb_and_nothing_of_the_engine() -> None:
    names = imported("--help")
    assert {name for name in names if name.startswith("flowkit.")} == {
        f"flowkit.{name}" for name in ("command_line", *(f"command_line.{one}" for one in ("exits", "group", "output")))
    }
    assert names.isdisjoint({"anyio", "attrs", "rich", "asyncio"})


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_imports_nothing_of_the_engine(verb: str) -> None:
    names = imported(verb, "--help")
    assert {name for name in names if name.startswith("flowkit.")} <= {
        "flowkit.command_line",
        *(f"flowkit.command_line.{one}" for one in ("exits", "flow_verb", "group", "options", "output", verb)),
    }
    assert names.isdisjoint({"anyio", "cattrs", "rich", "asyncio"})


def test_python_m_flowkit() -> None:
    done = python("-m", "flowkit", "--version")
    assert (done.returncode, done.stdout) == (0, f"flowkit {__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "joke:JokeFlow"]])
def test_without_click_it_is_told_what_to_install(arguments: list[str]) -> None:
    code = f"{NO_CLICK}\nsys.argv[1:] = {arguments!r}\nfrom flowkit.command_line import main\nmain()\n"
    done = python("-c", code)
    assert done.returncode == 2
    assert done.stderr == 'Error: the command line needs click, which isn\'t installed: pip install "flowkit[cli]"\n'
    assert done.stdout == ""


NO_CLICK = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            raise ModuleNotFoundError("No module named 'click'", name="click")
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize(
    "arguments", ["draw flows:JokeFlow", "run flows:Long --quiet", "run flows:Long --json --quiet"]
)
def test_a_closed_standard_output_ends_it_quietly(folder: Folder, arguments: str) -> None:
    folder.write(
        "flows.py",
        """
        from flowkit import *
        class JokeFlow(Workflow):
            @step
            async def one(self, ev: StartEvent) -> StopEvent: ...
        class Long(Workflow):
            @step
            async def one(self, ev: StartEvent) -> StopEvent:
                return StopEvent(result="x\\n" * 200_000)
        """,
    )
    shell = f"{{ {sys.executable} -m flowkit {arguments}; echo code $? >&2; }} | {{ read -r line; exec <&-; sleep 0; }}"
    done = subprocess.run(
        ["sh", "-c", shell], capture_output=True, text=True, check=False, cwd=folder.path, env=plain_environment()
    )
    assert done.stderr == "code 0\n"


def test_what_it_prints_is_utf_8_or_replaced(folder: Folder) -> None:
    folder.write(
        "flows.py",
        """
        from flowkit import *
        class Odd(Workflow):
            @step
            async def one(self, ev: StartEvent) -> StopEvent:
                return StopEvent(result="grün \\x1b[31m \\udc80 ☃")
        """,
    )
    told = folder.call("run", "flows:Odd")
    assert told.out == "grün \N{REPLACEMENT CHARACTER}[31m \N{REPLACEMENT CHARACTER} ☃\n"


def test_json_is_ascii_where_the_output_is(folder: Folder) -> None:
    env = {**plain_environment(), "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    arguments = [sys.executable, "-m", "flowkit", "run", "flows:JokeFlow", "topic=grün", "--json"]
    done = subprocess.run(arguments, capture_output=True, check=False, cwd=folder.path, env=env)
    assert done.returncode == 0
    assert "grün" in json.loads(done.stdout.decode("ascii"))["result"]


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
@pytest.mark.parametrize(("flow", "code", "out"), [("JokeFlow", 0, "Why did the x cross"), ("Asking", 4, "")])
def test_streams_that_are_closed_from_the_beginning(
    folder: Folder, closed: str, flow: str, code: int, out: str
) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m flowkit run flows:{flow} topic=x {closed}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder.path,
        env=plain_environment(),
    )
    assert done.returncode == code and "Traceback" not in done.stderr
    assert done.stdout.startswith(out if closed != ">&-" else "")
