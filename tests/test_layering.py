"""Imports point one way: a module may import only what stands above it in `LAYERS`.

The order is total, within a layer too, so there can be no cycle. `TYPE_CHECKING` blocks and imports inside
functions count like any other: they hide a cycle, they don't remove it. Every module of the package has its
place here: a new one is placed on purpose, and one that is gone is taken out.
"""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

LAYERS = {
    "values": """
        errors
        storage_errors
        hints
        fields
        events
        facts
        outside
    """,
    "definition": """
        retry_policy
        state
        context
        resource
        steps
        signature
        roster
        plan
        wiring
    """,
    "decision": """
        joins
        collecting
        waits
        books
        dispatch
        machine
    """,
    "keeping": """
        leaves
        evolution
        containers
        forms
        serialization
        snapshot
        store
        memory_store
        sqlite_file
        sqlite_mail
        sqlite_rows
        sqlite_store
        process
        shape
        fact_forms
        records
        history
        journal
    """,
    "running": """
        backend
        stream
        turns
        resource_pool
        resource_host
        instruments
        watch
        narrator
        writer
        mailbox
        tenant
        log
        plain_call
        stations
        recent
        performer
        requests
        nesting
        runner
        notebooks
        handler
        launching
        kept
        workflow
        checkpointer
        posting
        runtime
    """,
    "the package itself": """
        flowkit
    """,
    "edges": """
        opentelemetry
        keyboard
        testing.places
        testing.problems
        testing.scheduling
        testing.kernel
        testing.threads
        testing.asyncio_kernel
        testing.trio_kernel
        testing.validators
        testing.parameters
        testing.plain_values
        testing.registered
        testing.refusals
        testing.strategy_maker
        testing.strategies
        testing.store_cases
        testing.store_check
        testing.left_behind
        testing.virtual_watch
        testing.virtual_trio
        testing.virtual_time
        testing.settings
        testing.plugin
        testing.likeness
        testing.scenario
        testing.run
        testing.counterexample
        testing.contents
        testing.world
        testing.simulated_run
        testing.trace
        testing.simulation
        testing.mishaps
        testing.token
        testing.determinism
        testing.search
        testing.shrink
        testing.report
        testing.properties
        testing.exploring
        testing.oracles
        testing.live
        testing.stateful
        testing
        examples
        examples._passages
        examples._chat
        examples._search
        examples._model
        examples._terminal
        examples._rivers
        examples._shop
        examples.ask_folder
        examples.joke
        examples.approval
        examples.react_agent
        examples.text_to_sql
        drawing.mentions
        drawing.graph
        drawing.layers
        drawing.scripts
        drawing.picture
        drawing.execution
        drawing.lanes
        drawing.timeline
        drawing.mermaid
        drawing.page
        drawing
        live_view.texts
        live_view.board
        live_view.frame
        live_view.layout
        live_view.lines
        live_view.screen
        live_view.diversion
        live_view.display
        live_view.view
        live_view
        command_line.exits
        command_line.output
        command_line.group
        command_line.loading
        command_line.typed
        command_line.values
        command_line.options
        command_line.flow_verb
        command_line.asking
        command_line.progress
        command_line.driving
        command_line.run
        command_line.check
        command_line.stored
        command_line.stored_books
        command_line.draw
        command_line.doctor
        command_line.fact_lines
        command_line.runs_index
        command_line.runs_look
        command_line.runs_all
        command_line.runs_drive
        command_line.runs
        command_line
        __main__
    """,
}
"""Module names without the leading `flowkit.`; `flowkit` is `flowkit/__init__.py`."""

LONGEST = 620
"""Lines. About six hundred is what a reader can hold; the rest is slack for a docstring."""
GRAB_BAGS = {"base", "common", "core", "helper", "helpers", "manager", "misc", "util", "utils"}
OPTIONAL = {"hypothesis", "pytest", "trio"}
WITHOUT_EXTRAS = {
    "backend",
    "command_line.check",
    "testing.left_behind",
    "testing.settings",
    "testing.virtual_time",
    "testing.virtual_watch",
}
"""Modules that import what is optional inside functions, if at all: they are used where it isn't installed."""

_PLACES = find_spec("flowkit")
assert _PLACES is not None and _PLACES.submodule_search_locations
PACKAGE = Path(_PLACES.submodule_search_locations[0])


def name_of(file: Path) -> str:
    """`flowkit/machine.py` is "machine", `flowkit/__init__.py` is "flowkit"."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "flowkit"


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
ORDER = [name for layer in LAYERS.values() for name in layer.split()]
RANK = {name: rank for rank, name in enumerate(ORDER)}

each_module = pytest.mark.parametrize("module", FILES)


def imports(module: str) -> Iterator[tuple[str, ast.stmt]]:
    """Every absolute name that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                # `from flowkit import machine` names a module, `from flowkit.errors import X` doesn't.
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule.removeprefix("flowkit.") in FILES else node.module, node


def test_every_module_has_a_place() -> None:
    assert sorted(FILES.keys() - RANK.keys()) == []


def test_every_place_has_a_module() -> None:
    assert sorted(RANK.keys() - FILES.keys()) == []


def test_no_module_has_two_places() -> None:
    assert len(ORDER) == len(RANK)


@each_module
def test_imports_point_upwards(module: str) -> None:
    wrong = [
        f"{FILES[module]}:{node.lineno} imports {name}"
        for name, node in imports(module)
        if name.partition(".")[0] == "flowkit"
        and RANK.get(name.removeprefix("flowkit."), len(RANK)) >= RANK.get(module, -1)
    ]
    assert wrong == []


@each_module
def test_imports_are_absolute(module: str) -> None:
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    relative = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert relative == []


@each_module
def test_optional_packages_are_imported_late(module: str) -> None:
    """Hypothesis and trio: at the top of the parts of `flowkit.testing` that need them. pytest: nowhere at the top."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    late = {
        node.lineno
        for function in ast.walk(tree)
        if module in WITHOUT_EXTRAS and isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    allowed: set[str] = set()
    if module.startswith("testing.") and module not in WITHOUT_EXTRAS:
        allowed = {"trio"} if "trio" in module else {"hypothesis"}
    wrong = [
        f"{FILES[module]}:{node.lineno} imports {name}"
        for name, node in imports(module)
        if name.partition(".")[0] in OPTIONAL - allowed and node.lineno not in late
    ]
    assert wrong == []


@each_module
def test_a_file_is_short_enough_to_read(module: str) -> None:
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= LONGEST


@each_module
def test_a_module_is_named_for_what_it_holds(module: str) -> None:
    assert GRAB_BAGS.isdisjoint(part.strip("_") for part in module.split("."))
