"""A run's records in order: what checkpoints are cut from.

`Journal` keeps them in memory. Each fact is encoded when it is appended, so a value that is changed later doesn't
change the past, and the cost of a fact doesn't depend on how long the run has been. `StoredJournal` reads them from a
store, where the run that they are of wrote them. Either way a prefix of the records is the run as it was.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from flowkit.errors import WorkflowRuntimeError
from flowkit.facts import Command, Fact
from flowkit.machine import Machine
from flowkit.records import Head, Records, seal
from flowkit.snapshot import Snapshots
from flowkit.state import State
from flowkit.store import Store

__all__ = ["Journal", "Past", "StoredJournal"]


class Past(Protocol):
    """A run's past."""

    def machine_at(self, length: int) -> Machine:
        """The run as it was after its first ``length`` facts (of a stored run: records)."""
        ...


class Journal:
    """The facts of one run in memory, and what it ``began`` with: a snapshot (`Snapshots.dump`)."""

    def __init__(self, snapshots: Snapshots, began: dict[str, Any], patient: bool = False) -> None:
        self._records = Records(snapshots.plan, snapshots.codec)
        state, resumed = snapshots.load(began, patient=patient)
        self._first = resumed or Machine(snapshots.plan, state, patient=patient)
        self._patient = patient
        self._sealed: list[bytes] = []

    def __len__(self) -> int:
        """How many facts it has."""
        return max(0, len(self._sealed) - 1)

    def append(
        self,
        fact: Fact,
        _: Sequence[Command] = (),
        *,
        stepwise: bool = False,
        carried: Mapping[str, str] | None = None,
    ) -> None:
        """Enter a fact. With the first one comes whether the run began ``stepwise``, and what it carries.

        Raises:
            SerializationError: a value in it can't be brought back exactly.
        """
        payload = self._records.fact(fact)
        if not self._sealed:
            self._begin(stepwise=stepwise, carried=carried)
        self._sealed.append(seal("", len(self._sealed), payload))

    def _begin(self, *, stepwise: bool, carried: Mapping[str, str] | None = None) -> None:
        self._first.stepwise = self._first.stepwise or stepwise
        head = Head(run_id="", workflow=self._first.plan.name, carried=carried or self._first.carried)
        self._sealed.append(seal("", 0, self._records.books(self._first, head)))

    def machine_at(self, length: int) -> Machine:
        """The run as it was after its first ``length`` facts.

        Raises:
            RunDamaged: a record was changed, or can't follow from those before it.
        """
        if not 0 <= length <= len(self):
            raise WorkflowRuntimeError(f"this journal has {len(self)} facts, not {length}.")
        if not self._sealed:
            self._begin(stepwise=False)
        records, state = self._sealed[: length + 1], State(self._records.plan.state_type)
        return self._records.restore("", 0, records, state, patient=self._patient).machine


@attrs.frozen
class StoredJournal:
    """The records of one run in a store."""

    records: Records
    store: Store
    run_id: str

    def machine_at(self, length: int) -> Machine:
        """The run as it was after its first ``length`` records.

        Raises:
            StoreError: the store can't be used.
            RunDamaged: a record can't be read, or can't follow from those before it.
            CodeChanged: the run doesn't fit the workflow any more.
        """
        records = self.store.read(self.run_id)[:length]
        state = State(self.records.plan.state_type)
        return self.records.restore(self.run_id, 0, records, state, patient=False).machine
