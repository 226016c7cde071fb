"""What `import flowkit` gives, and what it costs."""

import importlib
import pkgutil
import subprocess
import sys
from importlib.util import find_spec

import pytest

import flowkit

FOUND = ["flowkit", *(module.name for module in pkgutil.walk_packages(flowkit.__path__, "flowkit.", lambda _: None))]
# What these parts need isn't there in the `bare` session.
NEEDS = {
    "flowkit.testing": "hypothesis",
    "flowkit.command_line": "click",
    "flowkit.live_view.display": "rich",
    "flowkit.live_view.layout": "rich",
    "flowkit.opentelemetry": "opentelemetry",
}
ABSENT = tuple(part for part, needed in NEEDS.items() if find_spec(needed) is None)
MODULES = [name for name in FOUND if not name.startswith(ABSENT)]


def test_every_exported_name_is_there() -> None:
    missing = [name for name in flowkit.__all__ if not hasattr(flowkit, name)]
    assert missing == []


def test_no_name_is_exported_twice() -> None:
    assert sorted(flowkit.__all__) == sorted(set(flowkit.__all__))


def test_a_star_import_takes_what_is_exported() -> None:
    taken: dict[str, object] = {}
    exec("from flowkit import *", taken)
    assert set(flowkit.__all__) == taken.keys() - {"__builtins__"}


@pytest.mark.parametrize("module", [name for name in MODULES if not name.endswith("__main__")])
def test_every_module_has_what_it_exports(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in getattr(found, "__all__", ()) if not hasattr(found, name)] == []


@pytest.mark.parametrize("module", ["trio", "hypothesis", "opentelemetry", "pytest", "sqlite3"])
def test_importing_flowkit_does_not_import(module: str) -> None:
    # In a fresh interpreter: in this one the tests have imported them all.
    program = f"import flowkit, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_importing_flowkit_imports_no_part_of_it() -> None:
    program = "import flowkit, sys; print(sorted(name for name in sys.modules if name.startswith('flowkit.')))"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout.strip() == b"[]"


def test_a_part_needs_no_import_of_its_own() -> None:
    program = "import flowkit; print(flowkit.errors.StepFailed.__name__, flowkit.retry_policy.__name__)"
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert told == "StepFailed flowkit.retry_policy\n"


def test_a_name_is_kept_once_it_was_asked_for() -> None:
    program = "import flowkit as f; print('step' in vars(f)); f.step; print('step' in vars(f))"
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert told == "False\nTrue\n"


@pytest.mark.parametrize("name", ["Wrokflow", "_no_such_thing", "no_such_part"])
def test_a_name_that_is_not_there(name: str) -> None:
    with pytest.raises(AttributeError, match=f"^module 'flowkit' has no attribute '{name}'$"):
        getattr(flowkit, name)


def test_the_names_are_listed() -> None:
    assert set(flowkit.__all__) <= set(dir(flowkit))
    assert set(flowkit._LATER) == set(flowkit.__all__)
