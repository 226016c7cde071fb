"""Stores do what `Store` says, and `check_store` finds those that don't."""

import itertools
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowkit.memory_store import MemoryStore
from flowkit.sqlite_store import SQLiteStore
from flowkit.storage_errors import StoreBusy, UnknownRun
from flowkit.store import NewRun, RunInfo, Store, Write
from flowkit.testing import check_store


def test_the_memory_store() -> None:
    check_store(MemoryStore)


@pytest.mark.parametrize("another", [False, True], ids=["alone", "as two processes"])
def test_the_sqlite_store(tmp_path: Path, another: bool) -> None:
    numbers = itertools.count()
    opened: list[Store] = []

    def make() -> Store:
        # NORMAL: what is tested here is behaviour, not the disk
        opened.append(SQLiteStore(tmp_path / f"{next(numbers)}.db", synchronous="NORMAL"))
        return opened[-1]

    def reopen(store: Store) -> Store:
        assert isinstance(store, SQLiteStore)
        return SQLiteStore(store.path, synchronous="NORMAL")

    check_store(make, reopen=reopen if another else None)
    assert [file.suffix for file in tmp_path.iterdir() if file.suffix != ".db"] == []


# Stores that are wrong in one way each


class IgnoresTheFence(MemoryStore):
    def _write(self, write: Write) -> bool:
        run = self._runs.get(write.run_id)
        return super()._write(write if run is None or write.new else attrs.evolve(write, fence=run.fence))


class IgnoresThePosition(MemoryStore):
    def _write(self, write: Write) -> bool:
        run = self._runs.get(write.run_id)
        return super()._write(write if run is None or write.new else attrs.evolve(write, position=len(run.records)))


class StopsAtTheFirstRefused(MemoryStore):
    def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
        stored: list[bool] = []
        for write in writes:
            stored += [False] if False in stored else super().commit([write], wait=wait)
        return stored


class ChecksBeforeItWrites(MemoryStore):
    """So a second write for the same run in one batch is refused."""

    def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
        lengths = {run_id: len(run.records) for run_id, run in self._runs.items()}
        return [
            (write.new is not None or lengths.get(write.run_id) == write.position)
            and super(type(self), self)._write(write)
            for write in writes
        ]


class CreatesAgain(MemoryStore):
    def _write(self, write: Write) -> bool:
        if write.new is not None:
            self._runs.pop(write.run_id, None)
        return super()._write(write)


class KeepsTheStatus(MemoryStore):
    def _write(self, write: Write) -> bool:
        return super()._write(attrs.evolve(write, status=None))


class KeepsTheDue(MemoryStore):
    def _write(self, write: Write) -> bool:
        run = self._runs.get(write.run_id)
        due = run.due if run is not None and write.due is None else write.due
        return super()._write(attrs.evolve(write, due=due))


class ForgetsTheBase(MemoryStore):
    def _write(self, write: Write) -> bool:
        return super()._write(attrs.evolve(write, base=write.base or 0))


class KeepsTheOwnerAtTheEnd(MemoryStore):
    def _write(self, write: Write) -> bool:
        run = self._runs.get(write.run_id)
        owner = run.owner if run else write.new.owner if write.new else None
        stored = super()._write(write)
        if stored and write.status == "finished":
            self._runs[write.run_id].owner = owner
        return stored


class KeepsTheTime(MemoryStore):
    def _write(self, write: Write) -> bool:
        stored = super()._write(write)
        if stored and not write.records:
            self._runs[write.run_id].updated = self._runs[write.run_id].created
        return stored


class ClaimsWithoutAFence(MemoryStore):
    def claim(self, run_id: str, owner: str, now: float) -> RunInfo:
        info = super().claim(run_id, owner, now)
        self._runs[run_id].fence -= 1
        return attrs.evolve(info, fence=info.fence - 1)


class ClaimsOnlyOnce(MemoryStore):
    """The owner's own claim gets no new fence."""

    def claim(self, run_id: str, owner: str, now: float) -> RunInfo:
        run = self._runs.get(run_id)
        return run.info() if run is not None and run.owner == owner else super().claim(run_id, owner, now)


