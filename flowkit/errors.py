"""Every error and warning flowkit raises, in one tree.

::

    WorkflowError
    ├── WorkflowValidationError          the definition is wrong; known before anything runs
    │   └── InvalidWorkflow              all of a workflow's faults at once (also an ExceptionGroup)
    ├── EventError (TypeError)           an event was built or read with the wrong fields
    ├── SerializationError               a value can't be turned into bytes, or bytes into a value
    └── WorkflowRuntimeError             a run, or a call on one, went wrong
        ├── StepFailed                   a step raised and no retry or @catch_error took it
        ├── WorkflowTimeoutError (TimeoutError)
        ├── WorkflowStalled              the run came to rest and can never end
        ├── WorkflowCancelled            the run was cancelled before it ended
        │   └── WorkflowCancelledByUser  … by ``handler.cancel_run()``
        ├── WaitTimedOut (TimeoutError)  ``ctx.wait_for_event(timeout=…)`` ran out
        ├── RunFinished                  something was sent to a run that has ended
        ├── MisdirectedEvent             ``send_event(step=…)`` named a step that can't take the event
        ├── ContextInUse                 one context was given to two runs at once
        ├── UnknownKey (KeyError)        ``ctx.get`` of a key that was never set
        ├── StateError                   the typed state doesn't have what was asked of it
        ├── ResourceError                a resource could not be built, or could not be closed
        ├── NoEventLoop                  ``run()`` was called where no event loop runs
        └── ImpossibleFact               flowkit's own books don't balance: a bug, please report it

A constructor takes facts, builds the sentence and keeps the facts as attributes. A sentence says what happened, where
(workflow.step, parameter, file:line) and what to write instead.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Self

__all__ = [
    "CleanupFailedWarning",
    "ContextInUse",
    "EventError",
    "ImpossibleFact",
    "InvalidWorkflow",
    "MisdirectedEvent",
    "NoEventLoop",
    "ResourceError",
    "RunFinished",
    "SerializationError",
    "StateError",
    "StepFailed",
    "UnhandledEventWarning",
    "UnknownKey",
    "WaitTimedOut",
    "WorkflowCancelled",
    "WorkflowCancelledByUser",
    "WorkflowError",
    "WorkflowRuntimeError",
    "WorkflowStalled",
    "WorkflowTimeoutError",
    "WorkflowValidationError",
]


class WorkflowError(Exception):
    """Base of every error flowkit raises on purpose.

    The facts an error was built from are its attributes; ``str(error)`` is the sentence made of them. Errors survive
    pickling and copying: they are rebuilt from their facts.
    """

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.__dict__.update(facts)

    def __str__(self) -> str:
        return self.message

    def with_cause(self, cause: BaseException) -> Self:
        """This error, with what it was caused by."""
        self.__cause__ = cause
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(cls: type[Exception], args: tuple[Any, ...], facts: dict[str, Any]) -> Exception:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


# ---------------------------------------------------------------------------------------------------- definition


class WorkflowValidationError(WorkflowError):
    """One fault in a workflow's definition.

    ``workflow`` and ``step`` name the place (``step`` is ``None`` for a fault of the whole), ``where`` is
    ``file:line`` of the definition, ``kind`` a stable word for the sort of fault (``"no-start"``, ``"unreachable"``, …).
    """

    workflow: str | None
    step: str | None
    where: str | None
    kind: str

    def __init__(
        self,
        problem: str,
        *,
        cure: str | None = None,
        workflow: str | None = None,
        step: str | None = None,
        where: str | None = None,
        kind: str = "invalid",
    ) -> None:
        place = ".".join(part for part in (workflow, step) if part)
        message = f"{place} {problem}" if place else problem
        if cure:
            message += f": {cure}."
        elif not message.endswith((".", "?", "!")):
            message += "."
        if where:
            message += f" ({where})"
        super().__init__(
            message,
            problem=problem,
            cure=cure,
            workflow=workflow,
            step=step,
            where=where,
            kind=kind,
        )


class InvalidWorkflow(ExceptionGroup[WorkflowValidationError], WorkflowValidationError):
    """All faults of one workflow's definition, found before it ran.

    An exception group: ``except* WorkflowValidationError`` sees each fault, ``except WorkflowValidationError`` the
    group. ``str(error)`` lists every fault on a line of its own.
    """

    def __new__(cls, workflow: str, faults: Sequence[WorkflowValidationError]) -> Self:
        lines = "".join(f"\n  {number}. {fault}" for number, fault in enumerate(faults, 1))
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        self = super().__new__(cls, f"{workflow} can't run, it has {count}:{lines}", list(faults))
        self.workflow = workflow
        return self

    def __init__(self, workflow: str, faults: Sequence[WorkflowValidationError]) -> None:
        Exception.__init__(self, workflow, faults)
        self.kind = "invalid"
        self.step = None
        self.where = None

    def __str__(self) -> str:
        return ExceptionGroup.message.__get__(self)  # type: ignore[attr-defined,no-any-return]

    def derive(self, excs: Sequence[Any], /) -> "ExceptionGroup[Any]":
        return InvalidWorkflow(self.workflow or "workflow", excs)

    def __reduce__(self) -> tuple[Any, ...]:
        return InvalidWorkflow, (self.workflow, list(self.exceptions))


class EventError(WorkflowError, TypeError):
    """An event was built with a wrong, missing or unknown field, or read by a name it doesn't have.

    ``event`` is the event class's name, ``field`` the field (``None`` when several are meant).
    """

    event: str
    field: str | None

    def __init__(self, message: str, *, event: str, field: str | None = None) -> None:
        super().__init__(message, event=event, field=field)


class SerializationError(WorkflowError):
    """A value that can't be turned into bytes exactly, or bytes that are no value.

    ``path`` says where in the value (``$.field[3]``), ``problem`` what is wrong, ``cure`` what to write instead.
    """

    path: str
    problem: str
    cure: str

    def __init__(self, problem: str, *, path: str = "$", cure: str = "") -> None:
        message = f"{path}: {problem}" + (f": {cure}." if cure else ".")
        super().__init__(message, path=path, problem=problem, cure=cure)


# ------------------------------------------------------------------------------------------------------- running


class WorkflowRuntimeError(WorkflowError, RuntimeError):
    """A run, or a call on a run, went wrong.

    ``others`` keeps the failures of sibling steps and of clean-up that happened beside this one; none is dropped.
    """

    others: tuple[BaseException, ...] = ()

    def __str__(self) -> str:
        if not self.others:
            return self.message
        shown = "; ".join(f"{type(other).__name__}: {other}" for other in self.others[:3])
        more = f" and {len(self.others) - 3} more" if len(self.others) > 3 else ""
        return f"{self.message} (also failed: {shown}{more}; see .others)"


class StepFailed(WorkflowRuntimeError):
    """A step raised, no retry was left and no ``@catch_error`` step covers it.

    ``step`` is the step's name, ``event`` what it was working on, ``attempts`` how often it was started (at least 1);
    ``__cause__`` is what it raised, with its traceback.
    """

    step: str
    event: Any
    attempts: int

    def __init__(self, step: str, event: Any, attempts: int, error: BaseException) -> None:
        text = str(error)
        shown = f"{type(error).__name__}: {text}" if text else type(error).__name__
        tries = "" if attempts == 1 else f" (after {attempts} attempts)"
        super().__init__(f"Error in step {step!r}: {shown}{tries}", step=step, event=event, attempts=attempts)
        self.__cause__ = error


class WorkflowTimeoutError(WorkflowRuntimeError, TimeoutError):
    """The run took longer than its ``timeout`` seconds. ``active_steps`` names what was running or waiting."""

    timeout: float
    active_steps: tuple[str, ...]

    def __init__(self, workflow: str, timeout: float, active_steps: Iterable[str]) -> None:
        active = tuple(active_steps)
        doing = f"active: {', '.join(active)}" if active else "no step was active"
        super().__init__(
            f"{workflow} timed out after {timeout:g} seconds; {doing}.",
            workflow=workflow,
            timeout=timeout,
            active_steps=active,
        )


class WorkflowStalled(WorkflowRuntimeError):
    """Nothing runs, nothing can be delivered, no timer is set and no outside input is expected: it can never end.

    ``waiting`` says for each step that collects what it has and still needs, ``unhandled`` lists the events nobody took.
    """

    waiting: tuple[str, ...]
    unhandled: tuple[Any, ...]

    def __init__(self, workflow: str, waiting: Iterable[str], unhandled: Iterable[Any], senders: Iterable[str]) -> None:
        waits, events = tuple(waiting), tuple(unhandled)
        lines = [f"{workflow} stalled: nothing is running, no StopEvent was returned and nothing can happen any more."]
        lines += [f"  {wait}" for wait in waits]
        lines += [
            f"  {type(event).__name__} sent by {sender} was not taken: no step accepts it and no wait is open for it"
            for event, sender in zip(events, senders, strict=True)
        ]
        if len(lines) == 1:
            lines.append("  every step that ran returned None")
        lines.append(
            "Return an event that leads on or a StopEvent; a workflow that is driven from outside says "
            'Workflow(stalled="wait").'
        )
        super().__init__("\n".join(lines), workflow=workflow, waiting=waits, unhandled=events)


class WorkflowCancelled(WorkflowRuntimeError):
    """The run was cancelled before it ended: its owner's scope was, its handle was dropped, or its loop ended."""

    def __init__(self, workflow: str, reason: str) -> None:
        super().__init__(f"{workflow} was cancelled: {reason}.", workflow=workflow, reason=reason)


