"""What a store is: journals of opaque bytes, and an index of the runs they belong to.

A run's journal is a sequence of records, numbered from 0. A store keeps them, and one line about each run (`RunInfo`).
It looks into no record; what they mean, and that they are whole, is records.py's business.

**Ownership.** A run is driven by at most one *owner* (a runtime in some process). An owner shows that it is alive by
`Store.beat`; it has a run by creating it or by `Store.claim`, which succeeds where nobody has it, or who has it hasn't
beaten in time. Each claim raises the run's *fence*. A write carries the fence its writer was given, and is refused
where that isn't the run's any more. So a process that was stopped and woken again can't write over whoever took its
runs, whatever its clock says (M. Kleppmann, "How to do distributed locking", 2016).

**Mail.** Who isn't a run's owner can leave a *message* for it (`Store.post`; what is in it is mailbox.py's business).
The owner takes it with the write that holds what follows from it (``Write.taken``), in one transaction, so it is taken
exactly once whatever happens when; or it says that it can't be taken, and why (``Write.refused``). Then it is kept for
whoever posted it, who removes it (`Store.withdraw`). A message that is no longer there has been taken.

**Damage.** What a store can't read of one run is that run's matter: methods that are about it raise `RunDamaged`, a
write to it is refused, `find` may list it as *damaged* although another status or workflow was asked for, and it can be
deleted. Other runs go on.

**Threads.** All methods block until they are done, and may be called from any thread, from several at once. flowkit
calls `Store.commit` from the event loop's own thread where the store is quick, from a worker thread where it isn't, and
everything else from a worker thread.

To write a store: implement these methods, and run ``flowkit.testing.check_store`` on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Literal

import attrs

__all__ = ["ENDED", "LEASE", "STATUSES", "Message", "NewRun", "RunInfo", "Status", "Store", "Write"]

Status = Literal["running", "waiting", "finished", "failed", "cancelled", "damaged"]
STATUSES: tuple[Status, ...] = ("running", "waiting", "finished", "failed", "cancelled", "damaged")
ENDED: frozenset[Status] = frozenset({"finished", "failed", "cancelled"})


@attrs.frozen
class RunInfo:
    """What a store knows of a run.

    ``status``: *running* (there is work to do), *waiting* (for somebody outside, or for a time), *finished*, *failed*,
    *cancelled*, or *damaged* (set aside: its journal can't be read). ``created`` and ``updated`` are seconds since the
    epoch; ``due`` is when the next of its timers fires, where it is waiting and has one. ``parent`` is the run at the
    top of those it is nested in (``None`` for a run that isn't). ``owner`` drives it, ``fence`` counts its owners.
    ``length`` is the number of its records, ``base`` the number of the one to begin reading at.
    """

    run_id: str
    workflow: str
    status: Status
    created: float
    updated: float
    due: float | None
    parent: str | None
    owner: str | None
    fence: int
    length: int
    base: int


@attrs.frozen
class NewRun:
    """What a `Write` that creates a run says of it. ``owner`` gets it, with fence 1."""

    workflow: str
    owner: str
    parent: str | None = None


@attrs.frozen
class Message:
    """What was posted to a run. Its ``number`` is larger than that of any message before. ``data`` is ``None`` where it
    isn't as it was written (``run_id`` is empty then, where it can't be told). ``time`` is when it was posted, in
    seconds since the epoch; ``refusal`` says why the run's owner couldn't take it (``None`` until then).
    """

    number: int
    run_id: str
    data: bytes | None
    time: float
    refusal: str | None = None


@attrs.define
class Write:
    """What is added to one run's journal, all of it or nothing.

    ``position`` is the number of the first of the ``records``; ``time`` is now, in seconds since the epoch. ``status``
    and ``due`` replace the run's (``status=None`` leaves both as they are); a status in `ENDED`, or *damaged*, takes
    the run from its owner. ``base`` replaces the run's (``None`` leaves it). With ``new`` the write creates the run;
    ``fence`` is 1 then.

    ``taken`` are the numbers of messages that it removes (they may have been posted to a run that this one is nested
    in); it is refused where one isn't there or has been refused. ``refused`` are messages that can't be taken, each
    with why; one that isn't there is passed over.
    """

    run_id: str
    fence: int
    position: int
    records: Sequence[bytes]
    time: float
    status: Status | None = None
    due: float | None = None
    base: int | None = None
    new: NewRun | None = None
    taken: Sequence[int] = ()
    refused: Sequence[tuple[int, str]] = ()


LEASE = 30.0
"""Seconds. Long enough for a process that is busy or swapped out, short enough to wait for after a crash."""


class Store(ABC):
    """Where runs are kept. The head of this file says what is expected of one; `check_store` tests it.

    ``inline``: whether `commit` is always quick enough to be called from the event loop's thread (``True``), never
    (``False``), or as measured (``None``). ``lease``: seconds that a process keeps the runs it was given this store for
    (``run(store=…)``) after it was last heard of. ``shared``: whether there may be others that post to the same runs,
    other processes or other objects, so that one has to look for it now and then (`changes`).
    """

    inline: bool | None = None
    lease: float = LEASE
    shared: bool = True

    @abstractmethod
    def open(self) -> None:
        """Make it ready; does nothing where it is. Other methods do this by themselves.

        Raises:
            StoreError: it can't be used: of a newer flowkit, no store at all, damaged, not to be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds; everything committed stays. It can be opened again."""

    @abstractmethod
    def commit(self, writes: Sequence[Write], *, wait: bool = True) -> list[bool]:
        """Store these writes for good, together: when this returns they survive the end of the process.

        The result says for each whether it was stored. One is refused (``False``), and leaves the others alone, where
        its fence or its position isn't the run's, where it creates a run that there is, where there is no such run, or
        where it takes a message that isn't there.
        Several writes may be for one run, in order.

        Args:
            wait: whether to wait while another process or thread holds the store.

        Raises:
            StoreBusy: it is held by another; nothing was stored.
            StoreError: it failed, and nothing of all this was stored.
        """

    @abstractmethod
    def claim(self, run_id: str, owner: str, now: float) -> RunInfo:
        """Make this owner the run's, with a new fence. Where it is the run's already, that gets a new fence too.

        Raises:
            UnknownRun: there is no such run.
            RunElsewhere: it has another owner, whose lease isn't over at ``now`` (seconds since the epoch).
        """

    @abstractmethod
    def release(self, run_id: str, fence: int) -> bool:
        """Give up a run; false where it has another fence by now (then nothing is changed)."""

    @abstractmethod
    def beat(self, owner: str, until: float) -> None:
        """Keep this owner's lease until then (seconds since the epoch)."""

    @abstractmethod
    def leave(self, owner: str) -> None:
        """End this owner's lease, and give up all it has."""

    @abstractmethod
    def owners(self) -> list[str]:
        """Those who have a lease, be it over or not; in any order. (Leases that were over long ago may be left out.)"""

    @abstractmethod
    def info(self, run_id: str) -> RunInfo | None:
        """What is known of a run, ``None`` where there is none."""

    @abstractmethod
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
        """The runs that fit every condition given, in the order they were created (or the other way, ``newest``).

        Args:
            statuses: one of these.
            workflows: of one of these workflows.
            free_at: nobody has it, or who has it has no lease at this time.
            due_by: it has a ``due``, and that is not after this time.
            parent: nested in this run, at any depth; by default only runs that aren't nested.
            limit: at most so many.
        """

    @abstractmethod
    def next_due(self, workflows: Collection[str]) -> float | None:
        """The smallest ``due`` of these workflows' runs that aren't nested and have no owner."""

    @abstractmethod
    def read(self, run_id: str, start: int = 0) -> list[bytes]:
        """A run's records from number ``start`` on; empty where there are none.

        Raises:
            RunDamaged: one of them is missing, or isn't as it was written.
        """

    @abstractmethod
    def delete(self, run_ids: Collection[str]) -> int:
        """Forget these runs, those nested in them, and their mail; how many runs there were of those named."""

    @abstractmethod
    def post(self, run_id: str, data: bytes, time: float) -> int | None:
        """Leave a message for a run, for good (as `commit`); its number. ``None``, and nothing is left, where there is
        no such run, or it has ended or is damaged. ``time`` is now, in seconds since the epoch. (Refusals that nobody
        has asked for in a week may be forgotten.)"""

    @abstractmethod
    def mail(self, run_id: str | None = None) -> list[Message]:
        """The messages that wait to be taken, in the order they were posted: for this run, or for all. Neither those
        that were refused nor those for runs that have ended or are damaged."""

    @abstractmethod
    def message(self, number: int) -> Message | None:
        """The message of this number, refused or not; ``None`` where there is none any more."""

    @abstractmethod
    def withdraw(self, number: int) -> bool:
        """Remove a message; whether there was one."""

    def changes(self) -> int | None:
        """A number that is another one after another object or process has posted; ``None`` where it isn't known. Asked
        several times a second, so it should take microseconds."""
        return None
