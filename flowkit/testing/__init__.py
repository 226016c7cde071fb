"""What flowkit offers to tests: a simulation that looks for the run in which something goes wrong, and more.

Needs the extra ``testing``; each part is imported when it is first used. Where things live, innermost first:

    places, problems                          where code stands; what the harness can't do
    scheduling, kernel, threads,              a simulated process: an event loop of asyncio or trio that is driven from
    asyncio_kernel, trio_kernel               outside, in virtual time, in an order that a scheduler decides
    likeness                                  whether two values of two runs are alike
    scenario, run, counterexample             values: what decides a run, a finished run, a finding
    contents, world, simulated_run, trace,    one run in its world: what happens in it, crashes and goes wrong; its
    simulation, mishaps, token                free checks; its faults; a scenario as one word
    determinism, search, shrink, report       looking for a finding, making it small, telling it
    properties, exploring, oracles            what authors call: explore, simulate, assert_…
    live, stateful                            a run driven by hand, under Hypothesis' state machines
    strategies and what it is made of         testing.events: events drawn from their types
    virtual_time and what it is made of       virtual time and leak checks for tests of one's own
    store_cases, store_check                  the conformance suite for stores
    settings, plugin                          what a whole test run asks for; pytest's options and fixtures

To understand the simulation, read scheduling.py, kernel.py and simulation.py, then search.py.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowkit.testing.counterexample import Counterexample
    from flowkit.testing.exploring import explore, simulate
    from flowkit.testing.live import LiveRun
    from flowkit.testing.mishaps import faults
    from flowkit.testing.oracles import (
        assert_cancels_cleanly,
        assert_checkpoint_equivalence,
        assert_schedule_independent,
    )
    from flowkit.testing.problems import Blocked, Livelock, OutsideWorld, TestingError, WrongToken
    from flowkit.testing.run import Run
    from flowkit.testing.search import Coverage
    from flowkit.testing.stateful import WorkflowMachine
    from flowkit.testing.store_check import check_store
    from flowkit.testing.strategies import NoStrategy, events
    from flowkit.testing.virtual_time import run_virtual, virtual_backend
    from flowkit.testing.world import effect

__all__ = [
    "Blocked",
    "Counterexample",
    "Coverage",
    "LiveRun",
    "Livelock",
    "NoStrategy",
    "OutsideWorld",
    "Run",
    "TestingError",
    "WorkflowMachine",
    "WrongToken",
    "assert_cancels_cleanly",
    "assert_checkpoint_equivalence",
    "assert_schedule_independent",
    "check_store",
    "effect",
    "events",
    "explore",
    "faults",
    "run_virtual",
    "simulate",
    "virtual_backend",
]

_LATER = {
    "Blocked": "problems",
    "Counterexample": "counterexample",
    "Coverage": "search",
    "Livelock": "problems",
    "LiveRun": "live",
    "NoStrategy": "strategies",
    "OutsideWorld": "problems",
    "Run": "run",
    "TestingError": "problems",
    "WorkflowMachine": "stateful",
    "WrongToken": "problems",
    "assert_cancels_cleanly": "oracles",
    "assert_checkpoint_equivalence": "oracles",
    "assert_schedule_independent": "oracles",
    "check_store": "store_check",
    "effect": "world",
    "events": "strategies",
    "explore": "exploring",
    "faults": "mishaps",
    "run_virtual": "virtual_time",
    "simulate": "exploring",
    "virtual_backend": "virtual_time",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        value = getattr(importlib.import_module(f"flowkit.testing.{_LATER[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name in ("hypothesis", "pytest", "trio"):
            error.msg = f'flowkit.testing.{name} needs {error.name}, which isn\'t installed: install "flowkit[testing]"'
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
