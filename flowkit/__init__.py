"""flowkit: event-driven workflows on structured concurrency, for asyncio and trio.

Where everything lives, innermost first; imports only ever point upwards in this list:

    errors, storage_errors, hints, fields,    values: what is raised, sent between steps, and happens to a run
    events, facts, outside
    retry_policy, state, context, resource,   definition: what an author writes, read into a checked, immutable plan
    steps, signature, roster, plan, wiring
    joins, collecting, waits, books,          decision: facts in, commands out, without an event loop
    dispatch, machine
    leaves, evolution, containers, forms,     keeping: runs as bytes, and back, and where the bytes are
    serialization, snapshot, store,
    memory_store, sqlite_file, sqlite_store,
    process, shape, fact_forms, records,
    history, journal
    backend, stream, turns, resource_pool,    running: a task group around each machine, its connection to its store,
    resource_host, narrator, writer, tenant,  the handle its caller holds, and the runtime that owns many
    log, plain_call, stations, recent,
    performer, requests, nesting, runner,
    notebooks, handler, launching, kept,
    workflow, checkpointer, runtime
    testing, examples, drawing                checks for stores; programs to read and to run; pictures

To understand the engine, read machine.py and dispatch.py, then runner.py and performer.py; for what
survives a crash, log.py, records.py and store.py.
"""

from typing import TYPE_CHECKING, Any

from flowkit.context import Context, RetryInfo
from flowkit.errors import (
    CleanupFailedWarning,
    ContextInUse,
    EventError,
    FrozenEvent,
    InvalidWorkflow,
    MisdirectedEvent,
    NoEventLoop,
    ResourceError,
    RunFinished,
    SerializationError,
    StateError,
    StepFailed,
    UnhandledEventWarning,
    UnknownField,
    UnknownKey,
    WaitTimedOut,
    WorkflowCancelled,
    WorkflowCancelledByUser,
    WorkflowError,
    WorkflowRuntimeError,
    WorkflowStalled,
    WorkflowTimeoutError,
    WorkflowValidationError,
    WrongCall,
    WrongReturn,
)
from flowkit.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepFailedEvent,
    StopEvent,
)
from flowkit.handler import Handler
from flowkit.resource import Resource
from flowkit.steps import All, Collect, Take, catch_error, step
from flowkit.storage_errors import RunSuspended, StoreError
from flowkit.stream import Origin, StreamGap
from flowkit.workflow import Workflow

if TYPE_CHECKING:
    from flowkit.checkpointer import Checkpoint, WorkflowCheckpointer
    from flowkit.evolution import stored_as
    from flowkit.memory_store import MemoryStore
    from flowkit.runtime import Runtime, open_runtime
    from flowkit.sqlite_store import SQLiteStore

__version__ = "0.1.0"

__all__ = [
    "All",
    "Checkpoint",
    "CleanupFailedWarning",
    "Collect",
    "Context",
    "ContextInUse",
    "Event",
    "EventError",
    "FrozenEvent",
    "Handler",
    "HumanResponseEvent",
    "InputRequiredEvent",
    "InvalidWorkflow",
    "MemoryStore",
    "MisdirectedEvent",
    "NoEventLoop",
    "Origin",
    "Resource",
    "ResourceError",
    "RetryInfo",
    "RunFinished",
    "RunSuspended",
    "Runtime",
    "SQLiteStore",
    "SerializationError",
    "StartEvent",
    "StateError",
    "StepFailed",
    "StepFailedEvent",
    "StopEvent",
    "StoreError",
    "StreamGap",
    "Take",
    "UnhandledEventWarning",
    "UnknownField",
    "UnknownKey",
    "WaitTimedOut",
    "Workflow",
    "WorkflowCancelled",
    "WorkflowCancelledByUser",
    "WorkflowCheckpointer",
    "WorkflowError",
    "WorkflowRuntimeError",
    "WorkflowStalled",
    "WorkflowTimeoutError",
    "WorkflowValidationError",
    "WrongCall",
    "WrongReturn",
    "catch_error",
    "open_runtime",
    "step",
    "stored_as",
]

# What keeps runs is imported when it is first asked for: it takes as long as a third of the rest.
_LATER = {
    "Checkpoint": "checkpointer",
    "MemoryStore": "memory_store",
    "Runtime": "runtime",
    "SQLiteStore": "sqlite_store",
    "WorkflowCheckpointer": "checkpointer",
    "open_runtime": "runtime",
    "stored_as": "evolution",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"flowkit.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
