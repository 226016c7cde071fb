"""What can go wrong with runs that are kept in a store. Part of the tree in errors.py.

::

    WorkflowRuntimeError
    ├── StoreError                       the store can't be used, or didn't do what was asked of it
    │   └── StoreBusy                    … because another process holds it: try again, or wait
    ├── RunDamaged                       what is stored of one run can't be read; other runs aren't affected
    ├── CodeChanged                      a stored run doesn't fit the workflow as it is written now
    ├── UnknownRun (KeyError)            the store has no run of this id
    ├── WrongWorkflow                    this run id belongs to a run of another workflow
    ├── RunElsewhere                     another process, or another runtime, drives this run
    ├── LeaseLost                        another process has taken this run over, so it was stopped here
    └── RunSuspended                     it was stopped here before its end; it goes on from the store
"""

from typing import Any, Literal

from flowkit.errors import WorkflowRuntimeError, did_you_mean

__all__ = [
    "CodeChanged",
    "LeaseLost",
    "RunDamaged",
    "RunElsewhere",
    "RunSuspended",
    "StoreBusy",
    "StoreError",
    "UnknownRun",
    "WrongWorkflow",
]

Kind = Literal["newer", "no-store", "damaged", "read-only", "full", "failed", "closed", "busy"]


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
