"""Every error and warning flowkit raises, in one tree.

::

    WorkflowError
    ├── WorkflowValidationError (ValueError)  the definition is wrong; known before anything runs
    │   └── InvalidWorkflow              all of a workflow's faults at once (also an ExceptionGroup)
    ├── EventError (TypeError)           an event class can't work, or an event was built with the wrong fields
    │   ├── UnknownField (AttributeError, KeyError)  an event was read by a name it doesn't have
    │   └── FrozenEvent (FrozenInstanceError)        an event was to be changed
    ├── SerializationError               a value can't be turned into bytes, or bytes into a value
    └── WorkflowRuntimeError             a run, or a call on one, went wrong
        ├── StepFailed                   a step raised and no retry or @catch_error took it
        ├── WrongReturn                  a step returned what its annotation doesn't allow
        ├── WorkflowTimeoutError (TimeoutError)
        ├── WorkflowStalled              the run came to rest and can never end
        ├── WorkflowCancelled            the run was cancelled before it ended
        │   └── WorkflowCancelledByUser  … by ``handler.cancel_run()``
        ├── WaitTimedOut (TimeoutError)  ``ctx.wait_for_event(timeout=…)`` ran out
        ├── WrongCall                    a call was given what it doesn't take, or made where it can't work
        ├── RunFinished                  something was sent to a run that has ended
        ├── MisdirectedEvent             ``send_event(step=…)`` named a step that can't take the event
        ├── ContextInUse                 one context was given to two runs at once
        ├── UnknownKey (KeyError)        ``ctx.get`` of a key that was never set
        ├── StateError                   the typed state doesn't have what was asked of it
        ├── ResourceError                a resource could not be built, or could not be closed
        ├── StoreError, RunSuspended, …  what can befall runs that are kept in a store (storage_errors.py)
        ├── NoEventLoop                  ``run()`` was called where no event loop runs
        └── ImpossibleFact               flowkit's own books don't balance: a bug, please report it

    UnhandledEventWarning (UserWarning)      a run ended, and nobody had taken an event that was sent in it
    CleanupFailedWarning (RuntimeWarning)    a run ended well, but a step failed while it was cancelled at the end

A constructor takes facts, builds the sentence and keeps the facts as attributes. A sentence says what happened, where
(workflow.step, parameter, file:line) and what to write instead.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, Self, cast

import attrs

__all__ = [
    "CleanupFailedWarning",
    "ContextInUse",
    "EventError",
    "FrozenEvent",
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
    "UnknownField",
    "UnknownKey",
    "WaitTimedOut",
    "WorkflowCancelled",
    "WorkflowCancelledByUser",
    "WorkflowError",
    "WorkflowRuntimeError",
    "WorkflowStalled",
    "WorkflowTimeoutError",
    "WorkflowValidationError",
    "WrongCall",
    "WrongReturn",
    "did_you_mean",
    "no_event",
    "shown",
    "too_late",
]


def shown(value: Any, limit: int = 80) -> str:
    """``repr(value)`` for an error's text: shortened, a class as its name, and it never fails itself."""
    if isinstance(value, type):
        return value.__name__
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - the text is about another error, which this must not hide
        text = f"<a {type(value).__name__} whose repr fails>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def text_of(error: BaseException) -> str:
    """Its text; of a group those of its members, too. Whatever ``str(error)`` does, this never fails."""
    try:
        text = str(error)
    except Exception as failed:  # noqa: BLE001 - the text is about the error that has it
        return f"(its text raises {type(failed).__name__})"
    if isinstance(error, BaseExceptionGroup) and not isinstance(error, WorkflowError):
        members = cast("BaseExceptionGroup[BaseException]", error).exceptions
        more = f" and {len(members) - 3} more" if len(members) > 3 else ""
        text += f": {'; '.join(map(in_words, members[:3]))}{more}"
    return text


