"""A store in this process's memory: for tests, and for runs that needn't outlive the process.

It does exactly what `Store` says, for as long as the object lives; closing it keeps what it holds. All of it is under
one lock. Each method looks up or copies a few values, so nobody holds the lock for longer than that takes.
"""

import threading
from collections.abc import Collection, Iterable, Sequence

import attrs

from flowkit.storage_errors import RunElsewhere, StoreBusy, UnknownRun
from flowkit.store import ENDED, Message, RunInfo, Status, Store, Write

__all__ = ["MemoryStore"]


@attrs.define(eq=False)
class _Run:
    """What `RunInfo` tells of a run, to be changed in place, and its records."""

    run_id: str
    workflow: str
    created: float
    parent: str | None
    owner: str | None
    updated: float
    status: Status = "running"
    due: float | None = None
    fence: int = 1
    base: int = 0
    records: list[bytes] = attrs.field(factory=list[bytes])

    def info(self) -> RunInfo:
        return RunInfo(
            run_id=self.run_id,
            workflow=self.workflow,
            status=self.status,
            created=self.created,
            updated=self.updated,
            due=self.due,
            parent=self.parent,
            owner=self.owner,
            fence=self.fence,
            length=len(self.records),
            base=self.base,
        )


class MemoryStore(Store):
    """Keeps runs in memory, for as long as this object lives."""

    inline = True
    shared = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mail: dict[int, Message] = {}  # in the order they were posted
        self._posted = 0
        self._runs: dict[str, _Run] = {}  # in the order they were created
        self._leases: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._runs)} runs)"

    def open(self) -> None:
        """Nothing to do: it is always ready."""

    def close(self) -> None:
        """Nothing to do: what it holds stays as long as the object does."""

    def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
        if not self._lock.acquire(blocking=wait):
            raise StoreBusy("MemoryStore", "another thread is using it", "try again")
        try:
            return [self._write(write) for write in writes]
        finally:
            self._lock.release()

    def _write(self, write: Write) -> bool:
        if write.taken and not self._may_take(write.taken):
            return False
        run = self._runs.get(write.run_id)
        if write.new is not None:
            if run is not None or write.fence != 1 or write.position != 0:
                return False
            new = write.new
            run = _Run(write.run_id, new.workflow, write.time, new.parent, new.owner, write.time)
            self._runs[write.run_id] = run
        elif run is None or run.fence != write.fence or len(run.records) != write.position:
            return False
        run.records.extend(write.records)
        run.updated = write.time
        if write.base is not None:
            run.base = write.base
        if write.status is not None:
            run.status, run.due = write.status, write.due
            if write.status in ENDED or write.status == "damaged":
                run.owner = None
        for number in write.taken:
            self._mail.pop(number, None)
        for number, why in write.refused:
            if (message := self._mail.get(number)) is not None:
                self._mail[number] = attrs.evolve(message, refusal=why)
        return True

    def _may_take(self, numbers: Sequence[int]) -> bool:
        found = [self._mail.get(number) for number in numbers]
        return all(message is not None and message.refusal is None for message in found)

    def claim(self, run_id: str, owner: str, now: float) -> RunInfo:
        with self._lock:
            run = self._runs.get(run_id)
            if run is None:
                raise UnknownRun(run_id, list(self._runs))
            if run.owner is not None and run.owner != owner and self._alive(run.owner, now):
                raise RunElsewhere(run_id, run.owner)
            run.owner = owner
            run.fence += 1
            return run.info()

    def _alive(self, owner: str, at: float) -> bool:
        until = self._leases.get(owner)
        return until is not None and until > at

    def release(self, run_id: str, fence: int) -> bool:
        with self._lock:
            run = self._runs.get(run_id)
            if run is None or run.fence != fence:
                return False
            run.owner = None
            return True

    def beat(self, owner: str, until: float) -> None:
        with self._lock:
            self._leases[owner] = until

    def leave(self, owner: str) -> None:
        with self._lock:
            self._leases.pop(owner, None)
            for run in self._runs.values():
                if run.owner == owner:
                    run.owner = None

    def owners(self) -> list[str]:
        with self._lock:
            return list(self._leases)

    def info(self, run_id: str) -> RunInfo | None:
        with self._lock:
            run = self._runs.get(run_id)
            return None if run is None else run.info()

    def find(
        self,
        *,
        statuses: Collection[Status] | None = None,
        workflows: Collection[str] | None = None,
        free_at: float | None = None,
        due_by: float | None = None,
        parent: str | None = None,
        newest: bool = False,
        limit: int | None = None,
    ) -> list[RunInfo]:
        found: list[RunInfo] = []
        with self._lock:
            runs: Iterable[_Run] = reversed(self._runs.values()) if newest else self._runs.values()
            for run in runs:
                if limit is not None and len(found) >= limit:
                    break
                if (
                    run.parent == parent
                    and (statuses is None or run.status in statuses)
                    and (workflows is None or run.workflow in workflows)
                    and (free_at is None or run.owner is None or not self._alive(run.owner, free_at))
                    and (due_by is None or (run.due is not None and run.due <= due_by))
                ):
                    found.append(run.info())
        return found

    def next_due(self, workflows: Collection[str]) -> float | None:
        with self._lock:
            return min(
                (
                    run.due
                    for run in self._runs.values()
                    if run.due is not None and run.parent is None and run.owner is None and run.workflow in workflows
                ),
                default=None,
            )

    def read(self, run_id: str, start: int = 0) -> list[bytes]:
        with self._lock:
            run = self._runs.get(run_id)
            return [] if run is None else run.records[start:]

    def delete(self, run_ids: Collection[str]) -> int:
        named = set(run_ids)
        with self._lock:
            gone = [run for run in self._runs.values() if run.run_id in named or run.parent in named]
            for run in gone:
                del self._runs[run.run_id]
            ids = {run.run_id for run in gone}
            for message in [one for one in self._mail.values() if one.run_id in ids]:
                del self._mail[message.number]
        return sum(run.run_id in named for run in gone)

    def post(self, run_id: str, data: bytes, time: float) -> int | None:
        with self._lock:
            if not self._is_open(run_id):
                return None
            self._posted += 1
            self._mail[self._posted] = Message(self._posted, run_id, data, time)
            return self._posted

    def mail(self, run_id: str | None = None) -> list[Message]:
        with self._lock:
            return [
                message
                for message in self._mail.values()
                if message.refusal is None and run_id in (None, message.run_id) and self._is_open(message.run_id)
            ]

    def _is_open(self, run_id: str) -> bool:
        run = self._runs.get(run_id)
        return run is not None and run.status not in ENDED and run.status != "damaged"

    def message(self, number: int) -> Message | None:
        with self._lock:
            return self._mail.get(number)

    def withdraw(self, number: int) -> bool:
        with self._lock:
            return self._mail.pop(number, None) is not None
