"""Where a run is kept. Imported when a run is given a store: serialization is a third of flowkit's time to import."""

import attrs

from flowkit.backend import Backend
from flowkit.errors import WrongCall, shown
from flowkit.log import Durability, RunLog
from flowkit.nesting import Nesting
from flowkit.records import Records
from flowkit.runner import Run
from flowkit.store import Store
from flowkit.tenant import Tenant, tenant_of

__all__ = ["Kept", "kept_with"]


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
        if not isinstance(self.store, Store):  # pyright: ignore[reportUnnecessaryIsInstance]
            cure = 'give one, SQLiteStore("runs.db")'
            raise WrongCall(call, f"takes a store, but got {shown(self.store)}", cure)
        if self.durability not in ("sync", "async"):
            raise WrongCall(call, f"got durability={shown(self.durability)}", 'give "sync" or "async"')

    def take(self, run: Run, records: Records, backend: Backend) -> None:
        """Keep this run here. To be called before it is driven."""
        tenant = self.tenant or tenant_of(self.store, backend)
        top: Nesting = run
        while top.parent is not None:
            top = top.parent
        parent = None if top is run else top.run_id
        run.keep_in(RunLog(run, records, tenant, durability=self.durability, parent=parent))
        run.hosted = self.hosted


def kept_with(log: RunLog) -> Kept:
    """Where the runs nested in a stored run are kept: with it."""
    return Kept(log.tenant.store, log.tenant, log.durability)
