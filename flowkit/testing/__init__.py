"""What flowkit offers to tests. Needs the extra ``testing``; each part is imported when it is first used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowkit.testing.store_check import check_store
    from flowkit.testing.strategies import NoStrategy, events
    from flowkit.testing.virtual_time import run_virtual, virtual_backend

__all__ = ["NoStrategy", "check_store", "events", "run_virtual", "virtual_backend"]

_LATER = {
    "Blocked": "problems",
    "Counterexample": "counterexample",
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
    "effect": "world",
    "events": "strategies",
    "explore": "exploring",
    "faults": "mishaps",
    "simulate": "exploring",
    "check_store": "store_check",
    "run_virtual": "virtual_time",
    "virtual_backend": "virtual_time",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"flowkit.testing.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
