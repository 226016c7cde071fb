"""A run's facts in order, in memory: what checkpoints are cut from.

Each fact is encoded when it is appended, so a value that is changed later doesn't change the past, and the cost of a
fact doesn't depend on how long the run has been. A prefix of the journal, replayed into the machine the run began
with, is the run as it was.
"""

from collections.abc import Sequence
from typing import Any

import attrs

from flowkit import facts
from flowkit.errors import ImpossibleFact, SerializationError, WorkflowRuntimeError
from flowkit.facts import Command, Fact, RunFailed, StepRaised
from flowkit.machine import Machine
from flowkit.snapshot import Snapshots

__all__ = ["Journal"]


@attrs.define(eq=False)
class Journal:
    """The facts of one run, and what it ``began`` with: a snapshot of its state, and of its books if it was resumed."""

    snapshots: Snapshots
    began: dict[str, Any]
    patient: bool = False
    records: list[bytes] = attrs.field(factory=list[bytes])

    def __attrs_post_init__(self) -> None:
        for name in facts.__all__:
            kind: Any = getattr(facts, name)
            if isinstance(kind, type):
                self.snapshots.codec.register(kind)

    def append(self, fact: Fact, _: Sequence[Command] = ()) -> None:
        """Enter a fact.

        Raises:
            SerializationError: a value in it can't be brought back exactly.
        """
        if isinstance(fact, StepRaised | RunFailed):
            fact = attrs.evolve(fact, error=self._storable(fact.error))
        self.records.append(self.snapshots.codec.dumps(fact))

    def _storable(self, error: BaseException) -> BaseException:
        """An exception of an unknown class becomes one that says so: the machine needs only that there was one."""
        try:
            self.snapshots.codec.dumps(error)
        except SerializationError:
            return RuntimeError(f"{type(error).__name__}: {error}")
        return error

    def machine_at(self, length: int) -> Machine:
        """The run as it was after its first ``length`` facts.

        Raises:
            SerializationError: a record is damaged.
            ImpossibleFact: the records don't follow from one another.
        """
        if not 0 <= length <= len(self.records):
            raise WorkflowRuntimeError(f"this journal has {len(self.records)} facts, not {length}.")
        state, resumed = self.snapshots.load(self.began, patient=self.patient)
        machine = resumed or Machine(self.snapshots.plan, state, patient=self.patient)
        for record in self.records[:length]:
            fact = self.snapshots.codec.loads(record)
            if type(fact) not in Fact.__args__:
                raise ImpossibleFact(f"a record holds a {type(fact).__name__}, which is no fact")
            machine.receive(fact)
        return machine
