"""``module:Flow`` and ``path/to/flow.py:Flow``: what is found, and what is said where it isn't."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runs import Folder, entered

from flowkit.command_line.exits import Refused
from flowkit.command_line.loading import load, load_with_maker
from flowkit.workflow import plan_of

FLOW = """
from flowkit import StartEvent, StopEvent, Workflow, step

class Flow(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    with entered(tmp_path, monkeypatch) as folder:
        folder.write("one.py", FLOW)
        folder.write("shop/__init__.py", "")
        folder.write("shop/parts/__init__.py", "")
        folder.write("shop/orders.py", FLOW)
        folder.write("shop/parts/deep.py", "from shop.orders import Flow as Other\n" + FLOW)
        folder.write("plain/apart.py", "import beside\n" + FLOW.replace("Flow(", "Apart("))
        folder.write("plain/beside.py", "")
        yield folder


def refusal(named: str) -> str:
    with pytest.raises(Refused) as caught:
        load(named)
    return caught.value.message


# ---------------------------------------------------------------------------------------------------------------- found


@pytest.mark.parametrize(
    ("named", "module", "name"),
    [
        ("one:Flow", "one", "Flow"),
        ("one", "one", "Flow"),
        ("one.py:Flow", "one", "Flow"),
        ("./one.py", "one", "Flow"),
        ("shop.orders:Flow", "shop.orders", "Flow"),
        ("shop/orders.py:Flow", "shop.orders", "Flow"),
        ("shop/orders.py", "shop.orders", "Flow"),
        ("shop.parts.deep", "shop.parts.deep", "Flow"),
        ("shop/parts/deep.py:Other", "shop.orders", "Flow"),
        ("plain/apart.py:Apart", "apart", "Apart"),
    ],
)
def test_a_workflow_is_found(folder: Folder, named: str, module: str, name: str) -> None:
    workflow = load(named)
    assert (type(workflow).__module__, type(workflow).__name__) == (module, name)


def test_a_file_in_another_folder(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("elsewhere/note.txt", "")
    monkeypatch.chdir(folder.path / "elsewhere")
    assert type(load("../shop/orders.py:Flow")).__module__ == "shop.orders"
    assert type(load(str(folder.path / "plain" / "apart.py"))).__module__ == "apart"


def test_the_current_directory_comes_first(folder: Folder) -> None:
    load("one")
    assert sys.path[0] == str(folder.path)


@pytest.mark.parametrize(
    "line",
    [
        "flow = Flow()",
        "def flow(): return Flow()",
        "def flow(): return Flow",
        "def flow(backend='x', *more, **rest): return Flow()",
        "class Holder: flow = Flow()",
    ],
)
def test_an_instance_and_what_makes_one(folder: Folder, line: str) -> None:
    folder.write("made.py", FLOW + f"{line}\n")
    name = "Holder.flow" if "Holder" in line else "flow"
    assert plan_of(load(f"made:{name}")).name == "Flow"


def test_what_makes_more_like_it(folder: Folder) -> None:
    folder.write("made.py", FLOW + "flow = Flow()\ndef make(): return Flow()\n")
    for name in ("Flow", "make"):
        first, maker = load_with_maker(f"made:{name}")
        made = [maker(), maker()]  # type: ignore[operator]
        assert len({id(first), *map(id, made)}) == 3
    workflow, same = load_with_maker("made:flow")
    assert same is workflow


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ("flow = Flow()", "an instance stands for its class"),
        ("one = two = Flow()", "the same under two names"),
        ("class Bare(Workflow): pass", "one without steps isn't meant"),
        ("from one import Flow as Imported", "nor one that is imported"),
    ],
)
def test_the_only_workflow_of_a_module(folder: Folder, more: str, name: str) -> None:
    folder.write("only.py", FLOW + f"{more}\n")
    assert type(load("only")).__module__ == "only", name