class ClaimsWhatIsDriven(MemoryStore):
    def claim(self, run_id: str, owner: str, now: float) -> RunInfo:
        return super().claim(run_id, owner, float("inf"))


class ClaimsAMomentTooLate(MemoryStore):
    def _alive(self, owner: str, at: float) -> bool:
        until = self._leases.get(owner)
        return until is not None and until >= at


class ReleasesForAnyone(MemoryStore):
    def release(self, run_id: str, fence: int) -> bool:
        run = self._runs.get(run_id)
        return run is not None and super().release(run_id, run.fence)


class ReleasesWithANewFence(MemoryStore):
    def release(self, run_id: str, fence: int) -> bool:
        released = super().release(run_id, fence)
        self._runs[run_id].fence += released
        return released


class LeavesItsRuns(MemoryStore):
    def leave(self, owner: str) -> None:
        self._leases.pop(owner, None)


class LeavesItsLease(MemoryStore):
    def leave(self, owner: str) -> None:
        until = self._leases.get(owner)
        super().leave(owner)
        if until is not None:
            self._leases[owner] = until


class FindsWhatIsDriven(MemoryStore):
    def find(self, **conditions: Any) -> list[RunInfo]:
        return super().find(**{**conditions, "free_at": None})


class FindsNested(MemoryStore):
    def find(self, *, parent: str | None = None, **conditions: Any) -> list[RunInfo]:
        found = super().find(parent=parent, **conditions)
        return found or super().find(parent="a", **conditions)


class FindsByName(MemoryStore):
    def find(self, *, limit: int | None = None, **conditions: Any) -> list[RunInfo]:
        return sorted(super().find(**conditions), key=lambda info: info.run_id)[:limit]


class LimitsBeforeItTurns(MemoryStore):
    def find(self, *, newest: bool = False, **conditions: Any) -> list[RunInfo]:
        found = super().find(**conditions)
        return found[::-1] if newest else found


class FindsNoneForNone(MemoryStore):
    def find(self, *, statuses: Collection[Any] | None = None, **conditions: Any) -> list[RunInfo]:
        return super().find(statuses=statuses or None, **conditions)


class IsDueWhenDriven(MemoryStore):
    def next_due(self, workflows: Collection[str]) -> float | None:
        dues = [run.due for run in self._runs.values() if run.due is not None and run.parent is None]
        return min(dues, default=None)


class ReadsFromTheBase(MemoryStore):
    def read(self, run_id: str, start: int = 0) -> list[bytes]:
        run = self._runs.get(run_id)
        return super().read(run_id, max(start, run.base) if run else start)


class RaisesForUnknown(MemoryStore):
    def read(self, run_id: str, start: int = 0) -> list[bytes]:
        if run_id not in self._runs:
            raise UnknownRun(run_id)
        return super().read(run_id, start)


class DeletesOnlyTheNamed(MemoryStore):
    def delete(self, run_ids: Collection[str]) -> int:
        return sum(self._runs.pop(run_id, None) is not None for run_id in set(run_ids))


class CountsTheNested(MemoryStore):
    def delete(self, run_ids: Collection[str]) -> int:
        before = len(self._runs)
        super().delete(run_ids)
        return before - len(self._runs)


class TakesWhatIsNotThere(MemoryStore):
    def _may_take(self, numbers: Sequence[int]) -> bool:
        return True


class TakesWithoutWriting(MemoryStore):
    """The message goes, though the write is refused."""

    def _write(self, write: Write) -> bool:
        stored = super()._write(write)
        for number in write.taken:
            self._mail.pop(number, None)
        return stored


class KeepsWhatIsTaken(MemoryStore):
    def _write(self, write: Write) -> bool:
        return super()._write(attrs.evolve(write, taken=()))


class DropsWhatIsRefused(MemoryStore):
    def _write(self, write: Write) -> bool:
        stored = super()._write(write)
        for number, _ in write.refused if stored else ():
            self._mail.pop(number, None)
        return stored


class PostsToTheEnded(MemoryStore):
    def _is_open(self, run_id: str) -> bool:
        return run_id in self._runs


