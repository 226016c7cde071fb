"""flowkit's pytest plugin, which authors know as `flowkit.testing.plugin`; see there.

It stands outside of the package because pytest imports it in every run wherever flowkit is installed, needed or not:
importing it takes a millisecond, and the package another ninety. So whatever it needs of flowkit it imports inside
functions, when an option is given or a fixture is used. Hypothesis' plugin does the same.
"""

import argparse
import gc
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import wraps
from importlib.util import find_spec
from inspect import iscoroutinefunction
from itertools import compress
from typing import Any

import pytest

__all__ = [
    "flowkit_leaks",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_report_collectionfinish",
    "pytest_report_header",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "virtual_time",
]

BACKENDS = ["asyncio", "trio"] if find_spec("trio") is not None else ["asyncio"]
SETTINGS = ("bound", "budget", "backend", "replay")
"""Those of flowkit.testing.settings, each by the option ``--flowkit-NAME``."""

_left_out = pytest.StashKey[list[str]]()
_not_replayed = pytest.StashKey[bool]()


# Options


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--flowkit-bound`` and so on, and the ini option ``flowkit_leaks``."""
    group = parser.getgroup("flowkit", "flowkit, in place of what property tests say themselves")

    def add(name: str, metavar: str, text: str) -> None:
        group.addoption(f"--flowkit-{name}", type=_checked(name), metavar=metavar, help=text)

    add("bound", "N", "Search up to N deviations from the plainest schedule exhaustively.")
    add("budget", "2s|N", "Search for so long: a time (2s, 500ms), or a number of runs.")
    add("backend", "asyncio|trio|both", "Run on this backend; also leaves out tests in virtual_time on the other.")
    add("replay", "TOKEN", "Run the one run that a counterexample showed; leaves out tests that can't replay.")
    parser.addini(
        "flowkit_leaks",
        "Fail each test that leaves behind threads, tasks, async generators or unclosed resources.",
        type="bool",
        default=False,
    )


def _checked(name: str) -> Callable[[str], str | int]:
    """An option's value, in the simple form that pytest-xdist can hand on to other processes."""

    def check(text: str) -> str | int:
        from flowkit.errors import WrongCall
        from flowkit.testing.settings import Defaults

        value = int(text) if re.fullmatch(r"-?\d+", text, re.ASCII) else text
        try:
            Defaults(**{name: value})  # type: ignore[arg-type]  # which is what it checks
        except WrongCall as wrong:
            raise argparse.ArgumentTypeError(f"{wrong.problem}{f': {wrong.cure}' if wrong.cure else ''}") from None
        return value

    return check


def _given(config: pytest.Config) -> dict[str, Any]:
    # None too where this plugin was loaded by a test module: after the command line had been read.
    values = {name: config.getoption(f"flowkit_{name}", None) for name in SETTINGS}
    return {name: value for name, value in values.items() if value is not None}


def pytest_configure(config: pytest.Config) -> None:
    """Fill flowkit.testing.settings, until the end of this session."""
    if given := _given(config):
        from flowkit.testing.settings import replayed, use

        replayed.clear()
        stack = ExitStack()
        stack.enter_context(use(**given))
        config.add_cleanup(stack.close)
    if config.getini("flowkit_leaks"):
        config.pluginmanager.register(_EveryTest(), "flowkit_leaks in every test")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A token that no test has run is an error: else a wrong one would look like a run that passes."""
    config = session.config
    if "replay" not in _given(config) or config.option.collectonly or config.getoption("numprocesses", None):
        return
    from flowkit.testing import settings

    if not settings.replayed and not hasattr(config, "workerinput"):
        config.stash[_not_replayed] = True
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.USAGE_ERROR


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say so."""
    if config.stash.get(_not_replayed, False):
        terminalreporter.section("flowkit", red=True)
        terminalreporter.line(
            "error: no test has run the token that was to be replayed: it is of a workflow or a start event that no "
            "selected test explores, or has changed since. Select its test, or give testing.simulate(flow, start, "
            "replay=TOKEN) what the report shows."
        )


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say in verbose mode what is in force."""
    if config.get_verbosity() < 1:
        return None
    said = [f"{name} {value}" for name, value in _given(config).items()]
    said += ["flowkit_leaks in every test"] if config.getini("flowkit_leaks") else []
    return f"flowkit: {', '.join(said)}" if said else None


# Which tests


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the options can't mean."""
    given = _given(config)
    said = config.stash[_left_out] = []
    if "replay" in given:
        _leave_out(config, items, _is_not_explored, said, "only tests made by testing.explore can replay a token")
    if given.get("backend") in BACKENDS:
        other = [name for name in BACKENDS if name != given["backend"]]
        _leave_out(config, items, lambda item: _clock_of(item) in other, said, "in virtual_time on another backend")