def test_a_function_that_says_so_is_the_only_workflow(folder: Folder) -> None:
    folder.write("factory.py", "from one import Flow\ndef flow() -> Flow: return Flow()\n")
    assert type(load("factory")).__name__ == "Flow"


def test_a_workflow_made_of_functions(folder: Folder) -> None:
    folder.write(
        "loose.py",
        """
        from flowkit import StartEvent, StopEvent, Workflow, step
        flow = Workflow()
        @step(workflow=flow)
        async def only(ev: StartEvent) -> StopEvent:
            return StopEvent()
        """,
    )
    assert load("loose").step_names() == ("only",)


# ------------------------------------------------------------------------------------------------------------ not found


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("oen:Flow", "there is no module 'oen': did you mean 'one'?"),
        ("quite_other:Flow", "there is no module 'quite_other': looked in {here} and what is installed"),
        ("shop.ordres:Flow", "there is no module 'shop.ordres': did you mean 'shop.orders'?"),
        ("shop.xyz:Flow", "there is no module 'shop.xyz': shop has orders, parts"),
        ("one.more:Flow", "there is no module 'one.more': one is a module without parts; write one:Flow"),
        ("oen.py:Flow", "there is no file oen.py: did you mean 'one.py'?"),
        ("shop/ordres.py:Flow", "there is no file shop/ordres.py: did you mean 'shop/orders.py'?"),
        ("nowhere/flow.py", "there is no file nowhere/flow.py: there is no folder nowhere"),
        ("quite_other.py", "there is no file quite_other.py: looked in {here}"),
        ("shop/:Flow", "shop/ is a folder: name a file in it, shop/flow.py:Flow"),
        ("one:Folw", "one has no 'Folw': did you mean 'Flow'?"),
        ("one:Xyz", "one has no 'Xyz': its workflows are Flow"),
        ("one:Flow.xyz", "Flow has no 'xyz': it has "),
        ("one:", "'one:' has no name after its colon: write one:Flow, or one if it has one workflow"),
        (":Flow", "':Flow' names no module: write module:Flow"),
        ("one:Flow()", "'one:Flow()' calls what it names: leave the parentheses out"),
        ("one:my flow", "'one:my flow' has 'my flow' as the workflow's name, which is no name: write module:Flow"),
        ("one.Flow", "there is no module 'one.Flow': write one:Flow"),
        ("one.py.Flow", "there is no module 'one.py.Flow': write one.py:Flow"),
        ("one/Flow", "there is no file one/Flow: write one.py:Flow"),
        (".", ". is a folder: name a file in it, flow.py:Flow"),
        ("my-flow:Flow", "'my-flow:Flow' has 'my-flow' as the module, which is no name: write"),
        ("flows:Joke", "flows:Joke is the event Joke, no workflow: the workflows of flows are JokeFlow, Asking"),
        ("flows:Mood", "flows:Mood is the class Mood, no workflow: "),
        ("flows:anyio", "flows:anyio is the module anyio, no workflow: "),
        ("flows:__name__", "flows:__name__ is 'flows', no workflow: "),
        ("flows:Workflow", "flows:Workflow is flowkit's own class Workflow, which has no steps: name one of yours"),
        ("shop", "shop has no workflow: it has nothing"),
        ("shop:Flow", "shop has no 'Flow': it has no workflow, only nothing"),
    ],
)
def test_what_is_not_there(folder: Folder, named: str, said: str) -> None:
    assert refusal(named).startswith(said.format(here=folder.path))


