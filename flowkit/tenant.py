"""`Tenant`: one event loop's presence at a store: its name as an owner of runs, its lease, its writer, its mail.

The lease is kept while any run is under way, by a beat every third of its length. Where the process is away for longer
(stopped, swapped out, its disk hanging) others may take its runs; the store refuses what it writes then (store.py).
"""

import logging
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread

from flowkit import outside
from flowkit.backend import Backend
from flowkit.mailbox import Addressee, Mailbox
from flowkit.process import owner_name
from flowkit.storage_errors import RunElsewhere
from flowkit.store import LEASE, Store
from flowkit.writer import Writer

__all__ = ["Tenant", "tenant_of"]

logger = logging.getLogger("flowkit")


class Driver(Addressee, Protocol):
    """What a tenant knows of a run's log."""

    run_id: str

    @property
    def is_stopping(self) -> bool: ...


class Tenant:
    """What runs that share a store and an event loop have in common."""

    def __init__(self, store: Store, backend: Backend, lease: float = LEASE) -> None:
        self.store = store
        self.lease = lease
        self.owner = owner_name()
        self.writer = Writer(store, backend)
        self.backend = backend
        self.mailbox = Mailbox(store, backend)
        self._clock = backend.clock()
        self._epoch = outside.current().time() - self._clock()
        self._entered = 0
        self._driven: dict[str, tuple[Driver, anyio.Event]] = {}  # by run id, each until it has left
        self._changing: anyio.Lock | None = None
        self._limiter: anyio.CapacityLimiter | None = None  # its own: plain steps may hold all of the common one
        self._beating: tuple[anyio.CancelScope, anyio.Event] | None = None  # the event is set when it has stopped

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock() + self._epoch

    async def enter(self, log: Driver | None = None) -> None:
        """A run begins (or, without one, a runtime). The first to come opens the store and takes out the lease.

        Waits for the same run where that is just being given up here.

        Raises:
            RunElsewhere: the same run is driven here.
            StoreError: the store can't be used.
        """
        while log is not None and (found := self._driven.get(log.run_id)) is not None:
            other, has_left = found
            if not other.is_stopping:
                raise RunElsewhere(log.run_id, "another handle in this process")
            await has_left.wait()
        self._entered += 1
        if log is not None:
            self._driven[log.run_id] = log, anyio.Event()
        if self._changing is None:
            self._changing = anyio.Lock()
            self._limiter = anyio.CapacityLimiter(1)
        try:
            async with self._changing:
                if self._beating is None:
                    await self._beat()
                    scope, stopped = self._beating = anyio.CancelScope(), anyio.Event()
                    self.backend.supervise(partial(self._keep_beating, scope, stopped), "flowkit lease", stopped.set)
        except BaseException:
            self._gone(log)
            raise

    def _gone(self, log: Driver | None) -> None:
        self._entered -= 1
        if log is not None:
            self._driven.pop(log.run_id)[1].set()

    async def leave(self, log: Driver | None = None) -> None:
        """A run has settled. The last to go gives the lease up."""
        self._gone(log)
        assert self._changing is not None
        async with self._changing:
            if self._entered or self._beating is None:
                return
            (scope, stopped), self._beating = self._beating, None
            scope.cancel()
            await stopped.wait()  # a beat that a thread is at would come after the end
            await self.mailbox.rest()
            await self.writer.rest()
            shared = _shared(self.store)
            if shared.get(self.backend.loop) is self:
                del shared[self.backend.loop]
            try:
                await anyio.to_thread.run_sync(self.store.leave, self.owner)
            except Exception:
                logger.warning("the lease at %r could not be given up; it ends by itself", self.store, exc_info=True)

    async def _beat(self) -> None:
        await anyio.to_thread.run_sync(self._beat_until, self.now() + self.lease, limiter=self._limiter)

    def _beat_until(self, until: float) -> None:
        self.store.open()
        self.store.beat(self.owner, until)

    async def _keep_beating(self, scope: anyio.CancelScope, stopped: anyio.Event) -> None:
        try:
            with scope:
                next_beat = self._clock() + self.lease / 3
                while True:
                    await self.mailbox.pause(next_beat - self._clock())
                    await self.mailbox.hand_out(self._driven, self._limiter)
                    if self._clock() < next_beat:
                        continue
                    try:
                        await self._beat()
                    except Exception:
                        logger.warning("the lease at %r could not be renewed", self.store, exc_info=True)
                    next_beat = self._clock() + self.lease / 3
        finally:
            self.mailbox.stop()
            stopped.set()


def tenant_of(store: Store, backend: Backend) -> Tenant:
    """The tenant that all runs share which were given this store in this event loop, by ``run(store=…)``."""
    shared = _shared(store)
    tenant = shared.get(backend.loop)
    if tenant is None:
        tenant = shared[backend.loop] = Tenant(store, backend, store.lease)
    return tenant


def _shared(store: Store) -> WeakKeyDictionary[Any, Tenant]:
    shared: WeakKeyDictionary[Any, Tenant] | None = vars(store).get("_flowkit_tenants")
    if shared is None:
        shared = WeakKeyDictionary[Any, Tenant]()
        vars(store)["_flowkit_tenants"] = shared
    return shared
