"""The runner: the AnyIO shell around one machine.

**One run is one task group.** `Run.drive` opens it, enters the first fact, and then only waits for the end: everything
else happens in the steps' workers (performer.py). While a run rests (it waits for a person, say, and no step is
suspended) nothing is left in the group; it is closed and another opened when the run goes on. So a resting run costs
one task on one event.

**The end.** The task group waits for every task, thread and clean-up; what fails while being cancelled is kept in the
error's ``others``. Then the run's resources are closed, and only then do those who wait for the run hear of it. The
run's timeout is a cancel scope around the task group.

Besides its lifetime, a `Run` is what a context talks to (the `RunFace`), knows the runs nested in it, and can be
stepped.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel

from flowkit.backend import Backend, uninterrupted, watch_this_task
from flowkit.errors import (
    CleanupFailedWarning,
    EventError,
    ResourceError,
    SerializationError,
    UnhandledEventWarning,
    WorkflowRuntimeError,
    WrongCall,
)
from flowkit.events import Event
from flowkit.facts import (
    Command,
    Fact,
    RunCancelled,
    RunResumed,
    RunStarted,
    RunTimedOut,
    Stepped,
    StepwiseEnded,
)
from flowkit.machine import Machine
from flowkit.nesting import Nesting
from flowkit.performer import first_of, logger
from flowkit.recent import Ended, NotedError
from flowkit.resource_pool import Pool
from flowkit.stations import Owner
from flowkit.storage_errors import RunSuspended, UnknownRun
from flowkit.stream import Origin, Stream
from flowkit.turns import Turn

if TYPE_CHECKING:
    from flowkit.log import RunLog
    from flowkit.records import Head

__all__ = ["Run"]


class Run(Nesting):
    """One run of a plan. It implements the context's `RunFace`, and what a handler needs."""

    __slots__ = (
        "_began",
        "_done",
        "_driver",
        "_unheld",
        "_unseen",
        "claimed",
        "deadline",
        "doomed",
        "error",
        "hosted",
        "lacks",
        "origin",
        "resting",
        "result",
        "settled",
        "stream",
        "supervised",
        "timeout",
        "told",
        "turn",
        "warnings",
    )

    def __init__(
        self,
        machine: Machine,
        owner: Owner,
        backend: Backend,
        stream: Stream,
        *,
        run_id: str,
        timeout: float | None = None,
        parent: "Run | None" = None,
        origin: Origin | None = None,
        keep: Callable[[Fact, Sequence[Command]], None] | None = None,
    ) -> None:
        super().__init__(machine, owner, backend, run_id, keep)
        if parent is not None and parent._backend.loop is backend.loop:
            self._epoch = parent._epoch  # so that what happened in both can be put in order
        self.stream = stream
        self.timeout = timeout
        self.deadline = math.inf
        self.parent = parent
        self.origin = origin
        self.children = None
        self.claimed = False
        self.turn: Turn | None = None  # its place in the queue, where only so many may be under way
        self.supervised = False  # a task of the loop drives it, in the background
        self.hosted = False  # a runtime owns it
        self.told = False  # its caller has said what to start with
        self.lacks: EventError | None = None  # what of that is missing where it is new
        self.doomed = False  # it is to be cancelled as soon as it has been found in its store
        self.resting: Callable[[Run], None] | None = None  # told when it is at rest
        self.settled = False
        self.warnings: list[Warning] | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self._unheld = False  # no event is held back, however the run began
        self._unseen = False  # a step's events have not been handed out yet
        self._began: anyio.Event | None = None
        self._done: anyio.Event | None = None
        self._driver: anyio.TaskInfo | None = None  # of a run with a store

    # ---------------------------------------------------------------------------------------------------- lifetime

    def keep_in(self, log: "RunLog") -> None:
        """Keep this run in a store. To be called before it is driven."""
        self._log = log

    @property
    def log(self) -> "RunLog | None":
        """Its connection to its store, where it has one."""
        return cast("RunLog | None", self._log)

    @uninterrupted
    async def drive(self, start: Event | None) -> None:
        """Run to the end. ``start`` is the start event; ``None`` goes on with a restored machine.

        Waits for its turn first; that doesn't count towards the timeout. Afterwards ``result`` or ``error`` is
        set; it raises nothing itself. Cancelling it cancels the run, waits for its clean-up, and is passed on.
        """
        try:
            if self._log is not None:
                self._driver = anyio.get_current_task()
                if not await self._find(start):
                    start = None
            if self.turn is not None and not self.doomed:
                if self._log is not None:
                    self._begin(start)  # so its start is stored before it has its turn
                has_turn = self.machine.outcome is None and await self._has_turn(self.turn)
                if self.machine.outcome is None and (has_turn or self.doomed):
                    await self._drive(start)
            elif self.timeout is None and self.deadline == math.inf and not self.machine.plan.hosts_resources:
                await self._go(start)
            else:
                await self._drive(start)
            if self.machine.outcome is None:
                self.cancel("one of its tasks was cancelled from outside")
        except anyio.get_cancelled_exc_class():
            self._disowned()
            raise
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - exit or Ctrl-C, out of an instrument
            self._crashed(error)
        finally:
            if self.machine.outcome is None:
                self.cancel("its event loop ended")
            try:
                if self.children or self._pool is not None:
                    await self._wind_up()
                if self._log is not None:
                    await self.log_closed()
            finally:
                if self._borrowed is not None:
                    self._borrowed.leave(self)
                self._settle()

    async def _find(self, start: Event | None) -> bool:
        """Look the run up in its store; true where it is new, and begins with its start event."""
        log = self.log
        assert log is not None
        try:
            if await log.open(start, patient=self.machine.patient):
                if start is None and not self.machine.started and not log.is_stopping:
                    raise self.lacks or UnknownRun(self.run_id)
                return True
        except Exception as error:  # noqa: BLE001 - becomes the run's error
            self.abandon(error, stored=False)
            return True
        if (ignored := self.ignores(start if self.told else None)) is not None:
            self.warnings = [ignored]
        return False

    def ignores(self, start: Event | None) -> Warning | None:
        """What is to be said where it was to start with this, and has begun with something else."""
        if start is None or start == self.machine.start_event:
            return None
        return UserWarning(
            f"run {self.run_id!r} of {self.workflow_name} is in its store already, so what it was to start with now "
            "is ignored: give a new run another run_id."
        )

    async def log_closed(self) -> None:
        """Wait until all of it is in its store, and give it up there."""
        log = self.log
        assert log is not None
        await log.close(self._other)

    def _disowned(self) -> None:
        if self.machine.outcome is not None:
            return
        if not self.supervised:
            self.cancel("its owner was cancelled")
            return
        self.cancel("its event loop ended")
        what = "cancelled" if self._log is None else "suspended"
        self.warnings = [
            ResourceWarning(
                f"a run of {self.workflow_name} was under way when its event loop ended, so it was {what}: await the "
                "handler."
            )
        ]

    def enlist(self) -> bool:
        """Have the run this one is nested in wait for it, from now on, before its task has begun; false where that run
        has ended: then this one has, too."""
        if self.parent is None:
            return True
        if self.parent.ended:
            self.cancel("the run it was started in has ended")
            self._settle()
            return False
        self.parent.adopt(self)
        return True

    def lost(self) -> None:
        """The task that was to drive it has ended, perhaps before it began."""
        if not self.settled:
            self._disowned()
            self._settle()

    async def _wind_up(self) -> None:
        try:
            await self._end_children()
        finally:
            with anyio.CancelScope(shield=True):
                await self._unwind()

    async def _has_turn(self, turn: Turn) -> bool:
        """Wait for the run's turn; false where it was cancelled, or its deadline passed, while it waited."""
        with anyio.CancelScope(deadline=self.deadline) as self._turn:
            await turn.wait()
            return True
        if self.machine.outcome is None and not self.doomed:
            self.cancel("the deadline of the scope it was started in has passed")
        return False

    async def _drive(self, start: Event | None) -> None:
        go = self._go_hosted if self.machine.plan.hosts_resources else self._go
        limit = math.inf if self.timeout is None else self._clock() + self.timeout
        if start is None and self.log is not None and self.timeout is not None:
            limit = self.log.created + self.timeout - self._epoch  # it has been counting since the run began
        self._limit = limit + self._epoch
        if self.watch is not None and limit < math.inf:
            self.watch.run.deadline = self._limit
        deadline = min(limit, self.deadline)
        if deadline == math.inf:
            await go(start)
        else:
            with anyio.CancelScope(deadline=deadline):
                await go(start)
        if self.machine.outcome is None:
            _ = self._is_late()

    def _is_late(self) -> bool:
        """Whether its time, or that of the scope it was started in, is over; then it ends now."""
        if self._in_time() >= self.deadline + self._epoch:
            self.cancel("the deadline of the scope it was started in has passed")
        return self.machine.outcome is not None

    def is_torn(self) -> bool:
        if self._driver is None:
            return False  # only a run with a store goes on from here, with the wait still open
        group = self._task_group  # on asyncio its host waits in a shield once it has felt the cancellation
        if not (self._driver.has_pending_cancellation() or (group is not None and group.cancel_scope.cancel_called)):
            return False
        if not self._is_late():
            self._disowned()
        return True

    def expire(self) -> None:
        self._limit = math.inf
        if self.timeout is not None and self.machine.outcome is None:
            self._end(RunTimedOut(self._now(), self.timeout))

    async def _go(self, start: Event | None) -> None:
        """A task group while anything runs; between rests only an event to wake by."""
        self._context = self._backend.context()
        while True:
            task_group = anyio.create_task_group()
            try:
                async with task_group:
                    self._task_group = task_group
                    early, self._unborn = self._unborn, None
                    for task, argument in early or ():
                        task_group.start_soon(task, argument)
                    if not self.begun:
                        self._begin(start)
                    if not self._inside:
                        self._task_group = None
            except BaseExceptionGroup as group:
                self._crashed(first_of(group))
            if self.machine.outcome is not None or task_group.cancel_scope.cancel_called:
                return
            del task_group  # a run may rest for long
            if not self._unborn:
                self._woken = woken = anyio.Event()
                await woken.wait()
                self._woken = None

    async def _go_hosted(self, start: Event | None) -> None:
        """With a task around it that holds the run's async context managers (see resource_pool.py)."""
        pool = self._pool = Pool()
        try:
            async with anyio.create_task_group() as around:
                around.start_soon(self._hold_resources, pool, watch_this_task())
                cancelled = True
                try:
                    await self._go(start)
                    cancelled = False
                finally:
                    try:
                        if self.children:
                            await self._end_children()
                    finally:
                        pool.stop(cancelled=cancelled)
        except BaseExceptionGroup as group:
            self._crashed(first_of(group))

    async def _hold_resources(self, pool: Pool, owner_cancelled: Callable[[], bool]) -> None:
        try:
            await pool.host(owner_cancelled)
        except Exception as error:  # noqa: BLE001 - becomes the run's error, or one of its others
            self._crashed(self._unclosed(error))

    def carry(self, start: Event | None, head: "Head | None" = None) -> Mapping[str, str] | None:
        """What its instruments gave it for the way; where they haven't been asked, they are now."""
        machine = self.machine
        if self.watch is not None:
            if head is not None and head.forked_from is not None:
                self.watch.run.forked_from, self.watch.run.inherited = head.forked_from[0], dict(head.inherited or {})
            self.watch.run.resumed = machine.started
            machine.carried = self.watch.carry(self._now(), start or machine.start_event, machine)
        return machine.carried

    def _begin(self, start: Event | None) -> None:
        if self.machine.outcome is not None:
            return  # cancelled before it began
        if self.parent is not None:
            if self.parent.ended:
                self.cancel("the run it was started in has ended")
                return
            self.parent.adopt(self)
            self.guarded = self.guarded or self.parent.guarded
        self.begun = True
        if self.doomed:
            self.cancel("it was cancelled before it could go on", by_user=True)
            return
        _ = self.carry(start)
        try:
            self.apply(RunResumed(self._now()) if start is None else RunStarted(self._now(), self.run_id, start))
        except SerializationError as error:
            self.abandon(error, stored=False)  # its start event can't be stored: nothing of it is
            return
        if self.machine.stepwise:
            self._chosen = [one for one, held in self.machine.held.items() if held.event is self.machine.start_event]
            self._unseen = start is None and not self._chosen
            if self._unheld:
                self.run_freely()
        early, self._early = self._early, None
        for event, step in early or ():
            if self.machine.outcome is None:
                self.send(event, step, None)
        if self._began is not None:
            self._began.set()

    @uninterrupted
    def _settle(self) -> None:
        """Close what the run held, and say how it ended."""
        if self.turn is not None:
            self.turn.leave()
        for station in self._stations:
            if station is not None:
                station.send.close()
                station.receive.close()
        finish = self.machine.outcome
        assert finish is not None
        self.result, self.error, others = finish.result, finish.error, self._others
        if self._fatal is not None and self._fatal is not finish.error:
            self.result, self.error = None, self._fatal
            others = [*([] if finish.error is None else [finish.error]), *(others or ())]
        if others:
            if self.error is None:
                self._report(others)
            elif isinstance(self.error, WorkflowRuntimeError):
                self.error.others = tuple(others)
            else:
                for other in others:
                    self.error.add_note(f"also failed in this run: {type(other).__name__}: {other}")
        if self.error is None and self.machine.waits.kept:
            self.warnings = (self.warnings or []) + [
                UnhandledEventWarning(
                    f"{self.workflow_name} ended, but {type(kept.event).__name__} sent by {kept.sender} was never "
                    "taken: no step accepts it and no wait was open for it."
                )
                for kept in self.machine.waits.unhandled()
            ]
        self.settled = True
        if self.error is not None:
            self.note(Ended(self._now(), NotedError.of(self.error)))
        if self.watch is not None:
            self.error = self.watch.end(self._now(), self.result, self.error)
        self._task_group = None
        self._stations = []
        self.stream.close()
        for cell in self._cells.values() if self._cells else ():
            cell.woken.set()  # it waits in a task that is not the run's
        if self.parent is not None:
            self.parent.disown(self)
        if self._done is not None:
            self._done.set()
        for event in (self._rested, self._began):
            if event is not None:
                event.set()

    def _report(self, others: list[BaseException]) -> None:
        """The run has a result, so what failed beside it can only be reported."""
        failed = next((other for other in others if isinstance(other, ResourceError)), None)
        if failed is not None:
            self.error = failed
            failed.others = tuple(other for other in others if other is not failed)
            return
        for other in others:
            logger.error("clean-up failed in a run of %s that had ended", self.workflow_name, exc_info=other)
            self.warnings = (self.warnings or []) + [
                CleanupFailedWarning(
                    f"a step of {self.workflow_name} failed while it was cancelled at the run's end: "
                    f"{type(other).__name__}: {other}"
                )
            ]

    async def join(self) -> None:
        """Wait until the run has settled. Cancelling this doesn't cancel the run."""
        if self.settled:
            await anyio.lowlevel.checkpoint()
            return
        if self._done is None:
            self._done = anyio.Event()
        await self._done.wait()

    def cancel(self, reason: str, *, by_user: bool = False) -> None:
        """End the run now. Does nothing where it has ended.

        A run with a store ends for good only ``by_user``: where its owner goes away it is suspended.
        """
        if by_user:
            _ = self._in_time()  # a run whose time was over can't be cancelled any more
        if self.machine.outcome is not None:
            return
        if by_user and self._log is not None and not self.begun:
            self.doomed = True
            if self._turn is not None:
                self._turn.cancel()
        elif self._log is None or by_user:
            self._end(RunCancelled(self._now(), reason, by_user=by_user))
        else:
            suspended = RunSuspended(self.run_id, self.workflow_name, reason, waiting=self.at_rest())
            self.abandon(suspended, stored=True)

    def show(self, event: Event, origin: Origin | None) -> None:
        """Append an event to the stream, and to that of the run this one is nested in, with where it came from."""
        self.stream.write(event, origin)
        if self.parent is not None:
            self.parent.show(event, origin or self.origin)

    def quieten(self) -> None:
        if self._log is not None:
            self._log.touch()
        if self.resting is not None:
            self.resting(self)
        if self._rested is not None and not self.machine.stepwise:
            self._rested.set()
        if self.parent is not None:
            self.parent.quieten()

    async def come_up(self) -> None:
        """Wait until the run has begun, and that is stored; or until it has settled."""
        while not (self.begun or self.settled):
            self._began = self._began or anyio.Event()
            await self._began.wait()
        if self._log is not None and not self.settled:
            await self._log.written()

    @property
    def is_suspended(self) -> bool:
        """Whether it was stopped here before its end."""
        return self._fatal is not None

    @property
    def was_over(self) -> bool:
        """Whether it had ended before, and was only read from its store."""
        return self._log is not None and self.ended and not self.begun and not self.is_suspended

    async def opened(self) -> None:
        """Wait until a stored run is there, so that its state is its own."""
        if self._log is not None and not self.begun:
            await self.come_up()

    @property
    def due(self) -> float | None:
        """When its time comes, or that of a run nested in it (a timer or the timeout), in seconds since the epoch."""
        times = [timer.at for timer in self.machine.timers.values()]
        if self.timeout is not None and self.log is not None:
            times.append(self.log.created + self.timeout)
        times += [child.due for child in self.children or () if not child.ended and child.due is not None]
        return min(times, default=None)

    @property
    def can_go(self) -> bool:
        """Whether nothing of it is lost when it leaves memory now: no step of it is suspended."""
        return not self.machine.waits.open and not self.children

    async def come_to_rest(self) -> None:
        """Wait until the run has ended, or nothing in it moves on without somebody outside or a timer."""
        await self._until(self.at_rest)

    async def settle(self) -> None:
        """Wait until the run has ended, or waits for somebody outside."""
        await self._until(self.waits_outside)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not self.settled and not is_so():
            self._rested = rested = self._rested or anyio.Event()
            await rested.wait()
            if self._rested is rested:
                self._rested = None
        await anyio.lowlevel.checkpoint()

    # ----------------------------------------------------------------------------------------------------- resources

    async def _unwind(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                await pool.unwind()
            except Exception as error:  # noqa: BLE001 - kept as the run's error, or beside it
                self._other(self._unclosed(error))

    def _unclosed(self, error: Exception) -> Exception:
        if isinstance(error, ResourceError):
            return error
        return ResourceError(
            f"closing the resources of a run of {self.workflow_name} failed: {type(error).__name__}: {error}",
            resource="",
        ).with_cause(error)

    # ------------------------------------------------------------------------------------------------------ stepwise

    async def step(self) -> list[Event]:
        """Release the events that were sent since, let every ready step run to its end, and give what was produced.

        Where nobody has seen what was produced before (the call was cancelled, the run goes on from its store), that is
        given first.
        """
        if self._rested is not None:
            raise WrongCall("run_step()", "is already running", "await it before calling it again")
        self._rested = rested = anyio.Event()
        try:
            if self._unseen or not self.begun:
                await self.come_up()  # what is taken up is a machine of its own
                self._rested = rested = anyio.Event()
            machine = self.machine
            if machine.outcome is None:
                if not machine.stepwise:
                    cure = "await it, or start a new one with run(stepwise=True)"
                    raise WrongCall("run_step()", f"needs a stepwise run, which {self.run_id!r} didn't begin as", cure)
                is_busy = bool(machine.busy or machine.retrying)
                if not self._unseen or not (is_busy or self._offered()):
                    self._unseen = True
                    chosen, self._chosen = self._chosen or (), None
                    self.apply(Stepped(self._now(), tuple(chosen)))
                elif not is_busy:
                    rested.set()
                await rested.wait()
        finally:
            if self._rested is rested:
                self._rested = None
        if machine.outcome is not None:
            await self.join()
            return []
        self._unseen = False
        return self._offered() or (await self.step() if self._chosen else [])  # sent from outside meanwhile

    def _offered(self) -> list[Event]:
        """The events that are held back, but those that were sent on."""
        return [held.event for number, held in self.machine.held.items() if number not in (self._chosen or ())]

    def run_freely(self) -> None:
        """End stepwise execution: from here on events go where they belong by themselves."""
        if self.machine.stepwise and self.machine.outcome is None and self.begun:
            chosen, self._chosen = self._chosen or (), None
            # What nobody was shown, nobody can have meant to drop.
            self.apply(StepwiseEnded(self._now(), tuple(self.machine.held if self._unseen else chosen)))
        else:
            self._unheld, self.machine.stepwise = True, False
