"""Mail: how an event, or a cancellation, gets to a run that another process drives, or nobody.

**The way of a message.** A sender posts it to the run in the store (posting.py): that is one transaction, and from then
on it isn't lost. The run's owner finds it, enters it as the fact it stands for (`EventSent`, `RunCancelled`), and that
fact's record and the removal of the message are one transaction (``Write.taken``). So whichever of the two is killed,
and whenever, it is entered exactly once; a stale owner can't enter it a second time, as its write is refused. An event
for a nested run is taken together with that run's record. What a run has no use for while it is busy waits until it
has, or rests; what it has no use for at rest is refused, and the sender told why. What is left when the run has ended
is told to a sender that waits, and logged by the owner.

**Who looks.** A run gets its mail when it is opened. While runs are in memory, a thread (`_Watcher`, one for each
tenant, from `INTERVAL` after the first run on) asks the store every `INTERVAL` seconds whether anything has changed:
with SQLite one ``PRAGMA data_version``, some 5 µs, and if so a look into a table that is nearly always empty, some
10 µs. The event loop has no part in it until there is a message: no timer, no callback, so that neither its work nor
virtual time is disturbed. A message posted in the same process is told to whoever may want it at once
(`tell_this_process`), and so is its sender of what becomes of it (`Sender`). A store that is of one process
(``Store.shared``) isn't watched at all: a simulation stays as deterministic as it is, and knows when nothing can happen
any more.

**Mail for runs that nobody drives** is told to the runtime, whose keeper takes them up (runtime.py).
"""

import json
import logging
import math
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import anyio
import anyio.to_thread

from flowkit.backend import Backend
from flowkit.errors import MisdirectedEvent, RunFinished, SerializationError
from flowkit.events import Event
from flowkit.facts import EventSent, RunCancelled
from flowkit.machine import Machine
from flowkit.records import Records
from flowkit.storage_errors import RunSuspended
from flowkit.store import Message, Store

__all__ = [
    "INTERVAL",
    "SENDERS",
    "Addressee",
    "Letters",
    "Mailbox",
    "Mailed",
    "Sender",
    "tell_senders",
    "tell_this_process",
]

logger = logging.getLogger("flowkit")

INTERVAL = 0.25
"""Seconds between two looks: an answer typed by a person may take as long, and four looks a second cost nothing."""


class Mailbox:
    """Looks for the mail of one tenant's runs."""

    def __init__(self, store: Store, backend: Backend) -> None:
        self.strangers: Callable[[], None] | None = None  # told that there is mail for runs that aren't here
        self._store = store
        self._backend = backend
        self._called = False
        self._failed = False  # to read it: that is tried again, as nobody would call for the same mail twice
        self._woken: anyio.Event | None = None
        self._watcher: _Watcher | None = None
        with _lock:
            _ALL.add(self)

    def call(self) -> None:
        """There may be mail. From any thread."""
        self._called = True
        self._backend.from_anywhere(self._wake)

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken.set()

    async def pause(self, seconds: float) -> None:
        """Wait until there may be mail, at most so long. After the first while of it, mail is watched for."""
        watches = self._watcher is not None or not self._store.shared
        self._woken = anyio.Event()
        if not self._called:
            with anyio.move_on_after(min(seconds, math.inf if watches and not self._failed else INTERVAL)):
                await self._woken.wait()
        self._woken = None
        if self._failed:
            self._called = True  # never to be set to False here: another thread may have called just now
        if not watches and not self._called:
            self._watcher = _Watcher(self)
            self._watcher.start()

    async def hand_out(
        self, driven: "Mapping[str, tuple[Addressee, Any]]", limiter: anyio.CapacityLimiter | None
    ) -> None:
        """Give the runs that are driven here what has come for them. ``limiter`` is for the thread that reads it."""
        if not self._called:
            return
        self._called = False
        try:
            messages = await anyio.to_thread.run_sync(self._store.mail, limiter=limiter)
        except Exception:
            if not self._failed:
                logger.warning("the mail at %r could not be read", self._store, exc_info=True)
            self._failed = True
            return
        self._failed = False
        are_strangers = False
        for message in messages:
            found = driven.get(message.run_id)
            if found is not None:
                found[0].receive(message)
            else:
                are_strangers = True
        if are_strangers and self.strangers is not None:
            self.strangers()

    def look(self, before: int | None, known: frozenset[int]) -> tuple[int | None, frozenset[int]]:
        """Whether there is something new since what the last look has returned (the watcher asks)."""
        changes = self._store.changes()
        if changes is not None and changes == before:
            return before, known
        numbers = frozenset(message.number for message in self._store.mail())
        if not numbers <= known:
            self.call()
        return changes, numbers

    def stop(self) -> None:
        """Watch no longer."""
        if self._watcher is not None:
            self._watcher.stopped.set()

    async def rest(self) -> None:
        """Wait until nobody watches any more."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await anyio.to_thread.run_sync(watcher.join)


class Addressee(Protocol):
    """What a mailbox knows of a run's log."""

    def receive(self, message: Message) -> None:
        """There is this message for it; perhaps not for the first time."""
        ...


class _Watcher(threading.Thread):
    """Looks again and again. It is nobody's reason to live: neither the program's nor the store's."""

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__(name="flowkit mail", daemon=True)
        self.stopped = threading.Event()
        self._mailbox = weakref.ref(mailbox)

    def run(self) -> None:
        before: int | None = None
        known: frozenset[int] = frozenset()
        complained = False
        while not self.stopped.wait(INTERVAL):
            mailbox = self._mailbox()
            if mailbox is None or not threading.main_thread().is_alive():
                return  # at the end of the program stores are closed, and not to be opened again
            try:
                before, known = mailbox.look(before, known)
                complained = False
            except Exception:
                if not complained:
                    logger.warning("mail could not be looked for", exc_info=True)
                complained = True
            del mailbox


