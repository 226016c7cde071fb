"""`WorkflowCheckpointer`: a checkpoint after every step of a run, and new runs from any of them.

Checkpoints are places in a journal (journal.py): making one costs the same however long the run is, and its
``ctx_state`` is put together when it is asked for. Without a store the journal is kept here, in memory. With one it is
the run's own, and its checkpoints are found by reading it: those of runs that this process began, and those that were
recorded earlier by whichever process.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from flowkit import outside
from flowkit.context import Context
from flowkit.errors import WorkflowRuntimeError
from flowkit.events import Event
from flowkit.facts import Command, Fact, StartStep, StepCommitted, StepReturned
from flowkit.handler import Handler
from flowkit.machine import Machine
from flowkit.workflow import Workflow, records_of

if TYPE_CHECKING:
    from flowkit.journal import Past
    from flowkit.store import Store

__all__ = ["Checkpoint", "WorkflowCheckpointer"]

Callback = Callable[[Fact, Sequence[Command]], None]


@attrs.frozen(eq=False)
class Checkpoint:
    """A run as it was when a step had returned.

    ``output_event`` is what the step returned: an event, a list of events, or ``None``.
    """

    id_: str
    last_completed_step: str
    input_event: Any
    output_event: Any
    _journal: "Past" = attrs.field(repr=False)
    _length: int = attrs.field(repr=False)
    _workflow: Workflow = attrs.field(repr=False)

    @property
    def ctx_state(self) -> dict[str, Any]:
        """The context at that moment, as ``Context.from_dict(workflow, …)`` takes it.

        Computed from the journal each time: its cost grows with the number of facts before the checkpoint.
        """
        return self._workflow.dump_machine(self._journal.machine_at(self._length))


class WorkflowCheckpointer:
    """Runs a workflow and keeps a checkpoint each time a step returns.

    ``checkpoints`` maps run ids to their checkpoints, oldest first. Without a ``store`` they live in memory as long as
    this object does. With one (``store=SQLiteStore("runs.db")``) they are those of every run of this workflow that is
    in it; looking at them reads the store then and there.

    Args:
        workflow: what it runs.
        disabled_steps: names of steps after which no checkpoint is kept.
        store: where runs are recorded.

    Raises:
        WorkflowRuntimeError: there is no such step.
    """

    def __init__(self, workflow: Workflow, disabled_steps: Sequence[str] = (), *, store: "Store | None" = None) -> None:
        self.workflow = workflow
        self._kept: dict[str, list[Checkpoint]] = {}
        self._store = store
        self._known = set(workflow.step_names())
        self.enabled_steps = set(self._known)
        self.checkpoints: Mapping[str, list[Checkpoint]] = self._kept
        if store is not None:
            self.checkpoints = _Stored(workflow, store, self.enabled_steps)
        for name in disabled_steps:
            self.disable_checkpoint(name)

    @property
    def disabled_steps(self) -> set[str]:
        """Steps after which no checkpoint is kept."""
        return self._known - self.enabled_steps

    def enable_checkpoint(self, step: str) -> None:
        """Keep checkpoints after this step (the default).

        Raises:
            WorkflowRuntimeError: there is no such step.
        """
        self.enabled_steps.add(self._checked(step))

    def disable_checkpoint(self, step: str) -> None:
        """Keep none after this step, in this and later runs.

        Raises:
            WorkflowRuntimeError: there is no such step.
        """
        self.enabled_steps.discard(self._checked(step))

    def _checked(self, step: str) -> str:
        if step not in self._known:
            known = ", ".join(sorted(self._known))
            raise WorkflowRuntimeError(f"{type(self.workflow).__name__} has no step {step!r}; it has {known}.")
        return step

    def run(self, **arguments: Any) -> Handler:
        """``workflow.run(…)`` with checkpoints; they are found under the handler's ``run_id``."""
        run_id = arguments.pop("run_id", None) or outside.current().new_id()
        if self._store is not None:
            return self.workflow.run(run_id=run_id, store=self._store, **arguments)
        ctx: Context[Any] | None = arguments.pop("ctx", None)
        if ctx is None:
            ctx = Context(self.workflow)
        keep = self._callback(run_id, ctx, stepwise=bool(arguments.get("stepwise")))
        return self.workflow.run_kept(keep, run_id=run_id, ctx=ctx, **arguments)

    def run_from(self, checkpoint: Checkpoint, **arguments: Any) -> Handler:
        """A new run that goes on after a checkpoint, with an id and checkpoints of its own.

        Arguments for the start event can't matter any more, it has been consumed: they are ignored with a warning.
        """
        if arguments:
            names = ", ".join(arguments)
            warnings.warn(
                f"run_from() ignores {names}: the start event was consumed before this checkpoint "
                f"(after step {checkpoint.last_completed_step!r}).",
                UserWarning,
                stacklevel=2,
            )
        run_id = outside.current().new_id()
        ctx: Context[Any] = Context.from_dict(self.workflow, checkpoint.ctx_state)
        if self._store is not None:
            return self.workflow.run(ctx=ctx, run_id=run_id, store=self._store)
        return self.workflow.run_kept(self._callback(run_id, ctx), run_id=run_id, ctx=ctx)

    def new_checkpoint_callback_for_run(self, run_id: str | None = None) -> Callback:
        """What keeps the checkpoints of one run, under ``run_id``: told of each fact in order.

        Raises:
            WorkflowRuntimeError: this checkpointer has a store.
        """
        if self._store is not None:
            raise WorkflowRuntimeError(
                "a checkpointer with a store reads its checkpoints there, and has no callback: run the workflow with "
                "run(store=…), or by the checkpointer's own run()."
            )
        return self._callback(run_id or outside.current().new_id(), Context(self.workflow))

    def filter_checkpoints(
        self,
        *,
        run_id: str | None = None,
        last_completed_step: str | None = None,
        input_event_type: type[Event] | None = None,
        output_event_type: type[Event] | None = None,
    ) -> list[Checkpoint]:
        """The checkpoints that fit every condition given, oldest first.

        Raises:
            WorkflowRuntimeError: no condition was given, or there is no such run.
        """
        if run_id is None and last_completed_step is None and input_event_type is None and output_event_type is None:
            raise WorkflowRuntimeError("filter_checkpoints() needs at least one condition; all are in .checkpoints.")
        if run_id is not None and run_id not in self.checkpoints:
            raise WorkflowRuntimeError(f"there are no checkpoints of a run {run_id!r}.")
        chosen = (
            self.checkpoints[run_id]
            if run_id is not None
            else [one for run in self.checkpoints.values() for one in run]
        )
        return [
            one
            for one in chosen
            if (last_completed_step is None or one.last_completed_step == last_completed_step)
            and (input_event_type is None or isinstance(one.input_event, input_event_type))
            and (output_event_type is None or _has(one.output_event, output_event_type))
        ]

    def _callback(self, run_id: str, ctx: Context[Any], *, stepwise: bool = False) -> Callback:
        journal, machine = self.workflow.begin_journal(ctx)
        names = self.workflow.step_names()
        kept = self._kept.setdefault(run_id, [])
        # What each running invocation works on; where the run goes on from a checkpoint, some are in its books already.
        inputs: dict[int, tuple[str, Any]] = {
            number: (entry.lane.spec.name, entry.event)
            for number, entry in (machine.invocations.items() if machine is not None else ())
        }

        def keep(fact: Fact, commands: Sequence[Command]) -> None:
            run: Any = ctx._run  # pyright: ignore[reportPrivateUsage]
            journal.append(fact, stepwise=stepwise, carried=None if run is None else run.machine.carried)
            for command in commands:
                if isinstance(command, StartStep):
                    inputs[command.invocation] = (names[command.step], command.event)
            if isinstance(fact, StepReturned | StepCommitted):
                step, event = inputs.pop(fact.invocation)
                if step in self.enabled_steps:
                    kept.append(
                        Checkpoint(
                            outside.current().new_id(), step, event, fact.result, journal, len(journal), self.workflow
                        )
                    )

        return keep


