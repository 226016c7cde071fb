"""Where a run is kept. Imported when a run is given a store: serialization is a third of flowkit's time to import."""

from datetime import timedelta
from typing import Any

import attrs

from flowkit.backend import Backend
from flowkit.errors import WrongCall, shown
from flowkit.log import Durability, RunLog
from flowkit.nesting import Nesting
from flowkit.records import Records
from flowkit.runner import Run
from flowkit.store import Store
from flowkit.tenant import Tenant, tenant_of

__all__ = ["Kept", "check_durability", "check_keep", "check_store", "kept_with"]


@attrs.frozen
class Kept:
    """Where a run is to be kept, and how."""

    store: Store
    tenant: Tenant | None
    durability: Durability
    hosted: bool = False
    goes_on: bool = False  # it is in the store already

    def check(self, call: str) -> None:
        """Refuse what can't be right.

        Raises:
            WrongCall: it is no store, or there is no such durability.
        """
        check_store(call, self.store)
        check_durability(call, self.durability)

    def take(self, run: Run, records: Records, backend: Backend) -> None:
        """Keep this run here. To be called before it is driven."""
        tenant = self.tenant or tenant_of(self.store, backend)
        top: Nesting = run
        while top.parent is not None:
            top = top.parent
        parent = None if top is run else top.run_id
        run.keep_in(RunLog(run, records, tenant, durability=self.durability, parent=parent))
        run.hosted = self.hosted


def check_store(call: str, store: Any) -> None:
    """Refuse what is no store."""
    if not isinstance(store, Store):
        cure = 'give one, SQLiteStore("runs.db")'
        if isinstance(store, type) and issubclass(store, Store):
            cure = f"make one, {store.__name__}(…)"
        raise WrongCall(call, f"takes a store, but got {shown(store)}", cure)


def check_durability(call: str, durability: Any) -> None:
    """Refuse what is no durability."""
    if durability not in ("sync", "async"):
        raise WrongCall(call, f"got durability={shown(durability)}", 'give "sync" or "async"')


def kept_with(log: RunLog) -> Kept:
    """Where the runs nested in a stored run are kept: with it."""
    return Kept(log.tenant.store, log.tenant, log.durability)


def check_keep(call: str, keep: Any) -> None:
    """Refuse what says neither how many ended runs to keep nor for how long.

    Raises:
        WrongCall: it does neither.
    """
    if isinstance(keep, timedelta) and keep >= timedelta(0):
        return
    if not isinstance(keep, int | float) or isinstance(keep, bool) or not keep >= 0:
        cure = "give a number of runs, seconds as a float, or a timedelta"
        raise WrongCall(call, f"got {shown(keep)} as what to keep of ended runs", cure)
