"""Every test runs under virtual time, on asyncio and on trio, and fails if it leaves anything behind.

- A test that is a coroutine function needs no marker; it runs once on each backend.
- A plain test that wants to start loops itself (a Hypothesis test, say) takes `anyio_backend_name` and calls
  `run_virtual(function, *args, backend=anyio_backend_name)`.
- `HYPOTHESIS_PROFILE` names a Hypothesis profile; otherwise it is "ci" where `CI` is set, else "default".
"""

import ast
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest

from flowkit import testing

pytest_plugins = ["flowkit.testing.plugin"]  # where flowkit is installed, pytest has loaded it by itself

OPTIONAL = [name for name in ("click", "hypothesis", "opentelemetry", "rich", "trio") if find_spec(name) is None]
HERE = Path(__file__).parent
PARTS = Path(testing.__file__).parent


def imported_by(file: Path) -> Iterator[str]:
    """What a module imports when it is imported, and what it takes from `testing`, whose parts are imported late."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for use in ast.walk(tree):
        if isinstance(use, ast.Attribute) and isinstance(use.value, ast.Name) and use.value.id == "testing":
            yield f"flowkit.testing.{use.attr}"


def file_of(name: str) -> Path | None:
    """The file of what is imported, if it is of a module in this directory or of a part of `flowkit.testing`."""
    part = name.removeprefix("flowkit.testing.")
    first = part.partition(".")[0]
    file = HERE / f"{first}.py" if part == name else PARTS / f"{testing._LATER.get(first, first)}.py"
    return file if file.exists() else None


def needs_what_is_missing(file: Path) -> bool:
    """Whether importing a test file imports what is not installed."""
    files, unread = {file}, [file]
    while unread:
        names = set(imported_by(unread.pop()))
        if not {name.partition(".")[0] for name in names}.isdisjoint(OPTIONAL):
            return True
        more = {found for name in names if (found := file_of(name)) is not None} - files
        files |= more
        unread += more
    return False


# In the `bare` session: what can't even be imported there is left out.
collect_ignore = [str(file) for file in HERE.glob("test_*.py") if OPTIONAL and needs_what_is_missing(file)]

if find_spec("hypothesis") is not None:
    from hypothesis import HealthCheck, settings

    # No deadline: it is measured on the wall clock. `anyio_backend` is made once per test and not once per
    # example, which is harmless: each example starts a new loop.
    default = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
    settings.register_profile("default", default)
    settings.register_profile("ci", default, derandomize=True)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "default"))


@pytest.fixture
def anyio_backend(virtual_time: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """A backend under fresh virtual time. Overrides the fixture of AnyIO's plugin."""
    return virtual_time


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: Any) -> None:
    """Hand every coroutine test to AnyIO's plugin, whose own `anyio_mode = "auto"` came with AnyIO 4.11."""
    if not collector.istestfunction(obj, name):
        return
    handle = getattr(obj, "hypothesis", None)
    test = handle.inner_test if handle is not None else obj
    if iscoroutinefunction(test):
        pytest.mark.anyio(obj)
        pytest.mark.usefixtures("anyio_backend")(obj)


@pytest.fixture(scope="session", autouse=True)
def _heed_ctrl_c() -> None:
    """Started in the background by a shell, Python ignores Ctrl-C, and so would the programs that tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