def in_words(error: BaseException) -> str:
    """``ValueError: no such page``."""
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """``did you mean 'topic'?`` for a misspelt name, ``None`` where nothing is close to it."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else None


def _sentence(problem: str, cure: str | None, where: str | None = None) -> str:
    text = f"{problem}: {cure}" if cure else problem
    if not text.endswith((".", "?", "!")):
        text += "."
    return f"{text} ({where})" if where else text


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
        return _rebuild, (type(self), self.args, dict(self.__dict__), self.__cause__)


def _rebuild(
    cls: type[Exception], args: tuple[Any, ...], facts: dict[str, Any], cause: BaseException | None
) -> Exception:
    # The built-in class an error is laid out like, which need not be the first of its bases: OSError for a timeout.
    layout: Any = cls
    while layout.__module__ != "builtins":
        layout = layout.__base__
    error: Exception = layout.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    if cause is not None:
        error.__cause__ = cause
    return error


# ---------------------------------------------------------------------------------------------------- definition


class WorkflowValidationError(WorkflowError, ValueError):
    """One fault in a workflow's definition.

    ``workflow`` and ``step`` name the place (``step`` is ``None`` for a fault of the whole), ``where`` is
    ``file:line`` of the definition, ``kind`` a stable word for the sort of fault (``"no-start"``, ``"no-end"``, …).
    """

    problem: str
    cure: str | None
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
        super().__init__(
            _sentence(f"{place} {problem}" if place else problem, cure, where),
            problem=problem,
            cure=cure,
            workflow=workflow,
            step=step,
            where=where,
            kind=kind,
        )


class InvalidWorkflow(ExceptionGroup[WorkflowValidationError], WorkflowValidationError):  # type: ignore[override] # the group's `message` can't be assigned
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
        self.problem = self.message
        self.cure = self.step = self.where = None

    def __str__(self) -> str:
        return self.message

    def derive(self, excs: Sequence[Any], /) -> "ExceptionGroup[Any]":
        return InvalidWorkflow(self.workflow or "workflow", excs)

    def __reduce__(self) -> tuple[Any, ...]:
        return InvalidWorkflow, (self.workflow, list(self.exceptions))


class EventError(WorkflowError, TypeError):
    """An event was built with wrong, missing or unknown fields, or its class can't be an event.

    ``event`` is the event class's name, ``field`` the field (the first, where several are wrong; ``None`` where it
    isn't about one), ``where`` the ``file:line`` of the class, if it is about the class.
    """

    event: str
    field: str | None
    problem: str
    cure: str | None
    where: str | None

    def __init__(
        self, problem: str, *, cure: str | None = None, event: str, field: str | None = None, where: str | None = None
    ) -> None:
        super().__init__(
            _sentence(problem, cure, where), event=event, field=field, problem=problem, cure=cure, where=where
        )


class UnknownField(EventError, AttributeError, KeyError):
    """``ev.name`` or ``ev["name"]``, and the event has no such field."""

    def __init__(self, event: str, field: Any, known: Iterable[str]) -> None:
        names = [str(name) for name in known]
        has = f"it has: {', '.join(names)}" if names else "it has no fields"
        cure = did_you_mean(str(field), names) or f"ev.get({field!r}) gives None instead"
        super().__init__(f"{event} has no field {field!r} ({has})", cure=cure, event=event, field=field)


class FrozenEvent(EventError, attrs.exceptions.FrozenInstanceError):
    """An event was to be changed."""

    args = BaseException.args  # attrs before 26 has a list in its place, which copies would take for a fact


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
        shown = "; ".join(map(in_words, self.others[:3]))
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
        tries = "" if attempts == 1 else f" (after {attempts} attempts)"
        super().__init__(f"Error in step {step!r}: {in_words(error)}{tries}", step=step, event=event, attempts=attempts)
        self.__cause__ = error


class WrongReturn(WorkflowRuntimeError):
    """A step returned what its annotation doesn't allow. The cause of a `StepFailed`.

    ``returned`` describes it, ``allowed`` is the annotation.
    """

    workflow: str
    step: str
    returned: str
    allowed: str
    where: str

    def __init__(self, workflow: str, step: str, result: Any, allowed: str, where: str) -> None:
        returned = _described(result)
        cure = "return one of these, or widen the annotation"
        if isinstance(result, tuple | set | frozenset):
            cure = "return a list for a fan-out"
        elif isinstance(result, type):
            cure = f"return an event, {result.__name__}(…)"
        elif hasattr(result, "__await__"):
            cure = "await it, and return what that gives"
        elif hasattr(result, "__next__") or hasattr(result, "__anext__"):
            cure = "return a list of what it yields"
        super().__init__(
            _sentence(f"{workflow}.{step} returned {returned}, but its annotation allows {allowed}", cure, where),
            workflow=workflow,
            step=step,
            returned=returned,
            allowed=allowed,
            where=where,
        )


def _described(result: Any) -> str:
    if result is None:
        return "None"
    if isinstance(result, type):
        return f"the class {result.__name__}"
    if isinstance(result, list):
        members = cast("list[object]", result)
        kinds = sorted({"None" if member is None else type(member).__name__ for member in members})
        return f"a list of {', '.join(kinds)}" if kinds else "an empty list"
    return type(result).__name__


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

    ``waiting`` says for each step that collects what it has and still needs, ``unhandled`` are the events nobody took.
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
            lines.append("  no step that ran returned an event")
        lines.append(
            "Return an event that leads on or a StopEvent; a workflow that is driven from outside says "
            'Workflow(stalled="wait").'
        )
        super().__init__("\n".join(lines), workflow=workflow, waiting=waits, unhandled=events)


class WorkflowCancelled(WorkflowRuntimeError):
    """The run was cancelled before it ended: its owner's scope was, its handle was dropped, or its loop ended."""

    workflow: str
    reason: str

    def __init__(self, workflow: str, reason: str) -> None:
        super().__init__(f"{workflow} was cancelled: {reason}.", workflow=workflow, reason=reason)


class WorkflowCancelledByUser(WorkflowCancelled):
    """``handler.cancel_run()`` was called."""


class WaitTimedOut(WorkflowRuntimeError, TimeoutError):
    """``ctx.wait_for_event`` waited its ``timeout`` seconds in vain. Raised inside the waiting step."""

    step: str
    event_type: str
    timeout: float

    def __init__(self, step: str, event_type: str, timeout: float) -> None:
        super().__init__(
            f"step {step!r} waited {timeout:g} seconds for {event_type} in vain.",
            step=step,
            event_type=event_type,
            timeout=timeout,
        )


