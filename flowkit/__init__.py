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
    memory_store, sqlite_file, sqlite_mail, sqlite_rows, sqlite_store,
    process, shape, fact_forms, records,
    history, journal
    backend, stream, turns, resource_pool,    running: a task group around each machine, its connection to its store,
    resource_host, instruments, watch,        the handle its caller holds, and the runtime that owns many
    narrator, writer, mailbox, tenant,
    log, plain_call, stations, recent,
    performer, requests, nesting, runner,
    notebooks, handler, launching, kept,
    workflow, checkpointer, posting, runtime
    opentelemetry, keyboard                   traces and metrics of runs; lines that somebody types
    testing, examples, drawing,               checks for stores; programs to read and to run; pictures
    live_view, command_line                   runs as they go, in a terminal; `flowkit run …`

To understand the engine, read machine.py and dispatch.py, then runner.py and performer.py; for what
survives a crash, log.py, records.py and store.py.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowkit.checkpointer import Checkpoint, WorkflowCheckpointer
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
    from flowkit.events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StepFailedEvent, StopEvent
    from flowkit.evolution import stored_as
    from flowkit.handler import Handler
    from flowkit.instruments import Instrument, add_instrument, remove_instrument
    from flowkit.memory_store import MemoryStore
    from flowkit.narrator import LoggingInstrument
    from flowkit.resource import Resource
    from flowkit.runtime import Runtime, open_runtime
    from flowkit.sqlite_store import SQLiteStore
    from flowkit.steps import All, Collect, Take, catch_error, step
    from flowkit.storage_errors import RunSuspended, StoreError
    from flowkit.stream import Origin, StreamGap
    from flowkit.workflow import Workflow

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
    "Instrument",
    "InvalidWorkflow",
    "LoggingInstrument",
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
    "add_instrument",
    "catch_error",
    "open_runtime",
    "remove_instrument",
    "step",
    "stored_as",
]

# Each name is imported when it is first asked for, with what it needs: all of them take as long as Python itself, and a
# command line has to show its help at once.
_LATER = {
    "All": "steps",
    "Checkpoint": "checkpointer",
    "CleanupFailedWarning": "errors",
    "Collect": "steps",
    "Context": "context",
    "ContextInUse": "errors",
    "Event": "events",
    "EventError": "errors",
    "FrozenEvent": "errors",
    "Handler": "handler",
    "HumanResponseEvent": "events",
    "InputRequiredEvent": "events",
    "Instrument": "instruments",
    "InvalidWorkflow": "errors",
    "LoggingInstrument": "narrator",
    "MemoryStore": "memory_store",
    "MisdirectedEvent": "errors",
    "NoEventLoop": "errors",
    "Origin": "stream",
    "Resource": "resource",
    "ResourceError": "errors",
    "RetryInfo": "context",
    "RunFinished": "errors",
    "RunSuspended": "storage_errors",
    "Runtime": "runtime",
    "SQLiteStore": "sqlite_store",
    "SerializationError": "errors",
    "StartEvent": "events",
    "StateError": "errors",
    "StepFailed": "errors",
    "StepFailedEvent": "events",
    "StopEvent": "events",
    "StoreError": "storage_errors",
    "StreamGap": "stream",
    "Take": "steps",
    "UnhandledEventWarning": "errors",
    "UnknownField": "errors",
    "UnknownKey": "errors",
    "WaitTimedOut": "errors",
    "Workflow": "workflow",
    "WorkflowCancelled": "errors",
    "WorkflowCancelledByUser": "errors",
    "WorkflowCheckpointer": "checkpointer",
    "WorkflowError": "errors",
    "WorkflowRuntimeError": "errors",
    "WorkflowStalled": "errors",
    "WorkflowTimeoutError": "errors",
    "WorkflowValidationError": "errors",
    "WrongCall": "errors",
    "WrongReturn": "errors",
    "add_instrument": "instruments",
    "catch_error": "steps",
    "open_runtime": "runtime",
    "remove_instrument": "instruments",
    "step": "steps",
    "stored_as": "evolution",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LATER:
        value = getattr(importlib.import_module(f"flowkit.{_LATER[name]}"), name)
        globals()[name] = value
        return value
    problem = f"module {__name__!r} has no attribute {name!r}"
    if name.startswith("_"):
        raise AttributeError(problem)
    try:  # `import flowkit` is enough for `flowkit.errors.StepFailed`
        return importlib.import_module(f"flowkit.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"flowkit.{name}":
            raise
        raise AttributeError(problem) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
