"""Group commit: one writer for each store and event loop, which takes along every run that waits.

**How it works.** A log that has something to write says so by `Writer.submit`, and the writer puts a flush off to the
loop's next turn. There it asks every such log for its write and has the store commit them all in one transaction; then
each log performs what it held back. So runs that are ready in the same turn share a commit.

A run that has the store for itself, as far as can be told (the last commit was its alone), and whose only step returns,
gains nothing by waiting for others: what it has is committed there and then (`Writer.commit_alone`), which saves it a
turn of the loop. After `QUICK` of that the loop gets its turn.

**Where it commits.** In the loop's own thread where the store is quick: a hop to a worker thread costs 0.1 to 0.2 ms,
more than a commit on a good disk. In a worker thread where it isn't (as measured: a commit took longer than `QUICK` on
average), where nobody waits for it (``durability="async"``), where another process holds the store, or where the store
says so. Meanwhile the loop goes on, and what is submitted then goes into the next commit: the slower the disk, the
larger the groups.

**Order.** Commits never overlap, and a log's writes are in order. Where a commit fails, each log in it is told; so is
one whose write was refused.

**At once.** `Writer.flush_now` doesn't return before everything submitted is committed: for what a step is given
synchronously. A commit that a thread is at is waited for, one that no thread has begun is taken back.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import anyio
import anyio.to_thread

from flowkit import outside
from flowkit.backend import Backend
from flowkit.storage_errors import LeaseLost, StoreBusy, StoreError
from flowkit.store import Store, Write

__all__ = ["QUICK", "Submitter", "Writer"]

QUICK = 0.001
"""Seconds a commit may take on average to be made in the event loop's thread: what a frame of other work takes."""
WEIGHT = 0.25
"""Of the latest commit in that average."""


class Submitter(Protocol):
    """What the writer needs of a log."""

    run_id: str

    @property
    def is_waited_for(self) -> bool:
        """Whether anything is held back until what it gave is committed."""
        ...

    def take(self) -> Write | None:
        """All that it has to write now."""
        ...

    def done(self, error: BaseException | None) -> None:
        """What it gave last is committed, or not."""
        ...


class _Commit:
    """One commit: made once, by whichever thread begins it first."""

    def __init__(
        self, store: Store, logs: Sequence[Submitter], writes: Sequence[Write], stopwatch: Callable[[], float]
    ) -> None:
        self.logs = logs
        self.seconds = 0.0
        self.stored: Sequence[bool] = ()
        self.error: BaseException | None = None
        self.delivered = False
        self._store = store
        self._writes = writes
        self._stopwatch = stopwatch
        self._begun = threading.Lock()
        self._over = threading.Lock()  # held until it is made; a threading.Event takes 4 µs to make
        self._over.acquire()

    def make(self, *, wait: bool = True) -> bool:
        """Commit, or wait until the thread that is at it has; false where another process holds the store and this
        isn't to ``wait``."""
        if not self._begun.acquire(blocking=False):
            with self._over:
                return True
        began = self._stopwatch()
        try:
            self.stored = self._store.commit(self._writes, wait=wait)
        except StoreBusy as error:
            if not wait:
                self._begun.release()
                return False
            self.error = error
        except Exception as error:  # noqa: BLE001 - each log in it is told
            self.error = error
        self.seconds = self._stopwatch() - began
        self._over.release()
        return True


