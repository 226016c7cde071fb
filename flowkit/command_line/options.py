"""Options that several verbs have, and what they fall back on: the environment, then `[tool.flowkit]` of the nearest
pyproject.toml (from the current directory upwards)::

    [tool.flowkit]
    store = "runs.db"                    # beside this file
    flows = ["shop.orders:Order"]        # whose code `flowkit runs …` needs
"""

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowkit.command_line.exits import STORE_UNUSABLE, Refused

if TYPE_CHECKING:
    from flowkit.sqlite_store import SQLiteStore
    from flowkit.workflow import Workflow

__all__ = [
    "backend_option",
    "flow_argument",
    "flows_option",
    "json_option",
    "open_store",
    "seconds",
    "store_option",
    "store_path",
    "traceback_option",
    "values_argument",
    "workflows_of",
    "written",
]

PATIENCE = 5.0
"""Seconds to wait for another process that writes to the store: somebody sits there and waits, too."""

F = TypeVar("F", bound=Callable[..., Any])
SETTINGS = {"store": 'a path, such as store = "runs.db"', "flows": 'a list, such as flows = ["shop:Order"]'}


def store_option(function: F) -> F:
    """``--store PATH``: a string, or ``None`` (see `store_path`, `open_store`)."""
    return click.option(
        "--store",
        metavar="PATH",
        envvar="FLOWKIT_STORE",
        show_envvar=True,
        help="The SQLite file that runs are kept in; by default `store` in [tool.flowkit] of pyproject.toml.",
    )(function)


def flows_option(function: F) -> F:
    """``--flow module:Flow``, as often as one likes: ``flows``, a tuple (see `workflows_of`)."""
    return click.option(
        "--flow",
        "flows",
        metavar="MODULE:FLOW",
        multiple=True,
        help="The code of the runs; several times for several workflows. By default FLOWKIT_FLOWS (separated by "
        "commas), or `flows` in [tool.flowkit] of pyproject.toml.",
    )(function)


def backend_option(function: F) -> F:
    """``--backend asyncio|trio``."""
    return click.option(
        "--backend",
        type=click.Choice(["asyncio", "trio"]),
        default="asyncio",
        show_default=True,
        callback=_installed,
        help="The event loop.",
    )(function)


def json_option(function: F) -> F:
    """``--json``: ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def traceback_option(function: F) -> F:
    """``--traceback``, which the program itself heeds."""
    return click.option(
        "--traceback",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_note_traceback,
        help="Where your code raised an error, show its traceback.",
    )(function)


def seconds(ctx: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """The callback of an option that takes seconds, more than 0: ``90``, ``1.5``, ``1h30m``."""
    from datetime import timedelta

    from flowkit.command_line.typed import Wrong, from_text

    if text is None:
        return None
    try:
        found: float = from_text(text, timedelta).total_seconds()
    except Wrong:
        found = 0.0
    if found <= 0:
        problem = f"{text!r} is no time: write seconds, more than 0, or 500ms, 1h30m, 2d"
        raise click.BadParameter(problem, ctx, parameter)
    return found


def flow_argument(function: F) -> F:
    """``module:Flow``: ``flow``, a string (see loading.py)."""
    return click.argument("flow", metavar="MODULE:FLOW")(function)


def values_argument(function: F) -> F:
    """``key=value …``: ``values``, a tuple (see values.py)."""
    return click.argument("values", metavar="[KEY=VALUE]...", nargs=-1)(function)


def _installed(ctx: click.Context, parameter: click.Parameter, backend: str) -> str:
    import importlib.util

    if backend == "trio" and not ctx.resilient_parsing and importlib.util.find_spec("trio") is None:
        raise click.BadParameter('trio isn\'t installed: pip install "flowkit[trio]"', ctx, parameter)
    return backend


def _note_traceback(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    ctx.meta["flowkit.traceback"] = wanted


# ------------------------------------------------------------------------------------------------------------ stores


def store_path(given: str | None) -> Path | None:
    """The store's file: what was given (by option or environment; an empty text means none), else the setting."""
    if given is not None:
        return Path(given) if given else None
    settings, folder = _settings()
    return folder / settings["store"] if "store" in settings else None


