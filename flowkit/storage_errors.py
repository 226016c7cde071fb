"""What can go wrong with runs that are kept in a store. Part of the tree in errors.py.

::

    SerializationError
    └── TypeChanged                      data is sound, but the classes it was made of are others now
        └── NewerData                    … because the data is of a later version
    WorkflowRuntimeError
    ├── StoredError                      stands for an exception that couldn't be stored as it was
    ├── StoreError                       the store can't be used, or didn't do what was asked of it
    │   └── StoreBusy                    … because another process holds it: try again, or wait
    ├── RunDamaged                       what is stored of one run can't be read; other runs aren't affected
    ├── CodeChanged                      a stored run doesn't fit the workflow as it is written now
    ├── UnknownRun (KeyError)            the store has no run of this id
    ├── WrongWorkflow                    this run id belongs to a run of another workflow
    ├── RunElsewhere                     another process, or another runtime, drives this run
    ├── UnexpectedEvent                  an event was sent to a run that waits, and nothing in it takes it
    ├── LeaseLost                        another process has taken this run over, so it was stopped here
    └── RunSuspended                     it was stopped here before its end; it goes on from the store
"""

from collections.abc import Iterable
from typing import Any, Literal

from flowkit.errors import SerializationError, WorkflowRuntimeError, did_you_mean

__all__ = [
    "CodeChanged",
    "LeaseLost",
    "NewerData",
    "RunDamaged",
    "RunElsewhere",
    "RunSuspended",
    "StoreBusy",
    "StoreError",
    "StoredError",
    "TypeChanged",
    "UnexpectedEvent",
    "UnknownRun",
    "WrongWorkflow",
]

Kind = Literal["newer", "no-store", "damaged", "read-only", "full", "failed", "closed", "busy"]


class TypeChanged(SerializationError):
    """Data was written with classes that aren't as they were: one is gone, or has other fields or members."""


class NewerData(TypeChanged):
    """Data was written by a later version of a class than the one that reads it.

    ``tag`` stands for the class, ``version`` is the data's, ``known`` the class's.
    """

    tag: str
    version: int
    known: int

    def __init__(self, tag: str, version: int, known: int, *, path: str = "$") -> None:
        super().__init__(
            f"it is version {version} of {tag}, and the class here is version {known}",
            path=path,
            cure="run the newer code",
        )
        self.tag, self.version, self.known = tag, version, known


class StoredError(WorkflowRuntimeError):
    """Stands for an exception that couldn't be stored as it was: of a class that isn't registered, or with something
    in it that doesn't come back.

    ``type_name`` is its class, ``text`` what it said.
    """

    type_name: str
    text: str

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(f"{type_name}: {text}" if text else type_name, type_name=type_name, text=text)


class StoreError(WorkflowRuntimeError):
    """The store can't be used, or didn't do what was asked of it. Nothing that was stored is harmed.

    ``store`` says which, ``problem`` what happened, ``cure`` what to do; ``kind`` is one of ``"newer"`` (written by a
    newer flowkit), ``"no-store"`` (it is something else), ``"damaged"``, ``"read-only"``, ``"full"``, ``"busy"``,
    ``"closed"`` and ``"failed"`` (anything else; ``__cause__`` has the original).
    """

    store: str
    problem: str
    cure: str
    kind: Kind

    def __init__(self, store: str, problem: str, cure: str, kind: Kind) -> None:
        super().__init__(f"{store}: {problem}: {cure}.", store=store, problem=problem, cure=cure, kind=kind)


class StoreBusy(StoreError):
    """Another process or thread holds the store. ``kind`` is ``"busy"``."""

    def __init__(self, store: str, problem: str, cure: str) -> None:
        super().__init__(store, problem, cure, "busy")


class RunDamaged(WorkflowRuntimeError):
    """What is stored of a run can't be read: it is set aside, and other runs go on.

    ``record`` is the number of the record in the run's journal (from 0; ``None`` where it isn't about one), ``path``
    where in it (``$.event.price``), ``problem`` what is wrong.
    """

    run_id: str
    record: int | None
    path: str
    problem: str

    def __init__(self, run_id: str, record: int | None, problem: str, *, path: str = "$") -> None:
        place = "" if record is None else f", record {record}"
        inside = "" if path == "$" else f" at {path}"
        super().__init__(
            f"run {run_id!r}{place}{inside} can't be read: {problem}.",
            run_id=run_id,
            record=record,
            path=path,
            problem=problem,
        )