def _leave_out(
    config: pytest.Config, items: list[pytest.Item], is_out: Callable[[pytest.Item], bool], said: list[str], why: str
) -> None:
    outs = [is_out(item) for item in items]
    if any(outs):
        config.hook.pytest_deselected(items=list(compress(items, outs)))
        items[:] = [item for item, out in zip(items, outs, strict=True) if not out]
        said.append(f"flowkit: {sum(outs)} deselected: {why}")


def _is_not_explored(item: pytest.Item) -> bool:
    return not hasattr(getattr(item, "function", None), "__flowkit_explored__")


def _clock_of(item: pytest.Item) -> Any:
    """Which of the fixture virtual_time's backends a test is for."""
    call = getattr(item, "callspec", None)
    return None if call is None else call.params.get("virtual_time")


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say why tests were left out."""
    return config.stash.get(_left_out, None) or []


# Fixtures


@pytest.fixture(params=BACKENDS)
def virtual_time(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A backend under virtual time, for AnyIO's fixture anyio_backend, on each backend that is installed.

    In conftest.py::

        @pytest.fixture
        def anyio_backend(virtual_time):
            return virtual_time

    A sleep takes no time then, and a test that could only hang, or that blocks its loop, fails at once. Each test has
    its own clock, from 0: async fixtures of a test share it, those of a class, module or session need a backend of
    their own.
    """
    from flowkit.testing.virtual_time import virtual_backend, watched

    _have_called_by(watched, request.node)
    return virtual_backend(request.param)


@pytest.fixture
def flowkit_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves anything behind: threads, tasks, async generators, what it did not close.

    By `@pytest.mark.usefixtures("flowkit_leaks")`, or in every test by the ini option `flowkit_leaks = true`. Tasks and
    async generators are those of an async test; fixtures are looked at too for the rest. A warning filter that is about
    ResourceWarning is followed.
    """
    from flowkit.testing.left_behind import LeftBehind, leaving_nothing, nothing_outlasting

    _have_called_by(leaving_nothing, request.node)
    left = ""
    try:
        with nothing_outlasting():
            yield
    except LeftBehind as failure:
        left = str(failure)
    if left:
        pytest.fail(left, pytrace=False)


class _EveryTest:
    """A plugin that is registered where flowkit_leaks is wanted everywhere."""

    @pytest.fixture(autouse=True)
    def flowkit_leaks_in_every_test(self, flowkit_leaks: None) -> None:
        pass

    def pytest_unconfigure(self) -> None:
        """Have nothing finalised on exit that pytest let go too late (errors that it had logged): nobody can tell then
        whose it is, and it would have its say after the summary."""
        gc.freeze()


def _have_called_by(caller: Callable[..., Awaitable[Any]], item: Any) -> None:
    """Have an async test called by ``caller(test, …)``; of one that Hypothesis calls, every example."""
    handle = getattr(getattr(item, "obj", None), "hypothesis", None)
    owner, name = (item, "obj") if handle is None else (handle, "inner_test")
    test = getattr(owner, name, None)
    # Items for several backends share one Hypothesis handle, and a test may be run again: once is enough.
    if not iscoroutinefunction(test) or caller in getattr(test, "called_by", ()):
        return

    @wraps(test)
    async def called(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        await caller(test, *args, **kwargs)

    called.called_by = (*getattr(test, "called_by", ()), caller)  # type: ignore[attr-defined]
    setattr(owner, name, called)
