"""`WorkflowCheckpointer`: a checkpoint after every step of a run, and new runs from any of them.

Checkpoints are places in a journal (journal.py): making one costs the same however long the run is, and its
``ctx_state`` is put together when it is asked for.
"""

import uuid
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from flowkit.context import Context
from flowkit.errors import WorkflowRuntimeError
from flowkit.events import Event
from flowkit.facts import Command, Fact, StartStep, StepReturned
from flowkit.handler import Handler
from flowkit.journal import Journal
from flowkit.workflow import Workflow

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
    _journal: Journal = attrs.field(repr=False)
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

    ``checkpoints`` maps run ids to their checkpoints, oldest first. They live in memory as long as this object does.
    """

    def __init__(self, workflow: Workflow, disabled_steps: Sequence[str] = ()) -> None:
        self.workflow = workflow
        self.checkpoints: dict[str, list[Checkpoint]] = {}
        self._known = set(workflow.step_names())
        self.enabled_steps = set(self._known)
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
        run_id = arguments.pop("run_id", None) or uuid.uuid4().hex
        ctx: Context[Any] | None = arguments.pop("ctx", None)
        if ctx is None:
            ctx = Context(self.workflow)
        return self.workflow.run_kept(self._callback(run_id, ctx), run_id=run_id, ctx=ctx, **arguments)

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
        run_id = uuid.uuid4().hex
        ctx: Context[Any] = Context.from_dict(self.workflow, checkpoint.ctx_state)
        return self.workflow.run_kept(self._callback(run_id, ctx), run_id=run_id, ctx=ctx)

    def new_checkpoint_callback_for_run(self, run_id: str | None = None) -> Callback:
        """What keeps the checkpoints of one run, under ``run_id``: told of each fact in order."""
        return self._callback(run_id or uuid.uuid4().hex, Context(self.workflow))

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

    def _callback(self, run_id: str, ctx: Context[Any]) -> Callback:
        journal, machine = self.workflow.begin_journal(ctx)
        names = self.workflow.step_names()
        kept = self.checkpoints.setdefault(run_id, [])
        # What each running invocation works on; where the run goes on from a checkpoint, some are in its books already.
        inputs: dict[int, tuple[str, Any]] = {
            number: (entry.lane.spec.name, entry.event)
            for number, entry in (machine.invocations.items() if machine is not None else ())
        }

        def keep(fact: Fact, commands: Sequence[Command]) -> None:
            journal.append(fact)
            for command in commands:
                if isinstance(command, StartStep):
                    inputs[command.invocation] = (names[command.step], command.event)
            if isinstance(fact, StepReturned):
                step, event = inputs.pop(fact.invocation)
                if step in self.enabled_steps:
                    kept.append(
                        Checkpoint(
                            uuid.uuid4().hex, step, event, fact.result, journal, len(journal.records), self.workflow
                        )
                    )

        return keep


def _has(output: Any, kind: type[Event]) -> bool:
    outputs: list[Any] = output if isinstance(output, list) else [output]  # pyright: ignore[reportUnknownVariableType]
    return any(isinstance(one, kind) for one in outputs)
