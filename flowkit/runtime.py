"""`open_runtime`: many runs and their store, for as long as a block lasts.

**How it works.** A `Runtime` is a task group. Each run that is in memory is driven by one of its tasks; what it does is
in its store before anything follows from it (log.py). Leaving the block stops them where they are: they are as safe in
the store as after a crash, and the next runtime goes on with them.

**The keeper** is one more task. It looks into the store now and then (a third of the lease), and at the time the next
timer is due, and takes up what has nobody: runs that were under way in a process that is gone, runs whose time has
come, and runs that something was posted to (mailbox.py). It also prunes what is to be kept no longer.

**Leaving memory.** A run that has been at rest for ``release_after`` seconds, and whose handle nobody holds, is stopped
here and given up in the store; an event for it, its timer, or `Runtime.handler` brings it back. One that a step is
suspended in (`wait_for_event`) would have to start that step again: it stays, unless ``release_suspended`` says
otherwise.

**One driver.** A run is in memory at most once here, and in one process at most (store.py).
"""

import contextlib
import logging
import math
import warnings
import weakref
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, cast

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from flowkit import backend, outside
from flowkit.errors import (
    NoEventLoop,
    RunFinished,
    WorkflowCancelledByUser,
    WorkflowRuntimeError,
    WrongCall,
    did_you_mean,
    shown,
)
from flowkit.events import Event
from flowkit.handler import Handler
from flowkit.history import HistoryEntry, fork_of, history_of
from flowkit.kept import check_durability, check_keep, check_store
from flowkit.launching import check_id, start_event_of
from flowkit.log import Durability
from flowkit.performer import first_of
from flowkit.posting import Posting
from flowkit.process import is_gone
from flowkit.runner import Run
from flowkit.storage_errors import (
    CodeChanged,
    LeaseLost,
    RunDamaged,
    RunElsewhere,
    RunSuspended,
    StoreError,
    UnknownRun,
    WrongWorkflow,
)
from flowkit.store import ENDED, LEASE, STATUSES, NewRun, RunInfo, Status, Store, Write
from flowkit.tenant import Tenant
from flowkit.workflow import Workflow, check_wiring, plan_of, records_of, run_hosted

__all__ = ["HistoryEntry", "Runtime", "open_runtime"]

logger = logging.getLogger("flowkit")

_OPTIONS = ("ctx", "stepwise", "timeout")  # of a run; what else is given are fields of its start event
GUESS_AMONG = 1000
"""Runs, the latest, whose ids are compared with one that isn't there: it may be a slip."""
RELEASE_AFTER = 60.0
"""Seconds a run rests before it is released from memory: a conversation's pause shouldn't cost a replay."""


PRUNE_EVERY = 60.0
"""Seconds between two looks for ended runs that needn't be kept."""