class WorkflowCancelledByUser(WorkflowCancelled):
    """``handler.cancel_run()`` was called."""


class WaitTimedOut(WorkflowRuntimeError, TimeoutError):
    """``ctx.wait_for_event`` waited its ``timeout`` seconds in vain. Raised inside the waiting step."""

    def __init__(self, step: str, event_type: str, timeout: float) -> None:
        super().__init__(
            f"step {step!r} waited {timeout:g} seconds for {event_type} in vain.",
            step=step,
            event_type=event_type,
            timeout=timeout,
        )


class RunFinished(WorkflowRuntimeError):
    """Something was asked of a run that has already ended."""

    def __init__(self, workflow: str, what: str) -> None:
        super().__init__(
            f"{what}: this run of {workflow} has ended. Start another with run(ctx=handler.ctx) to go on from its state.",
            workflow=workflow,
        )


class MisdirectedEvent(WorkflowRuntimeError):
    """``send_event(event, step=name)`` named a step that doesn't exist or doesn't take this event."""

    def __init__(self, message: str, *, step: str, event: Any) -> None:
        super().__init__(message, step=step, event=event)


class ContextInUse(WorkflowRuntimeError):
    """A context that drives a run was given to another."""

    def __init__(self, workflow: str) -> None:
        super().__init__(
            f"this context still drives a run of {workflow}: await that run first, or give the new one its own context.",
            workflow=workflow,
        )