class Writer:
    """Commits what logs submit. Belongs to one event loop, and is used in its thread."""

    def __init__(self, store: Store, backend: Backend) -> None:
        self._store = store
        self._backend = backend
        self._stopwatch = outside.current().stopwatch
        self._logs: list[Submitter] = []
        self._scheduled = False
        self._working: set[object] = set()  # a token for each task that commits in a thread
        self._rested: anyio.Event | None = None  # set when there is none
        self._commit: _Commit | None = None  # the one a thread is at, or will be
        self._seconds = 0.0 if store.inline else None
        self._limiter: anyio.CapacityLimiter | None = None
        self._alone = ""  # the run that the last commit was for, where it was one
        self._spent = 0.0  # in commits of that kind, since the loop had its turn

    def submit(self, log: Submitter) -> None:
        """This log has something to write, and hasn't said so since it was last asked."""
        self._logs.append(log)
        if not self._scheduled and self._commit is None:
            self._scheduled = True
            self._backend.postpone(self._flush)

    def commit_alone(self, log: Submitter) -> bool:
        """Commit what this log has at once, where nobody else seems to have anything; whether it was."""
        if (
            self._alone != log.run_id
            or self._spent > QUICK
            or self._commit is not None
            or (self._logs and self._logs != [log])
            or not self._is_quick()
        ):
            return False
        self._logs = [log]
        commit = self._next()
        if commit is not None:
            self._make(commit)
            self._spent += commit.seconds
        return True

    def flush_now(self) -> None:
        """Commit all that was submitted, and don't return before."""
        while (commit := self._commit or self._next()) is not None:
            commit.make()
            self._deliver(commit)

    def _flush(self) -> None:
        self._scheduled = False
        self._spent = 0.0
        if self._commit is None and (commit := self._next()) is not None:
            self._make(commit)

    def _make(self, commit: _Commit) -> None:
        """Here, or in a worker thread."""
        is_waited_for = self._store.inline or any(log.is_waited_for for log in commit.logs)
        if is_waited_for and self._is_quick() and commit.make(wait=False):
            self._deliver(commit)
            return
        self._commit = commit
        token = object()
        self._working.add(token)
        self._backend.supervise(partial(self._work, token), "flowkit store", partial(self._lost, token))

    async def rest(self) -> None:
        """Wait until no thread is at a commit, nor on its way to one that was taken back."""
        while self._working:
            self._rested = anyio.Event()
            await self._rested.wait()

    def _ended(self, token: object) -> None:
        self._working.discard(token)
        if self._rested is not None and not self._working:
            self._rested.set()

    def _is_quick(self) -> bool:
        if self._store.inline is not None:
            return self._store.inline
        return self._seconds is not None and self._seconds <= QUICK

    def _next(self) -> _Commit | None:
        logs, self._logs = self._logs, []
        pairs = [(log, write) for log in logs if (write := log.take()) is not None]
        if not pairs:
            return None
        self._alone = pairs[0][0].run_id if len(pairs) == 1 else ""
        return _Commit(self._store, [log for log, _ in pairs], [write for _, write in pairs], self._stopwatch)

    async def _work(self, token: object) -> None:
        """Commit in a worker thread until nothing is left to."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(1)  # its own: plain steps may hold all of the common one
        try:
            with anyio.CancelScope(shield=True):
                while self._commit is not None:
                    commit = self._commit
                    await anyio.to_thread.run_sync(partial(commit.make, wait=True), limiter=self._limiter)
                    self._deliver(commit)
                    if self._commit is None:
                        self._commit = self._next()
        finally:
            self._ended(token)

    def _lost(self, token: object) -> None:
        """The loop ends: whoever waits must know. (The thread may still be at it; what it stores is stored.)"""
        self._ended(token)
        commit, self._commit = self._commit, None
        if commit is not None and not commit.delivered:
            commit.error = StoreError(
                repr(self._store), "the event loop ended", "await what is under way before", "failed"
            )
            self._deliver(commit)

    def _deliver(self, commit: _Commit) -> None:
        if commit.delivered:
            return
        commit.delivered = True
        if commit is self._commit:
            self._commit = None
        if self._seconds is None:
            self._seconds = commit.seconds
        else:
            self._seconds += WEIGHT * (commit.seconds - self._seconds)
        for number, log in enumerate(commit.logs):
            error = commit.error
            if error is None and not commit.stored[number]:
                error = LeaseLost(log.run_id)
            log.done(error)