@contextlib.asynccontextmanager
async def open_runtime(
    *,
    store: Store,
    workflows: Iterable[Workflow],
    durability: Durability = "sync",
    release_after: float | None = RELEASE_AFTER,
    release_suspended: bool = False,
    keep_finished: int | float | timedelta | None = None,
    lease: float = LEASE,
    take_up: bool = True,
) -> AsyncGenerator["Runtime"]:
    """Open a store, go on with what is unfinished in it, and run workflows in it.

    ``async with open_runtime(store=SQLiteStore("runs.db"), workflows=[Order()]) as runtime:``. Leaving the block stops
    the runs that are under way; the next runtime goes on with them. (`Runtime.join` waits for them first.)

    Args:
        store: where runs are kept. Several processes may share it: each looks four times a second, in a thread, whether
            another has posted something to its runs (see `Runtime.send_event`).
        workflows: whose runs this runtime takes up. Runs of others are left alone.
        durability: ``"sync"``: nothing is done before what led to it is on disk. ``"async"``: it is done at once, and
            is on disk some milliseconds later; a crash may undo what was done last.
        release_after: seconds a run rests before it leaves memory; ``None``: never.
        release_suspended: also release runs whose steps are suspended in ``wait_for_event``. Such a step starts again
            at its first line when the run comes back, as after a crash.
        keep_finished: how many ended runs to keep (a whole number), or for how long (seconds as a float, or a
            `timedelta`); ``None``: all. Older ones are deleted now and then.
        lease: seconds after which others may take up this process's runs when it gives no sign of life.
        take_up: whether to go on with whatever is unfinished and has nobody. ``False``: runs here only what it is asked
            to by name (`Runtime.run`, `handler`, `send_event`, `cancel`, `fork`).

    Raises:
        StoreError: the store can't be used.
        WrongCall: an argument is of the wrong type, or two workflows have the same name.
        NoEventLoop: no event loop is running.
    """
    call = "open_runtime()"
    check_store(call, store)
    by_name: dict[str, Workflow] = {}
    for workflow in _workflows(call, workflows):
        check_wiring(workflow)
        name = plan_of(workflow).name
        if name in by_name:
            raise WrongCall(call, f"got two workflows called {name}", "rename one: a stored run knows its own by name")
        by_name[name] = workflow
    if release_after is not None and not _is_seconds(release_after):
        raise WrongCall(call, f"got release_after={shown(release_after)}", "give seconds, more than 0, or None")
    if not _is_seconds(lease) or lease == math.inf:
        raise WrongCall(call, f"got lease={shown(lease)}", "give seconds, more than 0")
    if not isinstance(release_suspended, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WrongCall(call, f"got release_suspended={shown(release_suspended)}", "give True or False")
    if not isinstance(take_up, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WrongCall(call, f"got take_up={shown(take_up)}", "give True or False")
    check_durability(call, durability)
    if keep_finished is not None:
        check_keep(call, keep_finished)
    loop = backend.current()
    if loop is None:
        raise NoEventLoop("", call)
    tenant = Tenant(store, loop, lease)
    runtime = Runtime(tenant, by_name, durability, release_after, release_suspended, keep_finished, take_up)
    await tenant.enter()
    failed: Exception | None = None
    try:
        async with anyio.create_task_group() as group:
            try:
                await runtime.start(group)
                yield runtime
            except Exception as error:  # noqa: BLE001 - raised below, outside the task group, as itself
                failed = error
            finally:
                runtime.stop()
    except BaseExceptionGroup as several:
        raise first_of(several) from None  # Ctrl-C or exit, in the block or in a run
    finally:
        with anyio.CancelScope(shield=True):
            for workflow in by_name.values():
                await workflow.aclose()
            await tenant.leave()
    if runtime.exit is not None:
        raise runtime.exit
    if failed is not None:
        raise failed


class Runtime(Posting):
    """Runs and their store. Made by `open_runtime`."""

    def __init__(
        self,
        tenant: Tenant,
        workflows: dict[str, Workflow],
        durability: Durability,
        release_after: float | None,
        release_suspended: bool,
        keep_finished: int | float | timedelta | None,
        takes_up: bool,
    ) -> None:
        self._tenant = tenant
        self._store = tenant.store
        self._workflows = workflows
        self._durability: Durability = durability
        self._release_after = release_after
        self._release_suspended = release_suspended
        self._keep_finished = keep_finished
        self._takes_up = takes_up
        self._runs: dict[str, Run] = {}
        self._handlers: weakref.WeakValueDictionary[str, Handler] = weakref.WeakValueDictionary()
        # Since when, the longest first. (To find its first, a plain dict passes all that have left it.)
        self._resting: OrderedDict[str, float] = OrderedDict()
        self._unfit: set[str] = set()  # stored runs that can't go on here: not tried again and again
        self._again: set[str] = set()  # those whose store failed
        self._leaving: dict[str, float] = {}  # runs being released, as far as they have a time to come back at
        self._next_due = math.inf
        self._next_prune = -math.inf
        self.exit: BaseException | None = None  # Ctrl-C or exit in a step: it is the program's
        self._group: TaskGroup | None = None
        self._wake = anyio.Event()
        self._keeping = anyio.CancelScope()

    # ----------------------------------------------------------------------------------------------------------- runs

    async def run(
        self, workflow: Workflow | str, /, *, run_id: str | None = None, start_event: Event | None = None, **fields: Any
    ) -> Handler:
        """Start a run; when this returns, its start is stored.

        With the id of a run that is there already it is that run: never a second one.

        Args:
            workflow: one of this runtime's, or its name.
            run_id: the run's id; made up by default.
            start_event: the event to start with, instead of building it from ``fields``.
            **fields: fields of the start event; ``timeout=`` sets the run's timeout.

        Raises:
            EventError: the fields don't make a start event.
            WrongWorkflow: the run id belongs to a run of another workflow.
            RunElsewhere: another process drives the run of this id.
            RunDamaged: what is stored of it can't be read.
            CodeChanged: what is stored of it doesn't fit the workflow as it is now.
            StoreError: the store failed.
            SerializationError: the start event can't be stored.
            WrongCall: it isn't a workflow of this runtime, or an argument can't be right.
        """
        known = self._known(workflow)
        name = plan_of(known).name
        check_id("runtime.run()", "run_id", run_id)
        identity = outside.current().new_id() if run_id is None else run_id
        handler = self._here(identity)
        if handler is None:
            handler = self._drive(known, identity, start_event=start_event, **fields)
            await handler.come_up()
            handler.warn()
            return handler
        run = self._runs[identity]
        if run.workflow_name != name:
            raise WrongWorkflow(identity, name, run.workflow_name)
        given = {name: value for name, value in fields.items() if name not in _OPTIONS}
        start = None
        if given or start_event is not None:
            start, _ = start_event_of(plan_of(known), start_event, given, stored=True)
        await handler.come_up()
        if (ignored := run.ignores(start)) is not None:
            warnings.warn(ignored, stacklevel=2)
        return handler

    def handler(self, run_id: str) -> Handler:
        """A handle to a run: under way, released from memory, or ended. Where it isn't in memory it is looked up in the
        store there and then, and read when the loop's next turn comes.

        Raises:
            UnknownRun: the store has none of this id.
            WrongCall: it belongs to a workflow that this runtime doesn't have.
            StoreError: the store failed.

        Awaiting it may also raise `RunElsewhere`, `RunDamaged` and `CodeChanged`.
        """
        check_id("handler()", "run_id", run_id, needed=True)
        found = self._here(run_id)
        if found is not None:
            return found
        info = self._store.info(run_id)
        if info is None:
            raise self._unknown(run_id)
        return self._drive(self._known(info.workflow), run_id, go_on=True)

    async def join(self) -> None:
        """Wait until no run is under way here: each has ended, or waits for somebody outside or for its time."""
        while busy := [run for run in self._runs.values() if run.ended or not run.at_rest()]:
            await (busy[0].join() if busy[0].ended else busy[0].come_to_rest())
        for run in list(self._runs.values()):
            with contextlib.suppress(WorkflowRuntimeError):  # whoever has its handle is told
                await run.stored({})  # so that `runs` says what is so

    # ---------------------------------------------------------------------------------------------------------- store

    async def runs(
        self, *, status: Status | None = None, workflow: Workflow | str | None = None, limit: int | None = None
    ) -> list[RunInfo]:
        """What the store knows of its runs, the latest created first; nested ones aside.

        Raises:
            WrongCall: there is no such status, or an argument is of the wrong type.
            StoreError: the store failed.
        """
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WrongCall("runs()", f"got limit={shown(limit)}", "give a whole number, 0 or more, or None")
        if status is not None and status not in STATUSES:
            raise WrongCall("runs()", f"got status={shown(status)}", f"give one of {', '.join(STATUSES)}")
        name = None if workflow is None else _name_of("runs()", workflow)
        find = partial(
            self._store.find,
            statuses=None if status is None else (status,),
            workflows=None if name is None else (name,),
            newest=True,
            limit=limit,
        )
        return await anyio.to_thread.run_sync(find)

    async def history(self, run_id: str) -> list[HistoryEntry]:
        """All that is stored of a run, in order.

        Raises:
            UnknownRun, RunDamaged, CodeChanged, StoreError: as `send_event`.
            WrongCall: it belongs to a workflow that this runtime doesn't have.
        """
        check_id("history()", "run_id", run_id, needed=True)
        info = await self._info(run_id)
        records = await anyio.to_thread.run_sync(self._store.read, run_id)
        return history_of(records_of(self._known(info.workflow)), run_id, records)

    async def fork(self, run_id: str, *, after: str | int, new_id: str | None = None) -> Handler:
        """A new run that goes on from where another was after a step had returned.

        Args:
            run_id: the run to go on from; it isn't changed.
            after: a step's name (where it has returned last), or the number of a record (see `history`).
            new_id: the new run's id; made up by default.

        Raises:
            WrongCall: that step has never returned in it, there is no such record, the run had ended there, or there
                is a run ``new_id`` already.
            UnknownRun, RunDamaged, CodeChanged, StoreError: as `send_event`.
        """
        if isinstance(after, bool) or not isinstance(after, int | str):  # pyright: ignore[reportUnnecessaryIsInstance]
            problem = f"takes a step's name or a record's number as after, but got {shown(after)}"
            raise WrongCall("fork()", problem, 'write after="charge"')
        check_id("fork()", "run_id", run_id, needed=True)
        check_id("fork()", "new_id", new_id)
        _ = self._open()
        info = await self._info(run_id)
        workflow = self._known(info.workflow)
        records = await anyio.to_thread.run_sync(self._store.read, run_id)
        new_id = new_id or outside.current().new_id()
        forked = fork_of(records_of(workflow), run_id, records, after, new_id)
        new = NewRun(info.workflow, self._tenant.owner)
        write = Write(new_id, 1, 0, [forked], self._tenant.now(), status="running", new=new)
        if not (await anyio.to_thread.run_sync(self._store.commit, [write]))[0]:
            problem = f"got new_id={new_id!r}, but there is a run of this id"
            raise WrongCall("fork()", problem, "give another, or leave it out")
        handler = self._drive(workflow, new_id, go_on=True)
        await handler.come_up()
        return handler

    async def prune(self, *, keep: int | float | timedelta) -> int:
        """Delete ended runs of this runtime's workflows but so many, or those that ended longer ago (as
        ``keep_finished``); how many. ``keep=0`` deletes all that have ended.

        Raises:
            WrongCall: it says neither a number nor a time.
            StoreError: the store failed.
        """
        check_keep("prune()", keep)
        find = partial(self._store.find, statuses=ENDED, workflows=tuple(self._workflows), newest=True)
        return await self._delete(await anyio.to_thread.run_sync(find), keep)

    # --------------------------------------------------------------------------------------------------------- inside

    async def start(self, group: TaskGroup) -> None:
        """Go on with what is unfinished, and keep at it."""
        self._group = group
        await self._take_up()
        if self._takes_up:
            self._tenant.mailbox.strangers = lambda: self._wake.set()
        group.start_soon(self._keep)

    def stop(self) -> None:
        """Stop what is under way; it is safe in the store. Clean-ups are waited for, not cancelled."""
        self._group = None
        for run in list(self._runs.values()):
            run.cancel("its runtime was closed")
        self._keeping.cancel()

    def _open(self) -> TaskGroup:
        if self._group is None:
            raise WrongCall("the runtime", "is closed", "use it inside its `async with` block")
        return self._group

    def _known(self, workflow: Workflow | str) -> Workflow:
        name = _name_of("the runtime", workflow)
        if name not in self._workflows:
            has = f"only {', '.join(self._workflows)}" if self._workflows else "and no other"
            cure = did_you_mean(name, self._workflows) or "give it to open_runtime()"
            raise WrongCall("the runtime", f"has no workflow {name!r}, {has}", cure)
        return self._workflows[name]

    def _here(self, run_id: str) -> Handler | None:
        """A handle to a run that is in memory."""
        run = self._runs.get(run_id)
        if run is None or run.is_suspended:
            return None  # or it is just being released
        handler = self._handlers.get(run_id)
        if handler is None:
            workflow = self._known(run.workflow_name)
            handler = self._handlers[run_id] = Handler(run, None, None, self._tenant.backend, workflow)
            handler.claim()
        return handler

    def _drive(self, workflow: Workflow, run_id: str, **arguments: Any) -> Handler:
        """Have a run in memory: a new one, or one from the store."""
        group = self._open()
        handler = run_hosted(workflow, self._tenant, self._durability, run_id, **arguments)
        run, drive = handler.claim()
        run.resting = self._rests
        self._runs[run_id] = run
        self._handlers[run_id] = handler
        group.start_soon(self._driven, run, drive, weakref.ref(handler))
        return handler

    async def _driven(
        self, run: Run, drive: Callable[[], Awaitable[None]], first: "weakref.ReferenceType[Handler]"
    ) -> None:
        try:
            await drive()
        finally:
            if self._runs.get(run.run_id) is run:
                del self._runs[run.run_id]
                self._resting.pop(run.run_id, None)
                self._leaving.pop(run.run_id, None)
            self._ended(run, first)
        if run.error is not None and not isinstance(run.error, Exception):
            self.exit = self.exit or run.error
            if self._group is not None:
                self._group.cancel_scope.cancel()

    def _ended(self, run: Run, first: "weakref.ReferenceType[Handler]") -> None:
        error = run.error
        if isinstance(error, StoreError):
            self._again.add(run.run_id)  # when the cause is gone
        handler = self._handlers.get(run.run_id)
        is_held = first() is not None or (handler is not None and handler.is_of(run))
        if error is None or run.was_over or is_held:
            return  # whoever has the handler is told
        if isinstance(error, RunElsewhere | RunSuspended | LeaseLost | UnknownRun | WorkflowCancelledByUser):
            logger.info("%s", error)
        elif isinstance(error, Exception):
            logger.error("run %s of %s ended here with an error", run.run_id, run.workflow_name, exc_info=error)
        if isinstance(error, CodeChanged | RunDamaged):
            self._unfit.add(run.run_id)

    async def _bring(self, run_id: str, what: str) -> Handler:
        """Have a stored run that hasn't ended in memory."""
        check_id(what, "run_id", run_id, needed=True)
        handler = self._here(run_id)
        if handler is not None and handler.is_done():
            handler = None  # it has ended, or went elsewhere
        if handler is None:
            info = await self._info(run_id)
            if info.status in ENDED:
                raise RunFinished(info.workflow, what)
            handler = self._here(run_id)
            if handler is None:  # nor has it been taken up meanwhile
                handler = self._drive(self._known(info.workflow), run_id, go_on=True)
        return handler

    async def _info(self, run_id: str) -> RunInfo:
        info = await anyio.to_thread.run_sync(self._store.info, run_id)
        if info is None:
            raise await anyio.to_thread.run_sync(self._unknown, run_id)
        return info

    def _unknown(self, run_id: str) -> UnknownRun:
        return UnknownRun(run_id, [one.run_id for one in self._store.find(newest=True, limit=GUESS_AMONG)])

    # --------------------------------------------------------------------------------------------------- the keeper

    def _rests(self, run: Run) -> None:
        """A run has come to rest (or has been told something, and rests anew)."""
        self._resting.pop(run.run_id, None)
        self._resting[run.run_id] = self._tenant.now()
        if len(self._resting) == 1:
            self._wake.set()

    async def _keep(self) -> None:
        with self._keeping:
            while True:
                with anyio.move_on_after(self._pause()):
                    await self._wake.wait()
                self._wake = anyio.Event()
                self._release()
                try:
                    await self._take_up()
                    if self._keep_finished is not None and self._tenant.now() >= self._next_prune:
                        self._next_prune = self._tenant.now() + PRUNE_EVERY
                        await self.prune(keep=self._keep_finished)
                except Exception:
                    logger.warning("the runtime could not look into %r", self._store, exc_info=True)

    def _pause(self) -> float:
        now = self._tenant.now()
        pause = min(self._tenant.lease / 3, self._next_due - now)
        if self._resting and self._release_after is not None:
            pause = min(pause, next(iter(self._resting.values())) + self._release_after - now)
        return max(0.0, pause)

    async def _take_up(self) -> None:
        """Take up the runs that have work to do and nobody to do it."""
        if not self._takes_up:
            return
        names = tuple(self._workflows)
        now = self._tenant.now()
        find = partial(self._store.find, workflows=names, free_at=now)
        await anyio.to_thread.run_sync(self._free_the_dead)
        found = await anyio.to_thread.run_sync(partial(find, statuses=("running",)))
        found += await anyio.to_thread.run_sync(partial(find, statuses=("waiting",), due_by=now))
        found += await anyio.to_thread.run_sync(self._posted_to, partial(find, statuses=("waiting",)))
        again = list(self._again)
        stored = [await anyio.to_thread.run_sync(self._store.info, run_id) for run_id in again]
        self._again.difference_update(again)
        found += [info for info in stored if info is not None and info.status not in ENDED]
        for info in found:
            if info.status == "damaged":
                continue  # listed whatever was asked for; `runs` shows it
            if info.run_id not in self._runs and info.run_id not in self._unfit and self._group is not None:
                _ = self._drive(self._workflows[info.workflow], info.run_id, go_on=True)
        due = await anyio.to_thread.run_sync(self._store.next_due, names)
        # What was due has been taken up, or can't be: there is nothing to hurry for.
        coming = [*self._leaving.values(), *(() if due is None or due <= now else (due,))]
        self._next_due = min(coming, default=math.inf)

    def _free_the_dead(self) -> None:
        """Whose process is known to have ended needn't have its lease waited for."""
        for owner in self._store.owners():
            if owner != self._tenant.owner and is_gone(owner):
                self._store.leave(owner)

    def _posted_to(self, find_resting: Callable[[], list[RunInfo]]) -> list[RunInfo]:
        """Runs that rest with nobody to drive them, and were sent something."""
        sent = {message.run_id for message in self._store.mail()} - set(self._runs)
        infos = [info for info in map(self._store.info, sent) if info is not None]
        names = {info.parent or info.run_id for info in infos}
        return [info for info in find_resting() if info.run_id in names] if names else []

    def _release(self) -> None:
        """Let runs go from memory that have rested long enough."""
        if self._release_after is None:
            return
        now = self._tenant.now()
        while self._resting:
            run_id, since = next(iter(self._resting.items()))
            if since + self._release_after > now:
                return
            del self._resting[run_id]
            run = self._runs.get(run_id)
            if run is None or run.ended or not run.at_rest():
                continue
            soon = run.due is not None and run.due <= now + self._release_after
            if run_id in self._handlers or soon or not (self._release_suspended or run.can_go):
                self._resting[run_id] = now  # not yet
            else:
                if run.due is not None:
                    self._leaving[run_id] = run.due
                run.cancel("it was idle")

    async def _delete(self, ended: list[RunInfo], keep: int | float | timedelta) -> int:
        if isinstance(keep, int):
            old = ended[keep:]
        else:
            seconds = keep.total_seconds() if isinstance(keep, timedelta) else keep
            old = [one for one in ended if one.updated < self._tenant.now() - seconds]
        if not old:
            return 0
        return await anyio.to_thread.run_sync(self._store.delete, [one.run_id for one in old])


def _workflows(call: str, given: Any) -> Iterator[Workflow]:
    several = isinstance(given, Iterable) and not isinstance(given, str | Workflow)
    found: list[Any] = list(cast("Iterable[Any]", given)) if several else [given]
    for workflow in found:
        if not isinstance(workflow, Workflow) or not several:
            cure = "give instances in a list, workflows=[Order()]"
            raise WrongCall(call, f"takes workflows, but got {shown(workflow)}", cure)
        yield workflow


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _name_of(call: str, workflow: Any) -> str:
    if isinstance(workflow, Workflow):
        return plan_of(workflow).name
    if isinstance(workflow, str):
        return workflow
    is_class = isinstance(workflow, type) and issubclass(workflow, Workflow)
    cure = f"make one, {workflow.__name__}(…)" if is_class else 'write "Order", or give the instance'
    raise WrongCall(call, f"takes a workflow or its name, but got {shown(workflow)}", cure)