def open_store(given: str | None, *, new: bool = False) -> "SQLiteStore":
    """The store, found to be usable. ``new``: it may be made.

    Raises:
        Refused: none was named, or there is none of this name.
        StoreError: it can't be used.
    """
    from flowkit.sqlite_store import SQLiteStore

    path = store_path(given)
    if path is None:
        raise Refused(
            'which store? Write --store runs.db, or set FLOWKIT_STORE, or write store = "runs.db" in [tool.flowkit] '
            "of pyproject.toml"
        )
    if not new and not path.exists():
        raise Refused(_no_store(path), STORE_UNUSABLE)
    store = SQLiteStore(path, busy_timeout=PATIENCE)
    store.open()
    return store


def _no_store(path: Path) -> str:
    from flowkit.errors import did_you_mean

    folder = path.parent
    if not folder.is_dir():
        return f"there is no store {path}: there is no folder {folder}"
    guess = did_you_mean(path.name, [one.name for one in folder.iterdir() if one.is_file()])
    return f"there is no store {path}: {guess or '`flowkit run … --store` makes one'}"


# --------------------------------------------------------------------------------------------------------- workflows


def workflows_of(flows: Sequence[str], *, needed: bool = True) -> "dict[str, tuple[str, Workflow]]":
    """The workflows that were given, or set, by their names: each with what to name it by (see `written`).

    Raises:
        Refused: there is none where some are ``needed``, one can't be loaded, or two have the same name.
    """
    from flowkit.command_line.loading import load
    from flowkit.workflow import plan_of

    found: dict[str, tuple[str, Workflow]] = {}
    places: dict[str, str] = {}
    for named, folder in _flows(flows):
        workflow = load(named, folder=folder)
        name = plan_of(workflow).name
        if name in found:
            raise Refused(f"{places[name]} and {named} are both called {name}: a stored run knows its own by name")
        places[name] = named
        found[name] = "" if folder is not None else named, workflow
    if needed and not found:
        raise Refused(
            'which workflows? Write --flow module:Flow, or set FLOWKIT_FLOWS, or write flows = ["module:Flow"] in '
            "[tool.flowkit] of pyproject.toml"
        )
    return found


def written(path: Path, *flows: str) -> str:
    """The options of a command to be written down. What pyproject.toml names (an empty text) is found there again."""
    return " ".join([f"--store {shlex.quote(str(path))}", *(f"--flow {shlex.quote(one)}" for one in flows if one)])


def _flows(given: Sequence[str]) -> list[tuple[str, Path | None]]:
    if given:
        return [(one, None) for one in given]
    if wanted := os.environ.get("FLOWKIT_FLOWS", ""):
        return [(one.strip(), None) for one in wanted.split(",") if one.strip()]
    settings, folder = _settings()
    return [(one, folder) for one in settings.get("flows", ())]


# ---------------------------------------------------------------------------------------------------------- settings


def _settings() -> tuple[dict[str, Any], Path]:
    """`[tool.flowkit]` of the nearest pyproject.toml, and the folder that this is in.

    Raises:
        Refused: it isn't TOML, or says what isn't known.
    """
    import tomllib

    from flowkit.errors import did_you_mean, shown

    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return {}, Path()
    file = next((one for folder in (here, *here.parents) if (one := folder / "pyproject.toml").is_file()), None)
    if file is None:
        return {}, here
    try:
        with file.open("rb") as opened:
            found: Any = tomllib.load(opened)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise Refused(f"{file} can't be read: {error}") from None
    tools = found.get("tool", {})
    settings: Any = tools.get("flowkit", {}) if isinstance(tools, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not isinstance(settings, dict):
        raise Refused(f"{file} has tool.flowkit = {shown(settings)}: write a table, [tool.flowkit]")
    checked: dict[str, Any] = {}
    for name, value in settings.items():  # pyright: ignore[reportUnknownVariableType]
        if name not in SETTINGS:
            cure = did_you_mean(str(name), SETTINGS) or f"there are {' and '.join(SETTINGS)}"  # pyright: ignore[reportUnknownArgumentType]
            raise Refused(f"{file} has {name!r} in [tool.flowkit], which flowkit doesn't know: {cure}")
        good = isinstance(value, str) if name == "store" else _is_texts(value)
        if not good:
            raise Refused(f"{file} has {name} = {shown(value)} in [tool.flowkit]: give {SETTINGS[name]}")
        checked[name] = value
    return checked, file.parent


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)  # pyright: ignore[reportUnknownVariableType]