class NumbersAnew(MemoryStore):
    def post(self, run_id: str, data: bytes, time: float) -> int | None:
        self._posted = max(self._mail, default=0)
        return super().post(run_id, data, time)


class KeepsTheMailOfTheDeleted(MemoryStore):
    def delete(self, run_ids: Collection[str]) -> int:
        mail = dict(self._mail)
        count = super().delete(run_ids)
        self._mail = mail
        return count


class ForgetsWhenClosed(MemoryStore):
    def close(self) -> None:
        self._runs.clear()


class FoldsCase(MemoryStore):
    def _write(self, write: Write) -> bool:
        return super()._write(attrs.evolve(write, run_id=write.run_id.casefold()))

    def info(self, run_id: str) -> RunInfo | None:
        return super().info(run_id.casefold())


class KeepsTheList(MemoryStore):
    def read(self, run_id: str, start: int = 0) -> list[bytes]:
        run = self._runs.get(run_id)
        return run.records if run is not None and start == 0 else super().read(run_id, start)


class RoundsTimes(MemoryStore):
    def _write(self, write: Write) -> bool:
        return super()._write(attrs.evolve(write, time=float(f"{write.time:.15g}")))


class HasNoLock(MemoryStore):
    """Two threads that look at the same moment both see the position that is theirs."""

    def __init__(self) -> None:
        super().__init__()
        self._looked = threading.Barrier(2)

    def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
        with self._lock:
            lengths = [len(self._runs[write.run_id].records) if write.run_id in self._runs else -1 for write in writes]
        try:
            self._looked.wait(timeout=0 if threading.current_thread() is threading.main_thread() else 0.05)
        except threading.BrokenBarrierError:
            self._looked.reset()
        with self._lock:
            return [
                super(HasNoLock, self)._write(write)
                or (write.new is None and length == write.position and self._force(write))
                for write, length in zip(writes, lengths, strict=True)
            ]

    def _force(self, write: Write) -> bool:
        run = self._runs.get(write.run_id)
        return run is not None and run.fence == write.fence


class StoresAndSaysBusy(MemoryStore):
    def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
        stored = super().commit(writes)
        if not wait:
            raise StoreBusy("this store", "it is busy", "try again")
        return stored


WRONG: list[Callable[[], MemoryStore]] = [kind for kind in MemoryStore.__subclasses__() if kind.__module__ == __name__]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_store_is_found(wrong: Callable[[], MemoryStore]) -> None:
    with pytest.raises(AssertionError, match=r"this store doesn't do what flowkit\.store\.Store says"):
        check_store(wrong, max_examples=300, shrink=False)


def test_the_story_is_told_as_code() -> None:
    with pytest.raises(AssertionError) as caught:
        check_store(ClaimsWithoutAFence, shrink=False)
    head, *calls, gave, expected = str(caught.value).splitlines()
    assert head == "this store doesn't do what flowkit.store.Store says: "
    assert calls[0] == "    store = make()"
    # Which story it is depends on the version of Hypothesis.
    assert any(call.startswith("    store.commit([Write('") and "new=NewRun(workflow='" in call for call in calls)
    assert calls[-1].startswith("    store.claim('")
    assert gave.startswith("gave     RunInfo(run_id='") and expected.startswith("expected RunInfo(run_id='")


def test_a_failure_is_a_difference_too() -> None:
    class Fails(MemoryStore):
        def beat(self, owner: str, until: float) -> None:
            raise OSError("no disk")

    with pytest.raises(AssertionError, match=r"raised OSError: no disk") as caught:
        check_store(Fails, shrink=False)
    assert isinstance(caught.value.__cause__, OSError)


# What the suite leaves open


def test_memory_store_does_not_wait_where_it_is_not_to() -> None:
    store = MemoryStore()
    with store._lock:
        with pytest.raises(StoreBusy, match=r"MemoryStore: another thread is using it: try again\."):
            store.commit([], wait=False)
    assert store.commit([Write("r", 1, 0, (), 0.0, new=NewRun("W", "me"))], wait=False) == [True]
    assert repr(store) == "MemoryStore(1 runs)"
