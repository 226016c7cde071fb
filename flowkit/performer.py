"""Performing a run's commands: channels, workers, timers.

Each step that has something to do has a *station*: a memory object channel and the workers that read it. A worker is
started, with its first event in hand, when its step has more work than workers, up to ``num_workers`` (one more for
each that is suspended in a wait); the channel brings what comes later. It is opened when its step first gets an event,
and closed when the run comes to rest.

**No task in the middle.** A worker that finishes an attempt calls `Performer.apply` with the fact; the machine answers
with commands, and they are performed there and then: ``send_nowait`` on the next step's channel, an event set for a
wait, a timer task. One hop per event. A worker that finishes while its own step has more to do takes that itself, up to
`BURST` in a row, instead of passing it through the channel to whoever is first.

**The end.** `Finish` closes the channels, so that idle workers end by themselves (cheaper than cancelling), and cancels
the task group only where something is still running.

**Write, then act.** With a ``keep`` hook each fact is handed over before its commands are performed. A run with a store
has a *log* (log.py): it is given a fact and what follows from it, and calls `Performer.act` once that is on disk. The
machine has moved on by then, so it is ahead of what has been performed, never behind. Where either fails, the run ends
here and now with the error, and nothing more is written: the store has it as it was.

**Atomic steps.** What an attempt of ``@step(atomic=True)`` writes, sends and shows is kept aside as facts
(``_intents``), and entered together with its return as one fact; its context reads through them.

**Context variables.** Every attempt sees those of the run, not those of whoever sent its event, nor what the attempt
before it in the same worker has set.
"""

import contextvars
import functools
import inspect
import logging
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from flowkit import outside
from flowkit.backend import Backend, escaped_cancellation, uninterrupted
from flowkit.context import Context, RunFace
from flowkit.errors import RunFinished, SerializationError, WorkflowRuntimeError
from flowkit.events import Event
from flowkit.facts import (
    AnswerWait,
    CancelTimer,
    Command,
    EventPublished,
    EventSent,
    Fact,
    Finish,
    GiveBatch,
    Publish,
    Rest,
    RunFailed,
    SetTimer,
    StartStep,
    StateWritten,
    StepCommitted,
    StepRaised,
    StepReturned,
    TimerFired,
)
from flowkit.machine import Machine
from flowkit.plain_call import PlainCall
from flowkit.recent import CLEANED, Recent, noted, nothing
from flowkit.resource_pool import Needs, Pool, resources_for
from flowkit.state import State, StateBehind
from flowkit.stations import BURST, Cell, Committed, Log, Owner, Station
from flowkit.steps import CTX_EVENT, EVENT, EVENT_CTX, GENERAL, StepSpec
from flowkit.storage_errors import RunSuspended
from flowkit.watch import Watch

__all__ = ["Performer", "first_of", "logger"]

logger = logging.getLogger("flowkit")