def test_several_workflows_are_listed(folder: Folder) -> None:
    folder.write("two.py", FLOW + FLOW.replace("Flow(", "Other("))
    assert refusal("two") == "two has 2 workflows: write two:Flow or two:Other"
    assert refusal("two.py") == "two.py has 2 workflows: write two.py:Flow or two.py:Other"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\n1 / 0\n", "{named} can't be imported, it raises ZeroDivisionError: division by zero (bad.py:2)"),
        ("def f(:\n", "{named} can't be imported: invalid syntax: def f(: ("),
        (
            "import no_such_module\n",
            "{named} can't be imported, it raises ModuleNotFoundError: No module named",
        ),
        ("import sys\nsys.exit(3)\n", "{named} ends the program when it is imported (SystemExit: 3 (bad.py:2)): keep"),
        (
            "from flowkit import *\nclass W(Workflow):\n    @step\n    async def s(self) -> StopEvent: ...\n",
            "W can't run, it has 1 fault:\n  1. W.s takes no event",
        ),
        ("from flowkit import *\nclass E(Event):\n    n: int = 'x'\n", "E declares 'n' as int, but its default is 'x'"),
    ],
)
@pytest.mark.parametrize("named", ["bad", "bad.py"])
def test_a_module_that_can_not_be_imported(folder: Folder, named: str, code: str, said: str) -> None:
    folder.write("bad.py", code)
    assert refusal(f"{named}:Flow").startswith(said.format(named=named))
    told = folder.call("run", f"{named}:Flow")
    assert told.code == 2
    assert "Traceback" not in told.err


def test_the_traceback_of_a_module_that_can_not_be_imported(folder: Folder) -> None:
    folder.write("bad.py", "def f():\n    1 / 0\nf()\n")
    told = folder.call("run", "bad:Flow", "--traceback")
    assert told.code == 2
    assert 'bad.py", line 3, in <module>' in told.err and 'bad.py", line 2, in f' in told.err
    assert "flowkit/command_line" not in told.err and "importlib" not in told.err


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "class Flow(Base):\n    def __init__(self, model, *, size): super().__init__()\n",
            "bad:Flow can't be made without arguments, it takes model, size: name an instance, or a function that "
            "returns one, such as `def flow(): return Flow(model=…, size=…)`; then write bad:flow",
        ),
        (
            "class Flow(Base):\n    def __init__(self): 1 / 0\n",
            "bad:Flow() raises ZeroDivisionError: division",
        ),
        (
            "def Flow(model): ...\n",
            "bad:Flow is a function that takes model: name one that takes nothing",
        ),
        ("async def Flow(): ...\n", "bad:Flow is an async function: name a plain one, which returns a workflow"),
        ("def Flow(): return 3\n", "bad:Flow() returns 3, no workflow"),
        ("def Flow(): return None\n", "bad:Flow() returns None, no workflow"),
        ("def Flow(): raise KeyError('x')\n", "bad:Flow() raises KeyError: 'x' (bad.py:2)"),
        (
            "class Flow(Base):\n    def __init__(self): super().__init__(timeout=-1)\n",
            "Flow has timeout=-1",
        ),
    ],
)
def test_what_can_not_be_made(folder: Folder, code: str, said: str) -> None:
    folder.write("bad.py", "from one import Flow as Base\n" + code)
    assert refusal("bad:Flow").startswith(said)


def test_a_file_with_the_name_of_another_module(folder: Folder) -> None:
    folder.write("json.py", FLOW)
    assert refusal("json.py:Flow").startswith("json.py would be the module json, but that is ")
    assert refusal("json.py:Flow").endswith("json/__init__.py: rename your file")


def test_faulty_wiring_is_told_whole(folder: Folder) -> None:
    told = folder.call("run", "flows:Faulty")
    assert told.code == 2
    assert told.err.startswith("Error: Faulty can't run, it has ")
    assert "\n  1. Faulty" in told.err and "\n  2. Faulty" in told.err


@pytest.mark.skipif(os.name != "posix", reason="the current directory can't be removed")
def test_a_current_directory_that_was_removed(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = folder.path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    told = folder.call("run", str(folder.path / "one.py:Flow"))
    assert (told.code, told.err) == (2, "Error: the current directory isn't there any more: go to one that is\n")
