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
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel

from flowkit.backend import Backend, uninterrupted
from flowkit.context import RetryInfo
from flowkit.errors import (
    CleanupFailedWarning,
    MisdirectedEvent,
    ResourceError,
    RunFinished,
    UnhandledEventWarning,
    WaitTimedOut,
    WorkflowRuntimeError,
    WrongCall,
    shown,
)
from flowkit.events import Event
from flowkit.facts import (
    Command,
    EventCollected,
    EventPublished,
    EventSent,
    Fact,
    GiveBatch,
    RunCancelled,
    RunResumed,
    RunStarted,
    RunTimedOut,
    StateWritten,
    Stepped,
    StepwiseEnded,
    WaitAbandoned,
    WaitOpened,
)
from flowkit.machine import Machine
from flowkit.performer import Cell, Owner, Performer, logger
from flowkit.resource_pool import Pool
from flowkit.stream import Origin, Stream

__all__ = ["Run"]


class Run(Performer):
    """One run of a plan. It implements the context's `RunFace`, and what a handler needs."""

    __slots__ = (
        "_began",
        "_chosen",
        "_done",
        "_early",
        "_expected",
        "_unseen",
        "begun",
        "children",
        "claimed",
        "deadline",
        "error",
        "origin",
        "parent",
        "result",
        "run_id",
        "settled",
        "stream",
        "timeout",
        "warnings",
        "workflow_name",
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
        super().__init__(machine, owner, backend, keep)
        self.stream = stream
        self.run_id = run_id
        self.workflow_name = machine.plan.name
        self.timeout = timeout
        self.deadline = math.inf
        self.parent = parent
        self.origin = origin
        self.children: list[Run] | None = None
        self.claimed = False
        self.begun = False
        self.settled = False
        self.warnings: list[Warning] | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self._expected: dict[tuple[int, str | None], tuple[Sequence[type], tuple[type, ...]]] | None = None
        self._early: list[tuple[Event, str | None]] | None = None
        self._chosen: list[int] | None = None
        self._unseen = False  # a step's events have not been handed out yet
        self._began: anyio.Event | None = None
        self._done: anyio.Event | None = None

    # ---------------------------------------------------------------------------------------------------- lifetime

    async def drive(self, start: Event | None, gate: anyio.Semaphore | None = None) -> None:
        """Run to the end. ``start`` is the start event; ``None`` goes on with a restored machine.

        Waits for the ``gate`` first; that doesn't count towards the timeout. Afterwards ``result`` or ``error`` is
        set; it raises nothing itself. Cancelling it cancels the run, waits for its clean-up, and is passed on.
        """
        try:
            if gate is not None:
                if await self._has_turn(gate):
                    try:
                        await self._drive(start)
                    finally:
                        gate.release()
            elif self.timeout is None and self.deadline == math.inf and not self.machine.plan.hosts_resources:
                await self._go(start)
            else:
                await self._drive(start)
            if self.machine.outcome is None:
                self.cancel("one of its tasks was cancelled from outside")
        except anyio.get_cancelled_exc_class():
            self.cancel("its owner was cancelled")
            raise
        finally:
            if self.machine.outcome is None:
                self.cancel("its event loop ended")
            if self.children or self._pool is not None:
                with anyio.CancelScope(shield=True):
                    await self._end_children()
                    await self._unwind()
            self._settle()

    async def _has_turn(self, gate: anyio.Semaphore) -> bool:
        """Wait for the run's turn; false where it was cancelled, or its deadline passed, while it waited."""
        with anyio.CancelScope(deadline=self.deadline) as self._turn:
            await gate.acquire()
            return True
        if self.machine.outcome is None:
            self.cancel("the deadline of the scope it was started in has passed")
        return False

    async def _drive(self, start: Event | None) -> None:
        go = self._go_hosted if self.machine.plan.hosts_resources else self._go
        limit = math.inf if self.timeout is None else self._clock() + self.timeout
        deadline = min(limit, self.deadline)
        if deadline == math.inf:
            await go(start)
        else:
            with anyio.CancelScope(deadline=deadline):
                await go(start)
        if self.machine.outcome is None:
            now = self._clock()
            if self.timeout is not None and now >= limit:
                self.apply(RunTimedOut(self._now(), self.timeout))
            elif now >= deadline:
                self.cancel("the deadline of the scope it was started in has passed")

    async def _go(self, start: Event | None) -> None:
        """A task group while anything runs; between rests only an event to wake by."""
        begun = False
        while True:
            task_group = anyio.create_task_group()
            try:
                async with task_group:
                    self._task_group = task_group
                    if not begun:
                        begun = True
                        self._begin(start)
                    else:
                        early, self._unborn = self._unborn, None
                        for task, argument in early or ():
                            task_group.start_soon(task, argument)
                    if not self._inside:
                        self._task_group = None
            except BaseExceptionGroup as group:
                self._crashed(_first_of(group))
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
                around.start_soon(self._hold_resources, pool)
                cancelled = True
                try:
                    await self._go(start)
                    cancelled = False
                finally:
                    pool.stop(cancelled=cancelled)
        except BaseExceptionGroup as group:
            self._crashed(_first_of(group))

    async def _hold_resources(self, pool: Pool) -> None:
        try:
            await pool.host()
        except Exception as error:  # noqa: BLE001 - becomes the run's error, or one of its others
            self._crashed(self._unclosed(error))

    def _begin(self, start: Event | None) -> None:
        if self.machine.outcome is not None:
            return  # cancelled before it began
        if self.parent is not None:
            if self.parent.ended:
                self.cancel("the run it was started in has ended")
                return
            self.parent.adopt(self)
        self.begun = True
        self.apply(RunResumed(self._now()) if start is None else RunStarted(self._now(), self.run_id, start))
        if self.machine.stepwise:
            self._chosen = list(self.machine.held)
        early, self._early = self._early, None
        for event, step in early or ():
            if self.machine.outcome is None:
                self.send(event, step, None)
        if self._began is not None:
            self._began.set()

    @uninterrupted
    def _settle(self) -> None:
        """Close what the run held, and say how it ended."""
        for station in self._stations:
            if station is not None:
                station.send.close()
                station.receive.close()
        finish = self.machine.outcome
        assert finish is not None
        self.result, self.error = finish.result, finish.error
        others = self._others
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
        self._task_group = None
        self._stations = []
        self.stream.close()
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
        """End the run now. Does nothing where it has ended."""
        if self.machine.outcome is None:
            self.apply(RunCancelled(self._now(), reason, by_user=by_user))

    def show(self, event: Event, origin: Origin | None) -> None:
        """Append an event to the stream, and to that of the run this one is nested in, with where it came from."""
        self.stream.write(event, origin)
        if self.parent is not None:
            self.parent.show(event, origin or self.origin)

    def quieten(self) -> None:
        if self._rested is not None and not self.machine.stepwise:
            self._rested.set()
        if self.parent is not None:
            self.parent.quieten()

    def waits_outside(self) -> bool:
        """Whether nothing in this run, nor in those nested in it, moves on without somebody outside."""
        machine = self.machine
        nested = [child for child in self.children or () if not child.ended]
        return (
            machine.outcome is None
            and self.begun
            and not machine.timers
            and machine.busy <= len(nested)
            and all(child.waits_outside() for child in nested)
        )

    async def settle(self) -> None:
        """Wait until the run has ended, or waits for somebody outside."""
        while not self.settled and not self.waits_outside():
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

    # ---------------------------------------------------------------------------------------- the context's RunFace

    def _from_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return anyio.from_thread.run_sync(call, *args)
        except RuntimeError as error:
            if isinstance(error, WorkflowRuntimeError):
                raise
            calls = {"send": "send_event", "publish": "write_event_to_stream", "collect": "collect_events"}
            raise WrongCall(
                calls.get(call.__name__, call.__name__),
                "was called from a thread that isn't the event loop's, nor that of a plain step",
                "use anyio.from_thread.run_sync there, with a BlockingPortal or token of the loop",
            ) from error

    def send(self, event: Event, step: str | None, invocation: int | None) -> None:
        if threading.get_ident() != self._thread:
            self._from_thread(self.send, event, step, invocation)
            return
        machine = self.machine
        if machine.outcome is not None:
            raise RunFinished(self.workflow_name, f"send_event({type(event).__name__})")
        if not isinstance(event, Event):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _no_event("send_event", event)
        if step is not None:
            self._check_target(event, step)
        if invocation in machine.invocations:
            self.apply(EventSent(self._clock() + self._epoch, invocation, event, step))
            return
        if not self.begun:
            # Sent between run() and the loop's next turn, in which the run begins.
            self._early = [*(self._early or ()), (event, step)]
            return
        if step is None and self._hand_down(event):
            return
        if not machine.stepwise:
            self.apply(EventSent(self._now(), None, event, step))
            return
        number = next(
            (one for one, held in machine.held.items() if held.event is event and one not in (self._chosen or ())), None
        )
        if number is None:
            self.apply(EventSent(self._now(), None, event, step))
            number = machine.last
        self._chosen = [*(self._chosen or ()), number]

    def _check_target(self, event: Event, step: str) -> None:
        plan = self.machine.plan
        spec = plan.step(step)
        if spec is None:
            raise MisdirectedEvent(plan.name, step, event, steps=(one.name for one in plan.steps))
        if not issubclass(type(event), spec.accepts):
            takes = " | ".join(one.__name__ for one in spec.accepts)
            raise MisdirectedEvent(plan.name, step, event, takes=takes, where=spec.where)

    def publish(self, event: Event, invocation: int | None) -> None:
        if threading.get_ident() != self._thread:
            self._from_thread(self.publish, event, invocation)
            return
        if self.machine.outcome is not None:
            raise RunFinished(self.workflow_name, f"write_event_to_stream({type(event).__name__})")
        if not isinstance(event, Event):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _no_event("write_event_to_stream", event)
        self.apply(EventPublished(self._clock() + self._epoch, invocation, event))

    def collect(
        self, event: Event, expected: Iterable[type[Event]], buffer: str | None, invocation: int
    ) -> list[Any] | None:
        if threading.get_ident() != self._thread:
            found: list[Any] | None = self._from_thread(self.collect, event, expected, buffer, invocation)
            return found
        if self.machine.outcome is not None:
            raise RunFinished(self.workflow_name, "collect_events")
        entry = self.machine.invocations.get(invocation)
        if entry is None:
            raise _too_late("collect_events")
        if not isinstance(event, Event):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _no_event("collect_events", event)
        if self._expected is None:
            self._expected = {}
        key = (entry.lane.index, buffer)
        known = self._expected.get(key)
        changed: tuple[type, ...] | None = None
        # Counting a long list anew for each event would make the batch quadratic: the same list is recognised.
        if known is None or known[0] is not expected or len(known[0]) != len(known[1]):
            types = tuple(expected) if isinstance(expected, Iterable) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
            if not types or not all(isinstance(kind, type) and issubclass(kind, Event) for kind in types):
                raise WrongCall(
                    "collect_events",
                    f"takes a list of event classes, but got {shown(expected)}",
                    "write collect_events(ev, [A, B])",
                )
            if buffer is not None and not isinstance(buffer, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise WrongCall("collect_events", f"takes a text as buffer_id, but got {shown(buffer)}", "write str(…)")
            changed = None if known is not None and known[1] == types else types
            self._expected[key] = (expected if isinstance(expected, list | tuple) else types, types)
        for command in self.apply(EventCollected(self._clock() + self._epoch, invocation, buffer, event, changed)):
            if type(command) is GiveBatch:
                return command.events
        return None

    async def wait(
        self,
        invocation: int,
        event_type: type[Event],
        question: Event | None,
        waiter: str | None,
        requirements: dict[str, Any],
        timeout: float | None,
    ) -> Event:
        if waiter is None:
            if self._waits is None:
                self._waits = {}
            position = self._waits[invocation] = self._waits.get(invocation, 0) + 1
            waiter = f"#{position}"
        entry = self.machine.invocations.get(invocation)
        if entry is None:
            raise _too_late("wait_for_event")
        if self._cells is None:
            self._cells = {}
        key = (invocation, waiter)
        if key in self._cells:
            raise WrongCall(
                "wait_for_event",
                f"was called twice at once as {waiter!r} in one step",
                "give each wait its own waiter_id",
            )
        cell = self._cells[key] = Cell(anyio.Event())
        try:
            self.apply(WaitOpened(self._now(), invocation, waiter, event_type, requirements, timeout, question))
            await cell.woken.wait()
        except BaseException:
            if self.machine.outcome is None:
                self.apply(WaitAbandoned(self._now(), invocation, waiter))
            raise
        finally:
            del self._cells[key]
        if cell.event is None:
            raise WaitTimedOut(entry.lane.spec.name, event_type.__name__, timeout or 0.0)
        return cell.event

    def write_state(self, path: tuple[str, ...], value: Any) -> None:
        self.apply(StateWritten(self._now(), path, value))

    def retry_info(self, invocation: int) -> RetryInfo:
        if threading.get_ident() != self._thread:
            info: RetryInfo = self._from_thread(self.retry_info, invocation)
            return info
        if invocation not in self.machine.invocations:
            raise _too_late("retry_info")
        attempt, since = self.machine.retry_info(invocation)
        return RetryInfo(attempt, 0.0 if since is None else self._now() - since)

    def to_dict(self) -> dict[str, Any]:
        if not self.machine.started:
            raise WrongCall(
                "to_dict():",
                f"this run of {self.workflow_name} has not begun, it waits for its turn",
                "await something first, or save a Context that no run has been given",
            )
        return self._owner.dump_run(self.machine)

    # ------------------------------------------------------------------------------------------------------- nesting

    def nested(self, run_id: str) -> "Run":
        """The run of this id nested in this one, at any depth.

        Raises:
            WorkflowRuntimeError: there is none, or it has ended.
        """
        todo = list(self.children or ())
        while todo:
            child = todo.pop()
            if child.run_id == run_id:
                return child
            todo.extend(child.children or ())
        raise WrongCall(
            "send_event(to=…):",
            f"no nested run {run_id!r} is under way in this run of {self.workflow_name}",
            "it has ended, or `to` isn't the origin that came with a question of this run",
        )

    def adopt(self, child: "Run") -> None:
        """A run was started inside one of this run's steps."""
        if self.children is None:
            self.children = []
        self.children.append(child)

    async def _end_children(self) -> None:
        """Cancel the nested runs that their steps left behind, and wait for their clean-up: nothing outlives a run."""
        for child in list(self.children or ()):
            child.cancel("the run it was started in has ended")
        for child in list(self.children or ()):
            await child.join()

    def disown(self, child: "Run") -> None:
        """A nested run has settled."""
        if self.children is not None and child in self.children:
            self.children.remove(child)

    def _hand_down(self, event: Event) -> bool:
        """Give an event from outside to the nested run that wants it, where this one doesn't."""
        if not self.children or self.machine.accepts(type(event)):
            return False
        live = [child for child in self.children if not child.ended]
        taker = next((child for child in live if child.wants(event)), live[0] if len(live) == 1 else None)
        if taker is None:
            return False
        taker.send(event, None, None)
        return True

    def wants(self, event: Event) -> bool:
        """Whether this run, or one nested in it, would take the event now."""
        if self.machine.expects(event):
            return True
        return any(child.wants(event) for child in self.children or () if not child.ended)

    # ------------------------------------------------------------------------------------------------------ stepwise

    async def step(self) -> list[Event]:
        """Release the events that were sent since, let every ready step run to its end, and give what was produced."""
        if self._rested is not None:
            raise WrongCall("run_step()", "is already running", "await it before calling it again")
        machine = self.machine
        self._rested = rested = anyio.Event()
        try:
            if not self.begun and not self.settled:
                self._began = anyio.Event()
                await self._began.wait()
                self._rested = rested = anyio.Event()
            if machine.outcome is None:
                if not self._unseen:
                    self._unseen = True
                    chosen, self._chosen = self._chosen or (), None
                    self.apply(Stepped(self._now(), tuple(chosen)))
                elif not (machine.busy or machine.retrying):
                    rested.set()  # the call before was cancelled, and nobody has seen what its step produced
                await rested.wait()
        finally:
            if self._rested is rested:
                self._rested = None
        if machine.outcome is not None:
            await self.join()
            return []
        self._unseen = False
        return [held.event for held in machine.held.values()]

    def run_freely(self) -> None:
        """End stepwise execution: from here on events go where they belong by themselves."""
        if self.machine.stepwise and self.machine.outcome is None and self.begun:
            chosen, self._chosen = self._chosen or (), None
            # What nobody was shown, nobody can have meant to drop.
            self.apply(StepwiseEnded(self._now(), tuple(self.machine.held if self._unseen else chosen)))
        else:
            self.machine.stepwise = False


def _too_late(call: str) -> WrongCall:
    return WrongCall(call, "was called on the context of a step that has returned", "call it while the step runs")


def _no_event(call: str, given: Any) -> WrongCall:
    cure = "put it into a field of an event"
    if isinstance(given, type) and issubclass(given, Event):
        cure = f"build one, {given.__name__}(…)"
    elif isinstance(given, list | tuple):
        cure = "call it for each"
    return WrongCall(call, f"takes an event, but got {shown(given)}", cure)


def _first_of(error: BaseException) -> BaseException:
    """What a task group's exceptions come down to: Ctrl-C or exit before all else, then the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    members: tuple[BaseException, ...] = error.args[1]
    found = [_first_of(member) for member in members]
    return next((one for one in found if not isinstance(one, Exception)), found[0])