@attrs.define
class _Seen:
    """What has been read of a run's journal: up to which record, and the run as it was there."""

    length: int = 0
    machine: Machine | None = None
    kept: list[Checkpoint] = attrs.field(factory=list[Checkpoint])


class _Stored(Mapping[str, list[Checkpoint]]):
    """The checkpoints of a workflow's runs in a store. A run's journal is read on from where it was read to."""

    def __init__(self, workflow: Workflow, store: "Store", enabled: set[str]) -> None:
        self._workflow, self._store, self._enabled = workflow, store, enabled
        self._name = records_of(workflow).plan.name
        self._seen: dict[str, _Seen] = {}

    def __iter__(self) -> Iterator[str]:
        return iter([info.run_id for info in self._store.find(workflows=[self._name])])

    def __len__(self) -> int:
        return len(self._store.find(workflows=[self._name]))

    def __getitem__(self, run_id: str) -> list[Checkpoint]:
        info = self._store.info(run_id)
        if info is None or info.workflow != self._name:
            raise KeyError(run_id)
        seen = self._seen.pop(run_id, None) or _Seen()
        if info.length > seen.length:
            self._read_on(run_id, seen)
        self._seen[run_id] = seen  # not where reading failed: then it begins anew
        return [one for one in seen.kept if one.last_completed_step in self._enabled]

    def _read_on(self, run_id: str, seen: _Seen) -> None:
        from flowkit.journal import StoredJournal

        records = records_of(self._workflow)
        journal = StoredJournal(records, self._store, run_id)
        new = self._store.read(run_id, seen.length)
        for number, fact, machine in records.replay(run_id, new, start=seen.length, machine=seen.machine):
            seen.machine = machine
            if isinstance(fact, StepReturned | StepCommitted):
                entry = machine.invocations.get(fact.invocation)
                if entry is not None:
                    place = f"{run_id}:{number}"
                    step = entry.lane.spec.name
                    seen.kept.append(
                        Checkpoint(place, step, entry.event, fact.result, journal, number + 1, self._workflow)
                    )
        if seen.machine is not None:
            seen.length += len(new)


def _has(output: Any, kind: type[Event]) -> bool:
    outputs: list[Any] = output if isinstance(output, list) else [output]  # pyright: ignore[reportUnknownVariableType]
    return any(isinstance(one, kind) for one in outputs)