class UnknownKey(WorkflowRuntimeError, KeyError):
    """``ctx.get(key)`` without a default, and the key was never set. ``known`` lists the keys there are."""

    def __init__(self, key: str, known: Iterable[str]) -> None:
        keys = tuple(known)
        have = ", ".join(map(repr, keys)) if keys else "none"
        super().__init__(
            f"the context has no key {key!r} (known keys: {have}); set it first, or write get({key!r}, default=None).",
            key=key,
            known=keys,
        )


class StateError(WorkflowRuntimeError):
    """The run's state can't do what was asked: no such field, a wrong type, or two writers in one task."""


class ResourceError(WorkflowRuntimeError):
    """A resource's factory or its clean-up failed, or it gave a value of the wrong type. ``resource`` names the factory."""

    resource: str

    def __init__(self, message: str, *, resource: str) -> None:
        super().__init__(message, resource=resource)


class NoEventLoop(WorkflowRuntimeError):
    """``Workflow.run()`` was called outside a running event loop."""

    def __init__(self, workflow: str) -> None:
        super().__init__(
            f"{workflow}.run() needs a running event loop: call it in an async function and start that with "
            "asyncio.run(main()), trio.run(main) or anyio.run(main).",
            workflow=workflow,
        )


class ImpossibleFact(WorkflowRuntimeError):
    """The machine was told something that can't have happened. It changed nothing; this is a bug in flowkit."""


# ------------------------------------------------------------------------------------------------------ warnings


class UnhandledEventWarning(UserWarning):
    """A run ended, and an event that was sent in it was never taken by a step or a wait."""


class CleanupFailedWarning(RuntimeWarning):
    """A run ended well, but a step that was cancelled then failed while cleaning up."""