class CodeChanged(WorkflowRuntimeError):
    """A stored run doesn't fit the workflow as it is written now. It is kept as it is.

    ``workflow`` is the workflow, ``step`` the step it is about (``None`` where it isn't about one), ``problem`` what
    doesn't fit, ``cure`` what to write.
    """

    run_id: str
    workflow: str
    step: str | None
    problem: str
    cure: str

    def __init__(self, run_id: str, workflow: str, problem: str, cure: str, *, step: str | None = None) -> None:
        super().__init__(
            f"run {run_id!r} of {workflow} can't go on with the code as it is now: {problem}: {cure}.",
            run_id=run_id,
            workflow=workflow,
            step=step,
            problem=problem,
            cure=cure,
        )


class UnknownRun(WorkflowRuntimeError, KeyError):
    """The store has no run of this id."""

    run_id: str

    def __init__(self, run_id: str, known: list[str] | None = None) -> None:
        guess = did_you_mean(run_id, known or ())
        super().__init__(
            f"the store has no run {run_id!r}: {guess or 'await runtime.runs() lists those it has'}"
            + ("" if guess else "."),
            run_id=run_id,
        )


class WrongWorkflow(WorkflowRuntimeError):
    """A run id was used that belongs to a run of another workflow.

    ``workflow`` is the one that was to run, ``stored`` the one that the run belongs to.
    """

    run_id: str
    workflow: str
    stored: str

    def __init__(self, run_id: str, workflow: str, stored: str) -> None:
        super().__init__(
            f"run {run_id!r} belongs to {stored}, not to {workflow}: give this run another run_id, or run it with "
            f"{stored}.",
            run_id=run_id,
            workflow=workflow,
            stored=stored,
        )


class RunElsewhere(WorkflowRuntimeError):
    """Another process, or another runtime, drives this run. ``owner`` names it."""

    run_id: str
    owner: str

    def __init__(self, run_id: str, owner: str) -> None:
        super().__init__(
            f"run {run_id!r} is driven by {owner}: ask that process, or wait until it has ended or its lease is over.",
            run_id=run_id,
            owner=owner,
        )


class LeaseLost(WorkflowRuntimeError):
    """This process was away for longer than its lease, and another has taken the run over. It was stopped here, and
    nothing it did since was stored."""

    run_id: str

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"run {run_id!r} was taken over by another process, as this one was silent for longer than its lease: it "
            "goes on there.",
            run_id=run_id,
        )


class UnexpectedEvent(WorkflowRuntimeError):
    """An event was sent to a stored run that waits, and nothing in it takes this event. It has not been stored.

    ``expected`` names the event classes that something in it takes now.
    """

    run_id: str
    workflow: str
    event: Any
    expected: tuple[str, ...]

    def __init__(self, run_id: str, workflow: str, event: Any, expected: Iterable[str]) -> None:
        names = tuple(expected)
        takes = f"it takes {', '.join(names)}" if names else "it takes no event from outside"
        super().__init__(
            f"run {run_id!r} of {workflow} doesn't take {type(event).__name__} now: {takes}.",
            run_id=run_id,
            workflow=workflow,
            event=event,
            expected=names,
        )


class RunSuspended(WorkflowRuntimeError):
    """The run was stopped here before its end, and is safe in its store. ``waiting`` tells whether it was waiting for
    somebody outside."""

    run_id: str
    workflow: str
    reason: str
    waiting: bool

    def __init__(self, run_id: str, workflow: str, reason: str, *, waiting: bool = False, **facts: Any) -> None:
        super().__init__(
            f"run {run_id!r} of {workflow} was suspended, as {reason}: it goes on from its store when the same run_id "
            "is run again.",
            run_id=run_id,
            workflow=workflow,
            reason=reason,
            waiting=waiting,
            **facts,
        )