_ALL: "weakref.WeakSet[Mailbox]" = weakref.WeakSet()
_lock = threading.Lock()


def _after_fork() -> None:
    """Those of the parent are none of the child's business. (And the lock may have been held.)"""
    global _lock
    _lock = threading.Lock()
    _ALL.clear()
    SENDERS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def tell_this_process() -> None:
    """Something was posted from here: whoever it is for needn't wait for the next look."""
    with _lock:
        mailboxes = list(_ALL)
    for mailbox in mailboxes:
        mailbox.call()


class Sender:
    """Waits for what becomes of what it posted. In a store that is of one process it is told; in others it must look
    now and then, too."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._woken = anyio.Event()

    def __enter__(self) -> "Sender":
        SENDERS.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        SENDERS.discard(self)

    def renew(self) -> None:
        """What is told from now on ends the next `wait`."""
        self._woken = anyio.Event()

    async def wait(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._woken.wait()

    def call(self) -> None:
        self._backend.from_anywhere(lambda: self._woken.set())


SENDERS: set[Sender] = set()
"""Those that wait, in this process."""


def tell_senders() -> None:
    """A run's owner has written something, or given it up."""
    for sender in list(SENDERS):
        sender.call()


# ------------------------------------------------------------------------------------------------------------ one run


class Mailed(Protocol):
    """What delivering needs of a run."""

    run_id: str
    begun: bool
    machine: Machine

    @property
    def ended(self) -> bool: ...

    def at_rest(self) -> bool: ...

    def takes(self, event: Event) -> bool: ...

    def expected(self) -> list[str]: ...

    def records(self) -> "dict[Any, int]": ...

    def send(self, event: Event, step: str | None, invocation: int | None) -> None: ...

    def cancel(self, reason: str, *, by_user: bool = False) -> None: ...


class Letters:
    """What has come for one run, until it is entered or refused. Belongs to the run's log, and its event loop."""

    def __init__(self, run: Mailed, log: Any, records: Records, backend: Backend) -> None:
        self._run = run
        self._log = log
        self._records = records
        self._backend = backend
        self._seen: set[int] = set()  # the store has them until the next commit
        self._waiting: dict[int, Message] = {}
        self._scheduled = False

    def add(self, message: Message) -> None:
        if message.number not in self._seen:
            self._seen.add(message.number)
            self._waiting[message.number] = message
            self.deliver_soon()

    def deliver_soon(self) -> None:
        """Something has happened to the run: it may have a use for what waits."""
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._backend.postpone(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        run = self._run
        for number, message in list(self._waiting.items()):
            if not run.begun or run.ended:
                return
            try:
                self._enter(number, self._read(message))
            except MisdirectedEvent as error:
                self._refuse(number, "misdirected", str(error))
            except SerializationError as error:
                self._refuse(number, "unreadable", str(error))
            except (RunFinished, RunSuspended):
                return
            except Exception as error:  # the author's code, that compares it with what is waited for
                self._refuse(number, "failed", f"{type(error).__name__}: {error}")
                logger.exception("run %s failed to take what was sent to it", run.run_id)

    def _read(self, message: Message) -> EventSent | RunCancelled:
        if message.data is None:
            raise SerializationError("the message isn't as it was written")
        fact = self._records.letter(message.data)
        if not isinstance(fact, EventSent | RunCancelled):
            raise SerializationError(f"a message is no {type(fact).__name__}")
        return fact

    def _enter(self, number: int, fact: EventSent | RunCancelled) -> None:
        """Enter what was sent, refuse it, or leave it for later. What has its record is what takes it."""
        run = self._run
        if isinstance(fact, EventSent) and fact.step is None and not run.takes(fact.event):
            if not run.at_rest():
                return
            if not run.machine.patient:
                self._refuse(number, "unexpected", run.expected())
                return
        before = run.records()
        is_late = False
        try:
            if isinstance(fact, RunCancelled):
                run.cancel(fact.reason, by_user=True)
            else:
                run.send(fact.event, fact.step, None)
        except RunFinished:
            is_late = True  # the run's time is over: that is what it has entered
            raise
        finally:
            grown = [log for log, added in run.records().items() if added > before.get(log, 0)]
            if grown and not is_late:  # whatever follows from it, it has been entered
                del self._waiting[number]
                here = next((log for log in grown if log.tenant.store is self._log.tenant.store), None)
                if here is None:
                    grown[0].tenant.writer.flush_now()  # there first: what is entered twice is better than what is lost
                (here or self._log).took(number)

    def _refuse(self, number: int, why: str, about: Any) -> None:
        if self._waiting.pop(number, None) is None:
            return  # it has been entered
        self._log.refuse(number, json.dumps([why, about]))
        logger.warning("run %s could not take what was sent to it (%s: %s)", self._run.run_id, why, about)

    @property
    def are_left(self) -> bool:
        """Whether there are some that the run hasn't taken."""
        return bool(self._waiting)

    def complain(self) -> None:
        """The run has ended."""
        if self._waiting:
            logger.warning(
                "run %s had ended before it could take what was sent to it (%d)", self._run.run_id, len(self._waiting)
            )