class Performer(ABC):
    """The half of a run that does what the machine says."""

    __slots__ = (
        "__weakref__",
        "_backend",
        "_borrowed",
        "_cells",
        "_clock",
        "_context",
        "_direct",
        "_epoch",
        "_fatal",
        "_free",
        "_inside",
        "_intents",
        "_keep",
        "_limit",
        "_log",
        "_nested",
        "_others",
        "_owner",
        "_pool",
        "_rested",
        "_stations",
        "_task_group",
        "_thread",
        "_timers",
        "_turn",
        "_unborn",
        "_waits",
        "_woken",
        "guarded",
        "machine",
        "note",
        "recent",
        "watch",
    )

    def __init__(
        self,
        machine: Machine,
        owner: Owner,
        backend: Backend,
        keep: Callable[[Fact, Sequence[Command]], None] | None,
    ) -> None:
        self.machine = machine
        self._owner = owner
        self._backend = backend
        self._clock = backend.clock()
        self._epoch: float = outside.current().time() - self._clock()
        self._keep = keep
        self.note: Callable[[Any], None] = nothing
        self.recent: Recent | None = None
        self.watch: Watch | None = None  # what tells its instruments of it, where it has some; it is its `keep`, too
        self._limit = math.inf  # when its timeout is over, in seconds since the epoch
        self._log: Log | None = None
        self._thread = threading.get_ident()
        self._task_group: TaskGroup | None = None
        self._stations: list[Station | None] = [None] * len(machine.lanes)
        self._inside = 0  # tasks started and not ended
        # On trio Ctrl-C is raised wherever the main thread is. In a step of a run that isn't driven by the task that
        # awaits it, nobody might notice: there it is kept for the main task.
        self.guarded = False
        self._nested = 0  # runs started in its steps and not settled
        self._context: contextvars.Context | None = None  # the run's context variables, from its begin on
        self._fatal: BaseException | None = None  # what the run ends with, whatever its outcome was
        self._unborn: list[tuple[Callable[[Any], Coroutine[Any, Any, None]], Any]] | None = None
        self._free: Station | None = None
        self._direct: StartStep | None = None
        # Made when first needed; most runs never need them.
        self._cells: dict[tuple[int, str], Cell] | None = None
        self._waits: dict[int, dict[str | None, int]] | None = None
        self._timers: dict[int, anyio.CancelScope] | None = None
        self._others: list[BaseException] | None = None
        self._intents: dict[int, list[EventSent | EventPublished | StateWritten]] | None = None
        self._pool: Pool | None = None
        self._borrowed: Pool | None = None  # the workflow's, if it is used
        self._turn: anyio.CancelScope | None = None
        self._woken: anyio.Event | None = None
        self._rested: anyio.Event | None = None

    # -------------------------------------------------------------------------------------------- facts and commands

    @abstractmethod
    def show(self, event: Event, origin: Any) -> None:
        """Append an event to the run's stream."""

    @abstractmethod
    def expire(self) -> None:
        """The run's timeout is over: end it now, whatever is still at work in it, shielded or not."""

    @abstractmethod
    def quieten(self) -> None:
        """The run has come to rest."""

    @property
    def ended(self) -> bool:
        """Whether the run takes no more facts (it may still be cleaning up)."""
        return self.machine.outcome is not None

    def _now(self) -> float:
        return self._clock() + self._epoch

    @uninterrupted
    def apply(self, fact: Fact) -> Sequence[Command]:
        """Enter a fact and perform what follows from it, at once."""
        if self._log is not None:
            return self._record(self._log, fact)
        commands = self.machine.receive(fact)
        if type(fact) not in CLEANED:
            self.note(fact)
        elif (entry := noted(fact)) is not None:
            self.note(entry)
        if self._keep is not None:
            self._write(self._keep, fact, commands)
        self.act(commands)
        return commands

    @uninterrupted
    def act(self, commands: Sequence[Command]) -> None:
        """Perform the machine's commands."""
        machine = self.machine
        for command in commands:
            if type(command) is StartStep:
                self.note(command)
                station = self._stations[command.step] or self._open(command.step)
                station.engaged += 1
                if station is self._free:
                    self._free = None
                    self._direct = command
                    continue
                if station.engaged > station.workers:
                    station.workers += 1
                    station.first.append(command)
                    self._spawn(self._work, station)
                else:
                    station.send.send_nowait(command)
            else:
                self._perform(command)
        if machine.busy <= self._nested and machine.outcome is None:
            if not machine.busy:
                self._retire()
            self.quieten()

    def _record(self, log: "Log", fact: Fact) -> Sequence[Command]:
        """Enter a fact of a run with a store; what follows is performed when the log says so."""
        machine = self.machine
        if machine.outcome is not None or (type(fact) is TimerFired and fact.timer not in machine.timers):
            return ()  # stale
        try:
            payload = log.encode(fact)
        except SerializationError as error:
            # Said before anything has happened: at the call that brought it, or as the failure of the step.
            if not isinstance(fact, StepReturned | StepCommitted):
                raise
            fact = StepRaised(fact.time, fact.invocation, error, None)
            payload = log.encode(fact)
        commands = machine.receive(fact)
        if (entry := noted(fact)) is not None:
            self.note(entry)
        if self._keep is not None:
            self._write(self._keep, fact, commands)
        # Where no other invocation is at work, nothing else of this run comes in this turn of the loop.
        alone = machine.busy == len(commands) and isinstance(fact, StepReturned | StepCommitted)
        log.add(payload, commands, alone=alone)
        return commands

    def abandon(self, error: BaseException, *, stored: bool) -> None:
        """Stop the run here, with this error. In its store it goes on later, from where it is now (``stored``), or was
        last."""
        if self._fatal is None:
            self._fatal = error
        if self._log is not None and stored:
            self._log.stop()
        elif self._log is not None:
            self._log.drop()
        self.machine.receive(RunFailed(self._now(), error))
        self._finish()

    def _write(self, keep: Callable[[Fact, Sequence[Command]], None], fact: Fact, commands: Sequence[Command]) -> None:
        try:
            keep(fact, commands)
        except BaseException as error:
            # What isn't written hasn't happened, not even the end: nothing can be relied on any more.
            self.abandon(error, stored=False)
            raise

    def _end(self, fact: Fact) -> None:
        """Enter the fact that ends the run. Where it can't be written, the run ends with that error instead."""
        try:
            self.apply(fact)
        except Exception as error:
            if error is not self._fatal:
                raise

    def _perform(self, command: Command) -> None:
        match command:
            case Publish():
                self.show(command.event, None)
            case AnswerWait():
                self.note(command)
                cell = self._cells.get((command.invocation, command.waiter)) if self._cells else None
                if cell is not None:
                    cell.answered, cell.event = True, command.event
                    cell.woken.set()
            case SetTimer():
                if self._timers is None:
                    self._timers = {}
                self._timers[command.timer] = anyio.CancelScope()
                self._spawn(self._time, command)
            case CancelTimer():
                timer = self._timers.pop(command.timer, None) if self._timers else None
                if timer is not None:
                    timer.cancel()
            case Finish():
                self._finish()
            case Rest():
                if self._rested is not None:
                    self._rested.set()
            case GiveBatch() | StartStep():
                pass  # the first is read by `collect`, the second is performed in `apply`

    def _spawn(self, task: Callable[[Any], Coroutine[Any, Any, None]], argument: Any) -> None:
        """Start a task in the run's task group, or have the group opened for it."""
        self._inside += 1
        if self.guarded:
            task = functools.partial(self._guard, task)
        if self._task_group is not None:
            assert self._context is not None
            _ = self._context.run(self._task_group.start_soon, task, argument)
            return
        self._unborn = [*(self._unborn or ()), (task, argument)]
        if self._woken is not None:
            self._woken.set()

    @uninterrupted
    async def _guard(self, task: Callable[[Any], Coroutine[Any, Any, None]], argument: Any) -> None:
        await task(argument)

    def _finish(self) -> None:
        idle = 0
        for station in self._stations:
            if station is not None:
                station.send.close()
                idle += station.workers - station.engaged
        # Workers without work end by themselves now; whatever else is inside must be cancelled.
        if self._task_group is not None and (self._inside > idle or self._timers):
            self._task_group.cancel_scope.cancel()
        if self._turn is not None:
            self._turn.cancel()
        if self._woken is not None:
            self._woken.set()

    # ------------------------------------------------------------------------------------------------------ workers

    def _open(self, index: int) -> Station:
        spec = self.machine.plan.steps[index]
        send: MemoryObjectSendStream[StartStep]
        receive: MemoryObjectReceiveStream[StartStep]
        # Not create_memory_object_stream[StartStep]: subscripting makes an object, for each channel of each run.
        send, receive = anyio.create_memory_object_stream(math.inf)
        shape = spec.shape if self.watch is None else GENERAL
        station = Station(spec, self._owner.bind(spec), shape, send, receive)
        self._stations[index] = station
        return station

    def _retire(self) -> None:
        """The run is at rest: nobody will come soon. Idle workers end, channels go."""
        for index, station in enumerate(self._stations):
            if station is not None:
                station.send.close()
                if not station.workers:
                    station.receive.close()
                self._stations[index] = None

    async def _work(self, station: Station) -> None:
        function, shape, receive = station.function, station.shape, station.receive.receive
        machine, state, face = self.machine, self.machine.state, cast(RunFace, self)
        context = contextvars.copy_context()
        start = station.first.pop(0) if station.first else None
        burst = 0
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
            while machine.outcome is None:
                if start is None:
                    burst = 0
                    try:
                        start = await receive()
                    except (anyio.EndOfStream, anyio.ClosedResourceError):
                        return
                    if machine.outcome is not None:
                        return  # the run ended while it was being woken for this
                elif burst >= BURST:
                    burst = 0
                    await anyio.lowlevel.checkpoint()
                try:
                    if shape == EVENT:
                        result = await function(start.event)
                    elif shape == CTX_EVENT:
                        result = await function(Context.of_run(face, state, start.invocation), start.event)
                    elif shape == EVENT_CTX:
                        result = await function(start.event, Context.of_run(face, state, start.invocation))
                    else:
                        result = await self._call(station, start)
                except BaseException as error:  # noqa: BLE001 - sorted out, and raised again where it isn't the step's
                    station.engaged -= 1
                    self._failed(station.spec, start, error)
                else:
                    station.engaged -= 1
                    if self._waits is not None:
                        self._waits.pop(start.invocation, None)
                    self._free = station
                    now = self._clock() + self._epoch
                    if now >= self._limit:
                        self.expire()  # so that what a shielded step returns comes too late
                    if type(result) is Committed:
                        self.apply(StepCommitted(now, start.invocation, result.effects, result.result))
                    else:
                        self.apply(StepReturned(now, start.invocation, result))
                    self._free = None
                if machine.outcome is not None:
                    return
                start, self._direct = self._direct, None
                burst += 1
                if contextvars.copy_context() != context:
                    self._replace(station, start)
                    return
                if start is None and station.workers > station.spec.num_workers and station.engaged < station.workers:
                    return  # it stood in for one that waited
        except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - flowkit's own failure, or Ctrl-C in it
            self._crashed(error)
        finally:
            station.workers -= 1
            self._leave()
            if not station.workers and self._stations and self._stations[station.spec.index] is not station:
                station.receive.close()

    def _replace(self, station: Station, start: StartStep | None) -> None:
        """The attempt set a context variable, which can't be unset: another worker goes on, with a clean context."""
        if start is not None:
            station.send.send_nowait(start)
        if station.engaged >= station.workers:
            station.workers += 1
            self._spawn(self._work, station)

    def _leave(self) -> None:
        self._inside -= 1
        if not self._inside:
            self._task_group = None  # it closes now; what comes later needs another

    async def _time(self, timer: SetTimer) -> None:
        scope = self._timers.get(timer.timer) if self._timers is not None else None
        try:
            with scope or anyio.CancelScope():
                if scope is None:
                    return  # cancelled before it began
                await anyio.sleep(max(0.0, timer.at - self._now()))
                if self._timers is not None and self._timers.pop(timer.timer, None) is not None:
                    self.apply(TimerFired(self._now(), timer.timer))
        finally:
            self._leave()

    # --------------------------------------------------------------------------------------------------- one attempt

    async def _call(self, station: Station, start: StartStep) -> Any:
        """An attempt with everything that can come with it: instruments, resources, children, a timeout, a thread."""
        if self.watch is None:
            return await self._call_as_one(station, start)
        with self.watch.around(start, self._now):
            return await self._call_as_one(station, start)

    async def _call_as_one(self, station: Station, start: StartStep) -> Any:
        if not station.spec.options.atomic:
            return await self._call_in_time(station, start, self.machine.state)
        if self._intents is None:
            self._intents = {}
        intents = self._intents[start.invocation] = []
        try:
            result = await self._call_in_time(station, start, StateBehind(self.machine.state, intents))
        finally:
            del self._intents[start.invocation]
        return Committed(result, tuple(intents))

    async def _call_in_time(self, station: Station, start: StartStep, state: State) -> Any:
        spec = station.spec
        if spec.options.timeout is None:
            return await self._call_with_needs(station, start, state)
        with anyio.move_on_after(spec.options.timeout) as scope:
            return await self._call_with_needs(station, start, state)
        assert scope.cancelled_caught
        raise TimeoutError(f"step {spec.name!r} took longer than its timeout of {spec.options.timeout:g} seconds")

    async def _call_with_needs(self, station: Station, start: StartStep, state: State) -> Any:
        spec = station.spec
        ctx: Context[Any] = Context.of_run(cast(RunFace, self), state, start.invocation)
        if spec.shape != GENERAL:
            return await station.call(ctx, start)
        arguments: dict[str, Any] = {spec.event_parameter: start.event}
        if spec.context_parameter is not None:
            arguments[spec.context_parameter] = ctx
        for name, kind in spec.children.items():
            arguments[name] = self._owner.child_for(name, kind, self, start)
        if not spec.resources:
            return await self._invoke(station, arguments)
        self._pool = self._pool or Pool()
        run_ctx: Context[Any] = Context.of_run(cast(RunFace, self), self.machine.state)
        needs = Needs(run_ctx, self.machine.start_event, {"run": self._pool, "workflow": self._borrow()})
        async with resources_for(spec.resources, spec.name, needs) as values:
            return await self._invoke(station, arguments | values)

    def _borrow(self) -> Pool:
        pool = self._owner.pool
        if pool is not self._borrowed:
            if self._borrowed is not None:
                self._borrowed.leave(self)
            self._borrowed = pool
            pool.enter(self, self._backend.loop)
        return pool

    async def _invoke(self, station: Station, arguments: dict[str, Any]) -> Any:
        if station.spec.is_async:
            return await station.function(**arguments)
        # The thread is waited for, also on cancellation: nothing of a run outlives it.
        call = PlainCall(functools.partial(station.function, **arguments))
        try:
            result = await anyio.to_thread.run_sync(call)
        except anyio.get_cancelled_exc_class() as cancelled:
            await call.over()
            if call.error is not None and not isinstance(call.error, type(cancelled)):
                self._other(call.error)
            raise
        return await result if inspect.isawaitable(result) else result

    def _failed(self, spec: StepSpec, start: StartStep, error: BaseException) -> None:
        """An attempt ended with an error: enter the fact, or pass on what isn't the step's own failure."""
        if self._waits is not None:
            self._waits.pop(start.invocation, None)
        if self._limit < math.inf and self._now() >= self._limit:
            self.expire()
        if isinstance(error, BaseExceptionGroup) and not isinstance(error, Exception):
            error = self._taken_apart(cast("BaseExceptionGroup[BaseException]", error))
        if isinstance(error, anyio.get_cancelled_exc_class()):
            if self.machine.outcome is not None or not escaped_cancellation(error):
                raise error
            escaped = WorkflowRuntimeError(
                "a cancellation error escaped the step, though neither the run nor the step was cancelled: catch it "
                "where you cancel something, or use an anyio.CancelScope."
            )
            escaped.__cause__ = error
            error = escaped
        elif isinstance(error, GeneratorExit):
            raise error
        elif not isinstance(error, Exception):
            # Ctrl-C, SystemExit: not the step's failure. It ends the run and is raised where the run is awaited.
            self._crashed(error)
            return
        ended, name = self.machine.outcome is not None, self.machine.plan.name
        if ended and isinstance(error, RunFinished) and error.workflow == name:
            return  # a step that can't be cancelled, such as one in a thread, learns of the end like this
        if ended and isinstance(error, RunSuspended):
            return  # a run nested in the step was stopped along with this one
        if ended or anyio.get_current_task().has_pending_cancellation():
            self._other(error)  # it failed while being cancelled: at the run's end, by a deadline, with its owner
            return
        now = self._now()
        delay, error = self._verdict(spec, start, error, now)
        self.apply(StepRaised(now, start.invocation, error, delay))

    def _taken_apart(self, group: BaseExceptionGroup[BaseException]) -> BaseException:
        """What a group that isn't just a failure comes down to: Ctrl-C or exit, else the cancellation it was raised
        in."""
        cancelled, rest = group.split(anyio.get_cancelled_exc_class())
        if rest is not None:
            exit = first_of(rest)
            failures = rest.split(Exception)[0]
            if not isinstance(exit, Exception):
                if failures is not None:
                    self._other(failures)
                return exit
            if cancelled is None or not anyio.get_current_task().has_pending_cancellation():
                return rest
            self._other(rest)
        assert cancelled is not None
        return first_of(cancelled)

    def _verdict(
        self, spec: StepSpec, start: StartStep, error: Exception, now: float
    ) -> tuple[float | None, Exception]:
        policy = spec.options.retry_policy
        if policy is None:
            return None, error
        elapsed = 0.0 if start.since is None else now - start.since
        try:
            delay = policy.next(elapsed, start.attempt, error)
        except Exception as broken:  # noqa: BLE001 - becomes the step's failure, with the first as its context
            broken.__context__ = error
            return None, broken
        if delay is None:
            return None, error
        if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay < math.inf:  # pyright: ignore[reportUnnecessaryIsInstance]
            wrong = WorkflowRuntimeError(
                f"the retry policy of step {spec.name!r} gave {delay!r}: next() returns seconds, 0 or more, or None "
                "to give up."
            )
            wrong.__context__ = error
            return None, wrong
        return float(delay), error

    def _crashed(self, error: BaseException) -> None:
        """Something outside any step failed, or Ctrl-C came: the run's error, or one of its others."""
        if self.machine.outcome is not None:
            self._other(error)
        elif self._log is not None:
            self.abandon(error, stored=True)  # the process ends, or something around the run failed: it may go on
        else:
            self._end(RunFailed(self._now(), error))

    def _other(self, error: BaseException) -> None:
        outcome = self.machine.outcome
        if error is self._fatal or (outcome is not None and error is outcome.error):
            return
        if not isinstance(error, Exception) and self._fatal is None:
            self._fatal = error  # Ctrl-C or exit: it must reach the caller, even from a clean-up
            return
        if self._others is None:
            self._others = []
        self._others.append(error)


def first_of(error: BaseException) -> BaseException:
    """What a task group's exceptions come down to: Ctrl-C or exit before all else, then the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    members: tuple[BaseException, ...] = error.args[1]
    found = [first_of(member) for member in members]
    return next((one for one in found if not isinstance(one, Exception)), found[0])
