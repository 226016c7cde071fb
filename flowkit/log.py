"""A run's connection to its store: what it writes, when it may act, and how it is found again.

**Write, then act.** `RunLog.add` gets a fact's record and the commands that follow from it. The record goes into the
next commit (writer.py), the commands are performed once that is on disk; with ``durability="async"`` they are performed
at once. Facts of one turn of the loop go into one commit, so what a step does without awaiting is stored as one. A
batch that `ctx.collect_events` gives is in the step's hands at once, so it is committed at once.

**The index.** Along with its records a run writes its status where that has changed: *running*, *waiting* with the time
of its next timer, or how it ended.

**Snapshots.** Once enough facts have come since the last one (`SNAPSHOT_AFTER`, and as many bytes as the last was
long), the books and the state are written as a record of their own, and reading begins there from then on. So resuming
is bounded, the cost of a fact isn't, over time, raised by more than its own size, and the journal stays whole.

**Coming back.** `RunLog.open` looks the run up. One that isn't there is created by its first commit; one that has ended
is read; any other is claimed, read, and goes on with `RunResumed`.

**Leaving.** A run that is stopped before its end (`RunLog.stop`) still writes what has happened, and tells its store
that nobody has it. One whose store failed (`RunLog.drop`) writes nothing more.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Literal, Protocol

import anyio
import anyio.to_thread
import attrs

from flowkit.errors import SerializationError, WorkflowCancelled, WrongCall
from flowkit.events import Event
from flowkit.facts import Command, Fact, GiveBatch, StepReturned
from flowkit.mailbox import SENDERS, Letters, Mailed, tell_senders
from flowkit.process import is_gone
from flowkit.records import Head, Records, seal
from flowkit.storage_errors import CodeChanged, LeaseLost, RunDamaged, RunElsewhere, StoreError, WrongWorkflow
from flowkit.store import ENDED, Message, NewRun, RunInfo, Status, Write
from flowkit.tenant import Tenant

__all__ = ["SNAPSHOT_AFTER", "Durability", "RunLog"]

logger = logging.getLogger("flowkit")

Durability = Literal["sync", "async"]

SNAPSHOT_AFTER = 1000
"""Facts between two snapshots, at least: so many are replayed in about 30 ms."""


class _Logged(Mailed, Protocol):
    """What a log needs of its run."""

    timeout: float | None

    def act(self, commands: Sequence[Command]) -> None: ...

    def abandon(self, error: BaseException, *, stored: bool) -> None: ...

    @property
    def due(self) -> float | None: ...

    def stir(self) -> None: ...

    def carry(self, start: Event | None, head: Head | None = None) -> Mapping[str, str] | None: ...


class RunLog:
    """The journal of one run, as far as its runner is concerned."""

    __slots__ = (
        "_act_first",
        "_base",
        "_begun",
        "_books",
        "_bytes",
        "_committed",
        "_creates",
        "_error",
        "_facts",
        "_fence",
        "_flying",
        "_has_status",
        "_head",
        "_held",
        "_is_queued",
        "_last",
        "_length",
        "_letters",
        "_parent",
        "_pending",
        "_records",
        "_refused",
        "_run",
        "_stopped",
        "_taken",
        "_waiting",
        "created",
        "durability",
        "run_id",
        "tenant",
    )

    def __init__(
        self, run: _Logged, records: Records, tenant: Tenant, *, durability: Durability, parent: str | None = None
    ) -> None:
        self.run_id = run.run_id
        self.tenant = tenant
        self.created = math.nan  # when the run began, by its store
        self._run = run
        self._records = records
        self._parent = parent
        self.durability: Durability = durability
        self._act_first = durability == "async"
        self._begun = False  # it has entered the tenant
        self._creates = False
        self._fence = 0
        self._length = 0  # records given to the store, committed or not
        self._committed = 0
        self._pending: list[bytes] = []
        self._held: list[Sequence[Command]] = []
        self._flying: list[Sequence[Command]] = []
        self._is_queued = False
        self._stopped: Literal["no", "stopped", "dropped"] = "no"
        self._last: tuple[Status, float | None] | None = None  # what the store knows
        self._has_status: tuple[Status, float | None] | None = None  # as it was when it was stopped
        self._waiting: list[tuple[int, anyio.Event]] = []
        self._facts = self._bytes = self._books = 0
        self._base: int | None = None  # the number of a snapshot that the store isn't told of yet
        self._error: BaseException | None = None
        self._head: Head | None = None
        self._letters: Letters | None = None  # what others have sent it
        self._taken: list[int] = []  # … of that, what the next write has the record of
        self._refused: list[tuple[int, str]] = []

    # -------------------------------------------------------------------------------------------------------- opening

    async def open(self, start: Event | None, *, patient: bool) -> bool:
        """Find the run; whether it is new. The run's machine is the stored one then.

        Raises:
            WrongWorkflow: the run id belongs to a run of another workflow.
            RunElsewhere: somebody else drives it.
            RunDamaged: it can't be read. It is set aside.
            CodeChanged: it doesn't fit the workflow any more. It is left as it is.
            StoreError: the store can't be used.
        """
        await self.tenant.enter(self)
        self._begun = True
        found = await anyio.to_thread.run_sync(self._look, self.tenant.now())
        machine = self._run.machine
        if self.is_stopping:
            self._length = self._committed = 0 if found is None else found[0].length
            return True  # it was stopped meanwhile, so it doesn't begin
        if found is None:
            self._create(start)
            return True
        info, records, messages = found
        self.created = info.created
        self._length = self._committed = info.length
        if start is None and machine.started:
            raise WrongCall(
                f"run_id={self.run_id!r}",
                "is that of a stored run, but the context goes on with another",
                "leave one of the two out",
            )
        is_new = not await self._restore(info, records, start, patient)
        for message in messages:
            self.receive(message)
        return is_new

    def _create(self, start: Event | None) -> None:
        machine = self._run.machine
        self._creates = True
        self._fence = 1
        self._length = self._committed = 0
        self.created = self.tenant.now()
        self._head = Head(
            run_id=self.run_id,
            workflow=machine.plan.name,
            timeout=self._run.timeout,
            stepwise=machine.stepwise,
            patient=machine.patient,
            carried=self._run.carry(start),
        )
        # One that goes on from elsewhere, or has a state, begins with that.
        has_past = machine.state.root != {} or start is None
        self._put(self._records.books(machine, self._head) if has_past else self._records.head(self._head))

    def _look(self, now: float) -> tuple[RunInfo, list[bytes], list[Message]] | None:
        store, plan = self.tenant.store, self._run.machine.plan
        info = store.info(self.run_id)
        if info is None:
            return None
        if info.workflow != plan.name:
            raise WrongWorkflow(self.run_id, plan.name, info.workflow)
        if info.status not in ENDED:
            try:
                info = store.claim(self.run_id, self.tenant.owner, now)
            except RunElsewhere as error:
                if not is_gone(error.owner):
                    raise
                store.leave(error.owner)
                info = store.claim(self.run_id, self.tenant.owner, now)
            self._fence = info.fence
        try:
            mail = [] if info.status in ENDED else store.mail(self.run_id)
            return info, store.read(self.run_id, info.base), mail
        except RunDamaged:
            self._set_aside(info, now)
            raise
        except StoreError:
            if self._fence:
                with contextlib.suppress(StoreError):  # the lease ends by itself
                    store.release(self.run_id, self._fence)
            raise

    async def _restore(self, info: RunInfo, records: list[bytes], start: Event | None, patient: bool) -> bool:
        """Go on with a stored run; false where it is nested, and the step that runs it has another start event for it
        than last time: then it is begun anew."""
        machine = self._run.machine
        root = machine.state.root
        try:
            restored = self._records.restore(self.run_id, info.base, records, machine.state, patient=patient)
            if (restored.machine.outcome is not None) is not (info.status in ENDED):
                raise RunDamaged(self.run_id, None, f"the index says {info.status}, its records don't")
        except RunDamaged:
            await anyio.to_thread.run_sync(self._set_aside, info, self.tenant.now())
            raise
        except CodeChanged:
            if self._fence:
                await anyio.to_thread.run_sync(self.tenant.store.release, self.run_id, self._fence)
            raise
        if self._parent is not None and start is not None and start != restored.machine.start_event:
            machine.state.root = root
            await anyio.to_thread.run_sync(self.tenant.store.delete, [self.run_id])
            self._create(start)
            return False
        self._run.machine = restored.machine
        self._run.timeout = restored.head.timeout
        self._head = restored.head
        self._facts, self._bytes, self._books = restored.facts_since, restored.bytes_since, restored.books_size
        self._last = (info.status, info.due)
        if restored.machine.outcome is not None:
            return True
        carried = self._run.carry(None, restored.head)
        is_new = carried != restored.head.carried  # of a fork, or a run that began where no instrument was
        if is_new:
            self._head = attrs.evolve(restored.head, carried=carried)
        if restored.changed or is_new:
            # Its facts mean what they meant under the plan that wrote them: this one begins with a snapshot.
            books = self._records.books(restored.machine, self._head)
            self._base, self._facts, self._books = self._length, 0, len(books)
            self._put(books)
            self._bytes = 0
        return True

    def _set_aside(self, info: RunInfo, now: float) -> None:
        if self._fence:
            aside = Write(self.run_id, self._fence, info.length, (), now, status="damaged")
            self.tenant.store.commit([aside])

    # -------------------------------------------------------------------------------------------------------- writing

    @property
    def is_written(self) -> bool:
        """Whether everything added is on disk."""
        return not self._pending and self._committed == self._length

    def encode(self, fact: Fact) -> bytes:
        """The fact's record.

        Raises:
            SerializationError: a value in it can't be brought back exactly.
        """
        return self._records.fact(fact)

    def add(self, payload: bytes, commands: Sequence[Command], *, alone: bool) -> None:
        """Have a record written, and then the commands performed. ``alone``: nothing else of this run will come in this
        turn of the loop."""
        self._facts += 1
        if self._letters is not None:
            self._letters.deliver_soon()
        if self._act_first:
            self._put(payload)
            self._run.act(commands)
        else:
            self._held.append(commands)
            self._put(payload, alone=alone)
            if any(type(command) is GiveBatch for command in commands):
                self.tenant.writer.flush_now()
                if self._error is not None:
                    raise self._error  # the batch isn't the step's

    def mark(self, event: Any) -> str:
        """What an idempotency key must say of the event.

        With ``durability="async"`` a crash may undo the numbering: another event may have this number then.
        """
        if not self._act_first:
            return ""
        return "/" + blake2b(self._records.fact(StepReturned(0.0, 0, event)), digest_size=8).hexdigest()

    def touch(self) -> None:
        """The run may have come to rest without a fact of its own: a run nested in it has."""
        if self._stopped == "no" and self._last is not None and self._status() != self._last:
            self._queue()

    def stir(self) -> None:
        """A run nested in it goes on: where the store has it at rest, nobody would take it up after a crash."""
        if self._letters is not None:
            self._letters.deliver_soon()
        if self._last is not None and self._last[0] == "waiting":
            self.touch()

    def _put(self, payload: bytes, *, alone: bool = False) -> None:
        self._run.stir()
        self._pending.append(payload)
        self._bytes += len(payload)
        if not (alone and self.tenant.writer.commit_alone(self)):
            self._queue()

    def _queue(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            self.tenant.writer.submit(self)

    @property
    def is_waited_for(self) -> bool:
        """Whether anything is held back until what was taken last is stored."""
        return not self._act_first or bool(self._waiting)

    @property
    def is_stopping(self) -> bool:
        """Whether the run is being given up here."""
        return self._stopped != "no"

    def take(self) -> Write | None:
        """All that is to be written now (what the writer asks for)."""
        self._is_queued = False
        if self._stopped == "dropped":
            return None
        payloads, self._pending = self._pending, []
        status = self._has_status or self._status()
        if not payloads and status == self._last and not (self._refused or self._taken):
            return None
        first = self._length
        if self._facts >= SNAPSHOT_AFTER and self._bytes >= self._books and self._stopped == "no":
            self._add_books(payloads)
        write = Write(
            self.run_id,
            self._fence,
            first,
            [seal(self.run_id, number, payload) for number, payload in enumerate(payloads, first)],
            self.tenant.now(),
            base=self._base,
        )
        self._base = None
        if self._taken or self._refused:
            write.taken, write.refused, self._taken, self._refused = self._taken, self._refused, [], []
        if status != self._last:
            write.status, write.due = status
            self._last = status
        if self._creates and not first:
            write.new = NewRun(self._run.machine.plan.name, self.tenant.owner, self._parent)
        self._length = first + len(payloads)
        self._flying, self._held = self._held, []
        return write

    def _add_books(self, payloads: list[bytes]) -> None:
        machine = self._run.machine
        if machine.outcome is not None or self._head is None:
            return
        self._facts = self._bytes = 0
        try:
            books = self._records.books(machine, self._head)
        except SerializationError:
            return  # something was changed in place; its facts are all there
        self._books = len(books)
        self._base = self._length + len(payloads)
        payloads.append(books)

    def _status(self) -> tuple[Status, float | None]:
        machine = self._run.machine
        outcome = machine.outcome
        if outcome is not None:
            if outcome.event is not None:
                return "finished", None
            return ("cancelled" if isinstance(outcome.error, WorkflowCancelled) else "failed"), None
        if not self._run.at_rest():
            return "running", None
        return "waiting", self._run.due

    def done(self, error: BaseException | None) -> None:
        """The last write is stored, or not (told by the writer)."""
        flying, self._flying = self._flying, []
        if SENDERS:
            tell_senders()
        if error is None:
            self._committed = self._length
        elif self._stopped != "no":
            logger.error("the last of run %s could not be stored; it will be done again", self.run_id, exc_info=error)
            self._error = error
            self.drop()
        else:
            if isinstance(error, LeaseLost) and self._creates and not self._committed:
                error = RunElsewhere(self.run_id, "somebody who created it at the same time")
            self._error = error
            self._run.abandon(error, stored=False)
        for number, event in self._waiting:
            if error is not None or number <= self._committed:
                event.set()
        self._waiting = [one for one in self._waiting if not one[1].is_set()]
        if error is None and self._stopped == "no":
            for commands in flying:
                try:
                    self._run.act(commands)
                except Exception as broken:  # noqa: BLE001 - becomes the run's error; others in this commit go on
                    self._run.abandon(broken, stored=True)

    def receive(self, message: Message) -> None:
        """There is a message for the run."""
        if self._letters is None:
            self._letters = Letters(self._run, self, self._records, self.tenant.backend)
        self._letters.add(message)

    @property
    def has_mail(self) -> bool:
        """Whether something was posted to the run that it hasn't taken yet."""
        return self._letters is not None and self._letters.are_left

    def took(self, number: int) -> None:
        """What has just been added is what a message stood for."""
        self._taken.append(number)
        self._queue()

    def refuse(self, number: int, why: str) -> None:
        """The run can't take a message."""
        self._refused.append((number, why))
        self._queue()

    @property
    def added(self) -> int:
        """How many records there are, on disk or on their way."""
        return self._length + len(self._pending)

    async def written(self, upto: int | None = None) -> None:
        """Wait until everything added so far is on disk (or the first ``upto`` records).

        Raises:
            StoreError: it could not be stored.
            LeaseLost: another process has taken the run over.
        """
        if upto is None and self._error is not None:
            raise self._error
        wanted = self.added if upto is None else upto
        if self._committed < wanted and self._error is None and self._stopped != "dropped":
            event = anyio.Event()
            self._waiting.append((wanted, event))
            await event.wait()
        if self._committed < wanted:
            raise self._error or StoreError(
                repr(self.tenant.store), f"run {self.run_id!r} was stopped first", "run the same run_id again", "failed"
            )

    # -------------------------------------------------------------------------------------------------------- leaving

    def stop(self) -> None:
        """Nothing more will happen here; what has happened is still written. To be called before the machine ends."""
        if self._stopped != "no":
            return
        if not self._fence or (self._creates and not self._length and not self._facts):
            self.drop()  # it has not begun
            return
        self._has_status = self._status()
        self._stopped = "stopped"

    def drop(self) -> None:
        """Write nothing more."""
        self._stopped = "dropped"
        self._pending.clear()
        self._held.clear()
        self._taken, self._refused = [], []
        self._length = self._committed
        waiting, self._waiting = self._waiting, []
        for _, event in waiting:
            event.set()

    async def close(self, report: Callable[[Exception], None]) -> None:
        """Wait until all is written, and give the run up."""
        if not self._begun:
            return
        with anyio.CancelScope(shield=True):
            with contextlib.suppress(Exception):  # the run has ended with it
                await self.written()
            # In its store, that is: the end may be what could not be stored.
            has_ended = self._error is None and self._last is not None and self._last[0] in ENDED
            if self._fence and self._committed and not has_ended:
                release = partial(self.tenant.store.release, self.run_id, self._fence)
                try:
                    await anyio.to_thread.run_sync(release)
                except Exception as error:  # noqa: BLE001 - the lease ends by itself
                    report(error)
            if has_ended and self._letters is not None:
                self._letters.complain()
            elif self.has_mail:  # it came while the run was being given up
                self.tenant.mailbox.call()
            if SENDERS:
                tell_senders()
            await self.tenant.leave(self)