class WrongCall(WorkflowRuntimeError):
    """A call on a run was given something it doesn't take, or was made where it can't work. It has had no effect.

    ``call`` is what was called, ``problem`` what was wrong with it, ``cure`` what to write instead.
    """

    call: str
    problem: str
    cure: str | None

    def __init__(self, call: str, problem: str, cure: str | None = None) -> None:
        super().__init__(_sentence(f"{call} {problem}", cure), call=call, problem=problem, cure=cure)


def no_event(call: str, given: Any) -> WrongCall:
    """``call`` takes an event, and was given something else."""
    cure = "put it into a field of an event"
    if isinstance(given, type):
        cure = f"build one, {given.__name__}(…)"
    elif isinstance(given, list | tuple):
        cure = "call it for each"
    return WrongCall(call, f"takes an event, but got {shown(given)}", cure)


def too_late(call: str) -> WrongCall:
    """``call`` was made on the context of a step that has returned."""
    return WrongCall(call, "was called on the context of a step that has returned", "call it while the step runs")


class RunFinished(WorkflowRuntimeError):
    """Something was asked of a run that has already ended."""

    workflow: str

    def __init__(self, workflow: str, what: str) -> None:
        super().__init__(
            f"{what}: this run of {workflow} has ended. "
            "Start another with run(ctx=handler.ctx) to go on from its state.",
            workflow=workflow,
        )


class MisdirectedEvent(WorkflowRuntimeError):
    """``send_event(event, step=name)`` named a step that doesn't exist, or doesn't take this event.

    ``takes`` is what it takes, ``None`` where it doesn't exist.
    """

    workflow: str
    step: str
    event: Any
    takes: str | None

    def __init__(
        self,
        workflow: str,
        step: str,
        event: Any,
        *,
        steps: Iterable[str] = (),
        takes: str | None = None,
        where: str | None = None,
    ) -> None:
        kind = type(event).__name__
        if takes is None:
            names = list(steps)
            problem = f"{workflow} has no step {shown(step)} to send {kind} to; it has {', '.join(map(repr, names))}"
            message = _sentence(problem, did_you_mean(str(step), names), where)
        else:
            problem = (
                f"{workflow}.{step} takes {takes}, not {kind}. Leave step= out to send it to whichever step takes it"
            )
            message = _sentence(problem, None, where)
        super().__init__(message, workflow=workflow, step=step, event=event, takes=takes)


class ContextInUse(WorkflowRuntimeError):
    """A context that drives a run was given to another."""

    workflow: str

    def __init__(self, workflow: str) -> None:
        super().__init__(
            f"this context still drives a run of {workflow}: "
            "await that run first, or give the new one its own context.",
            workflow=workflow,
        )


class UnknownKey(WorkflowRuntimeError, KeyError):
    """``ctx.get(key)`` without a default, and the key was never set. ``known`` lists the keys there are."""

    key: str
    known: tuple[str, ...]

    def __init__(self, key: str, known: Iterable[str]) -> None:
        keys = tuple(known)
        have = ", ".join(map(repr, keys[:20])) if keys else "none"
        more = f" and {len(keys) - 20} more" if len(keys) > 20 else ""
        cure = did_you_mean(key, keys) or f"set it first, or write get({key!r}, default=None)"
        super().__init__(
            _sentence(f"the context has no key {key!r} (known keys: {have}{more})", cure), key=key, known=keys
        )


class StateError(WorkflowRuntimeError):
    """The run's state can't do what was asked: no such field, a wrong type, or two writers in one task."""

    problem: str
    cure: str | None

    def __init__(self, problem: str, cure: str | None = None) -> None:
        super().__init__(_sentence(problem, cure), problem=problem, cure=cure)


class ResourceError(WorkflowRuntimeError):
    """A resource's factory or its clean-up failed, or it gave a value of the wrong type.

    ``resource`` names the factory.
    """

    resource: str

    def __init__(self, message: str, *, resource: str) -> None:
        super().__init__(message, resource=resource)


class NoEventLoop(WorkflowRuntimeError):
    """``Workflow.run()``, or another ``call``, was made outside a running event loop."""

    workflow: str
    call: str | None

    def __init__(self, workflow: str, call: str | None = None) -> None:
        super().__init__(
            f"{call or f'{workflow}.run()'} needs a running event loop: call it in an async function and start that "
            "with asyncio.run(main()), trio.run(main) or anyio.run(main).",
            workflow=workflow,
            call=call,
        )


class ImpossibleFact(WorkflowRuntimeError):
    """The machine was told something that can't have happened. It changed nothing; this is a bug in flowkit."""


# ------------------------------------------------------------------------------------------------------ warnings


class UnhandledEventWarning(UserWarning):
    """A run ended, and an event that was sent in it was never taken by a step or a wait."""


class CleanupFailedWarning(RuntimeWarning):
    """A run ended well, but a step that was cancelled then failed while cleaning up."""
